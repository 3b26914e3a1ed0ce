"""What `sluice explain` says of artifacts and paths, and how it ends."""

import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import Result
from tests.cli.running import GENERATOR, invoke, process, write
from tests.cli.test_terminal import on_terminal

SOURCE = ("shop.yaml", "-s", "repo=src")
COPIES = GENERATOR.replace(
    '{from: "@repo/web/**", to: "@artifact/"}',
    '{from: "@repo/web/**", to: "@artifact/", exclude: ["*.md", "x"]}\n'
    '        - {from: "@repo/other/a.yaml", to: "@artifact/"}',
)


def explain(*arguments: str, stdin: str = "") -> Result:
    return invoke("explain", *arguments, stdin=stdin)


@pytest.fixture
def rich(shop: Path) -> Path:
    """A generator whose copies do everything that can be told."""
    write(shop, {"shop.yaml": COPIES, "src/other/a.yaml": "c\n"})
    write(shop, {"src/web/b.md": "md", "src/web/.gitignore": "", "src/web/sub/.gitignore": ""})
    return shop


@pytest.mark.usefixtures("rich")
class TestAnswers:
    def test_an_artifact(self) -> None:
        result = explain("web", *SOURCE)

        assert result.exit_code == 0
        assert result.stdout == (
            "apps/web: 2 files, 4 B\n"
            "copy[0]: @repo/web/** to @artifact/\n"
            "  matched 4 entries: 5 files, 6 B\n"
            "  exclude[0] '*.md' took away 1 file\n"
            "  exclude[1] 'x' took away nothing\n"
            "  left out 2 files (.gitignore, sub/.gitignore)\n"
            "  1 of the artifact's files come from it\n"
            "copy[1]: @repo/other/a.yaml to @artifact/\n"
            "  matched 1 entry: 1 file, 2 B\n"
            "  replaced 1 file (a.yaml) of copy[0]\n"
            "  1 of the artifact's files come from it\n"
        )

    @pytest.mark.parametrize("target", ["web/a.yaml", "apps/web/a.yaml", "web/./a.yaml/"])
    def test_a_file(self, target: str) -> None:
        result = explain(target, *SOURCE)

        assert result.exit_code == 0
        assert result.stdout == (
            "apps/web/a.yaml: 2 B, from copy[1]\n"
            "\n"
            "COPY      EFFECT     SOURCE              WHY\n"
            "copy[0]   placed     repo:web/a.yaml     -\n"
            "copy[1]   replaced   repo:other/a.yaml   -\n"
        )

    def test_an_executable_file(self) -> None:
        assert explain("web/sub/run.sh", *SOURCE).stdout.startswith(
            "apps/web/sub/run.sh: 2 B, executable, from copy[0]\n"
        )

    def test_a_directory(self) -> None:
        assert explain("web/sub", *SOURCE).stdout.startswith("apps/web/sub: a directory, 1 file, 2 B, from copy[0]\n")

    def test_a_directory_that_nobody_copied(self) -> None:
        write(Path(), {"shop.yaml": GENERATOR.replace("@artifact/", "@artifact/deep/er/")})

        result = explain("web/deep", *SOURCE)

        assert (result.exit_code, result.stdout) == (
            0,
            "apps/web/deep: a directory, 3 files, 6 B, there for what is in it\n",
        )

    def test_an_excluded_file(self) -> None:
        result = explain("web/b.md", *SOURCE)

        assert result.exit_code == 1
        assert result.stdout == (
            "apps/web/b.md: not in the artifact\n"
            "\n"
            "COPY      EFFECT     SOURCE          WHY\n"
            "copy[0]   excluded   repo:web/b.md   exclude[0] '*.md'\n"
        )

    def test_a_file_that_is_left_out(self) -> None:
        result = explain("web/sub/.gitignore", *SOURCE)

        assert result.exit_code == 1
        assert "left out   repo:web/sub/.gitignore   archives never hold '.gitignore'\n" in result.stdout

    def test_a_typing_error(self) -> None:
        result = explain("web/sub/runn.sh", *SOURCE)

        assert result.exit_code == 1
        assert result.stdout.startswith("apps/web/sub/runn.sh: not in the artifact (did you mean 'sub/run.sh'?)\n")
        assert "'web/sub' of source 'repo' has no 'runn.sh' (did you mean 'web/sub/run.sh'?)\n" in result.stdout

    def test_a_place_where_no_copy_goes(self) -> None:
        write(Path(), {"shop.yaml": GENERATOR.replace("@artifact/", "@artifact/deep/")})

        result = explain("web/nothing", *SOURCE)

        assert result.exit_code == 1
        assert result.stdout == (
            "apps/web/nothing: not in the artifact\nno copy would place it:\n  @repo/web/** to @artifact/deep/\n"
        )

    def test_an_artifact_that_fails(self) -> None:
        write(Path(), {"shop.yaml": COPIES.replace("other/a.yaml", "nope")})

        result = explain("web/a.yaml", *SOURCE)

        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1] == "✗ apps/web: copy from '@repo/nope': source 'nope' does not exist"
        assert result.stdout == (
            "copy[0]: @repo/web/** to @artifact/\n"
            "  matched 4 entries: 5 files, 6 B\n"
            "  exclude[0] '*.md' took away 1 file\n"
            "  exclude[1] 'x' took away nothing\n"
            "copy[1]: @repo/nope to @artifact/\n"
            "  matched nothing\n"
        )

    def test_an_artifact_without_its_source(self) -> None:
        result = explain("web", "shop.yaml")

        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            "✗ apps/web: source 'repo': no location for Bucket/apps/monorepo (--source repo=LOCATION)\n"
        )

    def test_an_artifact_with_a_wrong_copy(self) -> None:
        write(Path(), {"shop.yaml": GENERATOR.replace("@repo/web/**", "@repo/[")})

        result = explain("web", *SOURCE)

        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("✗ apps/web: shop.yaml:10:12: spec.artifacts[0].copy[0].from: ")

    def test_json(self) -> None:
        told = json.loads(explain("web/b.md", *SOURCE, "-o", "json").stdout)

        assert told.pop("copies")[0] == {
            "index": 0,
            "from": "@repo/web/**",
            "to": "@artifact/",
            "strategy": "Overwrite",
            "matches": 4,
            "files": 5,
            "size": 6,
            "excluded": [{"exclude": "*.md", "files": 1}, {"exclude": "x", "files": 0}],
            "leftOut": [".gitignore", "sub/.gitignore"],
            "replaced": [],
            "kept": 1,
        }
        assert told == {
            "namespace": "apps",
            "name": "web",
            "dialect": "documented",
            "error": None,
            "files": 2,
            "size": 4,
            "path": {
                "path": "b.md",
                "type": None,
                "size": None,
                "copy": None,
                "steps": [
                    {"copy": 0, "effect": "excluded", "source": "web/b.md", "reason": "exclude[0] '*.md'"},
                ],
                "similar": None,
            },
        }

    def test_json_without_a_path(self) -> None:
        assert json.loads(explain("web", *SOURCE, "-o", "json").stdout)["path"] is None

    def test_a_name_cannot_steer_the_terminal(self) -> None:
        write(Path(), {"src/web/\x1b[2J": ""})

        assert explain("web/\x1b[2J", *SOURCE).stdout.startswith("apps/web/\\x1b[2J: 0 B, from copy[0]\n")

    def test_the_longest_name_is_meant(self) -> None:
        two = GENERATOR.replace("name: shop", "name: two").replace("name: web", "name: apps")
        write(Path(), {"two.yaml": two, "src/web/web/a.yaml": ""})

        assert explain("apps/web/a.yaml", "two.yaml", *SOURCE).stdout.startswith("apps/web/a.yaml: ")
        assert explain("apps/apps/web/a.yaml", "two.yaml", *SOURCE).stdout.startswith("apps/apps/web/a.yaml: ")

    def test_a_name_in_two_namespaces(self) -> None:
        write(Path(), {"two.yaml": GENERATOR.replace("namespace: apps", "namespace: other")})

        result = explain("web", "two.yaml", *SOURCE)

        assert result.exit_code == 2
        assert result.stderr.endswith("✗ artifact 'web' is in several namespaces ('apps/web' or 'other/web')\n")
        assert explain("other/web", "two.yaml", *SOURCE).exit_code == 0

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            pytest.param(["wbe", *SOURCE], "✗ no artifact 'wbe' (did you mean 'web'?)", id="a typing error"),
            pytest.param(["zzz", *SOURCE], "✗ no artifact 'zzz' (there are: web)", id="no such artifact"),
            pytest.param(
                ["web/../../x", *SOURCE], "✗ 'web/../../x' leads out of the artifact (a path below it)", id="out"
            ),
            pytest.param(["web", "src"], "✗ src: no ArtifactGenerator in it", id="no generator"),
            pytest.param([], "✗ Missing argument 'ARTIFACT[/PATH]' (see 'sluice explain --help')", id="no argument"),
        ],
    )
    def test_what_cannot_be_told(self, arguments: list[str], words: str) -> None:
        result = explain(*arguments)

        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.splitlines()[-1] == words

    def test_the_current_directory_has_the_manifests(self) -> None:
        assert explain("web", "-s", "repo=src").exit_code == 0

    def test_standard_input(self) -> None:
        assert explain("web", "-", "-s", "repo=src", stdin=COPIES).stdout.startswith("apps/web: 2 files, 4 B\n")


def test_path_pattern(shop: Path) -> None:
    text = GENERATOR.replace("  artifacts:", '  pathPattern: "@repo/{app}"\n  artifacts:')
    write(shop, {"shop.yaml": text.replace("name: web", 'name: "x-{app}"').replace("@repo/web", "@repo/{app}")})

    assert explain("x-web/a.yaml", *SOURCE).stdout.startswith("apps/x-web/a.yaml: 2 B, from copy[0]\n")


# As a process


@pytest.mark.parametrize(
    ("target", "code"),
    [
        pytest.param("web/a.yaml", 0, id="in the artifact"),
        pytest.param("web/x", 1, id="not in it"),
        pytest.param("x", 2, id="no such artifact"),
    ],
)
def test_the_exit_code(shop: Path, target: str, code: int) -> None:
    with process("explain", target, *SOURCE, directory=shop) as running:
        out, words = running.communicate()

    assert running.returncode == code
    assert "\x1b" not in out + words
    assert "Traceback" not in words


@pytest.mark.parametrize("columns", ["20", "200"])
def test_a_terminal_of_any_width(shop: Path, columns: str) -> None:
    seen = on_terminal(shop, "explain", "web/a.yaml", *SOURCE, COLUMNS=columns)

    assert "COPY      EFFECT   SOURCE            WHY\r\ncopy[0]   placed   repo:web/a.yaml   -\r\n" in seen
    assert "\x1b[36m►\x1b[0m Bucket/apps/monorepo: src at latest@sha256:" in seen


def test_a_terminal_that_wants_no_colour(shop: Path) -> None:
    assert "\x1b" not in on_terminal(shop, "explain", "web/x", *SOURCE, NO_COLOR="1")


def test_a_closed_pipe(shop: Path) -> None:
    with process("explain", "web", *SOURCE, "-o", "json", directory=shop) as running:
        assert running.stdout is not None
        running.stdout.close()
        running.stdout = None
        _, words = running.communicate()

    assert running.returncode == 141
    assert "Traceback" not in words


def test_interrupted(shop: Path) -> None:
    os.mkfifo(shop / "slow.yaml")

    with process("explain", "web", "slow.yaml", directory=shop) as running:
        with (shop / "slow.yaml").open("wb"):
            running.send_signal(signal.SIGINT)
            words = running.communicate()

    assert words == ("", "✗ interrupted\n")
    assert running.returncode == 130
