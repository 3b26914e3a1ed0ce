"""Deep merge of two YAML files, in two flavours.

Both merge mappings key by key and let everything else of the overlay replace what the base has: lists,
scalars, null. `merge_documented` writes every scalar as its author did; `merge_upstream` does what
Flux's source-watcher does, which reads a file of several documents as one and retypes all scalars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from sluice.core import yaml11
from sluice.core.errors import BuildError, Code, LimitExceeded
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.yaml import (
    InvalidYaml,
    MappingNode,
    Node,
    Scalar,
    SequenceNode,
    check_size,
    documents,
    fields,
    to_value,
)
from sluice.core.yaml11 import Plain
from sluice.core.yaml_out import dump

T = TypeVar("T")
MAX_DOCUMENTS = 10_000
"""Documents of one file that are merged into one; each costs a start of the parser."""


class MergeError(BuildError):
    """One side of a merge cannot be merged; the text begins with the side, `base` or `overlay`."""

    def __init__(self, text: str) -> None:
        super().__init__(text, Code.MERGE)


def merge_documented(base: bytes, overlay: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Merge as Helm merges several values files, keeping the text and quoting of scalars.

    The keys of the base keep their order, new ones follow. Aliases and `<<` are resolved, comments are
    not kept. Raises `MergeError` unless each side is one mapping, or empty, without duplicate keys.
    """
    top = _side("overlay", _read_mapping, overlay, limits)
    bottom = _side("base", _read_mapping, base, limits)
    return dump(_merge_nodes(bottom, top))


def merge_upstream(base: bytes, overlay: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Merge as source-watcher does (copy-semantics, section 7), in an order that depends on the keys alone.

    Raises `MergeError` where it fails.
    """
    top = _side("overlay", _read_merged, overlay, limits)
    bottom = _side("base", _read_merged, base, limits)
    try:
        _merge_into(bottom, top)
        return yaml11.print_document(bottom)
    except InvalidYaml as error:
        raise MergeError(f"result: {error.reason}") from error


def _side(name: str, read: Callable[[bytes, Limits], T], data: bytes, limits: Limits) -> T:
    try:
        return read(data, limits)
    except BuildError as error:
        raise MergeError(f"{name}: {error}") from error


# --- documented ------------------------------------------------------------------------------------


def _read_mapping(data: bytes, limits: Limits) -> MappingNode:
    found = list(islice(documents(data, limits), 2))
    if len(found) > 1:
        raise InvalidYaml("a second document (one is merged)", found[1].line, found[1].column)
    node = found[0] if found else Scalar("")
    if isinstance(node, Scalar) and to_value(node) is None:
        return MappingNode(())
    if not isinstance(node, MappingNode):
        raise InvalidYaml("not a mapping", node.line, node.column)
    return _resolved_mapping(node)


def _resolved(node: Node) -> Node:
    match node:
        case MappingNode():
            return _resolved_mapping(node)
        case SequenceNode():
            return SequenceNode(tuple(map(_resolved, node.items)), node.tag)
        case Scalar():
            return node


def _resolved_mapping(node: MappingNode) -> MappingNode:
    return MappingNode(tuple((key, _resolved(value)) for key, value in fields(node).values()), node.tag)


def _merge_nodes(base: MappingNode, overlay: MappingNode) -> MappingNode:
    merged = fields(base)
    for text, (key, value) in fields(overlay).items():
        known = merged.get(text)
        if known is None:
            merged[text] = key, value
            continue
        old_key, old = known
        if isinstance(old, MappingNode) and isinstance(value, MappingNode):
            value = _merge_nodes(old, value)
        merged[text] = old_key, value
    return MappingNode(tuple(merged.values()), overlay.tag or base.tag)


# --- upstream --------------------------------------------------------------------------------------


def _read_merged(data: bytes, limits: Limits) -> dict[str, Plain]:
    """All documents of a file as one. Of what stands between two `---`, the first document counts."""
    check_size(data, limits)
    merged: dict[str, Plain] = {}
    nodes = 0
    for start, chunk in _chunks(data):
        try:
            node = next(documents(chunk, limits), None)
            if node is not None:
                _merge_into(merged, yaml11.read_document(node))
        except InvalidYaml as error:
            raise InvalidYaml(error.reason, error.line + start, error.column) from error
        nodes += node.size if node else 1
        if nodes > limits.yaml_nodes:
            raise LimitExceeded("too many nodes", limits.yaml_nodes, "yaml_nodes")
    return merged


def _chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut a file at lines that begin with `---`, and tell how many lines stand before each part."""
    lines = data.removesuffix(b"\n").split(b"\n")
    start = count = 0
    for number, line in enumerate(lines):
        if not line.startswith(b"---"):
            continue
        if line[3:].strip()[:1] not in (b"", b"#"):
            raise InvalidYaml("text after '---' (only a comment may follow)", number + 1, 4)
        if number > start:
            yield start, _joined(lines[start:number])
            count += 1
        if count > MAX_DOCUMENTS:
            raise InvalidYaml(f"more than {MAX_DOCUMENTS} documents", number + 1, 1)
        start = number + 1
    yield start, _joined(lines[start:])


def _joined(lines: list[bytes]) -> bytes:
    return b"".join(line.removesuffix(b"\r") + b"\n" for line in lines)


def _merge_into(base: dict[str, Plain], overlay: dict[str, Plain]) -> None:
    for key, value in overlay.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge_into(old, value)
        else:
            base[key] = value
