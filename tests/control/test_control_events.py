"""What people are told."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sluice.control import events
from sluice.control.conditions import Reason, Retry, Trouble
from sluice.control.events import TABLE, Scenario
from sluice.control.objects import Event, EventKind


@pytest.mark.parametrize("scenario", Scenario)
def test_every_scenario_has_words(scenario: Scenario) -> None:
    names = set(re.findall(r"\{(\w+)", TABLE[scenario].message)) - {"items"}
    values: dict[str, Any] = dict.fromkeys(names, 7)
    told = events.event(scenario, items=["apps/web"], **values)

    assert told.message
    assert "{" not in told.message


def test_several_of_one_kind_are_one_event() -> None:
    told = events.event(Scenario.RECONCILED, items=["apps/a (x)", "apps/b (y)"], revision="z")

    message = "external artifacts reconciled: apps/a (x)\napps/b (y)"
    assert told == Event(EventKind.NORMAL, "Ready", message, "z", unchanged=False)


def test_braces_in_what_is_told_are_text() -> None:
    told = events.event(Scenario.NOTHING_MATCHES, pattern="@repo/{app}")

    assert told.message == "pathPattern '@repo/{app}' matches no directory"
    assert events.event(Scenario.WARNED, items=["{x}"]).message == "{x}"


def test_a_failure_is_a_warning_with_the_reason_of_its_condition() -> None:
    told = events.failure(Trouble(Reason.BUILD_FAILED, "web build failed: no", Retry.INTERVAL))

    assert told == Event(EventKind.WARNING, "BuildFailed", "web build failed: no")
