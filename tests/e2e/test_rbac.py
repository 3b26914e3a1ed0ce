"""The shipped role: enough for everything the controller does, and nothing more."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from tests.e2e import role
from tests.e2e.api_proxy import ApiProxy, Call, of
from tests.e2e.conftest import Starter
from tests.e2e.controller import Controller
from tests.e2e.replicas import AS_POD, needs_mount_namespaces
from tests.e2e.role import Permission
from tests.e2e.trees import below
from tests.e2e.world import World, download, eventually, is_ready, output, source
from tests.envtest.client import Object
from tests.envtest.server import ControlPlane

pytestmark = [pytest.mark.cluster, needs_mount_namespaces]

TREE = {"apps/web.yaml": b"web: 1\n"}
CHANGED = {"apps/web.yaml": b"web: 2\n"}
KINDS = ["GitRepository", "OCIRepository", "Bucket", "HelmChart"]
FLAGS = ["--enable-leader-election", "--feature-gates=DirectSourceFetch=true", "--min-retry-delay=50ms"]

ROLES = [obj for obj in role.shipped_objects() if obj["kind"] in ("ClusterRole", "Role")]
PERMISSIONS = [(obj, each) for obj in ROLES for each in role.permissions(obj)]

Awaited = tuple[str, Callable[[], object]]


def everything(world: World, proxy: ApiProxy, controller: Controller) -> Iterator[Awaited]:
    """Make a controller do all that it can be asked for, one thing after the other; yields what has to come true."""
    controller.launch()
    yield "it leads", lambda: download(f"http://127.0.0.1:{controller.port}/")[0] == 200
    for kind in KINDS:
        world.publish(TREE, name=kind.lower(), kind=kind)
    refs = [source(kind.lower(), kind=kind) for kind in KINDS]
    world.generate(output("apps", *(f"@{ref['alias']}/apps/**" for ref in refs)), sources=refs)
    of_artifact = source("apps", kind="ExternalArtifact")
    world.generate(output("again", "@apps/**"), name="second", sources=[of_artifact])
    first = dict.fromkeys(["apps", "again"], below(TREE, "apps"))
    yield "both are served", lambda: world.problems(first, controller.store)

    # A generator that changes while its status is written has to be read again.
    hold = proxy.hold(lambda call: (call.resource, call.name) == ("artifactgenerators/status", "gen"))
    world.publish(CHANGED, name="helmchart", kind="HelmChart")
    yield "its status is written", hold.is_reached
    world.annotate(**{"example.com/touched": "yes"})
    hold.release()
    second = dict.fromkeys(first, below(CHANGED, "apps"))
    yield "both follow", lambda: world.problems(second, controller.store)

    # The same event twice is counted up.
    for dialect in ("wrong", "upstream", "wrong"):
        world.annotate(**{"sluice/dialect": dialect})
        yield f"{dialect} is seen", partial(refuses, world, dialect == "wrong")
    yield "the event is counted up", lambda: proxy.count(of("patch", "events")) > 0

    for name in ("second", "gen"):
        world.delete("ArtifactGenerator", name)
    yield "all is gone", lambda: world.all_of("ArtifactGenerator") + world.all_of("ExternalArtifact")


def refuses(world: World, is_refused: bool) -> bool:
    return is_ready(world.generator()) != is_refused


def asked_for(call: Call, status: int) -> Iterator[Permission]:
    """What a request needs; applying an object that is not there creates it."""
    yield call.verb, call.group, call.resource
    if call.verb == "patch" and status == 201:
        yield "create", call.group, call.resource


def test_the_role_allows_what_is_asked_for_and_nothing_else(
    world: World, proxy: ApiProxy, new_controller: Starter
) -> None:
    role.forget_leases(world.client)
    controller = new_controller(*FLAGS, kubeconfig=proxy.kubeconfig, wrap=AS_POD)
    for what, holds in everything(world, proxy, controller):
        eventually(what, holds)
    assert controller.stop() == 0

    asked = {each for call, status in proxy.calls for each in asked_for(call, status)}
    granted = {each for _, each in PERMISSIONS}
    assert (asked - granted, granted - asked) == (set(), set())
    assert [call for call, status in proxy.calls if status in (401, 403)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shipped", "removed"), [pytest.param(*each, id=" ".join(filter(None, each[1]))) for each in PERMISSIONS]
)
def test_without_a_permission_something_fails_and_the_log_tells(
    control_plane: ControlPlane,
    world: World,
    proxy: ApiProxy,
    new_controller: Starter,
    shipped: Object,
    removed: Permission,
) -> None:
    role.forget_leases(world.client)
    controller = new_controller(*FLAGS, kubeconfig=proxy.kubeconfig, wrap=AS_POD)

    with role.without(control_plane, shipped, removed):
        for what, holds in everything(world, proxy, controller):
            eventually(what, partial(is_denied_or, proxy, holds))
            if is_denied_or(proxy, bool):
                break
        eventually("the log tells", lambda: "forbidden" in controller.output().lower())

    assert {(call.group, call.resource) for call, status in proxy.calls if status == 403} == {removed[1:]}


def is_denied_or(proxy: ApiProxy, holds: Callable[[], object]) -> object:
    # Nothing depends on the event about the election.
    return 403 in proxy.answers(lambda call: call.namespace != role.NAMESPACE or call.resource != "events") or holds()
