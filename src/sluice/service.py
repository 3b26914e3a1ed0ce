"""Wire everything together for a process that runs until it is told to end.

`run_controller` is the product in a cluster. The order of its start follows the peer: what cannot
work ends the process before anything listens; probes and metrics answer before the election; the
view is kept by every replica, so a standby can serve and take over at once; only the leader works.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from sluice import __version__
from sluice.build import Builder
from sluice.cache import UnpackedCache
from sluice.control.conditions import Reason
from sluice.control.objects import Event, EventKind, Generator, Key
from sluice.control.ports import Settings
from sluice.control.queue import Lane
from sluice.control.reconcile import Ended, Reconciler
from sluice.core.errors import ApiError, SluiceError
from sluice.fetch import Fetcher, Rules
from sluice.kube.client import Client
from sluice.kube.config import load_config, service_account_namespace
from sluice.kube.credentials import Credentials
from sluice.kube.events import Poster, Recorder
from sluice.kube.kinds import Kind
from sluice.kube.leader import Durations, Election, lease_name, new_identity
from sluice.kube.objects import KubeObjects, Scope
from sluice.kube.proxy import proxy_for
from sluice.kube.watch import INACTIVITY
from sluice.logs import logger
from sluice.metrics import Metrics, Result, answer_health, listen, metrics_handler
from sluice.server import ArtifactServer, advertised_base
from sluice.storage import DiskStorage

T = TypeVar("T")

GRACE = 5.0
"""Seconds that reconciliations may take to end after a signal; the whole process has nine."""
DRAIN = 2.0
LOOP_CHECK = 0.1
READY_FOR = 1.0
"""Seconds for which a standby's answer about its readiness is good."""


class ControllerOptions(Struct, frozen=True, kw_only=True):
    """Everything that a controller is told. Times are in seconds."""

    settings: Settings
    concurrent: int = 10
    metrics_addr: str = ":8080"
    health_addr: str = ":9440"
    events_addr: str = ""
    http_retry: int = 9
    storage_path: Path = Path("/data")
    storage_addr: str = ":9090"
    digest_algorithm: str = "sha256"
    loopback_sources: bool = True
    namespace: str = ""
    """The only namespace to watch; empty for all."""
    label_selector: str = ""
    elect: bool = False
    release_on_cancel: bool = True
    durations: Durations = Durations()
    verify_rate: float = 10.0
    """Megabytes of published files that are read again in a second, to find damage; 0 for none."""
    watch_inactivity: float = INACTIVITY
    """Seconds without a word from the API server after which a watch counts as dead."""


class Pools:
    """Threads: for the processor, for the disk, and for downloads, which wait for the network."""

    def __init__(self) -> None:
        processors = len(os.sched_getaffinity(0))
        self.processor = ThreadPoolExecutor(processors, "build")
        self.disk = ThreadPoolExecutor(4, "disk")
        self.network = ThreadPoolExecutor(8, "fetch")

    async def build(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.processor, work)

    async def io(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.disk, work)

    async def fetch(self, work: Callable[[], T]) -> T:
        """Work that waits for the network."""
        return await asyncio.get_running_loop().run_in_executor(self.network, work)

    def abandon(self) -> None:
        """Wait for nothing that still runs: it is only worth something to this process."""
        for pool in (self.processor, self.disk, self.network):
            pool.shutdown(wait=False, cancel_futures=True)


class SystemClock:
    """The machine's time."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class TurnObserver:
    """Counts and logs every turn of the reconciler."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._running: dict[Key, float] = {}
        metrics.active_workers.set_function(lambda: len(self._running))
        metrics.unfinished.set_function(lambda: sum(time.monotonic() - begun for begun in self._running.values()))
        metrics.longest.set_function(
            lambda: max((time.monotonic() - begun for begun in self._running.values()), default=0.0)
        )

    def began(self, key: Key) -> None:
        self._running[key] = time.monotonic()

    def ended(self, ended: Ended) -> None:
        metrics = self._metrics
        self._running.pop(ended.key, None)
        metrics.reconcile_time.observe(ended.seconds)
        metrics.work_time.observe(ended.seconds)
        metrics.queue_time.observe(ended.waited)
        trouble = ended.trouble
        failed = ended.bug is not None or (trouble is not None and trouble.reason is not Reason.SOURCE_FETCH_FAILED)
        metrics.reconciles[Result.ERROR if failed else Result.REQUEUE_AFTER].inc()
        if failed:
            metrics.errors.inc()
        if trouble is not None and trouble.is_terminal:
            metrics.terminal_errors.inc()
        if ended.is_timeout:
            metrics.timeouts.inc()
        if ended.bug is not None:
            metrics.panics.inc()
            _log_turn(ended.key).error("a bug ended the reconciliation", exc_info=ended.bug)
        elif ended.drift is not None:
            _log_turn(ended.key).debug("drift detected", reason=str(ended.drift), seconds=round(ended.seconds, 3))


def _log_turn(key: Key):  # type: ignore[no-untyped-def]  # structlog's type is its own
    namespace, name = key
    return logger().bind(
        controller="artifactgenerator",
        controllerGroup="source.extensions.fluxcd.io",
        controllerKind="ArtifactGenerator",
        ArtifactGenerator={"name": name, "namespace": namespace},
        namespace=namespace,
        name=name,
        reconcileID=str(uuid.uuid4()),
    )


def log_event(generator: Generator, event: Event) -> None:
    """Log what people are told."""
    log = _log_turn(generator.key)
    if event.kind is EventKind.WARNING:
        log.error(event.message, reason=event.reason)
    elif event.unchanged:
        log.debug(event.message, reason=event.reason)
    else:
        log.info(event.message, reason=event.reason)


async def run_controller(options: ControllerOptions, environ: Mapping[str, str]) -> int:
    """Run until a signal (0) or until the lease is lost (1). Raises `SluiceError` where it cannot start."""
    log = logger()
    hostname = environ.get("HOSTNAME") or socket.gethostname()
    storage = DiskStorage(options.storage_path, limits=options.settings.limits, algorithm=options.digest_algorithm)
    config = load_config(environ)
    credentials = Credentials(config)
    metrics = Metrics()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(config, credentials, observe=metrics.count_request))
        for address, handler in (
            (options.metrics_addr, metrics_handler(metrics)),
            (options.health_addr, answer_health),
        ):
            if runner := await listen(address, handler):
                stack.push_async_callback(runner.cleanup)
        proxy = proxy_for(environ, options.events_addr) if options.events_addr else ""
        poster = (
            Poster(options.events_addr, hostname, proxy=proxy, failed=_log_failure) if options.events_addr else None
        )
        post = poster.post if poster is not None else _post_nothing
        recorder = Recorder(client, hostname, log=log_event, post=post, failed=_log_failure)
        scope = Scope(options.namespace, options.label_selector)
        objects = KubeObjects(client, recorder, scope, inactivity=options.watch_inactivity, failed=_log_watch)
        pools = Pools()
        stack.callback(pools.abandon)
        fetcher = await stack.enter_async_context(_fetcher(options, environ, pools))
        reconciler = Reconciler(
            objects,
            storage,
            fetcher,
            Builder(storage, UnpackedCache(limits=options.settings.limits).unpack),
            pools,
            SystemClock(),
            options.settings,
            TurnObserver(metrics),
            random.Random(),  # noqa: S311  spreads the load, guards nothing
        )
        expose_queue(metrics, reconciler, options.concurrent)
        _expose(metrics, objects, fetcher)
        controller = _Controller(options, storage, objects, reconciler, metrics)
        server = ArtifactServer(storage, ready=controller.is_ready, drain=DRAIN)
        await server.start(options.storage_addr)
        stack.push_async_callback(server.stop)
        log.info("starting", version=__version__, dialect=options.settings.dialect.name)
        work = [objects.run(), recorder.run(), measure_lag(metrics)]
        background = [asyncio.create_task(task) for task in (*work, *([poster.run()] if poster is not None else ()))]
        election = None
        if options.elect:
            election = Election(
                config,
                credentials,
                service_account_namespace(),
                lease_name(options.label_selector),
                new_identity(hostname),
                durations=options.durations,
                release=options.release_on_cancel,
                failed=_log_election,
                observe=metrics.count_request,
            )
            metrics.lead(lease_name(options.label_selector), election.holds)
        try:
            return await controller.run(election, stopping, background)
        finally:
            await recorder.flush(1.0)
            if poster is not None:
                await poster.flush(1.0)
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)


def _fetcher(options: ControllerOptions, environ: Mapping[str, str], pools: Pools) -> Fetcher:
    rules = Rules(
        limits=options.settings.limits,
        loopback=options.loopback_sources,
        own_address=options.settings.base_url.partition("://")[2],
        localhost=environ.get("SOURCE_CONTROLLER_LOCALHOST", ""),
        retries=options.http_retry,
        deadline=options.settings.timeout,
    )
    return Fetcher(UnpackedCache(limits=options.settings.limits), pools.network, time.monotonic, rules)


def expose_queue(metrics: Metrics, reconciler: Reconciler, concurrent: int) -> None:
    """Report the reconciler's workers and queue."""
    metrics.workers.set(concurrent)
    queue = reconciler.queue
    metrics.depth("0", lambda: queue.depth(Lane.MAIN))
    metrics.depth("-100", lambda: queue.depth(Lane.REFRESH))


def _expose(metrics: Metrics, objects: KubeObjects, fetcher: Fetcher) -> None:
    metrics.value("source_downloads", lambda: fetcher.downloads)
    metrics.value("source_downloaded_bytes", lambda: fetcher.downloaded_bytes)
    for resource in objects.ages():
        metrics.watch_age(resource, lambda resource=resource: objects.ages()[resource])  # type: ignore[misc]


class _Controller:
    """The part of a controller that only a leader does, and what a standby says of itself."""

    def __init__(
        self,
        options: ControllerOptions,
        storage: DiskStorage,
        objects: KubeObjects,
        reconciler: Reconciler,
        metrics: Metrics,
    ) -> None:
        self._options = options
        self._storage = storage
        self._objects = objects
        self._reconciler = reconciler
        self._metrics = metrics
        self._leads = False
        self._synced = False
        self._standby_ready = (0.0, False)

    async def run(
        self, election: Election | None, stopping: asyncio.Event, background: list[asyncio.Task[None]]
    ) -> int:
        """Lead when it is our turn; 0 after a signal, 1 when the lease was lost."""
        stop = asyncio.create_task(stopping.wait())
        elected = asyncio.Event()
        standing = asyncio.create_task(election.run(elected.set)) if election is not None else None
        if standing is None:
            elected.set()
        leading = asyncio.create_task(self._lead(elected))
        watched = [task for task in (stop, standing, leading, *background) if task is not None]
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        if standing is not None and standing.done() and not stop.done():
            logger().error(f"leader election lost: {standing.result()}")
            return 1  # at once: somebody else may lead already
        for task in (leading, *background):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
        logger().info("stopping")
        leading.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait([leading], timeout=GRACE)
        if standing is not None:
            standing.cancel()
            await asyncio.gather(standing, return_exceptions=True)
        return 0

    async def _lead(self, elected: asyncio.Event) -> None:
        await self._objects.synced()
        self._synced = True
        if not elected.is_set():
            await elected.wait()
            await asyncio.to_thread(self._storage.scan)  # another leader may have written here meanwhile
        self._leads = True
        logger().info("leading")
        gc.collect()
        gc.freeze()
        self._reconciler.abandon_strays()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._options.concurrent):
                tasks.create_task(self._reconciler.work())
            tasks.create_task(collect_for_ever(self._reconciler, self._options.settings))
            if self._options.verify_rate:
                tasks.create_task(self._reconciler.keep_verifying(self._options.verify_rate * 1e6))

    def is_ready(self) -> bool:
        """Whether consumers may be sent here: a leader always, a standby if it has all the files."""
        if self._leads or not self._options.elect:
            return self._leads
        now = time.monotonic()
        asked, answer = self._standby_ready
        if now - asked > READY_FOR:
            answer = self._synced and all(map(self._has, self._objects.generators()))
            self._standby_ready = (now, answer)
        return answer

    def _has(self, generator: Generator) -> bool:
        base = f"{self._options.settings.base_url}/"
        for item in generator.status.inventory:
            there = self._objects.artifact((item.namespace, item.name))
            if there is None or there.artifact is None or not there.artifact.url.startswith(base):
                continue
            if not self._storage.holds(item.namespace, item.name, there.artifact.path.rpartition("/")[2]):
                return False
        return True


async def collect_for_ever(reconciler: Reconciler, settings: Settings) -> None:
    """Delete superseded files soon after their time is over."""
    pause = min(max(settings.retention_ttl.total_seconds() / 2, 1.0), 30.0)
    while True:
        await asyncio.sleep(pause)
        try:
            await reconciler.collect_garbage()
        except SluiceError as error:
            logger().error(f"garbage collection failed: {error}")


async def measure_lag(metrics: Metrics) -> None:
    """Measure for ever how late the event loop is."""
    while True:
        due = time.monotonic() + LOOP_CHECK
        await asyncio.sleep(LOOP_CHECK)
        metrics.loop_lag.observe(max(time.monotonic() - due, 0.0))


def _post_nothing(generator: Generator, event: Event) -> None:
    """Where no receiver is configured."""


def _log_failure(error: ApiError) -> None:
    logger().error(str(error))


def _log_election(error: ApiError) -> None:
    logger().error(f"leader election: {error}")


def _log_watch(kind: Kind, error: ApiError) -> None:
    logger().error(f"watch of {kind.resource}: {error}")


def base_url(storage_addr: str, advertised: str, environ: Mapping[str, str]) -> str:
    """What the URLs of artifacts begin with."""
    return advertised_base(storage_addr, advertised, environ.get("HOSTNAME") or socket.gethostname())
