"""Plan and build the artifacts of many generators, each once.

An ExternalArtifact that one generator reads and another makes is built first and handed on. What is
wrong with a generator as a whole is found before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter

from msgspec import Struct

from sluice import __version__
from sluice.build import Opened, open_sources, revisions
from sluice.cli.locate import Locator
from sluice.cli.manifests import Declared
from sluice.control.objects import DIALECT_ANNOTATION
from sluice.core.compose import Composition, Unpack, compose
from sluice.core.dialect import DIALECTS, Dialect, DialectName
from sluice.core.errors import BuildError, Code, Problem, SluiceError, SourceError, SpecError
from sluice.core.pathpattern import Failure
from sluice.core.plan import ArtifactPlan, Source, inputs, plan_artifacts
from sluice.core.spec import ArtifactGenerator, ArtifactSpec, SourceKind, SourceRef
from sluice.core.tree import EMPTY, Directory

Key = tuple[str, str]
"""Namespace and name, of a generator or an artifact."""

Plans = Sequence[ArtifactPlan | Failure]

Known = dict[bytes, Composition | BuildError]
"""What became of recipes, by the digest of all that decides it."""


class Unplannable(SpecError):
    """A generator that cannot be planned; `found` are the problems as they are in its spec."""

    def __init__(self, item: Declared, found: Sequence[Problem]) -> None:
        self.item = item
        self.found = tuple(found)
        super().__init__(item.manifest.located(found))


class Built(Struct, frozen=True, eq=False, kw_only=True):
    """What became of an artifact: a composition with its revisions, or an error.

    Without a name it is the failure of a generator whose artifacts could not even be listed.
    """

    declared: Declared
    name: str
    composition: Composition | None = None
    labels: Mapping[str, str] = {}
    revision: str = ""
    origin_revision: str | None = None
    error: SluiceError | None = None

    @property
    def namespace(self) -> str:
        return self.declared.generator.namespace

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.name}" if self.name else str(self.declared.generator)


class Workshop:
    """Plans and builds; `wanted` are the artifacts to build, as ``name`` or ``namespace/name``, or all.

    Workshops that share `known` compose what they have in common once.
    """

    def __init__(
        self,
        declared: Sequence[Declared],
        locator: Locator,
        unpack: Unpack,
        dialect: DialectName,
        wanted: Collection[str] = (),
        known: Known | None = None,
    ) -> None:
        self._declared = {item.key: item for item in declared}
        self._locator = locator
        self._unpack = unpack
        self._dialect = dialect
        self._wanted = wanted
        self._known: Known = {} if known is None else known
        self._templates = [item for item in declared if item.generator.path_pattern is not None]
        self._named: dict[Key, Declared] = {}
        for item in declared:
            if item.generator.path_pattern is None:
                for spec in item.generator.artifacts:
                    self._named.setdefault((item.generator.namespace, spec.name), item)
        self._plans: dict[Key, Plans] = {}
        self._built: dict[Key, Built] = {}
        self._entered: list[Key] = []

    def plan(self, *, strict: bool = True) -> list[Declared]:
        """Plan what is wanted; returns the generators in the order in which they have to be built.

        Raises `SpecError` for a generator that cannot work, a cycle, or, if `strict`, a name that nobody makes.
        """
        for item in self._declared.values():
            _dialect_of(item, self._dialect)
        chosen = [item for item in self._declared.values() if not self._wanted or may_make(item, self._wanted)]
        self._plan_with_makers(chosen)
        self._check_names()
        if strict:
            self._check_wanted()
        return self._order()

    def builds(self, item: Declared) -> Iterator[Built]:
        """Build the wanted artifacts of a generator that was planned."""
        for plan in self._plans.get(item.key, ()):
            if self._is_wanted(item, plan.name):
                yield self.build(item, plan)

    def empty(self) -> list[Declared]:
        """The generators whose pathPattern matched nothing."""
        nothing = [self._declared[key] for key, plans in self._plans.items() if not plans]
        return [item for item in nothing if item.generator.path_pattern is not None]

    # Planning

    def _plan_with_makers(self, chosen: Sequence[Declared]) -> None:
        """Plan these, and whatever makes what their wanted artifacts read."""
        todo, seen = list(chosen), set()
        while todo:
            item = todo.pop(0)
            if item.key not in seen:
                seen.add(item.key)
                plans = [plan for plan in self.plans(item) if isinstance(plan, ArtifactPlan)]
                read = [plan.aliases for plan in plans if item not in chosen or self._is_wanted(item, plan.name)]
                needed = frozenset().union(*read)
                refs = [ref for ref in item.generator.sources if ref.alias in needed and self._is_chained(ref)]
                todo += filter(None, map(self._find_maker, refs))

    def plans(self, item: Declared) -> Plans:
        """The artifacts of a generator, planned. Raises `Unplannable` for the generator to blame."""
        if item.key not in self._plans:
            with self._entering(item):
                self._plans[item.key] = self._make_plans(item)
        return self._plans[item.key]

    def _make_plans(self, item: Declared) -> Plans:
        generator = item.generator
        try:
            tree = self._pattern_tree(item)
        except SourceError as error:
            return [Failure("", error)]
        try:
            return plan_artifacts(generator, tree, _dialect_of(item, self._dialect))
        except SpecError as error:
            raise Unplannable(item, error.problems) from error
        except BuildError as error:
            return [Failure("", error)]

    def _pattern_tree(self, item: Declared) -> Directory | None:
        """The tree that pathPattern looks at; empty for an alias that is not declared."""
        pattern = item.generator.path_pattern
        if pattern is None:
            return None
        alias = pattern.partition("/")[0].removeprefix("@")
        found = [self._open(item, ref).tree for ref in item.generator.sources if ref.alias == alias]
        return found[0] if found else EMPTY

    def _check_names(self) -> None:
        """Fail the artifacts whose name another generator has taken."""
        owners: dict[Key, Declared] = {}
        for item in self._declared.values():
            kept: list[ArtifactPlan | Failure] = []
            for plan in self._plans.get(item.key, ()):
                owner = owners.setdefault((item.generator.namespace, plan.name), item)
                if plan.name and owner is not item:
                    what = f"{owner.generator} makes an artifact of this name, too"
                    plan = Failure(plan.name, BuildError(what, Code.NAME_COLLISION))
                kept.append(plan)
            if kept:
                self._plans[item.key] = kept

    def _check_wanted(self) -> None:
        made = {(key[0], plan.name) for key, plans in self._plans.items() for plan in plans if plan.name}
        names = {name for _, name in made} | {"/".join(key) for key in made}
        listed = [item.generator for item in self._declared.values()]
        known = sorted({name for _, name in made} | {spec.name for one in listed for spec in one.artifacts})
        problems = [
            Problem(Code.NOT_FOUND, f"no artifact '{name}' (there are: {', '.join(known)})", "--artifact")
            for name in self._wanted
            if name not in names
        ]
        if problems and not any(failure.name == "" for plans in self._plans.values() for failure in plans):
            raise SpecError(problems)

    def _order(self) -> list[Declared]:
        makers = {(key[0], plan.name): key for key, plans in self._plans.items() for plan in plans}
        feeds = {
            key: [
                makers[ref.namespace, ref.name]
                for ref in self._declared[key].generator.sources
                if self._is_chained(ref) and (ref.namespace, ref.name) in makers
            ]
            for key in self._plans
        }
        try:
            return [self._declared[key] for key in TopologicalSorter(feeds).static_order()]
        except CycleError as error:
            raise self._cycle(error.args[1][::-1]) from error

    def _cycle(self, keys: Sequence[Key]) -> SpecError:
        way = " → ".join(str(self._declared[key].generator) for key in keys)
        return Unplannable(
            self._declared[keys[0]], [Problem(Code.CYCLE, f"reads what it makes: {way}", "spec.sources")]
        )

    @contextmanager
    def _entering(self, item: Declared) -> Iterator[None]:
        if item.key in self._entered:
            raise self._cycle([*self._entered[self._entered.index(item.key) :], item.key])
        self._entered.append(item.key)
        try:
            yield
        finally:
            self._entered.pop()

    # Building

    def _is_wanted(self, item: Declared, name: str) -> bool:
        return not self._wanted or not name or not {name, f"{item.generator.namespace}/{name}"}.isdisjoint(self._wanted)

    def build(self, item: Declared, plan: ArtifactPlan | Failure) -> Built:
        """Build one artifact, or what is known of it already."""
        key = item.generator.namespace, plan.name
        if isinstance(plan, Failure):
            return Built(declared=item, name=plan.name, error=_located(item, plan.error))
        if key not in self._built:
            with self._entering(item):
                self._built[key] = self._compose(item, plan)
        return self._built[key]

    def _compose(self, item: Declared, plan: ArtifactPlan) -> Built:
        opened = self.sources(item, plan)
        try:
            sources = open_sources(plan, opened)
            composition = self._compose_once(plan, {alias: source.tree for alias, source in sources.items()})
        except SluiceError as error:
            return Built(declared=item, name=plan.name, error=error)
        revision, origin = revisions(plan, composition.tree.digest, sources)
        return Built(
            declared=item,
            name=plan.name,
            composition=composition,
            labels=plan.labels,
            revision=revision,
            origin_revision=origin,
        )

    def _compose_once(self, plan: ArtifactPlan, trees: Mapping[str, Directory]) -> Composition:
        key = inputs(__version__, plan.recipe, trees)
        if key not in self._known:
            try:
                self._known[key] = compose(plan.recipe, trees, self._unpack)
            except BuildError as error:
                self._known[key] = error
        known = self._known[key]
        if isinstance(known, BuildError):
            raise known
        return known

    def sources(self, item: Declared, plan: ArtifactPlan) -> Opened:
        """What a plan needs, opened."""
        opened: dict[str, Source | SourceError] = {}
        for ref in item.generator.sources:
            if ref.alias in plan.aliases:
                try:
                    opened[ref.alias] = self._open(item, ref)
                except SourceError as error:
                    opened[ref.alias] = error
        return opened

    def _open(self, item: Declared, ref: SourceRef) -> Source:
        if self._is_chained(ref) and (maker := self._find_maker(ref)):
            return self._chained(maker, ref)
        return self._locator.open(ref, item.manifest.home)

    def _is_chained(self, ref: SourceRef) -> bool:
        return ref.kind is SourceKind.EXTERNAL_ARTIFACT and self._locator.location(ref) is None

    def _find_maker(self, ref: SourceRef) -> Declared | None:
        """The generator that makes an artifact: one that names it, else one whose template renders to it."""
        named = self._named.get((ref.namespace, ref.name))
        if named is not None:
            return named
        templates = [
            item for item in self._templates if item.generator.namespace == ref.namespace and may_make(item, {ref.name})
        ]
        return next((item for item in templates if any(plan.name == ref.name for plan in self.plans(item))), None)

    def _chained(self, maker: Declared, ref: SourceRef) -> Source:
        plan = next(plan for plan in self.plans(maker) if plan.name == ref.name)
        built = self.build(maker, plan)
        if built.composition is None:
            raise SourceError(f"source '{ref.alias}': {ref} was not built", Code.NOT_READY)
        return Source(built.composition.tree, built.revision, origin_revision=built.origin_revision)


def _located(item: Declared, error: SluiceError) -> SluiceError:
    return SpecError(item.manifest.located(error.problems)) if isinstance(error, SpecError) else error


_CAPTURE = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")


def may_make(item: Declared, names: Collection[str]) -> bool:
    """Whether a generator makes one of these artifacts, as far as its spec tells."""
    generator = item.generator
    bare = {name.removeprefix(f"{generator.namespace}/") for name in names}
    return any(makes(generator, spec, name) for spec in generator.artifacts for name in bare)


def makes(generator: ArtifactGenerator, spec: ArtifactSpec, name: str) -> bool:
    """Whether an artifact or template of a generator may have this name."""
    pattern = re.escape(spec.name)
    if generator.path_pattern is not None:
        pattern = "[^/]+".join(map(re.escape, _CAPTURE.split(spec.name)))
    return re.fullmatch(pattern, name) is not None


def _dialect_of(item: Declared, default: DialectName) -> Dialect:
    name = item.generator.annotations.get(DIALECT_ANNOTATION, default)
    if name not in tuple(DialectName):
        what = f"'{name}' is not one of {', '.join(DialectName)}"
        where = f"metadata.annotations.{DIALECT_ANNOTATION}"
        raise Unplannable(item, [Problem(Code.INVALID_SPEC, what, where)])
    return DIALECTS[DialectName(name)]
