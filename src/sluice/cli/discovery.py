"""Which kinds of object a cluster serves, for people who name one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from sluice.core.errors import ApiError
from sluice.kube.kinds import Kind

if TYPE_CHECKING:
    from sluice.kube.client import Client


class Served(Struct, frozen=True):
    """A kind that is served, whether its objects are in namespaces, and the words that mean it."""

    kind: Kind
    namespaced: bool
    words: frozenset[str]


class _Resource(Struct, frozen=True, rename="camel"):
    name: str
    kind: str
    namespaced: bool = False
    singular_name: str = ""
    short_names: tuple[str, ...] | None = None


class _Resources(Struct, frozen=True):
    resources: tuple[_Resource, ...] = ()


class _Version(Struct, frozen=True, rename="camel"):
    group_version: str


class _Group(Struct, frozen=True, rename="camel"):
    preferred_version: _Version


class _Groups(Struct, frozen=True):
    groups: tuple[_Group, ...] = ()


_RESOURCES: msgspec.json.Decoder[_Resources] = msgspec.json.Decoder(_Resources)
_GROUPS: msgspec.json.Decoder[_Groups] = msgspec.json.Decoder(_Groups)


async def served(client: Client, api_version: str) -> list[Served]:
    """The kinds of a version of an API; none where it is not served."""
    path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    try:
        found = await client.read(path, _RESOURCES)
    except ApiError as error:
        if error.status == 404:
            return []
        raise
    group, _, version = api_version.rpartition("/")
    return [
        Served(
            Kind(group, version, each.kind, each.name),
            each.namespaced,
            frozenset({each.kind.lower(), each.name, each.singular_name, *(each.short_names or ())}),
        )
        for each in found.resources
        if "/" not in each.name
    ]


async def find_kind(client: Client, word: str, api_version: str = "") -> Served:
    """The kind that a word means, in any version or in one. Raises `ApiError`."""
    versions = [api_version] if api_version else ["v1", *await _preferred(client)]
    # An API whose own server is away must not hide the others.
    lists: Iterable[Any] = await asyncio.gather(*(served(client, each) for each in versions), return_exceptions=True)
    kinds: list[Served] = [each for found in lists if not isinstance(found, BaseException) for each in found]
    for each in kinds:
        if word.lower() in each.words:
            return each
    raise ApiError(f"the cluster serves no kind '{word}'{f' in {api_version}' if api_version else ''}", 404)


async def _preferred(client: Client) -> list[str]:
    groups = (await client.read("/apis", _GROUPS)).groups
    return [group.preferred_version.group_version for group in groups]
