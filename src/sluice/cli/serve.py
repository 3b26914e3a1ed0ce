"""``sluice serve``: a directory of manifests, served without a cluster."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from sluice.cache import UnpackedCache
from sluice.cli.inputs import parse_variables
from sluice.cli.locate import Locator, parse_locations
from sluice.cli.manifests import Manifest, find_objects, list_yaml
from sluice.cli.variables import substitute
from sluice.control.ports import Settings
from sluice.core.dialect import DIALECTS, DialectName
from sluice.core.errors import BuildError, SourceError
from sluice.core.plan import Source
from sluice.core.spec import SourceRef
from sluice.embedded import Opening, ServeOptions, run_server
from sluice.local.manifests import Reader
from sluice.logs import Encoding, configure
from sluice.server import advertised_base


class _Opener:
    """Finds sources as `sluice build` does, anew each time: what is on disk may have changed."""

    def __init__(self, directory: Path, sources: tuple[str, ...], variables: Mapping[str, str]) -> None:
        self._directory = directory
        self._locations = parse_locations(sources)
        self._variables = variables

    def __call__(
        self, refs: Mapping[SourceRef, Path], cache: UnpackedCache
    ) -> Mapping[SourceRef, Opening | SourceError]:
        places: dict[SourceRef, str] = {}

        def note(ref: SourceRef, location: str, source: Source) -> None:
            places[ref] = location

        locator = Locator(self._locations, list(_manifests(self._directory)), self._variables, cache, note)
        opened: dict[SourceRef, Opening | SourceError] = {}
        for ref, home in refs.items():
            try:
                source = locator.open(ref, home)
            except SourceError as error:
                opened[ref] = error
                continue
            path = Path(places.get(ref, "").partition("@")[0])
            opened[ref] = Opening(source, path.resolve() if path.exists() else None)
        return opened


def _manifests(directory: Path) -> Iterator[Manifest]:
    for file in list_yaml(str(directory), []):
        try:
            yield from find_objects(file, Path(file).read_bytes())
        except (OSError, BuildError):
            continue  # whoever reads the manifests tells what is wrong with them


@click.command("serve")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-s",
    "--source",
    "sources",
    multiple=True,
    metavar="KEY=LOCATION",
    help="Where a source is, as in build. Repeatable.",
)
@click.option(
    "--var", "variables", multiple=True, metavar="NAME=VALUE", help="A variable of the manifests. Repeatable."
)
@click.option("-n", "--namespace", default="default", show_default=True, help="Of manifests that name none.")
@click.option(
    "--dialect",
    type=click.Choice([name.value for name in DialectName]),
    default=DialectName.DOCUMENTED.value,
    show_default=True,
    help="How copies are read, where a generator does not say.",
)
@click.option("--storage-addr", default="127.0.0.1:9090", show_default=True, help="Where artifacts are served.")
@click.option("--storage-adv-addr", default="", help="Host and port in the URLs of artifacts.")
@click.option("--metrics-addr", default="", help="Where metrics are served. [default: nowhere]")
@click.option("--atomic", is_flag=True, help="Publish nothing of a generator unless all of it builds.")
@click.option("--log-level", default="info", show_default=True, help="trace, debug, info or error.")
@click.option(
    "--log-encoding", type=click.Choice([name.value for name in Encoding]), default="console", show_default=True
)
def command(directory: Path, **flags: Any) -> int:
    """Serve the artifacts of the generators below DIRECTORY, without a cluster.

    Manifests and sources are watched: what is saved is served within a second. Sources are found
    as `sluice build` finds them. State is kept in DIRECTORY/.sluice.
    """
    configure(flags["log_level"], Encoding(flags["log_encoding"]))
    directory = directory.resolve()
    variables = parse_variables(flags["variables"])
    hostname = os.environ.get("HOSTNAME", "localhost")
    options = ServeOptions(
        directory=directory,
        settings=Settings(
            dialect=DIALECTS[DialectName(flags["dialect"])],
            base_url=advertised_base(flags["storage_addr"], flags["storage_adv_addr"], hostname),
            atomic=flags["atomic"],
            min_retry=0.2,
            requeue_dependency=1.0,
        ),
        reader=Reader(
            directory,
            namespace=flags["namespace"],
            fill=lambda manifest, problems: substitute(manifest, variables, problems),
        ),
        opener=_Opener(directory, flags["sources"], variables),
        address=flags["storage_addr"],
        metrics_address=flags["metrics_addr"],
    )
    code = asyncio.run(run_server(options))
    sys.stdout.flush()
    # Threads that still build something would hold the process up; the next start does it again.
    os._exit(code)
