"""The verbs of a Kubernetes API over one HTTP session.

Replies are decoded by the caller's decoder, which names only the fields that it uses. What the
server asks of a client is kept here, for all callers together: no request earlier than told, a
bounded number at once, a fresh token when the old one is refused.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from http import HTTPStatus
from importlib.metadata import version
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit
from weakref import WeakSet

import aiohttp
import msgspec
from msgspec import Raw, Struct
from multidict import CIMultiDict
from yarl import URL

from sluice.core.errors import ApiError
from sluice.core.limits import MIB
from sluice.kube import shallow
from sluice.kube.clock import SYSTEM_CLOCK, Clock
from sluice.kube.config import ClientConfig
from sluice.kube.credentials import Credentials, Grant
from sluice.kube.errors import STATUS, Refused, Status, Unreachable, describe
from sluice.kube.gate import PATIENCE, Gate
from sluice.kube.kinds import FIELD_MANAGER, Key, Kind

T = TypeVar("T")

PAGE = 500
MAX_REPLY = 256 * MIB
RETRY_DELAYS = (0.1, 0.4, 1.0)
"""Seconds before an idempotent request is sent again after its connection failed."""
FIRST_TRY = 10.0
"""Seconds for the first attempt of an idempotent request: the connection that it was given may be dead."""
MAX_REFUSALS = 5
"""How often one request is sent again because the server was too busy."""

CLOSING_STEPS = 100
"""Turns of the loop that connections get to close; a handful is enough."""

_SOCKET_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
]


class Patch(StrEnum):
    """How a patch is meant."""

    APPLY = "application/apply-patch+yaml"
    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"


class Undecodable(Struct, frozen=True):
    """An object that cannot be read, and why; without a `key` where not even its name can be."""

    key: Key | None
    version: str
    why: str


class Page(Struct, Generic[T], frozen=True):
    """Part of a list, and the version at which the whole list is true."""

    items: list[T]
    undecodable: list[Undecodable]
    version: str


class _ListMeta(Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(Struct, frozen=True):
    metadata: _ListMeta = _ListMeta()
    items: list[Raw] | None = None


_LIST = msgspec.json.Decoder(_List)
_LIST_META = msgspec.json.Decoder(_ListMeta)
_ENDLESS = aiohttp.ClientTimeout(total=None, sock_connect=10.0)


class Observe(Protocol):
    """Told of every request that was sent; `code` is ``<error>`` where no answer came."""

    def __call__(self, code: str, method: str, host: str) -> None: ...


def ignore(code: str, method: str, host: str) -> None:
    """Count nothing."""


class Client:
    """Requests to one API server; to be used in one event loop, as a context manager."""

    def __init__(
        self,
        config: ClientConfig,
        credentials: Credentials | None = None,
        *,
        width: int = 32,
        timeout: float = 30.0,
        max_reply: int = MAX_REPLY,
        manager: str = FIELD_MANAGER,
        observe: Observe = ignore,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._manager = manager
        self._credentials = credentials or Credentials(config, clock=clock)
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, 10.0))
        self._first_try = aiohttp.ClientTimeout(total=min(timeout, FIRST_TRY))
        self._max_reply = max_reply
        self._gate = Gate(width, clock)
        self._observe = observe
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311  spreads retries, guards nothing
        self._host = urlsplit(config.server).netloc
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60, socket_factory=self._make_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            headers=_headers(self._config),
            read_bufsize=256 << 10,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()
        # Cancelled requests leave connections that still say goodbye in TLS; the loop may end before they do.
        left = [made for made in self._sockets if made.fileno() != -1]
        for made in left:
            with suppress(OSError):
                made.shutdown(socket.SHUT_RDWR)
        for _ in range(CLOSING_STEPS):
            if all(made.fileno() == -1 for made in left):
                break
            await asyncio.sleep(0)

    def _make_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """A socket that notices within a minute when nobody is there any more."""
        made = socket.socket(address[0], address[1], address[2])
        for level, option, value in _SOCKET_OPTIONS:
            made.setsockopt(level, option, value)
        self._sockets.add(made)
        return made

    @property
    def namespace(self) -> str:
        """The namespace to use where none is named."""
        return self._config.namespace

    async def get(self, kind: Kind, namespace: str, name: str, decoder: msgspec.json.Decoder[T]) -> T:
        """One object; raises `Refused` with status 404 where there is none."""
        return await self._decoded(decoder, "GET", kind.path(namespace, name))

    async def read(self, path: str, decoder: msgspec.json.Decoder[T]) -> T:
        """What is served at a path that is no object's: versions, and which resources there are."""
        return await self._decoded(decoder, "GET", path)

    async def pages(
        self,
        kind: Kind,
        namespace: str,
        decoder: msgspec.json.Decoder[T],
        *,
        labels: str = "",
        fields: str = "",
        limit: int = PAGE,
    ) -> AsyncGenerator[Page[T], None]:
        """All objects, page by page, as they were at one moment.

        An object that the decoder refuses is told apart and does not stop the others. Raises
        `Refused` with status 410 where reading took so long that the moment is forgotten.
        """
        query = {"limit": str(limit), "labelSelector": labels, "fieldSelector": fields, "continue": ""}
        while True:
            path = kind.path(namespace)
            metadata, raws = _parse_list(await self._read("GET", path, query), path)
            page = Page[T]([], [], metadata.resource_version)
            for raw in raws:
                match decode(raw, decoder):
                    case Undecodable() as bad:
                        page.undecodable.append(bad)
                    case item:
                        page.items.append(item)
            yield page
            if not metadata.continue_:
                return
            query["continue"] = metadata.continue_

    async def list_all(
        self, kind: Kind, namespace: str, decoder: msgspec.json.Decoder[T], *, labels: str = "", fields: str = ""
    ) -> list[T]:
        """All objects at once; raises `ApiError` for one that cannot be read."""
        found: list[T] = []
        async for page in self.pages(kind, namespace, decoder, labels=labels, fields=fields):
            for bad in page.undecodable:
                raise ApiError(f"{kind.name} {'/'.join(bad.key or ())}: {bad.why}")
            found += page.items
        return found

    async def create(self, kind: Kind, namespace: str, body: object, decoder: msgspec.json.Decoder[T]) -> T:
        """Make an object; not tried again when its connection fails, for it may exist then."""
        return await self._decoded(decoder, "POST", kind.path(namespace), {"fieldManager": self._manager}, body)

    async def update(self, kind: Kind, namespace: str, name: str, body: object, decoder: msgspec.json.Decoder[T]) -> T:
        """Replace an object; a `resourceVersion` in the body guards against others (409)."""
        return await self._decoded(decoder, "PUT", kind.path(namespace, name), {"fieldManager": self._manager}, body)

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: object,
        decoder: msgspec.json.Decoder[T],
        *,
        how: Patch,
        subresource: str = "",
        force: bool = False,
    ) -> T:
        """Change an object; `force` takes fields from other managers, for `Patch.APPLY` alone."""
        query = {"fieldManager": self._manager, "force": "true" if force else ""}
        return await self._decoded(decoder, "PATCH", kind.path(namespace, name, subresource), query, body, how)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "") -> None:
        """Delete an object, only the one with that `uid` if given (else 409)."""
        body = {"preconditions": {"uid": uid}} if uid else None
        await self._read("DELETE", kind.path(namespace, name), {}, body)

    @asynccontextmanager
    async def open_watch(
        self, kind: Kind, namespace: str, query: Mapping[str, str]
    ) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
        """A watch, as a function for the next bytes: none at its end, `Unreachable` if it is cut.

        There is no time limit after the watch is accepted, and no second attempt here.
        """
        url = self._url(kind.path(namespace), {"watch": "1", **query})
        async with self._gate.turn(), self._translated():
            async with asyncio.timeout(self._timeout.total):
                response = await self._open("GET", url, None, "", _ENDLESS)

        async def read() -> bytes:
            async with self._translated():
                return await response.content.readany()

        try:
            yield read
        finally:
            response.close()

    async def _decoded(
        self,
        decoder: msgspec.json.Decoder[T],
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        how: str = "application/json",
    ) -> T:
        reply = await self._read(method, path, query or {}, body, how)
        try:
            return decoder.decode(reply)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ApiError(f"{method} {path}: cannot read the answer: {_why(error)}") from error

    async def _read(
        self, method: str, path: str, query: Mapping[str, str], body: object = None, how: str = "application/json"
    ) -> bytes:
        """The body of the answer; sends again what may be sent again."""
        url = self._url(path, query)
        data = None if body is None else msgspec.json.encode(body)
        repeatable = method != "POST" and how != Patch.JSON
        delays = iter(RETRY_DELAYS if repeatable else ())
        within = self._first_try if repeatable else self._timeout
        start = self._clock.monotonic()
        refusals = 0
        while True:
            try:
                async with self._gate.turn(), self._translated():
                    response = await self._open(method, url, data, how, within)
                    return await _body(response, self._max_reply)
            except Refused as error:
                refusals += 1
                if error.retry_after is None or error.retry_after > PATIENCE or refusals > MAX_REFUSALS:
                    raise
            except Unreachable:
                delay = next(delays, None)
                left = (self._timeout.total or 0) - (self._clock.monotonic() - start)
                # What took its whole time fails at once: the caller has waited long enough.
                if delay is None or left <= 0:
                    raise
                within = aiohttp.ClientTimeout(total=left)
                await self._clock.sleep(delay * self._rng.uniform(0.5, 1.5))

    async def _open(
        self, method: str, url: URL, data: bytes | None, how: str, within: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """An answer that is no error; presents new credentials once where the old are refused."""
        grant = self._credentials.current()
        if grant is None:
            grant = await asyncio.to_thread(self._credentials.fetch)
        try:
            return await self._request(grant, method, url, data, how, within)
        except (Refused, aiohttp.ClientSSLError) as error:
            if isinstance(error, Refused) and error.status != HTTPStatus.UNAUTHORIZED:
                raise
            fresh = await asyncio.to_thread(self._credentials.fetch, grant)
            if fresh is grant:
                raise
        return await self._request(fresh, method, url, data, how, within)

    async def _request(
        self, grant: Grant, method: str, url: URL, data: bytes | None, how: str, within: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        assert self._session is not None
        headers = {"Authorization": grant.authorization} if grant.authorization else {}
        if data is not None:
            headers["Content-Type"] = how
        try:
            response = await self._session.request(
                method,
                url,
                data=data,
                headers=headers,
                timeout=within,
                ssl=grant.tls or True,
                server_hostname=self._config.server_name or None,
                proxy=self._config.proxy or None,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError):
            self._observe("<error>", method, self._host)
            raise
        self._observe(str(response.status), method, self._host)
        if response.status < HTTPStatus.MULTIPLE_CHOICES:
            return response
        raise await self._refusal(response, f"{method} {url.path}: the server answered {response.status}")

    async def _refusal(self, response: aiohttp.ClientResponse, otherwise: str) -> Refused:
        """The error that an answer is; whoever is too busy is left alone as long as it says."""
        told = response.headers.get("Retry-After", "")
        try:
            status = STATUS.decode(await _body(response, MIB))
        except (msgspec.DecodeError, RecursionError, ApiError):
            status = Status()
        error = status.error(response.status, otherwise, float(told) if told.isascii() and told.isdigit() else None)
        if error.status == HTTPStatus.TOO_MANY_REQUESTS and error.retry_after is None:
            error.retry_after = 1.0
        if error.status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            error.retry_after = None
        if error.retry_after is not None:
            self._gate.close(error.retry_after)
        return error

    def _url(self, path: str, query: Mapping[str, str]) -> URL:
        given = {name: value for name, value in query.items() if value}
        return URL(f"{self._config.server}{path}{f'?{urlencode(given)}' if given else ''}", encoded=True)

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise Unreachable(f"{self._config.server}: no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{self._config.server}: {describe(error)}") from error


def decode(raw: bytes | Raw, decoder: msgspec.json.Decoder[T]) -> T | Undecodable:
    """An object, or what can be said of one that cannot be read."""
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        metadata = shallow.members(shallow.members(bytes(raw)).get("metadata", b""))
        name = shallow.text(metadata.get("name"))
        key = (shallow.text(metadata.get("namespace")), name) if name else None
        return Undecodable(key, shallow.text(metadata.get("resourceVersion")), _why(error))


def _parse_list(data: bytes, path: str) -> tuple[_ListMeta, Sequence[bytes | Raw]]:
    try:
        found = _LIST.decode(data)
    except RecursionError:
        # One object is nested too deeply: cut it out, so that the others can be read.
        parts = shallow.members(data)
        return _LIST_META.decode(parts.get("metadata", b"{}")), shallow.items(parts.get("items", b"[]"))
    except msgspec.DecodeError as error:
        raise ApiError(f"GET {path}: cannot read the answer: {error}") from error
    return found.metadata, found.items or ()


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """All of an answer; gives the connection back, or closes it where that is not all."""
    chunks: list[bytes] = []
    size = 0
    async with response:
        while chunk := await response.content.readany():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                raise ApiError(f"{response.method} {response.url.path}: the answer has more than {limit} bytes")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _why(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _headers(config: ClientConfig) -> CIMultiDict[str]:
    """What every request says: who sends it, and as whom it is meant."""
    acting_as = config.acting_as
    headers = CIMultiDict({"User-Agent": f"sluice/{version('flux-sluice')}", "Accept": "application/json"})
    if acting_as.user:
        headers["Impersonate-User"] = acting_as.user
    if acting_as.uid:
        headers["Impersonate-Uid"] = acting_as.uid
    for group in acting_as.groups:
        headers.add("Impersonate-Group", group)
    for name, values in acting_as.extra.items():
        for value in values:
            headers.add(f"Impersonate-Extra-{quote(name, safe='')}", value)
    return headers
