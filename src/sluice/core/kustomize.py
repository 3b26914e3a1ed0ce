"""What a kustomization needs: the files that kustomize would read to build it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from sluice.core import yaml
from sluice.core.dialect import clean, join
from sluice.core.errors import BuildError, quote
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.tree import Directory, File

NAMES: Final = ("kustomization.yaml", "kustomization.yml", "Kustomization")
PATHS: Final = (
    *("resources", "bases", "components", "crds", "configurations"),
    *("generators", "transformers", "validators", "patchesStrategicMerge"),
)
"""Fields that list paths, or what is written inline instead."""
MAPPINGS: Final = ("patches", "patchesJson6902", "replacements")
"""Fields that list mappings with a `path`."""
GENERATORS: Final = ("configMapGenerator", "secretGenerator")

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)|[^/]+@[^/]+:|(github|gitlab|bitbucket)\.(com|org)[/:]|.*\?ref=")


class Need(Struct, frozen=True):
    """A path that a field of a kustomization names, as it is written."""

    field: str
    path: str


class Lack(Struct, frozen=True):
    """What is wrong with a need: the file that has it, and why it cannot be met."""

    file: str
    field: str
    text: str


def find_lacks(tree: Directory, path: str, limits: Limits = DEFAULT_LIMITS) -> Iterator[Lack]:
    """What kustomize would miss that builds a directory of a tree.

    Directories that it leads to are looked into as well. One without a kustomization is right at the
    start only, where Flux makes one.
    """
    seen: set[str] = set()
    todo = [path]
    while todo:
        directory = todo.pop(0)
        if directory in seen:
            continue
        seen.add(directory)
        for file, need in _needs_of(tree, directory, limits):
            if isinstance(need, Lack):
                yield need
                continue
            target = clean(join(directory, need.path)) if not need.path.startswith("/") else None
            found = None if target is None else tree.find(target)
            if target is None:
                yield Lack(file, need.field, f"{quote(need.path)} leads out of the artifact")
            elif found is None:
                yield Lack(file, need.field, f"{quote(target)} is not in the artifact")
            elif isinstance(found, Directory):
                if _kustomization(found) is None:
                    yield Lack(file, need.field, f"{quote(target)} has no {NAMES[0]}")
                else:
                    todo.append(target)


def _needs_of(tree: Directory, directory: str, limits: Limits) -> Iterator[tuple[str, Need | Lack]]:
    here = tree.find(directory)
    name = _kustomization(here) if isinstance(here, Directory) else None
    if name is None:
        return
    file = join(directory, name)
    found = tree.find(file)
    assert isinstance(found, File)
    if found.size > limits.yaml_size:
        return
    try:
        documents = yaml.load(found.read(), limits)
    except BuildError as error:
        yield file, Lack(file, "", str(error))
        return
    for document in documents:
        if isinstance(document, Mapping):
            for need in needs(document):
                yield file, need


def _kustomization(directory: Directory) -> str | None:
    return next((name for name in NAMES if isinstance(directory.entries.get(name), File)), None)


def needs(kustomization: Mapping[str, Any]) -> Iterator[Need]:
    """The local paths that a kustomization names."""
    for field in PATHS:
        yield from _texts(kustomization.get(field), field)
    for field in MAPPINGS:
        for number, item in enumerate(_list(kustomization.get(field))):
            if isinstance(item, Mapping):
                yield from _texts([item.get("path")], f"{field}[{number}].path", single=True)
    for field in GENERATORS:
        for number, item in enumerate(_list(kustomization.get(field))):
            if isinstance(item, Mapping):
                yield from _generated(item, f"{field}[{number}]")
    openapi = kustomization.get("openapi")
    if isinstance(openapi, Mapping):
        yield from _texts([openapi.get("path")], "openapi.path", single=True)


def _generated(item: Mapping[str, Any], field: str) -> Iterator[Need]:
    for need in _texts(item.get("files"), f"{field}.files"):
        yield Need(need.field, need.path.partition("=")[2] or need.path)
    yield from _texts(item.get("envs"), f"{field}.envs")
    yield from _texts([item.get("env")], f"{field}.env", single=True)


def _texts(items: object, field: str, *, single: bool = False) -> Iterator[Need]:
    for number, item in enumerate(_list(items)):
        # What has several lines, or a colon and a space, is written inline.
        if isinstance(item, str) and item and "\n" not in item and ": " not in item and not _REMOTE.match(item):
            yield Need(field if single else f"{field}[{number}]", item)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
