"""Building over a real store: what is remembered, what is published, and whose error it is."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sluice.build import Artifact, Builder, Memo, Opened, Outcome, compose_plan, revisions
from sluice.core import tar, untar
from sluice.core.dialect import DOCUMENTED
from sluice.core.errors import BuildError, Code, SourceError, StorageError
from sluice.core.limits import DEFAULT_LIMITS
from sluice.core.plan import ArtifactPlan, Source, plan_recipe
from sluice.core.spec import CopySpec
from sluice.core.tree import Directory, File
from sluice.sources import scan_directory
from sluice.storage import DiskStorage


@dataclass
class Archives:
    """Opens embedded archives, and counts them: one for each composition that extracts."""

    opened: list[str] = field(default_factory=list)

    def __call__(self, file: File) -> Directory:
        self.opened.append(file.digest.hex())
        return untar.read_archive(file.read(), DEFAULT_LIMITS, untar.EXTRACT)


@pytest.fixture
def storage(tmp_path: Path) -> DiskStorage:
    return DiskStorage(tmp_path)


@pytest.fixture
def archives() -> Archives:
    return Archives()


@pytest.fixture
def builder(storage: DiskStorage, archives: Archives) -> Builder:
    return Builder(storage, archives)


def pack(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    tar.write_archive(Directory.of(files), out)
    return out.getvalue()


def source(files: Mapping[str, bytes], revision: str = "main@sha1:1", origin: str | None = None) -> Source:
    return Source(Directory.of(files), revision, origin_revision=origin)


def plan(*copies: CopySpec, name: str = "web", **published: str) -> ArtifactPlan:
    recipe = plan_recipe(copies, "here", ["s", "t"], DOCUMENTED)
    return ArtifactPlan(name, recipe, revision=published.get("revision"), origin_revision=published.get("origin"))


UNPACK = CopySpec("@s/pkg/*.tgz", "@artifact/", (), "Extract")
FILES = {"pkg/a.tgz": pack({"x": b"1"}), "other": b"o"}
SOURCES: Opened = {"s": source(FILES)}


def test_a_plan_that_was_never_built_is_not_known(builder: Builder, archives: Archives) -> None:
    assert builder.recall("n", plan(UNPACK), SOURCES) is None
    assert archives.opened == []


def test_what_was_built_is_recalled_without_composing(builder: Builder, archives: Archives) -> None:
    built = builder.build("n", plan(UNPACK), SOURCES)
    recalled = builder.recall("n", plan(UNPACK), {"s": source(FILES | {"other": b"changed"})})

    assert recalled is not None
    assert shown(recalled) == shown(built)
    assert len(archives.opened) == 1


def shown(artifact: Artifact) -> tuple[object, ...]:
    return (artifact.name, artifact.contents, artifact.archive, artifact.revision, artifact.warnings, artifact.labels)


def test_a_change_within_reach_is_not_known(builder: Builder) -> None:
    builder.build("n", plan(UNPACK), SOURCES)

    assert builder.recall("n", plan(UNPACK), {"s": source(FILES | {"pkg/new": b""})}) is None


def test_another_artifact_of_the_same_contents_is_stored_for_itself(builder: Builder, archives: Archives) -> None:
    built = builder.build("n", plan(UNPACK), SOURCES)

    assert builder.recall("n", plan(UNPACK, name="api"), SOURCES) is None
    assert builder.recall("m", plan(UNPACK), SOURCES) is None
    other = builder.build("n", plan(UNPACK, name="api"), SOURCES)
    assert (other.contents, other.archive.digest) == (built.contents, built.archive.digest)
    assert other.archive.path != built.archive.path


def test_what_somebody_was_writing_is_tried_again(builder: Builder, tmp_path: Path) -> None:
    path = tmp_path / "source/pkg/a.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(pack({"x": b"1"}))
    scanned = {"s": Source(scan_directory(tmp_path / "source"), "r")}
    os.utime(path, ns=(1, 1))

    with pytest.raises(SourceError, match=r"^'pkg/a\.tgz' changed while it was read$"):
        builder.build("n", plan(UNPACK), scanned)
    again = {"s": Source(scan_directory(tmp_path / "source"), "r")}
    assert again["s"].tree.digest == scanned["s"].tree.digest
    assert builder.recall("n", plan(UNPACK), again) is None
    assert builder.build("n", plan(UNPACK), again).contents == Directory.of({"x": b"1"}).digest


def test_a_lost_archive_is_not_recalled(builder: Builder, storage: DiskStorage, tmp_path: Path) -> None:
    built = builder.build("n", plan(UNPACK), SOURCES)
    (tmp_path / built.archive.path).unlink()

    assert builder.recall("n", plan(UNPACK), SOURCES) is None
    assert builder.build("n", plan(UNPACK), SOURCES).archive.path == built.archive.path


def test_the_default_revision_is_the_digest_of_the_contents(builder: Builder) -> None:
    built = builder.build("n", plan(UNPACK), SOURCES)

    assert built.contents == Directory.of({"x": b"1"}).digest
    assert built.revision == f"latest@sha256:{built.contents.hex()}"
    assert built.origin_revision is None


@pytest.mark.parametrize(
    ("published", "revision", "origin"),
    [
        ({}, "latest@sha256:00ff", None),
        ({"revision": "s"}, "main@sha1:1", None),
        ({"origin": "s"}, "latest@sha256:00ff", "main@sha1:1"),
        ({"origin": "t"}, "latest@sha256:00ff", "origin@sha1:2"),
        ({"revision": "t", "origin": "s"}, "v1@sha256:3", "main@sha1:1"),
    ],
)
def test_revisions(published: dict[str, str], revision: str, origin: str | None) -> None:
    sources = {"s": source({}), "t": source({}, "v1@sha256:3", "origin@sha1:2")}

    assert revisions(plan(UNPACK, **published), b"\x00\xff", sources) == (revision, origin)


def test_revisions_are_of_the_day_also_when_recalled(builder: Builder) -> None:
    builder.build("n", plan(UNPACK, revision="s"), SOURCES)
    recalled = builder.recall("n", plan(UNPACK, revision="s", origin="s"), {"s": source(FILES, "main@sha1:2")})

    assert recalled is not None
    assert (recalled.revision, recalled.origin_revision) == ("main@sha1:2", "main@sha1:2")


class TestErrors:
    GONE = plan(CopySpec("@s/gone", "@artifact/"))
    BROKEN = plan(UNPACK)

    def test_that_are_deterministic_are_remembered(self, builder: Builder, archives: Archives) -> None:
        sources: Opened = {"s": source({"pkg/a.tgz": b"broken"})}
        text = "copy from '@s/pkg/*.tgz': 'pkg/a.tgz': archive is not gzip"

        for attempt in (builder.build, builder.recall, builder.recall):
            with pytest.raises(BuildError) as caught:
                attempt("n", self.BROKEN, sources)
            assert (str(caught.value), caught.value.code) == (text, Code.INVALID_ARCHIVE)
        assert len(archives.opened) == 1

    def test_are_remembered_as_words_only(self, storage: DiskStorage, archives: Archives) -> None:
        outcomes: list[Outcome] = []

        class Kept(Memo):
            def put(self, key: bytes, outcome: Outcome) -> None:
                outcomes.append(outcome)

        with pytest.raises(BuildError):
            Builder(storage, archives, Kept()).build("n", self.GONE, SOURCES)

        (outcome,) = outcomes
        assert outcome.error is not None
        assert (outcome.error.__traceback__, outcome.error.__cause__, outcome.error.__context__) == (None, None, None)

    def test_end_when_the_source_changes(self, builder: Builder) -> None:
        with pytest.raises(BuildError):
            builder.build("n", self.GONE, SOURCES)

        assert builder.recall("n", self.GONE, {"s": source({"gone": b"here"})}) is None
        assert builder.build("n", self.GONE, {"s": source({"gone": b"here"})}).archive.size > 0

    def test_of_the_store_are_not_remembered(self, builder: Builder, storage: DiskStorage, tmp_path: Path) -> None:
        (tmp_path / "externalartifact").mkdir(exist_ok=True)
        (tmp_path / "externalartifact" / "n").write_text("in the way")

        with pytest.raises(StorageError):
            builder.build("n", plan(UNPACK), SOURCES)
        (tmp_path / "externalartifact" / "n").unlink()

        assert builder.build("n", plan(UNPACK), SOURCES).archive.size > 0

    def test_of_reading_a_source_are_not_remembered(self, builder: Builder) -> None:
        class Torn:
            torn = True

            def read(self, offset: int, size: int) -> bytes:
                return b"" if self.torn else b"a: 1\n"

        there = File.of(b"a: 1\n")
        tree = Directory.of_entries({"a.yaml": File(there.digest, 5, False, Torn())})
        sources: Opened = {"s": Source(tree, "1")}
        merge = plan(CopySpec("@s/a.yaml", "@artifact/v.yaml"), CopySpec("@s/a.yaml", "@artifact/v.yaml", (), "Merge"))

        with pytest.raises(StorageError, match=r"^a cached source ended early$"):
            builder.build("n", merge, sources)
        assert builder.recall("n", merge, sources) is None
        Torn.torn = False
        assert builder.build("n", merge, sources).archive.size > 0

    def test_of_sources_come_before_everything(self, builder: Builder) -> None:
        missing = SourceError("source 's' is missing", Code.NOT_FOUND)

        for attempt in (builder.build, builder.recall):
            with pytest.raises(SourceError, match=r"^source 's' is missing$"):
                attempt("n", self.GONE, {"s": missing})
        with pytest.raises(SourceError):
            compose_plan(self.GONE, {"s": missing}, Archives())

    def test_of_a_source_that_only_a_revision_needs_count(self, builder: Builder) -> None:
        missing = SourceError("source 't' is missing", Code.NOT_FOUND)

        with pytest.raises(SourceError, match=r"^source 't' is missing$"):
            builder.build("n", plan(UNPACK, revision="t"), {**SOURCES, "t": missing})
        assert builder.build("n", plan(UNPACK), {**SOURCES, "t": missing}).archive.size > 0


class TestMemo:
    def test_forgets_the_least_recently_used(self) -> None:
        memo = Memo(size=2)
        memo.put(b"a", Outcome(b"1"))
        memo.put(b"b", Outcome(b"2"))
        memo.get(b"a")
        memo.put(b"c", Outcome(b"3"))

        assert [memo.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]

    def test_putting_again_renews(self) -> None:
        memo = Memo(size=2)
        for key in (b"a", b"b", b"a", b"c"):
            memo.put(key, Outcome(key))

        assert [memo.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]

    def test_dropping_it_changes_nothing_but_the_work(self, storage: DiskStorage, archives: Archives) -> None:
        built = [Builder(storage, archives).build("n", plan(UNPACK), SOURCES) for _ in range(2)]

        assert shown(built[0]) == shown(built[1])
        assert len(archives.opened) == 2
