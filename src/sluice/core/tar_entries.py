"""The entries of a tar stream, as Go's ``archive/tar`` sees them.

Readers of tar disagree about odd archives, and what one of them overlooks can be hidden in an
archive that another accepted. Flux's controllers are written in Go, so its reading is right here,
and what it reads differently from most is refused. That names the cases below that look arbitrary:
which of several extended headers counts, what ends an archive, which entries have a body.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import NoReturn
from zlib import adler32

from msgspec import Struct

from sluice.core.errors import LimitExceeded
from sluice.core.gzip import InvalidArchive
from sluice.core.limits import MIB, Limits

MAX_EXTENSION = MIB
"""A PAX or GNU extended header, in bytes; the limit of Go."""

BLOCK = 512
ZEROS = bytes(BLOCK)
_MAX_INT = 2**63 - 1


class Stream:
    """A tar stream, taken piece by piece whatever its chunks are."""

    __slots__ = ("_at", "_chunk", "_chunks", "_view", "offset")

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = b""
        self._view = memoryview(b"")
        self._at = 0
        self.offset = 0

    def _next(self) -> bool:
        self._chunk = next(self._chunks, b"")
        while not self._chunk:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._chunk = chunk
        self._view = memoryview(self._chunk)
        self._at = 0
        return True

    def take(self, size: int) -> bytes:
        """The next bytes; fewer only at the end."""
        piece = self._chunk[self._at : self._at + size]
        self._at += len(piece)
        self.offset += len(piece)
        while len(piece) < size and self._next():
            more = self._chunk[: size - len(piece)]
            self._at = len(more)
            self.offset += len(more)
            piece += more
        return piece

    def digest(self, size: int) -> bytes:
        """The sha256 of the next `size` bytes."""
        at, end = self._at, self._at + size
        if end <= len(self._chunk):
            self._at = end
            self.offset += size
            return hashlib.sha256(self._view[at:end]).digest()
        digest = hashlib.sha256()
        while size:
            piece = self._view[self._at : self._at + size]
            digest.update(piece)
            self._at += len(piece)
            self.offset += len(piece)
            size -= len(piece)
            if size and not self._next():
                raise InvalidArchive(f"archive is cut: it ends at byte {self.offset}, inside a file")
        return digest.digest()

    def align(self) -> None:
        """Pass the padding after a body. An archive may end in it: nothing of the body is missing."""
        self.take(-self.offset % BLOCK)

    def header(self) -> bytes | None:
        """The next header block, its checksum right; None at the end of the archive.

        The end is two zero blocks, or the end of the stream where a header would begin.
        """
        header = self.take(BLOCK)
        if header == ZEROS:
            header = self.take(BLOCK)
            if header == ZEROS:
                return None
            if len(header) == BLOCK:
                raise InvalidArchive(f"archive is damaged: one zero block alone before byte {self.offset - BLOCK}")
        if not header:
            return None
        if len(header) < BLOCK:
            raise InvalidArchive(f"archive is cut: it ends at byte {self.offset}, inside a block")
        if not _checksum_is_right(header):
            raise InvalidArchive(f"archive is damaged: wrong checksum of the header at byte {self.offset - BLOCK}")
        return header

    def extension(self, size: int) -> bytes:
        """The body of an extended header."""
        if size > MAX_EXTENSION:
            raise InvalidArchive(f"archive holds an extended header of {size} bytes (at most {MAX_EXTENSION})")
        body = self.take(size)
        if len(body) < size:
            raise InvalidArchive(f"archive is cut: it ends at byte {self.offset}, inside an extended header")
        self.align()
        return body

    def drain(self) -> None:
        for _ in self._chunks:
            pass


class Kind(Enum):
    """What an entry is."""

    FILE = "file"
    HARD_LINK = "hard link"
    SYMLINK = "symbolic link"
    DIRECTORY = "directory"


# Typeflag: what it is, and the file type bits that its mode may have. Go trusts those bits more.
_KINDS = {
    b"0": (Kind.FILE, 0o100000),
    b"\0": (Kind.FILE, 0o100000),
    b"7": (Kind.FILE, 0o100000),
    b"1": (Kind.HARD_LINK, 0o100000),
    b"2": (Kind.SYMLINK, 0o120000),
    b"5": (Kind.DIRECTORY, 0o040000),
}
_REFUSED_KINDS = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a sparse file",
    b"M": "a part of a multi-volume archive",
    b"V": "a volume label",
}


class Member(Struct, gc=False, eq=False):
    """An entry of an archive: its last header, corrected by the extended ones."""

    name: bytes
    kind: Kind
    size: int
    executable: bool
    link: bytes


_EXTENSIONS = frozenset((b"x", b"g", b"L", b"K"))


def read_members(stream: Stream, limits: Limits) -> Iterator[Member]:
    """The entries in order; whoever takes one takes its body from the stream before the next."""
    extended = _Extended()
    names = 0
    while header := stream.header():
        flag = header[156:157]
        size = _number(header[124:136])
        if size < 0:
            raise InvalidArchive(f"archive is damaged: negative size in the header at byte {stream.offset - BLOCK}")
        member = None
        if flag in _EXTENSIONS:
            body = stream.extension(size)
            names += len(body)
            extended.add(flag, body)
        else:
            member = extended.member(header, flag, size)
            names += len(member.name)
            if len(member.name) > limits.name_length:
                what = f"archive holds '{show(member.name)}', a name of {len(member.name)} bytes"
                raise LimitExceeded(what, limits.name_length, "name_length")
        if names > limits.names_size:
            what = f"names and extended headers of the archive take more than {limits.names_size} bytes"
            raise LimitExceeded(what, limits.names_size, "names_size")
        if member is not None:
            yield member
            stream.align()
            extended.clear()
    if extended:
        raise InvalidArchive("archive ends after an extended header")


class _Extended:
    """What extended headers say of the entry that follows them."""

    __slots__ = ("_long", "_records")

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] = {}
        self._long: dict[bytes, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._records or self._long)

    def clear(self) -> None:
        if self:
            self._records = {}
            self._long = {}

    def add(self, flag: bytes, body: bytes) -> None:
        if flag in b"LK":
            self._long[flag] = body.partition(b"\0")[0]
            return
        self._records = _parse_records(body)
        if flag == b"g":
            # Means nothing to Go, except that it separates an entry from headers before it.
            self.clear()

    def member(self, header: bytes, flag: bytes, size: int) -> Member:
        """The entry of a header, corrected; a GNU long name wins over a PAX path."""
        records = self._records
        name = self._long.get(b"L") or records.get(b"path") or _plain_name(header)
        if flag == b"\0" and name.endswith(b"/"):
            flag = b"5"
        kind, type_bits = _KINDS.get(flag, (None, 0))
        if kind is None:
            what = _REFUSED_KINDS.get(flag, f"of the unknown type '{show(flag)}'")
            refuse(name, f"{what} (files and directories only)")
        mode = _number(header[100:108])
        if mode & 0o170000 not in (0, type_bits):
            refuse(name, f"whose mode {mode:o} is of another type of entry")
        if (header[108:148] + header[329:345]).translate(None, b"01234567 \0"):
            _check_numbers(header)
        if records:
            size = _corrected_size(name, records, size)
        if kind is not Kind.FILE:
            size = 0
        link = b""
        if kind is Kind.HARD_LINK:
            link = self._long.get(b"K") or records.get(b"linkpath") or header[157:257].partition(b"\0")[0]
        return Member(name, kind, size, bool(mode & 0o111), link)


def _plain_name(header: bytes) -> bytes:
    """The name of a header itself; where a prefix may stand depends on the format."""
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0":
        end = 476 if header[508:] == b"tar\0" else 500
        if prefix := header[345:end].partition(b"\0")[0]:
            return prefix + b"/" + name
    elif header[257:265] == b"ustar  \0" and (header[345] or header[357]):
        # Old GNU: two times are here, and no prefix. Very old writers disagree; refuse those.
        _number(header[345:357])
        _number(header[357:369])
    return name


_RECORD_VALUES = {
    b"size": re.compile(rb"[0-9]{0,19}"),
    b"uid": re.compile(rb"([+-]?[0-9]+)?"),
    b"gid": re.compile(rb"([+-]?[0-9]+)?"),
    b"path": re.compile(rb"[^\0]*"),
    b"linkpath": re.compile(rb"[^\0]*"),
    **dict.fromkeys((b"mtime", b"atime", b"ctime"), re.compile(rb"([+-]?[0-9]+(\.[0-9]*)?)?")),
}
# What changes an entry; the rest is checked and forgotten, so that records take no memory.
_RECORDS = frozenset((b"path", b"linkpath", b"size"))
_SPARSE = b"GNU.sparse."
_RECORD_LENGTH = re.compile(rb"([0-9]{1,7}) ")


def _parse_records(body: bytes) -> dict[bytes, bytes]:
    r"""What the records of a PAX header change: ``<length> <key>=<value>\n``, the length that of it all."""
    records = {}
    at = 0
    while at < len(body):
        length = _RECORD_LENGTH.match(body, at)
        end = at + int(length[1]) if length else 0
        start = length.end() if length else 0
        key, equals, value = body[start : end - 1].partition(b"=")
        if end <= start or body[end - 1 : end] != b"\n" or not key or not equals or b"\0" in key:
            raise InvalidArchive("archive is damaged: malformed PAX header")
        if (form := _RECORD_VALUES.get(key)) and not form.fullmatch(value):
            raise InvalidArchive(f"archive is damaged: PAX header with {key.decode()} '{show(value)}'")
        if key in _RECORDS:
            records[key] = value
        elif key.startswith(_SPARSE):
            records[_SPARSE] = value
        at = end
    return records


def _corrected_size(name: bytes, records: Mapping[bytes, bytes], size: int) -> int:
    if _SPARSE in records:
        refuse(name, "a sparse file (files and directories only)")
    size = int(records.get(b"size") or size)
    if size > _MAX_INT:
        refuse(name, f"of the impossible size {size}")
    return size


def _checksum_is_right(header: bytes) -> bool:
    # Half a header sums to less than Adler-32's modulus, so its low half is the sum plus one.
    total = (adler32(header[:256]) & 0xFFFF) + (adler32(header[256:]) & 0xFFFF) - 2
    total += 8 * 0x20 - (adler32(header[148:156]) & 0xFFFF) + 1
    stored = _octal(header[148:156])
    if stored == total:
        return True
    # Some old writers add up signed bytes.
    return stored == total - 256 * sum(byte > 0x7F for byte in header[:148] + header[156:])


def _octal(field: bytes) -> int | None:
    """The number of a header field, padded with blanks or NULs; None where there is none."""
    digits = field.strip(b" \0").partition(b"\0")[0]
    if digits.strip(b"01234567"):
        return None
    return int(digits, 8) if digits else 0


def _number(field: bytes) -> int:
    """The number of a header field: octal, or base 256 where the first bit is set."""
    number = _octal(field)
    if number is None and field[0] & 0x80:
        # The bit after the mark is the sign.
        negative = field[0] & 0x40
        number = int.from_bytes(field if negative else bytes((field[0] & 0x7F,)) + field[1:], "big", signed=True)
        if not -_MAX_INT <= number <= _MAX_INT:
            number = None
    if number is None:
        raise InvalidArchive(f"archive is damaged: a header has '{show(field)}' where a number is needed")
    return number


def _check_numbers(header: bytes) -> None:
    """Refuse a header whose other numbers Go would not read."""
    fields = [header[108:116], header[116:124], header[136:148]]
    if header[257:262] == b"ustar":
        fields += [header[329:337], header[337:345]]
    for field in fields:
        _number(field)


def refuse(name: bytes, what: str) -> NoReturn:
    """Say that an archive holds what it may not."""
    raise InvalidArchive(f"archive holds '{show(name)}', {what}")


def show(name: bytes) -> str:
    """A name for one line of an error."""
    text = name[:256].decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = text.encode("unicode_escape").decode("ascii")
    return text if len(name) <= 256 else f"{text}…"
