"""Tell people what happens: in the cluster's list of events, and by posts to a notification receiver.

Nothing here may hold up or fail a reconciliation: what is to be told waits in bounded queues, and
what does not fit, or fails, is reported and forgotten.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Generic, NoReturn, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from msgspec import Struct

from sluice.control.objects import EVENT_ANNOTATION_PREFIX, Event, EventKind, Generator
from sluice.core.errors import ApiError
from sluice.kube.client import Client, Patch
from sluice.kube.clock import SYSTEM_CLOCK, Clock
from sluice.kube.errors import Refused, Unreachable, describe
from sluice.kube.folding import GENERATORS, Folding, Told
from sluice.kube.kinds import ARTIFACT_GENERATOR, EVENT, FIELD_MANAGER

COMPONENT = FIELD_MANAGER
"""Who tells, in events: the peer's name, which alerts and dashboards know."""
QUEUE = 5000
"""How many events may wait: those of a first build of a thousand generators."""
UNCHANGED_EVERY = 300.0
"""Seconds in which a generator's events that tell of no change are told once."""
POLITENESS = 5.0
"""Seconds that an event waits at most for writes of objects."""
TRIES, TRY_EVERY = 12, 10.0

POST_TIMEOUT = 5.0
POST_DELAYS = (1.0, 2.0, 4.0, 8.0)
MAX_RETRY_AFTER = 60.0
REVISION_METADATA = "source.extensions.fluxcd.io/revision"

T = TypeVar("T")
Failed = Callable[[ApiError], None]
Tell = Callable[[Generator, Event], None]


class _Outbox(Generic[T]):
    """What waits to be sent, so many at most; what does not fit is counted."""

    def __init__(self, failed: Failed) -> None:
        self._failed = failed
        self._queue: asyncio.Queue[T] = asyncio.Queue(QUEUE)
        self._lost = 0

    def put(self, item: T) -> None:
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            self._lost += 1

    async def send(self, send: Callable[[T], Awaitable[None]]) -> NoReturn:
        """Send one after the other, for ever; what fails is told."""
        while True:
            item = await self._queue.get()
            if self._lost:
                self._failed(ApiError(f"{self._lost} events were dropped: {QUEUE} others waited"))
                self._lost = 0
            try:
                await send(item)
            except ApiError as error:
                self._failed(error)
            finally:
                self._queue.task_done()

    async def flush(self, within: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._queue.join()


class _Created(Struct):
    pass


_CREATED = msgspec.json.Decoder(_Created)


class _Queued(Struct, frozen=True):
    generator: Generator
    event: Event
    at: datetime
    until: float
    """When it has waited for other writes long enough."""


class Recorder:
    """Writes events about generators into the cluster, one after the other, while `run` runs.

    `log` is told every event, `post` every one that is not a mere repetition of no change.
    """

    def __init__(
        self,
        client: Client,
        instance: str,
        *,
        log: Tell = lambda generator, event: None,
        post: Tell = lambda generator, event: None,
        failed: Failed = lambda error: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._client = client
        self._instance = instance
        self._log = log
        self._post = post
        self._clock = clock
        self._folding = Folding(clock)
        self._outbox: _Outbox[_Queued] = _Outbox(failed)
        self._unchanged: OrderedDict[str, float] = OrderedDict()
        self._writes = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def record(self, generator: Generator, event: Event) -> None:
        """Tell people; never waits and never fails."""
        self._log(generator, event)
        if event.unchanged and not self._is_due(generator.uid):
            return
        self._post(generator, event)
        until = self._clock.monotonic() + POLITENESS
        self._outbox.put(_Queued(generator, event, self._clock.now(), until))

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """While objects are written, events wait."""
        self._writes += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._writes -= 1
            if not self._writes:
                self._quiet.set()

    async def run(self) -> NoReturn:
        await self._outbox.send(self._send)

    async def flush(self, within: float) -> None:
        """Wait until everything is written, but not longer than that."""
        await self._outbox.flush(within)

    def _is_due(self, uid: str) -> bool:
        now = self._clock.monotonic()
        before = self._unchanged.get(uid)
        if before is not None and now - before < UNCHANGED_EVERY:
            return False
        self._unchanged[uid] = now
        self._unchanged.move_to_end(uid)
        if len(self._unchanged) > GENERATORS:
            self._unchanged.popitem(last=False)
        return True

    async def _send(self, queued: _Queued) -> None:
        told = self._folding.fold(queued.generator, queued.event)
        if told is not None:
            await self._wait(queued.until)
            await self._write(queued, told)

    async def _wait(self, until: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(until - self._clock.monotonic(), 0)):
                while self._writes:
                    await self._quiet.wait()

    async def _write(self, queued: _Queued, told: Told) -> None:
        """Write an event, again and again while the server cannot be reached."""
        for _ in range(TRIES - 1):
            with suppress(Unreachable):
                await self._write_once(queued, told)
                return
            await self._clock.sleep(TRY_EVERY)
        await self._write_once(queued, told)

    async def _write_once(self, queued: _Queued, told: Told) -> None:
        try:
            if not (told.exists and await self._count_up(queued, told)):
                await self._client.create(EVENT, queued.generator.namespace, self._body(queued, told), _CREATED)
        except Refused as error:
            if not _is_moot(error):
                raise

    async def _count_up(self, queued: _Queued, told: Told) -> bool:
        """Count an event up; False if it is no longer there, for the cluster keeps events for an hour."""
        body = {"count": told.count, "message": told.message, "lastTimestamp": _seconds(queued.at)}
        try:
            await self._client.patch(EVENT, queued.generator.namespace, told.name, body, _CREATED, how=Patch.MERGE)
        except Refused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    def _body(self, queued: _Queued, told: Told) -> Mapping[str, object]:
        generator, at = queued.generator, _seconds(queued.at)
        return {
            "metadata": {"name": told.name, "namespace": generator.namespace, "annotations": _forwarded(generator)},
            "involvedObject": _reference(generator),
            "type": told.type,
            "reason": queued.event.reason,
            "message": told.message,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": told.count,
        }


class Poster:
    """Posts events to a notification receiver, one after the other, while `run` runs.

    The address may hold credentials: messages name its host alone.
    """

    def __init__(
        self,
        address: str,
        instance: str,
        *,
        proxy: str = "",
        timeout: float = POST_TIMEOUT,
        failed: Failed = lambda error: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._address = address
        self._host = urlsplit(address).hostname or "without a host"
        self._instance = instance
        self._proxy = proxy
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._clock = clock
        self._outbox: _Outbox[bytes] = _Outbox(failed)

    def post(self, generator: Generator, event: Event) -> None:
        """Have an event posted, unless it is a mere trace; never waits and never fails."""
        if event.kind is not EventKind.TRACE:
            self._outbox.put(msgspec.json.encode(self._body(generator, event)))

    async def run(self) -> NoReturn:
        async with aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            await self._outbox.send(partial(self._deliver, session))

    async def flush(self, within: float) -> None:
        """Wait until everything is posted, but not longer than that."""
        await self._outbox.flush(within)

    async def _deliver(self, session: aiohttp.ClientSession, body: bytes) -> None:
        for usual in POST_DELAYS:
            delay = usual
            try:
                await self._attempt(session, body)
            except Refused as error:
                if error.retry_after is None:
                    raise
                delay = error.retry_after or usual
            except Unreachable:
                pass
            else:
                return
            await self._clock.sleep(delay)
        await self._attempt(session, body)

    async def _attempt(self, session: aiohttp.ClientSession, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        try:
            async with session.post(
                self._address, data=body, headers=headers, proxy=self._proxy or None, allow_redirects=False
            ) as answer:
                status, told = answer.status, answer.headers.get("Retry-After", "")
        except TimeoutError as error:
            raise Unreachable(f"cannot post an event to {self._host}: no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"cannot post an event to {self._host}: {describe(error)}") from error
        # A receiver that knows the event already answers 429, and one that cannot read it 400:
        # to send it again would help neither.
        if status < HTTPStatus.MULTIPLE_CHOICES or HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return
        text = f"cannot post an event to {self._host}: it answered {status}"
        may_repeat = status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED
        wait = min(float(told), MAX_RETRY_AFTER) if status == HTTPStatus.SERVICE_UNAVAILABLE and told.isdecimal() else 0
        raise Refused(text, status, retry_after=wait if may_repeat else None)

    def _body(self, generator: Generator, event: Event) -> Mapping[str, object]:
        metadata = _forwarded(generator)
        if event.revision:
            metadata[REVISION_METADATA] = event.revision
        return {
            "involvedObject": _reference(generator),
            "severity": "error" if event.kind is EventKind.WARNING else "info",
            "timestamp": _seconds(self._clock.now()),
            "message": event.message,
            "reason": event.reason,
            **({"metadata": metadata} if metadata else {}),
            "reportingController": COMPONENT,
            "reportingInstance": self._instance,
        }


def _forwarded(generator: Generator) -> dict[str, str]:
    """The annotations of a generator that go into its events."""
    return {name: value for name, value in generator.annotations.items() if name.startswith(EVENT_ANNOTATION_PREFIX)}


def _reference(generator: Generator) -> Mapping[str, str]:
    return {
        "kind": ARTIFACT_GENERATOR.name,
        "namespace": generator.namespace,
        "name": generator.name,
        "uid": generator.uid,
        "apiVersion": ARTIFACT_GENERATOR.api_version,
        "resourceVersion": generator.resource_version,
    }


def _seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def _is_moot(error: Refused) -> bool:
    """Whether nobody misses this event: its namespace is gone or going, or an earlier try was written."""
    is_going = error.status == HTTPStatus.FORBIDDEN and "metadata.namespace" in error.fields
    return is_going or error.status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
