"""What the sources of a directory's generators hold.

Each source has a task of its own: one that takes long, or fails, holds up no other. It is opened
again when something changes where it is; one that is elsewhere is asked now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from msgspec.structs import replace

from sluice.cache import UnpackedCache
from sluice.control.objects import ORIGIN_REVISION, ArtifactStatus
from sluice.core.errors import Code, SluiceError, SourceError
from sluice.core.gzip import SLICE
from sluice.core.plan import Source
from sluice.core.spec import SourceKind, SourceRef
from sluice.local import LocalObjects
from sluice.logs import logger
from sluice.service import Pools
from sluice.sources import Found, Memory, Places, find_places, open_source, redact
from sluice.storage import DiskStorage

ASK_EVERY: Final = 60.0
"""Seconds after which a source that is elsewhere is looked at again."""
FIRST_RETRY, LAST_RETRY = 0.2, 30.0
"""Seconds after which a source that could not be opened is tried again."""
BUSY: Final = 10.0
"""Seconds for which a checkout may be locked by git before it is read all the same."""

Wanted = tuple[SourceRef, Path]
"""A source as a generator names it, and the directory of that generator's manifest."""

_Where = tuple[Found, Places | None] | SourceError | None
"""Where a source is and changes, or why nobody knows; None before that was looked for."""


class Finder(Protocol):
    """Finds where sources are."""

    def is_given(self, ref: SourceRef) -> bool:
        """Whether the user told where a source is."""
        ...

    def find(self, needed: Mapping[SourceRef, Sequence[Wanted]]) -> Mapping[SourceRef, Found | SourceError]:
        """Where each source is, whoever names it. May block."""
        ...

    def concerned(self, changed: Iterable[Path] | None) -> bool:
        """Whether sources may be elsewhere after these changes, or whatever else changed."""
        ...


class _Kept:
    """A source, as far as it is known."""

    def __init__(self) -> None:
        self.where: _Where = None
        self.memory = Memory()
        self.source: Source | None = None
        self.dirty = asyncio.Event()
        self.looked = asyncio.Event()
        self.failures = 0
        self.told = ""
        self.task: asyncio.Task[None] | None = None


class LocalSources:
    """Opens what generators need, and tells `objects` what it is; a source's name is its digest."""

    def __init__(
        self,
        objects: LocalObjects,
        storage: DiskStorage,
        cache: UnpackedCache,
        pools: Pools,
        finder: Finder,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._objects = objects
        self._storage = storage
        self._cache = cache
        self._pools = pools
        self._finder = finder
        self._kept: dict[SourceRef, _Kept] = {}
        self._needed: Mapping[SourceRef, Sequence[Wanted]] = {}
        self._tasks = tasks

    def want(self, wanted: Iterable[Wanted]) -> None:
        """Tell which sources generators name now; what none does is let go. `find` comes next."""
        needed: dict[SourceRef, list[Wanted]] = {}
        for ref, home in wanted:
            if ref.kind is not SourceKind.EXTERNAL_ARTIFACT or self._finder.is_given(ref):
                needed.setdefault(replace(ref, alias=""), []).append((ref, home))
        self._needed = needed
        for ref in needed.keys() - self._kept.keys():
            self._kept[ref] = _Kept()
        for ref in self._kept.keys() - needed.keys():
            kept = self._kept.pop(ref)
            if kept.task is not None:
                kept.task.cancel()
            kept.looked.set()
            self._objects.withdraw(ref)

    async def find(self) -> None:
        """Find out where all of them are, and change; `notice` comes next."""
        found = await self._pools.io(self._locate)
        for ref, where in found.items():
            kept = self._kept[ref]
            if _differs(where, kept.where):
                if _location(where) != _location(kept.where):
                    kept.memory = Memory()
                kept.where = where
                kept.dirty.set()

    def _locate(self) -> dict[SourceRef, _Where]:
        located = self._finder.find(self._needed)
        return {
            ref: where if isinstance(where, SourceError) else (where, find_places(where.location))
            for ref, where in located.items()
        }

    def may_move(self, changed: Collection[Path] | None) -> bool:
        """Whether after these changes, or whatever else, a source may be or change elsewhere."""
        return self._finder.concerned(changed) or (changed is not None and not self.places.points.isdisjoint(changed))

    @property
    def places(self) -> Places:
        """Where to watch."""
        all_places = [kept.where[1] for kept in self._kept.values() if isinstance(kept.where, tuple)]
        there = [places for places in all_places if places is not None]
        return Places(
            frozenset().union(*(places.trees for places in there)),
            frozenset().union(*(places.points for places in there)),
        )

    def notice(self, changed: Iterable[Path] | None) -> None:
        """Look again at the sources that a change concerns; at all of them where nobody knows what changed."""
        paths = None if changed is None else list(changed)
        for ref, kept in self._kept.items():
            places = kept.where[1] if isinstance(kept.where, tuple) else None
            if paths is None or (places is not None and any(map(places.concern, paths))):
                kept.dirty.set()
            if kept.task is None:
                kept.task = self._tasks.create_task(self._keep(ref, kept))

    async def looked(self, ref: SourceRef) -> None:
        """Return when a source was opened, or could not be; at once for what is none of ours."""
        kept = self._kept.get(replace(ref, alias=""))
        if kept is not None:
            await kept.looked.wait()

    async def open(self, ref: SourceRef, artifact: ArtifactStatus) -> Source:
        """What a source holds now; it may be newer than what was offered. Raises `SourceError`."""
        kept = self._kept.get(replace(ref, alias=""))
        source = kept.source if kept is not None else None
        if ref.kind is SourceKind.EXTERNAL_ARTIFACT and (source is None or _digest(source) != artifact.digest):
            return await self._pools.io(lambda: self._open_artifact(ref, artifact))
        if source is None:
            raise SourceError(f"source '{ref}' is not ready", Code.NOT_READY)
        return source

    def _open_artifact(self, ref: SourceRef, artifact: ArtifactStatus) -> Source:
        """The artifact of another generator, from our own store."""
        unpacked = self._cache.find(artifact.digest)
        if unpacked is None:
            opened = self._storage.open(ref.namespace, ref.name, artifact.path.rpartition("/")[2])
            if opened is None:
                raise SourceError(f"file not found: {artifact.path}, source '{ref}'", Code.FETCH, LAST_RETRY)
            with opened.file as file:
                unpacked = self._cache.open(iter(lambda: file.read(SLICE), b""), artifact.digest)
        return Source(unpacked.tree, artifact.revision, artifact.digest, artifact.url, artifact.origin_revision)

    # One source

    async def _keep(self, ref: SourceRef, kept: _Kept) -> None:
        while True:
            kept.dirty.clear()
            pause = await self._look(ref, kept)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await kept.dirty.wait()

    async def _look(self, ref: SourceRef, kept: _Kept) -> float | None:
        """Open a source and offer what it holds; returns after how long to look again, whatever happens."""
        where = kept.where
        assert where is not None
        if isinstance(where, SourceError):
            self._fail(ref, kept, where)
            return None
        found, places = where
        idle = await _idle(found)
        try:
            source = await self._open(found, places, ref.kind, kept.memory)
        except SluiceError as error:
            kept.failures += 1
            self._fail(ref, kept, error)
            return min(FIRST_RETRY * 2.0**kept.failures, LAST_RETRY)
        if idle and _is_locked(found):
            return 0.0  # it may be half of one
        kept.failures = 0
        self._offer(ref, kept, found, source)
        return ASK_EVERY if places is None else None

    async def _open(self, found: Found, places: Places | None, kind: SourceKind, memory: Memory) -> Source:
        def work() -> Source:
            return open_source(
                found.location,
                kind=kind,
                cache=self._cache,
                ignore=found.ignore,
                layer=found.layer,
                revision=found.revision,
                memory=memory,
            )

        return await (self._pools.io(work) if places is not None else self._pools.fetch(work))

    def _fail(self, ref: SourceRef, kept: _Kept, error: SluiceError) -> None:
        """What was there stays, as in a cluster; that nothing was there yet is told at once."""
        text = str(error)
        if kept.told != text and (kept.source is None or kept.failures != 1):
            logger().error(f"source {ref}: {text}")
            kept.told = text
        if kept.source is None:
            self._objects.offer(ref, None)
        kept.looked.set()

    def _offer(self, ref: SourceRef, kept: _Kept, found: Found, source: Source) -> None:
        before, kept.source = kept.source, source
        if kept.told or before is None or before.revision != source.revision:
            logger().info("source", source=str(ref), location=redact(found.location), revision=source.revision)
        kept.told = ""
        self._objects.offer(ref, _status(ref, source))
        kept.looked.set()


async def _idle(found: Found) -> bool:
    """Wait until git has finished with a checkout: half of one would be a revision that nobody made.

    False where that takes too long: a lock stays behind where git is killed.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(BUSY):
            while _is_locked(found):  # noqa: ASYNC110  # git wakes nobody
                await asyncio.sleep(FIRST_RETRY / 4)
        return True
    return False


def _is_locked(found: Found) -> bool:
    return Path(found.location, ".git", "index.lock").exists()


def _location(where: _Where) -> str:
    return where[0].location if isinstance(where, tuple) else ""


def _differs(where: _Where, before: _Where) -> bool:
    """Whether a place is another one; an error is what it says."""
    if isinstance(where, SourceError) and isinstance(before, SourceError):
        return str(where) != str(before)
    return where != before


def _digest(source: Source) -> str:
    return f"sha256:{source.tree.digest.hex()}"


def _status(ref: SourceRef, source: Source) -> ArtifactStatus:
    metadata = {} if source.origin_revision is None else {ORIGIN_REVISION: source.origin_revision}
    path = f"{ref.kind.lower()}/{ref.namespace}/{ref.name}"
    return ArtifactStatus(_digest(source), path, f"local:{path}", source.revision, metadata=metadata)
