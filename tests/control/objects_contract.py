"""What every `Objects` promises, whatever keeps the objects. Subclass `ObjectsContract` and give it fixtures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import msgspec
import pytest

from sluice.control.objects import (
    FINALIZER,
    GENERATOR_LABEL,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    ORIGIN_REVISION,
    ArtifactChanged,
    ArtifactStatus,
    Change,
    Condition,
    Event,
    EventKind,
    ExternalArtifact,
    Generator,
    GeneratorChanged,
    GeneratorStatus,
    InventoryItem,
    Objects,
    Owner,
    SourceChanged,
)
from sluice.core.errors import ApiError
from sluice.core.spec import API_VERSION, KIND, SourceKind, SourceRef

C = TypeVar("C")

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 13, tzinfo=UTC)
SPEC: Mapping[str, Any] = {
    "sources": [{"alias": "git", "kind": "GitRepository", "name": "repo"}],
    "artifacts": [{"name": "web", "copy": [{"from": "@git/apps/**", "to": "@artifact/"}]}],
}
OTHER_SPEC: Mapping[str, Any] = {
    **SPEC,
    "artifacts": [{"name": "api", "copy": [{"from": "@git/api/**", "to": "@artifact/"}]}],
}
READY = Condition("Ready", "True", "Succeeded", "reconciliation succeeded, generated 1 artifact(s)", NOON, 1)


def offered(number: int, **metadata: str) -> ArtifactStatus:
    """What a source or artifact offers; each number is another revision."""
    return ArtifactStatus(
        digest=f"sha256:{number:064x}",
        path=f"somewhere/{number}.tar.gz",
        url=f"http://127.0.0.1/somewhere/{number}.tar.gz",
        revision=f"main@sha1:{number:040x}",
        last_update_time=NOON,
        size=number,
        metadata=metadata,
    )


class World(Protocol):
    """Everybody else: users and the controllers of sources. All in one namespace."""

    @property
    def namespace(self) -> str: ...
    def create_generator(self, name: str, *, annotations: Mapping[str, str] = {}) -> None: ...
    def edit_generator(
        self, name: str, *, spec: Mapping[str, Any] | None = None, annotations: Mapping[str, str] | None = None
    ) -> None: ...
    def delete_generator(self, name: str) -> None:
        """Ask for its deletion: it goes when its finalizers have."""
        ...

    def offer(self, kind: SourceKind, name: str, artifact: ArtifactStatus | None) -> None:
        """Make or change a source."""
        ...

    def withdraw(self, kind: SourceKind, name: str) -> None: ...
    def label_artifact(self, name: str, labels: Mapping[str, str | None]) -> None: ...
    def remove_artifact(self, name: str) -> None: ...


class Notices:
    """What an `Objects` tells its subscribers, to be waited for."""

    def __init__(self, objects: Objects) -> None:
        self._changes: asyncio.Queue[Change] = asyncio.Queue()
        objects.subscribe(self._changes.put_nowait)

    async def next(self) -> Change:
        async with asyncio.timeout(60):
            return await self._changes.get()

    async def find(self, kind: type[C], is_it: Callable[[C], bool] = lambda change: True) -> C:
        """The next change of a kind that is the one looked for; others are passed over."""
        while True:
            change = await self.next()
            if isinstance(change, kind) and is_it(change):
                return change

    async def generator(self, is_it: Callable[[Generator], bool] = lambda generator: True) -> Generator:
        """A generator, once it is so."""
        found = await self.find(GeneratorChanged, lambda change: change.after is not None and is_it(change.after))
        assert found.after is not None
        return found.after


class ObjectsContract:
    """To be run over each implementation, which gives the fixtures `objects` and `world`."""

    @pytest.fixture
    def notices(self, objects: Objects) -> Notices:
        return Notices(objects)

    @pytest.fixture
    async def generator(self, world: World, objects: Objects, notices: Notices) -> Generator:
        """A generator that has our finalizer."""
        world.create_generator("gen")
        made = await objects.set_finalizer(await notices.generator(), present=True)
        assert made is not None
        return made

    # Generators

    async def test_a_generator_is_seen_from_its_making_to_its_end(
        self, world: World, objects: Objects, notices: Notices
    ) -> None:
        assert objects.generator((world.namespace, "gen")) is None

        world.create_generator("gen", annotations={"team": "a"})
        made = await notices.find(GeneratorChanged)
        first = made.after
        assert made.before is None
        assert first is not None
        assert (first.key, first.generation, first.annotations) == ((world.namespace, "gen"), 1, {"team": "a"})
        assert (first.finalizers, first.is_deleted, first.status) == ((), False, GeneratorStatus())
        assert msgspec.json.decode(first.spec) == SPEC
        assert objects.generator(first.key) == first
        assert list(objects.generators()) == [first]

        world.edit_generator("gen", spec=OTHER_SPEC)
        edited = await notices.find(GeneratorChanged)
        assert edited.before == first
        assert edited.after is not None
        assert (edited.after.uid, edited.after.generation) == (first.uid, 2)
        assert msgspec.json.decode(edited.after.spec) == OTHER_SPEC

        world.edit_generator("gen", annotations={"team": "b"})
        annotated = await notices.find(GeneratorChanged)
        assert annotated.after is not None
        assert (annotated.after.generation, annotated.after.annotations) == (2, {"team": "b"})

        world.delete_generator("gen")
        assert await notices.find(GeneratorChanged) == GeneratorChanged(annotated.after, None)
        assert objects.generator(first.key) is None
        assert list(objects.generators()) == []

    async def test_a_generator_waits_for_our_finalizer(
        self, world: World, objects: Objects, generator: Generator, notices: Notices
    ) -> None:
        assert generator.finalizers == (FINALIZER,)
        assert objects.generator(generator.key) == generator

        world.delete_generator("gen")
        going = await notices.generator()
        assert going.is_deleted

        assert await objects.set_finalizer(going, present=False) is None
        assert objects.generator(generator.key) is None
        assert await notices.next() == GeneratorChanged(going, None)

    async def test_a_finalizer_may_go_while_the_generator_stays(self, objects: Objects, generator: Generator) -> None:
        made = await objects.set_finalizer(generator, present=False)

        assert made is not None
        assert made.finalizers == ()
        assert objects.generator(generator.key) == made

    async def test_removing_a_finalizer_of_what_is_gone_is_fine(
        self, world: World, objects: Objects, generator: Generator, notices: Notices
    ) -> None:
        free = await objects.set_finalizer(generator, present=False)
        assert free is not None
        world.delete_generator("gen")

        assert await objects.set_finalizer(free, present=False) is None

    async def test_a_status_is_replaced(self, objects: Objects, generator: Generator) -> None:
        item = InventoryItem("web", generator.namespace, "sha256:12", "1.tar.gz")
        full = GeneratorStatus((READY,), (item,), "sha256:34", "today")
        less = GeneratorStatus((Condition("Ready", "False", "BuildFailed", "no", LATER, 1),))

        for status in (full, less, full):
            generator = await objects.write_status(generator, status)
            assert generator.status == status
            assert objects.generator(generator.key) == generator

    async def test_our_own_writes_are_no_news(
        self, world: World, objects: Objects, generator: Generator, notices: Notices
    ) -> None:
        for reason in ("One", "Two", "Three"):
            status = GeneratorStatus((Condition("Ready", "False", reason, "no", NOON, 1),))
            generator = await objects.write_status(generator, status)
        world.edit_generator("gen", annotations={"team": "b"})

        change = await notices.next()
        assert isinstance(change, GeneratorChanged)
        assert change.before == generator
        assert change.after is not None
        assert (change.after.annotations, change.after.status) == ({"team": "b"}, generator.status)

    async def test_a_write_on_top_of_a_change_that_is_not_seen_yet(
        self, world: World, objects: Objects, generator: Generator, notices: Notices
    ) -> None:
        """Nothing may run between the two, so the view cannot know of the first."""
        world.edit_generator("gen", spec=OTHER_SPEC)
        made = await objects.write_status(generator, GeneratorStatus((READY,)))

        assert (made.generation, made.status.conditions) == (2, (READY,))
        assert objects.generator(generator.key) == made
        assert (await notices.generator()).generation == 2

    async def test_a_status_of_what_is_gone_is_an_error(
        self, world: World, objects: Objects, generator: Generator
    ) -> None:
        free = await objects.set_finalizer(generator, present=False)
        assert free is not None
        world.delete_generator("gen")
        world.create_generator("gen")

        with pytest.raises(ApiError):
            await objects.write_status(free, GeneratorStatus((READY,)))

    # Sources

    @pytest.mark.parametrize("kind", SourceKind)
    async def test_a_source_is_seen_from_its_making_to_its_end(
        self, kind: SourceKind, world: World, objects: Objects, notices: Notices
    ) -> None:
        ref = SourceRef("", kind, "repo", world.namespace)
        assert objects.source(ref) is None
        assert await objects.read_source(ref) is None

        world.offer(kind, "repo", None)
        assert (await notices.find(SourceChanged)).ref == ref
        assert objects.source(ref) == await objects.read_source(ref)

        for artifact in (offered(1), offered(2), offered(3, **{ORIGIN_REVISION: "main@sha1:5"})):
            before = objects.source(ref)
            world.offer(kind, "repo", artifact)
            change = await notices.find(SourceChanged)
            found = objects.source(ref)
            assert change == SourceChanged(ref, before, found)
            assert found is not None
            assert found.artifact is not None
            assert found == await objects.read_source(ref)
            assert (found.artifact.digest, found.artifact.url) == (artifact.digest, artifact.url)
            assert (found.artifact.revision, found.artifact.origin_revision) == (
                artifact.revision,
                artifact.origin_revision,
            )

        world.withdraw(kind, "repo")
        assert await notices.find(SourceChanged) == SourceChanged(ref, found, None)
        assert objects.source(ref) is None
        assert await objects.read_source(ref) is None

    async def test_an_alias_is_only_the_readers_name_for_a_source(
        self, world: World, objects: Objects, notices: Notices
    ) -> None:
        world.offer(SourceKind.BUCKET, "repo", offered(1))
        await notices.find(SourceChanged)

        assert objects.source(SourceRef("mine", SourceKind.BUCKET, "repo", world.namespace)) is not None
        assert objects.source(SourceRef("mine", SourceKind.HELM_CHART, "repo", world.namespace)) is None

    # Artifacts

    def wanted(self, generator: Generator, name: str = "web", **labels: str) -> ExternalArtifact:
        return ExternalArtifact(
            namespace=generator.namespace,
            name=name,
            labels={**labels, MANAGED_BY_LABEL: MANAGED_BY, GENERATOR_LABEL: generator.uid},
            annotations={"note": "x"},
            owner=Owner(API_VERSION, KIND, generator.name, generator.namespace),
        )

    async def test_an_artifact_is_published(self, objects: Objects, generator: Generator) -> None:
        wanted = self.wanted(generator, team="a")
        made = await objects.apply_artifact(wanted)
        assert (made.key, made.labels, made.annotations) == (wanted.key, wanted.labels, wanted.annotations)
        assert (made.owner, made.artifact, made.is_ready, made.is_deleted) == (wanted.owner, None, False, False)
        assert made.uid
        assert objects.artifact(made.key) == made

        artifact = offered(1, **{ORIGIN_REVISION: "main@sha1:5"})
        ready = await objects.write_artifact_status(made.key, made.generation, artifact)
        assert (ready.uid, ready.artifact, ready.is_ready) == (made.uid, artifact, True)
        assert objects.artifact(made.key) == ready
        assert list(objects.artifacts_of(generator.uid)) == [ready]

    async def test_an_artifact_that_stays_ready_has_been_so_since_then(
        self, objects: Objects, generator: Generator
    ) -> None:
        made = await objects.apply_artifact(self.wanted(generator))
        first = await objects.write_artifact_status(made.key, made.generation, offered(1, **{ORIGIN_REVISION: "x"}))
        second = await objects.write_artifact_status(made.key, made.generation, offered(2))

        assert second.artifact == offered(2)
        assert first.ready_since is not None
        assert second.ready_since == first.ready_since

    async def test_what_is_no_longer_wanted_of_an_artifact_goes(self, objects: Objects, generator: Generator) -> None:
        await objects.apply_artifact(self.wanted(generator, team="a", stage="b"))
        wanted = msgspec.structs.replace(self.wanted(generator, team="c"), annotations={})
        made = await objects.apply_artifact(wanted)

        assert (made.labels, made.annotations) == (wanted.labels, {})

    async def test_an_artifact_with_another_owner_is_not_ready_yet(
        self, objects: Objects, generator: Generator
    ) -> None:
        made = await objects.apply_artifact(self.wanted(generator))
        made = await objects.write_artifact_status(made.key, made.generation, offered(1))
        owner = Owner(API_VERSION, KIND, "other", generator.namespace)
        moved = await objects.apply_artifact(msgspec.structs.replace(self.wanted(generator), owner=owner))

        assert (moved.owner, moved.artifact, moved.is_ready) == (owner, offered(1), False)
        assert moved.generation > made.generation
        made = await objects.write_artifact_status(moved.key, moved.generation, offered(1))
        assert made.is_ready

    async def test_our_artifact_is_news_as_a_source_only(
        self, world: World, objects: Objects, generator: Generator, notices: Notices
    ) -> None:
        made = await objects.apply_artifact(self.wanted(generator))
        await objects.write_artifact_status(made.key, made.generation, offered(1))
        await objects.delete_artifact(made)
        world.create_generator("last")

        changes = [await notices.next()]
        while isinstance(changes[-1], SourceChanged):
            changes.append(await notices.next())
        last = changes.pop()
        assert isinstance(last, GeneratorChanged)
        assert last.after is not None
        assert last.after.name == "last"
        ref = SourceRef("", SourceKind.EXTERNAL_ARTIFACT, "web", world.namespace)
        artifacts = [
            (change.ref, change.after and change.after.artifact and change.after.artifact.digest)
            for change in changes
            if isinstance(change, SourceChanged)
        ]
        assert artifacts == [(ref, None), (ref, offered(1).digest), (ref, None)]

    async def test_somebody_else_changes_an_artifact(
        self, world: World, objects: Objects, generator: Generator, notices: Notices
    ) -> None:
        made = await objects.apply_artifact(self.wanted(generator))
        made = await objects.write_artifact_status(made.key, made.generation, offered(1))

        world.label_artifact("web", {GENERATOR_LABEL: "nobody", "theirs": "x"})
        change = await notices.find(ArtifactChanged)
        assert change.before == made
        assert change.after is not None
        assert change.after.labels == {**made.labels, GENERATOR_LABEL: "nobody", "theirs": "x"}
        assert list(objects.artifacts_of(generator.uid)) == []
        assert list(objects.artifacts_of("nobody")) == [change.after]

        repaired = await objects.apply_artifact(self.wanted(generator))
        assert repaired.labels == {**made.labels, "theirs": "x"}
        assert list(objects.artifacts_of(generator.uid)) == [repaired]
        assert list(objects.artifacts_of("nobody")) == []

        world.remove_artifact("web")
        assert await notices.find(ArtifactChanged) == ArtifactChanged(repaired, None)
        assert objects.artifact(made.key) is None
        assert list(objects.artifacts_of(generator.uid)) == []

    async def test_a_change_that_is_not_seen_yet_is_noticed_in_spite_of_our_write(
        self, world: World, objects: Objects, generator: Generator, notices: Notices
    ) -> None:
        """Nothing may run between the two, so the view cannot know of the first."""
        made = await objects.apply_artifact(self.wanted(generator))
        world.label_artifact("web", {GENERATOR_LABEL: None})
        written = await objects.write_artifact_status(made.key, made.generation, offered(1))

        assert GENERATOR_LABEL not in written.labels
        change = await notices.find(ArtifactChanged)
        assert change.after is not None
        assert GENERATOR_LABEL not in change.after.labels

    async def test_an_artifact_is_deleted(self, objects: Objects, generator: Generator) -> None:
        made = await objects.apply_artifact(self.wanted(generator))
        await objects.delete_artifact(made)
        assert objects.artifact(made.key) is None
        assert list(objects.artifacts_of(generator.uid)) == []
        await objects.delete_artifact(made)

    async def test_only_the_artifact_that_is_meant_is_deleted(
        self, world: World, objects: Objects, generator: Generator
    ) -> None:
        first = await objects.apply_artifact(self.wanted(generator))
        world.remove_artifact("web")
        second = await objects.apply_artifact(self.wanted(generator))
        assert second.uid != first.uid

        await objects.delete_artifact(first)

        assert objects.artifact(second.key) == second
        assert await objects.read_source(SourceRef("", SourceKind.EXTERNAL_ARTIFACT, "web", world.namespace))

    async def test_a_status_of_an_artifact_that_is_gone_is_an_error(
        self, world: World, objects: Objects, generator: Generator
    ) -> None:
        made = await objects.apply_artifact(self.wanted(generator))
        world.remove_artifact("web")

        with pytest.raises(ApiError):
            await objects.write_artifact_status(made.key, made.generation, offered(1))

    # Owners and events

    async def test_an_owner_that_is_not_a_generator_counts_as_there(self, world: World, objects: Objects) -> None:
        for owner in (Owner("v1", "ConfigMap", "x", world.namespace), Owner("example.com/v1", KIND, "x", "y")):
            assert await objects.owner_exists(owner)

    async def test_an_owner_is_there_until_it_is_gone(
        self, world: World, objects: Objects, generator: Generator
    ) -> None:
        owner = Owner(API_VERSION, KIND, "gen", world.namespace)
        assert await objects.owner_exists(owner)

        await objects.set_finalizer(generator, present=False)
        world.delete_generator("gen")
        assert not await objects.owner_exists(owner)

    async def test_telling_of_what_is_gone_is_fine(self, objects: Objects) -> None:
        gone = Generator(namespace="nowhere", name="gone", uid="1", generation=1, resource_version="1")

        for kind in EventKind:
            objects.record(gone, Event(kind, "Ready", "x" * 100_000, revision="1", unchanged=True))
