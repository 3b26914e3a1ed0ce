"""Fetch the archives of sources over HTTP: once for all who ask, and never from where it is forbidden.

An archive is known by its URL and digest together. That it was fetched and verified is remembered
for the pair, so nobody gets bytes by naming a digest; who asks while it is under way waits for the
same download. A source that fails is left alone for a while: whoever asks meanwhile is told at once
what is wrong and when to ask again, so nothing waits for it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import queue
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from msgspec import Struct
from yarl import URL

from sluice.cache import Unpacked, UnpackedCache
from sluice.core.errors import Code, SourceError
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.plan import Source
from sluice.core.spec import SourceKind, SourceRef

WAITS = (5.0, 10.0, 20.0, 30.0)
"""Seconds to leave a failing source alone, by the number of failures in a row; the last one stays."""
MAX_REDIRECTS = 5
SLICE = 256 << 10
FEED = 16
"""Slices that a download may be ahead of what verifies and stores them."""
CONNECTIONS = 32
REMEMBERED = 10_000
KEPT = 2
"""Archives of one source that are kept: its newest, and the one that somebody may still be working on."""


class Rules(Struct, frozen=True):
    """Where sources may come from, and how long that may take. Times are in seconds."""

    limits: Limits = DEFAULT_LIMITS
    loopback: bool = True
    own_address: str = ""
    """Our own advertised ``host:port``, where fetching is always allowed."""
    localhost: str = ""
    """``host:port`` to go to instead of that of every URL, for development."""
    retries: int = 9
    silence: float = 30.0
    """Without a byte for this long a download is given up."""
    deadline: float = 600.0


class Artifact(Protocol):
    """What is asked of a source's artifact; that of its status fits."""

    @property
    def url(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def origin_revision(self) -> str | None: ...


Pair = tuple[str, str]
"""URL and digest."""


class _Setback(Struct, frozen=True):
    """A pair that failed, and until when (monotonic) it is left alone."""

    error: SourceError
    count: int
    until: float


class Fetcher:
    """Opens sources by URL and digest. For one event loop; `clock` gives monotonic seconds."""

    def __init__(self, cache: UnpackedCache, pool: Executor, clock: Callable[[], float], rules: Rules) -> None:
        self._cache = cache
        self._pool = pool
        self._clock = clock
        self._rules = rules
        self._verified: OrderedDict[Pair, str] = OrderedDict()
        self._under_way: dict[Pair, asyncio.Task[Unpacked]] = {}
        self._setbacks: OrderedDict[Pair, _Setback] = OrderedDict()
        self._recent: OrderedDict[tuple[SourceKind, str, str], list[str]] = OrderedDict()
        self._uses: Counter[str] = Counter()
        self._session: aiohttp.ClientSession | None = None
        self.downloads = 0
        self.downloaded_bytes = 0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=_Resolver(self._rules), limit=CONNECTIONS),
            timeout=aiohttp.ClientTimeout(
                total=self._rules.deadline, sock_connect=self._rules.silence, sock_read=self._rules.silence
            ),
            auto_decompress=False,  # the digest is that of the bytes as they come
            read_bufsize=SLICE,
            trust_env=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def open(self, ref: SourceRef, artifact: Artifact) -> Source:
        """A source whose archive has its digest. Raises `SourceError`, naming the source."""
        url = artifact.url
        if self._rules.localhost and ref.kind is not SourceKind.EXTERNAL_ARTIFACT:
            url = _moved(url, self._rules.localhost)
        try:
            unpacked = await self._get((url, artifact.digest))
        except SourceError as error:
            raise SourceError(f"{_verifying(error)}, source {ref}", error.code, error.retry_after) from error
        self._use(ref, unpacked.digest)
        return Source(unpacked.tree, artifact.revision, artifact.digest, artifact.url, artifact.origin_revision)

    def _use(self, ref: SourceRef, digest: str) -> None:
        """Note what a source offers now, and let go of what no source offered lately.

        Nobody asks for the trees of former commits again, and there is one for every commit.
        """
        source = (ref.kind, ref.namespace, ref.name)
        recent = self._recent.setdefault(source, [])
        self._recent.move_to_end(source)
        if digest in recent:
            recent.remove(digest)
        else:
            self._uses[digest] += 1
        recent.append(digest)
        gone = [recent.pop(0)] if len(recent) > KEPT else []
        if len(self._recent) > REMEMBERED:
            gone += self._recent.popitem(last=False)[1]
        for old in gone:
            self._uses[old] -= 1
            if not self._uses[old]:
                del self._uses[old]
                self._cache.forget(old)

    async def _get(self, pair: Pair) -> Unpacked:
        known = self._cache.find(self._verified[pair]) if pair in self._verified else None
        if known is not None:
            self._verified.move_to_end(pair)
            return known
        setback = self._setbacks.get(pair)
        now = self._clock()
        if setback is not None and now < setback.until:
            raise SourceError(str(setback.error), setback.error.code, setback.until - now)
        task = self._under_way.get(pair)
        if task is None:
            task = self._under_way[pair] = asyncio.create_task(self._fetch(pair))
            task.add_done_callback(lambda done: self._settle(pair, done))
        # Whoever waits may give up; the others still want it.
        return await asyncio.shield(task)

    def _settle(self, pair: Pair, task: asyncio.Task[Unpacked]) -> None:
        del self._under_way[pair]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._setbacks.pop(pair, None)
            self._verified[pair] = task.result().digest
            while len(self._verified) > REMEMBERED:
                self._verified.popitem(last=False)
        elif isinstance(error, SourceError) and error.retry_after is not None:
            before = self._setbacks.pop(pair, None)
            count = (before.count if before is not None else 0) + 1
            wait = max(error.retry_after, WAITS[min(count, len(WAITS)) - 1])
            error.retry_after = wait
            if count > self._rules.retries:
                count = 0  # a round of retries is over; the next begins as the first did
            self._setbacks[pair] = _Setback(error, count, self._clock() + wait)
            while len(self._setbacks) > REMEMBERED:
                self._setbacks.popitem(last=False)

    async def _fetch(self, pair: Pair) -> Unpacked:
        url, digest = pair
        shown = redact(url)
        try:
            async with asyncio.timeout(self._rules.deadline):
                return await self._download(url, digest)
        except TimeoutError as error:
            raise _transient(f"failed to download archive: GET {shown}: no answer in time") from error
        except _Forbidden as error:
            raise SourceError(str(error), Code.FETCH) from error
        except aiohttp.InvalidURL as error:
            raise SourceError(f"'{shown}' is not a URL", Code.FETCH) from error
        except (aiohttp.ClientError, OSError) as error:
            forbidden = _forbidden_cause(error)
            if forbidden is not None:
                raise SourceError(str(forbidden), Code.FETCH) from error
            raise _transient(f"failed to download archive: GET {shown}: {_reason(error)}") from error

    async def _download(self, url: str, digest: str) -> Unpacked:
        assert self._session is not None
        where = _parse(url)
        origin = (where.host, where.port)
        for _ in range(MAX_REDIRECTS + 1):
            check_url(where, self._rules)
            async with self._session.get(where, allow_redirects=False) as response:
                if response.status not in (301, 302, 303, 307, 308):
                    return await self._receive(response, digest)
                target = response.headers.get("Location", "")
            where = where.join(_parse(target))
            if (where.host, where.port) != origin:
                there = where.host or redact(str(where))
                raise SourceError(f"redirected to another host, '{there}' (redirects stay on one host)", Code.FETCH)
        raise SourceError(f"more than {MAX_REDIRECTS} redirects", Code.FETCH)

    async def _receive(self, response: aiohttp.ClientResponse, digest: str) -> Unpacked:
        shown = redact(str(response.url))
        status = response.status
        if status == HTTPStatus.NOT_FOUND:
            raise SourceError(f"file not found: {shown}", Code.FETCH)
        if status != HTTPStatus.OK:
            text = f"failed to download archive from {shown} (status: {status} {response.reason})"
            if status == HTTPStatus.TOO_MANY_REQUESTS or (status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED):
                raise _transient(text, _retry_after(response, datetime.now(UTC)))
            raise SourceError(text, Code.FETCH)
        limit = self._rules.limits.download_size
        if (response.content_length or 0) > limit:
            text = f"archive of {response.content_length} bytes is too large (limit: {limit}, download_size)"
            raise SourceError(text, Code.LIMIT)
        self.downloads += 1
        feed = _Feed()
        opening = asyncio.get_running_loop().run_in_executor(self._pool, lambda: self._cache.open(feed, digest))
        try:
            async for chunk in response.content.iter_chunked(SLICE):
                self.downloaded_bytes += len(chunk)
                if opening.done():
                    break  # it was refused already
                await feed.put(chunk)
        except BaseException:
            feed.abort()
            await asyncio.gather(opening, return_exceptions=True)
            raise
        feed.close()
        return await opening


class _Feed:
    """Slices on their way from the event loop to the thread that verifies and stores them."""

    def __init__(self) -> None:
        self._slices: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(FEED)
        self._loop = asyncio.get_running_loop()
        self._aborted = False

    async def put(self, chunk: bytes) -> None:
        await self._room.acquire()
        self._slices.put(chunk)

    def close(self) -> None:
        self._slices.put(None)

    def abort(self) -> None:
        self._aborted = True
        self._slices.put(None)

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._slices.get()) is not None:
            self._loop.call_soon_threadsafe(self._room.release)
            yield chunk
        if self._aborted:
            raise SourceError("the download was given up", Code.FETCH)


# --- where sources may come from ----------------------------------------------------------------


def _parse(url: str) -> URL:
    try:
        parsed = URL(url, encoded=True)
        _ = parsed.port  # judged only when it is asked for
    except ValueError as error:
        raise SourceError(f"'{redact(url)}' is not a URL", Code.FETCH) from error
    return parsed


def _moved(url: str, address: str) -> str:
    """A URL at another ``host:port``; one that has none stays, and is refused later."""
    host, _, port = address.partition(":")
    try:
        return str(URL(url).with_host(host).with_port(int(port) if port.isdecimal() else None))
    except ValueError:
        return url


class _Forbidden(OSError):
    """An address that sources may not come from."""


def check_url(url: URL, rules: Rules) -> None:
    """Raise `SourceError` for a URL that may not be fetched, as far as it tells without a look-up."""
    if url.scheme not in ("http", "https") or not url.host:
        raise SourceError(f"'{redact(str(url))}' is not an http or https URL", Code.FETCH)
    if url.user is not None or url.password is not None:
        raise SourceError(f"'{redact(str(url))}' holds credentials (leave them out)", Code.FETCH)
    try:
        address = ipaddress.ip_address(url.host)
    except ValueError:
        return
    _check_address(address, url.host, url.port or 0, rules)


def _check_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, host: str, port: int, rules: Rules) -> None:
    if f"{host}:{port}" == rules.own_address or (port == 80 and host == rules.own_address):
        return
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        raise _Forbidden(f"address {address} of '{host}' is refused (link-local and multicast never hold sources)")
    if address.is_loopback and not rules.loopback:
        raise _Forbidden(f"address {address} of '{host}' is refused (loopback, --no-loopback-sources)")


class _Resolver(AbstractResolver):
    """Looks names up and refuses forbidden addresses at the moment of connecting, so that a name
    cannot be harmless when it is checked and something else when it is used.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._resolver = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)  # type: ignore[arg-type]  # int is what it takes
        for result in found:
            _check_address(ipaddress.ip_address(result["host"].partition("%")[0]), host, port, self._rules)
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _forbidden_cause(error: BaseException | None) -> _Forbidden | None:
    while error is not None:
        if isinstance(error, _Forbidden):
            return error
        error = getattr(error, "os_error", None) or error.__cause__
    return None


# --- words --------------------------------------------------------------------------------------


def redact(url: str) -> str:
    """A URL as it may be shown: without credentials and without its query."""
    try:
        parsed = URL(url, encoded=True)
        known = parsed.with_user(None) if parsed.user is not None or parsed.password is not None else parsed
        return str(known.with_query(None).with_fragment(None))
    except (ValueError, TypeError):
        return "..."


def _verifying(error: SourceError) -> str:
    return f"failed to verify archive: {error}" if error.code is Code.DIGEST_MISMATCH else str(error)


def _transient(text: str, wait: float = 0.0) -> SourceError:
    return SourceError(text, Code.FETCH, wait)


def _reason(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"cannot look up '{error.host}'"
        case aiohttp.ClientConnectorError():
            return _explain(error.os_error)
        case aiohttp.ClientPayloadError():
            return "the answer ended early"
        case aiohttp.ServerTimeoutError():
            return "no answer in time"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed"
        case OSError():
            return _explain(error)
        case _:
            return type(error).__name__


def _explain(error: OSError) -> str:
    """The system's words: asyncio's own hold addresses that nobody asked for."""
    return os.strerror(error.errno).lower() if error.errno else "cannot connect"


def _retry_after(response: aiohttp.ClientResponse, now: datetime) -> float:
    """The seconds that a server asks to wait; at most an hour."""
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return min(float(text), 3600.0)
    try:
        return min(max((parsedate_to_datetime(text) - now).total_seconds(), 0.0), 3600.0)
    except (ValueError, TypeError):
        return 0.0
