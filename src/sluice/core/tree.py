"""Trees of files, the noun for sources, artifacts and everything in between.

A tree is its root `Directory`, as in Git. Entries carry digests and say where their bytes are, so
trees are compared, shared and written without reading a file. Nothing here changes after it is
made, except a `Staging`, which is filled and then finished.

Names are `str`; bytes that are not UTF-8 are kept as lone surrogates (PEP 383). Paths use `/`,
are relative, and have no empty, `.` or `..` component; the root is the empty path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol, Self

from msgspec import Struct

from sluice.core.errors import BuildError, Code, StorageError

MAX_LINKS = 8
"""Links followed in one look-up, as in the peer (copy-semantics, section 2.1)."""


def encode_name(name: str) -> bytes:
    """The bytes of a name or path."""
    return name.encode("utf-8", "surrogateescape")


def sort_names(names: Collection[str]) -> list[str]:
    """Names in byte order, the order of every walk, digest and archive."""
    # Code point order is byte order, except for the surrogates that stand for stray bytes.
    if all(map(str.isascii, names)):
        return sorted(names)
    return sorted(names, key=encode_name)


class Content(Protocol):
    """Where bytes are. Not compared, not hashed; reading is safe from any thread."""

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end."""
        ...


class MemoryContent(Struct, frozen=True, eq=False, gc=False):
    """Bytes that are in memory already."""

    data: bytes

    def read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]


class File(Struct, frozen=True, eq=False, gc=False):
    """A regular file: `digest` is the sha256 of its `size` bytes at `offset` of `content`."""

    digest: bytes
    size: int
    executable: bool
    content: Content
    offset: int = 0

    @classmethod
    def of(cls, data: bytes, *, executable: bool = False) -> Self:
        return cls(hashlib.sha256(data).digest(), len(data), executable, MemoryContent(data))

    def read(self) -> bytes:
        """All of it; for files whose size was checked before."""
        data = self.content.read(self.offset, self.size)
        if len(data) != self.size:
            raise StorageError("a cached source ended early")
        return data

    @property
    def mode(self) -> str:
        return "x" if self.executable else "-"


class Link(Struct, frozen=True, eq=False, gc=False):
    """A symbolic link of a local directory; artifacts and fetched sources hold none."""

    target: str

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(encode_name(self.target)).digest()

    @property
    def mode(self) -> str:
        return "l"


class Directory(Struct, frozen=True, eq=False):
    r"""A directory and all below it; `entries` are in byte order.

    `digest` is the sha256 of ``<mode> <hex digest> <name>\0`` for each entry (design, section 5),
    so equal digests mean equal trees. `files` and `size` count everything below; `has_links` tells
    whether a link is among it.
    """

    entries: Mapping[str, Entry]
    digest: bytes
    files: int
    size: int
    has_links: bool

    @classmethod
    def of_entries(cls, entries: Mapping[str, Entry]) -> Self:
        """A directory of the given entries, in any order."""
        ordered: dict[str, Entry] = {}
        lines: list[bytes] = []
        files = size = 0
        has_links = False
        for name in sort_names(entries):
            ordered[name] = entry = entries[name]
            lines.append(b"%b %b %b\0" % (entry.mode.encode(), entry.digest.hex().encode(), encode_name(name)))
            match entry:
                case File():
                    files += 1
                    size += entry.size
                case Directory():
                    files += entry.files
                    size += entry.size
                    has_links |= entry.has_links
                case Link():
                    has_links = True
        return cls(ordered, hashlib.sha256(b"".join(lines)).digest(), files, size, has_links)

    @classmethod
    def of(cls, files: Mapping[str, bytes], *, executable: Collection[str] = ()) -> Directory:
        """A tree in memory, from the contents of its files by path."""
        staging = Staging()
        for path, data in files.items():
            staging.put(path, File.of(data, executable=path in executable))
        return staging.finish()

    @property
    def mode(self) -> str:
        return "d"

    def find(self, path: str) -> File | Directory | None:
        """What is at a path, links followed; None where there is nothing.

        Raises `BuildError` for a link that leaves the tree, or for more than `MAX_LINKS` links.
        """
        if not self.has_links:
            return self._find(path)
        return _resolve(self, path)

    def _find(self, path: str) -> File | Directory | None:
        here: Entry = self
        for name in path.split("/") if path else ():
            if not isinstance(here, Directory) or (found := here.entries.get(name)) is None:
                return None
            here = found
        assert not isinstance(here, Link)
        return here

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """Everything below, depth first, names in byte order; a directory before its content."""
        # A stack and not recursion: the depth of a tree is the sender's choice.
        stack = [(prefix, iter(self.entries.items()))]
        while stack:
            base, entries = stack[-1]
            for name, entry in entries:
                path = f"{base}/{name}" if base else name
                yield path, entry
                if isinstance(entry, Directory):
                    stack.append((path, iter(entry.entries.items())))
                    break
            else:
                stack.pop()


Entry = File | Directory | Link

EMPTY = Directory.of_entries({})


def _resolve(root: Directory, path: str) -> File | Directory | None:
    """`find` in a tree with links: as a confined open resolves them, component by component."""
    todo = path.split("/")[::-1] if path else []
    where: list[tuple[str, Directory]] = []  # the directories entered, innermost last
    here: Entry = root
    links = 0
    while todo:
        name = todo.pop()
        if not isinstance(here, Directory):
            return None
        if name in ("", "."):
            continue
        if name == "..":
            if not where:
                raise BuildError(f"'{path}' is a link that leaves the source", Code.ESCAPE)
            here = where.pop()[1]
            continue
        found = here.entries.get(name)
        if found is None:
            return None
        if isinstance(found, Link):
            links += 1
            if links > MAX_LINKS:
                raise BuildError(f"'{path}' passes more than {MAX_LINKS} links", Code.NOT_FOUND)
            if found.target.startswith("/"):
                raise BuildError(f"'{path}' is a link that leaves the source", Code.ESCAPE)
            todo += found.target.split("/")[::-1]
            continue
        where.append((name, here))
        here = found
    assert not isinstance(here, Link)
    return here


class PathConflict(BuildError):
    """A path is a file where a directory is needed, or the reverse."""

    def __init__(self, path: str) -> None:
        super().__init__(f"'{path}' is both a file and a directory", Code.CONFLICT)


class _Open:
    """A directory of a staging that differs from the shared one it began as."""

    __slots__ = ("entries",)

    def __init__(self, base: Directory | None = None) -> None:
        self.entries: dict[str, File | Directory | _Open] = {}
        if base is not None:
            assert not base.has_links
            self.entries.update(base.entries)  # type: ignore[arg-type]  # no links, just asserted

    def child(self, name: str, path: str) -> _Open:
        """The directory `name`, opened; made when there is nothing."""
        match self.entries.get(name):
            case _Open() as opened:
                return opened
            case File():
                raise PathConflict(path)
            case shared:
                opened = self.entries[name] = _Open(shared)
                return opened

    def finish(self) -> Directory:
        entries: dict[str, Entry] = {}
        for name, entry in self.entries.items():
            entries[name] = entry.finish() if isinstance(entry, _Open) else entry
        return Directory.of_entries(entries)


class Staging:
    """A tree being put together: the only one that changes.

    A directory that is put where nothing was is shared, not copied; only the directories on the
    way to a change are opened, and only those are digested by `finish`.
    """

    def __init__(self, base: Directory = EMPTY) -> None:
        self._root = _Open(base)

    def find(self, path: str) -> File | Directory | None:
        """What is at a path now. A directory that was opened is finished for the answer."""
        here: File | Directory | _Open | None = self._root
        for name in path.split("/") if path else ():
            match here:
                case _Open():
                    here = here.entries.get(name)
                case Directory():
                    found = here.entries.get(name)
                    assert not isinstance(found, Link)
                    here = found
                case _:
                    return None
        return here.finish() if isinstance(here, _Open) else here

    def is_directory(self, path: str) -> bool:
        """Whether a directory is at a path now; cheap at any size."""
        here: File | Directory | _Open | Link | None = self._root
        for name in path.split("/") if path else ():
            if not isinstance(here, (_Open, Directory)):
                return False
            here = here.entries.get(name)
        return isinstance(here, (_Open, Directory))

    def put(self, path: str, entry: File | Directory, *, ignore_empty: bool = False) -> None:
        """Place a file, replacing one, or a directory, united with one.

        Raises `PathConflict` where a file meets a directory, at the path or above it. With
        `ignore_empty` an empty directory that meets a file is passed over instead.
        """
        if not path:
            if isinstance(entry, File):
                raise PathConflict(".")
            self._unite(self._root, entry, "", ignore_empty)
            return
        *parents, name = path.split("/")
        here = self._root
        for depth, parent in enumerate(parents, 1):
            here = here.child(parent, "/".join(parents[:depth]))
        self._place(here, name, entry, path, ignore_empty)

    def _place(self, parent: _Open, name: str, entry: File | Directory, path: str, ignore_empty: bool) -> None:
        there = parent.entries.get(name)
        if there is None or (isinstance(entry, File) and isinstance(there, File)):
            parent.entries[name] = entry
        elif isinstance(entry, File) or isinstance(there, File):
            if not (ignore_empty and isinstance(entry, Directory) and not entry.entries):
                raise PathConflict(path)
        elif isinstance(there, _Open) or there.digest != entry.digest:
            self._unite(parent.child(name, path), entry, path, ignore_empty)

    def _unite(self, directory: _Open, other: Directory, path: str, ignore_empty: bool) -> None:
        for name, entry in other.entries.items():
            assert not isinstance(entry, Link)
            self._place(directory, name, entry, f"{path}/{name}" if path else name, ignore_empty)

    def remove(self, path: str) -> None:
        """Take away the file at a path, if there is one, and the directories that are empty without it."""
        if self.is_directory(path) or self.find(path) is None:
            return
        names = path.split("/")
        opened = [self._root]
        for parent in names[:-1]:
            opened.append(opened[-1].child(parent, path))
        for directory, name in zip(reversed(opened), reversed(names), strict=True):
            del directory.entries[name]
            if directory.entries:
                break

    def finish(self) -> Directory:
        """The tree as it is now; digests what was opened."""
        return self._root.finish()
