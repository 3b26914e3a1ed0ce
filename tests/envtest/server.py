"""Start and stop a Kubernetes control plane for tests: etcd and an API server on loopback, nothing else.

There is no garbage collector, no namespace controller and no kubelet: tests play those parts where they need them.
RBAC decides what a user may do; the administrator of the kubeconfig may do everything.
"""

import contextlib
import random
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import yaml
from tests.envtest import pki
from tests.envtest.client import Client, Object, Refused

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

PATIENCE = 120.0
"""Seconds until something that should come up counts as broken."""

# Below the range that the kernel takes for outgoing connections, so that a stopped server gets its port back.
PORTS = range(20000, 32000)

# A socket in the directory both run in: no port to find, no path too long for a socket.
ETCD = "unix://etcd:0"

# Everything in the watchdog's process group dies when its standard input ends: with us, however we end.
WATCHDOG = ["sh", "-c", "read _; kill -9 0"]


class ControlPlane:
    """A control plane that lives as long as its `with` block, with the given resource definitions installed.

    `kubeconfig` is the administrator's, `client` speaks as the administrator. The API server may be stopped, killed
    and started again at any time: address, credentials and data stay.
    """

    def __init__(self, programs: Path, directory: Path, definitions: Iterable[Object] = ()) -> None:
        self.directory = directory
        self._programs = programs
        self._definitions = definitions
        self._installed: list[str] = []
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._token = secrets.token_hex(16)
        self._port = 0

    def __enter__(self) -> Self:
        self._watchdog = subprocess.Popen(WATCHDOG, cwd=self.directory, stdin=subprocess.PIPE, process_group=0)
        try:
            self._prepare()
            self._launch(
                "etcd", "--data-dir=etcd", f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}",
                "--listen-peer-urls=unix://peer:0", "--unsafe-no-fsync", "--log-level=error",
            )  # fmt: skip
            self.start()
            self.install(self._definitions)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    def user(self, name: str, *groups: str) -> Path:
        """Write the kubeconfig of a user with a client certificate, who may do what RBAC rules of yours allow."""
        pair = self._authority.issue(name, groups=groups)
        path = pair.certificate.with_suffix(".kubeconfig")
        self._write_kubeconfig(path, {"client-certificate": str(pair.certificate), "client-key": str(pair.key)})
        return path

    def start(self) -> None:
        """Start the API server and wait until it is ready and serves what is installed."""
        self._launch("kube-apiserver", *self._api_server_flags())
        self._wait_until_served("/readyz", *self._installed)

    def stop(self) -> None:
        """Stop the API server as an upgrade would: requests in flight are answered, watches end."""
        self._signal("kube-apiserver", signal.SIGTERM)

    def kill(self) -> None:
        """End the API server as a crash would."""
        self._signal("kube-apiserver", signal.SIGKILL)

    def restart(self) -> None:
        """Crash the API server and start it again."""
        self.kill()
        self.start()

    def install(self, definitions: Iterable[Object]) -> None:
        """Create resource definitions and wait until their resources are served."""
        created = list(definitions)
        for crd in created:
            self.client.create(DEFINITIONS, crd)
        paths = [path for crd in created for path in _served_paths(crd)]
        self._installed += paths
        self._wait_until_served(*paths)

    def namespace(self) -> str:
        """Create a namespace that nobody else uses."""
        name = f"test-{secrets.token_hex(4)}"
        self.client.create("/api/v1/namespaces", {"metadata": {"name": name}})
        return name

    def clear(self, namespace: str) -> None:
        """Delete a namespace's custom objects, finalizers or not, so that a controller of later tests finds none."""
        client = self.client
        for crd in client.get(DEFINITIONS)["items"]:
            for path in _served_paths(crd, namespace):
                for item in client.get(path)["items"]:
                    _remove(client, f"{path}/{item['metadata']['name']}")

    def log(self, name: str = "kube-apiserver") -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def _prepare(self) -> None:
        self._port = free_port()
        self._authority = pki.Authority(self.directory)
        self._authority.issue("server", hosts="IP:127.0.0.1,DNS:localhost,DNS:api.test")
        pki.new_key(self.directory / "accounts.key")
        (self.directory / "tokens.csv").write_text(f'{self._token},admin,admin,"system:masters"\n')
        self._write_kubeconfig(self.kubeconfig, {"token": self._token})
        self.client = Client(self.url, self._authority.certificate, self._token)

    def _api_server_flags(self) -> list[str]:
        flags = {
            "etcd-servers": ETCD,
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "endpoint-reconciler-type": "none",
            "secure-port": str(self._port),
            "tls-cert-file": "server.crt",
            "tls-private-key-file": "server.key",
            "client-ca-file": "ca.crt",
            "token-auth-file": "tokens.csv",
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": "accounts.key",
            "service-account-signing-key-file": "accounts.key",
            # Otherwise a stop waits a minute for watches to end by themselves.
            "shutdown-watch-termination-grace-period": "1s",
            "service-cluster-ip-range": "10.0.0.0/24",
            # Without it a pod needs an account with a token; here nobody makes one.
            "disable-admission-plugins": "ServiceAccount",
        }
        return [f"--{name}={value}" for name, value in flags.items()]

    def _launch(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("ab") as log:
            server = subprocess.Popen(
                [str(self._programs / name), *arguments],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=self._watchdog.pid,
            )
        self._servers[name] = server
        return server

    def _signal(self, name: str, number: signal.Signals) -> None:
        server = self._servers[name]
        server.send_signal(number)
        server.wait(PATIENCE)

    def _end(self) -> None:
        assert self._watchdog.stdin
        self._watchdog.stdin.close()
        for process in (self._watchdog, *self._servers.values()):
            process.wait(PATIENCE)

    def _wait_until_served(self, *paths: str) -> None:
        server, deadline = self._servers["kube-apiserver"], time.monotonic() + PATIENCE
        for path in paths:
            while not self._answers(path):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the API server does not serve {path}, its log ends with: {self.log()[-2000:]}")
                time.sleep(0.02)

    def _answers(self, path: str) -> bool:
        try:
            self.client.call("GET", path)
        except (OSError, Refused):
            return False
        return True

    def _write_kubeconfig(self, path: Path, user: dict[str, str]) -> None:
        cluster = {"server": self.url, "certificate-authority": str(self._authority.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config))


def read_definitions(paths: Iterable[Path]) -> list[Object]:
    """The objects of YAML files."""
    return [crd for path in paths for crd in yaml.safe_load_all(path.read_text()) if crd]


def _served_paths(crd: Object, namespace: str = "") -> Iterator[str]:
    spec = crd["spec"]
    scope = f"namespaces/{namespace}/" if namespace else ""
    for version in spec["versions"]:
        if version["served"]:
            yield f"/apis/{spec['group']}/{version['name']}/{scope}{spec['names']['plural']}"


def _remove(client: Client, path: str) -> None:
    with contextlib.suppress(Refused):  # somebody else's delete was first
        client.merge(path, {"metadata": {"finalizers": None}})
        client.delete(path)


def free_port() -> int:
    # Not the generator that tests seed: two runs at once must not look at the same ports.
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port in {PORTS}")
