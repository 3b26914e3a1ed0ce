"""What a directory keeps of objects: one JSON file each, of the form that a Kubernetes API gives them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from sluice.confined import Confined, explained, is_temporary, remove, remove_abandoned, replace
from sluice.control.objects import (
    ArtifactStatus,
    Condition,
    ConditionType,
    ExternalArtifact,
    Generator,
    GeneratorStatus,
    Key,
    Owner,
)
from sluice.core.errors import ApiError, Code, Problem, StorageError
from sluice.core.spec import API_VERSION, KIND, NAMESPACE, OBJECT_NAME, SourceKind
from sluice.local.manifests import SOURCE_GROUP

STATE: Final = ".sluice"

S = TypeVar("S")


class Metadata(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What every object has."""

    namespace: str
    name: str
    uid: str
    generation: int = 0
    resource_version: str = "0"
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    finalizers: tuple[str, ...] = ()
    deletion_timestamp: datetime | None = None


class StoredGenerator(Struct, frozen=True, rename="camel", kw_only=True):
    """A generator; `file` is where its manifest was found."""

    api_version: str = API_VERSION
    kind: str = KIND
    metadata: Metadata
    spec: Raw
    status: GeneratorStatus = GeneratorStatus()
    file: str = ""


class StoredSpec(Struct, frozen=True, rename="camel"):
    """An artifact's spec."""

    source_ref: Owner | None = None


class StoredStatus(Struct, frozen=True, omit_defaults=True):
    """An artifact's status."""

    artifact: ArtifactStatus | None = None
    conditions: tuple[Condition, ...] = ()


class Applied(Struct, frozen=True):
    """The labels and annotations that are ours to take away again."""

    labels: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()


class StoredArtifact(Struct, frozen=True, rename="camel", kw_only=True):
    """An artifact."""

    api_version: str = f"{SOURCE_GROUP}/v1"
    kind: str = SourceKind.EXTERNAL_ARTIFACT.value
    metadata: Metadata
    spec: StoredSpec = StoredSpec()
    status: StoredStatus = StoredStatus()
    applied: Applied = Applied()


def to_generator(stored: StoredGenerator) -> Generator:
    metadata = stored.metadata
    return Generator(
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        generation=metadata.generation,
        resource_version=metadata.resource_version,
        annotations=metadata.annotations,
        finalizers=metadata.finalizers,
        is_deleted=metadata.deletion_timestamp is not None,
        spec=bytes(stored.spec),
        status=stored.status,
    )


_READY = (ConditionType.READY, "True")


def to_artifact(stored: StoredArtifact) -> ExternalArtifact:
    metadata = stored.metadata
    ready = next((one for one in stored.status.conditions if (one.type, one.status) == _READY), None)
    return ExternalArtifact(
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        generation=metadata.generation,
        resource_version=metadata.resource_version,
        labels=metadata.labels,
        annotations=metadata.annotations,
        owner=stored.spec.source_ref,
        artifact=stored.status.artifact,
        is_ready=ready is not None and ready.observed_generation == metadata.generation,
        ready_since=None if ready is None else ready.last_transition_time,
    )


class State(Generic[S]):
    """One JSON file for each object of a kind; a reader sees all of one version or all of another."""

    def __init__(self, root: Path, kind: str, decoder: msgspec.json.Decoder[S]) -> None:
        self.kind = kind
        self._files = Confined(root)
        self._decoder = decoder
        self._synced: set[str] = set()

    def load(self, problems: list[Problem]) -> Iterator[tuple[Key, S]]:
        """All that is kept; notes what cannot be read, and removes what a crash left behind."""
        with self._explained("read"):
            for namespace in filter(NAMESPACE.accepts, self._files.names(self.kind)):
                for filename in self._files.names(self.kind, namespace):
                    name = filename.removesuffix(".json")
                    if is_temporary(filename):
                        with self._files.directory(self.kind, namespace) as directory:
                            remove_abandoned(directory, filename)
                    elif name != filename and OBJECT_NAME.accepts(name):
                        found = self.read((namespace, name))
                        if found is not None:
                            yield (namespace, name), found
                        else:
                            where = f"{STATE}/{self.kind}/{namespace}/{filename}"
                            problems.append(Problem(Code.INVALID_SPEC, "cannot be read, made anew", where))

    def read(self, key: Key) -> S | None:
        """An object; None where there is none, or none that can be read."""
        with self._explained("read", *key):
            descriptor = self._files.open_file(self.kind, key[0], f"{key[1]}.json")
            if descriptor is None:
                return None
            with os.fdopen(descriptor, "rb") as file, suppress(msgspec.DecodeError):
                return self._decoder.decode(file.read())
        return None

    def write(self, key: Key, value: S) -> None:
        namespace, name = key
        if not NAMESPACE.accepts(namespace) or not OBJECT_NAME.accepts(name):
            raise ApiError(f"'{namespace}/{name}' is not a valid object name ({OBJECT_NAME.words})")
        with self._explained("write", *key), self._files.directory(self.kind, namespace, create=True) as directory:
            with self._files.temporary(directory) as (temporary, out):
                out.write(msgspec.json.encode(value))
                out.flush()
                os.fsync(out.fileno())
                replace(directory, temporary, f"{name}.json")
            self._sync(namespace, directory)

    def delete(self, key: Key) -> None:
        with self._explained("delete", *key), suppress(FileNotFoundError):
            with self._files.directory(self.kind, key[0]) as directory:
                remove(directory, f"{key[1]}.json")
                self._sync(key[0], directory)

    def _sync(self, namespace: str, directory: int) -> None:
        os.fsync(directory)
        if namespace not in self._synced:  # the directory itself may be new
            for parts in ((self.kind,), ()):
                with self._files.directory(*parts) as parent:
                    os.fsync(parent)
            self._synced.add(namespace)

    @contextmanager
    def _explained(self, operation: str, *key: str) -> Iterator[None]:
        try:
            with explained("/".join((STATE, self.kind, *key)), operation):
                yield
        except StorageError as error:
            raise ApiError(str(error)) from error
