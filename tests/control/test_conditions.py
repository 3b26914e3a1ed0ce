"""From what happened to what a status says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from sluice.control import conditions
from sluice.control.conditions import FAILURES, OwnershipConflict, Reason, Retry, Trouble
from sluice.control.objects import (
    REQUEST_ANNOTATION,
    Condition,
    ConditionType,
    Generator,
    GeneratorStatus,
    InventoryItem,
)
from sluice.core.errors import (
    ApiError,
    BuildError,
    Code,
    LimitExceeded,
    Problem,
    SluiceError,
    SourceError,
    SpecError,
    StorageError,
)
from sluice.core.pathpattern import Failure

NOW = datetime(2026, 7, 1, 10, 0, 0, 123456, UTC)
WHOLE = NOW.replace(microsecond=0)
BEFORE = datetime(2026, 6, 1, 10, tzinfo=UTC)
ITEM = InventoryItem("web", "apps", "sha256:12", "1.tar.gz")
THEIRS = Condition("Theirs", "Maybe", "Because", "of something", BEFORE, 1)
GENERATOR = Generator(namespace="apps", name="gen", uid="uid", generation=3, resource_version="1")


def having(*given: Condition, **annotations: str) -> Generator:
    status = GeneratorStatus(given, (ITEM,), "sha256:34", "earlier")
    return replace(GENERATOR, status=status, annotations=annotations)


def ready(status: str, reason: Reason, message: str, since: datetime = WHOLE, generation: int = 3) -> Condition:
    return Condition(ConditionType.READY, status, reason, message, since, generation)


def reconciling(reason: Reason, message: str, since: datetime = WHOLE, generation: int = 3) -> Condition:
    return Condition(ConditionType.RECONCILING, "True", reason, message, since, generation)


def stalled(reason: Reason, message: str, since: datetime = WHOLE, generation: int = 3) -> Condition:
    return Condition(ConditionType.STALLED, "True", reason, message, since, generation)


# Families of errors


@pytest.mark.parametrize("family", SluiceError.__subclasses__())
def test_every_family_of_errors_has_a_condition(family: type[SluiceError]) -> None:
    assert family in FAILURES


WRONG = SpecError([Problem(Code.BAD_PATTERN, "one", "spec.x"), Problem(Code.ESCAPE, "two", "spec.y")])
MISSING = SourceError('Bucket.source.toolkit.fluxcd.io "more" not found', Code.NOT_FOUND)
NOT_READY = SourceError("source 'Bucket/apps/more' is not ready", Code.NOT_READY)
DAMAGED = SourceError("Bucket/apps/more: digest mismatch", Code.DIGEST_MISMATCH)
NO_MATCH = BuildError("nothing matches", Code.NO_MATCH)
FULL = StorageError("no space")
REFUSED = ApiError("refused", 500)
TAKEN = OwnershipConflict("taken")

REFUSAL = "c reconcile failed: refused"
LACK = f"get sources failed: {MISSING}"


@pytest.mark.parametrize(
    ("failures", "trouble"),
    [
        pytest.param([("web", WRONG)], (Reason.BUILD_FAILED, "web build failed: one; two", Retry.NEVER), id="the spec"),
        pytest.param(
            [("web", MISSING)],
            (Reason.SOURCE_FETCH_FAILED, f"get sources failed: {MISSING} (web)", Retry.DEPENDENCY),
            id="a source that is missing",
        ),
        pytest.param(
            [("web", NOT_READY)],
            (Reason.SOURCE_FETCH_FAILED, f"get sources failed: {NOT_READY} (web)", Retry.DEPENDENCY),
            id="a source that is not ready",
        ),
        pytest.param(
            [("web", DAMAGED)],
            (Reason.SOURCE_FETCH_FAILED, f"fetch sources failed: {DAMAGED} (web)", Retry.DEPENDENCY),
            id="a source that is damaged",
        ),
        pytest.param(
            [("web", NO_MATCH)],
            (Reason.BUILD_FAILED, "web build failed: nothing matches", Retry.INTERVAL),
            id="what does not fit the sources",
        ),
        pytest.param(
            [("web", LimitExceeded("11 files", 10, "files"))],
            (Reason.BUILD_FAILED, "web build failed: 11 files (limit: 10, files)", Retry.INTERVAL),
            id="a limit is one of those",
        ),
        pytest.param(
            [("web", FULL)], (Reason.BUILD_FAILED, "web build failed: no space", Retry.BACKOFF), id="the store"
        ),
        pytest.param(
            [("web", REFUSED)],
            (Reason.RECONCILIATION_FAILED, "web reconcile failed: refused", Retry.BACKOFF),
            id="the API server",
        ),
        pytest.param(
            [("web", TAKEN)],
            (Reason.OWNERSHIP_CONFLICT, "web reconcile failed: taken", Retry.INTERVAL),
            id="somebody else's name",
        ),
        pytest.param(
            [("a", MISSING), ("b", NO_MATCH), ("c", MISSING)],
            (
                Reason.SOURCE_FETCH_FAILED,
                f"get sources failed: {MISSING} (a, c); b build failed: nothing matches",
                Retry.DEPENDENCY,
            ),
            id="one source is named once, with all that need it",
        ),
        pytest.param(
            [("a", MISSING), ("b", DAMAGED)],
            (
                Reason.SOURCE_FETCH_FAILED,
                f"get sources failed: {MISSING} (a); fetch sources failed: {DAMAGED} (b)",
                Retry.DEPENDENCY,
            ),
            id="different sources apart",
        ),
        pytest.param(
            [("a", WRONG), ("b", WRONG)],
            (Reason.BUILD_FAILED, "a build failed: one; two; b build failed: one; two", Retry.NEVER),
            id="terminal if all are",
        ),
        pytest.param(
            [("a", WRONG), ("b", NO_MATCH)],
            (Reason.BUILD_FAILED, "a build failed: one; two; b build failed: nothing matches", Retry.INTERVAL),
            id="and only then",
        ),
        pytest.param(
            [("a", NO_MATCH), ("b", WRONG), ("c", REFUSED), ("d", MISSING)],
            (
                Reason.BUILD_FAILED,
                f"a build failed: nothing matches; b build failed: one; two; {REFUSAL}; {LACK} (d)",
                Retry.BACKOFF,
            ),
            id="the first gives the reason, the most hopeful the time",
        ),
        pytest.param(
            [("", MISSING)],
            (Reason.SOURCE_FETCH_FAILED, f"get sources failed: {MISSING}", Retry.DEPENDENCY),
            id="a source of the whole generator",
        ),
        pytest.param(
            [("a", SpecError([Problem(Code.BAD_PATTERN, "one", "x"), Problem(Code.BAD_PATTERN, "one", "y")]))],
            (Reason.BUILD_FAILED, "a build failed: one", Retry.NEVER),
            id="equal words are said once",
        ),
    ],
)
def test_failures(failures: Sequence[tuple[str, SluiceError]], trouble: tuple[Reason, str, Retry]) -> None:
    found = conditions.troubled([Failure(name, error) for name, error in failures])

    assert found == Trouble(*trouble)
    assert found.is_terminal is (trouble[2] is Retry.NEVER)


def test_no_failure_is_no_trouble() -> None:
    assert conditions.troubled([]) is None


@pytest.mark.parametrize(
    ("problems", "reason", "message"),
    [
        pytest.param(
            [Problem(Code.INVALID_SPEC, "duplicate artifact name 'web' found", "spec.artifacts[1].name")],
            Reason.VALIDATION_FAILED,
            "duplicate artifact name 'web' found",
            id="without the field path",
        ),
        pytest.param(
            [Problem(Code.ACCESS_DENIED, "not allowed"), Problem(Code.CYCLE, "a cycle")],
            Reason.ACCESS_DENIED,
            "not allowed; a cycle",
            id="denied wins",
        ),
        pytest.param([Problem(Code.CYCLE, "a cycle")], Reason.VALIDATION_FAILED, "a cycle", id="a cycle"),
        pytest.param(
            [Problem(Code.CYCLE, "twice"), Problem(Code.CYCLE, "twice")],
            Reason.VALIDATION_FAILED,
            "twice",
            id="equal words are said once",
        ),
    ],
)
def test_what_is_wrong_with_a_whole_generator_is_terminal(
    problems: Sequence[Problem], reason: Reason, message: str
) -> None:
    assert conditions.refused(SpecError(problems)) == Trouble(reason, message, Retry.NEVER)


# Statuses

SUCCESS = ready("True", Reason.SUCCEEDED, "reconciliation succeeded, generated 1 artifact(s)")
FAILED = Trouble(Reason.BUILD_FAILED, "no", Retry.INTERVAL)
REJECTED = Trouble(Reason.VALIDATION_FAILED, "never", Retry.NEVER)
PROGRESS = ready("Unknown", Reason.PROGRESSING, "Reconciliation in progress")


def test_in_progress() -> None:
    status = conditions.in_progress(having(stalled(Reason.VALIDATION_FAILED, "never", BEFORE)), NOW)

    assert status.conditions == (reconciling(Reason.PROGRESSING, "Reconciliation in progress"), PROGRESS)
    assert status.inventory == (ITEM,)


def test_success() -> None:
    generator = having(reconciling(Reason.PROGRESSING, "x", BEFORE), ready("False", Reason.BUILD_FAILED, "no", BEFORE))

    assert conditions.succeeded(generator, [ITEM], "sha256:56", NOW) == GeneratorStatus(
        (SUCCESS,), (ITEM,), "sha256:56", "earlier"
    )


def test_a_failure_is_tried_again() -> None:
    status = conditions.failed(having(SUCCESS), FAILED, NOW)

    assert status == GeneratorStatus(
        (reconciling(Reason.PROGRESSING_WITH_RETRY, "no"), ready("False", Reason.BUILD_FAILED, "no")),
        (ITEM,),
        "sha256:34",
        "earlier",
    )


def test_a_failure_lists_what_is_published() -> None:
    other = replace(ITEM, name="other")

    assert conditions.failed(having(), FAILED, NOW, [other]).inventory == (other,)


def test_a_terminal_failure_stalls() -> None:
    generator = having(reconciling(Reason.PROGRESSING, "x", BEFORE), ready("Unknown", Reason.PROGRESSING, "x", BEFORE))

    assert conditions.failed(generator, REJECTED, NOW).conditions == (
        stalled(Reason.VALIDATION_FAILED, "never"),
        ready("False", Reason.VALIDATION_FAILED, "never"),
    )


def test_a_new_generator_that_is_paused_says_so() -> None:
    new = replace(GENERATOR, annotations={REQUEST_ANNOTATION: "now"})

    assert conditions.suspended(new, NOW) == GeneratorStatus(
        (ready("True", Reason.RECONCILIATION_DISABLED, "Initialized with reconciliation suspended"),),
        last_handled_reconcile_at="now",
    )


def test_a_generator_that_is_paused_later_stays_as_it_was() -> None:
    generator = having(ready("False", Reason.BUILD_FAILED, "no", BEFORE, 2), THEIRS, **{REQUEST_ANNOTATION: "now"})

    assert conditions.suspended(generator, NOW) == replace(generator.status, last_handled_reconcile_at="now")


@pytest.mark.parametrize(
    ("annotations", "handled"),
    [
        pytest.param({}, "earlier", id="nothing was asked"),
        pytest.param({REQUEST_ANNOTATION: "now"}, "now", id="something was asked"),
        pytest.param({REQUEST_ANNOTATION: ""}, "earlier", id="with no words"),
    ],
)
def test_requests_are_acknowledged_whatever_happens(annotations: dict[str, str], handled: str) -> None:
    generator = having(SUCCESS, **annotations)

    for status in (
        conditions.acknowledged(generator),
        conditions.suspended(generator, NOW),
        conditions.in_progress(generator, NOW),
        conditions.failed(generator, FAILED, NOW),
        conditions.succeeded(generator, [ITEM], "sha256:34", NOW),
    ):
        assert status.last_handled_reconcile_at == handled


@pytest.mark.parametrize(
    ("before", "since"),
    [
        pytest.param(None, WHOLE, id="it is new"),
        pytest.param(SUCCESS, WHOLE, id="it was another"),
        pytest.param(ready("False", Reason.BUILD_FAILED, "no", BEFORE), BEFORE, id="it was the same"),
        pytest.param(ready("False", Reason.BUILD_FAILED, "no", BEFORE, 2), BEFORE, id="of an older generation"),
        pytest.param(ready("Unknown", Reason.BUILD_FAILED, "no", BEFORE), WHOLE, id="with another status"),
        pytest.param(ready("False", Reason.ACCESS_DENIED, "no", BEFORE), WHOLE, id="with another reason"),
        pytest.param(ready("False", Reason.BUILD_FAILED, "yes", BEFORE), WHOLE, id="with another message"),
    ],
)
def test_a_time_moves_only_when_something_else_is_said(before: Condition | None, since: datetime) -> None:
    status = conditions.failed(having(*([] if before is None else [before])), FAILED, NOW)

    assert status.condition(ConditionType.READY) == ready("False", Reason.BUILD_FAILED, "no", since)


def test_conditions_of_others_are_kept_behind_ours() -> None:
    old = stalled(Reason.VALIDATION_FAILED, "never", BEFORE)

    assert conditions.failed(having(THEIRS, old), FAILED, NOW).conditions == (
        reconciling(Reason.PROGRESSING_WITH_RETRY, "no"),
        ready("False", Reason.BUILD_FAILED, "no"),
        THEIRS,
    )


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        pytest.param("x" * 32_768, "x" * 32_768, id="as long as it may be"),
        pytest.param("x" * 32_769, "x" * 32_765 + "...", id="one more"),
        pytest.param("é" * 20_000, "é" * 16_382 + "...", id="bytes count, and no character is cut"),
    ],
)
def test_a_message_is_cut(message: str, shown: str) -> None:
    trouble = Trouble(Reason.BUILD_FAILED, message, Retry.INTERVAL)
    status = conditions.failed(having(), trouble, NOW)

    assert [condition.message for condition in status.conditions] == [shown, shown]
    again = replace(GENERATOR, status=status)
    assert conditions.failed(again, trouble, datetime(2027, 1, 1, tzinfo=UTC)) == status
