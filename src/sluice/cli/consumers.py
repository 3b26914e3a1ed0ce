"""The Kustomizations and HelmReleases that deploy artifacts: those in the files around the generators, and others.

One repository may describe several clusters whose artifacts have the same names. A consumer then belongs
to the generator whose manifest is nearest to its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from sluice.cli.locate import Ground
from sluice.cli.manifests import STDIN, Declared, Manifest, find_objects, list_yaml
from sluice.cli.variables import substitute
from sluice.cli.workshop import may_make
from sluice.core.errors import BuildError, SpecError
from sluice.core.spec import KIND, SourceKind, parse_generator

Key = tuple[str, str]
"""Namespace and name of an artifact."""

REFERENCES: Mapping[tuple[str, str], str] = {
    ("kustomize.toolkit.fluxcd.io", "Kustomization"): "sourceRef",
    ("helm.toolkit.fluxcd.io", "HelmRelease"): "chartRef",
}
"""By group and kind of a consumer, the field of its spec that names an artifact."""


class Consumer(Struct, frozen=True, eq=False, kw_only=True):
    """An object that deploys an artifact. Namespaces are empty where a file does not tell them."""

    kind: str
    namespace: str
    name: str
    artifact_namespace: str
    artifact: str
    is_suspended: bool = False

    def feeds_on(self, key: Key) -> bool:
        """Whether this may be its artifact; where kustomize sets the namespace, any fits."""
        return key[1] == self.artifact and self.artifact_namespace in ("", key[0])

    @property
    def title(self) -> str:
        return "/".join(filter(None, (self.kind, self.namespace, self.name)))

    @property
    def place(self) -> str:
        """The file, line and column where it is written; empty for one that is in no file."""
        return ""


class Written(Consumer, frozen=True, eq=False, kw_only=True):
    """A consumer in a file."""

    spec: Mapping[str, Any]
    manifest: Manifest

    @property
    def place(self) -> str:
        return self.manifest.locate("metadata.name")


class Consumers:
    """The consumers in some files, and the generators there that they may belong to instead."""

    def __init__(
        self,
        files: Iterable[tuple[str, Callable[[], bytes]]],
        declared: Sequence[Declared],
        variables: Mapping[str, str],
        namespace: str,
    ) -> None:
        self._declared = {item.key: item for item in declared}
        self._found: list[Written] = []
        self._rivals: list[Declared] = []
        for manifest in _scan(files):
            if manifest.kind == KIND:
                self._rivals += _generator(manifest, variables, namespace)
            elif consumer := _consumer(manifest, variables):
                self._found.append(consumer)

    def of(self, generator: Key, name: str) -> list[Written]:
        """The consumers of an artifact of one of the given generators."""
        item = self._declared[generator]
        key = item.generator.namespace, name
        fitting = [consumer for consumer in self._found if consumer.feeds_on(key)]
        return [consumer for consumer in fitting if self._belongs(consumer, item, name)]

    def of_gone(self, key: Key) -> list[Written]:
        """The consumers of an artifact that no generator makes any more."""
        if any(may_make(rival, {"/".join(key)}) for rival in self._rivals):
            return []
        return [consumer for consumer in self._found if consumer.feeds_on(key)]

    def _belongs(self, consumer: Written, item: Declared, name: str) -> bool:
        if item.manifest.file == STDIN:
            return True
        names = {f"{item.generator.namespace}/{name}"}
        near = _nearness(consumer, item)
        return not any(may_make(rival, names) and _nearness(consumer, rival) > near for rival in self._rivals)


def files_around(inputs: Sequence[str], ground: Ground) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The YAML files of the checkouts that manifests are in; for those in none, what was given."""
    roots: set[Path] = set()
    for name in inputs:
        path = Path() if name == "-" else Path(name)
        checkout = ground.checkout(path if path.is_dir() else path.parent)
        if checkout is None and name != "-":
            for file in list_yaml(name, []) if path.is_dir() else [name]:
                yield file, Path(file).read_bytes
        elif checkout is not None and checkout.root not in roots:
            roots.add(checkout.root)
            yield from ground.files(checkout.root)


def _scan(files: Iterable[tuple[str, Callable[[], bytes]]]) -> Iterator[Manifest]:
    kinds = [kind.encode() for _, kind in REFERENCES]
    for file, read in files:
        try:
            data = read()
            # Most files are neither, and parsing is what costs.
            if KIND.encode() in data or (
                SourceKind.EXTERNAL_ARTIFACT.encode() in data and any(kind in data for kind in kinds)
            ):
                yield from find_objects(file, data, _is_wanted)
        except (OSError, BuildError):
            continue  # templates look like YAML and are none


def _is_wanted(value: Mapping[str, Any]) -> bool:
    group = str(value.get("apiVersion")).partition("/")[0]
    return value.get("kind") == KIND or (group, value.get("kind")) in REFERENCES


def _generator(manifest: Manifest, variables: Mapping[str, str], namespace: str) -> Iterator[Declared]:
    try:
        yield Declared(parse_generator(substitute(manifest.value, variables, []), namespace=namespace), manifest)
    except SpecError:
        return


def _consumer(manifest: Manifest, variables: Mapping[str, str]) -> Written | None:
    value = substitute(manifest.value, variables, [])
    group = str(value.get("apiVersion")).partition("/")[0]
    metadata, spec = _mapping(value, "metadata"), _mapping(value, "spec")
    reference = _mapping(spec, REFERENCES[group, manifest.kind])
    if reference.get("kind") != SourceKind.EXTERNAL_ARTIFACT:
        return None
    namespace = str(metadata.get("namespace") or "")
    return Written(
        kind=manifest.kind,
        namespace=namespace,
        name=str(metadata.get("name")),
        artifact_namespace=str(reference.get("namespace") or namespace),
        artifact=str(reference.get("name")),
        is_suspended=spec.get("suspend") is True,
        spec=spec,
        manifest=manifest,
    )


def _mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _nearness(consumer: Written, item: Declared) -> int:
    """How many directories two files have in common."""
    homes = [consumer.manifest.home.resolve(), item.manifest.home.resolve()]
    return len(Path(os.path.commonpath(homes)).parts)
