"""Follow what changes in a directory and in the places of its sources, and pass it on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from sluice.build import State
from sluice.control.objects import Generator, Key
from sluice.core.errors import SpecError, StorageError
from sluice.core.spec import API_VERSION, KIND, ArtifactGenerator, read_generator
from sluice.embedded.sources import LocalSources, Wanted
from sluice.embedded.tell import ManifestTeller
from sluice.embedded.watch import Flag, Watcher
from sluice.local import LocalObjects
from sluice.local.state import STATE
from sluice.logs import logger
from sluice.service import Pools
from sluice.sources import Places
from sluice.storage import KIND as STORED
from sluice.storage import DiskStorage

STORE: Final = "storage"
"""Where archives are, in the directory for state."""
LOOK_EVERY: Final = 300.0
"""Seconds after which everything is looked at, whatever was told: the system may have lost something."""

Changed = frozenset[Path] | None
"""What changed; None where nobody knows, so that it may be anything."""


class Follower:
    """Tells the objects, the sources and the queue what changed.

    `wake` is told of each generator of which a file is damaged or gone.
    """

    def __init__(
        self,
        directory: Path,
        objects: LocalObjects,
        sources: LocalSources,
        storage: DiskStorage,
        pools: Pools,
        wake: Callable[[Key], None],
        *,
        poll: bool,
    ) -> None:
        self._directory = directory
        self._objects = objects
        self._sources = sources
        self._storage = storage
        self._pools = pools
        self._wake = wake
        self._poll = poll
        self._manifests = ManifestTeller()
        self._identity = _identity(directory)
        self._watched = Places(frozenset({directory}))
        self._watcher: Watcher

    async def begin(self) -> None:
        """Look at everything, and watch it from then on."""
        self._watcher = await self._watch()
        await self._take(None)

    async def follow(self, stopping: Flag) -> None:
        """Pass on every change, until it is time to stop. Raises `StorageError` when the directory is gone."""
        while True:
            changed = await asyncio.to_thread(self._watcher.wait, stopping, LOOK_EVERY)
            if stopping.is_set():
                return
            await self._take(frozenset(changed) or None)

    async def _take(self, changed: Changed) -> None:
        """Watch before looking: what changes meanwhile is a change to come."""
        while True:
            if _identity(self._directory) != self._identity:
                raise StorageError(f"'{self._directory}' is gone")
            await self._read(changed)
            watched = self._sources.places
            watched = Places(watched.trees | {self._directory}, watched.points)
            lost = changed is not None and not self._watcher.trees.isdisjoint(changed)
            if watched == self._watched and not lost:
                break
            self._watched = watched
            self._watcher = await self._watch()
            changed = None
        self._sources.notice(changed)
        await self._mend(changed)

    async def _read(self, changed: Changed) -> None:
        """Read the manifests that changed, and find the sources that they are about."""
        ours = None if changed is None else [path for path in changed if self._is_ours(path)]
        manifests = ours is None or any(not path.is_relative_to(self._directory / STATE) for path in ours)
        if ours is None or ours:
            self._manifests.tell(self._objects.refresh(ours))
        if manifests:
            self._sources.want(_wanted(self._objects))
        if self._sources.may_move(changed) or manifests:
            await self._sources.find()

    def _is_ours(self, path: Path) -> bool:
        """Whether a path may be a manifest, or the file of an object."""
        return path.is_relative_to(self._directory) and not path.is_relative_to(self._directory / STATE / STORE)

    async def _watch(self) -> Watcher:
        make = partial(Watcher, self._watched.trees, self._watched.points)
        try:
            return await asyncio.to_thread(make, poll=self._poll)
        except OSError as error:
            if self._poll:
                raise StorageError(f"'{self._directory}': cannot be watched: {error}") from error
            # Such as too many directories for what the system allows.
            logger().warning(f"changes are looked for, since the system does not tell: {error}")
            self._poll = True
            return await self._watch()

    async def _mend(self, changed: Changed) -> None:
        """Wake the generators whose published files somebody damaged or took away."""
        store = self._directory / STATE / STORE
        touched = {store} if changed is None else {path for path in changed if _is_near(path, store)}
        if not touched:
            return
        for generator in list(self._objects.generators()):
            for item in generator.status.inventory:
                path = store / STORED / item.namespace / item.name / item.filename
                if touched.isdisjoint((path, *path.parents)):
                    continue
                look = partial(self._storage.verify, item.namespace, item.name, item.filename, item.digest)
                if await self._pools.io(look) is not State.PRESENT:
                    self._wake(generator.key)


def _is_near(path: Path, store: Path) -> bool:
    return path.is_relative_to(store) or store.is_relative_to(path)


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        status = directory.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _wanted(objects: LocalObjects) -> Iterator[Wanted]:
    """The sources that generators name."""
    for generator, home in objects.declared_generators():
        try:
            spec = _read(generator)
        except SpecError:
            continue  # its reconciliation tells
        yield from ((ref, home) for ref in spec.sources)


def _read(generator: Generator) -> ArtifactGenerator:
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": generator.name, "namespace": generator.namespace},
        "spec": msgspec.json.decode(generator.spec),
    }
    return read_generator(manifest, unknown_fields=True)
