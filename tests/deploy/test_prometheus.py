"""What Prometheus itself says of its configuration, the alerts, the dashboard's questions and our figures."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from observed import CONFIG, PATH, Observed

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
DASHBOARDS = ROOT / "deploy/grafana/provisioning/dashboards"


def promtool(*arguments, **options):
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool: install the Debian package prometheus")
    said = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, **options)
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def test_the_configuration_and_its_rules_are_sound():
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_alerts_are_told_of_what_is_wrong_and_let_the_rest_pass(tmp_path):
    for path in (PROMETHEUS / "alerts.yml", Path(__file__).with_name("alerts_test.yml")):
        shutil.copy(path, tmp_path)
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)


def test_every_question_of_the_dashboard_is_one(tmp_path):
    asked = [
        target["expr"].replace("$__rate_interval", "5m").replace("$ensemble", ".*")
        for path in DASHBOARDS.glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]
    rules = [{"record": f"asked:{place}", "expr": expression} for place, expression in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "asked", "rules": rules}]}))
    assert f"{len(asked)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")


def test_the_figures_are_as_prometheus_wants_them(tmp_path):
    with Observed(tmp_path / "c.yaml", CONFIG).client() as client:
        rows = {"inputs": {"x": [[1.0, 2.0, 3.0, 4.0]]}}
        assert client.post(PATH, json=rows).raise_for_status()
        said = client.get("/metrics").raise_for_status().text
    assert 'soft_targets_rows_total{ensemble="toy",source="miss"} 1.0' in said
    promtool("check", "metrics", input=said)
