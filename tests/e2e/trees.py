"""Files as archives and digests, made and read without the project's own code."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping
from typing import TypeAlias

Tree: TypeAlias = Mapping[str, bytes]
"""The contents of files by path."""


def tarball(tree: Tree) -> bytes:
    """An archive as source-controller makes them: equal trees give equal bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in sorted(tree.items()):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(out.getvalue(), mtime=0)


def files_of(archive: bytes) -> dict[str, bytes]:
    """The files in an archive; raises for anything but files and directories."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        for member in opened:
            content = opened.extractfile(member)
            if content is not None:
                found[member.name.removeprefix("./")] = content.read()
            elif not member.isdir():
                raise ValueError(f"{member.name} is neither a file nor a directory")
    return found


def below(tree: Tree, directory: str) -> dict[str, bytes]:
    """What a directory of a tree holds."""
    prefix = f"{directory}/"
    return {path.removeprefix(prefix): content for path, content in tree.items() if path.startswith(prefix)}


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def contents_digest(tree: Tree) -> str:
    """The digest of a tree of plain files: that of ``<mode> <digest> <name>\\0`` for each of its entries."""
    names = sorted({path.partition("/")[0] for path in tree}, key=str.encode)
    entries = hashlib.sha256()
    for name in names:
        if name in tree:
            line = f"- {hashlib.sha256(tree[name]).hexdigest()} {name}\0"
        else:
            line = f"d {contents_digest(below(tree, name))} {name}\0"
        entries.update(line.encode())
    return entries.hexdigest()
