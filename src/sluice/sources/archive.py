"""Open archives that are files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from sluice.content import describe
from sluice.core.errors import Code, SourceError
from sluice.core.gzip import SLICE
from sluice.core.plan import Source
from sluice.core.tree import Directory


class Unpacked(Protocol):
    """What a cache makes of an archive."""

    @property
    def tree(self) -> Directory: ...
    @property
    def digest(self) -> str: ...


class Cache(Protocol):
    """Verifies and unpacks archives."""

    def open(self, chunks: Iterator[bytes], digest: str | None = None) -> Unpacked: ...


def open_archive(path: Path, cache: Cache) -> Source:
    """A .tar.gz file; the revision is ``latest@<digest of the file>``, as that of an ExternalArtifact."""
    unpacked = unpack_file(path, str(path), cache)
    return Source(unpacked.tree, f"latest@{unpacked.digest}", unpacked.digest)


def unpack_file(file: Path, where: str, cache: Cache, digest: str | None = None) -> Unpacked:
    """A file's archive; messages are about `where`."""
    try:
        return cache.open(_slices(file), digest)
    except OSError as error:
        raise SourceError(f"'{where}': {describe(error)}", Code.NOT_FOUND) from error
    except SourceError as error:
        raise SourceError(f"'{where}': {error}", error.code) from error


def _slices(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(SLICE):
            yield data
