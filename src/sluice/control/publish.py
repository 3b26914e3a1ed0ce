"""Publish what was built: write what changed, and take away what nobody wants any more.

Whoever else wants an artifact's name, its owner keeps it. Every write is preceded by a look at the
generator, so nothing is published for one that was changed or deleted meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from msgspec.structs import replace

from sluice.build import Artifact
from sluice.control import decide
from sluice.control.conditions import OwnershipConflict
from sluice.control.decide import Ownership
from sluice.control.interest import Interests
from sluice.control.objects import (
    ATOMIC_ANNOTATION,
    ArtifactStatus,
    ConditionType,
    ExternalArtifact,
    Generator,
    InventoryItem,
    Key,
    Objects,
)
from sluice.control.ports import ArtifactStore, Clock, Pools, Settings
from sluice.core.errors import ApiError, StorageError
from sluice.core.pathpattern import Failure
from sluice.core.spec import ArtifactGenerator

PARALLEL_WRITES = 16
"""Artifacts of one generator that are written at a time."""


class Gone(Exception):
    """The generator changed or went while it was worked on; its next turn begins anew."""


class Outcome:
    """What a reconciliation did, while it does it."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.published: list[InventoryItem] = []
        self.changed: list[tuple[Key, ArtifactStatus]] = []
        self.written: list[Key] = []
        self.deleted: list[Key] = []
        self.warnings: list[str] = []


class Publisher:
    """Writes artifacts and their objects. `published` is told of each that has a new status
    or is gone, and by which generator.
    """

    def __init__(
        self,
        objects: Objects,
        store: ArtifactStore,
        pools: Pools,
        clock: Clock,
        settings: Settings,
        interests: Interests,
        published: Callable[[Key, Key], None],
    ) -> None:
        self._objects = objects
        self._store = store
        self._pools = pools
        self._clock = clock
        self._settings = settings
        self._interests = interests
        self._published = published
        self._abandoned: set[Key] = set()

    def current(self, generator: Generator) -> Generator:
        """The generator as it is now; raises `Gone` if it is another one, or going."""
        now = self._objects.generator(generator.key)
        if now is None or now.is_deleted or (now.uid, now.generation) != (generator.uid, generator.generation):
            raise Gone
        return now

    def changes(
        self, generator: Generator, spec: ArtifactGenerator, artifact: Artifact
    ) -> tuple[ExternalArtifact | None, ArtifactStatus | None]:
        """What has to be written of an artifact: the object, its status, either or neither."""
        there = self._objects.artifact((generator.namespace, artifact.name))
        wanted = decide.wanted_object(generator, spec, artifact)
        status = decide.wanted_status(
            artifact,
            there,
            self._settings.base_url,
            self._clock.now(),
            origin_every_commit=self._settings.origin_every_commit,
        )
        ready = generator.status.condition(ConditionType.READY)
        is_edited = ready is None or ready.observed_generation != generator.generation
        apply = decide.needs_apply(there, wanted, generation_changed=is_edited)
        write = there is None or not there.is_ready or there.artifact != status
        return wanted if apply else None, status if write else None

    async def publish(
        self, generator: Generator, spec: ArtifactGenerator, built: Sequence[Artifact | Failure], *, may_prune: bool
    ) -> Outcome:
        """Write what changed, then prune if nothing failed and it may be done."""
        artifacts = [result for result in built if isinstance(result, Artifact)]
        outcome = Outcome()
        outcome.failures = [result for result in built if isinstance(result, Failure)]
        outcome.warnings = [f"{artifact.name}: {text}" for artifact in artifacts for text in artifact.warnings]
        if outcome.failures and self._is_atomic(generator):
            return outcome
        limit = asyncio.Semaphore(PARALLEL_WRITES)

        async def publish_one(artifact: Artifact) -> None:
            async with limit:
                try:
                    await self._publish(generator, spec, artifact, outcome)
                except (ApiError, StorageError) as error:
                    outcome.failures.append(Failure(artifact.name, error))

        for error in await asyncio.gather(*map(publish_one, artifacts), return_exceptions=True):
            if error is not None:
                raise error
        if may_prune and not outcome.failures:
            await self._prune(generator, {artifact.name for artifact in artifacts}, outcome)
        return outcome

    def _is_atomic(self, generator: Generator) -> bool:
        return self._settings.atomic or generator.annotations.get(ATOMIC_ANNOTATION, "").lower() == "true"

    async def _publish(
        self, generator: Generator, spec: ArtifactGenerator, artifact: Artifact, outcome: Outcome
    ) -> None:
        key = (generator.namespace, artifact.name)
        await self._check_owner(generator, key)
        wanted, status = self.changes(generator, spec, artifact)
        before = self._objects.artifact(key)
        there = before
        if wanted is not None:
            self.current(generator)
            there = await self._objects.apply_artifact(wanted)
        if status is not None:
            self.current(generator)
            assert there is not None
            await self._objects.write_artifact_status(key, there.generation, status)
            self._published(key, generator.key)
            if before is None or before.artifact is None or before.artifact.digest != status.digest:
                outcome.changed.append((key, status))
        if wanted is not None or status is not None:
            outcome.written.append(key)
        self._store.supersede(*key, current=artifact.archive.filename, now=self.retention_time())
        outcome.published.append(
            InventoryItem(artifact.name, generator.namespace, artifact.archive.digest, artifact.archive.filename)
        )

    async def _check_owner(self, generator: Generator, key: Key) -> None:
        """Raise `OwnershipConflict` where an artifact of that name is somebody else's."""
        there = self._objects.artifact(key)
        verdict = decide.ownership(there, generator)
        if there is None or verdict is Ownership.OURS:
            return
        owner = there.owner
        if owner is not None and not owner.namespace:
            owner = replace(owner, namespace=there.namespace)
        may_be_gone = verdict is Ownership.UNLESS_OWNER_IS_GONE
        if may_be_gone and owner is not None and not await self._objects.owner_exists(owner):
            return
        who = f"{owner.kind} {owner.namespace}/{owner.name}" if owner is not None else "nobody we know"
        raise OwnershipConflict(
            f"ExternalArtifact {'/'.join(key)} belongs to {who} (delete it, or choose another name)"
        )

    async def _prune(self, generator: Generator, wanted: set[str], outcome: Outcome) -> None:
        for key in decide.select_orphans(generator, wanted, self._objects.artifacts_of(generator.uid)):
            try:
                if await self.retract(self.current(generator), key):
                    outcome.deleted.append(key)
            except (ApiError, StorageError) as error:
                outcome.failures.append(Failure(key[1], error))

    async def retract(self, generator: Generator, key: Key) -> bool:
        """Delete an artifact and its files; False if it is somebody else's, who keeps it."""
        there = self._objects.artifact(key)
        if there is not None and decide.ownership(there, generator) is not Ownership.OURS:
            return False
        if there is not None:
            await self._objects.delete_artifact(there)
        self._interests.release(generator.key, key)
        await self._pools.io(lambda: self._store.delete(*key))
        self._published(key, generator.key)
        return True

    def note_current(self, items: Sequence[InventoryItem]) -> None:
        """Tell the store which files the statuses name."""
        for item in items:
            self._store.supersede(item.namespace, item.name, current=item.filename, now=self.retention_time())

    def abandon(self, artifact: Key) -> None:
        """Let the files of an artifact go with the retention time: it is another's now.

        The one that its object names at our address stays as long as it does: consumers are sent here
        until whoever takes over has published it. To be called again when the object changes.
        """
        named = self.named(artifact)
        (self._abandoned.add if named else self._abandoned.discard)(artifact)
        self._store.supersede(*artifact, current=named, now=self.retention_time())

    def has_abandoned(self, artifact: Key) -> bool:
        """Whether a file of an artifact stays only for as long as its object names it."""
        return artifact in self._abandoned

    def named(self, artifact: Key) -> str:
        """The file at our address that an artifact's object names, if it does."""
        there = self._objects.artifact(artifact)
        if there is None or there.artifact is None or not there.artifact.url.startswith(f"{self._settings.base_url}/"):
            return ""
        return there.artifact.path.rpartition("/")[2]

    async def collect_garbage(self) -> list[str]:
        """Delete superseded files whose time is over; returns their paths."""
        settings = self._settings
        return await self._pools.io(
            lambda: self._store.collect(
                keep=settings.retention_records, ttl=settings.retention_ttl, now=self.retention_time()
            )
        )

    def retention_time(self) -> datetime:
        """A time for retention, of a clock that nobody sets."""
        return datetime.fromtimestamp(self._clock.monotonic(), UTC)
