"""Whether a server that is pressed for long stays as it is: its memory, and its open files.

    make soak                     # an hour; SOAK_S=60 make soak for less

The real server on deploy/ensembles, with a cache that is too small for what is asked: new rows, rows that are
kept, sparse targets, JSON, digests, clients that leave in the middle of a question or of an answer, and the
ensemble loaded anew again and again. After a third of the time it has its size. It exits with 1 if its
resident memory grows by 5 % or more from there to the end, or if its open descriptors do at all; of these the
least number of each time is compared, because connections come and go.
"""

import asyncio
import itertools
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx2
import numpy as np
from running import running_server

from soft_targets import wire

PATH = "/v1/ensembles/digits"
SPECS = {"pixels": wire.TensorSpec("<f4", (64,))}
GROWTH = 0.05
ASKERS, ROWS, KNOWN = 4, 64, 32
PAUSE_S = float(os.environ.get("SOAK_PAUSE_S", "0.02"))  # of an asker, between two questions
SAMPLES = 60
RELOADS = 20


class Sample(NamedTuple):
    """What the process has at a moment."""

    seconds: float
    rss_bytes: int
    descriptors: int
    threads: int


def sample(pid: int, seconds: float) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    rss, threads = (int(status.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "Threads"))
    return Sample(seconds, rss * 1024, len([*Path(f"/proc/{pid}/fd").iterdir()]), threads)


def judge(samples: Sequence[Sample]) -> list[str]:
    """What has grown, from the second third of the time to the last sixth of it."""
    warm = samples[len(samples) // 3 : len(samples) // 2]
    last = samples[-max(1, len(samples) // 6) :]
    found = []
    before, after = (statistics.median(one.rss_bytes for one in some) for some in (warm, last))
    if after >= before * (1 + GROWTH):
        found.append(f"memory grew by {after / before - 1:.1%}, from {before / 2**20:.0f} MiB")
    least, now = (min(one.descriptors for one in some) for some in (warm, last))
    if now > least:
        found.append(f"open descriptors grew from {least} to {now}")
    return found


class Asker:
    """Asks one question after the other, each of another kind, and checks what comes."""

    def __init__(self, url: str, place: int) -> None:
        self.url = url
        self.random = np.random.default_rng(place)
        self.known = [self.rows() for _ in range(KNOWN)]
        self.asked = 0

    def rows(self, count: int = ROWS) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return self.random.random((count, 64), dtype=np.float32)

    async def run(self, until: float) -> None:
        kinds = itertools.cycle([self.new, self.kept, self.sparse, self.json, self.digests, self.leave])
        async with httpx2.AsyncClient(base_url=self.url, timeout=60) as self.client:
            while time.monotonic() < until:
                await next(kinds)()
                self.asked += 1
                await asyncio.sleep(PAUSE_S)

    def some(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return self.known[self.random.integers(KNOWN)]

    async def ask(self, body: bytes, recipe: str = "default") -> None:
        headers = {"Content-Type": wire.ARROW}
        reply = await self.client.post(f"{PATH}/soft-targets?recipe={recipe}", content=body, headers=headers)
        reply.raise_for_status()
        *_, closing = wire.read_reply(reply.content)[1]
        assert closing == wire.Closing(ROWS, 0), closing

    async def new(self) -> None:
        await self.ask(body_of(self.rows()))

    async def kept(self) -> None:
        await self.ask(body_of(self.some()))

    async def sparse(self) -> None:
        await self.ask(body_of(self.some()), "sparse")

    async def json(self) -> None:
        asked = {"inputs": {"pixels": self.rows(4).tolist()}}
        reply = await self.client.post(f"{PATH}/soft-targets", json=asked)
        assert len(reply.raise_for_status().json()["targets"]) == 4  # noqa: PLR2004

    async def digests(self) -> None:
        digests = wire.row_digests({"pixels": self.some()}, SPECS)
        await self.ask(wire.encode_digests(digests, wire.default_row_ids(ROWS)))

    async def leave(self) -> None:
        """A connection that is closed before the question, or the answer, is whole."""
        place, body = urlsplit(self.url), body_of(self.rows())
        _, writer = await asyncio.open_connection(place.hostname, place.port)
        head = f"POST {PATH}/soft-targets HTTP/1.1\r\nHost: h\r\nContent-Type: {wire.ARROW}\r\n"
        sent = body if self.random.random() < 0.5 else body[: len(body) // 2]  # noqa: PLR2004
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + sent)
        await writer.drain()
        writer.transport.abort()


def body_of(rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    return wire.encode_request({"pixels": rows}, wire.default_row_ids(len(rows)))


async def soak(url: str, pid: int, seconds: float) -> list[Sample]:
    """Press a server for so long; what it had meanwhile."""
    began = time.monotonic()
    until = began + seconds

    async def reload() -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            while time.monotonic() + seconds / RELOADS < until:
                await asyncio.sleep(seconds / RELOADS)
                (await client.post(f"{PATH}/reload")).raise_for_status()

    async def watch() -> list[Sample]:
        found = []
        while (now := time.monotonic()) < until:
            found.append(sample(pid, now - began))
            if len(found) % (SAMPLES // 12) == 1:
                one = found[-1]
                print(f"{one.seconds:8.0f} s {one.rss_bytes / 2**20:8.1f} MiB "
                      f"{one.descriptors:6} descriptors {one.threads:5} threads", flush=True)  # fmt: skip
            await asyncio.sleep(seconds / SAMPLES)
        return found

    askers = [Asker(url, place) for place in range(ASKERS)]
    async with asyncio.TaskGroup() as tasks:
        watched = tasks.create_task(watch())
        tasks.create_task(reload())
        for asker in askers:
            tasks.create_task(asker.run(until))
    print(f"{sum(asker.asked for asker in askers)} questions")
    return watched.result()


def main() -> int:
    with running_server("memory://?max_bytes=1MiB") as (url, pid):
        grown = judge(asyncio.run(soak(url, pid, float(os.environ.get("SOAK_S", "3600")))))
    print("\n".join(grown) or "nothing has grown")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
