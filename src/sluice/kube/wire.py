"""How generators, sources and artifacts look on the wire, as far as they are read.

Whatever the API server admits can be read here: a time that makes no sense is no time, for a bad
one in one object must not make that object disappear. Texts that many objects repeat are kept once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from sys import intern

import msgspec
from msgspec import Raw, Struct

from sluice.control.objects import (
    ORIGIN_REVISION,
    ArtifactStatus,
    Condition,
    ConditionType,
    ExternalArtifact,
    Generator,
    GeneratorStatus,
    InventoryItem,
    ObservedSource,
    Owner,
)
from sluice.kube.kinds import EXTERNAL_ARTIFACT, Metadata

READY = ("True", "Succeeded", "Artifact is ready")
"""Status, reason and message of the one condition of an artifact."""

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_EPOCH = datetime.fromtimestamp(0, UTC)


class _Condition(Struct, frozen=True, rename="camel"):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""
    observed_generation: int = 0


class _GeneratorStatus(Struct, frozen=True, rename="camel"):
    conditions: tuple[_Condition, ...] = ()
    inventory: tuple[InventoryItem, ...] = ()
    observed_sources_digest: str = ""
    last_handled_reconcile_at: str = ""


class WireGenerator(Struct, frozen=True):
    """An ArtifactGenerator."""

    metadata: Metadata
    spec: Raw = Raw(b"{}")
    status: _GeneratorStatus = _GeneratorStatus()


class _Artifact(Struct, frozen=True, rename="camel"):
    digest: str = ""
    path: str = ""
    url: str = ""
    revision: str = ""
    last_update_time: str = ""
    size: int | None = None
    metadata: Mapping[str, str] = {}


class _SourceStatus(Struct, frozen=True):
    artifact: _Artifact | None = None


class WireSource(Struct, frozen=True):
    """A source of any kind."""

    metadata: Metadata
    status: _SourceStatus = _SourceStatus()


class _Reference(Struct, frozen=True, rename="camel"):
    kind: str
    name: str
    api_version: str = ""
    namespace: str = ""


class _ArtifactSpec(Struct, frozen=True, rename="camel"):
    source_ref: _Reference | None = None


class _ArtifactObjectStatus(Struct, frozen=True):
    artifact: _Artifact | None = None
    conditions: tuple[_Condition, ...] = ()


class WireArtifact(Struct, frozen=True):
    """An ExternalArtifact."""

    metadata: Metadata
    spec: _ArtifactSpec = _ArtifactSpec()
    status: _ArtifactObjectStatus = _ArtifactObjectStatus()


GENERATORS = msgspec.json.Decoder(WireGenerator)
SOURCES = msgspec.json.Decoder(WireSource)
ARTIFACTS = msgspec.json.Decoder(WireArtifact)


def to_generator(wire: WireGenerator) -> Generator:
    metadata, status = wire.metadata, wire.status
    return Generator(
        namespace=intern(metadata.namespace),
        name=metadata.name,
        uid=metadata.uid,
        generation=metadata.generation,
        resource_version=metadata.resource_version,
        annotations=_annotations(metadata),
        finalizers=metadata.finalizers,
        is_deleted=metadata.deletion_timestamp is not None,
        spec=bytes(wire.spec),
        status=GeneratorStatus(
            conditions=tuple(map(_condition, status.conditions)),
            inventory=status.inventory,
            observed_sources_digest=status.observed_sources_digest,
            last_handled_reconcile_at=status.last_handled_reconcile_at,
        ),
    )


def to_source(wire: WireSource) -> ObservedSource:
    return offer(_artifact(wire.status.artifact))


def offer(artifact: ArtifactStatus | None) -> ObservedSource:
    """What a source offers: of its artifact, what decides whether there is something to do."""
    if artifact is None:
        return ObservedSource(None)
    origin = artifact.origin_revision
    return ObservedSource(
        ArtifactStatus(
            digest=artifact.digest,
            path=artifact.path,
            url=artifact.url,
            revision=artifact.revision,
            size=artifact.size,
            metadata={} if origin is None else {ORIGIN_REVISION: origin},
        )
    )


def to_artifact(wire: WireArtifact) -> ExternalArtifact:
    metadata = wire.metadata
    ready = _ready(wire.status.conditions)
    return ExternalArtifact(
        namespace=intern(metadata.namespace),
        name=metadata.name,
        uid=metadata.uid,
        generation=metadata.generation,
        resource_version=metadata.resource_version,
        labels=metadata.labels,
        annotations=_annotations(metadata),
        is_deleted=metadata.deletion_timestamp is not None,
        owner=_owner(wire.spec.source_ref),
        artifact=_artifact(wire.status.artifact),
        is_ready=ready is not None and ready.observed_generation == metadata.generation,
        ready_since=None if ready is None else ready.last_transition_time,
    )


def artifact_body(wanted: ExternalArtifact) -> Mapping[str, object]:
    """What is applied to an artifact's object."""
    metadata = {"name": wanted.name, "namespace": wanted.namespace, "labels": wanted.labels}
    if wanted.annotations:
        metadata["annotations"] = wanted.annotations
    return {
        "apiVersion": EXTERNAL_ARTIFACT.api_version,
        "kind": EXTERNAL_ARTIFACT.name,
        "metadata": metadata,
        "spec": {"sourceRef": wanted.owner} if wanted.owner else {},
    }


def artifact_status_body(
    namespace: str, name: str, artifact: ArtifactStatus, generation: int, since: datetime
) -> Mapping[str, object]:
    """What is applied to an artifact's status."""
    return {
        "apiVersion": EXTERNAL_ARTIFACT.api_version,
        "kind": EXTERNAL_ARTIFACT.name,
        "metadata": {"name": name, "namespace": namespace},
        "status": {"artifact": artifact, "conditions": [Condition(ConditionType.READY, *READY, since, generation)]},
    }


def status_patch(status: GeneratorStatus, there: Iterable[Condition]) -> Mapping[str, object]:
    """A merge patch that makes a generator's status so; of what is `there`, others' conditions stay."""
    ours: list[str] = list(ConditionType)
    mine = sorted((one for one in status.conditions if one.type in ours), key=lambda one: ours.index(one.type))
    return {
        "conditions": [*mine, *(one for one in there if one.type not in ours)] or None,
        "inventory": status.inventory or None,
        "observedSourcesDigest": status.observed_sources_digest or None,
        "lastHandledReconcileAt": status.last_handled_reconcile_at or None,
    }


def _annotations(metadata: Metadata) -> Mapping[str, str]:
    """All but kubectl's copy of the whole object."""
    if _LAST_APPLIED not in metadata.annotations:
        return metadata.annotations
    return {name: value for name, value in metadata.annotations.items() if name != _LAST_APPLIED}


def _condition(wire: _Condition) -> Condition:
    return Condition(
        intern(wire.type),
        intern(wire.status),
        intern(wire.reason),
        wire.message,
        _moment(wire.last_transition_time) or _EPOCH,
        wire.observed_generation,
    )


def _ready(conditions: Iterable[_Condition]) -> Condition | None:
    """The Ready condition, if it is the one we write."""
    for one in conditions:
        if one.type == ConditionType.READY and (one.status, one.reason, one.message) == READY:
            return _condition(one)
    return None


def _owner(wire: _Reference | None) -> Owner | None:
    if wire is None:
        return None
    return Owner(intern(wire.api_version), intern(wire.kind), wire.name, intern(wire.namespace))


def _artifact(wire: _Artifact | None) -> ArtifactStatus | None:
    if wire is None:
        return None
    return ArtifactStatus(
        digest=wire.digest,
        path=wire.path,
        url=wire.url,
        revision=wire.revision,
        last_update_time=_moment(wire.last_update_time),
        size=wire.size,
        metadata=wire.metadata,
    )


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError:
        return None
