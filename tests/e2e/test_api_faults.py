"""An API server that refuses, and connections to it that break in every way."""

import time
from collections.abc import Callable

import pytest
from tests.e2e.api_proxy import ApiProxy, Call, of
from tests.e2e.conftest import Starter
from tests.e2e.controller import Controller
from tests.e2e.trees import below
from tests.e2e.world import Auditor, World, eventually, output

pytestmark = pytest.mark.cluster

TREE = {"apps/web.yaml": b"web: 1\n"}
CHANGED = {"apps/web.yaml": b"web: 2\n"}
EXPECTED, EXPECTED_CHANGED = {"apps": below(TREE, "apps")}, {"apps": below(CHANGED, "apps")}

WATCHED = ["artifactgenerators", "buckets", "externalartifacts", "gitrepositories", "helmcharts", "ocirepositories"]
"""Artifacts are sources too, and watched once."""


def is_watch(call: Call) -> bool:
    return call.verb == "watch"


def start(world: World, proxy: ApiProxy, new_controller: Starter, *flags: str) -> Controller:
    """A controller behind the proxy that has published `TREE`."""
    controller = new_controller(*flags, kubeconfig=proxy.kubeconfig).start()
    world.publish(TREE)
    world.generate(output("apps", "@repo/apps/**"))
    world.settles(EXPECTED, controller.store)
    return controller


@pytest.mark.parametrize("resource", ["artifactgenerators", "artifactgenerators/status"])
def test_a_conflict_is_resolved_and_what_others_wrote_stays(
    world: World, proxy: ApiProxy, new_controller: Starter, audit: Auditor, resource: str
) -> None:
    controller = new_controller(kubeconfig=proxy.kubeconfig).start()
    world.publish(TREE)
    hold = proxy.hold(of("patch", resource))
    world.generate(output("apps", "@repo/apps/**"))
    hold.wait()
    world.client.merge(
        world.path("ArtifactGenerator", "gen"),
        {"metadata": {"finalizers": [*world.generator()["metadata"].get("finalizers", []), "example.com/theirs"]}},
    )
    theirs = {"type": "Theirs", "status": "True", "reason": "Theirs", "message": "", "lastTransitionTime": now()}
    world.client.merge(world.path("ArtifactGenerator", "gen", "status"), {"status": {"conditions": [theirs]}})
    hold.release()

    world.settles(EXPECTED, controller.store)
    generator = world.generator()
    assert proxy.answers(of("patch", resource)).count(409) == 1
    assert "example.com/theirs" in generator["metadata"]["finalizers"]
    assert theirs in generator["status"]["conditions"]
    assert proxy.count(of("patch", resource)) <= 3


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@pytest.mark.parametrize(
    ("status", "reason", "times"),
    [
        pytest.param(409, "Conflict", 6, id="conflicts without end"),
        pytest.param(429, "TooManyRequests", 3, id="too many requests"),
        pytest.param(500, "InternalError", 3, id="internal errors"),
        pytest.param(503, "ServiceUnavailable", 3, id="nobody there"),
        pytest.param(403, "Forbidden", 2, id="forbidden"),
    ],
)
@pytest.mark.parametrize(
    "resource",
    ["artifactgenerators", "externalartifacts", "externalartifacts/status", "artifactgenerators/status"],
)
def test_refused_writes_are_tried_again(
    world: World,
    proxy: ApiProxy,
    new_controller: Starter,
    audit: Auditor,
    resource: str,
    status: int,
    reason: str,
    times: int,
) -> None:
    controller = new_controller("--min-retry-delay=50ms", kubeconfig=proxy.kubeconfig).start()
    world.publish(TREE)
    proxy.answer(of("patch", resource), status, reason, times=times, Retry_After="1" if status == 429 else "0")

    world.generate(output("apps", "@repo/apps/**"))

    world.settles(EXPECTED, controller.store)
    assert proxy.answers(of("patch", resource)).count(status) == times


def test_a_refused_deletion_keeps_the_finalizer(world: World, proxy: ApiProxy, new_controller: Starter) -> None:
    controller = start(world, proxy, new_controller, "--min-retry-delay=50ms")
    proxy.answer(of("delete", "externalartifacts"), 500, "InternalError", times=3)

    world.delete("ArtifactGenerator", "gen")

    eventually("the generator is gone", lambda: world.get("ArtifactGenerator", "gen") is None)
    assert proxy.count(of("delete", "externalartifacts")) == 4
    assert world.problems({}, controller.store) == []


def test_a_watch_that_is_too_old_is_read_anew_without_a_rebuild(
    world: World, proxy: ApiProxy, new_controller: Starter, audit: Auditor
) -> None:
    controller = start(world, proxy, new_controller)
    before = world.artifact("apps")
    proxy.calls.clear()
    for resource in WATCHED:
        proxy.answer(of("watch", resource), 410, "Expired")

    proxy.cut()
    eventually("all watches are back", lambda: proxy.answers(is_watch).count(200) == len(WATCHED))
    world.request()

    assert sorted(call.resource for call, _ in proxy.calls if call.verb == "list") == WATCHED
    assert world.artifact("apps") == before
    world.publish(CHANGED)
    world.settles(EXPECTED_CHANGED, controller.store)


Fault = Callable[[ApiProxy], object]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda proxy: proxy.cut(), id="all connections are cut"),
        pytest.param(lambda proxy: proxy.silence(is_watch), id="watches say nothing any more"),
        pytest.param(lambda proxy: proxy.silence(lambda _: True), id="all open connections are dead"),
    ],
)
def test_changes_made_while_a_connection_is_broken_are_seen(
    world: World, proxy: ApiProxy, new_controller: Starter, audit: Auditor, fault: Fault
) -> None:
    controller = start(world, proxy, new_controller, "--watch-inactivity=2s")

    fault(proxy)
    world.publish(CHANGED)

    world.settles(EXPECTED_CHANGED, controller.store)


def test_a_server_that_hangs_delays_and_breaks_nothing(
    world: World, proxy: ApiProxy, new_controller: Starter, audit: Auditor
) -> None:
    controller = start(world, proxy, new_controller, "--watch-inactivity=2s")

    with proxy.hanging():
        world.publish(CHANGED)
        eventually("the silence is noticed", lambda: controller.has_logged("nothing heard for 2 s"))

    world.settles(EXPECTED_CHANGED, controller.store)


def test_an_event_that_is_cut_in_the_middle_is_not_lost(
    world: World, proxy: ApiProxy, new_controller: Starter, audit: Auditor
) -> None:
    controller = start(world, proxy, new_controller)

    proxy.cut_next_event("gitrepositories")
    world.publish(CHANGED)

    world.settles(EXPECTED_CHANGED, controller.store)
    assert proxy.has_cut_an_event
