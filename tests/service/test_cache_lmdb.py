"""What only a file has: a bound on the disk, other processes, and a life after this one."""

import asyncio
import hashlib
import multiprocessing
import os

import lmdb
import pytest

from service.cache import open_store
from service.cache.lmdb import LmdbCache
from service.config import Cache
from service.errors import CacheRefused, CacheUnavailable

MIB = 1 << 20
SPAWN = multiprocessing.get_context("spawn")


def opened(folder, mib=16, ttl_s=1000, **options):
    return LmdbCache(folder, max_bytes=mib * MIB, ttl_s=ttl_s, **options)


def items_of(process, batch, size):
    """Values that can be told from all others by their keys."""
    keys = [hashlib.sha256(b"%d %d %d" % (process, batch, number)).digest() for number in range(64)]
    return {key: key * (size // 32) for key in keys}


async def kept_of(cache, items):
    """The keys that are kept, all of them with their own values."""
    found = await cache.get_many(list(items))
    for key, value in zip(items, found, strict=True):
        assert value is None or value == items[key]
    return [key for key, value in zip(items, found, strict=True) if value is not None]


async def test_what_was_put_is_there_after_reopening(tmp_path):
    items = items_of(0, 0, 64)
    cache = opened(tmp_path)
    await cache.set_many(items)
    await cache.close()
    again = opened(tmp_path)
    assert await kept_of(again, items) == list(items)
    await again.close()


@pytest.mark.parametrize(("size", "batches"), [(64, 300), (4096, 100), (100_000, 6)])
async def test_the_file_stays_within_its_bound_and_the_oldest_goes_first(tmp_path, size, batches):
    cache = opened(tmp_path, mib=4 if size < 10_000 else 16)
    bound = cache._max_bytes
    batches = [items_of(0, batch, size) for batch in range(batches)]
    for items in batches:
        await cache.set_many(items)
    kept = [len(await kept_of(cache, items)) for items in batches]
    await cache.close()
    assert (tmp_path / "data.mdb").stat().st_size <= bound
    assert kept == sorted(kept)
    assert kept[0] == 0
    assert len([count for count in kept if 0 < count < 64]) <= 1
    # Small values fill half of their pages, and have their keys in two tables.
    assert sum(kept) * (size + 2 * 32) > bound / 4


async def test_what_is_too_large_for_the_file_is_not_kept_and_takes_nothing_with_it(tmp_path):
    cache = opened(tmp_path, mib=4)
    await cache.set_many({b"small": b"1", b"large": bytes(MIB), b"other": b"2"})
    assert await cache.get_many([b"small", b"large", b"other"]) == [b"1", None, b"2"]
    await cache.close()


async def test_an_expired_value_is_replaced_once_and_evicted_in_its_new_turn(tmp_path):
    now = [1e9]
    cache = opened(tmp_path, mib=4, ttl_s=10, clock=lambda: now[0])
    for _ in range(3):
        await cache.set_many({b"again": b"%d" % now[0]})
        now[0] += 11
    await cache.set_many({b"again": b"last"})
    with cache._environment.begin() as transaction:
        assert transaction.stat(cache._order)["entries"] == transaction.stat(cache._values)["entries"] == 1
    for batch in range(40):
        now[0] += 0.01
        await cache.set_many(items_of(0, batch, 4096))
    assert await cache.get_many([b"again"]) == [None]
    with cache._environment.begin() as transaction:
        assert transaction.stat(cache._order)["entries"] == transaction.stat(cache._values)["entries"] > 100
    await cache.close()


SIZES = (2048, 4096, 6144)


def write_from_a_process(folder, process, failed):
    async def write():
        cache = opened(folder, mib=8)
        for batch in range(40):
            items = items_of(process, batch, SIZES[process])
            try:
                await cache.set_many(items)
            except CacheRefused:
                failed.value += 1
            await kept_of(cache, items)
            other = (process + 1) % 3
            await kept_of(cache, items_of(other, batch, SIZES[other]))
        await cache.close()

    asyncio.run(write())


async def test_several_processes_evict_from_one_file_and_read_nothing_but_what_was_put(tmp_path):
    failed = SPAWN.Value("i", 0)
    processes = [
        SPAWN.Process(target=write_from_a_process, args=(tmp_path, number, failed)) for number in range(3)
    ]
    for process in processes:
        process.start()
    cache = opened(tmp_path, mib=8)
    for batch in range(20):
        for process in range(3):
            await kept_of(cache, items_of(process, batch, SIZES[process]))
    for process in processes:
        await asyncio.to_thread(process.join)
        assert process.exitcode == 0
        process.close()
    assert failed.value == 0
    last = items_of(7, 0, 2048)
    await cache.set_many(last)
    assert await kept_of(cache, last) == list(last)
    assert (tmp_path / "data.mdb").stat().st_size <= 8 * MIB
    await cache.close()


def read_and_die(folder, ready):
    cache = opened(folder, mib=4)
    transaction = cache._environment.begin()
    assert transaction.get(b"x", db=cache._values) is None
    ready.set()
    ready.wait()
    os.kill(os.getpid(), 9)


async def test_a_process_that_was_killed_while_it_read_does_not_keep_the_file_full(tmp_path):
    ready = SPAWN.Event()
    process = SPAWN.Process(target=read_and_die, args=(tmp_path, ready))
    process.start()
    await asyncio.to_thread(process.join)
    process.close()
    cache = opened(tmp_path, mib=4)
    for batch in range(60):
        await cache.set_many(items_of(0, batch, 4096))
    assert len(await kept_of(cache, items_of(0, 59, 4096))) == 64
    await cache.close()


async def test_a_full_file_that_cannot_be_emptied_keeps_nothing_new_and_is_read(tmp_path):
    cache = opened(tmp_path, mib=4)
    first = items_of(0, 0, 4096)
    await cache.set_many(first)
    with cache._environment.begin() as reader:  # holds the pages of all that is evicted from now on
        assert reader.get(next(iter(first)), db=cache._values)
        refused = 0
        for batch in range(1, 60):
            try:
                await cache.set_many(items_of(0, batch, 4096))
            except CacheRefused as exc:
                assert "max_bytes is too little" in str(exc)  # noqa: PT017 - not every time
                refused += 1
        assert refused > 10
        await kept_of(cache, first)
    await cache.set_many(items_of(1, 0, 4096))
    assert len(await kept_of(cache, items_of(1, 0, 4096))) == 64
    await cache.close()


async def test_an_error_of_the_file_is_an_outage(tmp_path, monkeypatch):
    class Broken:
        def begin(self, *_, **__):
            raise lmdb.CorruptedError("a page is no page")

    cache = opened(tmp_path, mib=4)
    with monkeypatch.context() as patched:
        patched.setattr(cache, "_environment", Broken())
        for call in (cache.get_many([b"a"]), cache.set_many({b"a": b"1"}), cache.delete_many([b"a"])):
            with pytest.raises(CacheUnavailable, match="a page is no page"):
                await call
    await cache.close()


async def test_a_store_over_it(tmp_path):
    config = Cache(url=f"lmdb://{tmp_path}?max_bytes=4MiB")
    store = open_store(config)
    store.put_many({b"a": b"1"})
    await store.close()
    store = open_store(config)
    assert await store.get_many([b"a", b"b"]) == [b"1", None]
    assert (store.counters.backend_hits, store.counters.misses) == (1, 1)
    await store.close()
