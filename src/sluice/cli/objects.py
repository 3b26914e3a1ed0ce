"""Objects as an API or a directory gives them: whole, and the parts that the verbs show.

Whatever is not shown stays undecoded text, so that a thousand objects cost little, and what is
printed as JSON is all that was there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from sluice.control.objects import PAUSE_ANNOTATION, InventoryItem
from sluice.core.errors import ApiError
from sluice.core.spec import KIND as GENERATOR
from sluice.core.spec import SourceKind
from sluice.kube.kinds import Key, Metadata

T = TypeVar("T")

_EMPTY = Raw(b"{}")


class Condition(Struct, frozen=True, rename="camel"):
    """A condition, as every kind of Flux has them."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    observed_generation: int = 0


class Artifact(Struct, frozen=True, rename="camel"):
    """What a source or an ExternalArtifact offers."""

    url: str = ""
    digest: str = ""
    revision: str = ""
    path: str = ""
    size: int | None = None
    last_update_time: str = ""
    metadata: Mapping[str, str] = {}


class Reference(Struct, frozen=True, rename="camel"):
    """Another object, as a spec names it."""

    kind: str
    name: str
    namespace: str = ""
    alias: str = ""


class Spec(Struct, frozen=True, rename="camel"):
    """What is shown of the specs of all kinds together."""

    suspend: bool = False
    sources: tuple[Reference, ...] = ()
    source_ref: Reference | None = None
    chart_ref: Reference | None = None


class _OtherInventory(Struct, frozen=True):
    """What a Kustomization lists, in a form of its own."""


class Status(Struct, frozen=True, rename="camel"):
    """What is shown of the statuses of all kinds together."""

    conditions: tuple[Condition, ...] = ()
    artifact: Artifact | None = None
    inventory: tuple[InventoryItem, ...] | _OtherInventory = ()
    last_handled_reconcile_at: str = ""
    last_applied_revision: str = ""
    last_attempted_revision: str = ""


_METADATA = msgspec.json.Decoder(Metadata)
_SPEC = msgspec.json.Decoder(Spec)
_STATUS = msgspec.json.Decoder(Status)


class Object(Struct, frozen=True, rename="camel", dict=True):
    """An object. Raises `ApiError` where a part of it makes no sense."""

    raw_metadata: Raw = msgspec.field(name="metadata")
    raw_spec: Raw = msgspec.field(name="spec", default=_EMPTY)
    raw_status: Raw = msgspec.field(name="status", default=_EMPTY)
    api_version: str = ""
    kind: str = ""
    file: str = ""
    """The manifest of an object that a directory keeps."""

    @cached_property
    def metadata(self) -> Metadata:
        return self._part(self.raw_metadata, _METADATA)

    @cached_property
    def spec(self) -> Spec:
        return self._part(self.raw_spec, _SPEC)

    @cached_property
    def status(self) -> Status:
        return self._part(self.raw_status, _STATUS)

    def _part(self, raw: Raw, decoder: msgspec.json.Decoder[T]) -> T:
        try:
            return decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ApiError(f"{self.kind}: cannot be read: {error}") from error

    @property
    def key(self) -> Key:
        return self.metadata.key

    @property
    def title(self) -> str:
        """Its kind, namespace and name."""
        return title(self.kind, *self.key)

    @property
    def is_suspended(self) -> bool:
        if self.kind == GENERATOR:
            return self.metadata.annotations.get(PAUSE_ANNOTATION, "").lower() == "disabled"
        return self.spec.suspend

    def condition(self, kind: str) -> Condition | None:
        return next((one for one in self.status.conditions if one.type == kind), None)

    @property
    def ready(self) -> tuple[str, str]:
        """The status and message of its Ready condition, as flux shows them."""
        found = self.condition("Ready")
        if found is None:
            return ("False", "waiting to be reconciled")
        return found.status, found.message

    @property
    def inventory(self) -> tuple[InventoryItem, ...]:
        """The artifacts that a generator has published."""
        found = self.status.inventory
        return () if isinstance(found, _OtherInventory) else found

    @property
    def sources(self) -> list[Reference]:
        """What a generator reads, with the namespaces filled in."""
        return [self._complete(ref) for ref in self.spec.sources]

    @property
    def origin(self) -> Reference | None:
        """What an object is made from: the generator of an artifact, the source of a consumer."""
        found = self.spec.chart_ref or self.spec.source_ref
        return found and self._complete(found)

    def _complete(self, ref: Reference) -> Reference:
        return msgspec.structs.replace(ref, namespace=ref.namespace or self.metadata.namespace)

    def document(self) -> dict[str, Any]:
        """All of it as plain data, without what only servers care for."""
        document: dict[str, Any] = {"apiVersion": self.api_version, "kind": self.kind}
        for name, raw in (("metadata", self.raw_metadata), ("spec", self.raw_spec), ("status", self.raw_status)):
            if raw is not _EMPTY:
                document[name] = msgspec.json.decode(raw)
        document["metadata"].pop("managedFields", None)
        return document


def title(kind: str, namespace: str, name: str) -> str:
    """How an object is called in words."""
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"


def is_artifact(ref: Reference) -> bool:
    return ref.kind == SourceKind.EXTERNAL_ARTIFACT
