import asyncio

import pytest

from service.cache.breaker import PROBE, Breaker
from service.errors import CacheRefused, CacheTimeout, CacheUnavailable


class Moody:
    """A cache that fails as it is told."""

    def __init__(self):
        self.error = None
        self.asked = []

    async def get_many(self, keys):
        self.asked.append(list(keys))
        if self.error:
            raise self.error
        return [None] * len(keys)

    async def set_many(self, items):
        await self.get_many(items)

    delete_many = set_many

    async def close(self):
        self.closed = True


class Turns:
    """In place of ``asyncio.sleep``: the test says when the time is over."""

    def __init__(self):
        self.waits = asyncio.Queue()

    async def __call__(self, seconds):
        over = asyncio.Event()
        self.waits.put_nowait((seconds, over))
        await over.wait()

    async def next(self):
        """Let the time pass that is waited for, and see until it is waited again or never more."""
        seconds, over = await self.waits.get()
        over.set()
        for _ in range(10):
            await asyncio.sleep(0)
        return seconds


@pytest.fixture
def moody():
    return Moody()


@pytest.fixture
def turns():
    return Turns()


@pytest.fixture
async def breaker(moody, turns):
    made = Breaker(moody, failures=3, retry_s=5, sleep=turns)
    yield made
    await made.close()


async def fails(breaker, times=1):
    for _ in range(times):
        with pytest.raises(CacheUnavailable):
            await breaker.get_many([b"a"])


async def test_after_so_many_failures_in_a_row_it_is_left_alone(breaker, moody):
    moody.error = CacheUnavailable("gone")
    await fails(breaker, 2)
    moody.error = None
    await breaker.get_many([b"a"])
    assert breaker.reason is None
    moody.error = CacheUnavailable("gone again")
    await fails(breaker, 9)
    assert len(moody.asked) == 3 + 3
    assert breaker.reason == "gone again"
    with pytest.raises(CacheUnavailable, match="gone again"):
        await breaker.set_many({b"a": b"1"})
    with pytest.raises(CacheUnavailable, match="gone again"):
        await breaker.delete_many([b"a"])


async def test_one_call_that_overruns_is_enough(breaker, moody):
    moody.error = CacheTimeout("late")
    await fails(breaker, 9)
    assert len(moody.asked) == 1


async def test_it_is_asked_again_by_nobody_who_waits_and_found_to_be_back(breaker, moody, turns):
    moody.error = CacheTimeout("late")
    await fails(breaker)
    moody.asked.clear()
    moody.error = CacheUnavailable("still gone")
    assert await turns.next() == 5
    assert await turns.next() == 5
    assert moody.asked == [[PROBE], [PROBE]]
    await fails(breaker)
    assert breaker.reason == "still gone"
    moody.error = None
    await turns.next()
    assert breaker.reason is None
    assert await breaker.get_many([b"a"]) == [None]
    assert moody.asked == [[PROBE], [PROBE], [PROBE], [b"a"]]
    assert turns.waits.empty()


async def test_a_lone_failure_is_looked_after_too(breaker, moody, turns):
    moody.error = CacheUnavailable("hiccup")
    await fails(breaker)
    assert breaker.reason == "hiccup"
    moody.error = None
    await turns.next()
    assert breaker.reason is None


async def test_it_opens_again_after_it_was_back(breaker, moody, turns):
    for _ in range(3):
        moody.error = CacheTimeout("late")
        await fails(breaker, 2)
        moody.error = None
        await turns.next()
        await breaker.set_many({b"a": b"1"})
    assert [asked for asked in moody.asked if asked == [PROBE]] == [[PROBE]] * 3


async def test_what_keeps_nothing_new_is_still_read(breaker, moody):
    moody.error = CacheRefused("full")
    for _ in range(9):
        with pytest.raises(CacheRefused):
            await breaker.set_many({b"a": b"1"})
    moody.error = None
    assert await breaker.get_many([b"a"]) == [None]
    assert breaker.reason is None


async def test_an_error_that_nobody_thought_of_does_not_end_the_asking(breaker, moody, turns):
    moody.error = CacheTimeout("late")
    await fails(breaker)
    moody.error = RuntimeError("a bug")
    await turns.next()
    moody.error = None
    await turns.next()
    assert breaker.reason is None


async def test_closing_ends_the_asking(moody, turns):
    breaker = Breaker(moody, failures=3, retry_s=5, sleep=turns)
    moody.error = CacheUnavailable("gone")
    await fails(breaker)
    await breaker.close()
    await breaker.close()
    assert moody.closed
    assert asyncio.all_tasks() == {asyncio.current_task()}
