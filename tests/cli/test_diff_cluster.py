"""`sluice diff --against-cluster`: local files beside what a real API server says is published."""

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.clusters import HELM, KUSTOMIZE, Front, Ran, deploy, kubeconfig
from tests.cli.running import make_repository, write
from tests.cli.test_terminal import on_terminal
from tests.e2e import sources
from tests.e2e.api_proxy import ApiProxy, of
from tests.e2e.trees import contents_digest, sha256, tarball
from tests.e2e.world import source
from tests.envtest.server import free_port

pytestmark = pytest.mark.cluster

# Without a namespace: `-n` says which.
GENERATOR = """\
apiVersion: source.extensions.fluxcd.io/v1beta1
kind: ArtifactGenerator
metadata: {name: shop}
spec:
  sources: [{alias: repo, kind: Bucket, name: monorepo}]
  artifacts:
    - {name: web, copy: [{from: "@repo/web/**", to: "@artifact/"}]}
    - {name: api, copy: [{from: "@repo/api/**", to: "@artifact/"}]}
"""
WEB = {"a.yaml": b"a\n", "sub/b.yaml": b"b\n"}
API = {"c.yaml": b"c\n"}
FILES = {"shop.yaml": GENERATOR, "src/web/a.yaml": "a\n", "src/web/sub/b.yaml": "b\n", "src/api/c.yaml": "c\n"}

LIVE = ("diff", "shop.yaml", "--against-cluster")
DIFF = (*LIVE, "--source", "repo=src")
SAME = "✔ cluster to working tree: no difference in 2 artifacts"
CHANGED = "► cluster to working tree: 1 of 2 artifacts differs: 1 changed"


def change() -> None:
    """Change what artifact `web` is made of."""
    write(Path(), {"src/web/a.yaml": "other\n"})


def last(ran: Ran) -> tuple[int, str]:
    """The exit code, and the last word."""
    return ran.code, ran.words.splitlines()[-1]


def told(front: Front, *arguments: str, **more: str) -> dict[str, Any]:
    ran = front.run(*(arguments or DIFF), "-o", "json", **more)
    assert ran.code in (0, 1), ran.words
    found: dict[str, Any] = json.loads(ran.out)
    return found


def states(front: Front, *arguments: str) -> dict[str, str]:
    return {one["name"]: one["state"] for one in told(front, *arguments)["artifacts"]}


def requests(front: Front) -> set[str]:
    """The artifacts that were asked for."""
    return {path.split("/")[3] for path in front.sources.requests}


@pytest.fixture
def shop(front: Front, consumers: None, here: Path) -> Front:
    """A generator with two artifacts and who deploys them; the current directory has the same files."""
    write(here, FILES)
    front.add_generator("shop", "web", "api", sources=(source("repo", kind="Bucket", name="monorepo"),))
    front.add_artifact("web", WEB)
    front.add_artifact("api", API)
    deploy(front, "Kustomization", "web", "web")
    deploy(front, "HelmRelease", "api", "api")
    return front


class TestArtifacts:
    def test_what_is_published_does_not_differ_and_is_not_downloaded(self, shop: Front) -> None:
        ran = shop.run(*DIFF)

        assert (ran.code, ran.out) == (0, "")
        assert ran.words.splitlines()[1:] == [SAME]
        assert ran.words.startswith(f"► Bucket/{shop.namespace}/monorepo: src at latest@sha256:")
        assert requests(shop) == set()

    def test_only_what_changed_is_downloaded(self, shop: Front) -> None:
        change()

        ran = shop.run(*DIFF)

        home = shop.namespace
        assert last(ran) == (1, CHANGED)
        assert [line.split() for line in ran.out.splitlines()] == [
            ["NAMESPACE", "NAME", "STATE", "FILES"],
            [home, "web", "changed", "1", "modified"],
            [],
            [f"{home}/web"],
            ["modified", "a.yaml"],
            [],
            ["KIND", "NAMESPACE", "NAME", "ARTIFACT", "ROLLS", "OUT"],
            ["Kustomization", home, "web", f"{home}/web", "yes"],
            ["HelmRelease", home, "api", f"{home}/api", "no"],
        ]
        assert requests(shop) == {"web"}

    def test_a_patch(self, shop: Front) -> None:
        change()

        ran = shop.run(*DIFF, "--patch")

        path = f"{shop.namespace}/web/a.yaml"
        assert ran.out.endswith(f"diff a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-a\n+other\n")

    def test_what_is_new_and_what_is_gone(self, shop: Front) -> None:
        write(Path(), {"shop.yaml": GENERATOR.replace("name: api", "name: backend")})

        found = told(shop)

        assert {one["name"]: one["state"] for one in found["artifacts"]} == {
            "web": "unchanged",
            "backend": "new",
            "api": "gone",
        }
        assert [(one["name"], one["artifactState"]) for one in found["consumers"]] == [
            ("api", "gone"),
            ("web", "unchanged"),
        ]
        assert requests(shop) == {"api"}

    def test_what_other_generators_publish_is_not_missed(self, shop: Front) -> None:
        shop.add_generator("other", "more")
        shop.add_artifact("more", API, generator="other")

        assert states(shop) == {"web": "unchanged", "api": "unchanged"}

    def test_a_generator_that_the_cluster_has_not(self, shop: Front) -> None:
        text = (
            GENERATOR.replace("name: shop", "name: new").replace("name: web", "name: x").replace("name: api", "name: y")
        )
        write(Path(), {"shop.yaml": text})

        assert states(shop) == {"x": "new", "y": "new"}

    def test_what_is_not_ready_is_not_published(self, shop: Front) -> None:
        shop.delete("ExternalArtifact", "web")
        owner = {"apiVersion": "source.extensions.fluxcd.io/v1beta1", "kind": "ArtifactGenerator", "name": "shop"}
        shop.create("ExternalArtifact", "web", {"sourceRef": owner})

        assert states(shop) == {"web": "new", "api": "unchanged"}

    def test_one_artifact(self, shop: Front) -> None:
        change()

        assert states(shop, *DIFF, "-a", "api") == {"api": "unchanged"}
        assert requests(shop) == set()

    def test_the_revision_of_a_source_tells_nothing_but_the_file_does(self, shop: Front) -> None:
        shop.delete("ExternalArtifact", "web")
        shop.add_artifact("web", WEB, revision="main@sha1:" + "1" * 40)

        assert last(shop.run(*DIFF)) == (0, SAME)
        assert requests(shop) == set()

    def test_an_artifact_of_source_watcher_is_looked_into(self, shop: Front) -> None:
        shop.delete("ExternalArtifact", "web")
        path = f"externalartifact/{shop.namespace}/web/242366145.tar.gz"
        shop.sources.archives[f"/{path}"] = tarball(WEB)
        digest = sha256(tarball(WEB))
        shop.add_artifact("web", WEB, path=path, url=f"{shop.sources.url}/{path}", revision=f"latest@{digest}")

        assert last(shop.run(*DIFF)) == (0, SAME)
        assert requests(shop) == {"web"}

    def test_what_fails_now_stays_published(self, shop: Front) -> None:
        for name in ("a.yaml", "sub/b.yaml"):
            Path("src/web", name).unlink()

        ran = shop.run(*DIFF)

        assert last(ran) == (1, "► cluster to working tree: 1 of 2 artifacts differs: 1 failing")
        assert ran.out.splitlines()[-2].split()[0] == "Kustomization" or "no" in ran.out.splitlines()[-1]
        assert requests(shop) == set()

    def test_a_name_that_is_somebody_elses(self, shop: Front) -> None:
        shop.add_generator("other", "web")
        shop.delete("ExternalArtifact", "web")
        shop.add_artifact("web", WEB, generator="other")

        ran = shop.run(*DIFF)

        home = shop.namespace
        text = (
            f"ExternalArtifact {home}/web belongs to ArtifactGenerator {home}/other (delete it, or choose another name)"
        )
        assert ran.words.splitlines()[-2:] == [
            f"✗ {home}/web: {text}",
            "► cluster to working tree: 1 of 2 artifacts differs: 1 failing",
        ]

    def test_a_name_whose_owner_is_gone(self, shop: Front) -> None:
        shop.delete("ExternalArtifact", "web")
        shop.add_artifact("web", WEB, generator="gone")

        assert states(shop) == {"web": "new", "api": "unchanged"}

    def test_a_revision_instead_of_the_working_tree(self, shop: Front) -> None:
        make_repository(Path())
        change()

        assert last(shop.run(*DIFF, "--to", "HEAD")) == (0, "✔ cluster to HEAD: no difference in 2 artifacts")

    def test_a_context_is_what_the_cluster_is_called(self, shop: Front) -> None:
        assert last(shop.run(*DIFF, "--context", "test")) == (0, SAME.replace("cluster", "test"))


class TestConsumers:
    def test_they_may_be_anywhere(self, shop: Front) -> None:
        change()
        elsewhere = shop.plane.namespace()
        spec = {"chartRef": {"kind": "ExternalArtifact", "name": "web", "namespace": shop.namespace}}
        body = {"apiVersion": f"{HELM}/v2", "kind": "HelmRelease", "metadata": {"name": "far"}, "spec": spec}
        shop.client.create(f"/apis/{HELM}/v2/namespaces/{elsewhere}/helmreleases", body)

        found = told(shop)["consumers"]

        shop.plane.clear(elsewhere)
        assert [(one["namespace"], one["name"], one["rollsOut"], one["file"]) for one in found] == [
            (elsewhere, "far", True, None),
            (shop.namespace, "web", True, None),
            (shop.namespace, "api", False, None),
        ]

    def test_those_that_are_suspended_roll_out_later(self, shop: Front) -> None:
        change()
        path = f"/apis/{KUSTOMIZE}/v1/namespaces/{shop.namespace}/kustomizations/web"
        shop.client.merge(path, {"spec": {"suspend": True}})

        web, api = told(shop)["consumers"]

        assert (web["name"], web["rollsOut"], web["suspended"]) == ("web", False, True)
        assert (api["name"], api["rollsOut"], api["suspended"]) == ("api", False, False)
        assert " suspended\n" in shop.run(*DIFF).out
        comment = shop.run(*DIFF, "-o", "markdown").out
        assert f"Suspended, rolls out when resumed: `Kustomization/{shop.namespace}/web`\n" in comment

    def test_those_in_files_count_too(self, shop: Front) -> None:
        change()
        text = "\n---\n".join(
            f"apiVersion: {KUSTOMIZE}/v1\nkind: Kustomization\nmetadata: {{name: {name}}}\n"
            "spec: {sourceRef: {kind: ExternalArtifact, name: web}}"
            for name in ("web", "soon")
        )
        write(Path(), {"apps.yaml": text})

        found = told(shop, *DIFF, "apps.yaml")["consumers"]

        assert [(one["name"], one["file"]) for one in found] == [
            ("soon", "apps.yaml:8:12"),
            ("web", "apps.yaml:3:12"),
            ("api", None),
        ]

    def test_a_generator_that_is_suspended(self, shop: Front) -> None:
        change()
        shop.annotate("shop", **{"source.extensions.fluxcd.io/reconcile": "disabled"})

        ran = shop.run(*DIFF)

        title = f"ArtifactGenerator {shop.namespace}/shop"
        assert f"⚠ {title} is suspended: it publishes nothing until it is resumed" in ran.words.splitlines()

    def test_a_generator_that_reads_what_changes(self, shop: Front) -> None:
        shop.add_generator("more", "m", sources=(source("web", kind="ExternalArtifact"),))
        shop.add_generator("less", "l", sources=(source("api", kind="ExternalArtifact"),))
        change()

        warnings = [line for line in shop.run(*DIFF).words.splitlines() if line.startswith("⚠")]

        home = shop.namespace
        assert warnings == [
            f"⚠ ArtifactGenerator {home}/more reads {home}/web: what it makes of it is not compared",
        ]


@pytest.fixture
def reader(shop: Front) -> Path:
    """The kubeconfig of somebody who may read generators and artifacts of the namespace, and nothing else."""
    rbac, home = "/apis/rbac.authorization.k8s.io/v1", shop.namespace
    name = f"reader-of-{home}"
    rules = [{"apiGroups": ["*"], "resources": ["artifactgenerators", "externalartifacts"], "verbs": ["get", "list"]}]
    shop.client.create(f"{rbac}/namespaces/{home}/roles", {"metadata": {"name": name}, "rules": rules})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"kind": "Role", "apiGroup": "rbac.authorization.k8s.io", "name": name},
        "subjects": [{"kind": "User", "name": name}],
    }
    shop.client.create(f"{rbac}/namespaces/{home}/rolebindings", binding)
    return shop.plane.user(name)


@pytest.fixture
def proxy(shop: Front, tmp_path: Path) -> Iterator[ApiProxy]:
    """A way to the cluster where answers can be replaced."""
    (tmp_path / "proxy").mkdir()
    with ApiProxy(shop.plane.user("behind", "system:masters"), tmp_path / "proxy") as between:
        yield between


class TestAccess:
    def test_somebody_who_may_not_see_who_deploys(self, shop: Front, reader: Path) -> None:
        change()

        ran = shop.run(*DIFF, KUBECONFIG=str(reader))

        assert last(ran) == (1, CHANGED)
        assert ran.words.splitlines()[:3] == [
            "⚠ artifactgenerators of other namespaces may not be read",
            "⚠ kustomizations may not be read",
            "⚠ helmreleases may not be read",
        ]
        assert "KIND" not in ran.out

    def test_somebody_who_may_see_nothing(self, shop: Front) -> None:
        ran = shop.run(*DIFF, "--as", "guest")

        assert (ran.code, ran.out) == (2, "")
        assert ran.words.splitlines()[-1].startswith("✗ externalartifacts.source.toolkit.fluxcd.io is forbidden: ")

    def test_a_cluster_without_those_who_deploy(self, shop: Front, proxy: ApiProxy) -> None:
        change()
        for plural in ("kustomizations", "helmreleases"):
            proxy.answer(of("list", plural), 404, "", times=10)

        ran = shop.run(*DIFF, KUBECONFIG=str(proxy.kubeconfig))

        assert last(ran) == (1, CHANGED)
        assert ran.words.splitlines()[:2] == [
            f"⚠ the cluster does not know kustomizations.{KUSTOMIZE}",
            f"⚠ the cluster does not know helmreleases.{HELM}",
        ]

    def test_a_cluster_without_artifacts(self, shop: Front, proxy: ApiProxy) -> None:
        proxy.answer(of("list", "externalartifacts"), 404, "", times=10)

        assert shop.run(*DIFF, KUBECONFIG=str(proxy.kubeconfig)) == (
            2,
            "",
            (
                "✗ the cluster does not know externalartifacts.source.toolkit.fluxcd.io"
                " (is its CustomResourceDefinition installed?)\n"
            ),
        )

    def test_nobody_listens(self, shop: Front, tmp_path: Path) -> None:
        server = f"https://127.0.0.1:{free_port()}"
        path = kubeconfig(shop.plane, tmp_path / "config", {"cluster": {"server": server}})

        assert shop.run(*DIFF, "--kubeconfig", str(path)) == (2, "", f"✗ {server}: connection refused\n")

    def test_no_such_context(self, shop: Front) -> None:
        ran = shop.run(*DIFF, "--context", "nowhere")

        assert (ran.code, ran.out) == (2, "")
        assert ran.words.endswith("there is no context 'nowhere' (contexts: test)\n")


class TestDownloads:
    def title(self, front: Front, name: str = "web") -> str:
        return f"ExternalArtifact {front.namespace}/{name}"

    def url(self, front: Front) -> str:
        return str(front.artifact("web")["url"])

    def test_an_archive_that_is_not_there(self, shop: Front) -> None:
        change()
        shop.sources.archives.clear()

        text = f"✗ {self.title(shop)}: GET {self.url(shop)}: the server answered 404 Not Found"
        assert last(shop.run(*DIFF)) == (2, text)

    def test_other_bytes_than_announced(self, shop: Front) -> None:
        change()
        there = shop.artifact("web")
        shop.sources.archives[f"/{there['path']}"] = other = tarball({"a": b"other"})

        ran = shop.run(*DIFF)

        assert (ran.code, ran.out) == (2, "")
        text = f"digest mismatch: expected {there['digest']}, got {sha256(other)}"
        assert last(ran) == (2, f"✗ {self.title(shop)}: {text}")

    def test_an_artifact_that_is_replaced_meanwhile(self, shop: Front) -> None:
        change()
        before = shop.artifact("web")
        new: Mapping[str, bytes] = {"a.yaml": b"other\n", "sub/b.yaml": b"b\n"}

        def replaced(answering: sources.Answering, _: bytes) -> None:
            shop.delete("ExternalArtifact", "web")
            shop.add_artifact("web", new)
            answering.say(404)

        shop.sources.faults[f"/{before['path']}"] = replaced

        assert last(shop.run(*DIFF)) == (0, SAME)
        assert shop.artifact("web")["revision"] == f"latest@sha256:{contents_digest(new)}"

    def test_an_artifact_that_goes_meanwhile(self, shop: Front) -> None:
        change()

        def gone(answering: sources.Answering, _: bytes) -> None:
            shop.delete("ExternalArtifact", "web")
            answering.say(404)

        shop.sources.faults[f"/{shop.artifact('web')['path']}"] = gone

        assert last(shop.run(*DIFF)) == (2, f"✗ {self.title(shop)} not found")

    def test_outside_of_the_cluster(self, shop: Front) -> None:
        change()
        there, host = shop.artifact("web"), "source-watcher.flux-system.svc.cluster.invalid"
        shop.set_status("ExternalArtifact", "web", artifact={**there, "url": f"http://{host}/{there['path']}"})

        assert last(shop.run(*DIFF)) == (
            2,
            (
                f"✗ {self.title(shop)}: cannot look up '{host}' (outside of the cluster:"
                " kubectl -n flux-system port-forward svc/source-watcher 8080:80, and --storage-url http://localhost:8080)"
            ),
        )
        assert last(shop.run(*DIFF, "--storage-url", shop.sources.url)) == (1, CHANGED)


class TestSources:
    TREE: Mapping[str, bytes] = {"web/a.yaml": b"a\n", "web/sub/b.yaml": b"b\n", "api/c.yaml": b"other\n"}

    def test_what_is_nowhere_at_hand_is_what_the_cluster_has(self, shop: Front) -> None:
        path = shop.publish(self.TREE, "monorepo", kind="Bucket", revision="main@sha1:" + "1" * 40)

        ran = shop.run(*LIVE)

        home = shop.namespace
        assert last(ran) == (1, CHANGED)
        assert f"{home}   api    changed   1 modified\n" in ran.out
        assert f"► Bucket/{home}/monorepo: the cluster's at main@sha1:11111111" in ran.words.splitlines()
        assert shop.sources.requests[path] == 1

    def test_another_generators_artifact(self, shop: Front) -> None:
        shop.add_generator("other", "more")
        shop.add_artifact("more", self.TREE, generator="other")
        text = GENERATOR.replace("kind: Bucket, name: monorepo", "kind: ExternalArtifact, name: more")
        write(Path(), {"shop.yaml": text})

        assert states(shop, *LIVE) == {"web": "unchanged", "api": "changed"}

    def test_one_that_the_cluster_has_not(self, shop: Front) -> None:
        ran = shop.run(*LIVE)

        assert ran.code == 1
        text = f"source 'repo': Bucket {shop.namespace}/monorepo not found (--source repo=LOCATION)"
        assert ran.words.splitlines()[0] == f"✗ {shop.namespace}/web: {text}"

    def test_one_that_cannot_be_fetched(self, shop: Front) -> None:
        path = shop.publish(self.TREE, "monorepo", kind="Bucket", fault=sources.status(503))

        ran = shop.run(*LIVE)

        assert ran.code == 1
        text = f"GET {shop.sources.url}{path}: the server answered 503 Service Unavailable (--source repo=LOCATION)"
        assert ran.words.splitlines()[0] == (
            f"✗ {shop.namespace}/web: source 'repo': Bucket {shop.namespace}/monorepo: {text}"
        )
        assert shop.sources.requests[path] == 1


class TestForms:
    def test_for_programs(self, shop: Front) -> None:
        change()

        found = told(shop)

        home = shop.namespace
        assert (found["from"], found["to"], found["differs"]) == ("cluster", "working tree", True)
        web, api = found["artifacts"]
        assert (web["state"], web["before"]) == ("changed", f"sha256:{contents_digest(WEB)}")
        assert (api["state"], api["before"]) == ("unchanged", f"sha256:{contents_digest(API)}")
        assert found["consumers"][0] == {
            "kind": "Kustomization",
            "namespace": home,
            "name": "web",
            "artifact": f"{home}/web",
            "rollsOut": True,
            "suspended": False,
            "artifactState": "changed",
            "file": None,
        }
        assert yaml.safe_load(shop.run(*DIFF, "-o", "yaml").out) == found

    def test_for_a_pull_request(self, shop: Front) -> None:
        change()

        ran = shop.run(*DIFF, "-o", "markdown")

        home = shop.namespace
        assert ran.code == 1
        assert ran.out == (
            "**Artifacts: 1 of 2 artifacts differs: 1 changed**\n"
            "\n"
            "| Artifact | State | Files |\n"
            "| --- | --- | --- |\n"
            f"| `{home}/web` | changed | 1 modified |\n"
            "\n"
            f"Rolls out: `Kustomization/{home}/web`\n"
            "\n"
            f"Stays as it is: `HelmRelease/{home}/api`\n"
            "\n"
            f"<details><summary>{home}/web: 1 modified</summary>\n"
            "\n"
            "- modified `a.yaml`\n"
            "\n"
            "</details>\n"
        )

    @pytest.mark.parametrize("columns", ["20", "200"])
    def test_a_terminal_of_any_width(self, shop: Front, columns: str) -> None:
        change()

        seen = on_terminal(Path(), *DIFF, "-n", shop.namespace, KUBECONFIG=str(shop.plane.kubeconfig), COLUMNS=columns)

        assert f"{shop.namespace}   web    changed   1 modified\r\n" in seen
        assert f"\x1b[36m►\x1b[0m {CHANGED[2:]}\r\n" in seen

    def test_a_terminal_that_wants_no_colour(self, shop: Front) -> None:
        change()
        config = {"KUBECONFIG": str(shop.plane.kubeconfig), "NO_COLOR": "1"}

        seen = on_terminal(Path(), *DIFF, "-n", shop.namespace, **config)

        assert "\x1b[3" not in seen
        assert f"{CHANGED}\r\n" in seen

    def test_a_closed_pipe(self, shop: Front) -> None:
        change()

        with shop.start(*DIFF, "-o", "json") as running:
            assert running.stdout is not None
            running.stdout.close()
            running.stdout = None
            _, words = running.communicate()

        assert running.returncode == 141
        assert words.splitlines()[-1] == CHANGED

    def test_interrupted(self, shop: Front) -> None:
        change()
        held = sources.Held()
        shop.sources.faults[f"/{shop.artifact('web')['path']}"] = held

        with shop.start(*DIFF, stdout=subprocess.PIPE) as running:
            assert held.reached.wait(120)
            running.send_signal(signal.SIGINT)
            out, words = running.communicate()
            held.release()

        assert (running.returncode, out) == (130, "")
        assert words.splitlines()[-1] == "✗ interrupted"
        assert "Traceback" not in words
