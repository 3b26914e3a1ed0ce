"""Fixtures for the command line."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.clusters import Front
from tests.cli.running import FILES, write
from tests.e2e.sources import serving
from tests.envtest.server import ControlPlane, read_definitions


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


@pytest.fixture
def shop(here: Path) -> Path:
    """The current directory, with a generator and the files of its source."""
    write(here, FILES)
    (here / "src/web/sub/run.sh").chmod(0o755)
    return here


@pytest.fixture
def front(control_plane: ControlPlane, namespace: str) -> Iterator[Front]:
    """A namespace of the API server, with a server for archives."""
    with serving() as server:
        yield Front(control_plane, control_plane.client, namespace, server)


@pytest.fixture(scope="session")
def consumers(control_plane: ControlPlane) -> None:
    """A cluster that knows Kustomizations and HelmReleases."""
    control_plane.install(read_definitions([Path(__file__).with_name("crds") / "consumers.yaml"]))
