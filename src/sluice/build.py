"""From a plan and its sources to a stored artifact, composing only what is not known yet."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Protocol

from msgspec import Struct

from sluice.core.compose import Composition, Unpack, compose
from sluice.core.errors import BuildError, SluiceError, SourceError
from sluice.core.pathpattern import Failure
from sluice.core.plan import ArtifactPlan, Source, inputs
from sluice.core.tree import Directory

VERSION = version("flux-sluice")

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


class Storage(Protocol):
    """Where archives are kept, one per distinct contents of an artifact."""

    def put(self, namespace: str, name: str, tree: Directory) -> StoredArchive:
        """Keep a tree; what is stored already is not written again. Raises `StorageError`."""
        ...

    def find(self, namespace: str, name: str, contents: bytes) -> StoredArchive | None:
        """The intact archive of a tree with this digest. Raises `StorageError`."""
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


def build_artifacts(
    namespace: str,
    plans: Iterable[ArtifactPlan | Failure],
    sources: Opened,
    storage: Storage,
    memo: Memo,
    unpack: Unpack,
) -> Iterator[Artifact | Failure]:
    """Build every plan on its own; one that fails costs no other."""
    for plan in plans:
        if isinstance(plan, Failure):
            yield plan
            continue
        try:
            yield build(namespace, plan, sources, storage, memo, unpack)
        except SluiceError as error:
            yield Failure(plan.name, error)


def build(
    namespace: str, plan: ArtifactPlan, sources: Opened, storage: Storage, memo: Memo, unpack: Unpack
) -> Artifact:
    """Compose an artifact and store it, or find that it is known and stored already.

    Raises `SourceError` for a source that could not be opened, `BuildError` where the plan does not
    fit, `StorageError` where the store fails.
    """
    opened = open_sources(plan, sources)
    trees = {alias: source.tree for alias, source in opened.items()}
    key = inputs(VERSION, plan.recipe, trees)
    outcome = memo.get(key)
    archive = None
    if outcome is not None and outcome.error is None:
        archive = storage.find(namespace, plan.name, outcome.contents)
    if outcome is None or archive is None:
        outcome, tree = _compose(plan, trees, unpack, memo, key)
        archive = storage.put(namespace, plan.name, tree)
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


def _compose(
    plan: ArtifactPlan, trees: Mapping[str, Directory], unpack: Unpack, memo: Memo, key: bytes
) -> tuple[Outcome, Directory]:
    known = memo.get(key)
    if known is not None and known.error is not None:
        raise BuildError(str(known.error), known.error.code)
    try:
        composition = compose(plan.recipe, trees, unpack)
    except BuildError as error:
        memo.put(key, Outcome(b"", error=error))
        raise
    outcome = Outcome(composition.tree.digest, composition.warnings)
    memo.put(key, outcome)
    return outcome, composition.tree


def compose_plan(plan: ArtifactPlan, sources: Opened, unpack: Unpack) -> Composition:
    """Compose an artifact for looking at it. Raises `SourceError` or `BuildError`."""
    return compose(plan.recipe, {a: s.tree for a, s in open_sources(plan, sources).items()}, unpack)


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
