"""A control plane for manifests, which are installed there under the names that they have."""

from collections.abc import Iterator

import pytest
from tests.deploy.cluster import Cluster
from tests.deploy.engines import NAMESPACE
from tests.envtest.fixtures import REPOSITORY, start_control_plane
from tests.envtest.server import read_definitions


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A control plane with the Prometheus operator's kinds, and a namespace that holds pods to the strictest rules."""
    with start_control_plane() as plane:
        plane.install(read_definitions([REPOSITORY / "tests" / "deploy" / "crds" / "monitoring.yaml"]))
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
        plane.client.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})
        yield Cluster(plane)
