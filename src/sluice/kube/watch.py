"""Follow all objects of a kind, for ever.

List, then watch from where the list ended, and again from the last version seen whenever the watch
ends. Only when the server has forgotten that version (410) is the list read again, and what differs
from what was reported before is reported then: so the caller sees every object's latest state, never
one twice, and never misses that one is gone.

For this only the version of each object is kept here, not the object. A stream that has nothing to
say is not trusted: the server sends a bookmark about every minute.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from http import HTTPStatus
from typing import Generic, NoReturn, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct

from sluice.core.errors import ApiError
from sluice.core.limits import MIB
from sluice.kube import shallow
from sluice.kube.client import PAGE, Client, Undecodable, decode
from sluice.kube.clock import SYSTEM_CLOCK, Clock
from sluice.kube.errors import STATUS, Refused, Unreachable
from sluice.kube.kinds import Key, Kind

FIRST_DELAY, LAST_DELAY, GROWTH = 0.8, 30.0, 1.3
SERVER_TIMEOUT = (300, 600)
"""Seconds after which the server ends a watch; at random, so that not all come back at once."""
INACTIVITY = 75.0
"""Seconds of silence, bookmarks included, after which a connection counts as dead."""
MAX_LINE = 4 * MIB
"""One event. Objects are smaller than 2 MiB, the limit of what stores them."""


class HasMetadata(Protocol):
    """What an object needs to be followed; `sluice.kube.kinds.Metadata` fits."""

    @property
    def metadata(self) -> _Metadata: ...


class _Metadata(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def resource_version(self) -> str: ...


T = TypeVar("T", bound=HasMetadata)


class Changed(Struct, Generic[T], frozen=True):
    """An object is new or has changed."""

    object: T


class Gone(Struct, Generic[T], frozen=True):
    """An object is deleted; its last state, unless that went unseen."""

    key: Key
    object: T | None


class Synced(Struct, frozen=True):
    """A list was read to its end: everything that exists has been reported."""


Event: TypeAlias = Changed[T] | Gone[T] | Undecodable | Synced


class _Line(Struct, frozen=True):
    type: str
    object: Raw


class _Bookmark(Struct, frozen=True):
    metadata: _Version


class _Version(Struct, frozen=True, rename="camel"):
    resource_version: str


_LINE = msgspec.json.Decoder(_Line)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)


class _StartOver(Exception):
    """We cannot go on from the version we have; `error` tells why, unless that is quite usual."""

    def __init__(self, error: ApiError | None = None) -> None:
        self.error = error


class Watch(Generic[T]):
    """All objects of a kind, or those of a namespace or selector.

    Nothing here fails for good, so whether a watch is healthy shows in its `age`.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind,
        decoder: msgspec.json.Decoder[T],
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        page: int = PAGE,
        inactivity: float = INACTIVITY,
        failed: Callable[[Kind, ApiError], None] = lambda kind, error: None,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
    ) -> None:
        self.kind = kind
        self._client = client
        self._decoder = decoder
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._page = page
        self._inactivity = inactivity
        self._failed = failed
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311  spreads retries, guards nothing
        self._heard = clock.monotonic()
        self._known: dict[Key, str] = {}
        self._version = ""
        self._is_news = False  # something was reported since the last list
        self._delay = FIRST_DELAY

    def age(self) -> float:
        """Seconds since the server was last heard."""
        return self._clock.monotonic() - self._heard

    async def run(self, handle: Callable[[Event[T]], None]) -> NoReturn:
        """Report to `handle`, which must not raise, until cancelled.

        What fails is told to `failed` and tried again after a pause; pauses grow until the server
        reports something.
        """
        while True:
            try:
                if not self._version:
                    await self._list(handle)
                await self._follow(handle)
            except _StartOver as again:
                self._version = ""
                if again.error:
                    await self._pause(again.error)
            except ApiError as error:
                await self._pause(error)

    async def _pause(self, error: ApiError) -> None:
        self._failed(self.kind, error)
        told = error.retry_after if isinstance(error, Refused) else None
        delay = self._delay * self._rng.uniform(0.8, 1.0)
        self._delay = min(self._delay * GROWTH, LAST_DELAY)
        await self._clock.sleep(max(delay, told or 0.0))

    async def _list(self, handle: Callable[[Event[T]], None]) -> None:
        """Report what differs from what was reported before."""
        seen: set[Key] = set()
        version = ""
        is_complete = True
        pages = self._client.pages(
            self.kind, self._namespace, self._decoder, labels=self._labels, fields=self._fields, limit=self._page
        )
        async with aclosing(pages):
            async for page in pages:
                self._heard = self._clock.monotonic()
                items: list[T | Undecodable] = [*page.items, *page.undecodable]
                for item in items:
                    key, item_version = _identify(item)
                    if key is None:
                        is_complete = False
                    else:
                        seen.add(key)
                        if self._known.get(key) == item_version:
                            continue
                        self._known[key] = item_version
                    handle(item if isinstance(item, Undecodable) else Changed(item))
                version = page.version
        # An object without a readable name may be any of those not seen: then none of them is gone.
        for key in self._known.keys() - seen if is_complete else ():
            del self._known[key]
            handle(Gone(key, None))
        self._version = version
        self._is_news = False
        handle(Synced())

    async def _follow(self, handle: Callable[[Event[T]], None]) -> None:
        """Report changes until the server ends the watch."""
        query = {
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._rng.randint(*SERVER_TIMEOUT)),
            "labelSelector": self._labels,
            "fieldSelector": self._fields,
        }
        lines = Lines(MAX_LINE)
        heard = False
        try:
            async with self._client.open_watch(self.kind, self._namespace, query) as read:
                while chunk := await self._within_inactivity(read):
                    self._heard = self._clock.monotonic()
                    for line in lines.feed(chunk):
                        self._take(line, handle)
                        heard = True
        except Refused as error:
            raise self._start_over(error) from error
        if not heard:
            raise Unreachable(f"{self.kind.resource}: the server ended a watch at once")

    def _start_over(self, error: Refused) -> ApiError | _StartOver:
        """What follows from a refusal: busy servers are asked the same again, others for a list."""
        if error.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            return error
        # 410 means that our version is too old to resume from. That is usual, unless a list just gave it.
        return _StartOver(None if error.status == HTTPStatus.GONE and self._is_news else error)

    async def _within_inactivity(self, read: Callable[[], Awaitable[bytes]]) -> bytes:
        try:
            async with asyncio.timeout(self._inactivity):
                return await read()
        except TimeoutError:
            raise Unreachable(f"{self.kind.resource}: nothing heard for {self._inactivity:g} s") from None

    def _take(self, line: bytes, handle: Callable[[Event[T]], None]) -> None:
        try:
            what, data = _parse_line(line)
            if what == "ERROR":
                status = STATUS.decode(data)
                raise status.error(HTTPStatus.INTERNAL_SERVER_ERROR, f"{self.kind.resource}: the watch failed")
            version = _BOOKMARK.decode(data).metadata.resource_version if what == "BOOKMARK" else ""
        except msgspec.DecodeError as error:
            # Whatever this was meant to report, a list will tell.
            raise _StartOver(Unreachable(f"{self.kind.resource}: the watch sent what is no event")) from error
        self._is_news = True
        self._delay = FIRST_DELAY
        if version:
            self._version = version
            return
        item = decode(data, self._decoder)
        key, version = _identify(item)
        self._version = version or self._version
        if key is not None and what == "DELETED":
            self._known.pop(key, None)
            handle(Gone(key, None if isinstance(item, Undecodable) else item))
            return
        if key is not None:
            self._known[key] = version
        handle(item if isinstance(item, Undecodable) else Changed(item))


def _identify(item: HasMetadata | Undecodable) -> tuple[Key | None, str]:
    if isinstance(item, Undecodable):
        return item.key, item.version
    return (item.metadata.namespace, item.metadata.name), item.metadata.resource_version


def _parse_line(line: bytes) -> tuple[str, bytes | Raw]:
    try:
        event = _LINE.decode(line)
    except RecursionError:
        parts = shallow.members(line)
        return shallow.text(parts.get("type")), parts.get("object", b"")
    return event.type, event.object


class Lines:
    """Cuts chunks of any size into lines; there is none longer than `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that end in this chunk, without their ends; blank ones left out."""
        *ends, rest = chunk.split(b"\n")
        if ends:
            ends[0] = b"".join([*self._held, ends[0]])
            self._held, self._size = [], 0
            yield from filter(None, ends)
        if rest:
            self._held.append(rest)
            self._size += len(rest)
            if self._size > self._limit:
                raise _StartOver(Unreachable(f"the watch sent an event of more than {self._limit} bytes"))
