"""Elections over a Lease of the real API server."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from tests.envtest.client import Object
from tests.envtest.server import ControlPlane
from tests.kube.faults import HandClock, Proxy, running

from sluice.core.errors import ApiError
from sluice.kube.client import Client
from sluice.kube.config import ClientConfig, ConfigError, load_config
from sluice.kube.credentials import Credentials
from sluice.kube.leader import Candidate, Durations, Election, lease_name, new_identity


@pytest.mark.parametrize(
    ("selector", "name"),
    [
        ("", "source-watcher-leader-election"),
        ("sharding.fluxcd.io/key=shard1", "source-watcher-leader-election-73fdc1be"),
        ("!sharding.fluxcd.io/key", "source-watcher-leader-election-42da7484"),
    ],
)
def test_each_shard_has_its_lease(selector: str, name: str) -> None:
    assert lease_name(selector) == name


def test_identities_are_new_each_time() -> None:
    first, second = new_identity("pod-1"), new_identity("pod-1")

    assert re.fullmatch(r"pod-1_[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", first)
    assert first != second


@pytest.mark.parametrize(
    ("durations", "problem"),
    [
        pytest.param(Durations(35, 30, 2), None, id="the defaults"),
        pytest.param(Durations(15.1, 15, 2), None, id="just long enough"),
        pytest.param(
            Durations(30, 30, 2),
            "the lease duration is 30 s (must be more than the renew deadline of 30 s)",
            id="the lease may be taken while its holder still trusts it",
        ),
        pytest.param(
            Durations(35, 2.4, 2),
            "the renew deadline is 2.4 s (must be more than 1.2 times the retry period of 2 s)",
            id="no time to try twice",
        ),
        pytest.param(Durations(35, 30, 0), "the retry period is 0 s (must be more than 0)", id="no pause at all"),
        pytest.param(
            Durations(0.9, 0.8, 0.1),
            "the lease duration is 0.9 s (must be at least 1 s)",
            id="less than a lease can say",
        ),
    ],
)
def test_durations(durations: Durations, problem: str | None) -> None:
    if problem is None:
        durations.check()
        return
    with pytest.raises(ConfigError) as error:
        durations.check()
    assert str(error.value) == f"leader election: {problem}"


class Lease:
    """The Lease as the server has it."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._client = plane.client
        self._namespace = namespace
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"

    def create(self, **spec: Any) -> None:
        self._client.create(self._path, {"metadata": {"name": "x", "labels": {"is": "mine"}}, "spec": spec})

    def merge(self, patch: Object) -> None:
        self._client.merge(f"{self._path}/x", patch)

    def read(self) -> Object:
        return self._client.get(f"{self._path}/x")

    @property
    def spec(self) -> Object:
        spec: Object = self.read()["spec"]
        return spec

    def events(self) -> list[Object]:
        events: list[Object] = self._client.get(f"/api/v1/namespaces/{self._namespace}/events")["items"]
        return events


@pytest.fixture
def lease(control_plane: ControlPlane, namespace: str) -> Lease:
    return Lease(control_plane, namespace)


@pytest.fixture
def config(control_plane: ControlPlane) -> ClientConfig:
    return load_config({"KUBECONFIG": str(control_plane.kubeconfig)})


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[Proxy]:
    async with Proxy(control_plane.url, control_plane.directory / "ca.crt") as proxy:
        yield proxy


async def until(condition: Callable[[], object]) -> None:
    """Let the others go on until something is true; the candidates' clocks move as they sleep."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110  nobody here could set an event
            await asyncio.sleep(0)


def has_passed(clock: HandClock, seconds: float) -> bool:
    return clock.seconds >= seconds


class Standing:
    """A candidate that stands for election, and the time it has."""

    def __init__(self, client: Client, namespace: str, identity: str) -> None:
        self.clock = HandClock()
        self.candidate = Candidate(client, namespace, "x", identity, clock=self.clock, rng=random.Random(identity))
        self.has_gained = asyncio.Event()
        self.task: asyncio.Task[str] | None = None

    async def gained(self) -> None:
        async with asyncio.timeout(120):
            await self.has_gained.wait()

    async def lost(self) -> str:
        assert self.task
        async with asyncio.timeout(120):
            return await self.task


@pytest.fixture
async def stand(proxy: Proxy, config: ClientConfig, namespace: str) -> AsyncIterator[Callable[[str], Any]]:
    """Lets candidates stand until the block ends; their renewals take no time."""
    async with Client(ClientConfig(proxy.url, token=config.token), clock=HandClock()) as client:

        @asynccontextmanager
        async def stand(identity: str) -> AsyncIterator[Standing]:
            standing = Standing(client, namespace, identity)
            async with running(standing.candidate.run(standing.has_gained.set)) as standing.task:
                yield standing

        yield stand


@pytest.mark.cluster
class TestCandidates:
    async def test_the_first_makes_the_lease(self, stand: Any, lease: Lease) -> None:
        async with stand("a") as a:
            await a.gained()
            assert a.candidate.holds()

        spec = lease.spec
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("a", 35, 0)
        assert re.fullmatch(r"2026-01-01T00:16:40\.0+Z", spec["acquireTime"])

    async def test_an_event_says_who_leads(self, stand: Any, lease: Lease, namespace: str) -> None:
        async with stand("a") as a:
            await a.gained()
            await until(lease.events)

        [event] = lease.events()
        involved = event["involvedObject"]
        assert (event["type"], event["reason"], event["message"]) == ("Normal", "LeaderElection", "a became leader")
        assert (involved["apiVersion"], involved["kind"], involved["namespace"], involved["name"]) == (
            "coordination.k8s.io/v1",
            "Lease",
            namespace,
            "x",
        )
        assert involved["uid"] == lease.read()["metadata"]["uid"]
        assert event["source"] == {"component": "source-watcher"}

    async def test_nobody_else_leads_while_it_is_renewed(self, stand: Any) -> None:
        async with stand("a") as a:
            await a.gained()
            async with stand("b") as b:
                await until(lambda: len(b.clock.slept) >= 60)
                assert not b.has_gained.is_set()
                assert not b.candidate.holds()
                assert all(2 <= slept <= 4.4 for slept in b.clock.slept)

    async def test_another_leads_when_it_is_not_renewed_any_more(self, stand: Any, lease: Lease) -> None:
        async with stand("a") as a:
            await a.gained()
        async with stand("b") as b:
            await b.gained()

            assert sum(b.clock.slept) >= 35
            assert lease.spec["holderIdentity"] == "b"
            assert lease.spec["leaseTransitions"] == 1

    async def test_another_leads_at_once_when_it_is_given_up(self, stand: Any, lease: Lease) -> None:
        async with stand("a") as a:
            await a.gained()
        await a.candidate.release()
        assert not a.candidate.holds()
        assert (lease.spec["holderIdentity"], lease.spec["leaseDurationSeconds"]) == ("", 1)

        async with stand("b") as b:
            await b.gained()
        assert b.clock.slept[:1] in ([], [2])  # none before it was elected

    async def test_giving_up_takes_nothing_from_another(self, stand: Any, lease: Lease) -> None:
        async with stand("a") as a:
            await a.gained()
        lease.merge({"spec": {"holderIdentity": "b"}})
        await a.candidate.release()

        assert lease.spec["holderIdentity"] == "b"

    async def test_a_change_by_somebody_else_does_not_keep_it_from_being_given_up(
        self, stand: Any, lease: Lease
    ) -> None:
        async with stand("a") as a:
            await a.gained()
        lease.merge({"metadata": {"annotations": {"note": "1"}}})
        await a.candidate.release()

        assert lease.spec["holderIdentity"] == ""

    async def test_time_counts_from_before_it_was_asked_for(
        self, proxy: Proxy, config: ClientConfig, namespace: str
    ) -> None:
        clock = HandClock()

        def slow(chunk: bytes) -> bytes:
            clock.seconds += 10
            return chunk

        async with Client(ClientConfig(proxy.url, token=config.token), clock=HandClock()) as client:
            candidate = Candidate(client, namespace, "x", "a", clock=clock)
            assert await candidate._try()
            asked_at = clock.seconds
            proxy.on_answer = slow
            assert await candidate._try()

        clock.seconds = asked_at + 29.9
        assert candidate.holds()
        clock.seconds = asked_at + 30
        assert not candidate.holds()

    async def test_a_lease_that_expired_long_ago_is_not_trusted_to_have(self, stand: Any, lease: Lease) -> None:
        # Its time is somebody else's clock: only what we see counts.
        lease.create(holderIdentity="b", leaseDurationSeconds=20, renewTime="2001-01-01T00:00:00.000000Z")
        async with stand("a") as a:
            await a.gained()
            assert sum(a.clock.slept) >= 20

        read = lease.read()
        assert read["metadata"]["labels"] == {"is": "mine"}
        assert read["spec"]["leaseTransitions"] == 0

    async def test_one_that_cannot_renew_stops_before_another_may_lead(self, stand: Any, proxy: Proxy) -> None:
        async with stand("a") as a:
            await a.gained()
            await proxy.refuse()
            renewed = a.clock.seconds
            reason = await a.lost()

            assert reason.endswith(f"/x: not renewed for 30 s: {proxy.url}: connection refused")
            assert not a.candidate.holds()
            assert a.clock.seconds <= renewed + 30

    async def test_one_whose_lease_was_taken_stops_at_once(self, stand: Any, lease: Lease, namespace: str) -> None:
        async with stand("a") as a:
            await a.gained()
            lease.merge({"spec": {"holderIdentity": "b"}})

            assert await a.lost() == f"lease {namespace}/x: taken by 'b'"
            assert not a.candidate.holds()

    async def test_a_change_by_somebody_else_is_no_loss(self, stand: Any, lease: Lease) -> None:
        async with stand("a") as a:
            await a.gained()
            for value in range(20):
                lease.merge({"metadata": {"annotations": {"note": f"{value}"}}})
                await until(partial(has_passed, a.clock, a.clock.seconds + 4))

            assert a.candidate.holds()
            assert lease.read()["metadata"]["annotations"] == {"note": "19"}

    async def test_an_answer_that_is_lost_is_no_loss(self, stand: Any, proxy: Proxy) -> None:
        async with stand("a") as a:
            await a.gained()
            proxy.on_answer = lambda chunk: None if random.Random(len(proxy.requests)).random() < 0.5 else chunk
            await until(partial(has_passed, a.clock, a.clock.seconds + 100))

            assert a.candidate.holds()

    @pytest.mark.parametrize("seed", range(20))
    async def test_there_are_never_two(self, seed: int, proxy: Proxy, config: ClientConfig, namespace: str) -> None:
        chance = random.Random(seed)
        clocks = [HandClock() for _ in range(3)]
        for clock in clocks:
            clock.seconds = chance.uniform(0, 1e6)  # what their clocks say has nothing in common

        def pass_time(longest: float) -> None:
            seconds = chance.choice([0.0, chance.uniform(0, longest)])
            for clock in clocks:
                clock.seconds += seconds

        def lose(chunk: bytes) -> bytes | None:
            pass_time(20)  # in the network
            if chance.random() < 0.2:
                proxy.cut()
            return chunk

        proxy.on_request = proxy.on_answer = lose
        changes = 0
        leader = None
        async with AsyncExitStack() as stack:
            candidates = []
            for number, clock in enumerate(clocks):
                client = Client(ClientConfig(proxy.url, token=config.token), clock=HandClock())
                await stack.enter_async_context(client)
                candidates.append(Candidate(client, namespace, "x", f"{number}", clock=clock))
            for _ in range(60):
                candidate = chance.choice(candidates)
                with suppress(ApiError):
                    await (candidate.release() if chance.random() < 0.05 else candidate._try())
                leaders = [number for number, other in enumerate(candidates) if other.holds()]
                assert len(leaders) <= 1
                if leaders and leaders[0] != leader:
                    leader = leaders[0]
                    changes += 1
                pass_time(15)

        assert changes > 0


FAST = Durations(lease=3, renew=2, retry=0.05)


@pytest.mark.cluster
class TestElections:
    @pytest.fixture
    def elections(self, config: ClientConfig, namespace: str) -> Callable[..., Election]:
        def make(identity: str, **options: Any) -> Election:
            return Election(config, Credentials(config), namespace, "x", identity, durations=FAST, **options)

        return make

    async def test_it_is_renewed_while_the_main_loop_is_busy(self, elections: Any, lease: Lease) -> None:
        election, gained = elections("a"), asyncio.Event()
        async with running(election.run(gained.set)):
            await asyncio.wait_for(gained.wait(), 20)
            for _ in range(3):
                before = lease.spec["renewTime"]
                while lease.spec["renewTime"] == before:
                    pass
            assert election.holds()

    async def test_it_is_given_up_when_it_is_cancelled(self, elections: Any, lease: Lease) -> None:
        election, gained = elections("a"), asyncio.Event()
        async with running(election.run(gained.set)) as task:
            await asyncio.wait_for(gained.wait(), 20)

        assert task.cancelled()
        assert not election.holds()
        assert (lease.spec["holderIdentity"], lease.spec["leaseDurationSeconds"]) == ("", 1)

    async def test_it_is_kept_when_that_is_asked_for(self, elections: Any, lease: Lease) -> None:
        election, gained = elections("a", release=False), asyncio.Event()
        async with running(election.run(gained.set)):
            await asyncio.wait_for(gained.wait(), 20)

        assert lease.spec["holderIdentity"] == "a"

    async def test_a_loss_is_reported_at_once(self, elections: Any, lease: Lease, namespace: str) -> None:
        election, gained = elections("a"), asyncio.Event()
        async with running(election.run(gained.set)) as task:
            await asyncio.wait_for(gained.wait(), 20)
            lease.merge({"spec": {"holderIdentity": "b"}})

            assert await asyncio.wait_for(task, 120) == f"lease {namespace}/x: taken by 'b'"

    async def test_one_takes_over_from_the_other(self, elections: Any, lease: Lease) -> None:
        first, second = elections("a"), elections("b")
        gained = asyncio.Queue[str]()
        async with running(second.run(lambda: gained.put_nowait("b"))) as task:
            async with running(first.run(lambda: gained.put_nowait("a"))):
                leader = await asyncio.wait_for(gained.get(), 20)
                if leader == "b":
                    task.cancel()
                follower = await asyncio.wait_for(gained.get(), 20) if leader == "b" else None
            if follower is None:
                follower = await asyncio.wait_for(gained.get(), 20)

            assert {leader, follower} == {"a", "b"}
            assert lease.spec["leaseTransitions"] >= 1

    def test_durations_are_checked_before_anything_is_sent(self, config: ClientConfig) -> None:
        with pytest.raises(ConfigError):
            Election(config, Credentials(config), "apps", "x", "a", durations=Durations(lease=1, renew=30))
