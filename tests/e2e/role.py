"""The role that users install, and a user who has it and nothing else."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from tests.e2e.world import eventually
from tests.envtest.client import Object, Refused
from tests.envtest.server import ControlPlane

MANIFESTS = Path(__file__).resolve().parents[2] / "deploy" / "rbac"
NAMESPACE = "flux-system"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:source-watcher"
RBAC = "/apis/rbac.authorization.k8s.io/v1"

_PATHS: Mapping[str, str] = {
    "ServiceAccount": f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts",
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    "Role": f"{RBAC}/namespaces/{NAMESPACE}/roles",
    "RoleBinding": f"{RBAC}/namespaces/{NAMESPACE}/rolebindings",
}

Permission = tuple[str, str, str]
"""Verb, API group, and resource, with its subresource after a slash."""


def shipped_objects() -> list[Object]:
    """The objects of the shipped manifests."""
    texts = [path.read_text() for path in sorted(MANIFESTS.glob("*.yaml")) if path.name != "kustomization.yaml"]
    return [obj for text in texts for obj in yaml.safe_load_all(text)]


def permissions(obj: Object) -> Iterator[Permission]:
    """Each single thing that a role allows."""
    for rule in obj.get("rules", []):
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield verb, group, resource


def without(obj: Object, removed: Permission) -> Object:
    """A role that allows all but one thing."""
    rules = [
        {"verbs": [verb], "apiGroups": [group], "resources": [resource]}
        for verb, group, resource in permissions(obj)
        if (verb, group, resource) != removed
    ]
    return {**obj, "rules": rules}


def install(plane: ControlPlane) -> Path:
    """Install the shipped manifests, once; returns the kubeconfig of the controller's account."""
    _create(plane, "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    for obj in shipped_objects():
        _create(plane, _PATHS[obj["kind"]], obj)
    wait_until_allowed(plane, "delete", "source.toolkit.fluxcd.io", "externalartifacts")
    wait_until_allowed(plane, "update", "coordination.k8s.io", "leases", namespace=NAMESPACE)
    return plane.user(ACCOUNT)


def change(plane: ControlPlane, obj: Object) -> None:
    """Replace a role, and wait until the server decides by it."""
    plane.client.call("PUT", f"{_PATHS[obj['kind']]}/{obj['metadata']['name']}", obj)


def is_allowed(plane: ControlPlane, verb: str, group: str, resource: str, namespace: str = "") -> bool:
    resource, _, subresource = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace}
    body = {"spec": {"user": ACCOUNT, "resourceAttributes": asked}}
    answer: Any = plane.client.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    return bool(answer["status"]["allowed"])


def wait_until_allowed(plane: ControlPlane, verb: str, group: str, resource: str, namespace: str = "") -> None:
    eventually(f"{verb} {resource} allowed", lambda: is_allowed(plane, verb, group, resource, namespace))


def _create(plane: ControlPlane, path: str, obj: Object) -> None:
    try:
        plane.client.create(path, obj)
    except Refused as error:
        if error.status != 409:
            raise
