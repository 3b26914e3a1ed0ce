"""`sluice pull`, `ls`, `cat` and `verify`: artifacts from a real HTTP server, objects from a real API server."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import yaml
from tests.cli.clusters import Front
from tests.cli.running import read
from tests.cli.test_terminal import on_terminal
from tests.e2e import sources
from tests.e2e.trees import contents_digest, files_of, sha256, tarball
from tests.envtest.client import Object

from sluice.cli.verify import judge

TREE = {"deploy/a.yaml": b"a: 1\n", "deploy/sub/b.yaml": b"b\n", "run.sh": b"#!/bin/sh\n"}


def archive(*members: tuple[str, bytes, int]) -> bytes:
    """An archive as anybody may make it: names, contents and modes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as opened:
        for name, content, mode in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            opened.addfile(member, io.BytesIO(content))
    return gzip.compress(out.getvalue())


@pytest.fixture
def web(front: Front) -> Object:
    """The artifact `web`, as its status has it."""
    return front.add_artifact("web", TREE)


def title(front: Front, name: str = "web") -> str:
    return f"ExternalArtifact {front.namespace}/{name}"


@pytest.mark.cluster
class TestPull:
    def test_an_archive(self, front: Front, web: Object, tmp_path: Path) -> None:
        file = tmp_path / "web.tar.gz"
        file.write_text("something older")

        ran = front.run("pull", "artifact", "web", "-o", str(file))

        revision = f"latest@sha256:{contents_digest(TREE)[:8]}"
        assert ran == (0, "", f"✔ {title(front)} at {revision} in {file}\n")
        assert sha256(file.read_bytes()) == web["digest"]
        assert os.listdir(tmp_path) == ["web.tar.gz"]

    def test_an_archive_for_a_pipe(self, front: Front, web: Object, tmp_path: Path) -> None:
        with (tmp_path / "out").open("wb") as out, front.start("pull", "web", "-o", "-", stdout=out) as running:
            running.communicate()

        assert running.returncode == 0
        assert files_of((tmp_path / "out").read_bytes()) == TREE

    def test_a_directory_with_the_modes_of_its_files(self, front: Front, tmp_path: Path) -> None:
        front.add_artifact("web", archive(("bin/run", b"x", 0o4777), ("a", b"y", 0o644)))
        directory = tmp_path / "new" / "web"

        assert front.run("pull", "artifact", "web", "-d", str(directory)).code == 0

        assert read(directory) == {"a": "y", "bin/run": "x"}
        modes = {name: (directory / name).stat().st_mode & 0o7777 for name in ("a", "bin/run")}
        assert modes["bin/run"] & 0o7100 == 0o100
        assert not modes["a"] & 0o111
        assert os.listdir(directory.parent) == ["web"]

    @pytest.mark.parametrize("there", [{"a": "mine"}, None])
    def test_what_is_in_the_way_stays(self, front: Front, web: Object, tmp_path: Path, there: object) -> None:
        directory = tmp_path / "web"
        if there is None:
            directory.write_text("mine")
        else:
            directory.mkdir()
            (directory / "a").write_text("mine")

        ran = front.run("pull", "web", "-d", str(directory))

        assert ran == (1, "", f"✗ '{directory}' is not an empty directory (choose another place)\n")
        assert set(read(tmp_path).values()) == {"mine"}

    @pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a/b/../../../evil", "..\\evil"])
    def test_nothing_leaves_the_directory(self, front: Front, tmp_path: Path, name: str) -> None:
        front.add_artifact("web", archive((name, b"x", 0o644)))

        ran = front.run("pull", "web", "-d", str(tmp_path / "in" / "web"))

        assert ran.code == 1
        assert ran.words.startswith(f"✗ {title(front)}: archive holds '")
        assert read(tmp_path) == {}

    def test_a_link_is_not_followed(self, front: Front, tmp_path: Path) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as opened:
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
            opened.addfile(link)
            member = tarfile.TarInfo("link/evil")
            member.size = 1
            opened.addfile(member, io.BytesIO(b"x"))
        front.add_artifact("web", out.getvalue())

        assert front.run("pull", "web", "-d", str(tmp_path / "web")).code == 0

        assert read(tmp_path) == {"web/link/evil": "x"}
        assert not (tmp_path / "web/link").is_symlink()

    def test_other_bytes_than_announced(self, front: Front, web: Object, tmp_path: Path) -> None:
        other = tarball({"a": b"other"})
        front.sources.archives[f"/{web['path']}"] = other

        ran = front.run("pull", "web", "-o", str(tmp_path / "x"))

        assert (ran.code, ran.out) == (1, "")
        assert ran.words == f"✗ {title(front)}: digest mismatch: expected {web['digest']}, got {sha256(other)}\n"
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            pytest.param(sources.status(404), "the server answered 404 Not Found", id="not there"),
            pytest.param(sources.cut, "the answer ended early", id="cut off"),
        ],
    )
    def test_a_server_that_fails(self, front: Front, web: Object, fault: sources.Fault, message: str) -> None:
        front.sources.faults[f"/{web['path']}"] = fault

        assert front.run("pull", "web", "-o", "x") == (1, "", f"✗ {title(front)}: GET {web['url']}: {message}\n")

    def test_a_server_that_hangs_up(self, front: Front, web: Object) -> None:
        front.sources.faults[f"/{web['path']}"] = sources.refuse

        message = "the connection to '127.0.0.1' was closed"
        assert front.run("pull", "web", "-o", "x") == (1, "", f"✗ {title(front)}: {message}\n")

    def test_outside_of_the_cluster(self, front: Front) -> None:
        host = "source-watcher.flux-system.svc.cluster.invalid"
        made = front.add_artifact("web", TREE, url="")
        front.set_status("ExternalArtifact", "web", artifact={**made, "url": f"http://{host}/{made['path']}"})

        ran = front.run("ls", "web")
        assert (ran.code, ran.out) == (1, "")
        assert ran.words == (
            f"✗ {title(front)}: cannot look up '{host}' (outside of the cluster: kubectl -n flux-system port-forward"
            " svc/source-watcher 8080:80, and --storage-url http://localhost:8080)\n"
        )
        assert front.run("ls", "web", "-o", "name", "--storage-url", front.sources.url).out.split() == sorted(TREE)

    def test_an_artifact_that_is_not_ready(self, front: Front) -> None:
        front.create("ExternalArtifact", "web", {"sourceRef": {"kind": "ArtifactGenerator", "name": "shop"}})

        assert front.run("pull", "web", "-o", "x") == (
            1,
            "",
            f"✗ {title(front)} has no artifact yet: waiting to be reconciled\n",
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param(["pull", "artifact"], "say which artifact: artifact NAME", id="no name"),
            pytest.param(["pull", "web"], "say where to: one artifact, and -o FILE or -d DIR", id="nowhere"),
            pytest.param(
                ["pull", "web", "-o", "x", "-d", "y"], "say where to: one artifact, and -o FILE or -d DIR", id="twice"
            ),
            pytest.param(["cat", "artifact", "web"], "say which files: artifact NAME PATH", id="no file"),
            pytest.param(["verify"], "say which: by name, or all of them with --all or -A", id="none"),
            pytest.param(
                ["verify", "x", "-A"], "say which: by name, or all of them with --all or -A", id="one and all"
            ),
            pytest.param(
                ["ls", "web", "--storage-url", "localhost:1"],
                "Invalid value for '--storage-url': 'localhost:1' is not an http or https URL",
                id="no URL",
            ),
        ],
    )
    def test_what_makes_no_sense(self, front: Front, arguments: list[str], message: str) -> None:
        assert front.run(*arguments) == (2, "", f"✗ {message} (see 'sluice {arguments[0]} --help')\n")


@pytest.mark.cluster
@pytest.mark.usefixtures("web")
class TestLook:
    def test_a_list(self, front: Front) -> None:
        assert front.run("ls", "artifact", "web").out == (
            "MODE         SIZE   PATH\n"
            "-rw-------   5 B    deploy/a.yaml\n"
            "-rw-------   2 B    deploy/sub/b.yaml\n"
            "-rw-------   10 B   run.sh\n"
        )

    def test_a_directory_of_it(self, front: Front) -> None:
        assert front.run("ls", "artifact", "web", "deploy/sub/", "-o", "name").out == "deploy/sub/b.yaml\n"

    def test_a_list_for_programs(self, front: Front, web: Object) -> None:
        found = json.loads(front.run("ls", "web", "run.sh", "-o", "json").out)

        assert found == {
            "revision": web["revision"],
            "digest": web["digest"],
            "files": [
                {
                    "path": "run.sh",
                    "type": "file",
                    "mode": "0600",
                    "size": 10,
                    "sha256": sha256(TREE["run.sh"]).removeprefix("sha256:"),
                }
            ],
        }
        assert yaml.safe_load(front.run("ls", "web", "run.sh", "-o", "yaml").out) == found

    def test_files(self, front: Front) -> None:
        assert front.run("cat", "artifact", "web", "run.sh", "./deploy//a.yaml") == (0, "#!/bin/sh\na: 1\n", "")

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            pytest.param("deploy/a.yml", " holds no 'deploy/a.yml' (but deploy/a.yaml)", id="a slip"),
            pytest.param("x", " holds no 'x'", id="nothing like it"),
            pytest.param("../run.sh", " holds no '../run.sh' (but run.sh)", id="outside"),
            pytest.param("deploy", ": 'deploy' is a directory", id="a directory"),
        ],
    )
    def test_what_is_not_there(self, front: Front, path: str, message: str) -> None:
        assert front.run("cat", "web", "run.sh", path) == (1, "", f"✗ {title(front)}{message}\n")

    def test_no_file_steers_a_terminal(self, front: Front) -> None:
        front.add_artifact("hostile", {"a": b"\x1b[2Jx\ty\n\xff\n", "b\x1b[2J": b""})
        config = {"KUBECONFIG": str(front.plane.kubeconfig)}

        seen = on_terminal(Path(), "cat", "hostile", "a", "-n", front.namespace, **config)
        assert "\\x1b[2Jx" in seen
        assert "\x1b[2J" not in seen
        assert "\x1b" not in front.run("ls", "hostile").out
        assert front.run("ls", "hostile", "-o", "name").out == "a\nb\\x1b[2J\n"


@pytest.mark.cluster
class TestVerify:
    def test_all_that_are_right(self, front: Front, web: Object) -> None:
        front.add_artifact("api", {"b": b"2"}, revision="main@sha1:" + "1" * 40)

        ran = front.run("verify", "--all")

        home = front.namespace
        rows = [line.split(maxsplit=3) for line in ran.out.splitlines()]
        assert (ran.code, ran.words) == (0, "")
        assert rows == [
            ["NAMESPACE", "NAME", "VERIFIED", "MESSAGE"],
            [home, "api", "True", "digest matches; the revision is a source's"],
            [home, "web", "True", "digest and contents match"],
        ]

    def test_what_is_not_as_announced(self, front: Front, web: Object) -> None:
        front.sources.archives[f"/{web['path']}"] += b"\0"
        front.add_artifact("size", TREE, size=1)
        front.add_artifact("late", TREE, revision="latest@sha256:" + "1" * 64)

        ran = front.run("verify", "artifacts", "web", "size", "late", "-o", "json")

        found = {each["name"]: each for each in json.loads(ran.out)["artifacts"]}
        assert (ran.code, ran.words) == (1, "✗ 3 of 3 artifacts are not as they should be\n")
        assert found["web"]["message"].startswith(f"digest mismatch: expected {web['digest']}, got sha256:")
        assert found["size"]["message"] == f"{web['size']} bytes are served, the status says 1"
        assert found["late"] == {
            "namespace": front.namespace,
            "name": "late",
            "ok": False,
            "message": f"contents are sha256:{contents_digest(TREE)}, the revision says sha256:{'1' * 64}",
            "digest": web["digest"],
            "contents": f"sha256:{contents_digest(TREE)}",
        }

    def test_names_of_what_is_right(self, front: Front, web: Object) -> None:
        front.add_artifact("size", TREE, size=1)

        assert front.run("verify", "--all", "-o", "name").out == f"{front.namespace}/web\n"


DIGEST, CONTENTS = "sha256:" + "d" * 64, "sha256:" + "c" * 64
OURS = f"externalartifact/a/b/{'c' * 32}-{'0' * 16}.tar.gz"


@pytest.mark.parametrize(
    ("revision", "path", "fits", "message"),
    [
        pytest.param(f"latest@{CONTENTS}", OURS, True, "digest and contents match", id="ours"),
        pytest.param(
            f"latest@{DIGEST}",
            "x/242366145.tar.gz",
            True,
            "digest matches; the revision is the archive's",
            id="the peer's",
        ),
        pytest.param("main@sha1:1", OURS, True, "digest matches; the revision is a source's", id="a source's"),
        pytest.param(
            "main@sha1:1",
            OURS.replace("c" * 32, "e" * 32),
            False,
            f"contents are {CONTENTS}, the file is named for {'e' * 32}",
            id="a source's, in a file of something else",
        ),
        pytest.param(
            "latest@sha256:0", OURS, False, f"contents are {CONTENTS}, the revision says sha256:0", id="something else"
        ),
    ],
)
def test_whether_contents_fit(revision: str, path: str, fits: bool, message: str) -> None:
    assert judge(revision, DIGEST, path, CONTENTS) == (fits, message)
