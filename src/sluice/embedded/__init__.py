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
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from sluice.build import Builder
from sluice.cache import UnpackedCache
from sluice.content import describe
from sluice.control.objects import ObservedSource
from sluice.control.ports import Settings
from sluice.control.reconcile import Reconciler
from sluice.core.errors import StorageError
from sluice.core.spec import SourceRef
from sluice.embedded.follow import STORE, Follower
from sluice.embedded.sources import Finder, LocalSources
from sluice.embedded.tell import Announcer, Teller
from sluice.local import LocalObjects
from sluice.local.manifests import Reader
from sluice.local.state import STATE
from sluice.logs import logger
from sluice.metrics import Metrics, listen, metrics_handler
from sluice.server import ArtifactServer, advertised_base, split_address
from sluice.service import Pools, SystemClock, collect_for_ever, expose_queue, measure_lag
from sluice.storage import DiskStorage

VERIFY_RATE = 10e6
"""Bytes of published files that are read again in a second, once an hour."""


class ServeOptions(Struct, frozen=True, kw_only=True):
    """Everything that an embedded server is told; the URLs of artifacts follow from the addresses."""

    directory: Path
    settings: Settings
    reader: Reader
    finder: Finder
    concurrent: int = 8
    address: str = "127.0.0.1:9090"
    advertised_address: str = ""
    hostname: str = "localhost"
    metrics_address: str = ""
    poll: bool = False


class ServedObjects(LocalObjects):
    """The objects of a directory; what a source offers is told when somebody has looked at it."""

    sources: LocalSources

    async def read_source(self, ref: SourceRef) -> ObservedSource | None:
        await self.sources.looked(ref)
        return await super().read_source(ref)


async def run_server(options: ServeOptions) -> int:
    """Serve a directory until a signal. Raises `SluiceError` where it cannot start or go on."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        stack.callback(stopping.set)  # the thread that watches ends with us
        store = stack.enter_context(_only_one(options.directory)) / STORE
        storage = DiskStorage(store, limits=options.settings.limits)
        looked = asyncio.Event()
        server = ArtifactServer(storage, ready=looked.is_set)
        await server.start(options.address)
        stack.push_async_callback(server.stop)
        metrics = Metrics()
        if runner := await listen(options.metrics_address, metrics_handler(metrics)):
            stack.push_async_callback(runner.cleanup)
        pools = Pools()
        stack.callback(pools.abandon)
        base_url = _base_url(options, server.port)
        logger().info("serving", directory=str(options.directory), url=base_url, port=server.port)
        serving = asyncio.create_task(_serve(options, base_url, storage, pools, metrics, stopping, looked))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait([stop, serving], return_when=asyncio.FIRST_COMPLETED)
        for task in (stop, serving):
            task.cancel()
        _, result = await asyncio.gather(stop, serving, return_exceptions=True)
        while isinstance(result, ExceptionGroup):
            result = result.exceptions[0]
        if isinstance(result, Exception):
            raise result
    logger().info("stopped")
    return 0


def _base_url(options: ServeOptions, port: int) -> str:
    host = split_address(options.address)[0]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return advertised_base(address, options.advertised_address, options.hostname)


async def _serve(
    options: ServeOptions,
    base_url: str,
    storage: DiskStorage,
    pools: Pools,
    metrics: Metrics,
    stopping: asyncio.Event,
    looked: asyncio.Event,
) -> None:
    """Follow the directory and reconcile; `looked` is set when all of it was looked at once."""
    settings = replace(options.settings, base_url=base_url, direct_fetch=True)
    clock, teller = SystemClock(), Teller(metrics)
    cache = UnpackedCache(limits=settings.limits)
    objects = ServedObjects(options.directory, clock.now, reader=options.reader, told=teller.record)
    Announcer(objects, base_url)
    async with asyncio.TaskGroup() as tasks:
        sources = LocalSources(objects, storage, cache, pools, options.finder, tasks)
        objects.sources = sources
        reconciler = Reconciler(
            objects,
            storage,
            sources,
            Builder(storage, cache.unpack),
            pools,
            clock,
            settings,
            teller,
            random.Random(),  # noqa: S311  spreads the load, guards nothing
        )
        expose_queue(metrics, reconciler, options.concurrent)
        follower = Follower(
            options.directory, objects, sources, storage, pools, reconciler.queue.add, poll=options.poll
        )
        await follower.begin()
        for generator in objects.generators():
            reconciler.queue.add(generator.key)
        reconciler.abandon_strays()
        for _ in range(options.concurrent):
            tasks.create_task(reconciler.work())
        tasks.create_task(collect_for_ever(reconciler, settings))
        tasks.create_task(reconciler.keep_verifying(VERIFY_RATE))
        tasks.create_task(measure_lag(metrics))
        looked.set()
        await follower.follow(stopping)


@contextmanager
def _only_one(directory: Path) -> Iterator[Path]:
    """Hold the directory for this process; the path is where state is kept.

    Raises `StorageError` where another one has it.
    """
    state = directory / STATE
    try:
        with suppress(FileExistsError):
            state.mkdir(mode=0o700)
            (state / ".gitignore").write_text("*\n")  # nothing in it is for others
        descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"'{state}': {describe(error)}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(f"'{directory}' is served by another process already") from error
        try:
            (state / STORE).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageError(f"'{state}': {describe(error)}") from error
        yield state
    finally:
        os.close(descriptor)
