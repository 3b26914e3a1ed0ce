"""The reconciler's `Objects`, kept in a Kubernetes API."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import TypeVar

import msgspec
from msgspec import Struct

from sluice.control.objects import (
    FINALIZER,
    GENERATOR_LABEL,
    ArtifactChanged,
    ArtifactStatus,
    Change,
    ExternalArtifact,
    Generator,
    GeneratorChanged,
    GeneratorStatus,
    Key,
    ObservedSource,
    Owner,
    SourceChanged,
)
from sluice.control.objects import Event as GeneratorEvent
from sluice.core.errors import ApiError
from sluice.core.spec import SourceKind, SourceRef
from sluice.kube import shelf, wire
from sluice.kube.client import Client, Patch, Undecodable
from sluice.kube.clock import SYSTEM_CLOCK, Clock
from sluice.kube.errors import Refused
from sluice.kube.events import Recorder
from sluice.kube.kinds import ARTIFACT_GENERATOR, EXTERNAL_ARTIFACT, SOURCE_KINDS, Kind
from sluice.kube.shelf import Shelf
from sluice.kube.watch import INACTIVITY, Changed, Event, Gone, HasMetadata, Synced, Watch

T = TypeVar("T", bound=HasMetadata)
S = TypeVar("S", Generator, ExternalArtifact)

ATTEMPTS = 3
"""How often a write is tried that others get in the way of."""
PATIENCE = 120.0
"""Seconds that the first lists may take."""

_OUR_OBJECT = ("labels", "annotations", "owner", "generation", "is_ready")
_OUR_STATUS = ("artifact", "is_ready", "ready_since")


class Scope(Struct, frozen=True):
    """Which objects concern us: those of a namespace, or all; of generators, those with the labels."""

    namespace: str = ""
    labels: str = ""
    """A label selector, for generators alone: an artifact may feed a generator of another shard."""


EVERYTHING = Scope()


class _Anything(Struct):
    pass


_ANYTHING = msgspec.json.Decoder(_Anything)


class KubeObjects:
    """Generators, sources and artifacts of a cluster; for one event loop.

    The view is kept while `run` runs, and complete after `synced`. `failed` is told what goes wrong
    with a watch, which goes on regardless.
    """

    def __init__(
        self,
        client: Client,
        recorder: Recorder,
        scope: Scope = EVERYTHING,
        *,
        inactivity: float = INACTIVITY,
        failed: Callable[[Kind, ApiError], None] = lambda kind, error: None,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._scope = scope
        self._inactivity = inactivity
        self._report_failure = failed
        self._clock = clock
        self._rng = rng
        self._subscribers: list[Callable[[Change], None]] = []
        self._generators: Shelf[Generator] = Shelf(self._generator_changed, is_created_by_us=False)
        self._artifacts: Shelf[ExternalArtifact] = Shelf(self._artifact_changed, is_created_by_us=True)
        self._labelled: dict[str, dict[Key, None]] = {}  # in order, unlike a set
        self._sources: dict[tuple[SourceKind, str, str], ObservedSource] = {}
        self._unlisted: dict[Kind, ApiError | None] = dict.fromkeys([ARTIFACT_GENERATOR, *SOURCE_KINDS.values()])
        self._listed = asyncio.Event()
        self._ages: dict[str, Callable[[], float]] = {}

    # The view

    async def run(self) -> None:
        """Keep the view until cancelled; whatever else ends it is a bug, and raised."""
        async with asyncio.TaskGroup() as tasks:
            generators = self._watch(ARTIFACT_GENERATOR, wire.GENERATORS, self._scope.labels)
            tasks.create_task(generators.run(self._handler(generators.kind, self._generators, wire.to_generator)))
            artifacts = self._watch(EXTERNAL_ARTIFACT, wire.ARTIFACTS)
            tasks.create_task(artifacts.run(self._handler(artifacts.kind, self._artifacts, wire.to_artifact)))
            for name, kind in SOURCE_KINDS.items():
                if kind != EXTERNAL_ARTIFACT:
                    sources = self._watch(kind, wire.SOURCES)
                    tasks.create_task(sources.run(self._source_handler(name, kind)))

    async def synced(self, within: float = PATIENCE) -> None:
        """Wait until all that exists is in the view; raises `ApiError` if that takes too long."""
        try:
            async with asyncio.timeout(within):
                await self._listed.wait()
        except TimeoutError:
            raise ApiError("; ".join(self._unlisted_kinds(within))) from None

    def ages(self) -> Mapping[str, float]:
        """For each resource, the seconds since the server was last heard about it."""
        return {resource: age() for resource, age in self._ages.items()}

    def subscribe(self, notice: Callable[[Change], None]) -> None:
        self._subscribers.append(notice)

    def generator(self, key: Key) -> Generator | None:
        return self._generators.get(key)

    def generators(self) -> Iterable[Generator]:
        return self._generators.all()

    def source(self, ref: SourceRef) -> ObservedSource | None:
        if ref.kind is not SourceKind.EXTERNAL_ARTIFACT:
            return self._sources.get((ref.kind, ref.namespace, ref.name))
        found = self._artifacts.get((ref.namespace, ref.name))
        return None if found is None else wire.offer(found.artifact)

    def artifact(self, key: Key) -> ExternalArtifact | None:
        return self._artifacts.get(key)

    def artifacts_of(self, uid: str) -> Collection[ExternalArtifact]:
        found = (self._artifacts.get(key) for key in self._labelled.get(uid, ()))
        return tuple(artifact for artifact in found if artifact is not None)

    # Live reads

    async def read_source(self, ref: SourceRef) -> ObservedSource | None:
        try:
            found = await self._client.get(SOURCE_KINDS[ref.kind], ref.namespace, ref.name, wire.SOURCES)
        except Refused as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return wire.to_source(found)

    async def owner_exists(self, owner: Owner) -> bool:
        if (owner.api_version.partition("/")[0], owner.kind) != (ARTIFACT_GENERATOR.group, ARTIFACT_GENERATOR.name):
            return True
        try:
            await self._client.get(ARTIFACT_GENERATOR, owner.namespace, owner.name, _ANYTHING)
        except Refused as error:
            # Where the resource itself is not served, the server says 404 and no more.
            return not (error.status == HTTPStatus.NOT_FOUND and error.reason == "NotFound")
        except ApiError:
            return True
        return True

    # Writes

    async def set_finalizer(self, generator: Generator, *, present: bool) -> Generator | None:
        def finalizers(there: Generator) -> Mapping[str, object]:
            others = [name for name in there.finalizers if name != FINALIZER]
            wanted = [*others, FINALIZER] if present else others
            return {"metadata": {"resourceVersion": there.resource_version, "finalizers": wanted}}

        with self._writing(self._generators, generator.key):
            try:
                made = await self._change(generator, finalizers)
            except Refused as error:
                if present or error.status != HTTPStatus.NOT_FOUND:
                    raise
                made = None
            if made is None or (made.is_deleted and not made.finalizers):
                self._generators.remove(generator.key, generator.uid, is_gone=True)
                return None
            self._generators.enter(made, ("finalizers",))
            return made

    async def write_status(self, generator: Generator, status: GeneratorStatus) -> Generator:
        def patch(there: Generator) -> Mapping[str, object]:
            # The conditions are written as one list: without the lock, what others just added would go.
            lock = {"resourceVersion": there.resource_version}
            return {"metadata": lock, "status": wire.status_patch(status, there.status.conditions)}

        with self._writing(self._generators, generator.key):
            made = await self._change(generator, patch, subresource="status")
            self._generators.enter(made, ("status",))
            return made

    async def apply_artifact(self, wanted: ExternalArtifact) -> ExternalArtifact:
        return await self._apply(wanted.key, wire.artifact_body(wanted), _OUR_OBJECT)

    async def write_artifact_status(self, key: Key, generation: int, artifact: ArtifactStatus) -> ExternalArtifact:
        there = self._artifacts.get(key)
        since = (there.ready_since if there else None) or self._clock.now().replace(microsecond=0)
        body = wire.artifact_status_body(*key, artifact, generation, since)
        return await self._apply(key, body, _OUR_STATUS, subresource="status")

    async def delete_artifact(self, artifact: ExternalArtifact) -> None:
        with self._writing(self._artifacts, artifact.key):
            try:
                await self._client.delete(EXTERNAL_ARTIFACT, artifact.namespace, artifact.name, uid=artifact.uid)
            except Refused as error:
                # Either there is nothing of that name, or it is another object.
                if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                    raise
            self._artifacts.remove(artifact.key, artifact.uid, is_gone=False)

    def record(self, generator: Generator, event: GeneratorEvent) -> None:
        self._recorder.record(generator, event)

    @contextmanager
    def _writing(self, shelf: Shelf[S], key: Key) -> Iterator[None]:
        with self._recorder.held_back(), shelf.writing(key):
            yield

    async def _apply(
        self, key: Key, body: Mapping[str, object], ours: Collection[str], subresource: str = ""
    ) -> ExternalArtifact:
        with self._writing(self._artifacts, key):
            made = wire.to_artifact(
                await self._client.patch(
                    EXTERNAL_ARTIFACT, *key, body, wire.ARTIFACTS, how=Patch.APPLY, subresource=subresource, force=True
                )
            )
            self._artifacts.enter(made, ours)
            return made

    async def _change(
        self, generator: Generator, patch: Callable[[Generator], Mapping[str, object]], subresource: str = ""
    ) -> Generator:
        """Patch a generator in the newest state we know; if that is not the newest, read it and try again."""
        there = self._generators.get(generator.key)
        if there is None or there.uid != generator.uid:
            there = generator
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._patch(there, patch(there), subresource)
            except Refused as error:
                if error.status != HTTPStatus.CONFLICT:
                    raise
            there = await self._reread(generator)
        return await self._patch(there, patch(there), subresource)

    async def _patch(self, generator: Generator, body: Mapping[str, object], subresource: str) -> Generator:
        return wire.to_generator(
            await self._client.patch(
                ARTIFACT_GENERATOR, *generator.key, body, wire.GENERATORS, how=Patch.MERGE, subresource=subresource
            )
        )

    async def _reread(self, generator: Generator) -> Generator:
        there = wire.to_generator(await self._client.get(ARTIFACT_GENERATOR, *generator.key, wire.GENERATORS))
        if there.uid != generator.uid:
            text = f"{ARTIFACT_GENERATOR.name} {'/'.join(generator.key)}: gone (there is another one of that name)"
            raise Refused(text, HTTPStatus.NOT_FOUND, "NotFound")
        return there

    # What the watches say

    def _watch(self, kind: Kind, decoder: msgspec.json.Decoder[T], labels: str = "") -> Watch[T]:
        watch = Watch(
            self._client,
            kind,
            decoder,
            namespace=self._scope.namespace,
            labels=labels,
            inactivity=self._inactivity,
            failed=self._failed,
            clock=self._clock,
            rng=self._rng,
        )
        self._ages[kind.resource] = watch.age
        return watch

    def _handler(self, kind: Kind, kept: Shelf[S], convert: Callable[[T], S]) -> Callable[[Event[T]], None]:
        def handle(event: Event[T]) -> None:
            match event:
                case Changed(item):
                    kept.observe(convert(item))
                case Gone(key, last):
                    kept.lose(key, None if last is None else convert(last))
                case Undecodable():
                    self._unreadable(kind, event)
                case Synced():
                    kept.settle()
                    self._synced(kind)

        return handle

    def _source_handler(self, name: SourceKind, kind: Kind) -> Callable[[Event[wire.WireSource]], None]:
        def handle(event: Event[wire.WireSource]) -> None:
            match event:
                case Changed(item):
                    self._source_changed(SourceRef("", name, item.metadata.name, item.metadata.namespace), item)
                case Gone((namespace, source)):
                    self._source_changed(SourceRef("", name, source, namespace), None)
                case Undecodable():
                    self._unreadable(kind, event)
                case Synced():
                    self._synced(kind)

        return handle

    def _unreadable(self, kind: Kind, item: Undecodable) -> None:
        """What cannot be read counts as unchanged: it must neither stop the others nor seem to be gone."""
        self._failed(kind, ApiError(f"{kind.name} {'/'.join(item.key or ('with an unreadable name',))}: {item.why}"))

    def _failed(self, kind: Kind, error: ApiError) -> None:
        if kind in self._unlisted:
            self._unlisted[kind] = error
        self._report_failure(kind, error)

    def _synced(self, kind: Kind) -> None:
        self._unlisted.pop(kind, None)
        if not self._unlisted:
            self._listed.set()

    def _unlisted_kinds(self, within: float) -> Iterator[str]:
        for kind, error in self._unlisted.items():
            missing = isinstance(error, Refused) and error.status == HTTPStatus.NOT_FOUND
            hint = " (is its CustomResourceDefinition installed?)" if missing else ""
            yield f"{kind.resource}: not listed within {within:g} s: {error or 'no answer yet'}{hint}"

    # What that means

    def _generator_changed(self, change: shelf.Change[Generator]) -> None:
        if not change.is_ours or change.after is None:
            self._tell(GeneratorChanged(change.before, change.after))

    def _source_changed(self, ref: SourceRef, item: wire.WireSource | None) -> None:
        key = (ref.kind, ref.namespace, ref.name)
        before = self._sources.pop(key, None)
        after = None if item is None else wire.to_source(item)
        if after is not None:
            self._sources[key] = after
        if before != after:
            self._tell(SourceChanged(ref, before, after))

    def _artifact_changed(self, change: shelf.Change[ExternalArtifact]) -> None:
        before, after = change.before, change.after
        if before is not None:
            self._unlabel(before)
        if after is not None:
            self._labelled.setdefault(after.labels.get(GENERATOR_LABEL, ""), {})[change.key] = None
        offered = None if before is None else wire.offer(before.artifact)
        offers = None if after is None else wire.offer(after.artifact)
        if offered != offers:
            namespace, name = change.key
            self._tell(SourceChanged(SourceRef("", SourceKind.EXTERNAL_ARTIFACT, name, namespace), offered, offers))
        if not change.is_ours:
            self._tell(ArtifactChanged(before, after))

    def _unlabel(self, artifact: ExternalArtifact) -> None:
        uid = artifact.labels.get(GENERATOR_LABEL, "")
        self._labelled[uid].pop(artifact.key)
        if not self._labelled[uid]:
            del self._labelled[uid]

    def _tell(self, change: Change) -> None:
        for notice in self._subscribers:
            notice(change)
