"""A server of the Open Inference Protocol v2, of its own making: honest, or as it is told to be."""

import contextlib
import gzip
import json
import socket
import struct
import threading
import zlib
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import numpy as np

LENGTH = "Inference-Header-Content-Length"
NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "INT8": "i1",
    "UINT16": "<u2",
    "INT16": "<i2",
    "UINT32": "<u4",
    "INT32": "<i4",
    "UINT64": "<u8",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


class Refused(Exception):
    """Said with a status."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Model(NamedTuple):
    """What is served: inputs and outputs as (name, datatype, shape), and a function of arrays by name."""

    inputs: list
    outputs: list
    answer: object
    version: str = "1"


class Reply(NamedTuple):
    status: int
    headers: dict
    body: bytes


class Received(NamedTuple):
    method: str
    path: str
    headers: dict
    body: bytes

    @property
    def message(self):
        """The JSON of it."""
        return json.loads(self.body[: int(self.headers.get(LENGTH.lower(), len(self.body)))])


class InferenceServer:
    """Models on a port of loopback, by name; as a context it listens, and ``away`` keeps the port unheard.

    Attributes:
        received: every request, in order.
        told: treatments of the replies to come to ``infer``, one each; then ``always``, if any.
        free: what never answers, waits for it.
    """

    def __init__(self, models, *, binary=True, key=None, tls=None):
        self.models = dict(models)
        self.binary = binary
        self.key = key
        self.tls = tls
        self.received = []
        self.told = deque()
        self.always = None
        self.free = threading.Event()
        self._connections = set()
        self._thread = None
        self._bind(0)

    def _bind(self, port):
        self._http = _Http(("127.0.0.1", port), _Handler, bind_and_activate=False)
        self._http.owner = self
        self._http.server_bind()
        self.port = self._http.server_address[1]

    def address(self, model, version=None):
        path = model if version is None else f"{model}/versions/{version}"
        return f"kserve+{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/{path}"

    def __enter__(self):
        self._http.server_activate()
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.free.set()
        if self._thread is None:
            self._http.server_close()
        else:
            self._leave()

    def away(self):
        """Nobody listens any more, and all connections are broken off; the port stays this one's."""
        if self._thread is not None:
            self._leave()
        self._bind(self.port)

    def _leave(self):
        self._http.shutdown()
        self._thread.join()
        self._thread = None
        self._http.server_close()
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def infers(self):
        """The requests for answers."""
        return [one for one in self.received if one.path.endswith("/infer")]

    def answer(self, request):
        """The honest reply."""
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return of_json({"error": "who are you?"}, 401)
        try:
            return self._routed(request)
        except Refused as exc:
            return of_json({"error": str(exc)}, exc.status)
        except Exception as exc:  # noqa: BLE001 - a model's own
            return of_json({"error": repr(exc)}, 500)

    def _routed(self, request):
        if request.path == "/v2":
            extensions = ["binary_tensor_data"] if self.binary else []
            return of_json({"name": "fake", "version": "1", "extensions": extensions})
        parts = request.path.removeprefix("/v2/models/").split("/")
        model = self.models.get(parts[0])
        if model is None or not request.path.startswith("/v2/models/"):
            raise Refused(404, f"no model {parts[0]!r}")
        if parts[1:2] == ["versions"]:
            if parts[2] != model.version:
                raise Refused(404, f"no version {parts[2]!r}")
            parts[1:3] = []
        if parts[1:] == ["infer"] and request.method == "POST":
            return self._infer(parts[0], model, request)
        if parts[1:] or request.method != "GET":
            raise Refused(404, "no such route")
        told = {
            what: [{"name": n, "datatype": d, "shape": s} for n, d, s in tensors]
            for what, tensors in (("inputs", model.inputs), ("outputs", model.outputs))
        }
        return of_json({"name": parts[0], "versions": [model.version], "platform": "fake", **told})

    def _infer(self, name, model, request):
        head = int(request.headers.get(LENGTH.lower(), len(request.body)))
        message, rest = json.loads(request.body[:head]), request.body[head:]
        inputs = {}
        for one in message["inputs"]:
            size = one.get("parameters", {}).get("binary_data_size")
            data = one.get("data")
            if size is not None:
                data, rest = rest[:size], rest[size:]
            inputs[one["name"]] = tensor(one["datatype"], one["shape"], data)
        if rest or {one[0]: one[1] for one in model.inputs} != {
            one["name"]: one["datatype"] for one in message["inputs"]
        }:
            raise Refused(400, f"inputs are {model.inputs}")
        answers = model.answer(inputs)
        outputs, tail = [], b""
        for one in message["outputs"]:
            [(_, datatype, _)] = [output for output in model.outputs if output[0] == one["name"]]
            values = answers[one["name"]].astype(NUMPY[datatype])
            told = {"name": one["name"], "datatype": datatype, "shape": list(values.shape)}
            if self.binary and one.get("parameters", {}).get("binary_data"):
                told["parameters"] = {"binary_data_size": values.nbytes}
                tail += values.tobytes()
            else:
                told["data"] = values.reshape(-1).tolist()
            outputs.append(told)
        said = {"model_name": name, "model_version": model.version, "id": message["id"], "outputs": outputs}
        return of_json(said, tail=tail)


def tensor(datatype, shape, data):
    """An array from bytes or from a list, checked to the byte."""
    if datatype == "BYTES":
        texts = data
        if isinstance(data, bytes):
            texts = []
            while data:
                (length,) = struct.unpack("<I", data[:4])
                texts.append(data[4 : 4 + length].decode())
                data = data[4 + length :]
        return np.array(texts, dtype=object).reshape(shape)
    if isinstance(data, bytes):
        return np.frombuffer(data, NUMPY[datatype]).reshape(shape)
    assert datatype != "FP16", "JSON has none"
    return np.array(data, NUMPY[datatype]).reshape(shape)


def of_json(message, status=200, *, tail=b""):
    head = json.dumps(message).encode()
    headers = {LENGTH: str(len(head))} if tail else {}
    return Reply(status, headers, head + tail)


# ---- treatments of a reply: each is called with the handler of the connection and the honest reply


def status(code, text="", **headers):
    """Another status, with an error as the protocol has it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, _: handler.send(Reply(code, named, json.dumps({"error": text}).encode()))


def body(data, **headers):
    """Something else with status 200."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, _: handler.send(Reply(200, named, data))


def edited(change):
    """The JSON changed by a function, which may return another; the bytes behind it stay."""

    def treat(handler, reply):
        head = int(reply.headers.get(LENGTH, len(reply.body)))
        message = json.loads(reply.body[:head])
        changed = change(message)
        handler.send(of_json(message if changed is None else changed, tail=reply.body[head:]))

    return treat


def cut(length):
    """Broken off after so many bytes of the body."""

    def treat(handler, reply):
        handler.head(reply, len(reply.body))
        handler.wfile.write(reply.body[:length])
        handler.hang_up()

    return treat


def raw(data):
    """Bytes that are no HTTP, and the end."""

    def treat(handler, _):
        handler.wfile.write(data)
        handler.hang_up()

    return treat


def never(handler, _):
    """Nothing at all, for as long as the server is there."""
    handler.server.owner.free.wait()
    handler.hang_up()


def late(heard, after):
    """The honest reply, once an event is set; another one says that the request was read."""

    def treat(handler, reply):
        heard.set()
        after.wait()
        handler.send(reply)

    return treat


def drip(handler, reply):
    """A byte now and then, without an end: every one is in time, the whole never."""
    handler.head(reply, 100_000)
    while not handler.server.owner.free.wait(0.02):
        handler.wfile.write(b" ")


def endless(handler, _):
    """Chunks until nobody reads them."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def coded(coding, *, change=lambda data: data):
    """Compressed though nobody asked."""

    def treat(handler, reply):
        data = gzip.compress(reply.body) if coding == "gzip" else zlib.compress(reply.body)
        handler.send(Reply(200, {**reply.headers, "Content-Encoding": coding}, change(data)))

    return treat


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def get_request(self):
        connection, address = super().get_request()
        tls = self.owner.tls
        if tls is not None:  # shaken hands with in the connection's own thread
            connection = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, *_):
        """Whoever hung up knows."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.server.owner._connections.add(self.connection)

    def finish(self):
        self.server.owner._connections.discard(self.connection)
        super().finish()

    def do_GET(self):
        self._serve()

    def do_POST(self):
        self._serve()

    def _serve(self):
        owner = self.server.owner
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Received(self.command, self.path, headers, data)
        owner.received.append(request)
        reply = owner.answer(request)
        treat = None
        if self.path.endswith("/infer"):
            treat = owner.told.popleft() if owner.told else owner.always
        if treat is None:
            self.send(reply)
        else:
            treat(self, reply)

    def send(self, reply):
        self.head(reply, len(reply.body))
        self.wfile.write(reply.body)

    def head(self, reply, length):
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def hang_up(self):
        self.close_connection = True

    def log_message(self, *_):
        """Nobody reads it."""
