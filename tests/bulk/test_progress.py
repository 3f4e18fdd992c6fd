"""Progress: a bar for people who watch, lines for logs, and both say the same."""

import asyncio
import io
import re

import pytest
from rich.console import Console

from service.bulk.progress import Bar, Lines, shown, told, view
from service.bulk.tally import Tally


def tally():
    return Tally(1000, done=400, before=100, hits=50, computed=240, failed=10, unkept=3)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_what_is_told():
    assert told(tally(), 10) == (
        "30 rows/s, 100 done before, 50 hits, 240 computed, 10 failed, 3 not to be kept"
    )
    assert told(Tally(10), 0) == "0 rows/s, 0 hits, 0 computed, 0 failed"


def test_a_line_every_ten_seconds():
    stream, clock = io.StringIO(), Clock()
    lines = Lines("prefill", stream, clock)
    for seconds in (0, 9.9, 10, 10.1, 19.9, 20.1):
        clock.now = 100 + seconds
        lines.show(tally(), "" if seconds < 20 else "the cache does not answer")
    lines.close()
    counts = "100 done before, 50 hits, 240 computed, 10 failed, 3 not to be kept"
    assert stream.getvalue() == (
        f"prefill: 400/1000 rows, 30 rows/s, {counts}, 20 s left\n"
        f"prefill: 400/1000 rows, 15 rows/s, {counts}, 40 s left; the cache does not answer\n"
    )


def test_nothing_is_foretold_of_what_has_not_begun():
    stream, clock = io.StringIO(), Clock()
    lines = Lines("prefill", stream, clock)
    clock.now += 11
    lines.show(Tally(1000, done=100, before=100), "")
    assert stream.getvalue() == (
        "prefill: 100/1000 rows, 0 rows/s, 100 done before, 0 hits, 0 computed, 0 failed\n"
    )


def test_a_bar_says_the_same():
    stream, clock = io.StringIO(), Clock()
    bar = Bar("prefill", Console(file=stream, force_terminal=True, width=200), clock)
    clock.now += 10
    bar.show(tally(), "the cache does not answer")
    bar.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "prefill: the cache does not answer" in text
    assert "400/1000" in text
    assert "30 rows/s, 100 done before, 50 hits, 240 computed, 10 failed" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_for_terminals_only(terminal):
    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    one = view("prefill", Stream())
    assert isinstance(one, Bar if terminal else Lines)
    one.close()


class Seen:
    def __init__(self):
        self.seen = []
        self.first = asyncio.Event()

    def show(self, one, status):
        self.seen.append((one.done, status))
        self.first.set()

    def close(self):
        self.seen.append("closed")


async def test_a_tally_is_shown_while_something_is_done_and_once_more_at_its_end():
    on, one = Seen(), Tally(10)
    async with shown(on, one, lambda: ["late", "later"]):
        await on.first.wait()
        one.done = 10
    assert on.seen == [(0, "late; later"), (10, ""), "closed"]


async def test_a_failure_closes_it_too():
    on = Seen()
    with pytest.raises(ZeroDivisionError):
        async with shown(on, Tally(10), list):
            raise ZeroDivisionError
    assert on.seen[-1] == "closed"
