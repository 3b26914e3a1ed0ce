"""Releases can be rebuilt by anyone, and every file of one speaks of the same version."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.deploy.engines import DEPLOY, build, load
from tests.envtest.fixtures import REPOSITORY

import sluice

EPOCH = 1_750_000_000


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout elsewhere, as tight as a umask makes it, with things that git does not know."""
    copy = tmp_path / "elsewhere"
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    for name in listing.stdout.split("\0"):
        source, place = REPOSITORY / name, copy / name
        if name and source.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
            place.chmod(0o600)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=copy, check=True, capture_output=True)
    (copy / "src" / "sluice" / "stray.py").write_text("")
    return copy


def release(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/release.py", *arguments]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), **environment}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def test_wheel_and_sdist_are_the_same_wherever_they_are_built(checkout: Path) -> None:
    here, there = release(REPOSITORY, "check"), release(checkout, "check", TZ="Pacific/Auckland", LC_ALL="C.UTF-8")

    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr
    assert here.stdout.count("sha256:") == 2
    assert there.stdout == here.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist."""
    directory = tmp_path_factory.mktemp("packages")
    made = release(REPOSITORY, "build", f"--to={directory}")
    assert made.returncode == 0, made.stderr
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    return wheel, sdist


def test_packages_say_nothing_of_who_made_them_and_when(packages: tuple[Path, Path]) -> None:
    wheel, sdist = packages
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    with zipfile.ZipFile(wheel) as archive_:
        dates = {info.date_time for info in archive_.infolist()}

    assert {(member.mtime, member.uid, member.gid, member.uname, member.gname) for member in members} == {
        (EPOCH, 0, 0, "", "")
    }
    assert sdist.read_bytes()[3:8] == b"\0" + EPOCH.to_bytes(4, "little")  # no file name, one time
    assert {datetime(*date, tzinfo=UTC).date() for date in dates} == {datetime.fromtimestamp(EPOCH, UTC).date()}


def test_the_wheel_holds_the_package_and_nothing_else(packages: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(packages[0]) as archive:
        names = archive.namelist()
    listing = subprocess.run(
        ["git", "ls-files", "src/sluice"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    tracked = {name.removeprefix("src/") for name in listing.stdout.splitlines() if (REPOSITORY / name).exists()}

    assert {name for name in names if ".dist-info/" not in name} == tracked


def test_every_place_of_the_version_is_cut_at_once(checkout: Path) -> None:
    log = checkout / "CHANGELOG.md"
    entry = release(checkout, "notes", "Unreleased").stdout
    assert release(checkout, "cut", "12.34.56").returncode == 0

    headings = re.findall(r"^## (.*)$", log.read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(r"12\.34\.56 - \d{4}-\d\d-\d\d", headings[1])
    assert release(checkout, "version").stdout == "12.34.56\n"
    assert release(checkout, "notes", "12.34.56").stdout == entry
    assert release(checkout, "notes", "Unreleased").stdout == "\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param(["cut", "1.2"], "release: '1.2' is not a version (such as 1.2.3)", id="half a version"),
        pytest.param(
            ["dist", "--tag=v9.9.9", "--to=out"],
            f"release: the tag is v9.9.9 and the version {sluice.__version__}",
            id="a tag of another version",
        ),
    ],
)
def test_a_release_that_is_none_is_refused(checkout: Path, arguments: list[str], reason: str) -> None:
    refused = release(checkout, *arguments)

    assert (refused.returncode, refused.stderr) == (1, f"{reason}\n")


def test_a_version_that_differs_is_found(checkout: Path) -> None:
    chart = checkout / "deploy" / "chart" / "Chart.yaml"
    chart.write_text(re.sub(r"(?m)^appVersion: .*$", "appVersion: 9.9.9", chart.read_text()))

    assert "deploy/chart/Chart.yaml says 9.9.9" in release(checkout, "version").stderr


@pytest.mark.cluster
def test_the_install_manifest_is_the_default_overlay(kustomize: Path, tmp_path: Path) -> None:
    path = f"{kustomize.parent}{os.pathsep}{os.environ['PATH']}"
    made = release(REPOSITORY, "install-manifest", f"--to={tmp_path}", PATH=path)

    assert made.stdout == f"{tmp_path}/install.yaml\n", made.stderr
    assert load((tmp_path / "install.yaml").read_text()) == build(kustomize, DEPLOY / "overlays" / "default")
