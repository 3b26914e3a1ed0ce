"""What can go wrong, sorted by whose turn it is to act.

A family answers "who must do something": the author of the spec, the owner of a source, both
because they do not fit each other, the operator of the disk, the API server. Within a family the
`Code` says what happened; texts are for people and have the form *where: what (what would be
right)*.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import force_setattr

MAX_QUOTED = 300
"""Characters that an error repeats of one value."""


def printable(text: str) -> str:
    """A text with every character escaped that could end a line, move a cursor or not be encoded.

    Errors quote what users, archives and servers wrote, and end up in conditions, logs and terminals.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quote(value: str) -> str:
    """A value in quotes, as an error shows it: never long."""
    return f"'{value}'" if len(value) <= MAX_QUOTED else f"'{value[:MAX_QUOTED]}…'"


class Code(StrEnum):
    """Stable names of what went wrong, for machines: JSON output, tests, metrics."""

    INVALID_SPEC = "invalid_spec"
    ACCESS_DENIED = "access_denied"
    UNKNOWN_ALIAS = "unknown_alias"
    BAD_PATTERN = "bad_pattern"
    ESCAPE = "escape"
    INVALID_NAME = "invalid_name"
    NAME_COLLISION = "name_collision"
    CYCLE = "cycle"
    NOT_FOUND = "not_found"
    NOT_READY = "not_ready"
    FETCH = "fetch"
    DIGEST_MISMATCH = "digest_mismatch"
    INVALID_ARCHIVE = "invalid_archive"
    INVALID_YAML = "invalid_yaml"
    NO_MATCH = "no_match"
    ALL_EXCLUDED = "all_excluded"
    CONFLICT = "conflict"
    BAD_NAME = "bad_name"
    MERGE = "merge_error"
    EXTRACT = "extract_error"
    EMPTY = "empty"
    LIMIT = "limit"


class Problem(Struct, frozen=True):
    """One thing that is wrong: `where` is a field path or empty, `text` one line for people."""

    code: Code
    text: str
    where: str = ""

    def __post_init__(self) -> None:
        force_setattr(self, "text", printable(self.text))
        force_setattr(self, "where", printable(self.where))

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


class SluiceError(Exception):
    """Everything that Sluice reports; a bug is something else and keeps its traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class SpecError(SluiceError):
    """The spec cannot work, whatever the sources hold; holds all its problems at once."""

    def __init__(self, problems: Iterable[Problem] | Problem) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class SourceError(SluiceError):
    """A source is missing, not ready, unreachable or not what its digest says.

    `retry_after` are the seconds after which it is worth asking again, where that is known.
    """

    def __init__(self, text: str, code: Code, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.retry_after = retry_after


class BuildError(SluiceError):
    """The spec is fine, but it does not fit what these sources hold."""

    def __init__(self, text: str, code: Code) -> None:
        super().__init__(text)
        self.code = code


class StorageError(SluiceError):
    """The store could not keep or return an artifact."""


class ApiError(SluiceError):
    """The API server refused or did not answer."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class LimitExceeded(BuildError):
    """Something is larger than it may be; the text names what, the value and the limit."""

    def __init__(self, what: str, limit: int, name: str) -> None:
        super().__init__(f"{what} (limit: {limit}, {name})", Code.LIMIT)
