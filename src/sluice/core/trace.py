"""Why a path is in an artifact, or is not.

Composing keeps a log of what each copy placed where. What it does not keep, because nothing else needs
it, is found here by looking again: what the excludes took away, how far a pattern led, and what a path
that is missing might have been meant to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum

from msgspec import Struct

from sluice.core.compose import Composition, Placement
from sluice.core.dialect import LeaveOut, clean, join
from sluice.core.errors import BuildError, quote
from sluice.core.excludes import Excludes, excludes_of
from sluice.core.plan import Copy, Recipe
from sluice.core.spec import Strategy
from sluice.core.tree import Directory, Entry, File, Link

_CLOSEST = 5000
"""Paths among which a similar one is looked for."""


class Excluded(Struct, frozen=True, eq=False):
    """An entry of a source that a copy selects but for its exclude number `exclude`."""

    path: str
    entry: Entry
    exclude: int


class Effect(StrEnum):
    """What a copy did with a path."""

    PLACED = "placed"
    REPLACED = "replaced"
    MERGED = "merged"
    UNITED = "united"
    LEFT_OUT = "left out"
    EXCLUDED = "excluded"
    UNMATCHED = "unmatched"
    MISSING = "missing"


class Step(Struct, frozen=True):
    """What one copy had to do with a path, and where that is in its source; `reason` for what is not there."""

    copy: int
    effect: Effect
    source: str
    reason: str = ""


def select(copy: Copy, tree: Directory) -> list[tuple[str, Entry]]:
    """What a copy's `from` finds, before anything is excluded; nothing where that is an error."""
    if copy.selection.expand is not None:
        return [(path, entry) for path, entry in copy.selection.expand(tree) if path]
    found = tree.find(copy.selection.path)
    return [] if found is None else [(copy.selection.path, found)]


def find_excluded(recipe: Recipe, copy: Copy, tree: Directory) -> Iterator[Excluded]:
    """What the excludes of a copy take away, each entry with the first exclude that does; nothing below those."""
    if not copy.excludes:
        return
    base, grammar = copy.selection.base, recipe.dialect.exclude_grammar
    rows = [excludes_of((exclude,), base, grammar, recipe.limits) for exclude in copy.excludes]
    for path, entry in select(copy, tree):
        # A directory that is asked for by name stays: excludes apply below it.
        if copy.selection.expand is not None or not isinstance(entry, Directory):
            parent, _, name = path.rpartition("/")
            number = _first([row(parent) for row in rows], name, entry)
            if number is not None:
                yield Excluded(path, entry, number)
                continue
        found = tree.find(path) if isinstance(entry, Link) else entry
        if isinstance(found, Directory):
            yield from _excluded_below(found, path, [row(path) for row in rows])


def _excluded_below(directory: Directory, path: str, rows: Sequence[Excludes]) -> Iterator[Excluded]:
    if all(row.idle for row in rows):
        return
    for name, entry in directory.entries.items():
        where = join(path, name)
        number = _first(rows, name, entry)
        if number is not None:
            yield Excluded(where, entry, number)
        elif isinstance(entry, Directory):
            yield from _excluded_below(entry, where, [row.enter(name) for row in rows])


def _first(rows: Sequence[Excludes], name: str, entry: Entry) -> int | None:
    return next((number for number, row in enumerate(rows) if row.has(name, entry)), None)


# --- one path -----------------------------------------------------------------------------------


def trace(recipe: Recipe, trees: Mapping[str, Directory], composition: Composition, path: str) -> list[Step]:
    """What the copies had to do with a path of an artifact, in their order."""
    steps: list[Step] = []
    there: Entry | None = None
    for copy in recipe.copies:
        placements = [one for one in composition.placements if one.copy == copy.index]
        holding = [one for one in placements if one.holds(path)]
        for placement in holding:
            steps.append(_placed(recipe, trees, copy, placement, path, there))
            if steps[-1].effect is not Effect.LEFT_OUT:
                there = _inside(placement, path)
        if holding:
            continue
        if copy.strategy is Strategy.EXTRACT:
            steps += _not_unpacked(copy, placements, path)
        else:
            steps += _not_placed(recipe, copy, trees[copy.alias], path)
    return steps


def _placed(
    recipe: Recipe, trees: Mapping[str, Directory], copy: Copy, placement: Placement, path: str, there: Entry | None
) -> Step:
    entry = _inside(placement, path)
    below = path[len(placement.path) :].strip("/") if path != placement.path else ""
    source = f"{placement.source}!{below}" if copy.strategy is Strategy.EXTRACT else join(placement.source, below)
    named = recipe.dialect.named_stays and _names_itself(copy, placement, recipe.dialect.leave_out)
    if not named and (name := _left_out_by(recipe.dialect.leave_out, path, entry)):
        return Step(copy.index, Effect.LEFT_OUT, source, f"archives never hold {quote(name)}")
    if isinstance(entry, Directory):
        effect = Effect.UNITED if isinstance(there, Directory) else Effect.PLACED
    elif copy.strategy is Strategy.MERGE and entry is not None and _differs(trees[copy.alias], source, entry):
        effect = Effect.MERGED
    else:
        effect = Effect.PLACED if there is None else Effect.REPLACED
    return Step(copy.index, effect, source)


def _inside(placement: Placement, path: str) -> Entry | None:
    """What a placement that holds a path has there."""
    below = path[len(placement.path) :].strip("/") if path != placement.path else ""
    return placement.entry.find(below) if isinstance(placement.entry, Directory) else placement.entry


def _differs(tree: Directory, source: str, entry: Entry) -> bool:
    found = tree.find(source)
    return found is not None and found.digest != entry.digest


def _names_itself(copy: Copy, placement: Placement, rules: LeaveOut) -> bool:
    name = placement.source.rpartition("/")[2]
    return copy.selection.expand is None and rules.matches(name, directory=isinstance(placement.entry, Directory))


def _left_out_by(rules: LeaveOut, path: str, entry: Entry | None) -> str | None:
    """The first name of a path that is left out of archives."""
    *parents, name = path.split("/")
    for parent in parents:
        if rules.matches(parent, directory=True):
            return parent
    return name if rules.matches(name, directory=isinstance(entry, Directory)) else None


def _not_placed(recipe: Recipe, copy: Copy, tree: Directory, path: str) -> Iterator[Step]:
    """Why a copy that could have placed a path did not."""
    source = _origin(copy, tree, path)
    if source is None:
        return
    found = _find(tree, source)
    if found is None:
        yield Step(copy.index, Effect.MISSING, source, _nothing_at(copy, tree, source))
        return
    for item in find_excluded(recipe, copy, tree):
        if f"{source}/".startswith(f"{item.path}/"):
            what = "" if item.path == source else f", which matches {quote(item.path)}"
            text = f"exclude[{item.exclude}] {quote(copy.spec.exclude[item.exclude])}{what}"
            yield Step(copy.index, Effect.EXCLUDED, source, text)
            return
    if copy.selection.expand is not None:
        yield Step(copy.index, Effect.UNMATCHED, source, _reach(recipe, copy, source, found))


def _not_unpacked(copy: Copy, placements: Sequence[Placement], path: str) -> Iterator[Step]:
    """What the archives lack that a copy unpacks around a path."""
    for placement in placements:
        below = path.removeprefix(f"{placement.path}/") if placement.path else path
        if isinstance(placement.entry, Directory) and (below != path or not placement.path):
            close = similar(placement.entry, below)
            text = f"the archive has no {quote(below)}" + (f" (did you mean {quote(close)}?)" if close else "")
            yield Step(copy.index, Effect.MISSING, f"{placement.source}!{below}", text)


def _origin(copy: Copy, tree: Directory, path: str) -> str | None:
    """Where in its source a copy would have to find what it places at a path; None for a copy that cannot."""
    to, front = clean(copy.to) or "", copy.selection.strip
    if copy.selection.expand is None:
        front = copy.selection.path
        if isinstance(_find(tree, front), Directory):
            to = join(to, front.rpartition("/")[2])
        elif path == to or path == join(to, front.rpartition("/")[2]):
            return front
        else:
            return None
    if path == to:
        return front.rstrip("/") or None
    if to and not path.startswith(f"{to}/"):
        return None
    return join(front.rstrip("/"), path[len(to) :].lstrip("/"))


def _find(tree: Directory, path: str) -> File | Directory | None:
    try:
        return tree.find(path)
    except BuildError:
        return None  # a link that leads nowhere


def _nothing_at(copy: Copy, tree: Directory, path: str) -> str:
    """How much of a path there is, and what may be meant."""
    here, there, names = tree, "", path.split("/")
    for name in names:
        entry = _find(here, name)
        if not isinstance(entry, Directory):
            break
        here, there = entry, join(there, name)
    missing = names[there.count("/") + 1 if there else 0]
    close = get_close_matches(missing, list(here.entries)[:_CLOSEST], n=1)
    hint = f" (did you mean {quote(join(there, close[0]))}?)" if close else ""
    place = f"{quote(there)} of source '{copy.alias}'" if there else f"source '{copy.alias}'"
    return f"{place} has no {quote(missing)}{hint}"


def _reach(recipe: Recipe, copy: Copy, path: str, entry: Entry) -> str:
    """How far a pattern leads to a path that it does not match."""
    glob = recipe.dialect.glob(copy.pattern, recipe.limits)
    state, there = glob.start, ""
    for name in path.split("/"):
        state = glob.step(state, name)
        if glob.is_dead(state):
            place = f" in {quote(there)}" if there else ""
            return f"{quote(copy.pattern)} does not match {quote(name)}{place}"
        there = join(there, name)
    if isinstance(entry, File) and glob.accepts(state):
        return f"{quote(copy.pattern)} matches directories only"
    return f"{quote(copy.pattern)} matches only below {quote(path)}"


def similar(tree: Directory, path: str) -> str | None:
    """A path of a tree that may be meant instead: one of the same name, else one spelled nearly so."""
    paths = [below for below, _ in tree.walk()][:_CLOSEST]
    name = path.rpartition("/")[2]
    same = [below for below in paths if below.rpartition("/")[2] == name]
    close = get_close_matches(path, same or paths, n=1, cutoff=0.0 if same else 0.8)
    return close[0] if close else None


# --- whole artifacts ----------------------------------------------------------------------------


class Overwritten(Struct, frozen=True):
    """Files that one copy placed and a later one replaced with others."""

    by: int
    of: int
    paths: tuple[str, ...]


def find_overwritten(recipe: Recipe, placements: Sequence[Placement]) -> list[Overwritten]:
    """What copies replaced that earlier ones had placed; equal and merged files are not counted."""
    at: dict[str, list[Placement]] = {}
    below: dict[str, list[Placement]] = {}
    found: dict[tuple[int, int], dict[str, None]] = {}
    for later in placements:
        above = list(_parents(later.path))
        around = [*below.get(later.path, ()), *(one for path in (later.path, *above) for one in at.get(path, ()))]
        for earlier in around:
            if earlier.copy != later.copy:
                paths = _replaced(recipe, earlier, later)
                found.setdefault((later.copy, earlier.copy), {}).update(dict.fromkeys(paths))
        at.setdefault(later.path, []).append(later)
        for path in above:
            below.setdefault(path, []).append(later)
    return [Overwritten(by, of, tuple(paths)) for (by, of), paths in found.items() if paths]


def _parents(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path


def _replaced(recipe: Recipe, earlier: Placement, later: Placement) -> Iterator[str]:
    """The files of an earlier placement that a later one has others for."""
    path = max(earlier.path, later.path, key=len)
    if not (earlier.holds(path) or path == earlier.path) or not (later.holds(path) or path == later.path):
        return
    merges = recipe.copies[later.copy].strategy is Strategy.MERGE
    for replaced in _both(_inside(later, path), _inside(earlier, path), path):
        is_merged = merges and recipe.dialect.merges(replaced.rpartition("/")[2])
        if not (is_merged and (recipe.dialect.merge_inside or replaced == later.path)):
            yield replaced


def _both(later: Entry | None, earlier: Entry | None, path: str) -> Iterator[str]:
    """The files that both have, with different bytes."""
    if isinstance(later, File) and isinstance(earlier, File):
        if later.digest != earlier.digest:
            yield path
    elif isinstance(later, Directory) and isinstance(earlier, Directory) and later.digest != earlier.digest:
        for name, entry in later.entries.items():
            if name in earlier.entries:
                yield from _both(entry, earlier.entries[name], join(path, name))
