"""Fetching from a real server: once for all, verified, and only from where it may come."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sluice.cache import UnpackedCache
from sluice.control.objects import ORIGIN_REVISION, ArtifactStatus
from sluice.core.errors import Code, SourceError
from sluice.core.limits import Limits
from sluice.core.plan import Source
from sluice.core.spec import SourceKind, SourceRef
from sluice.core.tar import write_archive
from sluice.core.tree import Directory, File
from sluice.fetch import Fetcher, Rules, redact

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REF = SourceRef("repo", SourceKind.GIT_REPOSITORY, "repo", "apps")
NAMED = "source GitRepository/apps/repo"


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Site:
    """A server whose every path does what a test wants."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.asked: Counter[str] = Counter()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path] += 1
        handler = self.handlers.get(request.path)
        return await handler(request) if handler is not None else web.Response(status=404)

    def serve(self, path: str, data: bytes, **headers: str) -> ArtifactStatus:
        async def handle(request: web.Request) -> web.Response:
            return web.Response(body=data, headers=headers)

        self.handlers[path] = handle
        return self.offer(path, data)

    def offer(self, path: str, data: bytes) -> ArtifactStatus:
        return ArtifactStatus(sha256(data), path, f"{self.url}{path}", "main@sha1:1")

    def answer(self, path: str, status: int, **headers: str) -> ArtifactStatus:
        async def handle(request: web.Request) -> web.Response:
            return web.Response(status=status, headers={key.replace("_", "-"): value for key, value in headers.items()})

        self.handlers[path] = handle
        return self.offer(path, ARCHIVE)


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    write_archive(Directory.of(files), out)
    return out.getvalue()


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


ARCHIVE = archive({"a/b.yaml": b"b: 1\n"})


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    server = web.Server(made)  # type: ignore[arg-type]  # a request of a server is one of its own kind
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    made.port = listener._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    yield made
    await runner.cleanup()


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def fetching(
    tmp_path: Path, pool: ThreadPoolExecutor, clock: Hand
) -> Callable[..., contextlib.AbstractAsyncContextManager[Fetcher]]:
    def make(**rules: Any) -> Fetcher:
        made = Rules(**rules)
        return Fetcher(UnpackedCache(tmp_path, made.limits), pool, clock, made)

    return make


@pytest.fixture
async def fetcher(fetching: Callable[..., contextlib.AbstractAsyncContextManager[Fetcher]]) -> AsyncIterator[Fetcher]:
    async with fetching() as made:
        yield made


Fetching = Callable[..., contextlib.AbstractAsyncContextManager[Fetcher]]


async def refused(fetcher: Fetcher, artifact: ArtifactStatus, ref: SourceRef = REF) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await fetcher.open(ref, artifact)
    return caught.value


def holds(source: Source) -> dict[str, bytes]:
    return {path: entry.read() for path, entry in source.tree.walk() if isinstance(entry, File)}


class TestOnce:
    async def test_a_source_is_what_its_status_says(self, site: Site, fetcher: Fetcher) -> None:
        offered = site.serve("/x.tar.gz", ARCHIVE)
        artifact = ArtifactStatus(offered.digest, "", offered.url, "main@sha1:1", metadata={ORIGIN_REVISION: "one"})
        source = await fetcher.open(REF, artifact)

        assert holds(source) == {"a/b.yaml": b"b: 1\n"}
        assert (source.revision, source.digest, source.url) == ("main@sha1:1", offered.digest, offered.url)
        assert source.origin_revision == "one"
        assert (fetcher.downloads, fetcher.downloaded_bytes) == (1, len(ARCHIVE))

    async def test_all_who_ask_share_one_download(self, site: Site, fetcher: Fetcher) -> None:
        offered = site.serve("/x.tar.gz", ARCHIVE)
        gate, answer = asyncio.Event(), site.handlers["/x.tar.gz"]

        async def gated(request: web.Request) -> web.StreamResponse:
            await gate.wait()
            return await answer(request)

        site.handlers["/x.tar.gz"] = gated
        waiting = [asyncio.create_task(fetcher.open(REF, offered)) for _ in range(20)]
        while not site.asked:  # noqa: ASYNC110  # there is nothing of the server's to wait for
            await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[7].cancel()
        gate.set()
        opened = await asyncio.gather(*waiting, return_exceptions=True)

        assert [isinstance(one, asyncio.CancelledError) for one in opened].count(True) == 2
        assert len({source.tree.digest for source in opened if isinstance(source, Source)}) == 1
        assert site.asked == {"/x.tar.gz": 1}
        await fetcher.open(REF, offered)
        assert site.asked == {"/x.tar.gz": 1}

    async def test_nobody_reads_by_naming_a_digest(self, site: Site, fetcher: Fetcher) -> None:
        """The bytes are here; whether another URL has them too must be seen there."""
        offered = site.serve("/x.tar.gz", ARCHIVE)
        await fetcher.open(REF, offered)

        elsewhere = await refused(fetcher, site.offer("/elsewhere.tar.gz", ARCHIVE))
        assert str(elsewhere) == f"file not found: {site.url}/elsewhere.tar.gz, {NAMED}"
        await fetcher.open(REF, site.serve("/copy.tar.gz", ARCHIVE))
        assert site.asked == {"/x.tar.gz": 1, "/elsewhere.tar.gz": 1, "/copy.tar.gz": 1}

    async def test_a_failure_is_shared_too(self, site: Site, fetcher: Fetcher) -> None:
        offered = site.answer("/x.tar.gz", 503)
        errors = await asyncio.gather(*(refused(fetcher, offered) for _ in range(10)))

        assert {str(error) for error in errors} == {str(errors[0])}
        assert site.asked == {"/x.tar.gz": 1}

    async def test_what_is_under_way_ends_with_the_fetcher(self, site: Site, fetching: Fetching) -> None:
        never = asyncio.Event()

        async def hang(request: web.Request) -> web.StreamResponse:
            await never.wait()
            raise AssertionError

        site.handlers["/x.tar.gz"] = hang
        async with fetching() as fetcher:
            waiting = asyncio.create_task(fetcher.open(REF, site.offer("/x.tar.gz", ARCHIVE)))
            while not site.asked:  # noqa: ASYNC110  # there is nothing of the server's to wait for
                await asyncio.sleep(0)

        await asyncio.wait([waiting])
        assert waiting.cancelled()


class TestVerified:
    @pytest.mark.parametrize(
        "digest",
        [
            pytest.param("sha256:" + "0" * 64, id="that of other bytes"),
            pytest.param(sha256(gzip.decompress(ARCHIVE)), id="that of the decompressed bytes"),
        ],
    )
    async def test_other_bytes_are_refused(self, site: Site, fetcher: Fetcher, digest: str) -> None:
        offered = site.serve("/x.tar.gz", ARCHIVE)
        error = await refused(fetcher, ArtifactStatus(digest, "", offered.url, "r"))

        text = f"failed to verify archive: digest mismatch: expected {digest}, got {offered.digest}, {NAMED}"
        assert (str(error), error.code, error.retry_after) == (text, Code.DIGEST_MISMATCH, None)

    @pytest.mark.parametrize("digest", ["", "md5:" + "0" * 32, "sha256:" + "A" * 64, "sha256:12", "sha1:" + "0" * 64])
    async def test_a_digest_that_is_none_is_refused(self, site: Site, fetcher: Fetcher, digest: str) -> None:
        offered = site.serve("/x.tar.gz", ARCHIVE)
        error = await refused(fetcher, ArtifactStatus(digest, "", offered.url, "r"))

        assert str(error).startswith(f"failed to verify archive: '{digest}' is not a digest (")
        assert error.code is Code.DIGEST_MISMATCH

    async def test_a_wrong_digest_is_looked_at_again_each_time(self, site: Site, fetcher: Fetcher) -> None:
        offered = site.serve("/x.tar.gz", b"something else")
        wanted = ArtifactStatus(sha256(ARCHIVE), "", offered.url, "r")
        await refused(fetcher, wanted)

        site.serve("/x.tar.gz", ARCHIVE)
        assert holds(await fetcher.open(REF, wanted)) == {"a/b.yaml": b"b: 1\n"}

    async def test_bytes_are_taken_as_they_come(self, site: Site, fetcher: Fetcher) -> None:
        """A header that says they were compressed on the way is a lie that some servers tell of every .gz."""
        offered = site.serve("/x.tar.gz", ARCHIVE, **{"Content-Encoding": "gzip"})

        assert holds(await fetcher.open(REF, offered)) == {"a/b.yaml": b"b: 1\n"}

    async def test_what_was_compressed_on_the_way_is_something_else(self, site: Site, fetcher: Fetcher) -> None:
        again = gzip.compress(ARCHIVE)
        site.serve("/x.tar.gz", again, **{"Content-Encoding": "gzip"})
        error = await refused(fetcher, site.offer("/x.tar.gz", ARCHIVE))

        digests = f"expected {sha256(ARCHIVE)}, got {sha256(again)}"
        assert str(error) == f"failed to verify archive: digest mismatch: {digests}, {NAMED}"

    async def test_an_answer_that_ends_early_is_tried_again(self, site: Site, fetcher: Fetcher, clock: Hand) -> None:
        async def cut(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": str(len(ARCHIVE))})
            await response.prepare(request)
            await response.write(ARCHIVE[:-5])
            assert request.transport is not None
            request.transport.close()
            return response

        site.handlers["/x.tar.gz"] = cut
        offered = site.offer("/x.tar.gz", ARCHIVE)
        error = await refused(fetcher, offered)
        text = f"failed to download archive: GET {offered.url}: the answer ended early, {NAMED}"
        assert (str(error), error.code, error.retry_after) == (text, Code.FETCH, 5.0)

        site.serve("/x.tar.gz", ARCHIVE)
        clock.now += 5
        assert holds(await fetcher.open(REF, offered)) == {"a/b.yaml": b"b: 1\n"}

    async def test_what_is_no_archive_is_refused(self, site: Site, fetcher: Fetcher) -> None:
        error = await refused(fetcher, site.serve("/x.tar.gz", b"no archive"))

        assert error.code is Code.INVALID_ARCHIVE
        assert str(error).endswith(NAMED)


class TestPatience:
    @pytest.mark.parametrize(
        ("status", "headers", "wait"),
        [
            pytest.param(404, {}, None, id="not there"),
            pytest.param(403, {}, None, id="forbidden"),
            pytest.param(204, {}, None, id="nothing in it"),
            pytest.param(501, {}, None, id="not implemented"),
            pytest.param(500, {}, 5.0, id="an error of the server"),
            pytest.param(503, {}, 5.0, id="overloaded"),
            pytest.param(429, {}, 5.0, id="asked too often"),
            pytest.param(503, {"Retry_After": "60"}, 60.0, id="told when to come back"),
            pytest.param(429, {"Retry_After": "1"}, 5.0, id="too soon to be polite"),
            pytest.param(503, {"Retry_After": "999999999"}, 3600.0, id="told to come back never"),
            pytest.param(503, {"Retry_After": "٣"}, 5.0, id="a number that is none"),
            pytest.param(503, {"Retry_After": "soon"}, 5.0, id="told nothing useful"),
            pytest.param(503, {"Retry_After": "-5"}, 5.0, id="told to come back earlier"),
        ],
    )
    async def test_what_is_worth_another_try(
        self, site: Site, fetcher: Fetcher, status: int, headers: dict[str, str], wait: float | None
    ) -> None:
        offered = site.answer("/x.tar.gz", status, **headers)
        error = await refused(fetcher, offered)

        assert (error.code, error.retry_after) == (Code.FETCH, wait)
        if status == 404:
            assert str(error) == f"file not found: {offered.url}, {NAMED}"
        else:
            assert str(error).startswith(f"failed to download archive from {offered.url} (status: {status} ")
            assert str(error).endswith(f"), {NAMED}")

    async def test_a_date_to_come_back_at(self, site: Site, fetcher: Fetcher) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
        error = await refused(fetcher, site.answer("/x.tar.gz", 503, Retry_After=date))

        assert error.retry_after is not None
        assert 500 < error.retry_after <= 600

    async def test_who_asks_meanwhile_is_told_at_once(self, site: Site, fetcher: Fetcher, clock: Hand) -> None:
        offered = site.answer("/x.tar.gz", 503)
        first = await refused(fetcher, offered)
        clock.now += 2
        second = await refused(fetcher, offered)

        assert site.asked == {"/x.tar.gz": 1}
        assert (str(second), second.retry_after) == (str(first), 3.0)
        other = site.serve("/other.tar.gz", ARCHIVE)
        await fetcher.open(REF, other)

    async def test_the_waits_grow_and_begin_anew_after_a_round(
        self, site: Site, fetching: Fetching, clock: Hand
    ) -> None:
        waits = []
        async with fetching(retries=6) as fetcher:
            offered = site.answer("/x.tar.gz", 503)
            for _ in range(9):
                error = await refused(fetcher, offered)
                assert error.retry_after is not None
                waits.append(error.retry_after)
                clock.now += error.retry_after

        assert waits == [5.0, 10.0, 20.0, 30.0, 30.0, 30.0, 30.0, 5.0, 10.0]

    async def test_success_is_the_end_of_it(self, site: Site, fetcher: Fetcher, clock: Hand) -> None:
        offered = site.answer("/x.tar.gz", 503)
        for wait in (5.0, 10.0):
            assert (await refused(fetcher, offered)).retry_after == wait
            clock.now += wait
        site.serve("/x.tar.gz", ARCHIVE)
        await fetcher.open(REF, offered)

        again = site.serve("/x.tar.gz", archive({"x": b"2"}))
        site.answer("/x.tar.gz", 503)
        assert (await refused(fetcher, again)).retry_after == 5.0

    async def test_what_is_not_there_is_asked_for_each_time(self, site: Site, fetcher: Fetcher) -> None:
        offered = site.answer("/x.tar.gz", 404)
        await refused(fetcher, offered)
        await refused(fetcher, offered)

        assert site.asked == {"/x.tar.gz": 2}

    async def test_nobody_listens(self, fetcher: Fetcher, site: Site) -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        error = await refused(fetcher, ArtifactStatus(sha256(ARCHIVE), "", f"http://127.0.0.1:{port}/x", "r"))

        text = f"failed to download archive: GET http://127.0.0.1:{port}/x: connection refused, {NAMED}"
        assert (str(error), error.retry_after) == (text, 5.0)

    async def test_nobody_has_that_name(self, fetcher: Fetcher) -> None:
        error = await refused(fetcher, ArtifactStatus(sha256(ARCHIVE), "", "http://nobody.invalid/x", "r"))

        text = f"failed to download archive: GET http://nobody.invalid/x: cannot look up 'nobody.invalid', {NAMED}"
        assert (str(error), error.retry_after) == (text, 5.0)

    @pytest.mark.parametrize("rules", [{"silence": 0.05}, {"deadline": 0.05}], ids=["in silence", "in all"])
    async def test_what_never_ends_is_given_up(self, site: Site, fetching: Fetching, rules: dict[str, float]) -> None:
        never = asyncio.Event()

        async def stall(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(ARCHIVE[:20])
            with contextlib.suppress(asyncio.CancelledError):
                await never.wait()
            return response

        site.handlers["/x.tar.gz"] = stall
        offered = site.offer("/x.tar.gz", ARCHIVE)
        async with fetching(**rules) as fetcher:
            error = await refused(fetcher, offered)

        text = f"failed to download archive: GET {offered.url}: no answer in time, {NAMED}"
        assert (str(error), error.retry_after) == (text, 5.0)


class TestSize:
    async def test_what_says_that_it_is_too_large_is_not_read(self, site: Site, fetching: Fetching) -> None:
        offered = site.serve("/x.tar.gz", b"x" * 101)
        async with fetching(limits=Limits(download_size=100)) as fetcher:
            error = await refused(fetcher, offered)
            assert fetcher.downloads == 0

        text = f"archive of 101 bytes is too large (limit: 100, download_size), {NAMED}"
        assert (str(error), error.code, error.retry_after) == (text, Code.LIMIT, None)

    async def test_what_turns_out_to_be_too_large_is_hung_up_on(self, site: Site, fetching: Fetching) -> None:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def endless(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            sent = 0
            try:
                while True:
                    await response.write(b"x" * 100_000)
                    sent += 100_000
            except ConnectionError:
                ended.set_result(sent)
            return response

        site.handlers["/x.tar.gz"] = endless
        async with fetching(limits=Limits(download_size=1_000_000)) as fetcher:
            error = await refused(fetcher, site.offer("/x.tar.gz", ARCHIVE))
            async with asyncio.timeout(60):
                assert await ended < 100_000_000, "nobody went on reading"

        text = f"archive is larger than 1000000 bytes (limit: 1000000, download_size), {NAMED}"
        assert (str(error), error.code) == (text, Code.LIMIT)


class TestRedirects:
    async def test_a_few_on_one_host_are_followed(self, site: Site, fetcher: Fetcher) -> None:
        site.serve("/x.tar.gz", ARCHIVE)
        statuses = [301, 302, 303, 307, 308]
        for number, status in enumerate(statuses):
            target = f"/{number + 1}" if number < 4 else f"{site.url}/x.tar.gz"
            site.answer(f"/{number}", status, Location=target)
        offered = site.offer("/0", ARCHIVE)

        assert holds(await fetcher.open(REF, offered)) == {"a/b.yaml": b"b: 1\n"}

        site.answer("/one-more", 302, Location="/0")
        error = await refused(fetcher, site.offer("/one-more", ARCHIVE))
        assert (str(error), error.retry_after) == (f"more than 5 redirects, {NAMED}", None)

    async def test_a_loop_ends(self, site: Site, fetcher: Fetcher) -> None:
        error = await refused(fetcher, site.answer("/x", 302, Location="/x"))

        assert str(error) == f"more than 5 redirects, {NAMED}"
        assert site.asked == {"/x": 6}

    @pytest.mark.parametrize(
        ("target", "text"),
        [
            pytest.param(
                "http://localhost:{port}/x.tar.gz",
                "redirected to another host, 'localhost' (redirects stay on one host)",
                id="another name of the same host",
            ),
            pytest.param(
                "http://127.0.0.1:1/x.tar.gz",
                "redirected to another host, '127.0.0.1' (redirects stay on one host)",
                id="another port",
            ),
            pytest.param(
                "//169.254.169.254/x",
                "redirected to another host, '169.254.169.254' (redirects stay on one host)",
                id="the same scheme elsewhere",
            ),
            pytest.param(
                "http://user:secret@127.0.0.1:{port}/x.tar.gz",
                "'http://127.0.0.1:{port}/x.tar.gz' holds credentials (leave them out)",
                id="with credentials",
            ),
            pytest.param(
                "file:///etc/passwd",
                "redirected to another host, 'file:///etc/passwd' (redirects stay on one host)",
                id="another scheme",
            ),
            pytest.param("http://[::1", "'...' is not a URL", id="what is no URL"),
            pytest.param("", "more than 5 redirects", id="nowhere"),
        ],
    )
    async def test_no_redirect_leads_elsewhere(self, site: Site, fetcher: Fetcher, target: str, text: str) -> None:
        site.serve("/x.tar.gz", ARCHIVE)
        error = await refused(fetcher, site.answer("/from", 302, Location=target.format(port=site.port)))

        assert str(error) == f"{text.format(port=site.port)}, {NAMED}"
        assert "/x.tar.gz" not in site.asked


LINK_LOCAL = "(link-local and multicast never hold sources)"
LOOPBACK = "(loopback, --no-loopback-sources)"


class TestAddresses:
    @pytest.mark.parametrize(
        ("host", "address"),
        [
            pytest.param("169.254.169.254", "169.254.169.254", id="the metadata service of clouds"),
            pytest.param("[fe80::1]", "fe80::1", id="a link-local address"),
            pytest.param("[::ffff:169.254.169.254]", "169.254.169.254", id="one in another form"),
            pytest.param("0xa9fea9fe", "169.254.169.254", id="one number"),
            pytest.param("0.0.0.0", "0.0.0.0", id="any address"),
            pytest.param("[::]", "::", id="any address of the sixth version"),
            pytest.param("224.0.0.1", "224.0.0.1", id="everybody"),
            pytest.param("[ff02::1]", "ff02::1", id="everybody of the sixth version"),
        ],
    )
    async def test_never_allowed(self, site: Site, fetcher: Fetcher, host: str, address: str) -> None:
        error = await refused(fetcher, ArtifactStatus(sha256(ARCHIVE), "", f"http://{host}:{site.port}/x", "r"))

        assert str(error) == f"address {address} of '{host.strip('[]')}' is refused {LINK_LOCAL}, {NAMED}"
        assert (error.code, error.retry_after) == (Code.FETCH, None)
        assert not site.asked

    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1", "127.255.255.254", "localhost", "LOCALHOST", "0x7f.1", "0x7f000001",
            "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
        ],
    )  # fmt: skip
    async def test_loopback_is_refused_where_it_is_said_so(self, site: Site, fetching: Fetching, host: str) -> None:
        site.serve("/x.tar.gz", ARCHIVE)
        url = f"http://{host}:{site.port}/x.tar.gz"
        async with fetching(loopback=False) as fetcher:
            error = await refused(fetcher, ArtifactStatus(sha256(ARCHIVE), "", url, "r"))

        assert LOOPBACK in str(error)
        assert error.retry_after is None
        assert not site.asked

    @pytest.mark.parametrize("host", ["127.1", "2130706433", "017700000001", "0", "0251.0376.0251.0376", "①②⑦.0.0.1"])
    async def test_odd_spellings_are_no_urls(self, site: Site, fetcher: Fetcher, host: str) -> None:
        error = await refused(fetcher, ArtifactStatus(sha256(ARCHIVE), "", f"http://{host}:{site.port}/x", "r"))

        assert str(error) == f"'http://{host}:{site.port}/x' is not a URL, {NAMED}"
        assert not site.asked

    async def test_loopback_of_the_sixth_version(self, fetching: Fetching) -> None:
        async with fetching(loopback=False) as fetcher:
            error = await refused(fetcher, ArtifactStatus(sha256(ARCHIVE), "", "http://[::1]:1/x", "r"))

        assert str(error) == f"address ::1 of '::1' is refused {LOOPBACK}, {NAMED}"

    @pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
    async def test_our_own_address_is_always_allowed(self, site: Site, fetching: Fetching, name: str) -> None:
        site.serve("/x.tar.gz", ARCHIVE)
        own = ArtifactStatus(sha256(ARCHIVE), "", f"http://{name}:{site.port}/x.tar.gz", "r")
        async with fetching(loopback=False, own_address=f"{name}:{site.port}") as fetcher:
            assert holds(await fetcher.open(REF, own)) == {"a/b.yaml": b"b: 1\n"}

            port = ArtifactStatus(sha256(ARCHIVE), "", f"http://{name}:1/x.tar.gz", "r")
            assert LOOPBACK in str(await refused(fetcher, port))

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            pytest.param("file:///etc/passwd", "'file:///etc/passwd' is not an http or https URL", id="a file"),
            pytest.param("ftp://host/x", "'ftp://host/x' is not an http or https URL", id="another protocol"),
            pytest.param("/x.tar.gz", "'/x.tar.gz' is not an http or https URL", id="a path"),
            pytest.param("", "'' is not an http or https URL", id="nothing"),
            pytest.param(
                "http://user:secret@127.0.0.1/x?token=secret",
                "'http://127.0.0.1/x' holds credentials (leave them out)",
                id="credentials",
            ),
            pytest.param(
                "http://secret@127.0.0.1/x", "'http://127.0.0.1/x' holds credentials (leave them out)", id="a user"
            ),
            pytest.param("http://[::1/x", "'...' is not a URL", id="half an address"),
            pytest.param("http://host:99999/x", "'...' is not a URL", id="a port that is none"),
            pytest.param("http://host:x/", "'...' is not a URL", id="a port that is no number"),
            pytest.param("http://user:secret@host:x/", "'...' is not a URL", id="credentials in what is no URL"),
        ],
    )
    async def test_what_is_no_url_for_us(self, fetcher: Fetcher, url: str, text: str) -> None:
        error = await refused(fetcher, ArtifactStatus(sha256(ARCHIVE), "", url, "r"))

        assert (str(error), error.code, error.retry_after) == (f"{text}, {NAMED}", Code.FETCH, None)

    async def test_what_a_url_asks_for_is_not_shown(self, site: Site, fetcher: Fetcher) -> None:
        site.answer("/x", 503)
        url = f"{site.url}/x?token=secret#part"
        error = await refused(fetcher, ArtifactStatus(sha256(ARCHIVE), "", url, "r"))

        text = f"failed to download archive from {site.url}/x (status: 503 Service Unavailable)"
        assert str(error) == f"{text}, {NAMED}"

    def test_redaction(self) -> None:
        assert redact("https://user:secret@host:1/a?b=secret#secret") == "https://host:1/a"
        assert redact("http://[::1") == "..."


class TestDevelopment:
    async def test_everything_but_artifacts_comes_from_elsewhere(self, site: Site, fetching: Fetching) -> None:
        site.serve("/x.tar.gz", ARCHIVE)
        far = ArtifactStatus(sha256(ARCHIVE), "", "http://source-controller.invalid./x.tar.gz", "r")
        async with fetching(localhost=f"127.0.0.1:{site.port}") as fetcher:
            source = await fetcher.open(REF, far)
            assert holds(source) == {"a/b.yaml": b"b: 1\n"}
            assert source.url == far.url

            odd = ArtifactStatus(sha256(ARCHIVE), "", "/no-host", "r")
            assert str(await refused(fetcher, odd)) == f"'/no-host' is not an http or https URL, {NAMED}"
            artifact = SourceRef("up", SourceKind.EXTERNAL_ARTIFACT, "up", "apps")
            assert "source-controller.invalid" in str(await refused(fetcher, far, artifact))
