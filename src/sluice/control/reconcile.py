"""Reconcile one generator: observe, decide, act, report.

A reconciliation reads the view once and decides from it. What has to be waited for is opening
sources, building, and writing; after each wait the generator is read again before anything is
written, so nothing is published for one that is gone. Files are durable before an artifact's status
names them, artifacts are out before the generator's status tells so, and nothing is pruned before
everything new is out.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

import msgspec
from msgspec import Struct

from sluice.build import Artifact, Builder, Opened, State, Storage, StoredArchive
from sluice.control import conditions, decide, events
from sluice.control.conditions import OwnershipConflict, Reason, Retry, Trouble
from sluice.control.decide import Drift, Ownership, Step
from sluice.control.events import Scenario
from sluice.control.objects import (
    ALLOW_EMPTY_ANNOTATION,
    ATOMIC_ANNOTATION,
    DIALECT_ANNOTATION,
    FINALIZER,
    ArtifactChanged,
    ArtifactStatus,
    Change,
    ConditionType,
    Event,
    ExternalArtifact,
    Generator,
    GeneratorChanged,
    GeneratorStatus,
    InventoryItem,
    Key,
    Objects,
    SourceChanged,
)
from sluice.control.queue import Lane, Queue, Turn
from sluice.core.dialect import DIALECTS, Dialect, DialectName
from sluice.core.errors import ApiError, Code, Problem, SluiceError, SourceError, SpecError, StorageError
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.pathpattern import Failure
from sluice.core.plan import ArtifactPlan, Source, plan_artifacts
from sluice.core.spec import API_VERSION, KIND, ArtifactGenerator, SourceKind, SourceRef, parse_generator

T = TypeVar("T")

SHOW_PROGRESS_AFTER = 2.0
"""Seconds of its own work after which a reconciliation shows that it is under way."""
REPAIRS_PER_MINUTE = 5
"""Repairs of one artifact in a minute, after which they are slowed down."""
PARALLEL_WRITES = 16
"""Artifacts of one generator that are written at a time."""
SLICE = 0.005
"""Seconds of work after which others get a turn on the event loop."""


class Settings(Struct, frozen=True, kw_only=True):
    """What decides how generators are reconciled. Times are in seconds."""

    dialect: Dialect = DIALECTS[DialectName.DOCUMENTED]
    limits: Limits = DEFAULT_LIMITS
    base_url: str = "http://localhost:9090"
    atomic: bool = False
    lockdown: bool = False
    """Whether sources of other namespaces are forbidden."""
    direct_fetch: bool = False
    """Whether source objects are read from the API server and not from the view."""
    origin_every_commit: bool = False
    interval: float = 3600.0
    jitter: float = 0.05
    requeue_dependency: float = 5.0
    min_retry: float = 0.75
    max_retry: float = 900.0
    timeout: float = 600.0
    retention_ttl: timedelta = timedelta(minutes=1)
    retention_records: int = 2


class ArtifactStore(Storage, Protocol):
    """What the reconciler asks of the store, besides building. All raise `StorageError`."""

    def holds(self, namespace: str, name: str, filename: str) -> bool: ...
    def verify(self, namespace: str, name: str, filename: str, digest: str, *, reread: bool = False) -> State: ...
    def sync(self, archives: Iterable[StoredArchive]) -> None: ...
    def supersede(self, namespace: str, name: str, *, current: str, now: datetime) -> None: ...
    def collect(self, *, keep: int, ttl: timedelta, now: datetime) -> list[str]: ...
    def delete(self, namespace: str, name: str) -> None: ...


class Sources(Protocol):
    """Where sources are opened: once for all who ask."""

    async def open(self, ref: SourceRef, artifact: ArtifactStatus) -> Source:
        """A source that was verified against its digest. Raises `SourceError`."""
        ...


class Pools(Protocol):
    """Where work goes that would hold up the event loop."""

    async def build(self, work: Callable[[], T]) -> T:
        """Work for the processor."""
        ...

    async def io(self, work: Callable[[], T]) -> T:
        """Work that waits for the disk."""
        ...


class Clock(Protocol):
    """Time, as an argument."""

    def monotonic(self) -> float: ...
    def now(self) -> datetime: ...
    async def sleep(self, seconds: float) -> None: ...


class _Known(Struct, frozen=True, eq=False):
    """A generator's spec, read; for one generation and one set of annotations."""

    generation: int
    uid: str
    annotations: Mapping[str, str]
    spec: ArtifactGenerator
    dialect: Dialect
    plans: tuple[ArtifactPlan | Failure, ...] | None
    """Without pathPattern what is to be built follows from the spec alone."""


class _Observed(Struct, frozen=True, eq=False):
    """What the sources of a generator are: by alias what they offer, or why they do not."""

    artifacts: Mapping[str, ArtifactStatus]
    errors: Mapping[str, SourceError]

    @property
    def digest(self) -> str:
        """Empty while a source is missing: that is nobody's digest."""
        return "" if self.errors else decide.sources_digest(self.artifacts)


class _Gone(Exception):
    """The generator changed or went while it was worked on; its next turn begins anew."""


class Reconciler:
    """The reconcile loop over `objects`; `run` works for ever."""

    def __init__(
        self,
        objects: Objects,
        store: ArtifactStore,
        sources: Sources,
        builder: Builder,
        pools: Pools,
        clock: Clock,
        settings: Settings,
        chance: random.Random,
    ) -> None:
        self._objects = objects
        self._store = store
        self._sources = sources
        self._builder = builder
        self._pools = pools
        self._clock = clock
        self._settings = settings
        self._chance = chance
        self.queue: Queue[Key] = Queue(clock.monotonic)
        self._known: dict[Key, _Known] = {}
        self._readers: defaultdict[tuple[SourceKind, str, str], set[Key]] = defaultdict(set)
        self._wanting: defaultdict[Key, set[Key]] = defaultdict(set)
        self._suspects: set[Key] = set()
        self._repairs: defaultdict[Key, deque[float]] = defaultdict(deque)
        self._setbacks: dict[Key, int] = {}
        objects.subscribe(self._notice)

    # What wakes a generator

    def _notice(self, change: Change) -> None:
        match change:
            case GeneratorChanged(before, after):
                self._notice_generator(before, after)
            case SourceChanged(ref):
                self._wake_readers(ref.kind, ref.namespace, ref.name)
            case ArtifactChanged(before, after):
                there = after or before
                if there is not None:
                    self._notice_artifact(there)

    def _notice_generator(self, before: Generator | None, after: Generator | None) -> None:
        if after is None:
            if before is not None:
                self.queue.add(before.key)
                self._wake_rivals(before.namespace)
        elif before is None or _differs(before, after):
            self.queue.add(after.key)

    def _notice_artifact(self, artifact: ExternalArtifact) -> None:
        """Somebody else changed an artifact: its generator repairs it, others may take or use it."""
        for key in self._wanting[artifact.key]:
            self._suspects.add(key)
            self.queue.add_after(key, self._patience(artifact.key))
        self._wake_readers(SourceKind.EXTERNAL_ARTIFACT, *artifact.key)

    def _wake_readers(self, kind: SourceKind, namespace: str, name: str) -> None:
        for key in self._readers.get((kind, namespace, name), ()):
            self.queue.add(key)

    def _wake_rivals(self, namespace: str) -> None:
        """An owner may be gone: look again at whatever somebody else wants too."""
        for (where, _), keys in self._wanting.items():
            if where == namespace and len(keys) > 1:
                for key in keys:
                    self.queue.add(key)

    def _patience(self, artifact: Key) -> float:
        """Seconds until an artifact is repaired: none, unless somebody keeps changing it."""
        repairs = self._repairs[artifact]
        now = self._clock.monotonic()
        while repairs and now - repairs[0] > 60:
            repairs.popleft()
        return 0.0 if len(repairs) < REPAIRS_PER_MINUTE else self._settings.min_retry * 2 ** min(len(repairs), 10)

    # The loop

    async def work(self) -> None:
        """Take turns for ever; run as many of these as there are workers."""
        while True:
            turn = await self.queue.take()
            try:
                await self.reconcile(turn)
            finally:
                self.queue.done(turn)

    async def reconcile(self, turn: Turn[Key]) -> None:
        """One turn of one generator."""
        key = turn.key
        generator = self._objects.generator(key)
        match decide.next_step(generator):
            case Step.FORGET:
                await self._forget(key)
            case Step.FINALIZE if generator is not None:
                await self._guarded(generator, self._finalize(generator))
            case Step.SUSPEND if generator is not None:
                await self._guarded(generator, self._suspend(generator))
            case _ if generator is not None:
                await self._guarded(generator, self._reconcile(generator, turn.lane))

    async def _guarded(self, generator: Generator, work: Awaitable[None]) -> None:
        """Do a turn's work; an error of the API server, or no end, is tried again later."""
        try:
            async with asyncio.timeout(self._settings.timeout):
                await work
        except _Gone:
            self.queue.add(generator.key)
        except TimeoutError:
            limit = timedelta(seconds=self._settings.timeout)
            trouble = Trouble(
                Reason.SOURCE_FETCH_FAILED, f"fetch sources failed: not done within {limit}", Retry.BACKOFF
            )
            await self._give_up(generator, trouble)
        except (ApiError, StorageError) as error:
            trouble = Trouble(Reason.RECONCILIATION_FAILED, f"reconcile failed: {error}", Retry.BACKOFF)
            await self._give_up(generator, trouble)

    async def _give_up(self, generator: Generator, trouble: Trouble) -> None:
        """Say what happened, if that can be said, and try again."""
        self._again(generator.key, trouble.retry)
        current = self._objects.generator(generator.key)
        if current is None or current.is_deleted:
            return
        try:
            await self._report(current, conditions.failed(current, trouble, self._clock.now()), events.failure(trouble))
        except ApiError:
            return  # whoever could not be told will be told by the next try

    def _again(self, key: Key, retry: Retry, after: float | None = None) -> None:
        """Look again when that makes sense."""
        settings = self._settings
        if retry is Retry.BACKOFF:
            setbacks = self._setbacks.get(key, 0)
            self._setbacks[key] = setbacks + 1
            self.queue.add_after(key, min(settings.min_retry * 2 ** min(setbacks, 30), settings.max_retry))
            return
        self._setbacks.pop(key, None)
        if retry is Retry.DEPENDENCY:
            self.queue.add_after(key, settings.requeue_dependency if after is None else after)
        elif retry is Retry.INTERVAL:
            spread = self._chance.uniform(-settings.jitter, settings.jitter)
            self.queue.add_after(key, settings.interval * (1 + spread))

    # A generator that is not there, going or paused

    async def _forget(self, key: Key) -> None:
        """Drop everything about a generator that is gone, or another shard's now.

        Its artifacts, if there still are any, have another writer. Their files here go with the
        retention time.
        """
        known = self._known.pop(key, None)
        self._setbacks.pop(key, None)
        self._suspects.discard(key)
        if known is None:
            return
        for ref in known.spec.sources:
            self._readers[ref.kind, ref.namespace, ref.name].discard(key)
        for artifact in [artifact for artifact, keys in self._wanting.items() if key in keys]:
            self._want(key, artifact, wanted=False)
            if not self._wanting[artifact]:
                self._store.supersede(*artifact, current="", now=self._monotonic())

    async def _suspend(self, generator: Generator) -> None:
        if FINALIZER not in generator.finalizers:
            generator = await self._finalizable(generator)
        self._setbacks.pop(generator.key, None)
        event = events.event(Scenario.PAUSED)
        await self._report(generator, conditions.suspended(generator, self._clock.now()), event)

    async def _finalize(self, generator: Generator) -> None:
        """Take everything of a generator away, and only then let it go."""
        keys = {(item.namespace, item.name) for item in generator.status.inventory}
        keys |= {there.key for there in self._objects.artifacts_of(generator.uid)}
        for key in sorted(keys):
            await self._retract(generator, key)
        await self._objects.set_finalizer(generator, present=False)
        await self._forget(generator.key)

    async def _retract(self, generator: Generator, key: Key) -> bool:
        """Delete an artifact and its files, if it is this generator's; whether it was."""
        there = self._objects.artifact(key)
        if there is not None and decide.ownership(there, generator) is not Ownership.OURS:
            return False
        if there is not None:
            await self._objects.delete_artifact(there)
            self._wake_readers(SourceKind.EXTERNAL_ARTIFACT, *key)
        self._want(generator.key, key, wanted=False)
        await self._pools.io(lambda: self._store.delete(*key))
        for rival in self._wanting[key]:
            self.queue.add(rival)
        return True

    # Reconciling

    async def _reconcile(self, generator: Generator, lane: Lane) -> None:
        generator = await self._finalizable(generator)
        try:
            known = self._read(generator)
            self._check(generator, known)
        except SpecError as error:
            await self._stop(generator, conditions.refused(error))
            return
        observed = await self._observe(known.spec)
        drift = await self._drift(generator, known, observed)
        if drift is None:
            self._suspects.discard(generator.key)
            self._again(generator.key, Retry.INTERVAL)
            event = events.event(Scenario.UP_TO_DATE, count=len(generator.status.inventory))
            await self._report(generator, conditions.acknowledged(generator), event)
            return
        progress = asyncio.ensure_future(self._show_progress(generator, at_once=_is_news(generator)))
        try:
            await self._rebuild(generator, known, observed, drift, lane, progress)
        finally:
            progress.cancel()
            await asyncio.gather(progress, return_exceptions=True)

    async def _rebuild(
        self,
        generator: Generator,
        known: _Known,
        observed: _Observed,
        drift: Drift,
        lane: Lane,
        progress: asyncio.Future[None],
    ) -> None:
        opened = await self._open(known.spec, observed)
        try:
            plans = self._plan(known, opened)
        except (SpecError, SourceError) as error:
            await self._stop(generator, _of_pattern(error))
            return
        self._claim(generator.key, plans)
        built = await self._build(generator, plans, opened)
        generator = self._current(generator)
        if lane is Lane.MAIN and self._is_bookkeeping(generator, known, built, observed):
            self.queue.add(generator.key, Lane.REFRESH)
            return
        outcome = await self._publish(generator, known, built, drift)
        # Only one of them may write the status.
        progress.cancel()
        await asyncio.gather(progress, return_exceptions=True)
        await self._conclude(self._current(generator), known, plans, outcome, observed)

    async def _finalizable(self, generator: Generator) -> Generator:
        if FINALIZER in generator.finalizers:
            return generator
        made = await self._objects.set_finalizer(generator, present=True)
        if made is None:
            raise _Gone
        return made

    def _current(self, generator: Generator) -> Generator:
        """The generator as it is now; raises `_Gone` if it is another one, or going."""
        current = self._objects.generator(generator.key)
        if (
            current is None
            or current.is_deleted
            or (current.uid, current.generation) != (generator.uid, generator.generation)
        ):
            raise _Gone
        return current

    async def _show_progress(self, generator: Generator, *, at_once: bool) -> None:
        if not at_once:
            await self._clock.sleep(SHOW_PROGRESS_AFTER)
        current = self._current(generator)
        await self._objects.write_status(current, conditions.in_progress(current, self._clock.now()))

    # Observing

    def _read(self, generator: Generator) -> _Known:
        """The spec of a generator, read once for each generation. Raises `SpecError`."""
        known = self._known.get(generator.key)
        if (
            known is not None
            and (known.generation, known.uid) == (generator.generation, generator.uid)
            and known.annotations.get(DIALECT_ANNOTATION) == generator.annotations.get(DIALECT_ANNOTATION)
        ):
            return known
        manifest = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": generator.name, "namespace": generator.namespace},
            "spec": msgspec.json.decode(generator.spec),
        }
        spec = parse_generator(manifest, unknown_fields=True)
        dialect = self._dialect(generator)
        plans = None if spec.path_pattern is not None else plan_artifacts(spec, None, dialect, self._settings.limits)
        fresh = _Known(generator.generation, generator.uid, generator.annotations, spec, dialect, plans)
        self._replace(generator.key, known, fresh)
        return fresh

    def _dialect(self, generator: Generator) -> Dialect:
        name = generator.annotations.get(DIALECT_ANNOTATION)
        if name is None:
            return self._settings.dialect
        if name not in tuple(DialectName):
            text = f"annotation {DIALECT_ANNOTATION}: '{name}' is not one of {', '.join(DialectName)}"
            raise SpecError(Problem(Code.INVALID_SPEC, text, "metadata.annotations"))
        return DIALECTS[DialectName(name)]

    def _replace(self, key: Key, before: _Known | None, after: _Known) -> None:
        """Remember a spec, and who reads and who makes what according to it."""
        for ref in before.spec.sources if before else ():
            self._readers[ref.kind, ref.namespace, ref.name].discard(key)
        for ref in after.spec.sources:
            self._readers[ref.kind, ref.namespace, ref.name].add(key)
        made = [_made(known.spec) for known in (before, after) if known is not None]
        self._known[key] = after
        # A cycle may be closed or broken by this: whoever reads what it makes looks again.
        for artifact in set().union(*made):
            if before is not None:
                self._wake_readers(SourceKind.EXTERNAL_ARTIFACT, *artifact)
        for artifact in _made(after.spec):
            self._want(key, artifact, wanted=True)

    def _check(self, generator: Generator, known: _Known) -> None:
        """Raise `SpecError` for what another namespace or another generator makes impossible."""
        problems = decide.check_access(known.spec, lockdown=self._settings.lockdown)
        if problems:
            raise SpecError(problems)
        cycle = decide.find_cycle(generator.key, self._feeds())
        if cycle is not None:
            for member in cycle:
                if member != generator.key:
                    self.queue.add(member) if self._is_ready(member) else None
            path = " -> ".join(map(events.name, cycle))
            raise SpecError(Problem(Code.CYCLE, f"sources form a cycle: {path}", "spec.sources"))

    def _is_ready(self, key: Key) -> bool:
        generator = self._objects.generator(key)
        ready = generator.status.condition(ConditionType.READY) if generator else None
        return ready is not None and ready.reason != Reason.VALIDATION_FAILED

    def _feeds(self) -> Mapping[Key, Collection[Key]]:
        """By generator, the generators whose artifacts it reads."""
        return {
            key: {
                maker
                for ref in known.spec.sources
                if ref.kind is SourceKind.EXTERNAL_ARTIFACT
                for maker in self._wanting.get((ref.namespace, ref.name), ())
            }
            for key, known in self._known.items()
            if any(ref.kind is SourceKind.EXTERNAL_ARTIFACT for ref in known.spec.sources)
        }

    async def _observe(self, spec: ArtifactGenerator) -> _Observed:
        artifacts: dict[str, ArtifactStatus] = {}
        errors: dict[str, SourceError] = {}
        for ref in spec.sources:
            direct = self._settings.direct_fetch
            try:
                source = await self._objects.read_source(ref) if direct else self._objects.source(ref)
            except ApiError as error:
                text = f"unable to get source '{ref.namespace}/{ref.name}': {error}"
                errors[ref.alias] = SourceError(text, Code.NOT_READY)
                continue
            if source is None:
                text = f'{ref.kind}.source.toolkit.fluxcd.io "{ref.name}" not found'
                errors[ref.alias] = SourceError(text, Code.NOT_FOUND)
            elif source.artifact is None:
                errors[ref.alias] = SourceError(f"source '{ref}' is not ready", Code.NOT_READY)
            else:
                artifacts[ref.alias] = source.artifact
        return _Observed(artifacts, errors)

    async def _drift(self, generator: Generator, known: _Known, observed: _Observed) -> Drift | None:
        """Why there is something to do, if there is; a request looks at every byte."""
        if observed.errors:
            return Drift.SOURCES_CHANGED
        if generator.key in self._suspects:
            return Drift.EXTERNAL_ARTIFACTS_CHANGED
        items = generator.status.inventory
        if decide.is_request(generator):
            stored = await self._pools.io(lambda: self._verified(items))
        else:
            stored = {(item.namespace, item.name): self._holds(item) for item in items}
        damaged = [events.name(key) for key, present in stored.items() if not present]
        if damaged:
            self._objects.record(generator, events.event(Scenario.DAMAGED, items=damaged))
        published = {there.key: there for there in self._objects.artifacts_of(generator.uid)}
        for item in items:
            there = self._objects.artifact((item.namespace, item.name))
            if there is not None:
                published[there.key] = there
        drift = decide.detect_drift(generator, known.spec, observed.digest, published, self._settings.base_url, stored)
        if drift is None:
            self._note_current(items)
        return drift

    def _holds(self, item: InventoryItem) -> bool:
        return self._store.holds(item.namespace, item.name, item.filename)

    def _verified(self, items: Sequence[InventoryItem]) -> dict[Key, bool]:
        return {
            (item.namespace, item.name): self._store.verify(
                item.namespace, item.name, item.filename, item.digest, reread=True
            )
            == State.PRESENT
            for item in items
        }

    def _note_current(self, items: Iterable[InventoryItem]) -> None:
        for item in items:
            self._store.supersede(item.namespace, item.name, current=item.filename, now=self._monotonic())

    def _monotonic(self) -> datetime:
        """A time for retention that nobody sets."""
        return datetime.fromtimestamp(self._clock.monotonic(), UTC)

    # Acting

    async def _open(self, spec: ArtifactGenerator, observed: _Observed) -> Opened:
        refs = {ref.alias: ref for ref in spec.sources}

        async def open_one(alias: str) -> Source | SourceError:
            if alias in observed.errors:
                return observed.errors[alias]
            try:
                return await self._sources.open(refs[alias], observed.artifacts[alias])
            except SourceError as error:
                return error

        opened = await asyncio.gather(*map(open_one, refs))
        return dict(zip(refs, opened, strict=True))

    def _plan(self, known: _Known, opened: Opened) -> tuple[ArtifactPlan | Failure, ...]:
        if known.plans is not None:
            return known.plans
        assert known.spec.path_pattern is not None
        alias = known.spec.path_pattern.partition("/")[0].removeprefix("@")
        source = opened.get(alias)
        if isinstance(source, SourceError):
            raise source
        tree = source.tree if source is not None else None
        return plan_artifacts(known.spec, tree, known.dialect, self._settings.limits)

    def _claim(self, key: Key, plans: Sequence[ArtifactPlan | Failure]) -> None:
        for plan in plans:
            self._want(key, (key[0], plan.name), wanted=True)

    def _want(self, key: Key, artifact: Key, *, wanted: bool) -> None:
        if wanted:
            self._wanting[artifact].add(key)
        else:
            self._wanting[artifact].discard(key)

    async def _build(
        self, generator: Generator, plans: Sequence[ArtifactPlan | Failure], opened: Opened
    ) -> list[Artifact | Failure]:
        """Every artifact, or why not. What is known is settled here, the rest in one go elsewhere."""
        files = {item.name: item.filename for item in generator.status.inventory}
        results: dict[str, Artifact | Failure] = {}
        pending: list[ArtifactPlan] = []
        begun = self._clock.monotonic()
        for plan in plans:
            if isinstance(plan, Failure):
                results[plan.name] = plan
                continue
            found = _attempt(
                plan, lambda p: self._builder.recall(generator.namespace, p, opened, files.get(p.name, ""))
            )
            if found is None:
                pending.append(plan)
            else:
                results[plan.name] = found
            if self._clock.monotonic() - begun > SLICE:
                await asyncio.sleep(0)
                begun = self._clock.monotonic()
        if pending:
            for result in await self._pools.build(lambda: self._build_all(generator, pending, opened, files)):
                results[result.name] = result
        return [results[plan.name] for plan in plans]

    def _build_all(
        self, generator: Generator, plans: Sequence[ArtifactPlan], opened: Opened, files: Mapping[str, str]
    ) -> list[Artifact | Failure]:
        built: list[Artifact | Failure] = []
        for plan in plans:
            made = _attempt(plan, lambda p: self._builder.build(generator.namespace, p, opened, files.get(p.name, "")))
            assert made is not None
            built.append(made)
        self._store.sync(artifact.archive for artifact in built if isinstance(artifact, Artifact))
        return built

    def _is_bookkeeping(
        self, generator: Generator, known: _Known, built: Sequence[Artifact | Failure], observed: _Observed
    ) -> bool:
        """Whether nothing but the generator's own status would be written."""
        ready = generator.status.condition(ConditionType.READY)
        if ready is None or ready.status != "True" or ready.observed_generation != generator.generation:
            return False
        if decide.is_request(generator) or len(built) != len(generator.status.inventory):
            return False
        return all(
            isinstance(result, Artifact) and self._changes(generator, known, result, new_generation=False) is None
            for result in built
        )

    def _changes(
        self, generator: Generator, known: _Known, artifact: Artifact, *, new_generation: bool
    ) -> tuple[ExternalArtifact | None, ArtifactStatus | None] | None:
        """What has to be written of an artifact: the object, its status, or nothing."""
        there = self._objects.artifact((generator.namespace, artifact.name))
        wanted = decide.wanted_object(generator, known.spec, artifact)
        status = decide.wanted_status(
            artifact,
            there,
            self._settings.base_url,
            self._clock.now(),
            origin_every_commit=self._settings.origin_every_commit,
        )
        apply = decide.needs_apply(there, wanted, generation_changed=new_generation)
        write = there is None or not there.is_ready or there.artifact != status
        return (wanted if apply else None, status if write else None) if apply or write else None

    async def _publish(
        self, generator: Generator, known: _Known, built: Sequence[Artifact | Failure], drift: Drift
    ) -> _Outcome:
        """Write what changed, then prune if nothing failed."""
        failures = [result for result in built if isinstance(result, Failure)]
        artifacts = [result for result in built if isinstance(result, Artifact)]
        outcome = _Outcome(failures=failures, repaired=drift is Drift.EXTERNAL_ARTIFACTS_CHANGED)
        outcome.warnings += [f"{artifact.name}: {text}" for artifact in artifacts for text in artifact.warnings]
        if failures and (self._settings.atomic or generator.annotations.get(ATOMIC_ANNOTATION, "").lower() == "true"):
            return outcome
        limit = asyncio.Semaphore(PARALLEL_WRITES)

        async def publish_one(artifact: Artifact) -> None:
            async with limit:
                try:
                    await self._publish_one(generator, known, artifact, outcome)
                except (ApiError, StorageError) as error:
                    outcome.failures.append(Failure(artifact.name, error))

        await asyncio.gather(*map(publish_one, artifacts))
        if not outcome.failures and self._may_prune(generator, known, built):
            names = {artifact.name for artifact in artifacts}
            for key in decide.select_orphans(generator, names, self._objects.artifacts_of(generator.uid)):
                try:
                    if await self._retract(self._current(generator), key):
                        outcome.deleted.append(key)
                except (ApiError, StorageError) as error:
                    outcome.failures.append(Failure(key[1], error))
        return outcome

    def _may_prune(self, generator: Generator, known: _Known, wanted: Sequence[object]) -> bool:
        """Whether what is no longer wanted may go: not when nothing at all is, unless allowed."""
        allowed = generator.annotations.get(ALLOW_EMPTY_ANNOTATION, "").lower() == "true"
        return bool(wanted) or allowed or known.dialect.lenient_pattern or known.spec.path_pattern is None

    async def _publish_one(self, generator: Generator, known: _Known, artifact: Artifact, outcome: _Outcome) -> None:
        key = (generator.namespace, artifact.name)
        await self._own(generator, key)
        ready = generator.status.condition(ConditionType.READY)
        new = ready is None or ready.observed_generation != generator.generation
        changes = self._changes(generator, known, artifact, new_generation=new)
        if changes is not None:
            self._current(generator)
            wanted, status = changes
            before = self._objects.artifact(key)
            there = await self._objects.apply_artifact(wanted) if wanted is not None else before
            assert there is not None
            if status is not None:
                self._current(generator)
                await self._objects.write_artifact_status(key, there.generation, status)
                self._wake_readers(SourceKind.EXTERNAL_ARTIFACT, *key)
                outcome.note(key, before, status)
            if generator.key in self._suspects:
                self._repairs[key].append(self._clock.monotonic())
                outcome.repairs.append(key)
        self._store.supersede(*key, current=artifact.archive.filename, now=self._monotonic())
        outcome.published.append(
            InventoryItem(artifact.name, generator.namespace, artifact.archive.digest, artifact.archive.filename)
        )

    async def _own(self, generator: Generator, key: Key) -> None:
        """Raise `OwnershipConflict` where an artifact of that name is somebody else's."""
        there = self._objects.artifact(key)
        verdict = decide.ownership(there, generator)
        if verdict is Ownership.OURS:
            return
        owner = there.owner if there is not None else None
        if (
            verdict is Ownership.UNLESS_OWNER_IS_GONE
            and owner is not None
            and not await self._objects.owner_exists(owner)
        ):
            return
        name = f"{owner.kind} {owner.namespace or key[0]}/{owner.name}" if owner is not None else "nobody we know"
        raise OwnershipConflict(
            f"ExternalArtifact {events.name(key)} belongs to {name} (delete it, or choose another name)"
        )

    # Reporting

    async def _stop(self, generator: Generator, trouble: Trouble) -> None:
        """A problem of the whole generator: everything published stays as it is."""
        self._again(generator.key, trouble.retry)
        await self._report(generator, conditions.failed(generator, trouble, self._clock.now()), events.failure(trouble))

    async def _conclude(
        self,
        generator: Generator,
        known: _Known,
        plans: Sequence[ArtifactPlan | Failure],
        outcome: _Outcome,
        observed: _Observed,
    ) -> None:
        """One status for all that happened, and the events."""
        names = [plan.name for plan in plans]
        failures = sorted(outcome.failures, key=lambda f: names.index(f.name) if f.name in names else len(names))
        trouble = conditions.troubled(failures) or self._emptied(generator, known, plans)
        inventory = decide.merge_inventory(generator, outcome.published, names, keep_others=trouble is not None)
        now = self._clock.now()
        if trouble is not None:
            status = conditions.failed(generator, trouble, now, inventory)
            done = events.failure(trouble)
            self._again(generator.key, trouble.retry, _sooner(failures))
        else:
            self._suspects.discard(generator.key)
            status = conditions.succeeded(generator, inventory, observed.digest, now)
            done = events.event(Scenario.SUCCEEDED, count=len(inventory))
            self._again(generator.key, Retry.INTERVAL)
        for event in self._tell(known, plans, outcome):
            self._objects.record(generator, event)
        await self._report(generator, status, done)

    def _emptied(self, generator: Generator, known: _Known, plans: Sequence[ArtifactPlan | Failure]) -> Trouble | None:
        """Trouble where pathPattern matches nothing any more, and nobody said that this may be."""
        if not generator.status.inventory or self._may_prune(generator, known, plans):
            return None
        text = f"pathPattern '{known.spec.path_pattern}' matches no directory"
        return Trouble(
            Reason.BUILD_FAILED, f'{text} ({ALLOW_EMPTY_ANNOTATION}: "true" lets the artifacts go)', Retry.INTERVAL
        )

    def _tell(self, known: _Known, plans: Sequence[ArtifactPlan | Failure], outcome: _Outcome) -> Iterable[Event]:
        if outcome.changed:
            items = [f"{events.name(key)} ({status.digest})" for key, status in outcome.changed]
            revision = outcome.changed[0][1].revision
            yield events.event(Scenario.RECONCILED, items=items, revision=revision)
            texts = [
                f"ExternalArtifact/{events.name(key)} reconciled with revision {status.revision}"
                for key, status in outcome.changed
            ]
            yield events.event(Scenario.PUBLISHED, items=texts)
        if outcome.deleted:
            yield events.event(Scenario.DELETED, items=map(events.name, outcome.deleted))
        if outcome.repairs:
            yield events.event(Scenario.REPAIRED, items=map(events.name, outcome.repairs))
            for key in outcome.repairs:
                if wait := self._patience(key):
                    yield events.event(Scenario.FOUGHT_OVER, items=[events.name(key)], seconds=wait)
        if known.spec.path_pattern is not None and not plans:
            yield events.event(Scenario.NOTHING_MATCHES, pattern=known.spec.path_pattern)
        if outcome.warnings:
            yield events.event(Scenario.WARNED, items=outcome.warnings)

    async def _report(self, generator: Generator, status: GeneratorStatus, event: Event) -> None:
        """Write a status if it says anything new, and tell."""
        self._objects.record(generator, event)
        if status != generator.status:
            await self._objects.write_status(generator, status)

    # Retention

    async def collect_garbage(self) -> None:
        """Delete superseded files whose time is over; to be called now and then."""
        settings = self._settings
        gone = await self._pools.io(
            lambda: self._store.collect(
                keep=settings.retention_records, ttl=settings.retention_ttl, now=self._monotonic()
            )
        )
        by_owner: defaultdict[Key, list[str]] = defaultdict(list)
        for path in gone:
            _, namespace, name, filename = path.split("/")
            for key in self._wanting.get((namespace, name), ()):
                by_owner[key].append(f"{namespace}/{name}/{filename}")
        for key, paths in by_owner.items():
            generator = self._objects.generator(key)
            if generator is not None:
                self._objects.record(generator, events.event(Scenario.COLLECTED, count=len(paths), items=paths))


class _Outcome:
    """What a reconciliation did, while it does it."""

    def __init__(self, failures: Sequence[Failure], *, repaired: bool) -> None:
        self.failures = list(failures)
        self.repaired = repaired
        self.published: list[InventoryItem] = []
        self.changed: list[tuple[Key, ArtifactStatus]] = []
        self.deleted: list[Key] = []
        self.repairs: list[Key] = []
        self.warnings: list[str] = []

    def note(self, key: Key, before: ExternalArtifact | None, status: ArtifactStatus) -> None:
        published = before.artifact if before is not None else None
        if published is None or published.digest != status.digest:
            self.changed.append((key, status))


def _attempt(plan: ArtifactPlan, make: Callable[[ArtifactPlan], Artifact | None]) -> Artifact | Failure | None:
    try:
        return make(plan)
    except SluiceError as error:
        return Failure(plan.name, error)


def _made(spec: ArtifactGenerator) -> set[Key]:
    """The artifacts that a spec names, as far as it does without looking at a source."""
    return set() if spec.path_pattern is not None else {(spec.namespace, artifact.name) for artifact in spec.artifacts}


def _differs(before: Generator, after: Generator) -> bool:
    """Whether a change of a generator is worth a look: not one of its status."""
    return (
        (before.uid, before.generation, before.is_deleted) != (after.uid, after.generation, after.is_deleted)
        or before.annotations != after.annotations
        or before.finalizers != after.finalizers
    )


def _is_news(generator: Generator) -> bool:
    """Whether a reconciliation answers somebody who waits: for an edit, or for a request."""
    ready = generator.status.condition(ConditionType.READY)
    if ready is None:
        return False
    return ready.observed_generation != generator.generation or decide.is_request(generator)


def _of_pattern(error: SpecError | SourceError) -> Trouble:
    """pathPattern, or its source, is what is wrong: the generator as a whole stops."""
    if isinstance(error, SourceError):
        trouble = conditions.troubled([Failure("", error)])
        assert trouble is not None
        return trouble
    text = "; ".join(dict.fromkeys(problem.text for problem in error.problems))
    return Trouble(Reason.BUILD_FAILED, f"failed to expand path pattern: {text}", Retry.NEVER)


def _sooner(failures: Iterable[Failure]) -> float | None:
    """The seconds that the sources themselves ask to wait, if they do."""
    waits = [failure.error.retry_after for failure in failures if isinstance(failure.error, SourceError)]
    return min((wait for wait in waits if wait is not None), default=None)
