"""Read a directory as it is on disk."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from sluice.content import DIRECTORY_FLAGS, Descriptor, LocalContent, describe, open_file, stamp
from sluice.core.errors import Code, LimitExceeded, SourceError
from sluice.core.gzip import SLICE
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.tree import Directory, Entry, File, Link, encode_name

SKIPPED: Final = frozenset({".git", ".sluice"})
"""Never part of a source, at any depth: what Git and `sluice serve` keep for themselves."""

SETTLED: Final = 2_000_000_000
"""Nanoseconds without a change after which a file's times tell of the next one."""

Names = dict[str, "Names"]
"""The names to read of a directory, with those to read below."""


class Digests:
    """The digests of a directory's files, kept from one scan to the next; for one scan at a time.

    A file is known by its inode, size and times. One that changed a moment ago is not kept: times are
    coarse, and a second change at the same one would go unnoticed.
    """

    def __init__(self) -> None:
        self._before: dict[tuple[int, ...], bytes] = {}
        self._now: dict[tuple[int, ...], bytes] = {}

    def find(self, status: os.stat_result) -> bytes | None:
        identity = _identity(status)
        found = self._before.get(identity) or self._now.get(identity)
        if found is not None:
            self._now[identity] = found
        return found

    def keep(self, status: os.stat_result, digest: bytes) -> None:
        if max(status.st_mtime_ns, status.st_ctime_ns) < time.time_ns() - SETTLED:
            self._now[_identity(status)] = digest

    def finish(self) -> None:
        """After a complete scan: forget what it did not meet."""
        self._before, self._now = self._now, {}


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def scan_directory(
    path: Path,
    limits: Limits = DEFAULT_LIMITS,
    *,
    only: Iterable[str] | None = None,
    digests: Digests | None = None,
) -> Directory:
    """The tree of a directory, each file read once to digest it; `only` names the paths to take.

    Files that `digests` has from an earlier scan are not read.

    Links are kept as links and never followed, however the directory changes meanwhile; what
    vanishes while it is read was not there. Raises `SourceError` for pipes, sockets and devices,
    for what cannot be read and for files that change while they are read.
    """
    try:
        root = Descriptor(os.open(path, DIRECTORY_FLAGS & ~os.O_NOFOLLOW))
    except OSError as error:
        raise SourceError(f"'{path}': {describe(error)}", Code.NOT_FOUND) from error
    digests = digests or Digests()
    scan = _Scan(root, str(path), limits, digests)
    tree = scan.directory(root.number, "", 0, None if only is None else _by_name(only))
    digests.finish()
    return tree


def _by_name(paths: Iterable[str]) -> Names:
    root: Names = {}
    for path in paths:
        here = root
        for name in path.split("/"):
            here = here.setdefault(name, {})
    return root


class _Scan:
    """One pass over a directory; counts what it meets against the limits."""

    def __init__(self, root: Descriptor, where: str, limits: Limits, digests: Digests) -> None:
        self._root = root
        self._where = where
        self._limits = limits
        self._digests = digests
        self._entries = 0
        self._size = 0

    def directory(self, here: int, path: str, depth: int, only: Names | None) -> Directory:
        entries: dict[str, Entry] = {}
        for name in os.listdir(here) if only is None else only:
            if name in SKIPPED:
                continue
            below = f"{path}/{name}" if path else name
            self._count(below, depth)
            try:
                entry = self._entry(here, name, below, depth, None if only is None else only[name])
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._error(below, describe(error)) from error
            if entry is not None:
                entries[name] = entry
        return Directory.of_entries(entries)

    def _entry(self, here: int, name: str, path: str, depth: int, only: Names | None) -> Entry | None:
        status = os.stat(name, dir_fd=here, follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISREG(mode):
            return self._file(here, name, path, status)
        if stat.S_ISLNK(mode):
            return Link(os.readlink(name, dir_fd=here))
        if not stat.S_ISDIR(mode):
            raise self._error(path, "neither a file, a directory nor a link")
        inner = os.open(name, DIRECTORY_FLAGS, dir_fd=here)
        try:
            directory = self.directory(inner, path, depth + 1, only)
        finally:
            os.close(inner)
        # Where paths are named, a directory is there for the sake of what is in it.
        return directory if directory.entries or only is None else None

    def _file(self, here: int, name: str, path: str, status: os.stat_result) -> File:
        known = self._digests.find(status)
        if known is None:
            return self._read(here, name, path)
        self._check_size(status)
        return self._make(path, status, known)

    def _read(self, here: int, name: str, path: str) -> File:
        with open_file(here, name) as file:
            before = os.fstat(file)
            self._check_size(before)
            digest = hashlib.sha256()
            size = 0
            while size <= before.st_size and (data := os.read(file, SLICE)):
                digest.update(data)
                size += len(data)
            if size != before.st_size or stamp(before) != stamp(os.fstat(file)):
                raise self._error(path, "changed while it was read")
        self._digests.keep(before, digest.digest())
        return self._make(path, before, digest.digest())

    def _check_size(self, status: os.stat_result) -> None:
        self._size += status.st_size
        if self._size > self._limits.source_size:
            raise self._limit("its files are too large", "source_size")

    def _make(self, path: str, status: os.stat_result, digest: bytes) -> File:
        content = LocalContent(self._root, path, stamp(status))
        return File(digest, status.st_size, bool(status.st_mode & 0o111), content)

    def _count(self, path: str, depth: int) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise self._limit("too many entries", "entries")
        if depth > self._limits.depth:
            raise self._limit(f"'{path}' is too deep", "depth")
        if len(encode_name(path)) > self._limits.name_length:
            raise self._limit(f"'{path}' is too long", "name_length")

    def _limit(self, what: str, field: str) -> LimitExceeded:
        return LimitExceeded(f"'{self._where}': {what}", getattr(self._limits, field), field)

    def _error(self, path: str, what: str) -> SourceError:
        return SourceError(f"'{self._where}': '{path}': {what}", Code.FETCH)
