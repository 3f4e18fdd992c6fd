"""Limits hold on every route that reads a body, whatever the request says of itself."""

import gzip
import json
import tracemalloc
import zlib

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from service.api.access import ACCESS
from service.api.app import create_app
from service.auth import Access
from service.config import load
from service.engine.changes import Alone
from service.engine.engine import Engine
from soft_targets import wire

MOST_BYTES, MOST_ROWS, DEEPEST = 65_536, 50, 20
CONFIG = f"""\
limits: {{max_body_bytes: {MOST_BYTES}, max_rows_per_request: {MOST_ROWS}, max_json_depth: {DEEPEST},
         max_decompressed_bytes: 262144, max_rows_in_flight: 100, max_bytes_in_flight: 2097152}}
ensembles:
  toy:
    classes: [ant, bee, cat, dog]
    teachers:
      - {{name: one, model: "fake://?classes=4&features=6", output: {{kind: logits}}}}
    recipes: {{default: {{operator: linear}}}}
"""
ASK, GUARANTEES, OPINIONS, INFER = (
    "POST /v1/ensembles/{ensemble}/soft-targets",
    "POST /v1/ensembles/{ensemble}/guarantees",
    "POST /v1/ensembles/{ensemble}/opinions",
    "POST /v2/models/{model}/infer",
)
VERSIONED = "POST /v2/models/{model}/versions/{version}/infer"
WITHOUT_BODY = {"POST /v1/ensembles/{ensemble}/reload"}
READ_A_BODY = [line for line in ACCESS if not line.startswith("GET") and line not in WITHOUT_BODY]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    path = tmp_path_factory.mktemp("bodies") / "toy.yaml"
    path.write_text(CONFIG)
    settings = load(path)
    engine = Engine.open(settings)
    app = create_app(engine, settings, Access(open=True), Alone(engine, lambda: load(path)))
    with TestClient(app, raise_server_exceptions=False) as client:
        client.engine = engine
        yield client


@pytest.fixture(autouse=True)
def everything_is_given_back(client):
    yield
    assert (client.engine.intake.rows, client.engine.intake.size) == (0, 0)


def send(client, line, content, headers=JSON):
    method, path = line.split(" ")
    version = client.get("/v2/models/toy").json()["versions"][0]
    path = path.format(ensemble="toy", recipe="mine", model="toy", version=version)
    return client.request(method, path, content=content, headers=headers)


def refused(reply, status, code):
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert set(reply.json()) == {"error", "code"}
    return reply.json()["error"]


def test_a_reload_reads_no_body(client):
    assert send(client, *WITHOUT_BODY, b"{" * 10).status_code == 200


@pytest.mark.parametrize("line", READ_A_BODY)
def test_a_body_that_says_it_is_too_long_is_refused(client, line):
    said = refused(send(client, line, b" " * (MOST_BYTES + 1)), 413, "too_large")
    assert f"has {MOST_BYTES + 1} bytes, at most {MOST_BYTES} are taken" in said


@pytest.mark.parametrize("line", READ_A_BODY)
def test_a_body_that_does_not_say_its_length_is_cut_at_the_limit(client, line):
    pieces = (b" " * 8192 for _ in range(MOST_BYTES // 8192 + 1))
    assert f"more than {MOST_BYTES} bytes" in refused(send(client, line, pieces), 413, "too_large")


@pytest.mark.parametrize("line", READ_A_BODY)
def test_a_body_that_nests_too_deep_is_refused_before_it_is_parsed(client, line):
    for deep in (b"[" * 60_000, b'{"a":' * 10_000, b'{"inputs": ' + b"[" * DEEPEST + b"]" * DEEPEST + b"}"):
        assert "limits.max_json_depth" in refused(send(client, line, deep), 400, "bad_input")


@pytest.mark.parametrize("line", READ_A_BODY)
@pytest.mark.parametrize(
    "content", [b"{", b"nonsense", b"\xff\xfe", b'{"a": 1e999999}', b"{}{}", b"[]", b"1", b'""']
)
def test_a_body_that_is_something_else_is_refused(client, line, content):
    refused(send(client, line, content), 400, "bad_input")


def infer_body(rows, shape=None):
    data = [0.0] * (6 * rows)
    tensor = {"name": "x", "datatype": "FP32", "shape": shape or [rows, 6], "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


def json_body(rows):
    return json.dumps({"inputs": {"x": [[0] * 6] * rows}}).encode()


ROWS = {ASK: json_body, GUARANTEES: json_body, OPINIONS: json_body, INFER: infer_body, VERSIONED: infer_body}


def test_whoever_reads_rows_is_among_these():
    assert set(ROWS) == {
        line for line in READ_A_BODY if line.endswith(("soft-targets", "guarantees", "opinions", "infer"))
    }


@pytest.mark.parametrize("line", ROWS)
def test_more_rows_than_a_request_may_have_are_refused(client, line):
    assert send(client, line, ROWS[line](MOST_ROWS)).status_code == 200
    assert str(MOST_ROWS) in refused(send(client, line, ROWS[line](MOST_ROWS + 1)), 413, "too_large")


@pytest.mark.parametrize("rows", [MOST_ROWS + 1, 1 << 31, (1 << 63) - 1, 1 << 64, 10**30])
def test_a_shape_is_only_believed_within_the_limits(client, rows):
    for line in (INFER, VERSIONED):
        reply = send(client, line, infer_body(1, [rows, 6]))
        assert reply.status_code in {400, 413}, reply.text
        assert set(reply.json()) == {"error", "code"}
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [rows, 6],
        "parameters": {"binary_data_size": rows * 24},
    }
    reply = send(client, INFER, json.dumps({"inputs": [tensor]}).encode())
    assert reply.status_code in {400, 413}, reply.text


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_what_inflates_beyond_the_limit_is_refused(client, compress):
    coding = {gzip.compress: "gzip", zlib.compress: "deflate"}[compress]
    bomb = compress(b" " * (1 << 24))
    assert len(bomb) < MOST_BYTES
    for line in (INFER, VERSIONED):
        said = refused(send(client, line, bomb, JSON | {"Content-Encoding": coding}), 413, "too_large")
        assert "max_decompressed_bytes" in said


@pytest.mark.parametrize("line", [line for line in READ_A_BODY if line not in (INFER, VERSIONED)])
def test_elsewhere_nothing_is_inflated(client, line):
    said = refused(
        send(client, line, gzip.compress(b"{}"), JSON | {"Content-Encoding": "gzip"}), 400, "bad_input"
    )
    assert "Content-Encoding 'gzip' is not read" in said


def test_arrow_that_inflates_beyond_the_limit_is_refused(client):
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(6 * 5, np.float32)), 6)
    batch = pa.record_batch({"x": values, "row_id": pa.array([f"{row}" * 100_000 for row in range(5)])})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_batch(batch)
    bomb = sink.getvalue().to_pybytes()
    assert len(bomb) < MOST_BYTES
    said = refused(send(client, ASK, bomb, {"Content-Type": wire.ARROW}), 413, "too_large")
    assert "more than 262144 bytes" in said


@pytest.mark.parametrize("line", [ASK, GUARANTEES, OPINIONS])
@pytest.mark.parametrize("row", ["1.5,1", "1", "[]", "[[1]]", '"a"'])
def test_of_rows_of_another_shape_nothing_is_looked_at_but_that(client, monkeypatch, line, row):
    def looked(*_):
        raise AssertionError("its numbers were looked at")

    monkeypatch.setattr("service.api.bodies._regular", looked)
    body = f'{{"inputs": {{"x": [[{",".join([row] * 5000)}]]}}}}'.encode()
    assert "it takes <f4 of shape [6]" in refused(send(client, line, body), 400, "bad_input")


def test_large_integers_beside_fractions_are_judged_together(client, monkeypatch):
    calls = []
    cast = wire.cast
    monkeypatch.setattr(
        "soft_targets.wire.cast", lambda *given, **named: calls.append(1) or cast(*given, **named)
    )
    rows = [[0.5, 3, (1 << 63) + (row << 45), 1 << 40, -(1 << 62), 1] for row in range(MOST_ROWS)]
    body = json.dumps({"inputs": {"x": rows}}).encode()
    assert send(client, ASK, body).status_code == 200
    assert len(calls) <= 3
    for odd in ((1 << 40) + 1, (1 << 63) + 1, (1 << 64) + 1, -(1 << 62) - 1, 10**400):
        rows = [[0.5, 3, 4, 5, 6, 1]] * 3 + [[0.5, 3, 4, odd, 6, 1]]
        said = refused(send(client, ASK, json.dumps({"inputs": {"x": rows}}).encode()), 400, "bad_input")
        assert "[3, 3]" in said or "object" in said
        assert "cannot be kept as <f4" in said or "is not a number" in said


def test_a_long_text_beside_short_ones_takes_what_it_is(client):
    """numpy would make every text as wide as the longest: here 50 rows of six, each 240,000 bytes."""
    rows = [["a"] * 6 for _ in range(MOST_ROWS)]
    rows[3][1] = "a" * 60_000
    tracemalloc.start()
    try:
        for line in (ASK, GUARANTEES, OPINIONS):
            said = refused(send(client, line, json.dumps({"inputs": {"x": rows}}).encode()), 400, "bad_input")
            assert "'a' at [0, 0] is not a number" in said
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 4 << 20
    rows = [[0.0] * 6, [0.0, "b" * 60_000, *[0.0] * 4]]
    said = refused(send(client, ASK, json.dumps({"inputs": {"x": rows}}).encode()), 400, "bad_input")
    assert len(said) < 300


@pytest.mark.parametrize(
    "line",
    [
        "PUT /v1/ensembles/{ensemble}/recipes/{recipe}",
        "POST /v2/repository/index",
        "POST /v2/repository/models/{model}/load",
    ],
)
def test_documents_are_small_whatever_bodies_may_be(client, monkeypatch, line):
    monkeypatch.setattr("service.api.bodies.MOST_DOCUMENT_BYTES", 1000)
    assert "at most 1000 are taken" in refused(send(client, line, b" " * 1001), 413, "too_large")
