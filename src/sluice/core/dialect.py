"""The two readings of a copy operation: the documentation's and the peer's.

Flux's published documentation and source-watcher's code disagree on globs, merging and what is
left out. `DOCUMENTED` follows the documentation, `UPSTREAM` the code. Each is a row of functions;
nothing else in the engine asks which dialect it runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

from msgspec import Struct

from sluice.core import glob, merge, pattern
from sluice.core.errors import BuildError, Code, Problem, SpecError
from sluice.core.limits import Limits
from sluice.core.pattern import Glob, Grammar
from sluice.core.tree import EMPTY, Directory, Entry, Staging


class DialectName(StrEnum):
    """How a user names a dialect."""

    DOCUMENTED = "documented"
    UPSTREAM = "upstream"


class Selection(Struct, frozen=True, eq=False):
    """What `from` selects below its source: the literal `path`, or what `expand` finds.

    For a pattern, nothing outside the directory `path` can match; excludes are also compared with
    paths relative to `base`; a match loses the text `strip` from its front when it lands. Plans stay
    in memory, so `expand` keeps the text and compiles it for each use.
    """

    path: str
    base: str = ""
    strip: str = ""
    expand: Callable[[Directory], Iterable[tuple[str, Entry]]] | None = None


class Exclude(Struct, frozen=True):
    """One exclude pattern, known to be valid; `anywhere` if it is also compared with the bare name."""

    text: str
    anywhere: bool
    directories_only: bool = False


class LeaveOut(Struct, frozen=True):
    """What never goes into an archive, by the names of entries."""

    names: frozenset[str]
    directories: frozenset[str]
    suffixes: tuple[str, ...] = ()

    def matches(self, name: str, *, directory: bool) -> bool:
        return name in self.names or (directory and name in self.directories) or name.endswith(self.suffixes)


class Dialect(Struct, frozen=True, eq=False):
    """One reading of copy operations; see the module."""

    name: DialectName
    select: Callable[[str, Limits], Selection]
    """Reads the path of `from`. Raises `SpecError`."""
    select_archives: Callable[[str, Limits], Selection]
    """Reads the path of `from` for the Extract strategy. Raises `SpecError`."""
    glob: Callable[[str, Limits], Glob]
    """Compiles the path of a `from` that is a pattern, to tell how far it leads."""
    exclude: Callable[[str, Limits], Exclude]
    """Reads an exclude. Raises `SpecError`."""
    exclude_grammar: Grammar
    """What the texts of excludes are read in."""
    target: Callable[[str, Limits], str]
    """Reads the path of `to`. Raises `SpecError`."""
    place_file: Callable[[Staging, str, str], str]
    """Where a single file goes: from `to` and its base name. Raises `BuildError`."""
    merge: Callable[[bytes, bytes, Limits], bytes]
    """Merges an overlay into a base. Raises `BuildError`."""
    merges: Callable[[str], bool]
    """Whether Merge merges into a file of this name, or replaces it."""
    merge_inside: bool
    """Whether Merge also merges files inside the directories that are copied."""
    leave_out: LeaveOut
    named_stays: bool
    """Whether what a literal `from` names is never left out."""
    explicit_only: bool
    """Whether selecting nothing, or making an artifact without files, is always an error."""
    extract_keeps_mode: bool
    """Whether a file that Extract replaces keeps its executable bit."""
    empty_over_file: bool
    """Whether an empty directory copied onto a file changes nothing, instead of being an error."""
    braces: bool
    """Whether braces with a comma are alternatives in `from` beside pathPattern's captures."""
    lenient_pattern: bool
    """Whether a pathPattern without a match is a success that lets all artifacts go: spellings that
    can never match are accepted, and templates are read only once a directory matches."""


_REPOSITORY_FILES = frozenset({".gitignore", ".gitmodules", ".gitattributes"})
_CI_FILES = frozenset(
    {".travis.yml", ".gitlab-ci.yml", "appveyor.yml", ".drone.yml", "cloudbuild.yaml"}
    | {"codeship-services.yml", "codeship-steps.yml"}
)
_TOOL_FILES = frozenset({".goreleaser.yml", ".sops.yaml", ".flux.yaml"})
_DIRECTORIES = frozenset({".git", ".github", ".circleci"})
_MEDIA = (".jpg", ".jpeg", ".gif", ".png", ".wmv", ".flv", ".tar.gz", ".zip")


def clean(path: str) -> str | None:
    """A path without empty, `.` and `..` components; None if it leads out of its root.

    Lexical, as everywhere: ``x/..`` cancels whether or not ``x`` exists.
    """
    if path.startswith("/"):
        return None
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def join(*parts: str) -> str:
    """Paths put together; empty ones vanish."""
    return "/".join(filter(None, parts))


def _escape(path: str, of: str) -> SpecError:
    return SpecError(Problem(Code.ESCAPE, f"'{path}' leads out of the {of} (a path below it)"))


def _literal(text: str) -> Selection:
    path = clean(text)
    if path is None:
        raise _escape(text, "source")
    return Selection(path, path)


# --- documented ---------------------------------------------------------------------------------


def _documented_select(text: str, limits: Limits) -> Selection:
    if not pattern.has_meta(text, pattern.DOCUMENTED.meta):
        return _literal(pattern.unescape(text))
    spelled, directories_only, base = _documented_glob(text, limits)
    expand = _documented_expand(spelled, limits, directories_only=directories_only)
    return Selection(base, base, f"{base}/" if base else "", expand)


def _documented_archives(text: str, limits: Limits) -> Selection:
    if not pattern.has_meta(text, pattern.DOCUMENTED.meta):
        return _literal(pattern.unescape(text))
    spelled, directories_only, base = _documented_glob(text, limits)
    return Selection(
        base, base, "", _documented_expand(spelled, limits, directories_only=directories_only, inside=True)
    )


def _documented_expand(
    spelled: str, limits: Limits, *, directories_only: bool, inside: bool = False
) -> Callable[[Directory], Iterator[tuple[str, Entry]]]:
    def expand(tree: Directory) -> Iterator[tuple[str, Entry]]:
        compiled = pattern.compile_glob(spelled, pattern.DOCUMENTED, limits)
        for path, entry in glob.expand(tree, compiled, inside=inside):
            if path and (not directories_only or isinstance(tree.find(path), Directory)):
                yield path, entry

    return expand


def _documented_glob(text: str, limits: Limits) -> tuple[str, bool, str]:
    """A valid pattern as it is spelled, whether it wants directories only, and its literal prefix."""
    if text.startswith("/") or ".." in text.split("/"):
        raise _escape(text, "source")
    spelled, directories_only = pattern.normalise(text)
    pattern.compile_glob(spelled, pattern.DOCUMENTED, limits)
    return spelled, directories_only, "/".join(pattern.literal_prefix(spelled, pattern.DOCUMENTED))


def _documented_compiled(text: str, limits: Limits) -> Glob:
    return pattern.compile_glob(pattern.normalise(text)[0], pattern.DOCUMENTED, limits)


def _documented_exclude(text: str, limits: Limits) -> Exclude:
    spelled, directories_only = pattern.normalise(text)
    pattern.compile_glob(spelled, pattern.DOCUMENTED, limits)
    return Exclude(spelled, "/" not in spelled, directories_only)


def _documented_target(text: str, limits: Limits) -> str:
    path = clean(text)
    if path is None:
        raise _escape(text, "artifact")
    names_directory = text.rpartition("/")[2] in ("", ".", "..")
    return f"{path}/" if path and names_directory else path


def _documented_file(staging: Staging, to: str, name: str) -> str:
    path = to.rstrip("/")
    into = to != path or not path or staging.is_directory(path)
    return join(path, name) if into else path


def _is_yaml(name: str) -> bool:
    return name.lower().endswith((".yaml", ".yml"))


DOCUMENTED = Dialect(
    name=DialectName.DOCUMENTED,
    select=_documented_select,
    select_archives=_documented_archives,
    glob=_documented_compiled,
    exclude=_documented_exclude,
    exclude_grammar=pattern.DOCUMENTED,
    target=_documented_target,
    place_file=_documented_file,
    merge=merge.merge_documented,
    merges=_is_yaml,
    merge_inside=True,
    leave_out=LeaveOut(_REPOSITORY_FILES | _CI_FILES | _TOOL_FILES, _DIRECTORIES),
    named_stays=True,
    explicit_only=True,
    extract_keeps_mode=False,
    empty_over_file=False,
    braces=True,
    lenient_pattern=False,
)


# --- upstream -----------------------------------------------------------------------------------


_UPSTREAM_META = frozenset("*?[]")


def _upstream_target(text: str, limits: Limits) -> str:
    # Kept as written: what it means depends on what is there when it is used.
    return text


def _upstream_select(text: str, limits: Limits) -> Selection:
    if _UPSTREAM_META.isdisjoint(text):
        return _literal(text)
    return Selection(
        path="/".join(pattern.compile_glob(text, pattern.PATH_MATCH, limits).prefix),
        base=_upstream_base(text),
        # Only literally: the prefix of `a/*/**` or of an escaped pattern stays.
        strip=text.removesuffix("**") if text.endswith("/**") else "",
        expand=lambda tree: glob.expand(tree, pattern.compile_glob(text, pattern.PATH_MATCH, limits)),
    )


def _upstream_compiled(text: str, limits: Limits) -> Glob:
    return pattern.compile_glob(text, pattern.PATH_MATCH, limits)


def _upstream_archives(text: str, limits: Limits) -> Selection:
    if _UPSTREAM_META.isdisjoint(text):
        return _literal(text)
    prefix = pattern.compile_glob(text, pattern.DOUBLESTAR_PATHS, limits).prefix

    def expand(tree: Directory) -> Iterator[tuple[str, Entry]]:
        for path in glob.expand_doublestar(tree, text, limits):
            yield path, tree.find(path) or EMPTY

    return Selection("/".join(prefix), _upstream_base(text), "", expand)


def _upstream_base(text: str) -> str:
    """The leading components without a glob character, braces not being one."""
    parts = text.split("/")
    literal = itertools.takewhile(_UPSTREAM_META.isdisjoint, parts[:-1])
    return clean("/".join(literal)) or ""


def _upstream_exclude(text: str, limits: Limits) -> Exclude:
    pattern.compile_glob(text, pattern.DOUBLESTAR, limits)
    return Exclude(text, anywhere="/" not in text)


def _upstream_file(staging: Staging, to: str, name: str) -> str:
    """As the peer's confined calls resolve `to`: a stat, then making the parents, then an open."""
    if to.startswith("/"):
        raise BuildError(f"'{to}' leads out of the artifact", Code.ESCAPE)
    if to.endswith("/") or not to or _is_directory(staging, to):
        path = clean(join(to, name))
        if path is None:
            raise BuildError(f"'{to}' leads out of the artifact", Code.ESCAPE)
        return path
    parent = clean(to.rpartition("/")[0])
    if parent is None:
        raise BuildError(f"'{to}' leads out of the artifact", Code.ESCAPE)
    return _resolve(staging, to, made=parent)


def _is_directory(staging: Staging, path: str) -> bool:
    try:
        return staging.is_directory(_resolve(staging, f"{path}/x").rpartition("/")[0])
    except BuildError:
        return False


def _resolve(staging: Staging, path: str, made: str = "") -> str:
    """A path walked component by component, where `..` needs the directory before it to exist.

    The directory `made` counts as there. The last component has to be a name.
    """
    *parents, name = path.split("/")
    here: list[str] = []
    for part in parents:
        if part == "..":
            base = "/".join(here)
            if not here:
                raise BuildError(f"'{path}' leads out of the artifact", Code.ESCAPE)
            if not (staging.is_directory(base) or f"{made}/".startswith(f"{base}/")):
                raise BuildError(f"'{base}' is not a directory of the artifact", Code.CONFLICT)
            here.pop()
        elif part not in ("", "."):
            here.append(part)
    if name == ".." and not here:
        raise BuildError(f"'{path}' leads out of the artifact", Code.ESCAPE)
    if name in ("", ".", ".."):
        raise BuildError(f"'{path}' is a directory", Code.CONFLICT)
    return "/".join([*here, name])


UPSTREAM = Dialect(
    name=DialectName.UPSTREAM,
    select=_upstream_select,
    select_archives=_upstream_archives,
    glob=_upstream_compiled,
    exclude=_upstream_exclude,
    exclude_grammar=pattern.DOUBLESTAR,
    target=_upstream_target,
    place_file=_upstream_file,
    merge=merge.merge_upstream,
    merges=bool,
    merge_inside=False,
    leave_out=LeaveOut(_REPOSITORY_FILES | _CI_FILES | _TOOL_FILES, _DIRECTORIES, _MEDIA),
    named_stays=False,
    explicit_only=False,
    extract_keeps_mode=True,
    empty_over_file=True,
    braces=False,
    lenient_pattern=True,
)

DIALECTS = {dialect.name: dialect for dialect in (DOCUMENTED, UPSTREAM)}
