"""What excludes take away: the same as if each were compared by itself, whatever the list."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.core import excludes
from sluice.core.compose import compose
from sluice.core.dialect import DOCUMENTED, UPSTREAM, Dialect, Exclude
from sluice.core.errors import BuildError, Code, SpecError
from sluice.core.limits import DEFAULT_LIMITS
from sluice.core.pattern import compile_glob
from sluice.core.plan import plan_artifacts, plan_recipe
from sluice.core.spec import ArtifactGenerator, ArtifactSpec, CopySpec, SourceKind, SourceRef
from sluice.core.tree import Directory, Entry

PIECES = ["a", "b", "?", "*", "**", "[ab]", "[^a]", "/", "/", "**/", "/**", "{a,b}", "{a/b,*}"]
NAMES = ["a", "b", "ab"]
PATHS = ["/".join(names) for depth in (1, 2, 3) for names in itertools.product(NAMES, repeat=depth)]

patterns = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)
each_dialect = pytest.mark.parametrize("dialect", [DOCUMENTED, UPSTREAM], ids=["documented", "upstream"])
# The files are below directories of three levels, so that every path of `PATHS` is one.
TREE = Directory.of({f"{path}/f": b"" for path in PATHS})


def valid(texts: Sequence[str], dialect: Dialect) -> Iterator[tuple[str, Exclude]]:
    for text in texts:
        try:
            yield text, dialect.exclude(text, DEFAULT_LIMITS)
        except SpecError:
            continue


def is_excluded(path: str, base: str, entry: Entry, exclude: Exclude, dialect: Dialect) -> bool:
    if exclude.directories_only and not isinstance(entry, Directory):
        return False
    glob = compile_glob(exclude.text, dialect.exclude_grammar, DEFAULT_LIMITS)
    spellings = [path]
    if base:
        spellings.append(path.removeprefix(f"{base}/"))
    if exclude.anywhere:
        spellings.append(path.rpartition("/")[2])
    return any(map(glob.matches, spellings))


def kept_one_by_one(base: str, given: Sequence[Exclude], dialect: Dialect) -> list[str]:
    """The files below a directory, when nothing on the way to them is excluded."""
    gone: list[str] = []
    kept = []
    for path, entry in TREE.walk():
        if base and not path.startswith(f"{base}/"):
            continue
        if path.startswith(tuple(f"{above}/" for above in gone)):
            continue
        if any(is_excluded(path, base, entry, exclude, dialect) for exclude in given):
            gone.append(path)
        elif not isinstance(entry, Directory):
            kept.append(path)
    return kept


def files_of(source: str, texts: Sequence[str], dialect: Dialect, tree: Directory = TREE) -> list[str]:
    try:
        made = composed(source, texts, dialect, tree)
    except BuildError as error:
        if error.code in (Code.ALL_EXCLUDED, Code.EMPTY):
            return []
        raise
    return [path for path, entry in made.walk() if not isinstance(entry, Directory)]


def composed(source: str, texts: Sequence[str], dialect: Dialect, tree: Directory) -> Directory:
    copies = [CopySpec(source, "@artifact/", exclude=tuple(texts))]
    recipe = plan_recipe(copies, "", ["s"], dialect)
    return compose(recipe, {"s": tree}, unpack=lambda file: Directory.of({})).tree


SELECTIONS: Mapping[str, tuple[str, str]] = {
    "the root": ("@s/.", ""),
    "everything": ("@s/**", ""),
    "a directory": ("@s/a", "a"),
    "what is in a directory": ("@s/a/**", "a"),
}


@each_dialect
@pytest.mark.parametrize(("source", "base"), SELECTIONS.values(), ids=SELECTIONS.keys())
@given(texts=st.lists(patterns, max_size=6), width=st.sampled_from([excludes._WIDTH, 1]))
def test_a_list_takes_away_what_each_of_its_patterns_does(
    dialect: Dialect, source: str, base: str, texts: list[str], width: int
) -> None:
    readable = list(valid(texts, dialect))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(excludes, "_WIDTH", width)
        excludes._compiled.cache_clear()
        kept = files_of(source, [text for text, _ in readable], dialect)
    excludes._compiled.cache_clear()

    inside = f"{base}/" if source.endswith("/**") else ""
    expected = kept_one_by_one(base, [exclude for _, exclude in readable], dialect)
    assert kept == [path.removeprefix(inside) for path in expected]


@each_dialect
def test_a_subtree_that_no_exclude_can_reach_is_shared(dialect: Dialect) -> None:
    tree = Directory.of({"app/docs/x": b"", "app/src/y": b"", "lib/z": b""})

    made = composed("@s/.", ["app/docs/**"], dialect, tree)

    assert made.find("lib") is tree.find("lib")
    assert made.find("app/src") is tree.find("app/src")
    assert made.find("app/docs/x") is None


@each_dialect
@pytest.mark.parametrize(
    ("text", "directory", "idle"),
    [
        pytest.param("app/docs/**", "lib", True, id="a pattern that leads elsewhere"),
        pytest.param("app/docs/**", "app", False, id="a pattern that leads on"),
        pytest.param("app/*.md", "app/docs", True, id="a pattern that ended above"),
        pytest.param("**/docs/x", "lib", False, id="a pattern for any depth"),
        pytest.param("*.md", "lib", False, id="a bare name"),
    ],
)
def test_where_nothing_can_be_excluded_any_more(dialect: Dialect, text: str, directory: str, idle: bool) -> None:
    at = excludes.excludes_of((dialect.exclude(text, DEFAULT_LIMITS),), "", dialect.exclude_grammar, DEFAULT_LIMITS)

    assert at(directory).idle is idle


class Unread(Mapping[str, Entry]):
    """What is in a directory that nobody may look into."""

    def __getitem__(self, name: str) -> Entry:
        raise AssertionError(name)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError

    def __len__(self) -> int:
        return 1


@each_dialect
@pytest.mark.parametrize("text", ["big", "**/big", "a/**/b*"])
def test_an_excluded_directory_is_not_looked_into(dialect: Dialect, text: str) -> None:
    big = Directory(Unread(), b"", 1, 0, False)
    kept = Directory.of({"x": b""})
    tree = Directory.of_entries({"a": Directory.of_entries({"big": big, "kept": kept})})

    assert files_of("@s/a/**", [text], dialect, tree) == ["kept/x"]


@pytest.mark.parametrize(
    ("texts", "sizes"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param(["x" * 1024] * 100, [100], id="a hundred of the greatest length are one"),
        pytest.param(["*.{yml,yaml}"] * 100, [100], id="short braces are one"),
        pytest.param(["{a,b}" + "x" * 1000] * 3, [1, 1, 1], id="braces that may stand for much are one each"),
        pytest.param(["{a,b}" + "x" * 1000, "c", "d"], [3], id="what fits joins them"),
    ],
)
def test_how_many_patterns_are_one_automaton(texts: list[str], sizes: list[int]) -> None:
    assert [len(batch) for batch in excludes._batches(texts, DEFAULT_LIMITS)] == sizes


@each_dialect
def test_a_wrong_exclude_is_named_by_its_place(dialect: Dialect) -> None:
    copy = CopySpec("@s/**", "@artifact/", exclude=("*.md", "[", "b", "{a"))
    generator = ArtifactGenerator(
        name="g",
        namespace="apps",
        sources=(SourceRef("s", SourceKind.GIT_REPOSITORY, "s", "apps"),),
        artifacts=(ArtifactSpec("web", (copy,)),),
    )

    (failure,) = plan_artifacts(generator, None, dialect)

    problems = getattr(getattr(failure, "error", None), "problems", ())
    assert [problem.where for problem in problems] == [
        "spec.artifacts[0].copy[0].exclude[1]",
        "spec.artifacts[0].copy[0].exclude[3]",
    ]
