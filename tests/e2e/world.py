"""A namespace as its users see it: sources, generators, artifacts, and whether all of it fits together."""

import hashlib
import itertools
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.e2e.sources import Fault, SourceServer
from tests.e2e.trees import Tree, contents_digest, files_of, sha256, tarball
from tests.envtest.client import Client, Object, Refused

EXTENSIONS = "source.extensions.fluxcd.io"
TOOLKIT = "source.toolkit.fluxcd.io"
FINALIZER = f"{EXTENSIONS}/finalizer"
REQUEST = "reconcile.fluxcd.io/requestedAt"
PATIENCE = 120.0

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_APIS: Mapping[str, tuple[str, str, Object]] = {
    "ArtifactGenerator": (f"{EXTENSIONS}/v1beta1", "artifactgenerators", {}),
    "ExternalArtifact": (f"{TOOLKIT}/v1", "externalartifacts", {}),
    "GitRepository": (f"{TOOLKIT}/v1", "gitrepositories", {"url": "https://git.invalid/repo", "interval": "1h"}),
    "OCIRepository": (f"{TOOLKIT}/v1", "ocirepositories", {"url": "oci://registry.invalid/repo", "interval": "1h"}),
    "Bucket": (f"{TOOLKIT}/v1", "buckets", {"bucketName": "b", "endpoint": "bucket.invalid", "interval": "1h"}),
    "HelmChart": (
        f"{TOOLKIT}/v1",
        "helmcharts",
        {"chart": "c", "interval": "1h", "sourceRef": {"kind": "HelmRepository", "name": "charts"}},
    ),
}


def eventually(what: str, holds: Callable[[], object], within: float = PATIENCE) -> None:
    """Ask until it holds; fails with what was asked, and the last answer where that is a list of problems."""
    deadline = time.monotonic() + within
    while True:
        answer = holds()
        if answer is True or answer == []:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within:g} s" + (f": {answer}" if answer else ""))
        time.sleep(0.02)


def download(url: str) -> tuple[int, bytes]:
    """The status and the body of an answer; the status is 0 where nobody answers."""
    try:
        with _DIRECT.open(url, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""
    except OSError:
        return 0, b""


def condition(obj: Object, kind: str = "Ready") -> Object:
    """The condition of that type, or nothing."""
    found: list[Object] = [each for each in obj.get("status", {}).get("conditions", []) if each["type"] == kind]
    return found[0] if found else {}


def is_ready(obj: Object) -> bool:
    """Whether an object is Ready, for its present generation."""
    ready = condition(obj)
    return ready.get("status") == "True" and ready.get("observedGeneration") == obj["metadata"]["generation"]


def copy(source: str, target: str = "@artifact/", **fields: Any) -> Object:
    return {"from": source, "to": target, **fields}


def output(name: str, *copies: Object | str, **fields: Any) -> Object:
    """An artifact of a spec; a copy may be the text of its `from` alone."""
    return {"name": name, "copy": [copy(each) if isinstance(each, str) else each for each in copies], **fields}


def source(alias: str = "repo", *, name: str = "", kind: str = "GitRepository", namespace: str = "") -> Object:
    return {"alias": alias, "kind": kind, "name": name or alias} | ({"namespace": namespace} if namespace else {})


class World:
    """One namespace, by the administrator's eyes."""

    def __init__(self, client: Client, namespace: str, sources: SourceServer) -> None:
        self.client = client
        self.namespace = namespace
        self.sources = sources
        self._revisions = itertools.count(1)

    def path(self, kind: str, name: str = "", subresource: str = "") -> str:
        api_version, plural, _ = _APIS[kind]
        parts = [f"/apis/{api_version}/namespaces/{self.namespace}/{plural}", name, subresource]
        return "/".join(filter(None, parts))

    # Objects

    def create(self, kind: str, name: str, spec: Object, **metadata: Any) -> Object:
        body = {"apiVersion": _APIS[kind][0], "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}
        return self.client.create(self.path(kind), body)

    def get(self, kind: str, name: str) -> Object | None:
        try:
            return self.client.get(self.path(kind, name))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def all_of(self, kind: str) -> list[Object]:
        items: list[Object] = self.client.get(self.path(kind))["items"]
        return items

    def generator(self, name: str = "gen") -> Object:
        return self.client.get(self.path("ArtifactGenerator", name))

    def artifact(self, name: str) -> Object:
        """The artifact in an ExternalArtifact's status; empty as long as there is none."""
        found: Object = (self.get("ExternalArtifact", name) or {}).get("status", {}).get("artifact", {})
        return found

    def events(self) -> list[Object]:
        items: list[Object] = self.client.get(f"/api/v1/namespaces/{self.namespace}/events")["items"]
        return items

    # Acting

    def generate(
        self,
        *artifacts: Object,
        name: str = "gen",
        sources: Iterable[Object] = (),
        annotations: Any = None,
        **spec: Any,
    ) -> Object:
        """Create a generator; without `sources` it reads GitRepository `repo`."""
        body = {"sources": list(sources) or [source()], "artifacts": list(artifacts), **spec}
        return self.create("ArtifactGenerator", name, body, annotations=annotations or {})

    def edit(self, name: str = "gen", **spec: Any) -> None:
        self.client.merge(self.path("ArtifactGenerator", name), {"spec": spec})

    def annotate(self, name: str = "gen", **annotations: str | None) -> None:
        self.client.merge(self.path("ArtifactGenerator", name), {"metadata": {"annotations": annotations}})

    def request(self, name: str = "gen") -> None:
        """Ask for a reconciliation, and wait until it was handled."""
        token = datetime.now(UTC).isoformat()
        self.client.merge(self.path("ArtifactGenerator", name), {"metadata": {"annotations": {REQUEST: token}}})

        def handled() -> bool:
            return bool(self.generator(name)["status"].get("lastHandledReconcileAt") == token)

        eventually(f"request of {name} handled", handled)

    def delete(self, kind: str, name: str) -> None:
        self.client.delete(self.path(kind, name))

    def publish(
        self,
        tree: Tree,
        name: str = "repo",
        *,
        kind: str = "GitRepository",
        revision: str = "",
        fault: Fault | None = None,
    ) -> str:
        """Offer a tree as a source's new artifact, as source-controller would; returns its path on the server."""
        archive = tarball(tree)
        revision = revision or f"main@sha1:{hashlib.sha1(str(next(self._revisions)).encode()).hexdigest()}"
        stem = hashlib.sha1((revision + sha256(archive)).encode()).hexdigest()
        path = f"{kind.lower()}/{self.namespace}/{name}/{stem}.tar.gz"
        self.sources.archives[f"/{path}"] = archive
        if fault is not None:
            self.sources.faults[f"/{path}"] = fault
        self.offer(kind, name, path, revision, sha256(archive), len(archive))
        return f"/{path}"

    def offer(self, kind: str, name: str, path: str, revision: str, digest: str, size: int) -> None:
        """Write the artifact into the status of a source, which is created where it is missing."""
        if self.get(kind, name) is None:
            self.create(kind, name, _APIS[kind][2])
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        artifact = {
            "path": path, "url": f"{self.sources.url}/{path}", "revision": revision,
            "digest": digest, "size": size, "lastUpdateTime": now,
        }  # fmt: skip
        self.client.merge(self.path(kind, name, "status"), {"status": {"artifact": artifact}})

    # Looking

    def until_ready(self, *names: str, within: float = PATIENCE) -> None:
        for name in names or ("gen",):

            def holds(name: str = name) -> object:
                found = self.generator(name)
                return is_ready(found) or [condition(found)]

            eventually(f"{name} is Ready", holds, within)

    def until_condition(self, kind: str, status: str, reason: str, message: str, name: str = "gen") -> None:
        """Wait for a condition with the whole of its message."""

        def holds() -> object:
            found = condition(self.generator(name), kind)
            seen = [found.get(field) for field in ("status", "reason", "message")]
            return seen == [status, reason, message] or [seen]

        eventually(f"{name} is {kind}={status}", holds)

    def settles(self, expected: Mapping[str, Tree], store: Path, *, within: float = PATIENCE) -> None:
        """Wait until the namespace holds exactly these artifacts, each right in every respect."""
        eventually("the state of a run without faults", lambda: self.problems(expected, store), within)

    def problems(self, expected: Mapping[str, Tree], store: Path) -> list[str]:
        """What is not as a run without faults would leave it."""
        artifacts = {each["metadata"]["name"]: each for each in self.all_of("ExternalArtifact")}
        wrong = [f"artifact {name} is orphaned" for name in artifacts.keys() - expected.keys()]
        wrong += [f"artifact {name} is missing" for name in expected.keys() - artifacts.keys()]
        for name in artifacts.keys() & expected.keys():
            wrong += [f"{name}: {text}" for text in _wrong_with(artifacts[name], expected[name])]
        wrong += self._wrong_generators(artifacts)
        return wrong + self._wrong_files(artifacts, store)

    def _wrong_generators(self, artifacts: Mapping[str, Object]) -> list[str]:
        listed: dict[str, tuple[str, str]] = {}
        wrong = []
        for generator in self.all_of("ArtifactGenerator"):
            if not is_ready(generator):
                wrong.append(f"{generator['metadata']['name']}: {condition(generator)}")
            for item in generator.get("status", {}).get("inventory", []):
                listed[item["name"]] = (item["digest"], item["filename"])
        published = {
            name: (there["digest"], there["path"].rpartition("/")[2])
            for name, obj in artifacts.items()
            if (there := obj.get("status", {}).get("artifact"))
        }
        return wrong + ([f"inventories {listed} differ from {published}"] if listed != published else [])

    def _wrong_files(self, artifacts: Mapping[str, Object], store: Path) -> list[str]:
        here = store / "externalartifact" / self.namespace
        directories = {path.name for path in here.iterdir()} if here.is_dir() else set()
        wrong = [f"files of {name} are orphaned" for name in directories - artifacts.keys()]
        return wrong + [
            f"{file.relative_to(store)} is left over"
            for file in sorted(here.glob("*/*"))
            if not file.name.endswith(".tar.gz")
        ]


def _wrong_with(obj: Object, tree: Tree) -> list[str]:
    there = obj.get("status", {}).get("artifact")
    if not there:
        return ["no artifact"]
    status, body = download(there["url"])
    if status != 200:
        return [f"{there['url']} answers {status}"]
    if (sha256(body), len(body)) != (there["digest"], there["size"]):
        return ["what is served is not what the status says"]
    wrong = []
    if (found := files_of(body)) != dict(tree):
        wrong.append(f"holds {sorted(found)} rather than {sorted(tree)}, or other contents")
    if not is_ready(obj):
        wrong.append(f"is not Ready: {condition(obj)}")
    if there["revision"].startswith("latest@") and there["revision"] != f"latest@sha256:{contents_digest(tree)}":
        wrong.append(f"revision {there['revision']} is not that of its contents")
    if not there["url"].endswith(f"/{there['path']}"):
        wrong.append(f"URL {there['url']} does not end in {there['path']}")
    return wrong


class Auditor:
    """Follows a namespace's artifacts and fetches each new one the moment it is announced.

    An artifact that is announced must be there, and what is served must be what was announced: at every
    moment, whatever happens around it. Nobody answering is no violation: a process may be dead.
    """

    def __init__(self, world: World) -> None:
        self.violations: list[str] = []
        self.announced: list[Object] = []
        """Every artifact that was announced, in order."""
        self._world = world
        self._seen: dict[str, Object] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        for obj in self._world.all_of("ExternalArtifact"):
            self._seen[obj["metadata"]["name"]] = obj.get("status", {}).get("artifact", {})
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(0.02):
            with suppress(OSError, Refused, json.JSONDecodeError):
                for obj in self._world.all_of("ExternalArtifact"):
                    self._look(obj)

    def _look(self, obj: Object) -> None:
        name = obj["metadata"]["name"]
        there = obj.get("status", {}).get("artifact", {})
        if not there or there == self._seen.get(name):
            return
        self._seen[name] = there
        self.announced.append(there)
        status, body = download(there["url"])
        if status not in (0, 200) and self._world.artifact(name) == there:
            self.violations.append(f"{name}: {there['url']} was announced and answers {status}")
        elif status == 200 and sha256(body) != there["digest"]:
            self.violations.append(f"{name}: {there['url']} holds {sha256(body)}, announced as {there['digest']}")
