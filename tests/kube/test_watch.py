"""Watches on the real API server, and what they make of its faults and the network's."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate
from typing import Any, TypeAlias

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from tests.envtest.fixtures import start_control_plane
from tests.envtest.server import ControlPlane
from tests.kube.faults import HandClock, Proxy, reply, running

from sluice.core.errors import ApiError
from sluice.kube.client import Client, Undecodable
from sluice.kube.config import ClientConfig, load_config
from sluice.kube.kinds import Kind, Metadata
from sluice.kube.watch import Changed, Event, Gone, Lines, Synced, Watch

pytestmark = pytest.mark.cluster

CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")


class ConfigMap(Struct, frozen=True):
    metadata: Metadata
    data: dict[str, int] = {}


CONFIG_MAPS = msgspec.json.Decoder(ConfigMap, strict=False)
Change: TypeAlias = tuple[str, ...]


class Objects:
    """Changes to a namespace's objects, made behind the watch's back."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._client = plane.client
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"

    def create(self, name: str, value: object = 0) -> None:
        self._client.create(self._path, {"metadata": {"name": name, "labels": {"is": name}}, "data": {"x": f"{value}"}})

    def change(self, name: str, value: object) -> None:
        self._client.merge(f"{self._path}/{name}", {"data": {"x": f"{value}"}})

    def delete(self, name: str) -> None:
        self._client.delete(f"{self._path}/{name}")


class Seen:
    """What a watch reported, in words."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Change] = asyncio.Queue()
        self._failures: asyncio.Queue[str] = asyncio.Queue()

    def handle(self, event: Event[ConfigMap]) -> None:
        match event:
            case Changed(item):
                self._events.put_nowait(("changed", item.metadata.name, str(item.data["x"])))
            case Gone(key, item):
                self._events.put_nowait(("gone", key[1], "seen" if item else "unseen"))
            case Undecodable(key, _, why):
                self._events.put_nowait(("undecodable", key[1] if key else "", why))
            case Synced():
                self._events.put_nowait(("synced",))

    def failed(self, kind: Kind, error: ApiError) -> None:
        self._failures.put_nowait(f"{kind.name}: {error}")

    async def failure(self) -> str:
        async with asyncio.timeout(120):
            return await self._failures.get()

    def failed_with(self) -> list[str]:
        """The failures that nobody has looked at."""
        return [self._failures.get_nowait() for _ in range(self._failures.qsize())]

    async def next(self) -> Change:
        async with asyncio.timeout(120):
            return await self._events.get()

    async def these(self, count: int) -> list[Change]:
        return [await self.next() for _ in range(count)]

    async def followed(self, objects: Objects) -> None:
        """Wait until a change to a first object comes in through the watch, not the list."""
        objects.create("a", 0)
        while await self.next() != ("synced",):
            pass
        objects.change("a", 1)
        assert await self.next() == ("changed", "a", "1")

    def rest(self) -> list[Change]:
        """What nobody has looked at."""
        return [self._events.get_nowait() for _ in range(self._events.qsize())]


@pytest.fixture
def objects(control_plane: ControlPlane, namespace: str) -> Objects:
    return Objects(control_plane, namespace)


@pytest.fixture
def config(control_plane: ControlPlane) -> ClientConfig:
    return load_config({"KUBECONFIG": str(control_plane.kubeconfig)})


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[Proxy]:
    async with Proxy(control_plane.url, control_plane.directory / "ca.crt") as proxy:
        yield proxy


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def watching(proxy: Proxy, config: ClientConfig, namespace: str, clock: HandClock) -> Callable[..., Any]:
    """Runs a watch of the test's namespace through the proxy."""

    @asynccontextmanager
    async def watching(**options: Any) -> AsyncIterator[tuple[Seen, Watch[ConfigMap]]]:
        seen = Seen()
        async with Client(ClientConfig(proxy.url, token=config.token), clock=clock) as client:
            options = {
                "namespace": namespace,
                "clock": clock,
                "rng": random.Random(1),
                "failed": seen.failed,
                **options,
            }
            watch = Watch(client, CONFIG_MAP, CONFIG_MAPS, **options)
            async with running(watch.run(seen.handle)):
                yield seen, watch

    return watching


def lists(proxy: Proxy) -> int:
    return sum(b"limit=" in request for request in proxy.requests)


def watches(proxy: Proxy) -> list[dict[str, str]]:
    """The queries of the watches that were opened."""
    targets = [request.split(b" ")[1].decode() for request in proxy.requests if b"watch=1" in request]
    return [dict(pair.split("=", 1) for pair in target.partition("?")[2].split("&")) for target in targets]


class TestFollowing:
    async def test_what_exists_then_what_changes(self, watching: Any, objects: Objects) -> None:
        objects.create("a", 1)
        async with watching() as (seen, _):
            assert await seen.these(2) == [("changed", "a", "1"), ("synced",)]
            objects.create("b", 2)
            objects.change("a", 3)
            objects.delete("a")
            assert await seen.these(3) == [("changed", "b", "2"), ("changed", "a", "3"), ("gone", "a", "seen")]

        assert seen.rest() == []
        assert seen.failed_with() == []

    async def test_lists_come_in_pages(self, watching: Any, objects: Objects, proxy: Proxy) -> None:
        for name in "abcde":
            objects.create(name)
        async with watching(page=2) as (seen, _):
            assert await seen.these(6) == [*(("changed", name, "0") for name in "abcde"), ("synced",)]

        assert lists(proxy) == 3

    async def test_selectors(self, watching: Any, objects: Objects) -> None:
        objects.create("a")
        async with watching(labels="is in (b)") as (seen, _):
            assert await seen.next() == ("synced",)
            objects.change("a", 1)
            objects.create("b")
            assert await seen.next() == ("changed", "b", "0")

    async def test_watches_ask_for_bookmarks_and_end_at_random(
        self, watching: Any, objects: Objects, proxy: Proxy
    ) -> None:
        objects.create("a")
        async with watching() as (seen, _):
            await seen.these(2)
            for value in range(1, 6):
                objects.change("a", value)
                await seen.next()
                proxy.cut()
            objects.change("a", 6)
            await seen.next()

        queries = watches(proxy)
        timeouts = {int(query["timeoutSeconds"]) for query in queries}
        assert {query["allowWatchBookmarks"] for query in queries} == {"true"}
        assert len(timeouts) > 3
        assert timeouts <= set(range(300, 601))

    async def test_age(self, watching: Any, objects: Objects, clock: HandClock) -> None:
        objects.create("a")
        async with watching() as (seen, watch):
            await seen.these(2)
            clock.seconds += 50
            assert watch.age() >= 50
            objects.change("a", 1)
            await seen.next()
            assert watch.age() == 0


class TestObjectsThatCannotBeRead:
    async def test_they_are_told_apart_and_stop_nothing(self, watching: Any, objects: Objects) -> None:
        why = "Expected `int`, got `str` - at `$.data[...]`"
        objects.create("a", "none")
        async with watching() as (seen, _):
            assert await seen.these(2) == [("undecodable", "a", why), ("synced",)]
            objects.create("b", "none")
            objects.create("c", 1)
            objects.change("b", 2)
            assert await seen.these(3) == [("undecodable", "b", why), ("changed", "c", "1"), ("changed", "b", "2")]
            objects.delete("a")
            assert await seen.next() == ("gone", "a", "unseen")

    async def test_one_that_is_too_deep(self, watching: Any, objects: Objects, proxy: Proxy, namespace: str) -> None:
        deep = b"[" * 50_000 + b"]" * 50_000
        async with watching() as (seen, _):
            await seen.followed(objects)
            body = b'{"spec":%b,"metadata":{"name":"a","namespace":"%b"}}' % (deep, namespace.encode())
            proxy.on_answer = Once(b'"x":"2"', event("MODIFIED", body))
            objects.change("a", 2)
            assert await seen.next() == ("undecodable", "a", "nested too deeply")
            objects.change("a", 3)
            assert await seen.next() == ("changed", "a", "3")

    async def test_one_without_a_readable_name_hides_no_other(
        self, watching: Any, objects: Objects, proxy: Proxy
    ) -> None:
        async with watching() as (seen, _):
            await seen.followed(objects)
            # A list without "a", which may be the object that has no name.
            strange = reply("200 OK", b'{"metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":7}}]}')
            proxy.on_request = Instead(proxy, [(b"watch=1", GONE), (b"limit=", strange), (b"watch=1", GONE)])
            proxy.cut()
            assert await seen.these(3) == [
                ("undecodable", "", "Expected `str`, got `int` - at `$.metadata.name`"),
                ("synced",),
                ("synced",),
            ]

        assert seen.rest() == []


class TestStartingOver:
    """410: the server has forgotten the version from which we want to go on."""

    async def test_what_was_missed_is_reported_once_and_nothing_else(
        self, watching: Any, objects: Objects, proxy: Proxy
    ) -> None:
        for name in "bc":
            objects.create(name, 1)
        async with watching() as (seen, _):
            await seen.followed(objects)
            proxy.on_request = Instead(proxy, [(b"watch=1", GONE)])
            proxy.hang()
            objects.change("a", 2)
            objects.delete("b")
            objects.create("d", 3)
            proxy.cut()
            proxy.resume()
            assert await seen.these(4) == [
                ("changed", "a", "2"),
                ("changed", "d", "3"),
                ("gone", "b", "unseen"),
                ("synced",),
            ]
            objects.change("c", 4)
            assert await seen.next() == ("changed", "c", "4")

        assert seen.rest() == []
        assert lists(proxy) == 2

    async def test_an_error_in_the_stream(
        self, watching: Any, objects: Objects, proxy: Proxy, clock: HandClock
    ) -> None:
        async with watching() as (seen, _):
            await seen.followed(objects)
            proxy.on_answer = Once(b'"x":"2"', event("ERROR", GONE_STATUS))
            objects.change("a", 2)
            assert await seen.these(2) == [("changed", "a", "2"), ("synced",)]

        assert seen.failed_with() == []
        assert clock.slept == []
        assert lists(proxy) == 2

    async def test_a_server_that_forgets_at_once_is_asked_ever_less_often(
        self, watching: Any, objects: Objects, proxy: Proxy, clock: HandClock
    ) -> None:
        proxy.on_request = Instead(proxy, [(b"watch=1", GONE)] * 20)
        async with watching() as (seen, _):
            for _ in range(20):
                assert await seen.next() == ("synced",)
                assert await seen.failure() == "ConfigMap: too old"

        assert 0.64 <= clock.slept[0] <= 0.8
        assert 24 <= clock.slept[19] <= 30

    async def test_another_error_in_the_stream(self, watching: Any, objects: Objects, proxy: Proxy) -> None:
        async with watching() as (seen, _):
            await seen.followed(objects)
            status = b'{"kind":"Status","status":"Failure","message":"storage is broken","code":500}'
            proxy.on_answer = Once(b'"x":"2"', event("ERROR", status))
            objects.change("a", 2)
            assert await seen.failure() == "ConfigMap: storage is broken"
            assert await seen.these(2) == [("changed", "a", "2"), ("synced",)]

    async def test_a_busy_server_is_asked_for_the_same_again(
        self, watching: Any, objects: Objects, proxy: Proxy, clock: HandClock
    ) -> None:
        async with watching() as (seen, _):
            await seen.followed(objects)
            busy = reply("429 Too Many Requests", b"", "Retry-After: 7")
            proxy.on_request = Instead(proxy, [(b"watch=1", busy)])
            proxy.cut()
            objects.change("a", 2)
            assert await seen.next() == ("changed", "a", "2")

        assert 7 in clock.slept
        assert lists(proxy) == 1

    @pytest.mark.parametrize(
        "line",
        [
            pytest.param(b"mangled\n", id="no JSON"),
            pytest.param(b'{"type":"MODIFIED"}\n', id="no object"),
            pytest.param(b'{"type":"BOOKMARK","object":{}}\n', id="a bookmark of nothing"),
            pytest.param(b'{"type":"MODIFIED","object":{"x":"' + b"x" * (5 << 20) + b'"}}\n', id="too long"),
        ],
    )
    async def test_what_is_no_event(self, line: bytes, watching: Any, objects: Objects, proxy: Proxy) -> None:
        async with watching() as (seen, _):
            await seen.followed(objects)
            proxy.on_answer = Once(b'"x":"2"', chunked(line))
            objects.change("a", 2)
            assert await seen.these(2) == [("changed", "a", "2"), ("synced",)]


class TestTheNetwork:
    async def test_a_reset_connection(self, watching: Any, objects: Objects, proxy: Proxy) -> None:
        async with watching() as (seen, _):
            await seen.followed(objects)
            proxy.cut()
            objects.change("a", 2)
            assert await seen.next() == ("changed", "a", "2")

        assert lists(proxy) == 1
        assert seen.rest() == []

    async def test_a_line_that_is_cut(self, watching: Any, objects: Objects, proxy: Proxy) -> None:
        async with watching() as (seen, _):
            await seen.followed(objects)

            def answer(chunk: bytes) -> bytes:
                if b'"x":"2"' not in chunk:
                    return chunk
                proxy.on_answer = lambda chunk: chunk
                asyncio.get_running_loop().call_later(0.01, proxy.cut)
                return chunk[: len(chunk) // 2]

            proxy.on_answer = answer
            objects.change("a", 2)
            assert await seen.next() == ("changed", "a", "2")

        assert seen.failed_with() == [f"ConfigMap: {proxy.url}: connection cut off"]
        assert lists(proxy) == 1

    async def test_silence(self, watching: Any, objects: Objects, proxy: Proxy) -> None:
        async with watching(inactivity=0.2) as (seen, _):
            await seen.followed(objects)
            proxy.hang()
            objects.change("a", 2)
            assert await seen.failure() == "ConfigMap: configmaps: nothing heard for 0.2 s"
            proxy.resume()
            assert await seen.next() == ("changed", "a", "2")

        assert lists(proxy) == 1

    async def test_nobody_listens(self, watching: Any, objects: Objects, proxy: Proxy, clock: HandClock) -> None:
        async with watching() as (seen, watch):
            await seen.followed(objects)
            await proxy.refuse()
            failures = [await seen.failure() for _ in range(20)]
            slept = clock.slept[:19]
            assert watch.age() >= sum(slept)
            objects.change("a", 2)
            await proxy.listen()
            assert await seen.next() == ("changed", "a", "2")

        # The first failure is the watch that was cut.
        assert set(failures[1:]) == {f"ConfigMap: {proxy.url}: connection refused"}
        assert 0.64 <= slept[0] <= 0.8
        assert 24 <= slept[-1] <= 30
        assert lists(proxy) == 1

    async def test_reconnecting_after_an_outage_of_up_to_ten_seconds_takes_at_most_five(
        self, watching: Any, objects: Objects, proxy: Proxy, clock: HandClock
    ) -> None:
        for seed in range(10):
            async with watching(rng=random.Random(seed)) as (seen, _):
                while await seen.next() != ("synced",):
                    pass
                await proxy.refuse()
                clock.slept.clear()
                while sum(clock.slept) < 10:
                    await seen.failure()
                pauses = list(clock.slept)
                await proxy.listen()
            begins = [after - pause for after, pause in zip(accumulate(pauses), pauses, strict=True)]
            assert max(pause for begin, pause in zip(begins, pauses, strict=True) if begin < 10) <= 5

    async def test_pauses_begin_short_again_once_something_was_heard(
        self, watching: Any, objects: Objects, proxy: Proxy, clock: HandClock
    ) -> None:
        async with watching() as (seen, _):
            await seen.followed(objects)
            await proxy.refuse()
            for _ in range(10):
                await seen.failure()
            await proxy.listen()
            objects.change("a", 2)
            assert await seen.next() == ("changed", "a", "2")
            assert clock.slept[-1] > 2
            seen.failed_with()
            proxy.cut()
            await seen.failure()
            objects.change("a", 3)
            assert await seen.next() == ("changed", "a", "3")

        assert clock.slept[-1] <= 0.8

    async def test_a_server_that_ends_every_watch_at_once_is_asked_ever_less_often(
        self, watching: Any, objects: Objects, proxy: Proxy, clock: HandClock
    ) -> None:
        proxy.on_request = Instead(proxy, [(b"watch=1", reply("200 OK"))] * 5)
        async with watching() as (seen, _):
            failures = [await seen.failure() for _ in range(5)]

        assert set(failures) == {"ConfigMap: configmaps: the server ended a watch at once"}
        assert clock.slept[:4] == sorted(clock.slept[:4])


async def test_a_server_that_crashes_and_comes_back() -> None:
    with start_control_plane() as plane:
        namespace = plane.namespace()
        objects, seen = Objects(plane, namespace), Seen()
        config = load_config({"KUBECONFIG": str(plane.kubeconfig)})
        async with Proxy(plane.url, plane.directory / "ca.crt") as proxy:
            async with Client(ClientConfig(proxy.url, token=config.token)) as client:
                watch = Watch(client, CONFIG_MAP, CONFIG_MAPS, namespace=namespace, failed=seen.failed)
                objects.create("b", 1)
                async with running(watch.run(seen.handle)):
                    await seen.followed(objects)
                    proxy.on_request = Forget()
                    await asyncio.to_thread(plane.restart)
                    objects.change("a", 2)
                    assert set(await seen.these(2)) == {("changed", "a", "2"), ("synced",)}

    assert seen.rest() == []
    assert lists(proxy) == 2


@given(st.lists(st.binary(max_size=5).filter(lambda line: b"\n" not in line)), st.data())
def test_lines_do_not_depend_on_chunks(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines) + b"rest"
    found: list[bytes] = []
    cutter = Lines(1000)
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += cutter.feed(stream[:size])
        stream = stream[size:]

    assert found == [line for line in lines if line]


GONE_STATUS = b'{"kind":"Status","status":"Failure","reason":"Expired","message":"too old","code":410}'
GONE = reply("410 Gone", GONE_STATUS)


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def event(what: str, body: bytes) -> bytes:
    return chunked(b'{"type":"%b","object":%b}\n' % (what.encode(), body))


class Forget:
    """Makes the next watch ask for a version from before the server's start, which it does not remember."""

    def __init__(self) -> None:
        self._is_done = False

    def __call__(self, chunk: bytes) -> bytes:
        if self._is_done or b"watch=1" not in chunk:
            return chunk
        self._is_done = True
        return re.sub(rb"resourceVersion=\d+", b"resourceVersion=1", chunk)


class Instead:
    """Answers the next requests that contain something in the server's place, in this order."""

    def __init__(self, proxy: Proxy, answers: Sequence[tuple[bytes, bytes]]) -> None:
        self._proxy = proxy
        self._answers = list(answers)

    def __call__(self, chunk: bytes) -> bytes | None:
        if not self._answers or self._answers[0][0] not in chunk:
            return chunk
        self._proxy.answers.append(self._answers.pop(0)[1])
        return None


class Once:
    """Replaces the first chunk of an answer that contains something."""

    def __init__(self, what: bytes, chunk: bytes) -> None:
        self._what = what
        self._chunk: bytes | None = chunk

    def __call__(self, chunk: bytes) -> bytes:
        if self._chunk is None or self._what not in chunk:
            return chunk
        chunk, self._chunk = self._chunk, None
        return chunk
