"""Spans of time as Go writes them."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)"


class Duration(click.ParamType[Any]):
    """A span of time as Go writes it, such as 750ms or 1h0m0s; the value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if value == "0":
            return 0.0
        if not re.fullmatch(rf"(?:{_PART})+", value):
            self.fail(f"'{value}' is not a duration (such as 750ms, 30s or 1h0m0s)", param, ctx)
        return float(sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, value)))


DURATION = Duration()


def show_duration(seconds: float) -> str:
    """A span in the words of its options."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
