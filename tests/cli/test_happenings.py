"""`sluice events`, beside a real API server."""

import json
import signal
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from tests.cli.clusters import Front

from sluice.cli.views import ago

pytestmark = pytest.mark.cluster

NOW = datetime(2026, 7, 1, 10, 0, 0, tzinfo=UTC)


def happen(
    front: Front, name: str, message: str, *, minutes: int, kind: str = "ArtifactGenerator", level: str = "Normal"
) -> None:
    moment = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="seconds").replace("+00:00", "Z")
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{name}."},
        "involvedObject": {"kind": kind, "name": name, "namespace": front.namespace},
        "type": level,
        "reason": "Ready" if level == "Normal" else "BuildFailed",
        "message": message,
        "count": 3,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "source": {"component": "source-watcher"},
    }
    front.client.create(f"/api/v1/namespaces/{front.namespace}/events", event)


@pytest.fixture
def shop(front: Front) -> Front:
    happen(front, "shop", "second", minutes=200)
    happen(front, "shop", "first", minutes=10_000, level="Warning")
    happen(front, "bank", "third\nline", minutes=5)
    happen(front, "shop", "applied", minutes=5, kind="Kustomization")
    return front


def messages(out: str) -> list[str]:
    return [line.split()[-1] for line in out.splitlines()[1:]]


def test_the_latest_is_last(shop: Front) -> None:
    ran = shop.run("events")

    assert (ran.code, ran.words) == (0, "")
    assert ran.out == (
        "LAST SEEN   TYPE      REASON        OBJECT                   MESSAGE\n"
        "6d          Warning   BuildFailed   ArtifactGenerator/shop   first\n"
        "3h          Normal    Ready         ArtifactGenerator/shop   second\n"
        "5m          Normal    Ready         ArtifactGenerator/bank   third\\nline\n"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(["--for", "ArtifactGenerator/shop"], ["first", "second"], id="for one generator"),
        pytest.param(["--for", "generator/bank"], ["third\\nline"], id="by the word of other verbs"),
        pytest.param(["--for", "kustomization/shop"], ["applied"], id="for another kind"),
        pytest.param(["--types", "warning"], ["first"], id="of a type"),
    ],
)
def test_a_selection(shop: Front, options: list[str], expected: list[str]) -> None:
    assert messages(shop.run("events", *options).out) == expected


def test_forms(shop: Front) -> None:
    found = json.loads(shop.run("events", "--for", "generator/bank", "-o", "json").out)

    (event,) = found["events"]
    assert ago(event["lastSeen"], datetime.now(UTC)) == "5m"
    assert found["events"] == [
        {
            "namespace": shop.namespace,
            "object": "ArtifactGenerator/bank",
            "type": "Normal",
            "reason": "Ready",
            "message": "third\nline",
            "count": 3,
            "lastSeen": event["lastSeen"],
            "component": "source-watcher",
        }
    ]
    assert yaml.safe_load(shop.run("events", "--for", "generator/bank", "-o", "yaml").out) == found
    assert shop.run("events", "-o", "name").out.split() == [
        f"ArtifactGenerator/{name}" for name in ("shop", "shop", "bank")
    ]
    wide = shop.run("events", "-A", "-o", "wide").out.splitlines()
    assert wide[0].split() == ["NAMESPACE", "LAST", "SEEN", "TYPE", "REASON", "OBJECT", "COUNT", "COMPONENT", "MESSAGE"]


@pytest.mark.parametrize("form", ["table", "json"])
def test_watching(shop: Front, form: str) -> None:
    with shop.start("events", "-w", "--for", "generator/shop", "-o", form) as running:
        assert running.stdout is not None
        first = [running.stdout.readline() for _ in range(3 if form == "table" else 2)]
        happen(shop, "bank", "elsewhere", minutes=0)
        happen(shop, "shop", "news", minutes=0)
        last = running.stdout.readline()
        running.send_signal(signal.SIGINT)
        _, words = running.communicate()

    assert (running.returncode, words) == (130, "✗ interrupted\n")
    if form == "table":
        assert [line.split()[-1] for line in [*first, last]] == ["MESSAGE", "first", "second", "news"]
    else:
        assert [json.loads(line)["message"] for line in [*first, last]] == ["first", "second", "news"]


def test_nothing_happened(front: Front) -> None:
    assert front.run("events") == (0, "", f"⚠ no events in namespace '{front.namespace}' (-A looks in all)\n")


def test_no_kind(front: Front) -> None:
    assert front.run("events", "--for", "shop") == (
        2,
        "",
        "✗ --for: 'shop' is not KIND/NAME (see 'sluice events --help')\n",
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (-5, "0s"),
    ],
)
def test_how_long_ago(seconds: int, shown: str) -> None:
    assert ago((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == shown


@pytest.mark.parametrize("moment", ["", "never", "2026-07-01T10:00:00", None])
def test_what_is_no_moment(moment: str | None) -> None:
    assert ago(moment, NOW) == ""
