"""Opening a source again: what is not read twice, and where changes show."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.running import git, make_repository, write

from sluice.cache import UnpackedCache
from sluice.core.plan import Source
from sluice.core.tree import File
from sluice.sources import Memory, Places, find_places, open_source, scan_directory
from sluice.sources.directory import Digests

LONG_AGO = 1_600_000_000


def age(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (LONG_AGO, LONG_AGO))


class TestDigests:
    """What a second scan reads shows in what it finds: files changed behind its back keep their digest."""

    @pytest.fixture
    def settle(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """Let the time pass that a file has to be left alone for; its status changed when the test wrote it."""
        return lambda: monkeypatch.setattr("sluice.sources.directory.SETTLED", -1_000_000_000)

    def forge(self, digests: Digests) -> None:
        """Give everything that is known another digest."""
        digests._before = {identity: b"known".ljust(32) for identity in digests._before}

    def test_a_file_that_did_not_change_is_not_read(self, tmp_path: Path, settle: Callable[[], None]) -> None:
        write(tmp_path, {"a": b"a", "x/b": b"b"})
        settle()
        digests = Digests()
        scan_directory(tmp_path, digests=digests)
        self.forge(digests)

        tree = scan_directory(tmp_path, digests=digests)

        assert {entry.digest for _, entry in tree.walk() if isinstance(entry, File)} == {b"known".ljust(32)}
        found = tree.find("x/b")
        assert isinstance(found, File)
        assert (found.read(), found.executable, found.size) == (b"b", False, 1)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda path: path.write_bytes(b"B"), id="written"),
            pytest.param(lambda path: age(path), id="given another time"),
            pytest.param(lambda path: path.chmod(0o700), id="given another mode"),
            pytest.param(lambda path: (path.unlink(), path.write_bytes(b"b")), id="made anew"),
        ],
    )
    def test_a_file_that_changed_is_read(
        self, tmp_path: Path, settle: Callable[[], None], change: Callable[[Path], object]
    ) -> None:
        write(tmp_path, {"b": b"b"})
        settle()
        digests = Digests()
        scan_directory(tmp_path, digests=digests)
        self.forge(digests)
        change(tmp_path / "b")

        assert scan_directory(tmp_path, digests=digests).digest == scan_directory(tmp_path).digest

    def test_a_file_that_changed_a_moment_ago_is_read_again(self, tmp_path: Path) -> None:
        write(tmp_path, {"b": b"b"})
        digests = Digests()
        scan_directory(tmp_path, digests=digests)

        assert digests._before == {}

    def test_what_is_gone_is_forgotten(self, tmp_path: Path, settle: Callable[[], None]) -> None:
        write(tmp_path, {"a": b"a", "b": b"b"})
        settle()
        digests = Digests()
        scan_directory(tmp_path, digests=digests)
        (tmp_path / "a").unlink()
        scan_directory(tmp_path, digests=digests)

        assert len(digests._before) == 1


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    write(root, {"a": "1", "x/b": "b"})
    make_repository(root)
    return root


class TestCommits:
    @pytest.fixture(params=["path", "url", "annotated tag"])
    def open_again(self, request: pytest.FixtureRequest, repository: Path) -> Callable[[], Source]:
        memory, cache = Memory(), UnpackedCache()
        location = f"{repository}@main" if request.param == "path" else f"file://{repository}@main"
        if request.param == "annotated tag":
            git(repository, "tag", "--annotate", "--message", "m", "v1")
            location = f"file://{repository}@v1"
        return lambda: open_source(location, kind="GitRepository", cache=cache, memory=memory)

    def test_a_commit_is_read_once(self, open_again: Callable[[], Source], repository: Path) -> None:
        first = open_again().tree
        git(repository, "commit", "--quiet", "--allow-empty", "--message", "on a branch of its own")
        git(repository, "branch", "--quiet", "other")
        git(repository, "reset", "--quiet", "--hard", "HEAD~1")

        assert open_again().tree is first

    def test_another_commit_is_another_source(self, repository: Path) -> None:
        memory, cache = Memory(), UnpackedCache()
        opened = []
        for content in ("1", "2"):
            write(repository, {"a": content})
            git(repository, "commit", "--quiet", "--all", "--allow-empty", "--message", "next")
            opened.append(open_source(f"{repository}@main", kind="GitRepository", cache=cache, memory=memory))

        assert opened[0].revision != opened[1].revision
        assert opened[0].tree.digest != opened[1].tree.digest

    def test_rules_of_the_source_object_still_hold(self, repository: Path) -> None:
        memory, cache = Memory(), UnpackedCache()
        location = f"{repository}@main"

        def names(ignore: str) -> list[str]:
            source = open_source(location, kind="GitRepository", cache=cache, ignore=ignore, memory=memory)
            return list(source.tree.entries)

        assert (names("/a"), names("/x")) == (["x"], ["a"])


def places(location: Path | str) -> Places:
    found = find_places(str(location))
    assert found is not None
    return found


class TestPlaces:
    @pytest.mark.parametrize(
        ("changed", "concerns"),
        [
            pytest.param("a", True, id="a file"),
            pytest.param("x/new/file", True, id="a new file in a new directory"),
            pytest.param(".git/HEAD", True, id="another branch"),
            pytest.param(".git/refs/heads/main", True, id="a commit"),
            pytest.param(".git/packed-refs", True, id="branches packed"),
            pytest.param(".git/index", True, id="a file is tracked"),
            pytest.param(".git/info/exclude", True, id="a file is ignored"),
            pytest.param(".git", True, id="the repository as a whole"),
            pytest.param(".git/objects/ab/cdef", False, id="an object"),
            pytest.param(".git/index.lock", False, id="a lock of git"),
            pytest.param(".git/logs/HEAD", False, id="a log of git"),
            pytest.param("clusters/.sluice/storage/x", False, id="our own state"),
            pytest.param("../elsewhere", False, id="a file outside"),
        ],
    )
    def test_of_a_checkout(self, repository: Path, changed: str, concerns: bool) -> None:
        path = Path(os.path.normpath(repository / changed))

        assert places(repository).concern(path) is concerns

    @pytest.mark.parametrize("form", ["commit", "bare"])
    @pytest.mark.parametrize(
        ("changed", "concerns"),
        [
            pytest.param("refs/heads/main", True, id="a commit"),
            pytest.param("packed-refs", True, id="branches packed"),
            pytest.param("HEAD", True, id="another default branch"),
            pytest.param("objects/ab/cdef", False, id="an object"),
        ],
    )
    def test_of_a_commit(self, tmp_path: Path, repository: Path, form: str, changed: str, concerns: bool) -> None:
        directory, location = repository / ".git", f"{repository}@main"
        if form == "bare":
            git(tmp_path, "clone", "--quiet", "--bare", str(repository), "bare")
            directory, location = tmp_path / "bare", str(tmp_path / "bare")

        found = places(location)

        assert found.concern(directory / changed) is concerns
        assert not found.concern(repository / "a")
        assert not any((directory / "objects").is_relative_to(tree) for tree in found.trees)

    def test_of_a_linked_worktree(self, tmp_path: Path, repository: Path) -> None:
        git(repository, "worktree", "add", "--quiet", "-b", "other", str(tmp_path / "linked"))

        found = places(tmp_path / "linked")

        assert found.concern(tmp_path / "linked/a")
        assert found.concern(repository / ".git/worktrees/linked/HEAD")
        assert found.concern(repository / ".git/refs/heads/other")
        assert not found.concern(repository / "a")

    def test_of_a_directory_inside_a_checkout(self, repository: Path) -> None:
        found = places(repository / "x")

        assert found.concern(repository / "x/b")
        assert not found.concern(repository / ".git/HEAD")

    def test_of_an_archive(self, tmp_path: Path) -> None:
        write(tmp_path, {"one.tar.gz": b"", "other": b""})
        (tmp_path / "latest.tar.gz").symlink_to("one.tar.gz")

        found = places(tmp_path / "latest.tar.gz")

        assert found.trees == frozenset()
        assert [found.concern(tmp_path / name) for name in ("latest.tar.gz", "one.tar.gz", "other")] == [
            True,
            True,
            False,
        ]

    def test_of_a_link_to_a_directory(self, tmp_path: Path) -> None:
        write(tmp_path, {"one/a": b""})
        (tmp_path / "current").symlink_to("one")

        found = places(tmp_path / "current")

        assert found.concern(tmp_path / "current")
        assert found.concern(tmp_path / "one/a")

    def test_of_a_layout_with_a_tag(self, tmp_path: Path) -> None:
        write(tmp_path, {"layout/oci-layout": "{}", "layout/index.json": "{}"})

        assert places(f"{tmp_path}/layout:1.0").concern(tmp_path / "layout/index.json")

    def test_of_what_is_not_there(self, tmp_path: Path) -> None:
        assert places(tmp_path / "not/yet").concern(tmp_path / "not/yet")

    @pytest.mark.parametrize(
        "location", ["https://git.example.com/acme/shop@main", "git@git.example.com:acme/shop", "oci://host/x:1"]
    )
    def test_of_what_is_elsewhere(self, location: str) -> None:
        assert find_places(location) is None
