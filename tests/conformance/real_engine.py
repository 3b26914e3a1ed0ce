"""Speaks the protocol of the recorded repositories: one JSON object in, one out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from sluice.build import Opened, compose_plan
from sluice.core import untar
from sluice.core.dialect import DIALECTS, DialectName
from sluice.core.errors import SluiceError
from sluice.core.pathpattern import Failure
from sluice.core.plan import ArtifactPlan, Source, plan_artifacts
from sluice.core.spec import ArtifactGenerator, parse_generator
from sluice.core.tree import Directory, File


def run(request: dict[str, Any]) -> dict[str, Any]:
    dialect = DIALECTS[DialectName(request.get("dialect", "upstream"))]
    results: dict[str, Any] = {}
    for manifest in request["generators"]:
        generator = parse_generator(manifest)
        sources = {source.alias: open_source(request["sources"][str(source)]) for source in generator.sources}
        for plan in plan_artifacts(generator, pattern_tree(generator, sources), dialect):
            results[f"{generator.namespace}/{plan.name}"] = build(plan, sources)
    return results


def open_source(source: dict[str, str]) -> Source:
    with open(source["tarball"], "rb") as archive:
        tree = untar.read_archive(archive.read())
    return Source(tree, source["revision"], source["digest"])


def pattern_tree(generator: ArtifactGenerator, sources: Mapping[str, Source]) -> Directory | None:
    if generator.path_pattern is None:
        return None
    return sources[generator.path_pattern.partition("/")[0].removeprefix("@")].tree


def build(plan: ArtifactPlan | Failure, sources: Opened) -> dict[str, Any]:
    try:
        if isinstance(plan, Failure):
            raise plan.error
        tree = compose_plan(plan, sources, unpack).tree
    except SluiceError as error:
        return {"ok": False, "error": str(error), "entries": []}
    entries = [
        {
            "path": path,
            "type": "file",
            "mode": "0700" if entry.executable else "0600",
            "size": entry.size,
            "sha256": entry.digest.hex(),
        }
        if isinstance(entry, File)
        else {"path": path, "type": "dir", "mode": "0750", "size": 0, "sha256": None}
        for path, entry in tree.walk()
    ]
    return {"ok": True, "error": None, "entries": entries}


def unpack(file: File) -> Directory:
    return untar.read_archive(file.read(), rules=untar.EXTRACT)


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
