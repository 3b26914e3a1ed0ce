"""Logs: one line for each thing that happened, on standard output."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec
import structlog


class Level(StrEnum):
    """How much is logged."""

    TRACE = "trace"
    DEBUG = "debug"
    INFO = "info"
    ERROR = "error"


class Encoding(StrEnum):
    """How a line looks."""

    JSON = "json"
    CONSOLE = "console"


_IDENTITY = frozenset(
    {
        "controller",
        "controllerGroup",
        "controllerKind",
        "ArtifactGenerator",
        "namespace",
        "name",
        "reconcileID",
        "reason",
    }
)

_LEVELS: Mapping[str, int] = {
    Level.TRACE: logging.NOTSET,  # structlog knows no level below debug
    Level.DEBUG: logging.DEBUG,
    Level.INFO: logging.INFO,
    Level.ERROR: logging.ERROR,
}


def configure(level: str, encoding: Encoding, console: structlog.typing.Processor | None = None) -> None:
    """Set up logging for the process; a level that is not known is info. `console` writes lines for people."""
    renderer = _render_json if encoding is Encoding.JSON else console or _render_console
    structlog.configure(
        processors=[structlog.processors.add_log_level, _stamp, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS.get(level, logging.INFO)),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    # Libraries complain to nobody: what they raise is translated and logged by us.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def _stamp(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["ts"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def _render_json(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    ordered = {"level": event.pop("level"), "ts": event.pop("ts"), "msg": event.pop("event"), **event}
    return msgspec.json.encode(ordered, enc_hook=str).decode(errors="replace")


def _render_console(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    """A line for people: of what tells machines which object it is about, the name is enough."""
    stamp, level, text = event.pop("ts"), str(event.pop("level")).upper(), event.pop("event")
    about = event.get("ArtifactGenerator")
    who = f"{about['namespace']}/{about['name']}: " if isinstance(about, Mapping) else ""
    rest = {key: value for key, value in event.items() if not about or key not in _IDENTITY}
    more = f"  {msgspec.json.encode(rest, enc_hook=str).decode(errors='replace')}" if rest else ""
    lines = text.replace("\n", "\n" + " " * 34)
    return f"{stamp}  {level:<6}  {who}{lines}{more}"


def logger() -> structlog.typing.FilteringBoundLogger:
    """The process's logger."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return log
