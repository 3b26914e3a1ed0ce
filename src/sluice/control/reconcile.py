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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Protocol

import msgspec
from msgspec import Struct

from sluice.build import Artifact, Builder, Opened, State
from sluice.control import conditions, decide, events
from sluice.control.conditions import Reason, Retry, Trouble
from sluice.control.decide import Drift, Step
from sluice.control.events import Scenario
from sluice.control.interest import Interests
from sluice.control.objects import (
    ALLOW_EMPTY_ANNOTATION,
    DIALECT_ANNOTATION,
    FINALIZER,
    ArtifactChanged,
    ArtifactStatus,
    Change,
    ConditionType,
    Event,
    Generator,
    GeneratorChanged,
    GeneratorStatus,
    InventoryItem,
    Key,
    Objects,
    SourceChanged,
)
from sluice.control.ports import ArtifactStore, Clock, Pools, Settings, Sources
from sluice.control.publish import Gone, Outcome, Publisher
from sluice.control.queue import Lane, Queue, Turn
from sluice.control.verify import keep_verifying
from sluice.core.dialect import DIALECTS, Dialect, DialectName
from sluice.core.errors import ApiError, Code, Problem, SluiceError, SourceError, SpecError, StorageError
from sluice.core.pathpattern import Failure
from sluice.core.plan import ArtifactPlan, Source, plan_artifacts
from sluice.core.spec import API_VERSION, KIND, ArtifactGenerator, SourceKind, parse_generator

SHOW_PROGRESS_AFTER = 2.0
"""Seconds of its own work after which a reconciliation shows that it is under way."""
REPAIRS_PER_MINUTE = 5
"""Repairs of one artifact in a minute, after which they are slowed down."""
SETTLE = 0.06
"""Seconds before a deleted artifact is made again: often its generator is deleted together with it."""
SLICE = 0.005
"""Seconds of work after which others get a turn on the event loop."""


class Ended(Struct, frozen=True):
    """How a turn ended, for metrics and logs. `trouble` is why the generator is not Ready."""

    key: Key
    seconds: float
    waited: float
    trouble: Trouble | None = None
    drift: Drift | None = None
    is_timeout: bool = False
    bug: Exception | None = None


class Observer(Protocol):
    """Told of every turn."""

    def began(self, key: Key) -> None: ...
    def ended(self, ended: Ended) -> None: ...


class _Known(Struct, frozen=True, eq=False):
    """A generator's spec, read: for one generation, and for what its annotations say of it."""

    generation: int
    uid: str
    dialect_annotation: str | None
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


class _Settled(Struct, frozen=True, eq=False):
    """What a turn found that had only bookkeeping to do, for the turn that does it: its files are there."""

    known: _Known
    sources_digest: str
    plans: tuple[ArtifactPlan | Failure, ...]
    built: list[Artifact | Failure]
    drift: Drift


class _Turn:
    """One turn under way: what is found out on the way to its end."""

    def __init__(self, generator: Generator, lane: Lane) -> None:
        self.generator = generator
        self.lane = lane
        self.trouble: Trouble | None = None
        self.drift: Drift | None = None
        self.is_timeout = False


class Reconciler:
    """The reconcile loop over `objects`; run `work` once for each worker."""

    def __init__(
        self,
        objects: Objects,
        store: ArtifactStore,
        sources: Sources,
        builder: Builder,
        pools: Pools,
        clock: Clock,
        settings: Settings,
        observer: Observer,
        chance: random.Random,
    ) -> None:
        self._objects = objects
        self._store = store
        self._sources = sources
        self._builder = builder
        self._pools = pools
        self._clock = clock
        self._settings = settings
        self._observer = observer
        self._chance = chance
        self.queue: Queue[Key] = Queue(clock.monotonic)
        self._interests = Interests()
        self._publisher = Publisher(objects, store, pools, clock, settings, self._interests, self._wake_users)
        self._known: dict[Key, _Known] = {}
        self._settled: dict[Key, _Settled] = {}
        self._suspects: dict[Key, Drift] = {}
        self._repairs: defaultdict[Key, deque[float]] = defaultdict(deque)
        self._setbacks: dict[Key, int] = {}
        objects.subscribe(self._notice)

    # What wakes a generator

    def _notice(self, change: Change) -> None:
        match change:
            case GeneratorChanged(before, after):
                self._notice_generator(before, after)
            case SourceChanged(ref):
                self._wake(self._interests.readers(ref.kind, ref.namespace, ref.name))
            case ArtifactChanged(before, after):
                there = after or before
                if there is not None:
                    self._notice_artifact(there.key, SETTLE if after is None else 0.0)

    def _notice_generator(self, before: Generator | None, after: Generator | None) -> None:
        if after is None:
            if before is not None:
                self.queue.add(before.key)
                self._wake(list(self._interests.rivals(before.namespace)))
        elif before is None or _differs(before, after):
            self.queue.add(after.key)

    def _notice_artifact(self, artifact: Key, settle: float) -> None:
        """Somebody else changed an artifact: its generator repairs it, others may take or use it."""
        patience = max(self._patience(artifact), settle)
        for key in self._interests.makers(artifact):
            self._suspects[key] = Drift.EXTERNAL_ARTIFACTS_CHANGED
            if patience:
                self.queue.add_after(key, patience)
            else:
                self.queue.add(key)
        if self._publisher.has_abandoned(artifact) and not self._interests.makers(artifact):
            self._publisher.abandon(artifact)
        self._wake(self._interests.readers(SourceKind.EXTERNAL_ARTIFACT, *artifact))

    def _wake_users(self, artifact: Key, by: Key) -> None:
        """A generator of ours wrote an artifact, or took it away with its files.

        Whoever reads it looks again, and whoever else wants its name: it may be free, or have been
        taken before the files were gone.
        """
        self._wake(self._interests.readers(SourceKind.EXTERNAL_ARTIFACT, *artifact))
        self._wake(key for key in list(self._interests.makers(artifact)) if key != by)

    def _wake(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.queue.add(key)

    def _patience(self, artifact: Key) -> float:
        """Seconds until an artifact is repaired: none, unless somebody keeps changing it."""
        repairs = self._repairs.get(artifact)
        if repairs is None:
            return 0.0
        while repairs and self._clock.monotonic() - repairs[0] > 60:
            repairs.popleft()
        if not repairs:
            del self._repairs[artifact]
        return 0.0 if len(repairs) < REPAIRS_PER_MINUTE else self._settings.min_retry * 2 ** min(len(repairs), 10)

    # The loop

    async def work(self) -> None:
        """Take turns for ever."""
        while True:
            turn = await self.queue.take()
            try:
                await self.reconcile(turn)
            finally:
                self.queue.done(turn)

    async def reconcile(self, turn: Turn[Key]) -> None:
        """One turn of one generator. Whatever happens is reported; only a cancellation gets out."""
        begun = self._clock.monotonic()
        self._observer.began(turn.key)
        generator = self._objects.generator(turn.key)
        bug = None
        here = _Turn(generator, turn.lane) if generator is not None else None
        try:
            if here is None:
                self._forget(turn.key)
            else:
                await self._guarded(here)
        except Exception as error:  # noqa: BLE001  the one place where a bug must not end the loop
            bug = error
            self._again(turn.key, Retry.BACKOFF)
        self._observer.ended(
            Ended(
                turn.key,
                self._clock.monotonic() - begun,
                turn.waited,
                here.trouble if here is not None else None,
                here.drift if here is not None else None,
                here is not None and here.is_timeout,
                bug,
            )
        )

    async def _guarded(self, turn: _Turn) -> None:
        """Take a turn; an error of the API server, or no end in time, is tried again later."""
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._step(turn)
        except Gone:
            self.queue.add(turn.generator.key)
        except TimeoutError:
            turn.is_timeout = True
            limit = timedelta(seconds=self._settings.timeout)
            text = f"fetch sources failed: the reconciliation took longer than {limit} (--reconciliation-timeout)"
            await self._give_up(turn, Trouble(Reason.SOURCE_FETCH_FAILED, text, Retry.BACKOFF))
        except (ApiError, StorageError) as error:
            trouble = Trouble(Reason.RECONCILIATION_FAILED, f"reconciliation failed: {error}", Retry.BACKOFF)
            await self._give_up(turn, trouble)

    async def _step(self, turn: _Turn) -> None:
        match decide.next_step(turn.generator):
            case Step.FORGET:
                self._forget(turn.generator.key)
            case Step.FINALIZE:
                await self._finalize(turn.generator)
            case Step.SUSPEND:
                await self._suspend(turn)
            case Step.RECONCILE:
                await self._reconcile(turn)

    async def _give_up(self, turn: _Turn, trouble: Trouble) -> None:
        """Say what happened, if that can be said, and try again."""
        turn.trouble = trouble
        self._again(turn.generator.key, trouble.retry)
        current = self._objects.generator(turn.generator.key)
        if current is None:
            return
        try:
            await self._report(current, conditions.failed(current, trouble, self._clock.now()), events.failure(trouble))
        except ApiError:
            return  # the next try tells

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

    def _forget(self, key: Key) -> None:
        """Drop everything about a generator that is gone, or another shard's now.

        Objects that it may still have belong to another writer. Their files here go in time.
        """
        self._known.pop(key, None)
        self._settled.pop(key, None)
        self._setbacks.pop(key, None)
        self._suspects.pop(key, None)
        made = list(self._interests.made(key))
        orphans = self._interests.forget(key)
        for artifact in made:
            # What it fed may have been a cycle.
            self._wake(self._interests.readers(SourceKind.EXTERNAL_ARTIFACT, *artifact))
        for artifact in orphans:
            self._repairs.pop(artifact, None)
            self._publisher.abandon(artifact)

    async def _finalize(self, generator: Generator) -> None:
        """Take everything of a generator away, and only then let it go."""
        keys = {(item.namespace, item.name) for item in generator.status.inventory}
        keys |= {there.key for there in self._objects.artifacts_of(generator.uid)}
        deleted = [key for key in sorted(keys) if await self._publisher.retract(generator, key)]
        for key in [key for key in self._interests.made(generator.key) if self._is_unpublished(key)]:
            await self._publisher.retract(generator, key)  # its file may be there, from a build that ended too late
        if deleted:
            self._objects.record(generator, events.event(Scenario.DELETED, items=map(events.name, deleted)))
        await self._objects.set_finalizer(generator, present=False)
        self._forget(generator.key)

    def _is_unpublished(self, artifact: Key) -> bool:
        """Whether an artifact has no object, and no second generator that may be about to make one."""
        return self._objects.artifact(artifact) is None and len(self._interests.makers(artifact)) < 2

    async def _suspend(self, turn: _Turn) -> None:
        generator = await self._finalizable(turn.generator)
        self._setbacks.pop(generator.key, None)
        event = events.event(Scenario.PAUSED)
        await self._report(generator, conditions.suspended(generator, self._clock.now()), event)

    async def _finalizable(self, generator: Generator) -> Generator:
        if FINALIZER in generator.finalizers:
            return generator
        made = await self._objects.set_finalizer(generator, present=True)
        if made is None:
            raise Gone
        return made

    # Reconciling

    async def _reconcile(self, turn: _Turn) -> None:
        generator = turn.generator = await self._finalizable(turn.generator)
        try:
            known = self._read(generator)
            self._check(generator, known.spec)
        except SpecError as error:
            await self._stop(turn, conditions.refused(error))
            return
        observed = await self._observe(known.spec)
        settled = self._settled.pop(generator.key, None)
        if settled is not None and self._still_holds(settled, turn, known, observed):
            turn.drift = settled.drift
            await self._publish(turn, known, settled.plans, settled.built, observed)
            return
        turn.drift = await self._drift(generator, known.spec, observed)
        if turn.drift is None:
            self._suspects.pop(generator.key, None)
            self._publisher.note_current(generator.status.inventory)
            self._again(generator.key, Retry.INTERVAL)
            event = events.event(Scenario.UP_TO_DATE, count=len(generator.status.inventory))
            await self._report(generator, conditions.acknowledged(generator), event)
            return
        async with self._progress(generator) as finish:
            opened = await self._open(known.spec, observed)
            try:
                plans = self._plan(known, opened)
            except (SpecError, SourceError) as error:
                await finish()
                turn.generator = self._publisher.current(generator)
                await self._stop(turn, _of_pattern(error))
                return
            built = await self._build(generator, plans, opened)
            turn.generator = generator = self._publisher.current(generator)
            if turn.lane is Lane.MAIN and self._is_bookkeeping(generator, known.spec, built):
                self._settled[generator.key] = _Settled(known, observed.digest, plans, built, turn.drift)
                self.queue.add(generator.key, Lane.REFRESH)
                return
            await self._publish(turn, known, plans, built, observed, finish)

    def _still_holds(self, settled: _Settled, turn: _Turn, known: _Known, observed: _Observed) -> bool:
        """Whether nothing has happened since a turn found that there is only bookkeeping to do."""
        return (
            turn.lane is Lane.REFRESH
            and settled.known is known
            and settled.sources_digest == observed.digest != ""
            and turn.generator.key not in self._suspects
        )

    async def _publish(
        self,
        turn: _Turn,
        known: _Known,
        plans: Sequence[ArtifactPlan | Failure],
        built: Sequence[Artifact | Failure],
        observed: _Observed,
        written: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Publish what was built, and tell; `written` is awaited in between."""
        generator = turn.generator
        may_prune = self._may_prune(generator, known, plans)
        outcome = await self._publisher.publish(generator, known.spec, built, may_prune=may_prune)
        if written is not None:
            await written()
        turn.generator = self._publisher.current(generator)
        await self._conclude(turn, known, [plan.name for plan in plans], outcome, observed)

    @asynccontextmanager
    async def _progress(self, generator: Generator) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Show that a reconciliation is under way, if that is worth it; `finish` ends the showing."""
        showing = asyncio.ensure_future(self._show_progress(generator))

        async def finish() -> None:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

        try:
            yield finish
        finally:
            await finish()

    async def _show_progress(self, generator: Generator) -> None:
        if not _is_awaited(generator):
            await self._clock.sleep(SHOW_PROGRESS_AFTER)
        current = self._publisher.current(generator)
        await self._objects.write_status(current, conditions.in_progress(current, self._clock.now()))

    # Observing

    def _read(self, generator: Generator) -> _Known:
        """The spec of a generator, read once for each generation. Raises `SpecError`."""
        known = self._known.get(generator.key)
        annotation = generator.annotations.get(DIALECT_ANNOTATION)
        identity = (generator.generation, generator.uid, annotation)
        if known is not None and (known.generation, known.uid, known.dialect_annotation) == identity:
            return known
        manifest = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": generator.name, "namespace": generator.namespace},
            "spec": msgspec.json.decode(generator.spec),
        }
        spec = parse_generator(manifest, unknown_fields=True)
        dialect = self._dialect(annotation)
        plans = None if spec.path_pattern is not None else plan_artifacts(spec, None, dialect, self._settings.limits)
        affected = set(self._interests.made(generator.key))
        self._known[generator.key] = fresh = _Known(*identity, spec, dialect, plans)
        self._interests.remember(generator.key, spec)
        if known is not None and known.dialect is not dialect:
            self._suspects[generator.key] = Drift.DIALECT_CHANGED
        if known is not None:
            # This may have closed or broken a cycle.
            for artifact in affected | set(self._interests.made(generator.key)):
                self._wake(self._interests.readers(SourceKind.EXTERNAL_ARTIFACT, *artifact))
        return fresh

    def _dialect(self, annotation: str | None) -> Dialect:
        if annotation is None:
            return self._settings.dialect
        if annotation not in tuple(DialectName):
            text = f"annotation {DIALECT_ANNOTATION}: '{annotation}' is not one of {', '.join(DialectName)}"
            raise SpecError(Problem(Code.INVALID_SPEC, text, "metadata.annotations"))
        return DIALECTS[DialectName(annotation)]

    def _check(self, generator: Generator, spec: ArtifactGenerator) -> None:
        """Raise `SpecError` for what another namespace or another generator makes impossible."""
        problems = decide.check_access(spec, lockdown=self._settings.lockdown)
        if any(source.kind is SourceKind.EXTERNAL_ARTIFACT for source in spec.sources):
            cycle = decide.find_cycle(generator.key, self._interests.feeds())
            if cycle is not None:
                self._wake(member for member in cycle if member != generator.key and not self._is_refused(member))
                path = " -> ".join(map(events.name, cycle))
                problems.append(Problem(Code.CYCLE, f"sources form a cycle: {path}", "spec.sources"))
        if problems:
            raise SpecError(problems)

    def _is_refused(self, key: Key) -> bool:
        generator = self._objects.generator(key)
        stalled = generator.status.condition(ConditionType.STALLED) if generator is not None else None
        return stalled is not None and stalled.status == "True"

    async def _observe(self, spec: ArtifactGenerator) -> _Observed:
        artifacts: dict[str, ArtifactStatus] = {}
        errors: dict[str, SourceError] = {}
        for ref in spec.sources:
            try:
                direct = self._settings.direct_fetch
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

    async def _drift(self, generator: Generator, spec: ArtifactGenerator, observed: _Observed) -> Drift | None:
        """Why there is something to do, if there is. A request looks at every stored byte."""
        is_request = decide.is_request(generator)
        obvious = self._suspects.get(generator.key) or (Drift.SOURCES_CHANGED if observed.errors else None)
        obvious = obvious or decide.outdated(generator, spec, observed.digest)
        if obvious is not None and not is_request:
            return obvious  # building finds out by itself which files are there
        items = generator.status.inventory
        if is_request:
            stored = await self._pools.io(lambda: self._verified(items))
        else:
            stored = {
                (item.namespace, item.name): self._store.holds(item.namespace, item.name, item.filename)
                for item in items
            }
        # Where another address is published, the files are there: another shard's, or a predecessor's.
        damaged = [events.name(key) for key, present in stored.items() if not present and self._publisher.named(key)]
        if damaged:
            self._objects.record(generator, events.event(Scenario.DAMAGED, items=damaged))
        if obvious is not None:
            return obvious
        published = {there.key: there for there in self._objects.artifacts_of(generator.uid)}
        for key in stored:
            there = self._objects.artifact(key)
            if there is not None:
                published[key] = there
        return decide.detect_drift(generator, spec, observed.digest, published, self._settings.base_url, stored)

    def _verified(self, items: Sequence[InventoryItem]) -> dict[Key, bool]:
        verify = self._store.verify
        return {
            (item.namespace, item.name): verify(item.namespace, item.name, item.filename, item.digest, reread=True)
            is State.PRESENT
            for item in items
        }

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
        source = opened.get(known.spec.pattern_alias or "")
        if isinstance(source, SourceError):
            raise source
        tree = source.tree if source is not None else None
        return plan_artifacts(known.spec, tree, known.dialect, self._settings.limits)

    async def _build(
        self, generator: Generator, plans: Sequence[ArtifactPlan | Failure], opened: Opened
    ) -> list[Artifact | Failure]:
        """Every artifact, or why not. What is known is settled here, the rest in one go elsewhere."""
        namespace = generator.namespace
        files = {item.name: item.filename for item in generator.status.inventory}
        results: dict[str, Artifact | Failure] = {}
        pending: list[ArtifactPlan] = []
        begun = self._clock.monotonic()
        for plan in plans:
            self._interests.claim(generator.key, (namespace, plan.name))
            if isinstance(plan, Failure):
                results[plan.name] = plan
                continue
            try:
                found = self._builder.recall(namespace, plan, opened, files.get(plan.name, ""))
            except SluiceError as error:
                results[plan.name] = Failure(plan.name, error)
                continue
            if found is not None:
                results[plan.name] = found
            else:
                pending.append(plan)
            if self._clock.monotonic() - begun > SLICE:
                await asyncio.sleep(0)
                begun = self._clock.monotonic()
        if pending:
            built = await self._pools.build(lambda: list(self._build_all(namespace, pending, opened, files)))
            results |= {result.name: result for result in built}
        return [results[plan.name] for plan in plans]

    def _build_all(
        self, namespace: str, plans: Sequence[ArtifactPlan], opened: Opened, files: Mapping[str, str]
    ) -> Iterator[Artifact | Failure]:
        """Build and store, in another thread; durable when it ends."""
        archives = []
        for plan in plans:
            try:
                artifact = self._builder.build(namespace, plan, opened, files.get(plan.name, ""))
            except SluiceError as error:
                yield Failure(plan.name, error)
            else:
                archives.append(artifact.archive)
                yield artifact
        self._store.sync(archives)

    def _is_bookkeeping(
        self, generator: Generator, spec: ArtifactGenerator, built: Sequence[Artifact | Failure]
    ) -> bool:
        """Whether nothing but the generator's own status would be written."""
        ready = generator.status.condition(ConditionType.READY)
        if ready is None or ready.status != "True" or _is_awaited(generator):
            return False
        return len(built) == len(generator.status.inventory) and all(
            isinstance(result, Artifact) and self._publisher.changes(generator, spec, result) == (None, None)
            for result in built
        )

    def _may_prune(self, generator: Generator, known: _Known, wanted: Sequence[object]) -> bool:
        """Whether what is no longer wanted may go: not when nothing at all is, unless allowed."""
        allowed = generator.annotations.get(ALLOW_EMPTY_ANNOTATION, "").lower() == "true"
        return bool(wanted) or allowed or known.dialect.lenient_pattern or known.spec.path_pattern is None

    # Reporting

    async def _stop(self, turn: _Turn, trouble: Trouble) -> None:
        """A problem of the whole generator: everything published stays as it is."""
        turn.trouble = trouble
        self._again(turn.generator.key, trouble.retry)
        status = conditions.failed(turn.generator, trouble, self._clock.now())
        await self._report(turn.generator, status, events.failure(trouble))

    async def _conclude(
        self, turn: _Turn, known: _Known, wanted: Sequence[str], outcome: Outcome, observed: _Observed
    ) -> None:
        """One status for all that happened, and the events."""
        generator, now = turn.generator, self._clock.now()
        order = {name: number for number, name in enumerate(wanted)}
        failures = sorted(outcome.failures, key=lambda failure: order.get(failure.name, len(order)))
        trouble = turn.trouble = conditions.troubled(failures) or self._emptied(generator, known, wanted)
        inventory = decide.merge_inventory(generator, outcome.published, wanted, keep_others=trouble is not None)
        self._tell(generator, known, wanted, outcome, repaired=turn.drift is Drift.EXTERNAL_ARTIFACTS_CHANGED)
        self._suspects.pop(generator.key, None)
        if trouble is None:
            self._again(generator.key, Retry.INTERVAL)
            event = events.event(Scenario.SUCCEEDED, count=len(inventory))
            await self._report(generator, conditions.succeeded(generator, inventory, observed.digest, now), event)
        else:
            self._again(generator.key, trouble.retry, _asked_wait(failures))
            status = conditions.failed(generator, trouble, now, inventory)
            await self._report(generator, status, events.failure(trouble))

    def _emptied(self, generator: Generator, known: _Known, wanted: Sequence[str]) -> Trouble | None:
        """Trouble where pathPattern matches nothing any more, and nobody said that this may be."""
        if not generator.status.inventory or self._may_prune(generator, known, wanted):
            return None
        text = f"pathPattern '{known.spec.path_pattern}' matches no directory"
        hint = f'annotation {ALLOW_EMPTY_ANNOTATION}: "true" lets the artifacts go'
        return Trouble(Reason.BUILD_FAILED, f"{text} ({hint})", Retry.INTERVAL)

    def _tell(
        self, generator: Generator, known: _Known, wanted: Sequence[str], outcome: Outcome, *, repaired: bool
    ) -> None:
        """Record what was done; several things of one kind are one event."""
        told: list[Event] = []
        if outcome.changed:
            items = [f"{events.name(key)} ({status.digest})" for key, status in outcome.changed]
            told.append(events.event(Scenario.RECONCILED, items=items, revision=outcome.changed[0][1].revision))
            items = [
                f"ExternalArtifact/{events.name(key)} reconciled with revision {status.revision}"
                for key, status in outcome.changed
            ]
            told.append(events.event(Scenario.PUBLISHED, items=items))
        if outcome.deleted:
            told.append(events.event(Scenario.DELETED, items=map(events.name, outcome.deleted)))
        if repaired and outcome.written:
            told.append(events.event(Scenario.REPAIRED, items=map(events.name, outcome.written)))
            for key in outcome.written:
                self._repairs[key].append(self._clock.monotonic())
                if wait := self._patience(key):
                    told.append(events.event(Scenario.FOUGHT_OVER, items=[events.name(key)], seconds=wait))
        if known.spec.path_pattern is not None and not wanted:
            told.append(events.event(Scenario.NOTHING_MATCHES, pattern=known.spec.path_pattern))
        if outcome.warnings:
            told.append(events.event(Scenario.WARNED, items=outcome.warnings))
        for event in told:
            self._objects.record(generator, event)

    async def _report(self, generator: Generator, status: GeneratorStatus, event: Event) -> None:
        """Write a status if it says anything new, and tell."""
        self._objects.record(generator, event)
        if status != generator.status:
            await self._objects.write_status(generator, status)

    # What is stored

    async def keep_verifying(self, rate: float) -> None:
        """Read all that is published again and again, at so many bytes a second, and mend what is damaged."""
        await keep_verifying(self._objects, self._store, self._pools, self._clock, rate, self.queue.add)

    def abandon_strays(self) -> None:
        """Let files go of which no generator knows; to be called once, when the view is complete.

        They belong to another shard now, or to a generator that went while nobody was here to see it.
        """
        inventories = (generator.status.inventory for generator in self._objects.generators())
        listed = {(item.namespace, item.name) for inventory in inventories for item in inventory}
        for artifact in self._store.artifacts():
            if artifact not in listed:
                self._publisher.abandon(artifact)

    async def collect_garbage(self) -> None:
        """Delete superseded files whose time is over; to be called now and then."""
        by_generator: defaultdict[Key, list[str]] = defaultdict(list)
        for path in await self._publisher.collect_garbage():
            _, namespace, name, filename = path.split("/")
            for key in self._interests.makers((namespace, name)):
                by_generator[key].append(f"{namespace}/{name}/{filename}")
        for key, paths in by_generator.items():
            generator = self._objects.generator(key)
            if generator is not None:
                self._objects.record(generator, events.event(Scenario.COLLECTED, count=len(paths), items=paths))


def _differs(before: Generator, after: Generator) -> bool:
    """Whether a change of a generator is worth a look: not one of its status alone."""
    return (before.uid, before.generation, before.is_deleted, before.annotations, before.finalizers) != (
        after.uid,
        after.generation,
        after.is_deleted,
        after.annotations,
        after.finalizers,
    )


def _is_awaited(generator: Generator) -> bool:
    """Whether somebody waits for this: after an edit or a request, of a generator that has a status."""
    ready = generator.status.condition(ConditionType.READY)
    if ready is None:
        return False
    return ready.observed_generation != generator.generation or decide.is_request(generator)


def _of_pattern(error: SpecError | SourceError) -> Trouble:
    """The trouble when pathPattern, or its source, is what is wrong."""
    if isinstance(error, SourceError):
        trouble = conditions.troubled([Failure("", error)])
        assert trouble is not None
        return trouble
    text = "; ".join(dict.fromkeys(problem.text for problem in error.problems))
    return Trouble(Reason.BUILD_FAILED, f"failed to expand path pattern: {text}", Retry.NEVER)


def _asked_wait(failures: Iterable[Failure]) -> float | None:
    """The seconds that failing sources ask to be left alone, if they do."""
    waits = [failure.error.retry_after for failure in failures if isinstance(failure.error, SourceError)]
    return min((wait for wait in waits if wait is not None), default=None)
