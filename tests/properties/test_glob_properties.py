"""Patterns agree with a matcher that is too slow to use and too simple to be wrong."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.core import automaton
from sluice.core.glob import expand, expand_doublestar
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.pattern import (
    DOCUMENTED,
    DOUBLESTAR,
    DOUBLESTAR_PATHS,
    PATH_MATCH,
    BadPattern,
    Glob,
    Grammar,
    compile_glob,
    compile_globs,
)
from sluice.core.tree import Directory

PLAIN = ["a", "b", "?", "*", "**", "[ab]", "[^a]", "[!b]", "/", "/", "**/", "/**", r"\*"]
BRACES = ["{a,b}", "{,a}", "{a/b,**}", "{*,b/}"]
GRAMMARS = {"component": PATH_MATCH, "text": DOUBLESTAR, "paths": DOUBLESTAR_PATHS, "documented": DOCUMENTED}
NAMES = ["a", "b", "ab", "ba", "a*"]
PATHS = ["/".join(names) for depth in (1, 2, 3) for names in itertools.product(NAMES, repeat=depth)]

plain = st.lists(st.sampled_from(PLAIN), max_size=3).map("".join)
braces = st.sampled_from(["", *BRACES])
patterns = st.tuples(plain, braces, plain, braces, plain).map("".join)
each_grammar = pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=GRAMMARS.keys())


def naive_alternatives(pattern: str) -> list[str]:
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [each for part in found[1].split(",") for each in naive_alternatives(before + part + after)]


def naive_matches(pattern: str, path: str, grammar: Grammar, *, directory: bool = True) -> bool:
    if not grammar.braces:
        rows, columns = pattern.split("/"), path.split("/")
        return len(rows) == len(columns) and all(
            fits(*pair, grammar, directory) for pair in zip(rows, columns, strict=True)
        )
    return any(
        fits(each, path, grammar, directory)
        for each in naive_alternatives(pattern)
        if grammar.spanning or "" not in each.split("/")
    )


def may_end(pattern: str, grammar: Grammar, directory: bool) -> bool:
    """Whether what is left of a pattern may stand for nothing."""
    if grammar.spanning:
        return pattern in ("", "*", "**", "/**", "**/", "/**/")
    return bool(re.fullmatch(r"\**(/\*\*)*" if directory and grammar.braces else r"\**", pattern))


def fits(pattern: str, text: str, grammar: Grammar, directory: bool, at_start: bool = True) -> bool:
    if not text:
        return may_end(pattern, grammar, directory)
    if not pattern:
        return False
    if grammar.braces and at_start and re.match(r"\*\*(/|$)", pattern):
        rest = pattern[3:]
        below = [text[at + 1 :] for at, char in enumerate(text) if char == "/"]
        return pattern == "**" or any(fits(rest, each, grammar, directory) for each in [text, *below])
    if pattern[0] == "*":
        rest = pattern.lstrip("*")
        name = len(text.partition("/")[0])
        return any(fits(rest, text[at:], grammar, directory, at_start=False) for at in range(name + 1))
    if pattern[0] == "[":
        members, _, rest = pattern[1:].partition("]")
        negated = members[0] == "^" or (members[0] == "!" and grammar.braces)
        accepted = (text[0] in members[negated:]) != negated and (text[0] != "/" or grammar.spanning)
    elif pattern[0] == "?":
        accepted, rest = text[0] != "/", pattern[1:]
    elif pattern[0] == "\\":
        accepted, rest = text[0] == pattern[1], pattern[2:]
    else:
        accepted, rest = text[0] == pattern[0], pattern[1:]
    return accepted and fits(rest, text[1:], grammar, directory, at_start=pattern[0] == "/")


def walked(glob: Glob, path: str) -> list[automaton.State]:
    return list(itertools.accumulate(path.split("/"), glob.step, initial=glob.start))


@each_grammar
@given(pattern=patterns)
def test_a_pattern_matches_what_the_naive_matcher_matches(grammar: Grammar, pattern: str) -> None:
    glob = compile_glob(pattern, grammar, DEFAULT_LIMITS)

    assert [path for path in PATHS if glob.matches(path)] == [
        path for path in PATHS if naive_matches(pattern, path, grammar)
    ]


@each_grammar
@given(pattern=patterns)
def test_steps_lead_where_the_whole_path_leads(grammar: Grammar, pattern: str) -> None:
    glob = compile_glob(pattern, grammar, DEFAULT_LIMITS)

    for path in PATHS:
        state = walked(glob, path)[-1]
        assert glob.accepts(state) == glob.matches(path)
        assert glob.accepts_file(state) == naive_matches(pattern, path, grammar, directory=False)


@each_grammar
@given(pattern=patterns)
def test_nothing_matches_at_or_below_a_dead_state(grammar: Grammar, pattern: str) -> None:
    glob = compile_glob(pattern, grammar, DEFAULT_LIMITS)

    for path in PATHS:
        if naive_matches(pattern, path, grammar):
            assert not any(map(glob.is_dead, walked(glob, path)))


@given(pattern=patterns)
def test_forgetting_changes_nothing(pattern: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(automaton, "_ROOM", 0)
        forgetful = compile_glob(pattern, DOCUMENTED, DEFAULT_LIMITS)
        found = [path for path in PATHS if forgetful.accepts(walked(forgetful, path)[-1])]

    glob = compile_glob(pattern, DOCUMENTED, DEFAULT_LIMITS)
    assert found == [path for path in PATHS if glob.matches(path)]


@given(several=st.lists(patterns, max_size=4))
def test_patterns_together_match_what_any_of_them_matches(several: list[str]) -> None:
    together = compile_globs(several, DOUBLESTAR, DEFAULT_LIMITS)
    globs = [compile_glob(pattern, DOUBLESTAR, DEFAULT_LIMITS) for pattern in several]

    assert [path for path in PATHS if together.matches(path)] == [
        path for path in PATHS if any(glob.matches(path) for glob in globs)
    ]


@each_grammar
@given(
    pattern=st.lists(st.sampled_from(["{", "}", ",", "[", "]", "\\", "-", "!", "^", ".", "*", "/", "a"]), max_size=9)
)
def test_any_text_is_a_pattern_or_an_error_of_the_spec(grammar: Grammar, pattern: list[str]) -> None:
    try:
        glob = compile_glob("".join(pattern), grammar, DEFAULT_LIMITS)
    except BadPattern:
        return
    for path in PATHS:
        glob.matches(path)


@given(groups=st.lists(st.integers(1, 4), max_size=6), limit=st.integers(1, 200))
def test_alternatives_are_limited_by_their_number(groups: list[int], limit: int) -> None:
    pattern = "".join("{" + ",".join("abcd"[:count]) + "}" for count in groups)
    number = len(naive_alternatives(pattern))

    try:
        compile_glob(pattern, DOCUMENTED, Limits(pattern_alternatives=limit))
    except BadPattern:
        assert number > limit
    else:
        assert number <= limit


trees = st.lists(st.sampled_from(PATHS), max_size=12).map(
    # A file where another path needs a directory gets out of the way.
    lambda paths: Directory.of(
        {f"{path}/f" if any(o.startswith(f"{path}/") for o in paths) else path: b"" for path in paths}
    )
)


@given(tree=trees, pattern=patterns)
def test_the_peers_globs_select_every_entry_that_matches(tree: Directory, pattern: str) -> None:
    glob = compile_glob(pattern, PATH_MATCH, DEFAULT_LIMITS)

    assert [path for path, _ in expand(tree, glob)] == [
        path for path, _ in tree.walk() if naive_matches(pattern, path, PATH_MATCH)
    ]


@given(tree=trees, pattern=patterns)
def test_documented_globs_select_what_matches_and_nothing_inside_it(tree: Directory, pattern: str) -> None:
    glob = compile_glob(pattern, DOCUMENTED, DEFAULT_LIMITS)
    prefix = "/".join(glob.prefix)
    matching = [
        path
        for path, entry in tree.walk()
        if path != prefix and naive_matches(pattern, path, DOCUMENTED, directory=isinstance(entry, Directory))
    ]

    assert [path for path, _ in expand(tree, glob)] == [
        path for path in matching if not any(path.startswith(f"{above}/") for above in matching)
    ]


@given(tree=trees, pattern=patterns)
def test_extract_finds_every_entry_that_matches(tree: Directory, pattern: str) -> None:
    without_slash = pattern.removesuffix("/")
    matching = [
        path
        for path, entry in tree.walk()
        if naive_matches(without_slash, path, DOUBLESTAR_PATHS, directory=isinstance(entry, Directory))
        and (pattern == without_slash or isinstance(entry, Directory))
    ]

    # What is below two directories that braces stand for comes twice; the root is not in a walk.
    assert set(expand_doublestar(tree, pattern, DEFAULT_LIMITS)) - {""} == set(matching)
