"""Fixtures for tests that need a real Kubernetes API server.

One control plane serves the whole session; each test gets a namespace of its own. Tests that stop or kill the server
make their own with `start_control_plane`. All of them carry the mark `cluster`.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.envtest.build import CONTROL_PLANE, HELM, KUSTOMIZE, Unavailable, find
from tests.envtest.server import ControlPlane, read_definitions

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_DEFINITIONS = REPOSITORY.parent / "shared" / "crds"


def definition_files() -> list[Path]:
    """Our resource definition and those of the Flux sources: Flux's own where they are at hand, else stand-ins."""
    stand_ins = sorted((REPOSITORY / "tests" / "envtest" / "crds").glob("*.yaml"))
    real = [SHARED_DEFINITIONS / f"source.toolkit.fluxcd.io_{path.name}" for path in stand_ins]
    ours = REPOSITORY / "deploy" / "crd" / "artifactgenerators.yaml"
    return [ours] + (real if all(path.exists() for path in real) else stand_ins)


def programs(name: str) -> Path:
    """The directory of a set of programs; skips the test where they are not built."""
    try:
        return find(name)
    except Unavailable as reason:
        pytest.skip(f"cluster tests need programs that are not ours ({name}): {reason}")


@contextmanager
def start_control_plane() -> Iterator[ControlPlane]:
    """A control plane of your own for one block; skips the test where there are no programs for it."""
    binaries = programs(CONTROL_PLANE)
    directory = Path(tempfile.mkdtemp(prefix="sluice-envtest-"))
    try:
        with ControlPlane(binaries, directory, read_definitions(definition_files())) as plane:
            yield plane
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """The control plane that the session shares."""
    with start_control_plane() as plane:
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace that nobody else uses; its custom objects go when the test ends."""
    name = control_plane.namespace()
    yield name
    control_plane.clear(name)


@pytest.fixture(scope="session")
def helm() -> Path:
    """The Helm program."""
    return programs(HELM) / "helm"


@pytest.fixture(scope="session")
def kustomize() -> Path:
    """The kustomize program."""
    return programs(KUSTOMIZE) / "kustomize"
