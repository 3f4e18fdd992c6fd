"""Ids of requests, and the line that each leaves in the log."""

import pytest
from observed import CONFIG, PATH
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from service.auth import new_key
from service.telemetry import Seldom

LOGGED = "server: {access_log: true}\n" + CONFIG
BODY = {"inputs": {"x": [[1, 2, 3, 4], [5, 6, 7, 8]]}}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def logged(observe):
    toy = observe(LOGGED)
    with toy.client(raise_server_exceptions=False) as client, capture_logs([merge_contextvars]) as lines:
        yield client, lines


def accesses(lines):
    return [line for line in lines if line.get("part") == "access"]


def test_a_request_keeps_the_id_that_it_came_with(logged):
    client, _ = logged
    reply = client.post(PATH, json=BODY, headers={"x-request-id": "epoch-3/batch-17"})
    assert reply.headers.get_list("x-request-id") == ["epoch-3/batch-17"]


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "\x01", "é"])
def test_an_id_that_is_not_sane_is_replaced(logged, given):
    client, _ = logged
    headers = {} if given is None else {"x-request-id": given.encode()}
    found = [client.get("/livez", headers=headers).headers["x-request-id"] for _ in range(2)]
    assert [len(one) for one in found] == [32, 32]
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", PATH, 405), ("POST", "/v1/ensembles/none/soft-targets", 404)],
)
def test_errors_have_ids_too(logged, method, path, status):
    client, lines = logged
    reply = client.request(method, path, headers={"x-request-id": "mine"})
    assert reply.status_code == status
    assert reply.headers.get_list("x-request-id") == ["mine"]
    (line,) = accesses(lines)
    assert (line["request_id"], line["status"], line["log_level"]) == ("mine", status, "warning")
    assert line["code"] == reply.json()["code"]


def test_an_error_that_nobody_expected_has_its_id_in_the_reply_and_in_the_log(logged, monkeypatch):
    client, lines = logged

    def broken(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr("service.api.app.describe", broken)
    reply = client.get("/v1/ensembles", headers={"x-request-id": "mine"})
    assert reply.status_code == 500
    assert reply.headers.get_list("x-request-id") == ["mine"]
    (line,) = accesses(lines)
    assert (line["status"], line["log_level"]) == (500, "error")
    (told,) = [line for line in lines if line["event"] == "unexpected error"]
    assert told["request_id"] == "mine"


def test_a_line_says_what_was_asked_and_how_it_was_answered(logged):
    client, lines = logged
    client.post(PATH, json=BODY, headers={"x-request-id": "mine", "traceparent": TRACE})
    (line,) = accesses(lines)
    assert line.pop("ms") > 0
    assert line == {
        "event": "request",
        "log_level": "info",
        "part": "access",
        "request_id": "mine",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "method": "POST",
        "route": "/v1/ensembles/{ensemble}/soft-targets",
        "status": 200,
        "rows": 2,
    }


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        (TRACE, TRACE),
        (TRACE.replace("00-", "01-", 1) + "-more", TRACE.replace("00-", "01-", 1)),
        (TRACE + "-more", None),
        (TRACE.replace("00-", "ff-", 1), None),
        ("00-" + "0" * 32 + "-b7ad6b7169203331-01", None),
        (TRACE.upper(), None),
        ("nonsense", None),
    ],
)
def test_a_trace_is_returned_where_it_is_one(logged, given, returned):
    client, _ = logged
    assert client.get("/livez", headers={"traceparent": given}).headers.get("traceparent") == returned


@pytest.mark.parametrize("fault", ["raise_above", "nan_above"])
def test_a_teacher_that_fails_is_said_with_the_requests_and_not_of_every_batch(observe, fault):
    toy = observe(CONFIG.replace("seed=2", f"seed=2&{fault}=4"))
    with toy.client() as client, capture_logs([merge_contextvars]) as lines:
        for name in ("first", "second", "third"):
            client.post(PATH, json=BODY | {"row_ids": [name, "other"]}, headers={"x-request-id": name})
    (line,) = [line for line in lines if line["event"] == "teacher failed"]
    assert (line["teacher"], line["batches"], line["request_ids"]) == ("two", 1, ["first"])
    assert "request_id" not in line


def test_a_batch_that_fails_is_said_with_its_requests(observe, monkeypatch):
    toy = observe()

    def broken(*_, **__):
        raise RuntimeError("no memory")

    monkeypatch.setattr(toy.engine.ensemble("toy").plans, "run", broken)
    with toy.client() as client, capture_logs([merge_contextvars]) as lines:
        client.post(PATH, json=BODY, headers={"x-request-id": "mine"})
    (line,) = [line for line in lines if line["event"] == "batch failed"]
    assert line["request_ids"] == ["mine"]


def test_what_happens_again_and_again_is_said_now_and_then():
    now = 0.0
    seldom = Seldom(60, clock=lambda: now)
    assert [seldom.times("one") for _ in range(4)] == [1, 0, 0, 0]
    assert seldom.times("other") == 1
    now = 59.0
    assert seldom.times("one") == 0
    now = 60.0
    assert [seldom.times("one"), seldom.times("one")] == [5, 0]


def test_there_are_no_lines_unless_they_are_asked_for(observe):
    toy = observe()
    with toy.client() as client, capture_logs() as lines:
        assert client.post(PATH, json=BODY).status_code == 200
    assert accesses(lines) == []


def test_a_line_has_the_name_of_the_key_and_never_the_key(observe, tmp_path):
    secret, _ = new_key(tmp_path / "keys.jsonl", ["targets:read"], name="trainer")
    toy = observe("auth: {keys_file: keys.jsonl}\n" + LOGGED)
    with toy.client() as client, capture_logs([merge_contextvars]) as lines:
        assert client.post(PATH, json=BODY, headers={"x-api-key": secret}).status_code == 200
        assert client.post(PATH, json=BODY, headers={"x-api-key": "st_wrong"}).status_code == 401
    known, unknown = accesses(lines)
    assert known["key"] == "trainer"
    assert "key" not in unknown
    assert secret not in str(lines)
    assert "st_wrong" not in str(lines)
    assert toy.value("rejected_requests_total", reason="unauthenticated") == 1


async def test_a_client_that_is_gone_before_its_reply_is_no_error_of_ours(observe):
    toy = observe()
    scope = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
    }
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await toy.app(scope, receive, send)
    await toy.engine.close()
    assert sent == []
    route = "/v1/ensembles/{ensemble}/soft-targets"
    assert toy.value("requests_total", route=route, code="499") == 1
