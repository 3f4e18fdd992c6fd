"""A key's quota over HTTP: who is over it is told when to come back, and a student comes back."""

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from security_server import configuration

from service.api.app import create_app
from service.auth import Scope, new_key, open_access
from service.config import load
from service.engine.changes import Alone
from service.engine.engine import Engine
from soft_targets import Client, wire

V1, V2 = "/v1/ensembles/toy/soft-targets", "/v2/models/toy/infer"
GUARANTEES, OPINIONS = "/v1/ensembles/toy/guarantees", "/v1/ensembles/toy/opinions"


def v1_body(rows):
    return {"inputs": {"x": [[float(row)] * 6 for row in range(rows)]}}


def v2_body(rows):
    data = [float(row) for row in range(rows) for _ in range(6)]
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 6], "data": data}]}


BODIES = {V1: v1_body, V2: v2_body, GUARANTEES: v1_body, OPINIONS: v1_body}


@pytest.fixture
def configured(tmp_path):
    """A configuration with these limits, and two keys of a server that has it."""
    keys = [new_key(tmp_path / "keys.jsonl", [Scope.TARGETS_READ], name=name)[0] for name in ("one", "two")]

    def write(limits, auth="auth: {keys_file: keys.jsonl}\n"):
        path = tmp_path / "toy.yaml"
        path.write_text(configuration(limits, auth=auth))
        return path, keys

    return write


@pytest.fixture
def serve(configured):
    """An application in this process, without a key or with one of two."""
    opened = []

    def with_limits(limits, **options):
        path, keys = configured(limits, **options)
        settings = load(path)
        engine = Engine.open(settings)
        app = create_app(engine, settings, open_access(settings.auth), Alone(engine, lambda: load(path)))
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        return client, engine, [{"Authorization": f"Bearer {key}"} for key in keys]

    yield with_limits
    for client in opened:
        client.__exit__(None, None, None)


def refused(reply):
    assert reply.status_code == 429
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"error", "code"}
    assert reply.json()["code"] == "quota_exceeded"
    return int(reply.headers["retry-after"])


@pytest.mark.parametrize("path", BODIES)
def test_a_key_that_asks_too_fast_is_told_when_to_come_back(serve, path):
    client, engine, (one, two) = serve("max_rows_per_request: 50, rows_per_s_per_key: 1")
    for _ in range(2):
        assert client.post(path, json=BODIES[path](50), headers=one).status_code == 200
    reply = client.post(path, json=BODIES[path](1), headers=one)
    assert 1 <= refused(reply) <= 200  # the window holds two requests of fifty rows
    assert "rows of the key 'one'" in reply.json()["error"]
    assert client.post(path, json=BODIES[path](50), headers=two).status_code == 200
    assert engine.intake.rows == engine.intake.size == 0


def test_all_ways_to_ask_share_the_quota(serve):
    client, _, (one, _) = serve("max_rows_per_request: 50, rows_per_s_per_key: 1")
    assert client.post(V1, json=v1_body(50), headers=one).status_code == 200
    assert client.post(V2, json=v2_body(50), headers=one).status_code == 200
    for path, body in BODIES.items():
        refused(client.post(path, json=body(1), headers=one))
    digests = wire.encode_digests([bytes(32)], wire.default_row_ids(1))
    refused(client.post(V1, content=digests, headers=one | {"Content-Type": wire.ARROW}))
    assert client.get("/v1/ensembles/toy", headers=one).status_code == 200  # it holds no rows


def test_nothing_is_read_of_a_request_that_has_no_row_left(serve):
    client, _, (one, _) = serve("max_rows_per_request: 50, rows_per_s_per_key: 1")
    for _ in range(2):
        client.post(V1, json=v1_body(50), headers=one)
    read = []

    def body():
        read.append(True)
        yield b"no JSON"

    for path in BODIES:  # what is not read is not found to be no JSON
        refused(client.post(path, content=body(), headers=one | {"Content-Type": "application/json"}))


def test_without_keys_everyone_has_one_quota(serve):
    client, _, (one, _) = serve("max_rows_per_request: 50, rows_per_s_per_key: 1", auth="")
    for _ in range(2):
        assert client.post(V1, json=v1_body(50), headers=one).status_code == 200
    reply = client.post(V1, json=v1_body(1))
    refused(reply)
    assert "the key" not in reply.json()["error"]


def test_rows_in_flight_are_bounded_by_key(serve):
    client, engine, (one, two) = serve("max_rows_per_request: 50, rows_in_flight_per_key: 60")
    engine.intake.quotas.enter("one", rows=55)
    for path, body in BODIES.items():
        assert refused(client.post(path, json=body(6), headers=one)) == 1
        assert client.post(path, json=body(5), headers=one).status_code == 200
        assert client.post(path, json=body(50), headers=two).status_code == 200


def test_fewer_rows_in_flight_than_one_request_may_hold_are_refused(configured):
    path, _ = configured("max_rows_per_request: 50, rows_in_flight_per_key: 49")
    with pytest.raises(Exception, match=r"rows_in_flight_per_key \(49\) must be max_rows_per_request \(50\)"):
        load(path)


def test_a_student_under_a_quota_finishes_its_epoch_whole(configured, start):
    path, (key, _) = configured(
        "max_rows_per_request: 50, rows_per_s_per_key: 200, rows_in_flight_per_key: 50"
    )
    server = start(path)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=100)
    with Client(server.url, ensemble="toy", key=key, connections=2, digest_first="never") as client:
        seen = []
        for (batch,), targets in client.distill(loader, inputs=lambda batch: {"x": batch[0]}):
            assert len(targets) == len(batch)
            assert targets.valid.all()
            seen.append(batch)
        assert torch.equal(torch.cat(seen), rows)
        assert client.stats.rows == 500
        assert client.stats.retries  # it was told to wait, and did
