"""Open artifacts of OCI image layouts: directories with `oci-layout`, `index.json` and `blobs`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from sluice.content import describe
from sluice.core.errors import Code, SourceError
from sluice.core.limits import MIB
from sluice.core.plan import Source
from sluice.sources.archive import Cache, unpack_file

FLUX_LAYER: Final = "application/vnd.cncf.flux.content.v1.tar+gzip"
TAG: Final = "org.opencontainers.image.ref.name"
ORIGIN_REVISION: Final = "org.opencontainers.image.revision"
MAX_JSON: Final = 4 * MIB
"""Bytes of an index or a manifest, as registries limit them."""

MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

T = TypeVar("T")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Descriptor(Struct, rename="camel"):
    """A blob: by digest, with its size."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = {}


class _Index(Struct):
    manifests: Sequence[Descriptor]


class _Manifest(Struct):
    layers: Sequence[Descriptor]
    annotations: Mapping[str, str] = {}


def is_layout(path: Path) -> bool:
    """Whether a directory is an OCI image layout."""
    return (path / "oci-layout").is_file()


def open_layout(path: Path, tag: str | None, cache: Cache, *, layer: str | None = None) -> Source:
    """The content layer of an artifact: the only one of the layout, or the one with the tag.

    `layer` is the media type that ``spec.layerSelector`` asks for; without it the layer is that of
    `flux push artifact`, else the first gzipped tar. Everything read on the way must have the size
    and digest that were announced. The revision is ``<tag>@sha256:<manifest>``.
    """
    index = _decode(path, "index.json", _read(path, path / "index.json"), _Index)
    found = _select(path, index.manifests, tag)
    manifest = _read_manifest(path, found)
    content = _select_layer(path, manifest.layers, layer)
    unpacked = unpack_file(_blob_path(path, content), str(path), cache, content.digest)
    name = found.annotations.get(TAG)
    return Source(
        unpacked.tree,
        f"{name}@{found.digest}" if name else found.digest,
        unpacked.digest,
        origin_revision=manifest.annotations.get(ORIGIN_REVISION),
    )


def _select(path: Path, manifests: Sequence[Descriptor], tag: str | None) -> Descriptor:
    tags = [found.annotations.get(TAG, "") for found in manifests]
    if tag is None and len(manifests) == 1:
        return manifests[0]
    for found, name in zip(manifests, tags, strict=True):
        if name == (tag or "latest"):
            return found
    known = ", ".join(sorted(filter(None, tags))) or "none"
    raise SourceError(f"'{path}': no artifact with tag '{tag or 'latest'}' (tags: {known})", Code.NOT_FOUND)


def _select_layer(path: Path, layers: Sequence[Descriptor], media_type: str | None) -> Descriptor:
    wanted = [layer for layer in layers if layer.media_type == (media_type or FLUX_LAYER)]
    if not media_type:
        wanted += [layer for layer in layers if layer.media_type.endswith(("tar+gzip", "tar.gzip"))]
    if not wanted:
        known = ", ".join(sorted({layer.media_type for layer in layers})) or "none"
        raise SourceError(f"'{path}': no layer of type '{media_type or FLUX_LAYER}' (types: {known})", Code.NOT_FOUND)
    return wanted[0]


def _blob_path(path: Path, blob: Descriptor) -> Path:
    if not _DIGEST.fullmatch(blob.digest):
        raise SourceError(f"'{path}': '{blob.digest}' is not a sha256 digest", Code.DIGEST_MISMATCH)
    file = path / "blobs" / "sha256" / blob.digest.removeprefix("sha256:")
    try:
        size = file.stat().st_size
    except OSError as error:
        raise SourceError(f"'{path}': blob {blob.digest}: {describe(error)}", Code.NOT_FOUND) from error
    if size != blob.size:
        what = f"size mismatch of blob {blob.digest}: expected {blob.size} bytes, got {size}"
        raise SourceError(f"'{path}': {what}", Code.DIGEST_MISMATCH)
    return file


def _read_manifest(path: Path, blob: Descriptor) -> _Manifest:
    if blob.media_type not in MANIFESTS:
        known = " or ".join(MANIFESTS)
        raise SourceError(f"'{path}': the artifact is a '{blob.media_type}' (only {known})", Code.INVALID_ARCHIVE)
    data = _read(path, _blob_path(path, blob))
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != blob.digest:
        raise SourceError(f"'{path}': digest mismatch: expected {blob.digest}, got {found}", Code.DIGEST_MISMATCH)
    return _decode(path, f"manifest {blob.digest}", data, _Manifest)


def _read(path: Path, file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_JSON + 1)
    except OSError as error:
        raise SourceError(f"'{path}': '{file.name}': {describe(error)}", Code.NOT_FOUND) from error
    if len(data) > MAX_JSON:
        raise SourceError(f"'{path}': '{file.name}' is larger than {MAX_JSON} bytes", Code.LIMIT)
    return data


def _decode(path: Path, name: str, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise SourceError(f"'{path}': {name} cannot be read: {error}", Code.INVALID_ARCHIVE) from error
