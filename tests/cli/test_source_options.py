"""Where the files of a source come from."""

import json
import tarfile
from pathlib import Path

import pytest
from tests.cli.running import GENERATOR, REPOSITORY_URL, build, build_json, git, make_repository, write

FROM_GIT = GENERATOR.replace("kind: Bucket", "kind: GitRepository")


def repository(url: str = REPOSITORY_URL, *, more: str = "", namespace: str = "namespace: apps") -> str:
    return f"""\
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {{name: monorepo, {namespace}}}
spec:
  url: {url}
{more}
---
"""


def paths(*arguments: str) -> list[str]:
    (artifact,) = build_json(*arguments)
    assert artifact["ok"], artifact["error"]
    return [file["path"] for file in artifact["files"] if file["type"] == "file"]


class TestGiven:
    @pytest.mark.parametrize("key", ["repo", "Bucket/monorepo", "Bucket/apps/monorepo"])
    def test_by(self, shop: Path, key: str) -> None:
        assert paths("shop.yaml", "--source", f"{key}=src") == ["a.yaml", "sub/run.sh"]

    def test_the_key_that_says_most_wins(self, shop: Path) -> None:
        write(shop, {"alias/web/1": "", "name/web/2": "", "full/web/3": ""})
        given = ["repo=alias", "Bucket/monorepo=name", "Bucket/apps/monorepo=full"]

        for count, expected in ((1, "1"), (2, "2"), (3, "3")):
            options = [option for value in given[:count] for option in ("--source", value)]
            assert paths("shop.yaml", *options) == [expected]

    def test_a_key_of_another_namespace_does_not_fit(self, shop: Path) -> None:
        result = build("shop.yaml", "--source", "Bucket/other/monorepo=src")

        assert result.exit_code == 1
        assert result.stderr.splitlines() == [
            "⚠ --source Bucket/other/monorepo: no generator has such a source (aliases: repo)",
            "✗ apps/web: source 'repo': no location for Bucket/apps/monorepo (--source repo=LOCATION)",
            "✗ built 0 of 1 artifacts",
        ]

    def test_an_archive(self, shop: Path) -> None:
        with tarfile.open("src.tar.gz", "w:gz") as archive:
            archive.add("src", ".")

        assert paths("shop.yaml", "--source", "repo=src.tar.gz") == ["a.yaml", "sub/run.sh"]

    def test_a_commit(self, shop: Path) -> None:
        make_repository(shop / "src")
        write(shop, {"src/web/new.yaml": ""})

        assert paths("shop.yaml", "--source", "repo=src@main") == ["a.yaml", "sub/run.sh"]

    def test_a_checkout_as_it_is(self, shop: Path) -> None:
        write(shop, {"shop.yaml": FROM_GIT})
        make_repository(shop / "src")
        write(shop, {"src/web/new.yaml": ""})

        result = build("shop.yaml", "--source", "repo=src", "-o", "json")

        assert result.stderr.startswith("► GitRepository/apps/monorepo: src at main@sha1:")
        assert "-dirty\n" in result.stderr
        assert "new.yaml" in result.stdout

    def test_the_source_object_says_what_to_ignore(self, shop: Path) -> None:
        ignoring = repository(more="  ignore: |\n    sub/\n")
        write(shop, {"shop.yaml": ignoring + FROM_GIT})

        assert paths("shop.yaml", "--source", "repo=src") == ["a.yaml"]

    def test_a_source_is_opened_once(self, shop: Path) -> None:
        two = GENERATOR + '    - {name: two, copy: [{from: "@repo/web/a.yaml", to: "@artifact/"}]}\n'
        write(
            shop, {"shop.yaml": two + "---\n" + GENERATOR.replace("name: shop", "name: other").replace("web\n", "w\n")}
        )

        result = build("shop.yaml", "--source", "repo=src")

        assert result.exit_code == 0
        assert result.stderr.count("►") == 1


class TestCheckout:
    def test_the_object_is_among_the_manifests(self, here: Path) -> None:
        write(here, {"clusters/shop.yaml": repository() + FROM_GIT, "web/a.yaml": "a"})
        make_repository(here)

        result = build("clusters", "-o", "name")

        assert result.stderr.startswith("► GitRepository/apps/monorepo: . at main@sha1:")
        assert (result.exit_code, result.stdout) == (0, "apps/web\n")

    def test_the_object_lies_elsewhere_in_the_checkout(self, here: Path) -> None:
        write(here, {"clusters/shop.yaml": FROM_GIT, "flux/sync.yaml": repository(), "web/a.yaml": "a"})
        make_repository(here)

        assert paths("clusters/shop.yaml") == ["a.yaml"]

    def test_the_object_nearest_to_the_manifest_counts(self, here: Path) -> None:
        far, near = repository(more="  ignore: a.yaml"), repository(more="  ignore: b.yaml", namespace="")
        write(
            here, {"a/sync.yaml": far, "b/sync.yaml": near, "b/shop.yaml": FROM_GIT, "web/a.yaml": "", "web/b.yaml": ""}
        )
        make_repository(here)

        assert paths("b/shop.yaml") == ["a.yaml"]

    def test_a_manifest_on_standard_input_is_of_the_current_directory(self, here: Path) -> None:
        write(here, {"web/a.yaml": "a"})
        make_repository(here)

        assert build("-", "-o", "name", stdin=repository() + FROM_GIT).stdout == "apps/web\n"

    def test_templates_in_the_checkout_do_no_harm(self, here: Path) -> None:
        write(here, {"shop.yaml": FROM_GIT, "t.yaml": "kind: GitRepository {{", "s.yaml": repository(), "web/a": "a"})
        make_repository(here)

        assert paths("shop.yaml") == ["a"]

    def test_a_checkout_of_something_else_is_not_used(self, here: Path) -> None:
        write(here, {"shop.yaml": repository("oci://example.com/x") + FROM_GIT, "web/a.yaml": "a"})
        make_repository(here)

        (artifact,) = build_json("shop.yaml")

        error = "source 'repo': no location for GitRepository/apps/monorepo (--source repo=LOCATION)"
        assert artifact["error"] == error

    def test_a_checkout_is_for_git_repositories_only(self, here: Path) -> None:
        write(here, {"shop.yaml": repository() + GENERATOR, "web/a.yaml": "a"})
        make_repository(here)

        (artifact,) = build_json("shop.yaml")

        assert artifact["error"] == "source 'repo': no location for Bucket/apps/monorepo (--source repo=LOCATION)"

    def test_a_variable_in_the_object(self, here: Path) -> None:
        write(here, {"shop.yaml": repository("https://${HOST}/acme/shop") + FROM_GIT, "web/a.yaml": "a"})
        make_repository(here)

        assert paths("shop.yaml", "--var", "HOST=git.example.com") == ["a.yaml"]
        (artifact,) = build_json("shop.yaml")
        assert artifact["error"] == (
            "source 'repo': shop.yaml:5:3: spec.url: variable 'HOST' is not set (--var HOST=VALUE)"
        )


class TestUrl:
    def test_a_range_of_versions(self, here: Path) -> None:
        write(here, {"shop.yaml": repository(more="  ref: {semver: '>1'}") + FROM_GIT})

        (artifact,) = build_json("shop.yaml")

        assert artifact["error"] == f"source 'repo': '{REPOSITORY_URL}': a range of versions is not resolved here"

    @pytest.mark.parametrize(
        ("ref", "revision"),
        [
            pytest.param("", "master", id="nothing, so the default of Flux"),
            pytest.param("  ref: {branch: main}", "main", id="a branch"),
            pytest.param("  ref: {branch: main, tag: v1}", "v1", id="a tag goes before a branch"),
            pytest.param("  ref: {name: refs/heads/x, tag: v1}", "refs/heads/x", id="a name goes before a tag"),
            pytest.param("  ref: {commit: abc, name: refs/heads/x}", "abc", id="a commit goes before all"),
        ],
    )
    def test_the_ref(self, here: Path, monkeypatch: pytest.MonkeyPatch, ref: str, revision: str) -> None:
        # git itself is told to find the URL on this disk.
        write(here / "served", {"web/a.yaml": "a"})
        make_repository(here / "served")
        git(here / "served", "branch", "master")
        git(here / "served", "branch", "x")
        git(here / "served", "tag", "v1")
        for number, (name, value) in enumerate(
            {f"url.file://{here}/served.insteadOf": f"{REPOSITORY_URL}", "protocol.file.allow": "always"}.items()
        ):
            monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", name)
            monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
        monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
        write(here, {"shop.yaml": repository(more=ref) + FROM_GIT})

        result = build("shop.yaml", "-o", "json")

        told = json.loads(result.stdout)["artifacts"][0]
        if revision == "abc":
            assert told["error"] == f"source 'repo': '{REPOSITORY_URL}': no branch or tag 'abc'"
        else:
            assert told["error"] is None
            assert result.stderr.startswith(
                f"► GitRepository/apps/monorepo: {REPOSITORY_URL}@{revision} at {revision}@"
            )
