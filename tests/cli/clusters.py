"""A namespace whose objects are written by hand, as controllers would, and `sluice` as a process beside it."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tests.cli.running import environment
from tests.e2e.sources import SourceServer
from tests.e2e.trees import Tree, contents_digest, sha256, tarball
from tests.e2e.world import EXTENSIONS, World, output, source
from tests.envtest.client import Client, Object
from tests.envtest.server import ControlPlane

SINCE = "2026-07-01T10:00:00Z"
SUCCESS = "reconciliation succeeded, generated 1 artifact(s)"
KUSTOMIZE, HELM = "kustomize.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io"


def ready(status: str = "True", message: str = SUCCESS, reason: str = "Succeeded", generation: int = 1) -> Object:
    return condition("Ready", status, message, reason, generation)


def condition(kind: str, status: str, message: str, reason: str, generation: int = 1) -> Object:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": SINCE,
    }


class Front(World):
    """One namespace, and what a person at a terminal sees of it."""

    def __init__(self, plane: ControlPlane, client: Client, namespace: str, sources: SourceServer) -> None:
        super().__init__(client, namespace, sources)
        self.plane = plane

    # Writing, as controllers do

    def set_status(self, kind: str, name: str, **status: Any) -> Object:
        return self.client.merge(self.path(kind, name, "status"), {"status": status})

    def reconciled(self, name: str, *conditions: Object, artifacts: tuple[str, ...] = ("web",), **status: Any) -> None:
        """Write the status of a generator."""
        inventory = [
            {"name": each, "namespace": self.namespace, "digest": "sha256:" + "0" * 64, "filename": "x.tar.gz"}
            for each in artifacts
        ]
        self.set_status(
            "ArtifactGenerator", name, conditions=list(conditions) or [ready()], inventory=inventory, **status
        )

    def add_generator(self, name: str = "shop", *artifacts: str, sources: tuple[Object, ...] = (), **meta: Any) -> None:
        """A generator that has published its artifacts."""
        names = artifacts or ("web",)
        spec = {
            "sources": list(sources) or [source()],
            "artifacts": [output(each, "@repo/**") for each in names],
        }
        self.create("ArtifactGenerator", name, spec, **meta)
        self.reconciled(name, artifacts=names)

    def add_artifact(self, name: str, tree: Tree | bytes, *, generator: str = "shop", **changes: Any) -> Object:
        """An artifact as a controller publishes it, served; `changes` go into its status."""
        archive = tree if isinstance(tree, bytes) else tarball(tree)
        contents = "0" * 64 if isinstance(tree, bytes) else contents_digest(tree)
        path = f"externalartifact/{self.namespace}/{name}/{contents[:32]}-{sha256(archive)[7:23]}.tar.gz"
        self.sources.archives[f"/{path}"] = archive
        owner = {"apiVersion": f"{EXTENSIONS}/v1beta1", "kind": "ArtifactGenerator", "name": generator}
        self.create("ExternalArtifact", name, {"sourceRef": {**owner, "namespace": self.namespace}})
        artifact = {
            "path": path,
            "url": f"{self.sources.url}/{path}",
            "revision": f"latest@sha256:{contents}",
            "digest": sha256(archive),
            "size": len(archive),
            "lastUpdateTime": SINCE,
            **changes,
        }
        self.set_status("ExternalArtifact", name, artifact=artifact, conditions=[ready(message="Artifact is ready")])
        return artifact

    # Looking, as people do

    def environment(self, **more: str) -> dict[str, str]:
        return environment(**{"KUBECONFIG": str(self.plane.kubeconfig), **more})

    def run(self, *arguments: str, **more: str) -> "Ran":
        """`sluice` in this namespace, to its end; variables of its environment may be given."""
        command = [sys.executable, "-m", "sluice", *arguments]
        if arguments[0] not in ("completion", "__complete") and not {"-A", "-n"} & set(arguments):
            command += ["-n", self.namespace]
        ran = subprocess.run(
            command,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode())

    def start(self, *arguments: str, directory: Path | None = None, **streams: Any) -> "subprocess.Popen[str]":
        """`sluice` in this namespace, going on."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        command = [sys.executable, "-m", "sluice", *arguments, "-n", self.namespace]
        return subprocess.Popen(command, env=self.environment(), cwd=directory, text=True, **streams)


class Ran(NamedTuple):
    """How a command ended: its exit code, its output and its words."""

    code: int
    out: str
    words: str


def deploy(front: Front, kind: str, name: str, artifact: str, **metadata: object) -> None:
    """A consumer of an artifact."""
    api, plural, field = (
        (f"{KUSTOMIZE}/v1", "kustomizations", "sourceRef")
        if kind == "Kustomization"
        else (f"{HELM}/v2", "helmreleases", "chartRef")
    )
    path = f"/apis/{api}/namespaces/{front.namespace}/{plural}"
    spec = {field: {"kind": "ExternalArtifact", "name": artifact}}
    front.client.create(path, {"apiVersion": api, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec})
    # A Kustomization lists what it applied in a form of its own.
    status = {
        "conditions": [ready(message="Applied revision")],
        "inventory": {"entries": [{"id": "x", "v": "v1"}]},
        "lastAppliedRevision": "latest@sha256:" + "1" * 64,
    }
    front.client.merge(f"{path}/{name}/status", {"status": status})


def kubeconfig(plane: ControlPlane, path: Path, change: Mapping[str, Any]) -> Path:
    """The administrator's kubeconfig with other things in it: keys of its cluster, its user, or at the top."""
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"] |= change.get("cluster", {})
    if "user" in change:
        config["users"][0]["user"] = change["user"]
    config |= change.get("top", {})
    path.write_text(yaml.safe_dump(config))
    return path
