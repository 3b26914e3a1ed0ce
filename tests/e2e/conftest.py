"""Fixtures for tests of the whole controller: its process, a world for it, and what observes both."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e import role
from tests.e2e.api_proxy import ApiProxy
from tests.e2e.controller import Controller
from tests.e2e.sources import SourceServer, serving
from tests.e2e.world import Auditor, World
from tests.envtest.server import ControlPlane

Starter = Callable[..., Controller]


@pytest.fixture(scope="session")
def account(control_plane: ControlPlane) -> Path:
    """The kubeconfig of the controller's account, which may do what the shipped role allows."""
    return role.install(control_plane)


@pytest.fixture
def sources() -> Iterator[SourceServer]:
    with serving() as server:
        yield server


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str, sources: SourceServer) -> World:
    return World(control_plane.client, namespace, sources)


@pytest.fixture
def audit(world: World) -> Iterator[Auditor]:
    """Watches that nothing wrong is ever served; its findings fail the test."""
    auditor = Auditor(world)
    auditor.start()
    yield auditor
    auditor.stop()
    assert auditor.violations == []


@pytest.fixture
def proxy(account: Path, tmp_path: Path) -> Iterator[ApiProxy]:
    """A proxy before the API server, for the controller's account."""
    with ApiProxy(account, tmp_path) as between:
        yield between


@pytest.fixture
def new_controller(account: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Starter]:
    """Makes controllers that are not started yet. What one logs must be JSON, and no bug."""
    made: list[Controller] = []

    def make(*flags: str, kubeconfig: Path = account, **options: object) -> Controller:
        directory = tmp_path / f"controller-{len(made)}"
        made.append(Controller(directory, kubeconfig, *flags, **options))  # type: ignore[arg-type]  # passed on
        return made[-1]

    yield make
    for controller in made:
        controller.end()
    for controller in made:
        bugs = [line for line in controller.log() if "exception" in line]
        assert bugs == []


@pytest.fixture
def controller(new_controller: Starter) -> Controller:
    """A controller that works."""
    return new_controller().start()
