"""Clients that do not read: what waits for them is bounded, and so is the time for which it does."""

import asyncio
import contextlib
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import uvicorn
from connections import connect

from service.api.app import create_app
from service.api.serving import config_of
from service.auth import open_access
from service.config import load
from service.engine.changes import Alone
from service.engine.engine import Engine
from soft_targets import wire

CLASSES = 16_384
ROWS = 512  # a reply of 32 MiB
BOUND = 2 * wire.MAX_BATCH_BYTES
SOME = wire.MAX_BATCH_BYTES // 2
CONFIG = f"""\
server: {{port: 0}}
limits: {{max_rows_in_flight: 8192, slow_reader_s: PATIENCE}}
ensembles:
  wide:
    classes: {{file: classes.txt}}
    teachers:
      - {{name: one, model: "fake://?classes={CLASSES}&features=4", output: {{kind: logits}}}}
    batching: {{max_rows: 128, in_flight: 2, threads: 1}}
    recipes: {{default: {{operator: linear}}}}
"""
PATH = "/v1/ensembles/wide/soft-targets"
JSON, NDJSON = "application/json", "application/x-ndjson"


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """The path of a configuration in which readers have so many seconds."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "classes.txt").write_text("\n".join(map(str, range(CLASSES))))

    def write(patience_s, **changed):
        path = folder / f"{patience_s}-{len(changed)}.yaml"
        text = CONFIG.replace("PATIENCE", str(patience_s))
        for old, new in changed.items():
            text = text.replace(f"{old}: 8192", f"{old}: {new}")
        path.write_text(text)
        return path

    return write


class Served:
    """The real server in a thread of this process, and how much of it waits in each connection."""

    def __init__(self, path):
        settings = load(path)
        self.engine = Engine.open(settings)
        app = create_app(
            self.engine, settings, open_access(settings.auth), Alone(self.engine, lambda: load(path))
        )
        self.most, self.sent = {}, 0

        async def watched(scope, receive, send):
            async def noting(message):
                for connection in tuple(self.server.server_state.connections):
                    if connection.cycle is not None and connection.cycle.scope is scope:
                        waiting = connection.transport.get_write_buffer_size() + len(message.get("body", b""))
                        self.most[scope["client"]] = max(self.most.get(scope["client"], 0), waiting)
                self.sent += len(message.get("body", b""))
                await send(message)

            await app(scope, receive, noting if scope["type"] == "http" else send)

        self.server = uvicorn.Server(config_of(watched, settings))
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()

    def stop(self):
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def served(configured):
    running = []

    def start(patience_s, **changed):
        running.append(Served(configured(patience_s, **changed)))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def body(rows=ROWS, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
    return wire.encode_request({"x": x}, wire.default_row_ids(rows))


async def until(condition, seconds=30):
    """Look again and again until it is so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def stuck(url, *, accept=wire.ARROW, query="", size=ROWS):
    """A connection whose reply is not read."""
    async with connect(url) as connection:
        connection.writer.transport.pause_reading()
        given = body(size)
        head = f"POST {PATH}{query} HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\n"
        head += f"Content-Type: {wire.ARROW}\r\nContent-Length: {len(given)}\r\n\r\n"
        connection.writer.write(head.encode() + given)
        yield connection


@pytest.mark.parametrize(
    ("accept", "query", "rows"),
    [
        (wire.ARROW, "", ROWS),
        (wire.ARROW, "?order=arrival", ROWS),
        (f'{wire.ARROW};codecs="zstd"', "", ROWS),
        (JSON, "", 80),
        (NDJSON, "", 80),
    ],
)
async def test_at_most_eight_mebibytes_wait_for_a_reader_who_does_not_read(served, accept, query, rows):
    server = served(60)
    async with stuck(server.url, accept=accept, query=query, size=rows) as connection:
        # The first piece is on its way; then they are until the sockets are full.
        await until(lambda: max(server.most.values(), default=0) > SOME)
        before = -1
        while before != server.sent:  # until nothing moves any more
            before = server.sent
            await asyncio.sleep(0.5)
        assert server.sent < 24 * 2**20
        connection.writer.transport.resume_reading()
        reply = await connection.reply()
    assert reply.status == 200
    assert max(server.most.values()) <= BOUND
    if accept in (JSON, NDJSON):
        assert reply.body.endswith({JSON: b"}]}", NDJSON: b',"complete":true}\n'}[accept])
        assert reply.body.count(b'"row_id"') == rows
    else:
        *groups, closing = wire.read_reply(reply.body)[1]
        assert closing == wire.Closing(rows, 0)
        assert sum(len(group.sources) for group in groups) == rows


def rss(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


async def test_a_server_s_memory_is_bounded_by_who_does_not_read_from_it(start, configured):
    server, readers = start(configured(61)), 6
    async with connect(server.url) as first:
        for _ in range(3):  # all is kept, and the server has its size
            assert (await first.post(PATH, body(), wire.ARROW)).status == 200
    before = rss(server.process)
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(stuck(server.url)) for _ in range(readers)]
        most = before
        for _ in range(30):
            await asyncio.sleep(0.1)
            most = max(most, rss(server.process))
        for connection in connections:
            connection.writer.transport.resume_reading()
        for connection in connections:
            assert (await connection.reply()).status == 200
    # Each may have all that is allowed, and a piece is in the making.
    assert most - before < (readers + 1) * BOUND


async def test_one_who_stops_reading_is_left_and_his_rows_are_free(served):
    server = served(0.4, max_rows_in_flight=4096)
    intake = server.engine.intake
    async with stuck(server.url, size=4096) as connection:
        await until(lambda: intake.rows == 4096)
        async with connect(server.url) as other:
            assert (await other.post(PATH, body(8), wire.ARROW)).status == 503
            await until(lambda: intake.rows == 0)
            assert server.engine.batchers["wide"].queued == 0
            assert (await other.post(PATH, body(8), wire.ARROW)).status == 200
        inferences = server.engine.inferences["wide"]
        connection.writer.transport.resume_reading()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await connection.reply()
    assert inferences < 4096  # what nobody waited for was not computed
    assert (intake.rows, intake.size) == (0, 0)


async def test_one_who_reads_slowly_is_not_left(served):
    server = served(0.4)
    async with connect(server.url) as connection:
        connection.send(PATH, body(128), wire.ARROW)
        await connection.reader.readuntil(b"\r\n\r\n")
        began, got = time.monotonic(), b""
        while not got.endswith(b"0\r\n\r\n"):
            chunk = await connection.reader.read(1 << 18)
            assert chunk, "the server closed the connection"
            got += chunk
            await asyncio.sleep(0.04)
    assert time.monotonic() - began > 1
    assert got.count(b"complete") == 1


@pytest.mark.parametrize("query", ["", "?top_k=4096"], ids=["more than a page", "less"])
@pytest.mark.parametrize("last", [True, False])
async def test_a_connection_whose_last_reply_is_not_read_is_closed_too(served, last, query):
    server = served(0.3)
    server.server.config.timeout_keep_alive = 0.3
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of the connections, that is
    parts = urlsplit(server.url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((parts.hostname, parts.port))
        given = body(1)
        head = f"POST {PATH}{query} HTTP/1.1\r\nHost: test\r\nContent-Type: {wire.ARROW}\r\n"
        head += "Connection: close\r\n" if last else ""
        client.sendall(f"{head}Content-Length: {len(given)}\r\n\r\n".encode() + given)
        await until(lambda: server.sent > 0)
        await until(lambda: not server.server.server_state.connections)
        client.settimeout(5)
        got = b""
        while chunk := client.recv(1 << 16):
            got += chunk
    said, _, rest = got.partition(b"\r\n\r\n")
    assert len(rest) < int(said.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert server.engine.intake.rows == 0
