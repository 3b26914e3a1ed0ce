"""Find what patterns select in a tree.

A walk begins at a pattern's literal prefix and turns round wherever nothing below can match, so it
costs what the pattern reaches, not what the tree holds.
"""

from __future__ import annotations

from collections.abc import Iterator

from sluice.core.errors import BuildError
from sluice.core.limits import Limits
from sluice.core.pattern import DOUBLESTAR_PATHS, Glob, compile_glob, split_components
from sluice.core.tree import Directory, Entry, File, Link, encode_name


def expand(tree: Directory, glob: Glob, *, inside: bool = False) -> Iterator[tuple[str, Entry]]:
    """The entries that a pattern selects, in order of the walk: names in byte order, depth first.

    A selected directory stands for all below it: nothing is looked for inside, and `a/**` selects
    the children of `a`, not `a`. With `inside`, everything that matches is selected, `a` too. A
    link is passed through where the pattern names what is behind it, and handed out as a link where
    it ends there.
    """
    return _walk(tree, glob, glob.prefix, inside=inside)


def _walk(tree: Directory, glob: Glob, base: tuple[str, ...], *, inside: bool) -> Iterator[tuple[str, Entry]]:
    top = "/".join(base)
    here = _follow(tree, top)
    state = glob.start
    for name in glob.prefix:
        state = glob.step(state, name)
    if not isinstance(here, Directory):
        return
    if inside and glob.accepts(state):
        yield top, here
    passes_links = glob.grammar.follows or not glob.recursive
    stack = [(top, state, iter(here.entries.items()))]
    while stack:
        where, state, entries = stack[-1]
        for name, entry in entries:
            below = glob.step(state, name)
            if glob.is_dead(below):
                continue
            path = f"{where}/{name}" if where else name
            found = _follow(tree, path) if isinstance(entry, Link) and passes_links else entry
            is_directory = isinstance(found, Directory)
            selected = glob.accepts(below) if is_directory else glob.accepts_file(below)
            if selected:
                yield path, entry
            if isinstance(found, Directory) and (inside or not selected):
                stack.append((path, below, iter(found.entries.items())))
                break
        else:
            stack.pop()


def _follow(tree: Directory, path: str) -> File | Directory | None:
    try:
        return tree.find(path)
    except BuildError:
        return None  # a link that leads out is nothing to list


def expand_doublestar(tree: Directory, text: str, limits: Limits) -> list[str]:
    """The paths that the peer's Extract expands a pattern to, in its order; the root is ``""``.

    Depth first where `**` comes last or not at all; else all matches in one directory before those
    below it. What braces stand for is merged in the order of the paths as text; what is below two of
    their directories comes twice. A trailing slash restricts the result to directories.
    """
    pattern = text.removesuffix("/")
    whole = compile_glob(pattern, DOUBLESTAR_PATHS, limits)
    if whole.is_dead(whole.start):
        return []
    components = split_components(pattern, DOUBLESTAR_PATHS)
    names = [name for name, _ in components]
    braces = max((at for at, (_, has_braces) in enumerate(components, 1) if has_braces), default=0)
    paths = [""]
    if braces:
        paths = _paths_below(tree, "", compile_glob("/".join(names[:braces]), DOUBLESTAR_PATHS, limits))
        recursive = "**" in pattern[:-2]
        paths.sort(key=lambda path: ([] if recursive else _names(path)[: braces - 1], encode_name(path)))
    if tail := names[braces:]:
        glob = compile_glob("/".join(tail), DOUBLESTAR_PATHS, limits)
        # How many components follow the last `**`; what it stands for is ordered before them.
        fixed = tail[::-1].index("**") if "**" in tail else 0
        paths = [
            found
            for path in paths
            for found in sorted(_paths_below(tree, path, glob), key=lambda found: _split(_names(found), fixed))
        ]
    if text.endswith("/"):
        paths = [path for path in paths if isinstance(_follow(tree, path), Directory)]
    return paths


def _paths_below(tree: Directory, base: str, glob: Glob) -> list[str]:
    names = tuple(base.split("/")) if base else ()
    return [path for path, _ in _walk(tree, glob, names + glob.prefix, inside=True)]


def _names(path: str) -> list[bytes]:
    return encode_name(path).split(b"/")


def _split(names: list[bytes], fixed: int) -> tuple[list[bytes], list[bytes]]:
    at = len(names) - fixed
    return names[:at], names[at:]
