"""Where on disk a change of a source shows.

Trees are to be watched as a whole; points, such as a file or a link, are looked at one by one, and
need not be there. Of what Git keeps, little tells of a change: branches and tags, what is checked
out, and which files are tracked. The many files of its objects do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from sluice.core.errors import SourceError
from sluice.sources.directory import SKIPPED
from sluice.sources.git import is_remote, split_revision
from sluice.sources.git_command import Git
from sluice.sources.oci import is_layout
from sluice.sources.oci_registry import SCHEME

_GIT: Final = ".git"
_TELLING: Final = ("HEAD", "config", "index", "info/exclude", "packed-refs")
_REFS: Final = ("refs", "reftable")


class Places(Struct, frozen=True):
    """Where to watch for changes of a location."""

    trees: frozenset[Path] = frozenset()
    points: frozenset[Path] = frozenset()

    def concern(self, changed: Path) -> bool:
        """Whether a path that changed may be a change of the location."""
        return changed in self.points or any(_matters(changed, tree) for tree in self.trees)


def find_places(location: str) -> Places | None:
    """Where a location of `open_source` changes; None for one that is elsewhere and has to be asked."""
    path = Path(location)
    if location.startswith(SCHEME):
        return None
    if path.exists():
        return _existing(path)
    before = Path(split_revision(location)[0])
    if before != path and before.is_dir():
        return _repository(before)
    layout = Path(location.rpartition(":")[0])
    if layout != Path() and is_layout(layout):
        return _existing(layout)
    if is_remote(location):
        return None
    return Places(points=frozenset({path.absolute()}))


def _existing(path: Path) -> Places:
    # A link may be made to lead elsewhere; what it leads to may change as well.
    points = frozenset({path.absolute(), path.resolve()})
    if not path.is_dir():
        return Places(points=points)
    git = _repository(path)
    if git.trees and not (path / _GIT).exists():
        return Places(git.trees, git.points | points)  # a bare repository
    return Places(git.trees | {path.resolve()}, git.points | points)


def _repository(path: Path) -> Places:
    """Where branches, tags and the checkout of a repository change; nowhere for what is none."""
    points, trees = set(), set()
    for directory in set(_git_directories(path)):
        points |= {directory / name for name in _TELLING}
        trees |= {directory / name for name in _REFS if (directory / name).is_dir()}
    return Places(frozenset(trees), frozenset(points))


def _git_directories(path: Path) -> Iterator[Path]:
    """That of a checkout or repository, and the one that it shares with others."""
    if not any((path / name).exists() for name in (_GIT, "HEAD")):
        return
    git = Git(str(path)).at(str(path))
    try:
        top = git.ask("rev-parse", "--show-cdup")
        found = [git.ask("rev-parse", option) for option in ("--absolute-git-dir", "--git-common-dir")]
    except SourceError:
        return  # opening it tells
    if not top:
        yield from ((path / name).resolve() for name in found if name)


def _matters(changed: Path, tree: Path) -> bool:
    """Whether a change below a tree can be one of the source: not of what Git or we keep, unless it tells."""
    if not changed.is_relative_to(tree):
        return False
    parts = changed.relative_to(tree).parts
    inside = [number for number, name in enumerate(parts) if name in SKIPPED]
    if not inside:
        return True
    kept = parts[inside[0] + 1 :]
    return parts[inside[0]] == _GIT and (not kept or kept[0] in _REFS or "/".join(kept) in _TELLING)
