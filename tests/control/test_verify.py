"""What is published is read again now and then, and damage is mended before a consumer meets it."""

import asyncio
from pathlib import Path

import pytest
from tests.control.scene import APPS, BASE, NAMESPACE, HandClock, Scene, other, web

from sluice.control.verify import EVERY, PAUSE, verify_all

DAMAGED = ("Warning", "Ready", "integrity failure: stored files were missing or damaged: apps/web")


class Impatient(HandClock):
    """Sleeps in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path, interval=1e9)  # no other reason to look
    scene.commit(BASE)
    scene.generate(web(), other())
    await scene.settle()
    return scene


async def verify(scene: Scene, rate: float = 1e6) -> tuple[list[tuple[str, str]], list[float]]:
    """One round; returns whom it told of damage, and how it rested."""
    told: list[tuple[str, str]] = []
    clock = Impatient()
    await verify_all(scene.objects, scene.store, scene.pools, clock, rate, told.append)
    return told, clock.slept


def stored(scene: Scene, name: str = "web") -> Path:
    return scene.root / "store" / scene.published(name).path


async def test_what_is_intact_is_left_alone(scene: Scene) -> None:
    assert (await verify(scene))[0] == []


@pytest.mark.parametrize("is_there", [pytest.param(True, id="a bit is wrong"), pytest.param(False, id="it is gone")])
async def test_a_damaged_file_is_made_again_and_told(scene: Scene, is_there: bool) -> None:
    path, before = stored(scene), scene.published()
    if is_there:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    told, _ = await verify(scene)
    assert told == [(NAMESPACE, "gen")]
    assert not path.exists()

    scene.reconciler.queue.add(told[0])
    await scene.settle()

    assert scene.files() == APPS
    assert scene.published() == before
    assert scene.ready()[:2] == ("True", "Succeeded")
    assert DAMAGED in scene.events()


async def test_reading_takes_its_time(scene: Scene) -> None:
    sizes = [scene.published(name).size or 0 for name in ("web", "other")]

    _, slept = await verify(scene, rate=100)
    assert slept == [size / 100 for size in sizes]

    _, slept = await verify(scene, rate=1e9)
    assert slept == [PAUSE, PAUSE]


async def breathe() -> None:
    """Let other tasks go on for as long as they have something to do."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_round_is_due_every_hour(scene: Scene) -> None:
    verifying = asyncio.create_task(scene.reconciler.keep_verifying(1e12))
    await asyncio.sleep(0)
    for _ in range(2):
        stored(scene).unlink()
        await scene.later(EVERY - 1)
        assert not stored(scene).exists()

        scene.clock.advance(1)
        await scene.run(lambda: stored(scene).exists())
        await scene.settle()
        for _ in range(2):  # files, after each of which it rests
            scene.clock.advance(PAUSE)
            await breathe()
    verifying.cancel()
    await asyncio.gather(verifying, return_exceptions=True)
