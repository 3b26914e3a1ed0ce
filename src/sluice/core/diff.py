"""Compare two trees, looking only where their digests differ."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from sluice.core.dialect import join
from sluice.core.tree import EMPTY, Directory, Entry, sort_names

MAX_TEXT: Final = 512 * 1024
"""Bytes of a file that is compared line by line."""
MAX_LINES: Final = 5000
"""Lines between the first and the last difference: comparing takes their number squared."""
_LOOKED_AT: Final = 8000
"""Bytes in which a zero byte makes a file binary, as for Git."""


class ChangeKind(StrEnum):
    """What happened to a path."""

    ADDED = "added"
    REMOVED = "removed"
    MODIFIED = "modified"


class Change(Struct, frozen=True, eq=False):
    """A path that differs: what is there before and after, of which one may be nothing.

    A directory only where it has nothing in it, or turns into a file: otherwise its files tell.
    """

    path: str
    before: Entry | None
    after: Entry | None

    @property
    def kind(self) -> ChangeKind:
        if self.before is None:
            return ChangeKind.ADDED
        return ChangeKind.REMOVED if self.after is None else ChangeKind.MODIFIED

    @property
    def mode_only(self) -> bool:
        """Whether the bytes are the same, and only the executable bit differs."""
        return self.before is not None and self.after is not None and self.before.digest == self.after.digest


def diff_trees(before: Directory, after: Directory) -> Iterator[Change]:
    """What differs, in the order of a walk; directories of equal digests are not looked into."""
    yield from _diff(before, after, "")


def _diff(before: Directory, after: Directory, path: str) -> Iterator[Change]:
    if before.digest == after.digest:
        return
    for name in sort_names({**before.entries, **after.entries}):
        where = join(path, name)
        old, new = before.entries.get(name), after.entries.get(name)
        if isinstance(old, Directory) and isinstance(new, Directory):
            yield from _emptied(old, new, where)
            yield from _diff(old, new, where)
        elif isinstance(old, Directory) or isinstance(new, Directory):
            yield from _turned(old, new, where)
        elif old is None or new is None or (old.mode, old.digest) != (new.mode, new.digest):
            yield Change(where, old, new)


def _emptied(old: Directory, new: Directory, path: str) -> Iterator[Change]:
    """A directory that had nothing in it and now has, or the reverse."""
    if not old.entries and new.entries:
        yield Change(path, old, None)
    if old.entries and not new.entries:
        yield Change(path, None, new)


def _turned(old: Entry | None, new: Entry | None, path: str) -> Iterator[Change]:
    """A directory in the place of a file or of nothing, or the reverse."""
    for entry, gone in ((old, True), (new, False)):
        if isinstance(entry, Directory) and entry.entries:
            yield from _diff(entry, EMPTY, path) if gone else _diff(EMPTY, entry, path)
        elif entry is not None:
            yield Change(path, entry, None) if gone else Change(path, None, entry)


def is_binary(data: bytes) -> bool:
    """Whether bytes are not for people: they hold a zero byte or are not UTF-8."""
    if b"\0" in data[:_LOOKED_AT]:
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False


def diff_lines(before: bytes, after: bytes, context: int = 3) -> list[str] | None:
    r"""The hunks of a unified diff of two texts, without line ends; None where there are too many lines.

    As everywhere, ``\ No newline at end of file`` follows a last line that has none.
    """
    old, new = _lines(before), _lines(after)
    skip = _common(old, new)
    rest = _common(old[skip:][::-1], new[skip:][::-1])
    if max(len(old), len(new)) - skip - rest > MAX_LINES:
        return None
    first = max(skip - context, 0)
    after_old, after_new = (min(len(side) - rest + context, len(side)) for side in (old, new))
    matcher = difflib.SequenceMatcher(None, old[first:after_old], new[first:after_new])
    hunks: list[str] = []
    for group in matcher.get_grouped_opcodes(context):
        hunks.append(_heading(group, first))
        for tag, begin, end, other_begin, other_end in group:
            if tag == "equal":
                hunks += _marked(" ", old[first + begin : first + end])
                continue
            hunks += _marked("-", old[first + begin : first + end])
            hunks += _marked("+", new[first + other_begin : first + other_end])
    return hunks


def _lines(data: bytes) -> list[str]:
    # Not `splitlines`: a form feed does not end a line of a patch.
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    last = lines.pop()
    return [f"{line}\n" for line in lines] + [last] * bool(last)


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """The number of equal lines in front."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))


def _marked(sign: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield f"{sign}{line.removesuffix(chr(10))}"
        if not line.endswith("\n"):
            yield r"\ No newline at end of file"


def _heading(group: Sequence[tuple[str, int, int, int, int]], first: int) -> str:
    (_, old, _, new, _), (_, _, old_end, _, new_end) = group[0], group[-1]
    return f"@@ -{_range(first + old, first + old_end)} +{_range(first + new, first + new_end)} @@"


def _range(begin: int, end: int) -> str:
    """Lines as a hunk counts them: from 1, an empty range by the line before it."""
    length = end - begin
    if length == 1:
        return str(begin + 1)
    return f"{begin + 1 if length else begin},{length}"
