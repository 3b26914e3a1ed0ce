"""Why a path is in an artifact, or is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.core.compose import compose
from sluice.core.dialect import DIALECTS, DOCUMENTED, UPSTREAM, Dialect
from sluice.core.errors import BuildError
from sluice.core.plan import plan_recipe
from sluice.core.spec import CopySpec
from sluice.core.trace import Effect, find_excluded, find_overwritten, similar, trace
from sluice.core.tree import Directory, File

FILES = {
    "web/a.yaml": b"a: 1\n",
    "web/b.md": b"b",
    "web/sub/c.yaml": b"c: 1\n",
    "web/sub/deep/d.yaml": b"d",
    "web/.gitignore": b"",
    "web/.github/ci.yml": b"",
    "other/a.yaml": b"b: 2\n",
    "x.tgz": b"",
}
UNPACKED = Directory.of({"in/e.yaml": b"e"})


def s(source: str, to: str = "", *exclude: str, strategy: str = "Overwrite") -> CopySpec:
    return CopySpec(f"@s/{source}", f"@artifact/{to}", exclude, strategy)


def steps(path: str, *copies: CopySpec, dialect: Dialect = DOCUMENTED) -> list[str]:
    recipe = plan_recipe(copies, "", ["s"], dialect)
    trees = {"s": Directory.of(FILES)}
    composition = compose(recipe, trees, lambda _: UNPACKED)
    return [
        " ".join(filter(None, (str(step.copy), step.effect, step.source, step.reason)))
        for step in trace(recipe, trees, composition, path)
    ]


@pytest.mark.parametrize(
    ("path", "copies", "told"),
    [
        pytest.param("a.yaml", [s("web/**")], ["0 placed web/a.yaml"], id="a match"),
        pytest.param("web/sub/c.yaml", [s("web")], ["0 placed web/sub/c.yaml"], id="in a directory"),
        pytest.param("z/x", [s("web/b.md", "z/x")], ["0 placed web/b.md"], id="a file under another name"),
        pytest.param(
            "a.yaml", [s("web/**"), s("other/**")], ["0 placed web/a.yaml", "1 replaced other/a.yaml"], id="replaced"
        ),
        pytest.param(
            "a.yaml",
            [s("web/**"), s("other/**", strategy="Merge")],
            ["0 placed web/a.yaml", "1 merged other/a.yaml"],
            id="merged",
        ),
        pytest.param("web", [s("web"), s("web")], ["0 placed web", "1 united web"], id="a directory twice"),
        pytest.param(
            "p/in/e.yaml", [s("x.tgz", "p", strategy="Extract")], ["0 placed x.tgz!in/e.yaml"], id="from an archive"
        ),
        pytest.param(
            "b.md", [s("web/**", "", "x", "*.md")], ["0 excluded web/b.md exclude[1] '*.md'"], id="a match excluded"
        ),
        pytest.param(
            "web/sub/c.yaml",
            [s("web", "", "sub/")],
            ["0 excluded web/sub/c.yaml exclude[0] 'sub/', which matches 'web/sub'"],
            id="in an excluded directory",
        ),
        pytest.param(
            "web/sub/deep/d.yaml",
            [s("web", "", "sub/deep/*.yaml")],
            ["0 excluded web/sub/deep/d.yaml exclude[0] 'sub/deep/*.yaml'"],
            id="far below",
        ),
        pytest.param(
            ".gitignore",
            [s("web/**")],
            ["0 left out web/.gitignore archives never hold '.gitignore'"],
            id="left out",
        ),
        pytest.param(
            "web/.github/ci.yml",
            [s("web")],
            ["0 left out web/.github/ci.yml archives never hold '.github'"],
            id="in a directory that is left out",
        ),
        pytest.param(
            ".gitignore",
            [s("web/**"), s("web/.gitignore")],
            ["0 left out web/.gitignore archives never hold '.gitignore'", "1 placed web/.gitignore"],
            id="left out, then asked for by name",
        ),
        pytest.param(
            "sub/c.yaml",
            [s("web/*.yaml")],
            ["0 unmatched web/sub/c.yaml 'web/*.yaml' does not match 'sub' in 'web'"],
            id="a pattern that ends before",
        ),
        pytest.param(
            "sub/c.yaml",
            [s("web/**/d.yaml")],
            ["0 unmatched web/sub/c.yaml 'web/**/d.yaml' matches only below 'web/sub/c.yaml'"],
            id="a pattern that leads on",
        ),
        pytest.param(
            "a.yaml", [s("web/*/")], ["0 unmatched web/a.yaml 'web/*/' matches directories only"], id="not a directory"
        ),
        pytest.param(
            "sub/e.yaml",
            [s("web/**")],
            ["0 missing web/sub/e.yaml 'web/sub' of source 's' has no 'e.yaml' (did you mean 'web/sub/c.yaml'?)"],
            id="not in its source",
        ),
        pytest.param(
            "web/zzz/q", [s("web")], ["0 missing web/zzz/q 'web' of source 's' has no 'zzz'"], id="nothing like it"
        ),
        pytest.param(
            "p/in/f.yaml",
            [s("x.tgz", "p", strategy="Extract")],
            ["0 missing x.tgz!in/f.yaml the archive has no 'in/f.yaml' (did you mean 'in/e.yaml'?)"],
            id="not in its archive",
        ),
        pytest.param("elsewhere", [s("web/**", "p/"), s("web/a.yaml", "q/")], [], id="where no copy goes"),
    ],
)
def test_what_the_copies_did(path: str, copies: list[CopySpec], told: list[str]) -> None:
    assert steps(path, *copies) == told


def test_the_upstream_dialect() -> None:
    assert steps("web/sub/c.yaml", s("web/*.yaml"), dialect=UPSTREAM) == [
        "0 unmatched web/sub/c.yaml 'web/*.yaml' does not match 'sub' in 'web'"
    ]
    assert steps("web/a.yaml", s("web/*.yaml"), dialect=UPSTREAM) == ["0 placed web/a.yaml"]


def test_something_similar() -> None:
    tree = Directory.of(FILES)

    assert similar(tree, "a.yaml") in ("web/a.yaml", "other/a.yaml")
    assert similar(tree, "web/sub/deep/d.yml") == "web/sub/deep/d.yaml"
    assert similar(tree, "unlike") is None


PATHS = ["", "web", "web/", "web/**", "web/*", "**", "*/a.yaml", "web/sub", "web/a.yaml", "web/**/*.yaml"]
COPIES = st.lists(
    st.builds(
        lambda source, to, exclude: s(source, to, *exclude),
        st.sampled_from(PATHS),
        st.sampled_from(["", "p/", "web/", "web/sub/"]),
        st.lists(st.sampled_from(["*.yaml", "sub", "sub/", "web/sub/**", "a.*", "nope"]), max_size=2),
    ),
    min_size=1,
    max_size=3,
)


@given(st.sampled_from(list(DIALECTS.values())), COPIES)
def test_it_agrees_with_what_composing_does(dialect: Dialect, copies: list[CopySpec]) -> None:
    recipe = plan_recipe(copies, "", ["s"], dialect)
    trees = {"s": Directory.of(FILES)}
    try:
        composition = compose(recipe, trees, lambda _: UNPACKED)
    except BuildError:
        return
    placing = {Effect.PLACED, Effect.REPLACED, Effect.UNITED, Effect.MERGED}

    for path, entry in composition.tree.walk():
        told = [step for step in trace(recipe, trees, composition, path) if step.effect in placing]
        placement = composition.placed_by(path)
        if placement is not None and isinstance(entry, File):
            assert told[-1].copy == placement.copy
            found = trees["s"].find(told[-1].source)
            assert found is not None
            assert found.digest == entry.digest
    # What is excluded is nowhere, unless another copy, or another match, brings it.
    if len(copies) == 1:
        brought = {placement.source for placement in composition.placements}
        for excluded in find_excluded(recipe, recipe.copies[0], trees["s"]):
            assert excluded.path not in brought


@given(st.sampled_from(list(DIALECTS.values())), COPIES)
def test_what_is_overwritten_was_there_with_other_bytes(dialect: Dialect, copies: list[CopySpec]) -> None:
    recipe = plan_recipe(copies, "", ["s"], dialect)
    try:
        composition = compose(recipe, {"s": Directory.of(FILES)}, lambda _: UNPACKED)
    except BuildError:
        return
    expected: set[tuple[int, int, str]] = set()
    there: dict[str, list[tuple[int, bytes]]] = {}
    for placement in composition.placements:
        entry = placement.entry
        below = entry.walk(placement.path) if isinstance(entry, Directory) else [(placement.path, entry)]
        for path, placed in below:
            if isinstance(placed, File):
                for copy, digest in there.get(path, []):
                    if copy != placement.copy and digest != placed.digest:
                        expected.add((placement.copy, copy, path))
                there.setdefault(path, []).append((placement.copy, placed.digest))

    found = find_overwritten(recipe, composition.placements)

    assert {(one.by, one.of, path) for one in found for path in one.paths} == expected
