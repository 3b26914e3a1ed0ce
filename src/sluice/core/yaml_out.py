"""Nodes and plain values as block YAML.

The layout is that of kubectl: two spaces a level, the dashes of a list in the column of its key. How a
scalar is spelled is the caller's choice: `dump` keeps the text and quoting of each, `dump_value` picks
a spelling that readers of YAML 1.1 and 1.2 take for the same value, and `core.yaml11` has its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote

from sluice.core.yaml import CORE_TAG, MappingNode, Node, Scalar, SequenceNode

STEP = 2
MAX_SIMPLE_KEY = 128
"""Bytes of a key that is written without `?`, as go-yaml and libyaml do."""

Spell: TypeAlias = Callable[[Scalar, int, int, bool], str]
"""Spells a scalar, given the indent of its further lines, its column, and whether it is a simple key."""


def dump(node: MappingNode | SequenceNode) -> bytes:
    """A document in block style that keeps the text, quoting and tag of every scalar.

    Quoting changes only where the text would otherwise read as something else: multi-line text that
    was not in a block scalar is double-quoted. Comments and anchors are not part of a node.
    """
    return print_nodes(node, _spell_as_written)


def dump_value(value: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Plain data (dict, list, str, int, float, bool, None) as a document, keys in their order."""
    node = node_of(value)
    assert not isinstance(node, Scalar)
    return dump(node)


def node_of(value: Any, scalar: Callable[[Any], Scalar] | None = None) -> Node:
    """Plain data as nodes; `scalar` chooses how strings, numbers, booleans and None are written."""
    make = scalar or _scalar_of
    match value:
        case Mapping():
            return MappingNode(tuple((make(key), node_of(item, make)) for key, item in value.items()))
        case list() | tuple():
            return SequenceNode(tuple(node_of(item, make) for item in value))
        case _:
            return make(value)


def print_nodes(node: MappingNode | SequenceNode, spell: Spell) -> bytes:
    """A document in block style, its scalars as `spell` has them."""
    printer = _Printer(spell)
    printer.document(node)
    return "".join(printer.parts).encode()


class _Printer:
    def __init__(self, spell: Spell) -> None:
        self.parts: list[str] = []
        self._spell = spell

    def document(self, node: MappingNode | SequenceNode) -> None:
        tag = _tag(node)
        if not _has_children(node):
            self.parts.append(f"{tag}{_EMPTY[type(node)]}\n")
            return
        if tag:
            self.parts.append(f"{tag.rstrip()}\n")
        self._children(node, 0, "")

    def _children(self, node: MappingNode | SequenceNode, indent: int, lead: str) -> None:
        """The lines of a collection that is not empty; `lead` stands before the first of them."""
        if isinstance(node, SequenceNode):
            for item in node.items:
                self._after_indicator(f"{lead}-", item, indent)
                lead = " " * indent
            return
        for key, value in node.pairs:
            assert isinstance(key, Scalar)
            if _is_simple(key):
                text = _tag(key) + self._spell(key, indent + STEP, indent, True)
                self.parts.append(f"{lead}{text}:")
                self._after_key(value, indent, indent + len(text) + 2)
            else:
                self._after_indicator(f"{lead}?", key, indent)
                self._after_indicator(f"{' ' * indent}:", value, indent)
            lead = " " * indent

    def _after_key(self, node: Node, indent: int, column: int) -> None:
        if isinstance(node, Scalar) or not _has_children(node):
            self._inline(node, indent, column)
            return
        below = indent if isinstance(node, SequenceNode) else indent + STEP
        self.parts.append(f" {_tag(node)}".rstrip() + "\n")
        self._children(node, below, " " * below)

    def _after_indicator(self, indicator: str, node: Node, indent: int) -> None:
        self.parts.append(indicator)
        if isinstance(node, Scalar) or not _has_children(node):
            self._inline(node, indent, indent + STEP)
        elif node.tag:
            self.parts.append(f" {_tag(node)}".rstrip() + "\n")
            self._children(node, indent + STEP, " " * (indent + STEP))
        else:
            self._children(node, indent + STEP, " ")

    def _inline(self, node: Node, indent: int, column: int) -> None:
        tag = _tag(node)
        match node:
            case Scalar():
                text = self._spell(node, indent + STEP, column + len(tag), False)
            case _:
                text = _EMPTY[type(node)]
        self.parts.append(f" {tag}{text}".rstrip(" ") + "\n")


_EMPTY: Mapping[type, str] = {SequenceNode: "[]", MappingNode: "{}"}
_BREAKS = re.compile("[\n\r\x85\u2028\u2029]")


def _has_children(node: MappingNode | SequenceNode) -> bool:
    return bool(node.items if isinstance(node, SequenceNode) else node.pairs)


def _is_simple(key: Scalar) -> bool:
    if not key.text:
        return bool(key.style)
    return len(key.text.encode()) <= MAX_SIMPLE_KEY and not _BREAKS.search(key.text)


def _tag(node: Node) -> str:
    """A tag and a space, in its shortest form that needs no directive; empty where there is none."""
    if not node.tag:
        return ""
    if node.tag.startswith(CORE_TAG) and node.tag != CORE_TAG:
        return f"!!{quote(node.tag.removeprefix(CORE_TAG), safe=_TAG_SAFE)} "
    if node.tag.startswith("!") and "!" not in node.tag[1:]:
        return f"!{quote(node.tag[1:], safe=_TAG_SAFE)} "
    return f"!<{quote(node.tag, safe=_TAG_SAFE + '!,')}> "


_TAG_SAFE = "#;/?:@&=+$_.~*'()-"


# --- spelling scalars as they were written ---------------------------------------------------------

_PLAIN = re.compile(
    r"""(?![ \t,\[\]{}#&*!|>'"%@`]|[-?:](?:[ \t]|\Z))(?:[^:#]++|:(?![ \t]|\Z)|(?<![ \t])#)*(?<![ \t])"""
)
_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_ESCAPED = re.compile(f'["\\\\\n\t]|{_UNPRINTABLE.pattern}')
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _spell_as_written(scalar: Scalar, indent: int, _column: int, is_key: bool) -> str:
    text = scalar.text
    match scalar.style:
        case "" if can_be_plain(text) and not (is_key and text.startswith(("---", "..."))):
            return text
        case "'" if not _BREAKS.search(text) and not _UNPRINTABLE.search(text):
            return "'" + text.replace("'", "''") + "'"
        case "|" if can_be_block(text):
            return block_header("|", text) + indented(text.removesuffix("\n"), indent)
        case ">" if can_be_block(text):
            return block_header(">", text) + indented(_unfolded(text.removesuffix("\n")), indent)
        case _:
            return double_quoted(text)


def can_be_plain(text: str) -> bool:
    """Whether text can stand without quotes in block style; says nothing of its type then."""
    return bool(_PLAIN.fullmatch(text)) and not _BREAKS.search(text) and not _UNPRINTABLE.search(text)


def can_be_block(text: str) -> bool:
    """Whether text can be written as a literal or folded block scalar."""
    return bool(text.strip("\n")) and not _UNPRINTABLE.search(text)


def double_quoted(text: str) -> str:
    """Text in double quotes, on one line."""
    return '"' + _ESCAPED.sub(lambda found: _escape(found[0]), text) + '"'


def _escape(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    code = ord(char)
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}"


def block_header(style: str, text: str, hinted: str = " \t\n") -> str:
    """The line that opens a block scalar; text that begins with one of `hinted` needs its indent told."""
    hint = str(STEP) if text[0] in hinted else ""
    chomp = "+" if text.endswith("\n\n") or text == "\n" else "" if text.endswith("\n") else "-"
    return f"{style}{hint}{chomp}\n"


def indented(text: str, indent: int) -> str:
    """The lines of a block scalar; empty ones stay empty."""
    return "\n".join(" " * indent + line if line else "" for line in text.split("\n"))


_FOLDABLE = re.compile(r"^([^ \t\n].*)(\n+)(?=[^ \t\n])", re.MULTILINE)


def _unfolded(text: str) -> str:
    """Text with one more line break wherever a reader will fold one away."""
    return _FOLDABLE.sub(r"\1\2\n", text)


# --- spelling plain values -------------------------------------------------------------------------

_NUMBER_LIKE = re.compile(r"[-+._]*[0-9][0-9a-fA-FxXoO_.,:+-]*|[0-9]{4}-.*|[-+]?\.?(inf|nan|infinity)", re.IGNORECASE)
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "", "=", "<<", "none"))


def _scalar_of(value: Any) -> Scalar:
    match value:
        case str():
            return Scalar(value, style=_style_of(value))
        case None:
            return Scalar("null")
        case bool():
            return Scalar("true" if value else "false")
        case int():
            return Scalar(str(value))
        case float():
            return Scalar(_float_text(value))
        case _:
            raise TypeError(f"no YAML for {type(value).__name__}")


def _style_of(text: str) -> str:
    if text.lower() in _WORDS or _NUMBER_LIKE.fullmatch(text):
        return '"'
    if can_be_plain(text):
        return "" if "\t" not in text and not text.startswith(("---", "...")) else '"'
    is_readable_block = (
        "\n" in text.rstrip("\n") and can_be_block(text) and not re.search(r"[ \t]$", text, re.MULTILINE)
    )
    return "|" if is_readable_block else '"'


def _float_text(value: float) -> str:
    """A float that both versions of YAML read as one: with a point, and a sign in its exponent."""
    text = repr(value)
    if text in ("inf", "-inf", "nan"):
        return f"{text.replace('inf', '.inf')}" if text != "nan" else ".nan"
    mantissa, mark, exponent = text.partition("e")
    return text if not mark or "." in mantissa else f"{mantissa}.0e{exponent}"
