"""The live figures: what is in them, who may listen, and when it ends."""

import asyncio
import json
import math

import httpx2
import numpy as np
import pytest
from fastapi import Request

from service.api.console.events import Events
from service.api.console.look import Served, look
from service.errors import QuotaExceeded
from service.telemetry import Metrics
from service.telemetry.figures import snapshot, taken

TOY = Served(["one", "two"], {"default": "f00d"})


def counted():
    metrics = Metrics()
    metrics.rows.labels("toy", "hit").inc(5)
    metrics.rows.labels("toy", "miss").inc(3)
    metrics.rows.labels("other", "miss").inc(2)
    metrics.rows.labels("toy", "absent").inc(7)
    route = "/v1/ensembles/{ensemble}/soft-targets"
    for seconds in (0.004, 0.02, 120):
        metrics.of_requests(route, 200)(seconds)
    metrics.of_requests("/v1/events", 200)(0.004)
    metrics.batch_rows.labels("toy").observe(3)
    metrics.inference_duration.labels("toy", "one").observe(0.5)
    metrics.teacher_compared_rows.labels("toy", "one").inc(4)
    metrics.teacher_agreeing_rows.labels("toy", "one").inc(3)
    metrics.unsafe_probability.observe(np.array([0.125, 0.375]), "toy", "target")
    return snapshot(taken(metrics))


def test_a_look_is_what_was_counted():
    said = look(counted(), {"toy": TOY, "other": Served([], {})}, ["amiss"], now=12.5)
    assert (said["time"], said["degraded"]) == (12.5, ["amiss"])
    assert said["rows"] == {"hit": 5, "miss": 5}
    assert said["batches"] == {"count": 1, "rows": 3}
    edges, counts = said["latency"]["edges"], said["latency"]["counts"]
    assert len(counts) == len(edges) + 1  # one of them for what is beyond
    assert sum(counts) == 3  # listening is no request for rows
    assert counts[edges.index(0.005)] == counts[edges.index(0.025)] == counts[-1] == 1
    toy = said["ensembles"]["toy"]
    assert toy["recipes"] == {"default": "f00d"}
    assert toy["rows"] == {"hit": 5, "miss": 3}
    assert toy["teachers"]["one"] == {
        "calls": 1, "seconds": 0.5, "errors": 0, "invalid": 0, "compared": 4, "agreed": 3,
    }  # fmt: skip
    assert toy["teachers"]["two"]["calls"] == 0
    assert said["ensembles"]["other"]["rows"] == {"miss": 2}
    assert toy["entropy"] == {"edges": [], "counts": [0]}
    assert toy["unsafe"] == {"target": {"rows": 2, "sum": 0.5}, "teachers": {"rows": 0, "sum": 0}}
    json.dumps(said, allow_nan=False)


async def test_figures_are_taken_once_for_all_listeners_until_the_end():
    looks = []

    async def taken():
        looks.append(None)
        return {"time": len(looks)}

    events = Events(taken, every_s=math.inf)
    one, other = events.all(), events.all()
    assert (await anext(one)).raw_data == (await anext(other)).raw_data == '{"time":1}'
    waiting = asyncio.ensure_future(anext(one, None))
    await asyncio.sleep(0)
    events.end()
    assert await waiting is None
    assert await anext(other, None) is None


def test_there_are_only_so_many_listeners(client, monkeypatch):
    monkeypatch.setattr("service.api.console.events.MOST_LISTENERS", 0)
    reply = client.get("/v1/events")
    assert (reply.status_code, reply.json()["code"]) == (503, "queue_full")
    assert "retry-after" in reply.headers


async def test_a_key_has_some_of_the_places_and_not_all():
    events = Events(None)
    one, other = ({"type": "http", "state": {"key": key}} for key in ("one", "other"))
    taken = [events.seat(Request(one)) for _ in range(8)]
    for seat in taken:
        await anext(seat)
    with pytest.raises(QuotaExceeded, match="with the key 'one' already"):
        await anext(events.seat(Request(one)))
    await anext(events.seat(Request(other)))
    await taken[0].aclose()
    await anext(events.seat(Request(one)))


def looks(reply):
    """The documents of a stream of events."""
    for line in reply.iter_lines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))


def test_the_figures_move_with_what_is_asked_and_end_with_the_server(configured, start):
    config, key = configured
    server = start(config)
    headers = {"Authorization": f"Bearer {key}"}
    assert httpx2.get(f"{server.url}/v1/events").status_code == 401
    with httpx2.stream("GET", f"{server.url}/v1/events", headers=headers, timeout=60) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["cache-control"] == "no-cache"
        assert reply.headers["x-accel-buffering"] == "no"
        said = looks(reply)
        assert not any(next(said)["rows"].values())
        body = {"inputs": {"pixels": np.eye(6).tolist()}}
        asked = f"{server.url}/v1/ensembles/toy/soft-targets"
        for _ in range(2):
            httpx2.post(asked, json=body, headers=headers).raise_for_status()
        found = next(one for one in said if one["rows"].get("hit"))
        assert {source: rows for source, rows in found["rows"].items() if rows} == {"miss": 6, "hit": 6}
        assert found["batches"]["rows"] == 6
        assert sum(found["latency"]["counts"]) == 2
        assert sum(found["ensembles"]["toy"]["divergence"]["counts"]) > 0
        assert set(found["ensembles"]) == {"toy", "plain", "wide"}
        # It has longer to drain than anybody waits here.
        server.process.terminate()
        assert all(one["rows"] for one in said)
    assert server.process.wait(timeout=30) == 0
