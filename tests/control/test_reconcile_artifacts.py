"""Reconciliations and what others do to artifacts: edits by hand, owners, chains and cycles."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from tests.control.scene import APPS, BASE, NAMESPACE, OTHER, SUCCESS, Scene, other, output, source, web

from sluice.control.objects import GENERATOR_LABEL, ConditionType, Owner
from sluice.control.reconcile import SETTLE
from sluice.core.dialect import UPSTREAM
from sluice.core.spec import API_VERSION, KIND, SourceKind


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    """A generator that has published an artifact."""
    scene = Scene(tmp_path)
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    return scene


def owned_by(name: str, namespace: str | None = NAMESPACE, kind: str = KIND, api: str = API_VERSION) -> dict[str, Any]:
    """A patch of an artifact's owner."""
    return {"spec": {"sourceRef": {"apiVersion": api, "kind": kind, "name": name, "namespace": namespace or ""}}}


def edited(number: int) -> dict[str, bytes]:
    return {**BASE, "apps/a.yaml": f"a: {number}\n".encode()}


# Repair

FAKE = {"status": {"artifact": {"revision": "edited@sha256:" + "0" * 64}}}


@pytest.mark.parametrize(
    ("patch", "written"),
    [
        pytest.param(FAKE, ["publish web"], id="its revision"),
        pytest.param({"status": None}, ["publish web"], id="its whole status"),
        pytest.param({"status": {"conditions": []}}, ["publish web"], id="its condition"),
        pytest.param({"metadata": {"labels": {GENERATOR_LABEL: None}}}, ["apply web"], id="a label taken away"),
        pytest.param({"metadata": {"labels": {GENERATOR_LABEL: "x"}}}, ["apply web"], id="a label changed"),
        pytest.param(owned_by("gone"), ["apply web", "publish web"], id="its owner"),
    ],
)
async def test_an_edit_by_hand_is_undone_at_once(scene: Scene, patch: dict[str, Any], written: list[str]) -> None:
    before = scene.ea()

    scene.world.edit_artifact("web", patch)

    assert await scene.writes() == written
    after = scene.ea()
    assert (after.labels, after.owner, after.artifact, after.is_ready) == (
        before.labels,
        before.owner,
        before.artifact,
        before.is_ready,
    )
    assert scene.ready() == SUCCESS
    assert ("Normal", "Ready", "drift repaired: apps/web") in scene.events()


async def test_labels_of_others_stay(scene: Scene) -> None:
    scene.world.label_artifact("web", {"theirs": "x", GENERATOR_LABEL: None})
    await scene.settle()

    assert scene.ea().labels["theirs"] == "x"
    assert scene.ea().labels[GENERATOR_LABEL] == scene.generator().uid


async def test_a_label_of_others_is_not_worth_a_write(scene: Scene) -> None:
    scene.world.label_artifact("web", {"theirs": "x"})

    assert await scene.writes() == []


async def test_a_deleted_artifact_is_made_again_in_a_moment(scene: Scene) -> None:
    before = scene.published()
    scene.world.remove_artifact("web")

    assert await scene.writes() == []
    assert await scene.writes(scene.later(SETTLE)) == ["apply web", "publish web"]
    assert scene.published() == before
    assert ("Normal", "Ready", "drift repaired: apps/web") in scene.events()


async def test_a_fight_is_slowed_down_and_told_of(scene: Scene) -> None:
    for _ in range(5):
        scene.world.label_artifact("web", {GENERATOR_LABEL: None})
        assert await scene.writes() == ["apply web"]
    text = "somebody keeps changing apps/web; repairing it only every 24 s now"
    assert ("Warning", "ReconciliationFailed", text) in scene.events()

    scene.world.label_artifact("web", {GENERATOR_LABEL: None})
    assert await scene.writes() == []
    assert await scene.writes(scene.later(23.9)) == []
    assert await scene.writes(scene.later(0.1)) == ["apply web"]

    scene.clock.advance(61)
    scene.world.label_artifact("web", {GENERATOR_LABEL: None})
    assert await scene.writes() == ["apply web"]


# Ownership


async def test_the_second_generator_of_a_name_waits_and_takes_over(scene: Scene) -> None:
    before = scene.ea()
    scene.generate(other("web"), other("second-own"), name="second")
    await scene.settle()

    text = "web reconcile failed: ExternalArtifact apps/web belongs to ArtifactGenerator apps/gen"
    assert scene.ready("second") == (
        "False",
        "OwnershipConflict",
        f"{text} (delete it, or choose another name)",
    )
    assert not scene.stalled("second")
    assert scene.ea() == before
    assert scene.files("second-own") == OTHER
    assert scene.inventory("second") == ["second-own"]

    scene.commit(edited(2))
    await scene.settle()
    assert scene.files() == {**APPS, "a.yaml": b"a: 2\n"}
    assert scene.ready("second")[1] == "OwnershipConflict"

    scene.world.delete_generator("gen")
    await scene.settle()
    assert scene.files() == OTHER
    assert scene.ready("second") == ("True", "Succeeded", "reconciliation succeeded, generated 2 artifact(s)")
    assert scene.ea().owner == Owner(API_VERSION, KIND, "second", NAMESPACE)


async def test_the_first_generator_lets_a_name_go(scene: Scene) -> None:
    scene.generate(other("web"), name="second")
    await scene.settle()

    scene.generate(web("renamed"))
    await scene.settle()

    assert scene.files() == OTHER
    assert scene.ready("second") == SUCCESS
    assert scene.files("renamed") == APPS


async def test_deleting_the_second_takes_nothing_of_the_first(scene: Scene) -> None:
    scene.generate(other("web"), name="second")
    await scene.settle()
    before, stored = scene.ea(), scene.stored()

    scene.world.delete_generator("second")
    await scene.settle()

    assert scene.ea() == before
    assert scene.stored() >= stored
    assert scene.objects.generator((NAMESPACE, "second")) is None


@pytest.mark.parametrize(
    ("patch", "who"),
    [
        pytest.param(
            owned_by("else", kind="Kustomization", api="kustomize.toolkit.fluxcd.io/v1"),
            "Kustomization apps/else",
            id="another kind",
        ),
        pytest.param(owned_by("else", api="example.com/v1"), "ArtifactGenerator apps/else", id="another group"),
        pytest.param(
            owned_by("gone", namespace="elsewhere"), "ArtifactGenerator elsewhere/gone", id="another namespace"
        ),
        pytest.param({"metadata": {"labels": {"a": "b"}}}, "nobody we know", id="nobody"),
    ],
)
async def test_what_is_somebody_elses_is_left_alone(tmp_path: Path, patch: dict[str, Any], who: str) -> None:
    scene = Scene(tmp_path)
    scene.commit(BASE)
    scene.world.edit_artifact("web", patch)
    before = scene.ea()
    scene.generate(web(), other())
    await scene.settle()

    text = f"web reconcile failed: ExternalArtifact apps/web belongs to {who} (delete it, or choose another name)"
    assert scene.ready() == ("False", "OwnershipConflict", text)
    assert scene.ea() == before
    assert scene.files("other") == OTHER
    assert scene.inventory() == ["other"]

    scene.world.remove_artifact("web")
    await scene.later(SETTLE)
    assert scene.ready()[0] == "True"
    assert scene.files() == APPS


async def test_an_owner_without_a_namespace_is_one_of_the_same_namespace(scene: Scene) -> None:
    scene.world.edit_artifact("web", owned_by("gen", None))
    scene.generate(other("web"), name="second")
    await scene.settle()

    text = "web reconcile failed: ExternalArtifact apps/web belongs to ArtifactGenerator apps/gen"
    assert scene.ready("second")[2] == f"{text} (delete it, or choose another name)"
    assert scene.files() == APPS


@pytest.mark.parametrize("namespace", [NAMESPACE, None], ids=["with its namespace", "without a namespace"])
@pytest.mark.parametrize("owner", ["gen", "gone"], ids=["an earlier life", "a generator that is gone"])
async def test_what_an_owner_left_behind_is_adopted(tmp_path: Path, owner: str, namespace: str | None) -> None:
    scene = Scene(tmp_path)
    scene.commit(BASE)
    label = {"metadata": {"labels": {GENERATOR_LABEL: "00000000-0000-0000-0000-000000000000"}}}
    scene.world.edit_artifact("web", {**label, **owned_by(owner, namespace)})
    uid = scene.ea().uid
    scene.generate(web())
    await scene.settle()

    assert scene.ready() == SUCCESS
    assert scene.files() == APPS
    assert scene.ea().uid == uid
    assert scene.ea().labels[GENERATOR_LABEL] == scene.generator().uid
    assert scene.ea().owner == Owner(API_VERSION, KIND, "gen", NAMESPACE)
    assert "delete web" not in scene.wire.done


async def test_an_artifact_with_our_label_and_no_owner_is_ours(scene: Scene) -> None:
    scene.world.edit_artifact("web", {"spec": None})

    assert await scene.writes() == ["apply web", "publish web"]
    assert scene.ready() == SUCCESS
    assert scene.ea().owner == Owner(API_VERSION, KIND, "gen", NAMESPACE)


async def test_what_carries_our_name_is_pruned_even_if_no_inventory_lists_it(scene: Scene) -> None:
    uid = scene.generator().uid
    patch = {"metadata": {"labels": {GENERATOR_LABEL: uid}}, **owned_by("gen")}
    scene.world.edit_artifact("forgotten", patch)
    await scene.trigger()

    assert scene.eas() == ["web"]
    assert ("Normal", "Ready", "external artifacts deleted: apps/forgotten") in scene.events()


# Files


@pytest.mark.parametrize("damage", ["gone", "flipped", "cut"])
async def test_a_damaged_file_is_found_by_a_request(scene: Scene, damage: str) -> None:
    before = scene.published()
    (path,) = (scene.root / "store/externalartifact/apps/web").iterdir()
    data = path.read_bytes()
    match damage:
        case "gone":
            path.unlink()
        case "flipped":
            path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        case "cut":
            path.write_bytes(data[:-20])

    assert await scene.writes(scene.trigger()) == ["status gen", "status gen", "store web"]
    assert scene.published() == before
    assert scene.files() == APPS
    text = "integrity failure: stored files were missing or damaged: apps/web"
    assert ("Warning", "Ready", text) in scene.events()


async def test_a_missing_file_is_found_at_the_interval(scene: Scene) -> None:
    (path,) = (scene.root / "store/externalartifact/apps/web").iterdir()
    path.unlink()

    assert await scene.writes(scene.later(3600)) == ["store web"]
    assert scene.files() == APPS


async def test_a_peers_file_is_taken_over_with_its_revision(tmp_path: Path) -> None:
    scene = Scene(tmp_path, dialect=UPSTREAM)
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()

    # What the peer would have left: the same archive under a decimal name, and a revision of its bytes.
    (path,) = (scene.root / "store/externalartifact/apps/web").iterdir()
    peers = path.rename(path.with_name("242366145.tar.gz"))
    digest = scene.published().digest
    where = f"externalartifact/apps/web/{peers.name}"
    artifact = {
        "revision": f"latest@{digest}",
        "path": where,
        "url": f"http://sluice.test/{where}",
        "lastUpdateTime": "2026-01-01T00:00:00Z",
    }
    scene.world.edit_artifact("web", {"status": {"artifact": artifact}})
    generators = scene.root / "manifests/.sluice/artifactgenerators/apps/gen.json"
    text = generators.read_text().replace(scene.item().filename, peers.name)
    generators.write_text(text)
    await scene.restart()
    before, published = scene.ea(), scene.published()
    await scene.settle()
    assert scene.wire.done == []

    await scene.trigger()
    scene.commit({**BASE, "README.md": b"x"})
    await scene.settle()
    assert scene.ea() == before
    assert scene.item().filename == peers.name
    assert scene.stored() == {f"apps/web/{peers.name}"}

    scene.commit(edited(2))
    await scene.settle()
    assert scene.files() == {**APPS, "a.yaml": b"a: 2\n"}
    assert scene.published().revision.startswith("latest@sha256:")
    assert scene.published().revision != published.revision


# Chains and cycles


def feeds(scene: Scene, name: str, makes: str, reads: str) -> None:
    scene.generate(
        output(makes, ("@up/**", "@artifact/")), name=name, sources=[source("ExternalArtifact", reads, "up")]
    )


async def test_an_artifact_feeds_another_generator(scene: Scene) -> None:
    feeds(scene, "down", "copy", "web")
    await scene.settle()
    assert scene.files("copy") == APPS

    scene.commit(edited(2))
    assert await scene.writes() == [
        "publish copy",
        "publish web",
        "status down",
        "status gen",
        "store copy",
        "store web",
    ]
    assert scene.files("copy") == {**APPS, "a.yaml": b"a: 2\n"}

    scene.world.delete_generator("gen")
    await scene.settle()
    text = 'get sources failed: ExternalArtifact.source.toolkit.fluxcd.io "web" not found (copy)'
    assert scene.ready("down") == ("False", "SourceFetchFailed", text)
    assert scene.files("copy") == {**APPS, "a.yaml": b"a: 2\n"}


async def test_a_generator_cannot_feed_itself(scene: Scene) -> None:
    feeds(scene, "self", "own", "own")
    await scene.settle()

    text = "sources form a cycle: apps/self -> apps/self"
    assert scene.ready("self") == ("False", "ValidationFailed", text)
    assert scene.stalled("self")
    assert scene.ready() == SUCCESS


async def test_every_generator_of_a_cycle_is_stalled_until_it_is_broken(scene: Scene) -> None:
    feeds(scene, "a", "a-out", "b-out")
    await scene.settle()
    assert scene.ready("a")[1] == "SourceFetchFailed"

    feeds(scene, "b", "b-out", "a-out")
    await scene.settle()
    for name, path in (("a", "apps/a -> apps/b -> apps/a"), ("b", "apps/b -> apps/a -> apps/b")):
        assert scene.ready(name) == ("False", "ValidationFailed", f"sources form a cycle: {path}")
        assert scene.stalled(name)

    scene.generate(other("b-out"), name="b")
    await scene.settle()
    assert scene.ready("a") == scene.ready("b") == SUCCESS
    assert scene.files("a-out") == OTHER


@pytest.mark.parametrize("finalized", [True, False], ids=["finalized", "torn away"])
async def test_a_cycle_is_broken_by_a_deletion(scene: Scene, finalized: bool) -> None:
    feeds(scene, "a", "a-out", "b-out")
    feeds(scene, "b", "b-out", "a-out")
    await scene.settle()
    assert scene.stalled("a")
    if not finalized:
        await scene.objects.set_finalizer(scene.generator("b"), present=False)

    scene.world.delete_generator("b")
    await scene.settle()

    assert not scene.stalled("a")
    assert scene.ready("a")[1] == "SourceFetchFailed"


async def test_a_cycle_of_three_through_a_pattern(scene: Scene) -> None:
    """What pathPattern makes is known only after it was built."""
    scene.commit({"apps/c-out/x.yaml": b"1"}, "dirs", SourceKind.BUCKET)
    feeds(scene, "a", "a-out", "c-out")
    feeds(scene, "b", "b-out", "a-out")
    scene.generate(
        output("{app}", ("@dirs/apps/{app}/**", "@artifact/"), ("@up/**", "@artifact/up/")),
        name="c",
        sources=[source("Bucket", "dirs", "dirs"), source("ExternalArtifact", "b-out", "up")],
        pathPattern="@dirs/apps/{app}",
    )
    await scene.settle()
    await scene.later(5)

    assert [scene.stalled(name) for name in "abc"] == [True, True, True]


async def test_a_long_chain_settles_however_it_is_begun(scene: Scene) -> None:
    for number in reversed(range(1, 6)):
        feeds(scene, f"link-{number}", f"web-{number}", f"web-{number - 1}" if number > 1 else "web")
    await scene.settle()
    await scene.later(5)

    assert scene.files("web-5") == APPS
    scene.workers = 4
    scene.commit(edited(2))
    await scene.settle()
    assert scene.files("web-5") == {**APPS, "a.yaml": b"a: 2\n"}
    assert [scene.ready(f"link-{number}") for number in range(1, 6)] == [SUCCESS] * 5


# Deletion while it is built


@pytest.mark.parametrize("seed", range(30))
async def test_nothing_is_published_for_a_generator_that_is_gone(tmp_path: Path, seed: int) -> None:
    """It is deleted somewhere during a turn; what it is made from may be held up there."""
    chance = random.Random(seed)
    scene = Scene(tmp_path)
    scene.workers = chance.choice([1, 2, 4])
    scene.commit(BASE)
    scene.generate(web(), other())
    if chance.random() < 0.5:
        await scene.settle()
        scene.commit(edited(2))
    if chance.random() < 0.5:
        scene.sources.gate = asyncio.Event()
        await scene.run(lambda: scene.sources.waiting > 0)
    await scene.run_for(chance.randrange(40))

    scene.world.delete_generator("gen")
    if chance.random() < 0.5:
        scene.generate(other("web"))
    await scene.run_for(chance.randrange(12))
    if scene.sources.gate is not None:
        scene.sources.gate.set()
    await scene.settle()
    await scene.later(1)

    if scene.world.path("gen").exists():
        assert scene.files() == OTHER
        assert scene.eas() == scene.inventory() == ["web"]
        assert scene.ready() == SUCCESS
    else:
        assert scene.objects.generator((NAMESPACE, "gen")) is None
        assert scene.eas() == []
        scene.clock.advance(61)
        await scene.reconciler.collect_garbage()
        assert scene.stored() == set()


async def test_no_write_begins_for_a_generator_that_is_deleted(tmp_path: Path) -> None:
    """Deleted after each step of the event loop that its first build takes."""
    moments = set()
    for count in range(40):
        root = tmp_path / str(count)
        root.mkdir()
        scene = Scene(root)
        scene.commit(BASE)
        scene.generate(web())
        await scene.run_for(count)
        moments.add(tuple(scene.wire.done))
        done = len(scene.wire.done)

        scene.world.delete_generator("gen")
        await scene.settle()
        assert {what.split()[0] for what in scene.wire.done[done:]} <= {"store", "delete", "erase", "finalizer"}
        assert scene.eas() == []
    assert len(moments) == 6, "before, between and after all writes"


async def test_a_name_is_handed_over_with_its_file(scene: Scene) -> None:
    """The first generator goes, and takes all files of the name along when the second has published it already."""
    scene.workers = 2
    scene.generate(other("web"), name="second")
    await scene.settle()
    scene.pools.gate = asyncio.Event()
    scene.world.delete_generator("gen")
    await scene.run(lambda: scene.pools.waiting == 1)

    scene.commit({**BASE, "other/c.yaml": b"c: 2\n"})
    await scene.run(lambda: scene.ready("second")[0] == "True")
    scene.pools.gate.set()
    await scene.settle()

    assert scene.files() == {"c.yaml": b"c: 2\n"}
    assert scene.ready("second") == SUCCESS


async def test_an_edit_during_a_build_wins(scene: Scene) -> None:
    scene.sources.gate = asyncio.Event()
    scene.commit(edited(2))
    await scene.run(lambda: scene.sources.waiting == 1)
    scene.generate(other("web"))
    scene.sources.gate.set()
    await scene.settle()

    assert scene.files() == OTHER
    assert scene.ready() == SUCCESS
    assert scene.condition(ConditionType.RECONCILING) is None


async def test_a_fight_is_slowed_down_while_a_source_is_missing_too(scene: Scene) -> None:
    needs = output("needs", ("@more/**", "@artifact/"))
    scene.generate(needs, web(), sources=[source("Bucket", "more", "more"), source()])
    await scene.settle()
    for _ in range(5):
        scene.world.label_artifact("web", {GENERATOR_LABEL: None})
        assert await scene.writes() == ["apply web"]

    scene.world.label_artifact("web", {GENERATOR_LABEL: None})
    assert await scene.writes() == []
