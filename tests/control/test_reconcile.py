"""The reconcile loop over a directory: what is written, what is published, what is told."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.control.scene import APPS, BASE, NAMESPACE, OTHER, SUCCESS, Scene, other, output, source, web

from sluice.control.objects import (
    ALLOW_EMPTY_ANNOTATION,
    ATOMIC_ANNOTATION,
    DIALECT_ANNOTATION,
    FINALIZER,
    GENERATOR_LABEL,
    MANAGED_BY_LABEL,
    ORIGIN_REVISION,
    PAUSE_ANNOTATION,
    ConditionType,
)
from sluice.core.dialect import UPSTREAM
from sluice.core.spec import SourceKind


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def edited(number: int) -> dict[str, bytes]:
    return {**BASE, "apps/a.yaml": f"a: {number}\n".encode()}


def edited_apps(number: int) -> dict[str, bytes]:
    return {**APPS, "a.yaml": f"a: {number}\n".encode()}


# How much is written


async def test_a_first_build_writes_the_finalizer_the_artifact_and_a_status(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()

    assert scene.wire.done == ["finalizer gen", "store web", "apply web", "publish web", "status gen"]
    assert scene.ready() == SUCCESS
    assert scene.files() == APPS
    digest, revision = scene.published().digest, scene.published().revision
    assert scene.item().digest == digest
    assert scene.item().filename == scene.published().path.rpartition("/")[2]
    assert revision.startswith("latest@sha256:")
    assert scene.events() == [
        ("Normal", "Ready", f"external artifacts reconciled: apps/web ({digest})"),
        ("Trace", "Ready", f"ExternalArtifact/apps/web reconciled with revision {revision}"),
        ("Trace", "Ready", "reconciliation succeeded, generated 1 artifact(s)"),
    ]


async def test_an_artifact_carries_the_labels_of_its_generator(scene: Scene) -> None:
    scene.commit(BASE)
    common = {"labels": {"team": "x", GENERATOR_LABEL: "forged"}, "annotations": {"note": "y"}}
    scene.generate(web(), commonMetadata=common)
    await scene.settle()

    assert scene.ea().labels == {
        "team": "x",
        MANAGED_BY_LABEL: "source-watcher",
        GENERATOR_LABEL: scene.generator().uid,
    }
    assert scene.ea().annotations == {"note": "y"}
    assert scene.ea().is_ready

    scene.generate(web(), commonMetadata={"labels": {"stage": "z"}})
    assert await scene.writes() == ["apply web", "status gen", "status gen"]
    assert scene.ea().labels.keys() == {"stage", MANAGED_BY_LABEL, GENERATOR_LABEL}
    assert scene.ea().annotations == {}


async def test_a_commit_writes_what_it_changes(scene: Scene) -> None:
    tree = {f"apps/{number}/x.yaml": b"1\n" for number in range(5)}
    names = [f"web-{number}" for number in range(5)]
    scene.commit(tree)
    scene.generate(*(output(f"web-{number}", (f"@repo/apps/{number}/**", "@artifact/")) for number in range(5)))
    await scene.settle()
    before = {name: scene.published(name) for name in names}
    scene.clock.advance(60)

    scene.commit({**tree, "apps/3/x.yaml": b"2\n"})
    assert await scene.writes() == ["publish web-3", "status gen", "store web-3"]
    assert scene.files("web-3") == {"x.yaml": b"2\n"}
    assert [name for name in names if scene.published(name) != before[name]] == ["web-3"]

    turns = len(scene.observed.ended_turns)
    scene.commit({**tree, "apps/3/x.yaml": b"2\n", "README.md": b"new"})
    assert await scene.writes() == ["status gen"]
    assert len(scene.observed.ended_turns) == turns + 2, "the second is that of the refresh lane"


async def test_what_changed_goes_out_before_bookkeeping(scene: Scene) -> None:
    tree = {f"apps/{number}/x.yaml": b"1\n" for number in range(10)}
    scene.commit(tree)
    for number in range(10):
        scene.generate(output(f"web-{number}", (f"@repo/apps/{number}/**", "@artifact/")), name=f"gen-{number}")
    await scene.settle()

    before = len(scene.wire.done)
    scene.commit({**tree, "apps/7/x.yaml": b"2\n"})
    await scene.settle()

    written = scene.wire.done[before:]
    assert written[:3] == ["store web-7", "publish web-7", "status gen-7"]
    assert sorted(written[3:]) == [f"status gen-{number}" for number in range(10) if number != 7]


async def test_a_burst_of_commits_costs_one_refresh(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()

    for number in range(10):
        scene.commit({**BASE, "README.md": b"%d" % number})
    assert await scene.writes() == ["status gen"]


async def test_bookkeeping_looks_at_nothing_a_second_time(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    opened = scene.sources.opened["repo"]

    scene.commit({**BASE, "README.md": b"new"})
    await scene.settle()

    assert scene.sources.opened["repo"] == opened + 1


async def test_bookkeeping_heeds_what_happens_before_it_is_done(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    turns = len(scene.observed.ended_turns)
    scene.commit({**BASE, "README.md": b"new"})
    await scene.run(lambda: len(scene.observed.ended_turns) == turns + 1)

    scene.commit({**BASE, "apps/a.yaml": b"changed\n"})
    assert await scene.writes() == ["publish web", "status gen", "store web"]
    assert scene.files()["a.yaml"] == b"changed\n"
    assert await scene.writes(scene.later(7200)) == []


async def test_a_trigger_without_drift_writes_that_it_was_handled(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    since = scene.condition()

    assert await scene.writes(scene.trigger(token="one")) == ["status gen"]
    assert scene.generator().status.last_handled_reconcile_at == "one"
    assert scene.condition() == since
    assert scene.events()[-1] == ("Trace", "Ready", "No drift detected, 1 artifact(s) up to date")
    assert await scene.writes(scene.trigger(token="one")) == []


async def test_nothing_is_written_after_an_interval_without_a_change(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    turns = len(scene.observed.ended_turns)

    await scene.later(3599)
    assert len(scene.observed.ended_turns) == turns
    assert await scene.writes(scene.later(1)) == []
    assert len(scene.observed.ended_turns) == turns + 1


async def test_a_restart_on_a_kept_store_writes_nothing(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web(), other())
    await scene.settle()
    view = scene.view()

    await scene.restart()
    await scene.settle()

    assert scene.wire.done == []
    assert scene.view() == view
    assert scene.sources.opened == {}


async def test_a_restart_on_an_empty_store_makes_the_same_again(scene: Scene) -> None:
    first = scene.commit(BASE)
    scene.generate({**web(), "originRevision": "@repo"}, other())
    await scene.settle()
    scene.commit({**BASE, "README.md": b"x"})
    await scene.settle()
    view = scene.view()

    shutil.rmtree(scene.root / "store")
    (scene.root / "store").mkdir()
    await scene.restart()
    await scene.settle()

    assert scene.view() == view
    assert scene.files() == APPS
    assert scene.files("other") == OTHER
    assert scene.published().origin_revision == first.revision
    assert "apply web" not in scene.wire.done


async def test_a_source_is_opened_again_only_for_what_is_not_known(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    assert scene.sources.opened == {"repo": 1}

    await scene.trigger()
    await scene.later(3600)
    assert scene.sources.opened == {"repo": 1}


async def test_a_source_that_only_moves_is_looked_at(scene: Scene) -> None:
    commit = scene.commit(BASE, kind=SourceKind.HELM_CHART, revision="6.5.0")
    scene.generate(web(), sources=[source("HelmChart")])
    await scene.settle()

    moved = scene.commit(BASE, kind=SourceKind.HELM_CHART, revision="6.5.0")
    assert moved.digest == commit.digest
    assert await scene.writes() == ["status gen"]

    scene.commit(edited(2), kind=SourceKind.HELM_CHART, revision="6.5.0")
    assert await scene.writes() == ["publish web", "status gen", "store web"]
    assert scene.files() == edited_apps(2)


# Editing the spec


async def test_an_edit_is_applied(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()

    scene.generate(output("web", ("@repo/other/**", "@artifact/")))
    assert await scene.writes() == ["publish web", "status gen", "status gen", "store web"]
    assert scene.files() == OTHER
    ready = scene.condition()
    assert ready is not None
    assert ready.observed_generation == scene.generator().generation == 2


async def test_a_rename_publishes_the_new_name_before_the_old_one_goes(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()

    before = len(scene.wire.done)
    scene.generate(web("web2"))
    await scene.settle()

    written = scene.wire.done[before:]
    assert [what for what in written if not what.startswith("status")] == [
        "store web2",
        "apply web2",
        "publish web2",
        "delete web",
        "erase web",
    ]
    assert written[-1] == "status gen"
    assert scene.eas() == scene.inventory() == ["web2"]
    assert {path.split("/")[1] for path in scene.stored()} == {"web2"}
    assert ("Normal", "Ready", "external artifacts deleted: apps/web") in scene.events()


async def test_nothing_is_pruned_while_anything_fails(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web(), other())
    await scene.settle()

    bad = output("bad", ("@repo/none", "@artifact/"))
    scene.generate(bad, web("web2"))
    await scene.settle()
    assert scene.eas() == ["other", "web", "web2"]
    assert scene.inventory() == ["web2", "web", "other"]
    assert scene.files("other") == OTHER
    assert scene.ready()[:2] == ("False", "BuildFailed")

    scene.generate(web("web2"))
    await scene.settle()
    assert scene.eas() == scene.inventory() == ["web2"]
    assert scene.ready() == SUCCESS


# Isolation

NEEDS = output("needs", ("@more/**", "@artifact/"))
TWO_SOURCES = [source("Bucket", "more", "more"), source()]


async def failing(scene: Scene, *artifacts: dict[str, object]) -> tuple[str, str, str]:
    """The condition of a generator of these artifacts and a good one, which is published regardless."""
    scene.commit(BASE)
    scene.generate(*artifacts, web(), sources=TWO_SOURCES)
    await scene.settle()
    assert scene.files() == APPS
    assert scene.eas() == scene.inventory() == ["web"]
    assert scene.generator().status.observed_sources_digest == ""
    message = scene.ready()[2]
    assert scene.events()[-1] == ("Warning", scene.ready()[1], message)
    return scene.ready()


async def test_a_bad_alias_fails_its_artifact_for_good(scene: Scene) -> None:
    text = "bad build failed: source alias 'nobody' not found (declared: more, repo)"

    assert await failing(scene, output("bad", ("@nobody/x", "@artifact/"))) == ("False", "BuildFailed", text)
    assert scene.stalled()
    assert scene.condition(ConditionType.RECONCILING) is None


async def test_a_bad_path_fails_its_artifact_until_the_source_changes(scene: Scene) -> None:
    text = "bad build failed: copy from '@repo/none': source 'none' does not exist"

    assert await failing(scene, output("bad", ("@repo/none", "@artifact/"))) == ("False", "BuildFailed", text)
    assert not scene.stalled()
    retrying = scene.condition(ConditionType.RECONCILING)
    assert retrying is not None
    assert (retrying.status, retrying.reason, retrying.message) == ("True", "ProgressingWithRetry", text)

    scene.commit({**BASE, "none": b"here"})
    await scene.settle()
    assert scene.files("bad") == {"none": b"here"}
    assert scene.ready() == ("True", "Succeeded", "reconciliation succeeded, generated 2 artifact(s)")
    assert scene.condition(ConditionType.RECONCILING) is None


async def test_a_missing_source_fails_the_artifacts_that_need_it(scene: Scene) -> None:
    text = 'get sources failed: Bucket.source.toolkit.fluxcd.io "more" not found (needs, second)'
    second = output("second", ("@more/x", "@artifact/"))

    assert await failing(scene, NEEDS, second) == ("False", "SourceFetchFailed", text)
    assert not scene.stalled()

    scene.commit({"x": b"1"}, "more", SourceKind.BUCKET)
    await scene.settle()
    assert scene.inventory() == ["needs", "second", "web"]


async def test_a_source_that_is_not_ready_fails_the_artifacts_that_need_it(scene: Scene) -> None:
    scene.offer(None, "more", SourceKind.BUCKET)
    text = "get sources failed: source 'Bucket/apps/more' is not ready (needs)"

    assert await failing(scene, NEEDS) == ("False", "SourceFetchFailed", text)


async def test_a_wrong_digest_fails_the_artifacts_that_need_it(scene: Scene) -> None:
    good = scene.commit({"x": b"1"}, "more", SourceKind.BUCKET)
    wrong = "sha256:" + "0" * 64
    scene.offer(replace(good, digest=wrong), "more", SourceKind.BUCKET)
    text = f"fetch sources failed: Bucket/apps/more: digest mismatch: expected {wrong}, got {good.digest} (needs)"

    assert await failing(scene, NEEDS) == ("False", "SourceFetchFailed", text)
    assert not scene.stalled()


async def test_all_that_fails_is_named(scene: Scene) -> None:
    alias = output("alien", ("@nobody/x", "@artifact/"))
    path = output("lost", ("@repo/none", "@artifact/"))
    text = (
        "lost build failed: copy from '@repo/none': source 'none' does not exist; "
        'get sources failed: Bucket.source.toolkit.fluxcd.io "more" not found (needs); '
        "alien build failed: source alias 'nobody' not found (declared: more, repo)"
    )

    assert await failing(scene, path, NEEDS, alias) == ("False", "BuildFailed", text)
    assert not scene.stalled()


async def test_what_fails_keeps_its_last_good_version(scene: Scene) -> None:
    scene.commit({**BASE, "late/x.yaml": b"1"})
    scene.generate(output("late", ("@repo/late/**", "@artifact/")), web())
    await scene.settle()
    digest = scene.generator().status.observed_sources_digest
    kept = scene.ea("late")

    scene.commit(edited(2))
    await scene.settle()
    assert scene.ready()[:2] == ("False", "BuildFailed")
    assert scene.files() == edited_apps(2)
    assert scene.ea("late") == kept
    assert scene.files("late") == {"x.yaml": b"1"}
    assert scene.inventory() == ["late", "web"]
    assert scene.generator().status.observed_sources_digest == digest

    scene.commit(edited(3))
    await scene.settle()
    assert scene.files() == edited_apps(3)
    assert scene.ea("late") == kept

    scene.commit({**edited(4), "late/x.yaml": b"4"})
    await scene.settle()
    assert scene.files("late") == {"x.yaml": b"4"}
    assert scene.ready()[0] == "True"


async def test_a_failure_that_stays_is_written_once(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(output("bad", ("@repo/none", "@artifact/")), web())
    await scene.settle()

    assert await scene.writes(scene.later(3600)) == []
    scene.commit({**BASE, "README.md": b"x"})
    assert await scene.writes() == []


async def test_a_build_error_waits_for_a_change_or_the_interval(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(output("bad", ("@repo/none", "@artifact/")))
    await scene.settle()
    turns = len(scene.observed.ended_turns)

    await scene.later(3599)
    assert len(scene.observed.ended_turns) == turns
    await scene.later(1)
    assert len(scene.observed.ended_turns) == turns + 1


async def test_a_missing_source_is_asked_for_again_after_the_delay_for_sources(scene: Scene) -> None:
    scene.generate(web())
    await scene.settle()
    turns = len(scene.observed.ended_turns)

    for _ in range(3):
        await scene.later(4.9)
        await scene.later(0.1)
    assert len(scene.observed.ended_turns) == turns + 3


@pytest.mark.parametrize("how", ["annotation", "flag"])
async def test_atomic_publishes_all_or_nothing(tmp_path: Path, how: str) -> None:
    scene = Scene(tmp_path, atomic=how == "flag")
    annotations = {ATOMIC_ANNOTATION: "true"} if how == "annotation" else {}
    scene.commit({**BASE, "late/x.yaml": b"1"})
    late = output("late", ("@repo/late/**", "@artifact/"))
    scene.generate(late, web(), annotations=annotations)
    await scene.settle()
    before = {name: scene.ea(name) for name in ("late", "web")}

    scene.commit(edited(2))
    await scene.settle()
    assert {name: scene.ea(name) for name in ("late", "web")} == before
    assert scene.ready()[:2] == ("False", "BuildFailed")
    assert scene.inventory() == ["late", "web"]
    assert scene.files() == APPS

    scene.commit({**edited(3), "late/x.yaml": b"3"})
    await scene.settle()
    assert scene.files() == edited_apps(3)
    assert scene.files("late") == {"x.yaml": b"3"}


# What is wrong with a generator as a whole


async def test_duplicates_stall_the_whole_generator(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    before = scene.ea()

    scene.generate(web(), web(), sources=[source(), source()])
    await scene.settle()
    assert scene.ready() == (
        "False",
        "ValidationFailed",
        "duplicate source alias 'repo' found; duplicate artifact name 'web' found",
    )
    assert scene.stalled()
    assert scene.ea() == before

    scene.generate(web())
    await scene.settle()
    assert scene.ready() == SUCCESS
    assert not scene.stalled()


async def test_lockdown_denies_sources_of_other_namespaces(tmp_path: Path) -> None:
    scene = Scene(tmp_path, lockdown=True)
    scene.commit(BASE)
    scene.generate(web(), sources=[source(), source(name="theirs", alias="theirs", namespace="elsewhere")])
    await scene.settle()

    text = "cross-namespace reference to source GitRepository/elsewhere/theirs is not allowed"
    assert scene.ready() == ("False", "AccessDenied", text)
    assert scene.stalled()
    assert scene.eas() == []


async def test_a_bad_dialect_annotation_is_told(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web(), annotations={DIALECT_ANNOTATION: "helm"})
    await scene.settle()
    text = "annotation sluice/dialect: 'helm' is not one of documented, upstream"
    assert scene.ready() == ("False", "ValidationFailed", text)

    scene.generate(web(), annotations={})
    await scene.settle()
    assert scene.ready() == SUCCESS


async def test_the_dialect_annotation_wins_and_is_followed_at_once(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(output("web", ("@repo/apps/*.yaml", "@artifact/")))
    await scene.settle()
    assert scene.files().keys() == {"a.yaml"}

    scene.world.edit_generator("gen", annotations={DIALECT_ANNOTATION: "upstream"})
    await scene.settle()
    assert scene.files().keys() == {"apps/a.yaml"}


# pathPattern

PER_APP = output("{app}", ("@repo/apps/{app}/**", "@artifact/"))
PATTERN = "@repo/apps/{app}"


async def test_directories_make_artifacts(scene: Scene) -> None:
    scene.commit({"apps/one/x.yaml": b"1", "apps/Two/x.yaml": b"2"})
    scene.generate(PER_APP, pathPattern=PATTERN)
    await scene.settle()
    assert scene.eas() == ["one", "two"]
    assert scene.files("two") == {"x.yaml": b"2"}
    assert scene.ea("two").labels["app"] == "two"

    scene.commit({"apps/one/x.yaml": b"1", "apps/three/x.yaml": b"3"})
    await scene.settle()
    assert scene.eas() == sorted(scene.inventory()) == ["one", "three"]
    assert scene.ready() == ("True", "Succeeded", "reconciliation succeeded, generated 2 artifact(s)")


async def test_a_pattern_without_a_match_publishes_nothing_and_warns(scene: Scene) -> None:
    scene.commit({"elsewhere/x": b"1"})
    scene.generate(PER_APP, pathPattern=PATTERN)
    await scene.settle()

    assert scene.ready() == ("True", "Succeeded", "reconciliation succeeded, generated 0 artifact(s)")
    assert ("Warning", "BuildFailed", f"pathPattern '{PATTERN}' matches no directory") in scene.events()
    assert await scene.writes(scene.later(3600)) == []


async def test_a_pattern_that_matches_no_more_keeps_what_is_published(scene: Scene) -> None:
    scene.commit({"apps/one/x.yaml": b"1"})
    scene.generate(PER_APP, pathPattern=PATTERN)
    await scene.settle()
    before = scene.ea("one")

    scene.commit({"elsewhere/x": b"1"})
    await scene.settle()
    hint = 'annotation sluice/allow-empty: "true" lets the artifacts go'
    assert scene.ready() == ("False", "BuildFailed", f"pathPattern '{PATTERN}' matches no directory ({hint})")
    assert not scene.stalled()
    assert scene.ea("one") == before
    assert scene.inventory() == ["one"]

    scene.world.edit_generator("gen", annotations={ALLOW_EMPTY_ANNOTATION: "true"})
    await scene.settle()
    assert scene.eas() == scene.inventory() == []
    assert scene.ready() == ("True", "Succeeded", "reconciliation succeeded, generated 0 artifact(s)")


async def test_upstream_a_pattern_that_matches_no_more_takes_all_away(tmp_path: Path) -> None:
    scene = Scene(tmp_path, dialect=UPSTREAM)
    scene.commit({"apps/one/x.yaml": b"1"})
    scene.generate(PER_APP, pathPattern=PATTERN)
    await scene.settle()
    assert scene.eas() == ["one"]

    scene.commit({"elsewhere/x": b"1"})
    await scene.settle()
    assert scene.eas() == scene.inventory() == []
    assert ("Warning", "BuildFailed", f"pathPattern '{PATTERN}' matches no directory") in scene.events()
    assert scene.ready() == ("True", "Succeeded", "reconciliation succeeded, generated 0 artifact(s)")


async def test_a_directory_of_a_bad_name_fails_alone(scene: Scene) -> None:
    scene.commit({"apps/one/x.yaml": b"1", "apps/a_b/x.yaml": b"2"})
    scene.generate(PER_APP, pathPattern=PATTERN)
    await scene.settle()

    assert scene.eas() == scene.inventory() == ["one"]
    assert scene.ready()[:2] == ("False", "BuildFailed")
    assert "'a_b'" in scene.ready()[2]
    assert not scene.stalled()


async def test_a_bad_template_stalls_the_generator(scene: Scene) -> None:
    scene.commit({"apps/one/x.yaml": b"1"})
    scene.generate(output("{app}-{nobody}", ("@repo/apps/**", "@artifact/")), pathPattern=PATTERN)
    await scene.settle()

    text = "'{nobody}' in '{app}-{nobody}' is not defined by pathPattern (defined: app)"
    assert scene.ready() == ("False", "BuildFailed", f"failed to expand path pattern: {text}")
    assert scene.stalled()


async def test_the_source_of_a_pattern_is_needed(scene: Scene) -> None:
    scene.commit({"x": b"1"}, "more", SourceKind.BUCKET)
    scene.generate(PER_APP, pathPattern=PATTERN, sources=TWO_SOURCES)
    await scene.settle()

    text = 'get sources failed: GitRepository.source.toolkit.fluxcd.io "repo" not found'
    assert scene.ready() == ("False", "SourceFetchFailed", text)
    assert not scene.stalled()


# Pausing


async def test_a_paused_generator_is_left_alone_and_resumes_at_once(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()

    scene.world.edit_generator("gen", annotations={PAUSE_ANNOTATION: "Disabled"})
    scene.commit(edited(2))
    scene.world.remove_artifact("web")
    assert await scene.writes() == []
    assert scene.eas() == []
    assert scene.ready() == SUCCESS
    assert scene.events()[-1] == ("Trace", "ReconciliationDisabled", "Reconciliation is disabled")

    scene.world.edit_generator("gen", annotations={})
    await scene.settle()
    assert scene.files() == edited_apps(2)


async def test_a_generator_may_start_paused(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web(), annotations={PAUSE_ANNOTATION: "disabled"})
    await scene.settle()

    assert scene.ready() == ("True", "ReconciliationDisabled", "Initialized with reconciliation suspended")
    assert scene.generator().finalizers == (FINALIZER,)
    assert scene.eas() == []
    scene.world.edit_generator("gen", annotations={})
    await scene.settle()
    assert scene.ready() == SUCCESS
    assert scene.files() == APPS


async def test_a_request_to_a_paused_generator_is_acknowledged(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    scene.world.edit_generator("gen", annotations={PAUSE_ANNOTATION: "disabled"})

    assert await scene.writes(scene.trigger()) == ["status gen"]
    assert scene.generator().status.last_handled_reconcile_at == "now"


# Deleting


async def test_a_deleted_generator_takes_its_artifacts_along(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web(), other())
    await scene.settle()

    before = len(scene.wire.done)
    scene.world.delete_generator("gen")
    await scene.settle()

    assert scene.wire.done[before:] == ["delete other", "erase other", "delete web", "erase web", "finalizer gen gone"]
    assert scene.objects.generator((NAMESPACE, "gen")) is None
    assert scene.eas() == []
    assert scene.stored() == set()
    assert scene.events()[-1] == ("Normal", "Ready", "external artifacts deleted: apps/other\napps/web")


async def test_a_paused_generator_can_be_deleted(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web(), annotations={})
    await scene.settle()
    scene.world.edit_generator("gen", annotations={PAUSE_ANNOTATION: "disabled"})
    await scene.settle()

    scene.world.delete_generator("gen")
    await scene.settle()
    assert scene.eas() == []
    assert scene.objects.generator((NAMESPACE, "gen")) is None


async def test_a_manifest_that_comes_back_makes_a_new_generator(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    uid, revision = scene.generator().uid, scene.published().revision

    scene.world.delete_generator("gen")
    scene.generate(web())
    assert scene.generator().uid == uid, "the old one is not finalized yet"
    await scene.settle()

    assert scene.generator().uid != uid
    assert scene.ready() == SUCCESS
    assert scene.files() == APPS
    assert scene.published().revision == revision
    assert scene.ea().labels[GENERATOR_LABEL] == scene.generator().uid


@pytest.mark.parametrize("step", ["delete", "erase"])
async def test_a_failing_deletion_keeps_the_finalizer(scene: Scene, step: str) -> None:
    scene.commit(BASE)
    scene.generate(web(), other())
    await scene.settle()

    scene.wire.fail(step)
    scene.world.delete_generator("gen")
    await scene.settle()
    assert scene.generator().finalizers == (FINALIZER,)
    assert scene.generator().is_deleted
    assert scene.ready() == ("False", "ReconciliationFailed", f"reconciliation failed: {step} other: refused")

    await scene.later(0.74)
    assert scene.objects.generator((NAMESPACE, "gen")) is not None
    await scene.later(0.01)
    assert scene.objects.generator((NAMESPACE, "gen")) is None
    assert scene.eas() == []
    assert scene.stored() == set()


async def test_a_deletion_leaves_what_belongs_to_others(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web(), other())
    await scene.settle()
    scene.world.edit_artifact("other", {"spec": {"sourceRef": {"name": "thief"}}})
    await scene.run(lambda: True)

    scene.world.delete_generator("gen")
    await scene.settle()

    assert scene.eas() == ["other"]


# Revisions


async def test_an_origin_names_the_commit_that_changed_the_artifact(scene: Scene) -> None:
    first = scene.commit(BASE)
    scene.generate({**web(), "originRevision": "@repo"})
    await scene.settle()
    assert scene.published().metadata == {ORIGIN_REVISION: first.revision}

    scene.commit({**BASE, "README.md": b"x"})
    assert await scene.writes() == ["status gen"]
    assert scene.published().metadata == {ORIGIN_REVISION: first.revision}

    third = scene.commit(edited(3))
    await scene.settle()
    assert scene.published().metadata == {ORIGIN_REVISION: third.revision}

    scene.commit(edited(3), origin="upstream@sha1:1")
    await scene.settle()
    assert scene.published().metadata == {ORIGIN_REVISION: third.revision}
    scene.commit(edited(4), origin="upstream@sha1:2")
    await scene.settle()
    assert scene.published().metadata == {ORIGIN_REVISION: "upstream@sha1:2"}

    scene.generate(web())
    await scene.settle()
    assert scene.published().metadata == {}


async def test_an_origin_may_follow_every_commit(tmp_path: Path) -> None:
    scene = Scene(tmp_path, origin_every_commit=True)
    scene.commit(BASE)
    scene.generate({**web(), "originRevision": "@repo"})
    await scene.settle()

    second = scene.commit({**BASE, "README.md": b"x"})
    assert await scene.writes() == ["publish web", "status gen"]
    assert scene.published().metadata == {ORIGIN_REVISION: second.revision}


async def test_a_revision_of_a_source_follows_every_commit(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate({**web(), "revision": "@repo"})
    await scene.settle()
    before = scene.published()

    second = scene.commit({**BASE, "README.md": b"x"})
    assert await scene.writes() == ["publish web", "status gen"]
    assert scene.published().revision == second.revision
    assert (scene.published().digest, scene.published().last_update_time) == (before.digest, before.last_update_time)


async def test_going_back_brings_the_old_revision_back(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    first = scene.published()
    scene.commit(edited(2))
    await scene.settle()
    scene.clock.advance(1)

    scene.commit(BASE)
    assert await scene.writes() == ["publish web", "status gen"]
    assert (scene.published().revision, scene.published().digest) == (first.revision, first.digest)


# Retention


async def test_a_superseded_file_stays_for_the_retention_time(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    for number in (2, 3):
        scene.commit(edited(number))
        await scene.settle()
    assert len(scene.stored()) == 3

    scene.clock.advance(60)
    await scene.reconciler.collect_garbage()
    assert len(scene.stored()) == 3
    scene.clock.advance(1)
    await scene.reconciler.collect_garbage()
    assert len(scene.stored()) == 2
    assert scene.files() == edited_apps(3)
    kind, reason, message = scene.events()[-1]
    assert (kind, reason) == ("Trace", "Ready")
    assert message.startswith("garbage collected 1 artifact file(s): apps/web/")


# Progress


async def test_an_edit_shows_that_it_is_being_worked_on(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    scene.sources.gate = asyncio.Event()

    scene.generate(web("web2"))
    await scene.run(lambda: scene.sources.waiting == 1 and scene.ready()[0] == "Unknown")
    assert scene.ready() == ("Unknown", "Progressing", "Reconciliation in progress")
    progress = scene.condition(ConditionType.RECONCILING)
    assert progress is not None
    assert (progress.status, progress.reason, progress.observed_generation) == ("True", "Progressing", 2)

    scene.sources.gate.set()
    await scene.settle()
    assert scene.ready() == SUCCESS
    assert scene.condition(ConditionType.RECONCILING) is None


async def test_a_source_change_shows_only_what_takes_long(scene: Scene) -> None:
    scene.commit(BASE)
    scene.generate(web())
    await scene.settle()
    scene.sources.gate = asyncio.Event()

    scene.commit(edited(2))
    await scene.run(lambda: scene.sources.waiting == 1)
    scene.clock.advance(1.9)
    for _ in range(10):
        await asyncio.sleep(0)
    assert scene.ready() == SUCCESS
    scene.clock.advance(0.1)
    await scene.run(lambda: scene.ready()[0] == "Unknown")

    scene.sources.gate.set()
    await scene.settle()
    assert scene.ready() == SUCCESS
    assert scene.files() == edited_apps(2)
