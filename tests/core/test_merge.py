"""Deep merge: the documented flavour clause by clause, the upstream one by its recorded tables."""

import pytest

from sluice.core.errors import Code
from sluice.core.limits import Limits
from sluice.core.merge import MergeError, merge_documented, merge_upstream


def documented(base: str, overlay: str) -> str:
    return merge_documented(base.encode(), overlay.encode()).decode()


def upstream(base: str, overlay: str) -> str:
    return merge_upstream(base.encode(), overlay.encode()).decode()


@pytest.mark.parametrize(
    ("base", "overlay", "merged"),
    [
        pytest.param("x: {a: 1}", "x: {b: 2}", "x:\n  a: 1\n  b: 2\n", id="mappings merge"),
        pytest.param("x: {y: {a: 1, b: 2}}", "x: {y: {b: 3}}", "x:\n  y:\n    a: 1\n    b: 3\n", id="at any depth"),
        pytest.param("x: [1, 2]", "x: [3]", "x:\n- 3\n", id="a list replaces a list"),
        pytest.param("x: [{a: 1}]", "x: [{b: 2}]", "x:\n- b: 2\n", id="mappings in lists do not merge"),
        pytest.param("x: {a: 1}", "x: 5", "x: 5\n", id="a scalar replaces a mapping"),
        pytest.param("x: 5", "x: {a: 1}", "x:\n  a: 1\n", id="a mapping replaces a scalar"),
        pytest.param("x: {a: 1}", "x: null", "x: null\n", id="null replaces, it does not delete"),
        pytest.param("x: {a: 1}", "x:", "x:\n", id="so does an empty value"),
        pytest.param("x: {a: 1}", "x: {}", "x:\n  a: 1\n", id="an empty mapping changes nothing"),
        pytest.param("x: {a: 1}", "x: []", "x: []\n", id="an empty list replaces"),
        pytest.param("x: 1", "", "x: 1\n", id="an empty overlay changes nothing"),
        pytest.param("# nothing\n", "x: 1", "x: 1\n", id="a comment-only base is empty"),
        pytest.param("---\n", "~", "{}\n", id="nothing and nothing is an empty mapping"),
        pytest.param("c: 1\na: 2", "z: 3\na: 4\nb: 5", "c: 1\na: 4\nz: 3\nb: 5\n", id="keys keep their order"),
        pytest.param("x: 1 # one\n# two\ny: 2", "z: 3", "x: 1\ny: 2\nz: 3\n", id="comments go"),
        pytest.param(
            "{x: {a: [1, 2]}}", "{y: {}}", "x:\n  a:\n  - 1\n  - 2\ny: {}\n", id="flow style becomes block style"
        ),
        pytest.param('"a": 1', "a: 2", '"a": 2\n', id="keys are equal when their text is, the base spells them"),
        pytest.param("1: a", "'1': b", "1: b\n", id="even if they look like numbers"),
        pytest.param("1: a", "0x1: b", "1: a\n0x1: b\n", id="but not when only their values are"),
        pytest.param("on: push", "yes: 1", "on: push\nyes: 1\n", id="words of YAML 1.1 are just keys"),
        pytest.param("m: 0644\nv: 1.10\ns: '5'", "x: 1e3", "m: 0644\nv: 1.10\ns: '5'\nx: 1e3\n", id="text stays"),
        pytest.param("x: 1", "x: 9007199254740993", "x: 9007199254740993\n", id="integers are exact"),
        pytest.param("x: 1", 'x: "on"', 'x: "on"\n', id="the quoting of the overlay counts"),
        pytest.param("x: !foo 1", "y: !!str 2", "x: !foo 1\ny: !!str 2\n", id="explicit tags stay"),
        pytest.param("x: !foo {a: 1}", "x: {b: 2}", "x: !foo\n  a: 1\n  b: 2\n", id="those of mappings too"),
        pytest.param("x: !foo {a: 1}", "x: !bar {b: 2}", "x: !bar\n  a: 1\n  b: 2\n", id="that of the overlay wins"),
        pytest.param("a: &a {k: 1}\nb: *a", "a: {k: 2}", "a:\n  k: 2\nb:\n  k: 1\n", id="aliases are resolved first"),
        pytest.param(
            "d: &d {a: 1}\nx: {b: 2, <<: *d}", "x: {a: 3}", "d:\n  a: 1\nx:\n  b: 2\n  a: 3\n", id="so are merge keys"
        ),
        pytest.param(
            "a: 1", "d: &d {k: 1}\na: {k: 0, <<: *d}", "a:\n  k: 0\nd:\n  k: 1\n", id="own keys win wherever they stand"
        ),
        pytest.param(
            "a: &a {k: 1}\nb: &b {k: 2}\nc: {<<: [*a, *b]}",
            "",
            "a:\n  k: 1\nb:\n  k: 2\nc:\n  k: 1\n",
            id="earlier aliases win over later",
        ),
        pytest.param("- &a {k: 1}".replace("- ", "l: [") + "]", "", "l:\n- k: 1\n", id="anchors go"),
        pytest.param("'<<': {a: 1}", "b: 2", "'<<':\n  a: 1\nb: 2\n", id="a quoted << is a key"),
        pytest.param(
            "a: |\n  x\n  y\n", "b: >-\n  p\n  q\n", "a: |\n  x\n  y\nb: >-\n  p q\n", id="blocks stay blocks"
        ),
        pytest.param(
            "a: x", "b: one\n  two\n\n  three", 'a: x\nb: "one two\\nthree"\n', id="plain lines keep their value"
        ),
        pytest.param("a: 1\r\n", "b: |\r\n  x\r\n", "a: 1\nb: |\n  x\n", id="CRLF becomes LF"),
        pytest.param("\ufeffa: 1", "\ufeffb: 2", "a: 1\nb: 2\n", id="byte order marks go"),
        pytest.param('{"a":\n\t{"b": 1}}', "a: {c: 2}", '"a":\n  "b": 1\n  c: 2\n', id="JSON is YAML"),
    ],
)
def test_documented_merge(base: str, overlay: str, merged: str) -> None:
    assert documented(base, overlay) == merged


@pytest.mark.parametrize(
    ("base", "overlay", "message"),
    [
        pytest.param("a: 1", "- b", "overlay: line 1, column 1: not a mapping", id="a list"),
        pytest.param("A=B", "b: 1", "base: line 1, column 1: not a mapping", id="an env file"),
        pytest.param("a: 1", "''", "overlay: line 1, column 1: not a mapping", id="quoted nothing is text"),
        pytest.param(
            "a: 1\n---\nb: 2", "", "base: line 3, column 1: a second document (one is merged)", id="two documents"
        ),
        pytest.param(
            "a: 1\n---\n", "", "base: line 3, column 1: a second document (one is merged)", id="even if one is empty"
        ),
        pytest.param("a: 1", "b: 1\nb: 2", "overlay: line 2, column 1: duplicate key 'b'", id="a duplicate key"),
        pytest.param("l: [{a: 1, a: 2}]", "", "base: line 1, column 12: duplicate key 'a'", id="one in a list"),
        pytest.param("a: 1", 'l: {1: a, "1": b}', "overlay: line 1, column 11: duplicate key '1'", id="equal by text"),
        pytest.param(
            "a: 1", "? {b: 1}\n: 2", "overlay: line 1, column 3: a key must be a scalar", id="a mapping as key"
        ),
        pytest.param("a: [", "- b", "overlay: line 1, column 1: not a mapping", id="the overlay is read first"),
        pytest.param("a: [", "b: 1", "base: line 2, column 1: did not find expected node content", id="broken YAML"),
        pytest.param("a: 1\nb: \x00", "", "base: line 2, column 4: control character", id="a control character"),
        pytest.param("a: *x", "", "base: line 1, column 4: unknown alias '*x'", id="an unknown alias"),
    ],
)
def test_what_the_documented_merge_refuses(base: str, overlay: str, message: str) -> None:
    with pytest.raises(MergeError) as caught:
        documented(base, overlay)

    assert str(caught.value) == message
    assert caught.value.code is Code.MERGE


# --- upstream --------------------------------------------------------------------------------------

TYPING = """
5|5   +5|5   5.|5   1.0|1   -0|0   0644|420   0o644|420   017|15   08|8   0x1F|31   0b101|5   -0b101|-5
1_000|1000   1__0|10   1_0.5|10.5   0o8|0o8   0b12|0b12   _1|_1   1,000|1,000   1e|1e
1e3|1000   1E3|1000   1.e3|1000   1e+3|1000   3.10|3.1   .5|0.5   1e-7|1e-07   0.00001|1e-05
1000000.5|1.0000005e+06   123456.5|123456.5   9007199254740993|9007199254740992
9223372036854775807|9223372036854776000   -9223372036854775808|-9.223372036854776e+18
18446744073709551615|1.8446744073709552e+19   12345678901234567890|12345678901234567000
1e16|10000000000000000   1e20|1e+20   1e21|1e+21   1e400|1e400   1e-400|0
yes|true   Yes|true   y|true   Y|true   on|true   true|true   TRUE|true
no|false   n|false   N|false   off|false   false|false   tRue|tRue   yess|yess
~|null   null|null   Null|null   NULL|null   |null   ""|""
2024-01-01|"2024-01-01"   2024-01-01T10:00:00Z|"2024-01-01T10:00:00Z"   2024-13-01|2024-13-01
1:30|"1:30"   12:30:45|"12:30:45"   "5"|"5"   'yes'|"yes"   "0644"|"0644"   "1e3"|"1e3"   =|=   <<|<<
!!str 5|"5"   !!int "5"|5   !!float 5|5   !custom 5|"5"   !custom foo|foo   !!binary aGVsbG8=|hello
"""


@pytest.mark.parametrize("row", [row.strip() for row in TYPING.replace("\n", "   ").split("   ") if row.strip()])
def test_upstream_retypes_values(row: str) -> None:
    text, _, typed = row.partition("|")

    assert upstream("", f"k: {text}") == f"k: {typed}\n"
    assert upstream(f"k: {text}", "") == f"k: {typed}\n"


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        pytest.param("!!set {a, b}", "\n  a: null\n  b: null", id="a set"),
        pytest.param("!!omap [x: 1]", "\n- x: 1", id="an ordered mapping"),
        pytest.param("0b-101", " -5", id="a sign inside of a binary number"),
        pytest.param("0_7", " 7", id="an octal number with an underscore"),
        pytest.param(".1_0", " 0.1", id="an underscore between the digits of a fraction"),
        pytest.param("._1", " ._1", id="an underscore that is not between digits"),
        pytest.param("2023-02-29", " 2023-02-29", id="a day that is not in the calendar"),
        pytest.param("0000-02-29", ' "0000-02-29"', id="the year 0"),
        pytest.param("2024-1-2 3:4:5.6", ' "2024-1-2 3:4:5.6"', id="a time of short numbers"),
        pytest.param("2024-01-01T25:00:00Z", " 2024-01-01T25:00:00Z", id="an hour that is not on the clock"),
        pytest.param("2024-01-01T01:00:00+25:00", " 2024-01-01T01:00:00+25:00", id="a zone that is not on the map"),
        pytest.param("! 5", ' "5"', id="the tag without a name"),
        pytest.param("!!timestamp 2024-01-01", ' "2024-01-01"', id="a tagged time"),
        pytest.param("!!merge <<", " <<", id="a tagged merge key as a value"),
        pytest.param('!!binary "4oLD"', " \ufffd\ufffd\ufffd", id="binary data that is not UTF-8"),
        pytest.param("12345678901234567890123", " 1.2345678901234568e+22", id="an integer beyond 64 bits"),
        pytest.param('"a\\x85 b"', " a b", id="NEL is a line break to the second reader"),
        pytest.param('"a\\x85\\x85b"', " |-\n  a\n  b", id="two of them leave one"),
    ],
)
def test_upstream_retypes_rarer_values(text: str, typed: str) -> None:
    assert upstream("", f"k: {text}") == f"k:{typed}\n"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        pytest.param("1", '"1"', id="a number"),
        pytest.param("0x10", '"16"', id="a hexadecimal number"),
        pytest.param("1.5", '"1.5"', id="a float"),
        pytest.param("1e3", '"1000"', id="a float with an exponent"),
        pytest.param("1e6", '"1e+06"', id="a float that is printed with an exponent"),
        pytest.param("1.23456789", '"1.2345679"', id="floats have 32 bits"),
        pytest.param("1e39", '".inf"', id="a float beyond 32 bits"),
        pytest.param("-1e39", '"-.inf"', id="a negative one"),
        pytest.param(".nan", '".nan"', id="not a number"),
        pytest.param("9223372036854775807", '"9223372036854775807"', id="integers have 64 bits"),
        pytest.param("y", '"true"', id="y"),
        pytest.param("on", '"true"', id="on"),
        pytest.param("no", '"false"', id="no"),
        pytest.param("2024-01-01", '"2024-01-01"', id="a date"),
        pytest.param("'<<'", "<<", id="a quoted merge key"),
    ],
)
def test_upstream_makes_keys_text(key: str, text: str) -> None:
    assert upstream("", f"{key}: v") == f"{text}: v\n"


@pytest.mark.parametrize(
    ("base", "overlay", "merged"),
    [
        pytest.param("x: {a: 1}", "x: {b: [2]}", "x:\n  a: 1\n  b:\n  - 2\n", id="mappings merge"),
        pytest.param("x: [1]", "x: [2]", "x:\n- 2\n", id="lists replace"),
        pytest.param("x: {a: 1}", "x: null", "x: null\n", id="null replaces"),
        pytest.param("a: 1 # c", "", "a: 1\n", id="an empty overlay retypes and drops comments"),
        pytest.param("", "", "{}\n", id="nothing"),
        pytest.param("a: {p: 1}\n---\nb: 2\n", "a: {q: 3}", "a:\n  p: 1\n  q: 3\nb: 2\n", id="documents become one"),
        pytest.param("a: 1\n--- # next\nb: 2\n", "", "a: 1\nb: 2\n", id="a comment may follow the marker"),
        pytest.param("a: 1", "b: 2\n...\nc: 3", "a: 1\nb: 2\n", id="what follows the end of a document is ignored"),
        pytest.param("a: 1", '{"b":2}\n{"c":3}', "a: 1\nb: 2\n", id="so is a second object"),
        pytest.param("a: 1\na: {b: 2}", "", "a:\n  b: 2\n", id="the last duplicate wins"),
        pytest.param("1: a\n'1': b", "", '"1": b\n', id="of keys that become equal too"),
        pytest.param("a: .nan\na: 1", "", "a: 1\n", id="a bad value that is replaced does no harm"),
        pytest.param("b: &b {y2: 2}\nd: {y2: 9, <<: *b}", "", "b:\n  y2: 2\nd:\n  y2: 2\n", id="keys before << lose"),
        pytest.param("b: &b {y2: 2}\nd: {<<: *b, y2: 9}", "", "b:\n  y2: 2\nd:\n  y2: 9\n", id="keys after << win"),
        pytest.param(
            "a: &a {k: 1}\nb: &b {k: 2}\nc: {<<: [*a, *b]}",
            "",
            "a:\n  k: 1\nb:\n  k: 2\nc:\n  k: 1\n",
            id="the earlier alias wins",
        ),
        pytest.param("a: 1\r\nb: |\r\n  x\r\n", "", "a: 1\nb: |\n  x\n", id="CRLF"),
        pytest.param("a: |\n  x", "", "a: |\n  x\n", id="the last line is ended before it is read"),
        pytest.param('{\n\t"a": 1\n}', "", "a: 1\n", id="JSON with tabs"),
    ],
)
def test_upstream_merge(base: str, overlay: str, merged: str) -> None:
    assert upstream(base, overlay) == merged


def test_upstream_sorts_keys_naturally() -> None:
    order = [
        "-y",
        "_x",
        "~a",
        "9",
        "10",
        "A",
        "B",
        "a",
        "a-b",
        "a.b",
        "a/b",
        "a_b",
        "a2",
        "a02",
        "a10",
        "a12",
        "a100",
        "ab",
        "b",
    ]
    order += ["x9y", "x9z", "x1000", "x10y", "z", "é"]

    written = upstream("", "".join(f"'{key}': v\n" for key in reversed(order)))

    assert [line.partition(": ")[0].strip('"') for line in written.splitlines()] == order


def test_the_order_of_keys_depends_on_the_keys_alone() -> None:
    keys = ["1x", "9", "10", "a"]
    rotations = [keys[turn:] + keys[:turn] for turn in range(len(keys))]

    assert len({upstream("", "".join(f"'{key}': v\n" for key in rotation)) for rotation in rotations}) == 1


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param("'a: b'", "'a: b'", id="a colon"),
        pytest.param("'a #b'", "'a #b'", id="a hash"),
        pytest.param("'it''s'", "it's", id="an apostrophe inside needs no quotes"),
        pytest.param('"\'q"', "'''q'", id="one in front does"),
        pytest.param("' a'", "' a'", id="a leading space"),
        pytest.param("'---'", "'---'", id="a marker"),
        pytest.param("'-'", "'-'", id="a dash"),
        pytest.param("-a", "-a", id="a dash before text"),
        pytest.param('"a\\tb"', '"a\\tb"', id="a tab"),
        pytest.param("😀", '"\\U0001F600"', id="beyond the basic plane"),
        pytest.param('"a\\e\\u0001"', '"a\\e\\x01"', id="controls"),
        pytest.param('"a\\r\\nb"', '"a\\r\\nb"', id="CRLF inside"),
        pytest.param('"a\\nb"', "|-\n  a\n  b", id="lines"),
        pytest.param('"a\\n\\n"', "|+\n  a\n", id="lines that end in empty ones"),
        pytest.param('"\\n"', "|2+\n", id="an empty line"),
        pytest.param('" a\\nb"', "|2-\n   a\n  b", id="lines that begin with a space"),
        pytest.param('"a \\nb"', '"a \\nb"', id="a space before a line break"),
        pytest.param('"a\\nb "', '"a\\nb "', id="a space at the end of the last line"),
        pytest.param('"a\\n\\tb"', '"a\\n\\tb"', id="lines with a tab"),
        pytest.param(f"{'x' * 79} a b", f"{'x' * 79}\n  a b", id="a long plain text is folded"),
        pytest.param(f"{'x' * 77} a b", f"{'x' * 77} a\n  b", id="only beyond the width"),
        pytest.param(f"'{'x' * 79}: a b'", f"'{'x' * 79}:\n  a b'", id="a long quoted text"),
        pytest.param(f"'{'x' * 79}  a b'", f"{'x' * 79}  a\n  b", id="not within a run of spaces"),
        pytest.param(f'"{"x" * 79}\\t  a b"', f'"{"x" * 79}\\t\n  \\ a b"', id="except in double quotes"),
    ],
)
def test_upstream_spells_text(value: str, written: str) -> None:
    assert upstream("", f"k: {value}") == f"k: {written}\n"


@pytest.mark.parametrize(
    ("key", "written"),
    [
        pytest.param("k" * 128, f"{'k' * 128}: v\n", id="a key of 128 bytes"),
        pytest.param("k" * 129, f"? {'k' * 129}\n: v\n", id="a longer one"),
        pytest.param("a\\nb", "? |-\n  a\n  b\n: v\n", id="a key of two lines"),
    ],
)
def test_upstream_spells_keys(key: str, written: str) -> None:
    assert upstream("", f'? "{key}"\n: v') == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("- a", "overlay: line 1, column 1: not a mapping", id="a list"),
        pytest.param("A=B", "overlay: line 1, column 1: not a mapping", id="text"),
        pytest.param(
            "--- {a: 1}", "overlay: line 1, column 4: text after '---' (only a comment may follow)", id="--- {"
        ),
        pytest.param(
            "a: 1\n----", "overlay: line 2, column 4: text after '---' (only a comment may follow)", id="----"
        ),
        pytest.param(
            "%YAML 1.1\n---\na: 1",
            "overlay: line 2, column 1: did not find expected <document start>",
            id="a directive",
        ),
        pytest.param(
            "a: 1\n---\n\nb: [", "overlay: line 5, column 1: did not find expected node content", id="line numbers"
        ),
        pytest.param("a: 1\n---\n- b", "overlay: line 3, column 1: not a mapping", id="in a later document"),
        pytest.param("a: &x 1\n---\nb: *x", "overlay: line 3, column 4: unknown alias '*x'", id="aliases end with it"),
        pytest.param("a: .inf", "overlay: line 1, column 4: not a finite number", id="infinity"),
        pytest.param("a: [-.Inf]", "overlay: line 1, column 5: not a finite number", id="in a list"),
        pytest.param("a: .nan", "overlay: line 1, column 4: not a finite number", id="not a number"),
        pytest.param("a: !!null x", "overlay: line 1, column 4: 'x' does not fit its tag", id="null that is none"),
        pytest.param("a: !!int x", "overlay: line 1, column 4: 'x' does not fit its tag", id="int that is none"),
        pytest.param(
            "a: !!float 0xffffffffffffffff",
            "overlay: line 1, column 4: '0xffffffffffffffff' does not fit its tag",
            id="too large a float",
        ),
        pytest.param(
            "a: !!timestamp x", "overlay: line 1, column 4: 'x' does not fit its tag", id="a time that is none"
        ),
        pytest.param("a: !!binary x", "overlay: line 1, column 4: not base64", id="broken base64"),
        pytest.param("~: a", "overlay: line 1, column 1: '~' cannot be a key", id="a null key"),
        pytest.param(
            "9223372036854775808: a",
            "overlay: line 1, column 1: '9223372036854775808' cannot be a key",
            id="a key beyond 64 bits",
        ),
        pytest.param("? [a]\n: b", "overlay: line 1, column 3: a key must be a scalar", id="a list as a key"),
        pytest.param(
            "<<: 5", "overlay: line 1, column 1: '<<' needs a mapping or a list of mappings", id="merging a number"
        ),
        pytest.param(
            "l: &l [{a: 1}]\nx: {<<: *l}",
            "overlay: line 2, column 5: '<<' needs a mapping or a list of mappings",
            id="merging an alias of a list",
        ),
        pytest.param('a: "\\x7f"', "result: control characters are not allowed", id="DEL"),
        pytest.param(
            'a: "\\ud83d\\ude00"',
            "overlay: line 1, column 7: found invalid Unicode character escape code",
            id="surrogates",
        ),
        pytest.param(f"? {'k' * 1023}\n: 1", f"result: key '{'k' * 39}…' is too long", id="a key longer than 1024"),
        pytest.param(
            '? "a\\x85b"\n: 1', "result: key 'a?b' has a line break", id="a key with a line break to JSON's reader"
        ),
    ],
)
def test_what_upstream_refuses(text: str, message: str) -> None:
    with pytest.raises(MergeError) as caught:
        upstream("a: 1", text)

    assert str(caught.value) == message
    assert caught.value.code is Code.MERGE


def test_limits_are_merge_errors_that_name_the_field() -> None:
    limits = Limits(yaml_nodes=4)

    for merge in (merge_documented, merge_upstream):
        with pytest.raises(MergeError, match=r"^overlay: .*too many nodes \(limit: 4, yaml_nodes\)$"):
            merge(b"", b"[1, 2, 3, 4]", limits)


def test_the_documents_of_a_file_share_its_limits() -> None:
    with pytest.raises(MergeError, match=r"^base: YAML of 14 bytes \(limit: 13, yaml_size\)$"):
        merge_upstream(b"a: 1\n---\nb: 1\n", b"", Limits(yaml_size=13))
    with pytest.raises(MergeError, match=r"^base: too many nodes \(limit: 4, yaml_nodes\)$"):
        merge_upstream(b"a: 1\n---\nb: 1\n", b"", Limits(yaml_nodes=4))


def test_text_with_line_separators_stays_safe_for_readers_of_yaml_1_2() -> None:
    # go-yaml leaves them raw in single quotes, where a reader of 1.2 takes its indent for text.
    assert upstream("", 'k: "a\\u2028b"') == 'k: "a\\Lb"\n'
