"""What a reply can hold, and in which forms: the same rows in each of them."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.api.replies import JsonWriter
from service.auth import open_access
from service.config import load
from service.engine.changes import Alone
from service.engine.engine import Engine
from soft_targets import wire

URL = "/v1/ensembles/toy/soft-targets"
JSON = "application/json"
NDJSON = "application/x-ndjson"
MARKS = {"zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18"}  # what each one's frames begin with
LINE = "      linear: {operator: linear, temperature: 2.0}\n"


@pytest.fixture(scope="module")
def client(toy):
    path = toy.folder / "formats.yaml"
    text = toy.config.read_text()
    assert LINE in text
    path.write_text(
        text.replace(LINE, LINE + "      told: {operator: linear, temperature: 2.0, diagnostics: true}\n")
    )
    settings = load(path)
    engine = Engine.open(settings)
    app = create_app(engine, settings, open_access(settings.auth), Alone(engine, lambda: load(path)))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def in_arrow(client, rows, query="", **headers):
    content = wire.encode_request({"pixels": rows}, wire.default_row_ids(len(rows)))
    return client.post(URL + query, content=content, headers={"Content-Type": wire.ARROW, **headers})


def batches_of(reply):
    assert reply.status_code == 200, reply.text
    *groups, closing = wire.read_reply(reply.content)[1]
    return groups, closing


def in_json(client, rows, query=""):
    document = json.dumps({"inputs": {"pixels": rows.tolist()}})
    reply = client.post(URL + query, content=document, headers={"Content-Type": JSON})
    assert reply.status_code == 200, reply.text
    return reply.json()["targets"]


def entropy(p):
    return -(p * np.log(p)).sum(axis=-1)


@pytest.mark.parametrize("more", ["", "&top_k=2", "&dtype=float16", "&top_k=3&dtype=float16"])
def test_diagnostics_come_beside_the_target(client, toy, more):
    rows = toy.rows(6, seed=11)
    rows[2, 0] = np.nan
    groups, closing = batches_of(in_arrow(client, rows, "?recipe=told" + more))
    assert closing == wire.Closing(6, 1)
    good = np.arange(6) != 2
    p = np.exp(toy.opinions(rows[good]) / 2.0)
    p /= p.sum(axis=-1, keepdims=True)
    w = np.array([0.5, 0.3, 0.2])
    mixture = np.einsum("k,kbc->bc", w, p)
    expected = {"entropy": entropy(mixture), "divergence": entropy(mixture) - w @ entropy(p)}
    targets = in_json(client, rows, "?recipe=told" + more)
    for name, values in expected.items():
        found = np.concatenate([getattr(group, name) for group in groups])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[good], values, rtol=1e-5, atol=1e-6)
        assert [target.get(name) for target in targets if "error" not in target] == found[good].tolist()
    assert set(targets[2]) == {"row_id", "source", "error_code", "error"}
    # As they are kept, too.
    again, _ = batches_of(in_arrow(client, rows, "?recipe=told" + more))
    assert [source for group in again for source in group.sources] == ["hit"] * 2 + ["error"] + ["hit"] * 3
    for name in wire.DIAGNOSTICS:
        one, other = (
            np.concatenate([getattr(group, name) for group in found])[good] for found in (groups, again)
        )
        np.testing.assert_array_equal(one, other)


def test_where_diagnostics_are_not_asked_for_there_are_none(client, toy):
    rows = toy.rows(2, seed=12)
    reply = in_arrow(client, rows, "?recipe=linear")
    assert not set(wire.DIAGNOSTICS) & set(pa.ipc.open_stream(reply.content).schema.names)
    assert {group.entropy for group in batches_of(reply)[0]} == {None}
    assert all(not set(wire.DIAGNOSTICS) & set(target) for target in in_json(client, rows, "?recipe=linear"))
    recipes = client.get("/v1/ensembles/toy").json()["recipes"]
    assert [recipes[name]["diagnostics"] for name in ("linear", "told")] == [False, True]


def test_absent_rows_have_no_diagnostics(client, toy):
    rows = toy.rows(3, seed=13)
    in_arrow(client, rows[:1], "?recipe=told")
    digests = wire.row_digests({"pixels": rows}, {"pixels": wire.TensorSpec("<f4", (6,))})
    content = wire.encode_digests(digests, wire.default_row_ids(3))
    reply = client.post(URL + "?recipe=told", content=content, headers={"Content-Type": wire.ARROW})
    table = pa.Table.from_batches(list(pa.ipc.open_stream(reply.content)))
    assert table["source"].to_pylist() == ["hit", "absent", "absent"]
    for name in wire.DIAGNOSTICS:
        assert [value is None for value in table[name].to_pylist()] == [False, True, True]


@pytest.mark.parametrize("codec", wire.CODECS)
@pytest.mark.parametrize("order", ["input", "arrival"])
def test_a_reply_is_compressed_as_the_client_accepts(client, toy, codec, order):
    rows = toy.rows(100, seed=14)
    rows[50, 0] = np.nan
    plain, closing = batches_of(in_arrow(client, rows, "?top_k=2"))
    reply = in_arrow(client, rows, f"?top_k=2&order={order}", Accept=f'{wire.ARROW};codecs="{codec}"')
    assert reply.headers["content-type"] == f'{wire.ARROW}; codecs="{codec}"'
    found, closed = batches_of(reply)
    assert closed == closing == wire.Closing(100, 1)
    targets = []
    for said in (plain, found):
        ids, log_probs = (
            np.concatenate([getattr(group, name) for group in said]) for name in ("row_ids", "log_probs")
        )
        targets.append(log_probs[np.argsort(ids)][np.arange(100) != 50])
    np.testing.assert_array_equal(*targets)
    assert [name for name, mark in MARKS.items() if mark in reply.content] == [codec]


def lines_of(reply):
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == NDJSON
    assert reply.content.endswith(b"\n")
    return [json.loads(line) for line in reply.content.splitlines()]


@pytest.mark.parametrize("query", ["", "?recipe=told&top_k=2&dtype=float16", "?weights=probs:1"])
@pytest.mark.parametrize("row_ids", [None, list("abcdef")])
def test_lines_say_what_the_document_says(client, toy, query, row_ids):
    rows = toy.rows(6, seed=15)
    rows[4, 1] = np.inf
    document = {"inputs": {"pixels": rows.tolist()}}
    document |= {} if row_ids is None else {"row_ids": row_ids}
    body, headers = json.dumps(document), {"Content-Type": JSON}
    client.post(URL + query, content=body, headers=headers)
    whole = client.post(URL + query, content=body, headers=headers).json()
    reply = client.post(URL + query, content=body, headers=headers | {"Accept": NDJSON})
    first, *targets, last = lines_of(reply)
    assert targets == whole.pop("targets")
    assert first == {"format": "1", **whole}
    assert last == {"rows": 6, "failed": 1, "complete": True}
    assert [target["row_id"] for target in targets] == (row_ids or list(range(6)))


def test_lines_answer_arrow_and_come_as_rows_are_finished(client, toy):
    rows = toy.rows(40, seed=16)
    rows[0, 0] = np.nan
    in_arrow(client, rows[30:])
    reply = in_arrow(client, rows, "?order=arrival", Accept=NDJSON)
    assert "content-length" not in reply.headers
    _, *targets, last = lines_of(reply)
    assert last == {"rows": 40, "failed": 1, "complete": True}
    order = [target["row_id"] for target in targets]
    assert sorted(order) == list(range(40))
    assert order[:11] == [*range(30, 40), 0]  # those that are kept, the one that cannot be asked, the others
    by_row = {target["row_id"]: target["probabilities"] for target in targets if "error" not in target}
    found = np.array([list(by_row[row].values()) for row in range(1, 40)])
    np.testing.assert_allclose(found, toy.reference(rows[1:], operator="holder", temperature=4.0), atol=1e-5)


def test_rows_that_are_absent_are_lines_too(client, toy):
    rows = toy.rows(2, seed=17)
    in_arrow(client, rows[:1])
    digests = wire.row_digests({"pixels": rows}, {"pixels": wire.TensorSpec("<f4", (6,))})
    content = wire.encode_digests(digests, wire.default_row_ids(2))
    headers = {"Content-Type": wire.ARROW, "Accept": NDJSON}
    _, hit, absent, last = lines_of(client.post(URL, content=content, headers=headers))
    assert (hit["source"], absent) == ("hit", {"row_id": 1, "source": "absent"})
    assert last == {"rows": 2, "failed": 0, "complete": True}


def test_a_body_of_lines_is_not_read(client):
    reply = client.post(URL, content=b"{}\n", headers={"Content-Type": NDJSON})
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")


class Said:
    """What a writer of text asks of an ensemble and a recipe."""

    name = "wide"
    fingerprint = "ab" * 32

    def __init__(self, classes):
        self.classes = [f"class {i}" for i in range(classes)]
        self.layout = wire.Layout(classes)
        self.recipe = SimpleNamespace(temperature=1.0)
        self.certificate = SimpleNamespace(id="cd" * 32, violations=[])


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize(("classes", "rows"), [(2000, 300), (150_000, 3), (3, 5)])
def test_text_is_cut_into_pieces_of_four_mebibytes_or_one_row(lines, classes, rows):
    said = Said(classes)
    writer = JsonWriter(said, said, lines=lines)
    random = np.random.default_rng(0)
    values = said.layout.pack(np.log(random.dirichlet(np.ones(classes), size=rows)))
    pieces = []
    for start in range(0, rows, 100):
        part = slice(start, start + 100)
        count = len(values[part])
        ids = wire.default_row_ids(rows)[part]
        none = [None] * count
        pieces += writer.group(ids, ["hit"] * count, values[part], none, [()] * count)
    pieces.append(writer.close())
    whole = b"".join(pieces)
    row = len(whole) // rows
    assert all(pieces[:-1])
    assert max(map(len, pieces)) <= max(wire.MAX_BATCH_BYTES, row + 1000)
    assert len(whole) <= wire.MAX_BATCH_BYTES or len(pieces) > 1
    if lines:
        _, *targets, last = map(json.loads, whole.splitlines())
        assert last == {"rows": rows, "failed": 0, "complete": True}
    else:
        targets = json.loads(whole)["targets"]
    assert [target["row_id"] for target in targets] == list(range(rows))
    assert all(len(target["probabilities"]) == classes for target in targets)
    assert (writer.rows, writer.failed) == (rows, 0)
