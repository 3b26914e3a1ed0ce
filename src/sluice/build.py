"""From a plan and its sources to a stored artifact, composing only what is not known yet."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from sluice import __version__
from sluice.core.compose import Composition, Unpack, compose
from sluice.core.errors import BuildError, SourceError
from sluice.core.plan import ArtifactPlan, Source, inputs
from sluice.core.tree import Directory

Opened = Mapping[str, Source | SourceError]
"""What became of the sources of a generator, by alias."""


class StoredArchive(Struct, frozen=True):
    """An archive in the store, as a status tells of it; `modified` is when it was written."""

    path: str
    digest: str
    size: int
    modified: datetime

    @property
    def filename(self) -> str:
        return self.path.rpartition("/")[2]


class State(StrEnum):
    """What became of a published archive."""

    PRESENT = "present"
    MISSING = "missing"
    CORRUPTED = "corrupted"


class Storage(Protocol):
    """Where archives are kept, one per distinct contents of an artifact."""

    def find(self, namespace: str, name: str, contents: bytes, *, published: str = "") -> StoredArchive | None:
        """The intact archive of a tree with this digest; the file `published` if several have it.

        Raises `StorageError`.
        """
        ...

    def put(self, namespace: str, name: str, tree: Directory, *, published: str = "") -> StoredArchive:
        """Keep a tree; what is stored already is not written again. Raises `StorageError`."""
        ...


class Artifact(Struct, frozen=True, eq=False):
    """A stored artifact and what is to be published of it."""

    name: str
    contents: bytes
    archive: StoredArchive
    revision: str
    origin_revision: str | None
    labels: Mapping[str, str]
    warnings: Sequence[str]


class Outcome(Struct, frozen=True, eq=False):
    """What a composition came to: the digest of its tree, or the error it always ends in."""

    contents: bytes
    warnings: Sequence[str] = ()
    error: BuildError | None = None


class Memo:
    """Outcomes by the inputs of their composition; forgets the least recently used.

    Knows nothing of disk or cluster, so what follows a hit is what follows a build. Safe from any
    thread.
    """

    def __init__(self, size: int = 100_000) -> None:
        self._size = size
        self._outcomes: OrderedDict[bytes, Outcome] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Outcome | None:
        with self._lock:
            found = self._outcomes.get(key)
            if found is not None:
                self._outcomes.move_to_end(key)
            return found

    def put(self, key: bytes, outcome: Outcome) -> None:
        with self._lock:
            self._outcomes[key] = outcome
            self._outcomes.move_to_end(key)
            if len(self._outcomes) > self._size:
                self._outcomes.popitem(last=False)


class Builder:
    """Builds plans, and remembers what they came to.

    `recall` costs no work worth a thread; `build` may compose, compress and write. Both raise
    `SourceError` for a source that could not be opened, `BuildError` where the plan does not fit,
    `StorageError` where the store fails.
    """

    def __init__(self, storage: Storage, unpack: Unpack, memo: Memo | None = None) -> None:
        self._storage = storage
        self._unpack = unpack
        self._memo = memo or Memo()

    def recall(self, namespace: str, plan: ArtifactPlan, sources: Opened, published: str = "") -> Artifact | None:
        """The artifact, where its composition is known and its archive stored."""
        opened = open_sources(plan, sources)
        outcome = self._memo.get(_key(plan, opened))
        if outcome is None:
            return None
        if outcome.error is not None:
            raise BuildError(str(outcome.error), outcome.error.code)
        archive = self._storage.find(namespace, plan.name, outcome.contents, published=published)
        return None if archive is None else _artifact(plan, outcome, archive, opened)

    def build(self, namespace: str, plan: ArtifactPlan, sources: Opened, published: str = "") -> Artifact:
        """The artifact, composed and stored. `published` is the file that a status names now."""
        opened = open_sources(plan, sources)
        key = _key(plan, opened)
        try:
            composition = compose(plan.recipe, _trees(opened), self._unpack)
        except BuildError as error:
            # A new one: the traceback of this one would keep the sources in memory.
            self._memo.put(key, Outcome(b"", error=BuildError(str(error), error.code)))
            raise
        outcome = Outcome(composition.tree.digest, composition.warnings)
        self._memo.put(key, outcome)
        archive = self._storage.put(namespace, plan.name, composition.tree, published=published)
        return _artifact(plan, outcome, archive, opened)


def _trees(opened: Mapping[str, Source]) -> dict[str, Directory]:
    return {alias: source.tree for alias, source in opened.items()}


def _key(plan: ArtifactPlan, opened: Mapping[str, Source]) -> bytes:
    return inputs(__version__, plan.recipe, _trees(opened))


def _artifact(plan: ArtifactPlan, outcome: Outcome, archive: StoredArchive, opened: Mapping[str, Source]) -> Artifact:
    revision, origin = revisions(plan, outcome.contents, opened)
    return Artifact(
        name=plan.name,
        contents=outcome.contents,
        archive=archive,
        revision=revision,
        origin_revision=origin,
        labels=plan.labels,
        warnings=outcome.warnings,
    )


def compose_plan(plan: ArtifactPlan, sources: Opened, unpack: Unpack) -> Composition:
    """Compose an artifact for looking at it. Raises `SourceError` or `BuildError`."""
    return compose(plan.recipe, _trees(open_sources(plan, sources)), unpack)


def open_sources(plan: ArtifactPlan, sources: Opened) -> dict[str, Source]:
    """The sources that a plan needs. Raises the first's `SourceError`."""
    opened: dict[str, Source] = {}
    for alias in sorted(plan.aliases):
        source = sources[alias]
        if isinstance(source, SourceError):
            raise source
        opened[alias] = source
    return opened


def revisions(plan: ArtifactPlan, contents: bytes, sources: Mapping[str, Source]) -> tuple[str, str | None]:
    """The revision and origin revision to publish.

    Without an alias the revision is the digest of the contents, which no compressor and no restart
    changes. A source without an origin revision is its own origin.
    """
    revision = f"latest@sha256:{contents.hex()}" if plan.revision is None else sources[plan.revision].revision
    if plan.origin_revision is None:
        return revision, None
    origin = sources[plan.origin_revision]
    return revision, origin.origin_revision or origin.revision
