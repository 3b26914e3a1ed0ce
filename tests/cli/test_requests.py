"""`sluice reconcile`, `suspend`, `resume` and `wait`, beside a real API server whose controllers the tests play."""

import signal
import subprocess

import pytest
from tests.cli.clusters import SUCCESS, Front, condition, ready
from tests.e2e.world import EXTENSIONS, REQUEST, eventually, source
from tests.envtest.client import Object

pytestmark = pytest.mark.cluster

PAUSE = f"{EXTENSIONS}/reconcile"
BROKEN = "web build failed: nothing matches"
WORKING = condition("Reconciling", "True", "Reconciliation in progress", "Progressing")
RETRYING = condition("Reconciling", "True", BROKEN, "ProgressingWithRetry")


def annotation(front: Front, name: str, key: str, kind: str = "ArtifactGenerator") -> str | None:
    found: str | None = ((front.get(kind, name) or {})["metadata"].get("annotations") or {}).get(key)
    return found


def requested(front: Front, name: str = "shop", kind: str = "ArtifactGenerator") -> str:
    """Wait until somebody asks for a reconciliation; returns their token."""
    eventually("a request", lambda: annotation(front, name, REQUEST, kind) is not None)
    token = annotation(front, name, REQUEST, kind)
    assert token
    return token


def end(running: "subprocess.Popen[str]") -> tuple[int, str, list[str]]:
    out, words = running.communicate(timeout=60)
    return running.returncode, out, words.splitlines()


def title(front: Front, name: str, kind: str = "ArtifactGenerator") -> str:
    return f"{kind} {front.namespace}/{name}"


def item(front: Front, name: str, digit: str) -> Object:
    return {"name": name, "namespace": front.namespace, "digest": f"sha256:{digit * 64}", "filename": f"{digit}.tar.gz"}


class TestReconcile:
    def test_it_asks_waits_and_tells_what_came_of_it(self, front: Front) -> None:
        front.add_generator("shop", "web", "api")
        with front.start("reconcile", "generator", "shop") as running:
            token = requested(front)
            # Neither what was there before nor what is said under way is the outcome.
            front.reconciled("shop", WORKING, lastHandledReconcileAt=token)
            front.reconciled("shop", ready(), WORKING)
            front.reconciled("shop", ready("Unknown", "Reconciliation in progress", "Progressing"), WORKING)
            front.set_status(
                "ArtifactGenerator",
                "shop",
                conditions=[ready(message="reconciliation succeeded, generated 2 artifact(s)")],
                inventory=[item(front, "api", "0"), item(front, "db", "7")],
            )
            told = end(running)

        assert told == (
            0,
            "",
            [
                f"► annotating {title(front, 'shop')}",
                f"◎ waiting for {title(front, 'shop')}",
                f"✔ {title(front, 'shop')}: reconciliation succeeded, generated 2 artifact(s)",
                f"✚ {title(front, 'db', 'ExternalArtifact')}: sha256:77777777",
                f"► {title(front, 'web', 'ExternalArtifact')}: deleted",
            ],
        )

    @pytest.mark.parametrize("other", [RETRYING, condition("Stalled", "True", BROKEN, "BuildFailed")])
    def test_a_failure_is_the_outcome_too(self, front: Front, other: Object) -> None:
        front.add_generator()
        with front.start("reconcile", "shop") as running:
            token = requested(front)
            front.reconciled("shop", other, ready("False", BROKEN, "BuildFailed"), lastHandledReconcileAt=token)
            code, _, words = end(running)

        assert (code, words[-1]) == (1, f"✗ {title(front, 'shop')}: {BROKEN}")

    def test_an_outcome_of_an_earlier_generation_is_none(self, front: Front) -> None:
        front.add_generator()
        front.edit("shop", commonMetadata={"labels": {"a": "b"}})
        with front.start("reconcile", "shop") as running:
            token = requested(front)
            front.reconciled("shop", ready("False", BROKEN, "BuildFailed"), lastHandledReconcileAt=token)
            front.reconciled("shop", ready(generation=2), lastHandledReconcileAt=token)
            code, _, words = end(running)

        assert (code, words[-1]) == (0, f"✔ {title(front, 'shop')}: {SUCCESS}")

    def test_sources_come_first_each_once(self, front: Front) -> None:
        front.publish({"a": b"1"})
        front.publish({"b": b"1"}, "files", kind="Bucket")
        front.client.merge(front.path("Bucket", "files"), {"spec": {"suspend": True}})
        sources = (source("repo"), source("again", name="repo"), source("files", kind="Bucket"))
        front.add_generator("shop", sources=sources)
        with front.start("reconcile", "generator", "shop", "--with-source") as running:
            token = requested(front, "repo", "GitRepository")
            assert annotation(front, "shop", REQUEST) is None
            stored = ready(message="stored artifact")
            front.set_status("GitRepository", "repo", conditions=[stored], lastHandledReconcileAt=token)
            front.reconciled("shop", lastHandledReconcileAt=requested(front))
            told = end(running)

        assert told == (
            0,
            "",
            [
                f"► annotating {title(front, 'repo', 'GitRepository')}",
                f"◎ waiting for {title(front, 'repo', 'GitRepository')}",
                f"✔ {title(front, 'repo', 'GitRepository')}: stored artifact",
                f"⚠ {title(front, 'files', 'Bucket')} is suspended, and stays as it is",
                f"► annotating {title(front, 'shop')}",
                f"◎ waiting for {title(front, 'shop')}",
                f"✔ {title(front, 'shop')}: {SUCCESS}",
            ],
        )

    def test_a_source_that_another_generator_makes(self, front: Front) -> None:
        front.publish({"a": b"1"})
        front.add_generator("base", "common")
        front.add_artifact("common", {"a": b"1"}, generator="base")
        front.add_generator("shop", sources=(source("common", kind="ExternalArtifact"),))
        with front.start("reconcile", "shop", "--with-source") as running:
            token = requested(front, "repo", "GitRepository")
            front.set_status("GitRepository", "repo", conditions=[ready()], lastHandledReconcileAt=token)
            front.reconciled("base", lastHandledReconcileAt=requested(front, "base"))
            front.reconciled("shop", lastHandledReconcileAt=requested(front, "shop"))
            code, _, words = end(running)

        assert code == 0
        assert [line for line in words if line.startswith("✔")] == [
            f"✔ {title(front, 'repo', 'GitRepository')}: {SUCCESS}",
            f"✔ {title(front, 'base')}: {SUCCESS}",
            f"✔ {title(front, 'shop')}: {SUCCESS}",
        ]

    def test_one_that_is_suspended(self, front: Front) -> None:
        front.add_generator(annotations={PAUSE: "disabled"})

        advice = f"resume it first: sluice resume generator shop -n {front.namespace}"
        assert front.run("reconcile", "shop") == (1, "", f"✗ {title(front, 'shop')}: suspended ({advice})\n")
        assert annotation(front, "shop", REQUEST) is None

    def test_one_that_goes_meanwhile(self, front: Front) -> None:
        front.add_generator()
        with front.start("reconcile", "shop") as running:
            requested(front)
            front.delete("ArtifactGenerator", "shop")
            code, _, words = end(running)

        assert (code, words[-1]) == (1, f"✗ {title(front, 'shop')}: not found")

    def test_nobody_answers(self, front: Front) -> None:
        front.add_generator()

        ran = front.run("reconcile", "shop", "--timeout", "100ms")

        assert (ran.code, ran.words.splitlines()[-1]) == (
            1,
            f"✗ {title(front, 'shop')}: not done within 0.1s (--timeout)",
        )

    def test_an_impatient_person(self, front: Front) -> None:
        front.add_generator()
        with front.start("reconcile", "shop") as running:
            requested(front)
            running.send_signal(signal.SIGINT)
            code, out, words = end(running)

        assert (code, out, words[-1]) == (130, "", "✗ interrupted")


class TestSuspendAndResume:
    def test_by_name(self, front: Front) -> None:
        front.add_generator("shop", annotations={"mine": "stays"})

        assert front.run("suspend", "generator", "shop") == (0, "", f"✔ {title(front, 'shop')} suspended\n")
        assert annotation(front, "shop", PAUSE) == "disabled"
        assert annotation(front, "shop", "mine") == "stays"

        with front.start("resume", "generator", "shop") as running:
            token = requested(front)
            assert annotation(front, "shop", PAUSE) is None
            front.reconciled("shop", lastHandledReconcileAt=token)
            told = end(running)
        assert told == (
            0,
            "",
            [
                f"✔ {title(front, 'shop')} resumed",
                f"◎ waiting for {title(front, 'shop')}",
                f"✔ {title(front, 'shop')}: {SUCCESS}",
            ],
        )

    def test_the_change_has_an_owner_of_its_own(self, front: Front) -> None:
        front.add_generator()
        front.run("suspend", "shop")

        fields = front.generator("shop")["metadata"]["managedFields"]
        assert [each["operation"] for each in fields if each["manager"] == "sluice"] == ["Update"]

    @pytest.mark.parametrize(
        ("selection", "suspended"),
        [
            pytest.param(["--all"], ["bank", "shop"], id="all"),
            pytest.param(["-l", "team=blue"], ["shop"], id="by label"),
            pytest.param(["generators", "shop", "bank"], ["bank", "shop"], id="by names"),
        ],
    )
    def test_several(self, front: Front, selection: list[str], suspended: list[str]) -> None:
        front.add_generator("shop", labels={"team": "blue"})
        front.add_generator("bank")

        ran = front.run("suspend", *selection)

        assert ran.code == 0
        assert sorted(ran.words.splitlines()) == [f"✔ {title(front, name)} suspended" for name in suspended]
        assert [name for name in ("bank", "shop") if annotation(front, name, PAUSE)] == suspended

    def test_one_that_is_not_there_keeps_nobody_else_from_it(self, front: Front) -> None:
        front.add_generator()

        ran = front.run("suspend", "ship", "shop")

        assert ran.code == 1
        assert ran.words.splitlines() == [
            f"✔ {title(front, 'shop')} suspended",
            f"✗ {title(front, 'ship')} not found",
        ]

    @pytest.mark.parametrize(
        "arguments", [["suspend"], ["resume", "shop", "--all"], ["wait", "-l", "a=b", "--all"], ["reconcile"]]
    )
    def test_an_unclear_choice(self, front: Front, arguments: list[str]) -> None:
        assert front.run(*arguments) == (
            2,
            "",
            f"✗ say which: by name, or all of them with --all, or some with -l (see 'sluice {arguments[0]} --help')\n",
        )

    def test_a_choice_of_nothing(self, front: Front) -> None:
        ran = front.run("suspend", "-l", "team=blue")

        assert ran == (1, "", f"✗ no generators with these labels in namespace '{front.namespace}'\n")


class TestWait:
    def test_what_is_ready_is_not_waited_for(self, front: Front) -> None:
        front.add_generator("shop")
        front.add_generator("bank")
        front.add_artifact("web", {"a": b"1"})

        ran = front.run("wait", "--all")
        assert (ran.code, sorted(ran.words.splitlines()[1:])) == (
            0,
            [f"✔ {title(front, name)}: {SUCCESS}" for name in ("bank", "shop")],
        )
        ran = front.run("wait", "artifact", "web")
        assert ran.words.splitlines()[1:] == [f"✔ {title(front, 'web', 'ExternalArtifact')}: Artifact is ready"]

    def test_what_is_tried_again_may_become_ready(self, front: Front) -> None:
        front.add_generator()
        front.reconciled("shop", RETRYING, ready("False", BROKEN, "BuildFailed"))
        with front.start("wait", "generator", "shop") as running:
            assert running.stderr is not None
            assert running.stderr.readline() == f"◎ waiting for {title(front, 'shop')}\n"
            front.reconciled("shop")
            told = end(running)

        assert told == (0, "", [f"✔ {title(front, 'shop')}: {SUCCESS}"])

    @pytest.mark.parametrize(
        ("conditions", "annotations", "message"),
        [
            pytest.param(
                [condition("Stalled", "True", "unknown alias", "ValidationFailed"), ready("False", "unknown alias")],
                {},
                "unknown alias",
                id="stalled",
            ),
            pytest.param(
                [RETRYING, ready("False", BROKEN)],
                {PAUSE: "disabled"},
                f"suspended, and not ready: {BROKEN}",
                id="suspended",
            ),
        ],
    )
    def test_what_cannot_become_ready(
        self, front: Front, conditions: list[Object], annotations: dict[str, str], message: str
    ) -> None:
        front.add_generator(annotations=annotations)
        front.reconciled("shop", *conditions)

        ran = front.run("wait", "shop")

        assert (ran.code, ran.words.splitlines()[-1]) == (1, f"✗ {title(front, 'shop')}: {message}")

    def test_a_name_that_is_not_there(self, front: Front) -> None:
        front.add_generator("shop")

        ran = front.run("wait", "shop", "ship")

        assert ran.code == 1
        assert ran.words.splitlines()[1:] == [
            f"✔ {title(front, 'shop')}: {SUCCESS}",
            f"✗ {title(front, 'ship')}: not found",
        ]

    def test_names_are_not_too_many(self, front: Front) -> None:
        for name in ("a", "b", "c", "d", "e"):
            front.add_generator(name)
            front.reconciled(name, RETRYING, ready("False", BROKEN))

        ran = front.run("wait", "--all", "--timeout", "500ms")

        some = ", ".join(title(front, name) for name in "abc")
        assert ran.words.splitlines() == [
            f"◎ waiting for {some} and 2 more",
            f"✗ {some} and 2 more: not done within 0.5s (--timeout)",
        ]

    def test_a_timeout_that_is_none(self, front: Front) -> None:
        ran = front.run("wait", "shop", "--timeout", "5")

        message = "Invalid value for '--timeout': '5' is not a duration (such as 750ms, 30s or 1h0m0s)"
        assert ran == (2, "", f"✗ {message} (see 'sluice wait --help')\n")
