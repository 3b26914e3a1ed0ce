"""``sluice explain``: why a path is in an artifact, or is not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

import click
from msgspec import Struct

from sluice.cache import UnpackedCache
from sluice.cli.inputs import SOURCES, Inputs, SourceNotice, input_options, note_unused
from sluice.cli.locate import Locator, parse_locations
from sluice.cli.manifests import Declared, declare, read_manifests
from sluice.cli.output import Mark, Words, emit, escape, human_size, table
from sluice.cli.report import attribute
from sluice.cli.workshop import Built, Workshop
from sluice.core.compose import Composition
from sluice.core.dialect import clean
from sluice.core.errors import BuildError, Code, Problem, SpecError
from sluice.core.pathpattern import Failure
from sluice.core.plan import ArtifactPlan, Copy, Source
from sluice.core.trace import Effect, Overwritten, Step, find_excluded, find_overwritten, select, similar, trace
from sluice.core.tree import Directory, Entry, File

HELP = f"""Say why a path is in an artifact, or is not.

\b
  sluice explain web manifests                what each copy brings
  sluice explain web/deploy.yaml manifests    which copy placed a file
  sluice explain apps/web/deploy.yaml         the same, with its namespace

MANIFEST is a file, a directory, or - for standard input; the current directory where none is given.

{SOURCES}
\b
Exit codes:
  0  it is told, and the path is in the artifact
  1  the path is not in the artifact, or the artifact fails
  2  a manifest or an option is wrong
"""

PLACING = frozenset({Effect.PLACED, Effect.REPLACED, Effect.MERGED, Effect.UNITED})
LISTED = 5
"""Paths and names that a line lists."""


class ExplainFormat(StrEnum):
    """How the answer is written to standard output."""

    TEXT = "text"
    JSON = "json"


class Share(Struct, frozen=True, eq=False, kw_only=True):
    """What one copy brings: what its `from` finds, what is taken away again, and what of it stays."""

    copy: Copy
    matches: int
    files: int
    size: int
    excluded: Sequence[int]
    """Files, by exclude."""
    left_out: Sequence[str] = ()
    overwritten: Sequence[Overwritten] = ()
    kept: int | None = None
    """Files of the artifact that come from it; None where there is no artifact."""


class Answer(Struct, frozen=True, eq=False, kw_only=True):
    """All that is told of an artifact, and of a path in it if that was asked."""

    title: str
    dialect: str
    shares: Sequence[Share]
    tree: Directory | None
    error: str | None = None
    path: str = ""
    entry: Entry | None = None
    steps: Sequence[Step] = ()
    similar: str | None = None

    @property
    def is_good(self) -> bool:
        return self.error is None and (not self.path or self.entry is not None)


@click.command("explain", help=HELP)
@click.argument("target", metavar="ARTIFACT[/PATH]")
@click.argument("manifests", nargs=-1, metavar="[MANIFEST]...")
@input_options(artifact=False)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice([form.value for form in ExplainFormat]),
    default=ExplainFormat.TEXT.value,
    show_default=True,
    help="What to print.",
)
def command(*, target: str, manifests: tuple[str, ...], inputs: Inputs, form: str) -> int:
    """Explain what is asked for; returns the exit code."""
    with Words() as words:
        read = read_manifests(manifests or (".",))
        declared = declare(read, inputs.variables, inputs.namespace)
        if not declared:
            raise SpecError(Problem(Code.NOT_FOUND, "no ArtifactGenerator in it", ", ".join(manifests) or "."))
        cache = UnpackedCache()
        locator = Locator(parse_locations(inputs.sources), read, inputs.variables, cache, SourceNotice(words))
        note_unused(locator, declared, words)
        workshop = Workshop(declared, locator, cache.unpack, inputs.dialect)
        words.working("planning")
        workshop.plan()
        item, plan, path = _find(target, workshop, declared)
        words.working(f"building {plan.name}")
        built = workshop.build(item, plan)
        if built.error is not None:
            words.say(Mark.FAILURE, f"{built.title}: {built.error}")
        answer = _answer(workshop, item, plan, built, path)
    emit(_FORMATS[ExplainFormat(form)](answer).encode("utf-8", "backslashreplace"))
    return int(not answer.is_good)


def _find(
    target: str, workshop: Workshop, declared: Sequence[Declared]
) -> tuple[Declared, ArtifactPlan | Failure, str]:
    """The artifact that is meant, and the path in it; the longest name that fits."""
    target = target.rstrip("/")
    plans = [(item, plan) for item in declared for plan in workshop.plans(item) if plan.name]
    found: dict[str, list[tuple[Declared, ArtifactPlan | Failure]]] = {}
    for item, plan in plans:
        for name in (plan.name, f"{item.generator.namespace}/{plan.name}"):
            if f"{target}/".startswith(f"{name}/"):
                found.setdefault(name, []).append((item, plan))
    if not found:
        names = sorted({plan.name for _, plan in plans})
        close = get_close_matches(target.partition("/")[0], names, n=1)
        more = f", … and {len(names) - LISTED} more" if len(names) > LISTED else ""
        hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(names[:LISTED]) or 'none'}{more}"
        raise SpecError(Problem(Code.NOT_FOUND, f"no artifact '{target}' ({hint})"))
    name = max(found, key=len)
    owners = {item.generator.namespace for item, _ in found[name]}
    if len(owners) > 1:
        choices = " or ".join(f"'{owner}/{name}'" for owner in sorted(owners))
        raise SpecError(Problem(Code.NOT_FOUND, f"artifact '{name}' is in several namespaces ({choices})"))
    path = clean(target[len(name) :].lstrip("/"))
    if path is None:
        raise SpecError(Problem(Code.ESCAPE, f"'{target}' leads out of the artifact (a path below it)"))
    return *found[name][0], path


def _answer(workshop: Workshop, item: Declared, plan: ArtifactPlan | Failure, built: Built, path: str) -> Answer:
    if isinstance(plan, Failure):
        return Answer(title=built.title, dialect="", shares=(), tree=None, error=str(built.error), path=path)
    opened = workshop.sources(item, plan)
    trees = {alias: source.tree for alias, source in opened.items() if isinstance(source, Source)}
    composition = built.composition
    shares = [_share(plan, copy, trees[copy.alias], composition) for copy in plan.recipe.copies if copy.alias in trees]
    dialect = plan.recipe.dialect.name
    if composition is None:
        return Answer(title=built.title, dialect=dialect, shares=shares, tree=None, error=str(built.error), path=path)
    tree = composition.tree
    entry = tree.find(path) if path else None
    steps = trace(plan.recipe, trees, composition, path) if path else []
    if entry is not None:
        steps = [step for step in steps if step.effect not in (Effect.UNMATCHED, Effect.MISSING)]
    return Answer(
        title=built.title,
        dialect=dialect,
        shares=shares,
        tree=tree,
        path=path,
        entry=entry,
        steps=steps,
        similar=None if entry is not None or _tells(steps) else similar(tree, path),
    )


def _tells(steps: Sequence[Step]) -> bool:
    """Whether a path is missing though it is in its source: then nothing else was meant."""
    return any(step.effect in (Effect.EXCLUDED, Effect.LEFT_OUT, Effect.UNMATCHED) for step in steps)


def _share(plan: ArtifactPlan, copy: Copy, tree: Directory, composition: Composition | None) -> Share:
    recipe = plan.recipe
    try:
        found = [tree.find(path) or entry for path, entry in select(copy, tree)]
        excluded = Counter[int]()
        for one in find_excluded(recipe, copy, tree):
            excluded[one.exclude] += _count(one.entry)[0]
    except BuildError:  # a link that leads nowhere, of which building tells
        found, excluded = [], Counter()
    sizes = [_count(entry) for entry in found]
    return Share(
        copy=copy,
        matches=len(found),
        files=sum(files for files, _ in sizes),
        size=sum(size for _, size in sizes),
        excluded=[excluded[number] for number in range(len(copy.excludes))],
        left_out=[] if composition is None else _left_out(composition, copy),
        overwritten=[]
        if composition is None
        else [one for one in find_overwritten(recipe, composition.placements) if one.by == copy.index],
        kept=None if composition is None else _kept(composition, copy),
    )


def _count(entry: Entry) -> tuple[int, int]:
    match entry:
        case Directory():
            return entry.files, entry.size
        case File():
            return 1, entry.size
        case _:
            return 1, 0


def _left_out(composition: Composition, copy: Copy) -> list[str]:
    last = ((path, composition.placed_by(path)) for path in composition.left_out)
    return [path for path, placement in last if placement is not None and placement.copy == copy.index]


def _kept(composition: Composition, copy: Copy) -> int:
    placed = attribute(composition.tree, composition.placements)
    return sum(isinstance(entry, File) and number == copy.index for _, entry, number in placed)


# --- text ---------------------------------------------------------------------------------------


def _as_text(answer: Answer) -> str:
    if answer.path and answer.tree is not None:
        return "".join(f"{escape(line)}\n" for line in _path_lines(answer)) + _steps(answer)
    head = [] if answer.tree is None else [f"{answer.title}: {_files(answer.tree.files, answer.tree.size)}"]
    lines = [*head, *(line for share in answer.shares for line in _share_lines(share))]
    return "".join(f"{escape(line)}\n" for line in lines)


def _files(files: int, size: int) -> str:
    return f"{files} file{'s' * (files != 1)}, {human_size(size)}"


def _share_lines(share: Share) -> Iterator[str]:
    copy = share.copy
    strategy = "" if copy.strategy == "Overwrite" else f" ({copy.strategy})"
    yield f"copy[{copy.index}]: {copy.spec.source} to {copy.spec.to}{strategy}"
    matches = f"{share.matches} {'entry' if share.matches == 1 else 'entries'}"
    yield f"  matched {matches}: {_files(share.files, share.size)}" if share.matches else "  matched nothing"
    for number, files in enumerate(share.excluded):
        taken = f"{files} file{'s' * (files != 1)}" if files else "nothing"
        yield f"  exclude[{number}] '{copy.spec.exclude[number]}' took away {taken}"
    if share.left_out:
        yield f"  left out {_some(share.left_out)}"
    for one in share.overwritten:
        yield f"  replaced {_some(one.paths)} of copy[{one.of}]"
    if share.kept is not None:
        yield f"  {share.kept} of the artifact's files come from it"


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - LISTED} more" if len(paths) > LISTED else ""
    return f"{len(paths)} file{'s' * (len(paths) != 1)} ({', '.join(paths[:LISTED])}{more})"


def _path_lines(answer: Answer) -> Iterator[str]:
    title = f"{answer.title}/{answer.path}"
    placing = [step.copy for step in answer.steps if step.effect in PLACING]
    match answer.entry:
        case File() as file:
            executable = ", executable" * file.executable
            yield f"{title}: {human_size(file.size)}{executable}, from copy[{placing[-1]}]"
        case Directory() as directory:
            copies = ", ".join(f"copy[{number}]" for number in dict.fromkeys(placing))
            origin = f"from {copies}" if copies else "there for what is in it"
            yield f"{title}: a directory, {_files(directory.files, directory.size)}, {origin}"
        case _:
            hint = f" (did you mean '{answer.similar}'?)" if answer.similar else ""
            yield f"{title}: not in the artifact{hint}"
            if not answer.steps:
                yield "no copy would place it:"
                yield from (f"  {copy.spec.source} to {copy.spec.to}" for copy in (one.copy for one in answer.shares))


def _steps(answer: Answer) -> str:
    if not answer.steps:
        return ""
    copies = {share.copy.index: share.copy for share in answer.shares}
    rows = [
        (f"copy[{step.copy}]", step.effect, f"{copies[step.copy].alias}:{step.source}", step.reason or "-")
        for step in answer.steps
    ]
    return "\n" + table(("COPY", "EFFECT", "SOURCE", "WHY"), rows)


# --- JSON ---------------------------------------------------------------------------------------


def _as_json(answer: Answer) -> str:
    namespace, _, name = answer.title.partition("/")
    about: dict[str, Any] = {
        "namespace": namespace,
        "name": name,
        "dialect": answer.dialect or None,
        "error": answer.error,
        "files": None if answer.tree is None else answer.tree.files,
        "size": None if answer.tree is None else answer.tree.size,
        "copies": [_share_document(share) for share in answer.shares],
        "path": _path_document(answer) if answer.path else None,
    }
    return json.dumps(about, indent=2) + "\n"


def _share_document(share: Share) -> dict[str, Any]:
    spec = share.copy.spec
    return {
        "index": share.copy.index,
        "from": spec.source,
        "to": spec.to,
        "strategy": share.copy.strategy.value,
        "matches": share.matches,
        "files": share.files,
        "size": share.size,
        "excluded": [
            {"exclude": text, "files": files} for text, files in zip(spec.exclude, share.excluded, strict=True)
        ],
        "leftOut": list(share.left_out),
        "replaced": [{"copy": one.of, "files": list(one.paths)} for one in share.overwritten],
        "kept": share.kept,
    }


def _path_document(answer: Answer) -> dict[str, Any]:
    placing = [step.copy for step in answer.steps if step.effect in PLACING]
    entry = answer.entry
    return {
        "path": answer.path,
        "type": None if entry is None else "dir" if isinstance(entry, Directory) else "file",
        "size": None if entry is None else _count(entry)[1],
        "copy": placing[-1] if placing and entry is not None else None,
        "steps": [
            {"copy": step.copy, "effect": step.effect.value, "source": step.source, "reason": step.reason or None}
            for step in answer.steps
        ],
        "similar": answer.similar,
    }


_FORMATS: Mapping[ExplainFormat, Callable[[Answer], str]] = {
    ExplainFormat.TEXT: _as_text,
    ExplainFormat.JSON: _as_json,
}
