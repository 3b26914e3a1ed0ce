"""Real repositories through the command line, compared with what source-watcher makes of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.running import build_json

FIELDS = ("path", "type", "mode", "size", "sha256")


def cases(shared: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for listing in sorted(shared.glob("real/*/sources.yaml")):
        for case in yaml.safe_load(listing.read_text())["cases"]:
            yield listing.parent, case


def test_every_recorded_artifact_is_equal(shared: Path) -> None:
    count = 0
    for directory, case in cases(shared):
        options = []
        for source in case["sources"]:
            key = f"{source['kind']}/{source['namespace']}/{source['name']}"
            options += ["--source", f"{key}={directory / source['tarball']}"]
        expected = json.loads((directory / case["expected"]).read_text())["artifacts"]

        told = build_json(str(directory / case["generators"]), "--dialect", "upstream", *options)

        assert {f"{one['namespace']}/{one['name']}" for one in told} == set(expected), case["id"]
        for one in told:
            want = expected[f"{one['namespace']}/{one['name']}"]
            count += 1
            assert one["ok"] == want["ok"], (case["id"], one["name"], one["error"])
            entries = sorted(tuple(file[field] for field in FIELDS) for file in one["files"])
            wanted = sorted(tuple(e[field] for field in FIELDS) for e in want["entries"] or () if e["path"] != ".")
            assert entries == wanted, (case["id"], one["name"])
    if not count:
        pytest.skip("there are no recorded repositories in ../shared/real")
