"""Index archives: the tree of a tar stream, without unpacking it.

One pass over the decompressed bytes, one sha256 per file; each `File` says where in them it is. A
damaged or cut archive is an error and never a part of its tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, cast

from msgspec import Struct, structs

from sluice.core.errors import LimitExceeded
from sluice.core.gzip import InvalidArchive, inflate
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.tar_entries import BLOCK, Kind, Member, Stream, read_members, refuse, show
from sluice.core.tree import Content, Directory, Entry, File, MemoryContent


class Rules(Struct, frozen=True):
    """What differs between a fetched source and an archive that Extract unpacks.

    `size_field` is the limit of what the archive's files hold together. Where headers are free, as
    the peer counts for Extract, the stream may be longer by what the permitted entries take.
    """

    skips_links: bool
    size_field: str
    free_headers: bool

    def size(self, limits: Limits) -> int:
        size: int = getattr(limits, self.size_field)
        return size

    def stream_size(self, limits: Limits) -> int:
        headers = limits.entries * 2 * BLOCK + limits.names_size if self.free_headers else 0
        return self.size(limits) + headers


SOURCE = Rules(skips_links=True, size_field="source_size", free_headers=False)
EXTRACT = Rules(skips_links=False, size_field="extract_size", free_headers=True)


def unpack(chunks: Iterable[bytes], out: IO[bytes], content: Content, rules: Rules, limits: Limits) -> Directory:
    """Decompress an archive into `out` and index it; `content` reads what `out` was given."""

    def stored() -> Iterator[bytes]:
        for data in inflate(chunks, limits, size=rules.stream_size(limits), field=rules.size_field):
            out.write(data)
            yield data

    return index(stored(), content, rules, limits)


def read_archive(data: bytes, limits: Limits = DEFAULT_LIMITS, rules: Rules = SOURCE) -> Directory:
    """The tree of an archive that is in memory, and whose decompressed bytes may be."""
    stream = b"".join(inflate([data], limits, size=rules.stream_size(limits), field=rules.size_field))
    return index([stream], MemoryContent(stream), rules, limits)


def index(chunks: Iterable[bytes], content: Content, rules: Rules, limits: Limits) -> Directory:
    """The tree of a tar stream whose bytes `content` holds; reads the chunks to their end.

    The last of equal paths wins, but the first decides whether the file is executable, as the peer
    truncates and does not replace. A hard link is another name of a file before it; where there is
    none it is an empty file, as the header of one has no body.
    """
    stream = Stream(chunks)
    tree = _Tree(limits)
    size = 0
    largest = rules.size(limits)
    for entries, member in enumerate(read_members(stream, limits), 1):
        if entries > limits.entries:
            raise LimitExceeded(f"archive holds more than {limits.entries} entries", limits.entries, "entries")
        path = _path(member, limits)
        if member.kind is Kind.DIRECTORY:
            tree.add_directory(path, member)
            continue
        if member.kind is Kind.SYMLINK:
            if not rules.skips_links:
                refuse(member.name, "a symbolic link (files and directories only)")
            continue
        file = tree.linked(member, limits) if member.kind is Kind.HARD_LINK else None
        size += member.size if file is None else file.size
        if size > largest:
            what = f"archive holds '{show(member.name)}', which brings its files to {size} bytes"
            raise LimitExceeded(what, largest, rules.size_field)
        if file is None:
            offset = stream.offset
            file = File(stream.digest(member.size), member.size, member.executable, content, offset)
        tree.add_file(path, member, file)
    stream.drain()
    return tree.finish()


def _path(member: Member, limits: Limits) -> str:
    """Where in the tree an entry belongs; the root is the empty path."""
    name = member.name
    if not name:
        raise InvalidArchive("archive holds an entry without a name")
    if name.startswith(b"/") or b"../" in name:
        refuse(name, "which leaves the root")
    if b"\\" in name:
        refuse(name, "which has a backslash")
    if b"/." in name or b"//" in name or name[0] == 0x2E or name[-1] == 0x2F:
        name = _clean(member)
    if name.count(b"/") > limits.depth:
        what = f"archive holds '{show(name)}', which is {name.count(b'/')} directories deep"
        raise LimitExceeded(what, limits.depth, "depth")
    return name.decode("utf-8", "surrogateescape")


def _clean(member: Member) -> bytes:
    parts = [part for part in member.name.split(b"/") if part not in (b"", b".")]
    is_file = member.kind in (Kind.FILE, Kind.HARD_LINK)
    if parts and parts[-1] == b"..":
        if is_file:
            refuse(member.name, "a file that is named like a directory")
        del parts[-2:]
    if is_file and not parts:
        refuse(member.name, "a file that is named like a directory")
    return b"/".join(parts)


_Entries = dict[str, "Entry | _Entries"]


class _Tree:
    """The tree of an archive while it is read: directories are plain dictionaries."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._root: _Entries = {}
        # Parents before children, so that the reverse can be finished one by one.
        self._made: list[tuple[_Entries, str, _Entries]] = []
        self._parent = ""
        self._here = self._root

    def add_directory(self, path: str, member: Member) -> _Entries:
        """A directory and those above it, made where they are not there yet."""
        here = self._root
        for name in path.split("/") if path else ():
            there = here.get(name)
            if there is None:
                if len(self._made) >= self._limits.entries:
                    limit = self._limits.entries
                    raise LimitExceeded(f"archive makes more than {limit} directories", limit, "entries")
                there = here[name] = {}
                self._made.append((here, name, there))
            elif not isinstance(there, dict):
                refuse(member.name, "which needs a directory where a file is")
            here = there
        return here

    def add_file(self, path: str, member: Member, file: File) -> None:
        parent, _, name = path.rpartition("/")
        if parent != self._parent:
            self._here = self.add_directory(parent, member)
            self._parent = parent
        there = self._here.get(name)
        if there is not None:
            if not isinstance(there, File):
                refuse(member.name, "a file where a directory is")
            if there.executable != file.executable:
                file = structs.replace(file, executable=there.executable)
        self._here[name] = file

    def linked(self, member: Member, limits: Limits) -> File | None:
        """The file before it that a hard link names, if there is one."""
        target = _path(Member(member.link, Kind.FILE, 0, False, b""), limits)
        here: Entry | _Entries | None = self._root
        for name in target.split("/"):
            here = here.get(name) if isinstance(here, dict) else None
        return here if isinstance(here, File) else None

    def finish(self) -> Directory:
        for parent, name, entries in reversed(self._made):
            parent[name] = _finished(entries)
        return _finished(self._root)


def _finished(entries: _Entries) -> Directory:
    return Directory.of_entries(cast(dict[str, Entry], entries))
