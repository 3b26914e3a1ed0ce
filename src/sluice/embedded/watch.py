"""Notice what changes on disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Protocol

from watchfiles._rust_notify import RustNotify  # `awatch` would begin to watch only when it is waited for

QUIET_MS, GATHER_MS = 50, 400
"""How long nothing may change before changes are told, and how long they are gathered at most."""
LOOK_MS = 250
"""How often points are looked at."""
POLL_MS = 500
"""How often trees are, where nobody tells of their changes."""


class Flag(Protocol):
    """Tells another thread to stop."""

    def is_set(self) -> bool: ...


class Watcher:
    """Waits for changes below trees, of which the system tells, and at points, which are looked at.

    From when it is made nothing is missed. With `poll` trees are looked at, too: network file
    systems tell nobody. Raises `OSError` where trees cannot be watched.
    """

    def __init__(self, trees: Iterable[Path], points: Iterable[Path], *, poll: bool = False) -> None:
        self.trees = frozenset(_outermost(trees))
        self.points = frozenset(points) | self.trees
        self._seen = {point: _look(point) for point in self.points}
        there = sorted(str(tree) for tree in self.trees if tree.exists())
        self._told = RustNotify(there, False, poll, POLL_MS, True, True)

    def wait(self, stopping: Flag, seconds: float) -> set[Path]:
        """Block until something changes, and return what; nothing after so many seconds, or when it is time to stop."""
        for _ in range(max(int(seconds * 1000 / LOOK_MS), 1)):
            told = self._told.watch(GATHER_MS, QUIET_MS, LOOK_MS, stopping)
            changed = {Path(name) for _, name in told} if isinstance(told, set) else set()
            changed |= self._moved()
            if changed or stopping.is_set():
                return changed
        return set()

    def _moved(self) -> set[Path]:
        now = {point: _look(point) for point in self.points}
        before, self._seen = self._seen, now
        return {point for point, seen in now.items() if seen != before[point]}


def _look(point: Path) -> tuple[int, ...]:
    """What changes when a point does; a directory's contents are not its own."""
    try:
        status = os.lstat(point)
    except OSError:
        return ()
    if stat.S_ISDIR(status.st_mode):
        return status.st_dev, status.st_ino
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _outermost(trees: Iterable[Path]) -> Collection[Path]:
    """Trees without those inside of others."""
    found: list[Path] = []
    for tree in sorted(trees):
        if not any(tree.is_relative_to(outer) for outer in found):
            found.append(tree)
    return found
