"""Requests that are malformed, too long in their heads, or too slow: answered, and hung up on."""

import contextlib
import json
import socket

import pytest

from service.auth import Scope, new_key

LIMITS = "max_header_bytes: 4KiB, max_body_bytes: 64KiB, max_rows_per_request: 100"
PATH = "/v1/ensembles/toy/soft-targets"
ENDLESS = 1 << 26  # more than what the kernel keeps on the way
BODY = json.dumps({"inputs": {"x": [[0.0] * 6]}}).encode()


def post(body=BODY, *, headers=""):
    head = f"POST {PATH} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


CHUNKED = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")


class Wire:
    """A bare connection."""

    def __init__(self, server):
        self.socket = socket.create_connection(server.address, timeout=20)
        self.file = self.socket.makefile("rb")

    def send(self, data):
        self.socket.sendall(data)

    def reply(self):
        status = int(self.file.readline().split(b" ")[1])
        headers = {}
        while line := self.file.readline().strip():
            name, value = line.decode().lower().split(": ")
            headers[name] = value
        if "content-length" in headers:
            return status, headers, json.loads(self.file.read(int(headers["content-length"])))
        return status, headers, None

    def refused(self, status, code):
        said, headers, body = self.reply()
        assert (said, body["code"]) == (status, code)
        assert set(body) == {"error", "code"}
        assert headers["content-type"] == "application/json"
        assert headers["connection"] == "close"
        self.hung_up()
        return body["error"]

    def hung_up(self):
        with contextlib.suppress(ConnectionResetError):
            assert self.file.read() == b""

    def close(self):
        self.file.close()
        self.socket.close()


@pytest.fixture
def server(served):
    return served(LIMITS)


@pytest.fixture
def connect(server):
    opened = []

    def one(to=server):
        opened.append(Wire(to))
        return opened[-1]

    yield one
    for wire in opened:
        wire.close()


@pytest.fixture(autouse=True)
def everything_is_given_back(server):
    yield
    wire = Wire(server)
    wire.send(post())
    assert wire.reply()[0] == 200
    wire.close()
    assert (server.engine.intake.rows, server.engine.intake.size) == (0, 0)


def test_a_head_of_just_the_limit_is_read(connect):
    wire = connect()
    others = (PATH, "Host", "test", "Content-Type", "application/json", "Content-Length", "51", "X")
    filler = 4096 - len("".join(others)) - 4 * len(": \r\n")
    wire.send(post(BODY, headers=f"X: {'a' * filler}\r\n"))
    assert wire.reply()[0] == 200
    wire.send(post(BODY, headers=f"X: {'a' * (filler + 1)}\r\n"))
    assert "more than 4096 bytes (limits.max_header_bytes)" in wire.refused(431, "too_large")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(1000)) + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"a" * 5000 + b": a\r\n\r\n",
    ],
    ids=["address", "many", "name"],
)
def test_a_long_head_is_refused(connect, head):
    wire = connect()
    wire.send(head)
    wire.refused(431, "too_large")


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nX: ",
        b"GET / HTTP/1.1\r\n",
        CHUNKED + b"1;",
        CHUNKED + b"0\r\nX: ",
        CHUNKED + b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY),
    ],
    ids=["address", "value", "name", "extension", "trailer", "trailer-name"],
)
def test_a_head_that_never_ends_is_refused_before_it_does(connect, begin):
    wire, sent = connect(), 0
    wire.send(begin)
    try:
        while sent < ENDLESS:
            wire.send(b"a" * 65_536)
            sent += 65_536
    except (ConnectionResetError, BrokenPipeError):
        pass
    assert sent < ENDLESS  # it hung up
    wire.close()


def test_trailers_without_end_are_refused(connect):
    wire = connect()
    wire.send(CHUNKED + b"0\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(1000)))
    wire.refused(431, "too_large")


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        CHUNKED + b"nonsense\r\n",
    ],
)
def test_what_is_no_http_is_answered_in_the_one_shape(connect, sent):
    wire = connect()
    wire.send(sent)
    wire.refused(400, "bad_input")


@pytest.mark.parametrize("behind", [b"tail\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 5000 + b"\r\n\r\n"])
def test_what_goes_on_behind_a_request_is_not_answered_in_its_place(connect, behind):
    wire = connect()
    wire.send(post() + behind)
    try:
        replies = wire.file.read()
    except ConnectionResetError:
        replies = b""
    assert replies.count(b"HTTP/1.1") <= 1  # the answer whole, or none; never one for the other
    assert b"431" not in replies
    assert b"400" not in replies


@pytest.mark.parametrize(
    "begin",
    [b"POST", post()[:-40], post()[:-1], CHUNKED + b"5\r\n{"],
    ids=["line", "body", "last-byte", "chunk"],
)
def test_a_request_that_is_not_whole_in_time_is_refused(served, connect, begin):
    slow = served("request_timeout_s: 0.5, slow_reader_s: 1")
    wire = connect(slow)
    wire.send(begin)
    assert "was not whole after 0.5 s" in wire.refused(408, "too_slow")
    assert (slow.engine.intake.rows, slow.engine.intake.size) == (0, 0)


def test_what_is_announced_and_does_not_come_takes_no_room(server, connect):
    wire, other = connect(), connect()
    wire.send(post()[:-10])
    other.send(post())  # by when it is answered the first one has been read
    assert other.reply()[0] == 200
    assert (server.engine.intake.requests, server.engine.intake.size) == (1, len(BODY) - 10)
    wire.send(post()[-10:])
    assert wire.reply()[0] == 200


def test_a_connection_that_says_nothing_is_closed(served, connect):
    connect(served("request_timeout_s: 0.5, slow_reader_s: 1")).hung_up()


def test_a_request_that_is_answered_and_goes_on_is_hung_up_on(served, connect):
    wire = connect(served("request_timeout_s: 0.5, slow_reader_s: 1"))
    wire.send(b"POST /nowhere HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n")
    assert wire.reply()[0] == 404
    wire.hung_up()


UPGRADE = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"


@pytest.mark.parametrize("upgrade", [UPGRADE, "Connection: Upgrade\r\nUpgrade: websocket\r\n"])
@pytest.mark.parametrize("length", ["Content-Length: 40", "Transfer-Encoding: chunked"])
def test_a_body_behind_an_upgrade_is_not_taken_for_a_request(connect, upgrade, length):
    wire = connect()
    wire.send(f"POST {PATH} HTTP/1.1\r\nHost: test\r\n{upgrade}{length}\r\n\r\n".encode())
    with contextlib.suppress(ConnectionError):
        wire.send(b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n")
    assert "without Upgrade" in wire.refused(400, "bad_input")


WEBSOCKET = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@pytest.mark.parametrize("upgrade", [UPGRADE, WEBSOCKET])
def test_an_upgrade_without_a_body_is_a_request_like_any_other(connect, upgrade):
    wire = connect()
    # The parser has left alone what came behind it: the client hears that it has to ask again.
    wire.send(f"GET /livez HTTP/1.1\r\nHost: test\r\n{upgrade}\r\n".encode() + post())
    status, headers, body = wire.reply()
    assert (status, headers["connection"], body) == (200, "close", {"live": True})
    wire.hung_up()


@pytest.mark.parametrize("upgrade", [UPGRADE, WEBSOCKET])
def test_a_connection_that_offers_another_protocol_has_the_same_time(served, connect, upgrade):
    wire = connect(served("request_timeout_s: 0.5, slow_reader_s: 1"))
    wire.send(f"GET /livez HTTP/1.1\r\nHost: test\r\n{upgrade}X: ".encode())
    wire.refused(408, "too_slow")


def test_a_byte_between_two_requests_keeps_no_connection_open(served, connect):
    wire = connect(served("request_timeout_s: 0.5, slow_reader_s: 1"))
    wire.send(post())
    assert wire.reply()[0] == 200
    wire.send(b"\r\n")
    wire.hung_up()


def test_a_trailer_is_no_header(served, connect, tmp_path):
    key, _ = new_key(tmp_path / "keys.jsonl", [Scope.TARGETS_READ])
    wire = connect(served(LIMITS, auth=f"auth: {{keys_file: {tmp_path}/keys.jsonl}}\n"))
    ask = b"GET /v1/ensembles HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n"
    wire.send(ask + f"\r\n0\r\nX-API-Key: {key}\r\n\r\n".encode())
    assert wire.reply()[0] == 401
    wire.send(ask + f"X-API-Key: {key}\r\n\r\n0\r\n\r\n".encode())
    assert wire.reply()[0] == 200


def test_a_connection_that_was_idle_begins_its_time_anew(served, connect):
    wire = connect(served("request_timeout_s: 0.5, slow_reader_s: 1"))
    for _ in range(3):
        for piece in (post()[:30], post()[30:]):
            wire.send(piece)
        assert wire.reply()[0] == 200
