"""The image's parts make a file system that starts as it will in a cluster; no container engine is needed for that."""

import json
import re
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy import flux
from tests.deploy.cluster import Cluster
from tests.deploy.confined import confined, obstacle
from tests.deploy.engines import DEPLOY, NAMESPACE, build, build_around, container, deployments, expanded
from tests.e2e.world import eventually
from tests.envtest.client import Object
from tests.envtest.fixtures import REPOSITORY
from tests.envtest.server import free_port

import sluice

REASON = obstacle()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

LIMIT = 1 << 30
PATIENCE = 120.0


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Dockerfile's steps make, of the interpreter at hand."""
    directory = tmp_path_factory.mktemp("image")
    for step in (["tools/release.py", "build", f"--to={directory}"], ["deploy/image/assemble.py", f"{directory}/root"]):
        wheel = [str(path) for path in directory.glob("*.whl")]
        ran = subprocess.run(
            [sys.executable, *step, *wheel], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
    return directory / "root"


@pytest.fixture
def no_account(tmp_path: Path) -> Path:
    directory = tmp_path / "account"
    directory.mkdir()
    return directory


def run(image: Path, writable: Path, account: Path, *command: str, **environment: str) -> tuple[int, str]:
    """Run a command of the image to its end."""
    with confined(image, writable, command, environment=environment, memory=LIMIT, account=account) as process:
        output = process.communicate(timeout=PATIENCE)[0]
        return process.returncode, output


def test_the_program_runs_without_privileges_on_a_read_only_root(image: Path, tmp_path: Path, no_account: Path) -> None:
    assert run(image, tmp_path, no_account, "sluice", "--version") == (0, f"sluice {sluice.__version__}\n")


def test_without_a_cluster_it_says_so_and_ends(image: Path, tmp_path: Path, no_account: Path) -> None:
    code, output = run(image, tmp_path, no_account, "sluice", "controller", KUBECONFIG="/tmp/none")

    assert (code, json.loads(output)["msg"]) == (1, "KUBECONFIG: none of its files exists: '/tmp/none'")


PROBE = """
import os, sys
def refuses(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    except OSError:
        return True
writable = [path for path in ("/", "/app", "/etc", "/usr/local/bin", "/data", "/tmp") if not refuses(path + "/probe")]
status = open("/proc/self/status").read()
fields = dict(line.split(":\\t", 1) for line in status.splitlines())
read_only = bool(os.statvfs("/").f_flag & os.ST_RDONLY)
print(read_only, os.getuid(), os.getgid(), os.getgroups(), writable, fields["CapEff"], fields["NoNewPrivs"])
"""


def test_only_the_volumes_can_be_written(image: Path, tmp_path: Path, no_account: Path) -> None:
    python = (image / "usr/local/bin/sluice").read_text().split()[0].removeprefix("#!")
    code, output = run(image, tmp_path, no_account, python, "-I", "-c", PROBE)

    assert (code, output) == (0, "True 65534 65534 [1337] ['/data', '/tmp'] 0000000000000000 1\n")


def test_memory_is_limited(image: Path, tmp_path: Path, no_account: Path) -> None:
    python = (image / "usr/local/bin/sluice").read_text().split()[0].removeprefix("#!")
    code, output = run(image, tmp_path, no_account, python, "-I", "-c", f"print(len(bytearray(b'x') * {2 * LIMIT}))")

    assert code != 0
    assert output in ("", 'Traceback (most recent call last):\n  File "<string>", line 1, in <module>\nMemoryError\n')


def test_the_image_holds_no_shell_and_nothing_of_a_package_manager(image: Path) -> None:
    names = {path.name for path in image.rglob("*")}

    assert not names & {"sh", "bash", "dash", "busybox", "env", "pip", "apt", "dpkg", "ensurepip", "git"}
    programs = [path for path in image.rglob("*") if path.is_file() and path.parent.name in ("bin", "sbin")]
    assert sorted(re.sub(r"3\.\d+$", "", path.name) for path in programs) == ["python", "sluice"]


def test_nobody_can_change_the_image_nor_gain_by_it(image: Path) -> None:
    modes = {path: path.stat().st_mode for path in image.rglob("*") if not path.is_symlink()}

    assert [path for path, mode in modes.items() if mode & (stat.S_ISUID | stat.S_ISGID)] == []
    assert [path for path, mode in modes.items() if mode & stat.S_IWOTH] == [image / "tmp"]
    assert {path.stat().st_mtime for path in modes} == {0}


def test_every_module_is_compiled(image: Path) -> None:
    compiled = {path.parent.parent / f"{path.name.split('.')[0]}.py" for path in (image / "app").rglob("*.pyc")}

    assert [path for path in (image / "app").rglob("*.py") if path not in compiled] == []


def test_the_image_is_the_same_when_it_is_made_again(image: Path, tmp_path: Path) -> None:
    again = tmp_path / "root"
    (wheel,) = image.parent.glob("*.whl")
    subprocess.run([sys.executable, "deploy/image/assemble.py", again, wheel], cwd=REPOSITORY, check=True)

    def entries(root: Path) -> dict[str, tuple[int, bytes]]:
        found = {}
        for path in root.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(root))] = (path.lstat().st_mode, content)
        return found

    first, second = entries(image), entries(again)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.parametrize("line", ["FROM", "COPY", "RUN"])
def test_the_dockerfile_names_no_registry_and_takes_what_there_is(line: str) -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    arguments = re.findall(rf"^{line} (.*)$", text, re.MULTILINE)
    allowed = {
        "FROM": ["python:${PYTHON}-slim AS build", "scratch"],
        "COPY": [
            "requirements/runtime.txt requirements/",
            "deploy/image/assemble.py deploy/image/",
            "dist/*.whl dist/",
            "--from=build /image /",
        ],
        "RUN": ["python deploy/image/assemble.py /image dist/*.whl"],
    }
    kept = re.findall(r"^!(.*)$", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE)

    assert arguments == allowed[line]
    assert kept == [each.split()[0] for each in allowed["COPY"][:3]]
    assert "\nUSER 65534:65534\n" in text
    assert '\nENTRYPOINT ["sluice"]\n' in text


# From here on: in a cluster, as a pod of the installation.


@pytest.fixture
def installed(cluster: Cluster, kustomize: Path) -> Iterator[list[Object]]:
    """The overlay for a takeover, applied; with its roles and no others."""
    with cluster.holding(build(kustomize, DEPLOY / "overlays" / "drop-in")) as objects:
        yield objects


@pytest.fixture
def account(cluster: Cluster, installed: list[Object], tmp_path: Path) -> Path:
    """What the kubelet puts into a pod: a token of the service account, and whom to trust."""
    directory = tmp_path / "account"
    directory.mkdir()
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/source-watcher/token"
    token = cluster.client.create(path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
    (directory / "token").write_text(token["status"]["token"])
    (directory / "namespace").write_text(NAMESPACE)
    (directory / "ca.crt").write_bytes((cluster.plane.directory / "ca.crt").read_bytes())
    for file in (directory, *directory.iterdir()):
        file.chmod(0o755 if file.is_dir() else 0o644)
    return directory


def shipped(kustomize: Path, directory: Path) -> Object:
    (deployment,) = deployments(build(kustomize, DEPLOY / "overlays" / "drop-in"))
    return deployment


def in_flux_layout(kustomize: Path, directory: Path) -> Object:
    target = {"kind": "Deployment", "name": "source-watcher"}
    patches = [{"target": target, "patch": yaml.safe_dump(patch)} for patch in (flux.BASE_PATCH, flux.INSTALL_PATCH)]
    kustomization = {"namespace": NAMESPACE, "resources": ["../deploy/base"], "patches": patches}
    (deployment,) = deployments(build_around(kustomize, directory, kustomization))
    return deployment


def taken_over(kustomize: Path, directory: Path) -> Object:
    kustomization = {"resources": ["flux.yaml"], "components": ["../deploy/components/takeover"]}
    (deployment,) = build_around(kustomize, directory, kustomization, flux=yaml.safe_dump(flux.DEPLOYMENT))
    return deployment


def ask(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""
    except OSError:
        return 0, ""


LEADS = 'leader_election_master_status{name="source-watcher-leader-election"} 1.0'


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(shipped, id="as shipped"),
        pytest.param(in_flux_layout, id="in the layout of Flux"),
        pytest.param(taken_over, id="in the Deployment that Flux made"),
    ],
)
def test_a_pod_of_an_installation_leads(
    cluster: Cluster, kustomize: Path, image: Path, account: Path, tmp_path: Path, layout: Any
) -> None:
    manager = container(layout(kustomize, tmp_path))
    probes = {port["name"]: free_port() for port in manager["ports"]}
    flags = [
        f"--storage-addr=127.0.0.1:{probes['http']}",
        f"--metrics-addr=127.0.0.1:{probes['http-prom']}",
        f"--health-addr=127.0.0.1:{probes['healthz']}",
    ]
    host, _, port = cluster.plane.url.removeprefix("https://").partition(":")
    environment = {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": port,
        "RUNTIME_NAMESPACE": NAMESPACE,
        "GOMEMLIMIT": str(LIMIT),
        "HOME": "/tmp",
    }
    command = [*manager["command"], *expanded(manager["args"]), *flags]
    with confined(image, tmp_path, command, environment=environment, memory=LIMIT, account=account) as process:
        ready, live = manager["readinessProbe"]["httpGet"], manager["livenessProbe"]["httpGet"]

        def leads() -> bool:
            # A standby without any artifact to miss is ready too.
            return LEADS in ask(probes["http-prom"], "/metrics")[1] and ask(probes["http"], ready["path"])[0] == 200

        eventually("the pod leads", lambda: process.poll() is not None or leads(), PATIENCE)
        answers = [
            ask(probes[probe["port"]], probe["path"])[0] for probe in (ready, live, manager["startupProbe"]["httpGet"])
        ]
        metrics = ask(probes["http-prom"], "/metrics")[1]
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=PATIENCE)[0]

    assert (process.returncode, answers) == (0, [200, 200, 200]), output
    lines = [json.loads(line) for line in output.splitlines()]
    lease = cluster.client.get(
        f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/source-watcher-leader-election"
    )
    assert [line for line in lines if line["level"] == "error"] == []
    assert "leading" in {line["msg"] for line in lines}
    assert lease["spec"].get("holderIdentity", "") == ""
    shown = set(re.findall(r'what=\\"(\w+)\\"', (DEPLOY / "monitoring" / "dashboard.json").read_text()))
    assert shown <= set(re.findall(r'^sluice_state\{what="(\w+)"', metrics, re.MULTILINE))
