"""Which generator is looked at next.

A key is in the queue once, however often it is added, and never with two workers at a time: what is
added while it is worked on runs once more afterwards. There are two lanes. The refresh lane holds
generators that only have bookkeeping to write; it runs when the main lane is empty and no main work
is under way, so that what changed goes out first, and a burst of changes costs one refresh.

Delays hold no worker: a delayed key waits on a timer, and the sooner of two times counts.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Generic, TypeVar

from msgspec import Struct

K = TypeVar("K", bound=Hashable)

SPARE = 100
"""Outdated entries that may stay on the heap of delayed keys in any case."""


class Lane(Enum):
    """How urgent the work on a key is."""

    MAIN = "main"
    REFRESH = "refresh"


class Turn(Struct, Generic[K], frozen=True):
    """A key that a worker has taken, and which lane it came from."""

    key: K
    lane: Lane
    waited: float
    """Seconds since it was added."""


class Queue(Generic[K]):
    """Keys waiting for workers. For one event loop; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lanes: dict[Lane, OrderedDict[K, float]] = {lane: OrderedDict() for lane in Lane}
        self._active: dict[K, Lane] = {}
        self._again: dict[K, Lane] = {}
        self._delayed: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._numbers = itertools.count()
        self._news = asyncio.Event()
        self.adds = 0
        self.retries = 0

    def add(self, key: K, lane: Lane = Lane.MAIN) -> None:
        """Have a key looked at; the main lane wins over the refresh lane."""
        self._due.pop(key, None)
        if key in self._active:
            if self._again.get(key) is not Lane.MAIN:
                self._again[key] = lane
            return
        if key in self._lanes[Lane.MAIN]:
            return
        if lane is Lane.MAIN:
            self._lanes[Lane.REFRESH].pop(key, None)
        if key not in self._lanes[lane]:
            self._lanes[lane][key] = self._clock()
            self.adds += 1
            self._news.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Have a key looked at when a time has passed, unless it is before."""
        due = self._clock() + seconds
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self.retries += 1
            heapq.heappush(self._delayed, (due, next(self._numbers), key))
            if len(self._delayed) > 2 * len(self._due) + SPARE:
                # What was looked at before its time stays on the heap until then: an hour, as a rule.
                self._delayed = [entry for entry in self._delayed if self._due.get(entry[2]) == entry[0]]
                heapq.heapify(self._delayed)
            self._news.set()

    def forget(self, key: K) -> None:
        """Drop a key that is waiting; one that is worked on is not affected."""
        self._due.pop(key, None)
        self._again.pop(key, None)
        for lane in self._lanes.values():
            lane.pop(key, None)

    async def take(self) -> Turn[K]:
        """The next key, when there is one. Every turn has to be given back with `done`."""
        while True:
            self._promote()
            turn = self._next()
            if turn is not None:
                return turn
            self._news.clear()
            wait = max(self._delayed[0][0] - self._clock(), 0) if self._delayed else None
            try:
                async with asyncio.timeout(wait):
                    await self._news.wait()
            except TimeoutError:
                continue

    def done(self, turn: Turn[K]) -> None:
        """Give a key back; it is queued again if it was added meanwhile."""
        del self._active[turn.key]
        lane = self._again.pop(turn.key, None)
        if lane is not None:
            self.add(turn.key, lane)
        self._news.set()

    def depth(self, lane: Lane) -> int:
        return len(self._lanes[lane])

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs; delayed keys do not count."""
        return not self._active and not any(self._lanes.values())

    def _promote(self) -> None:
        now = self._clock()
        while self._delayed and self._delayed[0][0] <= now:
            due, _, key = heapq.heappop(self._delayed)
            if self._due.get(key) == due:
                self.add(key)

    def _next(self) -> Turn[K] | None:
        if self._lanes[Lane.MAIN]:
            lane = Lane.MAIN
        elif self._lanes[Lane.REFRESH] and Lane.MAIN not in self._active.values():
            lane = Lane.REFRESH
        else:
            return None
        key, added = self._lanes[lane].popitem(last=False)
        self._active[key] = lane
        if any(self._lanes.values()):
            self._news.set()
        return Turn(key, lane, self._clock() - added)
