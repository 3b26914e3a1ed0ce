"""``sluice tree`` and ``sluice trace``: what comes of a generator, and where an object comes from."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import click
from msgspec import Struct

from sluice.cli.cluster import Cluster, NotServed, Place, World, place_options, run
from sluice.cli.complete import complete_generators
from sluice.cli.names import GENERATOR_WORDS, parse_name, parse_names
from sluice.cli.objects import Object, Reference, is_artifact, title
from sluice.cli.output import Format, Mark, Words, emit, encode, encode_data, output_option, shorten_revision, table
from sluice.control.objects import ORIGIN_REVISION
from sluice.core.errors import ApiError
from sluice.core.spec import SourceKind
from sluice.kube.kinds import ARTIFACT_GENERATOR, EXTERNAL_ARTIFACT, SOURCE_KINDS, Key, Kind

KUSTOMIZATION = Kind("kustomize.toolkit.fluxcd.io", "v1", "Kustomization", "kustomizations")
HELM_RELEASE = Kind("helm.toolkit.fluxcd.io", "v2", "HelmRelease", "helmreleases")

CONSUMERS = (KUSTOMIZATION, HELM_RELEASE, ARTIFACT_GENERATOR)
"""What may be made of an artifact."""
FLUX_KINDS: Mapping[str, Kind] = {
    kind.name: kind for kind in (ARTIFACT_GENERATOR, KUSTOMIZATION, HELM_RELEASE, *SOURCE_KINDS.values())
}


class Link(Struct, frozen=True):
    """An object of a lineage, as far as it is shown; `trouble` is why it could not be read."""

    kind: str
    key: Key
    object: Object | None = None
    alias: str = ""
    trouble: str = ""

    @property
    def revision(self) -> str:
        if self.object is None or self.kind not in FLUX_KINDS:
            return ""
        status = self.object.status
        if status.artifact is not None:
            return status.artifact.revision
        return status.last_applied_revision or status.last_attempted_revision

    @property
    def origin_revision(self) -> str:
        if self.object is None or self.kind not in FLUX_KINDS or self.object.status.artifact is None:
            return ""
        return self.object.status.artifact.metadata.get(ORIGIN_REVISION, "")

    @property
    def ready(self) -> tuple[str, str]:
        if self.object is None:
            return "", self.trouble
        return self.object.ready if self.kind in FLUX_KINDS else ("", "")

    @property
    def name(self) -> str:
        return "/".join(filter(None, (self.kind, *self.key)))

    def document(self) -> dict[str, Any]:
        ready, message = self.ready
        return {
            "kind": self.kind,
            "namespace": self.key[0] or None,
            "name": self.key[1],
            "alias": self.alias or None,
            "revision": self.revision or None,
            "originRevision": self.origin_revision or None,
            "ready": ready or None,
            "message": message or None,
        }


class Branch(Struct, frozen=True):
    """An object, and what is made of it."""

    link: Link
    children: tuple[Branch, ...] = ()

    def draw(self, before: str = "", own: str = "") -> Iterator[tuple[str, Link]]:
        """One line for each object."""
        yield f"{before}{own}{self.link.name}", self.link
        below = before + {"": "", "├── ": "│   ", "└── ": "    "}[own]
        for child in self.children:
            yield from child.draw(below, "└── " if child is self.children[-1] else "├── ")

    def document(self) -> dict[str, Any]:
        return {**self.link.document(), "children": [child.document() for child in self.children]}


# Down


@click.command("tree")
@click.argument("names", nargs=-1, metavar="generator NAME", shell_complete=complete_generators)
@output_option
@place_options
def tree(names: tuple[str, ...], place: Place, form: Format) -> int:
    """Show a generator, its artifacts, and what is deployed or made from them."""

    async def work(world: World) -> int:
        keys = parse_names(names, world.namespace, GENERATOR_WORDS)
        if len(keys) != 1:
            raise click.UsageError("say which generator: generator NAME")
        with Words() as words:
            words.working("reading")
            found = await _grow(world, await world.get(ARTIFACT_GENERATOR, keys[0]), words)
        emit(_drawing(found, form))
        return 0

    return run(place, work)


async def _grow(world: World, generator: Object, words: Words) -> Branch:
    consumers = await _consumers(world, generator.metadata.namespace, words)
    artifacts = {one.key: one for one in await world.list(EXTERNAL_ARTIFACT, generator.metadata.namespace)}
    children = []
    for item in generator.inventory:
        key = (item.namespace, item.name)
        one = artifacts.get(key)
        link = Link(EXTERNAL_ARTIFACT.name, key, one, trouble="" if one else "not found")
        users = sorted(consumers[key], key=lambda user: (user.kind, user.key))
        children.append(Branch(link, tuple(Branch(_link(user)) for user in users)))
    return Branch(_link(generator), tuple(children))


async def _consumers(world: World, namespace: str, words: Words) -> Mapping[Key, list[Object]]:
    """Who uses which artifact, in all namespaces, or as many as may be read."""
    found: defaultdict[Key, list[Object]] = defaultdict(list)
    for objects in await asyncio.gather(*(_served(world, kind, namespace, words) for kind in CONSUMERS)):
        for one in objects:
            refs = one.sources if one.kind == ARTIFACT_GENERATOR.name else filter(None, [one.origin])
            for ref in refs:
                if is_artifact(ref):
                    found[ref.namespace, ref.name].append(one)
    return found


async def _served(world: World, kind: Kind, namespace: str, words: Words) -> list[Object]:
    try:
        return await readable(world, kind, [namespace], words)
    except NotServed:
        return []  # that controller is not installed


async def readable(world: World, kind: Kind, namespaces: Sequence[str], words: Words) -> list[Object]:
    """The objects of all namespaces, else those of these, or as many as may be read, which is said.

    Raises `NotServed` where the cluster does not know the kind.
    """
    try:
        return await world.list(kind)
    except ApiError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
    found: list[Object] = []
    for namespace in namespaces:
        try:
            found += await world.list(kind, namespace)
        except ApiError as error:
            if error.status != HTTPStatus.FORBIDDEN:
                raise
            words.say(Mark.WARNING, f"{kind.plural} may not be read")
            return []
    words.say(Mark.WARNING, f"{kind.plural} of other namespaces may not be read")
    return found


def _link(one: Object, alias: str = "") -> Link:
    return Link(one.kind, one.key, one, alias)


def _drawing(found: Branch, form: Format) -> bytes:
    lines = list(found.draw())
    match form:
        case Format.TABLE:
            return encode("".join(f"{line}\n" for line, _ in lines))
        case Format.WIDE:
            rows = [(line, link.ready[0] or "-", link.revision or "-", link.ready[1] or "-") for line, link in lines]
            return encode(table(("NAME", "READY", "REVISION", "MESSAGE"), rows))
        case Format.NAME:
            return encode("".join(f"{link.name}\n" for _, link in lines))
        case _:
            return encode_data(found.document(), form)


# Up


@click.command("trace")
@click.argument("arguments", nargs=-1, metavar="KIND/NAME")
@click.option("--api-version", default="", metavar="VERSION", help="The API that the kind is of, such as apps/v1.")
@output_option
@place_options
def trace(arguments: tuple[str, ...], place: Place, api_version: str, form: Format) -> int:
    """Show where an object comes from: who applied it, from which artifact, made of which sources.

    KIND is any kind of the cluster, such as deployment, kustomization or artifact.
    """
    word, slash, name = arguments[0].partition("/") if len(arguments) == 1 else ("", "", "")
    if len(arguments) == 2:
        word, slash, name = arguments[0], "/", arguments[1]
    if not (word and slash and name):
        raise click.UsageError("say which object: KIND/NAME")

    async def work(world: World) -> int:
        with Words() as words:
            words.working("reading")
            one = await _start(world, word, name, api_version)
            links = [link async for link in _Tracer(world).trace(one)]
            emit(_chain(links, form))
            if not any(link.kind == ARTIFACT_GENERATOR.name for link in links):
                words.say(Mark.WARNING, f"{links[0].name} does not come from a generator")
        return int(any(link.trouble for link in links))

    return run(place, work)


_WORDS: Mapping[str, Kind] = {
    "generator": ARTIFACT_GENERATOR,
    "artifact": EXTERNAL_ARTIFACT,
    **{kind.name.lower(): kind for kind in FLUX_KINDS.values()},
}


async def _start(world: World, word: str, name: str, api_version: str) -> Object:
    kind = None if api_version else _WORDS.get(word.lower())
    namespaced = True
    if kind is None:
        if not isinstance(world, Cluster):
            raise ApiError(f"a directory holds no kind '{word}' (it holds: generator, artifact)")
        from sluice.cli.discovery import find_kind

        served = await find_kind(world.client, word, api_version)
        kind, namespaced = served.kind, served.namespaced
    return await world.get(kind, parse_name(name, world.namespace) if namespaced else ("", name))


class _Tracer:
    """Follows objects to what they were made from, each once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: set[tuple[str, Key]] = set()

    async def trace(self, one: Object) -> AsyncIterator[Link]:
        """The object and everything before it."""
        link = _link(one)
        self._seen.add((link.kind, link.key))
        yield link
        async for each in self._before(one):
            yield each

    async def _before(self, one: Object) -> AsyncIterator[Link]:
        for ref in _origins(one):
            kind = FLUX_KINDS.get(ref.kind)
            key = (ref.namespace, ref.name)
            if kind is None or (kind.name, key) in self._seen:
                continue
            self._seen.add((kind.name, key))
            if not self._world.keeps(kind):
                yield Link(ref.kind, key, alias=ref.alias)
                continue
            try:
                found = await self._world.get(kind, key)
            except ApiError as error:
                yield Link(ref.kind, key, alias=ref.alias, trouble=_short(error, kind, key))
                continue
            yield _link(found, ref.alias)
            async for each in self._before(found):
                yield each


_MANAGERS = ((HELM_RELEASE, "helm.toolkit.fluxcd.io"), (KUSTOMIZATION, "kustomize.toolkit.fluxcd.io"))
"""Who applies objects, and the prefix of the labels by which they say so."""


def _origins(one: Object) -> list[Reference]:
    """What an object was made from; where that is no artifact, also who applied it."""
    if one.kind == ARTIFACT_GENERATOR.name:
        return one.sources
    if one.kind in tuple(SourceKind) and one.kind != EXTERNAL_ARTIFACT.name:
        return []
    origins = [one.origin] if one.kind in FLUX_KINDS and one.origin else []
    if one.kind == EXTERNAL_ARTIFACT.name or any(map(is_artifact, origins)):
        return origins
    labels = one.metadata.labels
    for kind, prefix in _MANAGERS:
        if name := labels.get(f"{prefix}/name"):
            namespace = labels.get(f"{prefix}/namespace", one.metadata.namespace)
            return [*origins, Reference(kind.name, name, namespace)]
    return origins


def _short(error: ApiError, kind: Kind, key: Key) -> str:
    return str(error).removeprefix(f"{title(kind.name, *key)} ")


def _chain(links: Sequence[Link], form: Format) -> bytes:
    match form:
        case Format.TABLE:
            rows = [(link.kind, *_dashed(*link.key, shorten_revision(link.revision), *link.ready)) for link in links]
            return encode(table(("KIND", "NAMESPACE", "NAME", "REVISION", "READY", "MESSAGE"), rows))
        case Format.WIDE:
            rows = [
                (link.kind, *_dashed(*link.key, link.alias, link.revision, link.origin_revision, *link.ready))
                for link in links
            ]
            header = ("KIND", "NAMESPACE", "NAME", "ALIAS", "REVISION", "ORIGIN", "READY", "MESSAGE")
            return encode(table(header, rows))
        case Format.NAME:
            return encode("".join(f"{link.name}\n" for link in links))
        case _:
            return encode_data({"links": [link.document() for link in links]}, form)


def _dashed(*cells: str) -> tuple[str, ...]:
    return tuple(cell or "-" for cell in cells)
