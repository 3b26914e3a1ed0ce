"""Laws of reading, writing and merging YAML."""

import json
from typing import Any

import yaml as pyyaml
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from sluice.core.errors import BuildError
from sluice.core.merge import MergeError, merge_documented, merge_upstream
from sluice.core.yaml import InvalidYaml, load
from sluice.core.yaml_out import dump_value

TRICKY = [
    "",
    "~",
    "y",
    "on",
    "0o17",
    "08",
    "1e3",
    "12e03",
    "1_0",
    "1:30",
    "=",
    "<<",
    "2024-01-01",
    ".inf",
    "- a",
    "? a",
]
TRICKY += [
    "a: b",
    "a #b",
    "---",
    "...",
    " a",
    "a ",
    "\n",
    "a\n",
    "\na",
    " a\nb",
    "a\n b",
    "a \nb",
    "a\n\n",
    "\t",
    "a\tb",
]
TRICKY += ["'", '"', "\\", "*a", "&a", "!a", "|", ">", "%", "@", "`", "[", "]", "{", "}", ",", "#", ":", "😀", "\u2028"]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(TRICKY)
texts |= st.text(" \t\n\r\x85\u2028ab:#-'\"\\", max_size=8) | st.text("0123456789.eE+-_xobn:T", max_size=8)
keys = st.sampled_from("abcd") | texts
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
documents = st.dictionaries(keys, values, max_size=4)

# Scalars as people write them, with quoting and line breaks that a value alone does not have.
flow_scalars = [
    "0644",
    "1e3",
    "1.10",
    "yes",
    "~",
    "",
    "-",
    "'it''s'",
    '"a\\tb"',
    "'a  b'",
    "!!str 5",
    "!foo x",
    '"\\u2028"',
]
flow_scalars += ["2024-01-01", "a:b", '""', "{}", "[]", "[1, 'x', {y: z}]"]
blocks = ["   a\n   b\n", "   a\n\n\n   b\n    c\n\n   d\n", "\n   a\n", "   a\n    \n   b\n\n\n", "   a \n   b\n"]
headers = st.builds("{0}{1}\n".format, st.sampled_from("|>"), st.sampled_from(["", "-", "+"]))
written_scalars = st.sampled_from(flow_scalars) | st.builds("{0}{1}".format, headers, st.sampled_from(blocks))
written_documents = st.lists(written_scalars, min_size=1, max_size=5).map(
    lambda found: "".join(f"k{number}:\n - {text}\n" for number, text in enumerate(found)).encode()
)


@given(documents)
def test_values_read_back_as_they_were_written(document: dict[str, Any]) -> None:
    data = dump_value(document)

    assert load(data) == [document]
    assert repr(load(data)) == repr([document]), "an integer that equals a float is not one"


@given(texts)
def test_written_text_is_text_to_readers_of_yaml_1_1(text: str) -> None:
    assert pyyaml.safe_load(dump_value({"k": text})) == {"k": text}


@given(documents)
def test_the_documented_merge_with_nothing_keeps_the_value(document: dict[str, Any]) -> None:
    data = dump_value(document)

    for merged in (merge_documented(data, b""), merge_documented(b"", data)):
        assert repr(load(merged)) == repr([document])


@given(documents)
def test_merging_a_file_into_itself_keeps_the_value(document: dict[str, Any]) -> None:
    data = dump_value(document)

    assert repr(load(merge_documented(data, data))) == repr([document])


@given(written_documents)
def test_what_people_write_keeps_its_value(data: bytes) -> None:
    merged = merge_documented(data, b"")

    # Compared as events, so that quoting and tags count as well as text.
    assert _scalars(merged) == _scalars(data)
    assert merge_documented(merged, b"") == merged


def _scalars(data: bytes) -> list[tuple[str, bool, str | None]]:
    events = pyyaml.parse(data, Loader=pyyaml.SafeLoader)
    return [(event.value, event.implicit[0], event.tag) for event in events if isinstance(event, pyyaml.ScalarEvent)]


@given(documents, documents)
def test_the_documented_merge_can_be_repeated(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    once = merge_documented(dump_value(base), dump_value(overlay))

    assert merge_documented(once, dump_value(overlay)) == once
    assert merge_documented(once, b"") == once


@given(documents, documents)
def test_the_upstream_merge_can_be_repeated(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    once = upstream_or_reject(dump_value(base), dump_value(overlay))

    assert merge_upstream(once, dump_value(overlay)) == once
    assert merge_upstream(once, b"") == once


def upstream_or_reject(base: bytes, overlay: bytes) -> bytes:
    """The merge of documents that upstream can merge, and read back."""
    try:
        merged = merge_upstream(base, overlay)
    except MergeError:
        reject()  # some control characters, and the surrogates of JSON
    # A quoted key "<<" comes out as a merge key.
    assume(b"<<:" not in merged)
    return merged


mappings = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(mappings, mappings, mappings)
def test_merging_mappings_is_associative(one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]) -> None:
    a, b, c = (dump_value(document) for document in (one, two, three))
    for merge in (merge_documented, merge_upstream):
        left, right = merge(merge(a, b), c), merge(a, merge(b, c))
        assert load(left) == load(right) or _replaces(one, two, three)


def _replaces(*layers: Any) -> bool:
    """Whether a scalar stands where another layer has a mapping: replacing does not associate."""
    kinds = {isinstance(layer, dict) for layer in layers}
    if kinds != {True}:
        return len(kinds) > 1
    names = {name for layer in layers for name in layer}
    return any(_replaces(*[layer[name] for layer in layers if name in layer]) for name in names)


@given(documents)
def test_upstream_reads_json_and_yaml_alike(document: dict[str, Any]) -> None:
    from_json = upstream_or_reject(json.dumps(document).encode(), b"")

    assert merge_upstream(dump_value(document), b"") == from_json


@given(st.binary(max_size=60) | st.text("ab:-?#&*!|>'\"%@`{}[],<~ \n\t\r\\.0", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused_in_one_line(data: bytes) -> None:
    problems: list[BuildError] = []
    try:
        load(data)
    except InvalidYaml as error:
        problems.append(error)
    for merge in (merge_documented, merge_upstream):
        try:
            merged = merge(data, data)
        except MergeError as error:
            problems.append(error)
        else:
            assert b"<<:" in merged or merge(merged, b"") == merged

    assert all(str(problem).isprintable() for problem in problems)
