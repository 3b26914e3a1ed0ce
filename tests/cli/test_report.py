"""Which copy placed what, for all of an artifact at once."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.cli.report import attribute, shorten_revision
from sluice.core.compose import compose
from sluice.core.dialect import DIALECTS, Dialect
from sluice.core.errors import BuildError
from sluice.core.plan import plan_recipe
from sluice.core.spec import CopySpec
from sluice.core.tree import Directory, File

SOURCE = {"a": b"1", "b/c": b"2", "b/d/e": b"3", "b/.gitignore": b"4", "f/c": b"5"}


def never(file: File) -> Directory:
    raise AssertionError(file)


@given(
    dialect=st.sampled_from(list(DIALECTS.values())),
    copies=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "b/", "b/**", "b/*", "**", "", "b/d", "*/c", "b/.gitignore"]),
            st.sampled_from(["", "b/", "b", "x/y/", "a", "b/d/e"]),
            st.sampled_from([(), ("c",), ("d/",)]),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_it_is_what_placed_by_says_of_each(dialect: Dialect, copies: list[tuple[str, str, tuple[str, ...]]]) -> None:
    specs = [CopySpec(f"@s/{source}", f"@artifact/{to}", exclude) for source, to, exclude in copies]
    recipe = plan_recipe(specs, "artifact", ["s"], dialect)
    try:
        composition = compose(recipe, {"s": Directory.of(SOURCE)}, never)
    except BuildError:
        return

    told = list(attribute(composition.tree, composition.placements))

    assert [(path, entry) for path, entry, _ in told] == list(composition.tree.walk())
    for path, _, copy in told:
        placement = composition.placed_by(path)
        assert copy == (None if placement is None else placement.copy)


def test_a_revision_is_cut_at_its_digest() -> None:
    assert shorten_revision("main@sha1:0123456789abcdef") == "main@sha1:01234567"
    assert shorten_revision("main@sha1:0123456789abcdef-dirty") == "main@sha1:01234567-dirty"
    assert shorten_revision("12.10.1000-rc.1") == "12.10.1000-rc.1"
