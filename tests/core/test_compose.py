"""Composing: what is shared, where things came from, and what may not be done."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pytest

from sluice.core import tar, untar
from sluice.core.compose import Composition, compose
from sluice.core.dialect import DIALECTS, DOCUMENTED, UPSTREAM, Dialect
from sluice.core.errors import BuildError, Code, LimitExceeded, StorageError
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.plan import plan_recipe
from sluice.core.spec import CopySpec, Strategy
from sluice.core.tree import EMPTY, Directory, Entry, File, Link

TREE = Directory.of(
    {"configs/a.yaml": b"a: 1\n", "configs/sub/deep/b.yaml": b"b: 1\n", "configs/c.md": b"c", "other/x": b"x"}
)


def unpack(file: File) -> Directory:
    return untar.read_archive(file.read(), DEFAULT_LIMITS, untar.EXTRACT)


def archive(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    tar.write_archive(Directory.of(files), out)
    return out.getvalue()


def run(
    *copies: tuple[str, str] | CopySpec,
    tree: Directory = TREE,
    dialect: Dialect = DOCUMENTED,
    limits: Limits = DEFAULT_LIMITS,
    **trees: Directory,
) -> Composition:
    specs = [copy if isinstance(copy, CopySpec) else CopySpec(f"@{copy[0]}", f"@artifact/{copy[1]}") for copy in copies]
    given = {"s": tree, **trees}
    return compose(plan_recipe(specs, "here", list(given), dialect, limits), given, unpack)


def at(tree: Directory, path: str) -> Directory:
    found = tree.find(path)
    assert isinstance(found, Directory)
    return found


class TestSharing:
    @pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
    def test_what_is_not_changed_is_the_same_object(self, dialect: Dialect) -> None:
        whole = run(("s/configs", ""), dialect=dialect).tree
        children = run(("s/configs/**", "web"), dialect=dialect).tree
        root = run(("s/", "web"), dialect=dialect).tree

        assert whole.find("configs") is TREE.find("configs")
        assert children.find("web/sub") is TREE.find("configs/sub")
        assert root.find("web") is TREE
        assert run(("s/configs/a.yaml", "x.yaml"), dialect=dialect).tree.find("x.yaml") is TREE.find("configs/a.yaml")

    def test_excludes_open_only_the_way_to_what_they_take(self) -> None:
        tree = run(CopySpec("@s/", "@artifact/", ("deep", "*.txt"))).tree

        assert tree.find("other") is TREE.find("other")
        assert tree.find("configs/sub") is not TREE.find("configs/sub")
        assert [path for path, _ in tree.walk()] == [
            *("configs", "configs/a.yaml", "configs/c.md", "configs/sub", "other", "other/x")
        ]

    def test_excludes_that_take_nothing_change_nothing(self) -> None:
        assert run(CopySpec("@s/configs", "@artifact/", ("*.txt", "z/**"))).tree.find("configs") is TREE.find("configs")

    def test_what_is_left_out_opens_only_its_way(self) -> None:
        tree = Directory.of({"a/x": b"", "b/.git/x": b"", "b/y": b""})
        done = run(("s/", ""), tree=tree)

        assert done.tree.find("a") is tree.find("a")
        assert done.left_out == ["b/.git/x"]

    def test_merging_opens_only_the_way_to_what_changes(self) -> None:
        overlay = Directory.of({"configs/a.yaml": b"z: 2\n"})
        done = run(("s/", ""), CopySpec("@o/", "@artifact/", (), Strategy.MERGE), tree=TREE, o=overlay)

        assert done.tree.find("configs/sub") is TREE.find("configs/sub")
        assert done.tree.find("other") is TREE.find("other")
        assert isinstance(merged := done.tree.find("configs/a.yaml"), File)
        assert merged.read() == b"a: 1\nz: 2\n"

    def test_an_equal_directory_copied_twice_stays_shared(self) -> None:
        assert run(("s/configs", ""), ("s/configs", "")).tree.find("configs") is TREE.find("configs")


class TestLinks:
    TREE = Directory.of_entries(
        {
            "d": Directory.of_entries(
                {
                    "f": File.of(b"f"),
                    "link": Link("f"),
                    "sub": Directory.of({"x": b"x"}),
                    "up": Directory.of_entries({"there": Link("../f")}),
                }
            ),
            "dir": Directory.of_entries({"to": Link("../d/sub")}),
            "broken": Directory.of_entries({"x": Link("nowhere")}),
        }
    )

    @pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
    def test_an_artifact_holds_none(self, dialect: Dialect) -> None:
        done = run(("s/d", ""), ("s/d/*", "two"), ("s/dir/*", "three"), tree=self.TREE, dialect=dialect)

        assert not done.tree.has_links
        assert isinstance(link := done.tree.find("d/link"), File)
        assert link.read() == b"f"
        assert done.tree.find("d/sub") is self.TREE.find("d/sub")

    @pytest.mark.parametrize(
        ("source", "text", "code"),
        [
            (
                "dir",
                "copy from '@s/dir': 'dir/to' is a link to a directory (links to files are copied)",
                Code.CONFLICT,
            ),
            ("broken", "copy from '@s/broken': 'broken/x' is a link to nothing", Code.NOT_FOUND),
            ("broken/*", "copy from '@s/broken/*': 'broken/x' is a link to nothing", Code.NOT_FOUND),
        ],
    )
    def test_links_that_cannot_be_copied(self, source: str, text: str, code: Code) -> None:
        with pytest.raises(BuildError) as caught:
            run((f"s/{source}", ""), tree=self.TREE)

        assert (str(caught.value), caught.value.code) == (text, code)

    def test_an_excluded_link_is_never_followed(self) -> None:
        tree = Directory.of_entries({"d": Directory.of_entries({"x": Link("/etc"), "f": File.of(b"")})})

        assert list(at(run(CopySpec("@s/d", "@artifact/", ("x",)), tree=tree).tree, "d").entries) == ["f"]


class TestPlacements:
    def rows(self, done: Composition) -> list[tuple[int, str, str]]:
        return [(row.copy, row.source, row.path) for row in done.placements]

    def test_one_row_for_each_match(self) -> None:
        done = run(("s/configs/**", "web"), ("s/configs/c.md", "web/d.md"), ("s/", "all"))

        assert self.rows(done) == [
            (0, "configs/a.yaml", "web/a.yaml"),
            (0, "configs/c.md", "web/c.md"),
            (0, "configs/sub", "web/sub"),
            (1, "configs/c.md", "web/d.md"),
            (2, "", "all"),
        ]

    @pytest.mark.parametrize(
        ("path", "row"),
        [
            pytest.param("web/a.yaml", (1, "two.yaml", "web/a.yaml"), id="the last one that placed the file"),
            pytest.param("web/sub/deep/b.yaml", (0, "configs/sub", "web/sub"), id="a file inside a match"),
            pytest.param("web/sub", (0, "configs/sub", "web/sub"), id="a directory"),
            pytest.param("web", None, id="a directory that came into being"),
            pytest.param("web/subway", None, id="a path that only begins like one"),
            pytest.param("nowhere", None, id="nothing"),
            pytest.param("top", (2, "", ""), id="a file at the root"),
        ],
    )
    def test_where_a_path_comes_from(self, path: str, row: tuple[int, str, str] | None) -> None:
        other = Directory.of({"two.yaml": b"2"})
        done = run(
            ("s/configs/**", "web"), ("t/two.yaml", "web/a.yaml"), ("r/", ""), t=other, r=Directory.of({"top": b""})
        )
        placement = done.placed_by(path)

        assert (placement and (placement.copy, placement.source, placement.path)) == row

    def test_archives_are_the_source_of_what_they_hold(self) -> None:
        tree = Directory.of({"p/a.tgz": archive({"x": b"1"})})
        done = run(CopySpec("@s/p/*.tgz", "@artifact/o", (), "Extract"), tree=tree)

        assert self.rows(done) == [(0, "p/a.tgz", "o")]
        assert done.placed_by("o/x") is done.placements[0]

    def test_what_was_excluded_was_not_placed(self) -> None:
        done = run(CopySpec("@s/configs", "@artifact/", ("*.md",)))

        assert done.placed_by("configs/c.md") is None


class TestErrors:
    def test_name_the_copy_that_failed(self) -> None:
        with pytest.raises(
            BuildError, match=r"^copy from '@s/b\[1\]\*': no files match pattern 'b\[1\]\*' in source 's'$"
        ):
            run(("s/configs", ""), ("s/b[1]*", ""))

    def test_the_first_copy_that_fails_decides(self) -> None:
        with pytest.raises(BuildError, match=r"source 'one' does not exist$"):
            run(("s/one", ""), ("s/two", ""))

    def test_an_archive_that_cannot_be_read_is_named(self) -> None:
        tree = Directory.of({"p/a.tgz": b"no"})

        for source in ("p/a.tgz", "p/*"):
            with pytest.raises(BuildError) as caught:
                run(CopySpec(f"@s/{source}", "@artifact/", (), "Extract"), tree=tree)
            assert str(caught.value) == f"copy from '@s/{source}': 'p/a.tgz': archive is not gzip"

    def test_errors_of_the_store_are_not_the_artifact_s(self) -> None:
        class Lost:
            def read(self, offset: int, size: int) -> bytes:
                raise StorageError("gone")

        lost = File(b"", 5, False, Lost())
        tree = Directory.of_entries({"a.yaml": lost, "b.yaml": lost})

        with pytest.raises(StorageError, match=r"^gone$"):
            run(("s/a.yaml", "v.yaml"), CopySpec("@s/b.yaml", "@artifact/v.yaml", (), "Merge"), tree=tree)

    @pytest.mark.parametrize(
        ("tree", "text", "code"),
        [
            (
                Directory.of_entries({"x\ny": EMPTY, "ok": File.of(b"")}),
                None,
                None,
            ),
            (Directory.of({"d/x\ny": b""}), "'d/x\\ny' has a newline in its name", Code.BAD_NAME),
            (Directory.of({"\udcff/x": b""}), "'\\udcff' is a directory whose name is not UTF-8", Code.BAD_NAME),
            (Directory.of({"\udcff": b""}), None, None),
            (Directory.of({"é" * 127: b""}), None, None),
            (Directory.of({"é" * 128: b""}), f"'{'é' * 80}…' has a name of more than 255 bytes", Code.BAD_NAME),
            (Directory.of({"x" * 255 + "/y": b""}), None, None),
            (Directory.of({"x" * 256 + "/y": b""}), f"'{'x' * 80}…' has a name of more than 255 bytes", Code.BAD_NAME),
        ],
    )
    def test_names_that_consumers_cannot_take(self, tree: Directory, text: str | None, code: Code | None) -> None:
        for dialect in DIALECTS.values():
            assert self.error_of(tree, dialect) == (text, code)

    def error_of(self, tree: Directory, dialect: Dialect) -> tuple[str | None, str | None]:
        try:
            run(("s/", ""), tree=tree, dialect=dialect)
        except BuildError as error:
            return str(error), error.code
        return None, None

    def test_names_are_judged_before_they_are_left_out(self) -> None:
        tree = Directory.of({".git/x\ny": b"", "a": b""})

        assert list(run(("s/", ""), tree=tree).tree.entries) == ["a"]
        with pytest.raises(BuildError, match=r"^'\.git/x\\ny' has a newline in its name$"):
            run(("s/", ""), tree=tree, dialect=UPSTREAM)

    @pytest.mark.parametrize("name", ["artifact_size", "depth"])
    def test_limits_name_themselves(self, name: str) -> None:
        with pytest.raises(LimitExceeded, match=rf"\(limit: 2, {name}\)$"):
            run(("s/", ""), limits=Limits(**{name: 2}))


def nested(levels: int, **entries: Entry) -> Directory:
    tree = Directory.of_entries({**entries, "f.yaml": File.of(b"f: 1\n")})
    for _ in range(levels):
        tree = Directory.of_entries({"d": tree})
    return tree


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
@pytest.mark.parametrize("strategy", [Strategy.OVERWRITE, Strategy.MERGE])
def test_trees_as_deep_as_may_be(dialect: Dialect, strategy: Strategy) -> None:
    one = nested(254, **{".gitignore": File.of(b""), "x.md": File.of(b"")})
    two = nested(254, link=Link("f.yaml"))
    path = "/".join(["d"] * 254)
    copies: list[tuple[str, str] | CopySpec] = [("s/", ""), CopySpec("@t/", "@artifact/", ("*.md",), strategy)]
    if dialect is DOCUMENTED:
        copies += [("t/**/f.yaml", ""), (f"t/{path}/f.yaml", f"{path}/g.yaml")]
    done = run(*copies, tree=one, t=two, dialect=dialect)

    assert "link" in at(done.tree, path).entries
    assert done.left_out == [f"{path}/.gitignore"]


def test_a_target_beyond_the_depth_is_refused_before_it_is_made() -> None:
    with pytest.raises(BuildError, match=r"501 levels deep \(limit: 255, depth\)$"):
        run(("s/other/x", "a/" * 500))
