"""Write artifacts as directories: ``<root>/<namespace>/<artifact>/…``.

A directory appears complete or not at all: it is written below ``<root>/.sluice`` and renamed. What is
in its place is replaced only if it is, byte for byte, something written here before; the digests of
that are kept in ``<root>/.sluice/<namespace>/<artifact>``. Anything else stays, and is an error.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sluice.content import describe
from sluice.core.errors import StorageError
from sluice.core.gzip import SLICE
from sluice.core.tree import Directory, Entry, File, MemoryContent

STATE: Final = ".sluice"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class TreeWriter:
    """Writes artifacts below a directory, which is made when it is not there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        with _explained(str(root), "write"):
            (root / STATE).mkdir(parents=True, exist_ok=True)

    def write(self, namespace: str, name: str, tree: Directory) -> None:
        """Put a tree in its place. Raises `StorageError`, and then nothing has changed."""
        final, record = self._root / namespace / name, self._root / STATE / namespace / name
        with _explained(str(final), "write"):
            there = _digest(final)
            if there == tree.digest.hex():
                return
            if os.path.lexists(final) and not (there in _recorded(record) or _is_empty(final)):
                raise StorageError(
                    f"'{final}' is not what was written here before (remove it, or choose another place)"
                )
            with tempfile.TemporaryDirectory(dir=self._root / STATE, prefix=".tmp-") as temporary:
                new, old = Path(temporary, "new"), Path(temporary, "old")
                write_tree(tree, new)
                # Both digests, before anything moves: whenever we are stopped, what is there is known.
                _record(record, {tree.digest.hex(), *filter(None, [there])})
                final.parent.mkdir(exist_ok=True)
                _replace(final, new, old)


def _replace(final: Path, new: Path, old: Path) -> None:
    if os.path.lexists(final):
        final.rename(old)
    try:
        new.rename(final)
    except BaseException:
        if os.path.lexists(old):
            old.rename(final)
        raise


def write_tree(tree: Directory, root: Path) -> None:
    """Write a tree as a directory that is not there yet. Raises `OSError`."""
    root.mkdir()
    for path, entry in tree.walk():
        if isinstance(entry, Directory):
            (root / path).mkdir()
        elif isinstance(entry, File):
            with (root / path).open("xb") as out:
                out.writelines(_slices(entry))
                if entry.executable:
                    mode = os.fstat(out.fileno()).st_mode
                    os.fchmod(out.fileno(), mode | (mode & 0o444) >> 2)  # whoever may read may run


def _slices(file: File) -> Iterator[bytes]:
    for at in range(0, file.size, SLICE):
        yield File(b"", min(SLICE, file.size - at), False, file.content, file.offset + at).read()


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _recorded(record: Path) -> set[str]:
    try:
        return set(_DIGEST.findall(record.read_text()))
    except FileNotFoundError:
        return set()


def _record(record: Path, digests: set[str]) -> None:
    record.parent.mkdir(exist_ok=True)
    if _recorded(record) != digests:
        temporary = record.with_name(f".{os.getpid()}.tmp")
        temporary.write_text("".join(f"{digest}\n" for digest in sorted(digests)))
        temporary.replace(record)


def _digest(path: Path) -> str | None:
    """The digest of a directory as a tree; None where it is none, or holds what a tree cannot."""
    found = _entry(path)
    return found.digest.hex() if isinstance(found, Directory) else None


def _entry(path: Path) -> Entry | None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        return File(digest, 0, bool(mode & 0o111), MemoryContent(b""))
    if not stat.S_ISDIR(mode):
        return None
    entries: dict[str, Entry] = {}
    for child in path.iterdir():
        entry = _entry(child)
        if entry is None:
            return None
        entries[child.name] = entry
    return Directory.of_entries(entries)


@contextmanager
def _explained(where: str, operation: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"'{where}': cannot {operation}: {describe(error)}") from error
