"""Tell what becomes of generators and artifacts, a line each, in the log."""

from __future__ import annotations

import asyncio

from sluice.control.conditions import Reason
from sluice.control.objects import ArtifactStatus, Change, Event, Generator, Key, SourceChanged
from sluice.control.reconcile import Ended
from sluice.core.errors import Problem
from sluice.core.spec import SourceKind
from sluice.local import LocalObjects
from sluice.logs import logger
from sluice.metrics import Metrics
from sluice.service import TurnObserver, log_event

PATIENCE = 1.0
"""Seconds that a failure has to last: a file that is being written, or the artifact of a generator
whose turn is next, is nothing to tell anybody of."""


class Teller(TurnObserver):
    """Logs events; of failures only what is new, and what lasts."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics)
        self._turns: dict[Key, list[tuple[Generator, Event]]] = {}
        self._failing: dict[Key, str] = {}
        self._waiting: dict[Key, asyncio.TimerHandle] = {}

    def record(self, generator: Generator, event: Event) -> None:
        """Take an event; one that belongs to a turn is told at its end, when it is known how that went."""
        turn = self._turns.get(generator.key)
        if turn is None:
            log_event(generator, event)
        else:
            turn.append((generator, event))

    def began(self, key: Key) -> None:
        super().began(key)
        self._turns[key] = []

    def ended(self, ended: Ended) -> None:
        super().ended(ended)
        failure = None
        succeeded = False
        for generator, event in self._turns.pop(ended.key, ()):
            if ended.trouble is not None and event.message == ended.trouble.message:
                failure = (generator, event)
            else:
                succeeded |= event.unchanged and event.reason == Reason.READY
                log_event(generator, event)
        if (handle := self._waiting.pop(ended.key, None)) is not None:
            handle.cancel()
        if failure is None:
            if self._failing.pop(ended.key, None) is not None and succeeded:
                logger().info("recovered", generator="/".join(ended.key))
        elif self._failing.get(ended.key) != failure[1].message:
            loop = asyncio.get_running_loop()
            at = handle.when() if handle is not None else loop.time() + PATIENCE
            self._waiting[ended.key] = loop.call_at(at, self._tell, *failure)

    def _tell(self, generator: Generator, event: Event) -> None:
        del self._waiting[generator.key]
        self._failing[generator.key] = event.message
        log_event(generator, event)


class Announcer:
    """Logs what is served: each artifact when it is published, and when it goes."""

    def __init__(self, objects: LocalObjects, base_url: str) -> None:
        """Tell of what is served from `base_url` already; the rest comes with `objects`' changes."""
        self._announced: set[Key] = set()
        for generator in objects.generators():
            for there in objects.artifacts_of(generator.uid):
                if there.artifact is not None and there.artifact.url.startswith(f"{base_url}/"):
                    self._publish(there.key, there.artifact)
        objects.subscribe(self._notice)

    def _notice(self, change: Change) -> None:
        if not isinstance(change, SourceChanged) or change.ref.kind is not SourceKind.EXTERNAL_ARTIFACT:
            return
        key = (change.ref.namespace, change.ref.name)
        if change.after is not None and change.after.artifact is not None:
            self._publish(key, change.after.artifact)
        elif key in self._announced:
            self._announced.discard(key)
            logger().info("withdrawn", artifact="/".join(key))

    def _publish(self, key: Key, artifact: ArtifactStatus) -> None:
        if artifact.url.startswith("local:"):
            return  # a source that the user offers under this kind
        self._announced.add(key)
        name = "/".join(key)
        logger().info("published", artifact=name, revision=artifact.revision, url=artifact.url, digest=artifact.digest)


class ManifestTeller:
    """Logs what is wrong with manifests, each problem once as long as it is there."""

    def __init__(self) -> None:
        self._known: set[Problem] = set()

    def tell(self, problems: list[Problem]) -> None:
        for problem in problems:
            if problem not in self._known:
                logger().error(str(problem))
        self._known = set(problems)
