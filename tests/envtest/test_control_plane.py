"""The control plane does what other tests count on."""

import os
import select
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, build_opener

import pytest
import yaml
from tests.envtest.build import CONTROL_PLANE, SETS
from tests.envtest.fixtures import REPOSITORY, SHARED_DEFINITIONS, start_control_plane
from tests.envtest.server import ControlPlane, read_definitions

SOURCES = "/apis/source.toolkit.fluxcd.io/v1"


@pytest.fixture
def own_plane() -> Iterator[ControlPlane]:
    with start_control_plane() as plane:
        yield plane


def status_as(kubeconfig: Path, path: str) -> int:
    """The status of a GET with the client certificate of a kubeconfig."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
    tls.load_cert_chain(user["client-certificate"], user["client-key"])
    try:
        with build_opener(HTTPSHandler(context=tls)).open(cluster["server"] + path) as response:
            return int(response.status)
    except HTTPError as error:
        with error:
            return error.code


def allow_reading(plane: ControlPlane, namespace: str, subject: dict[str, str]) -> None:
    root = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}
    plane.client.create(f"{root}/roles", {"metadata": {"name": "reader"}, "rules": [rule]})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", **subject}
    plane.client.create(
        f"{root}/rolebindings", {"metadata": {"name": "reader"}, "roleRef": role, "subjects": [subject]}
    )


@pytest.mark.cluster
@pytest.mark.parametrize(
    "subject",
    [
        pytest.param({"kind": "User", "name": "ada"}, id="by the name in its certificate"),
        pytest.param({"kind": "Group", "name": "engines"}, id="by a group in its certificate"),
    ],
)
def test_a_user_may_do_what_a_role_allows(control_plane: ControlPlane, namespace: str, subject: dict[str, str]) -> None:
    user = control_plane.user("ada", "engines", "others")

    before = status_as(user, f"/api/v1/namespaces/{namespace}/configmaps")
    allow_reading(control_plane, namespace, subject)

    assert before == 403
    assert status_as(user, f"/api/v1/namespaces/{namespace}/configmaps") == 200
    assert status_as(user, f"/api/v1/namespaces/{namespace}/secrets") == 403


@pytest.mark.cluster
def test_the_server_is_the_version_that_its_recipe_names(control_plane: ControlPlane) -> None:
    recipe = next(tool.version() for tool in SETS[CONTROL_PLANE] if tool.name == "kube-apiserver")
    told = control_plane.client.get("/version")["gitVersion"]

    assert told == recipe or os.environ.get("KUBEBUILDER_ASSETS")


@pytest.mark.cluster
def test_helm_renders_a_chart(helm: Path, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: chart\nversion: 0.1.0\n")
    (tmp_path / "templates" / "a.yaml").write_text("kind: {{ .Values.kind }}\n")

    rendered = subprocess.check_output([helm, "template", "web", tmp_path, "--set", "kind=Role"], text=True)

    assert rendered == "---\n# Source: chart/templates/a.yaml\nkind: Role\n"


@pytest.mark.cluster
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_data_and_address_outlive_the_server(own_plane: ControlPlane, end: str) -> None:
    namespace, url = own_plane.namespace(), own_plane.url

    getattr(own_plane, end)()
    with pytest.raises(ConnectionRefusedError):
        own_plane.client.get("/readyz")
    own_plane.start()

    assert own_plane.url == url
    assert own_plane.client.get(f"/api/v1/namespaces/{namespace}")["metadata"]["name"] == namespace
    assert own_plane.client.get(f"{SOURCES}/namespaces/{namespace}/externalartifacts")["items"] == []


@pytest.mark.cluster
def test_clearing_a_namespace_leaves_others_alone(control_plane: ControlPlane, namespace: str) -> None:
    other = control_plane.namespace()
    artifact = {
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "ExternalArtifact",
        "metadata": {"name": "web", "finalizers": ["example.test/held"]},
    }
    for each in (namespace, other):
        control_plane.client.create(f"{SOURCES}/namespaces/{each}/externalartifacts", artifact)

    control_plane.clear(namespace)

    remaining = [
        control_plane.client.get(f"{SOURCES}/namespaces/{each}/externalartifacts") for each in (namespace, other)
    ]
    assert [len(answer["items"]) for answer in remaining] == [0, 1]
    control_plane.clear(other)


START_AND_WAIT = """
from tests.envtest.fixtures import start_control_plane
with start_control_plane() as plane:
    print(*(server.pid for server in plane._servers.values()), flush=True)
    input()
"""


@pytest.mark.cluster
def test_servers_do_not_outlive_a_killed_test_run(control_plane: ControlPlane) -> None:
    command = [sys.executable, "-c", START_AND_WAIT]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout
        servers = [os.pidfd_open(int(number)) for number in run.stdout.readline().split()]
        run.kill()
    ended = [bool(select.select([server], [], [], 30)[0]) for server in servers]
    for server in servers:
        os.close(server)

    assert ended == [True, True]


def test_stand_ins_and_real_definitions_serve_the_same_resources() -> None:
    def resources(paths: list[Path]) -> list[tuple[object, ...]]:
        return [
            (crd["metadata"]["name"], crd["spec"]["names"], [version["name"] for version in crd["spec"]["versions"]])
            for crd in read_definitions(paths)
        ]

    stand_ins = sorted((REPOSITORY / "tests" / "envtest" / "crds").glob("*.yaml"))
    real = [SHARED_DEFINITIONS / f"source.toolkit.fluxcd.io_{path.name}" for path in stand_ins]
    if not SHARED_DEFINITIONS.exists():
        pytest.skip("Flux's own definitions are not at hand")

    assert resources(stand_ins) == resources(real)
