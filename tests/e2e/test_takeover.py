"""Take over from a source-watcher 2.2.1: its objects, and its files where the store is kept."""

import gzip
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.e2e.conftest import Starter
from tests.e2e.trees import Tree, below, files_of, sha256
from tests.e2e.world import EXTENSIONS, FINALIZER, TOOLKIT, Auditor, World, download, eventually, is_ready, output
from tests.envtest.client import APPLY_PATCH, Object

pytestmark = pytest.mark.cluster

THEN = "2026-07-01T10:00:00Z"
TREE = {"apps/web.yaml": b"web: 1\n", "apps/sub/db.yaml": b"db: 1\n", "infra/net.yaml": b"net: 1\n"}
CHANGED = {**TREE, "apps/web.yaml": b"web: 2\n"}
UPSTREAM = "--feature-gates=UpstreamCompat=true"

# The same tree in both dialects.
OUTPUTS = [output("apps", "@repo/apps/**"), output("infra", "@repo/infra/**")]


def peer_archive(tree: Tree) -> bytes:
    """An archive as the peer writes it: ustar, its directories, the root first, no padding, the default gzip level."""
    directories = {"."} | {path.rpartition("/")[0] for path in tree if "/" in path}
    blocks = []
    for path in sorted({*directories, *tree}, key=lambda path: path.split("/")):
        content = tree.get(path, b"")
        blocks += [_header(path, len(content), is_directory=path not in tree), content, b"\0" * (-len(content) % 512)]
    return gzip.compress(b"".join([*blocks, b"\0" * 1024]), mtime=0)


def _header(name: str, size: int, *, is_directory: bool) -> bytes:
    def octal(value: int, width: int) -> bytes:
        return f"{value:0{width - 1}o}\0".encode()

    mode, kind = (0o750, b"5") if is_directory else (0o700 if name.endswith(".sh") else 0o600, b"0")
    before = (
        name.encode().ljust(100, b"\0") + octal(mode, 8) + octal(0, 8) + octal(0, 8) + octal(size, 12) + octal(0, 12)
    )
    after = kind + bytes(100) + b"ustar\x0000" + bytes(64) + octal(0, 8) + octal(0, 8) + bytes(167)
    checksum = sum(before + b" " * 8 + after)
    return before + f"{checksum:06o}\0 ".encode() + after


def peer_filename(name: str, tree: Tree) -> str:
    """The Adler-32, in decimal, of a list of the files' Adler-32."""
    listed = "".join(f"{zlib.adler32(tree[path]):x}  {name}/{path}\n" for path in sorted(tree))
    return f"{zlib.adler32(listed.encode())}.tar.gz"


def test_a_file_of_the_peer_is_what_the_peer_writes() -> None:
    kept = {
        "kustomization.yaml": b"resources:\n- base\n", "base/cm.yaml": b"kind: ConfigMap\n",
        "run.sh": b"#!/bin/sh\n", "chart.tgz": b"x",
    }  # fmt: skip
    unpacked = gzip.decompress(peer_archive(kept))

    assert sha256(unpacked) == "sha256:e2e2737f4f4831f8b1c5100f1468fac25bc8c753a5196c2f73c3504301bb2e43"
    assert peer_filename("podinfo", {**kept, "logo.png": b"PNG", ".sops.yaml": b"x"}) == "242366145.tar.gz"


class Peer:
    """What a source-watcher left behind in a namespace: objects as it writes them, and files in a store."""

    def __init__(self, world: World, store: Path, address: str) -> None:
        self.world = world
        self.store = store
        self.address = address

    def leave(self, expected: Mapping[str, Tree]) -> None:
        """Publish everything of generator `gen`, Ready, from the present artifact of its source."""
        created = self.world.create(
            "ArtifactGenerator",
            "gen",
            {"sources": [{"alias": "repo", "kind": "GitRepository", "name": "repo"}], "artifacts": OUTPUTS},
            finalizers=[FINALIZER],
        )
        inventory = [self._publish(name, tree, created["metadata"]["uid"]) for name, tree in expected.items()]
        offered = self.world.get("GitRepository", "repo")
        assert offered
        there = offered["status"]["artifact"]
        text = f"repo=[digest={there['digest']},revision={there['revision']},url={there['url']}]"
        ready = {
            "type": "Ready", "status": "True", "reason": "Succeeded", "observedGeneration": 1,
            "lastTransitionTime": THEN, "message": f"reconciliation succeeded, generated {len(inventory)} artifact(s)",
        }  # fmt: skip
        status = {"conditions": [ready], "inventory": inventory, "observedSourcesDigest": sha256(text.encode())}
        self._apply("ArtifactGenerator", "gen", {"status": status}, "status")

    def _publish(self, name: str, tree: Tree, uid: str) -> Object:
        archive, filename = peer_archive(tree), peer_filename(name, tree)
        path = f"externalartifact/{self.world.namespace}/{name}/{filename}"
        file = self.store / path
        file.parent.mkdir(parents=True, mode=0o700)
        file.write_bytes(archive)
        file.with_name(f"{filename}.lock").touch()
        labels = {"app.kubernetes.io/managed-by": "source-watcher", f"{EXTENSIONS}/generator": uid}
        owner = {
            "apiVersion": f"{EXTENSIONS}/v1beta1", "kind": "ArtifactGenerator",
            "name": "gen", "namespace": self.world.namespace,
        }  # fmt: skip
        self._apply("ExternalArtifact", name, {"metadata": {"labels": labels}, "spec": {"sourceRef": owner}})
        artifact = {
            "digest": sha256(archive), "path": path, "url": f"http://{self.address}/{path}", "size": len(archive),
            "revision": f"latest@{sha256(archive)}", "lastUpdateTime": THEN,
        }  # fmt: skip
        ready = {
            "type": "Ready", "status": "True", "reason": "Succeeded", "message": "Artifact is ready",
            "observedGeneration": 1, "lastTransitionTime": THEN,
        }  # fmt: skip
        self._apply("ExternalArtifact", name, {"status": {"artifact": artifact, "conditions": [ready]}}, "status")
        return {
            "name": name, "namespace": self.world.namespace, "digest": sha256(archive), "filename": filename,
        }  # fmt: skip

    def _apply(self, kind: str, name: str, body: Object, subresource: str = "") -> None:
        version = f"{EXTENSIONS}/v1beta1" if kind == "ArtifactGenerator" else f"{TOOLKIT}/v1"
        path = f"{self.world.path(kind, name, subresource)}?fieldManager=source-watcher&force=true"
        self.world.client.call(
            "PATCH", path, _named({"apiVersion": version, "kind": kind, **body}, name), content_type=APPLY_PATCH
        )  # fmt: skip


def _named(body: Object, name: str) -> Object:
    return {**body, "metadata": {**body.get("metadata", {}), "name": name}}


EXPECTED = {"apps": below(TREE, "apps"), "infra": below(TREE, "infra")}


@pytest.mark.parametrize("flags", [[UPSTREAM], []], ids=["in the peer's dialect", "in the documented dialect"])
def test_with_the_store_kept_nothing_rolls_out(
    world: World, new_controller: Starter, audit: Auditor, flags: list[str]
) -> None:
    controller = new_controller(*flags)
    world.publish(TREE)
    Peer(world, controller.store, f"127.0.0.1:{controller.port}").leave(EXPECTED)
    before = {name: world.artifact(name) for name in EXPECTED}

    controller.start()
    world.request()

    world.until_ready()
    assert {name: world.artifact(name) for name in EXPECTED} == before
    world.publish(CHANGED)
    eventually("what changed is new", lambda: world.artifact("apps")["digest"] != before["apps"]["digest"])
    assert files_of(download(world.artifact("apps")["url"])[1]) == below(CHANGED, "apps")
    assert world.artifact("infra") == before["infra"]
    assert all(is_ready(each) for each in world.all_of("ExternalArtifact"))


def test_with_another_address_files_and_revisions_stay(world: World, new_controller: Starter, audit: Auditor) -> None:
    controller = new_controller(UPSTREAM)
    world.publish(TREE)
    Peer(world, controller.store, "source-watcher.flux-system.svc.cluster.local.").leave(EXPECTED)
    before = {name: world.artifact(name) for name in EXPECTED}

    controller.start()

    def moved() -> dict[str, Object]:
        return {
            name: {**there, "url": f"http://127.0.0.1:{controller.port}/{there['path']}"}
            for name, there in before.items()
        }

    eventually("the addresses are ours", lambda: {name: world.artifact(name) for name in EXPECTED} == moved())


def test_with_the_store_lost_there_is_one_new_revision(world: World, new_controller: Starter, audit: Auditor) -> None:
    controller = new_controller(UPSTREAM)
    world.publish(TREE)
    Peer(world, controller.store, f"127.0.0.1:{controller.port}").leave(EXPECTED)
    uids = {each["metadata"]["name"]: each["metadata"]["uid"] for each in world.all_of("ExternalArtifact")}
    shutil.rmtree(controller.store / "externalartifact")

    controller.start()

    world.settles(EXPECTED, controller.store)
    first = {name: world.artifact(name)["revision"] for name in EXPECTED}
    assert controller.stop() == 0
    shutil.rmtree(controller.store / "externalartifact")
    controller.start()
    world.settles(EXPECTED, controller.store)
    assert {name: world.artifact(name)["revision"] for name in EXPECTED} == first
    assert {each["metadata"]["name"]: each["metadata"]["uid"] for each in world.all_of("ExternalArtifact")} == uids


def test_what_the_peer_left_is_cleaned_up_with_its_generator(world: World, new_controller: Starter) -> None:
    controller = new_controller(UPSTREAM)
    world.publish(TREE)
    Peer(world, controller.store, f"127.0.0.1:{controller.port}").leave(EXPECTED)
    controller.start()

    world.delete("ArtifactGenerator", "gen")

    eventually("the generator is gone", lambda: world.get("ArtifactGenerator", "gen") is None)
    assert world.problems({}, controller.store) == []
