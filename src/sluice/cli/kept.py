"""The objects that `sluice serve` keeps in its directory, one JSON file each, of the form that an API gives them.

They are read only: a generator there is what its manifest says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from sluice.cli.cluster import OBJECTS, Sight
from sluice.cli.objects import Object, title
from sluice.content import describe
from sluice.core.errors import ApiError
from sluice.core.spec import NAMESPACE, OBJECT_NAME
from sluice.kube.kinds import ARTIFACT_GENERATOR, EXTERNAL_ARTIFACT, Key, Kind

STATE: Final = ".sluice"
STORE: Final = "storage"
INTERVAL = 0.2
"""Seconds between two looks at files that are followed."""


class Kept:
    """The objects of a directory."""

    def __init__(self, directory: Path, namespace: str) -> None:
        self.directory = directory
        self.namespace = namespace

    def keeps(self, kind: Kind) -> bool:
        return kind in (ARTIFACT_GENERATOR, EXTERNAL_ARTIFACT)

    async def get(self, kind: Kind, key: Key) -> Object:
        found = self._read(kind, key) if NAMESPACE.accepts(key[0]) and OBJECT_NAME.accepts(key[1]) else None
        if found is None:
            raise ApiError(f"{title(kind.name, *key)} not found in '{self.directory}'", 404)
        return found

    async def list(self, kind: Kind, namespace: str = "", labels: str = "") -> list[Object]:
        if labels:
            raise ApiError("--local: objects of a directory have no labels to select by")
        root = self.directory / STATE / kind.plural
        paths = sorted(root.glob(f"{namespace or '*'}/*.json"))
        keys = [(path.parent.name, path.stem) for path in paths if not path.name.startswith(".")]
        found = (self._read(kind, key) for key in sorted(keys))
        return [one for one in found if one is not None]

    async def follow(
        self, kind: Kind, namespace: str = "", labels: str = "", name: str = ""
    ) -> AsyncGenerator[Sight[Object], None]:
        known: dict[Key, str] = {}
        first = True
        while True:
            found = {one.key: one for one in await self.list(kind, namespace, labels) if name in ("", one.key[1])}
            for key, one in found.items():
                if known.get(key) != one.metadata.resource_version:
                    known[key] = one.metadata.resource_version
                    yield Sight(key, one)
            for key in known.keys() - found.keys():
                del known[key]
                yield Sight(key)
            if first:
                first = False
                yield Sight()
            await asyncio.sleep(INTERVAL)

    async def annotate(self, kind: Kind, key: Key, annotations: Mapping[str, str | None]) -> Object:
        there = await self.get(kind, key)
        told = ", ".join(
            f"without {name}" if value is None else f"{name}: {value}" for name, value in annotations.items()
        )
        raise ApiError(f"{there.title}: change it in its manifest, '{there.file}' (metadata.annotations: {told})")

    def archive_file(self, path: str) -> Path | None:
        parts = path.split("/")
        file = self.directory.joinpath(STATE, STORE, *parts)
        return file if ".." not in parts and file.is_file() else None

    def _read(self, kind: Kind, key: Key) -> Object | None:
        """An object; None where there is none."""
        path = self.directory / STATE / kind.plural / key[0] / f"{key[1]}.json"
        try:
            return OBJECTS.decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ApiError(f"'{path}': {describe(error)}") from error
        except msgspec.DecodeError as error:
            raise ApiError(f"'{path}': cannot be read: {error}") from error
