"""The artifact server on real sockets: what it serves, what it hides, and whom it does not wait for."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import select
import socket
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sluice.build import StoredArchive
from sluice.core.errors import StorageError
from sluice.core.tree import Directory
from sluice.server import SMALL, ArtifactServer, Reply, advertised_base, plan_reply, select_range, split_address
from sluice.storage import DiskStorage

ARCHIVE = StoredArchive("externalartifact/apps/web/x.tar.gz", "sha256:ab", 100, datetime(2026, 7, 1, 10, tzinfo=UTC))
DATE = "Wed, 01 Jul 2026 10:00:00 GMT"
SMALL_TREE = Directory.of({"a.yaml": b"a: 1\n"})
LARGE_TREE = Directory.of({"a.bin": random.Random(1).randbytes(9_000_000)})


# Decisions


@pytest.mark.parametrize(
    ("storage", "advertised", "base"),
    [
        pytest.param(
            ":9090", "watcher.flux.svc.", "http://watcher.flux.svc.", id="what is advertised is taken as it is"
        ),
        pytest.param(":9090", "10.0.0.1:80", "http://10.0.0.1:80", id="with its port"),
        pytest.param(":9090", "https://a.example/x/", "https://a.example/x", id="a URL is a prefix"),
        pytest.param(":9090", "http://a.example", "http://a.example", id="of either scheme"),
        pytest.param(":9090", "", "http://localhost:9090", id="no host means localhost"),
        pytest.param("0.0.0.0:9090", "", "http://pod-1:9090", id="every interface means our host name"),
        pytest.param("127.0.0.1:0", "", "http://127.0.0.1:0", id="another host stays"),
        pytest.param("[::1]:9090", "", "http://[::1]:9090", id="an IPv6 address stays in brackets"),
    ],
)
def test_the_advertised_address(storage: str, advertised: str, base: str) -> None:
    assert advertised_base(storage, advertised, "pod-1") == base


@pytest.mark.parametrize("address", ["", "9090", "host:", ":65536", ":http", ":٣", "host:-1"])
def test_an_address_to_listen_on_has_a_port(address: str) -> None:
    with pytest.raises(ValueError, match="is not an address to listen on") as caught:
        split_address(address)
    assert str(caught.value) == f"'{address}' is not an address to listen on (host:port; the host may be empty)"


@pytest.mark.parametrize(
    ("header", "span"),
    [
        pytest.param("bytes=0-9", range(10), id="the first ten"),
        pytest.param("bytes=90-", range(90, 100), id="from the ninetieth"),
        pytest.param("bytes=-10", range(90, 100), id="the last ten"),
        pytest.param("bytes=-1000", range(100), id="the last thousand of a hundred"),
        pytest.param("bytes=90-1000", range(90, 100), id="beyond the end"),
        pytest.param("bytes=0-99999999999999999999", range(100), id="far beyond the end"),
        pytest.param("bytes=100-", range(100, 100), id="behind the end"),
        pytest.param("bytes=-0", range(100, 100), id="the last none"),
        pytest.param("bytes=9-8", None, id="backwards"),
        pytest.param("bytes=-", None, id="nothing said"),
        pytest.param("bytes=0-1,3-4", None, id="two ranges"),
        pytest.param("bytes=" + ",".join(["0-1"] * 1000), None, id="a thousand ranges"),
        pytest.param("bytes=" + "9" * 8000 + "-", None, id="a number of 8000 digits"),
        pytest.param("bytes=٣-٤", None, id="digits of another script"),
        pytest.param("bytes= 0-1", None, id="a blank"),
        pytest.param("lines=0-1", None, id="another unit"),
        pytest.param("", None, id="no range"),
    ],
)
def test_ranges(header: str, span: range | None) -> None:
    selected = select_range(header, 100)

    assert (selected is None) == (span is None)
    assert list(selected or ()) == list(span or ())


@pytest.mark.parametrize(
    ("method", "headers", "status", "sent"),
    [
        pytest.param("GET", {}, 200, 100, id="everything"),
        pytest.param("GET", {"If-None-Match": '"sha256:ab"'}, 304, 0, id="the same digest"),
        pytest.param("GET", {"If-None-Match": 'W/"x", W/"sha256:ab"'}, 304, 0, id="the same among several, weak"),
        pytest.param("GET", {"If-None-Match": "*"}, 304, 0, id="any"),
        pytest.param("GET", {"If-None-Match": '"x"', "If-Modified-Since": DATE}, 200, 100, id="the digest is stronger"),
        pytest.param("GET", {"If-Modified-Since": DATE}, 304, 0, id="not modified since"),
        pytest.param("GET", {"If-Modified-Since": "Wed, 01 Jul 2026 10:00:00 -0000"}, 304, 0, id="a date without zone"),
        pytest.param("GET", {"If-Modified-Since": "Wed, 01 Jul 2026 09:59:59 GMT"}, 200, 100, id="modified since"),
        pytest.param("GET", {"If-Modified-Since": "yesterday"}, 200, 100, id="no date"),
        pytest.param(
            "GET", {"If-Modified-Since": "Wed, 01 Jul 99999999999999999999 10:00:00 GMT"}, 200, 100, id="no year"
        ),
        pytest.param("GET", {"Range": "bytes=0-9"}, 206, 10, id="a range"),
        pytest.param("GET", {"Range": "bytes=100-"}, 416, 0, id="a range behind the end"),
        pytest.param("GET", {"Range": "bytes=0-9", "If-Range": '"sha256:ab"'}, 206, 10, id="a range of this digest"),
        pytest.param("GET", {"Range": "bytes=0-9", "If-Range": DATE}, 206, 10, id="a range of this date"),
        pytest.param("GET", {"Range": "bytes=0-9", "If-Range": '"other"'}, 200, 100, id="a range of another digest"),
        pytest.param("HEAD", {"Range": "bytes=0-9"}, 200, 100, id="HEAD has no ranges"),
        pytest.param("HEAD", {"If-None-Match": '"sha256:ab"'}, 304, 0, id="but conditions"),
    ],
)
def test_conditions_and_ranges(method: str, headers: dict[str, str], status: int, sent: int) -> None:
    reply = plan_reply(method, headers, ARCHIVE)

    assert (reply.status, len(reply.span)) == (status, sent)


def test_a_whole_reply() -> None:
    assert plan_reply("GET", {"Range": "bytes=90-"}, ARCHIVE) == Reply(
        206,
        {
            "Server": "sluice",
            "Accept-Ranges": "bytes",
            "ETag": '"sha256:ab"',
            "Last-Modified": DATE,
            "Content-Type": "application/gzip",
            "Content-Range": "bytes 90-99/100",
        },
        range(90, 100),
    )


# On sockets


class Served:
    """A store with a small and a large archive, and its server."""

    def __init__(self, root: Path, server: Callable[[DiskStorage], ArtifactServer] = ArtifactServer) -> None:
        self.root = root
        self.storage = DiskStorage(root)
        self.small = self.storage.put("apps", "small", SMALL_TREE)
        self.large = self.storage.put("apps", "large", LARGE_TREE)
        self.server = server(self.storage)

    def bytes_of(self, archive: StoredArchive) -> bytes:
        return (self.root / archive.path).read_bytes()

    async def connect(self, buffer: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket()
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.server.port))
        except OSError:
            sock.close()
            raise
        return await asyncio.open_connection(sock=sock, limit=buffer or 1 << 16)

    async def raw(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send exactly these bytes; the answer up to the end of the connection."""
        async with asyncio.timeout(120):
            reader, writer = await self.connect()
            try:
                writer.write(request)
                answer = await reader.read(-1)
            finally:
                writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        return (
            int(status.split()[1]),
            {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)},
            body,
        )

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        return await self.raw(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode())


@contextlib.asynccontextmanager
async def serving(served: Served) -> AsyncIterator[Served]:
    await served.server.start("127.0.0.1:0")
    try:
        yield served
    finally:
        await served.server.stop()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(Served(tmp_path)) as running:
        yield running


@pytest.mark.parametrize("name", ["small", "large"])
async def test_an_archive_is_served_as_it_is(served: Served, name: str) -> None:
    archive: StoredArchive = getattr(served, name)
    for _ in range(2):
        status, headers, body = await served.ask(f"/{archive.path}")

        assert (status, f"sha256:{hashlib.sha256(body).hexdigest()}") == (200, archive.digest)
        assert headers["content-type"] == "application/gzip"
        assert headers["content-length"] == str(archive.size)
        assert headers["etag"] == f'"{archive.digest}"'
        assert "last-modified" in headers
        assert "content-encoding" not in headers
        assert "transfer-encoding" not in headers


@pytest.mark.parametrize("name", ["small", "large"])
async def test_ranges_heads_and_conditions(served: Served, name: str) -> None:
    archive: StoredArchive = getattr(served, name)
    path, data, size = f"/{archive.path}", served.bytes_of(archive), archive.size
    etag = f'"{archive.digest}"'

    status, headers, body = await served.ask(path, Range=f"bytes=1-{size}")
    assert (status, body) == (206, data[1:])
    assert (headers["content-range"], headers["content-length"]) == (f"bytes 1-{size - 1}/{size}", str(size - 1))
    status, headers, body = await served.ask(path, Range=f"bytes={size}-")
    assert (status, headers["content-range"], body) == (416, f"bytes */{size}", b"")
    status, headers, body = await served.ask(path, "HEAD")
    assert (status, headers["content-length"], headers["etag"], body) == (200, str(size), etag, b"")
    status, headers, body = await served.ask(path, If_None_Match=etag)
    assert (status, headers["etag"], body) == (304, etag, b"")
    status, _, body = await served.ask(path, If_Modified_Since=headers["last-modified"])
    assert (status, body) == (304, b"")


async def test_many_requests_share_a_connection(served: Served) -> None:
    paths = [served.small.path, served.large.path, "nothing", served.small.path]
    request = b"".join(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths)
    status, _, body = await served.raw(request + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert status == 200
    assert body.count(b"HTTP/1.1 200 OK") == 3
    assert body.count(b"HTTP/1.1 404 Not Found") == 1
    assert served.bytes_of(served.large) in body


async def test_a_query_is_ignored(served: Served) -> None:
    assert (await served.ask(f"/{served.small.path}?x=/../.."))[0] == 200


async def test_the_root_is_the_readiness_probe(tmp_path: Path) -> None:
    ready = False
    async with serving(Served(tmp_path, lambda storage: ArtifactServer(storage, ready=lambda: ready))) as served:
        assert (await served.ask("/"))[::2] == (503, b"")
        assert (await served.ask(f"/{served.small.path}"))[0] == 200
        ready = True
        assert (await served.ask("/"))[::2] == (200, b"")


HIDDEN = [
    "/externalartifact",
    "/externalartifact/",
    "/externalartifact/apps",
    "/externalartifact/apps/",
    "/externalartifact/apps/small",
    "/externalartifact/apps/small/",
    "{small}/",
    "{small}.lock",
    "{small}%00",
    "{small};x",
    "/{small}",
    "//externalartifact/apps/small/planted.tar.gz",
    "/externalartifact/apps/small/planted.tar.gz",
    "/externalartifact/apps/small/.17-0.tmp",
    "/externalartifact/apps/small/link.tar.gz",
    "/externalartifact/apps/small/1.tar.gz",
    "/externalartifact/apps/other/{small_file}",
    "/externalartifact/other/small/{small_file}",
    "/ExternalArtifact/apps/small/{small_file}",
    "/externalartifact/apps/./small/{small_file}",
    "/externalartifact/apps/small/../small/{small_file}",
    "/externalartifact/apps/small/%2e%2e/small/{small_file}",
    "/externalartifact/apps%2fsmall/{small_file}",
    "/%65xternalartifact/apps/small/{small_file}",
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/externalartifact/../../../etc/passwd",
    "/..",
    "/.",
    "//",
    "/*",
    "/healthz",
    "/%",
    "/%ff%fe",
    "/externalartifact\\apps\\small",
]


@pytest.mark.parametrize("path", HIDDEN)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_nothing_else_is_found(served: Served, path: str, method: str) -> None:
    folder = (served.root / served.small.path).parent
    for name in ("planted.tar.gz", ".17-0.tmp", "1.tar.gz", f"{served.small.filename}.lock"):
        (folder / name).write_bytes(b"planted")
    (folder / "link.tar.gz").symlink_to("/etc/passwd")
    target = path.format(small=f"/{served.small.path}", small_file=served.small.filename)
    status, headers, body = await served.ask(target, method)

    assert (status, body) == (404, b"")
    assert (await served.ask("/externalartifact/no/where/1.tar.gz", method))[1].keys() == headers.keys()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND"])
async def test_other_methods_are_refused(served: Served, method: str) -> None:
    for path in (f"/{served.small.path}", "/", "/nothing"):
        status, headers, body = await served.ask(path, method)
        assert (status, headers["allow"], body) == (405, "GET, HEAD", b"")


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"nonsense\r\n\r\n", id="no HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n", id="a header of a megabyte"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", id="ten thousand headers"),
        pytest.param(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", id="a long path"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="two lengths",
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", id="two numbers"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", id="a blank before the colon"),
    ],
)
async def test_malformed_requests_get_a_400_and_no_traceback(
    served: Served, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        status, _, _ = await served.raw(request_)
        assert status == 400
    except ConnectionResetError:
        pass  # the server closed without reading all of it
    assert caplog.records == []
    assert (await served.ask("/"))[0] == 200


async def test_a_body_is_not_waited_for(served: Served) -> None:
    status, _, _ = await served.raw(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")

    assert status == 200


# Damage


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("change", ["flipped", "cut", "a link", "gone", "deleted"])
async def test_a_damaged_archive_is_not_found(served: Served, name: str, change: str) -> None:
    archive: StoredArchive = getattr(served, name)
    path = served.root / archive.path
    match change:
        case "flipped":
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
            os.utime(path, (1, 1))
        case "cut":
            os.truncate(path, 50)
        case "a link":
            path.rename(path.with_name("moved"))
            path.symlink_to("moved")
        case "gone":
            path.unlink()
        case "deleted":
            served.storage.delete("apps", name)

    assert (await served.ask(f"/{archive.path}"))[::2] == (404, b"")


async def test_what_is_deleted_is_not_served_from_memory(served: Served) -> None:
    path = f"/{served.small.path}"
    assert (await served.ask(path))[0] == 200
    served.storage.delete("apps", "small")

    assert (await served.ask(path))[0] == 404


async def test_small_archives_in_memory_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = random.Random(2)
    many = [served.storage.put("apps", f"n{n}", Directory.of({"a": noise.randbytes(SMALL - 2000)})) for n in range(140)]
    for archive in many:
        assert (await served.ask(f"/{archive.path}"))[0] == 200

    kept = served.server._memory._kept
    assert 7 << 20 < sum(len(small.data) for small in kept.values()) <= 8 << 20
    assert many[-1].filename in {name[2] for name in kept}
    assert many[0].filename not in {name[2] for name in kept}


async def test_a_disk_error_is_a_503(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(DiskStorage):
        def open(self, *_: object, **__: object) -> None:
            raise StorageError("externalartifact/apps/small/x: cannot read: input/output error")

    served = Served(tmp_path, lambda storage: ArtifactServer(Failing(tmp_path)))
    async with serving(served):
        with caplog.at_level(logging.WARNING):
            assert (await served.ask(f"/{served.small.path}"))[0] == 503
    assert caplog.messages == ["not served: externalartifact/apps/small/x: cannot read: input/output error"]


# Clients that take their time


def settings(**options: float) -> Callable[[DiskStorage], ArtifactServer]:
    return lambda storage: ArtifactServer(storage, **options)  # type: ignore[arg-type]  # numbers all


async def test_idle_and_slow_connections_do_not_keep_others_out(tmp_path: Path) -> None:
    async with serving(Served(tmp_path, settings(connections=100))) as served:
        idle = [await served.connect() for _ in range(60)]
        slow = [await served.connect() for _ in range(60)]
        for _, writer in slow:
            writer.write(b"GET / HTTP/1.1\r\nX: y")
        for path in ("", served.small.path, served.large.path):
            assert (await served.ask(f"/{path}"))[0] == 200
        for _, writer in idle + slow:
            writer.close()


async def test_an_idle_connection_makes_room_and_a_busy_one_does_not(tmp_path: Path) -> None:
    async with serving(Served(tmp_path, settings(connections=2, idle=3600))) as served, asyncio.timeout(120):
        busy_reader, busy = await served.connect(buffer=4096)
        busy.write(f"GET /{served.large.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        await busy_reader.readuntil(b"\r\n\r\n")
        idle_reader, idle = await served.connect()

        assert (await served.ask("/"))[0] == 200
        with contextlib.suppress(ConnectionResetError):
            assert await idle_reader.read() == b""
        assert await busy_reader.read() == served.bytes_of(served.large)
        for writer in (busy, idle):
            writer.close()


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["idle", "slow", "served"]
)
async def test_a_connection_without_a_request_is_closed(tmp_path: Path, sent: bytes) -> None:
    async with serving(Served(tmp_path, settings(idle=0.05))) as served:
        reader, writer = await served.connect()
        writer.write(sent)
        async with asyncio.timeout(120):
            await reader.read()
        writer.close()


def hang_up_of(sock: socket.socket) -> int:
    """Wait until the other side is gone, without reading."""
    poll = select.poll()
    poll.register(sock, 0)
    return sum(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(30_000))


async def test_a_reader_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    async with serving(Served(tmp_path, settings(stalled=0.05))) as served:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await asyncio.to_thread(sock.connect, ("127.0.0.1", served.server.port))
            sock.send(f"GET /{served.large.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

            assert await asyncio.to_thread(hang_up_of, sock)


async def test_a_client_that_leaves_is_nobodys_problem(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        reader, writer = await served.connect(buffer=4096)
        writer.write(f"GET /{served.large.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    assert (await served.ask(f"/{served.large.path}"))[2] == served.bytes_of(served.large)
    assert caplog.records == []


# Start and stop


async def test_a_port_in_use_is_told(served: Served, tmp_path: Path) -> None:
    address = f"127.0.0.1:{served.server.port}"
    second = ArtifactServer(served.storage)

    with pytest.raises(StorageError) as caught:
        await second.start(address)
    assert str(caught.value) == f"cannot listen on {address}: address already in use"
    await second.stop()


async def test_an_address_that_is_not_ours_is_told(served: Served) -> None:
    with pytest.raises(StorageError) as caught:
        await ArtifactServer(served.storage).start("192.0.2.1:0")
    assert str(caught.value) == "cannot listen on 192.0.2.1:0: cannot assign requested address"


async def test_a_stop_lets_downloads_end(tmp_path: Path) -> None:
    served = Served(tmp_path)
    await served.server.start("127.0.0.1:0")
    reader, writer = await served.connect(buffer=4096)
    writer.write(f"GET /{served.large.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    idle_reader, idle = await served.connect()
    stopping = asyncio.create_task(served.server.stop())

    assert await idle_reader.read() == b""
    with pytest.raises(ConnectionRefusedError):
        await served.connect()
    assert not stopping.done()
    assert await reader.read() == served.bytes_of(served.large)
    await stopping
    for each in (writer, idle):
        each.close()


async def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    served = Served(tmp_path, settings(drain=0.1))
    await served.server.start("127.0.0.1:0")
    reader, writer = await served.connect(buffer=4096)
    writer.write(f"GET /{served.large.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(120):
        await served.server.stop()

    with contextlib.suppress(ConnectionResetError):
        assert len(await reader.read()) < served.large.size
    writer.close()
