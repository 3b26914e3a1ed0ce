from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.shells.descriptors import open_below

from sluice.cache import UnpackedCache
from sluice.core.errors import BuildError, Code, SourceError
from sluice.core.limits import Limits
from sluice.core.plan import Source
from sluice.core.tree import Directory, File, Link
from sluice.sources import (
    find_checkout,
    open_commit,
    open_git,
    open_source,
    open_worktree,
    redact,
    same_repository,
)
from sluice.sources.git import is_remote, split_revision


@pytest.fixture(autouse=True)
def configuration_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


class Repository:
    """A repository to work in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        who = {f"GIT_{role}_{what}": "tests" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        done = subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *arguments],
            cwd=self.root,
            env=os.environ | who,
            input=stdin,
            stdout=subprocess.PIPE,
            check=True,
        )
        return done.stdout.decode().strip()

    def write(self, files: Mapping[str, bytes | str]) -> None:
        for name, data in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, str):
                path.symlink_to(data)
            else:
                path.write_bytes(data)

    def commit(self, files: Mapping[str, bytes | str]) -> str:
        self.write(files)
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--message=change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> UnpackedCache:
    return UnpackedCache(tmp_path_factory.mktemp("cache"))


def url(repository: Repository) -> str:
    return f"file://{repository.root}"


class TestCommits:
    """Of a repository at hand, and fetched from one by URL."""

    @pytest.fixture(params=["local", "remote"])
    def remote(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param == "remote")

    def open(self, repository: Repository, revision: str | None, remote: bool) -> Source:
        return open_git(url(repository), revision) if remote else open_commit(repository.root, revision)

    def test_the_tree_of_a_commit(self, repository: Repository, remote: bool) -> None:
        big = os.urandom(700_000)
        repository.write({"run.sh": b"#!/bin/sh\n"})
        (repository.root / "run.sh").chmod(0o755)
        repository.commit(
            {"a/b.yaml": b"b\n", "empty": b"", "a/same": b"b\n", "a.b": b"", "big": big, "link": "a/b.yaml"}
        )

        tree = self.open(repository, None, remote).tree

        assert [path for path, _ in tree.walk()] == [
            *("a", "a/b.yaml", "a/same", "a.b", "big", "empty", "link", "run.sh")
        ]
        big_file, link, run = tree.entries["big"], tree.entries["link"], tree.entries["run.sh"]
        assert isinstance(big_file, File)
        assert big_file.read() == big
        assert big_file.digest == hashlib.sha256(big).digest()
        assert isinstance(link, Link)
        assert link.target == "a/b.yaml"
        assert isinstance(run, File)
        assert run.executable
        assert tree.entries["a"].digest == Directory.of({"b.yaml": b"b\n", "same": b"b\n"}).digest

    def test_revisions_are_written_as_flux_writes_them(self, repository: Repository, remote: bool) -> None:
        first = repository.commit({"a": b"1"})
        repository.git("tag", "light")
        repository.git("tag", "--annotate", "--message=heavy", "heavy")
        second = repository.commit({"a": b"2"})
        repository.git("switch", "--quiet", "--create", "feature/x")
        third = repository.commit({"a": b"3"})
        repository.git("update-ref", "refs/pull/1/head", first)
        repository.git("switch", "--quiet", "main")

        expected = {
            None: f"main@sha1:{second}",
            "main": f"main@sha1:{second}",
            "feature/x": f"feature/x@sha1:{third}",
            "light": f"light@sha1:{first}",
            "heavy": f"heavy@sha1:{first}",
            "refs/heads/main": f"refs/heads/main@sha1:{second}",
            "refs/pull/1/head": f"refs/pull/1/head@sha1:{first}",
            third: f"sha1:{third}",
        }
        assert {revision: self.open(repository, revision, remote).revision for revision in expected} == expected

    def test_what_is_not_there_is_named(self, repository: Repository, remote: bool) -> None:
        repository.commit({"a": b""})
        where, what = (url(repository), "branch or tag") if remote else (str(repository.root), "branch, tag or commit")

        for revision in ("gone", "refs/heads/gone"):
            with pytest.raises(SourceError) as caught:
                self.open(repository, revision, remote)
            assert str(caught.value) == f"'{where}': no {what} '{revision}'"
            assert caught.value.code is Code.NOT_FOUND

    def test_attributes_for_archives_do_not_count(self, repository: Repository, remote: bool) -> None:
        files = {
            ".gitattributes": b"hidden export-ignore\nabout export-subst\n",
            "hidden": b"",
            "about": b"$Format:%H$",
        }
        repository.commit(files)

        assert self.open(repository, None, remote).tree.digest == Directory.of(files).digest

    def test_submodules_are_left_out(self, repository: Repository, remote: bool) -> None:
        commit = repository.commit({"a": b"", ".gitmodules": b""})
        repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
        repository.git("commit", "--quiet", "--message=sub")

        assert list(self.open(repository, None, remote).tree.entries) == [".gitmodules", "a"]

    def test_replaced_objects_do_not_count(self, repository: Repository, remote: bool) -> None:
        first = repository.commit({"a": b"1"})
        second = repository.commit({"a": b"2"})
        repository.git("replace", second, first)

        assert self.open(repository, None, remote).tree.digest == Directory.of({"a": b"2"}).digest

    @pytest.mark.parametrize("name", ["..", ".", "a/b"])
    def test_a_tree_with_a_name_that_is_none_is_refused(self, repository: Repository, remote: bool, name: str) -> None:
        blob = repository.git("hash-object", "-w", "--stdin", stdin=b"x")
        raw = b"100644 " + name.encode() + b"\0" + bytes.fromhex(blob)
        if name == "a/b":
            raw = b"100644 a\0" + bytes.fromhex(blob) + raw
        tree = repository.git("hash-object", "-t", "tree", "--literally", "-w", "--stdin", stdin=raw)
        commit = repository.git("commit-tree", "-m", "odd", tree)
        repository.git("update-ref", "refs/heads/odd", commit)
        where = url(repository) if remote else str(repository.root)

        with pytest.raises(SourceError) as caught:
            self.open(repository, "odd", remote)
        assert str(caught.value) == f"'{where}': '{name}' is not a valid path"

    def test_no_descriptor_and_no_temporary_file_stays(
        self, repository: Repository, remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        repository.commit({"a": b"a"})
        before = open_below(tmp_path)

        source = self.open(repository, None, remote)

        assert list((tmp_path / "temporary").iterdir()) == []
        assert open_below(tmp_path) == before + 1
        assert source.tree.find("a")
        del source
        assert open_below(tmp_path) == before


class TestRemotes:
    def test_a_server_that_gives_only_branches_still_gives_a_commit(self, repository: Repository) -> None:
        first = repository.commit({"a": b"1"})
        repository.commit({"a": b"2"})
        repository.git("config", "protocol.version", "0")

        source = open_git(url(repository), first)

        assert source.revision == f"sha1:{first}"
        assert source.tree.digest == Directory.of({"a": b"1"}).digest

    def test_a_commit_that_nobody_has_is_an_error(self, repository: Repository) -> None:
        repository.commit({"a": b"1"})

        with pytest.raises(SourceError) as caught:
            open_git(url(repository), "0" * 40)
        assert str(caught.value) == f"'{url(repository)}': no commit '{'0' * 40}'"

    def test_a_name_of_both_must_be_written_out(self, repository: Repository) -> None:
        repository.commit({"a": b"1"})
        repository.git("tag", "v1")
        repository.git("branch", "v1")

        with pytest.raises(SourceError) as caught:
            open_git(url(repository), "v1")
        assert str(caught.value) == (
            f"'{url(repository)}': 'v1' is both a branch and a tag ('refs/heads/v1' or 'refs/tags/v1')"
        )
        assert open_git(url(repository), "v1", refs=["refs/tags/"]).revision.startswith("v1@sha1:")

    def test_a_name_is_not_taken_for_the_end_of_another(self, repository: Repository) -> None:
        commit = repository.commit({"a": b"1"})
        repository.git("update-ref", "refs/heads/refs/heads/v1", commit)

        with pytest.raises(SourceError, match=r"no branch or tag 'v1'$"):
            open_git(url(repository), "v1")

    def test_a_detached_head_has_no_branch(self, repository: Repository) -> None:
        commit = repository.commit({"a": b"1"})
        repository.git("checkout", "--quiet", "--detach")

        assert open_git(url(repository)).revision == f"sha1:{commit}"

    def test_an_empty_repository_is_an_error(self, repository: Repository) -> None:
        with pytest.raises(SourceError) as caught:
            open_git(url(repository))
        assert str(caught.value) == f"'{url(repository)}': no commits"

    def test_no_repository_is_an_error_without_secrets(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError) as caught:
            open_git("http://user:s3cret@127.0.0.1:1/x.git?token=s3cret")
        assert str(caught.value).startswith("'http://127.0.0.1:1/x.git': unable to access 'http://127.0.0.1:1/x.git")
        assert "s3cret" not in str(caught.value)
        assert caught.value.code is Code.FETCH

    def test_a_remote_that_does_not_answer_is_given_up(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}/x.git"
            with pytest.raises(SourceError) as caught:
                open_git(address, timeout=0.2)
        assert str(caught.value) == f"'{address}': no answer within 0.2 s"

    def test_a_missing_git_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")

        with pytest.raises(SourceError) as caught:
            open_git("https://example.com/x")
        assert str(caught.value) == "'https://example.com/x': git is not installed"


class TestHostileTexts:
    """Nothing that stands in a location, a manifest or a repository's configuration runs a program."""

    @pytest.fixture
    def marker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        here = tmp_path / "here"
        here.mkdir()
        monkeypatch.chdir(here)
        # As careless as a user's own settings can be.
        hook = tmp_path / "hooks" / "reference-transaction"
        hook.parent.mkdir()
        hook.write_text(f"#!/bin/sh\ntouch {here}/ran\n")
        hook.chmod(0o755)
        (tmp_path / "careless").write_text(f"[protocol]\nallow = always\n[core]\nhooksPath = {hook.parent}\n")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "careless"))
        yield here / "ran"
        assert list(here.iterdir()) == []

    @pytest.mark.parametrize(
        "location",
        [
            "--upload-pack=touch ran",
            "--upload-pack=touch ran@main",
            "-c@core.fsmonitor=touch ran",
            "ext::sh -c touch% ran",
            "ext::sh -c touch% ran@main",
            "file::/x",
            "ssh://-oProxyCommand=touch ran/x",
            "ssh://u@-oProxyCommand=touch ran/x",
            "u@-oProxyCommand=touch ran:x/y",
            "git://127.0.0.1:1/x",
            "ftp://127.0.0.1:1/x",
            "$(touch ran)",
            "`touch ran`@`touch ran`",
            "x;touch ran",
            "file:///x\0y",
        ],
    )
    def test_locations(self, marker: Path, cache: UnpackedCache, location: str) -> None:
        with pytest.raises(SourceError):
            open_source(location, kind="GitRepository", cache=cache)
        with pytest.raises(SourceError):
            open_git(location)

    @pytest.mark.parametrize(
        "revision",
        [
            "--upload-pack=touch ran",
            "-h",
            "--output=ran",
            "--",
            "a b",
            "a:b",
            "+main",
            "^main",
            "main..main",
            "@{u}",
            "*",
        ],
    )
    def test_revisions(self, marker: Path, repository: Repository, cache: UnpackedCache, revision: str) -> None:
        repository.commit({"a": b""})
        marker.unlink()

        for location in (f"{repository.root}@{revision}", f"{url(repository)}@{revision}"):
            with pytest.raises(SourceError):
                open_source(location, kind="GitRepository", cache=cache)

    def test_monitors_of_a_repository(self, marker: Path, repository: Repository) -> None:
        repository.commit({"a": b""})
        marker.unlink()  # the hook ran for the commit just made
        script = repository.root.parent / "monitor"
        script.write_text(f"#!/bin/sh\ntouch {marker}\n")
        script.chmod(0o755)
        repository.git("config", "core.fsmonitor", str(script))
        (repository.root / "a").write_bytes(b"changed")

        assert open_worktree(repository.root).revision.endswith("-dirty")
        assert open_commit(repository.root).tree.files == 1

    def test_hooks(self, marker: Path, repository: Repository) -> None:
        repository.commit({"a": b""})
        marker.unlink()

        assert open_git(url(repository)).tree.files == 1

    def test_variables_of_another_repository_do_not_count(
        self, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = Repository(tmp_path / "other")
        other.commit({"other": b""})
        repository.commit({"a": b""})
        monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
        monkeypatch.setenv("GIT_WORK_TREE", str(other.root))

        assert list(open_commit(repository.root).tree.entries) == ["a"]
        assert list(open_worktree(repository.root).tree.entries) == ["a"]
        assert list(open_git(url(repository)).tree.entries) == ["a"]


class TestWorktrees:
    def test_files_are_as_they_are_on_disk(self, repository: Repository) -> None:
        commit = repository.commit(
            {"a": b"1", "gone": b"", "x/gone": b"", ".gitignore": b"ignored\n", "l": "a", "f/f": b""}
        )
        assert open_worktree(repository.root).revision == f"main@sha1:{commit}"
        for name in ("gone", "x/gone", "f/f"):
            (repository.root / name).unlink()
        (repository.root / "f").rmdir()
        repository.write({"a": b"2", "new": b"3", "ignored": b"", "y/ignored": b"", "f": b"a file now"})

        source = open_worktree(repository.root)

        assert [path for path, _ in source.tree.walk()] == [".gitignore", "a", "f", "l", "new"]
        assert source.tree.entries["a"].digest == File.of(b"2").digest
        assert source.revision == f"main@sha1:{commit}-dirty"

    def test_an_ignored_file_that_is_tracked_is_taken(self, repository: Repository) -> None:
        repository.commit({".gitignore": b"*", "tracked": b""})

        assert list(open_worktree(repository.root).tree.entries) == [".gitignore", "tracked"]

    def test_state_of_our_own_does_not_count(self, repository: Repository) -> None:
        commit = repository.commit({"a": b"", "x/b": b""})
        repository.write({".sluice/state.json": b"{}", "x/.sluice/state.json": b"{}"})

        source = open_worktree(repository.root)

        assert source.revision == f"main@sha1:{commit}"
        assert source.tree.digest == Directory.of({"a": b"", "x/b": b""}).digest

    def test_repositories_inside_are_left_out(self, repository: Repository) -> None:
        commit = repository.commit({"a": b""})
        inner = Repository(repository.root / "inner")
        inner.commit({"b": b""})
        repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
        repository.write({"sub/c": b""})

        assert list(open_worktree(repository.root).tree.entries) == ["a"]

    def test_a_path_inside_means_the_whole_checkout(self, repository: Repository) -> None:
        repository.commit({"x/a": b"", "b": b""})

        assert list(open_worktree(repository.root / "x").tree.entries) == ["b", "x"]

    def test_revisions(self, repository: Repository) -> None:
        repository.write({"a": b""})
        repository.git("remote", "add", "origin", "https://user:s3cret@example.com/org/app.git")
        unborn = open_worktree(repository.root)
        commit = repository.commit({})
        repository.git("checkout", "--quiet", "--detach")

        assert unborn.revision == f"latest@sha256:{Directory.of({'a': b''}).digest.hex()}"
        assert open_worktree(repository.root).revision == f"sha1:{commit}"
        assert open_worktree(repository.root).url == "https://example.com/org/app.git"

    def test_limits_hold(self, repository: Repository) -> None:
        repository.commit({"a": b"12", "b": b"34"})

        for limits, text in [
            (Limits(source_size=3), "its files are too large (limit: 3, source_size)"),
            (Limits(entries=1), "too many entries (limit: 1, entries)"),
        ]:
            for opened in (open_worktree, open_commit):
                with pytest.raises(BuildError) as caught:
                    opened(repository.root, limits=limits)
                assert str(caught.value) == f"'{repository.root}': {text}"


class TestCheckouts:
    def test_what_is_known_of_one(self, repository: Repository) -> None:
        assert find_checkout(repository.root.parent) is None
        unborn = find_checkout(repository.root)
        assert unborn is not None
        assert (unborn.origin, unborn.branch, unborn.commit) == (None, "main", None)

        repository.git("remote", "add", "origin", "git@example.com:org/app.git")
        commit = repository.commit({"x/y": b""})

        for path in ("", "x", "x/y"):
            found = find_checkout(repository.root / path)
            assert found is not None
            assert found.root == repository.root
            assert (found.origin, found.branch, found.commit) == ("git@example.com:org/app.git", "main", commit)

    def test_a_linked_worktree_is_one(self, repository: Repository, tmp_path: Path) -> None:
        commit = repository.commit({"a": b""})
        repository.git("worktree", "add", "--quiet", "-b", "other", str(tmp_path / "linked"))

        assert open_worktree(tmp_path / "linked").revision == f"other@sha1:{commit}"

    def test_a_stray_git_directory_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "x/.git").mkdir(parents=True)

        assert find_checkout(tmp_path / "x") is None


class TestLocations:
    def test_the_root_of_a_checkout_is_its_worktree(self, repository: Repository, cache: UnpackedCache) -> None:
        commit = repository.commit({"a": b"", "b.png": b"", ".gitignore": b"ignored"})
        repository.write({"ignored": b""})

        source = open_source(str(repository.root), kind="GitRepository", cache=cache)
        bucket = open_source(str(repository.root), kind="Bucket", cache=cache)

        assert source.revision == f"main@sha1:{commit}"
        assert list(source.tree.entries) == ["a"]
        assert list(bucket.tree.entries) == [".gitignore", "a", "b.png", "ignored"]

    def test_a_path_with_a_revision_is_a_commit(self, repository: Repository, cache: UnpackedCache) -> None:
        first = repository.commit({"a": b"1"})
        second = repository.commit({"a": b"2"})

        def revision(text: str) -> str:
            return open_source(text, kind="GitRepository", cache=cache).revision

        assert revision(f"{repository.root}@HEAD") == f"main@sha1:{second}"
        assert revision(f"{repository.root}@HEAD~1") == f"sha1:{first}"
        assert revision(f"{repository.root}@{first[:10]}") == f"sha1:{first}"
        assert revision(f"file://{repository.root}@{first}") == f"sha1:{first}"
        assert revision(f"{repository.root}/.git") == f"main@sha1:{second}"

    @pytest.mark.parametrize(
        ("location", "remote", "parts"),
        [
            ("https://example.com/org/app", True, ("https://example.com/org/app", None)),
            ("https://example.com/org/app.git@main", True, ("https://example.com/org/app.git", "main")),
            ("https://u:p@example.com/org/app", True, ("https://u:p@example.com/org/app", None)),
            ("https://u:p@example.com/org/app@a/b", True, ("https://u:p@example.com/org/app", "a/b")),
            ("ssh://git@example.com:22/org/app@v1", True, ("ssh://git@example.com:22/org/app", "v1")),
            ("git@example.com:org/app.git", True, ("git@example.com:org/app.git", None)),
            ("git@example.com:app@v1", True, ("git@example.com:app", "v1")),
            ("example.com:org/app@v1", True, ("example.com:org/app", "v1")),
            ("./app@v1", False, ("./app", "v1")),
            ("app", False, ("app", None)),
            ("app:v1", False, ("app:v1", None)),
            ("./x:y/z", False, ("./x:y/z", None)),
        ],
    )
    def test_what_is_remote_and_what_a_revision(
        self, location: str, remote: bool, parts: tuple[str, str | None]
    ) -> None:
        assert is_remote(location) is remote
        assert split_revision(location) == parts


@pytest.mark.parametrize(
    "other",
    [
        "https://example.com/org/app",
        "https://example.com/org/app.git",
        "https://example.com/org/app/",
        "https://EXAMPLE.com:443/org/app.git/",
        "http://user:word@example.com/org/app",
        "ssh://git@example.com/org/app.git",
        "ssh://git@example.com:2222/org/app",
        "git@example.com:org/app.git",
        "git@example.com:/org/app",
        "example.com:org/app",
    ],
)
def test_one_repository_has_many_urls(other: str) -> None:
    assert same_repository("https://example.com/org/app", other)


@pytest.mark.parametrize(
    "other",
    [
        "https://example.com/org/app2",
        "https://example.com/org",
        "https://example.org/org/app",
        "https://example.com.evil.org/org/app",
        "https://evil.org/example.com/org/app",
        "/org/app",
        "https://[/org/app",
        "",
    ],
)
def test_another_repository_is_another(other: str) -> None:
    assert not same_repository("https://example.com/org/app", other)


def test_a_path_is_the_same_repository_as_its_file_url() -> None:
    assert same_repository("/srv/app.git", "file:///srv/app")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:p@ss@example.com/x?sig=1", "https://example.com/x"),
        ("at 'https://token@a/b' and https://c/d?e=f g", "at 'https://a/b' and https://c/d g"),
        ("a\x1b[31mb\nc", "a\\x1b[31mb\\nc"),
        ("file?", "file?"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_is_shown_of_a_url(text: str, shown: str) -> None:
    assert redact(text) == shown
