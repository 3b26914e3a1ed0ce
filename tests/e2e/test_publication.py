"""What the controller does when nothing goes wrong."""

import pytest
from tests.e2e.controller import Controller
from tests.e2e.trees import below
from tests.e2e.world import Auditor, World, eventually, output

pytestmark = pytest.mark.cluster

TREE = {"apps/web.yaml": b"web: 1\n", "apps/sub/db.yaml": b"db: 1\n", "infra/net.yaml": b"net: 1\n"}


def test_artifacts_follow_their_source(world: World, controller: Controller, audit: Auditor) -> None:
    world.publish(TREE)
    world.generate(output("apps", "@repo/apps/**"), output("infra", "@repo/infra/**"))
    world.settles({"apps": below(TREE, "apps"), "infra": below(TREE, "infra")}, controller.store)
    infra = world.artifact("infra")

    changed = {**TREE, "apps/web.yaml": b"web: 2\n"}
    world.publish(changed)

    world.settles({"apps": below(changed, "apps"), "infra": below(TREE, "infra")}, controller.store)
    assert world.artifact("infra") == infra
    assert controller.stop() == 0
    assert list(controller.temporary.iterdir()) == []


def test_a_deleted_generator_leaves_nothing(world: World, controller: Controller) -> None:
    world.publish(TREE)
    world.generate(output("apps", "@repo/apps/**"))
    world.settles({"apps": below(TREE, "apps")}, controller.store)

    world.delete("ArtifactGenerator", "gen")

    eventually("the generator is gone", lambda: world.get("ArtifactGenerator", "gen") is None)
    assert world.problems({}, controller.store) == []
