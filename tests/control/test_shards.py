"""A generator that another shard takes over, as the shard sees it that loses it, and the one that gains it."""

from pathlib import Path

import pytest
from tests.control.scene import APPS, BASE, Scene, web

TTL = 60
ELSEWHERE = "http://shard2.test"


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path)
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    return scene


async def leave(scene: Scene) -> None:
    """The generator and its artifacts are as they were, but not for us any more."""
    await scene.objects.set_finalizer(scene.generator(), present=False)
    scene.world.delete_generator("gen")


def publish_elsewhere(scene: Scene, name: str = "web") -> None:
    url = f"{ELSEWHERE}/{scene.published(name).path}"
    scene.world.edit_artifact(name, {"status": {"artifact": {"url": url}}})


async def collected(scene: Scene) -> set[str]:
    """What is stored once the retention time is over."""
    await scene.later(TTL + 1)
    await scene.reconciler.collect_garbage()
    return scene.stored()


async def test_a_file_stays_until_it_is_published_elsewhere(scene: Scene) -> None:
    before = scene.published()
    await leave(scene)
    await scene.settle()
    assert len(await collected(scene)) == 1
    assert scene.files() == APPS

    publish_elsewhere(scene)
    await scene.reconciler.collect_garbage()
    assert len(scene.stored()) == 1

    assert await collected(scene) == set()
    assert scene.eas() == ["web"]
    assert scene.published().digest == before.digest
    assert list((scene.root / "store/externalartifact").iterdir()) == []


async def test_a_file_goes_when_its_object_does(scene: Scene) -> None:
    await leave(scene)
    await scene.settle()

    scene.world.remove_artifact("web")

    assert await collected(scene) == set()


@pytest.mark.parametrize(
    ("elsewhere", "left"),
    [
        pytest.param(True, 0, id="taken over meanwhile"),
        pytest.param(False, 1, id="not taken over yet"),
    ],
)
async def test_what_went_while_nobody_watched_is_noticed_at_the_start(scene: Scene, elsewhere: bool, left: int) -> None:
    await leave(scene)
    if elsewhere:
        publish_elsewhere(scene)
    await scene.restart()

    scene.reconciler.abandon_strays()

    assert len(await collected(scene)) == left
    assert scene.eas() == ["web"]


async def test_at_the_start_nothing_goes_that_a_status_names(scene: Scene) -> None:
    await scene.restart()

    scene.reconciler.abandon_strays()

    assert len(await collected(scene)) == 1
    assert scene.files() == APPS


async def test_a_generator_that_comes_back_keeps_its_file(scene: Scene) -> None:
    await leave(scene)
    await scene.settle()

    scene.generate(web())
    await scene.settle()

    assert len(await collected(scene)) == 1
    assert scene.files() == APPS


async def test_what_another_shard_stored_was_not_damaged_here(scene: Scene) -> None:
    publish_elsewhere(scene)
    (scene.root / "store" / scene.published().path).unlink()
    scene.told.clear()
    await scene.restart()

    await scene.settle()

    assert scene.files() == APPS
    assert [event for event in scene.events() if event[0] == "Warning"] == []
