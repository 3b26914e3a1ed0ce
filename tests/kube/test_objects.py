"""Objects in the real API server."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.control.objects_contract import LATER, READY, SPEC, Notices, ObjectsContract, offered
from tests.envtest.client import APPLY_PATCH, Refused
from tests.envtest.server import ControlPlane
from tests.kube.faults import Proxy, reply

from sluice.control.objects import (
    FINALIZER,
    MANAGED_BY_LABEL,
    ORIGIN_REVISION,
    ArtifactChanged,
    ArtifactStatus,
    Condition,
    Generator,
    GeneratorChanged,
    GeneratorStatus,
    InventoryItem,
    Owner,
    SourceChanged,
)
from sluice.core.errors import ApiError
from sluice.core.spec import API_VERSION, KIND, SourceKind, SourceRef
from sluice.kube.client import Client
from sluice.kube.clock import SystemClock
from sluice.kube.config import ClientConfig, load_config
from sluice.kube.events import Recorder
from sluice.kube.kinds import ARTIFACT_GENERATOR, EXTERNAL_ARTIFACT, SOURCE_KINDS, Kind
from sluice.kube.objects import KubeObjects, Scope

pytestmark = pytest.mark.cluster


class Cluster:
    """Everybody else in a namespace of a cluster."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.client = plane.client
        self.namespace = namespace

    def path(self, kind: Kind, name: str = "", subresource: str = "") -> str:
        return kind.path(self.namespace, name, subresource)

    def generator(self, name: str = "gen") -> Any:
        return self.client.get(self.path(ARTIFACT_GENERATOR, name))

    def artifact(self, name: str = "web") -> Any:
        return self.client.get(self.path(EXTERNAL_ARTIFACT, name))

    def create(self, kind: Kind, name: str, **fields: Any) -> Any:
        metadata = {"name": name, **fields.pop("metadata", {})}
        body = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, **fields}
        return self.client.create(self.path(kind), body)

    def create_generator(self, name: str, *, annotations: Mapping[str, str] = {}, **metadata: Any) -> None:
        self.create(ARTIFACT_GENERATOR, name, metadata={"annotations": annotations, **metadata}, spec=SPEC)

    def edit_generator(
        self, name: str, *, spec: Mapping[str, Any] | None = None, annotations: Mapping[str, str] | None = None
    ) -> None:
        patch = {"metadata": {"annotations": annotations or {}}, "spec": spec or {}}
        self.client.merge(self.path(ARTIFACT_GENERATOR, name), patch)

    def delete_generator(self, name: str) -> None:
        self.client.delete(self.path(ARTIFACT_GENERATOR, name))

    def offer(self, kind: SourceKind, name: str, artifact: ArtifactStatus | None) -> None:
        row = SOURCE_KINDS[kind]
        try:
            self.client.get(self.path(row, name))
        except Refused:
            self.create(row, name, spec=SOURCE_SPECS[kind])
        status = {"artifact": msgspec.to_builtins(artifact)}
        self.client.merge(self.path(row, name, "status"), {"status": status})

    def withdraw(self, kind: SourceKind, name: str) -> None:
        self.client.delete(self.path(SOURCE_KINDS[kind], name))

    def label_artifact(self, name: str, labels: Mapping[str, str | None]) -> None:
        self.client.merge(self.path(EXTERNAL_ARTIFACT, name), {"metadata": {"labels": labels}})

    def remove_artifact(self, name: str) -> None:
        self.client.delete(self.path(EXTERNAL_ARTIFACT, name))


SOURCE_SPECS: Mapping[SourceKind, Mapping[str, Any]] = {
    SourceKind.BUCKET: {"bucketName": "b", "endpoint": "127.0.0.1", "interval": "1m"},
    SourceKind.GIT_REPOSITORY: {"url": "https://127.0.0.1/x", "interval": "1m"},
    SourceKind.OCI_REPOSITORY: {"url": "oci://127.0.0.1/x", "interval": "1m"},
    SourceKind.HELM_CHART: {"chart": "x", "interval": "1m", "sourceRef": {"kind": "HelmRepository", "name": "x"}},
    SourceKind.EXTERNAL_ARTIFACT: {},
}


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Cluster:
    return Cluster(control_plane, namespace)


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[Client]:
    async with Client(load_config({"KUBECONFIG": str(control_plane.kubeconfig)})) as client:
        yield client


class Calendar(SystemClock):
    """A clock that is a minute later whenever somebody looks."""

    def __init__(self) -> None:
        self._now = LATER

    def now(self) -> datetime:
        self._now += timedelta(minutes=1)
        return self._now


@asynccontextmanager
async def running(objects: KubeObjects) -> AsyncIterator[KubeObjects]:
    """Objects whose view is kept, and complete."""
    task = asyncio.create_task(objects.run())
    try:
        await objects.synced(60)
        yield objects
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


@pytest.fixture
async def objects(client: Client, namespace: str) -> AsyncIterator[KubeObjects]:
    async with running(KubeObjects(client, Recorder(client, "here"), Scope(namespace), clock=Calendar())) as objects:
        yield objects


class TestKubeObjects(ObjectsContract):
    """The contract, in a cluster."""


@pytest.fixture
def notices(objects: KubeObjects) -> Notices:
    return Notices(objects)


@pytest.fixture
async def generator(world: Cluster, objects: KubeObjects, notices: Notices) -> Generator:
    world.create_generator("gen")
    return await notices.generator()


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[Proxy]:
    async with Proxy(control_plane.url, control_plane.directory / "ca.crt") as proxy:
        yield proxy


@pytest.fixture
async def distant(proxy: Proxy, control_plane: ControlPlane, namespace: str) -> AsyncIterator[KubeObjects]:
    """Objects behind a network that has faults."""
    token = load_config({"KUBECONFIG": str(control_plane.kubeconfig)}).token
    async with Client(ClientConfig(proxy.url, token=token)) as client:
        yield KubeObjects(client, Recorder(client, "here"), Scope(namespace))


def status(code: int, **fields: Any) -> bytes:
    """What an API server answers instead of an object."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, **fields}
    return reply(f"{code} Whatever", msgspec.json.encode(body))


class TestWhatIsWritten:
    async def test_an_artifact(self, world: Cluster, objects: KubeObjects, generator: Generator) -> None:
        wanted = ObjectsContract().wanted(generator, team="a")
        made = await objects.apply_artifact(wanted)
        await objects.write_artifact_status(made.key, made.generation, offered(1, **{ORIGIN_REVISION: "x"}))
        found = world.artifact()

        assert (found["metadata"]["labels"], found["metadata"]["annotations"]) == (wanted.labels, wanted.annotations)
        assert "ownerReferences" not in found["metadata"]
        assert found["spec"] == {
            "sourceRef": {
                "apiVersion": "source.extensions.fluxcd.io/v1beta1",
                "kind": "ArtifactGenerator",
                "name": "gen",
                "namespace": world.namespace,
            }
        }
        since = found["status"]["conditions"][0].pop("lastTransitionTime")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", since)
        assert found["status"] == {
            "artifact": {
                "digest": offered(1).digest,
                "path": "somewhere/1.tar.gz",
                "url": "http://127.0.0.1/somewhere/1.tar.gz",
                "revision": offered(1).revision,
                "lastUpdateTime": "2026-01-02T12:00:00Z",
                "size": 1,
                "metadata": {"org.opencontainers.image.revision": "x"},
            },
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Succeeded",
                    "message": "Artifact is ready",
                    "observedGeneration": 1,
                }
            ],
        }
        assert managers(found) == {("source-watcher", "Apply", ""), ("source-watcher", "Apply", "status")}

    async def test_a_generator(self, world: Cluster, objects: KubeObjects, generator: Generator) -> None:
        item = InventoryItem("web", generator.namespace, "sha256:12", "1.tar.gz")
        stalled = Condition("Stalled", "True", "BuildFailed", "no", LATER, 1)
        held = await objects.set_finalizer(generator, present=True)
        assert held is not None
        full = await objects.write_status(held, GeneratorStatus((READY, stalled), (item,), "sha256:34", "today"))
        found = world.generator()
        assert found["metadata"]["finalizers"] == ["source.extensions.fluxcd.io/finalizer"]
        assert found["status"] == {
            "conditions": [
                {
                    "type": "Stalled",
                    "status": "True",
                    "reason": "BuildFailed",
                    "message": "no",
                    "lastTransitionTime": "2026-01-02T13:00:00Z",
                    "observedGeneration": 1,
                },
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Succeeded",
                    "message": READY.message,
                    "lastTransitionTime": "2026-01-02T12:00:00Z",
                    "observedGeneration": 1,
                },
            ],
            "inventory": [{"name": "web", "namespace": world.namespace, "digest": "sha256:12", "filename": "1.tar.gz"}],
            "observedSourcesDigest": "sha256:34",
            "lastHandledReconcileAt": "today",
        }
        assert ("source-watcher", "Update", "status") in managers(found)

        await objects.write_status(full, GeneratorStatus())
        assert world.generator().get("status", {}) == {}


def managers(found: Any) -> set[tuple[str, str, str]]:
    """Who wrote an object: their names, how, and which part."""
    return {
        (entry["manager"], entry["operation"], entry.get("subresource", ""))
        for entry in found["metadata"]["managedFields"]
    }


class TestOthers:
    """Who else writes to the same objects."""

    THEIRS = Condition("Checked", "True", "Fine", "by somebody else", LATER, 1)

    def add_condition(self, world: Cluster) -> None:
        there = world.generator().get("status", {}).get("conditions", [])
        added = [*there, msgspec.to_builtins(self.THEIRS)]
        world.client.merge(world.path(ARTIFACT_GENERATOR, "gen", "status"), {"status": {"conditions": added}})

    async def test_their_conditions_stay(
        self, world: Cluster, objects: KubeObjects, generator: Generator, notices: Notices
    ) -> None:
        self.add_condition(world)
        seen = await notices.generator()
        assert seen.status.conditions == (self.THEIRS,)

        made = await objects.write_status(generator, GeneratorStatus((READY,)))
        assert made.status.conditions == (READY, self.THEIRS)

    async def test_their_conditions_stay_although_we_did_not_know_them(
        self, world: Cluster, objects: KubeObjects, generator: Generator
    ) -> None:
        self.add_condition(world)
        made = await objects.write_status(generator, GeneratorStatus((READY,)))

        assert made.status.conditions == (READY, self.THEIRS)

    async def test_their_finalizers_stay_although_we_did_not_know_them(
        self, world: Cluster, objects: KubeObjects, generator: Generator
    ) -> None:
        def finalize(*names: str) -> None:
            world.client.merge(world.path(ARTIFACT_GENERATOR, "gen"), {"metadata": {"finalizers": names}})

        finalize("example.com/a")
        held = await objects.set_finalizer(generator, present=True)
        assert held is not None
        assert held.finalizers == ("example.com/a", FINALIZER)

        finalize("example.com/a", FINALIZER, "example.com/b")
        world.delete_generator("gen")
        left = await objects.set_finalizer(held, present=False)
        assert left is not None
        assert (left.finalizers, left.is_deleted) == (("example.com/a", "example.com/b"), True)
        assert objects.generator(left.key) == left

    async def test_their_labels_stay_and_their_claims_do_not(
        self, world: Cluster, objects: KubeObjects, generator: Generator
    ) -> None:
        wanted = ObjectsContract().wanted(generator)
        claim = {
            "apiVersion": EXTERNAL_ARTIFACT.api_version,
            "kind": EXTERNAL_ARTIFACT.name,
            "metadata": {"name": "web", "labels": {"theirs": "x", MANAGED_BY_LABEL: "them"}},
            "spec": {"sourceRef": {"kind": "Other", "name": "other"}},
        }
        query = "?fieldManager=them&force=true"
        world.client.call("PATCH", world.path(EXTERNAL_ARTIFACT, "web") + query, claim, content_type=APPLY_PATCH)
        claim = {
            "apiVersion": EXTERNAL_ARTIFACT.api_version,
            "kind": EXTERNAL_ARTIFACT.name,
            "metadata": {"name": "web"},
            "status": {"artifact": msgspec.to_builtins(offered(7)), "conditions": [msgspec.to_builtins(self.THEIRS)]},
        }
        path = world.path(EXTERNAL_ARTIFACT, "web", "status") + query
        world.client.call("PATCH", path, claim, content_type=APPLY_PATCH)

        made = await objects.apply_artifact(wanted)
        assert (made.labels, made.owner) == ({**wanted.labels, "theirs": "x"}, wanted.owner)
        made = await objects.write_artifact_status(made.key, made.generation, offered(1))
        assert (made.artifact, made.is_ready) == (offered(1), True)
        assert [condition["type"] for condition in world.artifact()["status"]["conditions"]] == ["Ready"]

    @pytest.mark.parametrize("what", ["status", "reason", "message", "observedGeneration"])
    async def test_an_artifact_of_which_others_say_something_else_is_not_ready(
        self, what: str, world: Cluster, objects: KubeObjects, generator: Generator, notices: Notices
    ) -> None:
        made = await objects.apply_artifact(ObjectsContract().wanted(generator))
        made = await objects.write_artifact_status(made.key, made.generation, offered(1))
        others = {"status": "False", "reason": "Other", "message": "other", "observedGeneration": 7}
        condition = {**world.artifact()["status"]["conditions"][0], what: others[what]}
        patch = {"status": {"conditions": [condition]}}
        world.client.merge(world.path(EXTERNAL_ARTIFACT, "web", "status"), patch)
        change = await notices.find(ArtifactChanged)
        assert change.before == made
        assert change.after
        assert not change.after.is_ready

        repaired = await objects.write_artifact_status(made.key, made.generation, offered(1))
        assert repaired.is_ready
        assert (repaired.ready_since == made.ready_since) == (what == "observedGeneration")

    async def test_whoever_always_wins_is_told_so(
        self, proxy: Proxy, distant: KubeObjects, world: Cluster, generator: Generator
    ) -> None:
        def conflict(chunk: bytes) -> bytes | None:
            if not chunk.startswith(b"PATCH"):
                return chunk
            proxy.answers.append(status(409, reason="Conflict", message="somebody was faster"))
            return None

        proxy.on_request = conflict
        with pytest.raises(ApiError, match=r"^somebody was faster$"):
            await distant.write_status(generator, GeneratorStatus((READY,)))

        assert sum(chunk.startswith(b"PATCH") for chunk in proxy.requests) == 3

    async def test_an_answer_that_was_lost(
        self, proxy: Proxy, distant: KubeObjects, world: Cluster, generator: Generator
    ) -> None:
        """The write took place, and the second attempt finds that it is no longer on top."""
        lost: list[bytes] = []

        def lose(chunk: bytes) -> bytes | None:
            if lost or b"PATCH" not in b"".join(proxy.requests):
                return chunk
            lost.append(chunk)
            return None

        proxy.on_answer = lose
        made = await distant.write_status(generator, GeneratorStatus((READY,)))

        assert lost
        assert made.status.conditions == (READY,)
        assert world.generator()["metadata"]["resourceVersion"] == made.resource_version


class TestView:
    async def test_generators_of_another_shard_are_none_of_our_business(
        self, world: Cluster, client: Client, namespace: str
    ) -> None:
        ours, others = {"shard": "a"}, {"shard": "b"}
        world.create_generator("other", labels=others)
        world.offer(SourceKind.BUCKET, "repo", offered(1))
        scope = Scope(namespace, "shard=a")
        async with running(KubeObjects(client, Recorder(client, "here"), scope)) as objects:
            notices = Notices(objects)
            world.create_generator("gen", labels=ours)
            made = await notices.generator()
            assert list(objects.generators()) == [made]
            assert objects.source(SourceRef("", SourceKind.BUCKET, "repo", namespace)) is not None

            world.client.merge(world.path(ARTIFACT_GENERATOR, "gen"), {"metadata": {"labels": others}})
            assert await notices.find(GeneratorChanged) == GeneratorChanged(made, None)

            await objects.write_status(made, GeneratorStatus((READY,)))
            assert list(objects.generators()) == []

    async def test_all_namespaces(
        self, control_plane: ControlPlane, world: Cluster, objects: KubeObjects, client: Client
    ) -> None:
        elsewhere = Cluster(control_plane, control_plane.namespace())
        elsewhere.create_generator("gen")
        world.create_generator("gen")
        async with running(KubeObjects(client, Recorder(client, "here"))) as everything:
            assert everything.generator((elsewhere.namespace, "gen")) is not None
            assert everything.generator((world.namespace, "gen")) is not None
        assert objects.generator((elsewhere.namespace, "gen")) is None
        control_plane.clear(elsewhere.namespace)

    async def test_what_exists_is_there_once_all_is_listed(
        self, world: Cluster, client: Client, namespace: str
    ) -> None:
        for kind in SourceKind:
            world.offer(kind, "repo", offered(1))
        world.create_generator("gen")
        async with running(KubeObjects(client, Recorder(client, "here"), Scope(namespace))) as objects:
            assert objects.generator((namespace, "gen")) is not None
            assert objects.artifact((namespace, "repo")) is not None
            assert all(objects.source(SourceRef("", kind, "repo", namespace)) for kind in SourceKind)
            ages = objects.ages()
        assert ages.keys() == {kind.resource for kind in (ARTIFACT_GENERATOR, *SOURCE_KINDS.values())}
        assert all(age < 60 for age in ages.values())

    async def test_what_is_not_used_is_not_kept(self, world: Cluster, objects: KubeObjects, notices: Notices) -> None:
        copy = "kubectl.kubernetes.io/last-applied-configuration"
        world.create_generator("gen", annotations={copy: "a lot", "team": "a"})
        assert (await notices.generator()).annotations == {"team": "a"}

        world.offer(SourceKind.OCI_REPOSITORY, "repo", offered(1, **{ORIGIN_REVISION: "x", "licenses": "many"}))
        change = await notices.find(SourceChanged, lambda change: bool(change.after and change.after.artifact))
        assert change.after
        assert change.after.artifact
        assert change.after.artifact.metadata == {ORIGIN_REVISION: "x"}

    async def test_a_change_that_nobody_sees_is_no_news(
        self, world: Cluster, objects: KubeObjects, notices: Notices
    ) -> None:
        """A source's conditions change every minute."""
        world.offer(SourceKind.BUCKET, "repo", offered(1))
        world.client.merge(world.path(SOURCE_KINDS[SourceKind.BUCKET], "repo"), {"metadata": {"labels": {"a": "b"}}})
        world.offer(SourceKind.BUCKET, "repo", offered(2))
        changes = [await notices.find(SourceChanged) for _ in range(3)]

        digests = [change.after and change.after.artifact and change.after.artifact.digest for change in changes]
        assert digests == [None, offered(1).digest, offered(2).digest]

    async def test_a_time_may_be_written_in_lower_case(
        self, world: Cluster, objects: KubeObjects, notices: Notices
    ) -> None:
        world.offer(SourceKind.EXTERNAL_ARTIFACT, "web", offered(1))
        artifact = {**msgspec.to_builtins(offered(2)), "lastUpdateTime": "2026-01-02t12:00:00z"}
        world.client.merge(world.path(EXTERNAL_ARTIFACT, "web", "status"), {"status": {"artifact": artifact}})
        while (found := (await notices.find(ArtifactChanged)).after) and found.artifact != offered(2):
            pass

        assert found
        assert found.artifact == offered(2)

    @pytest.mark.parametrize("odd", ["2026-01-02T12:00:00x5Z", "2026-01-02T12:00:00+99:99", "0000-01-02t12:00:00z"])
    async def test_a_time_that_makes_no_sense_hides_nothing(
        self, odd: str, world: Cluster, objects: KubeObjects, generator: Generator, notices: Notices
    ) -> None:
        condition = {**msgspec.to_builtins(READY), "lastTransitionTime": odd}
        patch = {"status": {"conditions": [condition], "observedSourcesDigest": "x"}}
        world.client.merge(world.path(ARTIFACT_GENERATOR, "gen", "status"), patch)
        assert (await notices.generator()).status.observed_sources_digest == "x"

        world.offer(SourceKind.EXTERNAL_ARTIFACT, "web", offered(1))
        artifact = {**msgspec.to_builtins(offered(2)), "lastUpdateTime": odd}
        world.client.merge(world.path(EXTERNAL_ARTIFACT, "web", "status"), {"status": {"artifact": artifact}})
        change = await notices.find(
            ArtifactChanged,
            lambda change: bool(change.after and change.after.artifact and change.after.artifact.size == 2),
        )
        assert change.after
        assert change.after.artifact
        assert change.after.artifact.last_update_time is None

    async def test_what_cannot_be_read_is_told_and_hides_nothing(
        self, proxy: Proxy, control_plane: ControlPlane, world: Cluster, namespace: str
    ) -> None:
        proxy.on_answer = lambda chunk: chunk.replace(b'"odd":"12345"', b'"odd":[1,2,3]')
        world.create_generator("poison", labels={"odd": "12345"})
        world.create_generator("gen")
        failures: list[str] = []
        token = load_config({"KUBECONFIG": str(control_plane.kubeconfig)}).token
        async with Client(ClientConfig(proxy.url, token=token)) as client:
            objects = KubeObjects(
                client,
                Recorder(client, "here"),
                Scope(namespace),
                failed=lambda kind, error: failures.append(f"{kind.plural}: {error}"),
            )
            async with running(objects):
                assert [generator.name for generator in objects.generators()] == ["gen"]
        why = "Expected `str`, got `array` - at `$.metadata.labels[...]`"
        assert failures == [f"artifactgenerators: ArtifactGenerator {namespace}/poison: {why}"]

    async def test_a_kind_that_is_not_installed(self, proxy: Proxy, distant: KubeObjects, namespace: str) -> None:
        def missing(chunk: bytes) -> bytes | None:
            if b"/buckets?" not in chunk.split(b"\r\n")[0]:
                return chunk
            proxy.answers.append(reply("404 Not Found", b"404 page not found"))
            return None

        proxy.on_request = missing
        task = asyncio.create_task(distant.run())
        with pytest.raises(ApiError) as error:
            await distant.synced(1)
        task.cancel()
        await asyncio.wait([task])

        # On a busy machine others may be late too.
        text = (
            "buckets.source.toolkit.fluxcd.io: not listed within 1 s: "
            f"GET {SOURCE_KINDS[SourceKind.BUCKET].path(namespace)}: the server answered 404 "
            "(is its CustomResourceDefinition installed?)"
        )
        assert text in str(error.value).split("; ")

    async def test_a_bug_in_whoever_listens_ends_it_all(self, world: Cluster, client: Client, namespace: str) -> None:
        def stumble(change: object) -> None:
            raise ZeroDivisionError

        objects = KubeObjects(client, Recorder(client, "here"), Scope(namespace))
        objects.subscribe(stumble)
        world.create_generator("gen")
        with pytest.raises(ExceptionGroup) as group:
            await objects.run()

        assert group.group_contains(ZeroDivisionError)


class TestOwners:
    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(status(403, reason="Forbidden", message="no"), id="we may not look"),
            pytest.param(status(500, reason="InternalError", message="no"), id="the server fails"),
            pytest.param(reply("404 Not Found", b"404 page not found"), id="the kind is not served"),
        ],
    )
    async def test_what_is_not_certain_is_there(
        self, answer: bytes, proxy: Proxy, distant: KubeObjects, namespace: str
    ) -> None:
        def refuse(chunk: bytes) -> bytes | None:
            proxy.answers.append(answer)
            return None

        proxy.on_request = refuse
        assert await distant.owner_exists(Owner(API_VERSION, KIND, "gone", namespace))

    async def test_nobody_answers(self, proxy: Proxy, distant: KubeObjects, namespace: str) -> None:
        await proxy.refuse()
        assert await distant.owner_exists(Owner(API_VERSION, KIND, "gone", namespace))

    async def test_a_name_that_leads_elsewhere(self, objects: KubeObjects, namespace: str) -> None:
        assert await objects.owner_exists(Owner(API_VERSION, KIND, "../x", namespace))
