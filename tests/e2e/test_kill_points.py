"""Kill the controller at each step of a publication and start it again, with its store and without."""

import shutil
import signal

import pytest
from tests.e2e.api_proxy import ApiProxy, of
from tests.e2e.conftest import Starter
from tests.e2e.sources import Held
from tests.e2e.trees import below
from tests.e2e.world import Auditor, World, eventually, output

pytestmark = pytest.mark.cluster

BEFORE = {"apps/web.yaml": b"web: 1\n", "infra/net.yaml": b"net: 1\n"}
AFTER = {"apps/web.yaml": b"web: 2\n", "apps/new.yaml": b"new: 2\n", "infra/net.yaml": b"net: 1\n"}
EXPECTED_BEFORE = {"apps": below(BEFORE, "apps"), "infra": below(BEFORE, "infra")}
EXPECTED_AFTER = {"apps": below(AFTER, "apps"), "infra": below(AFTER, "infra")}

FIRST_WRITES = [
    pytest.param("artifactgenerators", id="the finalizer"),
    pytest.param("externalartifacts", id="the artifact"),
    pytest.param("externalartifacts/status", id="the artifact's status"),
    pytest.param("artifactgenerators/status", id="the generator's status"),
]
MOMENTS = [pytest.param(False, id="before the server has it"), pytest.param(True, id="before its answer is out")]
STORES = [pytest.param(True, id="with its store"), pytest.param(False, id="with an empty store")]

# Runs the controller, and ends it with SIGKILL when it is about to give the n-th stored file its name.
DIES_AT_RENAME = """
import itertools, os, runpy, signal, sys
renames = itertools.count(1)
def look(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(".tar.gz") and next(renames) == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(look)
sys.argv[0] = "sluice"
runpy.run_module("sluice", run_name="__main__")
"""


def generate(world: World) -> None:
    world.generate(output("apps", "@repo/apps/**"), output("infra", "@repo/infra/**"))


@pytest.mark.parametrize("keeps_store", STORES)
@pytest.mark.parametrize("answered", MOMENTS)
@pytest.mark.parametrize("resource", FIRST_WRITES)
def test_killed_during_the_first_publication(
    world: World,
    proxy: ApiProxy,
    new_controller: Starter,
    audit: Auditor,
    resource: str,
    answered: bool,
    keeps_store: bool,
) -> None:
    world.publish(BEFORE)
    controller = new_controller(kubeconfig=proxy.kubeconfig).start()
    hold = proxy.hold(of("patch", resource), answered=answered)
    generate(world)

    hold.wait()
    controller.kill()
    hold.release()
    if not keeps_store:
        shutil.rmtree(controller.store / "externalartifact")
    controller.start()

    world.settles(EXPECTED_BEFORE, controller.store)


@pytest.mark.parametrize("keeps_store", STORES)
@pytest.mark.parametrize("answered", MOMENTS)
@pytest.mark.parametrize("resource", ["externalartifacts/status", "artifactgenerators/status"])
def test_killed_while_a_new_revision_goes_out(
    world: World,
    proxy: ApiProxy,
    new_controller: Starter,
    audit: Auditor,
    resource: str,
    answered: bool,
    keeps_store: bool,
) -> None:
    world.publish(BEFORE)
    controller = new_controller(kubeconfig=proxy.kubeconfig).start()
    generate(world)
    world.settles(EXPECTED_BEFORE, controller.store)
    infra = world.artifact("infra")
    hold = proxy.hold(of("patch", resource), answered=answered)
    world.publish(AFTER)

    hold.wait()
    controller.kill()
    hold.release()
    if not keeps_store:
        shutil.rmtree(controller.store / "externalartifact")
    controller.start()

    world.settles(EXPECTED_AFTER, controller.store)
    assert world.artifact("infra")["revision"] == infra["revision"]


def test_killed_while_a_source_is_fetched(world: World, new_controller: Starter, audit: Auditor) -> None:
    held = Held()
    world.publish(BEFORE, fault=held)
    controller = new_controller().start()
    generate(world)

    assert held.reached.wait(120)
    controller.kill()
    held.release()
    world.sources.faults.clear()
    controller.start()

    world.settles(EXPECTED_BEFORE, controller.store)


@pytest.mark.parametrize("number", [1, 2])
def test_killed_while_a_file_is_stored(world: World, new_controller: Starter, audit: Auditor, number: int) -> None:
    controller = new_controller(program=["-c", DIES_AT_RENAME.format(number=number)]).start()
    world.publish(BEFORE)
    generate(world)

    assert controller.wait() == -signal.SIGKILL
    here = controller.store / "externalartifact" / world.namespace
    left = [path for path in here.glob("*/*") if not path.name.endswith(".tar.gz")]
    controller.program = ["-m", "sluice"]
    controller.start()

    assert len(left) == 1
    world.settles(EXPECTED_BEFORE, controller.store)


@pytest.mark.parametrize("answered", MOMENTS)
@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        pytest.param("delete", "externalartifacts", id="the artifact's deletion"),
        pytest.param("patch", "artifactgenerators", id="the finalizer's removal"),
    ],
)
def test_killed_while_a_generator_goes(
    world: World, proxy: ApiProxy, new_controller: Starter, verb: str, resource: str, answered: bool
) -> None:
    world.publish(BEFORE)
    controller = new_controller(kubeconfig=proxy.kubeconfig).start()
    generate(world)
    world.settles(EXPECTED_BEFORE, controller.store)
    hold = proxy.hold(of(verb, resource), answered=answered)
    world.delete("ArtifactGenerator", "gen")

    hold.wait()
    controller.kill()
    hold.release()
    controller.start()

    eventually("the generator is gone", lambda: world.get("ArtifactGenerator", "gen") is None)
    eventually("nothing is left", lambda: world.problems({}, controller.store))


def test_an_empty_store_is_filled_again_without_new_revisions(
    world: World, new_controller: Starter, audit: Auditor
) -> None:
    world.publish(BEFORE)
    controller = new_controller().start()
    generate(world)
    world.settles(EXPECTED_BEFORE, controller.store)
    before = world.artifact("apps"), world.artifact("infra")
    assert controller.stop() == 0
    shutil.rmtree(controller.store / "externalartifact")

    controller.start()

    world.settles(EXPECTED_BEFORE, controller.store)
    assert (world.artifact("apps"), world.artifact("infra")) == before
