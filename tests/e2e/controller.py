"""The process under test: a controller with a store and ports of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.e2e.world import download, eventually
from tests.envtest.server import free_port

HIDDEN = ("STORAGE_PATH", "STORAGE_ADDRESS", "STORAGE_ADV_ADDR", "SOURCE_CONTROLLER_LOCALHOST", "HOSTNAME")
PATIENCE = 120.0


class Controller:
    """One replica. Started again it has the same store, unless that was removed, and the same address."""

    def __init__(
        self,
        directory: Path,
        kubeconfig: Path,
        *flags: str,
        wrap: Sequence[str] = (),
        program: Sequence[str] = ("-m", "sluice"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.temporary = directory / "tmp"
        for path in (self.store, self.temporary):
            path.mkdir(parents=True)
        self.kubeconfig = kubeconfig
        self.flags = list(flags)
        self.wrap = list(wrap)
        self.program = list(program)
        self.environment = dict(environment or {})
        self.port, self.health, self.metrics = free_port(), free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._output = directory / "output"

    def start(self, *, leads: bool = True) -> Self:
        """Start, and wait until it works; with `leads=False` until it is alive, as a standby is."""
        self.launch()
        url = f"http://127.0.0.1:{self.port}/" if leads else f"http://127.0.0.1:{self.health}/readyz"
        eventually(f"{url} answers", lambda: self._still_runs() and download(url)[0] == 200, PATIENCE)
        return self

    def launch(self) -> None:
        """Start, and wait for nothing."""
        assert self.process is None
        arguments = [
            *self.wrap, sys.executable, *self.program, "controller", f"--storage-path={self.store}",
            f"--storage-addr=127.0.0.1:{self.port}", f"--health-addr=127.0.0.1:{self.health}",
            f"--metrics-addr=127.0.0.1:{self.metrics}", *self.flags,
        ]  # fmt: skip
        kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
        environment = {**kept, "KUBECONFIG": str(self.kubeconfig), "TMPDIR": str(self.temporary), **self.environment}
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                arguments, cwd=self.directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def stop(self, within: float = PATIENCE) -> int:
        """End it as Kubernetes does; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.wait(within)

    def kill(self) -> None:
        """End it as the kernel does when memory runs out."""
        assert self.process is not None
        self.process.kill()
        assert self.wait() == -signal.SIGKILL

    def wait(self, within: float = PATIENCE) -> int:
        """Wait until it ends by itself; returns the exit code."""
        assert self.process is not None
        code = self.process.wait(within)
        self.process = None
        return code

    def end(self) -> None:
        """End it somehow."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def output(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def log(self) -> list[dict[str, Any]]:
        """What it logged; raises where something is no JSON, such as the traceback of a crash."""
        return [json.loads(line) for line in self.output().splitlines()]

    def has_logged(self, text: str) -> bool:
        return any(text in line["msg"] for line in self.log())

    def metric(self, sample: str) -> float:
        """The value of one sample, such as `name{label="value"}`."""
        _, body = download(f"http://127.0.0.1:{self.metrics}/metrics")
        for line in body.decode().splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        raise AssertionError(f"there is no metric {sample}")

    def _still_runs(self) -> bool:
        assert self.process is not None
        if self.process.poll() is None:
            return True
        raise AssertionError(f"the controller ended with {self.process.returncode}: {self.output()[-2000:]}")
