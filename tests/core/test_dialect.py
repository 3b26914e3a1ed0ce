"""The two readings of a path, a pattern, an exclude and a target, and what each leaves out."""

from __future__ import annotations

import pytest
from msgspec.structs import fields

from sluice.core.dialect import DIALECTS, DOCUMENTED, UPSTREAM, Dialect, DialectName, LeaveOut, clean, join
from sluice.core.errors import BuildError, Code, SpecError
from sluice.core.limits import DEFAULT_LIMITS
from sluice.core.tree import EMPTY, Directory, File, Staging


def test_every_dialect_has_its_row() -> None:
    assert {name: dialect.name for name, dialect in DIALECTS.items()} == {name: name for name in DialectName}


def test_the_rows_differ_in_every_field() -> None:
    """What is the same in both needs no field."""
    same = [field.name for field in fields(Dialect) if getattr(DOCUMENTED, field.name) == getattr(UPSTREAM, field.name)]

    assert same == []


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        *[(path, "") for path in ("", ".", "./", "a/..", "a/b/../..", "./.", "a/../.")],
        *[(path, "a") for path in ("a", "a/", "a/.", "./a", "x/../a", "a/b/..")],
        *[(path, "a/b") for path in ("a/b", "a//b", "a/./b///", "a/x/../b")],
        *[(path, None) for path in ("..", "../a", "a/../..", "a/../../b", "/", "/a", "//a", "./..")],
        ("...", "..."),
        ("a/..b", "a/..b"),
    ],
)
def test_clean(path: str, cleaned: str | None) -> None:
    assert clean(path) == cleaned


def test_join_passes_over_what_is_empty() -> None:
    assert [join("a", "", "b/c"), join("", "a"), join("a", ""), join()] == ["a/b/c", "a", "a", ""]


@pytest.mark.parametrize(
    ("text", "documented", "upstream"),
    [
        pytest.param("a/b", ("a/b", "a/b", None), ("a/b", "a/b", None), id="a path"),
        pytest.param("", ("", "", None), ("", "", None), id="the root"),
        pytest.param("./a//x/../b/", ("a/b", "a/b", None), ("a/b", "a/b", None), id="a path, spelled at length"),
        pytest.param(r"a\*b", ("a*b", "a*b", None), ("", "", ""), id="an escaped star"),
        pytest.param(r"a\b", ("ab", "ab", None), (r"a\b", r"a\b", None), id="an escaped letter"),
        pytest.param("{a,b}", ("", "", ""), ("{a,b}", "{a,b}", None), id="braces"),
        pytest.param("a]", ("a]", "a]", None), ("", "", ""), id="a closing bracket"),
        pytest.param("a/b/*.yaml", ("a/b", "a/b", "a/b/"), ("a/b", "a/b", ""), id="files"),
        pytest.param("a/b/**", ("a/b", "a/b", "a/b/"), ("a/b", "a/b", "a/b/"), id="everything below"),
        pytest.param("a/*/b/**", ("a", "a", "a/"), ("a", "a", "a/*/b/"), id="everything below matches"),
        pytest.param("**", ("", "", ""), ("", "", ""), id="everything"),
        pytest.param("a/{b}/*", ("a", "a", "a/"), ("a/{b}", "a/{b}", ""), id="braces in a directory"),
        pytest.param(r"a\[/*", ("a[", "a[", "a[/"), ("a[", "", ""), id="an escaped directory"),
        pytest.param("./a/*", ("a", "a", "a/"), ("", "a", ""), id="a dot in front"),
    ],
)
def test_what_from_selects(
    text: str, documented: tuple[str, str, str | None], upstream: tuple[str, str, str | None]
) -> None:
    """Where nothing outside can match, what excludes are compared below, what a match loses; None for a path."""
    for dialect, expected in ((DOCUMENTED, documented), (UPSTREAM, upstream)):
        found = dialect.select(text, DEFAULT_LIMITS)
        assert (found.path, found.base, found.strip if found.expand else None) == expected


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
@pytest.mark.parametrize("text", ["..", "/a", "a/../../b", "//"])
def test_a_path_out_of_the_source(text: str, dialect: Dialect) -> None:
    for select in (dialect.select, dialect.select_archives):
        with pytest.raises(SpecError) as caught:
            select(text, DEFAULT_LIMITS)
        assert caught.value.problems[0].code == Code.ESCAPE


@pytest.mark.parametrize(
    ("text", "documented", "upstream"),
    [
        ("*.md", ("*.md", True, False), ("*.md", True, False)),
        ("a/b", ("a/b", False, False), ("a/b", False, False)),
        ("tests/", ("tests", True, True), ("tests/", False, False)),
        ("./tests", ("tests", True, False), ("./tests", False, False)),
        ("a//b/", ("a/b", False, True), ("a//b/", False, False)),
        ("{a,b/c}", ("{a,b/c}", False, False), ("{a,b/c}", False, False)),
        ("", ("", True, False), ("", True, False)),
    ],
)
def test_excludes(text: str, documented: tuple[str, bool, bool], upstream: tuple[str, bool, bool]) -> None:
    """How an exclude is spelled, whether bare names are compared with it, whether it is for directories only."""
    for dialect, expected in ((DOCUMENTED, documented), (UPSTREAM, upstream)):
        exclude = dialect.exclude(text, DEFAULT_LIMITS)
        assert (exclude.text, exclude.anywhere, exclude.directories_only) == expected


STAGED = Directory.of({"d/f": b"", "file": b""})


@pytest.mark.parametrize(
    ("to", "documented", "upstream"),
    [
        ("", "n", "n"),
        ("x", "x", "x"),
        ("x/", "x/n", "x/n"),
        ("x/y.yaml", "x/y.yaml", "x/y.yaml"),
        ("d", "d/n", "d/n"),
        ("d/", "d/n", "d/n"),
        ("d/f", "d/f", "d/f"),
        ("file", "file", "file"),
        (".", "n", "n"),
        ("./", "n", "n"),
        ("d/.", "d/n", "d/n"),
        ("d/..", "n", "n"),
        ("x//y", "x/y", "x/y"),
        ("x/../y", "y", Code.CONFLICT),
        ("d/../y", "y", "y"),
        ("x/../y/", "y/n", "y/n"),
        ("x/.", "x/n", Code.CONFLICT),
        ("x/..", "n", Code.CONFLICT),
        ("..", Code.ESCAPE, Code.ESCAPE),
        ("../x", Code.ESCAPE, Code.ESCAPE),
        ("x/../../y", Code.ESCAPE, Code.ESCAPE),
        ("/x", Code.ESCAPE, Code.ESCAPE),
        ("/", Code.ESCAPE, Code.ESCAPE),
    ],
)
def test_where_a_file_goes(to: str, documented: str | Code, upstream: str | Code) -> None:
    for dialect, expected in ((DOCUMENTED, documented), (UPSTREAM, upstream)):
        assert landing(dialect, to) == expected


def landing(dialect: Dialect, to: str) -> str | Code:
    try:
        return dialect.place_file(Staging(STAGED), dialect.target(to, DEFAULT_LIMITS), "n")
    except SpecError as error:
        return error.problems[0].code
    except BuildError as error:
        return Code(error.code)


@pytest.mark.parametrize(
    ("name", "documented", "upstream"),
    [
        ("v.yaml", True, True),
        ("v.YML", True, True),
        (".yaml", True, True),
        ("yaml", False, True),
        ("v.yaml.txt", False, True),
        ("v.json", False, True),
    ],
)
def test_what_merge_merges(name: str, documented: bool, upstream: bool) -> None:
    assert (DOCUMENTED.merges(name), UPSTREAM.merges(name)) == (documented, upstream)


BOTH = [
    *(".gitignore", ".gitmodules", ".gitattributes", ".travis.yml", ".gitlab-ci.yml", "appveyor.yml", ".drone.yml"),
    *("cloudbuild.yaml", "codeship-services.yml", "codeship-steps.yml", ".goreleaser.yml", ".sops.yaml", ".flux.yaml"),
]
DIRECTORIES = [".git", ".github", ".circleci"]
MEDIA = ["a.jpg", "a.jpeg", ".gif", "a.png", "a.wmv", "a.flv", "a.tar.gz", "a.zip"]
NEVER = ["a.tgz", "a.JPG", ".sourceignore", ".helmignore", ".goreleaser.yaml", "x.sops.yaml", "git", ".gitlab", "a.gz"]


@pytest.mark.parametrize(("dialect", "media"), [(DOCUMENTED, False), (UPSTREAM, True)], ids=["documented", "upstream"])
def test_what_is_left_out(dialect: Dialect, media: bool) -> None:
    def is_out(name: str) -> tuple[bool, bool]:
        rules: LeaveOut = dialect.leave_out
        return rules.matches(name, directory=False), rules.matches(name, directory=True)

    assert {name: is_out(name) for name in BOTH} == dict.fromkeys(BOTH, (True, True))
    assert {name: is_out(name) for name in DIRECTORIES} == dict.fromkeys(DIRECTORIES, (False, True))
    assert {name: is_out(name) for name in MEDIA} == dict.fromkeys(MEDIA, (media, media))
    assert {name: is_out(name) for name in NEVER} == dict.fromkeys(NEVER, (False, False))


def test_a_pattern_of_archives_finds_them_below_matched_directories() -> None:
    tree = Directory.of({"a/x.tgz": b"", "a/b/y.tgz": b"", "z.tgz": b""})

    def found(dialect: Dialect, text: str) -> list[str]:
        expand = dialect.select_archives(text, DEFAULT_LIMITS).expand
        assert expand is not None
        return [path for path, entry in expand(tree) if isinstance(entry, File)]

    for dialect in DIALECTS.values():
        assert found(dialect, "**") == ["a/b/y.tgz", "a/x.tgz", "z.tgz"]
        assert found(dialect, "a/**") == ["a/b/y.tgz", "a/x.tgz"]
        assert found(dialect, "*") == ["z.tgz"]
    assert DOCUMENTED.select_archives("**", DEFAULT_LIMITS).expand is not None
    assert list(DOCUMENTED.select_archives("**", DEFAULT_LIMITS).expand(EMPTY)) == []  # type: ignore[misc]  # just asserted
