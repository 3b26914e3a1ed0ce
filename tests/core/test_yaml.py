"""Reading YAML within limits, finding fields again, and writing what reads back."""

import math
from typing import Any

import pytest
import yaml as pyyaml

import sluice.core.yaml as core_yaml
from sluice.core.errors import Code
from sluice.core.yaml import (
    InvalidYaml,
    MappingNode,
    Scalar,
    SequenceNode,
    documents,
    fields,
    load,
    locate,
    parse,
    to_value,
)
from sluice.core.yaml_out import dump, dump_value


def mapping_of(text: str) -> MappingNode:
    (node,) = parse(text.encode())
    assert isinstance(node, MappingNode)
    return node


def rewritten(text: str) -> str:
    return dump(mapping_of(text)).decode()


# --- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("", None, id="nothing is null"),
        pytest.param("~", None, id="a tilde is null"),
        pytest.param("null", None, id="null is null"),
        pytest.param("true", True, id="true"),
        pytest.param("FALSE", False, id="FALSE"),
        pytest.param("yes", "yes", id="yes is text, as in YAML 1.2"),
        pytest.param("off", "off", id="off is text, as in YAML 1.2"),
        pytest.param("-12", -12, id="an integer"),
        pytest.param("9007199254740993", 9007199254740993, id="an integer beyond 53 bits is exact"),
        pytest.param("0644", 644, id="a leading zero is no octal"),
        pytest.param("0o17", 15, id="octal"),
        pytest.param("0x1F", 31, id="hexadecimal"),
        pytest.param("0b1", "0b1", id="there are no binary numbers"),
        pytest.param("1_000", "1_000", id="there are no underscores in numbers"),
        pytest.param("1.50", 1.5, id="a float"),
        pytest.param("1e3", 1000.0, id="a float without a point"),
        pytest.param(".5", 0.5, id="a float that begins with its point"),
        pytest.param("-.INF", -math.inf, id="infinity"),
        pytest.param("1.2.3", "1.2.3", id="a version is text"),
        pytest.param("12:30", "12:30", id="a time is text"),
        pytest.param("2024-01-01", "2024-01-01", id="a date is text"),
        pytest.param("'5'", "5", id="single quotes make text"),
        pytest.param('"null"', "null", id="double quotes make text"),
        pytest.param("!!str 5", "5", id="the tag str"),
        pytest.param("! 5", "5", id="the tag without a name"),
        pytest.param("!!int '5'", 5, id="the tag int"),
        pytest.param("!!float 5", 5.0, id="the tag float"),
        pytest.param("!!bool true", True, id="the tag bool"),
        pytest.param("!!null ''", None, id="the tag null"),
        pytest.param("!!map {a: 1}", {"a": 1}, id="the tag map"),
        pytest.param("!!seq [1]", [1], id="the tag seq"),
        pytest.param("{1: a, true: b, ~: c}", {"1": "a", "true": "b", "~": "c"}, id="keys are text"),
        pytest.param("|\n a\n b\n", "a\nb\n", id="a literal scalar"),
        pytest.param("a\n b\n\n c", "a b\nc", id="a plain scalar of several lines"),
    ],
)
def test_values_follow_the_core_schema(text: str, value: Any) -> None:
    (found,) = load(f"- {text}\n".encode())

    assert found == [value]
    assert type(found[0]) is type(value)


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(load(b"a: .nan")[0]["a"])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        pytest.param(b"", [], id="nothing is no document"),
        pytest.param(b"# only a comment\n", [], id="a comment is no document"),
        pytest.param(b"---\n", [None], id="a marker makes an empty document"),
        pytest.param(b"a: 1\n---\n- b\n...\n---\nc\n", [{"a": 1}, ["b"], "c"], id="several documents"),
        pytest.param(b"\xef\xbb\xbfa: 1\n", [{"a": 1}], id="a byte order mark is skipped"),
        pytest.param(b"a: 1\r\nb: |\r\n  x\r\n  y\r\n", [{"a": 1, "b": "x\ny\n"}], id="CRLF ends lines"),
        pytest.param(b"a: 1\rb: 2\r", [{"a": 1, "b": 2}], id="CR ends lines"),
        pytest.param(b'{\n\t"a": [\n\t\t1\n\t]\n}\n', [{"a": [1]}], id="JSON may be indented with tabs"),
        pytest.param("ä: 😀".encode(), [{"ä": "😀"}], id="beyond ASCII"),
        pytest.param(b"a: &x [1]\nb: *x\n", [{"a": [1], "b": [1]}], id="an alias stands for what it names"),
        pytest.param(b"a: &x 1\nb: &x 2\nc: *x\n", [{"a": 1, "b": 2, "c": 2}], id="the last anchor of a name counts"),
    ],
)
def test_files_hold_documents(text: bytes, values: list[Any]) -> None:
    assert load(text) == values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("m: &m {a: 1}\nx: {<<: *m, b: 2}", {"a": 1, "b": 2}, id="a mapping is merged in"),
        pytest.param("m: &m {a: 1}\nx: {a: 2, <<: *m}", {"a": 2}, id="an own key before << wins"),
        pytest.param("m: &m {a: 1}\nx: {<<: *m, a: 2}", {"a": 2}, id="an own key after << wins"),
        pytest.param("m: &m {a: 1}\nn: &n {a: 2, b: 3}\nx: {<<: [*m, *n]}", {"a": 1, "b": 3}, id="the earlier wins"),
        pytest.param("m: &m {a: 1}\nn: &n {<<: *m}\nx: {<<: *n}", {"a": 1}, id="merges are followed"),
        pytest.param("x: {<<: {a: 1}}", {"a": 1}, id="the mapping may stand in place"),
        pytest.param("l: &l [{a: 1}, {b: 2}]\nx: {<<: *l}", {"a": 1, "b": 2}, id="the list may be an alias"),
        pytest.param("x: {'<<': {a: 1}}", {"<<": {"a": 1}}, id="a quoted << is a key like any other"),
        pytest.param("x: {!!merge <<: {a: 1}}", {"a": 1}, id="the tag merge"),
    ],
)
def test_merge_keys_are_resolved(text: str, value: Any) -> None:
    assert load(text.encode())[0]["x"] == value


def test_merged_fields_stand_where_the_merge_key_does() -> None:
    node = mapping_of("m: &m {a: 1, z: 2}\nx: {first: 0, <<: *m, last: 3, z: 9}")

    inner = fields(node)["x"][1]

    assert isinstance(inner, MappingNode)
    assert list(fields(inner)) == ["first", "a", "last", "z"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(b"a: 1\na: 2", "line 2, column 1: duplicate key 'a'", id="a duplicate key"),
        pytest.param(b"- {a: 1,\n   'a': 2}", "line 2, column 4: duplicate key 'a'", id="one of them quoted"),
        pytest.param(b"<<: {a: 1}\n<<: {b: 1}", "line 2, column 1: duplicate key '<<'", id="a second merge key"),
        pytest.param(b"? [a]\n: 1", "line 1, column 3: a key must be a scalar", id="a list as a key"),
        pytest.param(b"a: {{ x }}", "line 1, column 5: a key must be a scalar", id="a template marker"),
        pytest.param(b"<<: 5", "line 1, column 5: '<<' needs a mapping or a list of mappings", id="merging a number"),
        pytest.param(
            b"<<: [{a: 1}, 5]", "line 1, column 14: '<<' needs a mapping or a list of mappings", id="a number in a list"
        ),
        pytest.param(b"a: *x", "line 1, column 4: unknown alias '*x'", id="an unknown alias"),
        pytest.param(b"a: &x 1\n---\nb: *x", "line 3, column 4: unknown alias '*x'", id="an alias of another document"),
        pytest.param(
            b"a: &a\n  b: *a", "line 2, column 6: alias '*a' stands inside of what it names", id="an alias of itself"
        ),
        pytest.param(b"a: !foo 5", "line 1, column 4: tag '!foo' is not supported", id="a tag of one's own"),
        pytest.param(b"a: !foo {}", "line 1, column 4: tag '!foo' is not supported", id="a tagged mapping"),
        pytest.param(b"!!set {a}", "line 1, column 1: tag 'tag:yaml.org,2002:set' is not supported", id="a set"),
        pytest.param(
            b"!!timestamp 2024-01-01",
            "line 1, column 1: tag 'tag:yaml.org,2002:timestamp' is not supported",
            id="a timestamp",
        ),
        pytest.param(b"!!int abc", "line 1, column 1: 'abc' does not fit its tag", id="a tag that does not fit"),
        pytest.param(b"a: b: c", "line 1, column 5: mapping values are not allowed in this context", id="two colons"),
        pytest.param(b"a: [1", "line 2, column 1: did not find expected ',' or ']'", id="an open list"),
        pytest.param(
            b"a:\n\t- b", "line 2, column 1: found character that cannot start any token", id="a tab as indentation"
        ),
        pytest.param(
            b"a: '" + b"x" * 99 + b"\x00'", "line 1, column 104: control character", id="NUL inside of a scalar"
        ),
        pytest.param("ä: 1\nä: \x7f".encode(), "line 2, column 4: control character", id="DEL"),
        pytest.param(b"a: 1\nb: \xff", "line 2, column 4: not UTF-8", id="bytes that are not UTF-8"),
        pytest.param(b"a: \xc3", "line 1, column 4: not UTF-8", id="half a character"),
        pytest.param("a: 1".encode("utf-16"), "line 1, column 1: not UTF-8 but UTF-16", id="UTF-16"),
        pytest.param("a: 1".encode("utf-16-le"), "line 1, column 2: control character", id="UTF-16 without a mark"),
        pytest.param(
            b"a: 1" + b"0" * 2000, "line 1, column 4: number of 2001 characters", id="a number that takes for ever"
        ),
        pytest.param(
            b"k" * 99 + b": 1\n" + b"k" * 99 + b": 1",
            f"line 2, column 1: duplicate key '{'k' * 39}…'",
            id="a long key is cut",
        ),
        pytest.param(b'"\\e": 1\n"\\e": 1', "line 2, column 1: duplicate key '?'", id="a key's controls do not show"),
    ],
)
def test_what_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(InvalidYaml) as caught:
        load(text)

    assert str(caught.value) == message
    assert caught.value.code is Code.INVALID_YAML


def test_documents_are_read_one_by_one() -> None:
    stream = documents(b"a: 1\n---\nb: [\n")

    assert to_value(next(stream)) == {"a": 1}
    with pytest.raises(InvalidYaml):
        next(stream)


def test_without_libyaml_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"a: &x ['1', 2]\nb: |\n  lit\nc: !!str 3\nd: *x\n"
    expected = dump(mapping_of(text.decode()))

    monkeypatch.setattr(core_yaml, "LOADER", pyyaml.SafeLoader)

    assert dump(mapping_of(text.decode())) == expected
    with pytest.raises(InvalidYaml, match=r"^line 2, column 4: control character$"):
        parse(b"a: 1\nb: \x00")
    with pytest.raises(InvalidYaml, match=r"^line 1, column 4: not UTF-8$"):
        parse(b"a: \xff")


# --- positions -------------------------------------------------------------------------------------

MANIFEST = """\
spec:
  artifacts:
  - name: web
    copy:
    - {from: a, to: b}
base: &base
  k: 1
other:
  <<: *base
"""


@pytest.mark.parametrize(
    ("path", "position"),
    [
        pytest.param((), (1, 1), id="the document"),
        pytest.param(("spec",), (1, 1), id="a field is where its key is"),
        pytest.param(("spec", "artifacts", 0), (3, 5), id="an item is where it begins"),
        pytest.param(("spec", "artifacts", 0, "copy", 0, "to"), (5, 17), id="in flow style"),
        pytest.param(("other", "k"), (7, 3), id="a merged field is where it was written"),
        pytest.param(("spec", "nope"), None, id="a field that is not there"),
        pytest.param(("spec", "artifacts", 1), None, id="an item that is not there"),
        pytest.param(("spec", "artifacts", -1), None, id="items do not count from the end"),
        pytest.param(("spec", "artifacts", "0"), None, id="a name where a number belongs"),
        pytest.param(("base", "k", "x"), None, id="below a scalar"),
    ],
)
def test_fields_are_found_again(path: tuple[str | int, ...], position: tuple[int, int] | None) -> None:
    assert locate(mapping_of(MANIFEST), path) == position


def test_columns_count_characters() -> None:
    assert locate(mapping_of("{ä: ö, x: 1}"), ("x",)) == (1, 8)


# --- writing nodes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "written"),
    [
        pytest.param("a: 0644\n", "a: 0644\n", id="numbers keep their text"),
        pytest.param("a: 1.10\nb: 1e3\n", "a: 1.10\nb: 1e3\n", id="floats keep their text"),
        pytest.param("on: yes\n", "on: yes\n", id="words of YAML 1.1 keep their text"),
        pytest.param("a: 'it''s'\n", "a: 'it''s'\n", id="single quotes stay"),
        pytest.param('"a": "x"\n', '"a": "x"\n', id="double quotes stay, on keys too"),
        pytest.param('a: "\\t\\n\\u2028\\e\\"\\\\ü😀"\n', 'a: "\\t\\n\\u2028\\x1B\\"\\\\ü😀"\n', id="escapes"),
        pytest.param('a: "x\\\n  y\n  z"\n', 'a: "xy z"\n', id="a folded double-quoted scalar"),
        pytest.param("a:\nb: ~\nc: ''\n", "a:\nb: ~\nc: ''\n", id="an empty value stays empty"),
        pytest.param("a: |\n  x\n\n   y\n", "a: |\n  x\n\n   y\n", id="a literal scalar"),
        pytest.param("a: |-\n    x\n", "a: |-\n  x\n", id="one that is stripped"),
        pytest.param("a: |+\n  x\n\n\nb: 1\n", "a: |+\n  x\n\n\nb: 1\n", id="one that keeps its line breaks"),
        pytest.param("a: |2\n    x\n   y\n", "a: |2\n    x\n   y\n", id="one that begins with spaces"),
        pytest.param("a: |\n  \n\n  x\n", "a: |2\n\n\n  x\n", id="one that begins with line breaks"),
        pytest.param("a: |\n\n\n", 'a: ""\n', id="an empty one"),
        pytest.param("a: >\n  x\n  y\n\n  z\n   w\n  v\n", "a: >\n  x y\n\n  z\n   w\n  v\n", id="a folded scalar"),
        pytest.param("a: x\n  y\n", "a: x y\n", id="a plain scalar of two lines"),
        pytest.param("a: x\n\n  y\n", 'a: "x\\ny"\n', id="a plain scalar with a line break"),
        pytest.param("a: 'x\n\n  y'\n", 'a: "x\\ny"\n', id="a single-quoted scalar with a line break"),
        pytest.param("{a: [1, {b: c}], d: {}, e: []}", "a:\n- 1\n- b: c\nd: {}\ne: []\n", id="flow becomes block"),
        pytest.param("a: [[1, [2]], []]", "a:\n- - 1\n  - - 2\n- []\n", id="lists of lists"),
        pytest.param("a: [-x, a:b, a#b]", "a:\n- -x\n- a:b\n- a#b\n", id="plain stays plain"),
        pytest.param("a: !!str 5\n", "a: !!str 5\n", id="a core tag"),
        pytest.param("a: !foo 'x'\n", "a: !foo 'x'\n", id="a local tag"),
        pytest.param("a: !<tag:x,1:y> z\n", "a: !<tag:x,1:y> z\n", id="a global tag"),
        pytest.param("a: !foo\n  b: 1\nc: !bar\n- 1\n", "a: !foo\n  b: 1\nc: !bar\n- 1\n", id="tagged collections"),
        pytest.param("a:\n- !foo\n  b: 1\n- !bar {}\n", "a:\n- !foo\n  b: 1\n- !bar {}\n", id="tagged items"),
        pytest.param("!foo\na: 1\n", "!foo\na: 1\n", id="a tagged document"),
        pytest.param("!!str 1: 2\n", "!!str 1: 2\n", id="a tagged key"),
        pytest.param("? |\n  a\n  b\n: 1\n", "? |\n  a\n  b\n: 1\n", id="a key of two lines"),
        pytest.param(f"? {'k' * 129}\n: - 1\n", f"? {'k' * 129}\n: - 1\n", id="a long key"),
        pytest.param(f"{'k' * 128}: 1\n", f"{'k' * 128}: 1\n", id="a key that is just short enough"),
        pytest.param("? \n: 1\n", "?\n: 1\n", id="an empty key"),
        pytest.param("a: &x {b: 1} # c\nd: *x\n", "a:\n  b: 1\nd:\n  b: 1\n", id="aliases are copies, comments go"),
        pytest.param("{}", "{}\n", id="an empty document"),
        pytest.param("a: 1", "a: 1\n", id="the last line ends"),
    ],
)
def test_nodes_are_written_as_they_were_read(text: str, written: str) -> None:
    assert rewritten(text) == written
    assert rewritten(written) == written


# --- writing values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param(None, "null", id="null"),
        pytest.param(True, "true", id="a boolean"),
        pytest.param(-5, "-5", id="an integer"),
        pytest.param(1.0, "1.0", id="a float"),
        pytest.param(1e22, "1.0e+22", id="a float that 1.1 takes for text without a point"),
        pytest.param(math.inf, ".inf", id="infinity"),
        pytest.param(-math.inf, "-.inf", id="minus infinity"),
        pytest.param("source.toolkit/v1", "source.toolkit/v1", id="a word"),
        pytest.param("a b", "a b", id="two words"),
        pytest.param("5m0s", "5m0s", id="a duration"),
        pytest.param("latest@sha256:ab12", "latest@sha256:ab12", id="a revision"),
        pytest.param("", '""', id="no text"),
        pytest.param("y", '"y"', id="a boolean of 1.1"),
        pytest.param("Off", '"Off"', id="another one"),
        pytest.param("NULL", '"NULL"', id="null as text"),
        pytest.param("1e3", '"1e3"', id="a number as text"),
        pytest.param("0o17", '"0o17"', id="an octal number as text"),
        pytest.param("08", '"08"', id="digits that 1.1 takes for a number"),
        pytest.param("1234567", '"1234567"', id="an abbreviated commit"),
        pytest.param("12e03", '"12e03"', id="another one"),
        pytest.param("1_000", '"1_000"', id="a number of 1.1 with underscores"),
        pytest.param("1.2.3", '"1.2.3"', id="a version"),
        pytest.param("12:30:45", '"12:30:45"', id="a number of base 60"),
        pytest.param("2024-01-01T10:00:00Z", '"2024-01-01T10:00:00Z"', id="a time"),
        pytest.param("=", '"="', id="a value of 1.1"),
        pytest.param("@git/**", '"@git/**"', id="a reserved character"),
        pytest.param("*", '"*"', id="an alias as text"),
        pytest.param("a: b", '"a: b"', id="a mapping as text"),
        pytest.param("a #b", '"a #b"', id="a comment as text"),
        pytest.param("- a", '"- a"', id="an item as text"),
        pytest.param("---", '"---"', id="a marker as text"),
        pytest.param(" a", '" a"', id="a leading space"),
        pytest.param("a\tb", '"a\\tb"', id="a tab"),
        pytest.param("a\u2028b", '"a\\u2028b"', id="a line separator"),
        pytest.param("a\nb\n", "|\n  a\n  b", id="lines"),
        pytest.param("a \nb", '"a \\nb"', id="lines that end in spaces"),
        pytest.param({}, "{}", id="an empty mapping"),
        pytest.param(["a", ["b"]], "\n- a\n- - b", id="lists"),
    ],
)
def test_values_are_written_so_that_every_reader_agrees(value: Any, written: str) -> None:
    separator = "" if written.startswith("\n") else " "

    assert dump_value({"k": value}) == f"k:{separator}{written}\n".encode()
    assert load(dump_value({"k": value})) == [{"k": value}]


def test_a_manifest_looks_like_one() -> None:
    manifest = {"apiVersion": "v1", "metadata": {"name": "x", "labels": {"on": "1"}}, "items": [{"a": 1, "b": [2]}]}

    assert dump_value(manifest).decode() == (
        'apiVersion: v1\nmetadata:\n  name: x\n  labels:\n    "on": "1"\nitems:\n- a: 1\n  b:\n  - 2\n'
    )


def test_a_list_can_be_a_document() -> None:
    assert dump_value([{"a": 1}, 2]) == b"- a: 1\n- 2\n"
    assert dump_value([]) == b"[]\n"


def test_a_value_that_yaml_has_not_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match=r"^no YAML for bytes$"):
        dump_value({"a": b""})


def test_sizes_count_what_aliases_stand_for() -> None:
    node = mapping_of("a: &x [1, 2]\nb: [*x, *x]\n")

    assert node.size == 1 + 1 + 3 + 1 + (1 + 3 + 3)
    assert node.height == 3
    inner = node.pairs[1][1]
    assert isinstance(inner, SequenceNode)
    assert inner.items[0] is inner.items[1]
    assert isinstance(node.pairs[0][0], Scalar)
