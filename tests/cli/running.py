"""Runs the command line: in this process, or as one of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from sluice.cli import cli

REPOSITORY_URL = "https://git.example.com/acme/shop"

GENERATOR = """\
apiVersion: source.extensions.fluxcd.io/v1beta1
kind: ArtifactGenerator
metadata: {name: shop, namespace: apps}
spec:
  sources:
    - {alias: repo, kind: Bucket, name: monorepo}
  artifacts:
    - name: web
      copy:
        - {from: "@repo/web/**", to: "@artifact/"}
"""

FILES = {"shop.yaml": GENERATOR, "src/web/a.yaml": "a\n", "src/web/sub/run.sh": "b\n"}


def write(root: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def read(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def invoke(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, [*arguments], input=stdin)


def build(*arguments: str, stdin: str = "") -> Result:
    return invoke("build", *arguments, stdin=stdin)


def build_json(*arguments: str) -> list[dict[str, Any]]:
    """The artifacts that a build tells of; it may fail in part."""
    result = build(*arguments, "-o", "json")
    assert result.exit_code in (0, 1), result.stderr
    artifacts: list[dict[str, Any]] = json.loads(result.stdout)["artifacts"]
    return artifacts


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", **more}


def process(*arguments: str, directory: Path, **more: Any) -> "subprocess.Popen[str]":
    """`sluice` as a process of its own, its streams open."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen(
        [sys.executable, "-m", "sluice", *arguments], cwd=directory, env=environment(), text=True, **streams
    )


def git(directory: Path, *arguments: str) -> None:
    person = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    run = ["git", *arguments]
    subprocess.run(run, cwd=directory, env=environment(**person, **settings), check=True, capture_output=True)


def make_repository(directory: Path, origin: str | None = REPOSITORY_URL) -> None:
    git(directory, "init", "--quiet", "--initial-branch=main")
    git(directory, "add", ".")
    git(directory, "commit", "--quiet", "--message", "begin")
    if origin:
        git(directory, "remote", "add", "origin", f"{origin}.git")
