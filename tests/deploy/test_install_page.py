"""The examples of the installation page build, and the server takes what comes out."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from tests.deploy import flux
from tests.deploy.cluster import Cluster
from tests.deploy.engines import DEPLOY, NAMESPACE, build, deployments, template
from tests.envtest.client import Object
from tests.envtest.fixtures import REPOSITORY

pytestmark = pytest.mark.cluster

PAGE = (REPOSITORY / "docs" / "how-to" / "install.md").read_text()
CONSUMERS = ("kustomize-controller", "helm-controller")


def examples(mark: str) -> list[Object]:
    found = re.findall(rf"^<!-- {mark} -->\n```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(text) for text in found]


def of_flux() -> list[Object]:
    """What Flux writes into a repository, as far as the examples touch it."""
    consumers = []
    for name in CONSUMERS:
        consumer: Object = yaml.safe_load(yaml.safe_dump(flux.DEPLOYMENT))
        consumer["metadata"]["name"] = name
        consumers.append(consumer)
    return [flux.DEPLOYMENT, *consumers]


@pytest.mark.parametrize("kustomization", examples("built"))
def test_a_kustomization_of_the_page_builds(
    cluster: Cluster, kustomize: Path, tmp_path: Path, kustomization: Object
) -> None:
    shutil.copytree(DEPLOY, tmp_path / "sluice", symlinks=True)
    (tmp_path / "gotk-components.yaml").write_text(yaml.safe_dump_all(of_flux()))
    (tmp_path / "gotk-sync.yaml").write_text("")
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    objects = build(kustomize, tmp_path)

    with cluster.holding(objects):
        for deployment in deployments(objects):
            cluster.admits(deployment)


@pytest.mark.parametrize("values", examples("values"))
def test_values_of_the_page_render(cluster: Cluster, helm: Path, values: Object) -> None:
    with cluster.holding(template(helm, values)) as objects:
        assert {obj["metadata"].get("namespace", NAMESPACE) for obj in objects} == {NAMESPACE}


def test_the_page_knows_every_overlay_and_component() -> None:
    overlays = {path.name for path in (DEPLOY / "overlays").iterdir()}
    components = {path.name for path in (DEPLOY / "components").iterdir()}
    listed = re.search(r"`sluice/components/` has (.*?)\.", PAGE, re.DOTALL)

    assert set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)) == overlays
    assert listed
    assert set(re.findall(r"`([a-z-]+)`", listed[1])) == components
    assert len(examples("built")) + len(examples("values")) == PAGE.count("<!-- ")
