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


class Manifest(Struct):
    """An artifact: its layers, and what was noted about it."""

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
    where = str(path)
    index = _decode(where, "index.json", _read(path, path / "index.json"), _Index)
    found = _select(path, index.manifests, tag)
    check_type(where, found.media_type)
    manifest = read_manifest(where, _read(path, _blob_path(path, found)), found.digest)
    content = select_layer(where, manifest.layers, layer)
    unpacked = unpack_file(_blob_path(path, content), where, cache, content.digest)
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


def select_layer(where: str, layers: Sequence[Descriptor], media_type: str | None) -> Descriptor:
    """The layer that holds the content."""
    wanted = [layer for layer in layers if layer.media_type == (media_type or FLUX_LAYER)]
    if not media_type:
        wanted += [layer for layer in layers if layer.media_type.endswith(("tar+gzip", "tar.gzip"))]
    if not wanted:
        known = ", ".join(sorted({layer.media_type for layer in layers})) or "none"
        raise SourceError(f"'{where}': no layer of type '{media_type or FLUX_LAYER}' (types: {known})", Code.NOT_FOUND)
    _check_digest(where, wanted[0].digest)
    return wanted[0]


def read_manifest(where: str, data: bytes, digest: str) -> Manifest:
    """The manifest in bytes that must have the digest."""
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != digest:
        raise SourceError(f"'{where}': digest mismatch: expected {digest}, got {found}", Code.DIGEST_MISMATCH)
    return _decode(where, f"manifest {digest}", data, Manifest)


def check_type(where: str, media_type: str) -> None:
    """Refuse what is no manifest, as an index of several platforms."""
    if media_type not in MANIFESTS:
        known = " or ".join(MANIFESTS)
        raise SourceError(f"'{where}': the artifact is a '{media_type}' (only {known})", Code.INVALID_ARCHIVE)


def _check_digest(where: str, digest: str) -> None:
    # It becomes a part of a path, or of a URL.
    if not _DIGEST.fullmatch(digest):
        raise SourceError(f"'{where}': '{digest}' is not a sha256 digest", Code.DIGEST_MISMATCH)


def _blob_path(path: Path, blob: Descriptor) -> Path:
    _check_digest(str(path), blob.digest)
    file = path / "blobs" / "sha256" / blob.digest.removeprefix("sha256:")
    try:
        size = file.stat().st_size
    except OSError as error:
        raise SourceError(f"'{path}': blob {blob.digest}: {describe(error)}", Code.NOT_FOUND) from error
    if size != blob.size:
        what = f"size mismatch of blob {blob.digest}: expected {blob.size} bytes, got {size}"
        raise SourceError(f"'{path}': {what}", Code.DIGEST_MISMATCH)
    return file


def _read(path: Path, file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_JSON + 1)
    except OSError as error:
        raise SourceError(f"'{path}': '{file.name}': {describe(error)}", Code.NOT_FOUND) from error
    if len(data) > MAX_JSON:
        raise SourceError(f"'{path}': '{file.name}' is larger than {MAX_JSON} bytes", Code.LIMIT)
    return data


def _decode(where: str, name: str, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise SourceError(f"'{where}': {name} cannot be read: {error}", Code.INVALID_ARCHIVE) from error
