"""Which archives a fetcher keeps: what sources offer, and not what they once offered."""

import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import pytest_asyncio
from tests.e2e.sources import SourceServer, serving
from tests.e2e.trees import sha256, tarball

from sluice.cache import UnpackedCache
from sluice.control.objects import ArtifactStatus
from sluice.core.spec import SourceKind, SourceRef
from sluice.fetch import Fetcher, Rules

REPO = SourceRef("repo", SourceKind.GIT_REPOSITORY, "repo", "apps")
FORK = SourceRef("repo", SourceKind.GIT_REPOSITORY, "fork", "apps")


@pytest.fixture
def sources() -> Iterator[SourceServer]:
    with serving() as server:
        yield server


@pytest_asyncio.fixture
async def fetcher(tmp_path: Path) -> AsyncIterator[Fetcher]:
    with ThreadPoolExecutor(1) as pool:
        async with Fetcher(UnpackedCache(tmp_path), pool, time.monotonic, Rules()) as made:
            yield made


def offer(sources: SourceServer, ref: SourceRef, number: int) -> ArtifactStatus:
    """A revision of a source; equal numbers are equal archives."""
    archive = tarball({"a.yaml": b"%d" % number})
    path = f"{ref.name}/{number}.tar.gz"
    sources.archives[f"/{path}"] = archive
    return ArtifactStatus(sha256(archive), path, f"{sources.url}/{path}", f"main@sha1:{number}")


async def test_of_each_source_the_last_two_revisions_are_kept(fetcher: Fetcher, sources: SourceServer) -> None:
    revisions = [offer(sources, REPO, number) for number in range(4)]
    for revision in revisions:
        await fetcher.open(REPO, revision)

    for revision in [revisions[2], revisions[3], revisions[2]]:
        await fetcher.open(REPO, revision)
    assert fetcher.downloads == 4

    await fetcher.open(REPO, revisions[0])
    assert fetcher.downloads == 5


async def test_a_revision_that_comes_back_is_the_newest_again(fetcher: Fetcher, sources: SourceServer) -> None:
    first, second, third = (offer(sources, REPO, number) for number in range(3))
    for revision in [first, second, first, third]:
        await fetcher.open(REPO, revision)

    await fetcher.open(REPO, first)

    assert fetcher.downloads == 3


async def test_what_another_source_offers_is_kept(fetcher: Fetcher, sources: SourceServer) -> None:
    shared = offer(sources, FORK, 0)
    await fetcher.open(FORK, shared)
    for number in range(4):
        await fetcher.open(REPO, offer(sources, REPO, number))
    downloads = fetcher.downloads

    await fetcher.open(FORK, shared)

    assert fetcher.downloads == downloads


async def test_a_source_that_is_read_outlives_its_place(fetcher: Fetcher, sources: SourceServer) -> None:
    source = await fetcher.open(REPO, offer(sources, REPO, 0))
    for number in range(1, 4):
        await fetcher.open(REPO, offer(sources, REPO, number))

    entry = source.tree.find("a.yaml")

    assert entry is not None
    assert entry.read() == b"0"  # type: ignore[union-attr]  # it is a file
