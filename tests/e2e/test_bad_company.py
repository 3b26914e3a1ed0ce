"""One generator's trouble, or a neighbour's, must not become everybody's."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from tests.e2e import sources as faults
from tests.e2e.api_proxy import ApiProxy, of
from tests.e2e.conftest import Starter
from tests.e2e.controller import Controller
from tests.e2e.sources import Held
from tests.e2e.trees import Tree, below
from tests.e2e.world import Auditor, World, condition, eventually, output, source
from tests.envtest.client import Refused
from tests.envtest.server import ControlPlane

pytestmark = pytest.mark.cluster

TREE = {"apps/web.yaml": b"web: 1\n"}
CHANGED = {"apps/web.yaml": b"web: 2\n"}
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/artifactgenerators.source.extensions.fluxcd.io"
ANYTHING = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}


@pytest.fixture
def unchecked(control_plane: ControlPlane, world: World) -> Iterator[None]:
    """Lets objects in that the definition forbids; so may have been what was stored before it was changed."""
    versions = control_plane.client.get(DEFINITION)["spec"]["versions"]
    loose = copy.deepcopy(versions)
    loose[0]["schema"] = ANYTHING
    control_plane.client.merge(DEFINITION, {"spec": {"versions": loose}})
    eventually("what is forbidden is let in", lambda: _answer_to_poison(world) == 201)
    yield
    control_plane.clear(world.namespace)
    control_plane.client.merge(DEFINITION, {"spec": {"versions": versions}})
    eventually("what is forbidden is refused", lambda: _answer_to_poison(world) == 422)


def _answer_to_poison(world: World) -> int:
    body = {"metadata": {"name": "dry"}, "spec": 7}
    kind = {"apiVersion": "source.extensions.fluxcd.io/v1beta1", "kind": "ArtifactGenerator"}
    try:
        world.client.create(f"{world.path('ArtifactGenerator')}?dryRun=All", {**kind, **body})
    except Refused as error:
        return error.status
    return 201


POISON = [
    pytest.param({"sources": 7, "artifacts": "none"}, id="lists that are none"),
    pytest.param({"sources": [None], "artifacts": [None]}, id="items that are nothing"),
    pytest.param(["spec"], id="a spec that is a list"),
    pytest.param({"sources": [{"alias": 1}], "artifacts": [{"name": {}, "copy": [[]]}]}, id="fields of wrong types"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("spec", POISON)
def test_a_generator_that_cannot_be_read_stops_nobody(world: World, controller: Controller, spec: Any) -> None:
    world.create("ArtifactGenerator", "a-poison", spec)
    number = 99
    for each in range(number):
        world.generate(output(f"app-{each}", "@repo/apps/**"), name=f"gen-{each}")
    world.publish(TREE)
    expected = {f"app-{each}": below(TREE, "apps") for each in range(number)}

    def problems() -> list[str]:
        found = world.problems(expected, controller.store)
        return [problem for problem in found if not problem.startswith("a-poison: ")]

    eventually("all others are served", problems)


def test_dead_sources_slow_nobody_down(world: World, new_controller: Starter, audit: Auditor) -> None:
    controller = new_controller("--requeue-dependency=100ms", "--concurrent=4").start()
    expected = {f"app-{number}": below(TREE, "apps") for number in range(10)}
    for name in expected:
        world.generate(output(name, "@repo/apps/**"), name=name)
    world.publish(TREE)
    world.settles(expected, controller.store)
    usual = min(_latency(world, controller, tree) for tree in (CHANGED, TREE, CHANGED))
    dead: list[faults.Fault] = [faults.status(500), faults.refuse, faults.cut, faults.status(404), faults.trickle]
    for number, fault in enumerate(dead * 2):
        world.publish(TREE, name=f"dead-{number}", fault=fault)
        world.generate(
            output(f"never-{number}", "@repo/apps/**"), name=f"dead-{number}", sources=[source(name=f"dead-{number}")]
        )
    eventually("all sources were asked", lambda: len(world.sources.faults) == _asked(world))

    loaded = min(_latency(world, controller, tree) for tree in (TREE, CHANGED, TREE))

    assert loaded < 2 * usual + 0.05
    for number in range(10):
        found = condition(world.generator(f"dead-{number}"))
        assert number % 5 == 4 or (found["status"], found["reason"]) == ("False", "SourceFetchFailed")


def _asked(world: World) -> int:
    return sum(1 for path in world.sources.faults if world.sources.requests[path])


def _latency(world: World, controller: Controller, tree: Tree) -> float:
    """Seconds until ten artifacts hold what their source offers now."""
    wanted = {f"app-{number}" for number in range(10)}
    before = {name: world.artifact(name)["revision"] for name in wanted}
    begun = time.monotonic()
    world.publish(tree)

    def have_moved() -> bool:
        now = {each["metadata"]["name"]: each["status"]["artifact"] for each in world.all_of("ExternalArtifact")}
        return all(now[name]["revision"] != before[name] for name in wanted)

    eventually("all artifacts moved", have_moved)
    return time.monotonic() - begun


def test_a_generator_that_goes_while_it_is_built_publishes_nothing(
    world: World, controller: Controller, audit: Auditor
) -> None:
    held = Held()
    world.publish(TREE, fault=held)
    world.generate(output("apps", "@repo/apps/**"))
    assert held.reached.wait(120)

    world.delete("ArtifactGenerator", "gen")
    held.release()

    eventually("the generator is gone", lambda: world.get("ArtifactGenerator", "gen") is None)
    world.generate(output("later", "@repo/apps/**"), name="later")
    world.settles({"later": below(TREE, "apps")}, controller.store)
    assert audit.announced == [world.artifact("later")]


@pytest.mark.parametrize("answered", [False, True])
def test_a_generator_that_goes_while_it_is_published_leaves_nothing(
    world: World, proxy: ApiProxy, new_controller: Starter, answered: bool
) -> None:
    controller = new_controller(kubeconfig=proxy.kubeconfig).start()
    world.publish(TREE)
    hold = proxy.hold(of("patch", "externalartifacts"), answered=answered)
    world.generate(output("apps", "@repo/apps/**"), output("more", "@repo/apps/**"))
    hold.wait()

    world.delete("ArtifactGenerator", "gen")
    hold.release()

    eventually("the generator is gone", lambda: world.get("ArtifactGenerator", "gen") is None)
    assert world.problems({}, controller.store) == []


def test_a_namespace_can_be_deleted_while_the_controller_works_in_it(
    control_plane: ControlPlane, world: World, controller: Controller
) -> None:
    for number in range(10):
        world.generate(output(f"app-{number}", "@repo/apps/**"), name=f"gen-{number}")
    world.publish(TREE)
    world.until_ready(*(f"gen-{number}" for number in range(10)))
    world.publish(CHANGED)
    control_plane.client.delete(f"/api/v1/namespaces/{world.namespace}")

    # What the namespace controller would do.
    for kind in ("GitRepository", "ExternalArtifact", "ArtifactGenerator"):
        control_plane.client.delete(world.path(kind))

    eventually("the generators are gone", lambda: world.all_of("ArtifactGenerator"))
    eventually("nothing is left", lambda: world.problems({}, controller.store))
    assert controller.stop() == 0


class _Receiver(ThreadingHTTPServer):
    """A receiver of events that takes them and never answers."""

    daemon_threads = True
    released = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever gives up waiting is right."""


class _Silence(BaseHTTPRequestHandler):
    server: _Receiver

    def do_POST(self) -> None:
        while not self.server.released:
            time.sleep(0.05)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        """Nothing is logged."""


@contextmanager
def silent_receiver() -> Iterator[str]:
    server = _Receiver(("127.0.0.1", 0), _Silence)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.released = True
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_receiver_of_events_that_never_answers_delays_nothing(world: World, new_controller: Starter) -> None:
    with silent_receiver() as url:
        controller = new_controller(f"--events-addr={url}", "--concurrent=2").start()
        expected = {f"app-{number}": below(TREE, "apps") for number in range(20)}
        for name in expected:
            world.generate(output(name, "@repo/apps/**"), name=name)
        world.publish(TREE)

        world.settles(expected, controller.store, within=30)

        assert controller.stop(within=9) == 0


def test_a_receiver_of_events_that_is_down_delays_nothing(world: World, new_controller: Starter) -> None:
    controller = new_controller("--events-addr=http://127.0.0.1:1/").start()
    world.publish(TREE)
    world.generate(output("apps", "@repo/apps/**"))

    world.settles({"apps": below(TREE, "apps")}, controller.store, within=30)

    assert controller.stop(within=9) == 0


def test_a_full_disk_keeps_what_is_published(world: World, new_controller: Starter, audit: Auditor) -> None:
    # A file may not grow beyond 64 KiB: what the disk says when it is full.
    limited = ["sh", "-c", 'ulimit -f 128 && trap "" XFSZ && exec "$@"', "sh"]
    controller = new_controller("--min-retry-delay=50ms", "--max-retry-delay=200ms", wrap=limited).start()
    world.generate(output("apps", "@repo/apps/**"))
    world.publish(TREE)
    world.settles({"apps": below(TREE, "apps")}, controller.store)
    before = world.artifact("apps")
    noise = bytes(number * number % 251 for number in range(200_000))

    world.publish({"apps/web.yaml": noise})

    eventually("the disk is full", lambda: condition(world.generator())["status"] == "False")
    assert world.artifact("apps") == before
    assert condition(world.generator())["message"] == (
        "reconciliation failed: source cache: file too large (unpacked sources are kept in TMPDIR)"
    )
    world.publish(CHANGED)
    world.settles({"apps": below(CHANGED, "apps")}, controller.store)
