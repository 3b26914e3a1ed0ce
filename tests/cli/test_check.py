"""`sluice check`, beside a real API server."""

import json

import pytest
import yaml
from tests.cli.clusters import Front, ready
from tests.e2e.world import copy
from tests.envtest.client import Object

from sluice.cli.checks import feature_gates

GATE = "--feature-gates=ExternalArtifact=true"


def deployment(front: Front, name: str, *args: str, replicas: int = 1, available: int = 1) -> None:
    """A Deployment of Flux, as its controller would report it."""
    labels = {"app": name, "app.kubernetes.io/part-of": "flux"}
    container = {"name": "manager", "image": f"fluxcd/{name}:v1.9.0", "args": list(args)}
    path = f"/apis/apps/v1/namespaces/{front.namespace}/deployments"
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    front.client.create(path, {"metadata": {"name": name, "labels": labels}, "spec": spec})
    status = {"replicas": available, "readyReplicas": available, "availableReplicas": available}
    front.client.merge(f"{path}/{name}/status", {"status": status})


def lines(front: Front, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    ran = front.run("check", *arguments, **variables)
    assert ran.out == ""
    return ran.code, ran.words.splitlines()


@pytest.mark.cluster
class TestCheck:
    def test_a_cluster_that_has_it_all(self, front: Front) -> None:
        deployment(front, "source-controller", "--log-level=info")
        deployment(front, "kustomize-controller", "--log-level=info", GATE)
        deployment(front, "helm-controller", "--feature-gates", "CacheSecretsAndConfigMaps=false,ExternalArtifact=true")

        code, told = lines(front, "--pre")

        version = front.client.get("/version")["gitVersion"]
        assert (code, told[0], told[-1]) == (0, f"✔ Kubernetes {version} (1.29 or newer)", "✔ check passed")
        assert told[1:-2] == [
            "✔ Bucket source.toolkit.fluxcd.io/v1",
            "✔ GitRepository source.toolkit.fluxcd.io/v1",
            "✔ OCIRepository source.toolkit.fluxcd.io/v1",
            "✔ HelmChart source.toolkit.fluxcd.io/v1",
            "✔ ExternalArtifact source.toolkit.fluxcd.io/v1",
            "✔ source-controller: fluxcd/source-controller:v1.9.0",
            "✔ kustomize-controller: fluxcd/kustomize-controller:v1.9.0",
            "✔ helm-controller: fluxcd/helm-controller:v1.9.0",
        ]
        assert told[-2] == "✔ you may do all that the verbs of sluice need"

    def test_what_is_missing(self, front: Front) -> None:
        deployment(front, "source-controller", replicas=2)
        deployment(front, "kustomize-controller", "--feature-gates=ExternalArtifact=false")
        front.add_generator("shop")
        front.add_generator("bank", annotations={"source.extensions.fluxcd.io/reconcile": "disabled"})
        front.reconciled("shop", ready("False", "web build failed"))

        code, told = lines(front)

        bad = [line for line in told if not line.startswith("✔")]
        image = "fluxcd/{0}:v1.9.0"
        assert code == 1
        assert bad[:3] == [
            f"✗ source-controller: {image.format('source-controller')}: 1 of 2 replicas are ready",
            "✗ source-watcher is not there",
            (
                f"✗ kustomize-controller: {image.format('kustomize-controller')}: it does not deploy artifacts"
                f" (start it with {GATE})"
            ),
        ]
        assert f"{front.namespace}/shop" in bad[3]
        assert bad[3].startswith("⚠ ")
        assert bad[-1] == "✗ check failed"

    def test_no_flux_at_all(self, front: Front) -> None:
        code, told = lines(front, "--pre")

        assert code == 1
        assert f"✗ no Flux in namespace '{front.namespace}' (say where it is with -n)" in told

    def test_somebody_who_may_do_little(self, front: Front) -> None:
        user = front.plane.user("nobody-much")

        code, told = lines(front, "--pre", KUBECONFIG=str(user))

        generators = "artifactgenerators.source.extensions.fluxcd.io"
        assert code == 1
        assert f"⚠ you may not patch {generators} in all namespaces (for reconcile, suspend and resume)" in told
        assert [line for line in told if line.startswith("✗ components: deployments.apps is forbidden")] != []

    def test_for_programs(self, front: Front) -> None:
        ran = front.run("check", "--pre", "-o", "json")

        found = json.loads(ran.out)
        assert (ran.code, ran.words, found["ok"]) == (1, "", False)
        assert {
            "check": "components",
            "level": "failure",
            "message": f"no Flux in namespace '{front.namespace}' (say where it is with -n)",
        } in found["findings"]
        assert yaml.safe_load(front.run("check", "--pre", "-o", "yaml").out) == found
        assert front.run("check", "--pre", "-o", "name").out == "components\n"


@pytest.mark.cluster
class TestTakeover:
    def compare(self, front: Front) -> tuple[int, list[str]]:
        """What is told of the generators of this namespace."""
        code, told = lines(front, "--takeover")
        return code, [line for line in told if f" {front.namespace}/" in line]

    def generate(self, front: Front, *copies: Object, **metadata: object) -> None:
        artifacts = [{"name": "web", "copy": list(copies)}, {"name": "same", "copy": [copy("@repo/a/x.yaml")]}]
        spec = {"sources": [{"alias": "repo", "kind": "GitRepository", "name": "repo"}], "artifacts": artifacts}
        front.create("ArtifactGenerator", "shop", spec, **metadata)

    def test_a_glob_lands_elsewhere(self, front: Front) -> None:
        front.publish({"a/x.yaml": b"1", "a/y.yaml": b"2"})
        self.generate(front, copy("@repo/a/*.yaml"))

        assert self.compare(front) == (
            1,
            [f"✗ {front.namespace}/shop: artifact 'web' differs in 4 paths: a/x.yaml, a/y.yaml, x.yaml and 1 more"],
        )

    def test_a_generator_that_names_its_dialect_is_settled(self, front: Front) -> None:
        front.publish({"a/x.yaml": b"1"})
        self.generate(front, copy("@repo/a/*.yaml"), annotations={"sluice/dialect": "upstream"})

        _, told = self.compare(front)
        assert told == [
            (
                f"✔ {front.namespace}/shop: artifact 'web' differs in 2 paths: a/x.yaml, x.yaml"
                " (settled: its generator says 'upstream')"
            )
        ]

    def test_what_works_in_one_only(self, front: Front) -> None:
        front.publish({"a/b/x.yaml": b"1", "a/x.yaml": b"1"})
        self.generate(front, copy("@repo/**/b/x.yaml"), copy("@repo/a/{b,c}/x.yaml"))

        _, told = self.compare(front)
        assert len(told) == 1
        assert told[0].startswith(f"✗ {front.namespace}/shop: artifact 'web' fails in upstream only: ")

    def test_nothing_moves(self, front: Front) -> None:
        front.publish({"a/x.yaml": b"1"})
        self.generate(front, copy("@repo/a/"))

        assert self.compare(front)[1] == []

    def test_a_source_that_cannot_be_reached(self, front: Front) -> None:
        path = front.publish({"a/x.yaml": b"1"})
        del front.sources.archives[path]
        self.generate(front, copy("@repo/a/"))

        code, told = self.compare(front)
        url = f"{front.sources.url}{path}"
        assert (code, told) == (
            1,
            [
                (
                    f"✗ {front.namespace}/shop could not be compared: GitRepository {front.namespace}/repo: GET {url}:"
                    " the server answered 404 Not Found"
                )
            ],
        )


@pytest.mark.parametrize(
    ("args", "gates"),
    [
        pytest.param([GATE], {"ExternalArtifact": True}, id="one"),
        pytest.param(["--feature-gates=A=true,B=false"], {"A": True, "B": False}, id="several"),
        pytest.param(["-feature-gates", "A=T", "--x"], {"A": True}, id="as two arguments"),
        pytest.param(["--feature-gates=A=true", "--feature-gates=A=false"], {"A": False}, id="the last one counts"),
        pytest.param(["--feature-gates"], {}, id="without a value"),
        pytest.param(["--feature-gates=A"], {"A": False}, id="without a switch"),
        pytest.param(["--log-level=info"], {}, id="none"),
    ],
)
def test_feature_gates(args: list[str], gates: dict[str, bool]) -> None:
    assert feature_gates(args) == gates
