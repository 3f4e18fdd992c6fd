"""The server against the bare limit: rows per second over HTTP, by what the cache has and what is sent.

make bench

The teachers and the limit are those of `bench/sets.py`. Requests of 128 rows in Arrow on four connections (or
of one row on 64, `--shape b1`), from threads of this process, on the same processors. One server each for
`off` (a cache that keeps nothing), `redis` (nothing in memory before it) and `memory`; a round measures, one
after the other: the limit, rows without a cache, new rows with writes to Redis, the same rows from Redis, the
same by digest, and the same from memory; rows that are kept are asked for again and again for a second.
Every reply is whole and from where it should be. Medians and ranges of the ratios are printed; absolute
figures of a shared machine mean little.
"""

import argparse
import itertools
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from engine import limit_runs
from running import running_redis
from sets import SETS, TeacherSet, rate, rows_of, written

from soft_targets import wire

PATH = "/v1/ensembles/bench/soft-targets"
SHAPES = {"b128": (128, 4), "b1": (1, 64)}  # rows a request, connections
ROUND_S = 1.0
SET_BYTES = 256 << 20  # of the targets of a round
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
SAYS = {"off": "miss", "cold": "miss", "redis": "hit", "digest": "hit", "memory": "hit"}


class Connection:
    """A kept-alive connection of one thread, with as little around it as will do."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 16)

    def ask(self, body: bytes) -> memoryview:
        """The reply with its head, until the next one; its chunks, if it has any, are not joined."""
        head = f"POST {PATH} HTTP/1.1\r\nHost: bench\r\nContent-Type: {wire.ARROW}\r\n"
        self._socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        size = 0
        while not self._whole(size):
            if size == len(self._buffer):
                self._buffer = self._buffer + bytes(size)
            got = self._socket.recv_into(memoryview(self._buffer)[size:])
            assert got, bytes(self._buffer[:size])
            size += got
        return memoryview(self._buffer)[:size]

    def _whole(self, size: int) -> bool:
        """Whether that many bytes in the buffer are a reply."""
        end = self._buffer.find(b"\r\n\r\n", 0, size)
        if end < 0:
            return False
        said = LENGTH.search(self._buffer, 0, end)
        if said is None:
            return self._buffer.endswith(b"\r\n0\r\n\r\n", 0, size)
        return size == end + 4 + int(said[1])

    def close(self) -> None:
        self._socket.close()


def body_of(reply: bytes) -> bytes:
    head, _, rest = reply.partition(b"\r\n\r\n")
    if LENGTH.search(head):
        return rest
    pieces = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            return b"".join(pieces)
        pieces.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]


def over_http(url: str, bodies: Sequence[bytes], connections: int, size: int, source: str) -> float:
    """Rows per second; every reply is whole, and its first one's rows come from where they should.

    New rows are asked for once, rows that are kept for ``ROUND_S`` seconds.
    """
    opened = [Connection(url) for _ in range(connections)]
    first = bytes(opened[0].ask(bodies[0])) if source == "hit" else None

    def ask(place: int) -> int:
        own, answered = bodies[place::connections], 0
        for body in own if first is None else itertools.cycle(own):
            if first is not None and time.perf_counter() > began + ROUND_S:
                break
            reply = opened[place].ask(body)
            assert reply[:12] == b"HTTP/1.1 200", bytes(reply[:500])
            assert b"complete" in bytes(reply[-1024:]), bytes(reply[-200:])
            answered += 1
        return answered

    with ThreadPoolExecutor(connections) as pool:
        began = time.perf_counter()
        answered = sum(pool.map(ask, range(connections)))
        found = answered * size / (time.perf_counter() - began)
    reply = first or bytes(opened[0].ask(bodies[-1]))
    *groups, closing = wire.read_reply(body_of(reply))[1]
    assert closing == wire.Closing(size, 0)
    if first:
        assert {one for group in groups for one in group.sources} == {source}
    for one in opened:
        one.close()
    return found


@contextmanager
def served(folder: Path, cache: str, workers: int = 1) -> Iterator[str]:
    config = folder / f"{abs(hash(cache))}.yaml"
    config.write_text(
        f"server: {{port: 0, workers: {workers}}}\ncache: {cache}\n" + (folder / "bench.yaml").read_text()
    )
    command = [sys.executable, "-m", "service", "serve", str(config)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split(" listening on ")[1].strip()
    finally:
        server.terminate()
        server.wait()


def bodies_of(teachers: TeacherSet, rows: np.ndarray, size: int) -> tuple[list[bytes], list[bytes]]:
    """Requests of rows, and of their digests."""
    spec = {"x": wire.TensorSpec("<f4", teachers.shape)}
    whole, digests = [], []
    for start in range(0, len(rows), size):
        part = {"x": rows[start : start + size]}
        ids = wire.default_row_ids(size)
        whole.append(wire.encode_request(part, ids))
        digests.append(wire.encode_digests(wire.row_digests(part, spec), ids))
    return whole, digests


def measure(name: str, shape: str, rounds: int, workers: int) -> dict[str, list[float]]:
    teachers, (size, connections) = SETS[name], SHAPES[shape]
    ratios: dict[str, list[float]] = {kind: [] for kind in SAYS}
    with ExitStack() as open_:
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory()))
        written(teachers, folder)
        path = open_.enter_context(running_redis())
        off = open_.enter_context(served(folder, '{url: "memory://?max_bytes=1"}', workers))
        behind = f'{{url: "unix://{path}?db=0", l1_bytes: 0, call_timeout_ms: 5000}}'
        remote = open_.enter_context(served(folder, behind, workers))
        memory = open_.enter_context(served(folder, '{url: "memory://?max_bytes=2GiB"}'))
        batches = [rows_of(teachers, 128, seed) for seed in range(4)]
        runs = limit_runs(teachers, batches, logs=True)
        speed = 128 * rate(runs[1][0], 8, runs[1][1])
        count = min(128 * 64, max(2, int(ROUND_S * speed / 128)) * 128)
        count = min(count, 2048 if size == 1 else SET_BYTES // (4 * teachers.classes) // 128 * 128)
        ask = partial(over_http, connections=connections, size=size)
        for number in range(rounds):
            rows = rows_of(teachers, count, 1000 + number)
            whole, digests = bodies_of(teachers, rows, size)
            limit = max(128 * rate(run, max(2, count // 128), in_flight) for run, in_flight in runs)
            for kind, server, bodies in (
                ("off", off, whole),
                ("cold", remote, whole),
                ("redis", remote, whole),
                ("digest", remote, digests),
                ("memory", memory, whole),
            ):
                if kind == "memory":
                    ask(server, whole, source="miss")
                if kind == "redis":
                    time.sleep(1.0)  # what is written behind the replies
                ratios[kind].append(ask(server, bodies, source=SAYS[kind]) / limit)
    return ratios


def shown(values: Sequence[float]) -> str:
    digits = 2 if statistics.median(values) < 10 else 0  # noqa: PLR2004 - that is enough of them
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f} - {max(values):.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="SMV")
    parser.add_argument("--shape", default="b128", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="of the servers that do not keep in memory")
    asked: Any = parser.parse_args()
    print(
        f"{os.cpu_count()} CPUs, {asked.rounds} rounds, {asked.shape}, {asked.workers} workers: "
        "rows per second over the merged graph"
    )
    print("| | cache off | new, written to Redis | from Redis | from Redis by digest | from memory |")
    print("|---|---|---|---|---|---|")
    for name in asked.sets:
        ratios = measure(name, asked.shape, asked.rounds, asked.workers)
        print(f"| {name} | " + " | ".join(map(shown, ratios.values())) + " |", flush=True)


if __name__ == "__main__":
    main()
