"""Apply copy operations to source trees, the way ``cp -r`` would.

Each copy selects entries of its source, takes the excluded ones away, and hands the rest to its
strategy, which places them in the staging. Directories are shared between source and artifact as
long as nothing below them is excluded, left out or a link; only then they are walked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import Struct

from sluice.core.dialect import LeaveOut, clean, join
from sluice.core.errors import BuildError, Code, LimitExceeded
from sluice.core.excludes import Excludes, excludes_of
from sluice.core.limits import Limits
from sluice.core.plan import Copy, Recipe
from sluice.core.spec import Strategy
from sluice.core.tree import Directory, Entry, File, Link, Staging, encode_name

ARCHIVES = (".tar.gz", ".tgz")
"""Endings, in lower case, of what Extract unpacks."""

MAX_NAME = 255
"""Bytes of one path component that file systems take."""

Unpack = Callable[[File], Directory]
"""Opens an embedded archive. Raises `BuildError`."""


class Match(Struct, frozen=True, eq=False):
    """What one selected path of a source is, without excluded entries and links."""

    path: str
    entry: File | Directory


class Placement(Struct, frozen=True, eq=False):
    """What a copy put where: one row per match.

    `source` and `path` are the places of `entry` in the source and in the artifact. An entry may
    have been changed or replaced by a later placement.
    """

    copy: int
    source: str
    path: str
    entry: File | Directory

    def holds(self, path: str) -> bool:
        """Whether this placement put something at a path of the artifact."""
        if not self.path:
            return self.entry.find(path) is not None if isinstance(self.entry, Directory) else False
        if path == self.path:
            return True
        below = path.removeprefix(f"{self.path}/")
        return below != path and isinstance(self.entry, Directory) and self.entry.find(below) is not None


class Composition(Struct, frozen=True, eq=False):
    """What a recipe makes. `left_out` are the paths that archives never hold."""

    tree: Directory
    placements: Sequence[Placement]
    warnings: Sequence[str]
    left_out: Sequence[str]

    def placed_by(self, path: str) -> Placement | None:
        """The placement that a path of the tree comes from: the last one that holds it."""
        return next((p for p in reversed(self.placements) if p.holds(path)), None)


def compose(recipe: Recipe, trees: Mapping[str, Directory], unpack: Unpack) -> Composition:
    """Run a recipe's copies in order and return what they make.

    Later copies overwrite earlier ones. A copy that selects nothing is an error: it is far more
    often a typo than an intention. `trees` holds a tree for every alias of the recipe. Raises
    `BuildError` where the recipe does not fit the trees.
    """
    work = _Work(recipe, unpack)
    for copy in recipe.copies:
        try:
            _STRATEGIES[copy.strategy](work, copy, trees[copy.alias])
        except BuildError as error:
            raise _located(error, copy) from error
    return work.finish()


def _located(error: BuildError, copy: Copy) -> BuildError:
    return BuildError(f"copy from '{copy.spec.source}': {error}", error.code)


class _Work:
    """One composition under way."""

    def __init__(self, recipe: Recipe, unpack: Unpack) -> None:
        self.dialect = recipe.dialect
        self.limits = recipe.limits
        self.unpack = unpack
        self.staging = Staging()
        self.placements: list[Placement] = []
        self.warnings: list[str] = []
        self.left_out: list[str] = []

    def excludes(self, copy: Copy) -> Callable[[str], Excludes]:
        """The excludes of a copy, for any directory of its source."""
        return excludes_of(copy.excludes, copy.selection.base, self.dialect.exclude_grammar, self.limits)

    def place(self, copy: Copy, match: Match, path: str) -> None:
        """Put a match at a path of the artifact, over what is there."""
        if path.count("/") >= self.limits.depth:
            raise _too_deep(path, self.limits)
        entry: File | Directory | None = match.entry
        if self.dialect.named_stays and not _is_named(copy, match, self.dialect.leave_out):
            entry, gone = _leave_out(match.entry, path, self.dialect.leave_out)
            # The last placement of a path decides, also when it decides against it.
            for left in gone:
                self.staging.remove(left)
            self.left_out += gone
        self.placements.append(Placement(copy.index, match.path, path, match.entry))
        if entry is not None:
            ignore_empty = self.dialect.empty_over_file and copy.strategy is not Strategy.EXTRACT
            self.staging.put(path, entry, ignore_empty=ignore_empty)

    def finish(self) -> Composition:
        tree = self.staging.finish()
        _check_names(tree, self.limits)
        if not self.dialect.named_stays:
            kept, gone = _leave_out(tree, "", self.dialect.leave_out)
            assert isinstance(kept, Directory)
            tree, self.left_out = kept, gone
        # What one copy brings and is left out, another may name.
        self.left_out = [path for path in dict.fromkeys(self.left_out) if tree.find(path) is None]
        if tree.size > self.limits.artifact_size:
            raise LimitExceeded(f"the artifact holds {tree.size} bytes", self.limits.artifact_size, "artifact_size")
        if not tree.files:
            text = "the artifact would hold no file"
            if self.left_out:
                text += f" ({_some(self.left_out)} left out)"
            if self.dialect.explicit_only:
                raise BuildError(text, Code.EMPTY)
            self.warnings.append(text)
        return Composition(tree, self.placements, self.warnings, self.left_out)


# --- selecting ----------------------------------------------------------------------------------


def _select_literal(work: _Work, copy: Copy, tree: Directory) -> Match | None:
    path = copy.selection.path
    entry = tree.find(path)
    if entry is None:
        raise BuildError(f"source '{path}' does not exist", Code.NOT_FOUND)
    excludes = work.excludes(copy)
    if isinstance(entry, File):
        if _is_excluded(excludes, path, entry):
            _note_nothing(work, copy)
            return None
        return Match(path, entry)
    # A directory that is asked for by name stays: excludes apply below it.
    kept = _without(tree, entry, path, excludes(path))
    if work.dialect.explicit_only and entry.files and not kept.files:
        raise _all_excluded(copy)
    return Match(path, kept)


def _note_nothing(work: _Work, copy: Copy) -> None:
    if work.dialect.explicit_only:
        raise _all_excluded(copy)
    work.warnings.append(f"copy from '{copy.spec.source}': its only file is excluded")


def _all_excluded(copy: Copy) -> BuildError:
    text = f"all files matching pattern '{copy.pattern}' in source '{copy.alias}' were excluded"
    return BuildError(text, Code.ALL_EXCLUDED)


def _matches(copy: Copy, tree: Directory) -> list[tuple[str, Entry]]:
    """What a pattern finds; at least one."""
    assert copy.selection.expand is not None
    found = list(copy.selection.expand(tree))
    if not found:
        raise BuildError(f"no files match pattern '{copy.pattern}' in source '{copy.alias}'", Code.NO_MATCH)
    return found


def _is_excluded(excludes: Callable[[str], Excludes], path: str, entry: Entry) -> bool:
    directory, _, name = path.rpartition("/")
    return excludes(directory).has(name, entry)


def _not_excluded(
    copy: Copy, found: Sequence[tuple[str, Entry]], excludes: Callable[[str], Excludes]
) -> list[tuple[str, Entry]]:
    """The matches that are not excluded themselves; at least one."""
    kept = [(path, entry) for path, entry in found if path and not _is_excluded(excludes, path, entry)]
    if not kept:
        raise _all_excluded(copy)
    return kept


def _resolved(tree: Directory, path: str, entry: Entry) -> File | Directory:
    if not isinstance(entry, Link):
        return entry
    found = tree.find(path)
    if found is None:
        raise BuildError(f"'{path}' is a link to nothing", Code.NOT_FOUND)
    return found


def _without(tree: Directory, directory: Directory, path: str, excludes: Excludes) -> Directory:
    """A directory without what is excluded below it, its links resolved; shared where it can be."""
    if excludes.idle and not directory.has_links:
        return directory
    kept: dict[str, Entry] = {}
    changed = False
    for name, entry in directory.entries.items():
        if excludes.has(name, entry):
            changed = True
            continue
        where = join(path, name)
        match entry:
            case Directory():
                kept[name] = _without(tree, entry, where, excludes.enter(name))
            case Link():
                kept[name] = found = _resolved(tree, where, entry)
                if isinstance(found, Directory):
                    text = f"'{where}' is a link to a directory (links to files are copied)"
                    raise BuildError(text, Code.CONFLICT)
            case File():
                kept[name] = entry
        changed = changed or kept[name] is not entry
    return Directory.of_entries(kept) if changed else directory


# --- strategies ---------------------------------------------------------------------------------


def _overwrite(work: _Work, copy: Copy, tree: Directory) -> None:
    for match in _select(work, copy, tree):
        work.place(copy, match, _landing(work, copy, match))


def _merge(work: _Work, copy: Copy, tree: Directory) -> None:
    for match in _select(work, copy, tree):
        path = _landing(work, copy, match)
        if isinstance(match.entry, File) or work.dialect.merge_inside:
            match = Match(match.path, _overlaid(work, match.entry, path))
        work.place(copy, match, path)


def _overlaid(work: _Work, entry: File | Directory, path: str) -> File | Directory:
    """An entry with each file merged into the one that the staging has in its place."""
    if isinstance(entry, Directory):
        if not work.staging.is_directory(path):
            return entry
        entries: dict[str, Entry] = {}
        for name, child in entry.entries.items():
            assert not isinstance(child, Link)
            entries[name] = _overlaid(work, child, join(path, name))
        changed = any(entries[name] is not child for name, child in entry.entries.items())
        return Directory.of_entries(entries) if changed else entry
    there = work.staging.find(path) if not work.staging.is_directory(path) else None
    if not isinstance(there, File) or not work.dialect.merges(path.rpartition("/")[2]):
        return entry
    for side in (there, entry):
        if side.size > work.limits.yaml_size:
            raise LimitExceeded(f"'{path}' to merge holds {side.size} bytes", work.limits.yaml_size, "yaml_size")
    try:
        merged = work.dialect.merge(there.read(), entry.read(), work.limits)
    except BuildError as error:
        raise BuildError(f"merge into '{path}': {error}", error.code) from error
    return File.of(merged, executable=there.executable)


def _extract(work: _Work, copy: Copy, tree: Directory) -> None:
    # `to` is always a directory, and a leading slash never leads anywhere.
    path = clean(copy.to.lstrip("/"))
    for source, archive in _archives(work, copy, tree):
        if path is None:
            raise BuildError(f"'{copy.to}' leads out of the artifact", Code.ESCAPE)
        try:
            unpacked = work.unpack(archive)
        except BuildError as error:
            raise BuildError(f"'{source}': {error}", error.code) from error
        if work.dialect.extract_keeps_mode:
            unpacked = _keeping_modes(work.staging, unpacked, path)
        work.place(copy, Match(source, unpacked), path)


def _archives(work: _Work, copy: Copy, tree: Directory) -> list[tuple[str, File]]:
    if copy.selection.expand is None:
        return _literal_archive(work, copy, tree)
    found = _matches(copy, tree)
    if work.dialect.explicit_only:
        found = [(path, entry) for path, entry in found if not isinstance(entry, Directory)]
    archives = []
    for path, entry in _not_excluded(copy, found, work.excludes(copy)) if found else ():
        if path.lower().endswith(ARCHIVES):
            archive = _resolved(tree, path, entry)
            if isinstance(archive, File):
                archives.append((path, archive))
            elif not work.dialect.explicit_only:
                raise BuildError(f"'{path}' is a directory, not an archive", Code.EXTRACT)
    if not archives:
        text = f"pattern '{copy.pattern}' matches no archive ({' or '.join(ARCHIVES)})"
        if work.dialect.explicit_only:
            raise BuildError(text, Code.EXTRACT)
        work.warnings.append(f"copy from '{copy.spec.source}': {text}")
    return archives


def _literal_archive(work: _Work, copy: Copy, tree: Directory) -> list[tuple[str, File]]:
    path = copy.selection.path
    entry = tree.find(path)
    if isinstance(entry, Directory):
        raise BuildError(f"extract strategy is not supported for directories, '{path or '.'}' is one", Code.EXTRACT)
    match = _select_literal(work, copy, tree)
    if match is None:
        return []
    if not path.lower().endswith(ARCHIVES):
        raise BuildError(
            f"extract strategy requires tarball file, '{path}' is none ({', '.join(ARCHIVES)})", Code.EXTRACT
        )
    assert isinstance(match.entry, File)
    return [(path, match.entry)]


def _keeping_modes(staging: Staging, directory: Directory, path: str) -> Directory:
    """A directory whose files have the executable bits of the files that they will replace."""
    if not staging.is_directory(path):
        return directory
    entries: dict[str, Entry] = {}
    for name, entry in directory.entries.items():
        where = join(path, name)
        match entry, staging.find(where) if isinstance(entry, File) else None:
            case File(), File() as there:
                entries[name] = File(entry.digest, entry.size, there.executable, entry.content, entry.offset)
            case Directory(), _:
                entries[name] = _keeping_modes(staging, entry, where)
            case _:
                entries[name] = entry
    return Directory.of_entries(entries)


_STRATEGIES: Mapping[Strategy, Callable[[_Work, Copy, Directory], None]] = {
    Strategy.OVERWRITE: _overwrite,
    Strategy.MERGE: _merge,
    Strategy.EXTRACT: _extract,
}


def _select(work: _Work, copy: Copy, tree: Directory) -> Iterator[Match]:
    """What a copy selects, in order, without what it excludes."""
    if copy.selection.expand is None:
        match = _select_literal(work, copy, tree)
        if match is not None:
            yield match
        return
    excludes = work.excludes(copy)
    for path, entry in _not_excluded(copy, _matches(copy, tree), excludes):
        found = _resolved(tree, path, entry)
        if isinstance(found, Directory):
            found = _without(tree, found, path, excludes(path))
        yield Match(path, found)


def _landing(work: _Work, copy: Copy, match: Match) -> str:
    """Where in the artifact a match goes."""
    if copy.selection.expand is not None:
        below = match.path.removeprefix(copy.selection.strip)
    else:
        below = match.path.rpartition("/")[2]
        if isinstance(match.entry, File):
            return work.dialect.place_file(work.staging, copy.to, below)
    path = clean(f"{copy.to}/{below}" if copy.to else below)
    if path is None:
        raise BuildError(f"'{copy.to}' leads out of the artifact", Code.ESCAPE)
    return path


# --- what is left out, and what is refused ------------------------------------------------------


def _is_named(copy: Copy, match: Match, rules: LeaveOut) -> bool:
    """Whether a copy asks by name for something that would be left out."""
    name = match.path.rpartition("/")[2]
    return copy.selection.expand is None and rules.matches(name, directory=isinstance(match.entry, Directory))


def _leave_out(entry: File | Directory, path: str, rules: LeaveOut) -> tuple[File | Directory | None, list[str]]:
    """An entry for a path of the artifact without what is left out, and the paths of those files."""
    *parents, name = path.split("/")
    if path and (
        any(rules.matches(parent, directory=True) for parent in parents)
        or rules.matches(name, directory=isinstance(entry, Directory))
    ):
        return None, [path] if isinstance(entry, File) else _files(entry, path)
    if isinstance(entry, File):
        return entry, []
    return _leave_out_below(entry, path, rules)


def _leave_out_below(directory: Directory, path: str, rules: LeaveOut) -> tuple[Directory, list[str]]:
    kept: dict[str, Entry] = {}
    gone: list[str] = []
    for name, entry in directory.entries.items():
        where = join(path, name)
        if rules.matches(name, directory=isinstance(entry, Directory)):
            gone += _files(entry, where) if isinstance(entry, Directory) else [where]
        elif isinstance(entry, Directory):
            kept[name], below = _leave_out_below(entry, where, rules)
            gone += below
        else:
            kept[name] = entry
    unchanged = len(kept) == len(directory.entries) and all(kept[name] is directory.entries[name] for name in kept)
    return directory if unchanged else Directory.of_entries(kept), gone


def _files(directory: Directory, path: str) -> list[str]:
    return [below for below, entry in directory.walk(path) if isinstance(entry, File)]


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _check_names(tree: Directory, limits: Limits) -> None:
    """Refuse names that consumers could not unpack or that no line-based format can carry."""
    for path, entry in tree.walk():
        name = path.rpartition("/")[2]
        if len(name) * 4 > MAX_NAME and len(encode_name(name)) > MAX_NAME:
            raise BuildError(f"'{path[:80]}…' has a name of more than {MAX_NAME} bytes", Code.BAD_NAME)
        if path.count("/") >= limits.depth:
            raise _too_deep(path, limits)
        if isinstance(entry, File):
            if "\n" in path:
                raise BuildError(f"'{path}' has a newline in its name", Code.BAD_NAME)
        elif not name.isascii() and not _is_utf8(name):
            raise BuildError(f"'{path}' is a directory whose name is not UTF-8", Code.BAD_NAME)


def _too_deep(path: str, limits: Limits) -> LimitExceeded:
    return LimitExceeded(f"'{path[:80]}…' is {path.count('/') + 1} levels deep", limits.depth, "depth")


def _is_utf8(name: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in name)
