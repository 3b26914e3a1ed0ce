"""The YAML of Flux's controllers: 1.1, as go-yaml v2 reads and prints it.

Values pass through JSON on their way in and out there, and it shows: numbers become 64-bit floats, keys
become strings, and text that JSON leaves unescaped meets the YAML scanner again. This module holds
those habits; copy-semantics, sections 7.3 to 7.5, lists them.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import struct
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from functools import cmp_to_key
from typing import Any, TypeAlias

from sluice.core.yaml import (
    CORE_TAG,
    InvalidYaml,
    MappingNode,
    Node,
    Scalar,
    SequenceNode,
    is_merge_key,
    shorten,
)
from sluice.core.yaml_out import block_header, can_be_plain, indented, node_of, print_nodes

Plain: TypeAlias = "dict[str, Plain] | list[Plain] | str | float | bool | None"

# --- reading ---------------------------------------------------------------------------------------


def read_document(node: Node) -> dict[str, Plain]:
    """What a document means, if it is a mapping or null; raises `InvalidYaml` otherwise."""
    value = _checked(_read(node))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidYaml("not a mapping", node.line, node.column)
    return value


def _read(node: Node) -> Any:
    """A value, with errors in place of what JSON cannot hold: a later duplicate key may replace those."""
    match node:
        case Scalar():
            value = _read_scalar(node)
            if type(value) is int:
                return float(value)
            if isinstance(value, float) and not math.isfinite(value):
                return InvalidYaml("not a finite number", node.line, node.column)
            return value
        case SequenceNode():
            return [_read(item) for item in node.items]
        case MappingNode():
            found: dict[Any, Any] = {}
            _read_fields(node, found)
            return found


def _read_fields(mapping: MappingNode, found: dict[Any, Any]) -> None:
    """Set fields in the order in which they stand, so that the last one wins, be it merged or own."""
    for key, value in mapping.pairs:
        if not isinstance(key, Scalar):
            raise InvalidYaml("a key must be a scalar", key.line, key.column)
        if is_merge_key(key):
            _merge_fields(key, value, found)
        else:
            _set_field(key, _read(value), found)


def _set_field(key: Scalar, value: Any, found: dict[Any, Any]) -> None:
    text = _key_text(key)
    if text is None:
        value = InvalidYaml(f"'{shorten(key.text)}' cannot be a key", key.line, key.column)
    found[text] = value


def _merge_fields(key: Scalar, value: Node, found: dict[Any, Any]) -> None:
    merged = [value]
    # A list of mappings has to stand in place: what an alias names began before the key.
    if isinstance(value, SequenceNode) and (value.line, value.column) > (key.line, key.column):
        merged = list(reversed(value.items))
    for node in merged:
        if not isinstance(node, MappingNode):
            raise InvalidYaml("'<<' needs a mapping or a list of mappings", key.line, key.column)
        _read_fields(node, found)


def _checked(value: Any) -> Plain:
    match value:
        case InvalidYaml():
            raise value
        case dict():
            return {key: _checked(item) for key, item in value.items()}
        case list():
            return [_checked(item) for item in value]
        case str() | float() | bool() | None:
            return value
        case _:
            raise AssertionError(value)


_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "null": (type(None),)}


def _read_scalar(node: Scalar) -> str | int | float | bool | None:
    tag = (node.tag or "").removeprefix(CORE_TAG)
    if not tag:
        return resolve(node.text) if node.implicit else node.text
    if tag == "binary":
        return _decode_binary(node)
    if tag in _TYPES:
        value = resolve(node.text)
        fits = type(value) in _TYPES[tag]
        if fits and not (tag == "float" and type(value) is int and value >= 2**63):
            return value
    elif tag != "timestamp" or is_time(node.text):
        return node.text
    raise InvalidYaml(f"'{shorten(node.text)}' does not fit its tag", node.line, node.column)


def _decode_binary(node: Scalar) -> str:
    try:
        data = base64.b64decode(node.text.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidYaml("not base64", node.line, node.column) from error
    return re.sub("[\udc80-\udcff]", "\ufffd", data.decode("utf-8", "surrogateescape"))


def _key_text(key: Scalar) -> str | None:
    """The text of a key, or None for one that JSON cannot have."""
    value = _read_scalar(key)
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() if -(2**63) <= value < 2**63:
            return str(value)
        case float():
            return _single_precision(value)
        case _:
            return None


_INT = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]{0,19}))")
_BASES = (16, 2, 8, 10)
_SIGNED_BINARY = re.compile(r"0b([-+][01]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def resolve(text: str) -> str | int | float | bool | None:
    """What plain text means; times stay text. Integers fit 64 bits, signed or not."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789" or is_time(text):
        return text
    digits = re.sub("(?<=[0-9])_(?=[0-9])" if text[0] == "." else "_", "", text)
    whole = _resolve_int(digits)
    if whole is not None:
        return whole
    if _FLOAT.fullmatch(digits) and math.isfinite(value := float(digits)):
        return value
    if signed := _SIGNED_BINARY.fullmatch(digits):
        return int(signed[1], 2)
    return text


def _resolve_int(digits: str) -> int | None:
    found = _INT.fullmatch(digits)
    if not found:
        return None
    sign, *runs = found.groups()
    value = next(int(digits, base) for digits, base in zip(runs, _BASES, strict=True) if digits)
    signed = -value if sign == "-" else value
    return signed if -(2**63) <= signed < (2**63 if sign else 2**64) else None


_TIME = re.compile(
    r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})"
    r"(?:(?:[Tt](?P<t>[0-9:.,]+)(?P<zone>Z|[-+][0-9]{2}:[0-9]{2}))| +(?P<s>[0-9:.,]+))?"
)
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})([.,][0-9]+)?")


def is_time(text: str) -> bool:
    """Whether go-yaml takes plain text for a date or a point in time."""
    found = _TIME.fullmatch(text)
    if not found:
        return False
    year, month, day = (int(found[group]) for group in (1, 2, 3))
    try:
        # Leap years repeat every 400 years; Python's calendar has no year 0.
        date(year % 400 + 400, month, day)
    except ValueError:
        return False
    zone, clock = found["zone"], found["t"] or found["s"]
    if zone and zone != "Z" and (int(zone[1:3]) > 24 or int(zone[4:]) > 60):
        return False
    return clock is None or _is_clock(clock)


def _is_clock(text: str) -> bool:
    found = _CLOCK.fullmatch(text)
    return found is not None and int(found[1]) < 24 and int(found[2]) < 60 and int(found[3]) < 60


# --- printing --------------------------------------------------------------------------------------


def print_document(document: dict[str, Plain]) -> bytes:
    """A document as go-yaml prints it: keys sorted, scalars spelled anew, long ones folded.

    Raises `InvalidYaml` for text that does not survive the way back from JSON.
    """
    node = node_of(_sorted(document), _scalar_of)
    assert isinstance(node, MappingNode)
    return print_nodes(node, _spell)


def _sorted(value: Plain) -> Plain:
    match value:
        case dict():
            # Sorted twice: the second order is not transitive, so the first makes it depend on the keys alone.
            texts = sorted(sorted(map(_rescan_key, value)), key=cmp_to_key(_compare_keys))
            fields = {_rescan_key(key): item for key, item in value.items()}
            return {text: _sorted(fields[text]) for text in texts}
        case list():
            return [_sorted(item) for item in value]
        case str():
            return _rescan(value)
        case _:
            return value


_REFUSED = re.compile("[\x7f-\x84\x86-\x9f\ufffe\uffff]")
_LINE_BREAK = re.compile("(?<! ) *\x85[ \x85]*")
_LONG_ESCAPES = re.compile("[<>&\u2028\u2029]")
MAX_JSON_KEY = 1024


def _rescan(text: str) -> str:
    """Text after a JSON string was read as YAML: no control characters, NEL folds like any line break."""
    if _REFUSED.search(text):
        raise InvalidYaml("control characters are not allowed", 1, 1)
    return _LINE_BREAK.sub(lambda found: "\n" * (found[0].count("\x85") - 1) or " ", text)


def _rescan_key(text: str) -> str:
    if "\x85" in text:
        raise InvalidYaml(f"key '{shorten(text)}' has a line break", 1, 1)
    if len(json.dumps(text, ensure_ascii=False)) + 5 * len(_LONG_ESCAPES.findall(text)) > MAX_JSON_KEY:
        raise InvalidYaml(f"key '{shorten(text)}' is too long", 1, 1)
    return _rescan(text)


def _compare_keys(one: str, other: str) -> int:
    """Letters by code point, digit runs as numbers, anything else before letters."""
    at = next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if at is None:
        return len(one) - len(other)
    a, b = one[at], other[at]
    if a.isalpha() != b.isalpha():
        return 1 if a.isalpha() else -1
    if a.isalpha():
        return ord(a) - ord(b)
    # A zero inside a longer number is one of its digits, and not the start of another number.
    inside = "0" in (a, b) and re.search(r"[1-9]\d*\Z", one[:at]) is not None
    runs = [_digits(text, at) for text in (one, other)]
    numbers = [int("1" * inside + run or "0") for run in runs]
    return numbers[0] - numbers[1] or len(runs[0]) - len(runs[1]) or ord(a) - ord(b)


def _digits(text: str, start: int) -> str:
    end = start
    while end < len(text) and text[end].isdecimal():
        end += 1
    return text[start:end]


_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")


def _scalar_of(value: str | float | bool | None) -> Scalar:
    match value:
        case None:
            return Scalar("null")
        case bool():
            return Scalar("true" if value else "false")
        case float():
            return Scalar(_number_text(value))
    if "\n" in value:
        return Scalar(value, style="|")
    is_text = isinstance(resolve(value), str) and not is_time(value)
    return Scalar(value, style="" if is_text and not _SEXAGESIMAL.fullmatch(value) else '"')


def _number_text(value: float) -> str:
    # JSON writes numbers below 1e21 without exponent, and those that fit 64 bits come back as integers.
    if value.is_integer() and abs(value) < 1e21:
        whole = int(Decimal(repr(value)))
        if -(2**63) <= whole < 2**64:
            return str(whole)
    return _general(repr(value))


def _general(shortest: str) -> str:
    """The shortest digits of a float as Go's %g has them: an exponent below 1e-4 and from 1e6 on."""
    number = Decimal(shortest).normalize()
    exponent = number.adjusted()
    if -4 <= exponent < 6:
        return f"{number:f}"
    digits = f"{number.scaleb(-exponent):f}"
    return f"{digits}e{exponent:+03d}"


def _single_precision(value: float) -> str:
    """A float key, which is printed with the digits that a 32-bit float has."""
    if math.isnan(value):
        return ".nan"
    try:
        packed = struct.pack("f", value)
    except OverflowError:
        packed = struct.pack("f", math.copysign(math.inf, value))
    (single,) = struct.unpack("f", packed)
    if math.isinf(single):
        return ".inf" if single > 0 else "-.inf"
    texts = (f"{single:.{digits}e}" for digits in range(9))
    return _general(next(text for text in texts if struct.pack("f", float(text)) == packed))


WIDTH = 80
_SPECIAL = re.compile("[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd]")
_QUOTED = re.compile(f'["\\\\\n]|{_SPECIAL.pattern}')
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\0": "\\0", "\a": "\\a", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\v": "\\v"} | {
    "\f": "\\f", "\r": "\\r", "\x1b": "\\e", "\x85": "\\N", "\u2028": "\\L", "\u2029": "\\P"
}  # fmt: skip


def _spell(scalar: Scalar, indent: int, column: int, is_key: bool) -> str:
    text, style = scalar.text, scalar.style
    width = math.inf if is_key else WIDTH
    special = _SPECIAL.search(text)
    if style == "|" and not special and " \n" not in text and not text.endswith(" "):
        return block_header("|", text, " \n") + indented(text.removesuffix("\n"), indent)
    if style == "" and not special:
        if can_be_plain(text) and not text.startswith(("---", "...")):
            return _folded(text, str, indent, column, width)
        return "'" + _folded(text, _double_apostrophes, indent, column + 1, width) + "'"
    return '"' + _folded(text, _escaped, indent, column + 1, width, double=True) + '"'


def _double_apostrophes(text: str) -> str:
    return text.replace("'", "''")


def _escaped(text: str) -> str:
    return _QUOTED.sub(lambda found: _ESCAPES.get(found[0]) or _numeric_escape(ord(found[0])), text)


def _numeric_escape(code: int) -> str:
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def _folded(
    text: str, escape: Callable[[str], str], indent: int, column: int, width: float, *, double: bool = False
) -> str:
    """Text with a line break for each space beyond the width, where one may stand.

    The spaces at either end and all but the first of a run stay; in front of more spaces only
    double quotes can break, with a backslash.
    """
    words = text.split(" ")
    last = len(words) - 1
    out = [escape(words[0])]
    column += len(out[0])
    for index in range(1, len(words)):
        word = escape(words[index])
        if column > width and words[index - 1] and (word or (double and index < last)):
            gap = "\n" + " " * indent + ("" if word else "\\")
            column = len(gap) - 1
        else:
            gap = " "
            column += 1
        out += gap, word
        column += len(word)
    return "".join(out)
