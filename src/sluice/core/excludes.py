"""What the excludes of a copy take away, asked directory by directory.

A pattern is compared with the path from the source's root, with the path from the directory that
the copy selects from, and, where it has no slash, with the bare name. All patterns of a list go
down the tree as one automaton, so that a long list costs what a short one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from msgspec import Struct

from sluice.core.automaton import State
from sluice.core.dialect import Exclude
from sluice.core.limits import Limits
from sluice.core.pattern import Glob, Grammar, compile_globs
from sluice.core.tree import Directory, Entry

_WIDTH = 1 << 17
"""Positions in one automaton, at most: its states are as wide, and it remembers only so many bytes of them."""


class _Group(Struct, frozen=True, eq=False):
    """Patterns that are compared with the same entries."""

    glob: Glob
    directories_only: bool


class Excludes(Struct, frozen=True, eq=False):
    """The excludes at one directory: how far its path has brought them, and what bare names are compared with."""

    paths: tuple[tuple[_Group, State], ...]
    names: tuple[_Group, ...]

    @property
    def idle(self) -> bool:
        """Whether nothing below can be excluded."""
        return not self.paths and not self.names

    def has(self, name: str, entry: Entry) -> bool:
        """Whether the entry `name` of this directory is excluded."""
        directory = isinstance(entry, Directory)
        for group, state in self.paths:
            if (directory or not group.directories_only) and group.glob.accepts(group.glob.step(state, name)):
                return True
        return any((directory or not group.directories_only) and group.glob.matches(name) for group in self.names)

    def enter(self, path: str) -> Excludes:
        """The excludes at a directory below; those that cannot match there any more are gone."""
        here = self.paths
        for name in path.split("/") if path else ():
            stepped = [(group, group.glob.step(state, name)) for group, state in here]
            here = tuple((group, state) for group, state in stepped if not group.glob.is_dead(state))
        return self if here is self.paths else Excludes(here, self.names)


def excludes_of(
    excludes: tuple[Exclude, ...], base: str, grammar: Grammar, limits: Limits
) -> Callable[[str], Excludes]:
    """The excludes of a copy that selects from `base`, for any directory of its source.

    Whether a directory is excluded itself, or one above it, is not asked.
    """
    start = _compiled(excludes, grammar, limits)

    # Matches of one directory come one after the other.
    @lru_cache(maxsize=64)
    def at(directory: str) -> Excludes:
        here = start.enter(directory)
        if not base or not f"{directory}/".startswith(f"{base}/"):
            return here
        return Excludes((*here.paths, *start.enter(directory[len(base) + 1 :]).paths), here.names)

    return at


# Many artifacts have the same excludes, and what an automaton remembers serves all of them.
@lru_cache(maxsize=16)
def _compiled(excludes: tuple[Exclude, ...], grammar: Grammar, limits: Limits) -> Excludes:
    """The excludes at the root."""
    paths: list[tuple[_Group, State]] = []
    names: list[_Group] = []
    for directories_only in (False, True):
        alike = [exclude for exclude in excludes if exclude.directories_only == directories_only]
        for texts in _batches([exclude.text for exclude in alike], limits):
            group = _Group(compile_globs(texts, grammar, limits), directories_only)
            paths.append((group, group.glob.start))
        anywhere = _batches([exclude.text for exclude in alike if exclude.anywhere], limits)
        names += [_Group(compile_globs(texts, grammar, limits), directories_only) for texts in anywhere]
    return Excludes(tuple(paths), tuple(names))


def _batches(texts: Sequence[str], limits: Limits) -> Iterator[list[str]]:
    """Texts for one automaton each."""
    batch: list[str] = []
    width = 0
    for text in texts:
        most = len(text) * (limits.pattern_alternatives if "{" in text else 1)
        if batch and width + most > _WIDTH:
            yield batch
            batch, width = [], 0
        batch.append(text)
        width += most
    if batch:
        yield batch
