"""Two levels and what is written behind: nothing is lost silently, nothing is ever raised."""

import asyncio
from dataclasses import asdict

import pytest

from service.cache import Counters
from service.cache.breaker import Breaker
from service.cache.memory import MemoryCache, cost_bytes
from service.cache.store import BATCH_BYTES, BATCH_KEYS, FLUSH_S, Store
from service.cache.values import seal
from service.errors import CacheRefused, CacheTimeout, CacheUnavailable


class Kept:
    """A backend whose bytes the test may see and spoil; it waits or fails as it is told."""

    def __init__(self):
        self.values = {}
        self.error = None
        self.writes = []
        self.go = asyncio.Event()
        self.go.set()

    async def get_many(self, keys):
        if self.error:
            raise self.error
        return [self.values.get(key) for key in keys]

    async def set_many(self, items):
        self.writes.append(items)
        await self.go.wait()
        if self.error:
            raise self.error
        for key, value in items.items():
            self.values.setdefault(key, value)

    async def delete_many(self, keys):
        for key in keys:
            self.values.pop(key, None)

    async def close(self):
        pass


@pytest.fixture
def kept():
    return Kept()


def over(kept, *, l1_bytes=1 << 20, **bounds):
    breaker = Breaker(kept, failures=3, retry_s=60)
    return Store(MemoryCache(max_bytes=l1_bytes, ttl_s=60), breaker, name="redis://h:1/0", **bounds)


def counted(store):
    return {name: count for name, count in asdict(store.counters).items() if count}


async def test_memory_answers_first_then_the_backend_and_that_is_remembered(kept):
    store = over(kept)
    store.put_many({b"a": b"1"})
    assert await store.get_many([b"a", b"b"]) == [b"1", None]
    await store.flush()
    assert kept.values == {b"a": seal(b"a", b"1")}
    assert counted(store) == {"l1_hits": 1, "misses": 1, "written": 1}
    await store.close()
    again = over(kept)
    assert await again.get_many([b"x", b"a", b"a"]) == [None, b"1", b"1"]
    kept.error = CacheUnavailable("gone")
    assert await again.get_many([b"a"]) == [b"1"]
    assert counted(again) == {"misses": 1, "backend_hits": 2, "l1_hits": 1}
    await again.close()


async def test_counters_are_a_snapshot(kept):
    store = over(kept)
    before = store.counters
    await store.get_many([b"a"])
    assert (before, store.counters) == (Counters(), Counters(misses=1))
    await store.close()


async def test_memory_alone():
    store = Store(MemoryCache(max_bytes=1 << 20, ttl_s=60))
    store.put_many({b"a": b"1"})
    assert await store.get_many([b"b", b"a"]) == [None, b"1"]
    assert counted(store) == {"l1_hits": 1, "misses": 1}
    await store.flush()
    await store.close()
    await store.close()


@pytest.mark.parametrize("error", [CacheUnavailable("gone"), CacheTimeout("late"), RuntimeError("a bug")])
async def test_an_outage_is_no_miss_and_never_an_error(kept, error):
    store = over(kept)
    store.put_many({b"a": b"1"})
    await store.flush()
    kept.error = error
    assert await store.get_many([b"a", b"b", b"c"]) == [b"1", None, None]
    store.put_many({b"b": b"2"})
    await store.flush()
    assert counted(store) == {"l1_hits": 1, "unavailable": 2, "written": 1, "dropped": 1}
    await store.close()


async def test_a_cache_that_does_not_answer_is_shown_and_one_that_does_is_not(kept):
    store = over(kept)
    assert store.degraded() == []
    kept.error = CacheUnavailable("Connection refused")
    await store.get_many([b"a"])
    assert store.degraded() == ["the cache at redis://h:1/0 does not answer: Connection refused"]
    kept.error = None
    await store.get_many([b"a"])
    assert store.degraded() == []
    kept.error = CacheRefused("OOM")
    store.put_many({b"a": b"1"})
    await store.flush()
    assert store.degraded() == ["the cache at redis://h:1/0 keeps nothing new: OOM"]
    kept.error = None
    store.put_many({b"b": b"1"})
    await store.flush()
    assert store.degraded() == []
    await store.close()


@pytest.mark.parametrize(
    "spoiled",
    [b"", b"\x01", seal(b"a", b"1")[:-1], seal(b"other", b"1"), b"\x02" + seal(b"a", b"1")[1:]],
    ids=["empty", "short", "cut", "under another key", "of another format"],
)
async def test_what_is_not_what_was_put_is_a_miss_and_replaced(kept, spoiled):
    kept.values[b"a"] = spoiled
    store = over(kept)
    assert await store.get_many([b"a", b"b"]) == [None, None]
    assert counted(store) == {"corrupt": 1, "misses": 1}
    store.put_many({b"a": b"computed again"})
    await store.flush()
    assert kept.values == {b"a": seal(b"a", b"computed again")}
    await store.close()


async def test_of_two_values_the_first_is_kept_and_written(kept):
    store = over(kept)
    kept.go.clear()
    store.put_many({b"a": b"first"})
    store.put_many({b"a": b"second"})
    assert await store.get_many([b"a"]) == [b"first"]
    kept.go.set()
    await store.flush()
    assert kept.values == {b"a": seal(b"a", b"first")}
    await store.close()


async def test_writing_is_done_in_batches_bounded_in_keys_and_bytes(kept):
    store = over(kept)
    store.put_many({b"small%d" % number: b"1" for number in range(2 * BATCH_KEYS + 1)})
    store.put_many({b"large%d" % number: bytes(BATCH_BYTES // 2) for number in range(5)})
    await store.flush()
    assert [len(items) for items in kept.writes] == [BATCH_KEYS, BATCH_KEYS, 3, 2, 1]
    assert store.counters.written == 2 * BATCH_KEYS + 6
    await store.close()


async def test_what_is_too_much_to_wait_is_dropped_and_counted(kept):
    one = cost_bytes(b"00", bytes(100))
    store = over(kept, queue_bytes=10 * one)
    kept.go.clear()
    store.put_many({b"%02d" % number: bytes(100) for number in range(25)})
    assert store.counters.dropped == 15
    await asyncio.sleep(0)
    store.put_many({b"99": bytes(100)})  # what is being written still counts
    assert store.counters.dropped == 16
    kept.go.set()
    await store.flush()
    store.put_many({b"99": bytes(100)})
    await store.flush()
    assert counted(store) == {"written": 11, "dropped": 16}
    assert None not in await store.get_many([b"%02d" % number for number in range(25)])
    await store.close()


async def test_while_the_breaker_is_open_what_is_put_is_dropped(kept):
    store = over(kept)
    kept.error = CacheTimeout("late")
    await store.get_many([b"a"])
    kept.writes.clear()
    for number in range(20):
        store.put_many({b"%d" % number: b"1"})
        await store.flush()
    assert kept.writes == []
    assert counted(store) == {"unavailable": 1, "dropped": 20}
    await store.close()


async def test_closing_writes_what_waits(kept):
    store = over(kept)
    store.put_many({b"a": b"1"})
    await store.close()
    assert kept.values == {b"a": seal(b"a", b"1")}


async def test_closing_waits_only_so_long_and_counts_what_is_left(kept, monkeypatch):
    monkeypatch.setattr("service.cache.store.FLUSH_S", 0.01)
    assert FLUSH_S == 2
    store = over(kept)
    kept.go.clear()
    store.put_many({b"%d" % number: b"1" for number in range(BATCH_KEYS + 5)})
    await store.close()
    assert kept.values == {}
    assert store.counters.dropped == BATCH_KEYS + 5


def test_it_is_made_outside_of_an_event_loop():
    kept = Kept()
    store = over(kept)

    async def use():
        store.put_many({b"a": b"1"})
        await store.flush()
        await store.close()

    asyncio.run(use())
    assert kept.values == {b"a": seal(b"a", b"1")}


async def test_what_is_put_while_the_backend_is_asked_is_found(kept):
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(keys):
        asked.set()
        await answer.wait()
        return [None] * len(keys)

    kept.get_many = slow
    store = over(kept)
    looking = asyncio.ensure_future(store.get_many([b"a", b"b"]))
    await asked.wait()
    store.put_many({b"a": b"value"})
    answer.set()
    assert await looking == [b"value", None]
    assert (store.counters.l1_hits, store.counters.misses) == (1, 1)
    await store.close()
