"""What is published already, to be compared with what would be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from sluice.content import describe
from sluice.core import yaml
from sluice.core.errors import ApiError, BuildError, Code, SourceError
from sluice.core.spec import NAMESPACE, OBJECT_NAME
from sluice.core.tree import Directory
from sluice.sources import Cache, open_archive, scan_directory
from sluice.storage import KIND

Key = tuple[str, str]
"""Namespace and name of an artifact."""

STATE: Final = ".sluice"
STORE: Final = f"{STATE}/storage"
OBJECTS: Final = ((KIND, ".yaml"), (f"{STATE}/externalartifacts", ".json"))
"""Where ExternalArtifacts are kept: by ``sluice build --archives``, and by ``sluice serve``."""


class Published(Protocol):
    """Artifacts that are published somewhere."""

    @property
    def title(self) -> str:
        """What the place is called."""
        ...

    def keys(self) -> Sequence[Key]:
        """All of them that the generators in question may have made. Raises `SluiceError`."""
        ...

    def holds(self, key: Key, tree: Directory) -> bool:
        """Whether one of them is known, without a look at it, to hold just this."""
        ...

    def tree(self, key: Key) -> Directory:
        """What one of them holds. Raises `SluiceError`."""
        ...

    def conflicts(self, keys: Collection[Key]) -> Mapping[Key, ApiError]:
        """Those of some artifacts that could not be published there, whatever they hold, and why."""
        ...


def open_published(location: Path, cache: Cache) -> Published:
    """What a directory holds: archives with their objects, or trees. Raises `SourceError`."""
    if not location.is_dir():
        what = "is not a directory" if location.exists() else "does not exist"
        raise SourceError(f"'{location}' {what} (what 'sluice build' or 'sluice serve' wrote)", Code.NOT_FOUND)
    if any((location / place).is_dir() for place, _ in OBJECTS):
        return Archives(location, cache)
    return Trees(location)


class _Kept:
    """What a directory has for all forms of artifacts: they are looked at, and are nobody else's."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def title(self) -> str:
        return str(self._root)

    def holds(self, key: Key, tree: Directory) -> bool:
        return False

    def conflicts(self, keys: Collection[Key]) -> Mapping[Key, ApiError]:
        return {}


class Trees(_Kept):
    """What ``sluice build -d`` wrote."""

    def keys(self) -> Sequence[Key]:
        return [
            (namespace, name)
            for namespace in _names(self._root, NAMESPACE.accepts)
            for name in _names(self._root / namespace, OBJECT_NAME.accepts)
            if (self._root / namespace / name).is_dir()
        ]

    def tree(self, key: Key) -> Directory:
        return scan_directory(self._root.joinpath(*key))


class Archives(_Kept):
    """What ``sluice build --archives`` wrote, or ``sluice serve`` keeps."""

    def __init__(self, root: Path, cache: Cache) -> None:
        super().__init__(root)
        self._cache = cache

    def keys(self) -> Sequence[Key]:
        return sorted({key for key, _ in self._objects()})

    def _objects(self) -> Iterator[tuple[Key, Path]]:
        for place, suffix in OBJECTS:
            for namespace in _names(self._root / place, NAMESPACE.accepts):
                for filename in _names(self._root / place / namespace):
                    name = filename.removesuffix(suffix)
                    if name != filename and OBJECT_NAME.accepts(name):
                        yield (namespace, name), self._root / place / namespace / filename

    def tree(self, key: Key) -> Directory:
        file = next(file for found, file in self._objects() if found == key)
        path = _archive_path(file)
        places = [self._root / path, self._root / STORE / path]
        archive = next((place for place in places if place.is_file()), None)
        if not path.startswith(f"{KIND}/{key[0]}/{key[1]}/") or ".." in path.split("/") or archive is None:
            raise SourceError(f"'{file}': its archive is not there", Code.NOT_FOUND)
        return open_archive(archive, self._cache).tree


def _archive_path(file: Path) -> str:
    """``status.artifact.path`` of an ExternalArtifact."""
    try:
        found: Any = next(iter(yaml.load(file.read_bytes())), None)
    except OSError as error:
        raise SourceError(f"'{file}': {describe(error)}", Code.NOT_FOUND) from error
    except BuildError as error:
        raise SourceError(f"'{file}': {error}", error.code) from error
    for field in ("status", "artifact", "path"):
        found = found.get(field) if isinstance(found, Mapping) else None
    if not isinstance(found, str):
        raise SourceError(f"'{file}': it tells of no archive", Code.NOT_READY)
    return found


def _names(directory: Path, accepts: Callable[[str], bool] = bool) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir() if accepts(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SourceError(f"'{directory}': {describe(error)}", Code.NOT_FOUND) from error
