"""What is to be built, decided before anything is opened."""

from __future__ import annotations

from msgspec import Struct

from sluice.core.tree import Directory


class Source(Struct, frozen=True, eq=False):
    """An opened source.

    `revision` is what the source says of itself (``main@sha1:…``); `digest` the
    ``<algorithm>:<hex>`` of its archive, empty for a local directory; `origin_revision` the
    ``org.opencontainers.image.revision`` of its metadata, where it has one.
    """

    tree: Directory
    revision: str
    digest: str = ""
    url: str = ""
    origin_revision: str | None = None
