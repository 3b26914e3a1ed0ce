"""Write trees as reproducible archives.

Equal trees give equal bytes: sorted walk, epoch times, no owner, three modes, USTAR with PAX records
only where a path or size needs them, two zero blocks. The compressor sees slices whose bounds depend
on the tree alone, as its output depends on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Protocol
from zlib import adler32

from blake3 import blake3
from isal import isal_zlib
from msgspec import Struct

from sluice.core.gzip import SLICE
from sluice.core.tar_entries import BLOCK, ZEROS
from sluice.core.tree import Directory, File, Link, encode_name

_MAX_OCTAL = 8**11 - 1


class Archive(Struct, frozen=True):
    """What was written: its size in bytes, and the hex digests of these bytes by algorithm."""

    size: int
    digests: Mapping[str, str]


class Hash(Protocol):
    """A digest being computed."""

    def update(self, data: bytes, /) -> object: ...

    def hexdigest(self) -> str: ...


HASHES: Mapping[str, Callable[[], Hash]] = {
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
    "blake3": blake3,
}


def write_archive(tree: Directory, out: IO[bytes], algorithms: Sequence[str] = ("sha256",)) -> Archive:
    """Write a tree as a gzipped tar, digesting on the way; equal trees give equal bytes.

    The same bytes need the same compressor, so what names contents should not be one of these
    digests. `algorithms` are keys of `HASHES`.
    """
    hashes = {algorithm: HASHES[algorithm]() for algorithm in algorithms}
    compressor = isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)
    size = 0

    def write(data: bytes) -> int:
        if data:
            out.write(data)
            for digest in hashes.values():
                digest.update(data)
        return len(data)

    for data in tar_stream(tree):
        size += write(compressor.compress(data))
    size += write(compressor.flush())
    return Archive(size, {algorithm: digest.hexdigest() for algorithm, digest in hashes.items()})


def tar_stream(tree: Directory) -> Iterator[bytes]:
    """The tar stream of a tree without links, in slices of about `SLICE` bytes.

    Raises `StorageError` where a content is shorter than its file says.
    """
    parts: list[bytes] = []
    pending = 0
    for part in _parts(tree):
        parts.append(part)
        pending += len(part)
        if pending >= SLICE:
            yield b"".join(parts)
            parts.clear()
            pending = 0
    yield b"".join(parts)


def _parts(tree: Directory) -> Iterator[bytes]:
    yield _header(b".", _AS_DIRECTORY, 0)
    for path, entry in tree.walk():
        assert not isinstance(entry, Link)
        name = encode_name(path)
        if isinstance(entry, Directory):
            yield _header(name, _AS_DIRECTORY, 0)
        else:
            yield _header(name, _AS_EXECUTABLE if entry.executable else _AS_FILE, entry.size)
            yield from _body(entry)
            yield ZEROS[: -entry.size % BLOCK]
    yield ZEROS * 2


def _body(file: File) -> Iterator[bytes]:
    if file.size <= SLICE:
        yield file.read()
        return
    for at in range(0, file.size, SLICE):
        size = min(SLICE, file.size - at)
        yield File(b"", size, False, file.content, file.offset + at).read()


class _Row(Struct, frozen=True):
    """What headers of one type have in common: all but name, size and prefix.

    `before` precedes the size, `after` the prefix; `total` is what they add to the checksum.
    """

    before: bytes
    after: bytes
    total: int

    @classmethod
    def of(cls, mode: bytes, flag: bytes, devices: bytes) -> _Row:
        before = mode + b"0000000\0" * 2
        after = flag + bytes(100) + b"ustar\x0000" + bytes(64) + devices
        return cls(before, after, sum(after) + 8 * 0x20)


_DEVICES = b"0000000\0" * 2
_AS_FILE = _Row.of(b"0000600\0", b"0", _DEVICES)
_AS_EXECUTABLE = _Row.of(b"0000700\0", b"0", _DEVICES)
_AS_DIRECTORY = _Row.of(b"0000750\0", b"5", _DEVICES)
_AS_RECORDS = _Row.of(b"0000000\0", b"x", bytes(16))


def _header(path: bytes, row: _Row, size: int) -> bytes:
    """All that stands before a body."""
    if size <= _MAX_OCTAL and path.isascii():
        if len(path) <= 100:
            return _block(path, b"", row, size)
        if split := _split(path):
            return _block(split[1], split[0], row, size)
    records = b"" if path.isascii() and len(path) <= 100 else _record(b"path", path)
    if size > _MAX_OCTAL:
        records += _record(b"size", b"%d" % size)
        size = 0
    name = _to_ascii(path)
    if len(name) > 100 and name[99:100] == b"/":
        # A cut name must not look like a directory.
        end = len(name[:99].rstrip(b"/"))
        name = name[:end] + b"\0" + name[end + 1 :]
    directory, _, last = path.rpartition(b"/")
    records_name = b"PaxHeaders.0/" + last
    if directory:
        records_name = directory + b"/" + records_name
    return (
        _block(_to_ascii(records_name)[:100].rstrip(b"/"), b"", _AS_RECORDS, len(records))
        + records
        + ZEROS[: -len(records) % BLOCK]
        + _block(name[:100], b"", row, size)
    )


def _block(name: bytes, prefix: bytes, row: _Row, size: int) -> bytes:
    head = b"%b%b%011o\x0000000000000\x00" % (name.ljust(100, b"\0"), row.before, size)
    total = (adler32(head) & 0xFFFF) + (adler32(prefix) & 0xFFFF) - 2 + row.total
    return b"%b%06o\x00 %b%b" % (head, total, row.after, prefix.ljust(167, b"\0"))


def _split(path: bytes) -> tuple[bytes, bytes] | None:
    """The two fields in which USTAR keeps a long name, if it fits."""
    prefix, _, name = path[:156].rpartition(b"/")
    name = path[len(prefix) + 1 :]
    return (prefix, name) if prefix and 0 < len(name) <= 100 else None


def _record(key: bytes, value: bytes) -> bytes:
    """A PAX record, whose length counts its own digits."""
    size = len(key) + len(value) + 3
    length = size + len(str(size))
    length = size + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _to_ascii(name: bytes) -> bytes:
    return name.decode("ascii", "ignore").encode()
