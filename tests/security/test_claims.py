"""What others can do with a key, with digests and with the cache; and that SECURITY.md names its tests."""

import ast
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from redis_server import RedisServer
from security_server import configuration

from service.api.app import create_app
from service.auth import Scope, new_key, open_access
from service.cache.values import seal
from service.config import load
from service.engine.changes import Alone
from service.engine.engine import Engine
from soft_targets import wire

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "SECURITY.md").read_text()
ASK, ARROW = "/v1/ensembles/toy/soft-targets", {"Content-Type": wire.ARROW}
ROWS = {"x": np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)}


@pytest.fixture
def opened(tmp_path):
    """Two clients of an application, each with a key of its own; with the cache that is named."""
    clients = []

    def with_cache(cache="cache: {}\n"):
        keys = [new_key(tmp_path / "keys.jsonl", [Scope.TARGETS_READ])[0] for _ in range(2)]
        path = tmp_path / "toy.yaml"
        path.write_text(cache + configuration("", auth="auth: {keys_file: keys.jsonl}\n"))
        settings = load(path)
        engine = Engine.open(settings)
        app = create_app(engine, settings, open_access(settings.auth), Alone(engine, lambda: load(path)))
        client = TestClient(app)
        clients.append(client.__enter__())
        return client, engine, [{"X-API-Key": key} for key in keys]

    yield with_cache
    for client in clients:
        client.__exit__(None, None, None)


def asked(client, key, body):
    reply = client.post(ASK, content=body, headers=key | ARROW)
    assert reply.status_code == 200, reply.text
    table = pa.ipc.open_stream(reply.content).read_all()
    return table["source"].to_pylist(), table["log_probs"].to_pylist()


def whole(rows=ROWS):
    return wire.encode_request(rows, wire.default_row_ids(len(rows["x"])))


def by_digest(specs, rows=ROWS):
    return wire.encode_digests(wire.row_digests(rows, specs), wire.default_row_ids(len(rows["x"])))


def test_who_knows_a_digest_learns_whether_the_row_was_seen_and_its_target(opened):
    client, engine, (one, other) = opened()
    specs = engine.ensemble("toy").inputs
    assert asked(client, other, by_digest(specs)) == (["absent"] * 3, [None] * 3)
    _, targets = asked(client, one, whole())
    assert asked(client, other, by_digest(specs)) == (["hit"] * 3, targets)
    assert asked(client, other, whole())[0] == ["hit"] * 3  # and so does whoever has the row itself


def test_a_key_cannot_say_what_a_row_s_digest_is(opened):
    client, _, (one, _) = opened()
    digests = pa.array([bytes(32)] * 3, pa.binary(32))
    values = pa.FixedSizeListArray.from_arrays(pa.array(ROWS["x"].ravel()), 6)
    batch = pa.record_batch({"row_id": wire.default_row_ids(3), "digest": digests, "x": values})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    reply = client.post(ASK, content=sink.getvalue().to_pybytes(), headers=one | ARROW)
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_input")


@pytest.fixture
def redis(tmp_path):
    server = RedisServer(tmp_path).start()
    yield server
    server.stop()


def test_who_writes_into_redis_can_forge_targets(opened, redis):
    section = f"cache: {{url: '{redis.url}', l1_bytes: 0, call_timeout_ms: 2000}}\n"
    client, engine, (one, _) = opened(section)
    _, targets = asked(client, one, whole())
    client.portal.call(engine.cache.flush)
    with redis.client() as writer:
        keys = writer.keys("*")
        assert len(keys) == 3
        forged = np.log(np.array([0.97, 0.01, 0.01, 0.01])).astype("<f4").tobytes()
        for key in keys:
            writer.set(key, seal(key, forged))
    sources, now = asked(client, one, whole())
    assert sources == ["hit"] * 3
    assert now == [pytest.approx(np.frombuffer(forged, "<f4"))] * 3
    assert now != targets
    with redis.client() as writer:  # without the checksum, it is not believed
        for key in keys:
            writer.set(key, forged)
    assert asked(client, one, whole()) == (["miss"] * 3, targets)


def named():
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", DOCUMENT)


def test_every_test_that_the_document_names_exists():
    assert len(named()) > 30
    for path, name in named():
        tree = ast.parse((ROOT / path).read_text())
        functions = {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}
        assert name in functions, f"{path}::{name}"


def test_every_claim_of_the_document_names_a_test():
    claims = DOCUMENT.partition("## What holds")[2].partition("## What does not hold")[0]
    bullets = re.split(r"\n\* ", claims)[1:]
    assert len(bullets) > 15
    assert not [bullet for bullet in bullets if "::test_" not in bullet]
