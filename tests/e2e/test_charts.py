"""A chart that is composed, loaded by Helm."""

import subprocess
from pathlib import Path

import pytest
from tests.e2e.controller import Controller
from tests.e2e.trees import Tree
from tests.e2e.world import World, copy, download, output, source

pytestmark = pytest.mark.cluster

CHART = {
    "charts/web/Chart.yaml": b"apiVersion: v2\nname: web\nversion: 1.2.3\n",
    "charts/web/values.yaml": b"# defaults\nimage:\n  name: web\n  tag: '1e3'\nreplicas: 1\n",
    "charts/web/templates/web.yaml": (
        b"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: {{ .Chart.Name }}}\n"
        b"spec:\n  replicas: {{ .Values.replicas }}\n"
        b"  image: {{ .Values.image.name }}:{{ .Values.image.tag }}\n"
    ),
    "README.md": b"# a repository\n",
}
VALUES = {"production.yaml": b"replicas: 3\nimage:\n  tag: '08'\n"}


def test_a_chart_with_merged_values_is_rendered(
    world: World, controller: Controller, helm: Path, tmp_path: Path
) -> None:
    world.publish(CHART)
    world.publish(VALUES, name="values")
    world.generate(
        output(
            "web",
            copy("@chart/charts/web"),
            copy("@values/production.yaml", "@artifact/web/values.yaml", strategy="Merge"),
            originRevision="@chart",
        ),
        sources=[source("chart", name="repo"), source("values")],
    )
    world.until_ready()
    archive = tmp_path / "web.tgz"
    archive.write_bytes(download(world.artifact("web")["url"])[1])

    # As helm-controller does: what is served goes to Helm's loader as it is.
    rendered = subprocess.run([helm, "template", "release", archive], check=True, capture_output=True, text=True)

    assert rendered.stdout == (
        "---\n# Source: web/templates/web.yaml\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
        "spec:\n  replicas: 3\n  image: web:08\n"
    )
    assert world.artifact("web")["metadata"]["org.opencontainers.image.revision"].startswith("main@sha1:")


def test_a_packaged_chart_is_unpacked_and_changed(
    world: World, controller: Controller, helm: Path, tmp_path: Path
) -> None:
    """The artifact of a HelmChart holds the chart's directory."""
    chart: Tree = {path.removeprefix("charts/"): content for path, content in CHART.items() if "/" in path}
    world.publish(chart, name="web", kind="HelmChart", revision="1.2.3")
    world.publish(VALUES, name="values")
    world.generate(
        output(
            "web",
            copy("@chart/web"),
            copy("@values/production.yaml", "@artifact/web/values.yaml", strategy="Merge"),
            revision="@chart",
        ),
        sources=[source("chart", name="web", kind="HelmChart"), source("values")],
    )
    world.until_ready()
    archive = tmp_path / "web.tgz"
    archive.write_bytes(download(world.artifact("web")["url"])[1])

    shown = subprocess.run([helm, "show", "values", archive], check=True, capture_output=True, text=True)

    assert shown.stdout.strip() == "image:\n  name: web\n  tag: '08'\nreplicas: 3"
    assert world.artifact("web")["revision"] == "1.2.3"
