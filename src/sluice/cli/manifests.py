"""Read manifests: files, directories and standard input.

Of what is given, ArtifactGenerators are built and Flux sources tell where files come from; all other
objects are passed over. Problems name the file, line and column.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from sluice.cli.variables import substitute
from sluice.content import describe
from sluice.core import yaml
from sluice.core.errors import BuildError, Code, Problem, SpecError
from sluice.core.limits import DEFAULT_LIMITS
from sluice.core.spec import KIND, ArtifactGenerator, SourceKind, parse_generator

STDIN: Final = "<stdin>"
SUFFIXES: Final = (".yaml", ".yml", ".json")
SOURCE_GROUP: Final = "source.toolkit.fluxcd.io"

_STEP = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")


class Manifest(Struct, frozen=True, eq=False):
    """An object as it is written: the document that holds it, and its place there."""

    file: str
    document: yaml.Node
    place: tuple[str | int, ...]
    value: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.value.get("kind"))

    @property
    def home(self) -> Path:
        """The directory that holds the file: whose checkout is it in."""
        return Path() if self.file == STDIN else Path(self.file).parent

    def locate(self, field: str = "") -> str:
        """File, line and column of a field, or of the nearest one around it that is there."""
        steps = [int(number) if number else name for name, number in _STEP.findall(field)]
        for length in range(len(steps), -1, -1):
            if position := yaml.locate(self.document, [*self.place, *steps[:length]]):
                return f"{self.file}:{position[0]}:{position[1]}"
        return self.file

    def located(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems of this object, with the place in the file in front."""
        return [
            Problem(problem.code, problem.text, ": ".join(filter(None, (self.locate(problem.where), problem.where))))
            for problem in problems
        ]


class Declared(Struct, frozen=True, eq=False):
    """A generator and the manifest that it comes from."""

    generator: ArtifactGenerator
    manifest: Manifest

    @property
    def key(self) -> tuple[str, str]:
        return self.generator.namespace, self.generator.name


def read_manifests(inputs: Sequence[str]) -> list[Manifest]:
    """The generators and Flux sources in files, below directories, and on standard input for ``-``.

    Below a directory, files that mention no generator are read only as far as they can be: a
    repository also holds templates. Raises `SpecError` for what cannot be read.
    """
    manifests: list[Manifest] = []
    problems: list[Problem] = []
    for file, data, given in read_files(inputs, problems):
        try:
            manifests += parse_file(file, data, given=given)
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return manifests


def read_files(inputs: Sequence[str], problems: list[Problem]) -> Iterator[tuple[str, bytes, bool]]:
    """The files of the inputs, each once, and whether it was named itself; notes what cannot be read."""
    seen: set[Path] = set()
    for name in inputs:
        for file, given in _files(name, problems):
            if file != STDIN and (path := Path(file).resolve()) in seen:
                continue
            if file != STDIN:
                seen.add(path)
            try:
                yield file, _bytes(file), given
            except OSError as error:
                problems.append(Problem(Code.NOT_FOUND, describe(error), file))


def _files(name: str, problems: list[Problem]) -> Iterator[tuple[str, bool]]:
    """The files of one input, and whether each was named itself."""
    if name == "-":
        yield STDIN, True
    elif not Path(name).is_dir():
        yield name, True
    else:
        yield from ((file, False) for file in list_yaml(name, problems))


def list_yaml(directory: str, problems: list[Problem]) -> Iterator[str]:
    """The YAML and JSON files below a directory, in order; hidden directories and links are passed over."""

    def note(error: OSError) -> None:
        problems.append(Problem(Code.NOT_FOUND, describe(error), str(error.filename)))

    for parent, directories, files in os.walk(directory, onerror=note):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES):
                yield str(Path(parent, name))


def parse_file(file: str, data: bytes, *, given: bool) -> list[Manifest]:
    """The generators and Flux sources in a file. Raises `SpecError`.

    One that was not `given` by itself, and mentions no generator, need not be YAML.
    """
    if not given and KIND.encode() not in data and SOURCE_GROUP.encode() not in data:
        return []
    try:
        return list(find_objects(file, data))
    except BuildError as error:
        if not given and KIND.encode() not in data:
            return []
        raise SpecError(_unreadable(file, error)) from error


def _bytes(file: str) -> bytes:
    most = DEFAULT_LIMITS.yaml_size + 1
    if file == STDIN:
        return sys.stdin.buffer.read(most)
    with Path(file).open("rb") as opened:
        return opened.read(most)


def _unreadable(file: str, error: BuildError) -> Problem:
    if isinstance(error, yaml.InvalidYaml):
        return Problem(error.code, error.reason, f"{file}:{error.line}:{error.column}")
    return Problem(error.code, str(error), file)


def _is_ours(value: Mapping[str, Any]) -> bool:
    kind = value.get("kind")
    return kind == KIND or (
        kind in tuple(SourceKind) and str(value.get("apiVersion")).partition("/")[0] == SOURCE_GROUP
    )


def find_objects(file: str, data: bytes, wanted: Callable[[Mapping[str, Any]], bool] = _is_ours) -> Iterator[Manifest]:
    """The generators and Flux sources in a file, or other objects that are wanted, those in lists included.

    Raises `BuildError`.
    """
    for document in yaml.documents(data):
        value = yaml.to_value(document)
        objects: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
        if isinstance(value, Mapping) and isinstance(items := value.get("items"), list):
            objects = [(("items", number), item) for number, item in enumerate(items)]
        for place, item in objects:
            if isinstance(item, Mapping) and wanted(item):
                yield Manifest(file, document, place, item)


def declare(manifests: Iterable[Manifest], variables: Mapping[str, str], namespace: str) -> list[Declared]:
    """The generators among manifests, in order. Raises `SpecError` with the problems of all of them."""
    declared: list[Declared] = []
    problems: list[Problem] = []
    for manifest in manifests:
        if manifest.kind != KIND:
            continue
        found: list[Problem] = []
        filled = substitute(manifest.value, variables, found)
        try:
            if not found:
                declared.append(Declared(parse_generator(filled, namespace=namespace), manifest))
        except SpecError as error:
            found += error.problems
        problems += manifest.located(found)
    problems += _duplicates(declared)
    if problems:
        raise SpecError(problems)
    return declared


def _duplicates(declared: Sequence[Declared]) -> Iterator[Problem]:
    first: dict[tuple[str, str], Declared] = {}
    for item in declared:
        before = first.setdefault(item.key, item)
        if before is not item:
            text = f"{item.generator} is also in {before.manifest.locate()} (build one cluster's manifests at a time)"
            yield Problem(Code.NAME_COLLISION, text, item.manifest.locate())
