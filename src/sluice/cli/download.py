"""Fetch published archives, from where their status says or from somewhere else that serves them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from sluice.cache import Unpacked, UnpackedCache, parse_digest
from sluice.cli.cluster import World
from sluice.cli.objects import Artifact, Object
from sluice.content import describe
from sluice.core.errors import Code, SourceError
from sluice.core.gzip import SLICE
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.tar import HASHES

_SERVICE = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\..*)?")
FORWARDED = 8080
"""The local port of our advice."""


class Archive:
    """An archive, fetched, whose bytes have the digest of its status. Read once, in whichever way."""

    def __init__(self, one: Object, artifact: Artifact, file: IO[bytes], limits: Limits) -> None:
        self.object = one
        self.artifact = artifact
        self._file = file
        self._limits = limits

    def chunks(self) -> Iterator[bytes]:
        """Its bytes as they are served."""
        self._file.seek(0)
        return iter(lambda: self._file.read(SLICE), b"")

    def unpack(self) -> Unpacked:
        """What is in it. Raises `SourceError` for an archive that is broken or too large."""
        try:
            return UnpackedCache(limits=self._limits).open(self.chunks())
        except SourceError as error:
            raise SourceError(f"{self.object.title}: {error}", error.code) from error


@asynccontextmanager
async def fetch_archive(
    world: World, one: Object, storage_url: str = "", *, advise: bool = True, limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[Archive]:
    """The archive of an ExternalArtifact, or of another source, as long as the block runs.

    `storage_url` is where to ask instead of the host of its URL. Raises `SourceError`, with advice
    where a cluster may have to be reached from outside.
    """
    artifact = one.status.artifact
    if artifact is None:
        raise SourceError(f"{one.title} has no artifact yet: {one.ready[1]}", Code.NOT_READY)
    with tempfile.TemporaryFile() as file:
        try:
            await _fetch(world, artifact, storage_url, file, limits)
        except SourceError as error:
            advice = error.advice if advise and isinstance(error, _Unreached) else ""
            raise SourceError(f"{one.title}: {error}{advice}", error.code) from error
        yield Archive(one, artifact, file, limits)


async def _fetch(world: World, artifact: Artifact, storage_url: str, file: IO[bytes], limits: Limits) -> None:
    """Write the archive to a file, and check its digest."""
    algorithm, expected = parse_digest(artifact.digest)
    hasher, size, limit = HASHES[algorithm](), 0, limits.download_size
    async for chunk in _bytes(world, artifact, storage_url):
        size += len(chunk)
        if size > limit:
            raise SourceError(f"archive is larger than {limit} bytes (limit: {limit}, download_size)", Code.LIMIT)
        hasher.update(chunk)
        file.write(chunk)
    if (found := hasher.hexdigest()) != expected:
        what = f"digest mismatch: expected {artifact.digest}, got {algorithm}:{found}"
        raise SourceError(what, Code.DIGEST_MISMATCH)


async def _bytes(world: World, artifact: Artifact, storage_url: str) -> AsyncIterator[bytes]:
    here = None if storage_url else world.archive_file(artifact.path)
    if here is not None:
        for chunk in _read(here):
            yield chunk
        return
    url = _elsewhere(artifact.url, storage_url) if storage_url else artifact.url
    async for chunk in _get(url):
        yield chunk


def _read(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from iter(lambda: file.read(SLICE), b"")
    except OSError as error:
        raise SourceError(f"'{path}': {describe(error)}", Code.FETCH) from error


def _elsewhere(url: str, storage_url: str) -> str:
    """The same path at another place."""
    return f"{storage_url.rstrip('/')}{urlsplit(url).path}"


async def _get(url: str) -> AsyncIterator[bytes]:
    import aiohttp
    from yarl import URL

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SourceError(f"'{url}' is not an http or https URL", Code.FETCH)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=30.0)
    try:
        # The digest is that of the bytes as they come.
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=True) as session:
            async with session.get(URL(url, encoded=True), allow_redirects=False) as response:
                if response.status != 200:
                    what = f"GET {url}: the server answered {response.status} {response.reason or ''}"
                    raise SourceError(what.rstrip(), Code.FETCH)
                async for chunk in response.content.iter_chunked(SLICE):
                    yield chunk
    except aiohttp.ClientConnectionError as error:
        raise _Unreached(error, parts.hostname, parts.port) from error
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        what = "no answer in time" if isinstance(error, TimeoutError) else "the answer ended early"
        raise SourceError(f"GET {url}: {what}", Code.FETCH) from error


class _Unreached(SourceError):
    """Nobody answers there; `advice` is how to reach a service of a cluster from outside of it."""

    def __init__(self, error: Exception, host: str, port: int | None) -> None:
        super().__init__(_reason(error, host), Code.FETCH)
        self.advice = ""
        if service := _SERVICE.fullmatch(host):
            name, namespace = service.groups()
            forward = f"kubectl -n {namespace} port-forward svc/{name} {FORWARDED}:{port or 80}"
            self.advice = f" (outside of the cluster: {forward}, and --storage-url http://localhost:{FORWARDED})"


def _reason(error: Exception, host: str) -> str:
    import aiohttp

    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"cannot look up '{host}'"
        case aiohttp.ClientConnectorError(os_error=OSError() as cause):
            return f"cannot connect to '{host}': {describe(cause)}"
        case aiohttp.ServerTimeoutError():
            return f"no answer from '{host}' in time"
        case _:
            return f"the connection to '{host}' was closed"
