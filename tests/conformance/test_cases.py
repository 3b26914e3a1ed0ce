"""Run the readable cases in `cases/`.

A file holds YAML documents, one per case; all scalars are texts. A tree is a mapping of paths to contents:

    run.sh: !executable "#!/bin/sh"     a file that can be executed
    logs/: ""                           an empty directory
    chart.tgz: !archive {a: "1"}        a .tar.gz with a tree in it
    here: !link ../there                a symbolic link, in sources only

A case has `sources` by alias, perhaps `dialect` (`documented`; or `upstream`, or `both`) and `limits`, and either
`copy`, the operations of one artifact, with `artifact`, the whole tree that comes out, or `artifacts` and perhaps
`pathPattern`, as in a spec, with `made`, what becomes of each: a tree, or `!error` and the whole message. `error` is
the whole message where the one artifact, or the generator, fails, and `code` its class; `warnings` and `left_out` are
compared where they are given, and warnings must be empty where they are not. Where the dialects differ, the fields
`documented` and `upstream` hold what each expects, and `topic` names the row of the documentation's table.
"""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from msgspec.structs import replace

from sluice.core import tar, untar
from sluice.core.compose import Composition, compose
from sluice.core.dialect import DIALECTS, DialectName
from sluice.core.errors import BuildError, SluiceError, SpecError
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.pathpattern import Failure
from sluice.core.plan import ArtifactPlan, plan_artifacts
from sluice.core.spec import API_VERSION, KIND, ArtifactGenerator, parse_generator
from sluice.core.tree import EMPTY, Directory, Entry, File, Link

CASES = Path(__file__).parent / "cases"
PAGE = Path(__file__).parents[2] / "docs/reference/dialects.md"
FIELDS = {"case", "topic", "dialect", "limits", "sources", "copy", "artifacts", "pathPattern", *DialectName}
EXPECTED = {"artifact", "made", "error", "code", "warnings", "left_out"}


class Tagged(NamedTuple):
    """A value with a tag of ours."""

    tag: str
    value: Any


class Loader(yaml.BaseLoader):
    """Texts, and our tags; a key twice would hide half of a case."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key twice{node.start_mark}"
        return super().construct_mapping(node, deep)


def construct_tagged(loader: Loader, tag: str, node: yaml.Node) -> Tagged:
    assert tag in ("executable", "archive", "link", "error"), f"unknown tag !{tag}"
    if isinstance(node, yaml.MappingNode):
        return Tagged(tag, loader.construct_mapping(node, deep=True))
    assert isinstance(node, yaml.ScalarNode)
    return Tagged(tag, loader.construct_scalar(node))


Loader.add_multi_constructor("!", construct_tagged)


def read_cases() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(CASES.glob("*.yaml")):
        with file.open(encoding="utf-8") as text:
            for case in yaml.load_all(text, Loader):
                yield file.stem, case


def parameters() -> Iterator[Any]:
    for topic, case in read_cases():
        name = f"{topic}: {case['case']}"
        assert case.keys() <= FIELDS | EXPECTED, f"{name}: {case.keys()}"
        for dialect, expectation in expectations(case).items():
            both = case | expectation
            assert both.keys() & {"artifact", "made", "error"}, f"{name}: expects nothing"
            yield pytest.param(both, dialect, id=f"{dialect}, {name}")


def expectations(case: Mapping[str, Any]) -> dict[DialectName, dict[str, Any]]:
    """What a case expects apart from its own fields, in each dialect that it speaks of."""
    if "dialect" in case:
        return {dialect: {} for dialect in DialectName if case["dialect"] in (dialect, "both")}
    own = {dialect: case[dialect] for dialect in DialectName if dialect in case}
    return own or {DialectName.DOCUMENTED: {}}


def make_tree(files: Mapping[str, Any]) -> Directory:
    nodes: dict[str, Any] = {}
    for path, value in files.items():
        *parents, name = path.removesuffix("/").split("/")
        here = nodes
        for parent in parents:
            here = here.setdefault(parent, {})
        here[name] = {} if path.endswith("/") else make_entry(value)
    return make_directory(nodes)


def make_entry(value: Any) -> Entry:
    match value:
        case Tagged("executable", text):
            return File.of(text.encode(), executable=True)
        case Tagged("archive", dict(files)):
            out = io.BytesIO()
            tar.write_archive(make_tree(files), out)
            return File.of(out.getvalue())
        case Tagged("link", target):
            return Link(target)
        case str():
            return File.of(value.encode())
        case _:
            raise AssertionError(f"{value} is not the content of a file")


def make_directory(nodes: Mapping[str, Any]) -> Directory:
    return Directory.of_entries(
        {name: make_directory(node) if isinstance(node, dict) else node for name, node in nodes.items()}
    )


def show(tree: Directory) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for path, entry in tree.walk():
        if isinstance(entry, File):
            data = entry.read()
            text: Any = data.decode() if is_text(data) else data
            shown[path] = Tagged("executable", text) if entry.executable else text
        elif isinstance(entry, Directory) and not entry.entries:
            shown[f"{path}/"] = ""
    return shown


def is_text(data: bytes) -> bool:
    return not data.startswith(b"\x1f\x8b")


def read_generator(case: Mapping[str, Any]) -> ArtifactGenerator:
    spec: dict[str, Any] = {
        "sources": [{"alias": alias, "kind": "GitRepository", "name": alias} for alias in case["sources"]],
        "artifacts": case.get("artifacts") or [{"name": "web", "copy": case["copy"]}],
    }
    if "pathPattern" in case:
        spec["pathPattern"] = case["pathPattern"]
    return parse_generator({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "case"}, "spec": spec})


def run(case: Mapping[str, Any], dialect: DialectName) -> dict[str, Composition | SluiceError]:
    """What becomes of each artifact. Raises what stops all of them."""
    limits = replace(DEFAULT_LIMITS, **{name: int(value) for name, value in case.get("limits", {}).items()})
    generator = read_generator(case)
    trees = {alias: make_tree(files) for alias, files in case["sources"].items()}
    alias = (generator.path_pattern or "").partition("/")[0].removeprefix("@")
    plans = plan_artifacts(generator, trees.get(alias, EMPTY), DIALECTS[dialect], limits)
    return {plan.name: build(plan, trees, limits) for plan in plans}


def build(plan: ArtifactPlan | Failure, trees: Mapping[str, Directory], limits: Limits) -> Composition | SluiceError:
    def unpack(file: File) -> Directory:
        return untar.read_archive(file.read(), limits, untar.EXTRACT)

    if isinstance(plan, Failure):
        return plan.error
    try:
        return compose(plan.recipe, trees, unpack)
    except SluiceError as error:
        return error


@pytest.mark.parametrize(("case", "dialect"), list(parameters()))
def test_case(case: dict[str, Any], dialect: DialectName) -> None:
    try:
        results = run(case, dialect)
    except SluiceError as error:
        results = {"": error}
    if "made" in case:
        made = {name: outcome(result) for name, result in results.items()}
        assert made == {name: expected(value) for name, value in case["made"].items()}
        return
    (result,) = results.values()
    if "error" in case:
        assert isinstance(result, SluiceError), show(result.tree)
        assert str(result) == case["error"]
        assert case.get("code", code_of(result)) == code_of(result)
        return
    assert isinstance(result, Composition), str(result)
    assert show(result.tree) == show(make_tree(case["artifact"]))
    assert list(result.warnings) == case.get("warnings", [])
    assert list(result.left_out) == case.get("left_out", list(result.left_out))


def outcome(result: Composition | SluiceError) -> Any:
    return show(result.tree) if isinstance(result, Composition) else Tagged("error", str(result))


def expected(value: Any) -> Any:
    return value if isinstance(value, Tagged) else show(make_tree(value))


def code_of(error: SluiceError) -> str:
    if isinstance(error, SpecError):
        return error.problems[0].code
    assert isinstance(error, BuildError)
    return error.code


def test_every_documented_difference_between_the_dialects_has_a_case() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## All differences")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    topics = [re.sub(r"`([^`]*)`", r"\1", row).strip() for row in rows[2:]]

    assert {case["topic"] for _, case in read_cases() if "topic" in case} == set(topics)


def test_a_case_about_a_difference_has_two_outcomes() -> None:
    for _, case in read_cases():
        if "topic" in case:
            assert case["documented"] != case["upstream"], case["case"]
