"""Make releases: one version in every file, a changelog that says what is in it, and files that anyone can rebuild.

``check`` proves that wheel and sdist come out the same twice, ``dist`` makes everything that is published, ``cut``
makes a version of what is not released, ``notes`` prints what the changelog says of one.
"""

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHANGELOG = "CHANGELOG.md"
TOOLS = Path("tests/envtest")

PLACES: Mapping[str, str] = {
    "src/sluice/__init__.py": r'^__version__ = "(.+)"$',
    "deploy/base/kustomization.yaml": r"^ +newTag: (.+)$",
    "deploy/components/takeover/kustomization.yaml": r"^ +newTag: (.+)$",
    "deploy/chart/Chart.yaml": r"^(?:version|appVersion): (.+)$",
    ".github/workflows/preview.yaml": r"preview\.yaml@v(\S+)$",
}
"""The files that name the version, and how. The first is where the package reads it; the others must say the same."""


def version() -> str:
    """The version that all files agree on."""
    stated = [(place, found) for place in PLACES for found in _stated(place)]
    if len({found for _, found in stated}) != 1:
        raise SystemExit(f"release: the version differs: {', '.join(f'{place} says {it}' for place, it in stated)}")
    return stated[0][1]


def _stated(place: str) -> list[str]:
    found: list[str] = re.findall(PLACES[place], (ROOT / place).read_text(), re.MULTILINE)
    if not found:
        raise SystemExit(f"release: {place} names no version")
    return found


def cut(new: str, today: str) -> None:
    """Write a version everywhere, and head what the changelog holds as not released with it."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", new):
        raise SystemExit(f"release: '{new}' is not a version (such as 1.2.3)")
    if not notes("Unreleased"):
        raise SystemExit(f"release: {CHANGELOG} says nothing under Unreleased")
    for place, pattern in PLACES.items():
        path = ROOT / place
        renamed = re.sub(pattern, lambda found: found[0].replace(found[1], new), path.read_text(), flags=re.MULTILINE)
        path.write_text(renamed)
    log = ROOT / CHANGELOG
    log.write_text(log.read_text().replace("## Unreleased\n", f"## Unreleased\n\n## {new} - {today}\n", 1))


def notes(name: str) -> str:
    """What the changelog says under a heading."""
    sections = re.split(r"^## (\S+).*$", (ROOT / CHANGELOG).read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(sections[::2], sections[1::2], strict=True)).get(name, "").strip()


def build(target: Path) -> list[Path]:
    """Build wheel and sdist into a directory, from the files that git knows, the same way anywhere and at any time."""
    epoch = _epoch()
    with tempfile.TemporaryDirectory() as directory:
        tree, out = Path(directory, "tree"), Path(directory, "out")
        _export(tree)
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(tree)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        for sdist in out.glob("*.tar.gz"):
            _settle(sdist, epoch)
        target.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copy(path, target)) for path in sorted(out.iterdir())]


def _epoch() -> int:
    """The time of everything in a release: that of the commit."""
    if stated := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(stated)
    return int(_git("log", "-1", "--format=%ct"))


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def _export(tree: Path) -> None:
    """Copy what git tracks, with plain modes: what else lies in a checkout, and its umask, must not matter."""
    for name in _git("ls-files", "-z", "src", "pyproject.toml", "README.md", "LICENSE").split("\0"):
        source = ROOT / name
        if name and source.is_file():
            place = tree / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
            place.chmod(0o644)


def _settle(sdist: Path, epoch: int) -> None:
    """Write an archive anew: sorted, with one time, and without the names of who made it."""
    fresh = sdist.with_suffix(".new")
    with tarfile.open(sdist) as old, fresh.open("wb") as file:
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=epoch) as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as new:
                for member in sorted(old.getmembers(), key=lambda member: member.name):
                    member.uid = member.gid = 0
                    member.uname = member.gname = ""
                    member.mtime, member.pax_headers = epoch, {}
                    member.mode = 0o755 if member.isdir() else 0o644
                    new.addfile(member, old.extractfile(member) if member.isfile() else None)
    fresh.replace(sdist)


def check() -> Iterator[str]:
    """Everything that must hold before a release; a line for each thing that does."""
    number = version()
    yield f"every file says {number}"
    with tempfile.TemporaryDirectory() as directory:
        first, second = build(Path(directory, "a")), build(Path(directory, "b"))
        for one, other in zip(first, second, strict=True):
            if one.read_bytes() != other.read_bytes():
                raise SystemExit(f"release: {one.name} differs when it is built again")
            yield f"{one.name} is the same when built again: sha256:{hashlib.sha256(one.read_bytes()).hexdigest()}"
    if not notes("Unreleased") and not notes(number):
        raise SystemExit(f"release: {CHANGELOG} says nothing of {number}")
    yield f"{CHANGELOG} has something to say"


def install_manifest(target: Path) -> Path:
    """Write the overlay `default` as one file, for kubectl apply."""
    manifest = target / "install.yaml"
    target.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        [_program("kustomize"), "build", str(ROOT / "deploy/overlays/default")], check=True, capture_output=True
    )
    head = f"# Sluice {version()}. Needs Flux in the namespace flux-system, and the image in your registry.\n---\n"
    manifest.write_bytes(head.encode() + built.stdout)
    return manifest


def chart(target: Path) -> Path:
    """Package the chart; the package holds what its links lead to."""
    command = [_program("helm"), "package", str(ROOT / "deploy/chart"), "--destination", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return target / f"sluice-{version()}.tgz"


def _program(name: str) -> str:
    """A tool from the PATH, else the one that is built for the tests."""
    if found := shutil.which(name):
        return found
    build_tool = [sys.executable, str(ROOT / TOOLS / "build.py"), name]
    return str(Path(subprocess.run(build_tool, check=True, capture_output=True, text=True).stdout.strip(), name))


def dist(target: Path, tag: str) -> list[Path]:
    """Everything that a release publishes, and its checksums."""
    if tag and tag != f"v{version()}":
        raise SystemExit(f"release: the tag is {tag} and the version {version()}")
    shutil.rmtree(target, ignore_errors=True)
    made = [*build(target), install_manifest(target), chart(target)]
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made)
    (target / "SHA256SUMS").write_text(sums)
    return [*made, target / "SHA256SUMS"]


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description="Make releases.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="prove that a release could be made")
    commands.add_parser("version", help="print the version")
    for name, text in (
        ("build", "make wheel and sdist"),
        ("dist", "make everything that is published"),
        ("install-manifest", "make install.yaml"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--to", type=Path, default=ROOT / "dist", metavar="DIR")
        if name == "dist":
            command.add_argument("--tag", default="", help="what the version must be, with a v before it")
    commands.add_parser("cut", help="make a version of what is not released").add_argument("version")
    commands.add_parser("notes", help="print what the changelog says").add_argument("version", default="Unreleased")
    given = parser.parse_args()
    match given.command:
        case "check":
            for line in check():
                print(line)
        case "version":
            print(version())
        case "build":
            print(*build(given.to), sep="\n")
        case "dist":
            print(*dist(given.to, given.tag), sep="\n")
        case "install-manifest":
            print(install_manifest(given.to))
        case "cut":
            cut(given.version, datetime.now(UTC).date().isoformat())
        case "notes":
            print(notes(given.version))


if __name__ == "__main__":
    main()
