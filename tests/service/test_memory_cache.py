import tracemalloc

from service.cache.memory import MemoryCache


async def test_values_come_back_in_the_order_of_the_keys():
    cache = MemoryCache(max_bytes=1 << 20, ttl_s=60)
    await cache.set_many({b"a": b"1", b"b": b"2"})
    assert await cache.get_many([b"b", b"x", b"a", b"b"]) == [b"2", None, b"1", b"2"]
    await cache.close()
    assert await cache.get_many([b"a"]) == [None]


async def test_the_least_recently_used_goes_first():
    cache = MemoryCache(max_bytes=3 * 1600, ttl_s=60)
    for key in (b"a", b"b", b"c"):
        await cache.set_many({key: bytes(1000)})
    await cache.get_many([b"a"])
    await cache.set_many({b"d": bytes(1000)})
    assert [value is not None for value in await cache.get_many([b"a", b"b", b"c", b"d"])] == [
        True, False, True, True,
    ]  # fmt: skip


async def test_values_expire():
    now = [0.0]
    cache = MemoryCache(max_bytes=1 << 20, ttl_s=10, clock=lambda: now[0])
    await cache.set_many({b"a": b"1"})
    now[0] = 9.9
    assert await cache.get_many([b"a"]) == [b"1"]
    now[0] = 10.1
    assert await cache.get_many([b"a"]) == [None]


async def test_a_value_larger_than_the_cache_is_not_kept_and_takes_no_other_with_it():
    cache = MemoryCache(max_bytes=2000, ttl_s=60)
    await cache.set_many({b"a": bytes(100), b"b": bytes(5000), b"c": bytes(100)})
    assert await cache.get_many([b"a", b"b", b"c"]) == [bytes(100), None, bytes(100)]


async def test_the_bound_covers_what_values_cost_in_memory():
    bound = 4 << 20
    cache = MemoryCache(max_bytes=bound, ttl_s=60)
    tracemalloc.start()
    for start in range(0, 40_000, 100):
        await cache.set_many({i.to_bytes(79, "little"): bytes(40) for i in range(start, start + 100)})
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bound / 4 < used < bound * 1.1
