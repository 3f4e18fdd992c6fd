"""Several processes behind one port: what one is told, all do; and one that dies is missed by nobody."""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest
from connections import connect

from soft_targets.wire import ARROW, Closing, default_row_ids, encode_request, read_reply

CONFIG = """\
server: {port: 0, workers: WORKERS}
auth: {open: true}
cache: {url: "lmdb://FOLDER/cache?max_bytes=64MiB"}
ensembles:
  toy:
    classes: [a, b, c]
    teachers:
      - {name: one, model: "fake://?classes=3&features=4&seed=1", output: {kind: logits},
         temperature: CALIBRATED}
      - {name: two, model: "fake://?classes=3&features=4&seed=2", output: {kind: logits}}
    batching: {max_rows: 16, in_flight: 1, threads: 1}
    recipes: {default: {operator: linear}}
"""
PATH = "/v1/ensembles/toy"
ASKED = 12  # connections, so that nearly surely both workers answer some


class Workers:
    def __init__(self, folder, start, workers=2, limits="", **options):
        self.folder, self.workers, self.file, self.limits = folder, workers, folder / "c.yaml", limits
        self.write(1)
        self.server = start(self.file, **options)
        self.url = self.server.url

    def write(self, calibrated):
        text = self.limits + CONFIG.replace("FOLDER", str(self.folder))
        text = text.replace("WORKERS", str(self.workers))
        other = self.file.with_suffix(".new")
        other.write_text(text.replace("CALIBRATED", str(calibrated)))
        other.replace(self.file)

    def pids(self):
        pid = self.server.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def infos(self):
        """What is said over as many connections; each may be accepted by another worker."""
        return [httpx2.get(f"{self.url}{PATH}", timeout=60).json() for _ in range(ASKED)]

    def fingerprints(self):
        return {info["recipes"]["default"]["fingerprint"] for info in self.infos()}

    def reload(self):
        return httpx2.post(f"{self.url}{PATH}/reload", timeout=60)

    def ready(self):
        return httpx2.get(f"{self.url}/readyz", timeout=60).json()

    def until(self, condition):
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, self.server.log()
            time.sleep(0.05)


@pytest.fixture(scope="module")
def workers(tmp_path_factory, start):
    return Workers(tmp_path_factory.mktemp("workers"), start)


def rows_of(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


async def asked(connection, rows):
    body = encode_request({"x": rows}, default_row_ids(len(rows)))
    reply = await connection.post(f"{PATH}/soft-targets", body, ARROW)
    assert reply.status == 200, reply
    metadata, batches = read_reply(reply.body)
    *groups, closing = batches
    assert closing == Closing(len(rows), 0)
    sources = {source for group in groups for source in group.sources}
    return metadata["fingerprint"], sources, np.concatenate([group.log_probs for group in groups])


async def test_what_one_worker_computed_is_there_for_the_other(workers):
    rows = rows_of(20, seed=0)
    async with connect(workers.url) as connection:
        _, sources, first = await asked(connection, rows)
    assert sources == {"miss"}
    for _ in range(50):  # until it is written behind the reply
        found = []
        for _ in range(ASKED):
            async with connect(workers.url) as connection:
                found.append(await asked(connection, rows))
        if all(sources == {"hit"} for _, sources, _ in found):
            break
    assert all(sources == {"hit"} and (log_probs == first).all() for _, sources, log_probs in found)


def test_a_recipe_put_at_one_is_served_by_all_and_refused_by_all(workers):
    put = f"{workers.url}{PATH}/recipes/mine"
    recipe = {"operator": "linear", "temperature": 3}
    assert httpx2.put(put, json=recipe, timeout=60).status_code == 201
    assert all("mine" in info["recipes"] for info in workers.infos())
    assert {httpx2.put(put, json=recipe, timeout=60).status_code for _ in range(ASKED)} == {200}
    other = httpx2.put(put, json={"operator": "geometric"}, timeout=60)
    assert (other.status_code, other.json()["code"]) == (409, "recipe_exists")
    refused = httpx2.put(f"{workers.url}{PATH}/recipes/bad", json={"operator": "trimmed_mean"}, timeout=60)
    assert (refused.status_code, refused.json()["code"]) == (422, "operator_refused")
    assert refused.json()["certificate"]["admitted"] is False
    assert not any("bad" in info["recipes"] for info in workers.infos())


async def test_a_reload_reaches_all_and_no_request_fails_meanwhile(workers):
    stop, seen, seeds = asyncio.Event(), set(), itertools.count(100)

    async def student():
        while not stop.is_set():
            async with connect(workers.url) as connection:
                seen.add((await asked(connection, rows_of(8, next(seeds))))[0])

    students = [asyncio.create_task(student()) for _ in range(4)]
    known = await asyncio.to_thread(workers.fingerprints)
    for calibrated in (2, 3):
        workers.write(calibrated)
        reply = await asyncio.to_thread(workers.reload)
        assert reply.status_code == 200, reply.text
        now = reply.json()["recipes"]["default"]["fingerprint"]
        assert await asyncio.to_thread(workers.fingerprints) == {now}
        known.add(now)
    stop.set()
    await asyncio.gather(*students)
    assert len(known) == 3
    assert seen <= known
    bad = workers.file.read_text()
    workers.file.write_text(bad.replace("classes: [a, b, c]", "classes: [a, b]"))
    reply = await asyncio.to_thread(workers.reload)
    assert (reply.status_code, reply.json()["code"]) == (422, "bad_configuration")
    assert await asyncio.to_thread(workers.fingerprints) == {now}
    workers.file.write_text(bad)


def test_a_worker_that_dies_comes_back_as_the_others_are(workers):
    (before,) = workers.fingerprints()
    workers.write(7)  # not to be loaded until somebody says so
    os.kill(workers.pids()[0], signal.SIGKILL)
    workers.until(lambda: workers.ready()["degraded"] == ["1 of 2 workers are being started"])
    assert workers.fingerprints() == {before}
    workers.until(lambda: not workers.ready()["degraded"])
    assert workers.fingerprints() == {before}
    assert all("mine" in info["recipes"] for info in workers.infos())
    assert workers.reload().status_code == 200
    assert len(workers.fingerprints() | {before}) == 2


def gone(pid):
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    return True


def test_a_file_that_is_watched_is_followed_by_all_and_a_stop_stops_all(tmp_path, start):
    workers = Workers(tmp_path, start, arguments=["--reload"])
    before = workers.fingerprints()
    workers.write(5)
    workers.until(lambda: len(workers.fingerprints() | before) == 2 and len(workers.fingerprints()) == 1)
    pids = workers.pids()
    assert len(pids) == 2
    assert workers.server.stop() == 0
    assert all(map(gone, pids))


async def test_together_they_grant_a_key_its_rate_and_no_more(tmp_path, start):
    limits = "limits: {rows_per_s_per_key: 200, max_rows_per_request: 16}\n"
    workers = Workers(tmp_path, start, limits=limits)
    body, granted, refused = encode_request({"x": rows_of(16, seed=1)}, default_row_ids(16)), [], []
    began = time.monotonic()

    async def insist():
        while time.monotonic() < began + 4:
            async with connect(workers.url) as connection:  # which worker takes it is chance
                status = (await connection.post(f"{PATH}/soft-targets", body, ARROW)).status
            {200: granted, 429: refused}[status].append(time.monotonic() - began)

    await asyncio.gather(*[insist() for _ in range(4)])
    took = time.monotonic() - began
    assert refused
    # For a moment a worker may grant what two windows of a second hold: its share, twice.
    assert 16 * len(granted) <= 200 * took + 200
    assert 16 * len(granted) >= 200 * took / 4


def test_workers_do_not_outlive_their_parent(tmp_path, start):
    workers = Workers(tmp_path, start)
    pids = workers.pids()
    workers.server.process.kill()
    workers.until(lambda: all(map(gone, pids)))


def test_how_many_there_are_is_measured_where_they_share_a_cache(tmp_path, start):
    workers = Workers(tmp_path, start, workers="auto")
    assert "sized by measurement" in workers.server.log()
    assert 1 <= len(workers.pids()) <= (os.cpu_count() or 1)
    assert workers.ready() == {"ready": True, "degraded": []}


def test_what_cannot_be_used_ends_the_start_once_with_the_reason(tmp_path):
    text = CONFIG.replace("FOLDER", str(tmp_path)).replace("WORKERS", "2").replace("CALIBRATED", "1")
    (tmp_path / "c.yaml").write_text(text.replace("classes: [a, b, c]", "classes: [a, b]"))
    found = subprocess.run(
        [sys.executable, "-m", "service", "serve", str(tmp_path / "c.yaml")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr.count("answers 3 classes, but 2 are named for it") == 1
    assert "listening" not in found.stdout
