"""An HTTP proxy that does to replies in Arrow what networks, balancers and caches do to them, or worse.

It takes a reply in whole, cuts it where one Arrow message ends and another begins, and sends something else.
"""

import os
import socket
import struct
import threading
import time
from collections import deque
from concurrent.futures import Future
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa

PATIENCE_S = 30.0
PARTNER_S = 0.2  # for which a reply waits for another one to change places with
PAUSE_S = 0.002
TRICKLE = 48  # bytes at a time
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of an Arrow stream


class Fault(NamedTuple):
    """One thing that goes wrong.

    Attributes:
        kind: what, one of ``FAULTS``.
        place: the boundary where, or the message behind it: 0 is before the first.
    """

    kind: str
    place: int = 0


class Asked(NamedTuple):
    """A request: ``number`` counts the different ones of a method, ``tries`` how often it came before."""

    method: str
    number: int
    tries: int


class Reply(NamedTuple):
    """What the server answered."""

    status: int
    headers: tuple[tuple[str, str], ...]
    messages: tuple[bytes, ...]
    chunked: bool


def split(body):
    """The messages of an Arrow stream, the last of them its end; anything else is one message."""
    if not body.startswith(END[:4]):
        return (body,)
    messages, start = [], 0
    while start < len(body):
        stop = start + len(END)
        if body[start:stop] != END:
            message = pa.ipc.read_message(pa.py_buffer(body[start:]))
            stop += struct.unpack_from("<i", body, start + 4)[0] + (message.body.size if message.body else 0)
        messages.append(body[start:stop])
        start = stop
    assert b"".join(messages) == body, "every byte belongs to a message"
    return tuple(messages)


# ----------------------------------------------------------------------------------------- faults of the body
# Each gets the messages, with nothing behind the last, a place among them and the messages of another reply,
# and returns what is sent. None at its end closes the connection where HTTP would have said that all is sent.

CLOSING = -3


def half(messages, at):
    return messages[at][: len(messages[at]) // 2]


def turned_over(message):
    """The message, as long as it was, with its metadata spoilt."""
    return message[:8] + bytes(255 - byte for byte in message[8:24]) + message[24:]


def swapped(messages, at):
    return [*messages[:at], *reversed(messages[at : at + 2]), *messages[at + 2 :]]


BODIES = {
    "end": lambda m, at, _: m[:at],
    "end of stream": lambda m, at, _: [*m[:at], END],
    "end inside": lambda m, at, _: [*m[:at], half(m, at)],
    "cut": lambda m, at, _: [*m[:at], None],
    "cut inside": lambda m, at, _: [*m[:at], half(m, at), None],
    "drop": lambda m, at, _: [*m[:at], *m[at + 1 :]],
    "double": lambda m, at, _: [*m[: at + 1], *m[at:]],
    "swap": lambda m, at, _: swapped(m, at),
    "close early": lambda m, at, _: [*m[:at], m[CLOSING], *m[at:]],
    "garble": lambda m, at, _: [*m[:at], turned_over(m[at]), *m[at + 1 :]],
    "splice": lambda m, at, other: [*m[:at], *other[at:]],
    "insert": lambda m, at, other: [*m[:at], *other[at : at + 1], *m[at:]],
}


# ---------------------------------------------------------------------------------------------------- in HTTP


def head(reply, framing):
    lines = [f"HTTP/1.1 {reply.status} Said", *(f"{name}: {value}" for name, value in reply.headers)]
    return "\r\n".join([*lines, framing, "", ""]).encode()


def framed(reply, pieces=None):
    """The steps in which a body is sent, framed as the server's was: its head, and one for each piece."""
    pieces = list(reply.messages if pieces is None else pieces)
    whole = None not in pieces
    pieces = [piece for piece in pieces if piece]
    if reply.chunked:
        chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        return [head(reply, "Transfer-Encoding: chunked"), *chunks, b"0\r\n\r\n" if whole else "close"]
    size = sum(map(len, pieces))
    promised = size if whole else max(size, sum(map(len, reply.messages)))
    return [head(reply, f"Content-Length: {promised}"), *pieces, b"" if whole else "close"]


def refusal(status, body, *headers):
    return framed(Reply(status, headers, (body,), chunked=False))


# ------------------------------------------------------------------------------------ faults of time and HTTP
# Each gets the reply, a place and another reply, and returns steps: bytes, seconds, or what is done.


def delayed(reply, at, _):
    steps = framed(reply)
    return [*steps[: at + 1], PAUSE_S, *steps[at + 1 :]]


def trickled(reply, at, _):
    steps = framed(reply)
    late = b"".join(steps[at + 1 :])
    pieces = [late[start : start + TRICKLE] for start in range(0, len(late), TRICKLE)]
    return [*steps[: at + 1], *(step for piece in pieces for step in (piece, PAUSE_S / 20))]


def busy(*_):
    kind = ("Content-Type", "application/json")
    return refusal(503, b'{"error": "full", "code": "queue_full"}', kind, ("Retry-After", "0"))


STEPS = {
    "delay": delayed,
    "trickle": trickled,
    "reset": lambda reply, at, _: [*framed(reply)[: at + 1], "reset"],
    "hold": lambda reply, at, _: [*framed(reply)[: at + 1], "hold"],
    "gone": lambda *_: ["close"],
    "busy": busy,
    "no upstream": lambda *_: refusal(502, b"<h1>Bad Gateway</h1>", ("Content-Type", "text/html")),
    "no http": lambda *_: [b"\x15\x03\x01\x00\x02\x02\x46", "close"],
    "no chunk": lambda reply, *_: [head(reply, "Transfer-Encoding: chunked"), b"zz\r\n", "close"],
    "closed unsaid": lambda reply, *_: [*framed(reply), "close"],
    # Nobody asked for the first of the two: on that connection each answer is now the one before.
    "one too many": lambda reply, _, other: [b"".join(framed(other) + framed(reply))],
    "exchange": lambda _reply, _at, other: framed(other),
}
FROM_ANOTHER = ("splice", "insert", "one too many", "exchange")
AT_BOUNDARIES = (*BODIES, "delay", "trickle", "reset", "hold")
FAULTS = (*BODIES, *STEPS)


class Meddler(ThreadingHTTPServer):
    """The proxy, on loopback and in threads of its own.

    Attributes:
        meddle: says which fault the reply to a request has; none by default.
        replies: to questions for targets, since ``begin``, before anything happened to them.
        done: the faults that were, since ``begin``, each where it really was.
    """

    daemon_threads = True

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.upstream = urlsplit(upstream).netloc
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._waiting = None
        self.begin()

    def begin(self, meddle=lambda _: None):
        """Forget what was before."""
        self._seen, self.replies, self.done = {}, [], []
        self._past = deque(maxlen=8)
        self.meddle = meddle

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """A client that hung up is no error of the proxy's."""

    def noted(self, method, body):
        with self._lock:
            new = sum(method == one for one, _ in self._seen), 0
            number, tries = self._seen.get((method, body), new)
            self._seen[method, body] = number, tries + 1
        return Asked(method, number, tries)

    def steps(self, asked, body, reply):
        """What is sent to the client."""
        fault = self.meddle(asked)
        with self._lock:
            other = next((past for question, past in reversed(self._past) if question != body), None)
            if len(reply.messages) > 1:
                self.replies.append(reply)
                if all(question != body for question, _ in self._past):
                    self._past.append((body, reply))
        if fault is not None and fault.kind == "exchange":
            other = self._exchanged(reply)
        if fault is None or (other is None and fault.kind in FROM_ANOTHER):
            return framed(reply)
        at = fault.place % (len(reply.messages) + 1)
        with self._lock:
            self.done.append(Fault(fault.kind, at))
        if fault.kind in BODIES:
            pieces = BODIES[fault.kind]((*reply.messages, b""), at, other.messages if other else ())
            return framed(reply, pieces)
        return STEPS[fault.kind](reply, at, other)

    def _exchanged(self, reply):
        """Another reply that is under way, whose request gets this one; None if there is none."""
        with self._lock:
            partner, self._waiting = self._waiting, None
            if partner is None:
                mine, partners = self._waiting = Future(), Future()
        if partner is not None:
            partner[1].set_result(reply)
            return partner[0].result()
        mine.set_result(reply)
        try:
            return partners.result(timeout=PARTNER_S)
        except TimeoutError:
            with self._lock:
                if self._waiting is not None and self._waiting[0] is mine:
                    self._waiting = None
                    return None
            return partners.result(timeout=PATIENCE_S)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = PATIENCE_S

    def setup(self):
        super().setup()
        self._upstream = HTTPConnection(self.server.upstream, timeout=PATIENCE_S)

    def finish(self):
        self._upstream.close()
        super().finish()

    def log_message(self, *_):
        """Keep quiet."""

    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body):
        asked = self.server.noted(self.command, body)
        own = {"host", "connection", "content-length"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in own}
        self._upstream.request(self.command, self.path, body or None, headers)
        answer = self._upstream.getresponse()
        messages = split(answer.read())
        own = {"content-length", "transfer-encoding", "connection", "date"}
        kept = tuple(pair for pair in answer.getheaders() if pair[0].lower() not in own)
        reply = Reply(answer.status, kept, messages, chunked=answer.chunked)
        for step in self.server.steps(asked, body, reply):
            self._take(step)

    def _take(self, step):
        if isinstance(step, bytes):
            self.wfile.write(step)
        elif isinstance(step, float):
            time.sleep(step)
        else:
            self.close_connection = True
        if step == "hold":
            self.server.over.wait(PATIENCE_S)
        elif step == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())  # the files made of it would keep it open
