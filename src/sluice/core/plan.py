"""What is to be built, decided before anything is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import TypeVar

import msgspec
from msgspec import Struct

from sluice.core.dialect import Dialect, Exclude, Selection
from sluice.core.errors import Code, Problem, SpecError, quote
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.pathpattern import Failure, Rendered, expand_path_pattern, parse_path_pattern
from sluice.core.spec import ArtifactGenerator, ArtifactSpec, CopySpec, Strategy, unknown_alias
from sluice.core.tree import Directory

MAX_EXCLUDES = 100
MAX_TEXT = 1024

T = TypeVar("T")


class Source(Struct, frozen=True, eq=False):
    """An opened source.

    `revision` is what the source says of itself (``main@sha1:…``); `digest` the
    ``<algorithm>:<hex>`` of its archive, empty for a local directory; `origin_revision` the
    ``org.opencontainers.image.revision`` of its metadata, where it has one.
    """

    tree: Directory
    revision: str
    digest: str = ""
    url: str = ""
    origin_revision: str | None = None


class Copy(Struct, frozen=True, eq=False):
    """A copy operation, read in a dialect. `pattern` is the text of `from` after its alias."""

    index: int
    spec: CopySpec
    alias: str
    pattern: str
    selection: Selection
    excludes: tuple[Exclude, ...]
    strategy: Strategy
    to: str


class Recipe(Struct, frozen=True, eq=False):
    """All that decides an artifact's content, together with the trees it is applied to."""

    dialect: Dialect
    copies: tuple[Copy, ...]
    limits: Limits


class ArtifactPlan(Struct, frozen=True, eq=False):
    """A recipe and what is only published: the name, labels, and the aliases of its revisions."""

    name: str
    recipe: Recipe
    labels: Mapping[str, str] = {}
    revision: str | None = None
    origin_revision: str | None = None

    @property
    def aliases(self) -> frozenset[str]:
        """The sources that have to be open before it can be built or published."""
        published = {alias for alias in (self.revision, self.origin_revision) if alias is not None}
        return frozenset({copy.alias for copy in self.recipe.copies} | published)


def plan_artifacts(
    generator: ArtifactGenerator,
    pattern_tree: Directory | None,
    dialect: Dialect,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[ArtifactPlan | Failure, ...]:
    """A plan, or what is wrong, for every artifact of a generator, in the order of its spec.

    `pattern_tree` is the tree of the source that pathPattern names; without one it is not asked
    for. Raises `SpecError` where pathPattern or its templates are wrong.
    """
    aliases = [source.alias for source in generator.sources]
    if generator.path_pattern is None:
        return tuple(
            _planned(spec, {}, f"spec.artifacts[{number}]", aliases, dialect, limits)
            for number, spec in enumerate(generator.artifacts)
        )
    assert pattern_tree is not None
    pattern = parse_path_pattern(generator.path_pattern, aliases, dialect)
    rendered = expand_path_pattern(generator, pattern, pattern_tree, dialect, limits)
    return tuple(
        _planned(item.spec, item.labels, f"artifact '{item.spec.name}'", aliases, dialect, limits)
        if isinstance(item, Rendered)
        else item
        for item in rendered
    )


def _planned(
    spec: ArtifactSpec,
    labels: Mapping[str, str],
    where: str,
    aliases: Collection[str],
    dialect: Dialect,
    limits: Limits,
) -> ArtifactPlan | Failure:
    try:
        recipe = _known_recipe(spec.copy, tuple(aliases), dialect, limits)
    except SpecError as error:
        problems = (Problem(problem.code, problem.text, where + problem.where) for problem in error.problems)
        return Failure(spec.name, SpecError(problems))
    # An origin that is not declared means none, as in the peer.
    origin = spec.origin_revision if spec.origin_revision in aliases else None
    return ArtifactPlan(spec.name, recipe, labels, spec.revision, origin)


@lru_cache(maxsize=20_000)
def _known_recipe(copies: tuple[CopySpec, ...], aliases: tuple[str, ...], dialect: Dialect, limits: Limits) -> Recipe:
    """The recipe of equal operations, read once: a commit changes few directories of pathPattern."""
    return plan_recipe(copies, "", aliases, dialect, limits)


def plan_recipe(
    copies: Collection[CopySpec],
    where: str,
    aliases: Collection[str],
    dialect: Dialect,
    limits: Limits = DEFAULT_LIMITS,
) -> Recipe:
    """Read the copy operations of one artifact. Raises `SpecError` with all their problems."""
    reader = _CopyReader(aliases, dialect, limits)
    read = [reader.read(index, spec, f"{where}.copy[{index}]") for index, spec in enumerate(copies)]
    if reader.problems:
        raise SpecError(reader.problems)
    return Recipe(dialect, tuple(copy for copy in read if copy is not None), limits)


class _CopyReader:
    """Reads copy operations and collects what is wrong with them, in the peer's order of checks."""

    def __init__(self, aliases: Collection[str], dialect: Dialect, limits: Limits) -> None:
        self.aliases = aliases
        self.dialect = dialect
        self.limits = limits
        self.problems: list[Problem] = []
        self._where = ""

    def read(self, index: int, spec: CopySpec, where: str) -> Copy | None:
        """One operation; None where something is wrong with it."""
        self._where = where
        before = len(self.problems)
        alias, slash, pattern = spec.source.partition("/")
        if not alias.startswith("@") or not slash:
            self._note(Code.INVALID_SPEC, "from", f"{quote(spec.source)} names no source ('@<alias>/<path>')")
        if not spec.to.startswith("@artifact/"):
            self._note(Code.INVALID_SPEC, "to", f"{quote(spec.to)} is not below the artifact ('@artifact/<path>')")
        self._check_sizes(spec)
        if len(self.problems) > before:
            return None
        if alias[1:] not in self.aliases:
            self._note(Code.UNKNOWN_ALIAS, "from", unknown_alias(alias[1:], self.aliases))
        excludes = [
            self._attempt(self.dialect.exclude, text, f"exclude[{number}]") for number, text in enumerate(spec.exclude)
        ]
        strategy = self._attempt(_strategy, spec.strategy, "strategy")
        select = self.dialect.select_archives if strategy is Strategy.EXTRACT else self.dialect.select
        selection = self._attempt(select, pattern, "from")
        to = self._attempt(self.dialect.target, spec.to.removeprefix("@artifact/"), "to")
        if len(self.problems) > before or selection is None or to is None or strategy is None:
            return None
        return Copy(
            index=index,
            spec=spec,
            alias=alias[1:],
            pattern=pattern,
            selection=selection,
            excludes=tuple(exclude for exclude in excludes if exclude is not None),
            strategy=strategy,
            to=to,
        )

    def _check_sizes(self, spec: CopySpec) -> None:
        for field, text in (("from", spec.source), ("to", spec.to)):
            if len(text) > MAX_TEXT:
                self._note(Code.INVALID_SPEC, field, f"{len(text)} characters (1 to {MAX_TEXT})")
        if len(spec.exclude) > MAX_EXCLUDES:
            self._note(Code.INVALID_SPEC, "exclude", f"{len(spec.exclude)} items (at most {MAX_EXCLUDES})")

    def _note(self, code: Code, field: str, text: str) -> None:
        self.problems.append(Problem(code, text, f"{self._where}.{field}"))

    def _attempt(self, read: Callable[[str, Limits], T], text: str, field: str) -> T | None:
        try:
            return read(text, self.limits)
        except SpecError as error:
            for problem in error.problems:
                self._note(problem.code, field, problem.text)
            return None


def _strategy(text: str, limits: Limits) -> Strategy:
    if text not in tuple(Strategy):
        raise SpecError(Problem(Code.INVALID_SPEC, f"{quote(text)} is not one of {', '.join(Strategy)}"))
    return Strategy(text)


def inputs(version: str, recipe: Recipe, trees: Mapping[str, Directory]) -> bytes:
    """A digest of everything that decides what a recipe makes of these trees.

    Equal inputs make equal artifacts, warnings and errors, so that a composition is never repeated.
    Of each source only what the copies can reach counts: the entry at the literal front of a
    pattern, or its absence; where links could lead elsewhere, the whole source.
    """
    reach = []
    for copy in recipe.copies:
        tree = trees[copy.alias]
        entry = tree if tree.has_links else tree.find(copy.selection.path)
        reach.append((copy.spec, b"" if entry is None else entry.mode.encode() + entry.digest))
    key = (version, recipe.dialect.name, recipe.limits, reach)
    return hashlib.sha256(msgspec.msgpack.encode(key)).digest()
