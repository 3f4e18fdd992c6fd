"""The dashboard, the alerts and the guide name metrics that there are, and the guide names all."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from service.telemetry import Metrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
PROVISIONING = ROOT / "deploy/grafana/provisioning"
GUIDE = ROOT / "docs/observability.md"
# What Prometheus adds to what it has read.
ADDED = {"instance", "job", "le"}


def declared():
    """Every metric as it is exposed: its kind, its labels and what it is said to be."""
    metrics = Metrics()
    found = {}
    for collector in metrics.registry._collector_to_names:
        (family,) = collector.describe()
        labels = getattr(collector, "_labelnames", None) or getattr(collector, "_head", ("", "", ()))[2]
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = family.type, tuple(labels), family.documentation
    return found


def series():
    """What can be asked for: the name of every series, and its labels."""
    found = {}
    for name, (kind, labels, _) in declared().items():
        names = [f"{name}_{part}" for part in ("bucket", "sum", "count")] if kind == "histogram" else [name]
        found |= {one: {*labels, *ADDED} for one in names}
    return found


def load(path):
    return YAML(typ="safe", pure=True).load(path.read_text())


def dashboards():
    return [json.loads(path.read_text()) for path in (PROVISIONING / "dashboards").glob("*.json")]


def expressions():
    rules = [rule for group in load(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]
    found = [(rule["alert"], rule["expr"]) for rule in rules]
    for dashboard in dashboards():
        found += [(one["name"], one["definition"]) for one in dashboard["templating"]["list"]]
        for panel in dashboard["panels"]:
            found += [(panel["title"], target["expr"]) for target in panel["targets"]]
    return found


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_dashboard_and_alerts_ask_for_what_there_is(where, expression):
    known = series()
    asked = re.findall(r"\b(soft_targets_\w+)(?:\{([^}]*)\})?", expression)
    assert asked or "up{" in expression, where
    for name, selected in asked:
        assert name in known, where
        assert set(re.findall(r"(\w+)\s*[=!]~?\"", selected)) <= known[name], where
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"\b(?:by|on) \(([^)]*)\)", expression))))
    assert grouped <= ADDED.union(*(known[name] for name, _ in asked)), where
    for left, right in ("()", "{}", "[]"):
        assert expression.count(left) == expression.count(right), where


def test_panels_stand_beside_each_other_and_have_their_data_source():
    (source,) = load(PROVISIONING / "datasources/prometheus.yaml")["datasources"]
    (provider,) = load(PROVISIONING / "dashboards/dashboards.yaml")["providers"]
    assert provider["options"]["path"] == "/etc/grafana/provisioning/dashboards"
    (dashboard,) = dashboards()
    panels = dashboard["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len({*places}) == len({panel["id"] for panel in panels}) == len(panels)


def test_prometheus_reads_the_rules_that_stand_beside_it():
    config = load(PROMETHEUS / "prometheus.yml")
    assert all((PROMETHEUS / name).is_file() for name in config["rule_files"])
    (job,) = config["scrape_configs"]
    assert f'job="{job["job_name"]}"' in (PROMETHEUS / "alerts.yml").read_text()


def test_the_guide_has_every_metric_as_it_is_declared():
    rows = re.findall(
        r"^\| `(soft_targets_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", GUIDE.read_text(), re.MULTILINE
    )
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), what) for name, kind, labels, what in rows}
    assert told == declared()
    assert len(rows) == len(told)


def test_the_guide_has_every_alert():
    names = {name for name, _ in expressions() if name.startswith("SoftTargets")}
    assert names == set(re.findall(r"^\| `(SoftTargets\w+)`", GUIDE.read_text(), re.MULTILINE))
