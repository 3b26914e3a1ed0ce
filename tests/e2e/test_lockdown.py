"""With --no-cross-namespace-refs there is no way from one namespace into another."""

from collections.abc import Iterator

import pytest
from tests.e2e.conftest import Starter
from tests.e2e.controller import Controller
from tests.e2e.sources import Answering, Fault, SourceServer
from tests.e2e.trees import below
from tests.e2e.world import World, condition, eventually, output, source
from tests.envtest.client import APPLY_PATCH, Object
from tests.envtest.server import ControlPlane

pytestmark = pytest.mark.cluster

TREE = {"apps/web.yaml": b"web: 1\n"}
SECRET = {"apps/secret.yaml": b"secret\n"}


@pytest.fixture
def victim(control_plane: ControlPlane, sources: SourceServer) -> Iterator[World]:
    """Another namespace, with something in it."""
    there = World(control_plane.client, control_plane.namespace(), sources)
    yield there
    control_plane.clear(there.namespace)


@pytest.fixture
def controller(new_controller: Starter) -> Controller:
    return new_controller("--no-cross-namespace-refs=true", "--min-retry-delay=50ms").start()


@pytest.mark.parametrize("kind", ["GitRepository", "OCIRepository", "Bucket", "HelmChart", "ExternalArtifact"])
def test_sources_of_another_namespace_are_refused(
    world: World, victim: World, controller: Controller, kind: str
) -> None:
    path = victim.publish(SECRET, kind=kind)

    world.generate(output("apps", "@repo/apps/**"), sources=[source(kind=kind, namespace=victim.namespace)])

    message = f"cross-namespace reference to source {kind}/{victim.namespace}/repo is not allowed"
    world.until_condition("Stalled", "True", "AccessDenied", message)
    world.until_condition("Ready", "False", "AccessDenied", message)
    assert world.all_of("ExternalArtifact") == []
    assert world.sources.requests[path] == 0


def test_what_was_published_before_the_lockdown_stays_and_does_not_follow(
    world: World, victim: World, new_controller: Starter
) -> None:
    victim.publish(TREE)
    controller = new_controller().start()
    world.generate(output("apps", "@repo/apps/**"), sources=[source(namespace=victim.namespace)])
    world.settles({"apps": below(TREE, "apps")}, controller.store)
    before = world.artifact("apps")
    assert controller.stop() == 0
    controller.flags.append("--no-cross-namespace-refs")
    controller.start()

    path = victim.publish(SECRET)

    message = f"cross-namespace reference to source GitRepository/{victim.namespace}/repo is not allowed"
    world.until_condition("Stalled", "True", "AccessDenied", message)
    assert world.artifact("apps") == before
    assert world.sources.requests[path] == 0


def test_naming_ones_own_namespace_is_allowed(world: World, controller: Controller) -> None:
    world.publish(TREE)
    world.generate(output("apps", "@repo/apps/**"), sources=[source(namespace=world.namespace)])

    world.settles({"apps": below(TREE, "apps")}, controller.store)


@pytest.mark.parametrize("group", ["source.extensions.fluxcd.io/v1beta1", "example.com/v1"])
def test_an_artifact_of_another_owner_is_not_taken(
    world: World, victim: World, controller: Controller, group: str
) -> None:
    owner = {"apiVersion": group, "kind": "ArtifactGenerator", "name": "gone", "namespace": victim.namespace}
    world.create("ExternalArtifact", "apps", {"sourceRef": owner})
    before = world.get("ExternalArtifact", "apps")
    world.publish(TREE)

    world.generate(output("apps", "@repo/apps/**"))

    message = (
        f"apps reconcile failed: ExternalArtifact {world.namespace}/apps belongs to"
        f" ArtifactGenerator {victim.namespace}/gone (delete it, or choose another name)"
    )
    world.until_condition("Ready", "False", "OwnershipConflict", message)
    world.delete("ArtifactGenerator", "gen")
    eventually("the generator is gone", lambda: world.get("ArtifactGenerator", "gen") is None)
    assert world.get("ExternalArtifact", "apps") == before


def test_an_artifact_that_claims_to_come_from_elsewhere_is_not_deleted_there(
    world: World, victim: World, controller: Controller
) -> None:
    victim.publish(SECRET)
    victim.generate(output("apps", "@repo/apps/**"))
    victim.until_ready()
    before = victim.artifact("apps")
    world.publish(TREE)
    world.generate(output("mine", "@repo/apps/**"))
    world.until_ready()

    # A status that lists another namespace's artifact, written by whoever may write statuses.
    item = {
        "name": "apps", "namespace": victim.namespace,
        "digest": before["digest"], "filename": before["path"].rpartition("/")[2],
    }  # fmt: skip
    inventory = [*world.generator()["status"]["inventory"], item]
    world.client.merge(world.path("ArtifactGenerator", "gen", "status"), {"status": {"inventory": inventory}})
    world.edit(artifacts=[output("mine", "@repo/apps/**"), output("other", "@repo/apps/**")])
    world.until_ready()
    world.delete("ArtifactGenerator", "gen")
    eventually("the generator is gone", lambda: world.get("ArtifactGenerator", "gen") is None)

    assert victim.problems({"apps": below(SECRET, "apps")}, controller.store) == []
    assert victim.artifact("apps") == before


def test_a_label_of_another_generator_takes_nothing_away(world: World, victim: World, controller: Controller) -> None:
    victim.publish(SECRET)
    victim.generate(output("apps", "@repo/apps/**"))
    victim.until_ready()
    before = victim.artifact("apps")
    world.publish(TREE)
    mine: Object = world.generate(output("mine", "@repo/apps/**"))
    world.until_ready()
    labels = {"metadata": {"labels": {"source.extensions.fluxcd.io/generator": mine["metadata"]["uid"]}}}
    body = {"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "ExternalArtifact", **labels}
    victim.client.call(
        "PATCH", f"{victim.path('ExternalArtifact', 'apps')}?fieldManager=thief&force=true", body,
        content_type=APPLY_PATCH,
    )  # fmt: skip

    world.edit(artifacts=[output("other", "@repo/apps/**")])
    world.until_ready()
    world.delete("ArtifactGenerator", "gen")
    eventually("the generator is gone", lambda: world.get("ArtifactGenerator", "gen") is None)

    eventually("nothing is missing", lambda: victim.problems({"apps": below(SECRET, "apps")}, controller.store))
    assert victim.artifact("apps") == before


def redirect(target: str) -> Fault:
    def answer(answering: Answering, archive: bytes) -> None:
        answering.send_response(302)
        answering.send_header("Location", target)
        answering.send_header("Content-Length", "0")
        answering.end_headers()

    return answer


def test_a_redirect_leads_to_no_other_host(world: World, victim: World, controller: Controller) -> None:
    """What is behind the redirect has the right digest: the host alone is wrong."""
    secret = victim.publish(SECRET)
    path = world.publish(SECRET)
    port = world.sources.url.rpartition(":")[2]
    world.sources.faults[path] = redirect(f"http://localhost:{port}{secret}")

    world.generate(output("apps", "@repo/apps/**"))

    message = (
        "fetch sources failed: redirected to another host, 'localhost' (redirects stay on one host),"
        f" source GitRepository/{world.namespace}/repo (apps)"
    )
    world.until_condition("Ready", "False", "SourceFetchFailed", message)
    assert world.sources.requests[secret] == 0
    assert condition(world.generator(), "Stalled") == {}
