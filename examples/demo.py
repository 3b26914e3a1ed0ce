"""Build the examples, change one file, build again: only what the change touched has a new revision.

Works on a copy in a temporary directory. The git repositories and the OCI layout are made there, from
the plain files beside this program.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sluice

EXAMPLES = Path(__file__).resolve().parent
LAYER = "application/vnd.cncf.flux.content.v1.tar+gzip"
CONFIG = "application/vnd.cncf.flux.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

Revisions = Mapping[str, str]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sluice-demo-") as temporary:
        place = Path(temporary, "examples")
        shutil.copytree(EXAMPLES, place)
        show(place)


def show(place: Path) -> None:
    compose, helm, monorepo = place / "compose", place / "helm", place / "monorepo"
    for directory in (compose / "git", helm / "repo", monorepo):
        make_repository(directory)
    git(monorepo, "remote", "add", "origin", "https://git.example.com/acme/monorepo.git")
    make_layout(compose / "oci", "1.0.0")
    make_layout(helm / "chart", "1.2.0")

    title("1. One artifact out of a Git repository, an OCI artifact and a bucket")
    sources = ["--source", "git=git", "--source", "oci=oci:1.0.0", "--source", "bucket=bucket"]
    build(compose, "generator.yaml", *sources, "-d", "out")
    tree(compose / "out/apps/shop")

    title("2. A Helm chart, with the values of production merged into its own")
    build(helm, "generator.yaml", "--source", "chart=chart:1.2.0", "--source", "repo=repo", "-d", "out")
    print((helm / "out/apps/web-chart/web/values.yaml").read_text())

    title("3. A monorepo, split in two")
    words("The manifest lies in the repository itself, so nobody has to say where the files are.")
    build(monorepo, "clusters/production")
    before = revisions(monorepo, "clusters/production")

    title("4. Change one file, build again")
    path = monorepo / "frontend/deployment.yaml"
    path.write_text(path.read_text().replace("frontend:1.0.0", "frontend:1.1.0"))
    git(monorepo, "commit", "--quiet", "--all", "--message", "Release frontend 1.1.0")
    command(["git", "show", "--stat", "--format=%s"])
    print(git(monorepo, "show", "--stat", "--format=%s"))
    build(monorepo, "clusters/production")
    compare(before, revisions(monorepo, "clusters/production"))


def build(directory: Path, *arguments: str) -> None:
    """Run `sluice build` as a user would."""
    command(["sluice", "build", *arguments])
    run = [sys.executable, "-m", "sluice", "build", *arguments]
    subprocess.run(run, cwd=directory, check=True, stderr=subprocess.STDOUT)  # noqa: S603  # ours
    print(flush=True)


def revisions(directory: Path, *arguments: str) -> Revisions:
    """The revision of each artifact, as a program would ask for them."""
    run = [sys.executable, "-m", "sluice", "build", *arguments, "-o", "json"]
    told = subprocess.run(run, cwd=directory, check=True, capture_output=True)  # noqa: S603  # ours
    return {artifact["name"]: artifact["revision"] for artifact in json.loads(told.stdout)["artifacts"]}


def compare(before: Revisions, after: Revisions) -> None:
    for name, revision in after.items():
        changed = revision != before[name]
        verdict = paint("rolls out", 32) if changed else "stays as it is"
        print(f"{name:10} {short(before[name])} → {short(revision)}  {verdict}")
    rolled = [name for name in after if after[name] != before[name]]
    count = f"{len(rolled)} of {len(after)} artifacts changed"
    words(f"\n{count}: Flux deploys {', '.join(rolled)} and leaves the rest alone.")


def short(revision: str) -> str:
    return revision[: revision.index(":") + 9]


def make_repository(directory: Path) -> None:
    git(directory, "init", "--quiet", "--initial-branch=main")
    git(directory, "add", ".")
    git(directory, "commit", "--quiet", "--message", "Begin")


def git(directory: Path, *arguments: str) -> str:
    person = {f"GIT_{role}_{what}": "demo" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {**person, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    run = ["git", *arguments]
    return subprocess.run(run, cwd=directory, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603  # ours


def make_layout(directory: Path, tag: str) -> None:
    """Turn a directory into an OCI layout with its files as the one layer, as `flux push artifact` packs them."""
    source = sluice.open_source(str(directory), kind="Bucket", cache=sluice.UnpackedCache())
    layer = io.BytesIO()
    sluice.write_archive(source.tree, layer)
    shutil.rmtree(directory)
    (directory / "blobs/sha256").mkdir(parents=True)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": put_blob(directory, b"{}", CONFIG),
        "layers": [put_blob(directory, layer.getvalue(), LAYER)],
        "annotations": {"org.opencontainers.image.revision": f"v{tag}"},
    }
    found = put_blob(directory, json.dumps(manifest).encode(), MANIFEST)
    found["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [found]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def put_blob(layout: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def tree(directory: Path) -> None:
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            print(f"  {path.relative_to(directory)}")
    print()


def title(text: str) -> None:
    print(f"\n{paint(text, 1)}\n", flush=True)


def words(text: str) -> None:
    print(text, flush=True)


def command(arguments: list[str]) -> None:
    print(paint(f"$ {shlex.join(arguments)}", 36), flush=True)


def paint(text: str, colour: int) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if COLOUR else text


if __name__ == "__main__":
    main()
