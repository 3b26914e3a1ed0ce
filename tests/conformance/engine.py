"""Speaks the protocol of the conformance corpus: a case a line in, a result a line out.

The corpus was recorded from the peer, which stops at the first problem it meets; Sluice names all
of them. So where an artifact's spec is wrong, the operations before the wrong one are tried first,
and an error of the whole generator is the first of its problems.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sluice.core import tar, untar
from sluice.core.compose import compose
from sluice.core.dialect import DIALECTS, Dialect, DialectName
from sluice.core.errors import BuildError, Code, SluiceError, SpecError
from sluice.core.limits import DEFAULT_LIMITS
from sluice.core.pathpattern import Failure, Rendered, expand_path_pattern, parse_path_pattern
from sluice.core.plan import ArtifactPlan, plan_artifacts, plan_recipe
from sluice.core.spec import ArtifactGenerator, ArtifactSpec, CopySpec, SourceKind, SourceRef, Strategy, validate
from sluice.core.tree import EMPTY, Directory, Entry, File, Link, encode_name

SHOWN_CONTENT = 1 << 16
CLASSES = {Code.LIMIT: "invalid_archive", Code.INVALID_YAML: "merge_error"}


def run(case: dict[str, Any]) -> dict[str, Any]:
    dialect = DIALECTS[DialectName(case.get("dialect", "upstream"))]
    generator = read_generator(case)
    if problems := validate(generator):
        return {"ok": False, "error": error(SpecError(problems))}
    try:
        trees = {alias: read_source(source) for alias, source in case["sources"].items()}
        requests = read_requests(generator, trees, dialect)
        plans = plan_artifacts(generator, pattern_tree(generator, trees), dialect)
    except SluiceError as problem:
        return {"ok": False, "error": error(problem)}
    if dialect.name is DialectName.UPSTREAM and generator.path_pattern is not None:
        for plan in plans:
            if isinstance(plan, Failure) and isinstance(plan.error, BuildError):
                return {"ok": False, "error": error(plan.error)}
    specs = {item.spec.name: item.spec for item in requests if isinstance(item, Rendered)} or {
        spec.name: spec for spec in generator.artifacts
    }
    artifacts = [build(plan, specs.get(plan.name), generator, trees, dialect) for plan in plans]
    result: dict[str, Any] = {"ok": all(artifact["ok"] for artifact in artifacts), "artifacts": artifacts}
    if requests:
        result["requests"] = [show_request(item) for item in requests if isinstance(item, Rendered)]
    return result


def build(
    plan: ArtifactPlan | Failure,
    spec: ArtifactSpec | None,
    generator: ArtifactGenerator,
    trees: Mapping[str, Directory],
    dialect: Dialect,
) -> dict[str, Any]:
    try:
        if isinstance(plan, Failure):
            if isinstance(plan.error, SpecError) and spec is not None:
                try_before_the_problem(spec, plan.error, generator, trees, dialect)
            raise plan.error
        tree = compose(plan.recipe, trees, unpack).tree
    except SluiceError as problem:
        return {"name": plan.name, "ok": False, "error": error(problem)}
    stream = hashlib.sha256()
    for chunk in tar.tar_stream(tree):
        stream.update(chunk)
    files = [show(".", tree), *(show(path, entry) for path, entry in tree.walk())]
    return {"name": plan.name, "ok": True, "files": files, "tar_sha256": stream.hexdigest()}


def try_before_the_problem(
    spec: ArtifactSpec,
    problem: SpecError,
    generator: ArtifactGenerator,
    trees: Mapping[str, Directory],
    dialect: Dialect,
) -> None:
    """Raise what the operations before the first wrong one raise, as the peer would."""
    where = problem.problems[0].where
    number = int(where.partition(".copy[")[2].partition("]")[0])
    aliases = [source.alias for source in generator.sources]
    compose_prefix = plan_recipe(spec.copy[:number], "", aliases, dialect)
    try:
        compose(compose_prefix, trees, unpack)
    except BuildError as error:
        if error.code is not Code.EMPTY:
            raise


def unpack(file: File) -> Directory:
    return untar.read_archive(file.read(), rules=untar.EXTRACT)


def read_generator(case: dict[str, Any]) -> ArtifactGenerator:
    spec = case["spec"]
    aliases = case.get("aliases") or list(case["sources"])
    return ArtifactGenerator(
        name="case",
        namespace="default",
        sources=tuple(SourceRef(alias, SourceKind.GIT_REPOSITORY, alias, "default") for alias in aliases),
        artifacts=tuple(map(read_artifact, spec.get("artifacts") or ())),
        path_pattern=spec.get("pathPattern") or None,
    )


def read_artifact(spec: dict[str, Any]) -> ArtifactSpec:
    def alias(text: str | None) -> str | None:
        return text.removeprefix("@") if text else None

    copies = tuple(
        CopySpec(
            source=copy.get("from", ""),
            to=copy.get("to", ""),
            exclude=tuple(copy.get("exclude") or ()),
            # The API refuses other strategies; behind it the peer takes them for Overwrite.
            strategy=copy["strategy"] if copy.get("strategy") in list(Strategy) else Strategy.OVERWRITE,
        )
        for copy in spec.get("copy") or ()
    )
    return ArtifactSpec(spec["name"], copies, alias(spec.get("revision")), alias(spec.get("originRevision")))


def read_source(source: dict[str, Any]) -> Directory:
    if "tgz" in source:
        return untar.read_archive(base64.b64decode(source["tgz"]))
    root: dict[str, Any] = {}
    for node in source["tree"]:
        path = base64.b64decode(node["pb"]).decode("utf-8", "surrogateescape") if "pb" in node else node["p"]
        *parents, name = path.split("/")
        here = root
        for parent in parents:
            here = here.setdefault(parent, {})
        here[name] = here.get(name, {}) if node["t"] == "d" else read_node(node)
    return make_directory(root)


def read_node(node: dict[str, Any]) -> Entry:
    if node["t"] == "l":
        return Link(node["to"])
    data = base64.b64decode(node["b"]) if "b" in node else node.get("c", "").encode()
    return File.of(data, executable=bool(int(node.get("m", "0644"), 8) & 0o111))


def make_directory(nodes: Mapping[str, Any]) -> Directory:
    return Directory.of_entries(
        {name: make_directory(node) if isinstance(node, dict) else node for name, node in nodes.items()}
    )


def pattern_tree(generator: ArtifactGenerator, trees: Mapping[str, Directory]) -> Directory | None:
    if generator.path_pattern is None:
        return None
    alias = generator.path_pattern.partition("/")[0].removeprefix("@")
    return trees.get(alias, EMPTY)


def read_requests(
    generator: ArtifactGenerator, trees: Mapping[str, Directory], dialect: Dialect
) -> Sequence[Rendered | Failure]:
    tree = pattern_tree(generator, trees)
    if generator.path_pattern is None or tree is None:
        return ()
    pattern = parse_path_pattern(generator.path_pattern, [source.alias for source in generator.sources], dialect)
    return expand_path_pattern(generator, pattern, tree, dialect, DEFAULT_LIMITS)


def show_request(item: Rendered) -> dict[str, Any]:
    copies = [
        {
            "from": copy.source,
            "to": copy.to,
            "exclude": list(copy.exclude),
            # Overwrite is the default, and left out like every default.
            "strategy": "" if copy.strategy == Strategy.OVERWRITE else str(copy.strategy),
        }
        for copy in item.spec.copy
    ]
    return {"name": item.spec.name, "labels": dict(item.labels), "copy": copies}


def show(path: str, entry: Entry) -> dict[str, Any]:
    try:
        shown: dict[str, Any] = {"p": path.encode().decode()}
    except UnicodeEncodeError:
        shown = {"pb": base64.b64encode(encode_name(path)).decode()}
    if not isinstance(entry, File):
        return {**shown, "t": "d", "m": "0750"}
    shown |= {"t": "f", "m": "0700" if entry.executable else "0600", "n": entry.size, "sha256": entry.digest.hex()}
    if entry.size <= SHOWN_CONTENT:
        data = entry.read()
        try:
            shown["c"] = data.decode()
        except UnicodeDecodeError:
            shown["b"] = base64.b64encode(data).decode()
    return shown


def error(problem: SluiceError) -> dict[str, Any]:
    code = problem.problems[0].code if isinstance(problem, SpecError) else getattr(problem, "code", None)
    return {"class": CLASSES.get(code, str(code)) if code else "other", "text": str(problem)}


def main() -> None:
    for line in sys.stdin:
        case = json.loads(line)
        print(json.dumps({"id": case["id"], **run(case)}), flush=True)


if __name__ == "__main__":
    main()
