"""Objects in a directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.control.local_world import LocalWorld, manifest
from tests.control.objects_contract import NOON, OTHER_SPEC, READY, SPEC, ObjectsContract, offered

from sluice.control.objects import (
    ArtifactChanged,
    Change,
    Event,
    EventKind,
    ExternalArtifact,
    Generator,
    GeneratorChanged,
    GeneratorStatus,
    ObservedSource,
    SourceChanged,
)
from sluice.core.errors import ApiError, Code, Problem
from sluice.core.limits import Limits
from sluice.core.spec import SourceKind, SourceRef
from sluice.local import LocalObjects
from sluice.local.manifests import Reader


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path, lambda: NOON)


@pytest.fixture
def world(tmp_path: Path, objects: LocalObjects) -> LocalWorld:
    return LocalWorld(tmp_path, objects)


@pytest.fixture
def changes(objects: LocalObjects) -> list[Change]:
    noticed: list[Change] = []
    objects.subscribe(noticed.append)
    return noticed


class TestLocalObjects(ObjectsContract):
    pass


GEN = ("apps", "gen")
GEN_TEXT = manifest("gen", "apps", SPEC)
BROKEN = "kind: ArtifactGenerator\nspec: [\n"


def there(objects: LocalObjects, name: str = "gen") -> Generator:
    found = objects.generator(("apps", name))
    assert found is not None
    return found


def names(objects: LocalObjects) -> list[str]:
    return sorted(generator.name for generator in objects.generators())


def source_manifest(name: str, kind: str = "GitRepository", **spec: Any) -> str:
    lines = [f"apiVersion: source.toolkit.fluxcd.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: apps}}"]
    return "\n".join([*lines, f"spec: {spec}\n"])


class TestManifests:
    def test_a_directory_is_read_as_a_whole(self, tmp_path: Path, objects: LocalObjects) -> None:
        (tmp_path / "deep/er").mkdir(parents=True)
        (tmp_path / ".hidden").mkdir()
        for file, name in (("a.yaml", "one"), ("deep/er/b.YML", "two"), (".hidden/c.yaml", "no"), ("d.txt", "no")):
            (tmp_path / file).write_text(manifest(name, "apps", SPEC))
        (tmp_path / ".e.yaml").write_text(manifest("no", "apps", SPEC))

        assert objects.refresh() == []
        assert names(objects) == ["one", "two"]

    def test_one_file_may_hold_several(self, world: LocalWorld, objects: LocalObjects) -> None:
        texts = [manifest("one", "apps", SPEC), "kind: ConfigMap\n", source_manifest("repo"), "", GEN_TEXT]
        world.write("all.yaml", "\n---\n".join(texts))

        assert names(objects) == ["gen", "one"]
        assert set(objects.declared_sources()) == {SourceRef("", SourceKind.GIT_REPOSITORY, "repo", "apps")}

    def test_a_list_holds_several_too(self, world: LocalWorld, objects: LocalObjects) -> None:
        items = "".join("\n- " + manifest(name, "apps", SPEC).replace("\n", "\n  ") for name in ("one", "two"))
        assert world.write("list.yaml", f"kind: List\nitems:{items}\n") == []

        assert names(objects) == ["one", "two"]

    def test_a_namespace_that_is_not_said(self, tmp_path: Path) -> None:
        (tmp_path / "gen.yaml").write_text(GEN_TEXT.replace("  namespace: apps\n", ""))
        objects = LocalObjects(tmp_path, lambda: NOON, reader=Reader(tmp_path, namespace="team"))

        assert objects.refresh() == []
        assert [generator.key for generator in objects.generators()] == [("team", "gen")]

    def test_a_new_text_that_says_the_same_is_no_change(
        self, world: LocalWorld, objects: LocalObjects, changes: list[Change]
    ) -> None:
        world.write("gen.yaml", GEN_TEXT)
        before = there(objects)
        changes.clear()

        world.write("gen.yaml", "# a comment\n" + GEN_TEXT)
        assert there(objects) == before
        assert changes == []

    def test_a_manifest_may_move(self, tmp_path: Path, objects: LocalObjects, changes: list[Change]) -> None:
        old, new = tmp_path / "a.yaml", tmp_path / "b/c.yaml"
        old.write_text(GEN_TEXT)
        objects.refresh()
        uid = there(objects).uid
        changes.clear()
        new.parent.mkdir()
        old.rename(new)

        assert objects.refresh([old, new]) == []
        assert there(objects).uid == uid
        assert changes == []
        new.unlink()
        objects.refresh([new])
        assert names(objects) == []

    def test_a_directory_may_go(self, tmp_path: Path, world: LocalWorld, objects: LocalObjects) -> None:
        world.write("team/a.yaml", manifest("one", "apps", SPEC))
        world.write("teams.yaml", manifest("two", "apps", SPEC))
        (tmp_path / "team/a.yaml").unlink()
        (tmp_path / "team").rmdir()

        assert objects.refresh([tmp_path / "team"]) == []
        assert names(objects) == ["two"]

    @pytest.mark.parametrize("text", ["kind: [", "{{ template }}", "a: b: c", "\0"])
    def test_files_that_are_not_for_us_may_be_anything(
        self, world: LocalWorld, objects: LocalObjects, text: str
    ) -> None:
        assert world.write("x.yaml", text) == []
        assert names(objects) == []

    def test_what_completes_manifests_may_find_problems(self, tmp_path: Path) -> None:
        def fill(value: Mapping[str, Any], problems: list[Problem]) -> Mapping[str, Any]:
            if value["metadata"]["name"] == "gen":
                problems.append(Problem(Code.INVALID_SPEC, "variable 'X' is not set", "spec.x"))
            return {**value, "spec": OTHER_SPEC}

        for name in ("gen", "other"):
            (tmp_path / f"{name}.yaml").write_text(manifest(name, "apps", SPEC))
        objects = LocalObjects(tmp_path, lambda: NOON, reader=Reader(tmp_path, fill=fill))

        assert [str(problem) for problem in objects.refresh()] == [
            "gen.yaml: ArtifactGenerator apps/gen: spec.x: variable 'X' is not set"
        ]
        assert names(objects) == ["other"]
        assert b"@git/api/**" in there(objects, "other").spec


class TestBrokenManifests:
    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            pytest.param(
                BROKEN,
                "gen.yaml: line 3, column 1: did not find expected node content",
                id="no YAML",
            ),
            pytest.param(
                GEN_TEXT.replace("alias: git", "alais: git"),
                "gen.yaml: ArtifactGenerator apps/gen: spec.sources[0].alais: unknown field (did you mean 'alias'?)",
                id="a field of another name",
            ),
            pytest.param(
                GEN_TEXT.replace("name: gen", "name: ../gen"),
                "gen.yaml: ArtifactGenerator apps/../gen: 'apps/../gen' is not valid"
                " (lower-case letters, digits, '-' and '.', at most 253)",
                id="a name that is a path",
            ),
            pytest.param(
                GEN_TEXT.replace("namespace: apps", "namespace: .."),
                "gen.yaml: ArtifactGenerator ../gen: '../gen' is not valid"
                " (lower-case letters, digits, '-' and '.', at most 253)",
                id="a namespace that is a path",
            ),
        ],
    )
    def test_the_last_good_one_stays(
        self, world: LocalWorld, objects: LocalObjects, changes: list[Change], text: str, problem: str
    ) -> None:
        world.write("gen.yaml", GEN_TEXT)
        world.write("other.yaml", manifest("other", "apps", SPEC))
        before = there(objects)
        changes.clear()

        assert str(world.write("gen.yaml", text)[0]) == problem
        assert there(objects) == before
        assert changes == []

        world.write("other.yaml", manifest("other", "apps", OTHER_SPEC))
        assert there(objects, "other").generation == 2, "it is not affected"
        assert world.write("gen.yaml", manifest("gen", "apps", OTHER_SPEC)) == []
        assert there(objects).generation == 2

    def test_it_stays_through_a_restart(self, tmp_path: Path, world: LocalWorld) -> None:
        world.write("gen.yaml", GEN_TEXT)
        (tmp_path / "gen.yaml").write_text(BROKEN)

        again = LocalObjects(tmp_path, lambda: NOON)
        assert len(again.refresh()) == 1
        assert names(again) == ["gen"]
        (tmp_path / "gen.yaml").unlink()
        assert again.refresh() == []
        assert names(again) == []

    def test_a_directory_that_cannot_be_read_is_no_empty_one(
        self, tmp_path: Path, world: LocalWorld, objects: LocalObjects
    ) -> None:
        world.write("gen.yaml", GEN_TEXT)
        away = tmp_path.with_name("away")
        tmp_path.rename(away)

        assert [str(problem) for problem in objects.refresh()] == [".: no such file or directory"]
        assert names(objects) == ["gen"]
        away.rename(tmp_path)
        assert objects.refresh() == []

    def test_what_an_api_server_would_admit_is_for_the_reconciler(
        self, world: LocalWorld, objects: LocalObjects
    ) -> None:
        twice = {**SPEC, "sources": [*SPEC["sources"], *SPEC["sources"]]}

        assert world.write("gen.yaml", manifest("gen", "apps", twice)) == []
        assert names(objects) == ["gen"]

    def test_a_file_that_is_too_large(self, tmp_path: Path) -> None:
        (tmp_path / "gen.yaml").write_text(GEN_TEXT + "#" * 1000)
        reader = Reader(tmp_path, limits=Limits(yaml_size=1000))
        objects = LocalObjects(tmp_path, lambda: NOON, reader=reader)

        assert [str(problem) for problem in objects.refresh()] == [
            "gen.yaml: YAML of 1001 bytes (limit: 1000, yaml_size)"
        ]

    def test_duplicates_are_problems_of_both(
        self, world: LocalWorld, objects: LocalObjects, changes: list[Change]
    ) -> None:
        world.write("a.yaml", GEN_TEXT)
        before = there(objects)
        changes.clear()
        problems = world.write("b.yaml", manifest("gen", "apps", OTHER_SPEC))

        text = "ArtifactGenerator apps/gen is declared more than once, also in {} (one directory for each cluster)"
        assert [str(problem) for problem in problems] == [
            f"a.yaml: {text.format('b.yaml')}",
            f"b.yaml: {text.format('a.yaml')}",
        ]
        assert there(objects) == before
        assert changes == []
        assert world.remove("a.yaml") == []
        assert there(objects).generation == 2

    def test_duplicates_in_one_file(self, world: LocalWorld, objects: LocalObjects) -> None:
        text = "ArtifactGenerator apps/gen is declared more than once, also in a.yaml (one directory for each cluster)"

        assert [str(problem) for problem in world.write("a.yaml", f"{GEN_TEXT}---\n{GEN_TEXT}")] == [
            f"a.yaml: {text}"
        ] * 2
        assert names(objects) == []


class TestSources:
    REF = SourceRef("", SourceKind.GIT_REPOSITORY, "repo", "apps")

    def test_a_declared_source_is_there_and_not_ready(
        self, world: LocalWorld, objects: LocalObjects, changes: list[Change]
    ) -> None:
        world.write("repo.yaml", source_manifest("repo", url="x"))
        assert objects.source(self.REF) == ObservedSource(None)
        assert objects.declared_sources()[self.REF]["spec"] == {"url": "x"}
        assert changes == [SourceChanged(self.REF, None, ObservedSource(None))]

        objects.offer(self.REF, offered(1))
        assert objects.source(self.REF) == ObservedSource(offered(1))
        objects.withdraw(self.REF)
        assert objects.source(self.REF) == ObservedSource(None)
        world.remove("repo.yaml")
        assert objects.source(self.REF) is None
        assert changes[-1] == SourceChanged(self.REF, ObservedSource(None), None)

    def test_offering_the_same_again_is_no_news(self, objects: LocalObjects, changes: list[Change]) -> None:
        for _ in range(3):
            objects.offer(self.REF, offered(1))

        assert len(changes) == 1

    async def test_an_artifact_of_ours_is_what_it_says(self, world: LocalWorld, objects: LocalObjects) -> None:
        ref = SourceRef("", SourceKind.EXTERNAL_ARTIFACT, "web", "apps")
        objects.offer(ref, offered(1))
        await objects.apply_artifact(ExternalArtifact(namespace="apps", name="web"))
        assert objects.source(ref) == ObservedSource(None)

        world.remove_artifact("web")
        assert objects.source(ref) == ObservedSource(offered(1))


class TestState:
    async def test_the_next_process_goes_on(self, tmp_path: Path, world: LocalWorld, objects: LocalObjects) -> None:
        world.create_generator("gen", annotations={"note": "x"})
        generator = await objects.set_finalizer(there(objects), present=True)
        assert generator is not None
        await objects.write_status(generator, GeneratorStatus((READY,), (), "sha256:12", "now"))
        made = await objects.apply_artifact(ExternalArtifact(namespace="apps", name="web", labels={"a": "b"}))
        await objects.write_artifact_status(made.key, made.generation, offered(1))

        again = LocalObjects(tmp_path, lambda: NOON)
        noticed: list[Change] = []
        again.subscribe(noticed.append)
        assert again.refresh() == []
        assert there(again) == there(objects)
        assert again.artifact(made.key) == objects.artifact(made.key)
        assert list(again.artifacts_of("")) == [again.artifact(made.key)]
        assert noticed == []
        reapplied = await again.apply_artifact(ExternalArtifact(namespace="apps", name="web"))
        assert reapplied.labels == {}, "what was ours is remembered"

    def test_what_happened_meanwhile_is_noticed(self, tmp_path: Path, world: LocalWorld) -> None:
        world.create_generator("gen")
        world.create_generator("gone")
        world.path("gone").unlink()
        world.path("gen").write_text(manifest("gen", "apps", OTHER_SPEC))

        again = LocalObjects(tmp_path, lambda: NOON)
        noticed: list[Change] = []
        again.subscribe(noticed.append)
        again.refresh()
        assert there(again).generation == 2
        assert [type(change) for change in noticed] == [GeneratorChanged, GeneratorChanged]
        assert names(again) == ["gen"]

    async def test_a_deletion_is_remembered(self, tmp_path: Path, world: LocalWorld, objects: LocalObjects) -> None:
        world.create_generator("gen")
        await objects.set_finalizer(there(objects), present=True)
        world.delete_generator("gen")

        again = LocalObjects(tmp_path, lambda: NOON)
        again.refresh()
        going = there(again)
        assert going.is_deleted
        assert await again.set_finalizer(going, present=False) is None
        assert not list((tmp_path / ".sluice/artifactgenerators/apps").iterdir())

    async def test_before_the_first_look_nothing_is_thought_gone(self, tmp_path: Path, world: LocalWorld) -> None:
        world.create_generator("gen")
        world.create_generator("going")
        await world.objects.set_finalizer(there(world.objects, "going"), present=True)
        world.delete_generator("going")

        again = LocalObjects(tmp_path, lambda: NOON)
        assert await again.set_finalizer(there(again, "going"), present=False) is None
        assert names(again) == ["gen"]

    @pytest.mark.parametrize("damage", [b"", b"{", b"{}", b"[]", b"\xff"])
    def test_a_damaged_file_is_told_of_and_made_anew(self, tmp_path: Path, world: LocalWorld, damage: bytes) -> None:
        world.create_generator("gen")
        (path,) = (tmp_path / ".sluice/artifactgenerators/apps").iterdir()
        path.write_bytes(damage)

        again = LocalObjects(tmp_path, lambda: NOON)
        where = ".sluice/artifactgenerators/apps/gen.json"
        assert [str(problem) for problem in again.refresh()] == [f"{where}: cannot be read, made anew"]
        assert names(again) == ["gen"]
        assert again.refresh() == []
        assert LocalObjects(tmp_path, lambda: NOON).refresh() == []

    def test_what_a_crash_left_behind_is_removed(self, tmp_path: Path, world: LocalWorld) -> None:
        world.create_generator("gen")
        left = tmp_path / ".sluice/artifactgenerators/apps/.12-3.tmp"
        left.write_bytes(b"{")

        assert LocalObjects(tmp_path, lambda: NOON).refresh() == []
        assert not left.exists()

    def test_a_write_replaces_the_file_as_a_whole(self, tmp_path: Path, world: LocalWorld) -> None:
        world.create_generator("gen")
        (path,) = (tmp_path / ".sluice/artifactgenerators/apps").iterdir()
        before = path.read_bytes()
        with path.open("rb") as opened:
            world.edit_generator("gen", spec=OTHER_SPEC)
            assert opened.read() == before
        assert path.read_bytes() != before

    def test_state_that_is_deleted_is_written_again(
        self, tmp_path: Path, world: LocalWorld, objects: LocalObjects
    ) -> None:
        world.create_generator("gen")
        shutil.rmtree(tmp_path / ".sluice")
        world.edit_generator("gen", spec=OTHER_SPEC)
        assert names(LocalObjects(tmp_path, lambda: NOON)) == ["gen"]

        shutil.rmtree(tmp_path / ".sluice")
        world.delete_generator("gen")
        assert names(objects) == []

    @pytest.mark.parametrize("name", ["../web", "a/b", "", ".", "A", "x" * 254])
    async def test_no_name_leads_elsewhere(self, tmp_path: Path, objects: LocalObjects, name: str) -> None:
        for key in (("apps", name), (name, "web")):
            with pytest.raises(ApiError, match="is not a valid object name"):
                await objects.apply_artifact(ExternalArtifact(namespace=key[0], name=key[1]))

        assert not os.listdir(tmp_path)

    async def test_a_disk_that_refuses_is_an_error_of_the_api(self, tmp_path: Path, objects: LocalObjects) -> None:
        (tmp_path / ".sluice").write_text("in the way")

        with pytest.raises(ApiError) as caught:
            await objects.apply_artifact(ExternalArtifact(namespace="apps", name="web"))
        assert str(caught.value) == ".sluice/externalartifacts/apps/web: cannot write: not a directory"
        assert objects.artifact(("apps", "web")) is None

    async def test_an_artifact_that_is_told_of_and_did_not_change_is_no_news(
        self, world: LocalWorld, objects: LocalObjects, changes: list[Change]
    ) -> None:
        made = await objects.apply_artifact(ExternalArtifact(namespace="apps", name="web", labels={"a": "b"}))
        await objects.write_artifact_status(made.key, made.generation, offered(1))
        objects.refresh([world.artifact_path("web"), world.directory / ".sluice", world.directory / ".sluice/x.json"])

        assert not [change for change in changes if isinstance(change, ArtifactChanged)]


async def test_a_manifest_that_comes_back_waits_for_the_end_of_the_former(
    world: LocalWorld, objects: LocalObjects, changes: list[Change]
) -> None:
    world.create_generator("gen")
    first = await objects.set_finalizer(there(objects), present=True)
    assert first is not None
    world.delete_generator("gen")
    world.create_generator("gen", spec=OTHER_SPEC)
    going = there(objects)
    assert (going.uid, going.is_deleted) == (first.uid, True)
    changes.clear()

    await objects.set_finalizer(going, present=False)
    second = there(objects)
    assert second.uid != first.uid
    assert (second.generation, second.finalizers, second.is_deleted) == (1, (), False)
    assert changes == [GeneratorChanged(going, None), GeneratorChanged(None, second)]
    assert objects.generator(GEN) == second


def test_events_are_passed_on(tmp_path: Path) -> None:
    told: list[tuple[Generator, Event]] = []
    objects = LocalObjects(tmp_path, lambda: NOON, told=lambda generator, event: told.append((generator, event)))
    generator = Generator(namespace="apps", name="gen", uid="1", generation=1, resource_version="1")
    event = Event(EventKind.NORMAL, "Ready", "fine")

    objects.record(generator, event)
    assert told == [(generator, event)]
