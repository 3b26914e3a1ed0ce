"""Read a directory as it is on disk."""

from __future__ import annotations

import hashlib
import os
import stat
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

Names = dict[str, "Names"]
"""The names to read of a directory, with those to read below."""


def scan_directory(path: Path, limits: Limits = DEFAULT_LIMITS, *, only: Iterable[str] | None = None) -> Directory:
    """The tree of a directory, each file read once to digest it; `only` names the paths to take.

    Links are kept as links and never followed, however the directory changes meanwhile; what
    vanishes while it is read was not there. Raises `SourceError` for pipes, sockets and devices,
    for what cannot be read and for files that change while they are read.
    """
    try:
        root = Descriptor(os.open(path, DIRECTORY_FLAGS & ~os.O_NOFOLLOW))
    except OSError as error:
        raise SourceError(f"'{path}': {describe(error)}", Code.NOT_FOUND) from error
    return _Scan(root, str(path), limits).directory(root.number, "", 0, None if only is None else _by_name(only))


def _by_name(paths: Iterable[str]) -> Names:
    root: Names = {}
    for path in paths:
        here = root
        for name in path.split("/"):
            here = here.setdefault(name, {})
    return root


class _Scan:
    """One pass over a directory; counts what it meets against the limits."""

    def __init__(self, root: Descriptor, where: str, limits: Limits) -> None:
        self._root = root
        self._where = where
        self._limits = limits
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
        mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
        if stat.S_ISREG(mode):
            return self._file(here, name, path)
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

    def _file(self, here: int, name: str, path: str) -> File:
        with open_file(here, name) as file:
            before = os.fstat(file)
            self._size += before.st_size
            if self._size > self._limits.source_size:
                raise self._limit("its files are too large", "source_size")
            digest = hashlib.sha256()
            size = 0
            while size <= before.st_size and (data := os.read(file, SLICE)):
                digest.update(data)
                size += len(data)
            if size != before.st_size or stamp(before) != stamp(os.fstat(file)):
                raise self._error(path, "changed while it was read")
        content = LocalContent(self._root, path, stamp(before))
        return File(digest.digest(), before.st_size, bool(before.st_mode & 0o111), content)

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
