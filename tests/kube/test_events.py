"""Events in the real API server, and posts to a receiver that really listens."""

import asyncio
import re
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from tests.envtest.server import ControlPlane
from tests.kube.faults import HandClock, Proxy, reply, running

from sluice.control.objects import Event, EventKind, Generator
from sluice.kube import events
from sluice.kube.client import Client
from sluice.kube.config import ClientConfig, load_config
from sluice.kube.events import Poster, Recorder
from sluice.kube.folding import COMBINED, Folding, Told
from sluice.kube.kinds import EVENT

STRICT = msgspec.json.Decoder(dict[str, str])
NORMAL, WARNING, TRACE = EventKind.NORMAL, EventKind.WARNING, EventKind.TRACE


def generator(namespace: str = "apps", name: str = "gen", uid: str = "1") -> Generator:
    annotations = {"event.toolkit.fluxcd.io/env": "prod", "other": "x"}
    return Generator(
        namespace=namespace, name=name, uid=uid, generation=1, resource_version="12345", annotations=annotations
    )


def built(number: int = 1) -> Event:
    return Event(NORMAL, "Ready", f"external artifacts reconciled: apps/web ({number})")


def noting(failures: list[str]) -> Callable[[Exception], None]:
    return lambda error: failures.append(str(error))


class TestFolding:
    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock()

    @pytest.fixture
    def fold(self, clock: HandClock) -> Callable[..., Told | None]:
        folding = Folding(clock)
        return lambda event, **who: folding.fold(generator(**who), event)

    def test_an_event_like_one_before_counts_that_one_up(self, fold: Callable[..., Told | None]) -> None:
        first, other, again = fold(built(1)), fold(built(2)), fold(built(1))

        assert first
        assert other
        assert (first.count, first.exists, first.type, first.message) == (1, False, "Normal", built(1).message)
        assert again == Told(first.name, 2, "Normal", built(1).message, exists=True)
        assert other.name != first.name

    def test_generators_kinds_and_reasons_are_counted_apart(self, fold: Callable[..., Told | None]) -> None:
        told = [
            fold(Event(NORMAL, "Ready", "x")),
            fold(Event(WARNING, "Ready", "x")),
            fold(Event(NORMAL, "Failed", "x")),
            fold(Event(NORMAL, "Ready", "x"), uid="2"),
        ]

        assert [one and (one.count, one.exists) for one in told] == [(1, False)] * 4
        assert len({one.name for one in told if one}) == 4

    @pytest.mark.parametrize(("kind", "type_"), [(NORMAL, "Normal"), (TRACE, "Normal"), (WARNING, "Warning")])
    def test_the_cluster_knows_two_types(self, kind: EventKind, type_: str, fold: Callable[..., Told | None]) -> None:
        told = fold(Event(kind, "Ready", "x"))

        assert told
        assert told.type == type_

    def test_many_alike_are_combined(self, fold: Callable[..., Told | None], clock: HandClock) -> None:
        apart = [fold(built(number)) for number in range(10)]
        first, second = fold(built(10)), fold(built(11))
        assert all(one and not one.message.startswith(COMBINED) for one in apart)
        assert first
        assert second
        assert (first.message, first.exists) == (f"(combined from similar events): {built(10).message}", False)
        assert second == Told(first.name, 2, "Normal", f"{COMBINED}{built(11).message}", exists=True)

        clock.seconds += 601
        later = fold(built(12))
        assert later
        assert later.message == built(12).message

    def test_there_are_only_so_many(self, fold: Callable[..., Told | None], clock: HandClock) -> None:
        written = [fold(Event(WARNING, "Failed", "x")) for _ in range(30)]
        assert [one is not None for one in written] == [True] * 25 + [False] * 5
        assert fold(Event(NORMAL, "Ready", "x")) is not None
        assert fold(Event(WARNING, "Failed", "x"), uid="2") is not None

        clock.seconds += 301
        assert written[0]
        assert fold(Event(WARNING, "Failed", "x")) == Told(written[0].name, 31, "Warning", "x", exists=True)
        assert fold(Event(WARNING, "Failed", "x")) is None

    def test_what_was_not_written_does_not_exist(self, fold: Callable[..., Told | None], clock: HandClock) -> None:
        for _ in range(25):
            fold(Event(WARNING, "Failed", "x"))
        assert fold(Event(WARNING, "Failed", "new")) is None

        clock.seconds += 301
        told = fold(Event(WARNING, "Failed", "new"))
        assert told
        assert (told.count, told.exists) == (1, False)

    def test_a_name_is_valid_however_long_the_generators(self, fold: Callable[..., Told | None]) -> None:
        first, second = fold(built(1), name="a" * 229 + ".b" * 12), fold(built(2))

        assert first
        assert second
        assert re.fullmatch(r"a{229}\.[0-9a-f]{16}", first.name)
        assert re.fullmatch(r"gen\.[0-9a-f]{16}", second.name)


class TestRecorder:
    pytestmark = pytest.mark.cluster

    @pytest.fixture
    def failures(self) -> list[str]:
        return []

    @pytest.fixture
    async def proxy(self, control_plane: ControlPlane) -> AsyncIterator[Proxy]:
        async with Proxy(control_plane.url, control_plane.directory / "ca.crt") as proxy:
            yield proxy

    @pytest.fixture
    async def client(self, proxy: Proxy, control_plane: ControlPlane) -> AsyncIterator[Client]:
        token = load_config({"KUBECONFIG": str(control_plane.kubeconfig)}).token
        async with Client(ClientConfig(proxy.url, token=token)) as client:
            yield client

    @pytest.fixture
    def found(self, control_plane: ControlPlane, namespace: str) -> Callable[[], list[Any]]:
        def read() -> list[Any]:
            items: list[Any] = control_plane.client.get(EVENT.path(namespace))["items"]
            return items

        return read

    @pytest.fixture
    async def recorder(self, client: Client, failures: list[str]) -> AsyncIterator[Recorder]:
        recorder = Recorder(client, "here", failed=noting(failures))
        async with running(recorder.run()):
            yield recorder

    async def test_an_event(self, recorder: Recorder, found: Callable[[], list[Any]], namespace: str) -> None:
        recorder.record(generator(namespace), Event(WARNING, "BuildFailed", "web build failed: no", revision="main@1"))
        await recorder.flush(60)

        (event,) = found()
        assert re.fullmatch(r"gen\.[0-9a-f]{16}", event["metadata"]["name"])
        assert event["metadata"]["annotations"] == {"event.toolkit.fluxcd.io/env": "prod"}
        assert event["involvedObject"] == {
            "kind": "ArtifactGenerator",
            "namespace": namespace,
            "name": "gen",
            "uid": "1",
            "apiVersion": "source.extensions.fluxcd.io/v1beta1",
            "resourceVersion": "12345",
        }
        assert (event["type"], event["reason"], event["message"]) == ("Warning", "BuildFailed", "web build failed: no")
        assert (event["source"], event["reportingComponent"]) == ({"component": "source-watcher"}, "source-watcher")
        assert (event["reportingInstance"], event["count"]) == ("here", 1)
        assert event["firstTimestamp"] == event["lastTimestamp"]
        assert re.fullmatch(r"[-\d]{10}T[:\d]{8}Z", event["firstTimestamp"])

    async def test_the_same_event_again(
        self, recorder: Recorder, found: Callable[[], list[Any]], failures: list[str], namespace: str
    ) -> None:
        for number in (1, 2, 1, 1):
            recorder.record(generator(namespace), built(number))
        await recorder.flush(60)

        assert sorted((event["message"], event["count"]) for event in found()) == [
            (built(1).message, 3),
            (built(2).message, 1),
        ]
        assert failures == []

    async def test_an_event_that_the_cluster_forgot_is_written_anew(
        self,
        recorder: Recorder,
        control_plane: ControlPlane,
        found: Callable[[], list[Any]],
        failures: list[str],
        namespace: str,
    ) -> None:
        recorder.record(generator(namespace), built())
        await recorder.flush(60)
        control_plane.client.delete(EVENT.path(namespace, found()[0]["metadata"]["name"]))
        recorder.record(generator(namespace), built())
        await recorder.flush(60)

        assert [(event["message"], event["count"]) for event in found()] == [(built().message, 2)]
        assert failures == []

    async def test_no_change_is_told_once_in_five_minutes_and_logged_always(
        self, client: Client, found: Callable[[], list[Any]], namespace: str
    ) -> None:
        clock, logged, posted = HandClock(), list[str](), list[str]()
        recorder = Recorder(
            client,
            "here",
            log=lambda generator, event: logged.append(event.message),
            post=lambda generator, event: posted.append(event.message),
            clock=clock,
        )
        async with running(recorder.run()):
            for seconds, message, unchanged in (
                (0, "one", True),
                (299, "two", True),
                (0, "three", False),
                (1, "four", True),
                (299, "five", True),
            ):
                clock.seconds += seconds
                recorder.record(generator(namespace), Event(NORMAL, "Ready", message, unchanged=unchanged))
                recorder.record(
                    generator(namespace, uid=message), Event(NORMAL, "Ready", "another", unchanged=unchanged)
                )
            await recorder.flush(60)

        told = ["one", "three", "four"]
        assert [message for message in logged if message != "another"] == ["one", "two", "three", "four", "five"]
        assert [message for message in posted if message != "another"] == told
        assert sorted(event["message"] for event in found()) == sorted([*told, *["another"] * 5])

    async def test_nobody_misses_events_of_a_namespace_that_is_gone_or_going(
        self,
        recorder: Recorder,
        control_plane: ControlPlane,
        found: Callable[[], list[Any]],
        failures: list[str],
        namespace: str,
    ) -> None:
        going = control_plane.namespace()
        control_plane.client.delete(f"/api/v1/namespaces/{going}")
        for number, where in enumerate((going, "never-was", namespace)):
            recorder.record(generator(where, uid=str(number)), built())
        await recorder.flush(60)

        assert len(found()) == 1
        assert failures == []

    async def test_an_event_that_is_refused_is_told_and_the_next_is_written(
        self,
        recorder: Recorder,
        proxy: Proxy,
        found: Callable[[], list[Any]],
        failures: list[str],
        namespace: str,
    ) -> None:
        def refuse_one(chunk: bytes) -> bytes | None:
            if not chunk.startswith(b"POST") or failures:
                return chunk
            body = b'{"kind": "Status", "code": 403, "reason": "Forbidden", "message": "you may not create events"}'
            proxy.answers.append(reply("403 Forbidden", body))
            return None

        proxy.on_request = refuse_one
        recorder.record(generator(namespace), built(1))
        recorder.record(generator(namespace), built(2))
        recorder.record(generator(namespace), built(1))
        await recorder.flush(60)

        assert failures == ["you may not create events"]
        assert sorted((event["message"], event["count"]) for event in found()) == [
            (built(1).message, 2),
            (built(2).message, 1),
        ]

    async def test_events_wait_while_objects_are_written(
        self, recorder: Recorder, client: Client, proxy: Proxy, found: Callable[[], list[Any]], namespace: str
    ) -> None:
        with recorder.held_back():
            with recorder.held_back():
                recorder.record(generator(namespace), built())
            assert await client.list_all(EVENT, namespace, STRICT) == []
            assert not any(chunk.startswith(b"POST") for chunk in proxy.requests)
        await recorder.flush(60)

        assert len(found()) == 1

    async def test_events_wait_five_seconds_at_most(
        self, client: Client, found: Callable[[], list[Any]], namespace: str
    ) -> None:
        clock = HandClock()
        recorder = Recorder(client, "here", clock=clock)
        with recorder.held_back():
            recorder.record(generator(namespace), built())
            clock.seconds += 5
            async with running(recorder.run()):
                await recorder.flush(60)

            assert len(found()) == 1

    async def test_a_server_that_comes_back_gets_the_event(
        self, client: Client, proxy: Proxy, found: Callable[[], list[Any]], namespace: str
    ) -> None:
        class Patience(HandClock):
            async def sleep(self, seconds: float) -> None:
                await super().sleep(seconds)
                if len(self.slept) == 3:
                    await proxy.listen()

        clock = Patience()
        recorder = Recorder(client, "here", clock=clock)
        await proxy.refuse()
        recorder.record(generator(namespace), built())
        async with running(recorder.run()):
            await recorder.flush(60)

        assert (len(found()), clock.slept) == (1, [10.0] * 3)

    async def test_an_answer_that_was_lost(
        self, client: Client, proxy: Proxy, found: Callable[[], list[Any]], failures: list[str], namespace: str
    ) -> None:
        """The event was written, and the second attempt finds it."""
        lost: list[bytes] = []

        def lose_one(chunk: bytes) -> bytes | None:
            if lost:
                return chunk
            lost.append(chunk)
            return None

        proxy.on_answer = lose_one
        recorder = Recorder(client, "here", failed=noting(failures), clock=HandClock())
        recorder.record(generator(namespace), built())
        async with running(recorder.run()):
            await recorder.flush(60)

        assert lost
        assert (len(found()), failures) == (1, [])

    async def test_a_server_that_stays_away_is_given_up(
        self, client: Client, proxy: Proxy, failures: list[str], namespace: str
    ) -> None:
        clock = HandClock()
        recorder = Recorder(client, "here", failed=noting(failures), clock=clock)
        await proxy.refuse()
        recorder.record(generator(namespace), built())
        async with running(recorder.run()):
            await recorder.flush(60)

        assert (failures, clock.slept) == ([f"{proxy.url}: connection refused"], [10.0] * 11)

    async def test_what_does_not_fit_is_counted(
        self, client: Client, failures: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(events, "QUEUE", 2)
        recorder = Recorder(client, "here", failed=noting(failures))
        for _ in range(5):
            recorder.record(generator("never-was"), built())
        async with running(recorder.run()):
            await recorder.flush(60)

        assert failures == ["3 events were dropped: 2 others waited"]


class Receiver:
    """A notification receiver on loopback: what it got, and what it answers next (202 unless told)."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.authorized: list[str] = []
        self.answers: deque[tuple[int, dict[str, str]]] = deque()
        self.hangs = asyncio.Event()
        self.hangs.set()

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((request.path, request.headers["Content-Type"], await request.json()))
        self.authorized.append(request.headers.get("Authorization", ""))
        await self.hangs.wait()
        status, headers = self.answers.popleft() if self.answers else (202, {})
        return web.Response(status=status, headers=headers, text="x" * 100_000)

    def messages(self) -> list[str]:
        return [body["message"] for _, _, body in self.requests]


class TestPoster:
    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock()

    @pytest.fixture
    def failures(self) -> list[str]:
        return []

    @pytest.fixture
    async def receiver(self) -> Receiver:
        return Receiver()

    @pytest.fixture
    async def address(self, receiver: Receiver) -> AsyncIterator[str]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", receiver.handle)
        runner = web.AppRunner(application, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            receiver.hangs.set()
            await runner.cleanup()

    @pytest.fixture
    def poster(self, address: str, clock: HandClock, failures: list[str]) -> Poster:
        return Poster(f"http://{address}", "here", failed=noting(failures), clock=clock)

    async def post(self, poster: Poster, *events: Event) -> None:
        async with running(poster.run()):
            for event in events:
                poster.post(generator(), event)
            await poster.flush(60)

    async def test_a_success(self, poster: Poster, receiver: Receiver, clock: HandClock) -> None:
        now = clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        await self.post(poster, Event(NORMAL, "Ready", "external artifacts reconciled: apps/web (sha256:1)", "main@1"))

        assert receiver.requests == [
            (
                "/",
                "application/json",
                {
                    "involvedObject": {
                        "kind": "ArtifactGenerator",
                        "namespace": "apps",
                        "name": "gen",
                        "uid": "1",
                        "apiVersion": "source.extensions.fluxcd.io/v1beta1",
                        "resourceVersion": "12345",
                    },
                    "severity": "info",
                    "timestamp": now,
                    "message": "external artifacts reconciled: apps/web (sha256:1)",
                    "reason": "Ready",
                    "metadata": {
                        "event.toolkit.fluxcd.io/env": "prod",
                        "source.extensions.fluxcd.io/revision": "main@1",
                    },
                    "reportingController": "source-watcher",
                    "reportingInstance": "here",
                },
            )
        ]

    async def test_a_failure(self, address: str, receiver: Receiver) -> None:
        poster = Poster(f"http://{address}some/path", "here")
        bare = Generator(namespace="apps", name="gen", uid="1", generation=1, resource_version="1")
        async with running(poster.run()):
            poster.post(bare, Event(WARNING, "BuildFailed", "web build failed: no"))
            await poster.flush(60)

        ((path, _, body),) = receiver.requests
        assert (path, body["severity"], body["reason"]) == ("/some/path", "error", "BuildFailed")
        assert "metadata" not in body

    async def test_a_trace_is_not_posted(self, poster: Poster, receiver: Receiver) -> None:
        await self.post(poster, Event(TRACE, "Ready", "trace"), built())

        assert receiver.messages() == [built().message]

    @pytest.mark.parametrize("status", [200, 202, 400, 404, 413, 429])
    async def test_an_answer_that_ends_the_matter(
        self, status: int, poster: Poster, receiver: Receiver, clock: HandClock, failures: list[str]
    ) -> None:
        receiver.answers.append((status, {"Retry-After": "7"}))
        await self.post(poster, built())

        assert (len(receiver.requests), clock.slept, failures) == (1, [], [])

    @pytest.mark.parametrize("status", [302, 501])
    async def test_an_answer_that_no_second_attempt_would_change(
        self, status: int, poster: Poster, receiver: Receiver, clock: HandClock, failures: list[str]
    ) -> None:
        receiver.answers.append((status, {"Location": "/elsewhere"}))
        await self.post(poster, built(1), built(2))

        assert receiver.messages() == [built(1).message, built(2).message]
        assert (clock.slept, failures) == ([], [f"cannot post an event to 127.0.0.1: it answered {status}"])

    async def test_a_receiver_that_fails_for_a_while(
        self, poster: Poster, receiver: Receiver, clock: HandClock, failures: list[str]
    ) -> None:
        receiver.answers.extend([(500, {"Retry-After": "9"}), (503, {"Retry-After": "7"}), (503, {}), (502, {})])
        await self.post(poster, built())

        assert (len(receiver.requests), clock.slept, failures) == (5, [1.0, 7.0, 4.0, 8.0], [])

    async def test_a_receiver_that_fails_for_good(
        self, poster: Poster, receiver: Receiver, clock: HandClock, failures: list[str]
    ) -> None:
        receiver.answers.extend([(503, {"Retry-After": "9999"})] * 5)
        await self.post(poster, built(1), built(2))

        assert receiver.messages() == [built(1).message] * 5 + [built(2).message]
        assert clock.slept == [60.0] * 4
        assert failures == ["cannot post an event to 127.0.0.1: it answered 503"]

    async def test_a_receiver_that_is_not_there(self, clock: HandClock, failures: list[str]) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
            await self.post(Poster(address, "here", failed=noting(failures), clock=clock), built())

        assert clock.slept == [1.0, 2.0, 4.0, 8.0]
        assert failures == ["cannot post an event to 127.0.0.1: connection refused"]

    async def test_a_receiver_that_hangs(
        self, address: str, receiver: Receiver, clock: HandClock, failures: list[str]
    ) -> None:
        receiver.hangs.clear()
        await self.post(
            Poster(f"http://{address}", "here", timeout=0.05, failed=noting(failures), clock=clock), built()
        )

        assert clock.slept == [1.0, 2.0, 4.0, 8.0]
        assert failures == ["cannot post an event to 127.0.0.1: no answer in time"]

    async def test_flushing_a_receiver_that_hangs_ends(self, poster: Poster, receiver: Receiver) -> None:
        receiver.hangs.clear()
        async with running(poster.run()):
            poster.post(generator(), built())
            await poster.flush(0.05)

    async def test_credentials_are_used_and_never_told(
        self, address: str, receiver: Receiver, failures: list[str]
    ) -> None:
        receiver.answers.append((501, {}))
        await self.post(Poster(f"http://user:s3cret@{address}?token=t0ken", "here", failed=noting(failures)), built())

        assert receiver.authorized == ["Basic dXNlcjpzM2NyZXQ="]
        assert failures == ["cannot post an event to 127.0.0.1: it answered 501"]

    async def test_an_address_that_is_none(self, clock: HandClock, failures: list[str]) -> None:
        poster = Poster("nonsense", "here", failed=noting(failures), clock=clock)
        await self.post(poster, built())

        assert len(failures) == 1
        assert "nonsense" not in failures[0]
