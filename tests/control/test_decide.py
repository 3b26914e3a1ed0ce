"""What to do about a generator, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from sluice.build import Artifact, StoredArchive
from sluice.control import decide
from sluice.control.decide import Drift, Ownership, Step
from sluice.control.objects import (
    FINALIZER,
    GENERATOR_LABEL,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    ORIGIN_REVISION,
    PAUSE_ANNOTATION,
    REQUEST_ANNOTATION,
    ArtifactStatus,
    Condition,
    ExternalArtifact,
    Generator,
    GeneratorStatus,
    InventoryItem,
    Key,
    Owner,
)
from sluice.core.spec import API_VERSION, KIND, ArtifactGenerator, ArtifactSpec, SourceKind, SourceRef

NOW = datetime(2026, 7, 1, 10, 0, 0, 123456, UTC)
BEFORE = datetime(2026, 6, 1, 10, tzinfo=UTC)
BASE_URL = "http://sluice.test"
DIGEST = "sha256:" + "d" * 64
READY = Condition("Ready", "True", "Succeeded", "fine", BEFORE, 3)
WEB = InventoryItem("web", "apps", "sha256:12", "1.tar.gz")
OWNER = Owner(API_VERSION, KIND, "gen", "apps")
LABELS = {MANAGED_BY_LABEL: MANAGED_BY, GENERATOR_LABEL: "uid"}

GENERATOR = Generator(
    namespace="apps",
    name="gen",
    uid="uid",
    generation=3,
    resource_version="1",
    finalizers=(FINALIZER,),
    status=GeneratorStatus((READY,), (WEB,), DIGEST),
)
SPEC = ArtifactGenerator(
    name="gen",
    namespace="apps",
    sources=(SourceRef("repo", SourceKind.GIT_REPOSITORY, "repo", "apps"),),
    artifacts=(ArtifactSpec("web", ()),),
    labels={"team": "x"},
    metadata_annotations={"note": "y"},
)
PUBLISHED = ArtifactStatus(
    digest="sha256:12",
    path="externalartifact/apps/web/1.tar.gz",
    url=f"{BASE_URL}/externalartifact/apps/web/1.tar.gz",
    revision="latest@sha256:34",
    last_update_time=BEFORE,
    size=10,
)
THERE = ExternalArtifact(
    namespace="apps",
    name="web",
    uid="1",
    generation=1,
    labels={**LABELS, "team": "x", "theirs": "z"},
    annotations={"note": "y", "theirs": "z"},
    owner=OWNER,
    artifact=PUBLISHED,
    is_ready=True,
)


@pytest.mark.parametrize(
    ("generator", "step"),
    [
        pytest.param(None, Step.FORGET, id="one that is gone is forgotten"),
        pytest.param(GENERATOR, Step.RECONCILE, id="one that is there is reconciled"),
        pytest.param(replace(GENERATOR, finalizers=()), Step.RECONCILE, id="so is a new one"),
        pytest.param(replace(GENERATOR, is_deleted=True), Step.FINALIZE, id="one that is deleted is finalized"),
        pytest.param(
            replace(GENERATOR, is_deleted=True, finalizers=("theirs",)),
            Step.FORGET,
            id="one that waits for the finalizer of somebody else is forgotten",
        ),
        pytest.param(
            replace(GENERATOR, annotations={PAUSE_ANNOTATION: "disabled"}), Step.SUSPEND, id="a paused one is left"
        ),
        pytest.param(
            replace(GENERATOR, annotations={PAUSE_ANNOTATION: "DISABLED"}), Step.SUSPEND, id="in whatever case"
        ),
        pytest.param(
            replace(GENERATOR, annotations={PAUSE_ANNOTATION: "enabled"}), Step.RECONCILE, id="any other value is none"
        ),
        pytest.param(
            replace(GENERATOR, annotations={PAUSE_ANNOTATION: "disabled"}, is_deleted=True),
            Step.FINALIZE,
            id="a paused one can be deleted",
        ),
    ],
)
def test_the_next_step(generator: Generator | None, step: Step) -> None:
    assert decide.next_step(generator) is step


@pytest.mark.parametrize(
    ("asked", "handled", "is_request"),
    [
        pytest.param(None, "", False, id="nobody ever asked"),
        pytest.param("one", "", True, id="the first request"),
        pytest.param("one", "one", False, id="it was handled"),
        pytest.param("two", "one", True, id="another one"),
        pytest.param("", "one", False, id="an empty one asks nothing"),
        pytest.param(None, "one", False, id="it was taken back"),
    ],
)
def test_requests(asked: str | None, handled: str, is_request: bool) -> None:
    annotations = {} if asked is None else {REQUEST_ANNOTATION: asked}
    status = GeneratorStatus(last_handled_reconcile_at=handled)

    assert decide.is_request(replace(GENERATOR, annotations=annotations, status=status)) is is_request


def test_sources_of_other_namespaces_are_denied_in_lockdown_only() -> None:
    theirs = SourceRef("theirs", SourceKind.BUCKET, "stuff", "elsewhere")
    spec = replace(SPEC, sources=(*SPEC.sources, theirs))

    assert decide.check_access(spec, lockdown=False) == []
    assert [str(problem) for problem in decide.check_access(spec, lockdown=True)] == [
        "spec.sources[1].namespace: cross-namespace reference to source Bucket/elsewhere/stuff is not allowed"
    ]


# Sources digest


def offered(digest: str, revision: str, url: str) -> ArtifactStatus:
    return ArtifactStatus(digest, "", url, revision, metadata={ORIGIN_REVISION: "no part of it"})


HOST = "http://source-controller.flux-system.svc.cluster.local."
BACKEND = offered(
    "sha256:6bd1a0d3d6e5a9b7f4c3e2d1c0b9a8f7e6d5c4b3a2918070605040302010f0e0",
    "main@sha1:1eabc9a41ca088515cab83f1cce49eb43e84b67f",
    f"{HOST}/gitrepository/apps/my-backend/1eabc9a41ca088515cab83f1cce49eb43e84b67f.tar.gz",
)
CONFIG = offered(
    "sha256:0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0",
    "sha256:b4c2a60ce44b67f5b659a95ce4e4cc9e2a86baf13afb72bd397c5384cbc0e479",
    f"{HOST}/bucket/apps/my-configs/b4c2a60ce44b67f5b659a95ce4e4cc9e2a86baf13afb72bd397c5384cbc0e479.tar.gz",
)


def test_the_sources_digest_is_that_of_the_peer() -> None:
    """The worked example of contract §5.4, in either order."""
    wanted = "sha256:d0107cb7cc4c199bb83d6cd5152a3ad6d57cd349ddcd6446bd43a3f56a81d261"

    assert decide.sources_digest({"backend": BACKEND, "config": CONFIG}) == wanted
    assert decide.sources_digest({"config": CONFIG, "backend": BACKEND}) == wanted


def test_the_sources_digest_of_nothing() -> None:
    assert decide.sources_digest({}) == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# Drift


def status(**changes: Any) -> Generator:
    return replace(GENERATOR, status=replace(GENERATOR.status, **changes))


def published(**changes: Any) -> dict[Key, ExternalArtifact]:
    return {THERE.key: replace(THERE, **changes)}


def offering(**changes: Any) -> dict[Key, ExternalArtifact]:
    return published(artifact=replace(PUBLISHED, **changes))


STORED = {("apps", "web"): True}
OTHER = replace(THERE, name="other")
TWO = replace(SPEC, artifacts=(*SPEC.artifacts, ArtifactSpec("other", ())))
PATTERN = replace(TWO, path_pattern="@repo/{x}")


@pytest.mark.parametrize(
    ("change", "drift"),
    [
        pytest.param({}, None, id="everything is as the status promises"),
        pytest.param({"generator": status(conditions=())}, Drift.NOT_READY, id="there is no condition yet"),
        pytest.param(
            {"generator": status(conditions=(replace(READY, status="False"),))}, Drift.NOT_READY, id="it failed"
        ),
        pytest.param(
            {"generator": status(conditions=(replace(READY, status="Unknown"),))},
            Drift.NOT_READY,
            id="it was interrupted",
        ),
        pytest.param({"generator": replace(GENERATOR, generation=4)}, Drift.GENERATION_CHANGED, id="it was edited"),
        pytest.param({"digest": "sha256:0"}, Drift.SOURCES_CHANGED, id="a source moved"),
        pytest.param({"spec": TWO}, Drift.ARTIFACTS_CHANGED, id="the inventory is shorter than the spec"),
        pytest.param({"spec": PATTERN}, None, id="with pathPattern the spec does not tell how long it is"),
        pytest.param({"is_stored": {("apps", "web"): False}}, Drift.ARTIFACT_MISSING, id="a file is gone"),
        pytest.param({"is_stored": {}}, Drift.ARTIFACT_MISSING, id="nobody knows of the file"),
        pytest.param({"published": {}}, Drift.EXTERNAL_ARTIFACTS_CHANGED, id="the EA was deleted"),
        pytest.param(
            {"published": {THERE.key: THERE, OTHER.key: OTHER}},
            Drift.EXTERNAL_ARTIFACTS_CHANGED,
            id="an EA carries our label and is not listed",
        ),
        pytest.param({"published": published(artifact=None)}, Drift.EXTERNAL_ARTIFACTS_CHANGED, id="no artifact"),
        pytest.param({"published": published(is_ready=False)}, Drift.EXTERNAL_ARTIFACTS_CHANGED, id="not Ready"),
        pytest.param({"published": offering(digest="sha256:0")}, Drift.EXTERNAL_ARTIFACTS_CHANGED, id="another digest"),
        pytest.param({"published": offering(path="x")}, Drift.EXTERNAL_ARTIFACTS_CHANGED, id="another path"),
        pytest.param(
            {"published": offering(url="http://elsewhere/x")}, Drift.EXTERNAL_ARTIFACTS_CHANGED, id="another URL"
        ),
        pytest.param(
            {"published": published(owner=replace(OWNER, name="other"))},
            Drift.EXTERNAL_ARTIFACTS_CHANGED,
            id="another owner",
        ),
        pytest.param(
            {"published": published(labels=LABELS)}, Drift.EXTERNAL_ARTIFACTS_CHANGED, id="a common label is gone"
        ),
        pytest.param(
            {"published": published(labels={**THERE.labels, GENERATOR_LABEL: "0"})},
            Drift.EXTERNAL_ARTIFACTS_CHANGED,
            id="the label of another life",
        ),
        pytest.param(
            {"published": published(annotations={})}, Drift.EXTERNAL_ARTIFACTS_CHANGED, id="an annotation is gone"
        ),
        pytest.param(
            {"base_url": "http://moved.test"}, Drift.EXTERNAL_ARTIFACTS_CHANGED, id="our own address is another"
        ),
        pytest.param(
            {"generator": replace(GENERATOR, generation=4), "digest": "sha256:0"},
            Drift.GENERATION_CHANGED,
            id="of several the first",
        ),
    ],
)
def test_drift(change: Mapping[str, Any], drift: Drift | None) -> None:
    arguments: dict[str, Any] = {
        "generator": GENERATOR,
        "spec": SPEC,
        "digest": DIGEST,
        "published": {THERE.key: THERE},
        "base_url": BASE_URL,
        "is_stored": STORED,
    }

    assert decide.detect_drift(**{**arguments, **change}) is drift


# What to publish


def built(
    number: int = 12,
    revision: str = "latest@sha256:34",
    origin: str | None = None,
    labels: Mapping[str, str] = {},
) -> Artifact:
    path = f"externalartifact/apps/web/{number}.tar.gz"
    archive = StoredArchive(path, f"sha256:{number}", 10, BEFORE)
    return Artifact("web", b"", archive, revision, origin, labels, ())


def test_reserved_labels_win_over_captures_and_captures_over_common_labels() -> None:
    spec = replace(SPEC, labels={"team": "x", "app": "common", MANAGED_BY_LABEL: "forged"})
    wanted = decide.wanted_object(GENERATOR, spec, built(labels={"app": "capture", GENERATOR_LABEL: "forged"}))

    assert wanted == ExternalArtifact(
        namespace="apps",
        name="web",
        labels={"team": "x", "app": "capture", **LABELS},
        annotations={"note": "y"},
        owner=OWNER,
    )


WANTED = replace(THERE, labels={**LABELS, "team": "x"}, annotations={"note": "y"})


@pytest.mark.parametrize(
    ("there", "generation_changed", "needed"),
    [
        pytest.param(None, False, True, id="there is none"),
        pytest.param(THERE, False, False, id="it is so; what others added does not matter"),
        pytest.param(THERE, True, True, id="after an edit what is there besides may have been ours"),
        pytest.param(WANTED, True, False, id="after an edit it is exactly so"),
        pytest.param(replace(THERE, owner=None), False, True, id="it has no owner"),
        pytest.param(replace(THERE, owner=replace(OWNER, name="x")), False, True, id="it has another owner"),
        pytest.param(replace(THERE, labels={**LABELS, "team": "y"}), False, True, id="a label is another"),
        pytest.param(replace(THERE, labels=LABELS), False, True, id="a label is gone"),
        pytest.param(replace(THERE, annotations={}), False, True, id="an annotation is gone"),
    ],
)
def test_whether_an_object_is_applied(there: ExternalArtifact | None, generation_changed: bool, needed: bool) -> None:
    assert decide.needs_apply(there, WANTED, generation_changed=generation_changed) is needed


def with_origin(artifact: ArtifactStatus, origin: str) -> ArtifactStatus:
    return replace(artifact, metadata={ORIGIN_REVISION: origin})


MOVED = replace(
    PUBLISHED,
    digest="sha256:13",
    path="externalartifact/apps/web/13.tar.gz",
    url=f"{BASE_URL}/externalartifact/apps/web/13.tar.gz",
)
SAME = replace(
    PUBLISHED,
    path="externalartifact/apps/web/12.tar.gz",
    url=f"{BASE_URL}/externalartifact/apps/web/12.tar.gz",
)
PEERS = replace(SAME, revision="latest@sha256:12")
ROUNDED = NOW.replace(microsecond=0)


@pytest.mark.parametrize(
    ("artifact", "before", "wanted"),
    [
        pytest.param(built(), None, replace(SAME, last_update_time=ROUNDED), id="the first one"),
        pytest.param(built(), SAME, SAME, id="the same again keeps its time"),
        pytest.param(
            built(),
            replace(SAME, last_update_time=None),
            replace(SAME, last_update_time=ROUNDED),
            id="no time was known",
        ),
        pytest.param(
            built(13, "latest@sha256:35"),
            SAME,
            replace(MOVED, revision="latest@sha256:35", last_update_time=ROUNDED),
            id="other contents",
        ),
        pytest.param(
            built(13), SAME, replace(MOVED, last_update_time=ROUNDED), id="the same contents, compressed otherwise"
        ),
        pytest.param(built(), PEERS, PEERS, id="the peer's name for the same bytes is kept"),
        pytest.param(
            built(13),
            PEERS,
            replace(MOVED, last_update_time=ROUNDED),
            id="the peer's name for other bytes is not",
        ),
        pytest.param(
            built(revision="main@sha1:1"),
            PEERS,
            replace(PEERS, revision="main@sha1:1"),
            id="nor where a source gives the revision",
        ),
        pytest.param(
            built(),
            replace(SAME, revision="main@sha1:1"),
            SAME,
            id="a source gives the revision no more",
        ),
        pytest.param(
            built(origin="one"), None, with_origin(replace(SAME, last_update_time=ROUNDED), "one"), id="an origin"
        ),
        pytest.param(built(origin="two"), with_origin(SAME, "one"), with_origin(SAME, "one"), id="an origin is kept"),
        pytest.param(built(origin="two"), SAME, with_origin(SAME, "two"), id="an origin is asked for from now on"),
        pytest.param(built(), with_origin(SAME, "one"), SAME, id="an origin is asked for no more"),
        pytest.param(
            built(13, "latest@sha256:35", "two"),
            with_origin(SAME, "one"),
            with_origin(replace(MOVED, revision="latest@sha256:35", last_update_time=ROUNDED), "two"),
            id="an origin moves with the revision",
        ),
        pytest.param(
            built(13, origin="two"),
            with_origin(SAME, "one"),
            with_origin(replace(MOVED, last_update_time=ROUNDED), "one"),
            id="and not with the bytes",
        ),
        pytest.param(
            built(origin="two"), with_origin(PEERS, "one"), with_origin(PEERS, "one"), id="that of the peer is kept"
        ),
    ],
)
def test_what_is_published(artifact: Artifact, before: ArtifactStatus | None, wanted: ArtifactStatus) -> None:
    there = None if before is None else replace(THERE, artifact=before)

    assert decide.wanted_status(artifact, there, BASE_URL, NOW, origin_every_commit=False) == wanted


def test_an_origin_may_follow_every_commit() -> None:
    there = replace(THERE, artifact=with_origin(SAME, "one"))
    wanted = decide.wanted_status(built(origin="two"), there, BASE_URL, NOW, origin_every_commit=True)

    assert wanted == with_origin(SAME, "two")


# Ownership


@pytest.mark.parametrize(
    ("there", "whose"),
    [
        pytest.param(None, Ownership.OURS, id="there is none"),
        pytest.param(THERE, Ownership.OURS, id="it names us"),
        pytest.param(
            replace(THERE, labels={GENERATOR_LABEL: "0"}),
            Ownership.OURS,
            id="it names us, with the label of another life",
        ),
        pytest.param(
            replace(THERE, owner=replace(OWNER, namespace="")), Ownership.OURS, id="it names us without a namespace"
        ),
        pytest.param(
            replace(THERE, owner=replace(OWNER, api_version="source.extensions.fluxcd.io/v1")),
            Ownership.OURS,
            id="it names us in another version",
        ),
        pytest.param(replace(THERE, owner=None), Ownership.OURS, id="it names nobody and carries our label"),
        pytest.param(
            replace(THERE, owner=None, labels={GENERATOR_LABEL: "0"}), Ownership.FOREIGN, id="or that of another"
        ),
        pytest.param(replace(THERE, owner=None, labels={}), Ownership.FOREIGN, id="or none"),
        pytest.param(
            replace(THERE, owner=replace(OWNER, name="other")),
            Ownership.UNLESS_OWNER_IS_GONE,
            id="it names another generator here",
        ),
        pytest.param(
            replace(THERE, owner=replace(OWNER, name="other", namespace="")),
            Ownership.UNLESS_OWNER_IS_GONE,
            id="it names another generator without a namespace",
        ),
        pytest.param(
            replace(THERE, owner=replace(OWNER, namespace="elsewhere")), Ownership.FOREIGN, id="it names one elsewhere"
        ),
        pytest.param(replace(THERE, owner=replace(OWNER, kind="Other")), Ownership.FOREIGN, id="it names another kind"),
        pytest.param(
            replace(THERE, owner=replace(OWNER, api_version="example.com/v1")),
            Ownership.FOREIGN,
            id="it names another group",
        ),
        pytest.param(
            replace(THERE, owner=replace(OWNER, api_version="source.extensions.fluxcd.io.example.com/v1")),
            Ownership.FOREIGN,
            id="it names a group that begins like ours",
        ),
    ],
)
def test_ownership(there: ExternalArtifact | None, whose: Ownership) -> None:
    assert decide.ownership(there, GENERATOR) is whose


# Orphans and inventory


def item(name: str, number: int = 1, namespace: str = "apps") -> InventoryItem:
    return InventoryItem(name, namespace, f"sha256:{number}", f"{number}.tar.gz")


@pytest.mark.parametrize(
    ("listed", "wanted", "labelled", "orphans"),
    [
        pytest.param([WEB], ["web"], [THERE], [], id="all is wanted"),
        pytest.param([WEB], [], [THERE], ["web"], id="what is listed and not wanted"),
        pytest.param([], [], [THERE], ["web"], id="what no inventory lists and names us"),
        pytest.param([item("b"), item("a")], [], [], ["a", "b"], id="what is listed and gone, in order"),
        pytest.param(
            [], [], [replace(THERE, owner=replace(OWNER, name="x"))], [], id="not what another generator owns"
        ),
        pytest.param([item("web", namespace="elsewhere")], [], [], [], id="not what is elsewhere"),
    ],
)
def test_orphans(
    listed: Sequence[InventoryItem], wanted: Sequence[str], labelled: Sequence[ExternalArtifact], orphans: list[str]
) -> None:
    generator = status(inventory=tuple(listed))

    assert decide.select_orphans(generator, wanted, labelled) == [("apps", name) for name in orphans]


@pytest.mark.parametrize(
    ("before", "now", "wanted", "keep_others", "after"),
    [
        pytest.param([], [item("a"), item("b")], ["b", "a"], False, [item("b"), item("a")], id="in order of the spec"),
        pytest.param([item("a")], [item("a", 2)], ["a"], False, [item("a", 2)], id="the new one"),
        pytest.param([item("a")], [], ["a", "b"], True, [item("a")], id="the last good one of what failed"),
        pytest.param([item("old")], [item("a")], ["a"], False, [item("a")], id="what was pruned is not listed"),
        pytest.param([item("old")], [item("a")], ["a"], True, [item("a"), item("old")], id="what was not pruned is"),
        pytest.param([item("a")], [], [], False, [], id="nothing is wanted any more"),
    ],
)
def test_the_inventory(
    before: Sequence[InventoryItem],
    now: Sequence[InventoryItem],
    wanted: Sequence[str],
    keep_others: bool,
    after: list[InventoryItem],
) -> None:
    generator = status(inventory=tuple(before))

    assert decide.merge_inventory(generator, now, wanted, keep_others=keep_others) == after


# Cycles


@pytest.mark.parametrize(
    ("feeds", "cycle"),
    [
        pytest.param({}, None, id="nothing feeds anything"),
        pytest.param({"a": "b", "b": "c"}, None, id="a chain"),
        pytest.param({"a": "a"}, "aa", id="itself"),
        pytest.param({"a": "b", "b": "a"}, "aba", id="a pair"),
        pytest.param({"a": "bc", "b": "d", "c": "d", "d": ""}, None, id="two ways to one place"),
        pytest.param({"a": "b", "b": "c", "c": "b"}, None, id="a cycle that it only reads from"),
        pytest.param({"a": "bc", "b": "d", "c": "a", "d": "b"}, "aca", id="behind a cycle of others"),
        pytest.param({"a": "b", "b": "cd", "c": "b", "d": "a"}, "abda", id="through a node of another cycle"),
    ],
)
def test_cycles(feeds: Mapping[str, str], cycle: str | None) -> None:
    graph = {("apps", name): [("apps", other) for other in others] for name, others in feeds.items()}

    found = decide.find_cycle(("apps", "a"), graph)

    assert found == (None if cycle is None else [("apps", name) for name in cycle])


def test_a_cycle_of_ten_thousand() -> None:
    graph = {("apps", str(number)): [("apps", str((number + 1) % 10_000))] for number in range(10_000)}

    found = decide.find_cycle(("apps", "0"), graph)

    assert found is not None
    assert len(found) == 10_001
