"""An HTTP proxy that knows the messages of an Arrow reply, and does to them what networks and proxies do."""

import http.client
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa

PATIENCE_S = 30.0
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class Fault(NamedTuple):
    """What is done to one reply, at one of its boundaries: before the message of that number."""

    kind: str
    boundary: int = 0


class Sent(NamedTuple):
    """What is sent instead: the pieces, and whether the reply is ended, cut or held behind them."""

    pieces: list[bytes]
    how: str = "end"
    pause_s: float = 0.0


def messages(body):
    """A reply's messages, the end of the stream last."""
    pieces = [one.serialize().to_pybytes() for one in pa.ipc.MessageReader.open_stream(body)] + [END]
    assert b"".join(pieces) == body, "nothing stands between the messages"
    return pieces


def cut(pieces, at, _):
    return Sent(pieces[:at], "cut")


def cut_inside(pieces, at, _):
    return Sent([*pieces[:at], pieces[at][: len(pieces[at]) // 2]], "cut")


def end_early(pieces, at, _):
    return Sent(pieces[:at])


def end_of_stream_early(pieces, at, _):
    return Sent([*pieces[:at], END])


def drop(pieces, at, _):
    return Sent(pieces[:at] + pieces[at + 1 :])


def double(pieces, at, _):
    return Sent(pieces[: at + 1] + pieces[at:])


def swap(pieces, at, _):
    return Sent(pieces[:at] + pieces[at + 1 : at + 2] + pieces[at : at + 1] + pieces[at + 2 :])


def close_early(pieces, at, _):
    return Sent([*pieces[:at], *pieces[-2:]])


def splice(pieces, at, earlier):
    """The reply to another request, from here on."""
    return Sent(pieces[:at] + (earlier or pieces)[at:])


def splice_in(pieces, at, earlier):
    """A batch of the reply to another request among this one's."""
    return Sent(pieces[:at] + (earlier or pieces)[2:3] + pieces[at:])


def delay(pieces, at, _):
    return Sent([*pieces[:at], b"", *pieces[at:]], pause_s=0.005)


def trickle(pieces, at, _):
    slow = [pieces[at][i : i + 64] for i in range(0, len(pieces[at]), 64)]
    return Sent([*pieces[:at], *slow, *pieces[at + 1 :]], pause_s=0.0005)


def hold(pieces, at, _):
    return Sent(pieces[:at], "hold")


AT_BOUNDARIES = {
    what.__name__: what
    for what in (
        cut, cut_inside, end_early, end_of_stream_early, drop, double, swap, close_early, splice, splice_in,
        delay, trickle,
    )
}  # fmt: skip
KINDS = [*AT_BOUNDARIES, "refuse", "say_nothing", "another_reply"]


class Meddler(ThreadingHTTPServer):
    """Passes requests on, and what comes back as its plan says.

    Attributes:
        plan: asked, with the number of a reply for soft targets and of its messages, for what is done to it.
        boundaries: how many boundaries each reply had.
    """

    daemon_threads = True

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.plan = lambda number, boundaries: None  # noqa: ARG005 - called with both
        self.boundaries = []
        self.earlier = None
        self.over = threading.Event()
        self.lock = threading.Lock()

    def handle_error(self, *_):
        """A client hangs up where it has heard enough."""


@contextmanager
def meddling(upstream):
    """A proxy in front of a server."""
    with Meddler(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield proxy
        proxy.over.set()
        proxy.shutdown()
        thread.join(PATIENCE_S)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = PATIENCE_S

    def log_message(self, *_):
        """Keep quiet."""

    def do_GET(self):
        status, headers, body = self._passed_on(b"")
        self._head(status, headers["Content-Type"], ("Content-Length", str(len(body))))
        self.wfile.write(body)

    def do_POST(self):
        proxy = self.server
        status, headers, body = self._passed_on(self.rfile.read(int(self.headers["Content-Length"])))
        if status != 200:
            self._head(status, headers["Content-Type"], ("Content-Length", str(len(body))))
            self.wfile.write(body)
            return
        pieces = messages(body)
        with proxy.lock:
            fault = proxy.plan(len(proxy.boundaries), len(pieces))
            proxy.boundaries.append(len(pieces))
            earlier, proxy.earlier = proxy.earlier, pieces
        if fault is None:
            sent = Sent(pieces)
        elif fault.kind == "refuse":
            said = b'{"error": "later", "code": "queue_full"}'
            self._head(503, "application/json", ("Content-Length", str(len(said))), ("Retry-After", "0"))
            self.wfile.write(said)
            return
        elif fault.kind == "say_nothing":
            self.close_connection = True
            return
        elif fault.kind == "another_reply":
            sent = Sent(earlier or pieces)
        else:
            what = hold if fault.kind == "hold" else AT_BOUNDARIES[fault.kind]
            sent = what(pieces, min(fault.boundary, len(pieces) - 1), earlier)
        self._send(headers["Content-Type"], sent)

    def _passed_on(self, body):
        connection = http.client.HTTPConnection(
            self.server.upstream.hostname, self.server.upstream.port, timeout=PATIENCE_S
        )
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection.request(self.command, self.path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def _head(self, status, content_type, *headers):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _send(self, content_type, sent):
        self._head(200, content_type, ("Transfer-Encoding", "chunked"))
        for piece in sent.pieces:
            if sent.pause_s:
                time.sleep(sent.pause_s)
            if piece:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if sent.how == "hold":
            self.server.over.wait(PATIENCE_S)
        if sent.how != "end":
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")
