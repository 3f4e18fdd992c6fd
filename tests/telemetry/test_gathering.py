"""The figures of several processes: whoever is asked says them all, and none of them goes backwards."""

import os
import signal
import time
from pathlib import Path

import httpx2
import pytest
from observed import PATH
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.figures import Family
from service.workers.gathering import Gathering

CONFIG = """\
server: {port: 0, workers: 2, metrics_port: 0}
auth: {open: true}
cache: {url: "lmdb://FOLDER/cache?max_bytes=64MiB"}
ensembles:
  toy:
    classes: [a, b, c]
    teachers:
      - {name: one, model: "fake://?classes=3&features=4&seed=1", output: {kind: logits}}
    batching: {max_rows: 16, in_flight: 1, threads: 1}
    recipes: {default: {operator: linear}}
"""
NAME = "soft_targets_rows_total"


class Server:
    """Two workers, and their figures on a port that the log names."""

    def __init__(self, folder, start):
        (folder / "c.yaml").write_text(CONFIG.replace("FOLDER", str(folder)))
        self.running = start(folder / "c.yaml")
        line = next(line for line in self.running.log().splitlines() if '"metrics"' in line)
        port = line.split('"port": ')[1].split(",")[0].rstrip("}")
        self.metrics = f"http://127.0.0.1:{port}/metrics"

    def figures(self):
        text = httpx2.get(self.metrics, timeout=30).raise_for_status().text
        return [sample for one in text_string_to_metric_families(text) for sample in one.samples]

    def total(self, name):
        return sum(sample.value for sample in self.figures() if sample.name == name)

    def ask(self, count):
        for value in range(count):
            body = {"inputs": {"x": [[value, 0, 0, 0]]}}
            httpx2.post(f"{self.running.url}{PATH}", json=body, timeout=30).raise_for_status()

    def workers(self):
        pid = self.running.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def server(tmp_path_factory, start):
    return Server(tmp_path_factory.mktemp("gathering"), start)


def test_every_worker_says_the_figures_of_all(server):
    server.ask(12)
    assert server.total("soft_targets_processes") == 2
    assert {server.total(NAME) for _ in range(6)} == {12}


def test_on_the_port_of_the_metrics_there_is_nothing_else_and_elsewhere_there_are_none(server):
    base = server.metrics.removesuffix("/metrics")
    assert httpx2.get(f"{base}/livez", timeout=30).status_code == 404
    assert httpx2.post(f"{base}{PATH}", json={}, timeout=30).status_code == 404
    assert httpx2.get(f"{server.running.url}/metrics", timeout=30).status_code == 404
    assert httpx2.get(f"{server.running.url}/livez", timeout=30).status_code == 200


def test_a_worker_that_dies_takes_nothing_with_it(server):
    server.ask(12)
    before = server.total(NAME)
    os.kill(server.workers()[0], signal.SIGKILL)
    end = time.monotonic() + 60
    seen = [before]
    while server.total("soft_targets_processes") < 2 or len(seen) < 3:
        seen.append(server.total(NAME))
        assert time.monotonic() < end
        time.sleep(0.05)
    seen.append(server.total(NAME))
    assert seen == sorted(seen)
    server.ask(3)
    assert server.total(NAME) == before + 3


def said(value):
    return [
        ["a", "counter", "A.", [["a_total", {}, value]]],
        ["b", "gauge", "B.", [["b", {}, value]]],
    ]


def test_what_a_worker_has_counted_stays_when_another_takes_its_place():
    gathering = Gathering()
    gathering.hear(0, said(5))
    gathering.hear(1, said(2))
    gathering.ended(0)
    assert gathering.total[0] == Family("a", "counter", "A.", [("a_total", {}, 7)])
    assert gathering.total[1].samples == [("b", {}, 2)]
    gathering.hear(0, said(1))
    assert gathering.total[0].samples == [("a_total", {}, 8)]
    gathering.ended(0)
    gathering.ended(0)
    assert gathering.total[0].samples == [("a_total", {}, 8)]
