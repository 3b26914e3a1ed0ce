"""The kinds of object that Sluice speaks of, and where the API serves them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote

from msgspec import Struct

from sluice.core.errors import ApiError
from sluice.core.spec import SourceKind

Key = tuple[str, str]
"""Namespace and name of an object; the namespace is empty for objects of the whole cluster."""

FIELD_MANAGER = "source-watcher"
"""Who owns the fields we write: the peer's name, so that either can take over from the other."""


class Kind(Struct, frozen=True):
    """One row of the API: `name` is what manifests call it, `plural` what paths do."""

    group: str
    version: str
    name: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """The plural with its group, as the API server's messages write it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Where one object, or without a name all of them, are served.

        Names may come from a spec: one that would change the path is refused.
        """
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"
        where = f"/namespaces/{_segment(namespace)}" if namespace else ""
        what = f"/{_segment(name)}" if name else ""
        return f"{root}{where}/{self.plural}{what}{f'/{subresource}' if subresource else ''}"


def _segment(name: str) -> str:
    if name in (".", "..") or "/" in name or "%" in name:
        raise ApiError(f"'{name}' is not a valid object name (lower-case letters, digits, '-' and '.')")
    return quote(name, safe="")


class Metadata(Struct, frozen=True, rename="camel"):
    """What is read of every object's metadata."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    finalizers: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return self.namespace, self.name


ARTIFACT_GENERATOR = Kind("source.extensions.fluxcd.io", "v1beta1", "ArtifactGenerator", "artifactgenerators")
EXTERNAL_ARTIFACT = Kind("source.toolkit.fluxcd.io", "v1", "ExternalArtifact", "externalartifacts")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
EVENT = Kind("", "v1", "Event", "events")

SOURCE_KINDS: Mapping[SourceKind, Kind] = {
    SourceKind.BUCKET: Kind("source.toolkit.fluxcd.io", "v1", "Bucket", "buckets"),
    SourceKind.GIT_REPOSITORY: Kind("source.toolkit.fluxcd.io", "v1", "GitRepository", "gitrepositories"),
    SourceKind.OCI_REPOSITORY: Kind("source.toolkit.fluxcd.io", "v1", "OCIRepository", "ocirepositories"),
    SourceKind.HELM_CHART: Kind("source.toolkit.fluxcd.io", "v1", "HelmChart", "helmcharts"),
    SourceKind.EXTERNAL_ARTIFACT: EXTERNAL_ARTIFACT,
}
"""What a generator may name as a source."""
