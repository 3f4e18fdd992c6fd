"""A real HTTP server on a loopback port that answers as the wire format says, or as a test wants it to."""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pytest

from soft_targets import Client, wire

CLASSES = ("cat", "dog", "owl")
SPECS = {"pixels": wire.TensorSpec("<f4", (3,)), "caption": wire.TensorSpec("utf8", ())}
TEMPERATURE = 2.0
PATIENCE_S = 30.0  # longer than anything here takes; after it a test fails rather than hang


@dataclass(frozen=True)
class Asked:
    """One request for soft targets, as the server read it."""

    number: int
    query: dict[str, str]
    headers: dict[str, str]
    row_ids: list[int | str]
    inputs: dict[str, np.ndarray] | None
    digests: list[bytes] | None


@dataclass(frozen=True)
class Rows:
    """What an honest answer says, before a test bends it."""

    row_ids: list[int | str]
    values: list[bytes | None]
    sources: list[str]
    errors: list[tuple[str, str] | None]

    def take(self, order: Sequence[int]) -> "Rows":
        return Rows(*([column[i] for i in order] for column in vars(self).values()))


@dataclass(frozen=True)
class Reply:
    """An answer: its pieces are sent as HTTP chunks; a cut one ends without the last chunk."""

    pieces: list[bytes]
    status: int = 200
    content_type: str = wire.ARROW
    cut: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def target_of(pixels: np.ndarray) -> np.ndarray:
    """The test server's soft target: log-softmax of the pixels at the temperature."""
    scaled = pixels.astype(np.float64) / TEMPERATURE
    return (scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))).astype(np.float32)


def layout_of(asked: Asked) -> wire.Layout:
    return wire.Layout(len(CLASSES), int(asked.query["top_k"]) if "top_k" in asked.query else None)


def rows_of(asked: Asked) -> Rows:
    assert asked.inputs is not None, "rows asked for by digest are known_of's"
    dense, layout = target_of(asked.inputs["pixels"]), layout_of(asked)
    if layout.top_k is None:
        values = layout.pack(dense)
    else:
        order = np.argsort(-dense, axis=1, kind="stable")
        kept = order[:, : layout.top_k].astype(np.int32)
        rest = np.take_along_axis(dense, order[:, layout.top_k :], axis=1)
        with np.errstate(divide="ignore"):
            tail = np.log(np.exp(rest).sum(axis=1)).astype(np.float32)
        values = layout.pack(np.take_along_axis(dense, kept, axis=1), kept, tail)
    n = len(values)
    return Rows(asked.row_ids, values, ["miss" if i % 2 else "hit" for i in range(n)], [None] * n)


def known_of(asked: Asked, known: dict[bytes, bytes]) -> Rows:
    """What an honest answer to digests says where these values are known; to rows, as if to digests."""
    digests = wire.row_digests(asked.inputs, SPECS) if asked.inputs is not None else asked.digests or []
    values = [known.get(digest) for digest in digests]
    sources = ["absent" if value is None else "hit" for value in values]
    return Rows(asked.row_ids, values, sources, [None] * len(values))


def reply_of(asked: Asked, rows: Rows | None = None, *, size: int = 2, **metadata: str) -> Reply:
    """An answer over ``rows``, ``size`` rows to a record batch; the first piece holds the schema too."""
    rows = rows_of(asked) if rows is None else rows
    id_type = pa.string() if rows.row_ids and isinstance(rows.row_ids[0], str) else pa.uint64()
    said = {
        "format": "1",
        "fingerprint": "f" * 64,
        "temperature": str(TEMPERATURE),
        "classes_digest": wire.classes_digest(CLASSES),
    } | metadata
    writer = wire.ReplyWriter(layout_of(asked), row_id_type=id_type, metadata=said)
    pieces: list[bytes] = []
    for start in range(0, len(rows.row_ids), size):
        part = slice(start, start + size)
        ids = pa.array(rows.row_ids[part], id_type)
        pieces += writer.group(ids, rows.sources[part], rows.values[part], rows.errors[part])
    return Reply([*pieces, writer.close()])


def json_reply(status: int, body: Any, **headers: str) -> Reply:
    return Reply([json.dumps(body).encode()], status, "application/json", headers=headers)


class ReplyServer(ThreadingHTTPServer):
    """Answers honestly until a test sets ``answer`` or ``description``."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answer: Callable[[Asked], Reply] = self.honest
        self.known: dict[bytes, bytes] = {}
        self.description: Callable[[], Reply] = lambda: json_reply(200, self.described)
        self.described: dict[str, Any] = {
            "name": "pets",
            "classes": list(CLASSES),
            "limits": {"max_rows_per_request": 4096, "max_body_bytes": 64 * 2**20},
            "teachers": [],
            "recipes": {},
            "plans": [],
        }
        self.takes(**SPECS)
        self.asked: list[Asked] = []
        self.described_times = 0
        self.described_headers: dict[str, str] = {}
        self.connections = 0
        self.lock = threading.Lock()

    def takes(self, **specs: wire.TensorSpec) -> None:
        """Have other inputs than the usual."""
        self.specs = specs
        self.described["inputs"] = {
            name: {"dtype": spec.dtype, "shape": list(spec.shape), "allow_nan": False}
            for name, spec in specs.items()
        }

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that broke: tests break them."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def honest(self, asked: Asked) -> Reply:
        """Remember every row, and know it by its digest from then on."""
        if asked.inputs is None:
            return reply_of(asked, known_of(asked, self.known))
        rows, digests = rows_of(asked), wire.row_digests(asked.inputs, self.specs)
        sources = ["hit" if digest in self.known else "miss" for digest in digests]
        self.known |= dict(zip(digests, rows.values, strict=True))
        return reply_of(asked, replace(rows, sources=sources))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = PATIENCE_S  # a client that sends half a request holds nobody up
    server: ReplyServer

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
        """Keep quiet."""

    def do_GET(self) -> None:
        self.server.described_times += 1
        self.server.described_headers = dict(self.headers)
        assert self.path == "/v1/ensembles/pets"
        self._send(self.server.description())

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        assert url.path == "/v1/ensembles/pets/soft-targets"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        ids, inputs, digests = wire.decode_request(body, self.server.specs, max_rows=4096)
        query = {name: values[0] for name, values in parse_qs(url.query, strict_parsing=True).items()}
        with self.server.lock:
            number = len(self.server.asked)
            asked = Asked(number, query, dict(self.headers), ids.to_pylist(), inputs, digests)
            self.server.asked.append(asked)
        self._send(self.server.answer(asked))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in filter(None, reply.pieces):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if reply.cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[ReplyServer]:
    with started() as running:
        yield running


@pytest.fixture
def replica() -> Iterator[ReplyServer]:
    """A second server of the same ensemble."""
    with started() as running:
        yield running


@pytest.fixture
def start() -> Iterator[Callable[..., ReplyServer]]:
    """Starts one more server of the ensemble, on a port that may be given."""
    with ExitStack() as running:
        yield lambda port=0: running.enter_context(started(port))


@contextmanager
def started(port: int = 0) -> Iterator[ReplyServer]:
    with ReplyServer(port) as running:
        # Daemons all: an answer that never comes must not keep the tests from ending.
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.fixture
def client(server: ReplyServer) -> Iterator[Client]:
    """One that says at once what went wrong."""
    with Client(server.url, ensemble="pets", timeout_s=PATIENCE_S, retry_s=0) as opened:
        yield opened


@pytest.fixture
def answers() -> type["Answers"]:
    """What tests bend answers with (pytest's importlib mode lets no test import from here)."""
    return Answers


class Answers:
    classes = CLASSES
    specs = SPECS
    temperature = TEMPERATURE
    patience_s = PATIENCE_S
    reply = Reply
    replace = staticmethod(replace)
    target_of = staticmethod(target_of)
    layout_of = staticmethod(layout_of)
    rows_of = staticmethod(rows_of)
    known_of = staticmethod(known_of)
    reply_of = staticmethod(reply_of)
    json_reply = staticmethod(json_reply)

    @staticmethod
    def bent(bend: Callable[[Rows], Rows]) -> Callable[[Asked], Reply]:
        """Answers whose rows are not what was asked for."""
        return lambda asked: reply_of(asked, bend(rows_of(asked)))

    @staticmethod
    def gone(asked: Asked) -> Reply:  # noqa: ARG004 - called with it
        """No answer at all: the connection is closed without a word."""
        raise ConnectionAbortedError

    @staticmethod
    def refused(status: int, retry_after: str | None = None, code: str = "queue_full") -> Reply:
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        return json_reply(status, {"error": f"refused with {status}", "code": code}, **headers)

    @staticmethod
    def first(*replies: Callable[[Asked], Reply] | Reply, then: Callable[[Asked], Reply]) -> Any:
        """Answers one after the other, then always the last."""

        def answer(asked: Asked) -> Reply:
            reply = replies[asked.number] if asked.number < len(replies) else then
            return reply if isinstance(reply, Reply) else reply(asked)

        return answer

    @staticmethod
    def inputs(rows: int, seed: int = 0) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        return {
            "pixels": rng.normal(size=(rows, 3)).astype(np.float32),
            "caption": [f"row {i} é" for i in range(rows)],
        }
