"""A thousand generators."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.e2e.api_proxy import ApiProxy
from tests.e2e.conftest import Starter
from tests.e2e.controller import Controller
from tests.e2e.trees import contents_digest
from tests.e2e.world import World, eventually, is_ready, output

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

COUNT = 1000
NAMES = [f"app-{number}" for number in range(COUNT)]
TREE = {f"apps/{name}/web.yaml": name.encode() for name in NAMES}
TURNS = 'controller_runtime_reconcile_total{controller="artifactgenerator",result="requeue_after"}'


def until_all_were_looked_at(controller: Controller) -> None:
    # Not by asking for a thousand objects again and again, which the machine would have to serve meanwhile.
    eventually("each had its turn", lambda: controller.metric(TURNS) >= COUNT, within=90)


def test_a_thousand_generators_read_one_source(world: World, proxy: ApiProxy, new_controller: Starter) -> None:
    path = world.publish(TREE)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: world.generate(output(name, f"@repo/apps/{name}/**"), name=name), NAMES))

    controller = new_controller().start()
    until_all_were_looked_at(controller)

    eventually("all are Ready", lambda: [each for each in world.all_of("ArtifactGenerator") if not is_ready(each)])
    assert world.sources.requests[path] == 1
    assert {
        each["metadata"]["name"]: each["status"]["artifact"]["revision"] for each in world.all_of("ExternalArtifact")
    } == {name: f"latest@sha256:{contents_digest({'web.yaml': name.encode()})}" for name in NAMES}

    # Started again, it looks at all of them and has nothing to write, nor to fetch.
    assert controller.stop() == 0
    controller.kubeconfig = proxy.kubeconfig
    controller.start()
    until_all_were_looked_at(controller)

    assert [call for call, _ in proxy.calls if call.is_write] == []
    assert world.sources.requests[path] == 1
