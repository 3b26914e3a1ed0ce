"""Everybody else in a directory: who writes manifests, offers what sources hold, and meddles with artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from tests.control.objects_contract import SPEC

from sluice.control.objects import ArtifactStatus
from sluice.core.errors import Problem
from sluice.core.spec import API_VERSION, KIND, SourceKind, SourceRef
from sluice.local import LocalObjects


class LocalWorld:
    """Makes every change at once known to `objects`."""

    namespace = "apps"

    def __init__(self, directory: Path, objects: LocalObjects) -> None:
        self.directory = directory
        self.objects = objects

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.yaml"

    def write(self, name: str, text: str) -> list[Problem]:
        """Write a file as it is."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return self.objects.refresh([path])

    def remove(self, name: str) -> list[Problem]:
        path = self.directory / name
        path.unlink()
        return self.objects.refresh([path])

    def create_generator(
        self, name: str, *, annotations: Mapping[str, str] = {}, spec: Mapping[str, Any] = SPEC
    ) -> None:
        assert self.write(f"{name}.yaml", manifest(name, self.namespace, spec, annotations)) == []

    def edit_generator(
        self, name: str, *, spec: Mapping[str, Any] | None = None, annotations: Mapping[str, str] | None = None
    ) -> None:
        there = yaml.safe_load(self.path(name).read_text())
        now = spec if spec is not None else there["spec"]
        notes = annotations if annotations is not None else there["metadata"]["annotations"]
        assert self.write(f"{name}.yaml", manifest(name, self.namespace, now, notes)) == []

    def delete_generator(self, name: str) -> None:
        assert self.remove(f"{name}.yaml") == []

    def offer(self, kind: SourceKind, name: str, artifact: ArtifactStatus | None) -> None:
        self.objects.offer(SourceRef("any", kind, name, self.namespace), artifact)

    def withdraw(self, kind: SourceKind, name: str) -> None:
        self.objects.withdraw(SourceRef("any", kind, name, self.namespace))

    # What is done to artifacts by hand

    def artifact_path(self, name: str) -> Path:
        return self.directory / ".sluice" / "externalartifacts" / self.namespace / f"{name}.json"

    def edit_artifact(self, name: str, patch: Mapping[str, Any]) -> None:
        """A JSON merge patch, or a new object where there is none."""
        path = self.artifact_path(name)
        if path.exists():
            there = json.loads(path.read_bytes())
            there["metadata"]["generation"] += "spec" in patch
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            there = {"metadata": {"namespace": self.namespace, "name": name, "uid": "by-hand", "generation": 1}}
        path.write_bytes(msgspec.json.encode(merge(there, patch)))
        self.objects.refresh([path])

    def label_artifact(self, name: str, labels: Mapping[str, str | None]) -> None:
        self.edit_artifact(name, {"metadata": {"labels": labels}})

    def remove_artifact(self, name: str) -> None:
        path = self.artifact_path(name)
        path.unlink()
        self.objects.refresh([path])


def manifest(name: str, namespace: str, spec: Mapping[str, Any], annotations: Mapping[str, str] = {}) -> str:
    metadata = {"name": name, "namespace": namespace, "annotations": dict(annotations)}
    return yaml.safe_dump({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec})


def merge(there: Any, patch: Any) -> Any:
    if not isinstance(patch, Mapping):
        return patch
    base = there if isinstance(there, Mapping) else {}
    merged = {**base, **{key: merge(base.get(key), value) for key, value in patch.items()}}
    return {key: value for key, value in merged.items() if value is not None}
