r"""Read the outer layer of JSON whose inner layers the decoder cannot read.

One object that is nested too deeply must not hide its neighbours (in a page) or its name (in an
event). So where the decoder gives up, its input is cut along the brackets instead: linear, without
recursion, and without looking at what is inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},:]', re.DOTALL)


def members(data: bytes) -> Mapping[str, bytes]:
    """The members of a JSON object, each as the text it has; empty for anything else."""
    found: dict[str, bytes] = {}
    name = None
    for part in _parts(data, b"{"):
        if name is None:
            try:
                name = msgspec.json.decode(part, type=str)
            except msgspec.DecodeError:
                return {}
        else:
            found[name] = part
            name = None
    return found


def items(data: bytes) -> list[bytes]:
    """The items of a JSON array, each as the text it has; empty for anything else."""
    return list(_parts(data, b"["))


def text(data: bytes | None) -> str:
    """A JSON string; empty for anything else."""
    try:
        return msgspec.json.decode(data or b'""', type=str)
    except msgspec.DecodeError:
        return ""


def _parts(data: bytes, bracket: bytes) -> Iterator[bytes]:
    """What commas and colons separate directly inside the outermost brackets."""
    if data.lstrip()[:1] != bracket:
        return
    depth = start = 0
    for token in _TOKEN.finditer(data):
        match token[0]:
            case b"{" | b"[":
                depth += 1
                if depth == 1:
                    start = token.end()
            case b"}" | b"]":
                depth -= 1
                if depth == 0:
                    if last := data[start : token.start()].strip():
                        yield last
                    return
            case b"," | b":" if depth == 1:
                yield data[start : token.start()].strip()
                start = token.end()
