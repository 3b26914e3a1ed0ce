"""From what happened to what a generator's status says.

`FAILURES` has a row for every family of errors: the reason to give, the words around the error, and
when to try again. Nothing else decides about conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum, StrEnum

from msgspec import Struct

from sluice.control.objects import (
    REQUEST_ANNOTATION,
    Condition,
    ConditionType,
    Generator,
    GeneratorStatus,
    InventoryItem,
)
from sluice.core.errors import ApiError, BuildError, Code, SluiceError, SourceError, SpecError, StorageError
from sluice.core.pathpattern import Failure

MAX_MESSAGE = 32_768
IN_PROGRESS = "Reconciliation in progress"
STARTED_PAUSED = "Initialized with reconciliation suspended"


class Reason(StrEnum):
    """The reasons that conditions and events give."""

    PROGRESSING = "Progressing"
    PROGRESSING_WITH_RETRY = "ProgressingWithRetry"
    SUCCEEDED = "Succeeded"
    READY = "Ready"
    RECONCILIATION_DISABLED = "ReconciliationDisabled"
    ACCESS_DENIED = "AccessDenied"
    VALIDATION_FAILED = "ValidationFailed"
    SOURCE_FETCH_FAILED = "SourceFetchFailed"
    BUILD_FAILED = "BuildFailed"
    RECONCILIATION_FAILED = "ReconciliationFailed"
    OWNERSHIP_CONFLICT = "OwnershipConflict"


class Retry(Enum):
    """What a failure waits for, the soonest last."""

    NEVER = 0
    """A change of the spec or of a source."""
    INTERVAL = 1
    """The same, or the regular interval."""
    DEPENDENCY = 2
    """The delay for sources."""
    BACKOFF = 3
    """A delay that doubles each time."""


class OwnershipConflict(ApiError):
    """An ExternalArtifact of the wanted name belongs to somebody else."""


class Verdict(Struct, frozen=True):
    """What a family of errors means for a generator; `words` go around the artifact and the error."""

    reason: Reason
    words: str
    retry: Retry
    is_shared: bool = False
    """Whether one such error concerns several artifacts."""


FAILURES: Mapping[type[SluiceError], Verdict] = {
    SpecError: Verdict(Reason.BUILD_FAILED, "{artifact} build failed: {error}", Retry.NEVER),
    SourceError: Verdict(
        Reason.SOURCE_FETCH_FAILED, "{phase} sources failed: {error}", Retry.DEPENDENCY, is_shared=True
    ),
    BuildError: Verdict(Reason.BUILD_FAILED, "{artifact} build failed: {error}", Retry.INTERVAL),
    StorageError: Verdict(Reason.BUILD_FAILED, "{artifact} build failed: {error}", Retry.BACKOFF),
    ApiError: Verdict(Reason.RECONCILIATION_FAILED, "{artifact} reconcile failed: {error}", Retry.BACKOFF),
    OwnershipConflict: Verdict(Reason.OWNERSHIP_CONFLICT, "{artifact} reconcile failed: {error}", Retry.INTERVAL),
}

_OBSERVING = frozenset({Code.NOT_FOUND, Code.NOT_READY, Code.ACCESS_DENIED})


def verdict(error: SluiceError) -> Verdict:
    """The row of `FAILURES` for an error: its own, or that of its family."""
    return next(FAILURES[family] for family in type(error).__mro__ if family in FAILURES)


class Trouble(Struct, frozen=True):
    """Why a generator is not Ready: the first reason, all texts, and when to look again."""

    reason: Reason
    message: str
    retry: Retry

    @property
    def is_terminal(self) -> bool:
        return self.retry is Retry.NEVER


def stopped(reason: Reason, message: str, retry: Retry = Retry.NEVER) -> Trouble:
    """A problem of the generator as a whole."""
    return Trouble(reason, message, retry)


def refused(error: SpecError) -> Trouble:
    """What is wrong with a generator's spec as a whole; field paths are for the command line."""
    denied = any(problem.code is Code.ACCESS_DENIED for problem in error.problems)
    reason = Reason.ACCESS_DENIED if denied else Reason.VALIDATION_FAILED
    return Trouble(reason, "; ".join(dict.fromkeys(problem.text for problem in error.problems)), Retry.NEVER)


def troubled(failures: Sequence[Failure]) -> Trouble | None:
    """What the failures of a generator's artifacts, in the order of its spec, amount to."""
    if not failures:
        return None
    verdicts = [verdict(failure.error) for failure in failures]
    sufferers: dict[str, list[str]] = {}
    for failure, row in zip(failures, verdicts, strict=True):
        phase = "get" if getattr(failure.error, "code", None) in _OBSERVING else "fetch"
        text = row.words.format(artifact=failure.name, error=_words(failure.error), phase=phase)
        # A source's trouble is told once, with the artifacts that it costs.
        sufferers.setdefault(text, []).extend([failure.name] if row.is_shared and failure.name else [])
    texts = [f"{text} ({', '.join(names)})" if names else text for text, names in sufferers.items()]
    retry = max((row.retry for row in verdicts), key=lambda retry: retry.value)
    return Trouble(verdicts[0].reason, "; ".join(texts), retry)


def _words(error: SluiceError) -> str:
    if isinstance(error, SpecError):
        return "; ".join(dict.fromkeys(problem.text for problem in error.problems))
    return str(error)


# --- statuses -----------------------------------------------------------------------------------


def in_progress(generator: Generator, now: datetime) -> GeneratorStatus:
    """The status while a reconciliation runs that is worth telling of."""
    wanted = {
        ConditionType.RECONCILING: ("True", Reason.PROGRESSING, IN_PROGRESS),
        ConditionType.READY: ("Unknown", Reason.PROGRESSING, IN_PROGRESS),
    }
    return _with(generator, wanted, now)


def suspended(generator: Generator, now: datetime) -> GeneratorStatus:
    """The status of a paused generator: as it was, except that the request is acknowledged."""
    if generator.status.conditions:
        return _acknowledged(generator, generator.status)
    wanted = {ConditionType.READY: ("True", Reason.RECONCILIATION_DISABLED, STARTED_PAUSED)}
    return _with(generator, wanted, now)


def failed(
    generator: Generator, trouble: Trouble, now: datetime, inventory: Sequence[InventoryItem] | None = None
) -> GeneratorStatus:
    """The status of a generator that is not Ready; what is published stays listed."""
    other = (
        (ConditionType.STALLED, trouble.reason, trouble.message)
        if trouble.is_terminal
        else (ConditionType.RECONCILING, Reason.PROGRESSING_WITH_RETRY, trouble.message)
    )
    wanted = {
        other[0]: ("True", other[1], other[2]),
        ConditionType.READY: ("False", trouble.reason, trouble.message),
    }
    status = _with(generator, wanted, now)
    return status if inventory is None else _listing(status, inventory, status.observed_sources_digest)


def succeeded(
    generator: Generator, inventory: Sequence[InventoryItem], sources_digest: str, now: datetime
) -> GeneratorStatus:
    """The status after everything was published."""
    message = success_message(len(inventory))
    status = _with(generator, {ConditionType.READY: ("True", Reason.SUCCEEDED, message)}, now)
    return _listing(status, inventory, sources_digest)


def success_message(count: int) -> str:
    return f"reconciliation succeeded, generated {count} artifact(s)"


def _with(
    generator: Generator, wanted: Mapping[ConditionType, tuple[str, Reason, str]], now: datetime
) -> GeneratorStatus:
    """The status with exactly these conditions of ours, and those of others."""
    ours = set(ConditionType)
    mine = (_set(generator, kind, *wanted[kind], now) for kind in ConditionType if kind in wanted)
    foreign = (condition for condition in generator.status.conditions if condition.type not in ours)
    status = generator.status
    return _acknowledged(
        generator,
        GeneratorStatus(
            (*mine, *foreign), status.inventory, status.observed_sources_digest, status.last_handled_reconcile_at
        ),
    )


def _set(
    generator: Generator, kind: ConditionType, status: str, reason: Reason, message: str, now: datetime
) -> Condition:
    """A condition whose time moves only when it says something else than before."""
    if len(message.encode()) > MAX_MESSAGE:
        message = message.encode()[: MAX_MESSAGE - 3].decode(errors="ignore") + "..."
    before = generator.status.condition(kind)
    if before and (before.status, before.reason, before.message) == (status, reason, message):
        now = before.last_transition_time
    return Condition(kind, status, reason, message, now.replace(microsecond=0), generator.generation)


def _acknowledged(generator: Generator, status: GeneratorStatus) -> GeneratorStatus:
    handled = generator.annotations.get(REQUEST_ANNOTATION) or status.last_handled_reconcile_at
    return GeneratorStatus(status.conditions, status.inventory, status.observed_sources_digest, handled)


def acknowledged(generator: Generator) -> GeneratorStatus:
    """The status as it is, with the latest request for a reconciliation marked as handled."""
    return _acknowledged(generator, generator.status)


def _listing(status: GeneratorStatus, inventory: Iterable[InventoryItem], sources_digest: str) -> GeneratorStatus:
    return GeneratorStatus(status.conditions, tuple(inventory), sources_digest, status.last_handled_reconcile_at)
