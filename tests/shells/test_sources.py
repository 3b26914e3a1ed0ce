from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.shells.descriptors import open_below

from sluice.cache import UnpackedCache
from sluice.core.errors import BuildError, Code, SourceError
from sluice.core.limits import Limits
from sluice.core.plan import Source
from sluice.core.tree import Directory, File, Link
from sluice.sources import open_source, scan_directory
from sluice.sources.oci import FLUX_LAYER, MAX_JSON, open_layout

FILES = {"a.yaml": b"a\n", "x/b.yaml": b"b\n", "x/y/c": b"c" * 300_000}


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def archive(files: Mapping[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), mtime=0)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def file_at(tree: Directory, path: str) -> File:
    file = tree.find(path)
    assert isinstance(file, File)
    return file


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> UnpackedCache:
    return UnpackedCache(tmp_path_factory.mktemp("cache"))


Open = Callable[..., Source]


@pytest.fixture
def opened(cache: UnpackedCache) -> Open:
    def open_location(location: Path | str, kind: str = "ExternalArtifact", **options: str | None) -> Source:
        return open_source(str(location), kind=kind, cache=cache, **options)  # type: ignore[arg-type]  # options are texts

    return open_location


class TestDirectories:
    def test_a_directory_is_read_as_it_is(self, tmp_path: Path) -> None:
        write(tmp_path, FILES)
        (tmp_path / "a.yaml").chmod(0o610)
        (tmp_path / "empty").mkdir()
        (tmp_path / "x/link").symlink_to("../nowhere")

        tree = scan_directory(tmp_path)

        expected = Directory.of(FILES, executable=["a.yaml"])
        assert file_at(tree, "a.yaml").executable
        assert [path for path, _ in tree.walk()] == ["a.yaml", "empty", "x", "x/b.yaml", "x/link", "x/y", "x/y/c"]
        assert file_at(tree, "x/y/c").digest == file_at(expected, "x/y/c").digest
        assert file_at(tree, "x/y/c").read() == FILES["x/y/c"]
        assert file_at(tree, "x/y/c").content.read(299_999, 10) == b"c"
        x = tree.entries["x"]
        assert isinstance(x, Directory)
        link = x.entries["link"]
        assert isinstance(link, Link)
        assert link.target == "../nowhere"

    def test_a_name_that_is_not_utf8_is_kept(self, tmp_path: Path) -> None:
        os.mkdir(os.fsencode(tmp_path) + b"/\xff")
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff/\xfe")).write_bytes(b"x")

        assert scan_directory(tmp_path).digest == Directory.of({"\udcff/\udcfe": b"x"}).digest

    def test_what_git_and_serve_keep_for_themselves_is_no_source(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            {"a": b"", ".git/config": b"", "x/.git": b"gitdir: y", ".sluice/state.json": b"", ".github/w": b""},
        )

        assert (
            scan_directory(tmp_path).digest
            == Directory.of_entries(
                {"a": File.of(b""), "x": Directory.of({}), ".github": Directory.of({"w": b""})}
            ).digest
        )

    def test_the_root_may_be_a_link(self, tmp_path: Path) -> None:
        write(tmp_path / "real", {"a": b"a"})
        (tmp_path / "link").symlink_to("real")

        assert file_at(scan_directory(tmp_path / "link"), "a").read() == b"a"

    @pytest.mark.parametrize(
        ("make", "what"),
        [
            pytest.param(lambda path: os.mkfifo(path), "x/odd", id="a pipe"),
            pytest.param(lambda path: os.mknod(path, 0o140600), "x/odd", id="a socket"),
        ],
    )
    def test_special_files_are_refused(self, tmp_path: Path, make: Callable[[Path], None], what: str) -> None:
        write(tmp_path, {"x/a": b""})
        make(tmp_path / "x/odd")

        with pytest.raises(SourceError) as caught:
            scan_directory(tmp_path)
        assert str(caught.value) == f"'{tmp_path}': '{what}': neither a file, a directory nor a link"

    @pytest.mark.parametrize(
        ("limits", "text"),
        [
            (Limits(entries=2), "too many entries (limit: 2, entries)"),
            (Limits(source_size=3), "its files are too large (limit: 3, source_size)"),
            (Limits(depth=1), "'x/y/c' is too deep (limit: 1, depth)"),
            (Limits(name_length=7), "'x/b.yaml' is too long (limit: 7, name_length)"),
        ],
    )
    def test_limits(self, tmp_path: Path, limits: Limits, text: str) -> None:
        write(tmp_path, {"x/b.yaml": b"b"} if limits.name_length == 7 else {"a.yaml": b"ab", "x/y/c": b"cd"})

        with pytest.raises(BuildError) as caught:
            scan_directory(tmp_path, limits)
        assert str(caught.value) == f"'{tmp_path}': {text}"

    def test_one_descriptor_is_held(self, tmp_path: Path) -> None:
        write(tmp_path, {f"{i}/{j}": b"" for i in range(10) for j in range(10)})
        before = open_below(tmp_path)

        tree = scan_directory(tmp_path)

        assert open_below(tmp_path) == before + 1
        assert sum(len(entry.read()) for _, entry in tree.walk() if isinstance(entry, File)) == 0
        del tree
        assert open_below(tmp_path) == before


class TestDirectoriesThatChange:
    @pytest.fixture
    def file(self, tmp_path: Path) -> File:
        write(tmp_path, {"x/y/a": b"before"})
        write(tmp_path / "elsewhere", {"y/a": b"secret"})
        return file_at(scan_directory(tmp_path), "x/y/a")

    @pytest.mark.parametrize("data", [b"longer than before", b"short", b"BEFORE"])
    def test_a_file_that_changed_is_an_error(self, tmp_path: Path, file: File, data: bytes) -> None:
        (tmp_path / "x/y/a").write_bytes(data)
        os.utime(tmp_path / "x/y/a", ns=(1, 1))

        with pytest.raises(SourceError) as caught:
            file.read()
        assert str(caught.value) == "'x/y/a' changed while it was read"

    def test_a_file_that_is_gone_is_an_error(self, tmp_path: Path, file: File) -> None:
        (tmp_path / "x/y/a").unlink()

        with pytest.raises(SourceError) as caught:
            file.read()
        assert str(caught.value) == "'x/y/a': no such file or directory"

    def test_a_file_that_became_a_pipe_does_not_block(self, tmp_path: Path, file: File) -> None:
        (tmp_path / "x/y/a").unlink()
        os.mkfifo(tmp_path / "x/y/a")

        with pytest.raises(SourceError) as caught:
            file.read()
        assert str(caught.value) == "'x/y/a': not a regular file"

    @pytest.mark.parametrize("path", ["x", "x/y", "x/y/a"])
    def test_a_link_on_the_way_is_not_followed(self, tmp_path: Path, file: File, path: str) -> None:
        (tmp_path / path).rename(tmp_path / "moved")
        (tmp_path / path).symlink_to(tmp_path / "moved")

        with pytest.raises(SourceError, match=r"^'x/y/a': (not a directory|too many levels of symbolic links)$"):
            file.read()

    def test_descriptors_are_closed_on_errors(self, tmp_path: Path, file: File) -> None:
        (tmp_path / "x/y/a").unlink()
        before = open_below(tmp_path)

        for _ in range(5):
            with pytest.raises(SourceError):
                file.read()
        assert open_below(tmp_path) == before

    @pytest.mark.parametrize("name", ["d", "f"])
    def test_what_becomes_a_link_between_two_looks_is_not_followed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        root = write(tmp_path / "root", {"d/secret": b"inside", "f": b"inside"})
        write(tmp_path / "outside", {"d/secret": b"outside", "f": b"outside"})
        look = os.stat

        def look_and_swap(path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
            seen = look(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
            if path == name:
                (root / name).rename(tmp_path / "parked")
                (root / name).symlink_to(tmp_path / "outside" / name)
            return seen

        monkeypatch.setattr(os, "stat", look_and_swap)
        with pytest.raises(SourceError, match=rf"': '{name}': (not a directory|too many levels of symbolic links)$"):
            scan_directory(root)


class TestArchives:
    @pytest.mark.parametrize("name", ["source.tar.gz", "source.tgz", "SOURCE.TGZ"])
    def test_an_archive(self, tmp_path: Path, opened: Open, name: str) -> None:
        data = archive(FILES)
        (tmp_path / name).write_bytes(data)

        source = opened(tmp_path / name)

        assert source.tree.digest == Directory.of(FILES).digest
        assert (source.revision, source.digest) == (f"latest@{sha256(data)}", sha256(data))

    def test_the_revision_can_be_given(self, tmp_path: Path, opened: Open) -> None:
        (tmp_path / "a.tgz").write_bytes(archive({"a": b""}))

        assert opened(tmp_path / "a.tgz", revision="1.2.3").revision == "1.2.3"

    def test_a_broken_archive_names_the_file(self, tmp_path: Path, opened: Open) -> None:
        (tmp_path / "a.tgz").write_bytes(b"PK")

        with pytest.raises(SourceError) as caught:
            opened(tmp_path / "a.tgz")
        assert str(caught.value) == f"'{tmp_path}/a.tgz': archive is not gzip"
        assert caught.value.code is Code.INVALID_ARCHIVE


class Layout:
    """An OCI image layout being made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs/sha256").mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests: list[dict[str, object]] = []

    def blob(self, data: bytes, media_type: str) -> dict[str, object]:
        (self.root / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    def push(
        self, *layers: dict[str, object], tag: str | None = None, annotations: Mapping[str, str] | None = None
    ) -> str:
        manifest = {"schemaVersion": 2, "layers": layers, "annotations": annotations or {}}
        row = self.blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        if tag is not None:
            row["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.manifests.append(row)
        self.write_index()
        return str(row["digest"])

    def write_index(self) -> None:
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.manifests}))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


class TestLayouts:
    def test_the_only_artifact_is_the_source(self, layout: Layout, opened: Open) -> None:
        data = archive(FILES)
        digest = layout.push(
            layout.blob(data, FLUX_LAYER),
            tag="v1",
            annotations={"org.opencontainers.image.revision": "main@sha1:0123"},
        )

        source = opened(layout.root, "OCIRepository")

        assert source.tree.digest == Directory.of(FILES).digest
        assert source.revision == f"v1@{digest}"
        assert source.digest == sha256(data)
        assert source.origin_revision == "main@sha1:0123"

    def test_without_a_tag_the_revision_is_the_digest(self, layout: Layout, opened: Open) -> None:
        digest = layout.push(layout.blob(archive({"a": b""}), FLUX_LAYER))

        source = opened(layout.root)

        assert (source.revision, source.origin_revision) == (digest, None)

    def test_a_tag_chooses(self, layout: Layout, opened: Open) -> None:
        for tag in ("v1", "latest", "v2"):
            layout.push(layout.blob(archive({tag: b""}), FLUX_LAYER), tag=tag)

        assert list(opened(f"{layout.root}:v2").tree.entries) == ["v2"]
        assert list(opened(layout.root).tree.entries) == ["latest"]
        with pytest.raises(SourceError) as caught:
            opened(f"{layout.root}:v3")
        assert str(caught.value) == f"'{layout.root}': no artifact with tag 'v3' (tags: latest, v1, v2)"
        assert caught.value.code is Code.NOT_FOUND

    def test_the_content_layer_is_preferred(self, layout: Layout, cache: UnpackedCache) -> None:
        image = layout.blob(archive({"image": b""}), "application/vnd.oci.image.layer.v1.tar+gzip")
        other = layout.blob(b"{}", "application/json")
        flux = layout.blob(archive({"flux": b""}), FLUX_LAYER)
        layout.push(other, image, flux, tag="both")
        layout.push(other, image, tag="image")
        layout.push(other, tag="none")

        def names(tag: str, layer: str | None = None) -> list[str]:
            return list(open_layout(layout.root, tag, cache, layer=layer).tree.entries)

        assert names("both") == ["flux"]
        assert names("image") == ["image"]
        assert names("both", "application/vnd.oci.image.layer.v1.tar+gzip") == ["image"]
        with pytest.raises(SourceError) as caught:
            names("none")
        assert str(caught.value) == f"'{layout.root}': no layer of type '{FLUX_LAYER}' (types: application/json)"
        with pytest.raises(SourceError) as caught:
            names("image", FLUX_LAYER)
        assert str(caught.value) == (
            f"'{layout.root}': no layer of type '{FLUX_LAYER}'"
            " (types: application/json, application/vnd.oci.image.layer.v1.tar+gzip)"
        )

    def test_a_swapped_layer_is_refused(self, layout: Layout, opened: Open) -> None:
        one, two = (gzip.compress(gzip.decompress(archive({"a": data})), 0, mtime=0) for data in (b"1", b"2"))
        assert len(one) == len(two)
        row = layout.blob(one, FLUX_LAYER)
        layout.push(row)
        (layout.root / "blobs/sha256" / sha256(one)[7:]).write_bytes(two)

        with pytest.raises(SourceError) as caught:
            opened(layout.root)
        assert str(caught.value) == f"'{layout.root}': digest mismatch: expected {sha256(one)}, got {sha256(two)}"
        assert caught.value.code is Code.DIGEST_MISMATCH

    def test_a_layer_of_another_size_is_refused(self, layout: Layout, opened: Open) -> None:
        data = archive({"a": b"1"})
        layout.push(layout.blob(data, FLUX_LAYER) | {"size": 7})

        with pytest.raises(SourceError) as caught:
            opened(layout.root)
        assert str(caught.value) == (
            f"'{layout.root}': size mismatch of blob {sha256(data)}: expected 7 bytes, got {len(data)}"
        )

    def test_a_swapped_manifest_is_refused(self, layout: Layout, opened: Open) -> None:
        digest = layout.push(layout.blob(archive({"a": b""}), FLUX_LAYER))
        file = layout.root / "blobs/sha256" / digest[7:]
        data = file.read_bytes().replace(b'"schemaVersion": 2', b'"schemaVersion": 3')
        file.write_bytes(data)

        with pytest.raises(SourceError) as caught:
            opened(layout.root)
        assert str(caught.value) == f"'{layout.root}': digest mismatch: expected {digest}, got {sha256(data)}"

    @pytest.mark.parametrize("digest", ["sha256:../../../oci-layout", "sha512:00", "", "sha256:" + "A" * 64])
    def test_a_digest_is_no_path(self, layout: Layout, opened: Open, digest: str) -> None:
        layout.push(layout.blob(archive({"a": b""}), FLUX_LAYER) | {"digest": digest})

        with pytest.raises(SourceError) as caught:
            opened(layout.root)
        assert str(caught.value) == f"'{layout.root}': '{digest}' is not a sha256 digest"

    def test_a_missing_blob_is_an_error(self, layout: Layout, opened: Open) -> None:
        data = archive({"a": b""})
        layout.push(layout.blob(data, FLUX_LAYER))
        (layout.root / "blobs/sha256" / sha256(data)[7:]).unlink()

        with pytest.raises(SourceError) as caught:
            opened(layout.root)
        assert str(caught.value) == f"'{layout.root}': blob {sha256(data)}: no such file or directory"

    def test_an_index_of_an_index_is_refused(self, layout: Layout, opened: Open) -> None:
        layout.manifests.append(layout.blob(b"{}", "application/vnd.oci.image.index.v1+json"))
        layout.write_index()

        with pytest.raises(SourceError) as caught:
            opened(layout.root)
        assert str(caught.value) == (
            f"'{layout.root}': the artifact is a 'application/vnd.oci.image.index.v1+json' (only"
            " application/vnd.oci.image.manifest.v1+json or application/vnd.docker.distribution.manifest.v2+json)"
        )

    @pytest.mark.parametrize("text", ["", "[]", '{"manifests": [{}]}', '{"manifests": ' + "[" * 100_000])
    def test_an_index_that_is_none_is_an_error(self, layout: Layout, opened: Open, text: str) -> None:
        (layout.root / "index.json").write_text(text)

        with pytest.raises(SourceError, match=r"': index\.json cannot be read: ") as caught:
            opened(layout.root)
        assert caught.value.code is Code.INVALID_ARCHIVE

    def test_an_index_has_a_limit(self, layout: Layout, opened: Open) -> None:
        (layout.root / "index.json").write_bytes(b" " * (MAX_JSON + 1))

        with pytest.raises(SourceError) as caught:
            opened(layout.root)
        assert str(caught.value) == f"'{layout.root}': 'index.json' is larger than 4194304 bytes"


class Registry(BaseHTTPRequestHandler):
    """A registry that gives what a layout holds, as the repository ``org/app``."""

    layout: Layout
    swapped: bytes | None = None

    def do_GET(self) -> None:
        what, _, name = self.path.removeprefix("/v2/org/app/").partition("/")
        rows = [row for row in self.layout.manifests if name in (row["digest"], tag_of(row))]
        digest = str(rows[0]["digest"]) if what == "manifests" and rows else name
        file = self.layout.root / "blobs/sha256" / digest.removeprefix("sha256:")
        if not file.is_file():
            self.send_error(404)
            return
        data = self.swapped if self.swapped is not None and what == "blobs" else file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", str(rows[0]["mediaType"]) if rows else "application/octet-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the library's
        pass


def tag_of(row: Mapping[str, object]) -> str | None:
    annotations = row.get("annotations")
    return str(annotations["org.opencontainers.image.ref.name"]) if isinstance(annotations, dict) else None


class TestRegistries:
    @pytest.fixture
    def registry(self, layout: Layout) -> Iterator[tuple[type[Registry], str]]:
        pytest.importorskip("oras.provider", reason="the extra 'oci' is not installed")
        handler = type("Handler", (Registry,), {"layout": layout})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler, f"oci://127.0.0.1:{server.server_port}/org/app"
        server.shutdown()
        thread.join()
        server.server_close()

    def test_an_artifact(self, layout: Layout, registry: tuple[type[Registry], str], opened: Open) -> None:
        data = archive(FILES)
        digest = layout.push(
            layout.blob(data, FLUX_LAYER), tag="v1", annotations={"org.opencontainers.image.revision": "main@sha1:01"}
        )
        _, where = registry

        source = opened(f"{where}:v1", "OCIRepository")

        assert source.tree.digest == Directory.of(FILES).digest
        assert source.revision == f"v1@{digest}"
        assert (source.digest, source.origin_revision) == (sha256(data), "main@sha1:01")
        assert opened(f"{where}@{digest}").revision == digest

    @pytest.mark.parametrize(
        "location",
        [
            "oci://",
            "oci://user:s3cret@example.com/app",
            "oci://example.com/UP",
            "oci://example.com/a/..:x",
            "oci://app",
        ],
    )
    def test_a_text_that_names_no_artifact(self, opened: Open, location: str) -> None:
        pytest.importorskip("oras.provider", reason="the extra 'oci' is not installed")

        with pytest.raises(SourceError) as caught:
            opened(location)
        assert (
            str(caught.value)
            == f"'{location.replace('user:s3cret@', '')}' is not an artifact (oci://host/repository:tag)"
        )

    def test_a_missing_tag(self, layout: Layout, registry: tuple[type[Registry], str], opened: Open) -> None:
        _, where = registry

        with pytest.raises(SourceError) as caught:
            opened(where)
        assert str(caught.value) == f"'{where}': the registry answered 404"
        assert caught.value.code is Code.NOT_FOUND

    def test_a_swapped_layer_is_refused(
        self, layout: Layout, registry: tuple[type[Registry], str], opened: Open
    ) -> None:
        layout.push(layout.blob(archive({"a": b"1"}), FLUX_LAYER), tag="v1")
        handler, where = registry

        handler.swapped = b"x"
        with pytest.raises(SourceError, match=r"': digest mismatch: expected sha256:"):
            opened(f"{where}:v1")
        handler.swapped = b"x" * 100_000
        with pytest.raises(SourceError) as caught:
            opened(f"{where}:v1")
        assert str(caught.value) == f"'{where}:v1': the registry sent more than was announced"

    def test_a_manifest_must_have_the_digest_asked_for(
        self, layout: Layout, registry: tuple[type[Registry], str], opened: Open
    ) -> None:
        digest = layout.push(layout.blob(archive({"a": b"1"}), FLUX_LAYER))
        (layout.root / "blobs/sha256" / digest[7:]).write_bytes(b"{}")
        _, where = registry

        with pytest.raises(SourceError) as caught:
            opened(f"{where}@{digest}")
        assert str(caught.value) == f"'{where}@{digest}': digest mismatch: expected {digest}, got {sha256(b'{}')}"


class TestLocations:
    def test_a_directory_names_its_content(self, tmp_path: Path, opened: Open) -> None:
        source = opened(write(tmp_path, FILES))

        assert source.revision == f"latest@sha256:{Directory.of(FILES).digest.hex()}"
        assert (source.digest, source.url) == ("", "")

    def test_the_kind_decides_what_is_left_out(self, tmp_path: Path, opened: Open) -> None:
        write(tmp_path, {"a.png": b"", "b": b"", ".gitignore": b""})
        (tmp_path / "link").symlink_to("b")

        assert list(opened(tmp_path, "GitRepository").tree.entries) == ["b"]
        assert list(opened(tmp_path, "GitRepository", ignore="b").tree.entries) == ["a.png"]
        assert list(opened(tmp_path, "HelmChart").tree.entries) == [".gitignore", "a.png", "b"]

    @pytest.mark.parametrize(
        ("name", "what"),
        [
            pytest.param("x.zip", "is not", id="another kind of file"),
            pytest.param("gone", "does not exist and is not", id="nothing"),
            pytest.param("gone:v1", "does not exist and is not", id="nothing with a tag"),
            pytest.param("gone@main", "does not exist and is not", id="nothing with a revision"),
        ],
    )
    def test_other_things_are_refused(self, tmp_path: Path, opened: Open, name: str, what: str) -> None:
        (tmp_path / "x.zip").write_bytes(b"")

        with pytest.raises(SourceError) as caught:
            opened(tmp_path / name)
        assert str(caught.value) == f"'{tmp_path}/{name}' {what} a directory, .tar.gz, OCI layout or git repository"
        assert caught.value.code is Code.NOT_FOUND

    def test_a_registry_without_the_extra_says_what_works_instead(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "oras.provider", None)

        with pytest.raises(SourceError) as caught:
            opened("oci://user:word@example.com/app:v1")
        assert str(caught.value) == (
            "'oci://example.com/app:v1': registries need the extra 'oci' of flux-sluice"
            " (or copy the artifact to an OCI layout, and name its directory)"
        )

    def test_an_engine_limit_is_an_error_of_the_source(self, tmp_path: Path, cache: UnpackedCache) -> None:
        write(tmp_path, FILES)

        with pytest.raises(SourceError) as caught:
            open_source(str(tmp_path), kind="Bucket", cache=cache, limits=Limits(entries=1))
        assert str(caught.value) == f"'{tmp_path}': too many entries (limit: 1, entries)"
        assert caught.value.code is Code.LIMIT


def test_archives_of_source_controller_hold_nothing_that_it_would_leave_out(shared: Path, opened: Open) -> None:
    seen = 0
    for about in sorted((shared / "real").glob("*/sources.yaml")):
        for tarball in sorted(about.parent.glob("source-*.tar.gz")):
            whole, filtered = opened(tarball), opened(tarball, "GitRepository")
            assert whole.tree is filtered.tree
            assert whole.digest in about.read_text()
            seen += 1
    assert seen >= 8
