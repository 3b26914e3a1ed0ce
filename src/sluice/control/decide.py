"""What to do about a generator: pure functions of what was observed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

from sluice.build import Artifact
from sluice.control.objects import (
    FINALIZER,
    GENERATOR_LABEL,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    ORIGIN_REVISION,
    REQUEST_ANNOTATION,
    ArtifactStatus,
    ConditionType,
    ExternalArtifact,
    Generator,
    InventoryItem,
    Key,
    Owner,
)
from sluice.core.errors import Code, Problem
from sluice.core.spec import API_VERSION, KIND, ArtifactGenerator


class Step(StrEnum):
    """What a generator is at."""

    FORGET = "forget"
    FINALIZE = "finalize"
    SUSPEND = "suspend"
    RECONCILE = "reconcile"


def next_step(generator: Generator | None) -> Step:
    """What to do with a generator before looking at its spec."""
    if generator is None:
        return Step.FORGET
    if generator.is_deleted:
        return Step.FINALIZE if FINALIZER in generator.finalizers else Step.FORGET
    return Step.SUSPEND if generator.is_paused else Step.RECONCILE


def check_access(spec: ArtifactGenerator, *, lockdown: bool) -> list[Problem]:
    """The sources that a generator may not use because they are another namespace's."""
    return [
        Problem(
            Code.ACCESS_DENIED,
            f"cross-namespace reference to source {source} is not allowed",
            f"spec.sources[{number}].namespace",
        )
        for number, source in enumerate(spec.sources)
        if lockdown and source.namespace != spec.namespace
    ]


def sources_digest(sources: Mapping[str, ArtifactStatus]) -> str:
    """A digest of what a generator's sources are, by alias; the peer computes the same."""
    texts = sorted(
        f"{alias}=[digest={source.digest},revision={source.revision},url={source.url}]".encode()
        for alias, source in sources.items()
    )
    return f"sha256:{hashlib.sha256(b'|'.join(texts)).hexdigest()}"


class Drift(StrEnum):
    """Why a generator has to be looked at more closely, as the logs name it."""

    NOT_READY = "NotReady"
    GENERATION_CHANGED = "GenerationChanged"
    SOURCES_CHANGED = "SourcesChanged"
    ARTIFACTS_CHANGED = "ArtifactsChanged"
    ARTIFACT_MISSING = "ArtifactMissing"
    EXTERNAL_ARTIFACTS_CHANGED = "ExternalArtifactsChanged"
    DIALECT_CHANGED = "DialectChanged"


def outdated(generator: Generator, spec: ArtifactGenerator, digest: str) -> Drift | None:
    """The first difference between what a generator's status tells and what was observed."""
    status = generator.status
    ready = status.condition(ConditionType.READY)
    if ready is None or ready.status != "True":
        return Drift.NOT_READY
    if ready.observed_generation != generator.generation:
        return Drift.GENERATION_CHANGED
    if status.observed_sources_digest != digest:
        return Drift.SOURCES_CHANGED
    if spec.path_pattern is None and len(status.inventory) != len(spec.artifacts):
        return Drift.ARTIFACTS_CHANGED
    return None


def detect_drift(
    generator: Generator,
    spec: ArtifactGenerator,
    digest: str,
    published: Mapping[Key, ExternalArtifact],
    base_url: str,
    is_stored: Mapping[Key, bool],
) -> Drift | None:
    """The first difference between what a generator's status promises and what is there.

    `published` are the ExternalArtifacts of the inventory's names and of the generator's label,
    `is_stored` tells for each item of the inventory whether its file is there.
    """
    status = generator.status
    if (drift := outdated(generator, spec, digest)) is not None:
        return drift
    if not all(is_stored.get((item.namespace, item.name), False) for item in status.inventory):
        return Drift.ARTIFACT_MISSING
    listed = {(item.namespace, item.name): item for item in status.inventory}
    if listed.keys() != published.keys():
        return Drift.EXTERNAL_ARTIFACTS_CHANGED
    if not all(_is_published(item, published[key], generator, spec, base_url) for key, item in listed.items()):
        return Drift.EXTERNAL_ARTIFACTS_CHANGED
    return None


def _is_published(
    item: InventoryItem, there: ExternalArtifact, generator: Generator, spec: ArtifactGenerator, base_url: str
) -> bool:
    artifact = there.artifact
    path = artifact_path(item.namespace, item.name, item.filename)
    return (
        artifact is not None
        and there.is_ready
        and (artifact.digest, artifact.path, artifact.url) == (item.digest, path, f"{base_url}/{path}")
        and there.owner == owner_of(generator)
        and there.labels.items() >= {**spec.labels, **_own_labels(generator)}.items()
        and there.annotations.items() >= spec.metadata_annotations.items()
    )


def is_request(generator: Generator) -> bool:
    """Whether somebody asks for a reconciliation that was not handled yet."""
    asked = generator.annotations.get(REQUEST_ANNOTATION, "")
    return bool(asked) and asked != generator.status.last_handled_reconcile_at


# --- what to publish ----------------------------------------------------------------------------


def artifact_path(namespace: str, name: str, filename: str) -> str:
    return f"externalartifact/{namespace}/{name}/{filename}"


def owner_of(generator: Generator) -> Owner:
    return Owner(API_VERSION, KIND, generator.name, generator.namespace)


def _own_labels(generator: Generator) -> dict[str, str]:
    return {MANAGED_BY_LABEL: MANAGED_BY, GENERATOR_LABEL: generator.uid}


def wanted_object(generator: Generator, spec: ArtifactGenerator, artifact: Artifact) -> ExternalArtifact:
    """The object of an artifact, without its status; the reserved labels win."""
    return ExternalArtifact(
        namespace=generator.namespace,
        name=artifact.name,
        labels={**spec.labels, **artifact.labels, **_own_labels(generator)},
        annotations=spec.metadata_annotations,
        owner=owner_of(generator),
    )


def needs_apply(there: ExternalArtifact | None, wanted: ExternalArtifact, *, generation_changed: bool) -> bool:
    """Whether an object has to be applied.

    Only a new generation can mean that a name was dropped; what else is there is somebody else's.
    """
    if there is None or there.owner != wanted.owner:
        return True
    pairs = ((there.labels, wanted.labels), (there.annotations, wanted.annotations))
    return any(
        not have.items() >= want.items() or (generation_changed and have.keys() != want.keys()) for have, want in pairs
    )


def wanted_status(
    artifact: Artifact, there: ExternalArtifact | None, base_url: str, now: datetime, *, origin_every_commit: bool
) -> ArtifactStatus:
    """What to publish of an artifact, keeping what is published as long as it is true.

    A default revision is kept while the archive is the same, whoever computed it; an origin is that
    of the commit that last changed the revision, unless every commit is asked for.
    """
    published = there.artifact if there is not None else None
    revision, origin, updated = artifact.revision, artifact.origin_revision, now.replace(microsecond=0)
    if published is not None and published.digest == artifact.archive.digest:
        updated = published.last_update_time or updated
        if published.revision == f"latest@{published.digest}" and revision.startswith("latest@"):
            revision = published.revision  # as the peer names the same bytes
    if published is not None and published.revision == revision and not origin_every_commit:
        # Only whether there is an origin follows the spec at once.
        origin = origin and (published.origin_revision or origin)
    return ArtifactStatus(
        digest=artifact.archive.digest,
        path=artifact.archive.path,
        url=f"{base_url}/{artifact.archive.path}",
        revision=revision,
        last_update_time=updated,
        size=artifact.archive.size,
        metadata={ORIGIN_REVISION: origin} if origin else {},
    )


class Ownership(StrEnum):
    """Whose an ExternalArtifact is."""

    OURS = "ours"
    FOREIGN = "foreign"
    UNLESS_OWNER_IS_GONE = "unless its owner is gone"


def ownership(there: ExternalArtifact | None, generator: Generator) -> Ownership:
    """Whose an ExternalArtifact of a wanted name is, as far as the view tells.

    An owner that is gone can only be a generator of the same namespace: of anything else we could
    not tell, and a redirection to another namespace must not become a way in.
    """
    if there is None:
        return Ownership.OURS
    if there.owner is None:
        return Ownership.OURS if there.labels.get(GENERATOR_LABEL) == generator.uid else Ownership.FOREIGN
    if is_same_owner(there.owner, owner_of(generator)):
        return Ownership.OURS
    group = there.owner.api_version.partition("/")[0]
    if (
        group == API_VERSION.partition("/")[0]
        and there.owner.kind == KIND
        and there.owner.namespace in ("", there.namespace)
    ):
        return Ownership.UNLESS_OWNER_IS_GONE
    return Ownership.FOREIGN


def is_same_owner(one: Owner, other: Owner) -> bool:
    """Whether two references name one object; the version of its API does not matter."""
    groups = {owner.api_version.partition("/")[0] for owner in (one, other)}
    return len(groups) == 1 and (one.kind, one.name, one.namespace or other.namespace) == (
        other.kind,
        other.name,
        other.namespace,
    )


def select_orphans(generator: Generator, wanted: Collection[str], published: Iterable[ExternalArtifact]) -> list[Key]:
    """The artifacts that a generator has published and no longer wants, in order."""
    keys = {(item.namespace, item.name) for item in generator.status.inventory}
    keys |= {there.key for there in published if ownership(there, generator) is Ownership.OURS}
    return sorted(
        (namespace, name) for namespace, name in keys if name not in wanted and namespace == generator.namespace
    )


def merge_inventory(
    generator: Generator, published: Sequence[InventoryItem], wanted: Sequence[str], *, keep_others: bool
) -> list[InventoryItem]:
    """Everything that is published: what was now, and the last good version of what failed.

    With `keep_others` what is no longer wanted is listed too, because it was not pruned.
    """
    now = {item.name: item for item in published}
    before = {item.name: item for item in generator.status.inventory}
    names = [*wanted, *(name for name in before if keep_others and name not in wanted)]
    listed = (now.get(name) or before.get(name) for name in dict.fromkeys(names))
    return [item for item in listed if item is not None]


# --- cycles -------------------------------------------------------------------------------------


def find_cycle(start: Key, feeds: Mapping[Key, Collection[Key]]) -> list[Key] | None:
    """A way from a generator back to itself; `feeds` tells whose artifacts a generator reads."""
    stack: list[tuple[Key, list[Key]]] = [(start, [start])]
    seen: set[Key] = set()
    while stack:
        here, path = stack.pop()
        for following in sorted(feeds.get(here, ()), reverse=True):
            if following == start:
                return [*path, start]
            if following not in seen:
                seen.add(following)
                stack.append((following, [*path, following]))
    return None
