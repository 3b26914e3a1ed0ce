"""Generators and sources as people write them below a directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from sluice.content import describe
from sluice.control.objects import Key
from sluice.core import yaml
from sluice.core.errors import BuildError, Code, Problem, SpecError
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.spec import KIND, NAMESPACE, OBJECT_NAME, SourceKind, read_generator

SUFFIXES: Final = (".yaml", ".yml", ".json")
SOURCE_GROUP: Final = "source.toolkit.fluxcd.io"

Fill = Callable[[Mapping[str, Any], list[Problem]], Mapping[str, Any]]
"""Completes a manifest before it is read, and notes what it cannot."""


class Manifest(Struct, frozen=True):
    """An object as it is declared; without `value` it is one that cannot be taken."""

    file: str
    kind: str
    key: Key
    value: Mapping[str, Any] | None


class File(Struct, frozen=True):
    """A file of manifests, read."""

    manifests: tuple[Manifest, ...] = ()
    problems: tuple[Problem, ...] = ()


class Reader:
    """Reads the manifests below a directory; `namespace` is that of objects that name none."""

    def __init__(
        self,
        directory: Path,
        *,
        namespace: str = "default",
        fill: Fill = lambda manifest, problems: manifest,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._directory = directory
        self._namespace = namespace
        self._fill = fill
        self._limits = limits

    def read(self, where: Path = Path()) -> dict[str, File]:
        """The files at or below a path that may hold manifests, by their own; nothing where there is nothing.

        A directory that cannot be listed stands for all that it may hold.
        """
        files: dict[str, File] = {}

        def note(error: OSError) -> None:
            name = str(Path(error.filename).relative_to(self._directory))
            files[name] = File(problems=(Problem(Code.NOT_FOUND, describe(error), name),))

        for path in _list(self._directory, where, note):
            name = str(path.relative_to(self._directory))
            files[name] = self._read_file(name)
        return files

    def _read_file(self, name: str) -> File:
        """What a file declares. One that does not mention our kinds is not for us, whatever it is."""
        try:
            with (self._directory / name).open("rb") as file:
                data = file.read(self._limits.yaml_size + 1)
            if KIND.encode() not in data and SOURCE_GROUP.encode() not in data:
                return File()
            values = yaml.load(data, self._limits)
        except OSError as error:
            return File(problems=(Problem(Code.NOT_FOUND, describe(error), name),))
        except BuildError as error:
            if KIND.encode() not in data:
                return File()
            return File(problems=(Problem(error.code, str(error), name),))
        problems: list[Problem] = []
        objects = (item for value in values for item in _items(value) if _is_ours(item))
        manifests = tuple(self._read_object(name, item, problems) for item in objects)
        return File(manifests, tuple(problems))

    def _read_object(self, file: str, value: Mapping[str, Any], problems: list[Problem]) -> Manifest:
        found: list[Problem] = []
        filled = self._fill(value, found)
        metadata = filled.get("metadata")
        named = metadata if isinstance(metadata, Mapping) else {}
        namespace, name = str(named.get("namespace", self._namespace)), str(named.get("name", ""))
        kind = str(filled["kind"])
        if not NAMESPACE.accepts(namespace) or not OBJECT_NAME.accepts(name):
            found.append(Problem(Code.INVALID_NAME, f"'{namespace}/{name}' is not valid ({OBJECT_NAME.words})"))
        elif kind == KIND:
            try:
                read_generator(filled, namespace=self._namespace)
            except SpecError as error:
                found += error.problems
        for problem in found:
            where = f"{file}: {kind} {namespace}/{name}"
            problems.append(
                Problem(problem.code, problem.text, f"{where}: {problem.where}" if problem.where else where)
            )
        return Manifest(file, kind, (namespace, name), None if found else filled)


def _list(directory: Path, where: Path, note: Callable[[OSError], None]) -> Iterator[Path]:
    """The files at or below a path, in order; hidden ones and links to directories are passed over."""
    path = directory / where
    if path != directory and (path.is_symlink() or not path.is_dir()):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            yield path
        return
    for parent, directories, names in os.walk(path, onerror=note):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(parent, name)


def _items(value: Any) -> Iterator[Any]:
    """The objects of a document: itself, or those of a list."""
    if isinstance(value, Mapping) and isinstance(items := value.get("items"), list):
        yield from items
    else:
        yield value


def _is_ours(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    group, kind = str(value.get("apiVersion")).partition("/")[0], value.get("kind")
    return kind == KIND or (group == SOURCE_GROUP and kind in tuple(SourceKind))


def duplicates(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """The problems of several manifests for one object."""
    for number, one in enumerate(manifests):
        name = f"{one.kind} {'/'.join(one.key)}"
        others = ", ".join(dict.fromkeys(other.file for at, other in enumerate(manifests) if at != number))
        text = f"{name} is declared more than once, also in {others} (one directory for each cluster)"
        yield Problem(Code.NAME_COLLISION, text, one.file)
