"""Plans: what is decided before anything is opened, and what makes two compositions the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from sluice.core.compose import compose
from sluice.core.dialect import DIALECTS, DOCUMENTED, UPSTREAM, Dialect
from sluice.core.errors import BuildError, Code, SpecError
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.pathpattern import Failure
from sluice.core.plan import ArtifactPlan, inputs, plan_artifacts, plan_recipe
from sluice.core.spec import ArtifactGenerator, ArtifactSpec, CopySpec, SourceKind, SourceRef, Strategy
from sluice.core.tree import EMPTY, Directory, Entry, File, Link

A = CopySpec("@s/a", "@artifact/")


def generator(*artifacts: ArtifactSpec, path_pattern: str | None = None) -> ArtifactGenerator:
    sources = tuple(SourceRef(alias, SourceKind.BUCKET, "b", "n") for alias in ("s", "t"))
    return ArtifactGenerator(name="g", namespace="n", sources=sources, artifacts=artifacts, path_pattern=path_pattern)


def problems_of(copy: CopySpec, dialect: Dialect = DOCUMENTED, limits: Limits = DEFAULT_LIMITS) -> list[str]:
    try:
        plan_recipe([copy], "here", ["s", "t"], dialect, limits)
    except SpecError as error:
        return [f"{problem.code} {problem}" for problem in error.problems]
    return []


class TestCopies:
    @pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
    @pytest.mark.parametrize(
        ("copy", "problems"),
        [
            pytest.param(A, [], id="a right one"),
            pytest.param(CopySpec("@s/", "@artifact/", (), "Extract"), [], id="a root, and a strategy"),
            pytest.param(CopySpec("@s/" + "x" * 1021, "@artifact/" + "x" * 1014), [], id="as long as may be"),
            pytest.param(CopySpec("@s/x", "@artifact/", ("a",) * 100), [], id="as many excludes as may be"),
            pytest.param(
                CopySpec("@s/" + "x" * 1022, "@artifact/" + "x" * 1015),
                [
                    "invalid_spec here.copy[0].from: 1025 characters (1 to 1024)",
                    "invalid_spec here.copy[0].to: 1025 characters (1 to 1024)",
                ],
                id="a character too long",
            ),
            pytest.param(
                CopySpec("@s/x", "@artifact/", ("a",) * 101),
                ["invalid_spec here.copy[0].exclude: 101 items (at most 100)"],
                id="an exclude too many",
            ),
            pytest.param(
                CopySpec("", ""),
                [
                    "invalid_spec here.copy[0].from: '' names no source ('@<alias>/<path>')",
                    "invalid_spec here.copy[0].to: '' is not below the artifact ('@artifact/<path>')",
                ],
                id="empty texts",
            ),
            pytest.param(
                CopySpec(" @s/a", "@Artifact/"),
                [
                    "invalid_spec here.copy[0].from: ' @s/a' names no source ('@<alias>/<path>')",
                    "invalid_spec here.copy[0].to: '@Artifact/' is not below the artifact ('@artifact/<path>')",
                ],
                id="almost right texts",
            ),
            pytest.param(
                CopySpec("@/x", "@artifact/"),
                ["unknown_alias here.copy[0].from: source alias '' not found (declared: s, t)"],
                id="an empty alias",
            ),
            pytest.param(
                CopySpec("@S/x", "@artifact/"),
                ["unknown_alias here.copy[0].from: source alias 'S' not found (declared: s, t)"],
                id="an alias in upper case",
            ),
            pytest.param(
                CopySpec("@s/x", "@artifact/", (), "merge"),
                ["invalid_spec here.copy[0].strategy: 'merge' is not one of Overwrite, Merge, Extract"],
                id="a strategy in lower case",
            ),
            pytest.param(
                CopySpec("@u/../x", "@artifact/", ("[",), "?"),
                [
                    "unknown_alias here.copy[0].from: source alias 'u' not found (declared: s, t)",
                    "bad_pattern here.copy[0].exclude[0]: '[' is not a valid pattern: class is not closed",
                    "invalid_spec here.copy[0].strategy: '?' is not one of Overwrite, Merge, Extract",
                    "escape here.copy[0].from: '../x' leads out of the source (a path below it)",
                ],
                id="everything at once",
            ),
        ],
    )
    def test_problems(self, dialect: Dialect, copy: CopySpec, problems: list[str]) -> None:
        assert problems_of(copy, dialect) == problems

    @pytest.mark.parametrize(
        ("source", "strategy", "documented", "upstream"),
        [
            ("a[", "Overwrite", "'a[' is not a valid pattern: class is not closed", True),
            ("a{", "Overwrite", "'a{' is not a valid pattern: '{' is not closed", False),
            ("*{", "Overwrite", "'*{' is not a valid pattern: '{' is not closed", False),
            ("*{", "Extract", "'*{' is not a valid pattern: '{' is not closed", True),
            ("[a-]*", "Overwrite", "", True),
            ("a]", "Overwrite", "", False),
            ("*\\", "Overwrite", "'*\\' is not a valid pattern: nothing follows '\\'", True),
        ],
    )
    def test_bad_patterns(self, source: str, strategy: str, documented: str, upstream: bool) -> None:
        copy = CopySpec(f"@s/{source}", "@artifact/", (), strategy)

        assert problems_of(copy) == ([f"bad_pattern here.copy[0].from: {documented}"] if documented else [])
        assert [text.partition(" ")[0] for text in problems_of(copy, UPSTREAM)] == ["bad_pattern"] * upstream

    def test_hostile_values_leave_one_short_line(self) -> None:
        for text in ("x" * 1_000_000, "\n\x1b[0m" * 300, "@s/[" + "\n" * 1000):
            for copy in (CopySpec(text, text), CopySpec("@s/x", "@artifact/", (text,), text)):
                for problem in problems_of(copy):
                    assert problem.isprintable()
                    assert len(problem) < 5000


class TestArtifacts:
    def test_a_wrong_artifact_costs_no_other(self) -> None:
        wrong = ArtifactSpec("wrong", (A, CopySpec("@u/a", "@artifact/")))
        plans = plan_artifacts(generator(wrong, ArtifactSpec("right", (A,))), None, DOCUMENTED)

        assert [type(plan) for plan in plans] == [Failure, ArtifactPlan]
        assert [plan.name for plan in plans] == ["wrong", "right"]
        assert isinstance(plans[0], Failure)
        assert str(plans[0].error) == ("spec.artifacts[0].copy[1].from: source alias 'u' not found (declared: s, t)")

    def test_revisions_are_aliases_and_an_unknown_origin_is_none(self) -> None:
        known = ArtifactSpec("a", (A,), "t", "s")
        unknown = ArtifactSpec("b", (A,), None, "nobody")
        plans = plan_artifacts(generator(known, unknown), None, DOCUMENTED)

        assert [
            (plan.revision, plan.origin_revision, sorted(plan.aliases))
            for plan in plans
            if isinstance(plan, ArtifactPlan)
        ] == [("t", "s", ["s", "t"]), (None, None, ["s"])]

    def test_captures_become_labels(self) -> None:
        spec = ArtifactSpec("{app}", (CopySpec("@s/apps/{app}", "@artifact/"),), "t")
        tree = Directory.of({"apps/Web/x": b""})
        (plan,) = plan_artifacts(generator(spec, path_pattern="@s/apps/{app}"), tree, DOCUMENTED)

        assert isinstance(plan, ArtifactPlan)
        assert (plan.name, plan.labels, plan.revision) == ("web", {"app": "web"}, "t")
        assert plan.recipe.copies[0].pattern == "apps/Web"

    def test_a_wrong_path_pattern_stops_the_generator(self) -> None:
        for text in ("@u/{x}", "@s/{x", "@s/{x}/{x}"):
            with pytest.raises(SpecError, match=r"^spec\.pathPattern: "):
                plan_artifacts(generator(ArtifactSpec("a", (A,)), path_pattern=text), EMPTY, DOCUMENTED)


TREE = Directory.of({"d/x.yaml": b"x", "d/sub/y.yaml": b"y", "e/z": b"z", "top": b"t"})
OTHER = Directory.of({"o": b"o"})


def key(
    *copies: CopySpec,
    tree: Directory = TREE,
    dialect: Dialect = DOCUMENTED,
    limits: Limits = DEFAULT_LIMITS,
    version: str = "1",
) -> bytes:
    recipe = plan_recipe(copies, "here", ["s", "t"], dialect, limits)
    return inputs(version, recipe, {"s": tree, "t": OTHER})


def changed(path: str, data: bytes | None = b"changed", *, executable: bool = False) -> Directory:
    files = {where: entry for where, entry in TREE.walk() if isinstance(entry, File) and where != path}
    if data is not None:
        files[path] = File.of(data, executable=executable)
    return make(files)


def make(files: dict[str, File]) -> Directory:
    entries: dict[str, Entry] = {}
    for first in {path.partition("/")[0] for path in files}:
        below = {path.partition("/")[2]: file for path, file in files.items() if path.partition("/")[0] == first}
        entries[first] = below[""] if "" in below else make(below)
    return Directory.of_entries(entries)


GLOB = CopySpec("@s/d/*.yaml", "@artifact/o", ("a*", "b"))


class TestInputs:
    def test_equal_inputs_are_equal(self) -> None:
        assert key(GLOB, A) == key(
            CopySpec("@s/d/*.yaml", "@artifact/o", ("a*", "b")), A, tree=changed("d/x.yaml", b"x")
        )

    @pytest.mark.parametrize(
        "copies",
        [
            pytest.param([GLOB], id="a copy less"),
            pytest.param([A, GLOB], id="another order"),
            pytest.param([replace(GLOB, source="@s/d/*.yml"), A], id="another pattern"),
            pytest.param([replace(GLOB, to="@artifact/o/"), A], id="another target"),
            pytest.param([replace(GLOB, exclude=("a*",)), A], id="an exclude less"),
            pytest.param([replace(GLOB, exclude=("a*b",)), A], id="excludes that only look alike"),
            pytest.param([replace(GLOB, exclude=()), A], id="no excludes"),
            pytest.param([replace(GLOB, strategy=Strategy.MERGE), A], id="another strategy"),
            pytest.param([replace(GLOB, source="@t/d/*.yaml"), A], id="another source"),
        ],
    )
    def test_other_copies_are_other_inputs(self, copies: Sequence[CopySpec]) -> None:
        assert key(*copies) != key(GLOB, A)

    def test_version_dialect_and_limits_count(self) -> None:
        keys = [
            key(GLOB),
            key(GLOB, version="2"),
            key(GLOB, dialect=UPSTREAM),
            *(key(GLOB, limits=Limits(**{name: 200_000})) for name in ("artifact_size", "yaml_size", "extract_size")),
        ]

        assert len(set(keys)) == len(keys)

    @pytest.mark.parametrize(
        ("source", "tree", "counts"),
        [
            pytest.param("d/*.yaml", changed("d/x.yaml"), True, id="a match"),
            pytest.param("d/*.yaml", changed("d/new.yaml"), True, id="a new match"),
            pytest.param("d/*.yaml", changed("d/x.yaml", None), True, id="a match that is gone"),
            pytest.param("d/*.yaml", changed("d/x.yaml", b"x", executable=True), True, id="an executable bit"),
            pytest.param("d/*.yaml", changed("e/z"), False, id="another directory"),
            pytest.param("d/*.yaml", changed("top"), False, id="a file above"),
            pytest.param("d/*.yaml", changed("e/new"), False, id="a new file elsewhere"),
            pytest.param("d/sub/**", changed("d/x.yaml"), False, id="a file beside the literal front"),
            pytest.param("d", changed("d/sub/y.yaml"), True, id="a file in a directory"),
            pytest.param("d", changed("e/z"), False, id="a file beside a directory"),
            pytest.param("top", changed("top"), True, id="the file itself"),
            pytest.param("top", changed("e/z"), False, id="a file beside"),
            pytest.param("", changed("e/z"), True, id="anything below the root"),
            pytest.param("**/*.md", changed("e/z"), True, id="anything, with a pattern from the root"),
            pytest.param("gone", changed("top"), False, id="something else, where nothing is"),
            pytest.param("gone", changed("gone"), True, id="what was absent"),
            pytest.param("gone/*.yaml", changed("gone/x"), True, id="a directory that was absent"),
            pytest.param("gone/*.yaml", changed("e/z"), False, id="something else, where no directory is"),
            pytest.param("{d,e}/*", changed("d/x.yaml"), True, id="an alternative"),
        ],
    )
    def test_only_what_a_copy_can_reach_counts(self, source: str, tree: Directory, counts: bool) -> None:
        copy = CopySpec(f"@s/{source}", "@artifact/")

        assert (key(copy, tree=tree) != key(copy)) == counts

    def test_a_file_and_a_directory_in_its_place_differ(self) -> None:
        copy = CopySpec("@s/x", "@artifact/")
        trees = [EMPTY, *(Directory.of_entries({"x": entry}) for entry in (File.of(b""), EMPTY))]

        assert len({key(copy, tree=tree) for tree in trees}) == 3

    def test_links_make_the_whole_source_count(self) -> None:
        copy = CopySpec("@s/d/x", "@artifact/")
        entries: dict[str, Entry] = {"d": Directory.of({"x": b"x"}), "here": Link("d")}
        before = Directory.of_entries(entries)
        after = Directory.of_entries({**entries, "elsewhere": File.of(b"1")})

        assert key(copy, tree=before) != key(copy, tree=after)

    def test_only_the_sources_of_the_copies_count(self) -> None:
        recipe = plan_recipe([A], "here", ["s", "t"], DOCUMENTED)

        assert inputs("1", recipe, {"s": TREE, "t": OTHER}) == inputs("1", recipe, {"s": TREE, "t": EMPTY})
        assert inputs("1", recipe, {"s": TREE}) == inputs("1", recipe, {"s": TREE, "t": EMPTY})

    def test_what_is_only_published_does_not_count(self) -> None:
        specs = [
            ArtifactSpec("a", (A,)),
            ArtifactSpec("b", (A,), "t"),
            ArtifactSpec("c", (A,), None, "t"),
        ]
        plans = plan_artifacts(generator(*specs), None, DOCUMENTED)
        keys = {inputs("1", plan.recipe, {"s": TREE, "t": OTHER}) for plan in plans if isinstance(plan, ArtifactPlan)}

        assert len(plans) == 3
        assert len(keys) == 1

    def test_captures_count_only_through_what_they_are_filled_into(self) -> None:
        spec = ArtifactSpec("{x}", (CopySpec("@s/top", "@artifact/"),))
        tree = Directory.of({"a/x": b"", "b/x": b"", "top": b"t"})
        plans = plan_artifacts(generator(spec, path_pattern="@s/{x}"), tree, DOCUMENTED)
        keys = {inputs("1", plan.recipe, {"s": tree}) for plan in plans if isinstance(plan, ArtifactPlan)}

        assert len(plans) == 2
        assert len(keys) == 1

    def test_errors_are_as_equal_as_their_inputs(self) -> None:
        copy = CopySpec("@s/gone", "@artifact/")
        recipe = plan_recipe([copy], "here", ["s"], DOCUMENTED)
        texts = set()
        for tree in (TREE, EMPTY, OTHER):
            with pytest.raises(BuildError) as caught:
                compose(recipe, {"s": tree}, lambda _: EMPTY)
            texts.add((str(caught.value), caught.value.code))

        assert {key(copy, tree=tree) for tree in (TREE, EMPTY, OTHER)} == {key(copy)}
        assert texts == {("copy from '@s/gone': source 'gone' does not exist", Code.NOT_FOUND)}
