"""Decide what becomes of an event in the cluster, with the limits of Kubernetes' own recorders.

An event like one before it counts that one up. Of one type and reason about one generator, many
different ones in a short time are combined into one. And of one type about one generator, only so
many are written at all.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from sluice.control.objects import Event, EventKind, Generator
from sluice.kube.clock import Clock

GENERATORS = 10_000
"""Of how many generators is remembered what was told about them."""
MESSAGES = 32
"""How many different events of one generator may still be counted up."""
BURST, REFILL = 25, 1 / 300
"""How many events of a type are written at once, and how many a second after that."""
SIMILAR, SIMILAR_WITHIN = 10, 600.0
"""How many different events are written apart, and in how many seconds."""
COMBINED = "(combined from similar events): "


class _Written(Struct):
    """An event in the cluster that may be counted up."""

    name: str
    count: int


class _History(Struct):
    """What the cluster was told about one generator."""

    written: OrderedDict[tuple[str, str, int], _Written]
    similar: dict[tuple[str, str], tuple[float, set[int]]]
    tokens: dict[str, tuple[float, float]]


class Told(Struct, frozen=True):
    """An event as it is to be written: a new one, or counting up one that `exists`."""

    name: str
    count: int
    type: str
    message: str
    exists: bool


class Folding:
    """Decides what becomes of an event in the cluster, from what was written before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._histories: OrderedDict[str, _History] = OrderedDict()
        self._last = 0

    def fold(self, generator: Generator, event: Event) -> Told | None:
        """The event to write, or None if there were too many."""
        history = self._history(generator.uid)
        kind = "Warning" if event.kind is EventKind.WARNING else "Normal"
        message, identity = self._combine(history, kind, event)
        key = (kind, event.reason, identity)
        before = history.written.pop(key, None)
        told = before or _Written(self._name(generator.name), 0)
        told.count += 1
        history.written[key] = told
        if len(history.written) > MESSAGES:
            history.written.popitem(last=False)
        if not self._allow(history, kind):
            if before is None:
                del history.written[key]
            return None
        return Told(told.name, told.count, kind, message, exists=before is not None)

    def _history(self, uid: str) -> _History:
        history = self._histories.setdefault(uid, _History(OrderedDict(), {}, {}))
        self._histories.move_to_end(uid)
        if len(self._histories) > GENERATORS:
            self._histories.popitem(last=False)
        return history

    def _combine(self, history: _History, kind: str, event: Event) -> tuple[str, int]:
        """The message to show, and what makes an event the same as another: many alike are the same.

        That is a number: messages that name a thousand artifacts are long.
        """
        said = hash(event.message)
        now = self._clock.monotonic()
        since, messages = history.similar.get((kind, event.reason), (now, set()))
        if now - since > SIMILAR_WITHIN:
            since, messages = now, set()
        if len(messages) <= SIMILAR:
            messages.add(said)
        history.similar[kind, event.reason] = (since, messages)
        if len(messages) > SIMILAR:
            return COMBINED + event.message, 0
        return event.message, said

    def _allow(self, history: _History, kind: str) -> bool:
        now = self._clock.monotonic()
        tokens, at = history.tokens.get(kind, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - at) * REFILL)
        history.tokens[kind] = (tokens - (tokens >= 1), now)
        return tokens >= 1

    def _name(self, generator: str) -> str:
        """A name that no other event has."""
        self._last = max(self._last + 1, int(self._clock.now().timestamp() * 1e9))
        return f"{generator[:230].rstrip('-.')}.{self._last:x}"
