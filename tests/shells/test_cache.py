from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from tests.shells.descriptors import open_below

from sluice import cache as cache_module
from sluice.cache import UnpackedCache
from sluice.content import FileContent
from sluice.core.errors import BuildError, Code, SourceError, StorageError
from sluice.core.limits import KIB, Limits
from sluice.core.tree import Directory, File


def archive(files: dict[str, bytes], *, link: str | None = None) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        if link is not None:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "elsewhere"
            tar.addfile(member)
    return gzip.compress(raw.getvalue(), mtime=0)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def slices(data: bytes, size: int = 7) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


ONE = archive({"a/b.yaml": b"b: 1\n", "c": b"c" * 300_000})


@pytest.fixture
def cache(tmp_path: Path) -> UnpackedCache:
    return UnpackedCache(tmp_path)


class TestOpen:
    def test_an_archive_is_a_tree_with_its_digest(self, cache: UnpackedCache) -> None:
        opened = cache.open(slices(ONE))

        assert opened.tree.digest == Directory.of({"a/b.yaml": b"b: 1\n", "c": b"c" * 300_000}).digest
        assert opened.digest == sha256(ONE)
        found = opened.tree.find("c")
        assert isinstance(found, File)
        assert found.read() == b"c" * 300_000
        assert found.content.read(found.offset + 299_990, 10) == b"c" * 10

    @pytest.mark.parametrize(
        ("digest", "algorithm"),
        [
            (hashlib.sha256(ONE).hexdigest(), "sha256"),
            (sha256(ONE), "sha256"),
            (f"sha1:{hashlib.sha1(ONE, usedforsecurity=False).hexdigest()}", "sha1"),
            (f"sha384:{hashlib.sha384(ONE).hexdigest()}", "sha384"),
            (f"sha512:{hashlib.sha512(ONE).hexdigest()}", "sha512"),
            (f"blake3:{blake3(ONE).hexdigest()}", "blake3"),
        ],
    )
    def test_every_algorithm_is_checked(self, cache: UnpackedCache, digest: str, algorithm: str) -> None:
        opened = cache.open([ONE], digest)

        assert opened.digest == f"{algorithm}:{digest.rpartition(':')[2]}"
        with pytest.raises(SourceError, match=f"^digest mismatch: expected {algorithm}:"):
            cache.open([ONE + b"x"], digest)

    @pytest.mark.parametrize(
        "digest",
        [
            pytest.param("", id="empty"),
            pytest.param("sha256:", id="no value"),
            pytest.param(f":{'0' * 64}", id="no algorithm before the colon"),
            pytest.param(f"md5:{'0' * 32}", id="unknown algorithm"),
            pytest.param(f"sha256:{'0' * 40}", id="a sha1 where a sha256 is said to be"),
            pytest.param(f"sha256:{'A' * 64}", id="upper case"),
            pytest.param(f"SHA256:{'0' * 64}", id="algorithm in upper case"),
            pytest.param(f"sha256:{'0' * 63}\n", id="a line break"),
            pytest.param(f"sha256:{'٠' * 64}", id="digits of another script"),
        ],
    )
    def test_a_digest_that_is_none_opens_nothing(self, cache: UnpackedCache, digest: str) -> None:
        with pytest.raises(SourceError) as caught:
            cache.open([ONE], digest)

        shown = digest.replace("\n", "\\n")
        assert str(caught.value) == (
            f"'{shown}' is not a digest (one of sha1, sha256, sha384, sha512, blake3, a colon, lower-case digits)"
        )
        assert caught.value.code is Code.DIGEST_MISMATCH

    def test_the_digest_is_of_the_compressed_bytes(self, cache: UnpackedCache) -> None:
        tar = gzip.decompress(ONE)

        with pytest.raises(SourceError) as caught:
            cache.open([ONE], sha256(tar))

        assert str(caught.value) == f"digest mismatch: expected {sha256(tar)}, got {sha256(ONE)}"
        assert caught.value.code is Code.DIGEST_MISMATCH

    def test_what_fails_its_digest_is_never_decompressed(self, cache: UnpackedCache) -> None:
        broken = b"this is no archive at all"

        with pytest.raises(SourceError, match=r"^digest mismatch: "):
            cache.open([broken], sha256(ONE))
        with pytest.raises(SourceError, match=r"^archive is not gzip$"):
            cache.open([broken], sha256(broken))

    def test_a_cut_archive_is_an_error_wherever_it_is_cut(self, cache: UnpackedCache) -> None:
        for end in range(len(ONE)):
            with pytest.raises(SourceError) as caught:
                cache.open([ONE[:end]])
            assert caught.value.code is Code.INVALID_ARCHIVE

    @pytest.mark.parametrize(
        ("limits", "text"),
        [
            (Limits(download_size=100), "archive is larger than 100 bytes (limit: 100, download_size)"),
            (
                Limits(source_size=KIB),
                "archive decompresses to more than 1024 bytes (limit: 1024, source_size)",
            ),
        ],
    )
    def test_limits(self, tmp_path: Path, limits: Limits, text: str) -> None:
        with pytest.raises(SourceError) as caught:
            UnpackedCache(tmp_path, limits).open([ONE])

        assert str(caught.value) == text
        assert caught.value.code is Code.LIMIT

    def test_an_error_of_the_sender_is_the_callers(self, cache: UnpackedCache, tmp_path: Path) -> None:
        def cut() -> Iterator[bytes]:
            yield ONE[:10]
            raise ConnectionResetError

        before = open_below(tmp_path)
        with pytest.raises(ConnectionResetError):
            cache.open(cut())
        assert open_below(tmp_path) == before

    def test_a_directory_that_is_gone_is_an_error_without_its_name(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError) as caught:
            UnpackedCache(tmp_path / "gone").open([ONE])

        assert str(caught.value) == "source cache: no such file or directory (unpacked sources are kept in TMPDIR)"


class TestKeeping:
    def test_the_same_digest_is_the_same_tree(self, cache: UnpackedCache) -> None:
        first = cache.open([ONE])

        assert cache.open([ONE], sha256(ONE)) is first
        assert cache.find(sha256(ONE)) is first

    def test_naming_a_digest_is_not_enough(self, cache: UnpackedCache) -> None:
        cache.open([ONE])

        with pytest.raises(SourceError, match=r"^digest mismatch: "):
            cache.open([], sha256(ONE))

    def test_nothing_has_a_name_on_disk(self, cache: UnpackedCache, tmp_path: Path) -> None:
        def watched() -> Iterator[bytes]:
            yield ONE
            assert list(tmp_path.iterdir()) == []

        assert cache.open(watched()).tree.files == 2
        assert list(tmp_path.iterdir()) == []

    def test_the_least_recently_used_goes_and_stays_readable_while_in_use(self, tmp_path: Path) -> None:
        files = [archive({"file": bytes([65 + i]) * 10 * KIB}) for i in range(3)]
        cache = UnpackedCache(tmp_path, Limits(cache_size=45 * KIB))
        first = cache.open([files[0]])
        second = cache.open([files[1]])
        assert cache.find(first.digest) is first  # used again
        assert first.size + second.size < 45 * KIB < 3 * first.size

        third = cache.open([files[2]])

        assert [cache.find(opened.digest) for opened in (first, second, third)] == [first, None, third]
        evicted = second.tree.find("file")
        assert isinstance(evicted, File)
        assert evicted.read() == b"B" * 10 * KIB

    def test_the_last_reader_closes_an_evicted_file(self, tmp_path: Path) -> None:
        cache = UnpackedCache(tmp_path, Limits(cache_size=0))
        before = open_below(tmp_path)

        file = cache.open([ONE]).tree.find("c")

        assert open_below(tmp_path) == before + 1
        assert isinstance(file, File)
        assert len(file.read()) == file.size
        del file
        assert open_below(tmp_path) == before

    def test_descriptors_are_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache_module, "MAX_TREES", 3)
        cache = UnpackedCache(tmp_path)
        before = open_below(tmp_path)

        for i in range(10):
            cache.open([archive({"a": b"%d" % i})])

        assert open_below(tmp_path) == before + 3

    def test_a_failed_archive_leaves_nothing(self, cache: UnpackedCache, tmp_path: Path) -> None:
        before = open_below(tmp_path)

        for bad in (ONE[:-1], ONE[:200], b"", ONE + b"x"):
            with pytest.raises(SourceError):
                cache.open([bad])

        assert open_below(tmp_path) == before
        assert list(tmp_path.iterdir()) == []
        assert cache.find(sha256(ONE[:-1])) is None

    def test_threads_agree_on_one_tree(self, cache: UnpackedCache) -> None:
        archives = [archive({"a": random.Random(i).randbytes(50_000)}) for i in range(4)]
        wanted = [Directory.of({"a": random.Random(i).randbytes(50_000)}).digest for i in range(4)]
        barrier = threading.Barrier(8)
        seen: list[tuple[int, bytes, bytes]] = []

        def work(start: int) -> None:
            barrier.wait()
            for i in range(8):
                which = (start + i) % 4
                tree = cache.open(slices(archives[which], 999)).tree
                file = tree.find("a")
                assert isinstance(file, File)
                seen.append((which, tree.digest, hashlib.sha256(file.read()).digest()))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(seen) == 64
        for which, tree_digest, file_digest in seen:
            assert tree_digest == wanted[which]
            assert file_digest == hashlib.sha256(random.Random(which).randbytes(50_000)).digest()
        assert len({id(cache.find(sha256(data))) for data in archives}) == 4


class TestUnpack:
    def test_an_archive_in_a_source(self, cache: UnpackedCache) -> None:
        file = File.of(archive({"x/y": b"y"}))

        tree = cache.unpack(file)

        assert tree.digest == Directory.of({"x/y": b"y"}).digest
        assert cache.unpack(File.of(archive({"x/y": b"y"}))) is tree

    def test_an_archive_in_a_fetched_source(self, cache: UnpackedCache) -> None:
        source = cache.open([archive({"in.tgz": archive({"x": b"1"})})]).tree
        file = source.find("in.tgz")
        assert isinstance(file, File)

        assert cache.unpack(file).digest == Directory.of({"x": b"1"}).digest

    def test_its_rules_are_those_of_extract(self, cache: UnpackedCache) -> None:
        linked = archive({"x": b""}, link="l")

        assert cache.open([linked]).tree.files == 1
        with pytest.raises(BuildError) as caught:
            cache.unpack(File.of(linked))
        assert str(caught.value) == "archive holds 'l', a symbolic link (files and directories only)"

    def test_its_limit_is_that_of_extract(self, tmp_path: Path) -> None:
        cache = UnpackedCache(tmp_path, Limits(extract_size=1000))

        assert cache.unpack(File.of(archive({"x": bytes(1000)}))).size == 1000
        with pytest.raises(BuildError) as caught:
            cache.unpack(File.of(archive({"x": bytes(1001)})))
        assert str(caught.value) == (
            "archive holds 'x', which brings its files to 1001 bytes (limit: 1000, extract_size)"
        )

    def test_bytes_that_changed_since_are_an_error(self, cache: UnpackedCache) -> None:
        old, new = File.of(archive({"x": b"1"})), File.of(archive({"x": b"2"}))
        changed = File(old.digest, new.size, False, new.content)

        with pytest.raises(SourceError, match=r"^digest mismatch: "):
            cache.unpack(changed)

    def test_bytes_that_end_early_are_an_error(self, cache: UnpackedCache) -> None:
        file = File.of(archive({"x": b"1"}))
        longer = File(file.digest, file.size + 1, False, file.content)

        with pytest.raises(StorageError) as caught:
            cache.unpack(longer)
        assert str(caught.value) == "a cached source ended early"


def test_a_cache_file_that_was_cut_is_an_error(cache: UnpackedCache) -> None:
    file = cache.open([ONE]).tree.find("c")
    assert isinstance(file, File)
    assert isinstance(file.content, FileContent)
    os.truncate(f"/proc/self/fd/{file.content._file.number}", file.offset + 5)

    with pytest.raises(StorageError) as caught:
        file.read()
    assert str(caught.value) == "a cached source ended early"
