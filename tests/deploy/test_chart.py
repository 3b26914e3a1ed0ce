"""The chart renders what kustomize builds, and refuses values that make no sense."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.engines import (
    CHART,
    DEPLOY,
    OVERLAYS,
    VARIATIONS,
    build,
    by_identity,
    container,
    deployments,
    helm_template,
    template,
)
from tests.envtest.client import Object

from sluice.cli.controller import GATES

pytestmark = pytest.mark.cluster

HELM_LABELS = {"app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart"}


def without_helm(obj: Object) -> Object:
    """An object without what Helm alone has a use for."""
    metadata = dict(obj["metadata"])
    for field, dropped in (("labels", HELM_LABELS), ("annotations", {"helm.sh/resource-policy"})):
        metadata[field] = {name: value for name, value in metadata.get(field, {}).items() if name not in dropped}
    if obj["kind"] == "CustomResourceDefinition":
        del metadata["labels"]  # kustomize gives it none
    return {**obj, "metadata": {name: value for name, value in metadata.items() if value}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_chart_renders_what_the_overlay_builds(kustomize: Path, helm: Path, overlay: str) -> None:
    built = by_identity(build(kustomize, DEPLOY / "overlays" / overlay))
    rendered = by_identity(map(without_helm, template(helm, OVERLAYS[overlay])))

    assert rendered.keys() == built.keys()
    for identity, obj in built.items():
        assert rendered[identity] == obj


def test_the_chart_renders_what_the_monitoring_kustomization_builds(kustomize: Path, helm: Path) -> None:
    values = {name: {"enabled": True} for name in ("podMonitor", "prometheusRule", "dashboard")}
    rendered = by_identity(map(without_helm, template(helm, values)))

    for identity, obj in by_identity(build(kustomize, DEPLOY / "monitoring")).items():
        assert rendered[identity] == obj


def test_the_package_renders_what_the_directory_does(helm: Path, tmp_path: Path) -> None:
    subprocess.run([helm, "package", CHART, "--destination", tmp_path], check=True, capture_output=True)
    (package,) = tmp_path.glob("sluice-*.tgz")
    values = VARIATIONS["everything on"]

    assert template(helm, values, package) == template(helm, values)


def test_helm_finds_nothing_to_complain_about(helm: Path) -> None:
    linted = subprocess.run([helm, "lint", "--strict", CHART], capture_output=True, text=True, check=False)

    assert linted.returncode == 0, linted.stdout
    assert "[WARNING]" not in linted.stdout


def test_the_image_may_come_from_any_registry(helm: Path) -> None:
    image = {"repository": "registry.test/mirror/sluice", "tag": "9.9.9"}
    (deployment,) = deployments(template(helm, {"image": image}))

    assert container(deployment)["image"] == "registry.test/mirror/sluice:9.9.9"


REPLICAS = (
    "replicas: a standby is ready only where it has the artifacts; set persistence.enabled and "
    "persistence.accessMode: ReadWriteMany"
)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param({"replica": 2}, "additional properties 'replica' not allowed", id="a misspelt value"),
        pytest.param({"image": {"digest": "sha256:1"}}, "at '/image/digest'", id="half a digest"),
        pytest.param({"shards": ["Shard_1"]}, "at '/shards/0'", id="a shard that is no name"),
        pytest.param({"featureGates": {"Other": True}}, "'Other' not allowed", id="a gate that is not known"),
        pytest.param({"logLevel": "loud"}, "at '/logLevel'", id="a level that is not known"),
        pytest.param({"extraArgs": ["-v"]}, "at '/extraArgs/0'", id="an argument that is none"),
        pytest.param({"replicas": 2}, REPLICAS, id="a standby without a volume"),
        pytest.param({"replicas": 2, "persistence": {"enabled": True}}, REPLICAS, id="a standby that cannot mount it"),
    ],
)
def test_values_that_make_no_sense_are_refused(helm: Path, values: Object, reason: str) -> None:
    rendered = helm_template(helm, values)

    assert rendered.returncode != 0
    assert reason in rendered.stderr


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    def names(schema: Any, values: Any, path: str = "") -> None:
        if "properties" not in schema or not values:
            return
        known = set(schema["properties"]) - {"global"}
        assert set(values) == known, path
        for name in known:
            names(schema["properties"][name], values[name], f"{path}/{name}")

    schema = json.loads((CHART / "values.schema.json").read_text())
    names(schema, yaml.safe_load((CHART / "values.yaml").read_text()))


def test_the_schema_knows_the_gates_of_the_program() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    assert set(schema["properties"]["featureGates"]["properties"]) == set(GATES)


def test_links_of_the_chart_stay_within_the_repository() -> None:
    for link in (CHART / "files").iterdir():
        assert link.is_symlink()
        assert link.resolve(strict=True).is_relative_to(DEPLOY)
