"""The world as the reconciler sees it: generators, sources, published artifacts, and how to write.

`Objects` is what a Kubernetes API and a directory have in common. Reading is synchronous, from a
view that watches keep; writing is awaited, and what a write returns is in the view before the call
returns. So a decision never waits, and never acts on what it has itself changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from sluice.core.spec import SourceRef

Key = tuple[str, str]
"""Namespace and name."""

FINALIZER = "source.extensions.fluxcd.io/finalizer"
GENERATOR_LABEL = "source.extensions.fluxcd.io/generator"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "source-watcher"
PAUSE_ANNOTATION = "source.extensions.fluxcd.io/reconcile"
REQUEST_ANNOTATION = "reconcile.fluxcd.io/requestedAt"
EVENT_ANNOTATION_PREFIX = "event.toolkit.fluxcd.io/"
DIALECT_ANNOTATION = "sluice/dialect"
ATOMIC_ANNOTATION = "sluice/atomic"
ALLOW_EMPTY_ANNOTATION = "sluice/allow-empty"
ORIGIN_REVISION = "org.opencontainers.image.revision"


class ConditionType(StrEnum):
    """The conditions of a generator, in the order in which they are written."""

    STALLED = "Stalled"
    RECONCILING = "Reconciling"
    READY = "Ready"


class Condition(Struct, frozen=True, rename="camel", omit_defaults=True):
    """One condition, as every Kubernetes object has them."""

    type: str
    status: str
    reason: str
    message: str
    last_transition_time: datetime
    observed_generation: int = 0


class InventoryItem(Struct, frozen=True):
    """A published artifact, as a generator's status lists it; `filename` is its base name in storage."""

    name: str
    namespace: str
    digest: str
    filename: str


class GeneratorStatus(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A generator's status."""

    conditions: tuple[Condition, ...] = ()
    inventory: tuple[InventoryItem, ...] = ()
    observed_sources_digest: str = ""
    last_handled_reconcile_at: str = ""

    def condition(self, kind: ConditionType) -> Condition | None:
        return next((condition for condition in self.conditions if condition.type == kind), None)


class Generator(Struct, frozen=True, kw_only=True):
    """A generator as it is stored. `spec` is its JSON, read when the generator is reconciled."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    annotations: Mapping[str, str] = {}
    finalizers: tuple[str, ...] = ()
    is_deleted: bool = False
    """Whether its deletion was asked for; it is there until its finalizers are gone."""
    spec: bytes = b"{}"
    status: GeneratorStatus = GeneratorStatus()

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    @property
    def is_paused(self) -> bool:
        return self.annotations.get(PAUSE_ANNOTATION, "").lower() == "disabled"


class ArtifactStatus(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What `status.artifact` of a source or ExternalArtifact says."""

    digest: str
    path: str
    url: str
    revision: str
    last_update_time: datetime | None = None
    size: int | None = None
    metadata: Mapping[str, str] = {}

    @property
    def origin_revision(self) -> str | None:
        return self.metadata.get(ORIGIN_REVISION)


class Owner(Struct, frozen=True, rename="camel"):
    """What an ExternalArtifact's `spec.sourceRef` names."""

    api_version: str
    kind: str
    name: str
    namespace: str


class ExternalArtifact(Struct, frozen=True, kw_only=True):
    """A published artifact as it is stored."""

    namespace: str
    name: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    is_deleted: bool = False
    owner: Owner | None = None
    artifact: ArtifactStatus | None = None
    is_ready: bool = False
    """Whether its Ready condition is the one we write, for its current generation."""
    ready_since: datetime | None = None
    """Since when its Ready condition is the one we write, for whatever generation."""

    @property
    def key(self) -> Key:
        return self.namespace, self.name


class ObservedSource(Struct, frozen=True):
    """A source object: what it offers, or nothing while it is not ready."""

    artifact: ArtifactStatus | None


class GeneratorChanged(Struct, frozen=True):
    """A generator is new, changed or gone."""

    before: Generator | None
    after: Generator | None


class SourceChanged(Struct, frozen=True):
    """A source, of whatever kind, is new, changed or gone. `ref` has no alias."""

    ref: SourceRef
    before: ObservedSource | None
    after: ObservedSource | None


class ArtifactChanged(Struct, frozen=True):
    """An ExternalArtifact is new, changed or gone, and not by our own write."""

    before: ExternalArtifact | None
    after: ExternalArtifact | None


Change = GeneratorChanged | SourceChanged | ArtifactChanged


class EventKind(StrEnum):
    """How an event weighs; a trace is for the cluster's own list and for logs only."""

    TRACE = "Trace"
    NORMAL = "Normal"
    WARNING = "Warning"


class Event(Struct, frozen=True):
    """Something that happened to a generator, for people and for notifications.

    With `unchanged` it tells that nothing changed, and is sent at most once in five minutes.
    """

    kind: EventKind
    reason: str
    message: str
    revision: str = ""
    unchanged: bool = False


class Objects(Protocol):
    """Generators, their sources and their artifacts, wherever they are kept.

    All writes raise `ApiError`. Writing what is there already is the caller's mistake: it has the
    view to compare with.
    """

    def subscribe(self, notice: Callable[[Change], None]) -> None:
        """Call `notice` for every change from now on, in the order of the view's own changes.

        What we write ourselves is no news, with two exceptions: an artifact of ours that changes is
        a source that changes, and a generator whose last finalizer we remove is gone.
        """
        ...

    def generator(self, key: Key) -> Generator | None: ...

    def generators(self) -> Iterable[Generator]: ...

    def source(self, ref: SourceRef) -> ObservedSource | None: ...

    def artifact(self, key: Key) -> ExternalArtifact | None: ...

    def artifacts_of(self, uid: str) -> Collection[ExternalArtifact]:
        """The artifacts that carry a generator's label."""
        ...

    async def read_source(self, ref: SourceRef) -> ObservedSource | None:
        """A source as it is now, not from the view."""
        ...

    async def owner_exists(self, owner: Owner) -> bool:
        """Whether a generator is there now, asked live. True whenever that is not certain."""
        ...

    async def set_finalizer(self, generator: Generator, *, present: bool) -> Generator | None:
        """Add or remove our finalizer, leaving others alone; None if that let the generator go."""
        ...

    async def write_status(self, generator: Generator, status: GeneratorStatus) -> Generator:
        """Replace the status, in one write; conditions of other owners stay."""
        ...

    async def apply_artifact(self, wanted: ExternalArtifact) -> ExternalArtifact:
        """Make an artifact's labels, annotations and owner so; returns it as stored."""
        ...

    async def write_artifact_status(self, key: Key, generation: int, artifact: ArtifactStatus) -> ExternalArtifact:
        """Publish what an artifact is now, Ready at that generation."""
        ...

    async def delete_artifact(self, artifact: ExternalArtifact) -> None:
        """Delete exactly this object; that it is gone already is fine."""
        ...

    def record(self, generator: Generator, event: Event) -> None:
        """Tell people. Never waits and never fails."""
        ...
