"""Open sources that are at hand: directories, archives, OCI layouts, commits and checkouts.

A location says what it is: the first row of `FORMS` that knows it opens it. What comes back is what
source-controller would have archived for a source of the kind, so that a build on a laptop makes
what the cluster makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from sluice.core.errors import BuildError, Code, SourceError
from sluice.core.ignore import filter_source
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.plan import Source
from sluice.sources.archive import Cache, open_archive
from sluice.sources.directory import Digests, scan_directory
from sluice.sources.git import (
    Checkout,
    find_checkout,
    is_remote,
    open_commit,
    open_git,
    open_worktree,
    same_repository,
    split_revision,
)
from sluice.sources.git_command import redact
from sluice.sources.oci import is_layout, open_layout
from sluice.sources.oci_registry import SCHEME, open_registry
from sluice.sources.places import Places, find_places

__all__ = [
    "Cache",
    "Checkout",
    "Found",
    "Memory",
    "Places",
    "filter_source",
    "find_checkout",
    "find_places",
    "open_archive",
    "open_commit",
    "open_git",
    "open_layout",
    "open_registry",
    "open_source",
    "open_worktree",
    "redact",
    "same_repository",
    "scan_directory",
]

ARCHIVES = (".tar.gz", ".tgz")


class Found(Struct, frozen=True):
    """Where a source is, as far as a source object and the user tell; see `open_source`."""

    location: str
    ignore: str | None = None
    layer: str | None = None
    revision: str | None = None


class Memory:
    """What need not be done again when a location is opened again; for one location, and one at a time."""

    def __init__(self) -> None:
        self.digests = Digests()
        self.commit: Source | None = None


class Request(Struct, frozen=True):
    """What to open: the location as it was given, and how."""

    location: str
    kind: str
    cache: Cache
    limits: Limits
    layer: str | None
    memory: Memory

    @property
    def path(self) -> Path:
        return Path(self.location)


def open_source(
    location: str,
    *,
    kind: str,
    cache: Cache,
    ignore: str | None = None,
    layer: str | None = None,
    revision: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    memory: Memory | None = None,
) -> Source:
    """The source at a location, for a source object of this kind.

    `ignore` is its ``spec.ignore``, `layer` the media type of its ``spec.layerSelector``; `revision`
    takes the place of what the location says of itself; what `memory` has from before and did not
    change is not read again. Raises `SourceError` for everything that
    is wrong with the location or what it holds.
    """
    request = Request(location, kind, cache, limits, layer, memory or Memory())
    try:
        source = next(opened for form in FORMS if (opened := form(request)) is not None)
        tree = filter_source(source.tree, kind, ignore)
    except BuildError as error:
        raise SourceError(str(error), error.code) from error
    return replace(source, tree=tree, revision=revision or source.revision)


def _registry(request: Request) -> Source | None:
    if not request.location.startswith(SCHEME):
        return None
    return open_registry(request.location, request.cache, layer=request.layer)


def _archive(request: Request) -> Source | None:
    if not request.path.is_file() or not request.location.lower().endswith(ARCHIVES):
        return None
    return open_archive(request.path, request.cache)


def _layout(request: Request) -> Source | None:
    if is_layout(request.path):
        return open_layout(request.path, None, request.cache, layer=request.layer)
    directory, _, tag = request.location.rpartition(":")
    if request.path.exists() or not directory or not is_layout(Path(directory)):
        return None
    return open_layout(Path(directory), tag, request.cache, layer=request.layer)


def _directory(request: Request) -> Source | None:
    if not request.path.is_dir() or _is_bare(request.path):
        return None
    if request.kind == "GitRepository" and (request.path / ".git").exists() and find_checkout(request.path):
        return open_worktree(request.path, request.limits, digests=request.memory.digests)
    tree = scan_directory(request.path, request.limits, digests=request.memory.digests)
    return Source(tree, f"latest@sha256:{tree.digest.hex()}")


def _local_repository(request: Request) -> Source | None:
    path, revision = (request.location, None) if request.path.exists() else split_revision(request.location)
    if not Path(path).is_dir() or not (_is_bare(Path(path)) or revision is not None):
        return None
    request.memory.commit = open_commit(Path(path), revision, request.limits, known=request.memory.commit)
    return request.memory.commit


def _remote_repository(request: Request) -> Source | None:
    if request.path.exists() or not is_remote(request.location):
        return None
    url, revision = split_revision(request.location)
    request.memory.commit = open_git(url, revision, limits=request.limits, known=request.memory.commit)
    return request.memory.commit


def _unknown(request: Request) -> Source | None:
    what = "is not" if request.path.exists() else "does not exist and is not"
    raise SourceError(
        f"'{redact(request.location)}' {what} a directory, .tar.gz, OCI layout or git repository", Code.NOT_FOUND
    )


def _is_bare(path: Path) -> bool:
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()


FORMS: Sequence[Callable[[Request], Source | None]] = (
    _registry,
    _archive,
    _layout,
    _directory,
    _local_repository,
    _remote_repository,
    _unknown,
)
"""Each opens a location of its form, or passes it on; the last refuses."""
