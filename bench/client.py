"""The student's side against what it stands on: how long a loop stalls, what it sends, what the client adds.

make bench-client

The teachers are those of `bench/sets.py`, the server is a process of its own on the same processors, with its
answers in memory. Five questions, in interleaved rounds:

stall: a loop over `distill` with batches of 128 rows and a step that sleeps 20 ms, new rows and rows that are
kept: the share of its time that it waits (`Stats.stall`, the first batch included), and its time over that of
the same loop over bare batches.

upload: rows of 3 KB, sent for the first time and from then on: bytes of the later epoch over the first's, as
`Stats.sent_bytes` counts them and as they pass a socket on the way to the server, HTTP included.

answer: one request of 128 kept rows at a time, asked for by digest: the time of `Client.soft_targets` over
that of a bare httpx2 client that posts a finished body and reads the reply; what of it reading the reply and
joining its rows takes, and what hashing and encoding them does.

decoding: two threads fetch kept rows, and either drop the answers or read and join them: what that adds to
the time, between processes of this machine and over a link of 1 Gbit/s (a relay that holds replies back).

rate: rows per second of a loop without a step over those of bare sockets that send finished bodies and look
at nothing (`bench/server.py`), both on two connections.

Medians and ranges are printed; absolute figures of a shared machine mean little.
"""

import argparse
import os
import platform
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import numpy as np
from server import PATH, bodies_of, over_http, served, shown
from sets import SETS, rows_of, written

from soft_targets import Client, Stats, wire
from soft_targets.exchange import Array, Join, Part, prepare

BATCH, STEP_S, STEPS = 128, 0.02, 150
MEMORY = '{url: "memory://?max_bytes=2GiB"}'
UPLOADED = 40  # batches
ASKED_S = 1.0  # of requests of each kind in a round
WARM_UP = 3
LINK_BYTES_PER_S = 125e6
LIBRARIES = ("numpy", "pyarrow", "httpx2", "blake3", "onnxruntime")


def batches_of(rows: Array) -> list[Array]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def epoch(client: Client, batches: Sequence[Array], *, step_s: float = 0.0) -> tuple[float, Stats]:
    """Once through a loop: its seconds, and what it did."""
    stream = client.distill(batches, inputs=lambda batch: {"x": batch})
    began = time.perf_counter()
    for batch, targets in stream:
        assert len(batch) == len(targets)
        if step_s:
            time.sleep(step_s)
    return time.perf_counter() - began, stream.stats


# ------------------------------------------------------------------------------------------------------ stall


def stall(rounds: int) -> Iterator[str]:
    """A line for the set whose new rows the server keeps up with, and one for kept rows of each set."""
    for name, cold in (("S", True), ("M", False)):
        found: dict[str, list[tuple[float, float]]] = {"new": [], "kept": []}
        with serving(name) as url:
            for number in range(rounds):
                count = STEPS * BATCH if cold else 16 * BATCH
                batches = batches_of(rows_of(SETS[name], count, 1000 + number))
                batches = [batches[place % len(batches)] for place in range(STEPS)]
                bare_s = bare_loop(batches)
                with Client(url, ensemble="bench") as client:
                    for kind in ("new", "kept"):
                        took_s, stats = epoch(client, batches, step_s=STEP_S)
                        found[kind].append((stats.stall, took_s / bare_s))
                        if kind == "kept":
                            assert stats.hit_rate == 1, stats
        for kind, values in found.items():
            if cold or kind == "kept":
                shares, times = zip(*values, strict=True)
                yield f"| {name}, {kind} rows | {percent(shares)} | {shown(times)} |"


def bare_loop(batches: Sequence[Array]) -> float:
    began = time.perf_counter()
    for _ in batches:
        time.sleep(STEP_S)
    return time.perf_counter() - began


# ----------------------------------------------------------------------------------------------------- upload


class Relay:
    """Passes bytes on, counts those to the server, and lets those to the client through at a rate."""

    def __init__(self, url: str, *, reply_bytes_per_s: float = float("inf")) -> None:
        parts = urlsplit(url)
        self._upstream = (parts.hostname, parts.port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.sent_bytes = 0
        self._bytes_per_s, self._free_at, self._lock = reply_bytes_per_s, 0.0, threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(self._upstream)
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, here: socket.socket, there: socket.socket, counted: bool) -> None:  # noqa: FBT001 - an argument of a thread
        # Either side's end is the connection's: HTTP/1.1 has no use for half of one.
        with here, there, suppress(OSError):
            while data := here.recv(1 << 16):
                if counted:
                    self.sent_bytes += len(data)
                else:
                    with self._lock:
                        now = time.perf_counter()
                        self._free_at = max(now, self._free_at) + len(data) / self._bytes_per_s
                    time.sleep(self._free_at - now)
                there.sendall(data)


def upload(rounds: int) -> Iterator[str]:
    said, counted = [], []
    with serving("S") as url:
        relay = Relay(url)
        for number in range(rounds):
            batches = batches_of(rows_of(SETS["S"], UPLOADED * BATCH, 2000 + number))
            with Client(relay.url, ensemble="bench") as client:
                sent, passed = [], []
                for _ in range(3):
                    before = relay.sent_bytes
                    sent.append(epoch(client, batches)[1].sent_bytes)
                    passed.append(relay.sent_bytes - before)
                said += [one / sent[0] for one in sent[1:]]
                counted += [one / passed[0] for one in passed[1:]]
        relay.close()
    yield f"| {SETS['S'].shape[0] * 4} bytes a row | {percent(said)} | {percent(counted)} |"


# ----------------------------------------------------------------------------------------------------- answer


def answer(rounds: int) -> Iterator[str]:
    for name in ("M", "V"):
        yield ratios_of_answers(name, rounds)


def ratios_of_answers(name: str, rounds: int) -> str:
    teachers = SETS[name]
    rows = rows_of(teachers, BATCH, 3000)
    [whole], [digests] = bodies_of(teachers, rows, BATCH)
    headers = {"Content-Type": wire.ARROW, "Accept": wire.ARROW, "Accept-Encoding": "identity"}
    ratios: list[list[float]] = []
    with (
        serving(name) as url,
        httpx2.Client(base_url=url) as bare,
        Client(url, ensemble="bench", digest_first="always") as client,
    ):

        def ask(body: bytes) -> bytes:
            reply = bare.post(PATH, content=body, headers=headers)
            assert reply.status_code == httpx2.codes.OK, reply.text
            return reply.content

        ask(whole)
        reply, classes = ask(digests), tuple(client.info()["classes"])
        digest = wire.classes_digest(classes)
        specs = {"x": wire.TensorSpec("<f4", teachers.shape)}
        runs: list[Callable[[], object]] = [
            lambda: ask(digests),
            lambda: client.soft_targets({"x": rows}),
            lambda: joined(reply, classes, digest),
            lambda: encoded(rows, specs),
        ]
        for _ in range(rounds):
            bare_s, *others = interleaved(runs)
            ratios.append([one / bare_s for one in others])
        assert client.stats.hit_rate == 1, client.stats
    columns = [shown(column) for column in zip(*ratios, strict=True)]
    return f"| {name}, {teachers.classes} classes, {len(reply)} bytes | {' | '.join(columns)} |"


def joined(reply: bytes, classes: tuple[str, ...], digest: str) -> object:
    join = Join(list(range(BATCH)), classes, classes_digest=digest, agree=lambda _: None)
    join.add(Part(np.arange(BATCH), 0), reply)
    return join.finish(keep_errors=False)


def encoded(rows: Array, specs: dict[str, wire.TensorSpec]) -> bytes:
    prepared = prepare({"x": rows}, specs, row_ids=None)
    part = Part(np.arange(BATCH), 0)
    return wire.encode_digests(wire.row_digests(prepared.arrays, specs), part.wire_ids)


def interleaved(runs: Sequence[Callable[[], object]]) -> list[float]:
    """The median seconds of each, run by turns."""
    took: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + ASKED_S * len(runs)
    while time.perf_counter() < end or len(took[0]) < 2 * WARM_UP:
        for run, times in zip(runs, took, strict=True):
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
    return [statistics.median(times[WARM_UP:]) for times in took]


# --------------------------------------------------------------------------------------------------- decoding


def decoding(rounds: int) -> Iterator[str]:
    for name, count in (("S", 64), ("M", 64), ("V", 8)):
        with serving(name) as url:
            relay = Relay(url, reply_bytes_per_s=LINK_BYTES_PER_S)
            whole, digests = bodies_of(SETS[name], rows_of(SETS[name], count * BATCH, 5000), BATCH)
            for kind, bodies in (("sent whole", whole), ("by digest", digests)):
                columns = [shown(added(at, bodies, rounds)) for at in (url, relay.url)]
                yield f"| {name}, {kind} | {' | '.join(columns)} |"
            relay.close()


def added(url: str, bodies: Sequence[bytes], rounds: int) -> list[float]:
    """The time of fetching and decoding over that of fetching, in each round."""
    headers = {"Content-Type": wire.ARROW, "Accept": wire.ARROW, "Accept-Encoding": "identity"}
    with httpx2.Client(base_url=url) as bare, Client(url, ensemble="bench") as client:
        classes = tuple(client.info()["classes"])
        digest = wire.classes_digest(classes)

        def fetch(body: bytes) -> bytes:
            reply = bare.post(PATH, content=body, headers=headers)
            assert reply.status_code == httpx2.codes.OK, reply.text
            return reply.content

        def both(body: bytes) -> object:
            return joined(fetch(body), classes, digest)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(fetch, bodies))
            ratios = []
            for _ in range(2 * rounds):
                fetched, read = [], []
                # By turns, so that what disturbs one disturbs the other.
                for _ in range(4):
                    for run, times in ((fetch, fetched), (both, read)):
                        began = time.perf_counter()
                        for _ in pool.map(run, bodies):
                            pass
                        times.append(time.perf_counter() - began)
                ratios.append(sum(read) / sum(fetched))
    return ratios


# ------------------------------------------------------------------------------------------------------- rate


def rate(rounds: int) -> Iterator[str]:
    for name, count in (("S", 256), ("M", 64), ("V", 8)):
        teachers = SETS[name]
        rows = rows_of(teachers, count * BATCH, 4000)
        batches = batches_of(rows)
        whole, digests = bodies_of(teachers, rows, BATCH)
        ratios: dict[str, list[float]] = {"never": [], "always": []}
        with serving(name) as url:
            over_http(url, whole, 2, BATCH, "miss")
            for _ in range(rounds):
                for digest_first, bodies in (("never", whole), ("always", digests)):
                    limit = over_http(url, bodies, 2, BATCH, "hit")
                    with Client(url, ensemble="bench", digest_first=digest_first) as client:  # type: ignore[arg-type]
                        client.info()
                        took_s, stats = epoch(client, batches)
                    assert stats.hit_rate == 1, stats
                    ratios[digest_first].append(len(rows) / took_s / limit)
        yield f"| {name}, kept rows | {shown(ratios['never'])} | {shown(ratios['always'])} |"


# ----------------------------------------------------------------------------------------------------- report


@contextmanager
def serving(name: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        written(SETS[name], Path(folder))
        with served(Path(folder), MEMORY) as url:
            yield url


def percent(shares: Sequence[float]) -> str:
    low, middle, high = min(shares), statistics.median(shares), max(shares)
    return f"{100 * middle:.2f} % [{100 * low:.2f} - {100 * high:.2f}]"


PARTS: dict[str, tuple[str, Callable[[int], Iterator[str]]]] = {
    "stall": (f"steps of {1000 * STEP_S:.0f} ms | waits | time over that of the bare loop", stall),
    "upload": ("epochs after the first, over the first | bytes as counted | bytes on the socket", upload),
    "answer": (
        "over a bare client | Client.soft_targets | reading and joining | hashing and encoding",
        answer,
    ),
    "decoding": ("fetching and decoding over fetching | on this machine | at 1 Gbit/s", decoding),
    "rate": ("rows per second over bare sockets | rows sent whole | by digest", rate),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=PARTS, action="append")
    asked = parser.parse_args()
    used = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    print(f"{os.cpu_count()} CPUs, {asked.rounds} rounds; Python {platform.python_version()}, {used}")
    for name in asked.only or PARTS:
        title, measure = PARTS[name]
        print(f"\n| {title} |\n|{'---|' * (title.count('|') + 1)}")
        for line in measure(asked.rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
