"""Write artifacts as archives, in the layout of the store, with their ExternalArtifacts beside them.

    <root>/externalartifact/<namespace>/<name>/<file>.tar.gz
    <root>/externalartifact/<namespace>/<name>.yaml

The manifests hold no clock and no host: equal artifacts have equal manifests, wherever they are built.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sluice.build import StoredArchive
from sluice.cli.workshop import Built
from sluice.content import describe
from sluice.control.objects import GENERATOR_LABEL, MANAGED_BY, MANAGED_BY_LABEL, ORIGIN_REVISION
from sluice.core.errors import StorageError
from sluice.core.spec import API_VERSION, KIND
from sluice.core.yaml_out import dump_value
from sluice.storage import DiskStorage

EPOCH: Final = "1970-01-01T00:00:00Z"


class ArchiveWriter:
    """Writes archives and manifests below a directory, which is made when it is not there.

    Archives of earlier builds stay; one with the same contents is not written again.
    """

    def __init__(self, root: Path, url_prefix: str) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"'{root}': cannot write: {describe(error)}") from error
        self._root = root
        self._url_prefix = url_prefix.rstrip("/")
        self._storage = DiskStorage(root)

    def write(self, built: Built) -> StoredArchive:
        """Put the archive of an artifact in its place, then the manifest. Raises `StorageError`."""
        assert built.composition is not None
        archive = self._storage.put(built.namespace, built.name, built.composition.tree)
        manifest = external_artifact(built, archive, f"{self._url_prefix}/{archive.path}")
        path = (self._root / archive.path).parent
        _replace(path.with_name(f"{path.name}.yaml"), dump_value(manifest))
        return archive


def external_artifact(built: Built, archive: StoredArchive, url: str) -> Mapping[str, Any]:
    """The ExternalArtifact of an artifact, its status included."""
    generator = built.declared.generator
    metadata = {
        "name": built.name,
        "namespace": built.namespace,
        "labels": {
            **generator.labels,
            **built.labels,
            MANAGED_BY_LABEL: MANAGED_BY,
            GENERATOR_LABEL: _uid(built),
        },
        "annotations": dict(generator.metadata_annotations),
    }
    artifact = {
        "digest": archive.digest,
        "lastUpdateTime": EPOCH,
        "path": archive.path,
        "revision": built.revision,
        "size": archive.size,
        "url": url,
        "metadata": {} if built.origin_revision is None else {ORIGIN_REVISION: built.origin_revision},
    }
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Succeeded",
        "message": "Artifact is ready",
        "observedGeneration": 1,
        "lastTransitionTime": EPOCH,
    }
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": generator.name, "namespace": generator.namespace}
    return {
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "ExternalArtifact",
        "metadata": _without_empty(metadata),
        "spec": {"sourceRef": owner},
        "status": {"artifact": _without_empty(artifact), "conditions": [ready]},
    }


def _uid(built: Built) -> str:
    """The generator's own, where its manifest came from a cluster; else one made of its name."""
    uid = built.declared.manifest.value["metadata"].get("uid")
    return uid if isinstance(uid, str) else str(uuid.uuid5(uuid.NAMESPACE_URL, str(built.declared.generator)))


def _without_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value != {}}


def _replace(path: Path, data: bytes) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as temporary:
            file = Path(temporary, path.name)
            file.write_bytes(data)
            file.replace(path)
    except OSError as error:
        raise StorageError(f"'{path}': cannot write: {describe(error)}") from error
