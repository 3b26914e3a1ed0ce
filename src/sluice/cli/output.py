"""What people see: words with marks on standard error, tables, and text that cannot steer a terminal."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Self, TextIO

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
    cells = [[escape(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "".join(f"{line.rstrip()}\n" for line in lines)


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
