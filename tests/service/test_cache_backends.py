"""One battery over everything that keeps values: what a cache promises, whichever it is."""

import asyncio
import hashlib
import os

import pytest

from service.cache.breaker import Breaker
from service.cache.lmdb import LmdbCache
from service.cache.memory import MemoryCache
from service.cache.redis import RedisCache
from service.cache.store import Store
from service.config.cache import read_url
from service.keys import cache_key

KINDS = ["lmdb", "redis", "unix"]
MIB = 1 << 20


def key(number):
    return cache_key("ab" * 32, number.to_bytes(32, "big"))


class Clock:
    """A wall clock that the test moves; where that cannot be done, waiting does."""

    def __init__(self):
        self.now = 1e9

    def __call__(self):
        return self.now


class OverStore:
    """A store behind the contract of a backend: what is put has been written when the call returns."""

    def __init__(self, store):
        self.store = store
        self.get_many, self.close = store.get_many, store.close

    async def set_many(self, items):
        self.store.put_many(items)
        await self.store.flush()


@pytest.fixture(params=["memory", *KINDS, *(f"{kind} in a store" for kind in KINDS)])
def make(request, tmp_path):
    """Makes the cache under test; the second level alone answers where there are two."""
    clock = Clock()

    def backend(kind, ttl_s):
        if kind == "lmdb":
            return LmdbCache(tmp_path / "cache", max_bytes=64 * MIB, ttl_s=ttl_s, clock=clock)
        server = request.getfixturevalue("redis_server")
        url = server.url if kind == "redis" else server.unix_url
        # Patient, because other tests may keep the machine busy; faults have tests of their own.
        return RedisCache(read_url(url), password=None, ttl_s=ttl_s, call_timeout_s=20)

    def make_one(ttl_s=60):
        kind, _, stored = request.param.partition(" in ")
        if kind == "memory":
            return OverStore(Store(MemoryCache(max_bytes=64 * MIB, ttl_s=ttl_s, clock=clock)))
        made = backend(kind, ttl_s)
        if not stored:
            return made
        return OverStore(
            Store(MemoryCache(max_bytes=0, ttl_s=1), Breaker(made, failures=1, retry_s=60), name=kind)
        )

    make_one.clock = clock
    make_one.waits = "redis" in request.param or "unix" in request.param
    return make_one


@pytest.fixture
async def cache(make):
    made = make()
    yield made
    await made.close()


async def test_what_was_put_comes_back_in_the_order_of_the_keys(cache):
    await cache.set_many({key(1): b"one", key(2): b"two", key(3): b""})
    assert await cache.get_many([key(2), key(9), key(3), key(1), key(2)]) == [
        b"two",
        None,
        b"",
        b"one",
        b"two",
    ]


async def test_nothing_is_asked_for_and_nothing_is_put(cache):
    await cache.set_many({})
    assert await cache.get_many([]) == []


async def test_the_first_value_stays(cache):
    await cache.set_many({key(1): b"first"})
    await cache.set_many({key(1): b"second", key(2): b"other"})
    assert await cache.get_many([key(1), key(2)]) == [b"first", b"other"]


async def test_any_bytes_are_kept_as_they_are(cache):
    values = [bytes(range(256)), b"\r\n$-1\r\n", b"\x00", b"*0\r\n" * 99, os.urandom(70_000), b"+OK\r\n"]
    await cache.set_many({key(number): value for number, value in enumerate(values)})
    assert await cache.get_many([key(number) for number in range(len(values))]) == values


async def test_large_values(cache):
    values = {key(number): hashlib.sha256(bytes([number])).digest() * (2 * MIB // 32) for number in range(5)}
    await cache.set_many(values)
    assert await cache.get_many(list(values)) == list(values.values())
    # After values of that size few keys are asked for at a time; the rest comes all the same.
    await cache.set_many({key(number): b"small" for number in range(100, 160)})
    assert await cache.get_many([key(number) for number in range(90, 160)]) == [None] * 10 + [b"small"] * 60


async def test_many_keys_at_once(cache):
    items = {key(number): b"%d" % number for number in range(5000)}
    await cache.set_many(items)
    backwards = list(items)[::-1]
    assert await cache.get_many(backwards) == [items[one] for one in backwards]


async def test_many_callers_at_once(cache):
    await cache.set_many({key(number): b"%d" % number for number in range(640)})

    async def ask(start):
        numbers = range(start, start + 10)
        assert await cache.get_many([key(number) for number in numbers]) == [b"%d" % n for n in numbers]

    async with asyncio.TaskGroup() as callers:
        for start in range(0, 630, 7):
            callers.create_task(ask(start))


async def test_a_caller_that_gives_up_leaves_the_others_their_own_answers(cache):
    await cache.set_many({key(number): b"%d" % number * 1000 for number in range(200)})
    callers = [
        asyncio.create_task(cache.get_many([key(number), key(number + 1)])) for number in range(0, 200, 2)
    ]
    await asyncio.sleep(0)
    for caller in callers[::3]:
        caller.cancel()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    for number, answer in zip(range(0, 200, 2), answers, strict=True):
        if not isinstance(answer, asyncio.CancelledError):
            assert answer == [b"%d" % number * 1000, b"%d" % (number + 1) * 1000]
    assert sum(isinstance(answer, list) for answer in answers) >= 66


async def test_values_expire_and_others_take_their_place(make):
    cache = make(ttl_s=0.05 if make.waits else 10)
    await cache.set_many({key(1): b"first"})
    if make.waits:
        for _ in range(1000):
            if await cache.get_many([key(1)]) == [None]:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("after ten seconds it is still there")
    else:
        make.clock.now += 9
        assert await cache.get_many([key(1)]) == [b"first"]
        make.clock.now += 2
        assert await cache.get_many([key(1)]) == [None]
    if make.waits:
        await cache.close()
        cache = make()
    await cache.set_many({key(1): b"second"})
    assert await cache.get_many([key(1)]) == [b"second"]
    await cache.close()


async def test_what_is_deleted_makes_place_for_another(cache):
    if isinstance(cache, OverStore):
        return  # it deletes by itself what it finds to be no good
    await cache.set_many({key(1): b"first", key(2): b"stays"})
    await cache.delete_many([key(1), key(9)])
    await cache.delete_many([])
    assert await cache.get_many([key(1), key(2)]) == [None, b"stays"]
    await cache.set_many({key(1): b"second"})
    assert await cache.get_many([key(1)]) == [b"second"]


async def test_it_can_be_closed_twice_and_unused(make):
    unused = make()
    await unused.close()
    cache = make()
    await cache.set_many({key(1): b"one"})
    await cache.close()
    await cache.close()
