"""What archives are written, and what is read from ordinary ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator

import pytest

from sluice.core import tar
from sluice.core.errors import StorageError
from sluice.core.gzip import SLICE, inflate
from sluice.core.limits import DEFAULT_LIMITS
from sluice.core.tree import Directory, File, MemoryContent, Staging
from sluice.core.untar import EXTRACT, SOURCE, index, read_archive, unpack


def stream(tree: Directory) -> bytes:
    return b"".join(tar.tar_stream(tree))


def archive(tree: Directory) -> bytes:
    out = io.BytesIO()
    tar.write_archive(tree, out)
    return out.getvalue()


def made_by_tarfile(files: Iterable[tuple[str, bytes, int]], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=form) as file:
        for name, data, mode in files:
            info = tarfile.TarInfo(name)
            info.mtime, info.mode = 1_700_000_000, mode
            info.uname = info.gname = "somebody"
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
                file.addfile(info)
            else:
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def read_back(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        return file.getmembers()


class Zeros:
    """Endless zeros, and how many were asked for at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def read(self, offset: int, size: int) -> bytes:
        self.sizes.append(size)
        return bytes(size)


class TestWriting:
    def test_the_bytes_are_those_of_the_peer(self) -> None:
        tree = Directory.of(
            {
                "kustomization.yaml": b"resources:\n- base\n",
                "base/cm.yaml": b"kind: ConfigMap\n",
                "run.sh": b"#!/bin/sh\n",
                "chart.tgz": b"x",
            },
            executable=["run.sh"],
        )

        data = stream(tree)

        assert len(data) == 6144
        assert hashlib.sha256(data).hexdigest() == "e2e2737f4f4831f8b1c5100f1468fac25bc8c753a5196c2f73c3504301bb2e43"

    def test_an_empty_tree_is_its_root_and_the_end_marker(self) -> None:
        data = stream(Directory.of({}))

        assert [member.name for member in read_back(data)] == ["."]
        assert data[512:] == bytes(1024)

    @pytest.mark.parametrize(
        ("path", "blocks"),
        [
            pytest.param("a" * 100, 1, id="as long as the field"),
            pytest.param("a" * 101, 3, id="one more, without a directory to split at"),
            pytest.param("d" * 155 + "/" + "f" * 100, 1, id="as long as both fields"),
            pytest.param("d" * 156 + "/f", 3, id="a directory too long for the prefix"),
            pytest.param("d/" + "f" * 101, 3, id="a name too long for the field"),
            pytest.param("é", 3, id="not ASCII"),
            pytest.param("é/" + "日" * 90, 3, id="not ASCII and long"),
            pytest.param("stray\udcff", 3, id="not UTF-8"),
            pytest.param("n" * 990, 4, id="more records than a block holds"),
        ],
    )
    def test_a_path_takes_records_only_where_it_must(self, path: str, blocks: int) -> None:
        data = stream(Directory.of({path: b""}))
        [member] = [member for member in read_back(data) if member.isfile()]

        assert member.name == path
        assert member.offset_data - member.offset == blocks * 512
        assert read_archive(gzip.compress(data)).find(path) is not None

    def test_a_cut_name_does_not_look_like_a_directory(self) -> None:
        data = stream(Directory.of({"d" * 99 + "/" + "f" * 101: b""}))

        assert data[-1536:-1436] == b"d" * 99 + b"\0"

    def test_a_size_beyond_the_field_is_a_record(self) -> None:
        huge = Staging()
        huge.put("big", File(b"", 8**11, False, Zeros()))
        first = next(tar.tar_stream(huge.finish()))

        with tarfile.open(fileobj=io.BytesIO(first)) as file:
            file.next()
            member = file.next()

        assert member is not None
        assert (member.name, member.size) == ("big", 8**11)

    def test_a_content_that_ends_early_is_an_error(self) -> None:
        short = Staging()
        short.put("a", File(b"", 10, False, MemoryContent(b"123")))

        with pytest.raises(StorageError, match=r"^a cached source ended early$"):
            archive(short.finish())

    def test_large_files_are_streamed(self) -> None:
        content = Zeros()
        tree = Staging()
        tree.put("large", File(b"", 5 * SLICE + 1, False, content))
        tree.put("small", File(b"", 100, False, content))

        slices = [len(data) for data in tar.tar_stream(tree.finish())]

        assert max(content.sizes) == SLICE
        assert max(slices) < 2 * SLICE
        assert sum(slices) == 512 + 512 + 5 * SLICE + 512 + 512 + 512 + 1024

    def test_the_gzip_header_tells_nothing(self) -> None:
        assert archive(Directory.of({"a": b"a"}))[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"

    @pytest.mark.parametrize("algorithm", tar.HASHES)
    def test_digests_are_of_the_compressed_bytes(self, algorithm: str) -> None:
        out = io.BytesIO()
        written = tar.write_archive(Directory.of({"a": b"a" * 10_000}), out, [algorithm])

        expected = tar.HASHES[algorithm]()
        expected.update(out.getvalue())
        assert written == tar.Archive(len(out.getvalue()), {algorithm: expected.hexdigest()})


class TestReading:
    FILES = (
        ("app/", b"", 0o755),
        ("app/run.sh", b"#!/bin/sh\n", 0o755),
        ("app/" + "long/" * 60 + "values.yaml", b"a: 1\n", 0o644),
        ("ünïcödé/日本.yaml", b"b: 2\n", 0o600),
        ("empty/", b"", 0o000),
    )

    @pytest.mark.parametrize(
        "form",
        [
            pytest.param(tarfile.PAX_FORMAT, id="PAX"),
            pytest.param(tarfile.GNU_FORMAT, id="GNU"),
            pytest.param(tarfile.USTAR_FORMAT, id="USTAR"),
        ],
    )
    def test_archives_of_other_writers(self, form: int) -> None:
        files = [file for file in self.FILES if form != tarfile.USTAR_FORMAT or len(file[0]) <= 100]
        tree = read_archive(made_by_tarfile(files, form))

        expected = Staging()
        for name, data, mode in files:
            entry = Directory.of({}) if name.endswith("/") else File.of(data, executable=bool(mode & 0o111))
            expected.put(name.rstrip("/"), entry)
        assert tree.digest == expected.finish().digest
        assert all(entry.read() is not None for _, entry in tree.walk() if isinstance(entry, File))

    def test_files_say_where_in_the_stream_they_are(self) -> None:
        data = stream(Directory.of({"a": b"first", "b": b"second"}))

        tree = index([data], MemoryContent(data), SOURCE, DEFAULT_LIMITS)

        found = tree.find("b")
        assert isinstance(found, File)
        assert (found.offset, found.read()) == (512 * 4, b"second")

    def test_unpacking_stores_the_stream_that_is_indexed(self) -> None:
        tree = Directory.of({"a": b"a" * 600_000, "b": b"b"})
        packed = archive(tree)
        out = io.BytesIO()

        class Stored:
            def read(self, offset: int, size: int) -> bytes:
                return out.getvalue()[offset : offset + size]

        read = unpack([packed[:10], packed[10:]], out, Stored(), EXTRACT, DEFAULT_LIMITS)

        assert read.digest == tree.digest
        assert out.getvalue() == stream(tree)
        assert {path: entry.read() for path, entry in read.walk() if isinstance(entry, File)} == {
            "a": b"a" * 600_000,
            "b": b"b",
        }

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(gzip.compress(b""), id="gzip of nothing"),
            pytest.param(gzip.compress(bytes(1024)), id="an empty archive"),
            pytest.param(gzip.compress(bytes(512)), id="one block of zeros"),
            pytest.param(gzip.compress(bytes(1024) + b"whatever"), id="other bytes after the end marker"),
            pytest.param(gzip.compress(b"") * 1000, id="a thousand empty members"),
        ],
    )
    def test_an_archive_of_nothing_is_an_empty_tree(self, data: bytes) -> None:
        assert read_archive(data).digest == Directory.of({}).digest

    def test_a_missing_end_marker_is_accepted_between_entries(self) -> None:
        tree = Directory.of({"a": b"a"})

        assert read_archive(gzip.compress(stream(tree)[:-1024])).digest == tree.digest

    def test_concatenated_members_are_one_archive(self) -> None:
        tree = Directory.of({"a": b"a" * 2000, "b": b"b"})
        data = stream(tree)
        parts = b"".join(gzip.compress(data[at : at + 700]) for at in range(0, len(data), 700))

        assert read_archive(parts).digest == tree.digest

    def test_what_is_decompressed_comes_in_slices(self) -> None:
        packed = gzip.compress(bytes(10 * SLICE))

        slices = list(inflate([packed], DEFAULT_LIMITS, size=20 * SLICE, field="source_size"))

        assert sum(map(len, slices)) == 10 * SLICE
        assert max(map(len, slices)) <= SLICE

    def test_nothing_is_decompressed_ahead_of_its_reader(self) -> None:
        taken = 0

        def chunks() -> Iterator[bytes]:
            nonlocal taken
            packed = gzip.compress(bytes(64 * SLICE))
            for at in range(0, len(packed), 1000):
                taken += 1
                yield packed[at : at + 1000]

        next(inflate(chunks(), DEFAULT_LIMITS, size=64 * SLICE, field="source_size"))

        assert taken <= 2
