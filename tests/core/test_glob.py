"""Reading and matching patterns, and what they select in a tree.

The first two tables were recorded from the peer.
"""

from __future__ import annotations

import pytest

from sluice.core import automaton
from sluice.core.automaton import State
from sluice.core.errors import Code
from sluice.core.glob import expand, expand_doublestar
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.pattern import (
    DOCUMENTED,
    DOUBLESTAR,
    DOUBLESTAR_PATHS,
    PATH_MATCH,
    BadPattern,
    Grammar,
    compile_glob,
    compile_globs,
    has_meta,
    literal_prefix,
    normalise,
    split_components,
    unescape,
)
from sluice.core.tree import EMPTY, Directory, Entry, File, Link, Staging


def outcome(pattern: str, text: str, grammar: Grammar) -> str:
    """T, F, or E for a malformed pattern."""
    try:
        return "T" if compile_glob(pattern, grammar, DEFAULT_LIMITS).matches(text) else "F"
    except BadPattern:
        return "E"


# Pattern, text, by components (`from`), as text (excludes). The peer's component matcher by itself
# lets `a[^x]b` match `a/b` and reads `[a/b]`, but never gets to see them: paths are split before.
RECORDED = [
    ("*", "abc", "T", "T"),
    ("*", ".abc", "T", "T"),
    ("*", "a/b", "F", "F"),
    ("*", "", "T", "T"),
    ("**", "a", "T", "T"),
    ("**", "a/b/c", "F", "T"),
    ("a/**", "a", "F", "T"),
    ("a/**", "a/b", "T", "T"),
    ("a/**", "a/b/c", "F", "T"),
    ("a/**", "ab", "F", "F"),
    ("**/c", "c", "F", "T"),
    ("**/c", "a/b/c", "F", "T"),
    ("**/c", "a/bc", "F", "F"),
    ("a/**/b", "a/b", "F", "T"),
    ("a/**/b", "a/x/b", "T", "T"),
    ("a/**/b", "a/x/y/b", "F", "T"),
    ("a/**/", "a", "F", "T"),
    ("a/**/", "a/b", "F", "F"),
    ("a**", "ab", "T", "T"),
    ("a**", "a/b", "F", "F"),
    ("**a", "x/a", "F", "F"),
    ("a/**b", "a/xb", "T", "T"),
    ("a/**b", "a/x/b", "F", "F"),
    ("**/**", "a", "F", "T"),
    ("**/*", "a", "F", "T"),
    ("**/*", "a/b/c", "F", "T"),
    ("*/**", "a", "F", "T"),
    ("*/**", "a/b", "T", "T"),
    ("**/*.md", "x.md", "F", "T"),
    ("**/*.md", "a/.x.md", "T", "T"),
    ("?", "é", "T", "T"),
    ("?", "/", "F", "F"),
    ("??", "é", "F", "F"),
    ("a?b", "a/b", "F", "F"),
    ("a[^x]b", "a/b", "F", "T"),
    ("[a/b]", "/", "E", "T"),
    ("A", "a", "F", "F"),
    ("[A-Z]", "a", "F", "F"),
    ("é", "e\N{COMBINING ACUTE ACCENT}", "F", "F"),
    ("[é-ü]", "ê", "T", "T"),
    ("a//b", "a/b", "F", "F"),
    ("a/", "a", "F", "F"),
    ("/a", "a", "F", "F"),
    ("./a", "a", "F", "F"),
    ("*a*a*a*b", "aaaaaaaa", "F", "F"),
    ("*.{yaml,yml}", "x.yml", "F", "T"),
    ("[!a]", "b", "F", "T"),
    ("[!a]", "!", "T", "T"),
    ("[!a]", "a", "T", "F"),
    ("[^a]", "b", "T", "T"),
    ("[^a]", "\n", "T", "T"),
    ("[a-c]", "b", "T", "T"),
    ("[c-a]", "b", "F", "F"),
    ("[]", "a", "E", "E"),
    ("[]a]", "]", "E", "E"),
    (r"[\]]", "]", "T", "T"),
    ("[-]", "-", "E", "T"),
    ("[a-]", "-", "E", "T"),
    ("[-a]", "-", "E", "T"),
    (r"[a\-c]", "-", "T", "T"),
    (r"[a\-c]", "b", "F", "F"),
    ("[a-c-e]", "d", "E", "F"),
    ("[", "a", "E", "E"),
    ("x[", "a", "E", "E"),
    ("[!]", "a", "F", "E"),
    ("[[:alpha:]]", "a", "F", "F"),
    ("[[:alpha:]]", "a]", "T", "T"),
    (r"\*", "*", "T", "T"),
    (r"\*", "a", "F", "F"),
    ("\\", "a", "E", "E"),
    ("a\\", "b", "E", "E"),
    ("{a,b}", "a", "F", "T"),
    ("{a,b}", "{a,b}", "T", "F"),
    ("{a}", "a", "F", "T"),
    ("{}", "", "F", "T"),
    ("{,a}b", "b", "F", "T"),
    ("{a,{b,c}}", "c", "F", "T"),
    ("{a/b,c}/d", "a/b/d", "F", "T"),
    ("{**/x,y}", "a/b/x", "F", "T"),
    ("x{/**,}", "x/a/b", "F", "T"),
    ("{a", "a", "F", "E"),
    ("a}", "a", "F", "E"),
    (r"\{a,b\}", "{a,b}", "T", "T"),
    (r"{a\,b,c}", "a,b", "F", "T"),
    ("{[ab],c}", "b", "F", "T"),
    ("{[,],c}", ",", "F", "E"),
    ("[{a,b}]", "{", "T", "T"),
    ("**/a/**", "a", "F", "T"),
    ("**/a/**", "x/a/y", "T", "T"),
    ("**/.*", ".a", "F", "T"),
    ("**/.*", "d/.a", "T", "T"),
    ("**/.*/**", ".a/b", "F", "T"),
]


@pytest.mark.parametrize(("pattern", "text", "by_component", "as_text"), RECORDED)
def test_patterns_match_what_the_peer_matches(pattern: str, text: str, by_component: str, as_text: str) -> None:
    assert outcome(pattern, text, PATH_MATCH) == by_component
    assert outcome(pattern, text, DOUBLESTAR) == as_text


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        pytest.param("*", ["a", ".a", "a\n"], ["a/b"], id="a star is any name, dotted or not"),
        pytest.param("a*c", ["ac", "abc", "abbc"], ["ab", "bc", "a/c"], id="a star in a name"),
        pytest.param("?", ["a", "é", "\udcff"], ["", "ab", "/"], id="a question mark is one character"),
        pytest.param("**", ["a", "a/b", "a/b/c"], [], id="two stars alone are everything"),
        pytest.param("a/**", ["a", "a/b", "a/b/c"], ["ab", "b/a"], id="two stars at the end"),
        pytest.param("**/a", ["a", "b/a", "b/c/a"], ["ba", "a/b"], id="two stars at the front"),
        pytest.param("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"], id="two stars in the middle"),
        pytest.param("a/**/**", ["a", "a/b", "a/b/c"], ["b"], id="twice two stars are two stars"),
        pytest.param("a**", ["a", "ab"], ["a/b"], id="two stars within a name are one"),
        pytest.param("a/***", ["a/b"], ["a", "a/b/c"], id="three stars are one"),
        pytest.param("*.{yaml,yml}", ["a.yml", ".yaml"], ["a.{yaml,yml}"], id="alternatives"),
        pytest.param("{a,b/c}/d", ["a/d", "b/c/d"], ["b/d", "c/d"], id="alternatives of several names"),
        pytest.param("{a,{b,}c}", ["a", "bc", "c"], ["ac", ""], id="alternatives in alternatives"),
        pytest.param("{[,],x}", [",", "x"], ["[", "]"], id="a comma in a class does not separate"),
        pytest.param("{[}],x}", ["}", "x"], ["[}"], id="a brace in a class does not close"),
        pytest.param("[ab]", ["a", "b"], ["c", "ab"], id="a class"),
        pytest.param("[!a]", ["b", "!"], ["a", "/"], id="a class negated as in a shell"),
        pytest.param("[^a]", ["b", "^"], ["a", "/"], id="a class negated as in Go"),
        pytest.param("a[^x]b", ["ayb"], ["a/b", "axb"], id="a class does not match a slash"),
        pytest.param("[+-9]", ["+", "5"], ["/"], id="nor does a range around it"),
        pytest.param("[a-]", ["a", "-"], ["b"], id="a dash at the end of a class is a dash"),
        pytest.param(r"[\]\-a]", ["]", "-", "a"], ["\\"], id="a backslash in a class"),
        pytest.param(r"\*\{a", ["*{a"], ["xa", "*a"], id="a backslash makes anything literal"),
        pytest.param("]", ["]"], [], id="a bracket that closes nothing is literal"),
        pytest.param("a/../b", [], ["b", "a/b"], id="no name is two dots"),
    ],
)
def test_documented_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    glob = compile_glob(pattern, DOCUMENTED, DEFAULT_LIMITS)

    assert [text for text in matching + others if glob.matches(text)] == matching


@pytest.mark.parametrize(
    ("pattern", "grammar", "message"),
    [
        ("[a-", DOCUMENTED, "'[a-' is not a valid pattern: class is not closed"),
        ("[a/b]", DOCUMENTED, "'[a/b]' is not a valid pattern: class is not closed before '/'"),
        ("[]", DOCUMENTED, "'[]' is not a valid pattern: class is empty"),
        ("x/[!]", DOCUMENTED, "'x/[!]' is not a valid pattern: class is empty"),
        ("{a,[}", DOCUMENTED, "'{a,[}' is not a valid pattern: class is not closed"),
        ("{a", DOCUMENTED, "'{a' is not a valid pattern: '{' is not closed"),
        ("a}", DOCUMENTED, "'a}' is not a valid pattern: '}' has no partner"),
        ("a\\", DOCUMENTED, "'a\\' is not a valid pattern: nothing follows '\\'"),
        ("a\\/b", DOCUMENTED, "'a\\/b' is not a valid pattern: nothing follows '\\'"),
        ("[a-]*", PATH_MATCH, "'[a-]*' is not a valid pattern: '-' in a class needs a '\\' before it"),
        ("[-a]*", PATH_MATCH, "'[-a]*' is not a valid pattern: '-' in a class needs a '\\' before it"),
        ("../[", PATH_MATCH, "'../[' is not a valid pattern: class is not closed"),
        ("zzz/*\\", PATH_MATCH, "'zzz/*\\' is not a valid pattern: nothing follows '\\'"),
        ("{[,],c}", DOUBLESTAR, "'{[,],c}' is not a valid pattern: class is not closed"),
        ("{[}],c}", DOUBLESTAR, "'{[}],c}' is not a valid pattern: class is empty"),
        ("[^.{]*", DOUBLESTAR, "'[^.{]*' is not a valid pattern: '{' is not closed"),
        ("{.,[}", DOUBLESTAR_PATHS, "'{.,[}' is not a valid pattern: class is not closed"),
        ("a" * 1025, DOCUMENTED, "pattern is 1025 characters long (limit: 1024, pattern_length)"),
        ("{a,b}" * 50, DOUBLESTAR, "pattern has more than 100 alternatives (limit: 100, pattern_alternatives)"),
        ("{,}" * 300, DOCUMENTED, "pattern has more than 100 alternatives (limit: 100, pattern_alternatives)"),
    ],
)
def test_a_malformed_pattern_is_an_error_of_the_spec(pattern: str, grammar: Grammar, message: str) -> None:
    with pytest.raises(BadPattern) as raised:
        compile_glob(pattern, grammar, DEFAULT_LIMITS)

    assert str(raised.value) == message
    assert [problem.code for problem in raised.value.problems] == [Code.BAD_PATTERN]


@pytest.mark.parametrize(
    ("pattern", "text", "result"),
    [
        pytest.param("{.,[}", ".", "T", id="what follows an alternative that matches a dot is not looked at"),
        pytest.param("{.,[}", "[", "F", id="and never matches"),
        pytest.param("{.,[,b}", "b", "F", id="nor does what comes after it"),
        pytest.param("{x,[}", "x", "E", id="an alternative before it that does not match a dot"),
        pytest.param("[^.]*", "a", "T", id="a negated class with a dot whose rest is fine"),
        pytest.param("[^.{]*", "a", "E", id="a negated class with a dot whose rest is not"),
        pytest.param("[^{.]*", "a", "T", id="a negated class with the dot last"),
        pytest.param("a/**/**", "a", "F", id="twice two stars do not match the directory above"),
        pytest.param("a/**/**", "a/b", "T", id="but what is in it"),
        pytest.param("[c-a]", "c", "T", id="the low end of a range the wrong way round"),
    ],
)
def test_excludes_keep_the_habits_of_the_peer(pattern: str, text: str, result: str) -> None:
    assert outcome(pattern, text, DOUBLESTAR) == result


def tree_of(*paths: str) -> Directory:
    """A tree of empty files, directories (`d/`) and links (`name -> target`)."""
    nested: dict[str, object] = {}
    for path in paths:
        where, _, target = path.partition(" -> ")
        *parents, name = where.rstrip("/").split("/")
        here: dict[str, object] = nested
        for parent in parents:
            below = here.setdefault(parent, {})
            assert isinstance(below, dict)
            here = below
        here[name] = Link(target) if target else {} if where.endswith("/") else File.of(b"")

    def made(entries: dict[str, object]) -> Directory:
        found: dict[str, Entry] = {}
        for name, entry in entries.items():
            assert isinstance(entry, (dict, File, Link))
            found[name] = made(entry) if isinstance(entry, dict) else entry
        return Directory.of_entries(found)

    return made(nested)


TREE = tree_of(".h/q.tgz", ".top.tgz", "Z.tgz", "a.tgz", "b/x.tgz", "b/c/y.tgz", "b.d/z.tgz", "emp/")
TOP = ".h .top.tgz Z.tgz a.tgz b b.d emp"
ALL = ". .h .h/q.tgz .top.tgz Z.tgz a.tgz b b/c b/c/y.tgz b/x.tgz b.d b.d/z.tgz emp"


def selected(tree: Directory, pattern: str, grammar: Grammar) -> str:
    try:
        return " ".join(path for path, _ in expand(tree, compile_glob(pattern, grammar, DEFAULT_LIMITS)))
    except BadPattern:
        return "E"


def extracted(tree: Directory, pattern: str) -> str:
    try:
        return " ".join(path or "." for path in expand_doublestar(tree, pattern, DEFAULT_LIMITS))
    except BadPattern:
        return "E"


@pytest.mark.parametrize(
    ("pattern", "overwrite", "extract"),
    [
        ("*", TOP, TOP),
        ("**", TOP, ALL),
        (
            "**/*.tgz",
            ".h/q.tgz b/x.tgz b.d/z.tgz",
            ".top.tgz Z.tgz a.tgz .h/q.tgz b/x.tgz b/c/y.tgz b.d/z.tgz",
        ),
        ("b/**", "b/c b/x.tgz", "b b/c b/c/y.tgz b/x.tgz"),
        ("b/**/*.tgz", "b/c/y.tgz", "b/x.tgz b/c/y.tgz"),
        ("b*/**", "b/c b/x.tgz b.d/z.tgz", "b b/c b/c/y.tgz b/x.tgz b.d b.d/z.tgz"),
        ("*/", "", ".h b b.d emp"),
        ("{b,.h}/*", "", ".h/q.tgz b/c b/x.tgz"),
        ("b**", "b b.d", "b b.d"),
        ("./*", TOP, TOP),
        ("../*", "", ""),
        ("/*", "", ""),
        ("b//*", "", ""),
        ("b/./*", "", ""),
        ("b/../*", "", ""),
        ("[", "E", "E"),
        ("*[", "E", "E"),
        ("b/[", "E", "E"),
        ("{a*", "", "E"),
        ("a}*", "", "E"),
    ],
)
def test_expansions_are_those_of_the_peer(pattern: str, overwrite: str, extract: str) -> None:
    assert selected(TREE, pattern, PATH_MATCH) == overwrite
    assert extracted(TREE, pattern) == extract


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        pytest.param("**/c/**", "b/c b/c/y.tgz", id="two stars on both sides"),
        pytest.param("b*/*/", "b/c", id="a slash at the end selects directories"),
        pytest.param("**/", ". .h b b/c b.d emp", id="all directories"),
        pytest.param("b/**/", "b b/c", id="all directories below one"),
        pytest.param("b//", "", id="two slashes at the end select nothing"),
        pytest.param("{b.d,b}/*.tgz", "b/x.tgz b.d/z.tgz", id="alternatives in the order of their paths"),
        pytest.param("{b.d,b}*/*.tgz", "b/x.tgz b.d/z.tgz", id="what two alternatives find counts once"),
        pytest.param("b*/{z,x,c}*", "b/c b/x.tgz b.d/z.tgz", id="alternatives below directories that a star finds"),
        pytest.param("**/{x,y,z}*", "b.d/z.tgz b/c/y.tgz b/x.tgz", id="alternatives at any depth, as text"),
        pytest.param("{b,emp}/**/*.tgz", "b/x.tgz b/c/y.tgz", id="any depth below alternatives"),
        pytest.param("{a,Z}.tgz/*", "", id="nothing is below a file"),
    ],
)
def test_extract_expands_in_the_order_of_the_peer(pattern: str, paths: str) -> None:
    assert extracted(TREE, pattern) == paths


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        pytest.param("*", TOP, id="whole directories among files"),
        pytest.param("**", TOP, id="a directory stands for what is in it"),
        pytest.param("b/**", "b/c b/x.tgz", id="the children of a named directory"),
        pytest.param("b*/**", "b b.d", id="directories that a star finds"),
        pytest.param("**/*.tgz", ".h/q.tgz .top.tgz Z.tgz a.tgz b/c/y.tgz b/x.tgz b.d/z.tgz", id="at any depth"),
        pytest.param("{b/c,b.d,zz}/*.tgz", "b/c/y.tgz b.d/z.tgz", id="alternatives"),
        pytest.param("b/*/*", "b/c/y.tgz", id="two names below a directory"),
        pytest.param("a.tgz/**", "", id="nothing is below a file"),
        pytest.param("zz/**", "", id="nor below nothing"),
        pytest.param("{,zz}", "", id="an empty alternative selects nothing"),
    ],
)
def test_documented_patterns_select(pattern: str, paths: str) -> None:
    assert selected(TREE, pattern, DOCUMENTED) == paths


def test_a_selected_directory_can_be_looked_into() -> None:
    glob = compile_glob("b*/**", DOCUMENTED, DEFAULT_LIMITS)

    found = [path for path, _ in expand(TREE, glob, inside=True)]

    assert found == ["b", "b/c", "b/c/y.tgz", "b/x.tgz", "b.d", "b.d/z.tgz"]


LINKS = tree_of("d/f", "l -> d", "d/up -> ..", "out -> ../../x", "gone -> nothing", "to-file -> d/f")


@pytest.mark.parametrize(
    ("pattern", "grammar", "paths"),
    [
        pytest.param("*", PATH_MATCH, "d gone l out to-file", id="links are selected, wherever they lead"),
        pytest.param("*/f", PATH_MATCH, "d/f l/f", id="and passed through"),
        pytest.param("*/*/d", PATH_MATCH, "d/up/d l/up/d", id="also one that a link leads to"),
        pytest.param("*/f", DOCUMENTED, "d/f l/f", id="the same when documented"),
        pytest.param("**/f", DOCUMENTED, "d/f", id="but not by two stars"),
        pytest.param("l/**", DOCUMENTED, "l/f l/up", id="except in what is named"),
    ],
)
def test_links(pattern: str, grammar: Grammar, paths: str) -> None:
    assert selected(LINKS, pattern, grammar) == paths


def test_extract_passes_through_links() -> None:
    tree = tree_of("d/f", "l -> d")

    assert extracted(tree, "**") == ". d d/f l l/f"
    assert extracted(tree, "*/") == "d l"


def test_a_link_is_handed_out_as_a_link() -> None:
    glob = compile_glob("l", PATH_MATCH, DEFAULT_LIMITS)

    assert [entry for _, entry in expand(LINKS, glob)] == [LINKS.entries["l"]]


def test_a_walk_begins_at_the_literal_prefix_and_turns_round_where_nothing_can_match() -> None:
    class Closed(dict[str, Entry]):
        def items(self) -> object:  # type: ignore[override]  # it must not be asked
            raise AssertionError("was listed")

    closed = Directory(Closed(), b"", 0, 0, has_links=False)
    inner = Staging()
    inner.put("keep/x.md", File.of(b""))
    wanted = inner.finish().entries["keep"]
    tree = Directory.of_entries({"a": Directory.of_entries({"keep": wanted, "other": closed}), "b": closed})

    assert selected(tree, "a/k*/*.md", DOCUMENTED) == "a/keep/x.md"
    assert selected(tree, "a/k*/*.md", PATH_MATCH) == "a/keep/x.md"
    assert extracted(tree, "a/k*/*.md") == "a/keep/x.md"


@pytest.mark.parametrize(
    ("pattern", "path", "dead"),
    [
        pytest.param("*.md", "docs", True, id="a name that does not match, and nothing below could"),
        pytest.param("docs/*.md", "docs", False, id="on the way"),
        pytest.param("docs/*.md", "src", True, id="on another way"),
        pytest.param("docs/*.md", "docs/a.md", False, id="a match"),
        pytest.param("docs/*.md", "docs/a.md/x", True, id="below a match"),
        pytest.param("**/*.md", "a/b/c", False, id="anything may follow"),
        pytest.param("{a,b}/c", "c", True, id="neither alternative"),
    ],
)
@pytest.mark.parametrize("grammar", [DOUBLESTAR, DOCUMENTED], ids=["text", "documented"])
def test_a_state_tells_when_nothing_can_match_any_more(pattern: str, path: str, dead: bool, grammar: Grammar) -> None:
    glob = compile_glob(pattern, grammar, DEFAULT_LIMITS)
    state = glob.start
    for name in path.split("/"):
        state = glob.step(state, name)

    assert glob.is_dead(state) is dead


def test_a_directory_satisfies_two_stars_by_itself_and_a_file_does_not() -> None:
    glob = compile_glob("a/**", DOCUMENTED, DEFAULT_LIMITS)
    state = glob.step(glob.start, "a")

    assert (glob.accepts(state), glob.accepts_file(state)) == (True, False)
    below = glob.step(state, "b")
    assert (glob.accepts(below), glob.accepts_file(below)) == (True, True)


def test_patterns_compiled_together_match_what_any_of_them_matches() -> None:
    glob = compile_globs(["*.md", "docs/**", "{x,y}"], DOUBLESTAR, DEFAULT_LIMITS)
    paths = ["a.md", "docs", "docs/a", "y", "a.txt", "z/a.md", "x/y"]

    assert [path for path in paths if glob.matches(path)] == ["a.md", "docs", "docs/a", "y"]


def test_an_error_names_the_pattern_among_several() -> None:
    with pytest.raises(BadPattern, match=r"^'\[' is not a valid pattern: class is not closed$"):
        compile_globs(["a", "["], DOUBLESTAR, DEFAULT_LIMITS)


def test_no_patterns_match_nothing() -> None:
    glob = compile_globs([], DOUBLESTAR, DEFAULT_LIMITS)

    assert glob.is_dead(glob.start)
    assert not glob.matches("")


def test_limits_are_inclusive() -> None:
    limits = Limits(pattern_length=9, pattern_alternatives=3)

    assert compile_glob("{aa,b,cc}", DOCUMENTED, limits).matches("cc")
    with pytest.raises(BadPattern, match=r"^pattern is 10 characters long \(limit: 9, pattern_length\)$"):
        compile_glob("{aa,bb,cc}", DOCUMENTED, limits)
    with pytest.raises(BadPattern, match=r"^pattern has more than 3 alternatives \(limit: 3, pattern_alternatives\)$"):
        compile_glob("{a,b,c,}", DOCUMENTED, limits)


HOSTILE = [
    "a*" * 511 + "b",
    "**/" * 340 + "b",
    "**/a/" * 200 + "b",
    "[ab]*" * 204 + "c",
    "?*" * 511 + "b",
    "*a*/" * 255,
]


@pytest.mark.parametrize("pattern", HOSTILE, ids=lambda pattern: pattern[:6])
@pytest.mark.parametrize("grammar", [PATH_MATCH, DOUBLESTAR, DOCUMENTED], ids=["component", "text", "documented"])
def test_hostile_patterns_come_to_an_end(pattern: str, grammar: Grammar) -> None:
    glob = compile_glob(pattern, grammar, DEFAULT_LIMITS)

    assert not any(glob.matches("a" * length) for length in range(255))
    assert not glob.matches("/".join(["a" * 255] * 100))


def test_what_is_remembered_is_bounded_and_forgetting_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:b}".replace("0", "a").replace("1", "b") for number in range(2000)]
    expected = [name for name in names if name[-8:-7] == "a"]
    monkeypatch.setattr(automaton, "_ROOM", 20 * automaton._MOVE_SIZE)

    glob = compile_glob("*a???????", DOCUMENTED, DEFAULT_LIMITS)

    assert [name for name in names if glob.matches(name)] == expected
    assert len(reachable(glob.start)) < 25


def reachable(state: State) -> set[State]:
    found = {state}
    todo = [state]
    while todo:
        new = set(todo.pop().moves.values()) - found
        found |= new
        todo += new
    return found


@pytest.mark.parametrize(
    ("text", "meta"),
    [("a*", True), (r"\*", False), (r"\\*", True), ("a[", True), ("{a", True), (r"\{a}", False), ("a]", False)],
)
def test_meta_characters_count_unless_escaped(text: str, meta: bool) -> None:
    assert has_meta(text, DOCUMENTED.meta) is meta


@pytest.mark.parametrize(("text", "plain"), [(r"a\*b", "a*b"), (r"\\\a", "\\a"), ("a", "a"), ("a\\\n", "a\n")])
def test_unescaping(text: str, plain: str) -> None:
    assert unescape(text) == plain


@pytest.mark.parametrize(
    ("text", "grammar", "prefix"),
    [
        ("a/b/*.yaml", DOCUMENTED, ("a", "b")),
        ("a/b", DOCUMENTED, ("a",)),
        ("*", DOCUMENTED, ()),
        (r"d\[x\]/*", DOCUMENTED, ("d[x]",)),
        ("a/{b,c}/d/*", DOCUMENTED, ("a",)),
        ("a/{b,c}/d/*", PATH_MATCH, ("a", "{b,c}", "d")),
    ],
)
def test_the_literal_prefix_is_where_a_walk_may_begin(text: str, grammar: Grammar, prefix: tuple[str, ...]) -> None:
    assert literal_prefix(text, grammar) == prefix
    assert compile_glob(text, grammar, DEFAULT_LIMITS).prefix == prefix


def test_alternatives_share_their_prefix() -> None:
    assert compile_glob("a/{b/c,b/d}/*", DOCUMENTED, DEFAULT_LIMITS).prefix == ("a", "b")


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("./a/*", ("a/*", False)),
        ("a//*", ("a/*", False)),
        ("a/./*/", ("a/*", True)),
        ("a/*/.", ("a/*", True)),
        ("**", ("**", False)),
        (".", ("", False)),
        ("./", ("", False)),
        ("", ("", False)),
        ("..a/.b", ("..a/.b", False)),
    ],
)
def test_spelling_is_normalised(text: str, spelled: tuple[str, bool]) -> None:
    assert normalise(text) == spelled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/a/*", "'/a/*' is not a valid pattern: it starts with '/' (paths are relative)"),
        ("a/../*", "'a/../*' is not a valid pattern: it has a '..' component"),
        ("..", "'..' is not a valid pattern: it has a '..' component"),
    ],
)
def test_patterns_that_leave_the_tree_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadPattern) as raised:
        normalise(text)

    assert str(raised.value) == message


def test_braces_hold_components_together() -> None:
    assert split_components("a/{b/c,d}e/[{]/f", DOCUMENTED) == [
        ("a", False),
        ("{b/c,d}e", True),
        ("[{]", False),
        ("f", False),
    ]
    assert split_components("{a/b", PATH_MATCH) == [("{a", False), ("b", False)]


def test_an_empty_tree_has_only_its_root() -> None:
    assert expand_doublestar(EMPTY, "**", DEFAULT_LIMITS) == [""]
    assert list(expand(EMPTY, compile_glob("**", DOCUMENTED, DEFAULT_LIMITS))) == []
