"""Archives, decompressed once and kept as long as there is room.

The bytes go to files without a name: removing a tree from the cache is forgetting it, whoever still
reads it goes on, the last one frees the space, and a process that is killed leaves nothing behind.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

from msgspec import Struct

from sluice.content import Descriptor, FileContent, cache_errors
from sluice.core.errors import BuildError, Code, SourceError
from sluice.core.gzip import SLICE
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.tar import HASHES
from sluice.core.tree import Directory, File
from sluice.core.untar import EXTRACT, SOURCE, Rules, unpack

MAX_TREES: Final = 128
"""Trees kept at a time, each of which holds a descriptor."""


def parse_digest(text: str) -> tuple[str, str]:
    """Algorithm and hexadecimal text of an archive's digest; a digest without algorithm is a sha256."""
    algorithm, colon, value = text.rpartition(":")
    algorithm = algorithm if colon else "sha256"
    length = len(HASHES[algorithm]().hexdigest()) if algorithm in HASHES else 0
    if not re.fullmatch(r"[0-9a-f]+", value) or len(value) != length:
        known = ", ".join(HASHES)
        raise SourceError(
            f"'{text}' is not a digest (one of {known}, a colon, lower-case digits)", Code.DIGEST_MISMATCH
        )
    return algorithm, value


class Unpacked(Struct, frozen=True, eq=False):
    """An archive's tree, the digest of its compressed and the size of its decompressed bytes."""

    tree: Directory
    digest: str
    size: int


class UnpackedCache:
    """Trees of archives by digest, the least recently used forgotten first.

    Promises: nothing is decompressed before its digest is right; nobody gets a tree of `open` who
    did not bring the bytes. Safe to use from any thread; two that bring the same new archive at
    the same time both do the work.
    """

    def __init__(self, directory: Path | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        """Keep the bytes below `directory`, or where temporary files go."""
        self._directory = directory
        self._limits = limits
        self._known: OrderedDict[tuple[str, str], Unpacked] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def open(self, chunks: Iterable[bytes], digest: str | None = None) -> Unpacked:
        """The tree of a source's archive, whose bytes must have the digest, if one is given.

        Raises `SourceError` for a wrong digest and for an archive that is broken or too large.
        """
        try:
            return self._open(chunks, digest, SOURCE)
        except BuildError as error:
            raise SourceError(str(error), error.code) from error

    def find(self, digest: str) -> Unpacked | None:
        """A source's archive, if it is here; for callers who know that its bytes came from where they should."""
        return self._find(SOURCE, digest)

    def forget(self, digest: str) -> None:
        """Let a source's archive go; whoever still reads it goes on."""
        with self._lock:
            gone = self._known.pop((SOURCE.size_field, digest), None)
            self._size -= gone.size if gone is not None else 0

    def unpack(self, file: File) -> Directory:
        """The tree of an archive inside a source, found by the digest of the file.

        Raises `BuildError` for one that is broken or too large.
        """
        digest = f"sha256:{file.digest.hex()}"
        known = self._find(EXTRACT, digest) or self._open(_slices(file), digest, EXTRACT)
        return known.tree

    def _open(self, chunks: Iterable[bytes], digest: str | None, rules: Rules) -> Unpacked:
        with self._temporary() as packed:
            found = self._verify(chunks, packed, digest)
            return self._find(rules, found) or self._keep(rules, self._unpack(packed, found, rules))

    def _verify(self, chunks: Iterable[bytes], out: IO[bytes], digest: str | None) -> str:
        """Write the chunks to `out` and return their digest."""
        algorithm, expected = parse_digest(digest) if digest is not None else ("sha256", None)
        hasher = HASHES[algorithm]()
        size = 0
        for chunk in chunks:
            size += len(chunk)
            if size > self._limits.download_size:
                limit = self._limits.download_size
                raise SourceError(f"archive is larger than {limit} bytes (limit: {limit}, download_size)", Code.LIMIT)
            hasher.update(chunk)
            with cache_errors():
                out.write(chunk)
        value = hasher.hexdigest()
        if expected not in (None, value):
            raise SourceError(
                f"digest mismatch: expected {algorithm}:{expected}, got {algorithm}:{value}", Code.DIGEST_MISMATCH
            )
        return f"{algorithm}:{value}"

    def _unpack(self, packed: IO[bytes], digest: str, rules: Rules) -> Unpacked:
        with self._temporary() as out, cache_errors():
            packed.seek(0)
            content = FileContent(Descriptor(os.dup(out.fileno())))
            tree = unpack(iter(lambda: packed.read(SLICE), b""), out, content, rules, self._limits)
            out.flush()
            return Unpacked(tree, digest, out.tell())

    def _temporary(self) -> IO[bytes]:
        with cache_errors():
            return tempfile.TemporaryFile(dir=self._directory)

    def _find(self, rules: Rules, digest: str) -> Unpacked | None:
        with self._lock:
            known = self._known.get((rules.size_field, digest))
            if known is not None:
                self._known.move_to_end((rules.size_field, digest))
            return known

    def _keep(self, rules: Rules, new: Unpacked) -> Unpacked:
        """Keep a tree, and forget others where it needs the room."""
        with self._lock:
            known = self._known.setdefault((rules.size_field, new.digest), new)
            if known is new:
                self._size += new.size
            while self._size > self._limits.cache_size or len(self._known) > MAX_TREES:
                _, gone = self._known.popitem(last=False)
                self._size -= gone.size
            return known


def _slices(file: File) -> Iterator[bytes]:
    for at in range(0, file.size, SLICE):
        yield File(b"", min(SLICE, file.size - at), False, file.content, file.offset + at).read()
