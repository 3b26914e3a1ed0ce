"""The two sides of a comparison: what is built of manifests and sources, and what is published already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from msgspec import Struct

from sluice.cache import UnpackedCache
from sluice.cli.cluster import Place
from sluice.cli.commits import Commit, checkout_of
from sluice.cli.inputs import Inputs, SourceNotice, note_unused
from sluice.cli.live import Live, LiveArtifacts, LiveLocator
from sluice.cli.locate import Disk, Ground, Locator, parse_locations
from sluice.cli.manifests import Declared, Manifest, declare, read_manifests
from sluice.cli.output import Words
from sluice.cli.published import Published, open_published
from sluice.cli.workshop import Known, Workshop


class Options(Struct, frozen=True, kw_only=True):
    """What the two sides are. Raises `UsageError` for what makes no sense together."""

    manifests: tuple[str, ...]
    from_manifests: tuple[str, ...]
    from_revision: str | None
    to_revision: str | None
    from_sources: tuple[str, ...]
    to_sources: tuple[str, ...]
    against: Path | None
    against_cluster: bool
    place: Place
    storage_url: str

    def __post_init__(self) -> None:
        option = "--against-cluster" if self.against_cluster else "--against"
        if self.is_published and self.is_told:
            raise click.UsageError(f"{option} is a side of its own, without --from, --from-manifest or --from-source")
        if self.against_cluster and self.against is not None:
            raise click.UsageError("--against and --against-cluster are two sides (choose one)")
        if not self.against_cluster and (self.storage_url or self.place != Place()):
            raise click.UsageError("--storage-url, and what says which cluster, are for --against-cluster")

    @property
    def is_published(self) -> bool:
        """Whether the side before is there already, and not to be built."""
        return self.against_cluster or self.against is not None

    @property
    def is_told(self) -> bool:
        """Whether anything says what the side before is built of."""
        return bool(self.from_revision or self.from_manifests or self.from_sources)


class Side(Struct, frozen=True, eq=False):
    """One side that is built: what it is called, its generators, and the files that they lie among."""

    title: str
    declared: Sequence[Declared]
    workshop: Workshop
    ground: Ground


class Sides:
    """Makes sides that share what can be shared: standard input, unpacked archives and compositions."""

    def __init__(self, options: Options, inputs: Inputs, live: Live | None, words: Words) -> None:
        self._options = options
        self._inputs = inputs
        self._live = live
        self._words = words
        self._cache = UnpackedCache()
        self._known = Known()
        self._stdin = read_manifests(["-"]) if "-" in (*options.manifests, *options.from_manifests) else []

    def after(self) -> Side:
        """The side after the change."""
        options = self._options
        return self._side(options.to_revision, options.manifests, options.to_sources)

    def before(self, after: Side) -> Side | Published:
        """The side before it."""
        options = self._options
        if self._live is not None:
            return LiveArtifacts(self._live, [item.key for item in after.declared])
        if options.against is not None:
            return open_published(options.against, self._cache)
        revision = options.from_revision if options.is_told else "HEAD"
        return self._side(revision, options.from_manifests or options.manifests, options.from_sources)

    def _side(self, revision: str | None, manifests: Sequence[str], sources: Sequence[str]) -> Side:
        inputs = self._inputs
        ground, read = self._read(revision, manifests)
        declared = declare(read, inputs.variables, inputs.namespace)
        locator = self._locator(read, sources, ground)
        if declared:
            note_unused(locator, declared, self._words)
        workshop = Workshop(declared, locator, self._cache.unpack, inputs.dialect, inputs.artifacts, self._known)
        return Side(revision or "working tree", declared, workshop, ground)

    def _locator(self, read: Sequence[Manifest], sources: Sequence[str], ground: Ground) -> Locator:
        inputs, notice = self._inputs, SourceNotice(self._words)
        locations = {**parse_locations(inputs.sources), **parse_locations(sources)}
        if self._live is not None:
            return LiveLocator(self._live, locations, read, inputs.variables, self._cache, notice, ground)
        return Locator(locations, read, inputs.variables, self._cache, notice, ground)

    def _read(self, revision: str | None, manifests: Sequence[str]) -> tuple[Ground, list[Manifest]]:
        given = self._stdin if "-" in manifests else []
        if revision is None:
            return Disk(), [*read_manifests([name for name in manifests if name != "-"]), *given]
        commit = Commit(checkout_of(manifests), revision)
        return commit, [*commit.manifests(manifests), *given]
