"""What `sluice build` writes: directories, and archives with their manifests."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.running import GENERATOR, build, build_json, read, write

import sluice
from sluice.cli.trees import TreeWriter
from sluice.core.tree import Directory

BUILD = ("shop.yaml", "--source", "repo=src", "-d", "out")
REFUSED = "✗ apps/web: 'out/apps/web' is not what was written here before (remove it, or choose another place)"


def last(*arguments: str) -> tuple[int, str]:
    result = build(*arguments)
    return result.exit_code, result.stderr.splitlines()[1]


@pytest.mark.usefixtures("shop")
class TestDirectories:
    def test_a_tree_with_its_modes(self) -> None:
        build(*BUILD)

        assert read(Path("out/apps")) == {"web/a.yaml": "a\n", "web/sub/run.sh": "b\n"}
        assert os.access("out/apps/web/sub/run.sh", os.X_OK)
        assert not os.access("out/apps/web/a.yaml", os.X_OK)

    def test_another_build_replaces_it(self) -> None:
        build(*BUILD)
        Path("src/web/a.yaml").unlink()
        write(Path(), {"src/web/c.yaml": "c"})

        assert build(*BUILD).exit_code == 0
        assert read(Path("out/apps")) == {"web/c.yaml": "c", "web/sub/run.sh": "b\n"}

    def test_what_did_not_change_is_not_touched(self) -> None:
        build(*BUILD)
        before = Path("out/apps/web").stat()

        build(*BUILD)

        assert Path("out/apps/web").stat().st_ino == before.st_ino

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda: write(Path(), {"out/apps/web/a.yaml": "mine"}), id="a changed file"),
            pytest.param(lambda: write(Path(), {"out/apps/web/new": ""}), id="a new file"),
            pytest.param(lambda: write(Path(), {"out/apps/web/.git/config": ""}), id="a repository made there"),
            pytest.param(lambda: Path("out/apps/web/a.yaml").chmod(0o755), id="a changed mode"),
            pytest.param(lambda: Path("out/apps/web/new").mkdir(), id="an empty directory"),
            pytest.param(lambda: Path("out/apps/web/new").symlink_to("/"), id="a link"),
            pytest.param(lambda: Path("out/apps/web/a.yaml").unlink(), id="a file that is gone"),
        ],
    )
    def test_what_somebody_changed_stays(self, change: Callable[[], object]) -> None:
        build(*BUILD)
        change()
        there = read(Path("out/apps"))
        write(Path(), {"src/web/a.yaml": "2"})

        assert last(*BUILD) == (1, REFUSED)
        assert read(Path("out/apps")) == there

    @pytest.mark.parametrize(
        "make",
        [
            pytest.param(lambda path: write(path, {"precious": ""}), id="a directory"),
            pytest.param(lambda path: write(path.parent, {"web": ""}), id="a file"),
            pytest.param(lambda path: path.symlink_to("/"), id="a link to a directory"),
            pytest.param(lambda path: path.symlink_to("nowhere"), id="a link to nothing"),
        ],
    )
    def test_what_was_there_before_stays(self, make: Callable[[Path], object]) -> None:
        Path("out/apps").mkdir(parents=True)
        make(Path("out/apps/web"))

        assert last(*BUILD) == (1, REFUSED)

    def test_an_empty_directory_is_taken(self) -> None:
        Path("out/apps/web").mkdir(parents=True)

        assert build(*BUILD).exit_code == 0

    def test_equal_content_is_left_alone_but_not_claimed(self) -> None:
        write(Path(), {"out/apps/web/a.yaml": "a\n", "out/apps/web/sub/run.sh": "b\n"})
        Path("out/apps/web/sub/run.sh").chmod(0o755)
        assert build(*BUILD).exit_code == 0
        write(Path(), {"src/web/a.yaml": "2"})

        assert last(*BUILD) == (1, REFUSED)

    def test_other_files_and_other_artifacts_stay(self) -> None:
        write(Path(), {"out/notes": "", "out/apps/api/x": "", "out/apps/x": ""})

        build(*BUILD)

        assert {"notes", "apps/api/x", "apps/x", "apps/web/a.yaml"} <= set(read(Path("out")))

    def test_an_artifact_that_fails_keeps_its_directory(self) -> None:
        build(*BUILD)
        write(Path(), {"shop.yaml": GENERATOR.replace("@repo/web/**", "@repo/gone")})

        assert build(*BUILD).exit_code == 1
        assert set(read(Path("out/apps"))) == {"web/a.yaml", "web/sub/run.sh"}

    def test_nothing_half_written_is_left(self) -> None:
        build(*BUILD)

        assert set(read(Path("out/.sluice"))) == {"apps/web"}
        assert sorted(path.name for path in Path("out/.sluice").iterdir()) == ["apps"]

    def test_a_place_that_cannot_be_written(self) -> None:
        write(Path(), {"out": ""})

        result = build(*BUILD)

        assert (result.exit_code, result.stderr) == (1, "✗ 'out': cannot write: not a directory\n")

    def test_a_namespace_that_is_a_file(self) -> None:
        write(Path(), {"out/apps": ""})

        assert last(*BUILD) == (1, "✗ apps/web: 'out/apps/web': cannot write: not a directory")


def test_a_build_that_was_stopped_between_two_steps_is_recognised(tmp_path: Path) -> None:
    """The record names both contents before anything moves, so either may be found."""
    writer, one, two = TreeWriter(tmp_path), Directory.of({"a": b"1"}), Directory.of({"a": b"2"})
    writer.write("apps", "web", one)
    writer.write("apps", "web", two)
    (tmp_path / "apps/web/a").write_text("1")

    writer.write("apps", "web", Directory.of({"a": b"3"}))

    assert read(tmp_path / "apps") == {"web/a": "3"}


@pytest.mark.usefixtures("shop")
class TestArchives:
    BUILD = ("shop.yaml", "--source", "repo=src", "--archives", "store")

    def manifest(self, *arguments: str) -> dict[str, Any]:
        assert build(*self.BUILD, *arguments).exit_code == 0
        found: dict[str, Any] = yaml.safe_load(Path("store/externalartifact/apps/web.yaml").read_text())
        return found

    def test_an_archive_and_its_manifest(self) -> None:
        text = GENERATOR.replace("name: web", 'name: web\n      originRevision: "@repo"')
        common = "spec:\n  commonMetadata: {labels: {team: shop}, annotations: {note: x}}"
        write(Path(), {"shop.yaml": text.replace("spec:", common)})

        manifest = self.manifest("--url-prefix", "https://files.example.com/")

        (archive,) = Path("store/externalartifact/apps/web").iterdir()
        data = archive.read_bytes()
        tree = sluice.read_archive(data)
        path = f"externalartifact/apps/web/{archive.name}"
        origin = manifest["status"]["artifact"]["metadata"]["org.opencontainers.image.revision"]
        assert archive.name == f"{tree.digest.hex()[:32]}-{hashlib.sha256(data).hexdigest()[:16]}.tar.gz"
        assert origin.startswith("latest@sha256:")
        assert manifest == {
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "ExternalArtifact",
            "metadata": {
                "name": "web",
                "namespace": "apps",
                "labels": {
                    "team": "shop",
                    "app.kubernetes.io/managed-by": "source-watcher",
                    "source.extensions.fluxcd.io/generator": "11d88eb3-12de-5453-b1c9-24b1515fd55b",
                },
                "annotations": {"note": "x"},
            },
            "spec": {
                "sourceRef": {
                    "apiVersion": "source.extensions.fluxcd.io/v1beta1",
                    "kind": "ArtifactGenerator",
                    "name": "shop",
                    "namespace": "apps",
                }
            },
            "status": {
                "artifact": {
                    "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
                    "lastUpdateTime": "1970-01-01T00:00:00Z",
                    "path": path,
                    "revision": f"latest@sha256:{tree.digest.hex()}",
                    "size": len(data),
                    "url": f"https://files.example.com/{path}",
                    "metadata": {"org.opencontainers.image.revision": origin},
                },
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True",
                        "reason": "Succeeded",
                        "message": "Artifact is ready",
                        "observedGeneration": 1,
                        "lastTransitionTime": "1970-01-01T00:00:00Z",
                    }
                ],
            },
        }

    def test_a_generator_from_a_cluster_keeps_its_uid(self) -> None:
        write(Path(), {"shop.yaml": GENERATOR.replace("namespace: apps", "namespace: apps, uid: u-1")})

        assert self.manifest()["metadata"]["labels"]["source.extensions.fluxcd.io/generator"] == "u-1"

    def test_captures_become_labels(self) -> None:
        text = GENERATOR.replace("artifacts:", 'pathPattern: "@repo/{App}"\n  artifacts:').replace("web/**", "{App}/**")
        write(Path(), {"shop.yaml": text})

        assert self.manifest()["metadata"]["labels"]["App"] == "web"

    def test_equal_builds_are_equal_to_the_byte(self) -> None:
        self.manifest()
        before = {path: path.read_bytes() for path in Path("store").rglob("*") if path.is_file()}

        self.manifest()

        assert {path: path.read_bytes() for path in Path("store").rglob("*") if path.is_file()} == before
        assert len(before) == 2

    def test_json_names_the_archive(self) -> None:
        manifest = self.manifest()

        (artifact,) = build_json(*self.BUILD)

        assert artifact["archive"] == {key: manifest["status"]["artifact"][key] for key in ("path", "digest", "size")}

    def test_both_at_once(self) -> None:
        result = build(*self.BUILD, "-d", "out", "-o", "json")

        assert result.stderr.splitlines()[1:] == [
            "✚ directories in out",
            "✚ archives in store",
            "✔ built 1 artifact",
        ]
        assert json.loads(result.stdout)["artifacts"][0]["archive"]
        assert Path("out/apps/web/a.yaml").is_file()

    def test_a_place_that_cannot_be_written(self) -> None:
        write(Path(), {"store": ""})

        result = build(*self.BUILD)

        assert (result.exit_code, result.stderr) == (1, "✗ 'store': cannot write: file exists\n")

    def test_a_manifest_that_is_in_the_way(self) -> None:
        Path("store/externalartifact/apps/web.yaml").mkdir(parents=True)

        path = "store/externalartifact/apps/web.yaml"
        assert last(*self.BUILD) == (1, f"✗ apps/web: '{path}': cannot write: is a directory")
