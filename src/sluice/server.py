"""The store on HTTP: what it knows of is served, and nothing else exists.

Small archives are sent from memory; the way through the file costs several times as much. Larger
ones go from the file to the socket inside the kernel. A path is compared as it came, never decoded
or resolved: it is one that was published, or it is not found.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct

from sluice.build import StoredArchive
from sluice.core.errors import StorageError
from sluice.core.limits import KIB, MIB
from sluice.storage import KIND, OpenArchive

SMALL = 64 * KIB
"""Archives up to this size are kept in memory."""

_MEMORY = 8 * MIB
_STRETCH = 8 * MIB
"""What one time limit is for."""
_SLICE = 512 * KIB
"""What is sent in one go: with many clients, more would keep the event loop from everything else."""
_COMMON = {"Server": "sluice"}
_RANGE = re.compile(r"bytes=([0-9]{0,20})-([0-9]{0,20})")
_Name = tuple[str, str, str]

_log = logging.getLogger(__name__)
# A client that sends nonsense gets a 400, and no traceback in our log.
_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


# Addresses


def split_address(address: str) -> tuple[str, int]:
    """Host and port of an address to listen on, such as ``:9090`` or ``[::1]:9090``."""
    host, colon, port = address.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"'{address}' is not an address to listen on (host:port; the host may be empty)")
    return host.removeprefix("[").removesuffix("]"), int(port)


def advertised_base(storage_address: str, advertised_address: str, hostname: str) -> str:
    """What the URLs of archives begin with; a slash and the path follow.

    `hostname` stands in for an address that means every interface of IPv4.
    """
    if advertised_address:
        scheme = "" if advertised_address.startswith(("http://", "https://")) else "http://"
        return scheme + advertised_address.rstrip("/")
    host, port = split_address(storage_address)
    if host in ("", "0.0.0.0"):  # noqa: S104  # compared, not bound
        host = hostname if host else "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


# Answers


class Reply(Struct, frozen=True):
    """How to answer a request for an archive: with the bytes `span` of it, perhaps none."""

    status: int
    headers: Mapping[str, str]
    span: range


def plan_reply(method: str, headers: Mapping[str, str], archive: StoredArchive) -> Reply:
    """Heed the conditions and the range of a request (RFC 9110, sections 13 and 14)."""
    etag = f'"{archive.digest}"'
    modified = format_datetime(archive.modified, usegmt=True)
    about = {**_COMMON, "Accept-Ranges": "bytes", "ETag": etag, "Last-Modified": modified}
    if _has_it(headers, etag, archive.modified):
        return Reply(304, about, range(0))
    about["Content-Type"] = "application/gzip"
    wanted = None
    if method == "GET" and headers.get("If-Range", etag) in (etag, modified):
        wanted = select_range(headers.get("Range", ""), archive.size)
    if wanted is None:
        return Reply(200, about, range(archive.size))
    if not wanted:
        return Reply(416, {**_COMMON, "Content-Range": f"bytes */{archive.size}"}, wanted)
    return Reply(206, {**about, "Content-Range": f"bytes {wanted[0]}-{wanted[-1]}/{archive.size}"}, wanted)


def select_range(header: str, size: int) -> range | None:
    """The bytes that a Range header asks of a file, empty where it has none of them.

    None means all of it, the answer to everything but one plain range: it is always allowed, and
    many ranges are a way to make a server work.
    """
    asked = _RANGE.fullmatch(header)
    if asked is None or header == "bytes=-":
        return None
    first, last = asked.groups()
    if not first:
        return range(max(size - int(last), 0), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


def _has_it(headers: Mapping[str, str], etag: str, modified: datetime) -> bool:
    if (tags := headers.get("If-None-Match")) is not None:
        return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in tags.split(","))
    try:
        since = parsedate_to_datetime(headers["If-Modified-Since"])
    except (KeyError, ValueError, OverflowError):
        return False
    return modified <= (since if since.tzinfo else since.replace(tzinfo=UTC))


# What is served


class Archives(Protocol):
    """What the server asks of a store; `open` may block, and is called from other threads."""

    def knows(self, namespace: str, name: str, filename: str) -> bool: ...

    def open(self, namespace: str, name: str, filename: str) -> OpenArchive | None: ...


class _Small(Struct, frozen=True):
    """A small archive with its bytes."""

    archive: StoredArchive
    data: bytes


class _Memory:
    """The small archives asked for last, together at most `size` bytes."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._kept: dict[_Name, _Small] = {}

    def get(self, name: _Name) -> _Small | None:
        return self._kept.get(name)

    def put(self, name: _Name, small: _Small) -> None:
        """Keep it, or keep it for longer."""
        self.drop(name)
        self._kept[name] = small
        self._left -= len(small.data)
        while self._left < 0:
            self.drop(next(iter(self._kept)))

    def drop(self, name: _Name) -> None:
        if small := self._kept.pop(name, None):
            self._left += len(small.data)


class _Connections(web.Server):
    """At most `limit` connections: the one that is idle for longest makes room for another."""

    def __init__(
        self, respond: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], *, limit: int, idle: float
    ) -> None:
        # The time for which a connection may be idle includes that for sending a request; a body is not waited for.
        super().__init__(self._handle, logger=_log, access_log=None, keepalive_timeout=idle, lingering_time=0)
        self._respond = respond
        self._limit = limit
        self._open: set[web.RequestHandler] = set()
        self._idle: dict[web.RequestHandler, asyncio.Transport] = {}  # longest first

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._open.add(handler)
        self._idle[handler] = transport
        if len(self._open) > self._limit:
            self._idle.pop(next(iter(self._idle))).abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._open.discard(handler)
        self._idle.pop(handler, None)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = self._idle.pop(request.protocol, None)
        try:
            return await self._respond(request)
        finally:
            if transport is not None and request.protocol in self._open:
                self._idle[request.protocol] = transport


class ArtifactServer:
    """Serves what a store knows of at ``/externalartifact/<namespace>/<name>/<file>``.

    `ready` decides whether ``GET /``, the readiness probe, answers 200 or 503; it should be cheap.
    `connections` may be open at a time, `idle` seconds without a complete request, and `stalled`
    seconds for each 8 MiB of an answer; `stop` gives answers under way `drain` seconds.
    """

    def __init__(
        self,
        archives: Archives,
        *,
        ready: Callable[[], bool] = lambda: True,
        connections: int = 512,
        idle: float = 30,
        stalled: float = 60,
        drain: float = 5,
    ) -> None:
        self._archives = archives
        self._ready = ready
        self._stalled = stalled
        self._memory = _Memory(_MEMORY)
        server = _Connections(self._respond, limit=connections, idle=idle)
        # The runner waits up to twice that long.
        self._runner = web.ServerRunner(server, shutdown_timeout=drain / 2)
        self._site: web.TCPSite | None = None

    @property
    def port(self) -> int:
        """The port listened on, once started."""
        assert self._site is not None
        return self._site.port

    async def start(self, address: str) -> None:
        """Listen on ``host:port``; an empty host means every interface."""
        host, port = split_address(address)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host or None, port, backlog=1024)
        try:
            await self._site.start()
        except OSError as error:
            number = error.errno or 0  # of the name service where it is negative
            reason = os.strerror(number) if number > 0 else str(error.strerror)
            raise StorageError(f"cannot listen on {address}: {reason.lower()}") from error

    async def stop(self) -> None:
        """Stop listening, end idle connections, wait for the others."""
        await self._runner.cleanup()

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={**_COMMON, "Allow": "GET, HEAD"})
        match request.raw_path.partition("?")[0].split("/"):
            case ["", ""]:
                return web.Response(status=200 if self._ready() else 503, headers=_COMMON)
            case ["", kind, namespace, name, filename] if kind == KIND:
                return await self._respond_archive(request, (namespace, name, filename))
        return web.Response(status=404, headers=_COMMON)

    async def _respond_archive(self, request: web.BaseRequest, name: _Name) -> web.StreamResponse:
        if not self._archives.knows(*name):
            self._memory.drop(name)
            return web.Response(status=404, headers=_COMMON)
        found: _Small | OpenArchive | None = self._memory.get(name)
        if found is None:
            found = await asyncio.to_thread(self._open, name)
        if found is None:
            return web.Response(status=404, headers=_COMMON)
        reply = plan_reply(request.method, request.headers, found.archive)
        if isinstance(found, OpenArchive):
            with found.file as file:
                return await self._send(request, reply, file)
        self._memory.put(name, found)
        body = found.data[reply.span.start : reply.span.stop]
        return web.Response(status=reply.status, headers=reply.headers, body=body)

    def _open(self, name: _Name) -> _Small | OpenArchive | None:
        try:
            opened = self._archives.open(*name)
        except StorageError as error:
            _log.warning("not served: %s", error)
            raise web.HTTPServiceUnavailable from error
        if opened is None or opened.archive.size > SMALL:
            return opened
        with opened.file as file:
            return _Small(opened.archive, file.read())

    async def _send(self, request: web.BaseRequest, reply: Reply, file: io.FileIO) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        response.content_length = len(reply.span)
        await response.prepare(request)
        transport = request.transport
        if request.method == "HEAD" or transport is None:
            return response
        loop = asyncio.get_running_loop()
        try:
            for start in reply.span[::_STRETCH]:
                async with asyncio.timeout(self._stalled):
                    for offset in range(start, min(start + _STRETCH, reply.span.stop), _SLICE):
                        count = min(_SLICE, reply.span.stop - offset)
                        sent = 0 if transport.is_closing() else await loop.sendfile(transport, file, offset, count)
                        if sent < count:
                            raise ConnectionAbortedError
        except OSError:  # the client went away or is too slow, or the disk fails: a cut answer tells the client
            _reset(transport)
        return response


def _reset(transport: asyncio.Transport) -> None:
    """End a connection at once; the kernel drops what it still holds for a client that does not read."""
    connection = transport.get_extra_info("socket")
    with suppress(OSError):  # it may be closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
