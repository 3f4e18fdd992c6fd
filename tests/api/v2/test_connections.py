"""Inference on its connection: who hangs up or will not wait, what finds no room, how a reply is sent."""

import asyncio
import gzip
import threading

import httpx2
import numpy as np
import pytest
from inference import HEADER, outputs_of, request_of

from service.api.v2 import infer
from service.api.v2.infer import Infer
from service.api.v2.statistics import Statistics
from service.batching.intake import Load
from service.config import load
from service.engine.engine import Engine
from service.errors import RowsFailed, ServiceError, UnknownEnsemble

WIDE = 16_384
CONFIG = """\
limits: {max_rows_per_request: 128}
cache: {url: "memory://?max_bytes=64MiB"}
ensembles:
  wide:
    classes: {file: classes.txt}
    teachers:
      - {name: one, model: "fake://?classes=16384&features=4", output: {kind: logits}}
    batching: {max_rows: 128, in_flight: 1, threads: 1}
    recipes: {default: {operator: linear}}
  slow:
    classes: [a, b, c]
    teachers:
      - {name: one, model: "fake://?classes=3&features=4", output: {kind: logits}}
    batching: {max_rows: 8, in_flight: 1, threads: 1}
    recipes: {default: {operator: linear}}
"""


@pytest.fixture
async def engine(tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(WIDE))))
    (tmp_path / "c.yaml").write_text(CONFIG)
    engine = Engine.open(load(tmp_path / "c.yaml"))
    yield engine
    await engine.close()


class Call:
    """A request to the endpoint itself: what is sent to it, and what it sends.

    Args:
        body: of the request.
        headers: of it.
        model: that it asks.
    """

    def __init__(self, body, headers=(), model="slow"):
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": f"/v2/models/{model}/infer",
            "path_params": {"model": model},
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in dict(headers).items()],
        }
        self.messages = [{"type": "http.request", "body": body, "more_body": False}]
        self.gone = asyncio.Event()
        self.sent = []

    async def receive(self):
        if self.messages:
            return self.messages.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    async def made(self, engine, folder):
        endpoint = Infer(engine, load(folder / "c.yaml").limits, Statistics())
        await endpoint(self.scope, self.receive, self.send)

    @property
    def reply(self):
        start, *bodies = self.sent
        headers = [(name, value) for name, value in start["headers"] if name != b"content-encoding"]
        return httpx2.Response(
            start["status"], headers=headers, content=b"".join(one["body"] for one in bodies)
        )


class Held:
    """A plan that computes nothing before it is let go.

    Args:
        plans: of an ensemble.
    """

    def __init__(self, plans):
        self.started, self.released, self.calls, self.run = threading.Event(), threading.Event(), 0, plans.run
        plans.run = self

    def __call__(self, *arguments, **named):
        self.calls += 1
        self.started.set()
        assert self.released.wait(30)
        return self.run(*arguments, **named)


def rows(count, seed=0):
    return {"x": np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)}


async def test_one_who_hangs_up_is_answered_by_nobody(engine, tmp_path):
    held = Held(engine.ensemble("slow").plans)
    call = Call(*request_of(rows(40), ["x"]))
    asked = asyncio.create_task(call.made(engine, tmp_path))
    await asyncio.to_thread(held.started.wait, 30)
    call.gone.set()
    await asked
    assert engine.batchers["slow"].queued == 0
    assert (engine.intake.rows, engine.intake.size) == (0, 0)
    held.released.set()
    await engine.batchers["slow"].close()
    assert held.calls == 1  # of five batches: the one that ran
    assert not call.sent


async def test_one_who_hangs_up_within_the_body_is_answered_by_nobody(engine, tmp_path):
    call = Call(b"{")
    call.messages[0]["more_body"] = True
    call.gone.set()
    await call.made(engine, tmp_path)
    assert not call.sent
    assert engine.intake.size == 0


async def test_who_waits_no_longer_than_so_is_told(engine, tmp_path):
    held = Held(engine.ensemble("slow").plans)
    call = Call(*request_of(rows(40), ["x"], parameters={"timeout": 20_000}))
    with pytest.raises(RowsFailed) as caught:
        await call.made(engine, tmp_path)
    assert caught.value.row_code == "deadline_exceeded"
    assert "40 of 40 rows have no target" in str(caught.value)
    assert "row 0: not answered within the timeout of 0.02 s" in str(caught.value)
    assert engine.batchers["slow"].queued == 0
    held.released.set()


@pytest.mark.parametrize("timeout_us", [1, 10, 100, 1000])
async def test_a_timeout_that_is_over_at_once_is_not_lost(engine, tmp_path, timeout_us):
    held = Held(engine.ensemble("slow").plans)
    call = Call(*request_of(rows(40), ["x"], parameters={"timeout": timeout_us}))
    with pytest.raises(RowsFailed) as caught:
        await call.made(engine, tmp_path)
    assert caught.value.row_code == "deadline_exceeded"
    held.released.set()


async def test_one_who_is_gone_before_anything_is_asked_is_answered_by_nobody(engine, tmp_path):
    held = Held(engine.ensemble("slow").plans)
    call = Call(*request_of(rows(40), ["x"]))
    call.gone.set()
    await call.made(engine, tmp_path)
    assert not call.sent
    assert engine.batchers["slow"].queued == 0
    held.released.set()


async def test_a_timeout_that_is_not_reached_changes_nothing(engine, tmp_path):
    call = Call(*request_of(rows(3), ["x"], parameters={"timeout": 2**62}))
    await call.made(engine, tmp_path)
    assert outputs_of(call.reply)["log_probs"].shape == (3, 3)


async def test_a_long_reply_is_sent_in_pieces_and_counts_until_it_is_gone(engine, tmp_path):
    call = Call(*request_of(rows(100), ["x"], parameters={"binary_data_output": True}), model="wide")
    sizes, send = [], call.send

    async def counting(message):
        sizes.append(engine.intake.size)
        await send(message)

    call.send = counting
    await call.made(engine, tmp_path)
    start, *bodies = call.sent
    lengths = [len(message["body"]) for message in bodies]
    assert max(lengths) <= 4 << 20
    assert len(lengths) == 4  # of 100 rows of 16,384 numbers, twice
    assert [message.get("more_body", False) for message in bodies] == [True, True, True, False]
    assert dict(start["headers"])[b"content-length"] == str(sum(lengths)).encode()
    assert min(sizes) >= sum(lengths)
    assert engine.intake.size == 0
    found = outputs_of(call.reply)
    np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(
        found["probabilities"], np.exp(found["log_probs"].astype(float)).astype("<f4")
    )


BOUNDS = {"json": "LONG_JSON_BYTES", "bytes": "LONG_BODY_BYTES", "reply": "LONG_REPLY_BYTES"}


@pytest.mark.parametrize("how", ["json", "bytes", "reply", "compressed", "short"])
async def test_what_takes_long_leaves_the_event_loop(engine, tmp_path, monkeypatch, how):
    for name in BOUNDS.values():
        monkeypatch.setattr(infer, name, 1 if BOUNDS.get(how) == name else 1 << 30)
    asides, to_thread = [], asyncio.to_thread

    async def aside(call, *arguments, **named):
        asides.append(getattr(call, "func", call).__name__)
        return await to_thread(call, *arguments, **named)

    monkeypatch.setattr(asyncio, "to_thread", aside)
    body, headers = request_of(rows(3), ["x"])
    if how == "compressed":
        body, headers = (
            gzip.compress(body),
            {**headers, "Content-Encoding": "gzip", "Accept-Encoding": "gzip"},
        )
    call = Call(body, headers)
    await call.made(engine, tmp_path)
    assert call.sent[0]["status"] == 200
    expected = {"json": ["read"], "bytes": ["read"], "reply": ["_encode"], "short": []}
    assert asides == expected.get(how, ["next", "next", "_encode"])


async def test_an_ensemble_that_is_unloaded_finishes_what_it_was_asked(engine, tmp_path):
    held = Held(engine.ensemble("slow").plans)
    call = Call(*request_of(rows(20), ["x"]))
    asked = asyncio.create_task(call.made(engine, tmp_path))
    await asyncio.to_thread(held.started.wait, 30)
    await engine.unload("slow")
    with pytest.raises(UnknownEnsemble, match="no model 'slow'"):
        await Call(*request_of(rows(1), ["x"])).made(engine, tmp_path)
    with pytest.raises(UnknownEnsemble):
        await engine.unload("slow")
    held.released.set()
    await asked
    assert outputs_of(call.reply)["log_probs"].shape == (20, 3)


async def test_what_finds_no_room_is_told_so_at_once(engine, tmp_path):
    body, headers = request_of(rows(3), ["x"])
    intake = engine.intake
    for taken in ({"rows": intake.max_rows - 2}, {"size": intake.max_bytes - len(body) + 1}):
        with Load(intake) as others:
            others.add(**taken)
            with pytest.raises(ServiceError, match="too much is being answered") as caught:
                await Call(body, headers).made(engine, tmp_path)
        assert caught.value.code == "queue_full"
    await Call(body, headers).made(engine, tmp_path)


async def test_what_is_inflated_takes_room_too(engine, tmp_path):
    body, headers = gzip.compress(b" " * (1 << 20)), {"Content-Encoding": "gzip"}
    intake = engine.intake
    with Load(intake) as others:
        others.add(size=intake.max_bytes - (1 << 20))
        with pytest.raises(ServiceError) as caught:
            await Call(body, headers).made(engine, tmp_path)
    assert caught.value.code == "queue_full"
    assert intake.size == 0
    with pytest.raises(ServiceError, match="not JSON"):
        await Call(body, headers).made(engine, tmp_path)


async def test_the_size_of_a_reply_is_bounded_before_it_is_computed(engine, tmp_path):
    intake, held = engine.intake, Held(engine.ensemble("wide").plans)
    # As JSON a number takes eight times as much as in bytes: 128 rows of 2 x 16,384 find room in bytes alone.
    needed = 128 * WIDE * (4 + 2 * 32)
    with Load(intake) as others:
        others.add(size=intake.max_bytes - needed // 2)
        with pytest.raises(ServiceError) as caught:
            await Call(*request_of(rows(128), ["x"]), model="wide").made(engine, tmp_path)
        assert caught.value.code == "queue_full"
        assert not held.calls
        held.released.set()
        parameters = {"binary_data_output": True}
        call = Call(*request_of(rows(128), ["x"], parameters=parameters), model="wide")
        await call.made(engine, tmp_path)
        assert call.reply.headers[HEADER]
