"""YAML within bounds: files as nodes that remember how they were written.

A node keeps the text and quoting of a scalar, its tag and where it began. Nodes are composed here from
libyaml's events, because PyYAML's own composer recurses in C and dies on deep nests; every limit holds
while events are read, and counts what aliases stand for. Nothing is ever constructed from a tag.

`parse` gives nodes, `load` plain values, `locate` the position of a field; `core.yaml_out` writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import yaml as pyyaml
from msgspec import Struct

from sluice.core.errors import BuildError, Code, LimitExceeded
from sluice.core.limits import DEFAULT_LIMITS, Limits

LOADER = pyyaml.CSafeLoader if pyyaml.__with_libyaml__ else pyyaml.SafeLoader
CORE_TAG = "tag:yaml.org,2002:"
MERGE_KEY = "<<"
MAX_TAG_DIRECTIVES = 100
MAX_NUMBER_LENGTH = 1000
"""Characters of a number: Python's own conversion is quadratic, and refuses 4300 digits."""


class InvalidYaml(BuildError):
    """Bytes that are no YAML, or YAML that cannot be what it should be; the text says where."""

    def __init__(self, reason: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {reason}", Code.INVALID_YAML)
        self.reason = reason
        self.line = line
        self.column = column


class Scalar(Struct, frozen=True, eq=False, gc=False):
    """Text with its quoting: `style` is one of `'`, `"`, `|`, `>` or empty for plain.

    Only an `implicit` scalar gets its type from its text. Lines and columns count from 1.
    """

    text: str
    style: str = ""
    tag: str | None = None
    implicit: bool = True
    line: int = 1
    column: int = 1

    @property
    def size(self) -> int:
        return 1

    @property
    def height(self) -> int:
        return 0


class SequenceNode(Struct, frozen=True, eq=False):
    """A list; `size` counts all nodes in it and `height` their levels, aliases followed."""

    items: tuple[Node, ...]
    tag: str | None = None
    line: int = 1
    column: int = 1
    size: int = 1
    height: int = 1


class MappingNode(Struct, frozen=True, eq=False):
    """A mapping as written, duplicate and merge keys included; `fields` sorts them out."""

    pairs: tuple[tuple[Node, Node], ...]
    tag: str | None = None
    line: int = 1
    column: int = 1
    size: int = 1
    height: int = 1


Node: TypeAlias = Scalar | SequenceNode | MappingNode
Path: TypeAlias = Sequence[str | int]


def parse(data: bytes, limits: Limits = DEFAULT_LIMITS) -> list[Node]:
    """The documents of a file; aliases become the node that they name.

    Raises `InvalidYaml` for what is no YAML in UTF-8, and `LimitExceeded`.
    """
    return list(documents(data, limits))


def documents(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Iterator[Node]:
    """The same one by one: what follows a document is read only when the next one is asked for."""
    _check_bytes(data, limits)
    composer = _Composer(limits)
    try:
        for event in pyyaml.parse(data, Loader=LOADER):
            composer.take(event)
            if isinstance(event, pyyaml.DocumentEndEvent):
                yield composer.root
    except pyyaml.reader.ReaderError as error:
        raise _unreadable(data, error) from error
    except pyyaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise InvalidYaml(error.problem or "not YAML", line, column) from error


_TAG_DIRECTIVE = re.compile(rb"(?:\A|[\r\n]|\xc2\x85|\xe2\x80[\xa8\xa9])%TAG")


def check_size(data: bytes, limits: Limits) -> None:
    """Raise `LimitExceeded` for a file that is too large to be parsed."""
    if len(data) > limits.yaml_size:
        raise LimitExceeded(f"YAML of {len(data)} bytes", limits.yaml_size, "yaml_size")


def _check_bytes(data: bytes, limits: Limits) -> None:
    check_size(data, limits)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InvalidYaml("not UTF-8 but UTF-16", 1, 1)
    # libyaml compares each of these with all before it.
    if data.count(b"%TAG") > MAX_TAG_DIRECTIVES and len(_TAG_DIRECTIVE.findall(data)) > MAX_TAG_DIRECTIVES:
        raise InvalidYaml(f"more than {MAX_TAG_DIRECTIVES} %TAG directives", 1, 1)


def _unreadable(data: bytes, error: pyyaml.reader.ReaderError) -> InvalidYaml:
    before = data[: error.position]
    line = before.count(b"\n") + 1
    column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
    is_control = "characters are not allowed" in error.reason
    return InvalidYaml("control character" if is_control else "not UTF-8", line, column)


class _Open:
    """A collection whose end has not been read."""

    __slots__ = ("anchor", "children", "event", "height", "size")

    def __init__(self, event: pyyaml.CollectionStartEvent) -> None:
        self.event = event
        self.anchor: str | None = event.anchor
        self.children: list[Node] = []
        self.size = 1
        self.height = 1

    def close(self) -> Node:
        tag, (line, column) = self.event.tag, _position(self.event)
        if isinstance(self.event, pyyaml.SequenceStartEvent):
            return SequenceNode(tuple(self.children), tag, line, column, self.size, self.height)
        pairs = tuple(zip(self.children[::2], self.children[1::2], strict=True))
        return MappingNode(pairs, tag, line, column, self.size, self.height)


class _Composer:
    """Builds nodes from events, without recursion, and keeps to the limits."""

    def __init__(self, limits: Limits) -> None:
        self.root: Node = Scalar("")
        self._limits = limits
        self._open: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._aliases = 0
        self._nodes = 0

    def take(self, event: pyyaml.Event) -> None:
        match event:
            case pyyaml.ScalarEvent():
                style = event.style if event.style in ("'", '"', "|", ">") else ""
                node = Scalar(event.value, style, event.tag, event.implicit[0], *_position(event))
                self._add(event, event.anchor, node, counted=1)
            case pyyaml.AliasEvent():
                named = self._resolve(event)
                self._add(event, None, named, counted=named.size)
            case pyyaml.CollectionStartEvent():
                self._open.append(_Open(event))
                self._check_depth(event, 0)
                if event.anchor is not None:
                    self._anchors[event.anchor] = None
            case pyyaml.CollectionEndEvent():
                closed = self._open.pop()
                self._add(closed.event, closed.anchor, closed.close(), counted=1)
            case pyyaml.DocumentStartEvent():
                self._anchors.clear()

    def _resolve(self, event: pyyaml.AliasEvent) -> Node:
        self._aliases += 1
        if self._aliases > self._limits.yaml_aliases:
            raise LimitExceeded(f"{_where(event)}: too many aliases", self._limits.yaml_aliases, "yaml_aliases")
        anchor = event.anchor or ""
        if anchor not in self._anchors:
            raise _invalid(f"unknown alias '*{shorten(anchor)}'", event)
        node = self._anchors[anchor]
        if node is None:
            raise _invalid(f"alias '*{shorten(anchor)}' stands inside of what it names", event)
        self._check_depth(event, node.height)
        return node

    def _add(self, event: pyyaml.NodeEvent, anchor: str | None, node: Node, *, counted: int) -> None:
        self._nodes += counted
        if self._nodes > self._limits.yaml_nodes:
            raise LimitExceeded(f"{_where(event)}: too many nodes", self._limits.yaml_nodes, "yaml_nodes")
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        parent.children.append(node)
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)

    def _check_depth(self, event: pyyaml.NodeEvent, below: int) -> None:
        if len(self._open) + below > self._limits.yaml_depth:
            raise LimitExceeded(f"{_where(event)}: nested too deeply", self._limits.yaml_depth, "yaml_depth")


def _position(event: pyyaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    assert mark is not None
    return mark.line + 1, mark.column + 1


def _where(event: pyyaml.Event) -> str:
    return "line {}, column {}".format(*_position(event))


def _invalid(reason: str, at: Node | pyyaml.Event) -> InvalidYaml:
    if isinstance(at, pyyaml.Event):
        return InvalidYaml(reason, *_position(at))
    return InvalidYaml(reason, at.line, at.column)


def shorten(text: str) -> str:
    """A key or scalar, fit for a message: printable and not long."""
    printable = "".join(char if char.isprintable() else "?" for char in text[:41])
    return printable if len(printable) <= 40 else printable[:39] + "…"


def fields(mapping: MappingNode) -> dict[str, tuple[Scalar, Node]]:
    """The fields of a mapping by the text of their keys, with what `<<` brings in at its place.

    Own keys win over merged ones wherever they stand, and earlier merged mappings over later. Raises
    `InvalidYaml` for a duplicate key, a key that is not a scalar, and a merge of anything but mappings.
    """
    own: dict[str, tuple[Scalar, Node]] = {}
    merges: Scalar | None = None
    for key, value in mapping.pairs:
        if not isinstance(key, Scalar):
            raise _invalid("a key must be a scalar", key)
        if is_merge_key(key):
            if merges is not None:
                raise _invalid("duplicate key '<<'", key)
            merges = key
        elif key.text in own:
            raise _invalid(f"duplicate key '{shorten(key.text)}'", key)
        else:
            own[key.text] = key, value
    return own if merges is None else _with_merged(mapping, own)


def _with_merged(mapping: MappingNode, own: dict[str, tuple[Scalar, Node]]) -> dict[str, tuple[Scalar, Node]]:
    found: dict[str, tuple[Scalar, Node]] = {}
    for key, value in mapping.pairs:
        assert isinstance(key, Scalar)
        if is_merge_key(key):
            for merged in _merged_mappings(value):
                for text, field in fields(merged).items():
                    if text not in own:
                        found.setdefault(text, field)
        else:
            found[key.text] = own[key.text]
    return found


def is_merge_key(key: Scalar) -> bool:
    """Whether a key is an unquoted `<<`."""
    return key.text == MERGE_KEY and ((key.implicit and not key.tag) or key.tag == CORE_TAG + "merge")


def _merged_mappings(value: Node) -> Iterator[MappingNode]:
    for node in value.items if isinstance(value, SequenceNode) else (value,):
        if not isinstance(node, MappingNode):
            raise _invalid("'<<' needs a mapping or a list of mappings", node)
        yield node


def load(data: bytes, limits: Limits = DEFAULT_LIMITS) -> list[Any]:
    """The documents of a file as plain values; raises as `parse` and `to_value` do."""
    return [to_value(node) for node in parse(data, limits)]


def to_value(node: Node) -> Any:
    """What a node means by the core schema of YAML 1.2: dict, list, str, int, float, bool or None.

    Keys are always strings, by their text; dates stay strings. Raises `InvalidYaml` as `fields` does,
    and for tags beyond the core schema.
    """
    match node:
        case Scalar():
            return _scalar_value(node)
        case SequenceNode():
            _check_tag(node, "seq")
            return [to_value(item) for item in node.items]
        case MappingNode():
            _check_tag(node, "map")
            return {text: to_value(value) for text, (_, value) in fields(node).items()}


def _check_tag(node: SequenceNode | MappingNode, name: str) -> None:
    if node.tag not in (None, "!", CORE_TAG + name):
        raise _invalid(f"tag '{shorten(str(node.tag))}' is not supported", node)


_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None)}


def _scalar_value(node: Scalar) -> str | int | float | bool | None:
    if node.tag is None:
        return _resolve_plain(node) if node.implicit else node.text
    if node.tag in ("!", CORE_TAG + "str"):
        return node.text
    wanted = _TYPES.get(node.tag.removeprefix(CORE_TAG)) if node.tag.startswith(CORE_TAG) else None
    if wanted is None:
        raise _invalid(f"tag '{shorten(node.tag)}' is not supported", node)
    value = _resolve_plain(node)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise _invalid(f"'{shorten(node.text)}' does not fit its tag", node)
    return value


def _resolve_plain(node: Scalar) -> str | int | float | bool | None:
    text = node.text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "-+.0123456789":
        return text
    is_int = _INT.fullmatch(text)
    if not is_int and not _FLOAT.fullmatch(text):
        return text
    if len(text) > MAX_NUMBER_LENGTH:
        raise _invalid(f"number of {len(text)} characters", node)
    if is_int:
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:] if base != 10 else text, base)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def locate(node: Node, path: Path) -> tuple[int, int] | None:
    """Line and column of a field's key, or of a list's item; None where there is no such field."""
    mark: Node = node
    for step in path:
        match node:
            case MappingNode() if isinstance(step, str) and step in (found := fields(node)):
                mark, node = found[step]
            case SequenceNode() if isinstance(step, int) and 0 <= step < len(node.items):
                mark = node = node.items[step]
            case _:
                return None
    return mark.line, mark.column
