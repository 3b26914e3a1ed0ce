"""`sluice serve` as a process, and what those see who use it."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any, Self

from tests.cli.running import environment
from tests.e2e.trees import contents_digest, files_of, sha256
from tests.e2e.world import eventually

PATIENCE = 120.0
Object = dict[str, Any]

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def manifest(name: str = "shop", artifacts: Mapping[str, str] = {"web": "@repo/web/**"}, **more: Any) -> str:
    """A generator of artifacts with one copy each; its source is Bucket `repo` unless `sources` are given."""
    sources = more.pop("sources", [{"alias": "repo", "kind": "Bucket", "name": "repo"}])
    outputs = [{"name": key, "copy": [{"from": value, "to": "@artifact/"}]} for key, value in artifacts.items()]
    return json.dumps(
        {
            "apiVersion": "source.extensions.fluxcd.io/v1beta1",
            "kind": "ArtifactGenerator",
            "metadata": {"name": name, "namespace": "apps"},
            "spec": {"sources": sources, "artifacts": outputs, **more},
        }
    )


class Served:
    """A process that serves a directory; started again it has the same state."""

    def __init__(self, directory: Path, *flags: str, cwd: Path | None = None, address: str = "") -> None:
        self.directory = directory
        self.flags = flags
        self.cwd = cwd or directory
        self.address = address or f"127.0.0.1:{free_port()}"  # the same after a restart
        self.process: subprocess.Popen[bytes] | None = None
        self._output = self.cwd.parent / f"{self.cwd.name}.log"

    def start(self) -> Self:
        """Start, and wait until everything was looked at once."""
        self.launch()
        eventually("it is ready", self._is_ready, PATIENCE)
        return self

    def launch(self) -> None:
        """Start, and wait for nothing."""
        assert self.process is None
        self._output.write_bytes(b"")
        options = ["--log-encoding=json", f"--storage-addr={self.address}", *self.flags]
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sluice", "serve", str(self.directory), *options],
                cwd=self.cwd,
                env=environment(GIT_CEILING_DIRECTORIES=str(self.cwd.parent)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        assert self.stop(signal.SIGKILL) == -signal.SIGKILL

    def wait(self) -> int:
        assert self.process is not None
        code = self.process.wait(PATIENCE)
        self.process = None
        return code

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # What it says

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def log(self) -> list[Object]:
        """What it logged so far; raises for what is no JSON, such as the traceback of a crash."""
        return [json.loads(line) for line in self.output().splitlines(keepends=True) if line.endswith("\n")]

    def messages(self, level: str = "error") -> list[str]:
        return [line["msg"] for line in self.log() if line["level"] == level]

    def until_said(self, message: str, level: str = "error") -> None:
        eventually(f"it says {message!r}", lambda: message in self.messages(level) or [self.messages(level)], PATIENCE)

    @property
    def url(self) -> str:
        """Where it listens, once it does."""
        return next((f"http://127.0.0.1:{line['port']}" for line in self.log() if line["msg"] == "serving"), "")

    def _is_ready(self) -> bool:
        assert self.runs, self.output()
        return bool(self.url) and get(self.url + "/")[0] == 200

    # What it serves

    def artifact(self, name: str) -> Object:
        """What is published of an artifact; nothing where there is none."""
        path = self.directory / ".sluice/externalartifacts/apps" / f"{name}.json"
        try:
            found: Object = json.loads(path.read_bytes())["status"].get("artifact", {})
        except (FileNotFoundError, json.JSONDecodeError):  # the latter where a test broke it
            return {}
        return found

    def generator(self, name: str = "shop") -> Object:
        path = self.directory / ".sluice/artifactgenerators/apps" / f"{name}.json"
        found: Object = json.loads(path.read_bytes())
        return found

    def files(self, name: str) -> dict[str, str]:
        """The files of an artifact as they are fetched; raises unless what is served is what is published."""
        there = self.artifact(name)
        status, headers, body = get(there["url"])
        assert status == 200, (there["url"], status)
        assert (sha256(body), len(body)) == (there["digest"], there["size"])
        assert headers["ETag"] == f'"{there["digest"]}"'
        files = files_of(body)
        assert there["revision"] == f"latest@sha256:{contents_digest(files)}"
        return {path: content.decode() for path, content in files.items()}

    def until_served(self, name: str, files: Mapping[str, str]) -> None:
        """Wait until an artifact holds exactly these files."""

        def holds() -> object:
            assert self.runs, self.output()
            there = self.artifact(name)
            if not there:
                return [f"{name} is not there"]
            found = self.files(name)
            return found == files or [found]

        eventually(f"{name} holds {sorted(files)}", holds, PATIENCE)

    def until_gone(self, name: str) -> None:
        eventually(f"{name} is gone", lambda: self.artifact(name) == {}, PATIENCE)

    def until_condition(self, message: str, name: str = "shop", kind: str = "Ready") -> None:
        def holds() -> object:
            found = [one["message"] for one in self.generator(name)["status"]["conditions"] if one["type"] == kind]
            return found == [message] or [found]

        eventually(f"{name} says {message!r}", holds, PATIENCE)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def get(url: str, **headers: str) -> tuple[int, Message, bytes]:
    """Status, headers and body; the status is 0 where nobody answers."""
    try:
        with _DIRECT.open(urllib.request.Request(url, headers=headers), timeout=60) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, b""
    except OSError:
        return 0, Message(), b""


@contextmanager
def ended(made: Sequence[Served]) -> Iterator[None]:
    """At the end no process is left; what they logged must be JSON, and no bug."""
    try:
        yield
    finally:
        for served in made:
            if served.process is not None:
                served.stop(signal.SIGKILL)
    for served in made:
        assert [line for line in served.log() if "exception" in line] == []


Serve = Callable[..., Served]


def cpu_seconds(served: Served) -> float:
    """The processor time that a process and its children have used."""
    assert served.process is not None
    stat = Path(f"/proc/{served.process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")
