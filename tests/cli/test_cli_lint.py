"""What `sluice lint` finds in files, where, and how it ends."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tests.cli.running import GENERATOR, REPOSITORY_URL, invoke, make_repository, process, write
from tests.cli.test_terminal import on_terminal

from sluice.core.lint import RULES

NOTHING = """\
apiVersion: source.extensions.fluxcd.io/v1beta1
kind: ArtifactGenerator
metadata: {name: shop, namespace: apps}
spec:
  sources: [{alias: repo, kind: Bucket, name: monorepo}]
  artifacts:
    - name: web
      copy:
        - from: "@repo/web/**"
          to: "@artifact/"
          exclude: ["*.txt"]
"""
FOUND = "shop.yaml:11:21: warning unused-exclude: artifact 'web': '*.txt' excludes nothing\n"


def lint(*arguments: str, stdin: str = "") -> Result:
    return invoke("lint", *arguments, stdin=stdin)


def lint_json(*arguments: str) -> list[dict[str, Any]]:
    result = lint(*arguments, "-o", "json")
    assert result.exit_code in (0, 1), result.stderr
    findings: list[dict[str, Any]] = json.loads(result.stdout)["findings"]
    return findings


def rules(*arguments: str) -> list[str]:
    return [one["rule"] for one in lint_json(*arguments)]


@pytest.mark.usefixtures("shop")
class TestFindings:
    def test_nothing(self) -> None:
        result = lint("shop.yaml", "-s", "repo=src")

        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.splitlines()[-1] == "✔ nothing found"

    def test_a_finding_has_a_place(self) -> None:
        write(Path(), {"shop.yaml": NOTHING})

        result = lint("shop.yaml", "-s", "repo=src")

        assert (result.exit_code, result.stdout) == (1, FOUND)
        assert result.stderr.splitlines()[-1] == "✗ 1 finding"

    def test_standard_input(self) -> None:
        assert lint("-", "-s", "repo=src", stdin=NOTHING).stdout == FOUND.replace("shop.yaml", "<stdin>")

    def test_without_its_source(self) -> None:
        write(Path(), {"shop.yaml": NOTHING})

        result = lint("shop.yaml")

        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == (
            "⚠ skipped: ArtifactGenerator/apps/shop: source 'repo': "
            "no location for Bucket/apps/monorepo (--source repo=LOCATION)\n"
            "✔ nothing found\n"
        )

    def test_all_that_is_wrong_with_a_spec(self) -> None:
        copies = (
            "- {from: '@rep/a', to: '@artifact/'}\n"
            "        - {from: '@repo/../a', to: '@artifact/'}\n"
            "        - {from: '@repo/a', to: '@artifact/', exclude: ['[']}\n"
            "    - {name: web, copy: [{from: '@repo/a', to: '@artifact/'}]}\n"
        )
        write(Path(), {"shop.yaml": GENERATOR.partition("- {from")[0] + copies, "bad.yaml": "a: [", "other.yaml": ""})
        write(Path(), {"kind.yaml": GENERATOR.replace("kind: Bucket", "kind: Git").replace("name: shop", "name: b")})

        result = lint("bad.yaml", "kind.yaml", "shop.yaml")

        assert result.exit_code == 1
        lines = [line.split(": ")[:2] for line in result.stdout.splitlines()]
        assert lines == [
            ["bad.yaml:2:1", "error invalid-yaml"],
            ["kind.yaml:6:21", "error invalid-spec"],
            ["shop.yaml:10:12", "error unknown-alias"],
            ["shop.yaml:11:12", "error escaping-path"],
            ["shop.yaml:12:57", "error bad-pattern"],
            ["shop.yaml:13:8", "error duplicate-name"],
        ]

    def test_a_generator_that_is_in_two_files(self) -> None:
        write(Path(), {"copy.yaml": GENERATOR})

        assert lint_json("shop.yaml", "copy.yaml", "-s", "repo=src") == [
            {
                "rule": "duplicate-name",
                "severity": "error",
                "file": "copy.yaml",
                "line": 1,
                "column": 1,
                "field": None,
                "artifacts": [],
                "text": "ArtifactGenerator/apps/shop is also in shop.yaml:1:1",
            }
        ]

    def test_an_artifact_that_two_generators_make(self) -> None:
        write(Path(), {"two.yaml": GENERATOR.replace("name: shop", "name: two")})

        (found,) = lint_json("shop.yaml", "two.yaml", "-s", "repo=src")

        assert (found["rule"], found["file"], found["artifacts"]) == ("duplicate-name", "two.yaml", ["web"])
        assert found["text"] == "ArtifactGenerator/apps/shop makes an artifact of this name, too"

    def test_a_cycle(self) -> None:
        source = "kind: ExternalArtifact, name: web"
        write(Path(), {"shop.yaml": GENERATOR.replace("kind: Bucket, name: monorepo", source)})

        (found,) = lint_json("shop.yaml")

        assert (found["rule"], found["line"], found["field"]) == ("cycle", 5, "spec.sources")

    def test_one_broken_generator_does_not_hide_another(self) -> None:
        broken = GENERATOR.replace("name: shop", "name: a").replace(
            "artifacts:", 'pathPattern: "@nope/{x}"\n  artifacts:'
        )
        write(Path(), {"a.yaml": broken.replace("name: web", 'name: "{x}"'), "shop.yaml": NOTHING})

        assert rules("a.yaml", "shop.yaml", "-s", "repo=src") == ["unknown-alias", "unused-exclude"]

    def test_templates_are_told_of_once(self) -> None:
        text = NOTHING.replace("  artifacts:", '  pathPattern: "@repo/apps/{app}"\n  artifacts:')
        text = text.replace("name: web", 'name: "{app}"').replace("@repo/web/**", "@repo/apps/{app}/**")
        write(Path(), {"shop.yaml": text, "src/apps/a/x.yaml": "", "src/apps/b/x.yaml": "", "src/apps/c/x.yaml": ""})

        result = lint("shop.yaml", "-s", "repo=src")

        assert result.stdout == (
            "shop.yaml:12:21: warning unused-exclude: artifact 'a' and 2 more: '*.txt' excludes nothing\n"
        )

    def test_an_exclude_that_one_directory_needs(self) -> None:
        text = NOTHING.replace("  artifacts:", '  pathPattern: "@repo/apps/{app}"\n  artifacts:')
        text = text.replace("name: web", 'name: "{app}"').replace("@repo/web/**", "@repo/apps/{app}/**")
        write(Path(), {"shop.yaml": text, "src/apps/a/x.yaml": "", "src/apps/b/x.yaml": "", "src/apps/b/y.txt": ""})

        assert rules("shop.yaml", "-s", "repo=src") == []

    def test_a_pattern_in_a_template(self) -> None:
        text = NOTHING.replace("  artifacts:", '  pathPattern: "@repo/apps/{app}"\n  artifacts:')
        text = text.replace("name: web", 'name: "{app}"').replace('"@repo/web/**"', '"@repo/{app}/["')
        write(Path(), {"shop.yaml": text, "src/apps/a/x.yaml": "", "src/apps/b/x.yaml": ""})

        found = lint_json("shop.yaml", "-s", "repo=src")

        assert {(one["rule"], one["line"], one["field"]) for one in found} == {
            ("bad-pattern", 10, "spec.artifacts[0].copy[0].from")
        }

    def test_the_other_dialect(self) -> None:
        write(Path(), {"shop.yaml": NOTHING.replace("web/**", "web/*.yaml").replace('"*.txt"', "")})

        (found,) = lint_json("shop.yaml", "-s", "repo=src")
        (other,) = lint_json("shop.yaml", "-s", "repo=src", "--dialect", "upstream")

        differs = "another tree: 1 file ({}) added, 1 file ({}) removed"
        assert found["text"] == f"the upstream dialect would build {differs.format('web/a.yaml', 'a.yaml')}"
        assert other["text"] == f"the documented dialect would build {differs.format('a.yaml', 'web/a.yaml')}"

    def test_a_name_cannot_steer_the_terminal(self) -> None:
        write(Path(), {"shop.yaml": NOTHING.replace("*.txt", "\\x1b[2J\\n")})

        assert lint("shop.yaml", "-s", "repo=src").stdout.count("\n") == 1

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            pytest.param(["nowhere.yaml"], "✗ nowhere.yaml: no such file or directory", id="no such file"),
            pytest.param(["src"], "✗ src: no ArtifactGenerator in it", id="no generator"),
            pytest.param(
                ["--explain", "no-mach"],
                "✗ Invalid value for --explain: no rule 'no-mach' (did you mean"
                " 'no-match'?) (see 'sluice lint --help')",
                id="no such rule",
            ),
            pytest.param(["shop.yaml", "-s", "x"], "✗ --source: 'x' has no location (KEY=LOCATION)", id="a bad source"),
            pytest.param([], "✗ Missing argument 'MANIFEST...' (see 'sluice lint --help')", id="no argument"),
        ],
    )
    def test_what_is_no_answer(self, arguments: list[str], words: str) -> None:
        result = lint(*arguments)

        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.splitlines()[-1] == words


@pytest.mark.usefixtures("shop")
class TestComments:
    @pytest.mark.parametrize(
        ("line", "silent"),
        [
            pytest.param('          exclude: ["*.txt"] # sluice: ignore=unused-exclude', True, id="on the line"),
            pytest.param('          # sluice: ignore=unused-exclude\n          exclude: ["*.txt"]', True, id="above"),
            pytest.param('          exclude: ["*.txt"] #sluice:ignore=no-match, unused-exclude', True, id="one of two"),
            pytest.param('          exclude: ["*.txt"] # sluice: ignore=no-match', False, id="another rule"),
            pytest.param(
                '          # sluice: ignore=unused-exclude\n\n          exclude: ["*.txt"]', False, id="far above"
            ),
        ],
    )
    def test_silence(self, line: str, silent: bool) -> None:
        write(Path(), {"shop.yaml": NOTHING.replace('          exclude: ["*.txt"]', line)})

        assert rules("shop.yaml", "-s", "repo=src") == ([] if silent else ["unused-exclude"])

    def test_a_comment_behind_something_else_speaks_of_that(self) -> None:
        write(
            Path(),
            {"shop.yaml": NOTHING.replace('to: "@artifact/"', 'to: "@artifact/" # sluice: ignore=unused-exclude')},
        )

        assert rules("shop.yaml", "-s", "repo=src") == ["unused-exclude"]

    def test_an_unknown_rule(self) -> None:
        write(Path(), {"shop.yaml": f"# sluice: ignore=no-mach\n{GENERATOR}"})

        assert lint("shop.yaml", "-s", "repo=src").stdout == (
            "shop.yaml:1:18: warning unknown-rule: no rule 'no-mach' (did you mean 'no-match'?)\n"
        )


APPS = """\
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: web, namespace: apps}
spec:
  path: ./deploy
  sourceRef: {kind: ExternalArtifact, name: web}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: web, namespace: apps}
spec: {chartRef: {kind: ExternalArtifact, name: web}}
"""


def test_consumers_in_the_checkout(here: Path) -> None:
    source = f"""\
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {{name: monorepo, namespace: apps}}
spec: {{url: "{REPOSITORY_URL}"}}
"""
    write(here, {"flux/g.yaml": GENERATOR.replace("Bucket", "GitRepository"), "flux/source.yaml": source})
    write(here, {"clusters/apps.yaml": APPS, "web/a.yaml": ""})
    make_repository(here)

    assert lint("flux").stdout == (
        "flux/g.yaml:8:7: error chart-shape: artifact 'web': HelmRelease/apps/web cannot use it: "
        "a chart is one directory with a Chart.yaml in it (at the top: a.yaml)\n"
        "clusters/apps.yaml:5:3: error missing-path: artifact 'web': "
        "Kustomization/apps/web needs directory './deploy', which is not in the artifact\n"
    )
    write(here, {"clusters/apps.yaml": APPS.replace("  path", "  # sluice: ignore=missing-path\n  path")})
    assert rules("flux") == ["chart-shape"]


@pytest.mark.usefixtures("shop")
class TestForms:
    def test_github(self) -> None:
        write(Path(), {"a,b:c.yaml": NOTHING.replace("*.txt", "100%")})

        assert lint("a,b:c.yaml", "-s", "repo=src", "-o", "github").stdout == (
            "::warning file=a%2Cb%3Ac.yaml,line=11,col=21,title=sluice unused-exclude::"
            "artifact 'web': '100%25' excludes nothing\n"
        )

    def test_json(self) -> None:
        write(Path(), {"shop.yaml": NOTHING})

        assert json.loads(lint("shop.yaml", "-s", "repo=src", "-o", "json").stdout) == {
            "findings": [
                {
                    "rule": "unused-exclude",
                    "severity": "warning",
                    "file": "shop.yaml",
                    "line": 11,
                    "column": 21,
                    "field": "spec.artifacts[0].copy[0].exclude[0]",
                    "artifacts": ["web"],
                    "text": "'*.txt' excludes nothing",
                }
            ],
            "skipped": [],
        }

    def test_a_rule_explains_itself(self) -> None:
        rule = RULES["double-nesting"]

        result = lint("--explain", "double-nesting")

        assert result.exit_code == 0
        assert result.stdout == f"double-nesting (warning)\n\n{rule.summary}\n\n{rule.explanation}\n"


def test_the_reference_has_every_rule() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/lint-rules.md").read_text()
    entries = re.findall(r"^## ([a-z-]+)\n\n\*(error|warning)\.\* (.+?)\n\n(.+?)\n\n", page, re.MULTILINE | re.DOTALL)

    told = [(name, severity, summary, " ".join(text.split())) for name, severity, summary, text in entries]

    assert [tuple(map(plain, one)) for one in told] == [
        tuple(map(plain, (rule.name, rule.severity, rule.summary, rule.explanation))) for rule in RULES.values()
    ]


def plain(text: str) -> str:
    """Text without the marks of code."""
    return text.replace("`", "").replace("'", "")


# As a process


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param(GENERATOR, 0, id="clean"),
        pytest.param(NOTHING, 1, id="found"),
        pytest.param("", 2, id="no generator"),
    ],
)
def test_the_exit_code(shop: Path, text: str, code: int) -> None:
    write(shop, {"shop.yaml": text})

    with process("lint", "shop.yaml", "--source", "repo=src", directory=shop) as running:
        out, words = running.communicate()

    assert running.returncode == code
    assert "\x1b" not in out + words
    assert "Traceback" not in words


@pytest.mark.parametrize("columns", ["20", "200"])
def test_a_terminal_of_any_width(shop: Path, columns: str) -> None:
    write(shop, {"shop.yaml": NOTHING})

    seen = on_terminal(shop, "lint", "shop.yaml", "--source", "repo=src", COLUMNS=columns)

    assert FOUND.replace("\n", "\r\n") in seen
    assert "\x1b[31m✗\x1b[0m 1 finding\r\n" in seen


def test_a_terminal_that_wants_no_colour(shop: Path) -> None:
    assert "\x1b" not in on_terminal(shop, "lint", "shop.yaml", "--source", "repo=src", NO_COLOR="1")


def test_a_closed_pipe(shop: Path) -> None:
    with process("lint", "shop.yaml", "--source", "repo=src", "-o", "json", directory=shop) as running:
        assert running.stdout is not None
        running.stdout.close()
        running.stdout = None
        _, words = running.communicate()

    assert running.returncode == 141
    assert "Traceback" not in words


def test_interrupted(shop: Path) -> None:
    os.mkfifo(shop / "slow.yaml")

    with process("lint", "slow.yaml", directory=shop) as running:
        with (shop / "slow.yaml").open("wb"):
            running.send_signal(signal.SIGINT)
            words = running.communicate()

    assert words == ("", "✗ interrupted\n")
    assert running.returncode == 130
