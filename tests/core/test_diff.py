"""Trees compared, and texts."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.core.diff import MAX_LINES, diff_lines, diff_trees, is_binary
from sluice.core.tree import EMPTY, Directory, Entry, File, Link, Staging

Tree = dict[str, bytes | None]
"""Files by path; None is an empty directory."""


def tree(files: Tree, executable: Sequence[str] = ()) -> Directory:
    staging = Staging()
    for path, data in files.items():
        staging.put(path, EMPTY if data is None else File.of(data, executable=path in executable))
    return staging.finish()


def changes(before: Directory, after: Directory) -> list[str]:
    return [f"{change.kind} {change.path}" for change in diff_trees(before, after)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param({"a": b"1"}, {"a": b"1"}, [], id="nothing"),
        pytest.param({"a": b"1"}, {"a": b"2"}, ["modified a"], id="another content"),
        pytest.param({}, {"a/b": b"", "c": b""}, ["added a/b", "added c"], id="everything is new"),
        pytest.param({"a/b": b"", "c": b""}, {}, ["removed a/b", "removed c"], id="everything is gone"),
        pytest.param({"a": b"", "b": b""}, {"b": b"", "c": b""}, ["removed a", "added c"], id="renamed"),
        pytest.param({"a": b""}, {"a/b": b""}, ["removed a", "added a/b"], id="a file becomes a directory"),
        pytest.param({"a/b": b""}, {"a": b""}, ["removed a/b", "added a"], id="a directory becomes a file"),
        pytest.param({"a": None}, {}, ["removed a"], id="an empty directory goes"),
        pytest.param({}, {"a": None}, ["added a"], id="an empty directory comes"),
        pytest.param({"a": None}, {"a/b": b""}, ["removed a", "added a/b"], id="it is not empty any more"),
        pytest.param({"a/b": b""}, {"a": None}, ["added a", "removed a/b"], id="it is empty now"),
        pytest.param({"a": None}, {"a": b""}, ["removed a", "added a"], id="an empty directory becomes a file"),
        pytest.param(
            {"a-b": b"", "a/b": b""}, {"a-b": b"1", "a/b": b"1"}, ["modified a/b", "modified a-b"], id="order"
        ),
    ],
)
def test_what_differs(before: Tree, after: Tree, expected: list[str]) -> None:
    assert changes(tree(before), tree(after)) == expected


def test_only_the_executable_bit() -> None:
    (change,) = diff_trees(tree({"a": b""}), tree({"a": b""}, executable=["a"]))

    assert change.mode_only
    assert change.kind == "modified"


def test_a_link_is_compared_by_its_target() -> None:
    before, after = (Directory.of_entries({"a": Link(target)}) for target in "xy")

    assert changes(before, before) == []
    assert changes(before, after) == ["modified a"]


def test_equal_directories_are_not_looked_into() -> None:
    class Closed(dict[str, Entry]):
        def get(self, *_: object) -> None:  # type: ignore[override]  # whoever asks is wrong
            raise AssertionError

    shared = tree({"b": b""})
    closed = Directory(Closed(shared.entries), shared.digest, 1, 0, has_links=False)

    assert changes(Directory.of_entries({"s": closed}), Directory.of_entries({"s": closed, "n": File.of(b"")})) == [
        "added n"
    ]


PATHS = st.sampled_from(["a", "b", "b-c", "d/a", "d/b", "d/e/f", "d/e/g"])
TREES = st.dictionaries(PATHS, st.sampled_from([b"", b"1", b"2"]))


@given(TREES, TREES)
def test_changes_lead_from_one_to_the_other(before: Tree, after: Tree) -> None:
    files = dict(before)
    for change in diff_trees(tree(before), tree(after)):
        if change.after is None:
            del files[change.path]
        else:
            assert isinstance(change.after, File)
            files[change.path] = change.after.read()

    assert files == after


@given(TREES)
def test_a_tree_does_not_differ_from_itself(files: Tree) -> None:
    assert changes(tree(files), tree(files)) == []


# Texts


def patched(before: bytes, hunks: Sequence[str]) -> bytes:
    """Apply the hunks of a unified diff."""
    old = re.findall(rb"[^\n]*\n|[^\n]+", before)
    new: list[bytes] = []
    at = 0
    last = ""
    for hunk in hunks:
        if heading := re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@", hunk):
            first, length = int(heading[1]), heading[2]
            begin = first if length == "0" else first - 1
            new += old[at:begin]
            at = begin
        elif hunk.startswith("\\"):
            # It speaks of the line before: where that is one to be kept, it has no end.
            if last != "-":
                new[-1] = new[-1].removesuffix(b"\n")
        else:
            last = hunk[0]
            line = hunk[1:].encode("utf-8", "surrogateescape")
            if last != "+":
                assert old[at].removesuffix(b"\n") == line
                at += 1
            if last != "-":
                new.append(line + b"\n")
    return b"".join([*new, *old[at:]])


TEXTS = st.lists(st.sampled_from(["a", "b", "c", "\x0c", ""]), max_size=40).map("\n".join).map(str.encode)


@given(TEXTS, TEXTS)
def test_a_patch_leads_from_one_text_to_the_other(before: bytes, after: bytes) -> None:
    hunks = diff_lines(before, after)

    assert hunks is not None
    assert patched(before, hunks) == after


@pytest.mark.parametrize(
    ("before", "after", "hunks"),
    [
        pytest.param(b"a\n", b"a\n", [], id="equal"),
        pytest.param(b"", b"a\n", ["@@ -0,0 +1 @@", "+a"], id="a new file"),
        pytest.param(b"a\nb\n", b"", ["@@ -1,2 +0,0 @@", "-a", "-b"], id="a file that goes"),
        pytest.param(
            b"a",
            b"a\n",
            ["@@ -1 +1 @@", "-a", "\\ No newline at end of file", "+a"],
            id="only the last newline",
        ),
        pytest.param(
            b"1\n2\n3\n4\n5\n6\n7\n",
            b"1\n2\n3\n4\nx\n6\n7\n",
            ["@@ -2,6 +2,6 @@", " 2", " 3", " 4", "-5", "+x", " 6", " 7"],
            id="three lines around it",
        ),
    ],
)
def test_hunks(before: bytes, after: bytes, hunks: list[str]) -> None:
    assert diff_lines(before, after) == hunks


def test_too_many_lines() -> None:
    many = b"".join(b"%d\n" % number for number in range(MAX_LINES + 1))

    assert diff_lines(b"", many) is None
    assert diff_lines(many, b"x\n" + many) == ["@@ -1,3 +1,4 @@", "+x", " 0", " 1", " 2"]


@pytest.mark.parametrize(
    ("data", "binary"),
    [(b"text\n", False), ("naïve".encode(), False), (b"", False), (b"a\0b", True), (b"\xff", True)],
)
def test_binary(data: bytes, binary: bool) -> None:
    assert is_binary(data) is binary
