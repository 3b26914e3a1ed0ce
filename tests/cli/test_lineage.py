"""`sluice tree` and `sluice trace`, beside a real API server."""

import json

import pytest
import yaml
from tests.cli.clusters import HELM, KUSTOMIZE, SUCCESS, Front, deploy, ready
from tests.e2e.world import source

pytestmark = pytest.mark.cluster

COMMIT = "main@sha1:1eabc9a41ca088515cab83f1cce49eb43e84b67f"


def config_map(front: Front, **labels: str) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "labels": labels}}
    front.client.create(f"/api/v1/namespaces/{front.namespace}/configmaps", body)


@pytest.fixture
def shop(front: Front, consumers: None) -> Front:
    """A generator with two artifacts, one of them used three times."""
    front.publish({"a": b"1"}, revision=COMMIT)
    front.set_status("GitRepository", "repo", conditions=[ready(message="stored artifact")])
    front.add_generator("shop", "web", "api")
    front.add_artifact("web", {"a": b"1"})
    front.add_artifact("api", {"a": b"1"})
    deploy(front, "Kustomization", "web", "web")
    deploy(front, "HelmRelease", "web", "web")
    front.add_generator("more", sources=(source("web", kind="ExternalArtifact"),))
    return front


def rows(out: str) -> list[list[str]]:
    return [line.split(maxsplit=5) for line in out.splitlines()]


class TestTree:
    def test_it_is_drawn(self, shop: Front) -> None:
        home = shop.namespace

        assert shop.run("tree", "generator", "shop") == (
            0,
            f"""\
ArtifactGenerator/{home}/shop
├── ExternalArtifact/{home}/web
│   ├── ArtifactGenerator/{home}/more
│   ├── HelmRelease/{home}/web
│   └── Kustomization/{home}/web
└── ExternalArtifact/{home}/api
""",
            "",
        )

    def test_wide_tells_how_each_is(self, shop: Front) -> None:
        lines = shop.run("tree", "shop", "-o", "wide").out.splitlines()

        revision = shop.artifact("web")["revision"]
        assert lines[0].split() == ["NAME", "READY", "REVISION", "MESSAGE"]
        assert lines[1].split(maxsplit=3)[1:] == ["True", "-", SUCCESS]
        assert lines[2].split(maxsplit=4)[2:] == ["True", revision, "Artifact is ready"]
        assert lines[5].split(maxsplit=5)[3:] == ["True", "latest@sha256:" + "1" * 64, "Applied revision"]

    def test_for_programs(self, shop: Front) -> None:
        found = json.loads(shop.run("tree", "shop", "-o", "json").out)

        web, api = found["children"]
        assert (found["kind"], found["namespace"], found["name"]) == ("ArtifactGenerator", shop.namespace, "shop")
        assert [child["kind"] for child in web["children"]] == ["ArtifactGenerator", "HelmRelease", "Kustomization"]
        assert api["children"] == []
        assert yaml.safe_load(shop.run("tree", "shop", "-o", "yaml").out) == found
        assert shop.run("tree", "shop", "-o", "name").out.split()[-1] == f"ExternalArtifact/{shop.namespace}/api"

    def test_an_artifact_that_is_gone(self, shop: Front) -> None:
        shop.delete("ExternalArtifact", "api")

        assert shop.run("tree", "shop", "-o", "wide").out.splitlines()[-1].split()[-4:] == ["-", "-", "not", "found"]

    def test_no_generator(self, shop: Front) -> None:
        assert shop.run("tree", "ship") == (1, "", f"✗ ArtifactGenerator {shop.namespace}/ship not found\n")
        assert shop.run("tree") == (2, "", "✗ say which generator: generator NAME (see 'sluice tree --help')\n")

    def test_somebody_who_sees_one_namespace_only(self, shop: Front) -> None:
        user = shop.plane.user("viewer-of-one")
        role = {"kind": "ClusterRole", "apiGroup": "rbac.authorization.k8s.io", "name": "viewer-of-one"}
        rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        shop.client.create(f"{rbac}/clusterroles", {"metadata": {"name": "viewer-of-one"}, "rules": rules})
        binding = {
            "metadata": {"name": "viewer-of-one"},
            "roleRef": role,
            "subjects": [{"kind": "User", "name": "viewer-of-one"}],
        }
        shop.client.create(f"{rbac}/namespaces/{shop.namespace}/rolebindings", binding)

        ran = shop.run("tree", "shop", KUBECONFIG=str(user))

        assert (ran.code, len(ran.out.splitlines())) == (0, 6)
        assert sorted(ran.words.splitlines()) == [
            f"⚠ {plural} of other namespaces may not be read"
            for plural in ("artifactgenerators", "helmreleases", "kustomizations")
        ]


class TestTrace:
    def test_from_an_object_to_its_sources(self, shop: Front) -> None:
        config_map(shop, **{f"{KUSTOMIZE}/name": "web", f"{KUSTOMIZE}/namespace": shop.namespace})

        ran = shop.run("trace", "configmap/settings")

        digest = shop.artifact("web")["revision"].rpartition(":")[2]
        home = shop.namespace
        assert (ran.code, ran.words) == (0, "")
        assert rows(ran.out) == [
            ["KIND", "NAMESPACE", "NAME", "REVISION", "READY", "MESSAGE"],
            ["ConfigMap", home, "settings", "-", "-", "-"],
            ["Kustomization", home, "web", "latest@sha256:11111111", "True", "Applied revision"],
            ["ExternalArtifact", home, "web", f"latest@sha256:{digest[:8]}", "True", "Artifact is ready"],
            ["ArtifactGenerator", home, "shop", "-", "True", SUCCESS],
            ["GitRepository", home, "repo", "main@sha1:1eabc9a4", "True", "stored artifact"],
        ]

    @pytest.mark.parametrize(
        ("arguments", "kinds"),
        [
            pytest.param(["hr", "web"], "HelmRelease ExternalArtifact ArtifactGenerator GitRepository", id="a release"),
            pytest.param(
                ["Kustomization/web", "--api-version", f"{KUSTOMIZE}/v1"],
                "Kustomization ExternalArtifact ArtifactGenerator GitRepository",
                id="in a version",
            ),
            pytest.param(
                ["artifact/api"], "ExternalArtifact ArtifactGenerator GitRepository", id="an artifact, without looking"
            ),
            pytest.param(
                ["generator/more"],
                "ArtifactGenerator ExternalArtifact ArtifactGenerator GitRepository",
                id="a generator that reads another's artifact",
            ),
        ],
    )
    def test_from_somewhere_on_the_way(self, shop: Front, arguments: list[str], kinds: str) -> None:
        ran = shop.run("trace", *arguments, "-o", "name")

        assert [line.partition("/")[0] for line in ran.out.splitlines()] == kinds.split()

    def test_a_release_that_a_kustomization_applied(self, shop: Front) -> None:
        labels = {f"{KUSTOMIZE}/name": "web", f"{KUSTOMIZE}/namespace": shop.namespace}
        path = f"/apis/{HELM}/v2/namespaces/{shop.namespace}/helmreleases"
        body = {"apiVersion": f"{HELM}/v2", "kind": "HelmRelease", "metadata": {"name": "db", "labels": labels}}
        shop.client.create(path, {**body, "spec": {"chart": {"spec": {"chart": "db"}}}})

        kinds = [line.partition("/")[0] for line in shop.run("trace", "helmrelease/db", "-o", "name").out.splitlines()]
        assert kinds == ["HelmRelease", "Kustomization", "ExternalArtifact", "ArtifactGenerator", "GitRepository"]

    def test_an_object_that_applies_itself(self, shop: Front) -> None:
        labels = {f"{KUSTOMIZE}/name": "flux", f"{KUSTOMIZE}/namespace": shop.namespace}
        path = f"/apis/{KUSTOMIZE}/v1/namespaces/{shop.namespace}/kustomizations"
        body = {
            "apiVersion": f"{KUSTOMIZE}/v1",
            "kind": "Kustomization",
            "metadata": {"name": "flux", "labels": labels},
        }
        shop.client.create(path, {**body, "spec": {"sourceRef": {"kind": "GitRepository", "name": "repo"}}})

        kinds = [line.partition("/")[0] for line in shop.run("trace", "ks/flux", "-o", "name").out.splitlines()]
        assert kinds == ["Kustomization", "GitRepository"]

    def test_for_programs(self, shop: Front) -> None:
        found = json.loads(shop.run("trace", "artifact/web", "-o", "json").out)["links"]

        assert found[2] == {
            "kind": "GitRepository",
            "namespace": shop.namespace,
            "name": "repo",
            "alias": "repo",
            "revision": COMMIT,
            "originRevision": None,
            "ready": "True",
            "message": "stored artifact",
        }
        assert shop.run("trace", "artifact/web", "-o", "wide").out.splitlines()[3].split()[3:5] == ["repo", COMMIT]

    def test_what_nobody_generated(self, shop: Front) -> None:
        config_map(shop)

        ran = shop.run("trace", "cm/settings")

        assert (ran.code, len(ran.out.splitlines())) == (0, 2)
        assert ran.words == f"⚠ ConfigMap/{shop.namespace}/settings does not come from a generator\n"

    def test_a_link_that_is_missing(self, shop: Front) -> None:
        shop.delete("ExternalArtifact", "web")

        ran = shop.run("trace", "kustomization/web")

        assert ran.code == 1
        assert rows(ran.out)[-1] == ["ExternalArtifact", shop.namespace, "web", "-", "-", "not found"]
        assert ran.words == f"⚠ Kustomization/{shop.namespace}/web does not come from a generator\n"

    def test_an_object_of_the_whole_cluster(self, shop: Front) -> None:
        ran = shop.run("trace", "namespace", shop.namespace, "-o", "name")

        assert ran.out == f"Namespace/{shop.namespace}\n"

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            pytest.param(["web"], 2, "say which object: KIND/NAME (see 'sluice trace --help')", id="no kind"),
            pytest.param(["vegetable/web"], 1, "the cluster serves no kind 'vegetable'", id="no such kind"),
            pytest.param(
                ["deployment/web", "--api-version", "apps/v0"],
                1,
                "the cluster serves no kind 'deployment' in apps/v0",
                id="no such version",
            ),
        ],
    )
    def test_what_makes_no_sense(self, shop: Front, arguments: list[str], code: int, message: str) -> None:
        assert shop.run("trace", *arguments) == (code, "", f"✗ {message}\n")

    def test_a_name_that_is_not_there(self, shop: Front) -> None:
        assert shop.run("trace", "deploy/web").words == f"✗ Deployment {shop.namespace}/web not found\n"
