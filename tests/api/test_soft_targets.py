"""The route: what is refused and how it is said, and what is answered all the same."""

import asyncio
import json
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from service.api import bodies, soft_targets
from service.api.app import create_app
from service.auth import open_access
from service.batching.intake import Load
from service.config import load
from service.engine.changes import Alone
from soft_targets import wire

URL = "/v1/ensembles/toy/soft-targets"
JSON = "application/json"
NDJSON = "application/x-ndjson"
ROW = [0.0] * 6


def refused(reply, status, code, *said):
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == JSON
    body = reply.json()
    assert set(body) == {"error", "code"}
    assert body["code"] == code
    for text in said:
        assert text in body["error"]


def test_a_body_that_inflates_is_read_aside_from_the_event_loop(client, monkeypatch):
    rows = np.zeros((64, 6), np.float32)
    batch = pa.record_batch({"pixels": pa.FixedShapeTensorArray.from_numpy_ndarray(rows)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    body, asides = sink.getvalue().to_pybytes(), []
    long = {wire.ARROW: rows.nbytes - 1}
    assert len(body) < rows.nbytes
    monkeypatch.setattr(soft_targets, "LONG_BODY_BYTES", long)
    to_thread = asyncio.to_thread

    async def aside(call, *arguments, **named):
        asides.append(call)
        return await to_thread(call, *arguments, **named)

    monkeypatch.setattr(asyncio, "to_thread", aside)
    reply = client.post(URL, content=body, headers={"Content-Type": wire.ARROW})
    assert reply.status_code == 200
    assert [call.func for call in asides if isinstance(call, partial)] == [bodies.read]
    asides.clear()
    long[wire.ARROW] += 1
    assert client.post(URL, content=body, headers={"Content-Type": wire.ARROW}).status_code == 200
    assert not [call for call in asides if isinstance(call, partial)]


def post_json(client, document, query=""):
    text = document if isinstance(document, str) else json.dumps(document)
    return client.post(URL + query, content=text, headers={"Content-Type": JSON})


def post_arrow(client, columns, query="", **headers):
    table = columns if isinstance(columns, pa.RecordBatch) else pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_batch(table)
    content = sink.getvalue().to_pybytes()
    return client.post(URL + query, content=content, headers={"Content-Type": wire.ARROW, **headers})


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", ["not JSON"]),
        ("", ["not JSON"]),
        ("[" * 101, ["nests deeper than 100", "limits.max_json_depth"]),
        ("[]", ["must be an object"]),
        ("null", ["must be an object"]),
        ({}, ["must be an object"]),
        ({"inputs": []}, ["must be an object"]),
        ({"inputs": {}}, ["missing: pixels", "takes pixels"]),
        ({"inputs": {"pixel": [ROW]}}, ["missing: pixels", "unknown: pixel"]),
        ({"inputs": {"pixels": [ROW], "extra": [1]}}, ["unknown: extra"]),
        ({"inputs": {"pixels": [ROW]}, "rows": 1}, ["unknown keys", "rows"]),
        ({"inputs": {"pixels": 1}}, ["'pixels' must be a list of rows"]),
        ({"inputs": {"pixels": "abc"}}, ["'pixels' must be a list of rows"]),
        ({"inputs": {"pixels": [ROW, ROW[:5]]}}, ["row 1 has shape [5]", "shape [6]"]),
        ({"inputs": {"pixels": [ROW, [[0], 1]]}}, ["row 1 has shape [2, 1]", "shape [6]"]),
        ({"inputs": {"pixels": [ROW, [*ROW[:5], [0.0]]]}}, ["row 1 is ragged", "shape [6]"]),
        ({"inputs": {"pixels": [ROW[:5]]}}, ["shape [5]", "shape [6]"]),
        ({"inputs": {"pixels": [[ROW]]}}, ["shape [1, 6]", "shape [6]"]),
        ({"inputs": {"pixels": [1, 2]}}, ["shape []"]),
        ({"inputs": {"pixels": [[0, 0, 0, None, 0, 0]]}}, ["None at [0, 3] is not a number"]),
        ({"inputs": {"pixels": [[0, 0, 0, "x", 0, 0]]}}, ["'x'", "is not a number"]),
        ({"inputs": {"pixels": [[True] * 6]}}, ["bool cannot become <f4"]),
        ({"inputs": {"pixels": [[True, 0.5, 0, 0, 0, 0]]}}, ["true and false among numbers"]),
        ({"inputs": {"pixels": [[2**24 + 1, 0.5, 0, 0, 0, 0]]}}, ["16777217", "cannot be kept as <f4"]),
        ({"inputs": {"pixels": ROW}}, ["one row is a list of one"]),
        ({"inputs": {"pixels": [[1e39, *ROW[1:]]]}}, ["1e+39 at [0, 0] cannot be kept as <f4"]),
        ({"inputs": {"pixels": [[2**24 + 1] + [0] * 5]}}, ["16777217 at [0, 0] cannot be kept as <f4"]),
        ({"inputs": {"pixels": [[2**70] + [0] * 5]}}, ["'pixels'"]),
        ({"inputs": {"pixels": [{"a": 1}]}}, ["'pixels'"]),
        ({"inputs": {"pixels": [ROW]}, "row_ids": [1, 2]}, ["row_ids must be a list of 1 ids"]),
        ({"inputs": {"pixels": [ROW]}, "row_ids": "a"}, ["row_ids must be a list"]),
        ({"inputs": {"pixels": [ROW] * 2}, "row_ids": ["a", "a"]}, ["must be unique", "'a'"]),
        ({"inputs": {"pixels": [ROW] * 2}, "row_ids": ["a", 1]}, ["row ids must be"]),
        ({"inputs": {"pixels": [ROW]}, "row_ids": [-1]}, ["row ids must be"]),
        ({"inputs": {"pixels": [ROW]}, "row_ids": [1.5]}, ["row ids must be"]),
        ({"inputs": {"pixels": [ROW]}, "row_ids": [None]}, ["row ids must be"]),
        ({"inputs": {"pixels": [ROW]}, "row_ids": [{}]}, ["row ids must be"]),
    ],
)
def test_json_that_cannot_be_answered(client, document, said):
    refused(post_json(client, document), 400, "bad_input", *said)


def test_an_empty_batch(client):
    refused(post_json(client, {"inputs": {"pixels": []}}), 400, "empty_batch", "no rows")
    refused(post_arrow(client, {"pixels": pa.array([], pa.list_(pa.float32(), 6))}), 400, "empty_batch")


def flat(values, width=6):
    return pa.FixedSizeListArray.from_arrays(pa.array(values), width)


def tensor(values, width=6):
    kind = pa.fixed_shape_tensor(pa.float32(), [width])
    return pa.ExtensionArray.from_storage(kind, flat(pa.array(values, pa.float32()), width))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"pixel": flat(np.zeros(6, np.float32))}, ["missing: pixels", "unknown: pixel"]),
        ({"pixels": flat(np.zeros(5, np.float32), 5)}, ["shape [5]", "shape [6]"]),
        ({"pixels": pa.array([0.0])}, ["shape []"]),
        ({"pixels": pa.array([[0.0] * 6])}, ["a column of type list"]),
        ({"pixels": pa.array(["a"])}, ["a column of type string", "<f4 of shape [6]"]),
        ({"pixels": flat([0.0, None, 0, 0, 0, 0])}, ["holds null"]),
        ({"pixels": pa.array([None], pa.list_(pa.float32(), 6))}, ["holds null"]),
        ({"pixels": tensor([0.0, None, 0, 0, 0, 0])}, ["holds null"]),
        ({"pixels": flat(np.zeros(6, bool))}, ["bool cannot become <f4"]),
        ({"pixels": flat(np.zeros(6)), "row_id": pa.array([None], pa.uint64())}, ["row ids"]),
        ({"pixels": flat(np.zeros(6)), "row_id": pa.array([-1])}, ["row ids"]),
        ({"pixels": flat(np.zeros(12)), "row_id": pa.array([7, 7])}, ["must be unique", "7"]),
    ],
)
def test_arrow_that_cannot_be_answered(client, columns, said):
    refused(post_arrow(client, columns), 400, "bad_input", *said)


def test_a_column_that_stands_twice(client):
    column = flat(np.zeros(6, np.float32))
    batch = pa.RecordBatch.from_arrays([column, column], ["pixels", "pixels"])
    refused(post_arrow(client, batch), 400, "bad_input", "a column stands twice")


@pytest.mark.parametrize("body", [b"", b"no arrow", b"\xff" * 100])
def test_broken_arrow(client, body):
    reply = client.post(URL, content=body, headers={"Content-Type": wire.ARROW})
    refused(reply, 400, "bad_input", "not a readable Arrow IPC stream")


def test_a_cut_arrow_body(client):
    body = wire.encode_request({"pixels": np.zeros((3, 6), np.float32)}, wire.default_row_ids(3))
    reply = client.post(URL, content=body[: len(body) // 2], headers={"Content-Type": wire.ARROW})
    refused(reply, 400, "bad_input", "not a readable Arrow IPC stream")


@pytest.mark.parametrize(
    ("query", "status", "code", "said"),
    [
        ("?recipe=none", 404, "unknown_recipe", "no recipe 'none'"),
        ("?temprature=2", 400, "bad_query", "did you mean 'temperature'"),
        ("?dtype=float64", 400, "bad_query", "dtype='float64': give float32 or float16"),
        ("?dtype=", 400, "bad_query", "give float32 or float16"),
        ("?temperature=0.05", 400, "bad_query", "from 0.1 to 100"),
        ("?temperature=nan", 400, "bad_query", "from 0.1 to 100"),
        ("?temperature=hot", 400, "bad_query", "from 0.1 to 100"),
        ("?temperature=1_0", 400, "bad_query", "from 0.1 to 100"),
        ("?temperature=+2", 400, "bad_query", "from 0.1 to 100"),
        ("?temperature=2%0A", 400, "bad_query", "from 0.1 to 100"),
        ("?temperature=%D9%A2", 400, "bad_query", "from 0.1 to 100"),
        ("?temperature=infinity", 400, "bad_query", "from 0.1 to 100"),
        ("?weights=logits:1_0", 400, "bad_weights", "teacher:weight"),
        ("?weights=logits:%201", 400, "bad_weights", "teacher:weight"),
        ("?weights=logits:1e999", 400, "bad_weights", "teacher:weight"),
        ("?temperature=2&temperature=2", 400, "bad_query", "stands twice"),
        ("?temperature=2&recipe=cooled", 400, "bad_query", "temperature 1 only"),
        ("?top_k=0", 400, "bad_query", "from 1 to"),
        ("?top_k=5", 400, "bad_query", "has 4 classes"),
        ("?top_k=1e3", 400, "bad_query", "whole number"),
        ("?top_k=99999999999999999999", 400, "bad_query", "whole number"),
        ("?order=random", 400, "bad_query", "input or arrival"),
        ("?weights=", 400, "bad_weights", "teacher:weight"),
        ("?weights=logits:1,logits:1", 400, "bad_weights", "each teacher once"),
        ("?weights=logits:-1", 400, "bad_weights", "not negative"),
        ("?weights=logits:0", 400, "bad_weights", "at least one weight must be positive"),
        ("?weights=cnn:1", 400, "bad_weights", "unknown teacher 'cnn'"),
        ("?recipe", 400, "bad_query", "cannot be read"),
    ],
)
def test_queries_that_cannot_be_answered(client, query, status, code, said):
    refused(post_json(client, {"inputs": {"pixels": [ROW]}}, query), status, code, said)


def test_unknown_places_and_methods(client):
    body = {"inputs": {"pixels": [ROW]}}
    refused(
        client.post("/v1/ensembles/tyo/soft-targets", json=body),
        404,
        "unknown_ensemble",
        "did you mean 'toy'",
    )
    refused(client.get("/v1/ensembles/tyo"), 404, "unknown_ensemble", "did you mean 'toy'")
    refused(client.get("/v1/nothing"), 404, "not_found", "/v1/nothing")
    refused(client.get(URL), 405, "method_not_allowed", "GET")
    refused(client.delete("/v1/ensembles"), 405, "method_not_allowed", "DELETE")


@pytest.mark.parametrize("number", ["2", "2.", "2.0", "20e-1", "0.2E%2B1", ".2e1"])
def test_a_number_in_a_query_is_written_as_in_json_or_c(client, number):
    reply = post_json(client, {"inputs": {"pixels": [ROW]}}, f"?temperature={number}")
    assert reply.json()["temperature"] == 2


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_of_another_type(client, content_type):
    reply = client.post(URL, content=b"x", headers={"Content-Type": content_type})
    refused(reply, 415, "unsupported_media_type", JSON, wire.ARROW)


def test_an_encoded_body_is_refused(client):
    headers = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    refused(client.post(URL, content=b"x", headers=headers), 400, "bad_input", "'gzip'")


@pytest.mark.parametrize(
    ("accept", "served"),
    [
        ("", wire.ARROW),
        ("*/*", wire.ARROW),
        ("application/*", wire.ARROW),
        (JSON, JSON),
        (f"{JSON};q=0.5, {wire.ARROW};q=0.4", JSON),
        (f"text/html, {JSON};q=0.1", JSON),
        (f"{wire.ARROW};q=0, */*", JSON),
        ("text/html", None),
        (NDJSON, NDJSON),
        (f"{NDJSON};q=0.9, {JSON};q=0.8", NDJSON),
        (f"{NDJSON}, {JSON}", JSON),
        (f'{NDJSON}; codecs="zstd"', NDJSON),
        (f"{JSON};q=0, {wire.ARROW};q=0", None),
        (f"{wire.ARROW};q=nan", None),
        (f"{wire.ARROW};q=2", None),
        (f"{wire.ARROW};q=x", None),
        (f'{wire.ARROW}; codecs="zstd, lz4"', f'{wire.ARROW}; codecs="zstd"'),
        (f'{wire.ARROW}; codecs="snappy , LZ4, zstd"', f'{wire.ARROW}; codecs="lz4"'),
        (f"{wire.ARROW};codecs=zstd;q=0.5, {JSON};q=0.4", f'{wire.ARROW}; codecs="zstd"'),
        (f'{JSON};q=0.4, {wire.ARROW}; codecs="zstd, lz4" ;q=0.5', f'{wire.ARROW}; codecs="zstd"'),
        (f"{wire.ARROW};codecs=zstd;q=0.5, {wire.ARROW};codecs=lz4", f'{wire.ARROW}; codecs="lz4"'),
        (f'{wire.ARROW}; codecs="brotli"', wire.ARROW),
        (f'{wire.ARROW}; codecs=""', wire.ARROW),
        (f'{wire.ARROW}; codecs="zstd', f'{wire.ARROW}; codecs="zstd"'),
        (f'{wire.ARROW};codecs="zstd";q=0, */*', JSON),
        ('*/*; codecs="zstd"', wire.ARROW),
        (f'{JSON}; codecs="zstd"', JSON),
        ("," * 50 + '"' * 51, None),
    ],
)
def test_the_reply_is_of_the_type_the_client_accepts(client, accept, served):
    reply = post_arrow(client, {"pixels": flat(np.zeros(6, np.float32))}, Accept=accept)
    if served is None:
        refused(reply, 406, "not_acceptable", JSON, wire.ARROW, NDJSON)
    else:
        assert (reply.status_code, reply.headers["content-type"]) == (200, served)


def test_a_json_body_is_answered_in_json_unless_arrow_is_accepted(client):
    reply = post_json(client, {"inputs": {"pixels": [ROW]}})
    assert reply.headers["content-type"] == JSON
    body = json.dumps({"inputs": {"pixels": [ROW]}, "row_ids": ["x"]})
    reply = client.post(
        URL, content=body, headers={"Content-Type": JSON + "; charset=utf-8", "Accept": wire.ARROW}
    )
    _, batches = wire.read_reply(reply.content)
    assert next(batches).row_ids.to_pylist() == ["x"]


def test_too_much(client):
    rows = {"inputs": {"pixels": [ROW] * 301}}
    refused(post_json(client, rows), 413, "too_large", "301 rows", "at most 300")
    refused(post_arrow(client, {"pixels": flat(np.zeros(6 * 301, np.float32))}), 413, "too_large", "300 rows")
    refused(post_json(client, " " * (1 << 20) + "{}"), 413, "too_large", "1048576")

    def chunks():
        for _ in range(1025):
            yield b" " * 1024

    reply = client.post(URL, content=chunks(), headers={"Content-Type": JSON})
    refused(reply, 413, "too_large", "more than 1048576 bytes")


def test_what_finds_no_room_is_sent_away_at_once_and_told_when_to_come_again(client, opened):
    rows = {"inputs": {"pixels": [ROW]}}
    with Load(opened.intake) as load:
        load.add(rows=opened.intake.max_rows)
        reply = post_json(client, rows)
        refused(reply, 503, "queue_full", "ask again")
        assert reply.headers["retry-after"] == "1"
        load.add(size=opened.intake.max_bytes)
        reply = client.post(URL, content=iter([b" " * 100]), headers={"Content-Type": JSON})
        refused(reply, 503, "queue_full", "ask again")
    assert post_json(client, rows).status_code == 200
    assert (opened.intake.rows, opened.intake.size) == (0, 0)


def test_rows_asked_for_by_digest_are_answered_or_absent(client, toy):
    rows = toy.rows(3, seed=277)
    spec = {"pixels": wire.TensorSpec("<f4", (6,))}
    digests = wire.row_digests({"pixels": rows}, spec)
    sent = client.post(
        URL,
        content=wire.encode_request({"pixels": rows[:2]}, wire.default_row_ids(2)),
        headers={"Content-Type": wire.ARROW},
    )
    asked = wire.encode_digests(digests, wire.row_id_array(["a", "b", "c"]))
    reply = client.post(URL, content=asked, headers={"Content-Type": wire.ARROW})
    _, batches = wire.read_reply(reply.content)
    *groups, closing = batches
    assert closing == wire.Closing(3, 0)
    assert [row for group in groups for row in group.row_ids.to_pylist()] == ["a", "b", "c"]
    assert [source for group in groups for source in group.sources] == ["hit", "hit", "absent"]
    _, (first, _) = wire.read_reply(sent.content)
    found = np.concatenate([group.log_probs for group in groups])
    assert (found[:2] == first.log_probs).all()
    as_json = client.post(URL, content=asked, headers={"Content-Type": wire.ARROW, "Accept": JSON}).json()
    assert as_json["targets"][2] == {"row_id": "c", "source": "absent"}


def test_a_small_body_that_inflates_beyond_the_limit(client):
    size, claimed = 1 << 20, 300 << 20
    columns = {"pixels": flat(np.zeros(6, np.float32)), "row_id": pa.array(["x" * size])}
    sink, batch = pa.BufferOutputStream(), pa.record_batch(columns)
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    body = sink.getvalue().to_pybytes()
    # A compressed buffer begins with what it inflates to: nobody needs to make so much to claim it.
    place = body.rindex(size.to_bytes(8, "little"))
    body = body[:place] + claimed.to_bytes(8, "little") + body[place + 8 :]
    assert len(body) < 1 << 14
    reply = client.post(URL, content=body, headers={"Content-Type": wire.ARROW})
    refused(reply, 413, "too_large", f"more than {256 << 20} bytes")


def test_what_a_body_may_inflate_to_is_set(toy, opened):
    path = toy.folder / "narrow.yaml"
    path.write_text(
        toy.config.read_text().replace("max_body_bytes", "max_decompressed_bytes: 1000, max_body_bytes")
    )
    settings = load(path)
    app = create_app(opened, settings, open_access(settings.auth), Alone(opened, lambda: settings))
    client = TestClient(app)  # its lifespan is another's
    rows = np.zeros((64, 6), np.float32)
    batch = pa.record_batch({"pixels": pa.FixedShapeTensorArray.from_numpy_ndarray(rows)})
    for rows, status in ((batch[:40], 200), (batch, 413)):
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
            writer.write_batch(rows)
        content = sink.getvalue().to_pybytes()
        reply = client.post(URL, content=content, headers={"Content-Type": wire.ARROW})
        assert reply.status_code == status
    refused(reply, 413, "too_large", "more than 1000 bytes of rows")


def test_nan_rows_are_error_rows_and_the_others_are_answered(client, toy):
    rows = toy.rows(4, seed=31)
    rows[2, 3] = np.nan
    reply = post_arrow(client, {"pixels": flat(rows.reshape(-1))})
    *groups, closing = list(wire.read_reply(reply.content)[1])
    assert closing == wire.Closing(4, 1)
    errors = [error for group in groups for error in group.errors]
    assert [error and error[0] for error in errors] == [None, None, "non_finite_input", None]
    document = json.dumps({"inputs": {"pixels": rows.tolist()}, "row_ids": list("abcd")})
    targets = post_json(client, document).json()["targets"]
    assert [target["row_id"] for target in targets] == list("abcd")
    assert [target["source"] for target in targets] == ["hit", "hit", "error", "hit"]
    assert targets[2]["error_code"] == "non_finite_input"
    assert "probabilities" not in targets[2]
    expected = toy.reference(rows, operator="holder", temperature=4.0)
    for row in (0, 1, 3):
        given = list(targets[row]["probabilities"].values())
        np.testing.assert_allclose(given, expected[row], atol=1e-5)


def test_a_request_whose_rows_all_fail_is_still_answered(client):
    reply = post_arrow(client, {"pixels": flat(np.full(12, np.inf, np.float32))})
    assert reply.status_code == 200
    *_, closing = list(wire.read_reply(reply.content)[1])
    assert closing == wire.Closing(2, 2)


@pytest.mark.parametrize(
    "column",
    [
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((2, 6), np.float32)),
        flat(np.zeros(12, np.float64)),
        flat(np.zeros(12, np.float16)),
        flat(np.zeros(12, np.int8)),
        flat(np.zeros(18, np.float32))[1:],
    ],
    ids=["tensor", "float64", "float16", "int8", "slice"],
)
def test_columns_that_say_the_same_are_the_same_row(client, column):
    post_json(client, {"inputs": {"pixels": [ROW]}})
    reply = post_arrow(client, {"pixels": column})
    batch = next(wire.read_reply(reply.content)[1])
    assert batch.sources == ["hit", "hit"]


def test_every_integer_type_of_row_id_is_echoed_as_uint64(client):
    for dtype in (pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.uint64()):
        columns = {"pixels": flat(np.zeros(12, np.float32)), "row_id": pa.array([9, 3], dtype)}
        batch = next(wire.read_reply(post_arrow(client, columns).content)[1])
        assert (batch.row_ids.type, batch.row_ids.to_pylist()) == (pa.uint64(), [9, 3])


def test_metadata_names_what_was_answered(client):
    reply = post_arrow(client, {"pixels": flat(np.zeros(6, np.float32))}, "?temperature=3")
    metadata, _ = wire.read_reply(reply.content)
    info = client.get("/v1/ensembles/toy").json()
    assert metadata.keys() == {
        "format", "ensemble", "recipe", "fingerprint", "temperature", "operator", "certificate",
        "violations", "classes_digest",
    }  # fmt: skip
    assert (metadata["format"], metadata["ensemble"], metadata["recipe"]) == ("1", "toy", "default")
    assert metadata["temperature"] == "3.0"
    assert json.loads(metadata["operator"]) == {"name": "holder", "exponent": 0.5}
    assert metadata["fingerprint"] != info["recipes"]["default"]["fingerprint"]
    assert len(metadata["classes_digest"]) == 64


@pytest.mark.parametrize("query", ["", "&top_k=2"])
def test_half_precision_is_asked_for_and_is_another_fingerprint(client, toy, query):
    rows = toy.rows(5, seed=55)
    columns = {"pixels": flat(rows.reshape(-1))}
    known, found = (
        next(wire.read_reply(post_arrow(client, columns, f"?dtype={dtype}{query}").content)[1])
        for dtype in wire.PRECISIONS
    )
    assert (found.log_probs.dtype, known.log_probs.dtype) == (np.float16, np.float32)
    np.testing.assert_array_equal(found.log_probs, known.log_probs.astype(np.float16))
    if query:
        np.testing.assert_array_equal(found.indices, known.indices)
        np.testing.assert_array_equal(found.tail_log_mass, known.tail_log_mass)
        assert found.tail_log_mass.dtype == np.float32
    again = next(wire.read_reply(post_arrow(client, columns, f"?dtype=float16{query}").content)[1])
    assert again.sources == ["hit"] * 5
    assert again.log_probs.tobytes() == found.log_probs.tobytes()
    said = [
        wire.read_reply(post_arrow(client, columns, f"?{asked}{query}").content)[0]["fingerprint"]
        for asked in ("dtype=float16", "dtype=float32", "recipe=default")
    ]
    assert said[0] != said[1] == said[2]
    document = {"inputs": {"pixels": rows.tolist()}}
    targets = post_json(client, document, f"?dtype=float16{query}").json()["targets"]
    for target, log_probs in zip(targets, found.log_probs, strict=True):
        rounded = np.exp(log_probs.astype(np.float64))
        assert list(target["probabilities"].values()) == rounded.tolist()


def test_record_batches_stay_within_four_mebibytes():
    layout = wire.Layout(100_000)
    writer = wire.ReplyWriter(layout, row_id_type=pa.uint64(), metadata={"format": "1"})
    value = bytes(layout.row_bytes)
    pieces = list(writer.group(wire.default_row_ids(25), ["miss"] * 25, [value] * 25, [None] * 25))
    assert len(pieces) == 3
    assert all(len(piece) <= wire.MAX_BATCH_BYTES + 2048 for piece in pieces)
