"""Which key is next, and that none is lost."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sluice.control.queue import Lane, Queue, Turn


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def queue(clock: Hand) -> Queue[str]:
    return Queue(clock)


async def take(queue: Queue[str]) -> Turn[str] | None:
    """The next turn, if there is one now."""
    try:
        async with asyncio.timeout(0):
            return await queue.take()
    except TimeoutError:
        return None


async def taken(queue: Queue[str]) -> list[str]:
    """All keys that can be taken now, one after another."""
    keys = []
    while turn := await take(queue):
        keys.append(turn.key)
        queue.done(turn)
    return keys


async def test_keys_come_in_the_order_in_which_they_were_added(queue: Queue[str]) -> None:
    for key in ("b", "a", "c", "a", "b"):
        queue.add(key)

    assert queue.depth(Lane.MAIN) == 3
    assert await taken(queue) == ["b", "a", "c"]
    assert queue.is_idle
    assert queue.adds == 3


async def test_a_turn_tells_how_long_it_waited(queue: Queue[str], clock: Hand) -> None:
    queue.add("a")
    clock.now += 2
    queue.add("a")
    clock.now += 3

    assert await take(queue) == Turn("a", Lane.MAIN, 5.0)


async def test_a_key_is_with_one_worker_at_a_time(queue: Queue[str]) -> None:
    queue.add("a")
    turn = await take(queue)
    assert turn is not None
    queue.add("a")
    queue.add("a")
    assert await take(queue) is None
    assert queue.active == 1

    queue.done(turn)
    assert await taken(queue) == ["a"], "what was added meanwhile runs once more"


async def test_bookkeeping_waits_for_everything_else(queue: Queue[str]) -> None:
    queue.add("later", Lane.REFRESH)
    queue.add("first")
    queue.add("second")
    one, two = await take(queue), await take(queue)
    assert one is not None
    assert two is not None
    assert (one.key, two.key) == ("first", "second")

    queue.done(one)
    assert await take(queue) is None, "the second is still under way"
    queue.done(two)
    turn = await take(queue)
    assert turn is not None
    assert (turn.key, turn.lane) == ("later", Lane.REFRESH)


async def test_bookkeeping_does_not_hold_up_what_is_urgent(queue: Queue[str]) -> None:
    for key in ("a", "b"):
        queue.add(key, Lane.REFRESH)
    refreshing = await take(queue)
    queue.add("urgent")
    urgent = await take(queue)

    assert refreshing is not None
    assert urgent is not None
    assert (refreshing.key, urgent.key) == ("a", "urgent")
    assert await take(queue) is None


async def test_the_main_lane_wins(queue: Queue[str]) -> None:
    queue.add("a", Lane.REFRESH)
    queue.add("a")
    queue.add("a", Lane.REFRESH)
    assert (queue.depth(Lane.MAIN), queue.depth(Lane.REFRESH)) == (1, 0)

    turn = await take(queue)
    assert turn is not None
    queue.add("a", Lane.REFRESH)
    queue.add("a")
    queue.add("a", Lane.REFRESH)
    queue.done(turn)
    again = await take(queue)
    assert again is not None
    assert (again.key, again.lane) == ("a", Lane.MAIN)


async def test_a_delayed_key_comes_when_its_time_has_come(queue: Queue[str], clock: Hand) -> None:
    queue.add_after("a", 5)
    assert queue.is_idle
    assert await taken(queue) == []
    clock.now += 4.9
    assert await taken(queue) == []
    clock.now += 0.1
    assert await taken(queue) == ["a"]
    clock.now += 100
    assert await taken(queue) == []


async def test_the_sooner_of_two_times_counts(queue: Queue[str], clock: Hand) -> None:
    queue.add_after("a", 5)
    queue.add_after("a", 1)
    queue.add_after("a", 3)
    clock.now += 1
    assert await taken(queue) == ["a"]
    clock.now += 10
    assert await taken(queue) == []


async def test_what_is_added_does_not_wait_for_its_time(queue: Queue[str], clock: Hand) -> None:
    queue.add_after("a", 5)
    queue.add("a")
    assert await taken(queue) == ["a"]
    clock.now += 10
    assert await taken(queue) == [], "its look is over"


async def test_delayed_keys_come_in_the_order_of_their_times(queue: Queue[str], clock: Hand) -> None:
    for key, delay in (("c", 3), ("a", 1), ("b", 2), ("also a", 1)):
        queue.add_after(key, delay)
    clock.now += 10

    assert await taken(queue) == ["a", "also a", "b", "c"]


async def test_a_delayed_key_wakes_who_waits_for_it() -> None:
    """On a real clock, as there is nothing else to wait on."""
    queue: Queue[str] = Queue(asyncio.get_running_loop().time)
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.add_after("late", 3600)
    queue.add_after("soon", 0.001)

    async with asyncio.timeout(60):
        assert (await waiting).key == "soon"


async def test_what_is_forgotten_does_not_come(queue: Queue[str], clock: Hand) -> None:
    queue.add("a")
    queue.add("b", Lane.REFRESH)
    queue.add_after("c", 1)
    for key in ("a", "b", "c", "nobody"):
        queue.forget(key)
    clock.now += 1
    assert await taken(queue) == []

    queue.add("a")
    turn = await take(queue)
    assert turn is not None
    queue.add("a")
    queue.forget("a")
    queue.done(turn)
    assert await taken(queue) == []


async def test_who_gives_up_waiting_takes_nothing_along(queue: Queue[str]) -> None:
    first, second = (asyncio.create_task(queue.take()) for _ in range(2))
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()

    async with asyncio.timeout(60):
        assert (await second).key == "a"
    assert first.cancelled()


@pytest.mark.parametrize("seed", range(50))
async def test_no_wake_up_is_lost(seed: int) -> None:
    """Every key that is added is worked on after that, whatever the workers are doing."""
    chance = random.Random(seed)
    clock = Hand()
    queue: Queue[int] = Queue(clock)
    added: dict[int, int] = {}
    seen: dict[int, int] = {}
    working: set[int] = set()

    async def work() -> None:
        while True:
            turn = await queue.take()
            assert turn.key not in working
            working.add(turn.key)
            begun = added.get(turn.key, 0)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            seen[turn.key] = begun
            working.remove(turn.key)
            queue.done(turn)

    workers = [asyncio.create_task(work()) for _ in range(chance.randrange(1, 6))]
    for number in range(200):
        key = chance.randrange(10)
        added[key] = number
        if chance.random() < 0.2:
            clock.now += 1
        queue.add(key, chance.choice(list(Lane)))
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
    for _ in range(100_000):
        if queue.is_idle:
            break
        await asyncio.sleep(0)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)

    assert all(worker.cancelled() for worker in workers)
    assert seen == added


KEYS = st.sampled_from("abc")


class QueueMachine(RuleBasedStateMachine):
    """Against a model: a set of waiting keys for each lane, and what is due when."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Hand()
        self.queue: Queue[str] = Queue(self.clock)
        self.waiting: dict[str, Lane] = {}
        self.due: dict[str, float] = {}
        self.active: dict[str, tuple[Turn[str], Lane | None]] = {}

    def teardown(self) -> None:
        self.loop.close()

    def want(self, key: str, lane: Lane) -> None:
        self.due.pop(key, None)
        if key in self.active:
            turn, again = self.active[key]
            self.active[key] = turn, Lane.MAIN if Lane.MAIN in (again, lane) else lane
        elif self.waiting.get(key) is not Lane.MAIN:
            self.waiting[key] = lane

    @rule(key=KEYS, lane=st.sampled_from(Lane))
    def add(self, key: str, lane: Lane) -> None:
        self.queue.add(key, lane)
        self.want(key, lane)

    @rule(key=KEYS, delay=st.integers(0, 3))
    def add_after(self, key: str, delay: int) -> None:
        self.queue.add_after(key, delay)
        self.due[key] = min(self.due.get(key, float("inf")), self.clock.now + delay)

    @rule(seconds=st.integers(1, 2))
    def advance(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.queue.forget(key)
        self.due.pop(key, None)
        self.waiting.pop(key, None)
        if key in self.active:
            self.active[key] = self.active[key][0], None

    @rule()
    def take(self) -> None:
        turn = self.loop.run_until_complete(take(self.queue))
        for key in [key for key, due in self.due.items() if due <= self.clock.now]:
            self.want(key, Lane.MAIN)
        main = {key for key, lane in self.waiting.items() if lane is Lane.MAIN}
        busy = any(turn.lane is Lane.MAIN for turn, _ in self.active.values())
        allowed = main or ({} if busy else self.waiting)
        if turn is None:
            assert not allowed
        else:
            assert turn.key in allowed
            assert turn.lane is self.waiting.pop(turn.key)
            self.active[turn.key] = turn, None

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.active)))
        turn, again = self.active.pop(key)
        self.queue.done(turn)
        if again is not None:
            self.want(key, again)

    @invariant()
    def counts(self) -> None:
        assert self.queue.active == len(self.active)
        for lane in Lane:
            assert self.queue.depth(lane) == sum(one is lane for one in self.waiting.values())


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=30)
