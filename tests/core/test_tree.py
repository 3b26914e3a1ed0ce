"""Trees: digests, look-ups, links, and stagings."""

from __future__ import annotations

import re

import pytest

from sluice.core.errors import BuildError, Code, StorageError
from sluice.core.tree import (
    EMPTY,
    Directory,
    Entry,
    File,
    Link,
    MemoryContent,
    PathConflict,
    Staging,
    encode_name,
    sort_names,
)

TREE = Directory.of({"a/b/c": b"c", "a/d": b"d", "e": b"e"}, executable=["e"])


def linked(**entries: Entry) -> Directory:
    return Directory.of_entries(entries)


class TestDigest:
    def test_the_vector_of_the_design(self) -> None:
        tree = Directory.of({"a/x": b"1\n", "b": b"2\n"}, executable=["a/x"])
        below = tree.find("a")

        assert isinstance(below, Directory)
        assert below.digest.hex() == "71c916ecdc5992b15a093f48fdcdffbd681aa54c84fc87362498e833e68277d2"
        assert tree.digest.hex() == "c663882a564cc5477c4f11af71d2bf1bbd217584e58b37fcce87c231623691dd"

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param(Directory.of({"a": b"2"}), id="another content"),
            pytest.param(Directory.of({"b": b"1"}), id="another name"),
            pytest.param(Directory.of({"a": b"1"}, executable=["a"]), id="executable"),
            pytest.param(Directory.of({"a": b"1", "b": b""}), id="an empty file more"),
            pytest.param(linked(a=File.of(b"1"), b=EMPTY), id="an empty directory more"),
            pytest.param(linked(a=Link("1")), id="a link instead"),
            pytest.param(linked(a=EMPTY), id="a directory instead"),
            pytest.param(EMPTY, id="nothing"),
        ],
    )
    def test_tells_trees_apart(self, other: Directory) -> None:
        assert Directory.of({"a": b"1"}).digest != other.digest

    def test_does_not_know_where_the_bytes_are(self) -> None:
        there = File.of(b"12")
        elsewhere = File(there.digest, 2, False, MemoryContent(b"x12y"), 1)

        assert elsewhere.read() == b"12"
        assert linked(a=there).digest == linked(a=elsewhere).digest

    def test_names_are_sorted_as_bytes(self) -> None:
        names = ["é", "z", "\udcff", "\U0001f600", "a-b", "a", "\uff5e"]

        assert sort_names(names) == ["a", "a-b", "z", "é", "\uff5e", "\U0001f600", "\udcff"]
        assert [encode_name(name) for name in sort_names(names)] == sorted(map(encode_name, names))
        assert list(Directory.of(dict.fromkeys(names, b"")).entries) == sort_names(names)


class TestDirectory:
    def test_counts_what_is_below(self) -> None:
        assert (TREE.files, TREE.size, TREE.has_links) == (3, 3, False)
        assert (EMPTY.files, EMPTY.size) == (0, 0)
        assert linked(a=linked(b=Link("x"))).has_links

    @pytest.mark.parametrize(
        ("path", "found"),
        [
            pytest.param("a/b/c", True, id="a file"),
            pytest.param("a/b", True, id="a directory"),
            pytest.param("", True, id="the root"),
            pytest.param("a/x", False, id="a missing name"),
            pytest.param("e/x", False, id="a name below a file"),
            pytest.param("x/y/z", False, id="a missing directory"),
        ],
    )
    def test_find(self, path: str, found: bool) -> None:
        assert (TREE.find(path) is not None) == found

    def test_walks_depth_first_in_byte_order_and_a_directory_before_its_content(self) -> None:
        tree = Directory.of({"a-b/x": b"", "a/x": b"", "a/b/y": b"", "a.b": b""})

        assert [path for path, _ in tree.walk()] == ["a", "a/b", "a/b/y", "a/x", "a-b", "a-b/x", "a.b"]
        assert next(tree.walk("top"))[0] == "top/a"

    def test_a_file_that_ends_early_is_an_error_of_the_store(self) -> None:
        with pytest.raises(StorageError, match=r"^a cached source ended early$"):
            File(b"", 3, False, MemoryContent(b"12")).read()


class TestLinks:
    TREE = linked(
        d=linked(f=File.of(b"f"), up=Link("../top"), here=Link("f"), dots=Link(".//./f"), out=Link("../../x")),
        top=File.of(b"t"),
        dir=Link("d"),
        chain=Link("dir/here"),
        loop=Link("loop"),
        absolute=Link("/etc/passwd"),
        dangling=Link("nowhere"),
        through=Link("top/x"),
        self=Link("."),
    )

    @pytest.mark.parametrize(
        ("path", "content"),
        [
            pytest.param("d/here", b"f", id="a link beside its target"),
            pytest.param("d/up", b"t", id="a link upwards"),
            pytest.param("d/dots", b"f", id="dots and empty components"),
            pytest.param("dir/f", b"f", id="a path through a link to a directory"),
            pytest.param("chain", b"f", id="a link through a link"),
            pytest.param("self/self/d/f", b"f", id="a link to the root"),
            pytest.param("dangling", None, id="a link to nothing"),
            pytest.param("through", None, id="a link below a file"),
            pytest.param("top/x", None, id="a path below a file"),
        ],
    )
    def test_find_follows(self, path: str, content: bytes | None) -> None:
        found = self.TREE.find(path)

        assert (found.read() if isinstance(found, File) else found) == content

    @pytest.mark.parametrize(
        ("path", "text", "code"),
        [
            ("d/out", "'d/out' is a link that leaves the source", Code.ESCAPE),
            ("absolute", "'absolute' is a link that leaves the source", Code.ESCAPE),
            ("loop", "'loop' passes more than 8 links", Code.NOT_FOUND),
            ("self/" * 9 + "top", f"'{'self/' * 9}top' passes more than 8 links", Code.NOT_FOUND),
        ],
    )
    def test_find_refuses(self, path: str, text: str, code: Code) -> None:
        with pytest.raises(BuildError, match=f"^{re.escape(text)}$") as caught:
            self.TREE.find(path)

        assert caught.value.code == code

    def test_eight_links_are_followed(self) -> None:
        assert isinstance(self.TREE.find("self/" * 8 + "top"), File)

    def test_the_target_of_a_link_is_its_content(self) -> None:
        assert Link("a").digest != Link("b").digest
        assert Link("é").mode == "l"


class TestStaging:
    def test_shares_what_is_put_where_nothing_was(self) -> None:
        staging = Staging()
        staging.put("x/y", TREE)

        assert staging.find("x/y") is TREE
        assert staging.finish().find("x/y") is TREE

    def test_opens_only_the_way_to_a_change(self) -> None:
        staging = Staging()
        staging.put("", TREE)
        staging.put("a/new", File.of(b"n"))
        done = staging.finish()

        assert done.find("a/b") is TREE.find("a/b")
        assert done.find("e") is TREE.find("e")
        assert TREE.find("a/new") is None

    def test_an_equal_directory_is_not_opened(self) -> None:
        staging = Staging()
        staging.put("x", TREE)
        staging.put("x", Directory.of({"a/b/c": b"c", "a/d": b"d", "e": b"e"}, executable=["e"]))

        assert staging.find("x") is TREE

    def test_starts_from_a_tree(self) -> None:
        staging = Staging(TREE)
        staging.put("f", File.of(b"f"))

        assert (
            staging.finish().digest
            == Directory.of({"a/b/c": b"c", "a/d": b"d", "e": b"e", "f": b"f"}, executable=["e"]).digest
        )

    @pytest.mark.parametrize(
        ("path", "entry", "where"),
        [
            pytest.param("a", File.of(b""), "a", id="a file over a directory"),
            pytest.param("e", EMPTY, "e", id="an empty directory over a file"),
            pytest.param("e", TREE, "e", id="a directory over a file"),
            pytest.param("e/x", File.of(b""), "e", id="a path below a file"),
            pytest.param("e/x/y", EMPTY, "e", id="a path far below a file"),
            pytest.param("", Directory.of({"a": b""}), "a", id="a file inside, over a directory"),
            pytest.param("", Directory.of({"a/b/c/x": b""}), "a/b/c", id="a directory deep inside, over a file"),
            pytest.param("", File.of(b""), ".", id="a file over the root"),
        ],
    )
    def test_conflicts(self, path: str, entry: File | Directory, where: str) -> None:
        staging = Staging(TREE)

        with pytest.raises(PathConflict, match=f"^'{re.escape(where)}' is both a file and a directory$") as caught:
            staging.put(path, entry)
        assert caught.value.code == Code.CONFLICT

    def test_an_empty_directory_over_a_file_can_be_passed_over(self) -> None:
        staging = Staging(TREE)
        staging.put("e", EMPTY, ignore_empty=True)
        staging.put("", linked(e=EMPTY), ignore_empty=True)

        assert staging.finish().digest == TREE.digest
        with pytest.raises(PathConflict):
            staging.put("e", linked(x=EMPTY), ignore_empty=True)

    def test_directories_are_known(self) -> None:
        staging = Staging(TREE)
        staging.put("n/o", File.of(b""))

        assert [staging.is_directory(path) for path in ("", "a", "a/b", "n")] == [True] * 4
        assert [staging.is_directory(path) for path in ("e", "e/x", "a/b/c", "x", "n/o")] == [False] * 5

    def test_find_sees_what_was_put(self) -> None:
        staging = Staging(TREE)
        staging.put("a/new", File.of(b"n"))
        found = staging.find("a")

        assert isinstance(found, Directory)
        assert list(found.entries) == ["b", "d", "new"]
        assert staging.find("e/x") is None

    @pytest.mark.parametrize(
        ("path", "left"),
        [
            pytest.param("a/d", ["a", "a/b", "a/b/c", "e"], id="a file"),
            pytest.param("a/b/c", ["a", "a/d", "e"], id="a file and the directory that held nothing else"),
            pytest.param("a/b", ["a", "a/b", "a/b/c", "a/d", "e"], id="not a directory"),
            pytest.param("a/x/y", ["a", "a/b", "a/b/c", "a/d", "e"], id="nothing that is not there"),
        ],
    )
    def test_remove(self, path: str, left: list[str]) -> None:
        staging = Staging(TREE)
        staging.remove(path)

        assert [path for path, _ in staging.finish().walk()] == left
        assert TREE.find("a/b/c") is not None

    def test_removing_the_only_file_leaves_the_root(self) -> None:
        staging = Staging(Directory.of({"a/b/c": b""}))
        staging.remove("a/b/c")

        assert staging.finish().digest == EMPTY.digest


def deep(levels: int, name: str = "d") -> Directory:
    tree = Directory.of({"f": name.encode()})
    for _ in range(levels):
        tree = linked(d=tree)
    return tree


def test_deep_trees_are_united_found_walked_and_digested() -> None:
    first, second = deep(255), Directory.of_entries({**deep(254).entries, "g": File.of(b"g")})
    staging = Staging(first)
    staging.put("d", second)
    staging.put("/".join(["d"] * 255 + ["h"]), File.of(b"h"))
    done = staging.finish()

    assert (done.files, first.files) == (3, 1)
    assert len(list(done.walk())) == 255 + 3
    assert isinstance(done.find("/".join(["d"] * 255 + ["f"])), File)
