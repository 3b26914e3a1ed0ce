"""Delayed keys: the soonest time counts, and what was overtaken leaves nothing behind."""

from tests.control.scene import HandClock

from sluice.control.queue import SPARE, Queue

HOUR = 3600.0


async def look_at(queue: Queue[str], key: str) -> None:
    """One turn of a key that is looked at in time again in any case."""
    queue.add(key)
    turn = await queue.take()
    queue.add_after(turn.key, HOUR)
    queue.done(turn)


async def test_turns_before_their_time_do_not_pile_up() -> None:
    clock = HandClock()
    queue: Queue[str] = Queue(clock.monotonic)

    for _ in range(10 * SPARE):
        clock.advance(1)
        await look_at(queue, "often")
    await look_at(queue, "once")

    assert len(queue._delayed) <= 2 * 2 + SPARE


async def test_every_key_comes_once_and_in_its_order() -> None:
    clock = HandClock()
    queue: Queue[str] = Queue(clock.monotonic)
    for round_ in range(3 * SPARE):
        clock.advance(1)
        await look_at(queue, ["first", "second", "third"][round_ % 3])

    clock.advance(HOUR)

    turns = [await queue.take() for _ in range(3)]
    for turn in turns:
        queue.done(turn)
    assert [turn.key for turn in turns] == ["first", "second", "third"]
    assert queue.is_idle
