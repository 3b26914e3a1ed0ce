"""A cluster as one side of a comparison: what it has published, who deploys that, and what its sources offer.

A comparison asks one question after another, and so does everything here: the event loop that it takes
lives as long as the side is open.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path

from sluice.cli.cluster import NotServed, Place, World
from sluice.cli.consumers import Consumer, Consumers
from sluice.cli.download import fetch_archive
from sluice.cli.lineage import HELM_RELEASE, KUSTOMIZATION, readable
from sluice.cli.locate import Ground, Locator
from sluice.cli.locate import Key as LocationKey
from sluice.cli.manifests import Declared, Manifest
from sluice.cli.objects import Artifact, Object, is_artifact
from sluice.cli.output import Mark, Words
from sluice.control.objects import GENERATOR_LABEL, ORIGIN_REVISION
from sluice.core.errors import ApiError, Code, SluiceError, SourceError
from sluice.core.plan import Source
from sluice.core.spec import SourceKind, SourceRef
from sluice.core.tree import Directory
from sluice.kube.kinds import ARTIFACT_GENERATOR, EXTERNAL_ARTIFACT, SOURCE_KINDS, Key, Kind
from sluice.sources import Cache

ATTEMPTS = 3
"""How often an artifact is fetched that is replaced again and again meanwhile."""


class Live:
    """A cluster that answers at once. Raises `ApiError` and, for archives, `SourceError`."""

    def __init__(self, title: str, world: World, runner: asyncio.Runner, storage_url: str, words: Words) -> None:
        self.title = title
        self._world = world
        self._runner = runner
        self._storage_url = storage_url
        self._words = words

    def get(self, kind: Kind, key: Key) -> Object:
        return self._runner.run(self._world.get(kind, key))

    def listed(self, kind: Kind, namespace: str) -> Sequence[Object]:
        self._words.working(f"reading {kind.plural}")
        return self._runner.run(self._world.list(kind, namespace))

    def readable(self, kind: Kind, namespaces: Sequence[str]) -> Sequence[Object]:
        """The objects of all namespaces, or as many as may be read; what is missing is said."""
        self._words.working(f"reading {kind.plural}")
        try:
            return self._runner.run(readable(self._world, kind, namespaces, self._words))
        except NotServed:
            self._words.say(Mark.WARNING, f"the cluster does not know {kind.resource}")
            return []

    def tree(self, one: Object) -> Directory:
        """What the archive of an artifact or source holds, checked."""
        self._words.working(f"fetching {one.title}")
        return self._runner.run(self._fetch(one))

    async def _fetch(self, one: Object) -> Directory:
        # The store of artifacts is not where the archives of sources are.
        is_ours = one.kind == EXTERNAL_ARTIFACT.name
        storage_url = self._storage_url if is_ours else ""
        async with fetch_archive(self._world, one, storage_url, advise=is_ours) as archive:
            return archive.unpack().tree


@contextmanager
def open_live(place: Place, storage_url: str, words: Words) -> Iterator[Live]:
    """A cluster, as long as the block runs."""
    # Before there is a loop: a plugin may ask questions, and is interrupted like everything else.
    credentials = place.credentials(terminal=sys.stdin is not None and sys.stdin.isatty())
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        world = runner.run(stack.enter_async_context(place.open(credentials)))
        try:
            yield Live(place.context or "cluster", world, runner, storage_url, words)
        finally:
            runner.run(stack.aclose())


class LiveArtifacts:
    """The artifacts that some generators have published in a cluster: a `Published`."""

    def __init__(self, live: Live, generators: Collection[Key]) -> None:
        """Look what there is. Raises `ApiError`."""
        self.title = live.title
        self._live = live
        self._generators = generators
        namespaces = sorted({namespace for namespace, _ in generators})
        self._there = {one.key: one for one in live.readable(ARTIFACT_GENERATOR, namespaces)}
        makers = {one.metadata.uid: key for key, one in self._there.items()}
        self._ours: dict[Key, Object] = {}
        self._others: dict[Key, Object] = {}
        for namespace in namespaces:
            for one in live.listed(EXTERNAL_ARTIFACT, namespace):
                mine = self._ours if _maker(one, makers) in generators else self._others
                mine[one.key] = one

    def keys(self) -> Sequence[Key]:
        return [key for key, one in self._ours.items() if one.status.artifact is not None]

    def holds(self, key: Key, tree: Directory) -> bool:
        artifact = self._ours[key].status.artifact
        return artifact is not None and _tells_of(artifact, tree.digest.hex())

    def tree(self, key: Key) -> Directory:
        one = self._ours[key]
        for _ in range(ATTEMPTS - 1):
            try:
                return self._live.tree(one)
            except SourceError:
                # Between the list and the download a controller may have published the next revision.
                now = self._live.get(EXTERNAL_ARTIFACT, key)
                if now.status.artifact == one.status.artifact:
                    raise
                one = now
        return self._live.tree(one)

    def conflicts(self, keys: Collection[Key]) -> Mapping[Key, ApiError]:
        """Those of these artifacts that cannot be published, because the name is somebody else's."""
        found: dict[Key, ApiError] = {}
        for key in keys:
            one = self._others.get(key)
            if one is not None and not self._is_orphaned(one):
                owner = one.origin
                who = f"{owner.kind} {owner.namespace}/{owner.name}" if owner else "nobody we know"
                found[key] = ApiError(f"{one.title} belongs to {who} (delete it, or choose another name)")
        return found

    def _is_orphaned(self, one: Object) -> bool:
        """Whether it is a generator's that is gone: then the next of the same namespace takes it over."""
        owner = one.origin
        if owner is None or owner.kind != ARTIFACT_GENERATOR.name or owner.namespace != one.key[0]:
            return False
        try:
            self._live.get(ARTIFACT_GENERATOR, (owner.namespace, owner.name))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return True
            raise
        return False

    def suspended(self) -> list[Object]:
        """Those of the generators that are not reconciled at present."""
        return [one for key, one in self._there.items() if key in self._generators and one.is_suspended]

    def readers(self, keys: Collection[Key]) -> Iterator[tuple[Object, Key]]:
        """The generators beside those in question that read one of these artifacts."""
        for generator, one in self._there.items():
            if generator not in self._generators:
                read = {(ref.namespace, ref.name) for ref in one.sources if is_artifact(ref)}
                yield from ((one, key) for key in keys if key in read)


def _maker(one: Object, makers: Mapping[str, Key]) -> Key | None:
    """The generator that an artifact is of, as a controller sees it."""
    if owner := one.origin:
        return (owner.namespace, owner.name) if owner.kind == ARTIFACT_GENERATOR.name else None
    return makers.get(one.metadata.labels.get(GENERATOR_LABEL, ""))


def _tells_of(artifact: Artifact, contents: str) -> bool:
    """Whether the revision, or the name of the file, is that of these contents."""
    name = artifact.path.rpartition("/")[2]
    return artifact.revision == f"latest@sha256:{contents}" or name.startswith(f"{contents[:32]}-")


class LiveConsumers:
    """The consumers in a cluster, and in some files; one that is in both is as the file has it."""

    def __init__(self, live: Live, declared: Sequence[Declared], written: Consumers) -> None:
        namespaces = sorted({item.generator.namespace for item in declared})
        self._written = written
        self._live = [
            Consumer(
                kind=kind.name,
                namespace=one.key[0],
                name=one.key[1],
                artifact_namespace=one.origin.namespace,
                artifact=one.origin.name,
                is_suspended=one.is_suspended,
            )
            for kind in (KUSTOMIZATION, HELM_RELEASE)
            for one in live.readable(kind, namespaces)
            if one.origin is not None and is_artifact(one.origin)
        ]

    def of(self, generator: Key, name: str) -> Sequence[Consumer]:
        """The consumers of an artifact of one of the given generators."""
        return self._with_live(self._written.of(generator, name), (generator[0], name))

    def of_gone(self, key: Key) -> Sequence[Consumer]:
        """The consumers of an artifact that no generator makes any more."""
        return self._with_live(self._written.of_gone(key), key)

    def _with_live(self, written: Sequence[Consumer], key: Key) -> Sequence[Consumer]:
        names = {(one.kind, one.namespace or key[0], one.name) for one in written}
        feeding = [one for one in self._live if one.feeds_on(key)]
        return [*written, *(one for one in feeding if (one.kind, one.namespace, one.name) not in names)]


class LiveLocator(Locator):
    """Takes from a cluster what is nowhere at hand: the archive that a source object offers now."""

    def __init__(
        self,
        live: Live,
        locations: Mapping[LocationKey, str],
        manifests: Sequence[Manifest],
        variables: Mapping[str, str],
        cache: Cache,
        notice: Callable[[SourceRef, str, Source], None],
        ground: Ground,
    ) -> None:
        super().__init__(locations, manifests, variables, cache, notice, ground)
        self._live = live
        self._offers: dict[tuple[SourceKind, Key], Source | SourceError] = {}

    def open(self, ref: SourceRef, home: Path) -> Source:
        try:
            self.find(ref, home)
        except SourceError:
            offer = self._offer(ref)
            if isinstance(offer, SourceError):
                text = f"source '{ref.alias}': {offer} (--source {ref.alias}=LOCATION)"
                raise SourceError(text, offer.code) from offer
            return offer
        return super().open(ref, home)

    def _offer(self, ref: SourceRef) -> Source | SourceError:
        key = ref.kind, (ref.namespace, ref.name)
        if key not in self._offers:
            try:
                self._offers[key] = offer = self._fetch(self._live.get(SOURCE_KINDS[ref.kind], key[1]))
                self._notice(ref, "the cluster's", offer)
            except SourceError as error:
                self._offers[key] = error
            except SluiceError as error:
                self._offers[key] = SourceError(str(error), Code.NOT_FOUND)
        return self._offers[key]

    def _fetch(self, one: Object) -> Source:
        tree = self._live.tree(one)
        artifact = one.status.artifact
        assert artifact is not None
        origin = artifact.metadata.get(ORIGIN_REVISION)
        return Source(tree, artifact.revision, artifact.digest, artifact.url, origin)
