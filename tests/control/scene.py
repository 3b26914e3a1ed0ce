"""A reconciler over a directory, with a real store and real archives, and a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, structs
from tests.control.local_world import LocalWorld

from sluice.build import Builder, StoredArchive
from sluice.cache import UnpackedCache
from sluice.control.objects import (
    ORIGIN_REVISION,
    ArtifactStatus,
    Condition,
    ConditionType,
    Event,
    ExternalArtifact,
    Generator,
    GeneratorStatus,
    InventoryItem,
)
from sluice.control.ports import Settings
from sluice.control.queue import Lane, Turn
from sluice.control.reconcile import Ended, Reconciler
from sluice.core.errors import ApiError, Code, SourceError
from sluice.core.plan import Source
from sluice.core.spec import SourceKind, SourceRef
from sluice.core.tar import write_archive
from sluice.core.tree import Directory
from sluice.local import LocalObjects
from sluice.storage import DiskStorage

T = TypeVar("T")

BEGIN = datetime(2026, 7, 1, 10, tzinfo=UTC)
BASE_URL = "http://sluice.test"
NAMESPACE = LocalWorld.namespace
SOURCE_URL = "http://sources.test"


class HandClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.elapsed = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.elapsed

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.elapsed - 1000)

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.elapsed + seconds, future))
        await future

    def advance(self, seconds: float) -> None:
        self.elapsed += seconds
        for due, future in self._sleepers:
            if due <= self.elapsed and not future.done():
                future.set_result(None)
        self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].done()]


class Killed(BaseException):
    """The process ends here."""


class Tripwire:
    """Sees every write before it is done, and may prevent it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.checks: list[Callable[[str], None]] = []

    def step(self, what: str) -> None:
        for check in self.checks:
            check(what)
        self.done.append(what)

    def fail(self, kind: str, times: int = 1, error: Callable[[str], Exception] = ApiError) -> None:
        """Refuse the next writes of one kind, or to one object."""
        left = [times]

        def check(what: str) -> None:
            if what.startswith(kind) and left[0]:
                left[0] -= 1
                raise error(f"{what}: refused")

        self.checks.append(check)

    def kill_after(self, count: int) -> None:
        """Let so many writes be done, and none after them."""

        def check(what: str) -> None:
            if len(self.done) >= count:
                raise Killed

        self.checks.append(check)


class Watched(LocalObjects):
    """Local objects whose writes are counted, and take a moment, as those to a server do."""

    def __init__(self, directory: Path, clock: HandClock, wire: Tripwire, told: list[tuple[str, Event]]) -> None:
        super().__init__(directory, clock.now, told=lambda generator, event: told.append((generator.name, event)))
        self._wire = wire

    async def _step(self, what: str) -> None:
        self._wire.step(what)
        for _ in range(3):
            await asyncio.sleep(0)

    async def set_finalizer(self, generator: Generator, *, present: bool) -> Generator | None:
        await self._step(f"finalizer {generator.name}{'' if present else ' gone'}")
        return await super().set_finalizer(generator, present=present)

    async def write_status(self, generator: Generator, status: GeneratorStatus) -> Generator:
        await self._step(f"status {generator.name}")
        return await super().write_status(generator, status)

    async def apply_artifact(self, wanted: ExternalArtifact) -> ExternalArtifact:
        await self._step(f"apply {wanted.name}")
        return await super().apply_artifact(wanted)

    async def write_artifact_status(self, key: tuple[str, str], generation: int, artifact: ArtifactStatus) -> Any:
        await self._step(f"publish {key[1]}")
        return await super().write_artifact_status(key, generation, artifact)

    async def delete_artifact(self, artifact: ExternalArtifact) -> None:
        await self._step(f"delete {artifact.name}")
        await super().delete_artifact(artifact)


class WatchedStorage(DiskStorage):
    """A store whose writes are points at which a process may end."""

    wire: Tripwire

    def _write(self, namespace: str, name: str, tree: Directory) -> StoredArchive:
        self.wire.step(f"store {name}")
        return super()._write(namespace, name, tree)

    def delete(self, namespace: str, name: str) -> None:
        self.wire.step(f"erase {name}")
        super().delete(namespace, name)


class Archives:
    """Opens sources: archives in a directory, and what the store serves. Each may be held up."""

    def __init__(self, directory: Path, store: Path) -> None:
        self._directory = directory
        self._store = store
        self._cache = UnpackedCache(directory)
        self.gate: asyncio.Event | None = None
        self.waiting = 0
        self.opened: Counter[str] = Counter()

    async def open(self, ref: SourceRef, artifact: ArtifactStatus) -> Source:
        if self.gate is not None:
            self.waiting += 1
            try:
                await self.gate.wait()
            finally:
                self.waiting -= 1
        self.opened[ref.name] += 1
        root, base = (self._store, BASE_URL) if artifact.url.startswith(BASE_URL) else (self._directory, SOURCE_URL)
        path = root / artifact.url.removeprefix(f"{base}/")
        if not path.is_file():
            raise SourceError(f"{ref}: file not found: {artifact.url}", Code.FETCH)
        try:
            unpacked = self._cache.open([path.read_bytes()], artifact.digest)
        except SourceError as error:
            raise SourceError(f"{ref}: {error}", error.code) from error
        return Source(unpacked.tree, artifact.revision, artifact.digest, artifact.url, artifact.origin_revision)


class Inline:
    """Pools without threads; that of the disk may be held up."""

    def __init__(self) -> None:
        self.gate: asyncio.Event | None = None
        self.waiting = 0

    async def build(self, work: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        return work()

    async def io(self, work: Callable[[], T]) -> T:
        if self.gate is not None:
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
        return await self.build(work)


class Observations:
    """Every turn that ended."""

    def __init__(self) -> None:
        self.ended_turns: list[Ended] = []

    def began(self, key: tuple[str, str]) -> None:
        pass

    def ended(self, ended: Ended) -> None:
        self.ended_turns.append(ended)


class View(Struct, frozen=True):
    """What is published, without what differs between two runs that did the same."""

    artifacts: Mapping[str, tuple[object, ...]]
    generators: Mapping[str, tuple[object, ...]]
    files: frozenset[str]


class Scene:
    """One life of a controller and all around it; `restart` begins the next."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.clock = HandClock()
        self.settings = Settings(base_url=BASE_URL, jitter=0.0, **settings)
        for name in ("manifests", "store", "sources"):
            (root / name).mkdir(exist_ok=True)
        self.workers = 1
        self.offers: dict[SourceRef, ArtifactStatus | None] = {}
        self._commits = 0
        self._begin()

    def _begin(self) -> None:
        self.wire = Tripwire()
        self.told: list[tuple[str, Event]] = []
        self.objects = Watched(self.root / "manifests", self.clock, self.wire, self.told)
        self.world = LocalWorld(self.root / "manifests", self.objects)
        WatchedStorage.wire = self.wire
        self.store = WatchedStorage(self.root / "store")
        self.sources = Archives(self.root / "sources", self.root / "store")
        self.builder = Builder(self.store, UnpackedCache(self.root / "sources").unpack)
        self.observed = Observations()
        self.pools = Inline()
        self.reconciler = Reconciler(
            self.objects,
            self.store,
            self.sources,
            self.builder,
            self.pools,
            self.clock,
            self.settings,
            self.observed,
            random.Random(1),
        )
        self.running: dict[asyncio.Task[None], Turn[tuple[str, str]]] = {}
        for ref, artifact in self.offers.items():
            self.objects.offer(ref, artifact)
        assert self.objects.refresh() == []
        for generator in self.objects.generators():
            self.reconciler.queue.add(generator.key)

    async def restart(self) -> None:
        """Abandon everything as it is, and begin anew on the same directories."""
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        self._begin()

    # Others

    def commit(
        self,
        files: Mapping[str, bytes],
        name: str = "repo",
        kind: SourceKind = SourceKind.GIT_REPOSITORY,
        *,
        revision: str = "",
        origin: str = "",
    ) -> ArtifactStatus:
        """Have a source offer these files."""
        self._commits += 1
        path = self.root / "sources" / f"{name}-{self._commits}.tar.gz"
        with path.open("wb") as out:
            write_archive(Directory.of(dict(files)), out)
        data = path.read_bytes()
        artifact = ArtifactStatus(
            digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
            path=path.name,
            url=f"{SOURCE_URL}/{path.name}",
            revision=revision or f"main@sha1:{self._commits:040x}",
            size=len(data),
            metadata={ORIGIN_REVISION: origin} if origin else {},
        )
        self.offer(artifact, name, kind)
        return artifact

    def offer(
        self, artifact: ArtifactStatus | None, name: str = "repo", kind: SourceKind = SourceKind.GIT_REPOSITORY
    ) -> None:
        ref = SourceRef("", kind, name, NAMESPACE)
        self.offers[ref] = artifact
        self.objects.offer(ref, artifact)

    def withdraw(self, name: str = "repo", kind: SourceKind = SourceKind.GIT_REPOSITORY) -> None:
        ref = SourceRef("", kind, name, NAMESPACE)
        del self.offers[ref]
        self.objects.withdraw(ref)

    def generate(
        self,
        *artifacts: Mapping[str, Any],
        name: str = "gen",
        sources: Iterable[Mapping[str, str]] = (),
        annotations: Mapping[str, str] = {},
        **spec: Any,
    ) -> None:
        """Create a generator, or change one."""
        wanted = {"sources": list(sources) or [source()], "artifacts": list(artifacts), **spec}
        if self.world.path(name).exists():
            self.world.edit_generator(name, spec=wanted, annotations=annotations)
        else:
            self.world.create_generator(name, annotations=annotations, spec=wanted)

    # Turns

    async def settle(self, *, bugs: bool = False) -> None:
        """Let everything be done that is due now."""
        await self.run()
        assert bugs or [ended.bug for ended in self.observed.ended_turns if ended.bug] == []

    async def run(self, until: Callable[[], bool] | None = None) -> None:
        """Take turns until something is so, or until there is nothing to do."""
        for _ in range(100_000):
            while len(self.running) < self.workers and (turn := await self._take()) is not None:
                self.running[asyncio.create_task(self.reconciler.reconcile(turn))] = turn
            if until() if until is not None else not self.running:
                return
            await asyncio.sleep(0)
            for task in [task for task in self.running if task.done()]:
                self.reconciler.queue.done(self.running.pop(task))
                task.result()
        raise AssertionError("nothing comes to an end")

    async def run_for(self, steps: int) -> None:
        """Let so many steps of the event loop be taken."""
        left = iter(range(steps))
        await self.run(lambda: next(left, None) is None)

    async def _take(self) -> Turn[tuple[str, str]] | None:
        try:
            async with asyncio.timeout(0):
                return await self.reconciler.queue.take()
        except TimeoutError:
            return None

    async def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.settle()

    async def writes(self, doing: Awaitable[None] | None = None) -> list[str]:
        """What is written until nothing is due any more."""
        before = len(self.wire.done)
        await (doing or self.settle())
        return sorted(self.wire.done[before:])

    async def trigger(self, name: str = "gen", token: str = "now") -> None:
        generator = self.generator(name)
        annotations = {**generator.annotations, "reconcile.fluxcd.io/requestedAt": token}
        self.world.edit_generator(name, annotations=annotations)
        await self.settle()

    # What is there

    def generator(self, name: str = "gen") -> Generator:
        found = self.objects.generator((NAMESPACE, name))
        assert found is not None
        return found

    def condition(self, kind: ConditionType = ConditionType.READY, name: str = "gen") -> Condition | None:
        return self.generator(name).status.condition(kind)

    def ready(self, name: str = "gen") -> tuple[str, str, str]:
        """Status, reason and message."""
        found = self.condition(name=name)
        assert found is not None
        return found.status, found.reason, found.message

    def stalled(self, name: str = "gen") -> bool:
        found = self.condition(ConditionType.STALLED, name)
        return found is not None and found.status == "True"

    def ea(self, name: str = "web") -> ExternalArtifact:
        found = self.objects.artifact((NAMESPACE, name))
        assert found is not None
        return found

    def published(self, name: str = "web") -> ArtifactStatus:
        artifact = self.ea(name).artifact
        assert artifact is not None
        return artifact

    def inventory(self, name: str = "gen") -> list[str]:
        return [item.name for item in self.generator(name).status.inventory]

    def item(self, name: str = "web", of: str = "gen") -> InventoryItem:
        return next(item for item in self.generator(of).status.inventory if item.name == name)

    def eas(self) -> list[str]:
        return sorted(
            path.stem for path in (self.root / "manifests/.sluice/externalartifacts" / NAMESPACE).glob("*.json")
        )

    def files(self, name: str = "web") -> dict[str, bytes]:
        """What somebody gets who downloads an artifact: its bytes have the digest that its status tells."""
        artifact = self.published(name)
        data = (self.root / "store" / artifact.path).read_bytes()
        assert artifact.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert artifact.url == f"{BASE_URL}/{artifact.path}"
        tree = UnpackedCache(self.root / "sources").open([data], artifact.digest).tree
        return {path: entry.read() for path, entry in tree.walk() if hasattr(entry, "read")}

    def stored(self) -> set[str]:
        """All files of the store."""
        root = self.root / "store/externalartifact"
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def events(self, name: str = "gen") -> list[tuple[str, str, str]]:
        return [(str(event.kind), event.reason, event.message) for who, event in self.told if who == name]

    def view(self) -> View:
        """Everything, in a form that can be compared between runs."""
        artifacts = {}
        for name in self.eas():
            there = self.ea(name)
            artifact = there.artifact and structs.replace(there.artifact, last_update_time=None)
            artifacts[name] = (sorted(there.annotations.items()), there.owner, artifact, there.is_ready)
        generators = {}
        for generator in self.objects.generators():
            conditions = [(one.type, one.status, one.reason, one.message) for one in generator.status.conditions]
            status = structs.replace(generator.status, conditions=())
            generators[generator.name] = (generator.finalizers, generator.is_deleted, conditions, status)
        return View(artifacts, generators, frozenset(self.stored()))


def source(
    kind: str = "GitRepository", name: str = "repo", alias: str = "repo", namespace: str = NAMESPACE
) -> dict[str, str]:
    return {"alias": alias, "kind": kind, "name": name, "namespace": namespace}


def output(name: str, *copies: tuple[str, str] | Mapping[str, Any], **fields: str) -> dict[str, Any]:
    steps = [dict(copy) if isinstance(copy, Mapping) else {"from": copy[0], "to": copy[1]} for copy in copies]
    return {"name": name, "copy": steps, **fields}


def web(name: str = "web") -> dict[str, Any]:
    return output(name, ("@repo/apps/**", "@artifact/"))


def other(name: str = "other") -> dict[str, Any]:
    return output(name, ("@repo/other/**", "@artifact/"))


BASE: Mapping[str, bytes] = {"apps/a.yaml": b"a: 1\n", "apps/sub/b.yaml": b"b: 1\n", "other/c.yaml": b"c: 1\n"}
APPS = {"a.yaml": b"a: 1\n", "sub/b.yaml": b"b: 1\n"}
OTHER = {"c.yaml": b"c: 1\n"}
SUCCESS = ("True", "Succeeded", "reconciliation succeeded, generated 1 artifact(s)")

__all__ = ["APPS", "BASE", "OTHER", "SUCCESS", "Killed", "Lane", "Scene", "other", "output", "source", "web"]
