"""Read the tree of a commit.

Object by object and not with `git archive`, which leaves out and rewrites what `export-ignore` and
`export-subst` say. Submodules are left out.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from msgspec import Struct

from sluice.content import Descriptor, FileContent, cache_errors
from sluice.core.errors import Code, LimitExceeded, SourceError
from sluice.core.gzip import SLICE
from sluice.core.limits import Limits
from sluice.core.tree import Directory, Entry, File, Link, encode_name
from sluice.sources.git_command import Git

_LINK = "120000"
_EXECUTABLE = "100755"

Growing = dict[str, "Growing | Entry"]


class _Row(Struct, frozen=True, gc=False):
    mode: str
    blob: str
    path: str


class _Blob(Struct, frozen=True, gc=False):
    digest: bytes
    size: int
    offset: int


def read_commit(git: Git, commit: str, limits: Limits) -> Directory:
    """The tree of a commit, its blobs in one file without a name."""
    rows = list(_list_tree(git, commit, limits))
    with cache_errors(), tempfile.TemporaryFile() as out:
        blobs = _read_blobs(git, list(dict.fromkeys(row.blob for row in rows)), out, limits)
        out.flush()
        content = FileContent(Descriptor(os.dup(out.fileno())))
    root: Growing = {}
    for row in rows:
        blob = blobs[row.blob]
        if row.mode == _LINK:
            target = content.read(blob.offset, min(blob.size, limits.name_length))
            _put(git, root, row.path, Link(os.fsdecode(target)))
        else:
            file = File(blob.digest, blob.size, row.mode == _EXECUTABLE, content, blob.offset)
            _put(git, root, row.path, file)
    return _finish(root)


def _list_tree(git: Git, commit: str, limits: Limits) -> Iterator[_Row]:
    lines = os.fsdecode(git.run("ls-tree", "-r", "-z", "--full-tree", commit)).split("\0")
    if len(lines) > limits.entries:
        raise LimitExceeded(f"'{git.where}': too many entries", limits.entries, "entries")
    for line in lines:
        about, _, path = line.partition("\t")
        if len(encode_name(path)) > limits.name_length:
            raise LimitExceeded(f"'{git.where}': '{path}' is too long", limits.name_length, "name_length")
        if path.count("/") > limits.depth:
            raise LimitExceeded(f"'{git.where}': '{path}' is too deep", limits.depth, "depth")
        # A submodule is a commit and not a blob.
        if " blob " in about:
            mode, _, blob = about.split(" ")
            yield _Row(mode, blob, path)


def _read_blobs(git: Git, blobs: Sequence[str], out: IO[bytes], limits: Limits) -> Mapping[str, _Blob]:
    """Write blobs to `out` one after the other, and tell where they are."""
    found: dict[str, _Blob] = {}
    offset = 0
    with tempfile.TemporaryFile() as wanted:
        # A file and not a pipe: git would wait for us to read while we write.
        wanted.write("".join(f"{blob}\n" for blob in blobs).encode())
        wanted.seek(0)
        with git.stream(wanted, "cat-file", "--batch") as stream:
            for blob in blobs:
                name, kind, size = (stream.readline().decode().split() + [""] * 3)[:3]
                if name != blob or kind != "blob":
                    raise SourceError(f"'{git.where}': blob {blob} cannot be read", Code.FETCH)
                if offset + int(size) > limits.source_size:
                    raise LimitExceeded(f"'{git.where}': its files are too large", limits.source_size, "source_size")
                found[blob] = _Blob(_copy(git, stream, int(size), out), int(size), offset)
                offset += int(size)
    return found


def _copy(git: Git, stream: IO[bytes], size: int, out: IO[bytes]) -> bytes:
    digest = hashlib.sha256()
    while size:
        data = stream.read(min(size, SLICE))
        if not data:
            raise SourceError(f"'{git.where}': git ended early", Code.FETCH)
        digest.update(data)
        out.write(data)
        size -= len(data)
    stream.read(1)  # the line feed behind every blob
    return digest.digest()


def _put(git: Git, root: Growing, path: str, entry: Entry) -> None:
    names = path.split("/")
    here = root
    for name in names[:-1]:
        below = here.setdefault(name, {})
        # git checks trees where it makes them, not where it fetches them.
        if not isinstance(below, dict):
            raise _invalid(git, path)
        here = below
    if names[-1] in here or not {"", ".", ".."}.isdisjoint(names):
        raise _invalid(git, path)
    here[names[-1]] = entry


def _invalid(git: Git, path: str) -> SourceError:
    return SourceError(f"'{git.where}': '{path}' is not a valid path", Code.INVALID_ARCHIVE)


def _finish(root: Growing) -> Directory:
    return Directory.of_entries(
        {name: _finish(entry) if isinstance(entry, dict) else entry for name, entry in root.items()}
    )
