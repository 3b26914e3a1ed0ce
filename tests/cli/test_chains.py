"""Generators that read what others make."""

import json
import re
from pathlib import Path

import pytest
from tests.cli.running import build, build_json, write


def generator(name: str, source: str, artifacts: str, more: str = "") -> str:
    return f"""\
apiVersion: source.extensions.fluxcd.io/v1beta1
kind: ArtifactGenerator
metadata: {{name: {name}, namespace: apps}}
spec:
  {more}
  sources: [{{alias: in, {source}}}]
  artifacts: [{artifacts}]
---
"""


def artifact(name: str, pattern: str = "**", to: str = "") -> str:
    return f'{{name: {name}, originRevision: "@in", copy: [{{from: "@in/{pattern}", to: "@artifact/{to}"}}]}}'


def external(name: str) -> str:
    return f"kind: ExternalArtifact, name: {name}"


FIRST = generator("first", "kind: Bucket, name: files", artifact("one", to="x/"))


@pytest.fixture(autouse=True)
def files(here: Path) -> None:
    write(here, {"src/a": "1", "apps/web/b": "2"})


def paths(*arguments: str) -> dict[str, list[str]]:
    found = build_json(*arguments)
    return {one["name"]: [file["path"] for file in one["files"] if file["type"] == "file"] for one in found}


def test_a_chain_is_told_in_the_order_given() -> None:
    third = generator("third", external("two"), artifact("three", to="z/"))
    second = generator("second", external("one"), artifact("two", to="y/"))
    write(Path(), {"g.yaml": third + second + FIRST})

    made = paths("g.yaml", "--source", "Bucket/files=src")

    assert list(made.items()) == [("three", ["z/y/x/a"]), ("two", ["y/x/a"]), ("one", ["x/a"])]


def test_the_origin_is_handed_on() -> None:
    write(Path(), {"g.yaml": FIRST + generator("second", external("one"), artifact("two"))})

    one, two = build_json("g.yaml", "--source", "Bucket/files=src")

    assert two["originRevision"] == one["originRevision"]
    assert two["originRevision"].startswith("latest@sha256:")


def test_a_location_goes_before_another_generator() -> None:
    write(Path(), {"g.yaml": FIRST + generator("second", external("one"), artifact("two"))})

    made = paths("g.yaml", "--source", "Bucket/files=src", "--source", "ExternalArtifact/one=apps")

    assert made["two"] == ["web/b"]


def test_only_what_is_wanted_is_told_and_what_it_needs_is_built() -> None:
    write(Path(), {"g.yaml": FIRST + generator("second", external("one"), artifact("two"))})

    assert paths("g.yaml", "--source", "Bucket/files=src", "-a", "two") == {"two": ["x/a"]}


def test_a_cycle_behind_what_is_wanted_stops_everything() -> None:
    cycle = generator("a", external("y"), artifact("x")) + generator("b", external("x"), artifact("y"))
    write(Path(), {"g.yaml": generator("first", external("x"), artifact("one")) + cycle})

    result = build("g.yaml", "-a", "one")

    assert result.exit_code == 2
    assert result.stderr.endswith(
        "reads what it makes: ArtifactGenerator/apps/a → ArtifactGenerator/apps/b → ArtifactGenerator/apps/a\n"
    )


def test_what_fails_fails_what_reads_it() -> None:
    broken = generator("first", "kind: Bucket, name: files", artifact("one", "nope"))
    write(Path(), {"g.yaml": broken + generator("second", external("one"), artifact("two"))})

    one, two = build_json("g.yaml", "--source", "Bucket/files=src")

    assert one["error"] == "copy from '@in/nope': source 'nope' does not exist"
    assert two["error"] == "source 'in': ExternalArtifact/apps/one was not built"


def test_an_artifact_that_nobody_makes() -> None:
    write(Path(), {"g.yaml": generator("second", external("one"), artifact("two"))})

    (two,) = build_json("g.yaml")

    assert two["error"] == "source 'in': no location for ExternalArtifact/apps/one (--source in=LOCATION)"


def test_a_path_pattern_makes_what_another_reads() -> None:
    many = generator(
        "many", "kind: Bucket, name: files", artifact("'{app}-files'", "{app}/**"), 'pathPattern: "@in/{app}"'
    )
    write(Path(), {"g.yaml": generator("second", external("web-files"), artifact("two", to="y/")) + many})

    made = paths("g.yaml", "--source", "Bucket/files=apps")

    assert made == {"two": ["y/b"], "web-files": ["b"]}


def test_a_path_pattern_over_what_another_makes() -> None:
    many = generator("many", external("one"), artifact("'{app}-files'", "{app}/**"), 'pathPattern: "@in/{app}"')
    write(Path(), {"g.yaml": many + FIRST})

    assert paths("g.yaml", "--source", "Bucket/files=src") == {"x-files": ["a"], "one": ["x/a"]}


@pytest.mark.parametrize(
    ("manifests", "way"),
    [
        pytest.param(
            generator("a", external("x"), artifact("x")),
            "ArtifactGenerator/apps/a → ArtifactGenerator/apps/a",
            id="one that reads itself",
        ),
        pytest.param(
            generator("a", external("y"), artifact("x")) + generator("b", external("x"), artifact("y")),
            "ArtifactGenerator/apps/a → ArtifactGenerator/apps/b → ArtifactGenerator/apps/a",
            id="two",
        ),
        pytest.param(
            generator("a", external("y"), artifact("x"))
            + generator("b", external("x"), artifact("'{d}'"), 'pathPattern: "@in/{d}"'),
            "ArtifactGenerator/apps/b → ArtifactGenerator/apps/a → ArtifactGenerator/apps/b",
            id="by way of a pathPattern",
        ),
    ],
)
def test_a_cycle_stops_everything(manifests: str, way: str) -> None:
    write(Path(), {"g.yaml": FIRST + manifests})

    result = build("g.yaml", "--source", "Bucket/files=src", "-d", "out")

    assert result.exit_code == 2
    assert re.fullmatch(rf"✗ g\.yaml:\d+:3: spec\.sources: reads what it makes: {way}", result.stderr.splitlines()[-1])
    assert not Path("out").exists()


def test_json_is_one_document() -> None:
    write(Path(), {"g.yaml": FIRST})

    assert list(json.loads(build("g.yaml", "--source", "in=src", "-o", "json").stdout)) == ["artifacts", "warnings"]
