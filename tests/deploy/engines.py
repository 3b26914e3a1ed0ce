"""The manifests of `deploy/` as the real engines build them."""

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from tests.envtest.client import Object
from tests.envtest.fixtures import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
CHART = DEPLOY / "chart"
NAMESPACE = "flux-system"
IMAGE = "flux-sluice/sluice"

Identity = tuple[str, str, str]

OVERLAYS: Mapping[str, Object] = {
    "default": {},
    "drop-in": {"featureGates": {"UpstreamCompat": True}},
    "lockdown": {"noCrossNamespaceRefs": True},
    "persistent": {"persistence": {"enabled": True}},
    "two-replicas": {"replicas": 2, "persistence": {"enabled": True, "accessMode": "ReadWriteMany"}},
    "sharded": {"shards": ["shard1"]},
}
"""Each overlay with the values that make the chart render the same."""

VARIATIONS: Mapping[str, Object] = {
    "everything on": {
        "replicas": 3,
        "shards": ["shard1", "shard2"],
        "featureGates": {"UpstreamCompat": True, "DirectSourceFetch": False, "OriginRevisionEveryCommit": True},
        "noCrossNamespaceRefs": True,
        "persistence": {"enabled": True, "accessMode": "ReadWriteMany", "storageClassName": "fast", "size": "1Gi"},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
        "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": [{"name": "registry"}]},
        "extraArgs": ["--concurrent=4", "--atomic"],
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.test:3128"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "flux", "operator": "Exists"}],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "serviceAccount": {"annotations": {"example.test/role": "sluice"}},
        "podLabels": {"example.test/team": "platform"},
    },
    "as little as possible": {
        "eventsAddr": "",
        "watchAllNamespaces": False,
        "allowLoopbackSources": True,
        "priorityClassName": "",
        "podAnnotations": {},
        "resources": {"limits": None, "requests": None},
        "serviceAccount": {"create": False},
        "rbac": {"create": False, "aggregate": False},
        "crds": {"install": False},
        "networkPolicy": {"enabled": False},
    },
    "another name": {"name": "sluice", "clusterDomain": "example.test", "shards": ["a"], "logLevel": "trace"},
    "no replica": {"replicas": 0},
}
"""Values of the chart that no overlay has."""


def load(text: str) -> list[Object]:
    return [obj for obj in yaml.safe_load_all(text) if obj]


def build(kustomize: Path, directory: Path) -> list[Object]:
    """The objects of a kustomization; what the engine has to complain about is an error."""
    built = subprocess.run([kustomize, "build", directory], capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, ""), built.stderr
    return load(built.stdout)


def build_around(kustomize: Path, directory: Path, kustomization: Object, **files: str) -> list[Object]:
    """The objects of a kustomization of a user's, which finds `deploy/` beside it."""
    shutil.copytree(DEPLOY, directory / "deploy", symlinks=True)
    user = directory / "user"
    user.mkdir()
    for name, text in files.items():
        (user / f"{name}.yaml").write_text(text)
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    (user / "kustomization.yaml").write_text(yaml.safe_dump({**head, **kustomization}))
    return build(kustomize, user)


def template(helm: Path, values: Object, chart: Path = CHART, namespace: str = NAMESPACE) -> list[Object]:
    """The objects of the chart."""
    rendered = helm_template(helm, values, chart, namespace)
    assert rendered.returncode == 0, rendered.stderr
    return load(rendered.stdout)


def helm_template(
    helm: Path, values: Object, chart: Path = CHART, namespace: str = NAMESPACE
) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [helm, "template", "sluice", chart, "--namespace", namespace, "--values", "-"]
    return subprocess.run(command, input=yaml.safe_dump(values), capture_output=True, text=True, check=False)


def identity(obj: Object) -> Identity:
    metadata = obj["metadata"]
    return obj["kind"], metadata.get("namespace", ""), metadata["name"]


def by_identity(objects: Iterable[Object]) -> dict[Identity, Object]:
    return {identity(obj): obj for obj in objects}


def deployments(objects: Iterable[Object]) -> list[Object]:
    return [obj for obj in objects if obj["kind"] == "Deployment"]


def container(deployment: Object) -> Any:
    """The controller's container, the first as Flux's patches want it."""
    first = deployment["spec"]["template"]["spec"]["containers"][0]
    assert first["name"] == "manager"
    return first


def expanded(arguments: Iterable[str], namespace: str = NAMESPACE) -> list[str]:
    """Arguments as the kubelet passes them."""
    return [argument.replace("$(RUNTIME_NAMESPACE)", namespace) for argument in arguments]
