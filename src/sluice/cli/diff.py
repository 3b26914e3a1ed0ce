"""``sluice diff``: what a change makes of artifacts, before it is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import click
from msgspec import Struct
from msgspec.structs import replace

from sluice.cli.cluster import Place, cluster_options
from sluice.cli.consumers import Consumers, files_around
from sluice.cli.contents import storage_option
from sluice.cli.differences import Comparison, Difference, DiffFormat, State, render
from sluice.cli.inputs import SOURCES, Inputs, input_options
from sluice.cli.live import Live, LiveArtifacts, LiveConsumers, open_live
from sluice.cli.output import Mark, Words, emit
from sluice.cli.published import Key, Published
from sluice.cli.sides import Options, Side, Sides
from sluice.cli.workshop import Built
from sluice.core.diff import diff_trees
from sluice.core.errors import ApiError, Code, Problem, SpecError
from sluice.core.tree import EMPTY, Directory

HELP = f"""Show what a change makes of artifacts, before it is made.

MANIFEST is a file, a directory, or - for standard input: the side after the change, as it is on disk
or at --to. The side before it is one of:

\b
  --from REVISION       the checkout at a commit, its manifests and sources
                        (HEAD, where nothing else is asked for)
  --against DIR         what is published: a directory that 'sluice build'
                        or 'sluice serve' wrote
  --against-cluster     what the same generators have published in a cluster
  --from-manifest FILE  other manifests
  --from-source         the same manifests with another source

{SOURCES}
With --against-cluster, what is nowhere at hand is taken from the cluster, as its source objects offer it now.

\b
Exit codes:
  0  no difference
  1  artifacts differ, or fail
  2  they could not be compared
"""


class Before(Struct, frozen=True, eq=False):
    """The other side as it is compared: its artifacts, as far as they are there.

    `conflicts` are artifacts that could not be published there, whatever they hold.
    """

    title: str
    trees: Mapping[Key, Directory]
    conflicts: Mapping[Key, ApiError] = {}


@click.command("diff", help=HELP)
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@click.option("--from", "from_revision", metavar="REVISION", help="Compare with the checkout at this revision.")
@click.option("--to", "to_revision", metavar="REVISION", help="Compare this revision, instead of what is on disk.")
@click.option(
    "--against", type=click.Path(path_type=Path), metavar="DIR", help="Compare with the artifacts that DIR holds."
)
@click.option("--against-cluster", is_flag=True, help="Compare with the artifacts that a cluster has published.")
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
@cluster_options
@storage_option
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
    against_cluster: bool,
    from_manifests: tuple[str, ...],
    from_sources: tuple[str, ...],
    to_sources: tuple[str, ...],
    inputs: Inputs,
    place: Place,
    storage_url: str,
    patch: bool,
    form: str,
) -> int:
    """Compare what the options ask for; returns the exit code."""
    options = Options(
        manifests=manifests,
        from_manifests=from_manifests,
        from_revision=from_revision,
        to_revision=to_revision,
        from_sources=from_sources,
        to_sources=to_sources,
        against=against,
        against_cluster=against_cluster,
        storage_url=storage_url,
        place=place,
    )
    with Words() as words:
        with open_live(place, storage_url, words) if against_cluster else nullcontext() as live:
            comparison = _compare(options, inputs, live, words)
        _tell(comparison, words)
    emit(render(comparison, DiffFormat(form), patch=patch))
    return int(bool(comparison.differing))


def _compare(options: Options, inputs: Inputs, live: Live | None, words: Words) -> Comparison:
    sides = Sides(options, inputs, live, words)
    after = sides.after()
    before = sides.before(after)
    if not after.declared and not (isinstance(before, Side) and before.declared):
        raise SpecError(Problem(Code.NOT_FOUND, "no ArtifactGenerator in it", ", ".join(options.manifests)))
    files = files_around(options.manifests, after.ground)
    written = Consumers(files, after.declared, inputs.variables, inputs.namespace)
    consumers = written if live is None else LiveConsumers(live, after.declared, written)
    built = _build(after, words)
    there = _built_before(before, words) if isinstance(before, Side) else _published(before, inputs, built)
    differences = [_difference(one, there, consumers) for one in built]
    differences += _gone(built, there.trees, consumers)
    _check_wanted(inputs, differences)
    comparison = Comparison(there.title, after.title, differences)
    if isinstance(before, LiveArtifacts):
        _tell_of_others(before, comparison, words)
    return comparison


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


def _published(published: Published, inputs: Inputs, built: Sequence[Built]) -> Before:
    made = {(one.namespace, one.name): one.composition for one in built}
    unlisted = _unlisted(built)
    trees: dict[Key, Directory] = {}
    for key in published.keys():  # noqa: SIM118  no mapping
        composition = made.get(key)
        # What fails now stays published, whatever it holds.
        is_compared = composition is not None or (key not in made and key[0] not in unlisted)
        if is_compared and _is_wanted(inputs, key):
            trees[key] = _published_tree(published, key, None if composition is None else composition.tree)
    return Before(published.title, trees, published.conflicts(made))


def _published_tree(published: Published, key: Key, made: Directory | None) -> Directory:
    if made is None:
        return published.tree(key)
    if published.holds(key, made):
        return made
    found = published.tree(key)
    # Of two that are equal, what was made is kept: the other has open files of its own.
    return made if made.digest == found.digest else found


def _unlisted(built: Sequence[Built]) -> set[str]:
    """The namespaces of generators whose artifacts cannot be listed: there, none can be missed."""
    return {one.namespace for one in built if not one.name}


def _is_wanted(inputs: Inputs, key: Key) -> bool:
    return not inputs.artifacts or not {key[1], "/".join(key)}.isdisjoint(inputs.artifacts)


def _difference(built: Built, before: Before, consumers: Consumers | LiveConsumers) -> Difference:
    tree = before.trees.get((built.namespace, built.name))
    composition = built.composition
    about = Difference(
        namespace=built.namespace,
        name=built.name,
        generator=built.declared.generator.name,
        state=State.FAILING,
        before=None if tree is None else tree.digest,
        consumers=consumers.of(built.declared.key, built.name) if built.name else (),
    )
    error = built.error or before.conflicts.get((built.namespace, built.name))
    if composition is None or error is not None:
        return replace(about, error=str(error))
    after = composition.tree
    about = replace(about, after=after.digest, state=State.NEW if tree is None else State.CHANGED)
    if about.before == about.after:
        return replace(about, state=State.UNCHANGED)
    return replace(about, changes=list(diff_trees(tree or EMPTY, after)))


def _gone(
    built: Sequence[Built], before: Mapping[Key, Directory], consumers: Consumers | LiveConsumers
) -> Iterator[Difference]:
    made = {(one.namespace, one.name) for one in built}
    unlisted = _unlisted(built)
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


def _tell_of_others(live: LiveArtifacts, comparison: Comparison, words: Words) -> None:
    """Say what else matters in the cluster."""
    for one in live.suspended():
        words.say(Mark.WARNING, f"{one.title} is suspended: it publishes nothing until it is resumed")
    moving = [(one.namespace, one.name) for one in comparison.differing if one.state is not State.FAILING]
    for one, key in live.readers(moving):
        words.say(Mark.WARNING, f"{one.title} reads {'/'.join(key)}: what it makes of it is not compared")


def _tell(comparison: Comparison, words: Words) -> None:
    for one in comparison.differences:
        if one.error is not None:
            words.say(Mark.FAILURE, f"{one.title}: {one.error}")
    mark = Mark.ACTION if comparison.differing else Mark.SUCCESS
    words.say(mark, f"{comparison.before} to {comparison.after}: {comparison.summary}")
