"""What people see: words with marks on standard error, tables, and text that cannot steer a terminal."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Self, TextIO

import click

from sluice.content import describe
from sluice.core.errors import StorageError

if TYPE_CHECKING:
    from rich.status import Status

PATIENCE = 0.7
"""Seconds that work may take before a terminal is told what is going on."""


_DIGITS = re.compile(r"(?<=:)([0-9a-f]{8})[0-9a-f]{8,}")


class Format(StrEnum):
    """How data is written to standard output."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class Mark(Enum):
    """The marks of the flux command, and their colours."""

    ACTION = ("►", 36)
    SUCCESS = ("✔", 32)
    FAILURE = ("✗", 31)
    WARNING = ("⚠", 33)
    WAITING = ("◎", 36)
    CREATED = ("✚", 32)


class Words:
    """Lines for people. On a terminal in colour, and with a line that tells what takes long.

    Used as a context manager it takes that line away at the end.
    """

    def __init__(self, stream: TextIO | None = None, patience: float = PATIENCE) -> None:
        self._stream = stream or sys.stderr
        self._patience = patience
        self._terminal = is_terminal(self._stream)
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._status: Status | None = None
        self._text = ""

    def say(self, mark: Mark, text: str) -> None:
        """One line."""
        sign, colour = mark.value
        if self._terminal and not _no_color():
            sign = f"\x1b[{colour}m{sign}\x1b[0m"
        with self._interrupted():
            print(sign, escape(text), file=self._stream, flush=True)

    def working(self, text: str) -> None:
        """Say on a terminal what is being done, once it takes long."""
        if not self._terminal:
            return
        with self._lock:
            self._text = escape(text)
            if self._status is not None:
                self._status.update(self._text)
            elif self._timer is None:
                self._timer = threading.Timer(self._patience, self._begin)
                self._timer.daemon = True
                self._timer.start()

    def _begin(self) -> None:
        from rich.console import Console
        from rich.status import Status

        with self._lock:
            if self._timer is not None:
                console = Console(file=self._stream, markup=False, highlight=False, no_color=_no_color())
                self._status = Status(self._text, console=console)
                self._status.start()

    @contextmanager
    def _interrupted(self) -> Iterator[None]:
        with self._lock:
            if self._status is not None:
                self._status.stop()
            yield
            if self._status is not None:
                self._status.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._status is not None:
                self._status.stop()
                self._status = None


def emit(data: bytes) -> None:
    """Write data to standard output. Raises `StorageError`, or `BrokenPipeError` when nobody reads any more."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is buffered must not be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StorageError(f"standard output: cannot write: {describe(error)}") from error


def is_terminal(stream: TextIO) -> bool:
    """Whether colour and cursor codes mean something there."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _no_color() -> bool:
    return bool(os.environ.get("NO_COLOR"))


def escape(text: str) -> str:
    """Text with its control and other invisible characters spelled out, so that it stays one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, as flux prints them."""
    widths = measure([header, *rows])
    return "".join(line_up(row, widths) for row in (header, *rows))


def measure(rows: Sequence[Sequence[str]]) -> list[int]:
    """How wide each column has to be."""
    return [max(len(escape(cell)) for cell in column) for column in zip(*rows, strict=True)]


def line_up(row: Sequence[str], widths: Sequence[int]) -> str:
    """One line of a table; a cell that is wider than its column moves the others."""
    return "   ".join(escape(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"


def encode(text: str) -> bytes:
    """Text for standard output; what cannot be encoded is spelled out."""
    return text.encode("utf-8", "backslashreplace")


def encode_data(value: Mapping[str, Any] | Sequence[Any], form: Format) -> bytes:
    """Plain data as YAML or, in any other form, as JSON."""
    if form is Format.YAML:
        from sluice.core.yaml_out import dump_value

        return dump_value(value)
    # Escaped beyond need: nothing in it steers a terminal, and names that are not UTF-8 survive.
    return encode(json.dumps(value, indent=2) + "\n")


def shorten_revision(revision: str) -> str:
    """A revision with its digest cut to eight digits, as flux shows it."""
    return _DIGITS.sub(r"\1", revision)


def human_size(size: int) -> str:
    """A number of bytes for people."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{size} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _format(_: click.Context, __: click.Parameter, value: str) -> Format:
    return Format(value)


output_option = click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice([form.value for form in Format]),
    default=Format.TABLE.value,
    show_default=True,
    callback=_format,
    help="What to print.",
)
"""For verbs that show data."""
