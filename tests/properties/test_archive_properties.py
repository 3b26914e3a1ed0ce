"""Laws of archives."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from sluice.core import tar
from sluice.core.errors import LimitExceeded
from sluice.core.gzip import InvalidArchive, inflate
from sluice.core.limits import DEFAULT_LIMITS
from sluice.core.tree import EMPTY, Directory, File, MemoryContent, PathConflict, Staging
from sluice.core.untar import EXTRACT, index, read_archive

# What a tar name can hold and a reader accepts: no slash, no backslash, no NUL, and no dots at the end,
# as "x../y" is refused everywhere.
names = (
    st.binary(min_size=1, max_size=120)
    .map(lambda raw: raw.translate(None, b"/\\\0").decode("utf-8", "surrogateescape"))
    .filter(lambda name: name and not name.endswith("."))
) | st.sampled_from(["a", "b", "a-b", "a.b", "A", "é", "e\u0301", "日本", "-x", "~", "…", "n" * 101])
paths = st.lists(names, min_size=1, max_size=6).map("/".join)
contents = st.binary(max_size=1200) | st.integers(0, 3).map(lambda n: b"x" * (n * 512))


@st.composite
def trees(draw: st.DrawFn) -> Directory:
    staging = Staging()
    for path, data, executable in draw(st.lists(st.tuples(paths, st.none() | contents, st.booleans()), max_size=12)):
        try:
            staging.put(path, EMPTY if data is None else File.of(data, executable=executable))
        except PathConflict:
            continue
    return staging.finish()


def archive(tree: Directory) -> bytes:
    out = io.BytesIO()
    tar.write_archive(tree, out)
    return out.getvalue()


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


@given(trees())
def test_an_archive_reads_back_as_the_tree_it_was_written_from(tree: Directory) -> None:
    read = read_archive(archive(tree))

    assert read.digest == tree.digest
    assert (read.files, read.size) == (tree.files, tree.size)
    for path, entry in tree.walk():
        found = read.find(path)
        assert type(found) is type(entry)
        if isinstance(entry, File):
            assert isinstance(found, File)
            assert found.read() == entry.read()


@given(trees())
def test_equal_trees_give_equal_bytes(tree: Directory) -> None:
    twin = read_archive(archive(tree))

    assert archive(twin) == archive(tree)


@given(trees(), st.lists(st.integers(0, 700), max_size=40))
def test_a_tree_does_not_depend_on_how_its_archive_arrives(tree: Directory, sizes: list[int]) -> None:
    packed = archive(tree)
    stream = b"".join(tar.tar_stream(tree))

    inflated = inflate(cut(packed, sizes), DEFAULT_LIMITS, size=len(stream), field="source_size")
    assert b"".join(inflated) == stream
    assert index(cut(stream, sizes), MemoryContent(stream), EXTRACT, DEFAULT_LIMITS).digest == tree.digest


@given(trees(), st.data())
def test_a_cut_archive_is_never_a_part_of_its_tree(tree: Directory, data: st.DataObject) -> None:
    packed = archive(tree)
    end = data.draw(st.integers(0, len(packed) - 1))

    try:
        read_archive(packed[:end])
    except InvalidArchive:
        return
    raise AssertionError(f"accepted {end} of {len(packed)} bytes")


@given(trees(), st.data())
def test_a_forged_header_makes_a_tree_or_a_typed_error(tree: Directory, data: st.DataObject) -> None:
    stream = bytearray(b"".join(tar.tar_stream(tree)))
    at = data.draw(st.integers(0, 511))
    forged = data.draw(st.binary(min_size=1, max_size=16))[: 512 - at]
    stream[at : at + len(forged)] = forged
    stream[148:156] = b" " * 8
    stream[148:156] = b"%06o\0 " % sum(stream[:512])

    message = ""
    try:
        read_archive(gzip.compress(stream))
    except (InvalidArchive, LimitExceeded) as error:
        message = str(error)
    assert message.isprintable()
