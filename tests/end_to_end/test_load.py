"""A server under more than it can do: what is taken in is answered in time, the rest is told so at once."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from connections import connect

from soft_targets.wire import ARROW, Closing, default_row_ids, encode_request, read_reply

CONFIG = """\
server: {port: 0}
limits: {max_rows_per_request: 256, max_rows_in_flight: 256}
cache: {url: "memory://?max_bytes=1MiB"}
ensembles:
  small:
    classes: [a, b, c]
    teachers:
      - {name: one, model: "fake://?classes=3&features=4&delay_ms=100", output: {kind: logits}}
    batching: {max_rows: 128, in_flight: 2, threads: 1}
    recipes: {default: {operator: linear}}
  wide:
    classes: {file: classes.txt}
    teachers:
      - {name: one, model: "fake://?classes=16384&features=4", output: {kind: logits}}
    batching: {max_rows: 128, in_flight: 2, threads: 1}
    recipes: {default: {operator: linear}}
"""
SMALL, WIDE = "/v1/ensembles/small/soft-targets", "/v1/ensembles/wide/soft-targets"
ROWS = 128  # a batch
PRESSING = 20  # connections, where two have room


@pytest.fixture(scope="module")
def pressed(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("load")
    (folder / "classes.txt").write_text("\n".join(map(str, range(16_384))))
    (folder / "c.yaml").write_text(CONFIG)
    return start(folder / "c.yaml")


def rss(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def check(reply, rows):
    """Every row has its target, and the stream says that it is whole."""
    assert reply.status == 200, reply
    _, batches = read_reply(reply.body)
    *groups, last = batches
    assert last == Closing(rows, 0)
    assert sum(len(group.row_ids) for group in groups) == rows
    assert all(np.isfinite(group.log_probs).all() for group in groups)


class Student:
    """Asks for rows that nobody has asked for before, again as soon as there is an answer."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.taken, self.refused = [], []

    def body(self, rows=ROWS):
        x = self.random.normal(size=(rows, 4)).astype(np.float32)
        return encode_request({"x": x}, default_row_ids(rows))

    async def press(self, url, seconds):
        async with connect(url) as connection:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                began = time.monotonic()
                reply = await connection.post(SMALL, self.body(), ARROW)
                took = time.monotonic() - began
                if reply.status == 200:
                    check(reply, ROWS)
                    self.taken.append(took)
                else:
                    assert (reply.status, reply.headers["retry-after"]) == (503, "1"), reply
                    assert b'"queue_full"' in reply.body
                    self.refused.append(took)
                    await asyncio.sleep(0.02)


async def press(server, students, seconds):
    await asyncio.gather(*(student.press(server.url, seconds) for student in students))


async def test_ten_times_too_much_is_refused_at_once_and_the_rest_answered_as_if_alone(pressed):
    alone = Student(0)
    await press(pressed, [alone], 3)
    unloaded = np.quantile(alone.taken, 0.99)
    await press(pressed, [Student(seed) for seed in range(100, 100 + PRESSING)], 4)  # warms the server up
    before = rss(pressed)
    students = [Student(seed) for seed in range(1, 1 + PRESSING)]
    await press(pressed, students, 6)
    taken = [took for student in students for took in student.taken]
    refused = [took for student in students for took in student.refused]
    assert len(taken) > 60  # two at a time in six seconds, a tenth of a second each: all that it can do
    assert len(refused) > len(taken)
    assert np.quantile(taken, 0.99) <= 2 * unloaded
    assert np.median(refused) < 0.5 * unloaded
    assert rss(pressed) <= 1.05 * before


async def test_one_who_does_not_read_holds_nobody_else_up(pressed):
    async with connect(pressed.url) as slow, connect(pressed.url) as other:
        slow.writer.transport.pause_reading()
        slow.send(WIDE, Student(1000).body(200), ARROW)  # 13 MB of reply, more than sockets hold
        took = []
        for seed in range(1001, 1006):
            began = time.monotonic()
            check(await other.post(WIDE, Student(seed).body(50), ARROW), 50)
            took.append(time.monotonic() - began)
        assert max(took) < 5
        slow.writer.transport.resume_reading()
        check(await slow.reply(), 200)  # and it is all there
