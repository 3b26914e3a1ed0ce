"""Laws of composing, against a model that matches by recursion and copies path by path."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.properties.model import Conflict, Model, contents, make, models, paths, put, show, trees

from sluice.build import Builder, Opened
from sluice.core.compose import compose
from sluice.core.dialect import DIALECTS, DOCUMENTED, UPSTREAM, Dialect
from sluice.core.errors import BuildError
from sluice.core.plan import ArtifactPlan, Source, inputs, plan_recipe
from sluice.core.spec import CopySpec
from sluice.core.tree import Directory, File, encode_name
from sluice.storage import DiskStorage

segments = st.sampled_from(["a", "b", "c", "a-b", "*", "**", "a*", "?", "[ab]", "[!a]"])
plain = st.sampled_from(["a", "b", "c", "a-b"])
patterns = st.lists(segments, min_size=1, max_size=3).map("/".join) | st.lists(plain, max_size=3).map("/".join)
targets = st.tuples(st.lists(plain, max_size=2).map("/".join), st.sampled_from(["", "/"])).map(
    lambda parts: "".join(parts) if parts[0] else ""
)
excludes = st.lists(st.lists(segments, min_size=1, max_size=2).map("/".join), max_size=2).map(tuple)
dialects = st.sampled_from(list(DIALECTS.values()))


@st.composite
def copies(draw: st.DrawFn, alias: str = "s", to: str | None = None) -> CopySpec:
    target = draw(targets) if to is None else to
    return CopySpec(f"@{alias}/{draw(patterns)}", f"@artifact/{target}", draw(excludes), draw(STRATEGIES))


STRATEGIES = st.sampled_from(["Overwrite", "Overwrite", "Merge"])  # no name here ends like YAML: the same


def unpack(file: File) -> Directory:
    raise AssertionError("nothing here is an archive")


def run(specs: Sequence[CopySpec], given_trees: Mapping[str, Directory], dialect: Dialect) -> Directory | BuildError:
    recipe = plan_recipe(specs, "here", list(given_trees), dialect)
    try:
        return compose(recipe, given_trees, unpack).tree
    except BuildError as error:
        return error


def outcome(result: Directory | BuildError) -> object:
    return result.digest if isinstance(result, Directory) else (str(result), result.code)


# --- the model ----------------------------------------------------------------------------------


def matches(pattern: Sequence[str], path: Sequence[str]) -> bool:
    """Whether components match, where `**` stands for any number of them, none included."""
    if not pattern:
        return not path
    first, *rest = pattern
    if first == "**":
        return any(matches(rest, path[count:]) for count in range(len(path) + 1))
    return bool(path) and fits(first, path[0]) and matches(rest, path[1:])


def fits(segment: str, name: str) -> bool:
    match segment:
        case "*":
            return True
        case "?":
            return len(name) == 1
        case "a*":
            return name.startswith("a")
        case "[ab]":
            return name in ("a", "b")
        case "[!a]":
            return len(name) == 1 and name != "a"
        case _:
            return segment == name


def is_plain(segment: str) -> bool:
    return not set(segment) & set("*?[")


def copy_by_hand(model: Model, source: Model, spec: CopySpec) -> None:
    """What one operation does to the model. Raises `Conflict` for every error."""
    pattern = [part for part in spec.source.partition("/")[2].split("/") if part]
    to = spec.to.removeprefix("@artifact/")
    if all(map(is_plain, pattern)):
        copy_path(model, source, "/".join(pattern), to, spec.exclude)
        return
    base = []
    for part in pattern[:-1]:
        if not is_plain(part):
            break
        base.append(part)
    found = [path for path, data in source.items() if is_match(pattern, base, path, is_file=data is not None)]
    top = [path for path in found if not any(path.startswith(f"{other}/") for other in found)]
    kept = [path for path in top if not is_excluded(path, "/".join(base), spec.exclude)]
    if not kept:
        raise Conflict
    for path in sorted(kept, key=lambda path: [encode_name(name) for name in path.split("/")]):
        landing = "/".join([*filter(None, to.split("/")), *path.split("/")[len(base) :]])
        copy_below(model, source, path, landing, "/".join(base), spec.exclude)


def is_match(pattern: Sequence[str], base: Sequence[str], path: str, *, is_file: bool) -> bool:
    parts = path.split("/")
    if len(parts) <= len(base) or not matches(pattern, parts):
        return False
    # A file is nothing's directory: what ends in `**` matches below it only.
    shorter = list(pattern)
    while shorter and shorter[-1] == "**":
        shorter.pop()
    return not is_file or shorter == list(pattern) or matches([*shorter, "*", "**"], parts)


def is_excluded(path: str, base: str, patterns: Sequence[str]) -> bool:
    parts = path.split("/")
    below = parts[len(base.split("/")) :] if base and path.startswith(f"{base}/") else None
    return any(
        matches(pattern.split("/"), parts)
        or ("/" not in pattern and matches([pattern], parts[-1:]))
        or (below is not None and matches(pattern.split("/"), below))
        for pattern in patterns
    )


def copy_below(model: Model, source: Model, path: str, landing: str, base: str, patterns: Sequence[str]) -> None:
    """Copy what is at a path, and all below it that is not excluded."""
    if landing:
        put(model, landing, source[path])
    for child in source:
        if child.rpartition("/")[0] == path and child != path and not is_excluded(child, base, patterns):
            name = child.rpartition("/")[2]
            copy_below(model, source, child, f"{landing}/{name}" if landing else name, base, patterns)


def copy_path(model: Model, source: Model, path: str, to: str, patterns: Sequence[str]) -> None:
    source = {"": None, **source}
    if path not in source:
        raise Conflict
    name = path.rpartition("/")[2]
    target = to.rstrip("/")
    if source[path] is not None:
        if is_excluded(path, "", patterns):
            raise Conflict
        into = to != target or not target or (target in model and model[target] is None)
        put(model, "/".join(filter(None, [target, name if into else ""])), source[path])
        return
    landing = "/".join(filter(None, [target, name]))
    one: Model = {}
    copy_below(one, source, path, "x", path, patterns)
    had_files = any(data is not None and (where.startswith(f"{path}/") or not path) for where, data in source.items())
    if had_files and not any(data is not None for data in one.values()):
        raise Conflict
    copy_below(model, source, path, landing, path, patterns)


def by_hand(specs: Sequence[CopySpec], sources: Mapping[str, Model]) -> Model | None:
    model: Model = {}
    try:
        for spec in specs:
            copy_by_hand(model, sources[spec.source[1]], spec)
    except Conflict:
        return None
    # A directory's name has to be UTF-8, and an artifact holds a file.
    if any(data is None and path.endswith("\udcff") for path, data in model.items()):
        return None
    return model if any(data is not None for data in model.values()) else None


@settings(max_examples=200)
@given(st.lists(copies("s") | copies("t"), min_size=1, max_size=3), models(), models())
def test_composing_does_what_copying_by_hand_does(specs: list[CopySpec], one: Model, two: Model) -> None:
    result = run(specs, {"s": make(one), "t": make(two)}, DOCUMENTED)

    assert (show(result) if isinstance(result, Directory) else None) == by_hand(specs, {"s": one, "t": two}), result


# --- laws ---------------------------------------------------------------------------------------


@given(copies(to="x/one"), copies(to="x/two"), trees, dialects)
def test_copies_to_places_apart_commute(one: CopySpec, two: CopySpec, tree: Directory, dialect: Dialect) -> None:
    first, second = run([one, two], {"s": tree}, dialect), run([two, one], {"s": tree}, dialect)

    assert isinstance(first, Directory) == isinstance(second, Directory)
    if isinstance(first, Directory):
        assert outcome(first) == outcome(second)


@given(copies(), trees, dialects)
def test_doing_it_twice_is_doing_it_once(spec: CopySpec, tree: Directory, dialect: Dialect) -> None:
    # A file to a name that its own copy made a directory of goes into it; a slash says so at once.
    once = CopySpec(spec.source, f"{spec.to.rstrip('/')}/", spec.exclude)

    assert outcome(run([once, once], {"s": tree}, dialect)) == outcome(run([once], {"s": tree}, dialect))


@given(paths, targets, trees, trees)
def test_what_was_there_stays_unless_it_is_written_over(path: str, to: str, one: Directory, two: Directory) -> None:
    base, more = CopySpec("@s/", "@artifact/"), CopySpec(f"@t/{path}", f"@artifact/{to}")
    before, after = (run(specs, {"s": one, "t": two}, DOCUMENTED) for specs in ([base], [base, more]))

    if isinstance(before, Directory) and isinstance(after, Directory):
        placed = compose(plan_recipe([base, more], "here", ["s", "t"], DOCUMENTED), {"s": one, "t": two}, unpack)
        for where, entry in before.walk():
            if isinstance(entry, File):
                last = placed.placed_by(where)
                assert last is not None
                assert after.find(where) is (
                    entry if last.copy == 0 else two.find(origin(last.source, last.path, where))
                )


def origin(source: str, path: str, where: str) -> str:
    below = where.removeprefix(path).removeprefix("/")
    return "/".join(filter(None, [source, below]))


@given(st.lists(plain, min_size=1, max_size=2).map("/".join), targets, trees)
def test_the_dialects_agree_on_the_contents_of_a_directory(path: str, to: str, tree: Directory) -> None:
    spec = CopySpec(f"@s/{path}/**", f"@artifact/{to}")
    one, other = (run([spec], {"s": tree}, dialect) for dialect in (DOCUMENTED, UPSTREAM))

    if isinstance(one, Directory):
        assert outcome(one) == outcome(other)


@given(copies(), trees, trees, dialects)
def test_every_file_of_an_artifact_is_a_file_of_a_source(
    spec: CopySpec, one: Directory, two: Directory, dialect: Dialect
) -> None:
    result = run([spec, CopySpec("@t/", "@artifact/", ("c",))], {"s": one, "t": two}, dialect)

    if isinstance(result, Directory):
        known = {id(entry) for tree in (one, two) for _, entry in tree.walk()}
        assert all(id(entry) in known for _, entry in result.walk() if isinstance(entry, File))


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[Directory, Directory]:
    """Two trees that differ in little."""
    model = draw(models())
    other = dict(model)
    path = draw(paths | st.sampled_from([*model, "a"]))
    for where in [path, *(where for where in model if where.startswith(f"{path}/"))]:
        other.pop(where, None)
    try:
        put(other, path, draw(contents | st.none()))
    except Conflict:
        return make(model), make(model)
    return make(model), make(other)


@settings(max_examples=200)
@given(st.lists(copies(), min_size=1, max_size=2), neighbours(), dialects)
def test_equal_inputs_make_equal_artifacts_and_errors(
    specs: list[CopySpec], pair: tuple[Directory, Directory], dialect: Dialect
) -> None:
    recipe = plan_recipe(specs, "here", ["s"], dialect)
    keys = {inputs("1", recipe, {"s": tree}) for tree in pair}

    if len(keys) == 1:
        assert outcome(run(specs, {"s": pair[0]}, dialect)) == outcome(run(specs, {"s": pair[1]}, dialect))


@settings(max_examples=40)
@given(st.lists(copies(), min_size=1, max_size=2), st.lists(neighbours(), min_size=1, max_size=3), dialects)
def test_what_is_recalled_is_what_would_be_built(
    specs: list[CopySpec], pairs: list[tuple[Directory, Directory]], dialect: Dialect
) -> None:
    plan = ArtifactPlan("web", plan_recipe(specs, "here", ["s"], dialect))
    with tempfile.TemporaryDirectory() as root:
        builder = Builder(DiskStorage(Path(root)), unpack)
        for tree in [tree for pair in pairs for tree in (*pair, pair[0])]:
            fresh = run(specs, {"s": tree}, dialect)
            assert outcome(fresh) == built(builder, plan, {"s": Source(tree, "1")})


def built(builder: Builder, plan: ArtifactPlan, sources: Opened) -> object:
    try:
        artifact = builder.recall("n", plan, sources) or builder.build("n", plan, sources)
    except BuildError as error:
        return str(error), error.code
    return artifact.contents
