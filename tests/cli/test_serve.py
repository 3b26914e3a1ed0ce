"""`sluice serve`, as a process over real directories and repositories."""

import io
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.running import environment, git, make_repository, write
from tests.cli.serving import Serve, Served, cpu_seconds, ended, free_port, get, manifest
from tests.e2e.trees import contents_digest, tarball
from tests.e2e.world import eventually

from sluice.core.tar import write_archive
from sluice.core.tree import Directory

FILES = {"src/web/a.yaml": "a\n", "src/web/sub/b.yaml": "b\n", "src/api/c.yaml": "c\n"}
WEB = {"a.yaml": "a\n", "sub/b.yaml": "b\n"}
API = {"c.yaml": "c\n"}
REPO = {"alias": "repo", "kind": "GitRepository", "name": "repo"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory `dir` with a generator, and its source `src`; the current directory of what is started."""
    place = tmp_path / "place"
    write(place, {**FILES, "dir/shop.yaml": manifest()})
    return place


@pytest.fixture
def serve(place: Path) -> Iterator[Serve]:
    """Serves `dir`, with source `repo` in `src` unless flags say otherwise."""
    made: list[Served] = []

    def make(*flags: str, directory: str = "dir", start: bool = True, **more: str) -> Served:
        served = Served(place / directory, *(flags or ("--source=repo=src",)), cwd=place, **more)
        made.append(served)
        return served.start() if start else served

    with ended(made):
        yield make


class TestManifests:
    def test_a_generator_is_served(self, serve: Serve) -> None:
        served = serve()

        served.until_served("web", WEB)
        assert served.artifact("web")["url"].startswith(f"{served.url}/externalartifact/apps/web/")
        assert served.messages() == []

    def test_an_empty_directory_is_served(self, place: Path, serve: Serve) -> None:
        (place / "dir/shop.yaml").unlink()

        served = serve()

        assert served.messages() == []
        assert served.messages("warning") == ["--source repo: no generator has such a source"]

    def test_a_new_manifest_is_taken_up(self, place: Path, serve: Serve) -> None:
        served = serve()

        write(place, {"dir/deep/er/api.yaml": manifest("other", {"api": "@repo/api/**"})})

        served.until_served("api", API)

    def test_an_edited_manifest_is_followed(self, place: Path, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)

        write(place, {"dir/shop.yaml": manifest(artifacts={"api": "@repo/api/**"})})

        served.until_served("api", API)
        served.until_gone("web")
        assert served.generator()["metadata"]["generation"] == 2

    def test_a_deleted_manifest_takes_its_artifacts_along(self, place: Path, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)
        url = served.artifact("web")["url"]

        (place / "dir/shop.yaml").unlink()

        served.until_gone("web")
        eventually("its file is not served", lambda: get(url)[0] == 404)
        eventually("it is gone", lambda: not list((place / "dir/.sluice/artifactgenerators").rglob("*.json")))

    def test_a_manifest_deleted_while_nobody_looks_is_gone_after(self, place: Path, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)
        assert served.stop() == 0
        (place / "dir/shop.yaml").unlink()

        served.start()

        served.until_gone("web")
        eventually("its files go", lambda: not list((place / "dir/.sluice/storage").rglob("*.tar.gz")))

    def test_a_renamed_manifest_changes_nothing(self, place: Path, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)
        before = served.artifact("web"), served.generator()["metadata"]["uid"]

        (place / "dir/shop.yaml").rename(place / "dir/store.yaml")

        eventually("the new file is known", lambda: served.generator()["file"] == "store.yaml")
        assert (served.artifact("web"), served.generator()["metadata"]["uid"]) == before

    @pytest.mark.parametrize(
        ("broken", "message"),
        [
            pytest.param(
                "kind: ArtifactGenerator\nspec: [\n",
                "shop.yaml: line 3, column 1: did not find expected node content",
                id="no YAML",
            ),
            pytest.param(
                manifest(sources=[{"alias": "repo", "kind": "Nope", "name": "repo"}]),
                "shop.yaml: ArtifactGenerator apps/shop: spec.sources[0].kind: 'Nope' is not one of Bucket, "
                "GitRepository, OCIRepository, HelmChart, ExternalArtifact",
                id="not admitted",
            ),
        ],
    )
    def test_a_broken_manifest_affects_itself_alone(self, place: Path, serve: Serve, broken: str, message: str) -> None:
        write(place, {"dir/other.yaml": manifest("other", {"api": "@repo/api/**"})})
        served = serve()
        served.until_served("web", WEB)
        served.until_served("api", API)

        write(place, {"dir/shop.yaml": broken})
        served.until_said(message)
        write(place, {"src/web/a.yaml": "A\n", "src/api/c.yaml": "C\n"})

        # What was good last is still followed.
        served.until_served("api", {"c.yaml": "C\n"})
        served.until_served("web", {**WEB, "a.yaml": "A\n"})
        write(place, {"dir/shop.yaml": manifest(artifacts={"web": "@repo/web/sub/**"})})
        served.until_served("web", {"b.yaml": "b\n"})
        assert served.messages() == [message]

    def test_a_manifest_that_is_broken_at_start_keeps_what_was_published(self, place: Path, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)
        served.kill()
        write(place, {"dir/shop.yaml": "kind: ArtifactGenerator\nspec: [\n", "src/web/a.yaml": "A\n"})

        served.start()

        served.until_served("web", {**WEB, "a.yaml": "A\n"})

    def test_duplicates_are_an_error_that_names_both(self, place: Path, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)

        write(place, {"dir/copy/shop.yaml": manifest(artifacts={"api": "@repo/api/**"})})

        text = "{}: ArtifactGenerator apps/shop is declared more than once, also in {} (one directory for each cluster)"
        served.until_said(text.format("shop.yaml", "copy/shop.yaml"))
        served.until_said(text.format("copy/shop.yaml", "shop.yaml"))
        assert served.files("web") == WEB
        (place / "dir/shop.yaml").unlink()
        served.until_served("api", API)
        served.until_gone("web")

    def test_variables_are_filled_in(self, place: Path, serve: Serve) -> None:
        write(place, {"dir/shop.yaml": manifest(artifacts={"${part}": "@repo/${part}/**"})})

        serve("--source=repo=src", "--var=part=api").until_served("api", API)

    def test_a_variable_without_a_value_is_named(self, place: Path, serve: Serve) -> None:
        write(place, {"dir/shop.yaml": manifest(artifacts={"web": "@repo/${part}/**"})})

        serve().until_said(
            "shop.yaml: ArtifactGenerator apps/shop: spec.artifacts[0].copy[0].from: "
            "variable 'part' is not set (--var part=VALUE)"
        )

    def test_an_artifact_that_fails_leaves_the_others_alone(self, place: Path, serve: Serve) -> None:
        write(place, {"dir/shop.yaml": manifest(artifacts={"web": "@repo/web/**", "api": "@repo/nothing/**"})})
        served = serve()
        text = "api build failed: copy from '@repo/nothing/**': no files match pattern 'nothing/**' in source 'repo'"

        served.until_served("web", WEB)
        served.until_said(text)
        served.until_condition(text)
        write(place, {"src/nothing/x": "x"})

        served.until_served("api", {"x": "x"})
        eventually("it recovers", lambda: "recovered" in served.messages("info"))
        assert served.messages() == [text]


def build_layout(directory: Path, files: dict[str, str], tag: str) -> None:
    """Write an OCI layout with one artifact."""
    import hashlib

    layer = tarball({path: content.encode() for path, content in files.items()})

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        write(directory, {f"blobs/sha256/{digest}": data})
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(b"{}", "application/vnd.cncf.flux.config.v1+json"),
        "layers": [blob(layer, "application/vnd.cncf.flux.content.v1.tar+gzip")],
    }
    found = blob(json.dumps(document).encode(), document["mediaType"])  # type: ignore[arg-type]  # a text
    found["annotations"] = {"org.opencontainers.image.ref.name": tag}
    write(directory, {"oci-layout": '{"imageLayoutVersion": "1.0.0"}'})
    write(directory, {"index.json": json.dumps({"schemaVersion": 2, "manifests": [found]})})


class TestSources:
    def test_a_directory(self, place: Path, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)

        write(place, {"src/web/a.yaml": "A\n", "src/web/new/n.yaml": "n\n"})
        (place / "src/web/sub/b.yaml").unlink()

        served.until_served("web", {"a.yaml": "A\n", "new/n.yaml": "n\n"})

    def test_a_directory_that_appears_goes_and_appears(self, place: Path, serve: Serve) -> None:
        (place / "src").rename(place / "later")
        served = serve()
        forms = "a directory, .tar.gz, OCI layout or git repository"
        missing = f"source Bucket/apps/repo: 'src' does not exist and is not {forms}"
        served.until_said(missing)
        served.until_said("get sources failed: source 'Bucket/apps/repo' is not ready (web)")

        (place / "later").rename(place / "src")
        served.until_served("web", WEB)
        (place / "src").rename(place / "away")
        eventually("it says so once more", lambda: served.messages().count(missing) == 2)
        assert served.files("web") == WEB
        write(place, {"src/web/z.yaml": "z\n"})
        served.until_served("web", {"z.yaml": "z\n"})
        write(place, {"src/web/z.yaml": "Z\n"})
        served.until_served("web", {"z.yaml": "Z\n"})

    def test_a_link_that_leads_elsewhere(self, place: Path, serve: Serve) -> None:
        write(place, {"v1/web/a": "1", "v2/web/a": "2"})
        (place / "current").symlink_to("v1")
        served = serve("--source=repo=current")
        served.until_served("web", {"a": "1"})

        (place / "next").symlink_to("v2")
        (place / "next").rename(place / "current")

        served.until_served("web", {"a": "2"})
        write(place, {"v2/web/a": "3"})
        served.until_served("web", {"a": "3"})

    def test_an_archive(self, place: Path, serve: Serve) -> None:
        write(place, {"src.tar.gz": tarball({"web/a": b"1"})})
        served = serve("--source=repo=src.tar.gz")
        served.until_served("web", {"a": "1"})

        write(place, {"next.tar.gz": tarball({"web/a": b"2"})})
        (place / "next.tar.gz").rename(place / "src.tar.gz")
        served.until_served("web", {"a": "2"})
        write(place, {"src.tar.gz": b"broken"})

        eventually("it says so", lambda: any("src.tar.gz" in text for text in served.messages()))
        assert served.files("web") == {"a": "2"}
        write(place, {"src.tar.gz": tarball({"web/a": b"3"})})
        served.until_served("web", {"a": "3"})

    def test_an_oci_layout(self, place: Path, serve: Serve) -> None:
        write(place, {"dir/shop.yaml": manifest(sources=[{"alias": "repo", "kind": "OCIRepository", "name": "repo"}])})
        build_layout(place / "layout", {"web/a": "1"}, "1.0")
        served = serve("--source=repo=layout:1.0")
        served.until_served("web", {"a": "1"})

        build_layout(place / "layout", {"web/a": "2"}, "1.0")

        served.until_served("web", {"a": "2"})

    def test_a_branch_of_a_repository(self, place: Path, serve: Serve) -> None:
        make_repository(place / "src")
        served = serve("--source=repo=src@main")
        served.until_served("web", WEB)

        write(place, {"src/web/a.yaml": "A\n"})
        git(place / "src", "commit", "--quiet", "--all", "--message", "next")

        served.until_served("web", {**WEB, "a.yaml": "A\n"})
        git(place / "src", "reset", "--quiet", "--hard", "HEAD~1")
        git(place / "src", "pack-refs", "--all")
        served.until_served("web", WEB)

    def test_a_branch_does_not_follow_the_files_on_disk(self, place: Path, serve: Serve) -> None:
        make_repository(place / "src")
        write(place, {"src/web/a.yaml": "not committed\n"})

        served = serve("--source=repo=src@main")

        served.until_served("web", WEB)

    def test_a_remote_repository(self, place: Path, serve: Serve) -> None:
        make_repository(place / "src")

        serve(f"--source=repo=file://{place / 'src'}@main").until_served("web", WEB)

    def test_the_checkout_around_the_manifests(self, place: Path, serve: Serve) -> None:
        url = "https://git.example.com/acme/shop"
        repository = {
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "GitRepository",
            "metadata": {"name": "repo", "namespace": "apps"},
            "spec": {"url": url, "interval": "1m"},
        }
        root = place / "src"
        write(root, {"clusters/a/shop.yaml": manifest(sources=[REPO]), "sources/git.yaml": json.dumps(repository)})
        write(root, {".gitignore": "ignored\n", "web/ignored": ""})
        make_repository(root, "ssh://git@git.example.com/acme/shop")
        served = serve("--log-level=info", directory="src/clusters/a")
        served.until_served("web", WEB)

        git(root, "checkout", "--quiet", "-b", "other")
        write(root, {"web/a.yaml": "other\n"})
        served.until_served("web", {**WEB, "a.yaml": "other\n"})
        git(root, "commit", "--quiet", "--all", "--message", "other")
        git(root, "checkout", "--quiet", "main")
        served.until_served("web", WEB)

        # The source object lies outside of the directory; it is followed all the same.
        repository["spec"]["ignore"] = "/web/sub"  # type: ignore[index]  # a mapping
        write(root, {"sources/git.yaml": json.dumps(repository)})
        served.until_served("web", {"a.yaml": "a\n"})
        assert served.messages() == []

    def test_chained_generators(self, place: Path, serve: Serve) -> None:
        """The artifact of one is the source of the next, and of the next but one."""
        for number, (name, before) in enumerate((("two", "web"), ("three", "two"))):
            chained = [{"alias": "repo", "kind": "ExternalArtifact", "name": before}]
            write(place, {f"dir/{number}.yaml": manifest(name, {name: "@repo/*.yaml"}, sources=chained)})
        served = serve()
        served.until_served("three", {"a.yaml": "a\n"})

        write(place, {"src/web/a.yaml": "A\n"})

        served.until_served("three", {"a.yaml": "A\n"})
        assert served.messages() == []

    def test_an_artifact_of_elsewhere(self, place: Path, serve: Serve) -> None:
        chained = [{"alias": "repo", "kind": "ExternalArtifact", "name": "elsewhere"}]
        write(place, {"dir/shop.yaml": manifest(sources=chained)})

        serve().until_served("web", WEB)

    def test_one_location_for_all_who_name_a_source(self, place: Path, serve: Serve) -> None:
        other = [{"alias": "other", "kind": "Bucket", "name": "repo"}]
        write(place, {"dir/a.yaml": manifest("first", {"api": "@other/api/**"}, sources=other)})

        served = serve()

        served.until_served("api", API)
        served.until_served("web", WEB)
        assert served.messages() == []

    def test_a_source_without_a_location(self, serve: Serve) -> None:
        served = serve("--var=a=b")

        served.until_said("source Bucket/apps/repo: no location for Bucket/apps/repo (--source repo=LOCATION)")
        served.until_condition("get sources failed: source 'Bucket/apps/repo' is not ready (web)")

    def test_a_remote_that_does_not_answer_holds_up_nobody(self, place: Path, serve: Serve) -> None:
        remote = [{"alias": "remote", "kind": "GitRepository", "name": "remote"}]
        write(place, {"dir/other.yaml": manifest("other", {"api": "@remote/api/**"}, sources=remote)})
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            url = f"http://127.0.0.1:{deaf.getsockname()[1]}/repo"
            served = serve("--source=repo=src", f"--source=remote={url}@main")

            served.until_served("web", WEB)
            assert served.stop() == 0

    def test_a_checkout_is_not_read_while_git_writes_it(self, place: Path, serve: Serve) -> None:
        write(place, {"dir/shop.yaml": manifest(sources=[REPO]), "bucket/x": "x"})
        make_repository(place / "src")
        served = serve("--source=repo=src", "--source=bucket=bucket")
        served.until_served("web", WEB)
        lock = place / "src/.git/index.lock"

        lock.write_bytes(b"")
        write(place, {"src/web/a.yaml": "half\n"})
        bucket = [{"alias": "bucket", "kind": "Bucket", "name": "bucket"}]
        write(place, {"dir/later.yaml": manifest("later", {"later": "@bucket/**"}, sources=bucket)})
        served.until_served("later", {"x": "x"})
        write(place, {"src/web/a.yaml": "whole\n"})
        lock.unlink()

        served.until_served("web", {**WEB, "a.yaml": "whole\n"})
        assert [line["artifact"] for line in served.log() if line["msg"] == "published"].count("apps/web") == 2

    def test_only_what_changed_is_published(self, place: Path, serve: Serve) -> None:
        write(place, {"dir/shop.yaml": manifest(artifacts={"web": "@repo/web/**", "api": "@repo/api/**"})})
        served = serve()
        served.until_served("web", WEB)
        served.until_served("api", API)
        before = served.artifact("api")

        write(place, {"src/web/a.yaml": "A\n"})

        served.until_served("web", {**WEB, "a.yaml": "A\n"})
        assert served.artifact("api") == before


class TestState:
    def test_a_restart_changes_nothing(self, place: Path, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)
        before = served.artifact("web"), served.generator()
        assert served.stop() == 0

        served.start()

        eventually("it was looked at", lambda: get(served.url + "/")[0] == 200)
        assert served.files("web") == WEB
        write(place, {"dir/other.yaml": manifest("other", {"api": "@repo/api/**"})})
        served.until_served("api", API)
        assert (served.artifact("web"), served.generator()) == before

    def test_what_changed_while_nobody_looked_is_followed(self, place: Path, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)
        served.kill()
        write(place, {"src/web/a.yaml": "A\n"})

        served.start()

        served.until_served("web", {**WEB, "a.yaml": "A\n"})

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda state: shutil.rmtree(state / "storage"), id="the store"),
            pytest.param(lambda state: shutil.rmtree(state / "externalartifacts"), id="the artifacts"),
            pytest.param(lambda state: shutil.rmtree(state / "artifactgenerators"), id="the generators"),
            pytest.param(lambda state: shutil.rmtree(state), id="everything"),
            pytest.param(lambda state: next(state.rglob("*.tar.gz")).write_bytes(b"damage"), id="a damaged file"),
            pytest.param(
                lambda state: next((state / "externalartifacts").rglob("*.json")).write_text("{"), id="a broken object"
            ),
        ],
    )
    @pytest.mark.parametrize("runs", [True, False], ids=["while it runs", "while it does not"])
    def test_state_that_is_lost_is_made_again(
        self, place: Path, serve: Serve, damage: Callable[[Path], object], runs: bool
    ) -> None:
        served = serve()
        served.until_served("web", WEB)
        revision = served.artifact("web")["revision"]
        if not runs:
            served.kill()

        damage(place / "dir/.sluice")

        if not runs:
            served.start()

        def is_mended() -> bool:
            there = served.artifact("web")
            return bool(there) and get(there["url"])[0] == 200 and len(get(there["url"])[2]) == there["size"]

        eventually("it is mended", is_mended)
        assert served.files("web") == WEB
        assert served.artifact("web")["revision"] == revision

    def test_superseded_files_stay_for_a_while(self, place: Path, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)
        url = served.artifact("web")["url"]

        write(place, {"src/web/a.yaml": "A\n"})
        served.until_served("web", {**WEB, "a.yaml": "A\n"})

        assert get(url)[0] == 200

    def test_state_is_for_its_owner_alone_and_not_for_git(self, place: Path, serve: Serve) -> None:
        make_repository(place / "dir", origin=None)

        served = serve()

        served.until_served("web", WEB)
        state = place / "dir/.sluice"
        assert state.stat().st_mode & 0o777 == 0o700
        listed = ["git", "status", "--porcelain"]
        assert subprocess.run(listed, cwd=place / "dir", capture_output=True, check=True).stdout == b""

    def test_the_directory_that_goes_ends_it(self, place: Path, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)

        (place / "dir").rename(place / "moved")

        assert served.wait() == 1
        assert served.messages() == [f"'{place / 'dir'}' is gone"]

    def test_nothing_happens_while_nothing_changes(self, place: Path, serve: Serve) -> None:
        make_repository(place / "src")
        write(place, {"dir/shop.yaml": manifest(sources=[REPO])})
        served = serve("--source=repo=src", "--log-level=trace")
        served.until_served("web", WEB)
        write(place, {"src/web/a.yaml": "A\n"})
        served.until_served("web", {**WEB, "a.yaml": "A\n"})
        before, begun = served.log(), cpu_seconds(served)

        # What Git, and we, keep for ourselves wakes nobody.
        for number in range(50):
            write(place, {f"src/.git/objects/ab/{number}": "", f"src/.sluice/{number}": ""})
        with pytest.raises(AssertionError):
            eventually("something happens", lambda: served.log() != before, 3)

        assert cpu_seconds(served) - begun < 0.5


class TestProcess:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it(self, serve: Serve, number: signal.Signals) -> None:
        served = serve()
        served.until_served("web", WEB)

        assert served.stop(number) == 0
        assert served.messages("info")[-1] == "stopped"

    def test_a_second_process_is_refused(self, place: Path, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)
        second = Served(place / "dir", cwd=place)
        second._output = place / "second.log"

        second.launch()

        assert second.wait() == 1
        assert second.messages() == [f"'{place / 'dir'}' is served by another process already"]
        assert served.files("web") == WEB

    @pytest.mark.parametrize("flag", ["storage", "metrics"])
    def test_an_address_that_is_taken(self, place: Path, serve: Serve, flag: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            flags = {"storage": {"address": address}, "metrics": {}}[flag]
            served = serve(f"--metrics-addr={address}" if flag == "metrics" else "--poll", start=False, **flags)
            served.launch()

            assert served.wait() == 1
        assert [line["msg"] for line in served.log()] == [f"cannot listen on {address}: address already in use"]

    def test_a_directory_that_cannot_be_written(self, place: Path, serve: Serve) -> None:
        write(place, {"dir/.sluice": "a file\n"})
        served = serve(start=False)
        served.launch()

        assert served.wait() == 1
        assert [line["msg"] for line in served.log()] == [f"'{place / 'dir/.sluice'}': not a directory"]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            pytest.param(
                ["nowhere"],
                "✗ Invalid value for 'DIRECTORY': Directory 'nowhere' does not exist (see 'sluice serve --help')\n",
                id="no directory",
            ),
            pytest.param(
                ["dir", "--source=repo"],
                "✗ --source: 'repo' has no location (KEY=LOCATION)\n",
                id="a source without a location",
            ),
            pytest.param(
                ["dir", "--storage-addr=9090"],
                "✗ Invalid value for --storage-addr: '9090' is not an address to listen on (host:port; the host may be "
                "empty) (see 'sluice serve --help')\n",
                id="no address",
            ),
        ],
    )
    def test_a_wrong_option(self, place: Path, arguments: list[str], words: str) -> None:
        ran = words_of(place, *arguments)

        assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", words)

    def test_metrics(self, serve: Serve) -> None:
        address = f"127.0.0.1:{free_port()}"
        served = serve("--source=repo=src", f"--metrics-addr={address}")
        served.until_served("web", WEB)

        status, _, body = get(f"http://{address}/metrics")

        assert status == 200
        assert b'controller_runtime_reconcile_total{controller="artifactgenerator",result="requeue_after"}' in body

    def test_advertised_addresses(self, serve: Serve) -> None:
        served = serve("--source=repo=src", "--storage-adv-addr=artifacts.example.com")

        eventually("it is published", lambda: bool(served.artifact("web")))
        assert served.artifact("web")["url"].startswith("http://artifacts.example.com/externalartifact/apps/web/")

    def test_changes_are_looked_for_where_nobody_tells_of_them(self, place: Path, serve: Serve) -> None:
        served = serve("--source=repo=src", "--poll")
        served.until_served("web", WEB)

        write(place, {"src/web/a.yaml": "A\n"})

        served.until_served("web", {**WEB, "a.yaml": "A\n"})


def words_of(place: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A process that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "sluice", "serve", *arguments],
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


class TestServer:
    def test_what_consumers_rely_on(self, serve: Serve) -> None:
        served = serve()
        served.until_served("web", WEB)
        there = served.artifact("web")
        expected = io.BytesIO()
        write_archive(Directory.of({path: content.encode() for path, content in WEB.items()}), expected)

        status, headers, body = get(there["url"])

        assert (status, body) == (200, expected.getvalue())
        assert headers["Content-Type"] == "application/gzip"
        assert get(there["url"], **{"If-None-Match": headers["ETag"]})[0] == 304
        assert get(there["url"], Range="bytes=0-9")[::2] == (206, body[:10])
        assert get(there["url"] + "x")[0] == 404

    def test_it_is_ready_when_everything_was_looked_at(self, place: Path, serve: Serve) -> None:
        served = serve(start=False)
        served.launch()
        answers = set()

        def is_ready() -> bool:
            status = get(served.url + "/")[0] if served.url else 0
            answers.add(status)
            return status == 200

        eventually("it is ready", is_ready)
        assert answers <= {0, 503, 200}


class TestWords:
    """What people see, on standard error; each process is ended by what it says."""

    def until(self, place: Path, *arguments: str, then: Callable[[], object], **more: str) -> str:
        """Run until the first artifact is served, do something, and return what was said until the second."""
        run = [sys.executable, "-m", "sluice", "serve", "dir", "--storage-addr=127.0.0.1:0", *arguments]
        with subprocess.Popen(
            run, cwd=place, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert process.stdout is not None
            said = ""
            for line in process.stderr:
                said += line
                if said.count("apps/web latest@") == 1 and "apps/web" in line:
                    then()
                if said.count("apps/web latest@") == 2:
                    process.send_signal(signal.SIGINT)
            assert process.stdout.read() == ""
        assert process.returncode == 0
        return said

    def test_each_line_says_what_changed(self, place: Path) -> None:
        said = self.until(place, "--source=repo=src", then=lambda: write(place, {"src/web/a.yaml": "A\n"}))

        before, after = (contents_digest({"a.yaml": a, "sub/b.yaml": b"b\n"}) for a in (b"a\n", b"A\n"))
        lines = [line.partition("http://")[0] for line in said.splitlines()]
        assert [line for line in lines if not line.startswith("► Bucket/apps/repo: src at latest@sha256:")] == [
            f"► serving {place / 'dir'} at ",
            f"✔ apps/web latest@sha256:{before[:8]} ",
            f"✔ apps/web latest@sha256:{after[:8]} ",
            "► stopped",
        ]
        assert "\x1b" not in said

    def test_a_restart_says_what_is_served(self, place: Path) -> None:
        address = f"--storage-addr=127.0.0.1:{free_port()}"

        def run(content: str) -> str:
            change = {"src/web/a.yaml": content}
            return self.until(place, "--source=repo=src", address, then=lambda: write(place, change))

        run("1\n")
        said = run("2\n")

        assert [line.split()[:2] for line in said.splitlines()[:2]] == [["►", "serving"], ["✔", "apps/web"]]

    def test_problems_and_warnings(self, place: Path) -> None:
        write(place, {"dir/bad.yaml": "kind: ArtifactGenerator\nspec: [\n"})

        said = self.until(
            place,
            "--source=repo=src",
            "--source=none=src",
            then=lambda: write(place, {"src/web/a.yaml": "A\n"}),
        )

        assert "✗ bad.yaml: line 3, column 1: did not find expected node content\n" in said
        assert "⚠ --source none: no generator has such a source\n" in said
