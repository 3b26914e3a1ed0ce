"""``sluice diff``: what a change makes of artifacts, before it is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
from msgspec import Struct
from msgspec.structs import replace

from sluice.cache import UnpackedCache
from sluice.cli.commits import Commit, checkout_of
from sluice.cli.consumers import Consumers, files_around
from sluice.cli.differences import Comparison, Difference, DiffFormat, State, render
from sluice.cli.inputs import SOURCES, Inputs, SourceNotice, input_options, note_unused
from sluice.cli.locate import Disk, Ground, Locator, parse_locations
from sluice.cli.manifests import Declared, Manifest, declare, read_manifests
from sluice.cli.output import Mark, Words, emit
from sluice.cli.published import Key, open_published
from sluice.cli.workshop import Built, Known, Workshop
from sluice.core.diff import diff_trees
from sluice.core.errors import Code, Problem, SpecError
from sluice.core.tree import EMPTY, Directory

HELP = f"""Show what a change makes of artifacts, before it is made.

MANIFEST is a file, a directory, or - for standard input: the side after the change, as it is on disk
or at --to. The side before it is one of:

\b
  --from REVISION       the checkout at a commit, its manifests and sources
                        (HEAD, where nothing else is asked for)
  --against DIR         what is published: a directory that 'sluice build'
                        or 'sluice serve' wrote
  --from-manifest FILE  other manifests
  --from-source         the same manifests with another source

{SOURCES}
\b
Exit codes:
  0  no difference
  1  artifacts differ, or fail
  2  they could not be compared
"""


class Options(Struct, frozen=True, kw_only=True):
    """What the two sides are."""

    manifests: tuple[str, ...]
    from_manifests: tuple[str, ...]
    from_revision: str | None
    to_revision: str | None
    from_sources: tuple[str, ...]
    to_sources: tuple[str, ...]
    against: Path | None


class Side(Struct, frozen=True, eq=False):
    """One side that is built: what it is called, its generators, and the files that they lie among."""

    title: str
    declared: Sequence[Declared]
    workshop: Workshop
    ground: Ground


class Before(Struct, frozen=True, eq=False):
    """The other side as it is compared: its artifacts, as far as they are there."""

    title: str
    trees: Mapping[Key, Directory]


@click.command("diff", help=HELP)
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@click.option("--from", "from_revision", metavar="REVISION", help="Compare with the checkout at this revision.")
@click.option("--to", "to_revision", metavar="REVISION", help="Compare this revision, instead of what is on disk.")
@click.option(
    "--against", type=click.Path(path_type=Path), metavar="DIR", help="Compare with the artifacts that DIR holds."
)
@click.option(
    "--from-manifest",
    "from_manifests",
    multiple=True,
    metavar="MANIFEST",
    help="Compare with these manifests. Repeatable.",
)
@click.option(
    "--from-source",
    "from_sources",
    multiple=True,
    metavar="KEY=LOCATION",
    help="Where a source is, before. Repeatable.",
)
@click.option(
    "--to-source", "to_sources", multiple=True, metavar="KEY=LOCATION", help="Where a source is, after. Repeatable."
)
@input_options(artifact=True)
@click.option("-p", "--patch", is_flag=True, help="Show how files differ, line by line.")
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice([form.value for form in DiffFormat]),
    default=DiffFormat.TABLE.value,
    show_default=True,
    help="What to print.",
)
def command(
    *,
    manifests: tuple[str, ...],
    from_revision: str | None,
    to_revision: str | None,
    against: Path | None,
    from_manifests: tuple[str, ...],
    from_sources: tuple[str, ...],
    to_sources: tuple[str, ...],
    inputs: Inputs,
    patch: bool,
    form: str,
) -> int:
    """Compare what the options ask for; returns the exit code."""
    if against is not None and (from_revision or from_manifests or from_sources):
        raise click.UsageError("--against is a side of its own, without --from, --from-manifest or --from-source")
    if against is None and not (from_revision or from_manifests or from_sources):
        from_revision = "HEAD"
    options = Options(
        manifests=manifests,
        from_manifests=from_manifests,
        from_revision=from_revision,
        to_revision=to_revision,
        from_sources=from_sources,
        to_sources=to_sources,
        against=against,
    )
    with Words() as words:
        comparison = _compare(options, inputs, words)
        _tell(comparison, words)
    emit(render(comparison, DiffFormat(form), patch=patch))
    return int(bool(comparison.differing))


def _compare(options: Options, inputs: Inputs, words: Words) -> Comparison:
    maker = _Maker(options, inputs, words)
    after = maker.side(options.to_revision, options.manifests, options.to_sources)
    before = None
    if options.against is None:
        before = maker.side(options.from_revision, options.from_manifests or options.manifests, options.from_sources)
    if not after.declared and not (before and before.declared):
        raise SpecError(Problem(Code.NOT_FOUND, "no ArtifactGenerator in it", ", ".join(options.manifests)))
    built = _build(after, words)
    there = _built_before(before, words) if before is not None else _published(options, inputs, maker.cache)
    files = files_around(options.manifests, after.ground)
    consumers = Consumers(files, after.declared, inputs.variables, inputs.namespace)
    differences = [_difference(one, there.trees, consumers) for one in built]
    differences += _gone(built, there.trees, consumers)
    _check_wanted(inputs, differences)
    return Comparison(there.title, after.title, differences)


class _Maker:
    """Makes sides that share what can be shared: standard input, unpacked archives and compositions."""

    def __init__(self, options: Options, inputs: Inputs, words: Words) -> None:
        self.cache = UnpackedCache()
        self._inputs = inputs
        self._words = words
        self._known = Known()
        self._stdin = read_manifests(["-"]) if "-" in (*options.manifests, *options.from_manifests) else []

    def side(self, revision: str | None, manifests: Sequence[str], sources: Sequence[str]) -> Side:
        inputs = self._inputs
        ground, read = self._read(revision, manifests)
        declared = declare(read, inputs.variables, inputs.namespace)
        locations = {**parse_locations(inputs.sources), **parse_locations(sources)}
        locator = Locator(locations, read, inputs.variables, self.cache, SourceNotice(self._words), ground)
        if declared:
            note_unused(locator, declared, self._words)
        workshop = Workshop(declared, locator, self.cache.unpack, inputs.dialect, inputs.artifacts, self._known)
        return Side(revision or "working tree", declared, workshop, ground)

    def _read(self, revision: str | None, manifests: Sequence[str]) -> tuple[Ground, list[Manifest]]:
        given = self._stdin if "-" in manifests else []
        if revision is None:
            return Disk(), [*read_manifests([name for name in manifests if name != "-"]), *given]
        commit = Commit(checkout_of(manifests), revision)
        return commit, [*commit.manifests(manifests), *given]


def _build(side: Side, words: Words) -> list[Built]:
    """The artifacts of a side, in the order of its manifests."""
    words.working(f"planning {side.title}")
    built: list[Built] = []
    for item in side.workshop.plan(strict=False):
        words.working(f"building {item.generator}")
        built += side.workshop.builds(item)
    position = {item.key: number for number, item in enumerate(side.declared)}
    return sorted(built, key=lambda one: position[one.declared.key])


def _built_before(side: Side, words: Words) -> Before:
    trees: dict[Key, Directory] = {}
    for one in _build(side, words):
        if one.composition is None:
            words.say(Mark.WARNING, f"{one.title} cannot be built from {side.title}: {one.error}")
        else:
            trees[one.namespace, one.name] = one.composition.tree
    return Before(side.title, trees)


def _published(options: Options, inputs: Inputs, cache: UnpackedCache) -> Before:
    assert options.against is not None
    published = open_published(options.against, cache)
    trees = {key: published.tree(key) for key in published.keys() if _is_wanted(inputs, key)}  # noqa: SIM118  # no mapping
    return Before(str(options.against), trees)


def _is_wanted(inputs: Inputs, key: Key) -> bool:
    return not inputs.artifacts or not {key[1], "/".join(key)}.isdisjoint(inputs.artifacts)


def _difference(built: Built, before: Mapping[Key, Directory], consumers: Consumers) -> Difference:
    tree = before.get((built.namespace, built.name))
    composition = built.composition
    about = Difference(
        namespace=built.namespace,
        name=built.name,
        generator=built.declared.generator.name,
        state=State.FAILING,
        before=None if tree is None else tree.digest,
        consumers=consumers.of(built.declared.key, built.name) if built.name else (),
    )
    if composition is None:
        return replace(about, error=str(built.error))
    after = composition.tree
    about = replace(about, after=after.digest, state=State.NEW if tree is None else State.CHANGED)
    if about.before == about.after:
        return replace(about, state=State.UNCHANGED)
    return replace(about, changes=list(diff_trees(tree or EMPTY, after)))


def _gone(built: Sequence[Built], before: Mapping[Key, Directory], consumers: Consumers) -> Iterator[Difference]:
    made = {(one.namespace, one.name) for one in built}
    # Of a generator whose artifacts cannot be listed, none can be missed.
    unlisted = {one.namespace for one in built if not one.name}
    for key, tree in before.items():
        if key not in made and key[0] not in unlisted:
            yield Difference(
                namespace=key[0],
                name=key[1],
                state=State.GONE,
                changes=list(diff_trees(tree, EMPTY)),
                before=tree.digest,
                consumers=consumers.of_gone(key),
            )


def _check_wanted(inputs: Inputs, differences: Sequence[Difference]) -> None:
    keys = [(one.namespace, one.name) for one in differences]
    problems = [
        Problem(Code.NOT_FOUND, f"no artifact '{name}' on either side", "--artifact")
        for name in inputs.artifacts
        if not any(name in (key[1], "/".join(key)) for key in keys)
    ]
    if problems and all(one.name for one in differences):
        raise SpecError(problems)


def _tell(comparison: Comparison, words: Words) -> None:
    for one in comparison.differences:
        if one.error is not None:
            words.say(Mark.FAILURE, f"{one.title}: {one.error}")
    mark = Mark.ACTION if comparison.differing else Mark.SUCCESS
    words.say(mark, f"{comparison.before} to {comparison.after}: {comparison.summary}")
