"""Open artifacts of registries, with the extra `oci`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from sluice.content import describe
from sluice.core.errors import Code, SourceError
from sluice.core.gzip import SLICE
from sluice.core.plan import Source
from sluice.sources.archive import Cache
from sluice.sources.git_command import redact
from sluice.sources.oci import MANIFESTS, MAX_JSON, ORIGIN_REVISION, check_type, read_manifest, select_layer

SCHEME = "oci://"
_REFERENCE = re.compile(
    r"([a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+|[a-zA-Z0-9.-]+(?=:))(:[0-9]{1,5})?"
    r"(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})?"
)
_LOOPBACK = ("127.0.0.1", "localhost")


def open_registry(location: str, cache: Cache, *, layer: str | None = None) -> Source:
    """The artifact at ``oci://<host>/<repository>``, with ``:<tag>`` or ``@<digest>`` behind; else ``:latest``.

    Credentials are those of `docker login`. Plain HTTP is for registries on this machine.
    """
    where = redact(location)
    try:
        from oras.provider import Registry
    except ImportError as error:
        raise SourceError(
            f"'{where}': registries need the extra 'oci' of flux-sluice (or copy the artifact to an OCI layout,"
            " and name its directory)",
            Code.FETCH,
        ) from error
    name = location.removeprefix(SCHEME)
    # The library takes anything for a name on Docker Hub, a password for its tag.
    if not _REFERENCE.fullmatch(name):
        raise SourceError(f"'{where}' is not an artifact (oci://host/repository:tag)", Code.NOT_FOUND)
    try:
        registry = Registry(insecure=name.partition("/")[0].rpartition(":")[0] in _LOOPBACK)
        artifact = registry.get_container(name)
        registry.auth.load_configs(artifact)
        with registry.session:
            return _open(registry, artifact, where, cache, layer)
    except OSError as error:  # requests derives its errors from it
        raise SourceError(f"'{where}': {redact(describe(error))}", Code.FETCH) from error
    except ValueError as error:
        raise SourceError(f"'{where}': {redact(str(error)).lower()}", Code.FETCH) from error


def _open(registry: Any, artifact: Any, where: str, cache: Cache, layer: str | None) -> Source:
    def get(path: str) -> Any:
        answer = registry.do_request(
            f"{registry.prefix}://{path}", headers={"Accept": ", ".join(MANIFESTS)}, stream=True
        )
        if answer.status_code != 200:
            answer.close()
            code = Code.NOT_FOUND if answer.status_code == 404 else Code.FETCH
            raise SourceError(f"'{where}': the registry answered {answer.status_code}", code)
        return answer

    with get(artifact.manifest_url()) as answer:
        check_type(where, answer.headers.get("Content-Type", "").partition(";")[0])
        data = b"".join(_at_most(MAX_JSON, answer.iter_content(SLICE)))
    digest = artifact.digest or f"sha256:{hashlib.sha256(data).hexdigest()}"
    manifest = read_manifest(where, data, digest)
    content = select_layer(where, manifest.layers, layer)
    with get(artifact.get_blob_url(content.digest)) as answer:
        try:
            unpacked = cache.open(_at_most(content.size, answer.iter_content(SLICE)), content.digest)
        except SourceError as error:
            raise SourceError(f"'{where}': {error}", error.code) from error
    return Source(
        unpacked.tree,
        digest if artifact.digest else f"{artifact.tag}@{digest}",
        unpacked.digest,
        where,
        manifest.annotations.get(ORIGIN_REVISION),
    )


def _at_most(size: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        size -= len(chunk)
        if size < 0:
            raise ValueError("the registry sent more than was announced")
        yield chunk
