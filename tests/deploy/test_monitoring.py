"""Dashboards and alerts ask for metrics that there are."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.deploy.engines import DEPLOY

from sluice.metrics import Metrics

MONITORING = DEPLOY / "monitoring"
FAMILIES = re.compile(r"\b(?:controller_runtime|workqueue|rest_client|leader_election|sluice|process|gotk)_\w+")
# What Prometheus adds to every series, and kube-state-metrics to its own.
ADDED = {"namespace", "pod", "le", "customresource_kind"}


def served() -> dict[str, set[str]]:
    """Every metric of the process with its labels."""
    metrics = Metrics()
    metrics.count_request("200", "GET", "api")
    metrics.depth("0", lambda: 0)
    metrics.lead("source-watcher-leader-election", lambda: 1)
    metrics.watch_age("artifactgenerators", lambda: 0)
    metrics.value("source_downloads", lambda: 0)
    samples = re.findall(r"^(\w+)(?:\{(.*)\})? ", metrics.text().decode(), re.MULTILINE)
    found: dict[str, set[str]] = {}
    for name, labels in samples:
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def of_resources() -> dict[str, set[str]]:
    """What kube-state-metrics makes of the shipped configuration."""
    configuration = yaml.safe_load((MONITORING / "kube-state-metrics.yaml").read_text())
    found = {}
    for resource in configuration["spec"]["resources"]:
        for metric in resource["metrics"]:
            labels = {*metric["labelsFromPath"], *metric["each"]["info"]["labelsFromPath"]}
            found[f"{resource['metricNamePrefix']}_{metric['name']}"] = labels
    return found


def panels() -> list[Any]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def rules() -> list[Any]:
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _queries() -> Iterator[Any]:
    for panel in panels():
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for rule in rules():
        yield pytest.param(rule["expr"], id=rule["alert"])


QUERIES = list(_queries())


@pytest.mark.parametrize("expression", QUERIES)
def test_a_query_asks_for_what_there_is(expression: str) -> None:
    known = {**served(), **of_resources()}
    names = FAMILIES.findall(re.sub(r'"[^"]*"', '""', expression))
    selectors = re.findall(r"(\w+)\{([^}]*)\}", re.sub(r'"[^"]*"', '""', expression))

    assert names
    assert [name for name in names if name not in known] == []
    for name, labels in selectors:
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels)) <= known[name] | ADDED


@pytest.mark.parametrize("expression", QUERIES)
def test_a_query_closes_what_it_opens(expression: str) -> None:
    inner = re.sub(r'"[^"]*"', "", expression)
    while (less := re.sub(r"\([^(){}\[\]]*\)|\{[^(){}\[\]]*\}|\[[^(){}\[\]]*\]", "", inner)) != inner:
        inner = less

    assert not set("(){}[]") & set(inner)


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in rules()])
def test_an_alert_tells_what_to_do(rule: Any) -> None:
    labels = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    grouped = {name for names in re.findall(r"by \(([^)]*)\)", rule["expr"]) for name in re.split(r",\s*", names)}

    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description"}
    assert labels <= grouped


def test_panels_do_not_overlap_and_have_their_own_numbers() -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    cells = [
        (x, y)
        for panel in dashboard
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in dashboard}) == len(dashboard)


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in FAMILIES.findall(target["expr"])}
    ours = {
        name for name in served() if name.startswith("sluice_") and not name.endswith(("_sum", "_count", "_created"))
    }

    assert ours <= shown
