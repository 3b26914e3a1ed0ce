"""Wait until objects are as somebody wants them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from contextlib import aclosing

from msgspec import Struct

from sluice.cli.cluster import World
from sluice.cli.objects import Object
from sluice.kube.kinds import Key, Kind

PROGRESSING = "Progressing"


class Result(Struct, frozen=True):
    """How it ended for one object."""

    is_good: bool
    message: str
    object: Object | None = None


Judge = Callable[[Object], Result | None]
"""Says how it ended for an object; None while it goes on."""


def judge_request(request: str) -> Judge:
    """How the reconciliation ended that was asked for: its first outcome counts, good or bad."""

    def judge(one: Object) -> Result | None:
        return _outcome(one, is_final=True) if one.status.last_handled_reconcile_at == request else None

    return judge


def judge_ready(one: Object) -> Result | None:
    """Whether an object is Ready. What is tried again may become so, what is stalled or suspended does not."""
    found = _outcome(one, is_final=False)
    if found is None and one.is_suspended:
        return Result(False, f"suspended, and not ready: {one.ready[1]}", one)
    return found


def _outcome(one: Object, *, is_final: bool) -> Result | None:
    stalled, ready = _current(one, "Stalled"), _current(one, "Ready")
    if stalled == "True":
        return Result(False, _message(one, "Stalled"), one)
    reconciling = one.condition("Reconciling")
    if ready is None or (reconciling is not None and reconciling.reason == PROGRESSING):
        return None
    if ready == "True":
        return Result(True, _message(one, "Ready"), one)
    return Result(False, _message(one, "Ready"), one) if ready == "False" and is_final else None


def _current(one: Object, kind: str) -> str | None:
    """The status of a condition that tells of the object as it is now."""
    found = one.condition(kind)
    return found.status if found and found.observed_generation == one.metadata.generation else None


def _message(one: Object, kind: str) -> str:
    found = one.condition(kind)
    return found.message if found else ""


async def wait_until(
    world: World, kind: Kind, keys: Collection[Key], judge: Judge, settled: Callable[[Key, Result], None]
) -> None:
    """Wait until all of these objects are judged; `settled` is told of each at once."""
    homes: defaultdict[str, set[Key]] = defaultdict(set)
    for key in keys:
        homes[key[0]].add(key)
    async with asyncio.TaskGroup() as tasks:
        for namespace, waiting in homes.items():
            tasks.create_task(_wait_in(world, kind, namespace, waiting, judge, settled))


async def _wait_in(
    world: World,
    kind: Kind,
    namespace: str,
    waiting: set[Key],
    judge: Judge,
    settled: Callable[[Key, Result], None],
) -> None:
    name = next(iter(waiting))[1] if len(waiting) == 1 else ""
    is_complete = False

    def settle(key: Key, result: Result) -> None:
        waiting.discard(key)
        settled(key, result)

    async with aclosing(world.follow(kind, namespace, name=name)) as sights:
        seen: set[Key] = set()
        async for sight in sights:
            if sight.key is None:
                is_complete = True
                _lose(waiting - seen, settle)
            elif sight.key in waiting:
                seen.add(sight.key)
                if sight.object is None:
                    _lose([sight.key], settle)
                elif result := judge(sight.object):
                    settle(sight.key, result)
            if is_complete and not waiting:
                return


def _lose(keys: Iterable[Key], settle: Callable[[Key, Result], None]) -> None:
    for key in sorted(keys):
        settle(key, Result(False, "not found"))
