"""Workflows call what there is, and the one for users does what it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.envtest.fixtures import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yaml"))


def read(path: Path) -> Any:
    # "on" is a key there, not a truth value.
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)


def steps(workflow: Any) -> list[Any]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in WORKFLOWS])
def test_a_workflow_runs_commands_that_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    workflow = read(path)
    commands = "\n".join(step.get("run", "") for step in steps(workflow))

    assert workflow.keys() == {"name", "on", "permissions", "jobs"} | ({"concurrency"} & workflow.keys())
    assert set(re.findall(r"\bmake ([a-z-]+)", commands)) <= targets
    for script in re.findall(r"(?:\.ci/run|tools/\w+\.py)", commands):
        assert (REPOSITORY / script).is_file()
    # What an outsider writes, such as a title, must reach a shell as data only.
    assert "${{" not in commands


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in WORKFLOWS])
def test_every_foreign_action_has_a_version(path: Path) -> None:
    actions = [step["uses"] for step in steps(read(path)) if "uses" in step]

    assert [action for action in actions if not re.fullmatch(r"[\w.-]+/[\w.-]+@v\d+", action)] == []


GENERATOR = """
apiVersion: source.extensions.fluxcd.io/v1beta1
kind: ArtifactGenerator
metadata: {name: shop, namespace: apps}
spec:
  sources: [{alias: repo, kind: GitRepository, name: shop}]
  artifacts:
"""
ARTIFACT = "    - {{name: {name}, copy: [{{from: '@repo/{folder}/**', to: '@artifact/'}}]}}\n"


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.test"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


def commit(repository: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "a change")
    return git(repository, "rev-parse", "HEAD")


class Preview:
    """The steps of the workflow, run as a runner would."""

    def __init__(self, repository: Path, directory: Path, **inputs: str) -> None:
        self.repository = repository
        self.directory = directory
        self.steps = {
            step["name"]: step for step in steps(read(WORKFLOWS[-1].with_name("preview.yaml"))) if "name" in step
        }
        tools = directory / "bin"
        tools.mkdir()
        (tools / "sluice").write_text(f'#!/bin/sh\nexec {sys.executable} -m sluice "$@"\n')
        (tools / "sluice").chmod(0o755)
        (tools / "python").symlink_to(sys.executable)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        self.environment = {
            **os.environ,
            "PATH": path,
            "SOURCES": "",
            "ARGUMENTS": "",
            "TMPDIR": str(directory),
            **inputs,
        }
        self.summary = directory / "summary"
        self.words = ""

    def run(self, name: str, code: int = 0, **more: str) -> dict[str, str]:
        output = self.directory / f"output-{name}"
        output.touch()
        files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(self.summary)}
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", self.steps[name]["run"]]
        ran = subprocess.run(
            command, cwd=self.repository, env={**self.environment, **files, **more}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert ran.returncode == code, ran.stderr
        self.words = ran.stdout
        return dict(line.split("=", 1) for line in output.read_text().splitlines())


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash, which runners have")
def test_a_preview_tells_what_a_change_moves(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "--quiet")
    kept, gone = ARTIFACT.format(name="kept", folder="a"), ARTIFACT.format(name="gone", folder="a")
    changed, new = ARTIFACT.format(name="changed", folder="b"), ARTIFACT.format(name="new", folder="b")
    broken = ARTIFACT.format(name="broken", folder="nowhere")
    files = {"a/x": "1", "b/x": "1", "generators/shop.yaml": GENERATOR + kept + changed + gone}
    base = commit(repository, files)
    commit(repository, {"b/x": "2", "generators/shop.yaml": GENERATOR + kept + changed + new + broken})
    preview = Preview(repository, tmp_path, MANIFESTS="generators", SOURCES="repo=.\n", BASE=base)

    compared = preview.run("Compare")
    judged = preview.run("Judge", code=1, RESULTS=compared["results"])

    assert json.loads(judged["changed"]) == ["apps/changed", "apps/new"]
    assert preview.words == "::error::does not build: apps/broken (see the summary)\n"
    missing = "copy from '@repo/nowhere/**': no files match pattern 'nowhere/**' in source 'repo'"
    assert preview.summary.read_text().splitlines()[:9] == [
        "**Artifacts: 4 of 5 artifacts differ: 1 changed, 1 new, 1 gone, 1 failing**",
        "",
        "| Artifact | State | Files |",
        "| --- | --- | --- |",
        "| `apps/changed` | changed | 1 modified |",
        "| `apps/new` | new | 1 added |",
        f"| `apps/broken` | failing | `{missing}` |",
        "| `apps/gone` | gone | 1 removed |",
        "",
    ]
