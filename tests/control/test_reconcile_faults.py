"""Reconciliations and what goes wrong around them: refused writes, bugs, time that runs out, a process that ends."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.control.scene import APPS, BASE, NAMESPACE, OTHER, SUCCESS, Killed, Scene, View, other, output, web

from sluice.control.objects import ORIGIN_REVISION, ConditionType
from sluice.core.compose import Composition, compose
from sluice.core.errors import StorageError
from sluice.core.plan import Recipe


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def edited(number: int) -> dict[str, bytes]:
    return {**BASE, "apps/a.yaml": f"a: {number}\n".encode()}


# Refused writes


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param("finalizer", "reconciliation failed: finalizer gen: refused", id="the finalizer"),
        pytest.param("apply web", "web reconcile failed: apply web: refused", id="an artifact's object"),
        pytest.param("publish web", "web reconcile failed: publish web: refused", id="an artifact's status"),
        pytest.param("status", "reconciliation failed: status gen: refused", id="the generator's status"),
    ],
)
async def test_a_refused_write_is_told_and_tried_again(scene: Scene, write: str, message: str) -> None:
    scene.commit(BASE)
    scene.wire.fail(write)
    scene.generate(web(), other())
    await scene.settle()

    assert scene.ready() == ("False", "ReconciliationFailed", message)
    assert not scene.stalled()
    assert scene.events()[-1] == ("Warning", "ReconciliationFailed", message)
    if write.endswith("web"):
        assert scene.files("other") == OTHER, "it is no less good for that"
        assert scene.inventory() == ["other"]

    await scene.later(0.74)
    assert scene.ready()[0] == "False"
    await scene.later(0.01)
    assert scene.ready() == ("True", "Succeeded", "reconciliation succeeded, generated 2 artifact(s)")
    assert scene.files() == APPS
    assert scene.condition(ConditionType.RECONCILING) is None


async def test_a_refused_deletion_of_an_orphan_is_told_and_tried_again(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web(), other())
    await scene.settle()
    scene.wire.fail("delete other")

    scene.generate(web())
    await scene.settle()
    assert scene.ready() == ("False", "ReconciliationFailed", "other reconcile failed: delete other: refused")
    assert scene.inventory() == ["web", "other"]

    await scene.later(0.75)
    assert scene.ready() == SUCCESS
    assert scene.inventory() == scene.eas() == ["web"]


async def test_a_status_that_cannot_be_written_at_all_is_tried_again(scene: Scene) -> None:
    scene.commit(BASE)
    scene.wire.fail("status", times=2)
    scene.generate(web())
    await scene.settle()
    assert scene.condition() is None

    await scene.later(0.75)
    assert scene.ready() == SUCCESS


async def test_the_delay_doubles_up_to_its_limit_and_begins_anew_after_success(tmp_path: Path) -> None:
    scene = Scene(tmp_path, max_retry=10.0)
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    scene.wire.fail("publish", times=6)
    scene.commit(edited(2))
    await scene.settle()

    delays = []
    for _ in range(6):
        turns, waited = len(scene.observed.ended_turns), 0.0
        while len(scene.observed.ended_turns) == turns:
            waited += 0.25
            await scene.later(0.25)
        delays.append(waited)
    assert delays == [0.75, 1.5, 3.0, 6.0, 10.0, 10.0]
    assert scene.ready() == SUCCESS

    scene.wire.fail("publish")
    scene.commit(edited(3))
    await scene.settle()
    assert scene.ready()[0] == "False"
    await scene.later(0.75)
    assert scene.ready() == SUCCESS


async def test_a_failure_that_repeats_is_written_once(scene: Scene) -> None:
    scene.commit(BASE)
    scene.wire.fail("publish web", times=5)
    scene.generate(web())
    await scene.settle()

    for delay in (0.75, 1.5, 3.0):
        assert await scene.writes(scene.later(delay)) == []


async def test_a_full_disk_keeps_what_is_published(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    before = scene.ea()
    scene.wire.fail("store", error=StorageError)

    scene.commit(edited(2))
    await scene.settle()
    assert scene.ready() == ("False", "BuildFailed", "web build failed: store web: refused")
    assert scene.ea() == before
    assert scene.files() == APPS

    await scene.later(0.75)
    assert scene.ready() == SUCCESS
    assert scene.files() == {**APPS, "a.yaml": b"a: 2\n"}


async def test_a_store_that_is_deleted_is_made_again(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    before = scene.published()
    shutil.rmtree(scene.root / "store")

    await scene.later(3600)
    assert scene.published() == before
    assert scene.files() == APPS
    assert scene.ready() == SUCCESS


# Time


async def test_what_takes_too_long_is_given_up_and_told(tmp_path: Path) -> None:
    scene = Scene(tmp_path, timeout=0.0)
    scene.commit(BASE)
    scene.generate(web())
    scene.sources.gate = asyncio.Event()
    await scene.settle()

    limit = "the reconciliation took longer than 0:00:00 (--reconciliation-timeout)"
    assert scene.ready() == ("False", "SourceFetchFailed", f"fetch sources failed: {limit}")
    assert [ended.is_timeout for ended in scene.observed.ended_turns] == [True]
    assert scene.sources.waiting == 0


async def test_a_source_that_hangs_holds_up_nobody_else(scene: Scene) -> None:
    scene.workers = 2
    scene.commit(BASE)
    scene.generate(web())
    scene.sources.gate = asyncio.Event()
    await scene.run(lambda: scene.sources.waiting == 1)
    scene.sources.gate = None

    scene.generate(other(), name="second")
    await scene.run(lambda: (found := scene.condition(name="second")) is not None and found.status == "True")
    assert scene.files("other") == OTHER


# Bugs


def buggy(bad: str) -> Callable[..., Composition]:
    def compose_or_crash(recipe: Recipe, *rest: object) -> Composition:
        if any(bad in copy.spec.source for copy in recipe.copies):
            raise RecursionError("a bug")
        return compose(recipe, *rest)  # type: ignore[arg-type]  # passed on as they came

    return compose_or_crash


async def test_a_bug_stops_nobody_else_and_is_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice.build.compose", buggy("poison"))
    scene.commit({**BASE, "poison/x": b"1"})
    scene.generate(output("poisoned", ("@repo/poison/**", "@artifact/")), name="poison")
    scene.generate(web())
    await scene.settle(bugs=True)

    assert scene.ready() == SUCCESS
    ended = [ended for ended in scene.observed.ended_turns if ended.key == (NAMESPACE, "poison")]
    assert [str(one.bug) for one in ended] == ["a bug"]

    monkeypatch.undo()
    scene.clock.advance(0.75)
    await scene.settle(bugs=True)
    assert scene.files("poisoned") == {"x": b"1"}
    assert scene.ready("poison") == SUCCESS


# The process ends


async def story(scene: Scene) -> None:
    """A generator from its first build over commits, an edit and a prune; what is due at its end is done."""
    scene.commit(BASE)
    scene.generate({**web(), "originRevision": "@repo"}, other())
    await scene.settle()
    scene.commit({**edited(2), "README.md": b"x"})
    await scene.settle()
    scene.generate({**web(), "originRevision": "@repo"}, web("third"), other("fourth"))
    await scene.settle()
    scene.commit(edited(3))
    await scene.settle()


class Interrupted(Scene):
    """Its process ends once, and another takes over."""

    async def settle(self, *, bugs: bool = False) -> None:
        try:
            await super().settle(bugs=bugs)
        except Killed:
            await self.restart()
            await super().settle(bugs=bugs)
            await self.later(1)


@pytest.fixture
async def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    scene = Scene(tmp_path_factory.mktemp("undisturbed"))
    await story(scene)
    return scene


@pytest.mark.parametrize("count", range(27))
async def test_a_process_that_ends_anywhere_is_continued_by_the_next(
    tmp_path: Path, undisturbed: Scene, count: int
) -> None:
    assert len(undisturbed.wire.done) <= 27, "every write is one after which it may end"
    scene = Interrupted(tmp_path)
    scene.wire.kill_after(count)
    await story(scene)

    assert scene.ready() == ("True", "Succeeded", "reconciliation succeeded, generated 3 artifact(s)")
    assert _relevant(scene.view()) == _relevant(undisturbed.view())
    assert scene.files("third") == {**APPS, "a.yaml": b"a: 3\n"}


def _relevant(view: View) -> object:
    """All but superseded files: how long they stay counts from the start of the process."""
    return view.artifacts, view.generators


@pytest.mark.parametrize("count", range(5))
async def test_a_process_that_ends_during_a_deletion_is_continued_by_the_next(tmp_path: Path, count: int) -> None:
    scene = Scene(tmp_path)
    scene.commit(BASE)
    scene.generate(web(), other())
    await scene.settle()
    scene.wire.kill_after(len(scene.wire.done) + count)
    scene.world.delete_generator("gen")
    with pytest.raises(Killed):
        await scene.settle()

    await scene.restart()
    await scene.settle()
    assert scene.objects.generator((NAMESPACE, "gen")) is None
    assert scene.eas() == []
    assert scene.stored() == set()


async def test_a_manifest_that_goes_while_nothing_runs_is_noticed_at_start(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    scene.world.path("gen").unlink()

    await scene.restart()
    await scene.settle()
    assert scene.eas() == []
    assert scene.stored() == set()


async def test_an_origin_survives_a_lost_store(scene: Scene) -> None:
    first = scene.commit(BASE)
    scene.generate({**web(), "originRevision": "@repo"})
    await scene.settle()
    scene.commit({**BASE, "README.md": b"x"})
    shutil.rmtree(scene.root / "store")
    (scene.root / "store").mkdir()
    await scene.restart()
    await scene.settle()

    assert scene.published().metadata == {ORIGIN_REVISION: first.revision}
    assert scene.files() == APPS


@pytest.mark.parametrize("seed", range(5))
async def test_many_workers_come_to_the_same(tmp_path: Path, seed: int) -> None:
    views = []
    for workers in (1, 8):
        root = tmp_path / str(workers)
        root.mkdir()
        scene = Scene(root)
        scene.workers = workers
        scene.commit({f"apps/{number}/x.yaml": b"%d" % (number * seed) for number in range(6)})
        for number in range(6):
            copies = [(f"@repo/apps/{(number + step) % 6}/**", f"@artifact/{step}/") for step in range(3)]
            scene.generate(output(f"web-{number}", *copies), web(f"all-{number}"), name=f"gen-{number}")
        await scene.settle()
        scene.commit({f"apps/{number}/x.yaml": b"%d" % (number % 2) for number in range(6)})
        await scene.settle()
        views.append(scene.view())

    assert views[0] == views[1]
