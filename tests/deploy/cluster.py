"""Apply manifests to a real API server as kubectl does, and take them away again."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from tests.envtest.client import APPLY_PATCH, Object, Refused
from tests.envtest.server import ControlPlane

STRICT = "fieldManager=test&fieldValidation=Strict&force=true"


class Cluster:
    """An API server, and the paths of what it serves."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.client = plane.client
        self._plurals: dict[str, dict[str, tuple[str, bool]]] = {}

    def path(self, obj: Object) -> str:
        """Where an object is, by the server's own table of kinds."""
        version, metadata = obj["apiVersion"], obj["metadata"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if root not in self._plurals:
            listed = self.client.get(root)["resources"]
            self._plurals[root] = {
                each["kind"]: (each["name"], each["namespaced"]) for each in listed if "/" not in each["name"]
            }
        plural, namespaced = self._plurals[root][obj["kind"]]
        where = f"/namespaces/{metadata['namespace']}" if namespaced else ""
        return f"{root}{where}/{plural}/{metadata['name']}"

    def apply(self, objects: Iterable[Object]) -> list[Object]:
        """Apply on the server's side, strictly: an unknown or repeated field is an error."""
        return [
            self.client.call("PATCH", f"{self.path(obj)}?{STRICT}", obj, content_type=APPLY_PATCH) for obj in objects
        ]

    @contextmanager
    def holding(self, objects: Iterable[Object]) -> Iterator[list[Object]]:
        """Objects that are there for one block. Resource definitions stay."""
        given = list(objects)
        try:
            yield self.apply(given)
        finally:
            for obj in given:
                if obj["kind"] != "CustomResourceDefinition":
                    self._remove(self.path(obj))

    def _remove(self, path: str) -> None:
        with suppress(Refused):  # what was not applied is not there
            self.client.delete(path)
            self.client.merge(path, {"metadata": {"finalizers": None}})

    def admits(self, deployment: Object) -> Object:
        """What becomes of the pod of a deployment at admission; raises `Refused`."""
        template, metadata = deployment["spec"]["template"], deployment["metadata"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": metadata["name"], "namespace": metadata["namespace"]},
            "spec": template["spec"],
        }
        pods = self.path(pod).rpartition("/")[0]
        return self.client.create(f"{pods}?dryRun=All&fieldValidation=Strict", pod)
