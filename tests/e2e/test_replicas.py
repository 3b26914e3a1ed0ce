"""Several replicas, of which one leads; and how a replica ends."""

import shutil

import pytest
from tests.e2e import role
from tests.e2e.api_proxy import ApiProxy, of
from tests.e2e.conftest import Starter
from tests.e2e.replicas import AS_POD, needs_mount_namespaces
from tests.e2e.sources import Held
from tests.e2e.trees import below
from tests.e2e.world import Auditor, World, download, eventually, output
from tests.envtest.server import ControlPlane

pytestmark = [pytest.mark.cluster, needs_mount_namespaces]

TREE = {"apps/web.yaml": b"web: 1\n"}
CHANGED = {"apps/web.yaml": b"web: 2\n"}
EXPECTED, EXPECTED_CHANGED = {"apps": below(TREE, "apps")}, {"apps": below(CHANGED, "apps")}
FLAGS = [
    "--enable-leader-election", "--leader-election-lease-duration=5s", "--leader-election-renew-deadline=3s",
]  # fmt: skip


@pytest.fixture(autouse=True)
def first_election(control_plane: ControlPlane, account: object) -> None:
    role.forget_leases(control_plane.client)


def holder(plane: ControlPlane) -> str:
    (lease,) = role.leases(plane.client)
    assert lease["metadata"]["name"] == "source-watcher-leader-election"
    return str(lease["spec"].get("holderIdentity", ""))


def test_a_leader_that_is_told_to_end_hands_over(
    control_plane: ControlPlane, world: World, new_controller: Starter, audit: Auditor
) -> None:
    leader = new_controller(*FLAGS, wrap=AS_POD).start()
    standby = new_controller(*FLAGS, wrap=AS_POD).start(leads=False)
    world.publish(TREE)
    world.generate(output("apps", "@repo/apps/**"))
    world.settles(EXPECTED, leader.store)
    revision = world.artifact("apps")["revision"]

    assert leader.stop(within=9) == 0

    assert holder(control_plane) == "" or standby.has_logged("leading")
    eventually("the standby leads", lambda: standby.has_logged("leading"))
    world.settles(EXPECTED, standby.store)
    assert world.artifact("apps")["url"].startswith(f"http://127.0.0.1:{standby.port}/")
    assert world.artifact("apps")["revision"] == revision
    world.publish(CHANGED)
    world.settles(EXPECTED_CHANGED, standby.store)


def test_a_leader_that_is_killed_is_replaced(world: World, new_controller: Starter, audit: Auditor) -> None:
    leader = new_controller(*FLAGS, wrap=AS_POD).start()
    standby = new_controller(*FLAGS, wrap=AS_POD).start(leads=False)
    world.publish(TREE)
    world.generate(output("apps", "@repo/apps/**"))
    world.settles(EXPECTED, leader.store)

    leader.kill()
    world.publish(CHANGED)

    world.settles(EXPECTED_CHANGED, standby.store)
    leader.start(leads=False)
    assert [each["msg"] for each in leader.log()].count("leading") == 1
    standby.kill()
    world.settles(EXPECTED_CHANGED, leader.store)


def test_a_standby_that_has_all_files_is_ready_for_traffic(world: World, new_controller: Starter) -> None:
    leader = new_controller(*FLAGS, wrap=AS_POD).start()
    world.publish(TREE)
    world.generate(output("apps", "@repo/apps/**"))
    world.settles(EXPECTED, leader.store)
    there = f"--storage-adv-addr=127.0.0.1:{leader.port}"
    standby = new_controller(*FLAGS, there, wrap=AS_POD).start(leads=False)
    url = f"http://127.0.0.1:{standby.port}"
    eventually("it knows that it has nothing", lambda: download(f"{url}/")[0] == 503)

    shutil.copytree(leader.store, standby.store, dirs_exist_ok=True)

    eventually("it knows that it has all", lambda: download(f"{url}/")[0] == 200)
    path = world.artifact("apps")["path"]
    assert download(f"{url}/{path}") == download(f"http://127.0.0.1:{leader.port}/{path}")


def test_whoever_loses_the_lease_ends_at_once(
    control_plane: ControlPlane, world: World, new_controller: Starter
) -> None:
    leader = new_controller(*FLAGS, wrap=AS_POD).start()
    path = f"/apis/coordination.k8s.io/v1/namespaces/{role.NAMESPACE}/leases/source-watcher-leader-election"

    control_plane.client.merge(path, {"spec": {"holderIdentity": "a thief"}})

    assert leader.wait(within=60) == 1
    last = leader.log()[-1]
    assert last["level"] == "error"
    assert last["msg"] == ("leader election lost: lease flux-system/source-watcher-leader-election: taken by 'a thief'")


def test_whoever_cannot_renew_the_lease_writes_nothing_after_its_deadline(
    world: World, proxy: ApiProxy, new_controller: Starter
) -> None:
    leader = new_controller(*FLAGS, kubeconfig=proxy.kubeconfig, wrap=AS_POD).start()
    held = Held()
    world.publish(TREE, fault=held)
    world.generate(output("apps", "@repo/apps/**"))
    assert held.reached.wait(120)
    proxy.answer(of("update", "leases"), 500, "InternalError", times=1000)

    assert leader.wait(within=60) == 1
    held.release()

    assert leader.log()[-1]["msg"] == (
        "leader election lost: lease flux-system/source-watcher-leader-election:"
        " not renewed for 3 s: the proxy says InternalError"
    )
    assert world.all_of("ExternalArtifact") == []


def test_a_signal_during_a_build_ends_it_in_time(
    control_plane: ControlPlane, world: World, new_controller: Starter
) -> None:
    controller = new_controller(*FLAGS, wrap=AS_POD).start()
    held = Held()
    world.publish(TREE, fault=held)
    world.generate(output("apps", "@repo/apps/**"))
    assert held.reached.wait(120)

    assert controller.stop(within=9) == 0

    held.release()
    assert holder(control_plane) == ""
    assert list(controller.temporary.iterdir()) == []
    assert list(controller.store.glob("externalartifact/*/*")) == []


def test_a_signal_while_the_server_does_not_answer_ends_it_in_time(
    world: World, proxy: ApiProxy, new_controller: Starter
) -> None:
    controller = new_controller(*FLAGS, kubeconfig=proxy.kubeconfig, wrap=AS_POD).start()
    world.publish(TREE)
    hold = proxy.hold(of("patch", "externalartifacts/status"))
    world.generate(output("apps", "@repo/apps/**"))
    hold.wait()

    with proxy.hanging():
        assert controller.stop(within=9) == 0
