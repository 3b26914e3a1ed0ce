"""What lint found, for people and for programs; and the comments that silence it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from sluice.cli.output import escape
from sluice.core.lint import Rule, Severity


class LintFormat(StrEnum):
    """How findings are written to standard output."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


class Placed(Struct, frozen=True):
    """A finding and its place in a file; `artifacts` are those it was found in."""

    file: str
    line: int
    column: int
    rule: Rule
    field: str
    text: str
    artifacts: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return ":".join([self.file, *(str(number) for number in (self.line, self.column) if number)])


class Report(Struct, frozen=True):
    """What lint found, and what it could not look at."""

    findings: Sequence[Placed]
    skipped: Sequence[str]


def render(report: Report, form: LintFormat) -> bytes:
    """A report in a format."""
    return _FORMATS[form](report).encode("utf-8", "backslashreplace")


def merge(found: Sequence[Placed]) -> list[Placed]:
    """Findings that say the same of the same place as one, with all their artifacts."""
    merged: dict[tuple[str, int, int, str, str], Placed] = {}
    for one in found:
        key = (one.file, one.line, one.column, one.rule.name, one.text)
        before = merged.get(key)
        artifacts = one.artifacts if before is None else tuple(dict.fromkeys((*before.artifacts, *one.artifacts)))
        merged[key] = replace(one, artifacts=artifacts)
    return list(merged.values())


_COMMENT = re.compile(r"(?:^|\s)#\s*sluice:\s*ignore=([A-Za-z0-9,_ -]*[A-Za-z0-9])")


def silenced_by(line: str) -> Iterator[tuple[str, int]]:
    """The rules that a line silences, and where it names them."""
    for comment in _COMMENT.finditer(line):
        for name in re.finditer(r"[^,\s]+", comment[1]):
            yield name[0], comment.start(1) + name.start() + 1


def is_silenced(one: Placed, lines: Sequence[str]) -> bool:
    """Whether a comment on the line of a finding, or a line of its own above, silences it."""
    near = lines[max(one.line - 2, 0) : one.line] if one.line else []
    if len(near) == 2 and not near[0].lstrip().startswith("#"):
        near = near[1:]  # a comment behind something else speaks of that
    return any(name == one.rule.name for line in near for name, _ in silenced_by(line))


# --- formats ------------------------------------------------------------------------------------


def _as_text(report: Report) -> str:
    return "".join(
        f"{escape(f'{one.where}: {one.rule.severity} {one.rule.name}: {_text(one)}')}\n" for one in report.findings
    )


def _text(one: Placed) -> str:
    """Field, text, and the artifact, which is only worth naming where a template made it."""
    more = f" and {len(one.artifacts) - 1} more" if len(one.artifacts) > 1 else ""
    subject = f"artifact '{one.artifacts[0]}'{more}: " if one.artifacts else ""
    return f"{subject}{one.text}"


def _as_json(report: Report) -> str:
    findings = [
        {
            "rule": one.rule.name,
            "severity": one.rule.severity.value,
            "file": one.file,
            "line": one.line or None,
            "column": one.column or None,
            "field": one.field or None,
            "artifacts": list(one.artifacts),
            "text": one.text,
        }
        for one in report.findings
    ]
    return json.dumps({"findings": findings, "skipped": list(report.skipped)}, indent=2) + "\n"


def _as_github(report: Report) -> str:
    """Workflow commands, which GitHub shows beside the lines of a change."""
    lines = []
    for one in report.findings:
        fields = {"file": one.file, "line": one.line, "col": one.column, "title": f"sluice {one.rule.name}"}
        given = ",".join(f"{name}={_property(str(value))}" for name, value in fields.items() if value)
        level = "error" if one.rule.severity is Severity.ERROR else "warning"
        lines.append(f"::{level} {given}::{_data(escape(_text(one)))}\n")
    return "".join(lines)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(escape(text)).replace(":", "%3A").replace(",", "%2C")


_FORMATS: Mapping[LintFormat, Callable[[Report], str]] = {
    LintFormat.TEXT: _as_text,
    LintFormat.JSON: _as_json,
    LintFormat.GITHUB: _as_github,
}
