"""Where the bytes of a tree are on disk.

Read with pread and never mapped: a mapped page counts as memory of ours, and a damaged disk would
be a signal where it should be an error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from sluice.core.errors import Code, SourceError, StorageError

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: what was a file a moment ago may be a pipe now.
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_SOON = 0.5
"""Seconds after which a file that somebody was writing is worth another look."""


class Descriptor:
    """An open file or directory; closed when nobody refers to it any more."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@contextmanager
def cache_errors() -> Iterator[None]:
    """Report what the disk says while bytes are kept for later."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"source cache: {describe(error)} (unpacked sources are kept in TMPDIR)") from error


class FileContent:
    """The bytes of an open file, which may have no name any more."""

    __slots__ = ("_file",)

    def __init__(self, file: Descriptor) -> None:
        self._file = file

    def read(self, offset: int, size: int) -> bytes:
        with cache_errors():
            return _read(self._file.number, offset, size)


class LocalContent(Struct, frozen=True, eq=False, gc=False):
    """The bytes of a file below a directory, opened for each read, so that a tree holds one descriptor.

    The file must still be the one that was digested, as far as size and time of change tell. One
    that is not is no fault of the recipe: it is worth trying again, and nothing to remember.
    """

    root: Descriptor
    path: str
    stamp: tuple[int, int, int]

    def read(self, offset: int, size: int) -> bytes:
        try:
            with open_below(self.root.number, self.path) as file:
                if stamp(os.fstat(file)) == self.stamp:
                    return _read(file, offset, size)
        except OSError as error:
            raise SourceError(f"'{self.path}': {describe(error)}", Code.FETCH, _SOON) from error
        raise SourceError(f"'{self.path}' changed while it was read", Code.FETCH, _SOON)


def stamp(status: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file does: inode, size and time of modification."""
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def open_below(root: int, path: str) -> Iterator[int]:
    """A regular file below a directory, no link followed on the way."""
    *parents, name = path.split("/")
    here = root
    try:
        for parent in parents:
            inner = os.open(parent, DIRECTORY_FLAGS, dir_fd=here)
            if here != root:
                os.close(here)
            here = inner
        with open_file(here, name) as file:
            yield file
    finally:
        if here != root:
            os.close(here)


@contextmanager
def open_file(directory: int, name: str) -> Iterator[int]:
    """A regular file of a directory, never through a link and without waiting for anybody."""
    file = os.open(name, FILE_FLAGS, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(0, "not a regular file")
        yield file
    finally:
        os.close(file)


def describe(error: OSError) -> str:
    """The reason alone: no paths, which may be temporary ones."""
    return (error.strerror or type(error).__name__).lower()


def _read(file: int, offset: int, size: int) -> bytes:
    data = os.pread(file, size, offset)
    while len(data) < size and (more := os.pread(file, size - len(data), offset + len(data))):
        data += more
    return data
