"""What `sluice build` prints and writes, and how it ends."""

import json
from pathlib import Path

import pytest
import yaml
from tests.cli.running import GENERATOR, build, build_json, invoke, write

NOWHERE = "'nowhere' does not exist and is not a directory, .tar.gz, OCI layout or git repository"
PER_APP = """\
[{name: "{app}", copy: [{from: "@repo/apps/{app}/**", to: "@artifact/"}]}]
  pathPattern: "@repo/apps/{app}"
"""
SOURCE = "► Bucket/apps/monorepo: src at latest@sha256:"


def generator(name: str, artifacts: str, sources: str = "{alias: repo, kind: Bucket, name: monorepo}") -> str:
    return f"""\
apiVersion: source.extensions.fluxcd.io/v1beta1
kind: ArtifactGenerator
metadata: {{name: {name}, namespace: apps}}
spec:
  sources: [{sources}]
  artifacts: {artifacts}
---
"""


@pytest.mark.usefixtures("shop")
class TestOutput:
    def test_a_table(self) -> None:
        result = build("shop.yaml", "--source", "repo=src")

        assert result.exit_code == 0
        heading, row = result.stdout.splitlines()
        assert heading == "NAMESPACE   NAME   READY   FILES   SIZE   REVISION"
        assert row.startswith("apps        web    True    2       4 B    latest@sha256:")
        assert len(row.rpartition(":")[2]) == 8

    def test_words_go_to_standard_error(self) -> None:
        words = build("shop.yaml", "--source", "repo=src").stderr.splitlines()

        assert [words[0][: len(SOURCE)], *words[1:]] == [SOURCE, "✔ built 1 artifact"]

    def test_wide_shows_whole_revisions_and_origins(self) -> None:
        write(Path(), {"shop.yaml": GENERATOR.replace("- name: web", '- name: web\n      originRevision: "@repo"')})

        heading, row = build("shop.yaml", "--source", "repo=src", "-o", "wide").stdout.splitlines()

        assert heading.split() == ["NAMESPACE", "NAME", "READY", "FILES", "SIZE", "REVISION", "ORIGIN", "GENERATOR"]
        *_, revision, origin, name = row.split()
        assert (len(revision), len(origin), name) == (len("latest@sha256:") + 64, len("latest@sha256:") + 64, "shop")

    def test_names(self) -> None:
        assert build("shop.yaml", "--source", "repo=src", "-o", "name").stdout == "apps/web\n"

    def test_json(self) -> None:
        write(Path(), {"src/web/.github/ci.yml": "", "src/web/.gitignore": ""})

        (artifact,) = build_json("shop.yaml", "--source", "repo=src")

        a, b = (
            "87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7",
            "0263829989b6fd954f72baaf2fc64bc2e2f01d692d4de72986ea808f6e99813f",
        )
        digest = artifact["digest"]
        assert digest.startswith("sha256:")
        assert artifact == {
            "namespace": "apps",
            "name": "web",
            "generator": "shop",
            "ok": True,
            "error": None,
            "warnings": [],
            "revision": f"latest@{digest}",
            "originRevision": None,
            "digest": digest,
            "size": 4,
            "files": [
                {"path": "a.yaml", "type": "file", "mode": "0600", "size": 2, "sha256": a, "copy": 0},
                {"path": "sub", "type": "dir", "mode": "0750", "size": 0, "sha256": None, "copy": 0},
                {"path": "sub/run.sh", "type": "file", "mode": "0700", "size": 2, "sha256": b, "copy": 0},
            ],
            "leftOut": [".github/ci.yml", ".gitignore"],
            "archive": None,
        }

    def test_yaml_says_the_same_as_json(self) -> None:
        as_yaml = build("shop.yaml", "--source", "repo=src", "-o", "yaml").stdout

        assert yaml.safe_load(as_yaml) == json.loads(build("shop.yaml", "--source", "repo=src", "-o", "json").stdout)

    def test_what_is_left_out_is_counted(self) -> None:
        write(Path(), {f"src/web/{name}/.gitignore": "" for name in "pqrs"})

        words = build("shop.yaml", "--source", "repo=src").stderr.splitlines()

        assert words[1] == "⚠ apps/web: left out: 4 files (p/.gitignore, q/.gitignore, r/.gitignore and 1 more)"

    def test_a_name_cannot_steer_the_terminal(self) -> None:
        write(Path(), {"src/web/\x1b[31m\u202e/.gitignore": ""})

        result = build("shop.yaml", "--source", "repo=src", "-o", "json")

        assert result.stderr.splitlines()[1] == r"⚠ apps/web: left out: 1 file (\x1b[31m\u202e/.gitignore)"
        assert result.stdout.isascii()
        assert "\x1b" not in result.stdout

    def test_a_name_that_is_not_utf_8_survives(self) -> None:
        name = b"src/web/\xff.yaml"
        Path(name.decode("utf-8", "surrogateescape")).write_bytes(b"")

        (artifact,) = build_json("shop.yaml", "--source", "repo=src")

        assert "\udcff.yaml" in [file["path"] for file in artifact["files"]]
        assert build("shop.yaml", "--source", "repo=src", "-d", "out").exit_code == 0


@pytest.mark.usefixtures("shop")
class TestFailures:
    def test_one_artifact_fails_alone(self) -> None:
        web = '{name: web, copy: [{from: "@repo/web/**", to: "@artifact/"}]}'
        bad = '{name: bad, copy: [{from: "@rep/web", to: "@artifact/"}]}'
        gone = '{name: gone, copy: [{from: "@repo/nope", to: "@artifact/"}]}'
        write(Path(), {"g.yaml": generator("g", f"\n    - {bad}\n    - {gone}\n    - {web}")})

        result = build("g.yaml", "--source", "repo=src", "-d", "out")

        assert result.exit_code == 1
        assert result.stderr.splitlines()[0] == (
            "✗ apps/bad: g.yaml:7:27: spec.artifacts[0].copy[0].from: source alias 'rep' not found (declared: repo)"
        )
        assert result.stderr.splitlines()[2:] == [
            "✗ apps/gone: copy from '@repo/nope': source 'nope' does not exist",
            "✚ directories in out",
            "✗ built 1 of 3 artifacts",
        ]
        assert [row.split()[1:3] for row in result.stdout.splitlines()[1:]] == [
            ["bad", "False"],
            ["gone", "False"],
            ["web", "True"],
        ]
        assert [path.name for path in Path("out/apps").iterdir()] == ["web"]

    def test_a_source_that_fails_fails_what_uses_it(self) -> None:
        sources = "{alias: repo, kind: Bucket, name: a}, {alias: other, kind: OCIRepository, name: b}"
        artifacts = (
            '[{name: web, copy: [{from: "@repo/web", to: "@artifact/"}]},'
            ' {name: both, copy: [{from: "@repo/web", to: "@artifact/"}, {from: "@other/x", to: "@artifact/"}]}]'
        )
        write(Path(), {"g.yaml": generator("g", artifacts, sources)})

        result = build("g.yaml", "--source", "repo=src", "--source", "other=nowhere")

        assert result.exit_code == 1
        assert result.stderr.splitlines()[1:] == [
            f"✗ apps/both: source 'other': {NOWHERE}",
            "✗ built 1 of 2 artifacts",
        ]

    def test_only_the_sources_that_are_needed_are_opened(self) -> None:
        sources = "{alias: repo, kind: Bucket, name: a}, {alias: other, kind: Bucket, name: b}"
        artifacts = (
            '[{name: web, copy: [{from: "@repo/web", to: "@artifact/"}]},'
            ' {name: two, copy: [{from: "@other/x", to: "@artifact/"}]}]'
        )
        write(Path(), {"g.yaml": generator("g", artifacts, sources)})

        result = build("g.yaml", "--source", "repo=src", "--source", "other=nowhere", "--artifact", "web")

        assert (result.exit_code, len(result.stderr.splitlines())) == (0, 2)

    def test_two_generators_that_make_the_same_artifact(self) -> None:
        one = generator("one", '[{name: web, copy: [{from: "@repo/web", to: "@artifact/"}]}]')
        write(Path(), {"g.yaml": one + one.replace("name: one", "name: two")})

        result = build("g.yaml", "--source", "repo=src")

        assert result.exit_code == 1
        assert (
            "✗ apps/web: ArtifactGenerator/apps/one makes an artifact of this name, too" in result.stderr.splitlines()
        )

    def test_nothing_matches_a_path_pattern(self) -> None:
        write(Path(), {"g.yaml": generator("g", PER_APP)})

        result = build("g.yaml", "--source", "repo=src", "-o", "json")

        warning = "ArtifactGenerator/apps/g: no directory matches '@repo/apps/{app}': no artifacts"
        assert result.exit_code == 0
        assert json.loads(result.stdout) == {"artifacts": [], "warnings": [warning]}
        assert result.stderr.splitlines()[1:] == [f"⚠ {warning}", "✔ built 0 artifacts"]

    def test_the_source_of_a_path_pattern_is_missing(self) -> None:
        write(Path(), {"g.yaml": generator("g", PER_APP)})

        result = build("g.yaml", "-o", "json")

        error = "source 'repo': no location for Bucket/apps/monorepo (--source repo=LOCATION)"
        (artifact,) = json.loads(result.stdout)["artifacts"]
        assert result.exit_code == 1
        assert (artifact["name"], artifact["ok"], artifact["error"]) == (None, False, error)
        assert result.stderr.splitlines() == [f"✗ ArtifactGenerator/apps/g: {error}", "✗ built 0 of 1 artifacts"]

    def test_a_wrong_path_pattern_stops_everything(self) -> None:
        spec = '[{name: "{b}", copy: [{from: "@repo/{a}", to: "@artifact/"}]}]\n  pathPattern: "@repo/{a}"'
        write(Path(), {"g.yaml": generator("g", spec)})

        result = build("g.yaml", "shop.yaml", "--source", "repo=src", "-d", "out")

        assert result.exit_code == 2
        assert result.stderr.splitlines()[1:] == [
            "✗ g.yaml:6:16: spec.artifacts[0].name: '{b}' in '{b}' is not defined by pathPattern (defined: a)"
        ]
        assert not Path("out").exists()


@pytest.mark.usefixtures("shop")
class TestOptions:
    def test_the_dialect(self) -> None:
        files = {"documented": ["a.yaml"], "upstream": ["web/a.yaml"]}
        write(Path(), {"g.yaml": GENERATOR.replace("web/**", "web/*.yaml")})

        for dialect, expected in files.items():
            (artifact,) = build_json("g.yaml", "--source", "repo=src", "--dialect", dialect)
            assert [file["path"] for file in artifact["files"] if file["type"] == "file"] == expected

    def test_a_generator_may_name_its_dialect(self) -> None:
        annotated = GENERATOR.replace("namespace: apps", "namespace: apps, annotations: {sluice/dialect: upstream}")
        write(Path(), {"g.yaml": annotated.replace("web/**", "web/*.yaml")})

        (artifact,) = build_json("g.yaml", "--source", "repo=src")

        assert [file["path"] for file in artifact["files"]] == ["web", "web/a.yaml"]

    def test_an_unknown_dialect(self) -> None:
        write(
            Path(),
            {"g.yaml": GENERATOR.replace("namespace: apps", "namespace: apps, annotations: {sluice/dialect: mine}")},
        )

        result = build("g.yaml", "--source", "repo=src")

        assert result.exit_code == 2
        assert result.stderr == (
            "✗ g.yaml:3:55: metadata.annotations.sluice/dialect: 'mine' is not one of documented, upstream\n"
        )

    @pytest.mark.parametrize("name", ["web", "apps/web"])
    def test_one_artifact(self, name: str) -> None:
        write(Path(), {"g.yaml": GENERATOR + '    - {name: bad, copy: [{from: "@x/y", to: "@artifact/"}]}\n'})

        assert build("g.yaml", "--source", "repo=src", "-a", name, "-o", "name").stdout == "apps/web\n"

    def test_an_artifact_that_nobody_makes(self) -> None:
        result = build("shop.yaml", "--source", "repo=src", "-a", "wbe")

        assert (result.exit_code, result.stderr) == (2, "✗ --artifact: no artifact 'wbe' (there are: web)\n")

    def test_the_namespace_of_objects_that_name_none(self) -> None:
        write(Path(), {"g.yaml": GENERATOR.replace(", namespace: apps", "")})

        assert build("g.yaml", "--source", "repo=src", "-n", "team", "-o", "name").stdout == "team/web\n"
        assert build("g.yaml", "--source", "repo=src", "-o", "name").stdout == "default/web\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            pytest.param([], "Missing argument 'MANIFEST...' (see 'sluice build --help')", id="no manifest"),
            pytest.param(["shop.yaml", "--sauce"], None, id="an unknown option"),
            pytest.param(
                ["shop.yaml", "-n", "A"],
                "Invalid value for --namespace: 'A' is not a namespace (lower-case letters, digits and '-', at most 63)"
                " (see 'sluice build --help')",
                id="a namespace that is none",
            ),
            pytest.param(
                ["shop.yaml", "--var", "1=2"],
                "Invalid value for --var: '1' is not NAME=VALUE (see 'sluice build --help')",
                id="a variable that is none",
            ),
            pytest.param(
                ["shop.yaml", "--source", "repo"],
                "--source: 'repo' has no location (KEY=LOCATION)",
                id="a source without location",
            ),
            pytest.param(
                ["shop.yaml", "--source", "Secret/x=y"],
                "--source: 'Secret/x' names no source (an alias, Kind/name or Kind/namespace/name; kinds: Bucket,"
                " GitRepository, OCIRepository, HelmChart, ExternalArtifact)",
                id="a kind that is none",
            ),
            pytest.param(
                ["shop.yaml", "--source", "repo=a", "--source", "repo=b"],
                "--source: 'repo' is given twice",
                id="a source twice",
            ),
        ],
    )
    def test_wrong_usage(self, arguments: list[str], message: str | None) -> None:
        result = build(*arguments)

        assert (result.exit_code, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1
        assert message is None or result.stderr == f"✗ {message}\n"

    def test_a_source_that_nobody_has(self) -> None:
        result = build("shop.yaml", "--source", "repo=src", "--source", "rpo=src")

        assert result.exit_code == 0
        assert result.stderr.splitlines()[0] == "⚠ --source rpo: no generator has such a source (aliases: repo)"


def test_an_unknown_verb() -> None:
    result = invoke("biuld")

    assert result.exit_code == 2
    assert result.stderr == "✗ No such command 'biuld' (see 'sluice --help')\n"


def test_the_version() -> None:
    result = invoke("--version")

    assert (result.exit_code, result.stdout) == (0, "sluice 0.1.0\n")
