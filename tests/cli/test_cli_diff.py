"""What `sluice diff` says of two sides, and how it ends."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from tests.cli.running import REPOSITORY_URL, git, invoke, make_repository, process, write
from tests.cli.test_real_build import cases
from tests.cli.test_terminal import on_terminal

from sluice.cache import UnpackedCache
from sluice.cli.locate import Locator, parse_locations
from sluice.cli.manifests import declare, read_manifests
from sluice.cli.workshop import Known, Workshop
from sluice.core.dialect import DialectName
from sluice.core.tree import Directory, File

SOURCE = f"""\
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {{name: shop, namespace: apps}}
spec: {{url: "{REPOSITORY_URL}"}}
"""
GENERATOR = """\
apiVersion: source.extensions.fluxcd.io/v1beta1
kind: ArtifactGenerator
metadata: {name: shop, namespace: apps}
spec:
  sources: [{alias: repo, kind: GitRepository, name: shop}]
  artifacts:
    - {name: web, copy: [{from: "@repo/web/**", to: "@artifact/"}]}
    - {name: api, copy: [{from: "@repo/api/**", to: "@artifact/"}]}
"""
CONSUMERS = """\
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: web, namespace: apps}
spec: {sourceRef: {kind: ExternalArtifact, name: web}}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: api, namespace: other}
spec: {chartRef: {kind: ExternalArtifact, name: api, namespace: apps}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: elsewhere, namespace: other}
spec: {sourceRef: {kind: ExternalArtifact, name: web}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: whole, namespace: apps}
spec: {sourceRef: {kind: GitRepository, name: web}}
"""
FILES = {
    "flux/source.yaml": SOURCE,
    "flux/generator.yaml": GENERATOR,
    "flux/apps.yaml": CONSUMERS,
    "web/a.yaml": "1\n2\n",
    "web/sub/b.yaml": "b\n",
    "api/c.yaml": "c\n",
}


def diff(*arguments: str, stdin: str = "") -> Result:
    return invoke("diff", *arguments, stdin=stdin)


def diff_json(*arguments: str) -> dict[str, Any]:
    result = diff(*arguments, "-o", "json")
    assert result.exit_code in (0, 1), result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def states(*arguments: str) -> dict[str, str]:
    return {one["name"]: one["state"] for one in diff_json(*arguments)["artifacts"]}


@pytest.fixture
def repository(here: Path) -> Path:
    """The current directory, a checkout without changes."""
    write(here, FILES)
    make_repository(here)
    return here


@pytest.mark.usefixtures("repository")
class TestRevisions:
    def test_nothing_changed(self) -> None:
        result = diff("flux")

        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.splitlines()[-1] == "✔ HEAD to working tree: no difference in 2 artifacts"

    def test_the_working_tree_is_compared_with_the_last_commit(self) -> None:
        write(Path(), {"web/a.yaml": "1\n3\n", "web/new.yaml": "n\n"})
        Path("web/sub/b.yaml").unlink()

        result = diff("flux")

        assert result.exit_code == 1
        assert result.stdout == (
            "NAMESPACE   NAME   STATE     FILES\n"
            "apps        web    changed   1 added, 1 removed, 1 modified\n"
            "\n"
            "apps/web\n"
            "  modified   a.yaml\n"
            "  added      new.yaml\n"
            "  removed    sub/b.yaml\n"
            "\n"
            "KIND            NAMESPACE   NAME   ARTIFACT   ROLLS OUT\n"
            "Kustomization   apps        web    apps/web   yes\n"
            "HelmRelease     other       api    apps/api   no\n"
        )
        assert result.stderr.splitlines()[-1] == "► HEAD to working tree: 1 of 2 artifacts differs: 1 changed"

    def test_two_commits(self) -> None:
        write(Path(), {"api/c.yaml": "d\n"})
        git(Path(), "commit", "--quiet", "--all", "--message", "change")
        write(Path(), {"web/a.yaml": "not asked for"})

        told = diff_json("flux", "--from", "HEAD~1", "--to", "HEAD")

        assert (told["from"], told["to"], told["differs"]) == ("HEAD~1", "HEAD", True)
        assert [(one["name"], one["state"]) for one in told["artifacts"]] == [("web", "unchanged"), ("api", "changed")]

    def test_from_another_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write(Path(), {"web/a.yaml": ""})
        monkeypatch.chdir("api")

        assert states("../flux") == {"web": "changed", "api": "unchanged"}

    def test_the_manifests_are_those_of_the_commit(self) -> None:
        text = GENERATOR.replace("name: api", "name: backend")
        write(Path(), {"flux/generator.yaml": text})

        assert states("flux") == {"web": "unchanged", "backend": "new", "api": "gone"}

    def test_a_manifest_that_was_not_there(self) -> None:
        write(Path(), {"new/generator.yaml": GENERATOR.replace("namespace: apps", "namespace: other")})
        write(Path(), {"new/source.yaml": SOURCE.replace("namespace: apps", "namespace: other")})

        assert states("new") == {"web": "new", "api": "new"}

    def test_manifests_that_are_gone(self) -> None:
        Path("flux/generator.yaml").unlink()

        told = diff_json("flux")

        assert {one["name"]: one["state"] for one in told["artifacts"]} == {"web": "gone", "api": "gone"}
        assert [(one["name"], one["rollsOut"], one["artifactState"]) for one in told["consumers"]] == [
            ("api", False, "gone"),
            ("web", False, "gone"),
        ]

    def test_a_location_in_the_checkout_is_that_of_the_commit(self) -> None:
        write(Path(), {"src/web/x": "x", "src/api/x": "x"})
        git(Path(), "add", ".")
        git(Path(), "commit", "--quiet", "--message", "add")
        write(Path(), {"src/web/x": "y"})

        assert states("flux", "--source", "repo=src") == {"web": "changed", "api": "unchanged"}
        assert states("flux", "--source", "repo=.") == {"web": "unchanged", "api": "unchanged"}

    def test_a_location_that_the_commit_has_not(self) -> None:
        write(Path(), {"src/web/x": "x", "src/api/x": "x"})

        result = diff("flux", "--source", "repo=src")

        assert result.exit_code == 1
        assert "⚠ apps/web cannot be built from HEAD: source 'repo': 'src' is not in HEAD" in result.stderr.splitlines()

    def test_standard_input_is_the_same_on_both_sides(self) -> None:
        write(Path(), {"web/a.yaml": ""})

        result = diff("-", stdin=f"{SOURCE}---\n{GENERATOR}")

        assert result.exit_code == 1
        assert "apps        web    changed" in result.stdout

    def test_what_fails_now(self) -> None:
        for path in ("web/sub/b.yaml", "web/a.yaml"):
            Path(path).unlink()

        result = diff("flux")

        assert result.exit_code == 1
        assert "apps        web    failing   -\n" in result.stdout
        assert "Kustomization   apps        web    apps/web   no\n" in result.stdout
        words = "✗ apps/web: copy from '@repo/web/**': no files match pattern 'web/**' in source 'repo'"
        assert words in result.stderr.splitlines()

    def test_what_failed_before_is_new(self) -> None:
        git(Path(), "mv", "web", "elsewhere")
        git(Path(), "commit", "--quiet", "--message", "move")
        git(Path(), "mv", "elsewhere", "web")

        result = diff("flux", "-o", "json")

        assert json.loads(result.stdout)["artifacts"][0]["state"] == "new"
        assert result.stderr.splitlines()[-2] == (
            "⚠ apps/web cannot be built from HEAD: "
            "copy from '@repo/web/**': no files match pattern 'web/**' in source 'repo'"
        )

    def test_one_artifact(self) -> None:
        write(Path(), {"web/a.yaml": "", "api/c.yaml": ""})

        assert states("flux", "-a", "api") == {"api": "changed"}
        assert states("flux", "-a", "apps/api") == {"api": "changed"}

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            pytest.param(["flux", "--from", "nope"], "✗ '.': no branch, tag or commit 'nope'", id="no revision"),
            pytest.param(["flux", "--from=-x"], "✗ '-x' is not a URL, path or revision", id="an option as revision"),
            pytest.param(["nowhere", "--to", "HEAD"], "✗ nowhere: no ArtifactGenerator in it", id="no manifest"),
            pytest.param(["flux", "-a", "x"], "✗ --artifact: no artifact 'x' on either side", id="no such artifact"),
            pytest.param(["flux", "--against", "x"], "✗ 'x' does not exist", id="nothing published"),
            pytest.param(["flux", "--against", "flux/apps.yaml"], "✗ 'flux/apps.yaml' is not a directory", id="a file"),
            pytest.param(["flux", "--against", "x", "--from", "HEAD"], "✗ --against is a side", id="two other sides"),
            pytest.param(["flux", "--from-source", "repo"], "✗ --source: 'repo' has no location", id="a bad source"),
            pytest.param(["flux", "-n", "A"], "✗ Invalid value for --namespace: 'A'", id="a bad namespace"),
            pytest.param([], "✗ Missing argument 'MANIFEST...'", id="no argument"),
        ],
    )
    def test_what_cannot_be_compared(self, arguments: list[str], words: str) -> None:
        result = diff(*arguments)

        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.splitlines()[-1].startswith(words)

    def test_a_wrong_manifest_at_the_commit(self) -> None:
        write(Path(), {"flux/generator.yaml": GENERATOR.replace("kind: GitRepository", "kind: Git")})
        git(Path(), "commit", "--quiet", "--all", "--message", "break")
        write(Path(), {"flux/generator.yaml": GENERATOR})

        result = diff("flux")

        assert result.exit_code == 2
        assert result.stderr.startswith("✗ HEAD:flux/generator.yaml:5:")


def test_without_a_checkout(shop: Path) -> None:
    result = diff("shop.yaml", "--source", "repo=src")

    assert result.exit_code == 2
    assert result.stderr == (
        "✗ shop.yaml: not in a git checkout (--against, --from-manifest or --from-source names another side)\n"
    )


def test_the_consumers_of_another_cluster_are_its_own(here: Path) -> None:
    for cluster in ("one", "two"):
        generator, consumer = f"clusters/{cluster}/generator.yaml", f"clusters/{cluster}/apps/web.yaml"
        write(
            here,
            {generator: GENERATOR, consumer: CONSUMERS.replace("name: web, namespace", f"name: {cluster}, namespace")},
        )
    write(here, FILES)
    make_repository(here)
    write(here, {"web/a.yaml": ""})

    told = diff_json("clusters/two", "flux/source.yaml")

    assert [one["name"] for one in told["consumers"]] == ["two", "api"]


@pytest.mark.usefixtures("shop")
class TestOtherSides:
    SOURCE = ("--source", "repo=src")

    @pytest.mark.parametrize("option", ["-d", "--archives"])
    def test_what_was_built_does_not_differ(self, option: str) -> None:
        invoke("build", "shop.yaml", *self.SOURCE, option, "out")

        result = diff("shop.yaml", *self.SOURCE, "--against", "out")

        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.splitlines()[-1] == "✔ out to working tree: no difference in 1 artifact"

    @pytest.mark.parametrize("option", ["-d", "--archives"])
    def test_what_was_built_before(self, option: str) -> None:
        two = Path("shop.yaml").read_text() + '    - {name: api, copy: [{from: "@repo/", to: "@artifact/"}]}\n'
        write(Path(), {"two.yaml": two})
        invoke("build", "two.yaml", *self.SOURCE, option, "out")
        write(Path(), {"src/web/a.yaml": "changed"})

        assert states("shop.yaml", *self.SOURCE, "--against", "out") == {"web": "changed", "api": "gone"}
        assert states("shop.yaml", *self.SOURCE, "--against", "out", "-a", "web") == {"web": "changed"}

    def test_a_directory_that_is_served(self) -> None:
        arguments = ("serve", ".", *self.SOURCE, "--storage-addr", "127.0.0.1:0")
        with process(*arguments, directory=Path(), stdout=subprocess.DEVNULL) as running:
            assert running.stderr is not None
            published = next((line for line in running.stderr if line.startswith("✔ apps/web ")), None)
            running.terminate()
            running.communicate()
        assert published is not None

        assert states("shop.yaml", *self.SOURCE, "--against", ".") == {"web": "unchanged"}
        write(Path(), {"src/web/a.yaml": "changed"})
        assert states("shop.yaml", *self.SOURCE, "--against", ".") == {"web": "changed"}

    def test_a_missing_archive(self) -> None:
        invoke("build", "shop.yaml", *self.SOURCE, "--archives", "out")
        (archive,) = Path("out").rglob("*.tar.gz")
        archive.unlink()

        result = diff("shop.yaml", *self.SOURCE, "--against", "out")

        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1] == "✗ 'out/externalartifact/apps/web.yaml': its archive is not there"

    def test_an_archive_elsewhere_is_not_read(self) -> None:
        invoke("build", "shop.yaml", *self.SOURCE, "--archives", "out")
        manifest = Path("out/externalartifact/apps/web.yaml")
        (archive,) = Path("out").rglob("*.tar.gz")
        archive.rename("stolen.tar.gz")
        path = f"externalartifact/apps/web/{archive.name}"
        manifest.write_text(manifest.read_text().replace(path, "externalartifact/apps/web/../../../../stolen.tar.gz"))

        assert diff("shop.yaml", *self.SOURCE, "--against", "out").exit_code == 2

    def test_two_locations_of_a_source(self) -> None:
        write(Path(), {"old/web/a.yaml": "a\n"})

        told = diff_json("shop.yaml", "--from-source", "repo=old", "--to-source", "repo=src")

        (web,) = told["artifacts"]
        assert [(file["change"], file["path"]) for file in web["files"]] == [("added", "sub/run.sh")]

    def test_two_manifests(self) -> None:
        write(Path(), {"old.yaml": Path("shop.yaml").read_text().replace("@repo/web/**", "@repo/web/*.yaml")})

        assert states("shop.yaml", "--from-manifest", "old.yaml", *self.SOURCE) == {"web": "changed"}


@pytest.mark.usefixtures("shop")
class TestForms:
    BOTH = ("shop.yaml", "--from-source", "repo=old", "--to-source", "repo=src")

    def patch(self, old: bytes | None, new: bytes | None) -> str:
        write(Path(), {"old/web/keep": "", "src/web/keep": ""})
        for place, data in (("old", old), ("src", new)):
            if data is not None:
                write(Path(), {f"{place}/web/f": data})
        for path in ("src/web/a.yaml", "src/web/sub/run.sh"):
            Path(path).unlink()
        told = diff_json(*self.BOTH, "--patch")
        (file,) = told["artifacts"][0]["files"]
        assert isinstance(file["patch"], str)
        return file["patch"]

    @pytest.mark.parametrize(
        ("old", "new", "patch"),
        [
            pytest.param(
                b"a\n",
                b"b\n",
                "--- a/apps/web/f\n+++ b/apps/web/f\n@@ -1 +1 @@\n-a\n+b\n",
                id="another text",
            ),
            pytest.param(None, b"b\n", "--- /dev/null\n+++ b/apps/web/f\n@@ -0,0 +1 @@\n+b\n", id="a new file"),
            pytest.param(b"a\n", None, "--- a/apps/web/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", id="a file that goes"),
            pytest.param(None, b"", "", id="an empty file"),
            pytest.param(
                b"a\n", b"\0", "Files a/apps/web/f and b/apps/web/f differ (binary, 1 B)\n", id="a binary file"
            ),
            pytest.param(
                b"x" * (1 << 20),
                b"b\n",
                "Files a/apps/web/f and b/apps/web/f differ (too large to show, 1.0 MiB)\n",
                id="a large file",
            ),
            pytest.param(
                b"a\n" * 6000,
                b"b\n" * 6000,
                "Files a/apps/web/f and b/apps/web/f differ (too many lines to compare)\n",
                id="many lines",
            ),
            pytest.param(
                None,
                "\t\x1b[31m\r\u202e\n".encode(),
                "--- /dev/null\n+++ b/apps/web/f\n@@ -0,0 +1 @@\n+\t\\x1b[31m\\r\\u202e\n",
                id="control characters",
            ),
        ],
    )
    def test_a_patch(self, old: bytes | None, new: bytes | None, patch: str) -> None:
        assert self.patch(old, new) == f"diff a/apps/web/f b/apps/web/f\n{patch}"

    def test_the_executable_bit(self) -> None:
        write(Path(), {"old/web/a.yaml": "a\n", "old/web/sub/run.sh": "b\n"})

        result = diff(*self.BOTH, "--patch")

        assert result.stdout == (
            "NAMESPACE   NAME   STATE     FILES\n"
            "apps        web    changed   1 modified\n"
            "\n"
            "diff a/apps/web/sub/run.sh b/apps/web/sub/run.sh\n"
            "old mode 0600\n"
            "new mode 0700\n"
        )
        assert "  modified   sub/run.sh (executable now)\n" in diff(*self.BOTH).stdout

    def test_an_empty_directory(self) -> None:
        write(Path(), {"old/web/a.yaml": "a\n", "old/web/sub/run.sh": "b\n"})
        Path("old/web/sub/run.sh").chmod(0o755)
        write(Path(), {"old/web/empty/x.md": ""})
        write(Path(), {"shop.yaml": Path("shop.yaml").read_text().replace('/"}', '/", exclude: ["*.md"]}')})

        assert "  removed    empty/\n" in diff(*self.BOTH).stdout
        assert "Only in a/apps/web/empty: an empty directory\n" in diff(*self.BOTH, "-p").stdout

    def test_a_patch_can_be_applied(self) -> None:
        write(Path(), {"old/web/a.yaml": "x\n" * 20, "old/web/gone.txt": "no newline", "old/web/sub/run.sh": "c\n"})
        Path("old/web/sub/run.sh").chmod(0o755)
        for side in ("old", "src"):
            invoke("build", "shop.yaml", "--source", f"repo={side}", "-d", side[0])
        patch = diff(*self.BOTH, "-p").stdout.partition("\n\n")[2]

        subprocess.run(["git", "apply", "--directory=o"], input=patch.encode(), check=True)

        assert {path: path.read_text() for path in Path("o").rglob("web/**/*.*")} == {
            Path("o") / path.relative_to("s"): path.read_text() for path in Path("s").rglob("web/**/*.*")
        }

    def test_yaml_says_the_same_as_json(self) -> None:
        write(Path(), {"old/web/a.yaml": ""})

        told = diff_json(*self.BOTH, "-p")

        assert yaml.safe_load(diff(*self.BOTH, "-p", "-o", "yaml").stdout) == told
        assert sorted(told["artifacts"][0]) == [
            "after",
            "before",
            "error",
            "files",
            "generator",
            "name",
            "namespace",
            "state",
        ]

    def test_markdown(self) -> None:
        write(Path(), {"old/web/a.yaml": "```\n", "old/web/sub/run.sh": "b\n", "apps.yaml": CONSUMERS})
        Path("old/web/sub/run.sh").chmod(0o755)

        result = diff(*self.BOTH, "apps.yaml", "-p", "-o", "markdown")

        assert result.exit_code == 1
        assert result.stdout == (
            "**Artifacts: 1 of 1 artifacts differs: 1 changed**\n"
            "\n"
            "| Artifact | State | Files |\n"
            "| --- | --- | --- |\n"
            "| `apps/web` | changed | 1 modified |\n"
            "\n"
            "Rolls out: `Kustomization/apps/web`\n"
            "\n"
            "<details><summary>apps/web: 1 modified</summary>\n"
            "\n"
            "````diff\n"
            "diff a/apps/web/a.yaml b/apps/web/a.yaml\n"
            "--- a/apps/web/a.yaml\n"
            "+++ b/apps/web/a.yaml\n"
            "@@ -1 +1 @@\n"
            "-```\n"
            "+a\n"
            "````\n"
            "\n"
            "</details>\n"
        )

    def test_markdown_that_would_be_too_long_for_a_comment(self) -> None:
        write(Path(), {f"old/web/`{number}|": "x" * 3000 for number in range(30)})

        lines = diff(*self.BOTH, "-p", "-o", "markdown").stdout.splitlines()

        assert "- removed `` `0| ``" in lines
        assert "- and 12 more" in lines
        assert "The patch is too long for a comment." in lines

    def test_markdown_without_a_difference(self) -> None:
        result = diff("shop.yaml", "--from-source", "repo=src", "--to-source", "repo=src", "-o", "markdown")

        assert (result.exit_code, result.stdout) == (0, "**Artifacts: no difference in 1 artifact**\n")

    def test_an_error_in_markdown(self) -> None:
        write(Path(), {"old/web/a.yaml": ""})

        result = diff("shop.yaml", "--from-source", "repo=old", "--to-source", "repo=a|b", "-o", "markdown")

        cell = "source 'repo': 'a\\|b' does not exist and is not a directory, .tar.gz, OCI layout or git repository"
        assert f"| `apps/web` | failing | `{cell}` |\n" in result.stdout


def test_only_what_differs_is_composed_twice(here: Path) -> None:
    archive = here / "x.tgz"
    artifacts = "\n".join(
        f'    - {{name: {name}, copy: [{{from: "@repo/{name}/x.tgz", to: "@artifact/", strategy: Extract}}]}}'
        for name in "abc"
    )
    write(here, {"g.yaml": GENERATOR.partition("    - {name")[0] + artifacts})
    archive.write_bytes(b"")
    for side in ("old", "new"):
        write(here, {f"{side}/{name}/x.tgz": f"{name}" for name in "abc"})
    write(here, {"new/b/x.tgz": "other"})
    unpacked: list[bytes] = []

    def unpack(file: File) -> Directory:
        unpacked.append(file.read())
        return Directory.of({"f": file.read()})

    known = Known()
    for side in ("old", "new"):
        read = read_manifests(["g.yaml"])
        declared = declare(read, {}, "default")
        locator = Locator(parse_locations([f"repo={side}"]), read, {}, UnpackedCache(), lambda *_: None)
        workshop = Workshop(declared, locator, unpack, DialectName.DOCUMENTED, known=known)
        for item in workshop.plan():
            assert all(built.error is None for built in workshop.builds(item))

    assert unpacked == [b"a", b"b", b"c", b"other"]


def test_recorded_changes_of_real_repositories(shared: Path) -> None:
    found = {(directory, case["id"]): case for directory, case in cases(shared)}
    count = 0
    for (directory, name), case in found.items():
        if "previous" not in case:
            continue
        before = found[directory, case["previous"]]
        options = []
        for option, side in (("--from-source", before), ("--to-source", case)):
            for source in side["sources"]:
                key = f"{source['kind']}/{source['namespace']}/{source['name']}"
                options += [option, f"{key}={directory / source['tarball']}"]
        old, new = (str(directory / side["generators"]) for side in (before, case))

        told = diff_json(new, "--from-manifest", old, "--dialect", "upstream", *options)

        by_state: dict[str, list[str]] = {"changed": [], "new": [], "gone": [], "unchanged": []}
        for one in told["artifacts"]:
            by_state[one["state"]].append(f"{one['namespace']}/{one['name']}")
        wanted = [case["changed"], case["added"], case["removed"]]
        assert [sorted(by_state[state]) for state in ("changed", "new", "gone")] == wanted, name
        count += 1
    if not count:
        pytest.skip("there are no recorded repositories in ../shared/real")


def test_a_build_of_a_real_repository_does_not_differ(shared: Path, here: Path) -> None:
    for number, (directory, case) in enumerate(cases(shared)):
        options = [str(directory / case["generators"]), "--dialect", "upstream"]
        for source in case["sources"]:
            key = f"{source['kind']}/{source['namespace']}/{source['name']}"
            options += ["--source", f"{key}={directory / source['tarball']}"]
        invoke("build", *options, "-d", f"{number}")

        result = diff(*options, "--against", f"{number}")

        assert (result.exit_code, result.stdout) == (0, ""), case["id"]


# As a process


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["--from-source", "repo=src"], 0, id="no difference"),
        pytest.param(["--from-source", "repo=old"], 1, id="a difference"),
        pytest.param(["--against", "nowhere"], 2, id="an error"),
    ],
)
def test_the_exit_code(shop: Path, arguments: list[str], code: int) -> None:
    write(shop, {"old/web/a.yaml": ""})

    with process("diff", "shop.yaml", "--source", "repo=src", *arguments, directory=shop) as running:
        out, words = running.communicate()

    assert running.returncode == code
    assert "\x1b" not in out + words
    assert "Traceback" not in words


CHANGED = ("diff", "shop.yaml", "--from-source", "repo=old", "--to-source", "repo=src")


@pytest.mark.parametrize("columns", ["20", "200"])
def test_a_terminal_of_any_width(shop: Path, columns: str) -> None:
    write(shop, {"old/web/a.yaml": ""})

    seen = on_terminal(shop, *CHANGED, COLUMNS=columns)

    assert "NAMESPACE   NAME   STATE     FILES\r\napps        web    changed   1 added, 1 modified\r\n" in seen
    assert "\x1b[36m►\x1b[0m working tree to working tree: 1 of 1 artifacts differs: 1 changed\r\n" in seen


def test_a_terminal_that_wants_no_colour(shop: Path) -> None:
    write(shop, {"old/web/a.yaml": ""})

    assert "\x1b" not in on_terminal(shop, *CHANGED, NO_COLOR="1")


def test_a_closed_pipe(shop: Path) -> None:
    write(shop, {"old/web/a.yaml": ""})

    with process(*CHANGED, "-o", "json", directory=shop) as running:
        assert running.stdout is not None
        running.stdout.close()
        running.stdout = None
        _, words = running.communicate()

    assert running.returncode == 141
    assert "Traceback" not in words


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_no_answer(shop: Path) -> None:
    write(shop, {"old/web/a.yaml": ""})

    with Path("/dev/full").open("w") as full, process(*CHANGED, directory=shop, stdout=full) as running:
        running.communicate()

    assert running.returncode == 2


def test_interrupted(shop: Path) -> None:
    os.mkfifo(shop / "slow.yaml")

    with process("diff", "slow.yaml", "--from-source", "repo=src", directory=shop) as running:
        with (shop / "slow.yaml").open("wb"):
            running.send_signal(signal.SIGINT)
            words = running.communicate()

    assert words == ("", "✗ interrupted\n")
    assert running.returncode == 130


def test_help(here: Path) -> None:
    out = on_terminal(here, "diff", "--help", COLUMNS="60")

    assert "--from REVISION" in out
    assert max(map(len, out.splitlines())) <= 80
