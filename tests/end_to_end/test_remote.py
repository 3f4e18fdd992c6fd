"""A server with a teacher on another one, as a process: how it starts without it, and goes on with it."""

import subprocess
import sys

import httpx2
import numpy as np
import pytest
from inference_server import InferenceServer, Model

CONFIG = """\
server: {port: 0, workers: WORKERS}
ensembles:
  toy:
    inputs: {x: {dtype: float32, shape: [4]}}
    classes: [a, b, c]
    quorum: QUORUM
    teachers:
      - {name: far, model: "FAR", output: {kind: probs}, key_file: far.key, retries: 0}
      - {name: near, model: "fake://?classes=3&features=4", output: {kind: logits}}
    recipes: {default: {operator: linear}}
"""
SURE = {"a": 1, "b": 0, "c": 0}


def only_the_first(given):
    return {"p": np.tile(np.array([1.0, 0.0, 0.0]), (len(given["x"]), 1))}


@pytest.fixture
def far():
    model = Model([("x", "FP32", [-1, 4])], [("p", "FP32", [-1, 3])], only_the_first)
    with InferenceServer({"m": model}, key="st_far_secret") as server:
        yield server


@pytest.fixture
def config(tmp_path, far):
    def write(quorum, workers=1):
        (tmp_path / "far.key").write_text("st_far_secret\n")
        text = CONFIG.replace("FAR", far.address("m")).replace("QUORUM", str(quorum))
        (tmp_path / "c.yaml").write_text(text.replace("WORKERS", str(workers)))
        return tmp_path / "c.yaml"

    return write


def ask(server, seed, query=""):
    rows = np.random.default_rng(seed).normal(size=(2, 4)).tolist()
    reply = httpx2.post(
        f"{server.url}/v1/ensembles/toy/soft-targets{query}", json={"inputs": {"x": rows}}, timeout=60
    )
    assert reply.status_code == 200, reply.text
    return reply.json()["targets"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_needed_teacher_that_is_away_ends_the_start_with_3(config, far, workers):
    far.away()
    ended = subprocess.run(
        [sys.executable, "-m", "service", "serve", str(config("all", workers))],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 3
    assert (
        f"teacher 'far': {far.address('m')} cannot be reached: teacher 'far' does not answer" in ended.stderr
    )


def test_a_server_starts_without_a_teacher_and_lets_it_in_when_it_is_back(config, far, start):
    far.away()
    server = start(config(1))
    ready = httpx2.get(f"{server.url}/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert "teacher 'far' has been absent since the start" in ready.json()["degraded"][0]
    described = httpx2.get(f"{server.url}/v1/ensembles/toy").json()
    assert [teacher["device"] for teacher in described["teachers"]] == ["remote", "cpu"]
    assert [teacher["revision"] for teacher in described["teachers"]] == [None, None]
    assert "teacher 'far' has no revision" in described["not_cached"]
    with far:
        # Before anything was asked, so that it is sought at once.
        (first, second) = ask(server, 0, "?weights=far:1")
        assert first["probabilities"] == pytest.approx(SURE, abs=1e-6)
        assert "missing_teachers" not in first
        assert second["source"] == "miss"
        assert ask(server, 0, "?weights=far:1")[0]["source"] == "miss"  # it has no revision
        assert httpx2.get(f"{server.url}/readyz").json()["degraded"] == []
        assert {one.headers["authorization"] for one in far.received} == {"Bearer st_far_secret"}
    assert {tuple(target["missing_teachers"]) for target in ask(server, 1)} == {("far",)}
    log = server.log()
    assert "targets are not kept" in log
    assert "teacher absent" in log
    assert "teacher met" in log
    assert "secret" not in log
    assert server.stop() == 0
