"""An API server that goes and comes back while the controller has work to do."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from tests.e2e import role
from tests.e2e.controller import Controller
from tests.e2e.sources import SourceServer
from tests.e2e.trees import below
from tests.e2e.world import World, download, eventually, output
from tests.envtest.fixtures import start_control_plane
from tests.envtest.server import ControlPlane

pytestmark = pytest.mark.cluster

COUNT = 50
TREE = {"apps/web.yaml": b"web: 1\n"}
CHANGED = {"apps/web.yaml": b"web: 2\n"}
EXPECTED = {f"app-{number}": below(TREE, "apps") for number in range(COUNT)}
EXPECTED_CHANGED = {f"app-{number}": below(CHANGED, "apps") for number in range(COUNT)}


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A control plane that nobody else needs."""
    with start_control_plane() as own:
        yield own


@pytest.fixture
def crowd(plane: ControlPlane, sources: SourceServer) -> Iterator[World]:
    """Fifty generators that read one source, in a namespace of their own."""
    world = World(plane.client, plane.namespace(), sources)
    world.publish(TREE)
    for name in EXPECTED:
        world.generate(output(name, "@repo/apps/**"), name=name)
    yield world
    plane.clear(world.namespace)


@pytest.fixture
def own_controller(plane: ControlPlane, tmp_path: Path) -> Iterator[Controller]:
    controller = Controller(tmp_path / "controller", role.install(plane))
    yield controller
    controller.end()
    assert [line for line in controller.log() if "exception" in line] == []


class Reader:
    """Somebody who reads one artifact all the time; `failures` are answers other than its bytes."""

    def __init__(self, url: str) -> None:
        self.failures: list[int] = []
        self.reads = 0
        self._url = url
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._ending.wait(0.01):
            status, _ = download(self._url)
            self.reads += 1
            if status != 200:
                self.failures.append(status)


@pytest.mark.parametrize("crashes", [True, False], ids=["crashes", "is restarted in order"])
def test_the_server_goes_while_a_revision_is_rolled_out(
    plane: ControlPlane, crowd: World, own_controller: Controller, crashes: bool
) -> None:
    own_controller.start()
    crowd.settles(EXPECTED, own_controller.store)
    process = own_controller.process

    with Reader(crowd.artifact("app-0")["url"]) as reader:
        crowd.publish(CHANGED)
        if crashes:
            plane.kill()
        else:
            plane.stop()
        reads = reader.reads
        eventually("artifacts are served without it", lambda: reader.reads > reads + 20)
        plane.start()
        crowd.settles(EXPECTED_CHANGED, own_controller.store)

    assert reader.failures == []
    assert own_controller.process is process
    assert own_controller.stop() == 0


def test_the_server_comes_up_after_the_controller(
    plane: ControlPlane, crowd: World, own_controller: Controller
) -> None:
    plane.kill()
    own_controller.launch()
    eventually("it tries", lambda: own_controller.has_logged("connection refused"))

    plane.start()

    crowd.settles(EXPECTED, own_controller.store)
