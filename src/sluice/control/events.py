"""What happened, as people are told: one row for every scenario.

A `Trace` is listed in the cluster and logged, but not sent to notification receivers. The texts of
the peer's own events stay as they are: alerts match them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, auto

from msgspec import Struct

from sluice.control.conditions import Reason, Trouble
from sluice.control.objects import Event, EventKind, Key


class Scenario(Enum):
    """Everything that an event tells of, apart from failures, which their condition describes."""

    PAUSED = auto()
    UP_TO_DATE = auto()
    SUCCEEDED = auto()
    RECONCILED = auto()
    PUBLISHED = auto()
    DELETED = auto()
    COLLECTED = auto()
    DAMAGED = auto()
    REPAIRED = auto()
    FOUGHT_OVER = auto()
    NOTHING_MATCHES = auto()
    WARNED = auto()


class Row(Struct, frozen=True):
    """One kind of event; `message` is a template."""

    kind: EventKind
    reason: Reason
    message: str
    unchanged: bool = False


TABLE: Mapping[Scenario, Row] = {
    Scenario.PAUSED: Row(EventKind.TRACE, Reason.RECONCILIATION_DISABLED, "Reconciliation is disabled", unchanged=True),
    Scenario.UP_TO_DATE: Row(
        EventKind.TRACE, Reason.READY, "No drift detected, {count} artifact(s) up to date", unchanged=True
    ),
    Scenario.SUCCEEDED: Row(
        EventKind.TRACE, Reason.READY, "reconciliation succeeded, generated {count} artifact(s)", unchanged=True
    ),
    Scenario.RECONCILED: Row(EventKind.NORMAL, Reason.READY, "external artifacts reconciled: {items}"),
    Scenario.PUBLISHED: Row(EventKind.TRACE, Reason.READY, "{items}"),
    Scenario.DELETED: Row(EventKind.NORMAL, Reason.READY, "external artifacts deleted: {items}"),
    Scenario.COLLECTED: Row(EventKind.TRACE, Reason.READY, "garbage collected {count} artifact file(s): {items}"),
    Scenario.DAMAGED: Row(
        EventKind.WARNING, Reason.READY, "integrity failure: stored files were missing or damaged: {items}"
    ),
    Scenario.REPAIRED: Row(EventKind.NORMAL, Reason.READY, "drift repaired: {items}"),
    Scenario.FOUGHT_OVER: Row(
        EventKind.WARNING,
        Reason.RECONCILIATION_FAILED,
        "somebody keeps changing {items}; repairing it only every {seconds:.0f} s now",
    ),
    Scenario.NOTHING_MATCHES: Row(
        EventKind.WARNING, Reason.BUILD_FAILED, "pathPattern '{pattern}' matches no directory"
    ),
    Scenario.WARNED: Row(EventKind.WARNING, Reason.READY, "{items}"),
}


def event(scenario: Scenario, *, items: Iterable[str] = (), revision: str = "", **values: object) -> Event:
    """The event of a scenario; several items of one kind are one event, a line each."""
    row = TABLE[scenario]
    message = row.message.format(items="\n".join(items), **values)
    return Event(row.kind, row.reason, message, revision, row.unchanged)


def failure(trouble: Trouble) -> Event:
    """The event of a generator that is not Ready."""
    return Event(EventKind.WARNING, trouble.reason, trouble.message)


def name(key: Key) -> str:
    return "/".join(key)
