"""Decide when a request may be sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sluice.kube.clock import Clock
from sluice.kube.errors import Refused

PATIENCE = 60.0
"""Seconds that one request may wait for its turn; told to wait longer, it fails instead."""


class Gate:
    """Decides whose turn it is: so many at once, and after a refusal one, not before the time told."""

    def __init__(self, width: int, clock: Clock) -> None:
        self._slots = asyncio.Semaphore(width)
        self._probe = asyncio.Lock()
        self._until: float | None = None
        self._clock = clock

    def close(self, seconds: float) -> None:
        """The server is too busy; it wants to be left alone that long."""
        self._until = max(self._until or 0.0, self._clock.monotonic() + seconds)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A turn to send a request; raises `Refused` if it is too long until then."""
        async with self._slots:
            while self._until is not None:
                async with self._probe:
                    if self._until is not None:
                        until = await self._wait()
                        try:
                            yield
                        finally:
                            # Unless it was refused again, the others may follow.
                            if self._until == until:
                                self._until = None
                        return
            yield

    async def _wait(self) -> float:
        while (until := self._until or 0.0) > (now := self._clock.monotonic()):
            if until - now > PATIENCE:
                text = f"the API server asks to wait for {until - now:.0f} s"
                raise Refused(text, 429, "TooManyRequests", retry_after=until - now)
            await self._clock.sleep(until - now)
        return until
