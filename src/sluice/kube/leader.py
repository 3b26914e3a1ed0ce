"""Let one of several processes lead, by a Lease that the leader renews.

Whoever holds the Lease counts from the moment before it asked for the renewal, the others from the
moment they saw it, and they wait longer (35 s) than the holder trusts itself (30 s): so there are
never two, however slow the network is, and whatever the machines take for the time of day. Only
monotonic clocks are compared, each with itself.

The election runs in a thread with a loop and a connection of its own, so that a busy main loop does
not lose the Lease. Other processes of the same name, the peer's included, take part by the same rules.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import random
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from http import HTTPStatus
from math import ceil
from typing import Any

import msgspec
from msgspec import Struct

from sluice.core.errors import ApiError
from sluice.kube.client import Client, Observe, ignore
from sluice.kube.clock import SYSTEM_CLOCK, Clock
from sluice.kube.config import ClientConfig, ConfigError
from sluice.kube.credentials import Credentials
from sluice.kube.errors import Refused
from sluice.kube.kinds import EVENT, FIELD_MANAGER, LEASE

LEASE_NAME = "source-watcher-leader-election"

RELEASE_TIMEOUT = 3.0
"""Seconds for giving the Lease up, out of the ten that a pod has to end."""

Failed = Callable[[ApiError], None]

_ANY = msgspec.json.Decoder(dict[str, Any])


def lease_name(selector: str) -> str:
    """The Lease of the shard that a label selector makes, its text taken byte for byte."""
    if not selector:
        return LEASE_NAME
    return f"{LEASE_NAME}-{hashlib.sha256(selector.encode()).hexdigest()[:8]}"


def new_identity(hostname: str) -> str:
    """A name for one process, never used again."""
    return f"{hostname}_{uuid.uuid4()}"


class Durations(Struct, frozen=True):
    """How long a Lease lasts for others, how long its holder trusts it, how often it is tried; in seconds."""

    lease: float = 35.0
    renew: float = 30.0
    retry: float = 2.0

    def check(self) -> None:
        """Raises `ConfigError` for durations that would allow two leaders, or none for long."""
        if self.retry <= 0:
            raise ConfigError(f"leader election: the retry period is {self.retry:g} s (must be more than 0)")
        if self.renew <= 1.2 * self.retry:
            raise ConfigError(
                f"leader election: the renew deadline is {self.renew:g} s"
                f" (must be more than 1.2 times the retry period of {self.retry:g} s)"
            )
        if self.lease <= self.renew:
            raise ConfigError(
                f"leader election: the lease duration is {self.lease:g} s"
                f" (must be more than the renew deadline of {self.renew:g} s)"
            )
        if self.lease < 1:
            raise ConfigError(f"leader election: the lease duration is {self.lease:g} s (must be at least 1 s)")


DEFAULT_DURATIONS = Durations()


class Candidate:
    """One process's part in the election of a Lease's holder."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        *,
        durations: Durations = DEFAULT_DURATIONS,
        failed: Failed = lambda error: None,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
    ) -> None:
        durations.check()
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._durations = durations
        self._failed = failed
        self._told = ""
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311  spreads retries, guards nothing
        self._lease: dict[str, Any] = {}
        self._seen_at = 0.0
        self._trusted_until = float("-inf")

    def holds(self) -> bool:
        """Whether nobody else can lead now; safe from any thread, true only after `run` said so."""
        return self._clock.monotonic() < self._trusted_until

    async def run(self, gained: Callable[[], object]) -> str:
        """Stand until elected, call `gained`, lead until the Lease is lost, and tell why it is."""
        while not await self._stand():
            # Not all at the same moment.
            await self._clock.sleep(self._durations.retry * (1 + 1.2 * self._rng.random()))
        gained()
        async with asyncio.TaskGroup() as group:
            recording = group.create_task(self._record_event())
            reason = await self._lead()
            recording.cancel()
        return f"lease {self._namespace}/{self._name}: {reason}"

    async def release(self) -> None:
        """Let another lead at once; what only a leader may do must have ended before."""
        if not self.holds():
            return
        self._trusted_until = float("-inf")
        with suppress(ApiError, TimeoutError):
            async with asyncio.timeout(RELEASE_TIMEOUT):
                await self._replace("", 1)

    async def _stand(self) -> bool:
        try:
            is_elected = await self._try()
        except ApiError as error:
            self._tell(error)
            return False
        self._told = ""
        return is_elected

    async def _lead(self) -> str:
        """Renew for as long as that works; why it does not any more."""
        reason = "no answer in time"
        while (left := self._time_left()) > 0:
            await self._clock.sleep(min(self._durations.retry, left))
            try:
                async with asyncio.timeout(max(self._time_left(), 0)):
                    if not await self._try():
                        self._trusted_until = float("-inf")
                        return f"taken by '{self._holder()}'"
                self._told = ""
            except TimeoutError:
                break
            except ApiError as error:
                reason = str(error)
                self._tell(error)
        return f"not renewed for {self._durations.renew:g} s: {reason}"

    def _tell(self, error: ApiError) -> None:
        """Report what went wrong, once as long as it is the same."""
        if str(error) != self._told:
            self._told = str(error)
            self._failed(error)

    def _time_left(self) -> float:
        return self._trusted_until - self._clock.monotonic()

    async def _try(self) -> bool:
        """Take or renew the Lease; False while it is another's."""
        begun = self._clock.monotonic()
        # Who holds it need not read it: the version in the update guards against others.
        if not self.holds():
            await self._observe()
        # Rounded up, for the others must wait longer than we trust it.
        if not self._is_free() or not await self._replace(self._identity, ceil(self._durations.lease)):
            return False
        self._trusted_until = begun + self._durations.renew
        return True

    async def _replace(self, holder: str, seconds: int) -> bool:
        """Write the Lease, once more where somebody changed it but not its holder; False if that is another."""
        try:
            await self._write(holder, seconds)
        except Refused as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            await self._observe()
            if self._holder() != self._identity:
                return False
            await self._write(holder, seconds)
        return True

    def _spec(self) -> dict[str, Any]:
        return self._lease.get("spec") or {}

    def _holder(self) -> str:
        return self._spec().get("holderIdentity") or ""

    def _is_free(self) -> bool:
        if self._holder() in ("", self._identity):
            return True
        lasts = self._spec().get("leaseDurationSeconds") or self._durations.lease
        return self._clock.monotonic() > self._seen_at + lasts

    async def _observe(self) -> None:
        """Read the Lease; its time starts again only when its holder has renewed it."""
        before = self._spec()
        try:
            self._lease = await self._client.get(LEASE, self._namespace, self._name, _ANY)
        except Refused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            self._lease = {}
        if self._spec() != before:
            self._seen_at = self._clock.monotonic()

    async def _write(self, holder: str, seconds: int) -> None:
        """Make the Lease or replace what was read of it, if nobody changed it since (409)."""
        now = _micro_time(self._clock.now())
        spec = {**self._spec(), "holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": now}
        if holder != self._holder():
            spec["acquireTime"] = now
            # Being taken is a transition; being given up is not.
            spec["leaseTransitions"] = spec.get("leaseTransitions", -1 if holder else 0) + bool(holder)
        if self._lease:
            body = {**self._lease, "spec": spec}
            self._lease = await self._client.update(LEASE, self._namespace, self._name, body, _ANY)
        else:
            metadata = {"namespace": self._namespace, "name": self._name}
            body = {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": metadata, "spec": spec}
            self._lease = await self._client.create(LEASE, self._namespace, body, _ANY)

    async def _record_event(self) -> None:
        """Say on the Lease who leads; nothing depends on it."""
        now = self._clock.now()
        seconds = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "metadata": {"namespace": self._namespace, "name": f"{self._name}.{int(now.timestamp() * 1e9):x}"},
            "involvedObject": {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.name,
                "namespace": self._namespace,
                "name": self._name,
                "uid": self._lease["metadata"]["uid"],
                "resourceVersion": self._lease["metadata"]["resourceVersion"],
            },
            "type": "Normal",
            "reason": "LeaderElection",
            "message": f"{self._identity} became leader",
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._identity,
            "firstTimestamp": seconds,
            "lastTimestamp": seconds,
            "count": 1,
        }
        with suppress(ApiError):
            await self._client.create(EVENT, self._namespace, event, _ANY)


def _micro_time(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Election:
    """A candidate in a thread of its own.

    `holds` may be asked from any thread, right before what only a leader may do. `failed` is told, in that
    thread, what goes wrong with the Lease; it is tried again regardless.
    """

    def __init__(
        self,
        config: ClientConfig,
        credentials: Credentials,
        namespace: str,
        name: str,
        identity: str,
        *,
        durations: Durations = DEFAULT_DURATIONS,
        release: bool = True,
        failed: Failed = lambda error: None,
        observe: Observe = ignore,
    ) -> None:
        durations.check()
        # Half of the deadline for one request: a lost packet must not cost the Lease.
        client = Client(config, credentials, timeout=min(10.0, durations.renew / 2), observe=observe)
        self._client = client
        self._candidate = Candidate(client, namespace, name, identity, durations=durations, failed=failed)
        self._release = release

    def holds(self) -> bool:
        """Whether nobody else can lead now."""
        return self._candidate.holds()

    async def run(self, gained: Callable[[], object]) -> str:
        """Stand for election; calls `gained` in this loop, returns why the Lease was lost.

        Cancelled, it gives the Lease up: cancel it after all that only a leader may do has ended.
        """
        loop = asyncio.get_running_loop()
        stop = concurrent.futures.Future[None]()
        with concurrent.futures.ThreadPoolExecutor(1, "leader") as thread:
            work = self._stand(stop, partial(loop.call_soon_threadsafe, gained))
            ended = loop.run_in_executor(thread, asyncio.run, work)
            try:
                return await asyncio.shield(ended)
            finally:
                stop.set_result(None)
                await asyncio.wait([ended])

    async def _stand(self, stop: concurrent.futures.Future[None], gained: Callable[[], object]) -> str:
        async with self._client:
            standing = asyncio.create_task(self._candidate.run(gained))
            first: list[asyncio.Future[Any]] = [standing, asyncio.wrap_future(stop)]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not standing.done():
                standing.cancel()
                await asyncio.wait([standing])
                if self._release:
                    await self._candidate.release()
                return "stopped"
            return standing.result()
