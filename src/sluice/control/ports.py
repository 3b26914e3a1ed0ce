"""What the reconciler needs besides `Objects`, and the settings that steer it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from msgspec import Struct

from sluice.build import State, Storage, StoredArchive
from sluice.control.objects import ArtifactStatus, Key
from sluice.core.dialect import DOCUMENTED, Dialect
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.plan import Source
from sluice.core.spec import SourceRef

T = TypeVar("T")


class Settings(Struct, frozen=True, kw_only=True):
    """What decides how generators are reconciled. Times are in seconds."""

    dialect: Dialect = DOCUMENTED
    limits: Limits = DEFAULT_LIMITS
    base_url: str = "http://localhost:9090"
    """What the URLs of artifacts begin with, without a slash at the end."""
    atomic: bool = False
    """Whether nothing of a generator is published unless all of it builds."""
    lockdown: bool = False
    """Whether sources of other namespaces are forbidden."""
    direct_fetch: bool = False
    """Whether source objects are read from the API server and not from the view."""
    origin_every_commit: bool = False
    """Whether an origin revision follows every commit, and not only those that change its artifact."""
    interval: float = 3600.0
    jitter: float = 0.05
    """The part of the interval by which it varies, to either side."""
    requeue_dependency: float = 5.0
    min_retry: float = 0.75
    max_retry: float = 900.0
    timeout: float = 600.0
    retention_ttl: timedelta = timedelta(minutes=1)
    retention_records: int = 2


class ArtifactStore(Storage, Protocol):
    """What is asked of the store besides building. All raise `StorageError`."""

    def artifacts(self) -> Iterable[Key]:
        """The artifacts of which files are stored; quick."""
        ...

    def holds(self, namespace: str, name: str, filename: str) -> bool:
        """Whether a file is there; quick."""
        ...

    def verify(self, namespace: str, name: str, filename: str, digest: str, *, reread: bool = False) -> State:
        """Whether a file has its digest; a damaged one is removed. Reads all of it with `reread`."""
        ...

    def sync(self, archives: Iterable[StoredArchive]) -> None:
        """Return once these survive a power cut."""
        ...

    def supersede(self, namespace: str, name: str, *, current: str, now: datetime) -> None:
        """Note which file a status names now; quick."""
        ...

    def collect(self, *, keep: int, ttl: timedelta, now: datetime) -> list[str]:
        """Delete what was superseded long enough ago; returns the paths."""
        ...

    def delete(self, namespace: str, name: str) -> None:
        """Delete all files of an artifact."""
        ...


class Sources(Protocol):
    """Where sources are opened, once for all who ask."""

    async def open(self, ref: SourceRef, artifact: ArtifactStatus) -> Source:
        """A source that was verified against its digest. Raises `SourceError`."""
        ...


class Pools(Protocol):
    """Where work goes that would hold up the event loop."""

    async def build(self, work: Callable[[], T]) -> T:
        """Work for the processor."""
        ...

    async def io(self, work: Callable[[], T]) -> T:
        """Work that waits for the disk."""
        ...


class Clock(Protocol):
    """Time, as an argument: `monotonic` measures, `now` is for what others read."""

    def monotonic(self) -> float: ...
    def now(self) -> datetime: ...
    async def sleep(self, seconds: float) -> None: ...
