"""pathPattern: reading patterns, matching directories, filling templates."""

from __future__ import annotations

import pytest

from sluice.core.dialect import DIALECTS, DOCUMENTED, UPSTREAM, Dialect
from sluice.core.errors import BuildError, Code, SpecError
from sluice.core.limits import DEFAULT_LIMITS
from sluice.core.pathpattern import (
    Failure,
    Rendered,
    check_templates,
    expand_path_pattern,
    find_directories,
    lower,
    parse_path_pattern,
)
from sluice.core.spec import ArtifactGenerator, ArtifactSpec, CopySpec
from sluice.core.tree import Directory

LABEL = "letters, digits, '-', '_' and '.', alphanumeric at both ends, at most 63"
CAPTURE = "letters, digits and '_', no digit first"
KEY = "letters, digits and '_', alphanumeric at both ends, at most 63"


def directories(text: str, *paths: str, dialect: Dialect = DOCUMENTED) -> list[tuple[str, dict[str, str]]]:
    tree = Directory.of({f"{path}/f": b"" for path in paths})
    pattern = parse_path_pattern(f"@s/{text}", ["s"], dialect)
    return [(path, dict(captured)) for path, captured in find_directories(pattern, tree)]


def expand(
    *artifacts: ArtifactSpec, paths: tuple[str, ...], text: str = "{x}", dialect: Dialect = DOCUMENTED
) -> list[Rendered | Failure]:
    generator = ArtifactGenerator(name="g", namespace="n", sources=(), artifacts=artifacts, path_pattern=f"@s/{text}")
    pattern = parse_path_pattern(f"@s/{text}", ["s"], dialect)
    tree = Directory.of({f"{path}/f": b"" for path in paths})
    return list(expand_path_pattern(generator, pattern, tree, dialect, DEFAULT_LIMITS))


class TestReading:
    @pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("s/{x}", "'s/{x}' has no source ('@<alias>/<path>')"),
            ("@s", "'@s' has no source ('@<alias>/<path>')"),
            ("@s/{}", f"'{{}}' in '@s/{{}}' is not a capture ({CAPTURE})"),
            ("@s/{1a}", f"'{{1a}}' in '@s/{{1a}}' is not a capture ({CAPTURE})"),
            ("@s/{a-b}", f"'{{a-b}}' in '@s/{{a-b}}' is not a capture ({CAPTURE})"),
            ("@s/{a,b}", f"'{{a,b}}' in '@s/{{a,b}}' is not a capture ({CAPTURE})"),
            ("@s/{é}", f"'{{é}}' in '@s/{{é}}' is not a capture ({CAPTURE})"),
            ("@s/{a/b}", f"'{{a/b}}' in '@s/{{a/b}}' is not a capture ({CAPTURE})"),
            ("@s/{{a}}", f"'{{{{a}}}}' in '@s/{{{{a}}}}' is not a capture ({CAPTURE})"),
            ("@s/{a", "'@s/{a' has a '{' without a '}'"),
            ("@s/a}", "'@s/a}' has a '}' without a '{'"),
            (r"@s/\{a\}", rf"'{{a\}}' in '@s/\{{a\}}' is not a capture ({CAPTURE})"),
            ("@s/{a}/{a}", "'@s/{a}/{a}' captures 'a' twice"),
            ("@s/{_a}", f"'_a' is not a label ({KEY})"),
            ("@s/{a_}", f"'a_' is not a label ({KEY})"),
            (f"@s/{{{'a' * 64}}}", f"'{'a' * 64}' is not a label ({KEY})"),
        ],
    )
    def test_mistakes(self, text: str, problem: str, dialect: Dialect) -> None:
        with pytest.raises(SpecError) as caught:
            parse_path_pattern(text, ["s"], dialect)

        assert str(caught.value) == f"spec.pathPattern: {problem}"
        assert caught.value.problems[0].code == Code.INVALID_SPEC

    def test_an_unknown_alias(self) -> None:
        with pytest.raises(SpecError) as caught:
            parse_path_pattern("@u/{x}", ["s", "r"], DOCUMENTED)

        assert [(str(problem), problem.code) for problem in caught.value.problems] == [
            ("spec.pathPattern: source alias 'u' not found (declared: r, s)", Code.UNKNOWN_ALIAS)
        ]

    @pytest.mark.parametrize("text", ["{A}", "{a_b}", "{a1}", f"{{{'a' * 63}}}", "{x}{y}", "a,b/{x}", "{x}.{y}-{z}"])
    def test_right_ones(self, text: str) -> None:
        for dialect in DIALECTS.values():
            assert parse_path_pattern(f"@s/{text}", ["s"], dialect).alias == "s"


class TestMatching:
    @pytest.mark.parametrize(
        ("text", "paths", "found"),
        [
            ("apps/{x}", ["apps/a", "apps/b/c", "x/a"], [("apps/a", "a"), ("apps/b", "b")]),
            ("{x}", ["a/b"], [("a", "a")]),
            ("{x}/{y}", ["a/b/c"], [("a/b", "a b")]),
            ("{x}/apps", ["a/apps", "b/app", "apps/apps"], [("a/apps", "a"), ("apps/apps", "apps")]),
            ("apps", ["apps/a", "x/apps"], [("apps", "")]),
            ("apps/app-{x}", ["apps/app-a", "apps/app-", "apps/app"], [("apps/app-a", "a")]),
            ("app-{x}-x", ["app-one-x", "app--x", "app-x-x-x"], [("app-one-x", "one"), ("app-x-x-x", "x-x")]),
            ("{x}-{y}", ["a-b-c", "-a-", "ab"], [("a-b-c", "a-b c")]),
            ("{x}{y}", ["abc", "a"], [("abc", "ab c")]),
            ("{x}a{y}", ["aaaa", "aa"], [("aaaa", "aa a")]),
            ("{x}ab{y}ab", ["abababab"], [("abababab", "ab ab")]),
            ("a*b/{x}", ["a*b/x", "aab/y"], [("a*b/x", "x")]),
            ("a.b/[{x}]", ["a.b/[c]", "axb/[d]"], [("a.b/[c]", "c")]),
            ("APPS/{x}", ["apps/a"], []),
            (".{x}", [".git", "git"], [(".git", "git")]),
            ("{x}", ["a\nb"], [("a\nb", "a\nb")]),
            ("{x}", ["é", "\udcff"], [("é", "é"), ("\udcff", "\udcff")]),
        ],
    )
    def test_directories(self, text: str, paths: list[str], found: list[tuple[str, str]]) -> None:
        for dialect in DIALECTS.values():
            assert [
                (path, " ".join(captured.values())) for path, captured in directories(text, *paths, dialect=dialect)
            ] == found

    @pytest.mark.parametrize("text", ["apps/{x}/", "./apps/{x}", "apps//{x}", "apps/./{x}/."])
    def test_spellings_are_the_same_pattern_or_match_nothing(self, text: str) -> None:
        assert directories(text, "apps/a") == [("apps/a", {"x": "a"})]
        assert directories(text, "apps/a", dialect=UPSTREAM) == []

    @pytest.mark.parametrize("text", ["", ".", "./", "/"])
    def test_the_root_never_matches(self, text: str) -> None:
        if text != "/":
            assert directories(text, "a") == []
        assert directories(text, "a", dialect=UPSTREAM) == []

    def test_many_captures_and_a_long_name_cost_no_more_than_both(self) -> None:
        text = "a".join(f"{{x{number}}}" for number in range(100))

        assert directories(f"{text}c", "a" * 4000) == []
        assert len(directories(text, "a" * 4000)) == 1


class TestTemplates:
    def fill(self, text: str, dialect: Dialect = DOCUMENTED) -> str:
        (made,) = expand(ArtifactSpec("n", (CopySpec(text, "@artifact/"),)), paths=("Ab",), dialect=dialect)
        assert isinstance(made, Rendered)
        return made.spec.copy[0].source

    @pytest.mark.parametrize(
        ("text", "filled"),
        [
            ("@s/{x}", "@s/Ab"),
            ("@{x}/{x}{x}", "@Ab/AbAb"),
            ("@s/{x,y}", "@s/{x,y}"),
            ("@s/{,{x}}.{x}", "@s/{,Ab}.Ab"),
            ("@s/{a,{b,{x}c}}", "@s/{a,{b,Abc}}"),
            ("@s/{*,{x}/**}", "@s/{*,Ab/**}"),
            (r"@s/\{x\}{x}", r"@s/\{x\}Ab"),
            (r"@s/{a\,b,{x}}", r"@s/{a\,b,Ab}"),
            ("@s/a,b", "@s/a,b"),
        ],
    )
    def test_from(self, text: str, filled: str) -> None:
        assert self.fill(text) == filled

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("@s/{y}", "'{y}' in '@s/{y}' is not defined by pathPattern (defined: x)"),
            ("@s/{a,{y}}", "'{y}' in '@s/{a,{y}}' is not defined by pathPattern (defined: x)"),
            ("@s/{x*}", f"'{{x*}}' in '@s/{{x*}}' is not a capture ({CAPTURE})"),
            ("@s/{{x}}", f"'{{{{x}}}}' in '@s/{{{{x}}}}' is not a capture ({CAPTURE})"),
            (r"@s/{a\,b}", rf"'{{a\,b}}' in '@s/{{a\,b}}' is not a capture ({CAPTURE})"),
            ("@s/{}", f"'{{}}' in '@s/{{}}' is not a capture ({CAPTURE})"),
            ("@s/{x", "'@s/{x' has a '{' without a '}'"),
            ("@s/{a,{x}", "'@s/{a,{x}' has a '{' without a '}'"),
            ("@s/x}", "'@s/x}' has a '}' without a '{'"),
            (r"@s/{x\}", r"'@s/{x\}' has a '{' without a '}'"),
        ],
    )
    def test_mistakes_in_from(self, text: str, problem: str) -> None:
        with pytest.raises(SpecError) as caught:
            self.fill(text)

        assert str(caught.value) == f"spec.artifacts[0].copy[0].from: {problem}"

    @pytest.mark.parametrize("text", ["@s/{x,y}", "@s/{a,{x}}", r"@s/\{x\}"])
    def test_the_peer_takes_every_brace_for_a_capture(self, text: str) -> None:
        with pytest.raises(SpecError):
            self.fill(text, UPSTREAM)

    def test_all_mistakes_are_told_at_once(self) -> None:
        generator = ArtifactGenerator(
            name="g",
            namespace="n",
            sources=(),
            artifacts=(
                ArtifactSpec("{y}", (CopySpec("@s/x", "@artifact/{x}"), CopySpec("@s/{z}", "@artifact/{}"))),
                ArtifactSpec("{x", ()),
            ),
        )

        with pytest.raises(SpecError) as caught:
            check_templates(generator, parse_path_pattern("@s/{x}", ["s"], DOCUMENTED), DOCUMENTED)

        assert [problem.where for problem in caught.value.problems] == [
            "spec.artifacts[0].name",
            "spec.artifacts[0].copy[1].from",
            "spec.artifacts[0].copy[1].to",
            "spec.artifacts[1].name",
        ]

    def test_only_name_from_and_to_are_filled_in(self) -> None:
        copy = CopySpec("@s/{x}", "@artifact/{x}", ("{x}",), "Merge")
        (made,) = expand(ArtifactSpec("a-{x}", (copy,), "{x}", "{x}"), paths=("Ab",))

        assert made == Rendered(
            ArtifactSpec("a-ab", (CopySpec("@s/Ab", "@artifact/Ab", ("{x}",), "Merge"),), "{x}", "{x}"),
            {"x": "ab"},
            "Ab",
        )

    def test_hostile_templates_leave_short_lines(self) -> None:
        for text in ("{" + "x" * 1_000_000, "{" * 1000 + "\n\x1b"):
            with pytest.raises(SpecError) as caught:
                self.fill(text)
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 1000


class TestNames:
    def failures(self, name: str, *paths: str, text: str = "{x}") -> dict[str, str]:
        made = expand(ArtifactSpec(name, ()), paths=paths, text=text)
        return {item.name: f"{item.error}" for item in made if isinstance(item, Failure)}

    @pytest.mark.parametrize("name", ["a", "A", "0", "a.b", "a-b_c", "a" * 63, "\u212aey", "\u0130x"])
    def test_directories_that_are_labels(self, name: str) -> None:
        (made,) = expand(ArtifactSpec("n", ()), paths=(name,))

        assert isinstance(made, Rendered)
        assert made.labels == {"x": lower(name)}

    @pytest.mark.parametrize("name", ["_a", "a_", ".a", "-a", "a b", "a\n", "é", "a" * 64, "a+b", "\udcff"])
    def test_directories_that_are_no_labels(self, name: str) -> None:
        shown = name.encode("unicode_escape").decode() if not name.isprintable() else name

        assert self.failures("n", name, "ok") == {
            "n": f"directory '{shown}': '{shown}' for '{{x}}' is not a label value ({LABEL})"
        }

    @pytest.mark.parametrize(
        ("name", "directory", "rendered"),
        [
            ("{x}", "a_b", "a_b"),
            ("{x}.", "a", "a."),
            ("{x}-" + "y" * 252, "ab", "ab-" + "y" * 252),
            ("My {x}", "a", "My a"),
        ],
    )
    def test_names_that_are_no_object_names(self, name: str, directory: str, rendered: str) -> None:
        assert self.failures(name, directory) == {
            rendered: f"directory '{directory}': '{rendered}' is not a valid object name"
            " (lower-case letters, digits, '-' and '.', at most 253)"
        }

    @pytest.mark.parametrize(
        ("name", "text", "paths", "failures"),
        [
            ("{x}", "{x}", ["A", "a", "b"], {"a": "directories 'A' and 'a' all give the artifact name 'a'"}),
            (
                "{x}-{y}",
                "{x}/{y}",
                ["a/b-c", "a-b/c"],
                {"a-b-c": "directories 'a/b-c' and 'a-b/c' all give the artifact name 'a-b-c'"},
            ),
            (
                "n",
                "{x}",
                list("abcdefg"),
                {"n": "directories 'a', 'b', 'c', 'd', 'e' and 2 more all give the artifact name 'n'"},
            ),
        ],
    )
    def test_names_that_collide(self, name: str, text: str, paths: list[str], failures: dict[str, str]) -> None:
        assert self.failures(name, *paths, text=text) == failures

    def test_codes(self) -> None:
        made = expand(ArtifactSpec("{x}", ()), paths=("A", "a", "_"))

        assert [
            (item.name, item.error.code)
            for item in made
            if isinstance(item, Failure) and isinstance(item.error, BuildError)
        ] == [
            ("a", Code.NAME_COLLISION),
            ("_", Code.INVALID_NAME),
        ]

    def test_a_name_of_which_one_directory_is_refused_is_not_made_by_the_other(self) -> None:
        assert list(self.failures("n", "a", "_b")) == ["n"]
        assert list(self.failures("n", "_a", "b")) == ["n"]

    def test_results_come_in_the_order_of_the_walk_and_then_of_the_templates(self) -> None:
        made = expand(ArtifactSpec("{x}-1", ()), ArtifactSpec("{x}-0", ()), paths=("b", "a-b", "a"))

        assert [item.spec.name for item in made if isinstance(item, Rendered)] == [
            *("a-1", "a-0", "a-b-1", "a-b-0"),
            *("b-1", "b-0"),
        ]


@pytest.mark.parametrize(("text", "lowered"), [("ÀB", "àb"), ("\u0130", "i"), ("\u212a", "k"), ("ΑΣ", "ασ")])
def test_lower_case_is_character_by_character(text: str, lowered: str) -> None:
    assert lower(text) == lowered
