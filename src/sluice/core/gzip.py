"""Decompress gzip from strangers: bounded in memory, in size and in ratio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from isal import igzip_lib

from sluice.core.errors import BuildError, Code, LimitExceeded
from sluice.core.limits import KIB, Limits

SLICE = 256 * KIB
"""What is read, decompressed, compressed and written at a time."""

_PIECE = 64 * KIB


class InvalidArchive(BuildError):
    """An archive is broken, or holds what is refused."""

    def __init__(self, text: str) -> None:
        super().__init__(text, Code.INVALID_ARCHIVE)


def inflate(chunks: Iterable[bytes], limits: Limits, *, size: int, field: str) -> Iterator[bytes]:
    """Decompress gzip, in slices; `size` bounds the result, `field` names the limit it comes from.

    Concatenated members are one stream. Anything else after a member is refused, padding included,
    and so is a member that is cut or whose checksum or length is wrong. A slice is handed out
    before the checksum is known: what was made of it counts only when the last one came.
    """
    given = taken = members = 0
    member = _GzipMember()
    for piece in _pieces(chunks):
        given += len(piece)
        rest = piece
        while rest:
            for data in member.feed(rest, first=not members):
                taken += len(data)
                if taken > size:
                    raise LimitExceeded(
                        f"archive decompresses to more than {size} bytes", getattr(limits, field), field
                    )
                if taken > limits.ratio_threshold and taken > given * limits.ratio:
                    raise LimitExceeded(f"archive of {given} bytes decompresses to {taken}", limits.ratio, "ratio")
                yield data
            rest = member.rest
            if member.done:
                member = _GzipMember()
                members += 1
                if members > limits.entries:
                    raise LimitExceeded("archive has too many gzip members", limits.entries, "entries")
    if not given:
        raise InvalidArchive("archive is empty (gzip is needed)")
    if member.begun:
        raise InvalidArchive("archive ends before its gzip stream does")


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    # Each end of a member copies what is left of its piece, so pieces are small.
    for chunk in chunks:
        for at in range(0, len(chunk), 64 * KIB):
            yield chunk[at : at + 64 * KIB]


class _GzipMember:
    """One gzip member on its way through the decompressor."""

    __slots__ = ("_decoder", "_magic", "rest")

    def __init__(self) -> None:
        self._decoder = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
        self._magic = b""
        self.rest = b""

    @property
    def begun(self) -> bool:
        return bool(self._magic)

    @property
    def done(self) -> bool:
        eof: bool = self._decoder.eof
        return eof

    def feed(self, data: bytes, *, first: bool) -> Iterator[bytes]:
        """What `data` decompresses to; bytes of the next member are in `rest` afterwards."""
        if len(self._magic) < 2:
            self._magic += data[: 2 - len(self._magic)]
            if not b"\x1f\x8b".startswith(self._magic):
                raise InvalidArchive(
                    "archive is not gzip" if first else "archive has other bytes after its gzip stream"
                )
        decoder = self._decoder
        try:
            while True:
                if piece := decoder.decompress(data, SLICE):
                    yield piece
                if decoder.eof or decoder.needs_input:
                    break
                data = b""
        except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub declares an instance
            raise InvalidArchive(f"archive is damaged: gzip: {str(error).split(' ', 2)[-1].lower()}") from error
        self.rest = decoder.unused_data
