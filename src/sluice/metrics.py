"""Metrics for Prometheus, under the names that dashboards for Flux controllers know, and the probes."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from enum import StrEnum
from http import HTTPStatus

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from sluice.core.errors import StorageError

CONTROLLER = "artifactgenerator"

RECONCILE_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    *(1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 60),
)
QUEUE_BUCKETS = tuple(1e-8 * 10**power for power in range(12))
LAG_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Result(StrEnum):
    """How a reconciliation ended, in the words of controller-runtime."""

    SUCCESS = "success"
    ERROR = "error"
    REQUEUE_AFTER = "requeue_after"
    REQUEUE = "requeue"


class Metrics:
    """Every metric of the process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        by_controller = ["controller"]
        by_queue = ["name", "controller"]

        def counter(name: str, text: str, labels: list[str]) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, labels: list[str]) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def histogram(name: str, text: str, labels: list[str], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, labels, registry=registry, buckets=buckets)

        reconciles = counter(
            "controller_runtime_reconcile_total", "Reconciliations by outcome", ["controller", "result"]
        )
        self.reconciles = {result: reconciles.labels(CONTROLLER, result) for result in Result}
        self.errors = counter(
            "controller_runtime_reconcile_errors_total", "Reconciliations that failed", by_controller
        ).labels(CONTROLLER)
        self.terminal_errors = counter(
            "controller_runtime_terminal_reconcile_errors_total", "Failures that only a change can mend", by_controller
        ).labels(CONTROLLER)
        self.panics = counter(
            "controller_runtime_reconcile_panics_total", "Reconciliations that ended in a bug", by_controller
        ).labels(CONTROLLER)
        self.timeouts = counter(
            "controller_runtime_reconcile_timeouts_total", "Reconciliations that took too long", by_controller
        ).labels(CONTROLLER)
        self.reconcile_time = histogram(
            "controller_runtime_reconcile_time_seconds", "Length of a reconciliation", by_controller, RECONCILE_BUCKETS
        ).labels(CONTROLLER)
        self.workers = gauge("controller_runtime_max_concurrent_reconciles", "Workers", by_controller).labels(
            CONTROLLER
        )
        self.active_workers = gauge(
            "controller_runtime_active_workers", "Workers that have something to do", by_controller
        ).labels(CONTROLLER)
        self._depth = gauge("workqueue_depth", "Generators that wait", [*by_queue, "priority"])
        self.queue_adds = counter("workqueue_adds_total", "Generators added", by_queue).labels(CONTROLLER, CONTROLLER)
        self.queue_retries = counter("workqueue_retries_total", "Generators added with a delay", by_queue).labels(
            CONTROLLER, CONTROLLER
        )
        self.queue_time = histogram(
            "workqueue_queue_duration_seconds", "Waiting in the queue", by_queue, QUEUE_BUCKETS
        ).labels(CONTROLLER, CONTROLLER)
        self.work_time = histogram(
            "workqueue_work_duration_seconds", "Work on one generator", by_queue, QUEUE_BUCKETS
        ).labels(CONTROLLER, CONTROLLER)
        self.unfinished = gauge("workqueue_unfinished_work_seconds", "Time spent on what is not done", by_queue).labels(
            CONTROLLER, CONTROLLER
        )
        self.longest = gauge(
            "workqueue_longest_running_processor_seconds", "Age of the oldest unfinished work", by_queue
        ).labels(CONTROLLER, CONTROLLER)
        self._requests = counter("rest_client_requests_total", "Requests to the API server", ["code", "method", "host"])
        self._leader = gauge("leader_election_master_status", "1 for the leader, 0 for a standby", ["name"])
        self.loop_lag = Histogram(
            "sluice_event_loop_lag_seconds", "How late the event loop runs", registry=registry, buckets=LAG_BUCKETS
        )
        self._watch_age = gauge("sluice_watch_age_seconds", "Time since the API server was heard", ["kind"])
        self._values = gauge("sluice_state", "Counts of the running process", ["what"])

    def count_request(self, code: str, method: str, host: str) -> None:
        self._requests.labels(code, method, host).inc()

    def depth(self, priority: str, count: Callable[[], float]) -> None:
        """Report the length of a lane whenever it is asked for."""
        self._depth.labels(CONTROLLER, CONTROLLER, priority).set_function(count)

    def lead(self, lease: str, leads: Callable[[], float]) -> None:
        self._leader.labels(lease).set_function(leads)

    def watch_age(self, kind: str, age: Callable[[], float]) -> None:
        self._watch_age.labels(kind).set_function(age)

    def value(self, what: str, value: Callable[[], float]) -> None:
        """Report a count of ours, such as downloads, whenever it is asked for."""
        self._values.labels(what).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def metrics_handler(metrics: Metrics) -> Handler:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/metrics":
            return web.Response(status=HTTPStatus.NOT_FOUND)
        return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    return handle


async def answer_health(request: web.BaseRequest) -> web.StreamResponse:
    """Health and readiness of the process: it answers, so it is healthy.

    Never asks the API server: an outage there must not restart anybody here.
    """
    if request.path.removesuffix("/ping") not in ("/healthz", "/readyz"):
        return web.Response(status=HTTPStatus.NOT_FOUND)
    if "verbose" in request.query:
        return web.Response(text=f"[+]ping ok\n{request.path[1:]} check passed\n")
    return web.Response(text="ok")


async def listen(address: str, handler: Handler) -> web.ServerRunner | None:
    """Serve a handler on ``host:port``; nothing for ``0`` or an empty address. Raises `StorageError`."""
    if address in ("", "0"):
        return None
    host, _, port = address.rpartition(":")
    runner = web.ServerRunner(web.Server(handler, access_log=None))
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]") or None, int(port), reuse_address=True).start()
    except (OSError, ValueError) as error:
        await runner.cleanup()
        reason = "not an address (host:port)"
        if isinstance(error, OSError):
            number = error.errno or 0  # of the name service where it is negative
            reason = (os.strerror(number) if number > 0 else str(error.strerror)).lower()
        raise StorageError(f"cannot listen on {address}: {reason}") from error
    return runner
