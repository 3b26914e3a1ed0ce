"""Notice what changes on disk."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Protocol

from watchfiles._rust_notify import RustNotify  # `awatch` would begin to watch only when it is waited for

QUIET_MS, GATHER_MS = 50, 400
"""How long nothing may change before changes are told, and how long they are gathered at most."""
LOOK_MS = 250
"""How often points are looked at."""
POLL_SHARE = 10
"""Where nobody tells of changes, one part in so many of the time goes into looking for them."""


class Flag(Protocol):
    """Tells another thread to stop."""

    def is_set(self) -> bool: ...


class Watcher:
    """Waits for changes below trees, of which the system tells, and at points, which are looked at.

    From when it is made nothing is missed. With `poll` every file is looked at: network file systems
    tell nobody. Raises `OSError` where trees cannot be watched.
    """

    def __init__(self, trees: Iterable[Path], points: Iterable[Path], *, poll: bool = False) -> None:
        self.trees = frozenset(_outermost(trees))
        self.points = frozenset(points) | self.trees
        self._seen = {point: _look(point) for point in self.points}
        there = sorted(str(tree) for tree in self.trees if tree.exists())
        self._told = None if poll else RustNotify(there, False, False, 0, True, True)
        self._files = self._look_at_files() if poll else {}

    def wait(self, stopping: Flag, seconds: float) -> set[Path]:
        """Block until something changes, and return what; nothing after so many seconds, or when it is time to stop."""
        end = time.monotonic() + seconds
        while not stopping.is_set() and time.monotonic() < end:
            changed = self._hear(self._told, stopping) if self._told is not None else self._find(stopping)
            changed |= self._moved()
            if changed:
                return changed
        return set()

    def _hear(self, told: RustNotify, stopping: Flag) -> set[Path]:
        changes = told.watch(GATHER_MS, QUIET_MS, LOOK_MS, stopping)
        return {Path(name) for _, name in changes} if isinstance(changes, set) else set()

    def _find(self, stopping: Flag) -> set[Path]:
        begun = time.monotonic()
        before, self._files = self._files, self._look_at_files()
        end = begun + max(LOOK_MS / 1000, POLL_SHARE * (time.monotonic() - begun))
        different = {name for name, _ in before.items() ^ self._files.items()}
        while not different and not stopping.is_set() and time.monotonic() < end:
            time.sleep(LOOK_MS / 1000)
        return {Path(name) for name in different}

    def _look_at_files(self) -> dict[str, tuple[int, ...]]:
        found = {}
        for tree in self.trees:
            for directory, _, names in os.walk(tree):
                for name in names:
                    path = f"{directory}/{name}"
                    found[path] = _look(path)
        return found

    def _moved(self) -> set[Path]:
        now = {point: _look(point) for point in self.points}
        before, self._seen = self._seen, now
        return {point for point, seen in now.items() if seen != before[point]}


def _look(point: Path | str) -> tuple[int, ...]:
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
