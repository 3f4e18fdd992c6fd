import tracemalloc

from service.cache.memory import ENTRY_OVERHEAD_BYTES, MemoryCache


def made(now=None, **bounds):
    clock = (lambda: now[0]) if now else (lambda: 0.0)
    return MemoryCache(**{"max_bytes": 1 << 20, "ttl_s": 60} | bounds, clock=clock)


def test_values_come_back_in_the_order_of_the_keys():
    cache = made()
    cache.set_many({b"a": b"1", b"b": b"2"})
    assert cache.get_many([b"b", b"x", b"a", b"b"]) == [b"2", None, b"1", b"2"]
    cache.clear()
    assert cache.get_many([b"a"]) == [None]


def test_the_least_recently_used_goes_first():
    cache = made(max_bytes=3 * (1001 + ENTRY_OVERHEAD_BYTES))
    for key in (b"a", b"b", b"c"):
        cache.set_many({key: bytes(1000)})
    cache.get_many([b"a"])
    cache.set_many({b"d": bytes(1000)})
    assert cache.get_many([b"a", b"b", b"c", b"d"]) == [bytes(1000), None, bytes(1000), bytes(1000)]


def test_a_value_that_is_kept_stays_until_it_expires():
    now = [0.0]
    cache = made(now, ttl_s=10)
    cache.set_many({b"a": b"first"})
    now[0] = 9.9
    cache.set_many({b"a": b"second"})
    assert cache.get_many([b"a"]) == [b"first"]
    now[0] = 10.1
    assert cache.get_many([b"a"]) == [None]
    cache.set_many({b"a": b"third"})
    now[0] = 20
    assert cache.get_many([b"a"]) == [b"third"]


def test_a_value_larger_than_the_cache_is_not_kept_and_takes_no_other_with_it():
    cache = made(max_bytes=2000)
    cache.set_many({b"a": bytes(100), b"b": bytes(5000), b"c": bytes(100)})
    assert cache.get_many([b"a", b"b", b"c"]) == [bytes(100), None, bytes(100)]


def test_room_is_given_back_by_what_expires_and_what_is_forgotten():
    now = [0.0]
    cache = made(now, max_bytes=2 * (1001 + ENTRY_OVERHEAD_BYTES), ttl_s=1)
    for round_ in range(5):
        now[0] += 2
        cache.set_many({b"a": bytes([round_]) * 1000, b"b": bytes(1000)})
        assert cache.get_many([b"a", b"b"]) == [bytes([round_]) * 1000, bytes(1000)]
    cache.clear()
    cache.set_many({b"c": bytes(1000), b"d": bytes(1000)})
    assert None not in cache.get_many([b"c", b"d"])


def test_the_bound_covers_what_values_cost_in_memory():
    bound = 4 << 20
    cache = made(max_bytes=bound)
    tracemalloc.start()
    for start in range(0, 40_000, 100):
        cache.set_many({i.to_bytes(79, "little"): bytes(40) for i in range(start, start + 100)})
        cache.get_many([i.to_bytes(79, "little") for i in range(max(0, start - 50), start + 50)])
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bound / 3 < used < bound * 1.1
