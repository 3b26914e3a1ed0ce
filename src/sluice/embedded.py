"""Serve a directory: the same reconciler, store and server as in a cluster, over manifests in files.

Saving a file is what `kubectl apply` is in a cluster. The directory and whatever its sources are in
are watched; a change is read a moment later, and only what it changes is built.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from watchfiles._rust_notify import RustNotify  # `awatch` would start to watch only when it is waited for

from sluice.build import Builder
from sluice.cache import UnpackedCache
from sluice.control.objects import ArtifactStatus
from sluice.control.ports import Settings
from sluice.control.reconcile import Reconciler
from sluice.core.errors import Code, Problem, SourceError, StorageError
from sluice.core.gzip import SLICE
from sluice.core.plan import Source
from sluice.core.spec import SourceKind, SourceRef, read_generator
from sluice.local import LocalObjects
from sluice.local.manifests import Reader
from sluice.local.state import STATE
from sluice.logs import logger
from sluice.metrics import Metrics, listen, metrics_handler
from sluice.server import ArtifactServer
from sluice.service import Pools, SystemClock, TurnObserver, collect_for_ever, expose_queue, log_event, measure_lag
from sluice.storage import DiskStorage

DEBOUNCE_MS, STEP_MS = 100, 25
"""How long changes are gathered, and how long nothing may change before they are read."""
RETRY_MS = 30_000
"""After which sources that could not be opened are tried again, and remote ones looked at."""
STORE = "storage"


class Opening(Struct, frozen=True, eq=False):
    """A source that was opened, and the local path to watch for changes, if it has one."""

    source: Source
    path: Path | None


class Opener(Protocol):
    """Opens the sources of generators in a directory, as `sluice build` finds them."""

    def __call__(
        self, refs: Mapping[SourceRef, Path], cache: UnpackedCache
    ) -> Mapping[SourceRef, Opening | SourceError]:
        """Open all of these; each comes with the directory of a manifest that names it. May block."""
        ...


class ServeOptions(Struct, frozen=True, kw_only=True):
    """Everything that an embedded server is told."""

    directory: Path
    settings: Settings
    reader: Reader
    opener: Opener
    concurrent: int = 4
    address: str = "127.0.0.1:9090"
    metrics_address: str = ""


class LocalSources:
    """What the sources of a directory's generators hold now; a source's name is its digest."""

    def __init__(
        self, objects: LocalObjects, storage: DiskStorage, cache: UnpackedCache, pools: Pools, opener: Opener
    ) -> None:
        self._objects = objects
        self._storage = storage
        self._cache = cache
        self._pools = pools
        self._opener = opener
        self._sources: dict[tuple[SourceKind, str, str], Source] = {}
        self.paths: set[Path] = set()
        """What to watch, besides the directory itself."""
        self.has_errors = False

    async def open(self, ref: SourceRef, artifact: ArtifactStatus) -> Source:
        """A source as it was offered. Raises `SourceError`."""
        if ref.kind is SourceKind.EXTERNAL_ARTIFACT:
            return await self._pools.io(lambda: self._open_artifact(ref, artifact))
        source = self._sources.get((ref.kind, ref.namespace, ref.name))
        if source is None or _digest(source) != artifact.digest:
            raise SourceError(f"source {ref} has changed meanwhile", Code.FETCH, 0.2)
        return source

    def _open_artifact(self, ref: SourceRef, artifact: ArtifactStatus) -> Source:
        opened = self._storage.open(ref.namespace, ref.name, artifact.path.rpartition("/")[2])
        if opened is None:
            raise SourceError(f"file not found: {artifact.path}, source {ref}", Code.FETCH)
        with opened.file as file:
            unpacked = self._cache.open(iter(lambda: file.read(SLICE), b""), artifact.digest)
        return Source(unpacked.tree, artifact.revision, artifact.digest, artifact.url, artifact.origin_revision)

    async def scan(self, manifests: Mapping[SourceRef, Path]) -> None:
        """Open everything anew and offer what changed."""
        opened = await self._pools.io(lambda: self._opener(manifests, self._cache))
        self.has_errors = any(isinstance(result, SourceError) for result in opened.values())
        self.paths = {result.path for result in opened.values() if isinstance(result, Opening) and result.path}
        for ref, result in opened.items():
            key = (ref.kind, ref.namespace, ref.name)
            if isinstance(result, SourceError):
                logger().error(f"source {ref}: {result}")
                if key not in self._sources:
                    self._objects.offer(ref, None)
                continue  # what was there stays, as in a cluster
            source = result.source
            known = self._sources.get(key)
            self._sources[key] = source
            if known is None or (_digest(known), known.revision) != (_digest(source), source.revision):
                self._objects.offer(ref, _offer(ref, source))


def _digest(source: Source) -> str:
    return f"sha256:{source.tree.digest.hex()}"


def _offer(ref: SourceRef, source: Source) -> ArtifactStatus:
    metadata = {} if source.origin_revision is None else {"org.opencontainers.image.revision": source.origin_revision}
    path = f"{ref.kind.lower()}/{ref.namespace}/{ref.name}"
    return ArtifactStatus(_digest(source), path, f"local:{path}", source.revision, metadata=metadata)


async def run_server(options: ServeOptions) -> int:
    """Serve a directory until a signal. Raises `SluiceError` where it cannot start."""
    directory = options.directory
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_only_one(directory))
        clock, pools, metrics = SystemClock(), Pools(), Metrics()
        stack.callback(pools.abandon)
        store = directory / STATE / STORE
        store.mkdir(parents=True, exist_ok=True)
        storage = DiskStorage(store, limits=options.settings.limits)
        objects = LocalObjects(directory, clock.now, reader=options.reader, told=log_event)
        cache = UnpackedCache(limits=options.settings.limits)
        sources = LocalSources(objects, storage, cache, pools, options.opener)
        reconciler = Reconciler(
            objects,
            storage,
            sources,
            Builder(storage, cache.unpack),
            pools,
            clock,
            options.settings,
            TurnObserver(metrics),
            random.Random(),  # noqa: S311  spreads the load, guards nothing
        )
        expose_queue(metrics, reconciler, options.concurrent)
        if runner := await listen(options.metrics_address, metrics_handler(metrics)):
            stack.push_async_callback(runner.cleanup)
        server = ArtifactServer(storage)
        await server.start(options.address)
        stack.push_async_callback(server.stop)
        logger().info("serving", directory=str(directory), address=options.address)
        looked = asyncio.Event()
        work = [
            _follow(options, objects, sources, stopping, looked),
            measure_lag(metrics),
            collect_for_ever(reconciler, options.settings),
            *(_work(reconciler, looked) for _ in range(options.concurrent)),
        ]
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in (stop, *tasks):
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
    return 0


async def _work(reconciler: Reconciler, looked: asyncio.Event) -> None:
    """Reconcile for ever, once there is something to reconcile with."""
    await looked.wait()
    await reconciler.work()


async def _follow(
    options: ServeOptions,
    objects: LocalObjects,
    sources: LocalSources,
    stopping: asyncio.Event,
    looked: asyncio.Event,
) -> None:
    """Read what is there, set `looked`, and then read whatever changes."""
    directory = options.directory
    problems: list[Problem] = []
    paths: set[Path] = set()
    while not stopping.is_set():
        watched = {directory, *(path for path in sources.paths if path.exists())}
        if watched != paths:
            # Watch first, then look: nothing that changes in between is missed.
            paths, watcher = watched, RustNotify(sorted(map(str, watched)), False, False, 0, True, False)
            problems = _tell(objects.refresh(), problems)
            await sources.scan(_needed(objects))
            looked.set()
            continue
        changes = await asyncio.to_thread(watcher.watch, DEBOUNCE_MS, STEP_MS, RETRY_MS, stopping)
        if changes in ("stop", "signal"):
            return
        changed = {Path(name) for _, name in changes} if isinstance(changes, set) else set()
        changed = {path for path in changed if not path.is_relative_to(directory / STATE / STORE)}
        ours = [path for path in changed if path.is_relative_to(directory)]
        if ours:
            problems = _tell(objects.refresh(ours), problems)
        # Now and then nothing changed: time to look at what cannot be watched.
        if not isinstance(changes, set) or any(not path.is_relative_to(directory / STATE) for path in changed):
            await sources.scan(_needed(objects))


def _tell(problems: list[Problem], known: Iterable[Problem]) -> list[Problem]:
    for problem in problems:
        if problem not in known:
            logger().error(str(problem))
    return problems


def _needed(objects: LocalObjects) -> dict[SourceRef, Path]:
    """The sources that generators name, apart from artifacts of other generators."""
    needed: dict[SourceRef, Path] = {}
    for manifest, home in objects.declared_generators():
        for ref in read_generator(manifest).sources:
            if ref.kind is not SourceKind.EXTERNAL_ARTIFACT:
                needed.setdefault(ref, home)
    return needed


@asynccontextmanager
async def _only_one(directory: Path) -> AsyncIterator[None]:
    """Hold the directory for this process. Raises `StorageError` where another one has it."""
    state = directory / STATE
    try:
        state.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"'{directory}': {(error.strerror or 'cannot be used').lower()}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(f"'{directory}' is served by another process already") from error
        yield
    finally:
        os.close(descriptor)
