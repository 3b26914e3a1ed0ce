"""Files below one directory, with no way out of it.

Every step of a path is taken relative to an open directory and never through a symbolic link, so
what is swapped meanwhile is an error and not another place. Names are the caller's to check.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sluice.core.errors import StorageError
from sluice.core.gzip import SLICE

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_TEMPORARY = re.compile(r"\.[0-9]+-[0-9]+\.tmp")


class Confined:
    """The directories and files below `root`; directories are made 0700, files 0600."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._serials = itertools.count()

    @contextmanager
    def directory(self, *parts: str, create: bool = False) -> Iterator[int]:
        """A directory, open."""
        try:
            descriptor = self._descend(parts, create=create)
        except FileNotFoundError:
            if not create:
                raise
            # The root was deleted under us, or somebody took an emptied directory away.
            self._root.mkdir(parents=True, exist_ok=True)
            descriptor = self._descend(parts, create=True)
        with closing(descriptor):
            yield descriptor

    def _descend(self, parts: Sequence[str], *, create: bool) -> int:
        here = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in parts:
            try:
                following = _open_directory(part, here, create=create)
            finally:
                os.close(here)
            here = following
        return here

    def names(self, *parts: str) -> list[str]:
        """The names in a directory, sorted; none where there is no directory."""
        try:
            with self.directory(*parts) as directory:
                return sorted(os.listdir(directory))  # noqa: PTH208  # pathlib cannot list an open directory
        except OSError as error:
            if error.errno in _ABSENT:
                return []
            raise

    def open_file(self, *parts: str) -> int | None:
        """A regular file, open for reading; None where there is none."""
        try:
            directory = self._descend(parts[:-1], create=False)
            try:
                descriptor = os.open(parts[-1], READ, dir_fd=directory)
            finally:
                os.close(directory)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        return None

    @contextmanager
    def temporary(self, directory: int) -> Iterator[tuple[str, BinaryIO]]:
        """A new file to write, and its name; gone afterwards unless it was given another.

        Until then `remove_abandoned` leaves it alone.
        """
        while True:
            name = f".{os.getpid()}-{next(self._serials)}.tmp"
            with suppress(FileExistsError):
                descriptor = os.open(name, _CREATE, 0o600, dir_fd=directory)
                break
        try:
            with os.fdopen(descriptor, "wb", buffering=SLICE) as file:
                with suppress(OSError):  # some network file systems have no locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield name, file
        finally:
            with suppress(OSError):
                os.unlink(name, dir_fd=directory)

    def remove_empty(self, *parts: str) -> None:
        """Remove a directory, unless something is in it."""
        try:
            with self.directory(*parts[:-1]) as parent:
                os.rmdir(parts[-1], dir_fd=parent)
        except OSError as error:
            if error.errno not in (*_ABSENT, errno.ENOTEMPTY):
                raise


def _open_directory(name: str, parent: int, *, create: bool) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    return os.open(name, _DIRECTORY, dir_fd=parent)


def is_temporary(filename: str) -> bool:
    """Whether `Confined.temporary` makes such names."""
    return _TEMPORARY.fullmatch(filename) is not None


def remove_abandoned(directory: int, temporary: str) -> None:
    """Remove a temporary file, unless a process is still writing it."""
    with suppress(OSError), closing(os.open(temporary, READ, dir_fd=directory)) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(temporary, dir_fd=directory)


def remove(directory: int, filename: str) -> None:
    """Remove what has this name, whatever it is; nothing is fine too."""
    try:
        os.unlink(filename, dir_fd=directory)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        shutil.rmtree(filename, dir_fd=directory)


def replace(directory: int, temporary: str, filename: str) -> None:
    """Give a file its final name, whatever had that before."""
    try:
        os.rename(temporary, filename, src_dir_fd=directory, dst_dir_fd=directory)
    except IsADirectoryError:
        remove(directory, filename)
        os.rename(temporary, filename, src_dir_fd=directory, dst_dir_fd=directory)


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Close a descriptor at the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def explained(where: str, operation: str) -> Iterator[None]:
    """Tell the operator which operation failed where, and why."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{where}: cannot {operation}: {(error.strerror or str(error)).lower()}") from error
