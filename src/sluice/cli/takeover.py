"""Which artifacts would have other contents in the other dialect: what a takeover from source-watcher may move."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from msgspec import Struct

from sluice.build import compose_plan
from sluice.cache import UnpackedCache
from sluice.cli.cluster import World
from sluice.cli.download import fetch_archive
from sluice.cli.objects import Object
from sluice.control.objects import DIALECT_ANNOTATION
from sluice.core.dialect import DIALECTS, DialectName
from sluice.core.diff import diff_trees
from sluice.core.errors import SluiceError, SourceError
from sluice.core.plan import ArtifactPlan, Source, plan_artifacts
from sluice.core.spec import ArtifactGenerator, SourceRef, parse_generator
from sluice.core.tree import EMPTY, Directory
from sluice.kube.kinds import ARTIFACT_GENERATOR, SOURCE_KINDS

SHOWN = 3

Made = Directory | SluiceError


class Difference(Struct, frozen=True):
    """An artifact that the dialects make different trees of, or a generator that could not be compared."""

    generator: str
    artifact: str
    text: str
    is_known: bool = True


class Comparison(Struct, frozen=True):
    """A generator, looked at in both dialects."""

    object: Object
    differences: Sequence[Difference]
    artifacts: int = 0


async def compare_generators(world: World) -> AsyncIterator[Comparison]:
    """Every generator of a cluster in both dialects, with what its sources offer now."""
    opener = _Opener(world)
    for one in await world.list(ARTIFACT_GENERATOR):
        title = "/".join(one.key)
        try:
            generator = parse_generator(one.document(), unknown_fields=True)
            made = {name: await _make(generator, name, opener) for name in DialectName}
        except SluiceError as error:
            yield Comparison(one, [Difference(title, "", str(error), is_known=False)])
            continue
        documented, upstream = made[DialectName.DOCUMENTED], made[DialectName.UPSTREAM]
        names = dict.fromkeys([*documented, *upstream])
        pairs = ((name, _differ(documented.get(name), upstream.get(name))) for name in names)
        yield Comparison(one, [Difference(title, name, text) for name, text in pairs if text], len(names))


def pinned(one: Object) -> str:
    """The dialect that a generator names itself, which no takeover changes."""
    return one.metadata.annotations.get(DIALECT_ANNOTATION, "")


async def _make(generator: ArtifactGenerator, name: DialectName, opener: _Opener) -> Mapping[str, Made]:
    """The artifacts of a generator in a dialect. Raises `SluiceError` where it cannot be planned."""
    refs = {ref.alias: ref for ref in generator.sources}
    alias = generator.pattern_alias
    pattern = None
    if alias is not None:
        pattern = (await opener.open(refs[alias])).tree if alias in refs else EMPTY
    made: dict[str, Made] = {}
    for plan in plan_artifacts(generator, pattern, DIALECTS[name]):
        if not isinstance(plan, ArtifactPlan):
            made[plan.name] = plan.error
            continue
        sources = {each: await opener.open(refs[each]) for each in plan.aliases if each in refs}
        try:
            made[plan.name] = compose_plan(plan, sources, opener.cache.unpack).tree
        except SluiceError as error:
            made[plan.name] = error
    return made


def _differ(documented: Made | None, upstream: Made | None) -> str:
    """How two results differ, in words; empty where they do not."""
    match documented, upstream:
        case Directory(), Directory():
            paths = [change.path for change in diff_trees(upstream, documented)]
            more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
            files = f"{len(paths)} path{'s' * (len(paths) != 1)}"
            return f"differs in {files}: {', '.join(paths[:SHOWN])}{more}" if paths else ""
        case Directory(), _:
            return f"fails in upstream only: {upstream}" if upstream else "is made in documented only"
        case _, Directory():
            return f"fails in documented only: {documented}" if documented else "is made in upstream only"
        case _:
            return ""


class _Opener:
    """Opens sources by what their status offers, each once."""

    def __init__(self, world: World) -> None:
        self.cache = UnpackedCache()
        self._world = world
        self._opened: dict[tuple[str, str, str], Source | SourceError] = {}

    async def open(self, ref: SourceRef) -> Source:
        key = (ref.kind, ref.namespace, ref.name)
        if key not in self._opened:
            try:
                self._opened[key] = await self._fetch(ref)
            except SourceError as error:
                self._opened[key] = error
        found = self._opened[key]
        if isinstance(found, SourceError):
            raise SourceError(str(found), found.code)
        return found

    async def _fetch(self, ref: SourceRef) -> Source:
        one = await self._world.get(SOURCE_KINDS[ref.kind], (ref.namespace, ref.name))
        async with fetch_archive(self._world, one, advise=False) as archive:
            artifact = archive.artifact
            unpacked = self.cache.open(archive.chunks(), artifact.digest)
            return Source(unpacked.tree, artifact.revision, artifact.digest, artifact.url)
