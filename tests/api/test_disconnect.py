"""A client that hangs up: nobody goes on computing for it, and what runs is kept."""

import asyncio
import json
import threading

import pytest

from service.api.soft_targets import SoftTargets
from service.config import load
from service.engine.engine import Engine


@pytest.fixture
async def engine(toy):
    engine = Engine.open(load(toy.config))
    yield engine
    await engine.close()


def scope():
    return {
        "type": "http",
        "method": "POST",
        "path": "/v1/ensembles/toy/soft-targets",
        "path_params": {"ensemble": "toy"},
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }


def endpoint(engine, toy):
    return SoftTargets(engine, load(toy.config).limits)


async def test_a_client_that_leaves_stops_its_request(engine, toy):
    rows = toy.rows(160, seed=71)
    started, release, calls = threading.Event(), threading.Event(), []
    plan = engine.ensemble("toy").plans
    run = plan.run

    def slow(*arguments, **named):
        calls.append(1)
        started.set()
        release.wait(30)
        return run(*arguments, **named)

    plan.run = slow
    body = json.dumps({"inputs": {"pixels": rows.tolist()}}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if messages:
            return messages.pop(0)
        await asyncio.to_thread(started.wait, 30)
        return {"type": "http.disconnect"}

    sent = []

    async def send(message):
        sent.append(message)

    await endpoint(engine, toy)(scope(), receive, send)
    assert engine.batchers["toy"].queued == 0
    release.set()
    await engine.batchers["toy"].close()
    assert len(calls) <= 2  # of ten batches: those that ran when the client left
    assert not sent


async def test_a_client_that_leaves_in_its_upload_gets_no_answer(engine, toy):
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    async def send(message):
        raise AssertionError(message)

    await endpoint(engine, toy)(scope(), receive, send)
