"""A server that is told to stop: not ready first, then it finishes, and a second word ends it at once."""

import contextlib
import os
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest

from soft_targets.wire import ARROW, Closing, default_row_ids, encode_request, read_reply

CONFIG = """\
server: {port: 0, workers: WORKERS}
auth: {open: true}
limits: {drain_s: DRAIN_S}
cache: {url: "lmdb://FOLDER/cache?max_bytes=8MiB"}
ensembles:
  toy:
    classes: [a, b, c]
    teachers:
      - {name: one, model: "fake://?classes=3&features=4&hang_above=100", output: {kind: logits}}
    teacher_timeout_s: HANG_S
    batching: {max_rows: 16, in_flight: 1, threads: 1}
    recipes: {default: {operator: linear}}
"""
PATH = "/v1/ensembles/toy/soft-targets"
WHAT = {"content-type": ARROW}
KNOWN = np.ones((1, 4), dtype=np.float32)
HANGS = np.full((1, 4), 1000, dtype=np.float32)


def body(*rows):
    return encode_request({"x": np.concatenate(rows)}, default_row_ids(len(rows)))


@pytest.fixture
def serving(start, tmp_path):
    def serve(*, drain_s=30, hang_s=2, workers=1):
        text = CONFIG.replace("FOLDER", str(tmp_path)).replace("WORKERS", str(workers))
        config = tmp_path / "c.yaml"
        config.write_text(text.replace("DRAIN_S", str(drain_s)).replace("HANG_S", str(hang_s)))
        server = start(config)
        for _ in range(10):  # by then every worker has it
            assert httpx2.post(f"{server.url}{PATH}", content=body(KNOWN), headers=WHAT).status_code == 200
        return server

    return serve


@contextlib.contextmanager
def taken_in(server):
    """A request that the server is at: a row of it has been answered, and another one takes its time."""
    whole = body(KNOWN, HANGS)
    with (
        httpx2.Client(timeout=60) as client,
        client.stream("POST", f"{server.url}{PATH}?order=arrival", content=whole, headers=WHAT) as reply,
    ):
        assert reply.status_code == 200
        pieces = reply.iter_bytes()
        yield [next(pieces)], pieces


def ended(pieces):
    """The errors in a whole reply, and what its end says."""
    _, batches = read_reply(b"".join(pieces))
    *groups, closing = batches
    return [error for group in groups for error in group.errors if error], closing


def draining(server):
    """What it says of itself once it has been told to stop."""
    while server.process.poll() is None:
        # A worker that has nothing to finish is gone at once, with a connection that it had just taken.
        with contextlib.suppress(httpx2.TransportError):
            said = httpx2.get(f"{server.url}/readyz")
            if said.status_code == 503:
                return said
    raise AssertionError(f"the server ended before it said so: {server.log()}")


def test_it_is_not_ready_first_refuses_what_is_new_and_finishes_what_it_has(serving):
    server = serving()
    with taken_in(server) as (begun, rest):
        server.process.terminate()
        assert draining(server).json()["code"] == "draining"
        assert httpx2.get(f"{server.url}/v2/health/ready").json()["code"] == "draining"
        assert httpx2.get(f"{server.url}/v2/models/toy/ready").json()["code"] == "draining"
        assert httpx2.get(f"{server.url}/livez").status_code == 200
        refused = httpx2.post(f"{server.url}{PATH}", content=body(KNOWN), headers=WHAT)
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert refused.headers["retry-after"] == "1"
        (error,), closing = ended([*begun, *rest])
    assert error[0] == "teacher_failed"  # in its own time, which is not the server's
    assert closing == Closing(2, 1)
    assert server.process.wait(timeout=30) == 0


def test_what_takes_longer_is_late_and_its_stream_is_closed_with_its_last_batch(serving):
    server = serving(drain_s=0.3)
    with taken_in(server) as (begun, rest):
        server.process.terminate()
        (error,), closing = ended([*begun, *rest])
    assert error[0] == "deadline_exceeded"
    assert "the server is stopping" in error[1]
    assert closing == Closing(2, 1)
    assert server.process.wait(timeout=30) == 0


def test_who_was_let_in_before_it_stops_is_heard(start, tmp_path):
    config = tmp_path / "c.yaml"
    text = CONFIG.replace("FOLDER", str(tmp_path)).replace("WORKERS", "1")
    config.write_text(text.replace("DRAIN_S", "30").replace("HANG_S", "2"))
    server = start(config, first="import service.api.draining as d; d.LINGER_S = 3")
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as silent:
        assert httpx2.get(f"{server.url}/livez").status_code == 200  # by then it has the other one
        server.process.terminate()
        with contextlib.suppress(ConnectionRefusedError):  # from then on it takes in nobody
            while server.process.poll() is None:
                socket.create_connection((address.hostname, address.port), timeout=30).close()
        assert server.process.poll() is None
        silent.sendall(b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n")
        assert silent.recv(4096).startswith(b"HTTP/1.1 503")
    assert server.process.wait(timeout=30) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_it_at_once(serving, workers, second):
    server = serving(hang_s=300, workers=workers)
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if workers > 1 else []
    with taken_in(server) as (_, rest):
        server.process.terminate()
        draining(server)
        server.process.send_signal(second)
        assert server.process.wait(timeout=30) == 130
        with pytest.raises(httpx2.TransportError):
            list(rest)
    assert "ended at once by a second signal" in server.log()
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)
