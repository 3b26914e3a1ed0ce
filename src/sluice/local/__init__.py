"""The reconciler's `Objects`, kept in a directory.

Generators, and sources if somebody wants to declare them, are manifests that people write anywhere
below the directory. What is known of generators beyond that, and the artifacts, are files of our own
below ``.sluice``, each replaced atomically: whatever ends the process, the next one continues where
it was.

A manifest that cannot be read, or that an API server would not admit, is a problem that `refresh`
tells of; its object stays as it was. An object goes when its manifest is gone and the file that held
it is not broken.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace as _replace

from sluice.control.objects import (
    FINALIZER,
    GENERATOR_LABEL,
    ArtifactChanged,
    ArtifactStatus,
    Change,
    Condition,
    ConditionType,
    Event,
    ExternalArtifact,
    Generator,
    GeneratorChanged,
    GeneratorStatus,
    Key,
    ObservedSource,
    Owner,
    SourceChanged,
)
from sluice.core.errors import ApiError, Problem
from sluice.core.spec import GROUP, KIND, SourceKind, SourceRef
from sluice.local.manifests import File, Manifest, Reader, duplicates
from sluice.local.state import (
    STATE,
    Applied,
    Metadata,
    State,
    StoredArtifact,
    StoredGenerator,
    StoredSpec,
    StoredStatus,
    to_artifact,
    to_generator,
)


class LocalObjects:
    """Generators, sources and artifacts of a directory; for one thread of one process.

    Manifests are read when `refresh` says so; what sources offer comes from outside, with `offer`.
    `told` gets the events. Raises `ApiError` where our own files cannot be kept.
    """

    def __init__(
        self,
        directory: Path,
        now: Callable[[], datetime],
        *,
        reader: Reader | None = None,
        told: Callable[[Generator, Event], None] = lambda generator, event: None,
    ) -> None:
        """Take up what is kept in a directory; its manifests are read with `refresh`."""
        self._directory = directory
        self._now = now
        self._reader = reader or Reader(directory)
        self._told = told
        self._subscribers: list[Callable[[Change], None]] = []
        self._files: dict[str, File] = {}
        self._generators: dict[Key, StoredGenerator] = {}
        self._artifacts: dict[Key, StoredArtifact] = {}
        self._labelled: defaultdict[str, dict[Key, None]] = defaultdict(dict)
        self._wanted: dict[Key, tuple[Mapping[str, Any], str]] = {}
        self._declared: dict[SourceRef, Mapping[str, Any]] = {}
        self._offered: dict[SourceRef, ObservedSource] = {}
        self._unreadable: list[Problem] = []
        state = directory / STATE
        self._generator_files = State(state, "artifactgenerators", msgspec.json.Decoder(StoredGenerator))
        self._artifact_files = State(state, "externalartifacts", msgspec.json.Decoder(StoredArtifact))
        self._generators.update(self._generator_files.load(self._unreadable))
        for key, artifact in self._artifact_files.load(self._unreadable):
            self._put_artifact(key, artifact)

    # Manifests

    def refresh(self, paths: Iterable[Path] | None = None) -> list[Problem]:
        """Read again what changed at some paths, or everything; returns all problems there are now.

        A path may be that of a directory, or of what is gone. Of our own files those of artifacts
        are looked at, so that damage done by hand is repaired.
        """
        for path in [self._directory] if paths is None else paths:
            where = path.relative_to(self._directory)
            if where.parts[:1] == (STATE,):
                self._refresh_artifact(where)
                continue
            for known in [known for known in self._files if Path(known).is_relative_to(where)]:
                del self._files[known]
            if not any(part.startswith(".") for part in where.parts):
                self._files.update(self._reader.read(where))
        unreadable, self._unreadable = self._unreadable, []
        return [*unreadable, *self._settle()]

    def declared_sources(self) -> Mapping[SourceRef, Mapping[str, Any]]:
        """The manifests of sources; nobody here knows what they offer."""
        return self._declared

    def declared_generators(self) -> Iterable[tuple[Generator, Path]]:
        """The generators that stay, and the directories that their manifests are in.

        One whose manifest is broken is as it was before.
        """
        kept = [stored for stored in self._generators.values() if stored.metadata.deletion_timestamp is None]
        return [(to_generator(stored), self._directory / Path(stored.file).parent) for stored in kept]

    def offer(self, ref: SourceRef, artifact: ArtifactStatus | None) -> None:
        """Tell what a source offers from now on, or that it offers nothing."""
        self._change_source(ref, ObservedSource(artifact))

    def withdraw(self, ref: SourceRef) -> None:
        """Tell that a source is gone, as far as no manifest declares it."""
        self._change_source(ref, None)

    def _change_source(self, ref: SourceRef, offered: ObservedSource | None) -> None:
        ref = _nameless(ref)
        before = self.source(ref)
        self._offered.pop(ref, None)
        if offered is not None:
            self._offered[ref] = offered
        self._source_changed(ref, before)

    def _source_changed(self, ref: SourceRef, before: ObservedSource | None) -> None:
        after = self.source(ref)
        if before != after:
            self._tell(SourceChanged(ref, before, after))

    def _settle(self) -> list[Problem]:
        """Make the objects what the manifests say; returns the problems of the manifests."""
        problems = [problem for file in self._files.values() for problem in file.problems]
        by_object: defaultdict[tuple[str, Key], list[Manifest]] = defaultdict(list)
        for file in self._files.values():
            for manifest in file.manifests:
                by_object[manifest.kind, manifest.key].append(manifest)
        sources = {}
        self._wanted = {}
        for (kind, key), manifests in by_object.items():
            value = manifests[0].value
            if len(manifests) > 1:
                value = None
                problems += duplicates(manifests)
            if kind != KIND:
                ref = SourceRef("", SourceKind(kind), key[1], key[0])
                sources[ref] = self._declared.get(ref, {}) if value is None else value
            elif value is not None:
                self._wanted[key] = (value, manifests[0].file)
                self._declare(key)
        broken = [name for name, file in self._files.items() if file.problems]
        for key, stored in list(self._generators.items()):
            is_held = (KIND, key) in by_object or any(Path(stored.file).is_relative_to(name) for name in broken)
            if not is_held and stored.metadata.deletion_timestamp is None:
                self._retire(key, stored)
        before = {ref: self.source(ref) for ref in self._declared.keys() | sources.keys()}
        self._declared = sources
        for ref, was in before.items():
            self._source_changed(ref, was)
        return problems

    def _declare(self, key: Key) -> None:
        """Create a generator, or change it as its manifest was changed."""
        value, file = self._wanted[key]
        annotations = value["metadata"].get("annotations") or {}
        spec = Raw(msgspec.json.encode(value.get("spec") or {}, order="deterministic"))
        there = self._generators.get(key)
        if there is None:
            metadata = Metadata(key[0], key[1], str(uuid.uuid4()), 1, annotations=annotations)
            self._put_generator(key, StoredGenerator(metadata=metadata, spec=spec, file=file), notice=True)
            return
        edited = bytes(there.spec) != bytes(spec)
        is_going = there.metadata.deletion_timestamp is not None  # another one of the name has to wait
        if is_going or not (edited or there.metadata.annotations != annotations or there.file != file):
            return
        metadata = _replace(
            there.metadata, annotations=annotations, generation=there.metadata.generation + (1 if edited else 0)
        )
        changed = edited or there.metadata.annotations != annotations
        self._put_generator(key, _replace(there, metadata=metadata, spec=spec, file=file), notice=changed)

    def _retire(self, key: Key, stored: StoredGenerator) -> None:
        """The manifest of a generator is gone: so is it, or it goes when it has been finalized."""
        if not stored.metadata.finalizers:
            self._drop_generator(key)
            return
        generation = stored.metadata.generation + 1
        metadata = _replace(stored.metadata, generation=generation, deletion_timestamp=self._now())
        self._put_generator(key, _replace(stored, metadata=metadata), notice=True)

    # The view

    def subscribe(self, notice: Callable[[Change], None]) -> None:
        self._subscribers.append(notice)

    def generator(self, key: Key) -> Generator | None:
        found = self._generators.get(key)
        return None if found is None else to_generator(found)

    def generators(self) -> Iterable[Generator]:
        return [to_generator(stored) for stored in self._generators.values()]

    def source(self, ref: SourceRef) -> ObservedSource | None:
        ref = _nameless(ref)
        ours = self._artifacts.get((ref.namespace, ref.name)) if ref.kind is SourceKind.EXTERNAL_ARTIFACT else None
        if ours is not None:
            return _offer(ours.status.artifact)
        return self._offered.get(ref) or (ObservedSource(None) if ref in self._declared else None)

    def artifact(self, key: Key) -> ExternalArtifact | None:
        found = self._artifacts.get(key)
        return None if found is None else to_artifact(found)

    def artifacts_of(self, uid: str) -> Collection[ExternalArtifact]:
        return [to_artifact(self._artifacts[key]) for key in self._labelled.get(uid, ())]

    async def read_source(self, ref: SourceRef) -> ObservedSource | None:
        return self.source(ref)

    async def owner_exists(self, owner: Owner) -> bool:
        if (owner.api_version.partition("/")[0], owner.kind) != (GROUP, KIND):
            return True
        return (owner.namespace, owner.name) in self._generators

    # Writes

    async def set_finalizer(self, generator: Generator, *, present: bool) -> Generator | None:
        there = self._generators.get(generator.key)
        if there is None or there.metadata.uid != generator.uid:
            if present:
                raise _gone(KIND, generator.key)
            return None
        others = tuple(name for name in there.metadata.finalizers if name != FINALIZER)
        finalizers = (*others, FINALIZER) if present else others
        if there.metadata.deletion_timestamp is not None and not finalizers:
            self._drop_generator(generator.key)
            if generator.key in self._wanted:
                self._declare(generator.key)
            return None
        metadata = _replace(there.metadata, finalizers=finalizers)
        return self._put_generator(generator.key, _replace(there, metadata=metadata))

    async def write_status(self, generator: Generator, status: GeneratorStatus) -> Generator:
        there = self._generators.get(generator.key)
        if there is None or there.metadata.uid != generator.uid:
            raise _gone(KIND, generator.key)
        return self._put_generator(generator.key, _replace(there, status=status))

    async def apply_artifact(self, wanted: ExternalArtifact) -> ExternalArtifact:
        there = self._artifacts.get(wanted.key)
        if there is None:
            there = StoredArtifact(metadata=Metadata(wanted.namespace, wanted.name, str(uuid.uuid4())))
        spec = StoredSpec(wanted.owner)
        is_new = not there.metadata.generation or there.spec != spec
        metadata = _replace(
            there.metadata,
            generation=there.metadata.generation + (1 if is_new else 0),
            labels=_apply(there.metadata.labels, there.applied.labels, wanted.labels),
            annotations=_apply(there.metadata.annotations, there.applied.annotations, wanted.annotations),
        )
        applied = Applied(tuple(wanted.labels), tuple(wanted.annotations))
        return self._write_artifact(wanted.key, _replace(there, metadata=metadata, spec=spec, applied=applied))

    async def write_artifact_status(self, key: Key, generation: int, artifact: ArtifactStatus) -> ExternalArtifact:
        there = self._artifacts.get(key)
        if there is None:
            raise _gone(SourceKind.EXTERNAL_ARTIFACT, key)
        since = to_artifact(there).ready_since or self._now().replace(microsecond=0)
        ready = Condition(ConditionType.READY, "True", "Succeeded", "Artifact is ready", since, generation)
        return self._write_artifact(key, _replace(there, status=StoredStatus(artifact, (ready,))))

    async def delete_artifact(self, artifact: ExternalArtifact) -> None:
        there = self._artifacts.get(artifact.key)
        if there is not None and there.metadata.uid == artifact.uid:
            self._artifact_files.delete(artifact.key)
            self._put_artifact(artifact.key, None)

    def record(self, generator: Generator, event: Event) -> None:
        self._told(generator, event)

    # Keeping

    def _put_generator(self, key: Key, stored: StoredGenerator, *, notice: bool = False) -> Generator:
        before = self.generator(key)
        stored = _replace(stored, metadata=_next(stored.metadata))
        self._generator_files.write(key, stored)
        self._generators[key] = stored
        after = to_generator(stored)
        if notice:
            self._tell(GeneratorChanged(before, after))
        return after

    def _drop_generator(self, key: Key) -> None:
        self._generator_files.delete(key)
        self._tell(GeneratorChanged(to_generator(self._generators.pop(key)), None))

    def _write_artifact(self, key: Key, stored: StoredArtifact) -> ExternalArtifact:
        stored = _replace(stored, metadata=_next(stored.metadata))
        self._artifact_files.write(key, stored)
        self._put_artifact(key, stored)
        return to_artifact(stored)

    def _put_artifact(self, key: Key, stored: StoredArtifact | None) -> None:
        """Take an artifact into the view, or out of it; to its readers that is a source."""
        ref = SourceRef("", SourceKind.EXTERNAL_ARTIFACT, key[1], key[0])
        offered = self.source(ref)
        before = self._artifacts.pop(key, None)
        if before is not None:
            self._labelled[before.metadata.labels.get(GENERATOR_LABEL, "")].pop(key)
        if stored is not None:
            self._artifacts[key] = stored
            self._labelled[stored.metadata.labels.get(GENERATOR_LABEL, "")][key] = None
        self._source_changed(ref, offered)

    def _refresh_artifact(self, where: Path) -> None:
        """Take up what somebody else did to the file of an artifact."""
        if len(where.parts) != 4 or where.parts[1] != self._artifact_files.kind or where.suffix != ".json":
            return
        key = (where.parts[2], where.stem)
        before = self.artifact(key)
        stored = self._artifact_files.read(key)
        if stored != self._artifacts.get(key):
            self._put_artifact(key, stored)
            self._tell(ArtifactChanged(before, self.artifact(key)))

    def _tell(self, change: Change) -> None:
        for notice in self._subscribers:
            notice(change)


def _nameless(ref: SourceRef) -> SourceRef:
    """A source whatever its alias."""
    return _replace(ref, alias="")


def _offer(artifact: ArtifactStatus | None) -> ObservedSource:
    """What an artifact is to who reads it: when it was written does not matter."""
    return ObservedSource(None if artifact is None else _replace(artifact, last_update_time=None))


def _apply(there: Mapping[str, str], before: Collection[str], wanted: Mapping[str, str]) -> Mapping[str, str]:
    """Ours as wanted; what we no longer want goes, what others added stays."""
    return {**{name: value for name, value in there.items() if name not in before}, **wanted}


def _next(metadata: Metadata) -> Metadata:
    return _replace(metadata, resource_version=str(int(metadata.resource_version) + 1))


def _gone(kind: str, key: Key) -> ApiError:
    return ApiError(f"{kind} {'/'.join(key)} not found", 404)
