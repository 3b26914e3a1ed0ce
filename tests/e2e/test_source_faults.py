"""A source that cannot be had, or not as promised: what is published stays, and follows when it can."""

import pytest
from tests.e2e import sources as faults
from tests.e2e.conftest import Starter
from tests.e2e.controller import Controller
from tests.e2e.sources import Fault
from tests.e2e.trees import below, sha256, tarball
from tests.e2e.world import Auditor, World, condition, eventually, output

pytestmark = pytest.mark.cluster

TREE = {"apps/web.yaml": b"web: 1\n"}
CHANGED = {"apps/web.yaml": b"web: 2\n"}
EXPECTED, EXPECTED_CHANGED = {"apps": below(TREE, "apps")}, {"apps": below(CHANGED, "apps")}


@pytest.fixture
def controller(world: World, new_controller: Starter) -> Controller:
    """A controller that has published `TREE`."""
    controller = new_controller("--requeue-dependency=100ms").start()
    world.publish(TREE)
    world.generate(output("apps", "@repo/apps/**"))
    world.settles(EXPECTED, controller.store)
    return controller


def is_failing(world: World) -> bool:
    found = condition(world.generator())
    return (found["status"], found["reason"]) == ("False", "SourceFetchFailed")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.status(404), id="not there"),
        pytest.param(faults.status(500), id="an error"),
        pytest.param(faults.refuse, id="no answer"),
        pytest.param(faults.cut, id="half an archive"),
        pytest.param(faults.corrupt, id="a wrong bit"),
    ],
)
def test_what_cannot_be_fetched_changes_nothing_until_it_can(
    world: World, controller: Controller, audit: Auditor, fault: Fault
) -> None:
    before = world.artifact("apps")
    broken = world.publish(CHANGED, fault=fault)

    eventually("it is told", lambda: is_failing(world))
    assert world.artifact("apps") == before
    del world.sources.faults[broken]

    world.settles(EXPECTED_CHANGED, controller.store)


def test_a_source_that_is_gone_leaves_its_artifacts(world: World, controller: Controller, audit: Auditor) -> None:
    before = world.artifact("apps")

    world.delete("GitRepository", "repo")

    message = 'get sources failed: GitRepository.source.toolkit.fluxcd.io "repo" not found (apps)'
    world.until_condition("Ready", "False", "SourceFetchFailed", message)
    assert world.artifact("apps") == before
    world.publish(CHANGED)
    world.settles(EXPECTED_CHANGED, controller.store)


def test_an_archive_of_another_digest_is_not_published(world: World, controller: Controller, audit: Auditor) -> None:
    before = world.artifact("apps")
    archive, digest = tarball(CHANGED), sha256(b"something else")
    world.sources.archives["/liar.tar.gz"] = archive

    world.offer("GitRepository", "repo", "liar.tar.gz", "main@sha1:" + "1" * 40, digest, len(archive))

    message = (
        f"fetch sources failed: failed to verify archive: digest mismatch: expected {digest}, got {sha256(archive)},"
        f" source GitRepository/{world.namespace}/repo (apps)"
    )
    world.until_condition("Ready", "False", "SourceFetchFailed", message)
    assert world.artifact("apps") == before
