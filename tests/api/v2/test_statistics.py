"""Statistics: counts of requests, and how long they took."""

import numpy as np
import pytest
from inference import as_bytes, body_of, request_of


@pytest.fixture
def counted(open_app, tmp_path):
    client = open_app(tmp_path).client

    def stats(model="mixed"):
        (found,) = client.get(f"/v2/models/{model}/stats").json()["model_stats"]
        return found

    return client, stats


def ask(client, first=1, rows=3, **more):
    values = {
        "image": np.full((rows, 2, 3), first, np.float32),
        "number": np.arange(rows),
        "text": np.full(rows, "t", object),
    }
    body, headers = request_of(values, **more)
    return client.post("/v2/models/mixed/infer", content=body, headers=headers).status_code


def test_nothing_was_asked(counted):
    _, stats = counted
    nothing = {"count": 0, "ns": 0}
    found = stats()
    assert found.pop("inference_stats") == dict.fromkeys(
        ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit"],
        nothing,
    )
    assert found == {
        "name": "mixed", "version": found["version"], "last_inference": 0, "inference_count": 0,
        "execution_count": 0, "batch_stats": [],
    }  # fmt: skip


def test_computed_kept_and_refused(counted):
    client, stats = counted
    assert ask(client) == 200
    first = stats()
    assert ask(client) == 200
    assert ask(client, first=np.nan) == 400
    assert ask(client, parameters={"x": 1}) == 400
    assert ask(client, rows=41) == 413
    assert ask(client, rows=0) == 200
    found = stats()
    assert {name: one["count"] for name, one in found["inference_stats"].items()} == {
        "success": 3, "fail": 3, "queue": 0, "compute_input": 2, "compute_infer": 2, "compute_output": 2,
        "cache_hit": 1,
    }  # fmt: skip
    assert (found["inference_count"], found["execution_count"]) == (3, 1)
    assert found["last_inference"] >= first["last_inference"] > 1.7e12
    parts = ("compute_input", "compute_infer", "compute_output")
    times = first["inference_stats"]
    assert times["success"]["ns"] == sum(times[part]["ns"] for part in parts) > 0
    for name, one in found["inference_stats"].items():
        assert (one["ns"] > 0) == (one["count"] > 0), name


def test_models_are_counted_apart_by_the_names_they_are_asked_by(counted):
    client, stats = counted
    ask(client)
    assert stats("mixed.default")["inference_stats"]["success"]["count"] == 0
    everything = client.get("/v2/models/stats").json()["model_stats"]
    assert {one["name"]: one["inference_stats"]["success"]["count"] for one in everything} == {
        "mixed": 1, "mixed.default": 0, "mixed.sparse": 0, "mixed.whole": 0, "faulty.mine": 0,
    }  # fmt: skip


def test_what_was_not_for_a_model_counts_for_none(counted):
    client, _ = counted
    tensor, content = as_bytes("x", np.zeros(1, np.float32))
    body, headers = body_of({"inputs": [tensor]}, [content])
    assert client.post("/v2/models/none/infer", content=body, headers=headers).status_code == 404
    everything = client.get("/v2/models/stats").json()["model_stats"]
    assert not any(one["inference_stats"]["fail"]["count"] for one in everything)
