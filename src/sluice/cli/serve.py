"""``sluice serve``: a directory of manifests, served without a cluster."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import structlog

from sluice.cli.inputs import SOURCES, Inputs, input_options
from sluice.cli.locate import Disk, Finder, parse_locations
from sluice.cli.manifests import SOURCE_GROUP, SUFFIXES, Manifest, find_objects, list_yaml
from sluice.cli.output import Mark, Words, shorten_revision
from sluice.cli.variables import substitute
from sluice.control.ports import Settings
from sluice.core.dialect import DIALECTS
from sluice.core.errors import BuildError, SluiceError, SourceError
from sluice.core.spec import SourceKind, SourceRef
from sluice.embedded import ServeOptions, run_server
from sluice.embedded.sources import Wanted
from sluice.local.manifests import Reader
from sluice.logs import Encoding, Level, configure, logger
from sluice.server import split_address
from sluice.sources import Found

HELP = f"""Serve the artifacts of the generators below DIRECTORY, without a cluster.

Manifests and sources are watched: what is saved is served within a second. State is kept in
DIRECTORY/.sluice; one process serves a directory at a time.

{SOURCES}
\\b
Exit codes:
  0  ended by a signal
  1  it cannot serve: the address is taken, the directory cannot be written
  2  an option is wrong
"""


class _Ground(Disk):
    """The files around manifests; which of them may hold source objects is remembered."""

    def __init__(self, declaring: dict[Path, set[str]]) -> None:
        super().__init__()
        self._declaring = declaring

    def files(self, root: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
        if root not in self._declaring:
            self._declaring[root] = {file for file in list_yaml(str(root), []) if _declares(Path(file))}
        for file in sorted(self._declaring[root]):
            yield file, Path(file).read_bytes


def _declares(file: Path) -> bool:
    try:
        return SourceKind.GIT_REPOSITORY.encode() in file.read_bytes()
    except OSError:
        return False


class ServedFinder:
    """Finds sources as `sluice build` does, and knows which changes may lead elsewhere."""

    def __init__(self, directory: Path, inputs: Inputs) -> None:
        self._directory = directory
        self._locations = parse_locations(inputs.sources)
        self._variables = inputs.variables
        self._declaring: dict[Path, set[str]] = {}
        self._checked = False

    def is_given(self, ref: SourceRef) -> bool:
        return any(key.fits(ref) for key in self._locations)

    def find(self, needed: Mapping[SourceRef, Sequence[Wanted]]) -> Mapping[SourceRef, Found | SourceError]:
        finder = Finder(
            self._locations, list(_source_objects(self._directory)), self._variables, _Ground(self._declaring)
        )
        if not self._checked:
            self._checked = True
            for key in finder.unused([ref for wanted in needed.values() for ref, _ in wanted]):
                logger().warning(f"--source {key}: no generator has such a source")
        return {ref: _find(finder, wanted) for ref, wanted in needed.items()}

    def concerned(self, changed: Iterable[Path] | None) -> bool:
        """Note which files say where sources are; tells whether one of these does, or did."""
        if changed is None:
            self._declaring.clear()
            return True
        told = False
        for path in changed:
            told |= _is_origin(path)
            told |= self._note(path)
        return told

    def _note(self, changed: Path) -> bool:
        told = False
        for root, files in self._declaring.items():
            if changed.is_relative_to(root) and not any(
                name.startswith(".") for name in changed.relative_to(root).parts
            ):
                before = {file for file in files if Path(file).is_relative_to(changed)}
                now = {file for file in _yaml_at(changed) if _declares(Path(file))}
                files -= before
                files |= now
                told |= bool(before or now)
        return told


def _is_origin(path: Path) -> bool:
    """Whether a file tells the URL of a checkout's origin."""
    return path.name == "config" and path.parent.name == ".git"


def _yaml_at(path: Path) -> Iterable[str]:
    if path.is_dir():
        return list_yaml(str(path), [])
    return [str(path)] if path.name.lower().endswith(SUFFIXES) else []


def _find(finder: Finder, wanted: Sequence[Wanted]) -> Found | SourceError:
    """Where a source is: one that the user told counts more than any that generators lead to."""
    error = None
    for ref, home in sorted(wanted, key=lambda item: finder.location(item[0]) is None):
        try:
            return finder.find(ref, home)
        except SourceError as caught:
            error = error or SourceError(str(caught), caught.code)  # without the traceback, which holds the manifests
    assert error is not None
    return error


def _source_objects(directory: Path) -> Iterator[Manifest]:
    """The source objects below a directory; whoever reads the manifests tells what is wrong with them."""
    for file in list_yaml(str(directory), []):
        try:
            data = Path(file).read_bytes()
            if SOURCE_GROUP.encode() in data:
                yield from find_objects(file, data)
        except (OSError, BuildError):
            continue


_WORDS: Final[Mapping[str, tuple[Mark, str]]] = {
    "serving": (Mark.ACTION, "serving {directory} at {url}"),
    "source": (Mark.ACTION, "{source}: {location} at {revision}"),
    "published": (Mark.SUCCESS, "{artifact} {revision} {url}"),
    "withdrawn": (Mark.SUCCESS, "{artifact} is gone"),
    "recovered": (Mark.SUCCESS, "{generator} is ready again"),
    "stopped": (Mark.ACTION, "stopped"),
}
"""How lines of the log look to people; what is not listed is told as it is."""
_MARKS: Final = {"error": Mark.FAILURE, "warning": Mark.WARNING}


class _Screen:
    """Says what is logged to people. The good news of generators is that of their artifacts."""

    def __init__(self, *, everything: bool) -> None:
        self._words = Words()
        self._everything = everything

    def __call__(self, _: object, __: str, event: MutableMapping[str, Any]) -> NoReturn:
        level, text = event["level"], str(event["event"])
        about = event.get("ArtifactGenerator")
        if (known := _WORDS.get(text)) is not None:
            mark, form = known
            values = {key: shorten_revision(value) if key == "revision" else value for key, value in event.items()}
            self._words.say(mark, form.format(**values))
        elif about is None or level in _MARKS or self._everything:
            who = f"{about['namespace']}/{about['name']}: " if about is not None else ""
            for line in f"{who}{text}\n{event.get('exception', '')}".splitlines():
                self._words.say(_MARKS.get(level, Mark.ACTION), line)
        raise structlog.DropEvent


@click.command("serve", help=HELP)
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@input_options(artifact=False)
@click.option(
    "--storage-addr",
    default="127.0.0.1:9090",
    show_default=True,
    metavar="HOST:PORT",
    help="Where artifacts are served; port 0 is any.",
)
@click.option("--storage-adv-addr", default="", metavar="HOST:PORT", help="What their URLs begin with instead.")
@click.option("--metrics-addr", default="", metavar="HOST:PORT", help="Where metrics are served. [default: nowhere]")
@click.option("--atomic", is_flag=True, help="Publish nothing of a generator unless all of it builds.")
@click.option("--poll", is_flag=True, help="Look for changes twice a second, where the file system does not tell.")
@click.option(
    "--log-level",
    type=click.Choice([level.value for level in Level]),
    default=Level.INFO.value,
    show_default=True,
    help="How much is told.",
)
@click.option(
    "--log-encoding",
    type=click.Choice([encoding.value for encoding in Encoding]),
    default=Encoding.CONSOLE.value,
    show_default=True,
    help="Words for people on standard error, or lines of JSON on standard output.",
)
def command(directory: Path, inputs: Inputs, log_level: str, log_encoding: str, **flags: Any) -> NoReturn:
    """Serve until a signal."""
    screen = _Screen(everything=log_level in (Level.DEBUG, Level.TRACE))
    configure(log_level, Encoding(log_encoding), screen)
    options = _options(directory.resolve(), inputs, flags)
    try:
        code = asyncio.run(run_server(options))
    except SluiceError as error:
        logger().error(str(error))
        code = 1
    sys.stdout.flush()
    # Threads that still build something would hold the process up; the next start does it again.
    os._exit(code)


def _options(directory: Path, inputs: Inputs, flags: Mapping[str, Any]) -> ServeOptions:
    try:
        split_address(flags["storage_addr"])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--storage-addr") from error
    return ServeOptions(
        directory=directory,
        settings=Settings(
            dialect=DIALECTS[inputs.dialect],
            atomic=flags["atomic"],
            min_retry=0.2,
            max_retry=60.0,
            requeue_dependency=30.0,
        ),
        reader=Reader(
            directory,
            namespace=inputs.namespace,
            fill=lambda manifest, problems: substitute(manifest, inputs.variables, problems),
        ),
        finder=ServedFinder(directory, inputs),
        address=flags["storage_addr"],
        advertised_address=flags["storage_adv_addr"],
        hostname=os.environ.get("HOSTNAME") or "localhost",
        metrics_address=flags["metrics_addr"],
        poll=flags["poll"],
    )
