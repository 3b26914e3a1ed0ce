"""YAML made to hurt: each ends in a typed error, or in a value of bounded size, without recursion in C."""

from collections.abc import Callable

import pytest

from sluice.core.errors import BuildError, LimitExceeded
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.merge import MergeError, merge_documented, merge_upstream
from sluice.core.yaml import InvalidYaml, load, parse

TEN_MB = 10_000_000
TOO_DEEP = "nested too deeply (limit: 100, yaml_depth)"


def lines(template: str, count: int) -> bytes:
    return "".join(template.replace("#", str(number)) for number in range(count)).encode()


def staircase(levels: int) -> bytes:
    return "".join(f"{' ' * level}a:\n" for level in range(levels)).encode()


LAUGHS = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (level, level, b", ".join([b"*a%d" % (level - 1)] * 9)) for level in range(1, 30)
)
MERGED_LAUGHS = b"a0: &a0 {k: v}\n" + b"".join(
    b"a%d: &a%d {<<: [%s]}\n" % (level, level, b", ".join([b"*a%d" % (level - 1)] * 9)) for level in range(1, 30)
)
ALIAS_TOWER = b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (n, n, n - 1) for n in range(1, 9000))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"[" * TEN_MB, f"line 1, column 101: {TOO_DEEP}", id="ten megabytes of ["),
        pytest.param(b"{a: " * (TEN_MB // 4), f"line 1, column 401: {TOO_DEEP}", id="ten megabytes of {a:"),
        pytest.param(b"- " * (TEN_MB // 2), f"line 1, column 201: {TOO_DEEP}", id="ten megabytes of -"),
        pytest.param(b"? " * (TEN_MB // 2), f"line 1, column 201: {TOO_DEEP}", id="ten megabytes of ?"),
        pytest.param(staircase(3000), f"line 101, column 101: {TOO_DEEP}", id="a staircase"),
        pytest.param(ALIAS_TOWER, f"line 100, column 12: {TOO_DEEP}", id="a tower of aliases"),
        pytest.param(LAUGHS, "line 7, column 10: too many nodes (limit: 1000000, yaml_nodes)", id="a billion laughs"),
        pytest.param(
            MERGED_LAUGHS, "line 7, column 30: too many nodes (limit: 1000000, yaml_nodes)", id="laughs through <<"
        ),
        pytest.param(
            b"a: &a x\nb:\n" + b"- *a\n" * 20_000,
            "line 10003, column 3: too many aliases (limit: 10000, yaml_aliases)",
            id="too many aliases",
        ),
        pytest.param(
            b"a: " + b"x" * 100_000_000,
            "YAML of 100000003 bytes (limit: 10485760, yaml_size)",
            id="a scalar of 100 MB",
        ),
    ],
)
def test_limits_hold_while_reading(data: bytes, message: str) -> None:
    with pytest.raises(LimitExceeded) as caught:
        parse(data)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(
            lines("%TAG !t#! tag:x\n", 200_000) + b"---\n",
            "line 1, column 1: more than 100 %TAG directives",
            id="many directives",
        ),
        pytest.param(
            b"a: &a\n  <<: *a\n", "line 2, column 7: alias '*a' stands inside of what it names", id="a merge of itself"
        ),
        pytest.param(
            b"a: &a {<<: [{b: 1}, *a]}", "line 1, column 21: alias '*a' stands inside of what it names", id="in a list"
        ),
        pytest.param(
            b"a: !!python/object/apply:os.system ['true']",
            "line 1, column 4: tag 'tag:yaml.org,2002:python/object/apply:o…' is not supported",
            id="a Python object",
        ),
        pytest.param(
            b"!!python/name:os.system ''",
            "line 1, column 1: tag 'tag:yaml.org,2002:python/name:os.system' is not supported",
            id="a Python name",
        ),
        pytest.param(b"\x00" * 1000, "line 1, column 1: control character", id="nothing but NUL"),
        pytest.param(b"a:\n\tb: 1", "line 2, column 1: found character that cannot start any token", id="a tab"),
        pytest.param(
            "a: 1".encode("utf-16-be"), "line 1, column 1: control character", id="UTF-16, the other way round"
        ),
        pytest.param("\ufeffa: 1".encode("utf-16-be"), "line 1, column 1: not UTF-8 but UTF-16", id="with its mark"),
        pytest.param("a: 1".encode("utf-32"), "line 1, column 1: not UTF-8 but UTF-16", id="UTF-32"),
        pytest.param(b"a: '" + b"x" * 1_000_000, "line 1, column 1000005: found unexpected end of stream", id="no end"),
        pytest.param(b'"\\U0FFFFFFF"', "line 1, column 4: found invalid Unicode character escape code", id="beyond it"),
    ],
)
def test_tricks_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidYaml) as caught:
        load(data)

    assert str(caught.value) == message


def test_a_hundred_thousand_anchors_are_just_nodes() -> None:
    data = lines("- &a# x\n", 100_000)

    assert len(load(data)[0]) == 100_000


def test_a_text_may_speak_of_directives() -> None:
    data = b"a: |\n" + b"  use %TAG here\n" * 1000

    assert load(data)[0]["a"].count("%TAG") == 1000


def test_a_limit_that_is_just_met_is_no_error() -> None:
    limits = Limits(yaml_size=24, yaml_depth=2, yaml_aliases=1, yaml_nodes=7)

    assert load(b"a: &a [1]\nb: *a\n# fill\n#", limits) == [{"a": [1], "b": [1]}]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        pytest.param(Limits(yaml_size=23), "YAML of 24 bytes (limit: 23, yaml_size)", id="size"),
        pytest.param(Limits(yaml_depth=1), "line 1, column 4: nested too deeply (limit: 1, yaml_depth)", id="depth"),
        pytest.param(
            Limits(yaml_aliases=0), "line 2, column 4: too many aliases (limit: 0, yaml_aliases)", id="aliases"
        ),
        pytest.param(Limits(yaml_nodes=6), "line 1, column 1: too many nodes (limit: 6, yaml_nodes)", id="nodes"),
    ],
)
def test_each_limit_can_be_set(limits: Limits, message: str) -> None:
    with pytest.raises(LimitExceeded) as caught:
        load(b"a: &a [1]\nb: *a\n# fill\n#", limits)

    assert str(caught.value) == message


MERGES = [pytest.param(merge_documented, id="documented"), pytest.param(merge_upstream, id="upstream")]


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("data", [b"[" * TEN_MB, LAUGHS, MERGED_LAUGHS, ALIAS_TOWER, staircase(3000)], ids=range(5))
def test_a_hostile_side_is_a_merge_error(merge: Callable[[bytes, bytes], bytes], data: bytes) -> None:
    for base, overlay, side in ((b"a: 1", data, "overlay"), (data, b"a: 1", "base")):
        with pytest.raises(
            MergeError, match=rf"^{side}: line [0-9]+, column [0-9]+: (nested too deeply|too many nodes) "
        ):
            merge(base, overlay)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"a: " + b"1" * 1_000_000, id="a long number"),
        pytest.param(b"a: " + b"1_" * 500_000, id="a long number with underscores"),
        pytest.param(b"a: 1" + b":1" * 500_000, id="a long number of base 60"),
        pytest.param(b"a: 0" + b"7" * 1_000_000, id="a long octal number"),
        pytest.param(b"a: 1e" + b"9" * 1_000_000, id="a long exponent"),
        pytest.param(b"a: ." + b"1" * 1_000_000, id="a long fraction"),
        pytest.param(b"a: 2024-" + b"1" * 1_000_000, id="a long date"),
        pytest.param(b'a: "' + b" " * 1_000_000 + b'x"', id="many spaces"),
        pytest.param(b'a: "' + b" " * 1_000_000 + b'\\N x"', id="many spaces before a line break"),
        pytest.param(b"a: >\n" + b"  x\n\n" * 200_000, id="many folds"),
        pytest.param(b"a: " + b"x y:z#" * 200_000, id="many near-indicators"),
    ],
)
def test_long_scalars_take_linear_time(merge: Callable[[bytes, bytes], bytes], data: bytes) -> None:
    # Anything else would not come to an end here.
    written = merge(data, b"")

    assert merge(written, b"") == written


def test_many_documents_are_a_limit_of_the_merge() -> None:
    with pytest.raises(MergeError, match=r"^base: line 30004, column 1: more than 10000 documents$"):
        merge_upstream(b"---\na: 1\n\n" * 10_002, b"")


def test_the_merge_of_the_largest_allowed_tree_does_not_exhaust_the_stack() -> None:
    deep = "".join(f"{' ' * level}a:\n" for level in range(DEFAULT_LIMITS.yaml_depth - 1)).encode()
    deep += b" " * DEFAULT_LIMITS.yaml_depth + b"a: 1\n"

    assert load(merge_documented(deep, deep)) == load(deep)
    assert load(merge_upstream(deep, deep)) == load(deep)


def test_no_message_holds_what_a_file_says() -> None:
    secret = b"password: hunter2"
    for data in (b"a: [" + secret, secret + b"\n\t- x", secret + b": x", b"- " + secret + b"\n b", secret + b"\x00"):
        with pytest.raises(BuildError) as caught:
            load(data)
        assert "hunter2" not in str(caught.value)
        assert "string" not in str(caught.value)
