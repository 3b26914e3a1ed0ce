"""``sluice build``: compose artifacts from files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from msgspec.structs import replace

from sluice.cache import UnpackedCache
from sluice.cli.archives import ArchiveWriter
from sluice.cli.inputs import SOURCES, Inputs, SourceNotice, input_options, note_unused
from sluice.cli.locate import Locator, parse_locations
from sluice.cli.manifests import Declared, declare, read_manifests
from sluice.cli.output import Mark, Words, emit
from sluice.cli.report import Format, Result, render
from sluice.cli.trees import TreeWriter
from sluice.cli.workshop import Built, Workshop
from sluice.core.errors import BuildError, Code, Problem, SluiceError, SourceError, SpecError, StorageError

HELP = f"""Compose the artifacts of ArtifactGenerators, from files.

MANIFEST is a file, a directory, or - for standard input. Without -d or --archives nothing is
written: the result is printed.

{SOURCES}
\b
Exit codes:
  0  everything was built
  1  an artifact failed; the others are built
  2  nothing was attempted: a manifest or an option is wrong
"""

SHOWN = 3
"""Names of files that one line of words lists."""


@click.command("build", help=HELP)
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@input_options(artifact=True)
@click.option(
    "-d",
    "--directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write artifacts as directories, DIR/<namespace>/<artifact>.",
)
@click.option(
    "--archives",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write artifacts as archives, with ExternalArtifact manifests.",
)
@click.option(
    "--url-prefix",
    default="http://localhost:9090",
    show_default=True,
    metavar="URL",
    help="Where the archives will be served; goes into the manifests.",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice([form.value for form in Format]),
    default=Format.TABLE.value,
    show_default=True,
    help="What to print.",
)
def command(
    *,
    manifests: tuple[str, ...],
    inputs: Inputs,
    directory: Path | None,
    archives: Path | None,
    url_prefix: str,
    form: str,
) -> int:
    """Build what the options ask for; returns the exit code."""
    with Words() as words:
        read = read_manifests(manifests)
        declared = declare(read, inputs.variables, inputs.namespace)
        if not declared:
            raise SpecError(Problem(Code.NOT_FOUND, "no ArtifactGenerator in it", ", ".join(manifests)))
        cache = UnpackedCache()
        locator = Locator(parse_locations(inputs.sources), read, inputs.variables, cache, SourceNotice(words))
        note_unused(locator, declared, words)
        workshop = Workshop(declared, locator, cache.unpack, inputs.dialect, inputs.artifacts)
        words.working("planning")
        order = workshop.plan()
        warnings = [_nothing_matches(item) for item in workshop.empty()]
        for warning in warnings:
            words.say(Mark.WARNING, warning)
        trees = None if directory is None else TreeWriter(directory)
        store = None if archives is None else ArchiveWriter(archives, url_prefix)
        results = []
        for built in _build_all(workshop, order, words):
            results.append(_keep(built, trees, store))
            _tell(results[-1], words)
        _tell_written(directory, archives, results, words)
    position = {item.key: number for number, item in enumerate(declared)}
    results.sort(key=lambda result: position[result.built.declared.key])
    emit(render(results, warnings, Format(form)))
    return int(any(result.error is not None for result in results))


def _nothing_matches(item: Declared) -> str:
    return f"{item.generator}: no directory matches '{item.generator.path_pattern}': no artifacts"


def _build_all(workshop: Workshop, order: Sequence[Declared], words: Words) -> Iterator[Built]:
    for item in order:
        words.working(f"building {item.generator}")
        yield from workshop.builds(item)


def _keep(built: Built, trees: TreeWriter | None, store: ArchiveWriter | None) -> Result:
    """Write an artifact, unless it failed."""
    composition = built.composition
    if composition is None:
        return Result(built, _text(built.error))
    result = Result(built, None, composition.warnings)
    try:
        if store is not None:
            result = replace(result, archive=store.write(built))
        if trees is not None:
            trees.write(built.namespace, built.name, composition.tree)
    except (StorageError, BuildError, SourceError) as error:
        return replace(result, error=_text(error))
    return result


def _text(error: SluiceError | None) -> str:
    return str(error)


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"{len(paths)} file{'s' * (len(paths) != 1)} ({', '.join(paths[:SHOWN])}{more})"


def _tell(result: Result, words: Words) -> None:
    composition = result.built.composition
    left_out = composition.left_out if composition else ()
    for warning in (*result.warnings, *([f"left out: {_some(left_out)}"] if left_out else [])):
        words.say(Mark.WARNING, f"{result.built.title}: {warning}")
    if result.error is not None:
        words.say(Mark.FAILURE, f"{result.built.title}: {result.error}")


def _tell_written(directory: Path | None, archives: Path | None, results: Sequence[Result], words: Words) -> None:
    built = sum(result.error is None for result in results)
    for place, what in ((directory, "directories"), (archives, "archives")):
        if place is not None and built:
            words.say(Mark.CREATED, f"{what} in {place}")
    if built == len(results):
        words.say(Mark.SUCCESS, f"built {built} artifact{'s' * (built != 1)}")
    else:
        words.say(Mark.FAILURE, f"built {built} of {len(results)} artifacts")
