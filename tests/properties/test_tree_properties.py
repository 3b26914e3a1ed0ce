"""Laws of trees and stagings, against a model that knows only a dict of paths."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

from hypothesis import example, given
from hypothesis import strategies as st
from tests.properties.model import Conflict, Model, contents, make, models, parents, paths, put, put_tree, show, trees

from sluice.core.tree import EMPTY, Directory, File, PathConflict, Staging, encode_name, sort_names


def digest(model: Mapping[str, bytes | None], base: str = "") -> bytes:
    """The digest of a model, by the words of the rule."""
    lines = []
    for path, data in model.items():
        head, _, name = path.rpartition("/")
        if head == base:
            inner = digest(model, path) if data is None else hashlib.sha256(data).digest()
            mode = b"d" if data is None else b"-"
            lines.append((encode_name(name), mode + b" " + inner.hex().encode() + b" " + encode_name(name) + b"\0"))
    return hashlib.sha256(b"".join(line for _, line in sorted(lines))).digest()


@given(models())
def test_a_digest_is_what_the_rule_says(model: Model) -> None:
    assert make(model).digest == digest(model)


@given(models(), st.randoms())
def test_digests_do_not_depend_on_the_order_in_which_entries_came(model: Model, order: random.Random) -> None:
    files = list(model.items())
    order.shuffle(files)
    staging = Staging()
    for path, data in files:
        staging.put(path, EMPTY if data is None else File.of(data))

    assert staging.finish().digest == make(model).digest


@given(trees, trees)
def test_digests_are_equal_for_equal_trees_and_no_others(one: Directory, other: Directory) -> None:
    assert (one.digest == other.digest) == (show(one) == show(other))


@given(trees)
def test_every_path_of_a_walk_is_found_and_the_counts_are_right(tree: Directory) -> None:
    walked = dict(tree.walk())

    assert all(tree.find(path) is entry for path, entry in walked.items())
    assert tree.files == sum(isinstance(entry, File) for entry in walked.values())
    assert tree.size == sum(entry.size for entry in walked.values() if isinstance(entry, File))


@given(st.sets(st.text(max_size=3) | st.binary(max_size=3).map(lambda raw: raw.decode("utf-8", "surrogateescape"))))
@example({"\udcff", "\U0001f600", "\uffff"})
def test_names_are_sorted_as_their_bytes_are(found: set[str]) -> None:
    try:
        raw = [encode_name(name) for name in found]
    except UnicodeEncodeError:
        return  # no name: half a character that no byte stands for

    assert [encode_name(name) for name in sort_names(found)] == sorted(raw)


@given(st.lists(st.tuples(st.just("") | paths, trees | contents), max_size=5))
def test_a_staging_does_what_a_dict_does(puts: list[tuple[str, Directory | bytes]]) -> None:
    staging, model = Staging(), Model()
    for path, given_entry in puts:
        before = dict(model)
        try:
            if isinstance(given_entry, Directory):
                put_tree(model, path, given_entry)
            elif not path:
                raise Conflict
            else:
                put(model, path, given_entry)
        except Conflict:
            expected = None
        else:
            expected = model
        try:
            staging.put(path, given_entry if isinstance(given_entry, Directory) else File.of(given_entry))
        except PathConflict:
            assert expected is None, before
            return  # what is left of a staging after a conflict is thrown away
        assert expected is not None, before
        assert show(staging.finish()) == model
        assert all((staging.find(where) is not None) for where in model)
        assert {where for where in model if staging.is_directory(where)} == {
            where for where, data in model.items() if data is None
        }


@given(trees, trees)
def test_uniting_changes_neither_side(one: Directory, other: Directory) -> None:
    before = show(one), show(other)
    staging = Staging(one)
    try:
        staging.put("", other)
        staging.put("new/file", File.of(b"x"))
    except PathConflict:
        pass

    assert (show(one), show(other)) == before


@given(trees)
def test_putting_a_tree_twice_changes_nothing(tree: Directory) -> None:
    staging = Staging()
    staging.put("x", tree)
    once = staging.finish()
    staging.put("x", tree)

    assert staging.finish().digest == once.digest


@given(trees, trees)
def test_what_was_not_united_is_the_same_object(one: Directory, other: Directory) -> None:
    staging = Staging(one)
    try:
        staging.put("", other)
    except PathConflict:
        return
    done = staging.finish()

    for path, entry in one.walk():
        if path not in show(other):
            assert done.find(path) is entry


@given(models(), paths)
def test_removing_a_file_leaves_all_others(model: Model, path: str) -> None:
    staging = Staging(make(model))
    staging.remove(path)
    left = show(staging.finish())

    if model.get(path) is None:
        assert left == model
        return
    kept = {where: data for where, data in model.items() if where != path}
    above = parents(path)
    emptied = {where for where in above if not any(w.startswith(f"{where}/") and w not in above for w in kept)}
    assert left == {where: data for where, data in kept.items() if where not in emptied}
