"""What differs between two sides, artifact by artifact, and how it is shown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from sluice.cli.consumers import Consumer
from sluice.cli.output import escape, human_size, table
from sluice.core.diff import MAX_TEXT, Change, ChangeKind, diff_lines, is_binary
from sluice.core.tree import Directory, Entry, File
from sluice.core.yaml_out import dump_value

LISTED: Final = 20
"""Files of one artifact that a comment lists."""
MAX_COMMENT: Final = 50_000
"""Characters of patches in a comment; GitHub takes 65536 in all."""


class DiffFormat(StrEnum):
    """How differences are written to standard output."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    MARKDOWN = "markdown"


class State(StrEnum):
    """What became of an artifact."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    NEW = "new"
    GONE = "gone"
    FAILING = "failing"


class Rollout(StrEnum):
    """What a consumer does, in the order in which it matters."""

    YES = "yes"
    SUSPENDED = "suspended"
    SOURCE_GONE = "source gone"
    NO = "no"


ROLLOUTS: Mapping[State, Rollout] = {
    State.CHANGED: Rollout.YES,
    State.NEW: Rollout.YES,
    State.UNCHANGED: Rollout.NO,
    State.FAILING: Rollout.NO,
    State.GONE: Rollout.SOURCE_GONE,
}
"""What a consumer of such an artifact does; one that fails to build keeps its last good revision."""
WORDS: Mapping[Rollout, str] = {
    Rollout.YES: "Rolls out",
    Rollout.SUSPENDED: "Suspended, rolls out when resumed",
    Rollout.SOURCE_GONE: "Loses its source",
    Rollout.NO: "Stays as it is",
}


class Difference(Struct, frozen=True, eq=False, kw_only=True):
    """An artifact before and after. Without a name it is a generator whose artifacts cannot be listed."""

    namespace: str
    name: str
    state: State
    generator: str | None = None
    changes: Sequence[Change] = ()
    error: str | None = None
    before: bytes | None = None
    after: bytes | None = None
    consumers: Sequence[Consumer] = ()

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.name or self.generator}"


class Comparison(Struct, frozen=True, eq=False):
    """All artifacts of both sides; `before` and `after` are what the sides are called."""

    before: str
    after: str
    differences: Sequence[Difference]

    @property
    def differing(self) -> list[Difference]:
        return [one for one in self.differences if one.state is not State.UNCHANGED]

    @property
    def summary(self) -> str:
        """In a few words."""
        total, differing = len(self.differences), self.differing
        counts = Counter(one.state for one in differing)
        shown = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
        if not differing:
            return f"no difference in {total} artifact{'s' * (total != 1)}"
        return f"{len(differing)} of {total} artifacts differ{'s' * (len(differing) == 1)}: {shown}"

    def consumers(self) -> list[tuple[Consumer, Difference]]:
        """Who deploys them, those that roll out first."""
        pairs = [(consumer, one) for one in self.differences for consumer in one.consumers]
        order = list(Rollout)
        return sorted(pairs, key=lambda pair: (order.index(rollout(*pair)), pair[0].title, pair[0].place))


def rollout(consumer: Consumer, one: Difference) -> Rollout:
    """What a consumer of an artifact does."""
    answer = ROLLOUTS[one.state]
    return Rollout.SUSPENDED if answer is Rollout.YES and consumer.is_suspended else answer


def render(comparison: Comparison, form: DiffFormat, *, patch: bool) -> bytes:
    """A comparison in a format."""
    return _FORMATS[form](comparison, patch)


# --- tables -------------------------------------------------------------------------------------


def _as_table(comparison: Comparison, patch: bool) -> bytes:
    """What differs; nothing where nothing does."""
    differing = comparison.differing
    if not differing:
        return b""
    rows = [(one.namespace, one.name or "-", one.state, _counts(one)) for one in differing]
    parts = [table(("NAMESPACE", "NAME", "STATE", "FILES"), rows)]
    for one in differing:
        if one.state is State.CHANGED and not patch:
            files = [f"  {change.kind:8}   {_shown(change)}\n" for change in one.changes]
            parts.append("".join([f"{one.title}\n", *files]))
    if consumers := comparison.consumers():
        header = ("KIND", "NAMESPACE", "NAME", "ARTIFACT", "ROLLS OUT")
        parts.append(table(header, [_consumer_row(*pair) for pair in consumers]))
    if patch:
        parts += ["".join(f"{line}\n" for line in _patch(one)) for one in differing if one.changes]
    return _encode("\n".join(parts))


def _counts(one: Difference) -> str:
    counts = Counter(change.kind for change in one.changes)
    return ", ".join(f"{counts[kind]} {kind}" for kind in ChangeKind if counts[kind]) or "-"


def _shown(change: Change) -> str:
    note = f" ({_mode_note(change)})" if change.mode_only else ""
    slash = "/" * isinstance(change.after or change.before, Directory)
    return f"{escape(change.path)}{slash}{note}"


def _mode_note(change: Change) -> str:
    return "executable now" if isinstance(change.after, File) and change.after.executable else "not executable now"


def _consumer_row(consumer: Consumer, one: Difference) -> tuple[str, ...]:
    return consumer.kind, consumer.namespace or one.namespace, consumer.name, one.title, rollout(consumer, one)


# --- patches ------------------------------------------------------------------------------------


def _patch(one: Difference) -> Iterator[str]:
    """The changes of an artifact as a unified diff, its control characters spelled out."""
    for change in one.changes:
        yield from _patch_of(change, f"{one.title}/")


def _patch_of(change: Change, base: str) -> Iterator[str]:
    path = escape(f"{base}{change.path}")
    old, new = (f"{side}/{path}" if entry else "/dev/null" for side, entry in _sides(change))
    yield f"diff a/{path} b/{path}"
    if isinstance(change.before, File) and isinstance(change.after, File) and change.before.mode != change.after.mode:
        yield f"old mode {_mode(change.before)}"
        yield f"new mode {_mode(change.after)}"
    if change.mode_only:
        return
    texts = [entry if entry is None else _text(entry) for _, entry in _sides(change)]
    if isinstance(change.after or change.before, Directory):
        yield f"Only in {old if change.before else new}: an empty directory"
    elif any(isinstance(text, str) for text in texts):
        yield f"Files {old} and {new} differ ({next(text for text in texts if isinstance(text, str))})"
    else:
        before, after = (text if isinstance(text, bytes) else b"" for text in texts)
        lines = diff_lines(before, after)
        if lines is None:
            yield f"Files {old} and {new} differ (too many lines to compare)"
        elif lines:
            yield f"--- {old}"
            yield f"+++ {new}"
            yield from map(_visible, lines)


def _sides(change: Change) -> tuple[tuple[str, Entry | None], tuple[str, Entry | None]]:
    return ("a", change.before), ("b", change.after)


def _mode(file: File) -> str:
    return "0700" if file.executable else "0600"


def _text(entry: Entry) -> bytes | str:
    """The text of a file, or why it is not shown."""
    if not isinstance(entry, File):
        return "not a file"
    if entry.size > MAX_TEXT:
        return f"too large to show, {human_size(entry.size)}"
    data = entry.read()
    return f"binary, {human_size(entry.size)}" if is_binary(data) else data


def _visible(line: str) -> str:
    return "\t".join(map(escape, line.split("\t")))


# --- for programs -------------------------------------------------------------------------------


def _as_json(comparison: Comparison, patch: bool) -> bytes:
    return _encode(json.dumps(_document(comparison, patch), indent=2) + "\n")


def _as_yaml(comparison: Comparison, patch: bool) -> bytes:
    return dump_value(_document(comparison, patch))


def _document(comparison: Comparison, patch: bool) -> dict[str, Any]:
    return {
        "from": comparison.before,
        "to": comparison.after,
        "differs": bool(comparison.differing),
        "artifacts": [_artifact(one, patch) for one in comparison.differences],
        "consumers": [_consumer(*pair) for pair in comparison.consumers()],
    }


def _artifact(one: Difference, patch: bool) -> dict[str, Any]:
    return {
        "namespace": one.namespace,
        "name": one.name or None,
        "generator": one.generator,
        "state": one.state.value,
        "error": one.error,
        "before": _digest(one.before),
        "after": _digest(one.after),
        "files": [_file(one, change, patch) for change in one.changes],
    }


def _digest(digest: bytes | None) -> str | None:
    return None if digest is None else f"sha256:{digest.hex()}"


def _file(one: Difference, change: Change, patch: bool) -> dict[str, Any]:
    about: dict[str, Any] = {
        "path": change.path,
        "type": "dir" if isinstance(change.after or change.before, Directory) else "file",
        "change": change.kind.value,
        "before": _entry(change.before),
        "after": _entry(change.after),
    }
    if patch:
        about["patch"] = "".join(f"{line}\n" for line in _patch_of(change, f"{one.title}/"))
    return about


def _entry(entry: Entry | None) -> dict[str, Any] | None:
    if not isinstance(entry, File):
        return None
    return {"mode": _mode(entry), "size": entry.size, "sha256": entry.digest.hex()}


def _consumer(consumer: Consumer, one: Difference) -> dict[str, Any]:
    return {
        "kind": consumer.kind,
        "namespace": consumer.namespace or one.namespace,
        "name": consumer.name,
        "artifact": one.title,
        "rollsOut": rollout(consumer, one) is Rollout.YES,
        "suspended": consumer.is_suspended,
        "artifactState": one.state.value,
        "file": consumer.place or None,
    }


# --- for pull requests --------------------------------------------------------------------------


def _as_markdown(comparison: Comparison, patch: bool) -> bytes:
    differing = comparison.differing
    lines = [f"**Artifacts: {comparison.summary}**"]
    if differing:
        lines += ["", "| Artifact | State | Files |", "| --- | --- | --- |"]
        lines += [f"| {_code(one.title)} | {one.state} | {_cell(one)} |" for one in differing]
        lines += _rollouts(comparison)
        left = MAX_COMMENT
        for one in differing:
            if one.changes:
                details = _details(one, patch, left)
                left -= sum(map(len, details))
                lines += details
    return _encode("".join(f"{line}\n" for line in lines))


def _cell(one: Difference) -> str:
    return _code(one.error).replace("|", "\\|") if one.error else _counts(one)


def _rollouts(comparison: Comparison) -> Iterator[str]:
    for answer in Rollout:
        names = [_code(pair[0].title) for pair in comparison.consumers() if rollout(*pair) is answer]
        if names:
            yield ""
            yield f"{WORDS[answer]}: {', '.join(dict.fromkeys(names))}"


def _details(one: Difference, patch: bool, most: int) -> list[str]:
    head = ["", f"<details><summary>{one.title}: {_counts(one)}</summary>", ""]
    body = list(_patch(one)) if patch else []
    if patch and sum(len(line) + 1 for line in body) <= most:
        fence = "`" * max(3, 1 + max(map(_backticks, body), default=0))
        return [*head, f"{fence}diff", *body, fence, "", "</details>"]
    files = [f"- {change.kind} {_code(_shown(change))}" for change in one.changes[:LISTED]]
    more = [f"- and {len(one.changes) - LISTED} more"] if len(one.changes) > LISTED else []
    note = ["", "The patch is too long for a comment."] if patch else []
    return [*head, *files, *more, *note, "", "</details>"]


def _code(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = escape(text)
    fence = "`" * (1 + _backticks(text))
    space = " " * (text.startswith("`") or text.endswith("`"))
    return f"{fence}{space}{text}{space}{fence}"


def _backticks(text: str) -> int:
    """The length of the longest run of backticks."""
    longest = run = 0
    for char in text:
        run = run + 1 if char == "`" else 0
        longest = max(longest, run)
    return longest


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


_FORMATS: Mapping[DiffFormat, Callable[[Comparison, bool], bytes]] = {
    DiffFormat.TABLE: _as_table,
    DiffFormat.JSON: _as_json,
    DiffFormat.YAML: _as_yaml,
    DiffFormat.MARKDOWN: _as_markdown,
}
