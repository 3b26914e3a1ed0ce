"""The verbs on the directory of `sluice serve`, as it keeps its objects and archives."""

import asyncio
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from tests.cli.running import GENERATOR, environment, invoke, read, write

from sluice.control.conditions import Reason, failed, stopped, succeeded
from sluice.control.objects import ArtifactStatus, ExternalArtifact, InventoryItem, Owner
from sluice.core.tree import Directory
from sluice.local import LocalObjects
from sluice.storage import DiskStorage

TREE = Directory.of({"a.yaml": b"a: 1\n", "run.sh": b"#!/bin/sh\n"}, executable=["run.sh"])
KEY = ("apps", "shop")
SUCCESS = "reconciliation succeeded, generated 1 artifact(s)"


class Served:
    """A directory with one generator and its artifact, as a server would keep them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        write(directory, {"manifests/shop.yaml": GENERATOR})
        self.objects = LocalObjects(directory, lambda: datetime.now(UTC))
        assert self.objects.refresh() == []
        asyncio.run(self._publish())

    async def _publish(self) -> None:
        store = self.directory / ".sluice" / "storage"
        store.mkdir()
        archive = DiskStorage(store).put("apps", "web", TREE)
        owner = Owner("source.extensions.fluxcd.io/v1beta1", "ArtifactGenerator", "shop", "apps")
        made = await self.objects.apply_artifact(ExternalArtifact(namespace="apps", name="web", owner=owner))
        revision = f"latest@sha256:{TREE.digest.hex()}"
        # Nobody listens there.
        url = f"http://127.0.0.1:1/{archive.path}"
        artifact = ArtifactStatus(archive.digest, archive.path, url, revision, size=archive.size)
        await self.objects.write_artifact_status(("apps", "web"), made.generation, artifact)
        generator = self.objects.generator(KEY)
        assert generator is not None
        item = InventoryItem("web", "apps", archive.digest, archive.filename)
        await self.objects.write_status(generator, succeeded(generator, [item], "", datetime.now(UTC)))

    def fail(self, message: str) -> None:
        generator = self.objects.generator(KEY)
        assert generator is not None
        trouble = stopped(Reason.VALIDATION_FAILED, message)
        asyncio.run(self.objects.write_status(generator, failed(generator, trouble, datetime.now(UTC))))

    def run(self, *arguments: str) -> Result:
        return invoke(*arguments, "-n", "apps", "--local", str(self.directory))


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def test_generators_and_artifacts(served: Served) -> None:
    assert served.run("get", "generators").stdout == (
        f"NAME   SUSPENDED   READY   MESSAGE\nshop   False       True    {SUCCESS}\n"
    )
    assert served.run("get", "artifacts", "-o", "name").stdout == "apps/web\n"
    assert served.run("get", "generators", "-A", "--no-header").stdout.split()[:2] == ["apps", "shop"]
    assert "no sources in namespace 'apps'" in served.run("get", "sources").stderr


def test_whole_objects(served: Served) -> None:
    found = json.loads(served.run("get", "generator", "shop", "-o", "json").stdout)

    assert (found["kind"], found["metadata"]["name"]) == ("ArtifactGenerator", "shop")
    assert found["spec"]["artifacts"][0]["name"] == "web"


def test_the_lineage(served: Served) -> None:
    assert served.run("tree", "shop", "-o", "name").stdout == "ArtifactGenerator/apps/shop\nExternalArtifact/apps/web\n"
    result = served.run("trace", "artifact/web")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[:3] for line in result.stdout.splitlines()[1:]] == [
        ["ExternalArtifact", "apps", "web"],
        ["ArtifactGenerator", "apps", "shop"],
        ["Bucket", "apps", "monorepo"],
    ]


def test_contents_need_no_server(served: Served, tmp_path_factory: pytest.TempPathFactory) -> None:
    there = tmp_path_factory.mktemp("there") / "web"

    assert served.run("ls", "web", "-o", "name").stdout == "a.yaml\nrun.sh\n"
    assert served.run("cat", "web", "a.yaml").stdout == "a: 1\n"
    assert served.run("pull", "web", "-d", str(there)).exit_code == 0
    assert served.run("verify", "--all", "-o", "name").stdout == "apps/web\n"
    assert read(there) == {"a.yaml": "a: 1\n", "run.sh": "#!/bin/sh\n"}
    assert (there / "run.sh").stat().st_mode & 0o100


def test_a_damaged_archive(served: Served) -> None:
    [archive] = (served.directory / ".sluice" / "storage").rglob("*.tar.gz")
    archive.write_bytes(b"x")

    result = served.run("verify", "web")

    assert result.exit_code == 1
    assert "digest mismatch: expected sha256:" in result.stdout


def test_waiting(served: Served) -> None:
    assert served.run("wait", "generator", "shop").stderr.splitlines()[-1] == (
        f"✔ ArtifactGenerator apps/shop: {SUCCESS}"
    )
    served.fail("unknown alias")
    result = served.run("wait", "generator", "shop")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, "✗ ArtifactGenerator apps/shop: unknown alias")
    assert served.run("wait", "ship").stderr.splitlines()[-1] == "✗ ArtifactGenerator apps/ship: not found"


def test_watching(served: Served) -> None:
    command = [sys.executable, "-m", "sluice", "get", "generators", "-w", "-A", "--local", str(served.directory)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        first = [running.stdout.readline() for _ in range(2)]
        served.fail("unknown alias")
        changed = running.stdout.readline()
        (served.directory / "manifests/shop.yaml").unlink()
        served.objects.refresh()
        gone = running.stdout.readline()
        running.send_signal(signal.SIGINT)
        running.communicate()

    assert [line.split()[-1] for line in (*first, changed, gone)] == ["MESSAGE", "artifact(s)", "alias", "deleted"]
    assert running.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["suspend", "shop"],
            "ArtifactGenerator apps/shop: change it in its manifest, 'manifests/shop.yaml'"
            " (metadata.annotations: source.extensions.fluxcd.io/reconcile: disabled)",
            id="suspend",
        ),
        pytest.param(
            ["reconcile", "ship"], "ArtifactGenerator apps/ship not found in '{directory}'", id="what is not there"
        ),
        pytest.param(["events"], "a directory keeps no events (the log of `sluice serve` tells them)", id="events"),
        pytest.param(["check"], "a directory needs nothing that could be checked", id="check"),
        pytest.param(
            ["trace", "deployment/web"],
            "a directory holds no kind 'deployment' (it holds: generator, artifact)",
            id="another kind",
        ),
        pytest.param(
            ["get", "generators", "-l", "a=b"],
            "--local: objects of a directory have no labels to select by",
            id="labels",
        ),
    ],
)
def test_what_a_directory_does_not_do(served: Served, arguments: list[str], message: str) -> None:
    result = served.run(*arguments)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == f"✗ {message.format(directory=served.directory)}"


def test_a_file_that_is_no_object(served: Served) -> None:
    path = served.directory / ".sluice/artifactgenerators/apps/shop.json"
    path.write_text("{")

    assert served.run("get", "generators").stderr == f"✗ '{path}': cannot be read: Input data was truncated\n"


def test_no_directory(tmp_path: Path) -> None:
    result = invoke("get", "all", "--local", str(tmp_path / "none"))

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"✗ Invalid value for '--local': Directory '{tmp_path / 'none'}' does not exist (see 'sluice get --help')\n"
    )
