"""Models over several processes: what is unloaded at one is so at all, and at those that come later."""

import os
import signal
import time
from pathlib import Path

import httpx2
import pytest

CONFIG = """\
server: {port: 0, workers: 2}
auth: {open: true}
cache: {url: "lmdb://FOLDER/cache?max_bytes=64MiB"}
ensembles:
  one: &ensemble
    classes: [a, b, c]
    teachers:
      - {name: only, model: "fake://?classes=3&features=4", output: {kind: logits}}
    batching: {max_rows: 16, in_flight: 1, threads: 1}
    recipes: {default: {operator: linear}}
  other: *ensemble
"""
ASKED = 12  # connections, so that nearly surely both workers answer some


class Served:
    def __init__(self, folder, start):
        (folder / "c.yaml").write_text(CONFIG.replace("FOLDER", str(folder)))
        self.server = start(folder / "c.yaml")

    def post(self, path):
        return httpx2.post(f"{self.server.url}/v2/{path}", timeout=60)

    def get(self, path):
        return httpx2.get(f"{self.server.url}/{path}", timeout=60)

    def statuses(self, model):
        return {self.get(f"v2/models/{model}/ready").status_code for _ in range(ASKED)}

    def pids(self):
        pid = self.server.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def served(tmp_path_factory, start):
    return Served(tmp_path_factory.mktemp("models"), start)


def test_what_is_unloaded_at_one_is_so_at_all_and_at_those_that_come_later(served):
    assert served.statuses("one") == served.statuses("other") == {200}
    assert served.post("repository/models/one/unload").status_code == 200
    assert served.statuses("one") == {404}
    assert served.statuses("other") == {200}
    gone = served.post("repository/models/one/unload")
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown_ensemble")
    before = served.pids()
    os.kill(before[0], signal.SIGKILL)
    end = time.monotonic() + 60
    while (
        set(served.pids()) == set(before) or len(served.pids()) < 2 or served.get("readyz").json()["degraded"]
    ):
        assert time.monotonic() < end, served.server.log()
        time.sleep(0.05)
    assert served.statuses("one") == {404}
    assert served.post("repository/models/one/load").status_code == 200
    assert served.statuses("one") == {200}


def test_versions_agree_over_processes(served):
    versions = {served.get("v2/models/one").json()["versions"][0] for _ in range(ASKED)}
    assert len(versions) == 1
    (version,) = versions
    statuses = {served.get(f"v2/models/one/versions/{version}/ready").status_code for _ in range(ASKED)}
    assert statuses == {200}
