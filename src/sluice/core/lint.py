"""What is worth a second look in a generator: rules with names, each a function and a row of `RULES`.

A rule looks at a `Subject`: a generator, and its artifacts as far as they could be planned and built. What
parsing and planning refuse becomes a finding as well, under the rule that `rule_of` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from sluice.core.compose import Composition
from sluice.core.dialect import clean, join
from sluice.core.diff import ChangeKind, diff_trees
from sluice.core.errors import BuildError, Code, Problem, SluiceError, quote
from sluice.core.kustomize import find_lacks
from sluice.core.limits import MIB
from sluice.core.plan import ArtifactPlan, Copy
from sluice.core.spec import ArtifactGenerator
from sluice.core.trace import find_excluded, find_overwritten, select
from sluice.core.tree import Directory, File

CHART_SIZE: Final = 100 * MIB
CHART_FILE_SIZE: Final = 5 * MIB
"""What Helm loads of a chart, unpacked."""
SHOWN: Final = 3
"""Paths that a finding names."""


class Severity(StrEnum):
    """Whether something fails, or only may not be meant."""

    ERROR = "error"
    WARNING = "warning"


class Use(Struct, frozen=True, eq=False):
    """A Kustomization or HelmRelease that deploys an artifact; `path` is what it takes of it."""

    title: str
    is_chart: bool
    path: str = ""


class Artifact(Struct, frozen=True, eq=False, kw_only=True):
    """An artifact as far as it got.

    `where` is the field of its spec, or of its template; `trees` are those of its sources that could be
    opened. Without all of them there is no composition. `other` is what the other dialect makes.
    """

    where: str
    plan: ArtifactPlan
    trees: Mapping[str, Directory]
    composition: Composition | SluiceError | None = None
    other: Composition | SluiceError | None = None
    uses: Sequence[Use] = ()

    def field(self, copy: Copy, name: str = "") -> str:
        return f"{self.where}.copy[{copy.index}]{name}"


class Subject(Struct, frozen=True, eq=False):
    """A generator and those of its artifacts that could be planned."""

    generator: ArtifactGenerator
    artifacts: Sequence[Artifact]


class Finding(Struct, frozen=True, eq=False):
    """Something found: in a field of the generator, or, with `use`, in one of that consumer."""

    where: str
    text: str
    artifact: str = ""
    use: Use | None = None


class Rule(Struct, frozen=True, eq=False, kw_only=True):
    """What to look for: `check` finds it in generators, `codes` are the problems of a spec that it stands for.

    With `everywhere`, a template is to blame only if all artifacts made of it are.
    """

    name: str
    severity: Severity
    summary: str
    explanation: str
    check: Callable[[Subject], Iterator[Finding]] | None = None
    codes: frozenset[Code] = frozenset()
    everywhere: bool = False


def lint(subject: Subject) -> Iterator[tuple[Rule, Finding]]:
    """All that the rules find in a generator."""
    for rule in RULES.values():
        if rule.check is not None:
            found = list(rule.check(subject))
            for finding in _everywhere(found, subject) if rule.everywhere else found:
                yield rule, finding


def rule_of(problem: Problem | BuildError) -> Rule:
    """The rule that a problem of a spec breaks."""
    text = problem.text if isinstance(problem, Problem) else str(problem)
    if text.startswith("duplicate "):
        return RULES["duplicate-name"]
    return next((rule for rule in RULES.values() if problem.code in rule.codes), RULES["invalid-spec"])


def _everywhere(found: Sequence[Finding], subject: Subject) -> Iterator[Finding]:
    """Findings that hold for all artifacts made of a template."""
    for finding in found:
        made = {one.plan.name for one in subject.artifacts if finding.where.startswith(f"{one.where}.")}
        alike = {one.artifact for one in found if (one.where, one.text) == (finding.where, finding.text)}
        if alike == made:
            yield finding


def some(paths: Sequence[str]) -> str:
    """Paths, the first few by name."""
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"{len(paths)} file{'s' * (len(paths) != 1)} ({', '.join(paths[:SHOWN])}{more})"


# --- sources ------------------------------------------------------------------------------------


def _unused_source(subject: Subject) -> Iterator[Finding]:
    generator = subject.generator
    used = {copy.source.partition("/")[0].removeprefix("@") for spec in generator.artifacts for copy in spec.copy}
    for spec in generator.artifacts:
        used |= {alias for alias in (spec.revision, spec.origin_revision) if alias is not None}
    for number, source in enumerate(generator.sources):
        if source.alias not in used | {generator.pattern_alias}:
            text = f"no copy, revision or pathPattern uses source '{source.alias}'"
            yield Finding(f"spec.sources[{number}]", text)


# --- copies -------------------------------------------------------------------------------------


def _no_match(subject: Subject) -> Iterator[Finding]:
    for artifact in subject.artifacts:
        yield from _unmatched(artifact)


def _unmatched(artifact: Artifact) -> Iterator[Finding]:
    for copy in artifact.plan.recipe.copies:
        tree = artifact.trees.get(copy.alias)
        if tree is not None and not _selects(copy, tree):
            text = f"{quote(copy.spec.source)} matches nothing in its source"
            yield Finding(artifact.field(copy, ".from"), text, artifact.plan.name)


def _selects(copy: Copy, tree: Directory) -> bool:
    try:
        return bool(select(copy, tree))
    except BuildError:
        return True  # a link that leads nowhere, of which building tells


def _unused_exclude(subject: Subject) -> Iterator[Finding]:
    for artifact in subject.artifacts:
        for copy in artifact.plan.recipe.copies:
            tree = artifact.trees.get(copy.alias)
            if tree is None or not copy.excludes or not _selects(copy, tree):
                continue
            for number, exclude in enumerate(copy.excludes):
                alone = replace(copy, excludes=(exclude,))
                if next(find_excluded(artifact.plan.recipe, alone, tree), None) is None:
                    text = f"{quote(copy.spec.exclude[number])} excludes nothing"
                    yield Finding(artifact.field(copy, f".exclude[{number}]"), text, artifact.plan.name)


def _double_nesting(subject: Subject) -> Iterator[Finding]:
    for artifact in subject.artifacts:
        for copy in artifact.plan.recipe.copies:
            path, to = copy.selection.path, clean(copy.to) or ""
            name = path.rpartition("/")[2]
            if (
                copy.selection.expand is None
                and name
                and name == to.rpartition("/")[2]
                and _is_directory(artifact, copy)
            ):
                text = (
                    f"directory {quote(name)} lands in {quote(join(to, name))} "
                    f"('@{copy.alias}/{path}/**' copies what is in it, '@artifact/{_parent(to)}' puts it there itself)"
                )
                yield Finding(artifact.field(copy, ".to"), text, artifact.plan.name)


def _parent(path: str) -> str:
    above = path.rpartition("/")[0]
    return f"{above}/" if above else ""


def _is_directory(artifact: Artifact, copy: Copy) -> bool:
    tree = artifact.trees.get(copy.alias)
    if tree is None:
        return copy.pattern.endswith("/")
    try:
        return isinstance(tree.find(copy.selection.path), Directory)
    except BuildError:
        return False


# --- artifacts ----------------------------------------------------------------------------------


def _overwritten_files(subject: Subject) -> Iterator[Finding]:
    for artifact in subject.artifacts:
        if isinstance(artifact.composition, Composition):
            recipe = artifact.plan.recipe
            for found in find_overwritten(recipe, artifact.composition.placements):
                text = f"replaces {some(found.paths)} that copy[{found.of}] placed"
                yield Finding(artifact.field(recipe.copies[found.by]), text, artifact.plan.name)


def _build_fails(subject: Subject) -> Iterator[Finding]:
    for artifact in subject.artifacts:
        error = artifact.composition
        if isinstance(error, BuildError):
            told = error.code in (Code.NO_MATCH, Code.NOT_FOUND) and any(_unmatched(artifact))
            blamed = [copy for copy in artifact.plan.recipe.copies if _is_about(error, copy)]
            if not told:
                where = artifact.field(blamed[0]) if blamed else artifact.where
                yield Finding(where, str(error), artifact.plan.name)


def _is_about(error: BuildError, copy: Copy) -> bool:
    return str(error).startswith(f"copy from '{copy.spec.source}': ")


def _dialect_difference(subject: Subject) -> Iterator[Finding]:
    for artifact in subject.artifacts:
        if not isinstance(artifact.composition, Composition) or artifact.other is None:
            continue
        name = "documented" if artifact.plan.recipe.dialect.name == "upstream" else "upstream"
        if not isinstance(artifact.other, Composition):
            yield Finding(artifact.where, f"the {name} dialect would fail: {artifact.other}", artifact.plan.name)
        elif artifact.other.tree.digest != artifact.composition.tree.digest:
            changes = list(diff_trees(artifact.composition.tree, artifact.other.tree))
            counts = [(kind, [change.path for change in changes if change.kind is kind]) for kind in ChangeKind]
            shown = ", ".join(f"{some(paths)} {kind}" for kind, paths in counts if paths)
            yield Finding(artifact.where, f"the {name} dialect would build another tree: {shown}", artifact.plan.name)


# --- what deploys them --------------------------------------------------------------------------


def _chart_shape(subject: Subject) -> Iterator[Finding]:
    for artifact, tree, use in _used(subject, charts=True):
        for text in _chart_problems(tree):
            yield Finding(f"{artifact.where}.name", f"{use.title} cannot use it: {text}", artifact.plan.name)


def _chart_problems(tree: Directory) -> Iterator[str]:
    top = list(tree.entries)
    charts = [name for name in top if isinstance(tree.find(join(name, "Chart.yaml")), File)]
    if len(top) != 1 or not charts:
        shown = ", ".join(top[:SHOWN]) + ", …" * (len(top) > SHOWN)
        yield f"a chart is one directory with a Chart.yaml in it (at the top: {shown})"
    if tree.size > CHART_SIZE:
        yield f"its files hold {tree.size} bytes (Helm takes {CHART_SIZE})"
    large = [path for path, entry in tree.walk() if isinstance(entry, File) and entry.size > CHART_FILE_SIZE]
    if large:
        yield f"more than {CHART_FILE_SIZE} bytes, which is all Helm takes of a file: {some(large)}"


def _missing_path(subject: Subject) -> Iterator[Finding]:
    for artifact, tree, use in _used(subject, charts=False):
        path = clean(use.path.lstrip("/"))
        if path is None or not isinstance(tree.find(path), Directory):
            text = f"{use.title} needs directory {quote(use.path)}, which is not in the artifact"
            yield Finding("spec.path", text, artifact.plan.name, use)
            continue
        for lack in find_lacks(tree, path):
            field = f"{lack.field} of " if lack.field else ""
            text = f"{field}{quote(lack.file)}: {lack.text}"
            yield Finding("spec.path", text, artifact.plan.name, use)


def _used(subject: Subject, *, charts: bool) -> Iterator[tuple[Artifact, Directory, Use]]:
    for artifact in subject.artifacts:
        if isinstance(artifact.composition, Composition):
            for use in artifact.uses:
                if use.is_chart is charts:
                    yield artifact, artifact.composition.tree, use


_ROWS = (
    Rule(
        name="invalid-yaml",
        severity=Severity.ERROR,
        codes=frozenset({Code.INVALID_YAML}),
        summary="A file is not YAML.",
        explanation="Nothing in the file is read. The position is that of the first character that does not fit.",
    ),
    Rule(
        name="invalid-spec",
        severity=Severity.ERROR,
        codes=frozenset({Code.INVALID_SPEC, Code.ACCESS_DENIED, Code.INVALID_NAME, Code.LIMIT}),
        summary="A field is unknown, missing, or holds what it cannot.",
        explanation="An API server refuses most of these; the controller reports the others and stalls.",
    ),
    Rule(
        name="unknown-alias",
        severity=Severity.ERROR,
        codes=frozenset({Code.UNKNOWN_ALIAS}),
        summary="A copy, revision or pathPattern names a source that is not declared.",
        explanation="Add the source to spec.sources, or use the alias of one that is there.",
    ),
    Rule(
        name="bad-pattern",
        severity=Severity.ERROR,
        codes=frozenset({Code.BAD_PATTERN}),
        summary="A glob or an exclude is malformed.",
        explanation="The artifact is never built, whatever its sources hold. Put a backslash before a character"
        " that is meant literally.",
    ),
    Rule(
        name="escaping-path",
        severity=Severity.ERROR,
        codes=frozenset({Code.ESCAPE}),
        summary="A path leads out of its source or artifact.",
        explanation="Paths are relative to the root of the source or artifact, without a leading slash, and '..' never"
        " leads above it.",
    ),
    Rule(
        name="duplicate-name",
        severity=Severity.ERROR,
        codes=frozenset({Code.NAME_COLLISION}),
        summary="Two sources, artifacts or generators have one name.",
        explanation="Aliases are unique in a generator, artifacts and generators in a namespace. With pathPattern, two"
        " directories may give one name: use more of their captures in it.",
    ),
    Rule(
        name="cycle",
        severity=Severity.ERROR,
        codes=frozenset({Code.CYCLE}),
        summary="Generators read what they make.",
        explanation="Every generator of the cycle stalls. Take one ExternalArtifact out of the sources.",
    ),
    Rule(
        name="no-match",
        severity=Severity.ERROR,
        check=_no_match,
        summary="A copy selects nothing.",
        explanation="The artifact fails until its source holds something at that path. 'sluice explain' tells how far"
        " a pattern leads.",
    ),
    Rule(
        name="unused-exclude",
        severity=Severity.WARNING,
        check=_unused_exclude,
        everywhere=True,
        summary="An exclude takes nothing away.",
        explanation="It is compared with paths from the root of the source, with paths from the directory that the copy"
        " selects from, and, if it has no slash, with bare names. An exclude that fits none of them is mostly a typo"
        " or left over.",
    ),
    Rule(
        name="double-nesting",
        severity=Severity.WARNING,
        check=_double_nesting,
        summary="A directory is copied into one of its own name.",
        explanation="As with cp, a directory that is named is copied itself: '@src/app/' to '@artifact/app/' makes"
        " 'app/app'. Copy '@src/app/**' for what is in it, or leave the name out of the target.",
    ),
    Rule(
        name="overwritten-files",
        severity=Severity.WARNING,
        check=_overwritten_files,
        summary="A copy replaces files of an earlier one.",
        explanation="Later copies win. Where that is meant, say so with a comment; where both should count, use"
        " strategy Merge; else exclude the files from one of the copies.",
    ),
    Rule(
        name="unused-source",
        severity=Severity.WARNING,
        check=_unused_source,
        summary="A source is declared and not used.",
        explanation="It is watched for nothing. Remove it, or see whether a copy should have used it.",
    ),
    Rule(
        name="dialect-difference",
        severity=Severity.WARNING,
        check=_dialect_difference,
        summary="The two dialects would build different trees.",
        explanation="source-watcher reads the copy operations of this artifact in another way than the documentation."
        " What it makes depends on which of the two builds it, or on the annotation sluice/dialect.",
    ),
    Rule(
        name="build-fails",
        severity=Severity.ERROR,
        check=_build_fails,
        summary="The artifact cannot be built from these sources.",
        explanation="The spec is right, but it does not fit what the sources hold: a path is both file and directory,"
        " files cannot be merged, an archive is broken, everything is excluded, or something is too large.",
    ),
    Rule(
        name="chart-shape",
        severity=Severity.ERROR,
        check=_chart_shape,
        summary="A HelmRelease could not load the artifact as a chart.",
        explanation="Helm takes an archive with one directory at the top, with Chart.yaml in it, of at most 100 MiB"
        " unpacked, and 5 MiB for each file.",
    ),
    Rule(
        name="missing-path",
        severity=Severity.ERROR,
        check=_missing_path,
        summary="A Kustomization needs a path that is not in its artifact.",
        explanation="spec.path, and whatever the kustomization.yaml there names (resources, components, patches,"
        " generators and more, from directory to directory), has to be in the artifact: add it to the copies.",
    ),
    Rule(
        name="unknown-rule",
        severity=Severity.WARNING,
        summary="A comment silences a rule that does not exist.",
        explanation="'# sluice: ignore=RULE', on the line of a finding or the one above it, names rules of this list,"
        " with commas between them.",
    ),
)
RULES: Final[Mapping[str, Rule]] = {rule.name: rule for rule in _ROWS}
