from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.core.errors import BuildError, Code
from sluice.core.ignore import FILTERS, MAX_IGNORE_SIZE, filter_source, parse_rules
from sluice.core.tree import Directory, Entry, File, Link


def paths(tree: Directory) -> list[str]:
    """Files by path, and directories that hold nothing with a slash behind."""
    found = []
    for path, entry in tree.walk():
        if isinstance(entry, Directory):
            found += [] if entry.entries else [f"{path}/"]
        else:
            found.append(path)
    return found


def tree_of(*names: str, **files: str) -> Directory:
    return Directory.of(dict.fromkeys(names, b"") | {name: text.encode() for name, text in files.items()})


def kept(kind: str, names: list[str], ignore: str = "") -> list[str]:
    return paths(filter_source(tree_of(*names), kind, ignore))


@pytest.mark.parametrize(
    ("ignore", "names", "left"),
    [
        pytest.param("a", ["a", "b/a", "ab"], ["ab", "b/"], id="a bare name matches at any depth"),
        pytest.param("/a", ["a", "b/a"], ["b/a"], id="a leading slash anchors"),
        pytest.param("b/a", ["b/a", "c/b/a"], ["b/", "c/b/a"], id="a slash inside anchors too"),
        pytest.param("a/", ["a", "b/a/x"], ["a", "b/"], id="a trailing slash is about directories"),
        pytest.param("*.md", ["x.md", "d/y.md", "x.mdx", ".md"], ["d/", "x.mdx"], id="a suffix"),
        pytest.param("**/a/b", ["a/b", "x/a/b", "x/y/a/c"], ["a/", "x/a/", "x/y/a/c"], id="leading **"),
        pytest.param("x/**/b", ["x/b", "x/y/z/b", "b"], ["b", "x/y/z/"], id="** between names is any number"),
        pytest.param("x/**", ["x/b", "x/y/z", "y"], ["y"], id="a trailing ** takes the directory too"),
        pytest.param("**/a/b", ["a/x/a/b"], ["a/x/a/b"], id="** stops at the first name that fits"),
        pytest.param("x/b**", ["x/bc"], ["x/bc"], id="** as part of a name in a path never matches"),
        pytest.param("b**", ["bc", "x"], ["x"], id="** as part of a bare name is *"),
        pytest.param("/*\n!/apps", ["apps/x", "b/y", "c"], ["apps/x"], id="all but one"),
        pytest.param("/*\n!/a/b/c.yaml", ["a/b/c.yaml", "a/d"], ["a/b/c.yaml"], id="a file of a directory left out"),
        pytest.param("*.md\n!keep.md", ["keep.md", "x.md"], ["keep.md"], id="the last rule that matches decides"),
        pytest.param("!keep.md\n*.md", ["keep.md", "x"], ["x"], id="an earlier exception is overruled"),
        pytest.param("#a\n  \n\\#a", ["#a", "a"], ["a"], id="comments and blank lines are no rules"),
        pytest.param("\\!a", ["!a", "a"], ["a"], id="an escaped exclamation mark"),
        pytest.param("a  \nb\\ ", ["a", "b ", "b"], ["b"], id="trailing blanks go unless escaped"),
        pytest.param("a\r\nb", ["a", "b", "c"], ["c"], id="line ends of Windows"),
        pytest.param("[a-c]?", ["ax", "dx", "cx", "c"], ["c", "dx"], id="a class and a question mark"),
        pytest.param("[^a]", ["a", "b"], ["a"], id="a negated class"),
        pytest.param("[!a]", ["a", "!", "b"], ["b"], id="an exclamation mark in a class is itself"),
        pytest.param(
            "[]a]\n[^]a]\n[\na\\\n[a-]\n[-a]", ["]", "a", "b"], ["]", "a", "b"], id="malformed rules match nothing"
        ),
        pytest.param("[c-a]", ["a", "b", "c"], ["a", "b", "c"], id="a range that is the wrong way round"),
        pytest.param("a*b*c", ["abc", "axbxc", "acb", "abbc", "ab"], ["ab", "acb"], id="several stars"),
        pytest.param("a*aa", ["aa", "aaa", "aaaa"], ["aa"], id="what follows a star does not overlap what precedes"),
        pytest.param("/\n!\n/**\na//b", ["a/b", "c"], ["a/", "c"], id="rules without a name match nothing"),
        pytest.param("**/", ["a/b", "c"], ["c"], id="every directory"),
    ],
)
def test_rules(ignore: str, names: list[str], left: list[str]) -> None:
    assert kept("GitRepository", names, ignore) == left


NAMES = ["a.jpg", "x/.github/w.yaml", ".gitignore", "x/.sops.yaml", "x.tar.gz", "y.tgz", "z", ".git/config"]


@pytest.mark.parametrize("kind", ["GitRepository", "OCIRepository"])
class TestRepositories:
    def test_built_in_rules_hold_where_nobody_says_otherwise(self, kind: str) -> None:
        assert kept(kind, NAMES) == ["x/", "y.tgz", "z"]

    def test_any_rule_of_the_spec_replaces_all_but_those_about_vcs(self, kind: str) -> None:
        assert kept(kind, NAMES, "z") == ["a.jpg", "x/.github/w.yaml", "x/.sops.yaml", "x.tar.gz", "y.tgz"]

    def test_any_rule_of_an_ignore_file_does_too(self, kind: str) -> None:
        tree = tree_of(*NAMES, **{"x/.sourceignore": "nothing\n"})

        assert paths(filter_source(tree, kind)) == [
            "a.jpg",
            "x/.github/w.yaml",
            "x/.sops.yaml",
            "x/.sourceignore",
            "x.tar.gz",
            "y.tgz",
            "z",
        ]

    def test_a_spec_or_file_of_comments_replaces_nothing(self, kind: str) -> None:
        tree = tree_of("a.jpg", "z", **{".sourceignore": "# none\n"})

        assert paths(filter_source(tree, kind, "# none")) == [".sourceignore", "z"]

    def test_vcs_files_can_be_asked_for(self, kind: str) -> None:
        assert kept(kind, [".gitignore", ".gitmodules"], "!.gitignore") == [".gitignore"]

    def test_an_ignore_file_is_about_its_directory(self, kind: str) -> None:
        tree = tree_of("x/a", "x/y/a", "a", "y/b", **{"x/.sourceignore": "a\n/y/b"})

        assert paths(filter_source(tree, kind)) == ["a", "x/.sourceignore", "x/y/", "y/b"]

    def test_a_deeper_ignore_file_wins_and_the_spec_wins_over_both(self, kind: str) -> None:
        tree = tree_of("x/a", "x/b", **{".sourceignore": "a\nb", "x/.sourceignore": "!a\n!b"})

        assert paths(filter_source(tree, kind)) == [".sourceignore", "x/.sourceignore", "x/a", "x/b"]
        assert paths(filter_source(tree, kind, "b")) == [".sourceignore", "x/.sourceignore", "x/a"]

    def test_an_ignore_file_below_git_does_not_count(self, kind: str) -> None:
        tree = tree_of("a", "b.jpg", **{".git/.sourceignore": "a"})

        assert paths(filter_source(tree, kind)) == ["a"]

    def test_an_ignore_file_may_be_a_link(self, kind: str) -> None:
        files: dict[str, Entry] = {"a": File.of(b""), "rules": File.of(b"a\n"), ".sourceignore": Link("rules")}

        assert paths(filter_source(Directory.of_entries(files), kind)) == ["rules"]

    def test_an_ignore_file_has_a_limit(self, kind: str) -> None:
        tree = tree_of(**{"x/.sourceignore": "#" * (MAX_IGNORE_SIZE + 1)})

        with pytest.raises(BuildError) as caught:
            filter_source(tree, kind)
        assert str(caught.value) == "'x/.sourceignore': 1048577 bytes (an ignore file has at most 1048576)"
        assert caught.value.code is Code.LIMIT


class TestBuckets:
    def test_nothing_is_left_out_by_itself(self) -> None:
        assert kept("Bucket", ["a.jpg", ".github/x", ".gitignore"]) == [".github/x", ".gitignore", "a.jpg"]

    def test_only_the_ignore_file_of_the_root_counts_and_it_stays(self) -> None:
        tree = tree_of("a", "x/a", "x/b", **{".sourceignore": "a\n.sourceignore", "x/.sourceignore": "b"})

        assert paths(filter_source(tree, "Bucket")) == [".sourceignore", "x/b"]

    def test_directories_are_not_objects(self) -> None:
        tree = Directory.of_entries({"empty": Directory.of({}), "x": Directory.of({"a": b""})})

        assert paths(filter_source(tree, "Bucket", "a")) == []


@pytest.mark.parametrize("kind", ["HelmChart", "ExternalArtifact"])
def test_published_archives_are_taken_as_they_are(kind: str) -> None:
    assert kept(kind, ["a.jpg", ".gitignore", ".sourceignore"], "a*") == [".gitignore", ".sourceignore", "a.jpg"]


@pytest.mark.parametrize("kind", FILTERS)
class TestEveryKind:
    def test_links_are_dropped(self, kind: str) -> None:
        inner = Directory.of_entries({"link": Link("../a"), "b": File.of(b"b")})
        tree = Directory.of_entries({"a": File.of(b"a"), "l": Link("a"), "x": inner})

        filtered = filter_source(tree, kind)

        assert paths(filtered) == ["a", "x/b"]
        assert not filtered.has_links

    def test_what_loses_nothing_is_shared(self, kind: str) -> None:
        tree = Directory.of_entries({"x": Directory.of({"y/a": b"a"}), "l": Link("x")})

        assert filter_source(tree, kind).entries["x"] is tree.entries["x"]

    def test_filtering_again_changes_nothing(self, kind: str) -> None:
        once = filter_source(tree_of(*NAMES, **{".sourceignore": "z"}), kind)

        assert filter_source(once, kind) is once


def fits(pattern: str, name: str) -> bool:
    """A name against a pattern of letters, stars and question marks, by the definition."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(fits(pattern[1:], name[i:]) for i in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and fits(pattern[1:], name[1:])


def rule_matches(line: str, path: list[str], *, directory: bool) -> bool:
    """One path against one rule, component by component."""
    directories_only, body = line.endswith("/"), line.removesuffix("/")
    if "/" not in body:
        hits = [i for i, name in enumerate(path) if fits(body, name)]
        return bool(hits) and not (directories_only and not directory and hits[0] == len(path) - 1)
    rest, matched, anywhere = path, False, False
    names = body.split("/")
    for index, name in enumerate(names):
        if name == "**":
            anywhere = index < len(names) - 1
            continue
        if not name:
            anywhere = False
            continue
        places = [i for i, candidate in enumerate(rest) if fits(name, candidate)]
        if "**" in name or not places or (places[0] and not anywhere):
            return False
        rest, matched, anywhere = rest[places[0] + 1 :], True, False
    return matched and not (directories_only and not directory and not rest)


NAME = st.sampled_from(["a", "b", "ab", "*", "a*", "?", "**", ""])
RULE = st.builds(
    lambda negated, names, end: "!" * negated + "/".join(names) + end,
    st.booleans(),
    st.lists(NAME, min_size=1, max_size=4),
    st.sampled_from(["", "/"]),
)
PATHS = st.lists(st.lists(st.sampled_from(["a", "b", "ab", "ba"]), min_size=1, max_size=4), min_size=1, max_size=8)


@given(st.lists(RULE, min_size=1, max_size=5), PATHS)
def test_states_decide_as_rule_by_rule_matching_does(lines: list[str], wanted: list[list[str]]) -> None:
    names = [[*parts[:-1], f"{parts[-1]}"] for parts in wanted]
    files = {"/".join(parts): b"" for parts in names}
    # A path that is also a directory of another one cannot be a file.
    files = {path: data for path, data in files.items() if not any(other.startswith(f"{path}/") for other in files)}
    tree = Directory.of(files)

    expected = []
    for path in files:
        matching = [line for line in lines if rule_matches(line.removeprefix("!"), path.split("/"), directory=False)]
        if not matching or matching[-1].startswith("!"):
            expected.append(path)

    filtered = filter_source(tree, "GitRepository", "\n".join(lines))
    assert [path for path, entry in filtered.walk() if isinstance(entry, File)] == sorted(
        expected, key=lambda path: path.split("/")
    )


def test_the_time_for_a_hostile_rule_is_bounded() -> None:
    # A backtracking matcher would need longer than the universe has.
    rules = "\n".join("a*" * 40 + f"b{i}" for i in range(50))

    assert kept("GitRepository", ["a" * 200], rules) == ["a" * 200]


def test_rules_that_cannot_match_still_count() -> None:
    assert len(parse_rules("/\n#\n\n!\nx/y**")) == 3
