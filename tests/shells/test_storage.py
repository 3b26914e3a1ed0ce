"""The store on real directories, what a crash or a full disk leaves, and retention."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.build import State, StoredArchive
from sluice.core.errors import BuildError, Code, StorageError
from sluice.core.tar import HASHES
from sluice.core.tree import Directory, File
from sluice.core.untar import read_archive
from sluice.storage import ArchiveFile, DiskStorage, select_garbage

START = datetime(2026, 7, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
TREE = Directory.of({"a.yaml": b"a: 1\n", "bin/run": b"#!/bin/sh\n"}, executable=["bin/run"])
OTHER = Directory.of({"a.yaml": b"a: 2\n"})


class StorageContract:
    """What a pipeline may expect of any store."""

    def test_equal_trees_share_one_archive(self, storage: DiskStorage) -> None:
        first = storage.put("apps", "web", Directory.of({"a.yaml": b"a"}))
        second = storage.put("apps", "web", Directory.of({"a.yaml": b"a"}))

        assert first == second

    def test_other_trees_have_other_archives_and_both_stay(self, storage: DiskStorage) -> None:
        first = storage.put("apps", "web", TREE)
        second = storage.put("apps", "web", OTHER)

        assert first.path != second.path
        assert first.digest != second.digest
        assert content(storage, first).digest == TREE.digest
        assert content(storage, second).digest == OTHER.digest

    def test_artifacts_do_not_share_archives(self, storage: DiskStorage) -> None:
        one, two = storage.put("apps", "web", TREE), storage.put("infra", "web", TREE)
        storage.delete("apps", "web")

        assert storage.verify("apps", "web", one.filename, one.digest) is State.MISSING
        assert storage.verify("infra", "web", two.filename, two.digest) is State.PRESENT

    def test_the_digest_is_that_of_the_bytes(self, storage: DiskStorage) -> None:
        archive = storage.put("apps", "web", TREE)
        data = read(storage, archive)

        assert archive.size == len(data)
        assert archive.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"

    def test_an_archive_is_found_by_its_contents_without_the_tree(self, storage: DiskStorage) -> None:
        archive = storage.put("apps", "web", TREE)

        assert storage.find("apps", "web", TREE.digest) == archive
        assert storage.find("apps", "web", OTHER.digest) is None
        assert storage.find("apps", "api", TREE.digest) is None

    def test_synced_archives_stay_as_they_are(self, storage: DiskStorage) -> None:
        archives = [storage.put("apps", name, TREE) for name in ("web", "api")]
        storage.sync(archives)
        storage.sync(archives)

        assert {
            storage.verify("apps", name, a.filename, a.digest) for name, a in zip(("web", "api"), archives, strict=True)
        } == {State.PRESENT}

    def test_deleting_twice_is_fine(self, storage: DiskStorage) -> None:
        archive = storage.put("apps", "web", TREE)
        storage.delete("apps", "web")
        storage.delete("apps", "web")

        assert not storage.knows("apps", "web", archive.filename)

    @pytest.mark.parametrize(
        ("namespace", "name"),
        [("..", "web"), ("apps", ".."), ("apps", "a/b"), ("", "web"), ("Apps", "web"), ("apps", "")],
    )
    def test_only_names_of_objects_are_stored(self, storage: DiskStorage, namespace: str, name: str) -> None:
        with pytest.raises(StorageError) as caught:
            storage.put(namespace, name, TREE)

        allowed = "lower-case letters, digits, '-' and '.', at most 253"
        assert str(caught.value) == f"'{namespace}/{name}' is not the name of an artifact ({allowed})"
        storage.delete(namespace, name)
        assert storage.verify(namespace, name, "1.tar.gz", "sha256:00") is State.MISSING
        assert not storage.holds(namespace, name, "1.tar.gz")

    def test_retention_deletes_what_was_superseded_long_ago(self, storage: DiskStorage) -> None:
        first, second = storage.put("apps", "web", TREE), storage.put("apps", "web", OTHER)
        storage.supersede("apps", "web", current=first.filename, now=START - 9 * HOUR)
        storage.supersede("apps", "web", current=second.filename, now=START)

        assert storage.collect(keep=1, ttl=HOUR, now=START + HOUR) == []
        assert storage.collect(keep=2, ttl=HOUR, now=START + 9 * HOUR) == []
        storage.supersede("apps", "web", current=second.filename, now=START + 9 * HOUR)
        assert storage.collect(keep=0, ttl=HOUR, now=START + 9 * HOUR) == [first.path]
        assert content(storage, second).digest == OTHER.digest

    def test_what_was_put_and_not_published_yet_is_no_garbage(self, storage: DiskStorage) -> None:
        first = storage.put("apps", "web", TREE)
        storage.supersede("apps", "web", current=first.filename, now=START)
        second = storage.put("apps", "web", OTHER)

        assert storage.collect(keep=0, ttl=HOUR, now=START + 9 * HOUR) == []
        assert storage.knows("apps", "web", second.filename)

    def test_going_back_to_old_contents_saves_the_old_archive(self, storage: DiskStorage) -> None:
        first, second = storage.put("apps", "web", TREE), storage.put("apps", "web", OTHER)
        storage.supersede("apps", "web", current=second.filename, now=START)

        assert storage.put("apps", "web", TREE) == first
        assert storage.collect(keep=0, ttl=HOUR, now=START + 9 * HOUR) == []


class TestDiskStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> DiskStorage:
        return DiskStorage(tmp_path)


def read(storage: DiskStorage, archive: StoredArchive) -> bytes:
    _, namespace, name, filename = archive.path.split("/")
    opened = storage.open(namespace, name, filename)
    assert opened is not None
    with opened.file as file:
        return file.read()


def content(storage: DiskStorage, archive: StoredArchive) -> Directory:
    return read_archive(read(storage, archive))


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


# On disk


def test_the_name_tells_contents_and_bytes(tmp_path: Path) -> None:
    archive = DiskStorage(tmp_path).put("apps", "web", TREE)
    path = tmp_path / archive.path

    data = path.read_bytes()
    assert archive.path == (
        f"externalartifact/apps/web/{TREE.digest.hex()[:32]}-{hashlib.sha256(data).hexdigest()[:16]}.tar.gz"
    )
    assert path.stat().st_mode & 0o777 == 0o600
    assert {parent.stat().st_mode & 0o777 for parent in (path.parent, path.parent.parent)} == {0o700}
    assert files(tmp_path) == {archive.path}


def test_a_restart_learns_what_is_stored_and_writes_nothing_again(tmp_path: Path) -> None:
    before = DiskStorage(tmp_path).put("apps", "web", TREE)
    inode = (tmp_path / before.path).stat().st_ino
    storage = DiskStorage(tmp_path)

    assert storage.knows("apps", "web", before.filename)
    assert storage.put("apps", "web", TREE) == before
    assert (tmp_path / before.path).stat().st_ino == inode


@pytest.mark.parametrize("algorithm", HASHES)
def test_another_algorithm_gives_the_same_file_another_digest(tmp_path: Path, algorithm: str) -> None:
    before = DiskStorage(tmp_path).put("apps", "web", TREE)
    storage = DiskStorage(tmp_path, algorithm=algorithm)
    archive = storage.put("apps", "web", TREE)
    hasher = HASHES[algorithm]()
    hasher.update((tmp_path / before.path).read_bytes())

    assert (archive.path, archive.digest) == (before.path, f"{algorithm}:{hasher.hexdigest()}")
    assert storage.put("apps", "new", TREE).digest == archive.digest
    for digest in (before.digest, archive.digest):
        assert storage.verify("apps", "web", archive.filename, digest) is State.PRESENT


def test_a_start_reads_names_only(tmp_path: Path) -> None:
    folder = tmp_path / "externalartifact/apps/web"
    folder.mkdir(parents=True)
    (folder / f"{'0' * 32}-{'0' * 16}.tar.gz").symlink_to("nowhere")

    assert DiskStorage(tmp_path).knows("apps", "web", f"{'0' * 32}-{'0' * 16}.tar.gz")


def test_an_archive_of_another_compressor_is_kept(tmp_path: Path) -> None:
    new = DiskStorage(tmp_path).put("apps", "web", TREE)
    path = tmp_path / new.path
    data = gzip.compress(gzip.decompress(path.read_bytes()), 1, mtime=0)
    old = path.with_name(f"{TREE.digest.hex()[:32]}-{hashlib.sha256(data).hexdigest()[:16]}.tar.gz")
    path.unlink()
    old.write_bytes(data)

    assert DiskStorage(tmp_path).put("apps", "web", TREE).filename == old.name != path.name


@pytest.mark.parametrize(
    "path",
    [
        "externalartifact/apps/web/planted.tar.gz",
        "externalartifact/apps/web/242366145.tar.gz.lock",
        "externalartifact/apps/web/.hidden",
        "externalartifact/Apps/web/242366145.tar.gz",
        "externalartifact/apps/We_b/242366145.tar.gz",
        "gitrepository/apps/web/242366145.tar.gz",
    ],
)
def test_files_that_are_not_ours_are_neither_known_nor_touched(tmp_path: Path, path: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(b"x")
    storage = DiskStorage(tmp_path)
    *_, namespace, name, filename = path.split("/")

    assert not storage.knows(namespace, name, filename)
    assert not storage.holds(namespace, name, filename) or path.startswith("gitrepository")
    assert files(tmp_path) == {path}


def test_a_start_removes_what_a_crash_left_but_not_what_is_being_written(tmp_path: Path) -> None:
    folder = tmp_path / "externalartifact/apps/web"
    folder.mkdir(parents=True)
    (folder / ".17-0.tmp").write_bytes(b"abandoned")
    with (folder / ".17-1.tmp").open("wb") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        DiskStorage(tmp_path)

    assert files(tmp_path) == {"externalartifact/apps/web/.17-1.tmp"}


def test_what_another_process_wrote_is_noticed_on_demand(tmp_path: Path) -> None:
    standby = DiskStorage(tmp_path)
    archive = DiskStorage(tmp_path).put("apps", "web", TREE)

    assert not standby.knows("apps", "web", archive.filename)
    assert standby.open("apps", "web", archive.filename) is None
    assert standby.holds("apps", "web", archive.filename)
    assert content(standby, archive).digest == TREE.digest


def test_a_scan_does_not_forget_what_was_learnt(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    first, second = storage.put("apps", "web", TREE), storage.put("apps", "web", OTHER)
    storage.supersede("apps", "web", current=second.filename, now=START)
    storage.scan()

    assert storage.collect(keep=0, ttl=HOUR, now=START + 2 * HOUR) == [first.path]


def test_after_a_restart_retention_counts_from_the_first_status(tmp_path: Path) -> None:
    first, second = DiskStorage(tmp_path).put("apps", "web", TREE), DiskStorage(tmp_path).put("apps", "web", OTHER)
    os.utime(tmp_path / first.path, (0, 0))
    storage = DiskStorage(tmp_path)

    assert storage.collect(keep=0, ttl=HOUR, now=START + 9 * HOUR) == []
    storage.supersede("apps", "web", current=second.filename, now=START)
    assert storage.collect(keep=0, ttl=HOUR, now=START + HOUR) == []
    assert storage.collect(keep=0, ttl=HOUR, now=START + 2 * HOUR) == [first.path]
    assert files(tmp_path) == {second.path}


def test_all_of_an_artifact_that_nobody_publishes_goes(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    first, second = storage.put("apps", "web", TREE), storage.put("apps", "web", OTHER)
    storage.supersede("apps", "web", current="", now=START)

    assert storage.collect(keep=2, ttl=HOUR, now=START + HOUR) == []
    assert sorted(storage.collect(keep=2, ttl=HOUR, now=START + 2 * HOUR)) == sorted([first.path, second.path])
    assert files(tmp_path) == set()


def test_deleting_an_artifact_leaves_what_is_not_ours(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    archive = storage.put("apps", "web", TREE)
    storage.put("gone", "web", TREE)
    folder = (tmp_path / archive.path).parent
    for name in ("notes.txt", "242366145.tar.gz", "242366145.tar.gz.lock", "242366145.tar.gz123", ".17-0.tmp"):
        (folder / name).touch()
    storage.delete("apps", "web")
    storage.delete("gone", "web")

    assert files(tmp_path) == {"externalartifact/apps/web/notes.txt"}
    assert not (tmp_path / "externalartifact/gone").exists()


# Damage


def damage_by(change: Callable[[Path], object], text: str) -> object:
    return pytest.param(change, id=text)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, (1, 1))  # a coarse clock might not tell the times apart


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGES = [
    damage_by(_flip, "one bit is flipped"),
    damage_by(lambda path: os.truncate(path, 100), "it is cut"),
    damage_by(lambda path: path.write_bytes(b""), "it is empty"),
]
ABSENCES = [
    damage_by(Path.unlink, "it is deleted"),
    damage_by(lambda path: _replace(path, Path.mkdir), "it is a directory"),
    damage_by(lambda path: _replace(path, os.mkfifo), "it is a pipe"),
    damage_by(lambda path: _replace(path, lambda link: link.symlink_to("/etc/hostname")), "it is a link"),
    damage_by(lambda path: path.parent.rename(path.parent.with_name("x.y")), "its directory is gone"),
]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_found_removed_and_made_anew(
    tmp_path: Path, damage: Callable[[Path], object], restarted: bool
) -> None:
    storage = DiskStorage(tmp_path)
    archive = storage.put("apps", "web", TREE)
    damage(tmp_path / archive.path)
    if restarted:
        storage = DiskStorage(tmp_path)

    assert storage.verify("apps", "web", archive.filename, archive.digest) is State.CORRUPTED
    assert files(tmp_path) == set()
    assert storage.verify("apps", "web", archive.filename, archive.digest) is State.MISSING
    assert storage.put("apps", "web", TREE).digest == archive.digest
    assert content(storage, archive).digest == TREE.digest


@pytest.mark.parametrize("damage", [*DAMAGES, *ABSENCES])
def test_a_damaged_archive_is_never_opened(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    storage = DiskStorage(tmp_path)
    archive = storage.put("apps", "web", TREE)
    damage(tmp_path / archive.path)

    assert storage.open("apps", "web", archive.filename) is None
    assert not storage.knows("apps", "web", archive.filename)


@pytest.mark.parametrize("damage", ABSENCES)
def test_a_missing_archive_is_missed_and_made_anew(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    storage = DiskStorage(tmp_path)
    archive = storage.put("apps", "web", TREE)
    damage(tmp_path / archive.path)

    assert storage.verify("apps", "web", archive.filename, archive.digest) is State.MISSING
    assert storage.put("apps", "web", TREE).digest == archive.digest
    assert content(storage, archive).digest == TREE.digest


def test_an_intact_archive_whose_status_is_wrong_is_not_deleted(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    archive = storage.put("apps", "web", TREE)

    assert storage.verify("apps", "web", archive.filename, "sha256:" + "0" * 64) is State.CORRUPTED
    assert storage.verify("apps", "web", archive.filename, "md5:" + "0" * 32) is State.CORRUPTED
    assert storage.put("apps", "web", TREE) == archive


def test_reading_again_finds_the_same(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    archive = storage.put("apps", "web", TREE)

    assert storage.verify("apps", "web", archive.filename, archive.digest, reread=True) is State.PRESENT
    _flip(tmp_path / archive.path)
    assert storage.verify("apps", "web", archive.filename, archive.digest, reread=True) is State.CORRUPTED


@pytest.mark.parametrize(
    "filename", ["../web/x.tar.gz", "x.tar.gz", "", "..", "/etc/passwd", "1.tar.gz\n", "1.tar.gz/"]
)
def test_published_names_that_nobody_gives_are_missing(tmp_path: Path, filename: str) -> None:
    assert DiskStorage(tmp_path).verify("apps", "web", filename, "sha256:00") is State.MISSING


def test_the_store_is_made_again_when_it_was_deleted(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    storage = DiskStorage(tmp_path / "data")
    archive = storage.put("apps", "web", TREE)
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()

    assert storage.verify("apps", "web", archive.filename, archive.digest) is State.MISSING
    assert storage.put("apps", "web", TREE).digest == archive.digest
    assert files(tmp_path) == {f"data/{archive.path}"}


@pytest.mark.parametrize("place", ["externalartifact", "externalartifact/apps", "externalartifact/apps/web"])
def test_a_link_on_the_way_is_not_followed(tmp_path: Path, place: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    storage = DiskStorage(root)
    archive = storage.put("apps", "web", TREE)
    (root / place).rename(outside / "moved")
    (root / place).symlink_to(outside / "moved")
    before = files(outside)

    assert storage.open("apps", "web", archive.filename) is None
    with pytest.raises(StorageError) as caught:
        storage.put("apps", "web", OTHER)
    assert str(caught.value) == "externalartifact/apps/web: cannot write: not a directory"
    storage.delete("apps", "web")
    assert files(outside) == before


# A source-watcher's files


def peers_archive(tree: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        for path, data in tree.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o600
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def plant(root: Path, data: bytes) -> str:
    folder = root / "externalartifact/apps/web"
    folder.mkdir(parents=True)
    (folder / "242366145.tar.gz").write_bytes(data)
    (folder / "242366145.tar.gz.lock").touch()
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_peers_file_is_adopted_when_it_is_published_and_equal(tmp_path: Path) -> None:
    digest = plant(tmp_path, peers_archive({"a.yaml": b"a: 2\n"}))
    storage = DiskStorage(tmp_path)

    assert storage.verify("apps", "web", "242366145.tar.gz", digest) is State.PRESENT
    adopted = storage.put("apps", "web", OTHER, published="242366145.tar.gz")
    assert (adopted.filename, adopted.digest) == ("242366145.tar.gz", digest)
    assert storage.put("apps", "web", OTHER) == adopted
    assert content(storage, adopted).digest == OTHER.digest


def test_a_peers_file_is_not_looked_into_unless_it_is_published(tmp_path: Path) -> None:
    plant(tmp_path, peers_archive({"a.yaml": b"a: 2\n"}))

    assert DiskStorage(tmp_path).put("apps", "web", OTHER).filename != "242366145.tar.gz"


def test_a_peers_file_with_other_contents_is_superseded_with_its_lock(tmp_path: Path) -> None:
    plant(tmp_path, peers_archive({"a.yaml": b"a: 2\n"}))
    storage = DiskStorage(tmp_path)
    archive = storage.put("apps", "web", TREE, published="242366145.tar.gz")
    storage.supersede("apps", "web", current=archive.filename, now=START)
    storage.collect(keep=1, ttl=HOUR, now=START + 2 * HOUR)

    assert files(tmp_path) == {archive.path}


@pytest.mark.parametrize(
    "cut", [pytest.param(-9, id="in its checksum"), pytest.param(30, id="in its middle"), pytest.param(0, id="at once")]
)
def test_a_cut_peers_file_is_neither_adopted_nor_opened(tmp_path: Path, cut: int) -> None:
    plant(tmp_path, peers_archive({"a.yaml": b"a: 2\n"})[:cut])

    assert DiskStorage(tmp_path).open("apps", "web", "242366145.tar.gz") is None
    assert files(tmp_path) == set()


def test_a_peers_file_that_is_not_what_was_published_is_removed(tmp_path: Path) -> None:
    plant(tmp_path, peers_archive({"a.yaml": b"a: 2\n"}))
    storage = DiskStorage(tmp_path)

    assert storage.verify("apps", "web", "242366145.tar.gz", "sha256:" + "0" * 64) is State.CORRUPTED
    assert files(tmp_path) == set()


# Errors


@pytest.mark.parametrize("make", [lambda path: None, Path.touch], ids=["missing", "a file"])
def test_the_storage_path_is_a_directory(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "data")

    with pytest.raises(StorageError) as caught:
        DiskStorage(tmp_path / "data")
    assert str(caught.value) == f"storage path '{tmp_path / 'data'}': not a directory"


def test_a_store_that_cannot_be_written_says_so_at_start(tmp_path: Path) -> None:
    (tmp_path / "externalartifact").touch()

    with pytest.raises(StorageError) as caught:
        DiskStorage(tmp_path)
    assert str(caught.value) == f"storage path '{tmp_path}': cannot write: not a directory"


class Broken:
    """The content of a source that fails half-way."""

    def read(self, offset: int, size: int) -> bytes:
        raise BuildError("the source's cached bytes ended early", Code.INVALID_ARCHIVE)


def test_a_source_that_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    broken = File(bytes(32), 10, executable=False, content=Broken())

    with pytest.raises(BuildError, match=r"^the source's cached bytes ended early$"):
        storage.put("apps", "web", Directory.of_entries({"a": broken}))
    assert list(tmp_path.rglob("*")) == [tmp_path / "externalartifact"]


def test_syncing_what_is_gone_is_an_error(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    archive = storage.put("apps", "web", TREE)
    (tmp_path / archive.path).unlink()

    with pytest.raises(StorageError) as caught:
        storage.sync([archive])
    assert str(caught.value) == f"{archive.path}: cannot sync: no such file or directory"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_full_disk_is_told_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    before = DiskStorage(tmp_path).put("apps", "web", TREE)
    script = """
        import os, random, resource, sys
        from pathlib import Path
        from sluice.core.errors import StorageError
        from sluice.core.tree import Directory
        from sluice.storage import DiskStorage

        storage = DiskStorage(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        big = Directory.of({"big": random.Random(1).randbytes(1_000_000)})
        for name in ("web", "new"):
            try:
                storage.put("apps", name, big)
            except StorageError as error:
                print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(storage.put("apps", "web", big).size > 1_000_000, len(os.listdir("/proc/self/fd")) < 10)
    """
    ran = run(script, tmp_path)

    assert (ran.stdout.splitlines(), ran.stderr) == (
        [
            "externalartifact/apps/web: cannot write: file too large",
            "externalartifact/apps/new: cannot write: file too large",
            "True True",
        ],
        "",
    )
    assert before.path in files(tmp_path)
    assert len(files(tmp_path)) == 2
    assert not (tmp_path / "externalartifact/apps/new").exists()


# Each child ends itself by SIGKILL: at the n-th call that changes the directory, or at the n-th slice of a file.
KILLED = """
    import os, random, signal, sys
    from pathlib import Path
    from sluice.core.tree import Directory, File
    from sluice.storage import DiskStorage

    CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.utime"}

    class Lethal:
        def __init__(self, data, left):
            self.data, self.left = data, left

        def read(self, offset, size):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
            return self.data[offset : offset + size]

    def work(root, call, slice_):
        seen = 0

        def count(event, arguments):
            nonlocal seen
            if event in CALLS:
                seen += 1
                if seen == call:
                    os.kill(os.getpid(), signal.SIGKILL)

        storage = DiskStorage(root)
        data = random.Random(1).randbytes(1_500_000)
        content = Lethal(data, slice_)
        big = Directory.of_entries({"big": File(bytes(32), len(data), False, content)})
        sys.addaudithook(count)
        first = storage.put("apps", "web", big)
        second = storage.put("apps", "web", Directory.of({"a": b"a"}))
        storage.sync([first, second])
        storage.delete("apps", "web")

    for call, slice_ in [(n, 0) for n in range(1, 80)] + [(0, n) for n in range(1, 9)]:
        root = Path(sys.argv[1], f"call-{call}-slice-{slice_}")
        root.mkdir()
        child = os.fork()
        if not child:
            work(root, call, slice_)
            os._exit(0)
        print(root.name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_kill_at_any_point_leaves_no_part_of_a_file_under_a_name(tmp_path: Path) -> None:
    ran = run(KILLED, tmp_path)
    assert ran.stderr == ""
    codes = {name: int(code) for name, code in map(str.split, ran.stdout.splitlines())}
    assert set(codes.values()) == {0, -signal.SIGKILL}
    assert codes["call-1-slice-0"] == codes["call-30-slice-0"] == codes["call-0-slice-5"] == -signal.SIGKILL
    assert codes["call-79-slice-0"] == codes["call-0-slice-8"] == 0, "there are points after the last that was tried"

    for name in codes:
        root = tmp_path / name
        before = files(root)
        storage = DiskStorage(root)
        assert {path for path in before if not path.endswith(".tmp")} == files(root)
        for path in files(root):
            *_, filename = path.split("/")
            data = (root / path).read_bytes()
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            assert storage.verify("apps", "web", filename, digest) is State.PRESENT
            assert read_archive(data).files == 1


# Retention


@pytest.mark.parametrize(
    ("ages", "keep", "gone"),
    [
        pytest.param([0], 1, [], id="the current archive stays"),
        pytest.param([0, 1], 2, [], id="within both limits"),
        pytest.param([0, 1, 2], 2, [], id="too many, but superseded a moment ago: all stay"),
        pytest.param([0, 9], 2, [], id="old, but one of the newest two: it stays"),
        pytest.param([0, 1, 9], 2, ["h9"], id="superseded long ago and beyond the newest two: it goes"),
        pytest.param([9], 1, [], id="too old but current: it stays"),
        pytest.param([0, 7, 9, 8], 1, ["h9", "h8", "h7"], id="the oldest goes first"),
        pytest.param([0, 9], 0, ["h9"], id="keeping none keeps the current one"),
        pytest.param([0, None, 9], 2, ["h9"], id="one to be published counts as new"),
        pytest.param([0, None, None], 0, [], id="those to be published stay"),
        pytest.param([0, 5], 1, [], id="superseded exactly the retention time ago: it stays"),
    ],
)
def test_retention(ages: list[int | None], keep: int, gone: list[str]) -> None:
    archives = [ArchiveFile(f"h{age}", None if age is None else START - age * HOUR) for age in ages]
    garbage = select_garbage(archives, current=f"h{ages[0]}", keep=keep, ttl=5 * HOUR, now=START)

    assert [file.filename for file in garbage] == gone


@given(
    st.dictionaries(st.text("abc", min_size=1), st.none() | st.datetimes(), min_size=1),
    st.integers(0, 4),
    st.timedeltas(timedelta(0), timedelta(days=9)),
    st.datetimes(),
    st.data(),
)
def test_garbage_never_holds_what_must_stay(
    ages: dict[str, datetime | None], keep: int, ttl: timedelta, now: datetime, data: st.DataObject
) -> None:
    current = data.draw(st.sampled_from(sorted(ages)))
    archives = [ArchiveFile(name, age) for name, age in ages.items()]
    garbage = select_garbage(archives, current=current, keep=keep, ttl=ttl, now=now)

    assert current not in {file.filename for file in garbage}
    assert all(file.superseded is not None and now - file.superseded > ttl for file in garbage)
    assert len(archives) - len(garbage) >= min(keep, len(archives))
    assert [file.superseded for file in garbage] == sorted(file.superseded for file in garbage if file.superseded)
