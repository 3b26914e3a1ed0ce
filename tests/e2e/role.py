"""The role that users install, and a user who has it and nothing else."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from tests.e2e.world import eventually
from tests.envtest.client import Client, Object, Refused
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

_LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"

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


@contextmanager
def without(plane: ControlPlane, shipped: Object, removed: Permission) -> Iterator[None]:
    """Take one thing out of a shipped role for a while."""
    path = f"{_PATHS[shipped['kind']]}/{shipped['metadata']['name']}"
    rules = [
        {"verbs": [verb], "apiGroups": [group], "resources": [resource]}
        for verb, group, resource in permissions(shipped)
        if (verb, group, resource) != removed
    ]
    namespace = shipped["metadata"].get("namespace", "")

    def is_allowed() -> bool:
        return _is_allowed(plane, removed, namespace)

    plane.client.call("PUT", path, {**shipped, "rules": rules})
    eventually(f"{removed} is refused", lambda: not is_allowed())
    try:
        yield
    finally:
        plane.client.call("PUT", path, shipped)
        eventually(f"{removed} is allowed", is_allowed)


def install(plane: ControlPlane) -> Path:
    """Install the shipped manifests, once; returns the kubeconfig of the controller's account."""
    _create(plane, "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    for obj in shipped_objects():
        _create(plane, _PATHS[obj["kind"]], obj)
    for obj in shipped_objects():
        namespace = obj["metadata"].get("namespace", "")
        for each in permissions(obj):
            eventually(f"{each} is allowed", partial(_is_allowed, plane, each, namespace))
    return plane.user(ACCOUNT)


def leases(client: Client) -> list[Object]:
    """The Leases of our elections."""
    items: list[Object] = client.get(_LEASES)["items"]
    return items


def forget_leases(client: Client) -> None:
    """Make the next election begin as the first one did."""
    for lease in leases(client):
        client.delete(f"{_LEASES}/{lease['metadata']['name']}")


def _is_allowed(plane: ControlPlane, permission: Permission, namespace: str) -> bool:
    verb, group, resource = permission
    resource, _, subresource = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace}
    body = {"spec": {"user": ACCOUNT, "resourceAttributes": asked}}
    answer: Any = plane.client.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    return bool(answer["status"]["allowed"])


def _create(plane: ControlPlane, path: str, obj: Object) -> None:
    try:
        plane.client.create(path, obj)
    except Refused as error:
        if error.status != 409:
            raise
