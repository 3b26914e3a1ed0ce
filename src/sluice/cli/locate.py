"""Find where the files of a source are, and open them.

The first of these that fits: a location given by the user, the checkout that holds the manifest, the
URL of the source object.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from sluice.cli.manifests import Manifest, find_objects, list_yaml
from sluice.cli.variables import substitute
from sluice.core.errors import BuildError, Code, Problem, SourceError, SpecError
from sluice.core.plan import Source
from sluice.core.spec import ALIAS, SourceKind, SourceRef
from sluice.sources import Cache, Checkout, Found, find_checkout, open_source, redact, same_repository

URL_SCHEMES = ("http://", "https://", "ssh://")
"""What the definition of GitRepository allows in ``spec.url``."""


class Key(Struct, frozen=True):
    """What ``--source KEY=LOCATION`` is for: an alias, a kind and a name, or also a namespace."""

    text: str
    alias: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Key:
        """Raises `SpecError`."""
        match text.split("/"):
            case [alias] if ALIAS.accepts(alias):
                return cls(text, alias=alias)
            case [kind, *namespace, name] if kind in tuple(SourceKind) and name and len(namespace) < 2:
                return cls(text, kind=kind, namespace="".join(namespace), name=name)
        known = ", ".join(SourceKind)
        what = f"'{text}' names no source (an alias, Kind/name or Kind/namespace/name; kinds: {known})"
        raise SpecError(Problem(Code.INVALID_SPEC, what, "--source"))

    def fits(self, ref: SourceRef) -> bool:
        if self.alias:
            return self.alias == ref.alias
        return (self.kind, self.name) == (ref.kind, ref.name) and self.namespace in ("", ref.namespace)

    @property
    def weight(self) -> int:
        """The more a key says, the more it counts."""
        return bool(self.kind) + bool(self.namespace)


def parse_locations(texts: Iterable[str]) -> Mapping[Key, str]:
    """The values of ``--source``. Raises `SpecError`."""
    locations: dict[Key, str] = {}
    for text in texts:
        name, equals, location = text.partition("=")
        if not equals or not location:
            what = f"'{redact(text)}' has no location (KEY=LOCATION)"
            raise SpecError(Problem(Code.INVALID_SPEC, what, "--source"))
        key = Key.parse(name)
        if key in locations:
            raise SpecError(Problem(Code.INVALID_SPEC, f"'{name}' is given twice", "--source"))
        locations[key] = location
    return locations


class Ground(Protocol):
    """The files that manifests lie among."""

    def checkout(self, home: Path) -> Checkout | None:
        """The checkout that holds a directory."""
        ...

    def files(self, root: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """The YAML files of a checkout: how messages call each, and what reads it."""
        ...

    def open(self, found: Found, kind: SourceKind, cache: Cache) -> Source:
        """A source at a location. Raises `SourceError`."""
        ...


class Disk:
    """The files as they are."""

    def __init__(self) -> None:
        self._checkouts: dict[Path, Checkout | None] = {}

    def checkout(self, home: Path) -> Checkout | None:
        # Many manifests lie in many directories of few checkouts, and git takes its time.
        absolute = home.absolute()
        top = next((path for path in (absolute, *absolute.parents) if os.path.lexists(path / ".git")), absolute)
        if top not in self._checkouts:
            self._checkouts[top] = find_checkout(home)
        return self._checkouts[top]

    def files(self, root: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
        for file in list_yaml(os.path.relpath(root), []):
            yield file, Path(file).read_bytes

    def open(self, found: Found, kind: SourceKind, cache: Cache) -> Source:
        return open_source(
            found.location, kind=kind, cache=cache, ignore=found.ignore, layer=found.layer, revision=found.revision
        )


class Finder:
    """Finds where the sources of generators are."""

    def __init__(
        self,
        locations: Mapping[Key, str],
        manifests: Sequence[Manifest],
        variables: Mapping[str, str],
        ground: Ground | None = None,
    ) -> None:
        self._locations = sorted(locations.items(), key=lambda item: -item[0].weight)
        self._manifests = manifests
        self._variables = variables
        self._ground = ground or Disk()
        self._objects: dict[Path, list[Manifest]] = {}

    def location(self, ref: SourceRef) -> str | None:
        """What the user gave for a source."""
        return next((location for key, location in self._locations if key.fits(ref)), None)

    def unused(self, refs: Sequence[SourceRef]) -> list[str]:
        """The keys that fit none of these."""
        return [key.text for key, _ in self._locations if not any(map(key.fits, refs))]

    def find(self, ref: SourceRef, home: Path) -> Found:
        """Where a source of a generator is whose manifest is in `home`. Raises `SourceError`."""
        given = self.location(ref)
        objects = list(_matching(self._manifests, ref))
        checkout = self._ground.checkout(home) if ref.kind is SourceKind.GIT_REPOSITORY and given is None else None
        if checkout is not None and not objects:
            objects = self._look_around(checkout, ref, home)
        spec = self._spec(objects[0]) if objects else {}
        ignore, layer = _text(spec, "ignore"), _text(spec, "layerSelector", "mediaType")
        if given is not None:
            return Found(given, ignore, layer)
        url = _text(spec, "url") or ""
        if checkout is not None and checkout.origin and url and same_repository(url, checkout.origin):
            return Found(os.path.relpath(checkout.root), ignore)
        if ref.kind is SourceKind.GIT_REPOSITORY and url.startswith(URL_SCHEMES):
            return _remote(url, spec, ignore)
        raise SourceError(f"no location for {ref} (--source {ref.alias}=LOCATION)", Code.NOT_FOUND)

    def _spec(self, manifest: Manifest) -> Mapping[str, Any]:
        problems: list[Problem] = []
        filled = substitute(manifest.value, self._variables, problems)
        if problems:
            raise SourceError("; ".join(map(str, manifest.located(problems))), Code.INVALID_SPEC)
        spec = filled.get("spec")
        return spec if isinstance(spec, Mapping) else {}

    def _look_around(self, checkout: Checkout, ref: SourceRef, home: Path) -> list[Manifest]:
        """The source objects of a checkout with this name, the nearest first.

        A repository that describes several clusters has one for each, mostly with the same URL.
        """
        if checkout.root not in self._objects:
            self._objects[checkout.root] = list(_scan(self._ground.files(checkout.root)))
        here = home.resolve()

        def distance(manifest: Manifest) -> int:
            return -len(Path(os.path.commonpath([here, Path(manifest.file).resolve()])).parts)

        return sorted(_matching(self._objects[checkout.root], ref), key=distance)


class Locator(Finder):
    """Finds and opens the sources of generators, each once. `notice` is told of each that was opened."""

    def __init__(
        self,
        locations: Mapping[Key, str],
        manifests: Sequence[Manifest],
        variables: Mapping[str, str],
        cache: Cache,
        notice: Callable[[SourceRef, str, Source], None],
        ground: Ground | None = None,
    ) -> None:
        super().__init__(locations, manifests, variables, ground)
        self._cache = cache
        self._notice = notice
        self._opened: dict[tuple[SourceKind, Found], Source | SourceError] = {}

    def open(self, ref: SourceRef, home: Path) -> Source:
        """A source of a generator whose manifest is in `home`. Raises `SourceError`, about the alias."""
        try:
            return self._open(ref, self.find(ref, home))
        except SourceError as error:
            raise SourceError(f"source '{ref.alias}': {error}", error.code) from error

    def _open(self, ref: SourceRef, found: Found) -> Source:
        key = ref.kind, found
        if key not in self._opened:
            try:
                self._opened[key] = opened = self._ground.open(found, ref.kind, self._cache)
                self._notice(ref, redact(found.location), opened)
            except SourceError as error:
                self._opened[key] = error
        source = self._opened[key]
        if isinstance(source, SourceError):
            raise source
        return source


def _scan(files: Iterable[tuple[str, Callable[[], bytes]]]) -> Iterator[Manifest]:
    """The GitRepositories among YAML files; what cannot be read is none."""
    kind = SourceKind.GIT_REPOSITORY
    for file, read in files:
        try:
            data = read()
            if kind.encode() in data:
                yield from (found for found in find_objects(file, data) if found.kind == kind)
        except (OSError, BuildError):
            continue  # templates look like YAML and are none


def _matching(manifests: Iterable[Manifest], ref: SourceRef) -> Iterator[Manifest]:
    for manifest in manifests:
        metadata = manifest.value.get("metadata")
        if manifest.kind != ref.kind or not isinstance(metadata, Mapping) or metadata.get("name") != ref.name:
            continue
        # Where kustomize sets the namespace, the file names none.
        if metadata.get("namespace") in (None, ref.namespace):
            yield manifest


def _remote(url: str, spec: Mapping[str, Any], ignore: str | None) -> Found:
    """The commit that ``spec.ref`` names, in the order in which source-controller reads its fields."""
    for field in ("commit", "name", "semver", "tag", "branch"):
        if value := _text(spec, "ref", field):
            if field == "semver":
                raise SourceError(f"'{redact(url)}': a range of versions is not resolved here", Code.FETCH)
            return Found(f"{url}@{value}", ignore)
    return Found(f"{url}@master", ignore)


def _text(value: object, *path: str) -> str | None:
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else None
