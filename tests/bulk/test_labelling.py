"""Chunks are answered several at a time and handed out in order; what may be kept is known of every row."""

import asyncio
import threading

import numpy as np
import pytest
import teachers as models
from bulk_runs import exported, kept, prefill, rows

from service.bulk import commands
from service.bulk.errors import CacheLost
from service.bulk.labelling import Labeller, choose, ordered
from service.bulk.ledger import Ledger, answering, arrive, patience_s
from service.cache.breaker import Breaker
from service.cache.memory import MemoryCache
from service.cache.store import Store
from service.config import load
from service.engine.ensemble import Overrides
from service.errors import CacheUnavailable, ConfigError, UnknownEnsemble
from service.keys import cache_key

FINGERPRINT = "ab" * 32


async def test_results_come_in_order_though_the_last_is_done_first():
    done = [asyncio.Event() for _ in range(4)]
    order = []

    async def work(number):
        if number < 3:
            await done[number + 1].wait()
        order.append(number)
        done[number].set()
        return number

    assert [one async for one in ordered(iter(range(4)), work, at_a_time=4)] == [0, 1, 2, 3]
    assert order == [3, 2, 1, 0]


@pytest.mark.parametrize("at_a_time", [1, 3])
async def test_no_more_are_on_their_way_than_may_be(at_a_time):
    read = []

    def items():
        for number in range(10):
            read.append(number)
            yield number

    async def work(number):
        return number

    out = 0
    async for number in ordered(items(), work, at_a_time=at_a_time):
        assert number == out
        assert len(read) - out <= at_a_time
        out += 1
    assert out == 10


async def test_items_are_read_aside_from_the_event_loop():
    threads = []

    def items():
        for number in range(5):
            threads.append(threading.current_thread().name)
            yield number

    async def work(number):
        return number

    assert len([one async for one in ordered(items(), work, at_a_time=2)]) == 5
    assert threading.current_thread().name not in threads
    assert len(set(threads)) == 1


async def collect(results, into):
    async for one in results:
        into.append(one)


def running():
    """What runs beside the test."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_what_is_before_an_item_that_cannot_be_read_is_handed_out():
    def items():
        yield from range(5)
        raise ValueError("row 5")

    async def work(number):
        await asyncio.sleep(0)
        return number

    found = []
    with pytest.raises(ValueError, match="row 5"):
        await collect(ordered(items(), work, at_a_time=3), found)
    assert found == [0, 1, 2, 3, 4]


async def test_work_that_fails_ends_it_in_its_turn_and_the_rest_is_cancelled():
    waiting, cancelled = asyncio.Event(), []

    async def work(number):
        if number == 1:
            await waiting.wait()
            raise ZeroDivisionError
        if number > 1:
            waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
        return number

    found = []
    with pytest.raises(ZeroDivisionError):
        await collect(ordered(iter(range(100)), work, at_a_time=3), found)
    assert found == [0]
    assert 2 in cancelled
    assert not running()


async def test_whoever_goes_away_leaves_nothing_running():
    async def work(number):
        if number:
            await asyncio.Event().wait()
        return number

    results = ordered(iter(range(100)), work, at_a_time=5)
    assert await anext(results) == 0
    await results.aclose()
    assert not running()


class Forgetful:
    """A cache that takes some writes and not others.

    Args:
        deaf: how many calls to write are refused at first.
        blind: how many calls to read likewise.
    """

    def __init__(self, *, deaf=0, blind=0):
        self.deaf, self.blind = deaf, blind
        self.values = {}
        self.writes = 0

    async def get_many(self, keys):
        self.blind -= 1
        if self.blind >= 0:
            raise CacheUnavailable("not now")
        return [self.values.get(key) for key in keys]

    async def set_many(self, items):
        self.writes += 1
        if self.writes <= self.deaf:
            raise CacheUnavailable("not now")
        self.values |= items

    async def delete_many(self, keys):
        for key in keys:
            self.values.pop(key, None)

    async def close(self):
        pass


async def asked_again(_):
    await asyncio.sleep(0)


def store_on(cache, *, queue_bytes=1 << 20):
    breaker = Breaker(cache, failures=1, retry_s=0, sleep=asked_again)
    return Store(MemoryCache(max_bytes=0, ttl_s=60), breaker, name="here", queue_bytes=queue_bytes)


def some(count):
    digests = [number.to_bytes(32, "big") for number in range(count)]
    return {cache_key(FINGERPRINT, digest): b"value " + digest for digest in digests}


async def test_what_was_dropped_is_given_again_until_it_is_there():
    cache = Forgetful(deaf=5)
    store = store_on(cache)
    store.put_many(some(100))
    await arrive(store, some(100), patience_s=30)
    assert len(cache.values) == 100
    assert store.counters.dropped > 0
    await store.close()


async def test_what_found_no_room_in_the_queue_is_given_again():
    cache = Forgetful()
    store = store_on(cache, queue_bytes=5000)
    store.put_many(some(100))
    assert store.counters.dropped > 50
    await arrive(store, some(100), patience_s=30)
    assert len(cache.values) == 100
    await store.close()


async def test_what_never_arrives_is_an_error_with_the_reason():
    store = store_on(Forgetful(deaf=10**9))
    store.put_many(some(3))
    with pytest.raises(CacheLost, match="3 values did not arrive in the cache: "):
        await arrive(store, some(3), patience_s=0.05)
    await store.close()


async def test_a_cache_that_says_nothing_of_why_is_asked_about_its_room():
    class Hole(Forgetful):
        async def set_many(self, items):
            pass

    store = store_on(Hole())
    with pytest.raises(CacheLost, match=r"it does not say why; has it room \(max_bytes, maxmemory\)\?"):
        await arrive(store, some(3), patience_s=0.05)
    await store.close()


async def test_values_that_trickle_in_are_waited_for_longer_than_the_patience():
    class Shy(Forgetful):
        """It shows one value at a time."""

        async def get_many(self, keys):
            found = await super().get_many(keys)
            return [value if place == 0 else None for place, value in enumerate(found)]

    store = store_on(Shy())
    store.put_many(some(300))
    await arrive(store, some(300), patience_s=0.25)  # three hundred looks, of two milliseconds each
    await store.close()


async def test_a_cache_that_answers_late_is_waited_for():
    store = store_on(Forgetful(blind=10))
    await answering(store, FINGERPRINT, patience_s=30)
    await store.close()
    store = store_on(Forgetful(blind=10**9))
    with pytest.raises(CacheLost, match="the cache at here does not answer: not now"):
        await answering(store, FINGERPRINT, patience_s=0.05)
    await store.close()


def test_patience_is_half_a_minute_unless_somebody_says_otherwise(configured):
    defaults = (", call_timeout_ms: 150, breaker: {failures: 1, retry_s: 0.05}", "")
    assert patience_s(load(configured("redis://nowhere", change=[defaults])).cache) == 30
    assert patience_s(load(configured()).cache) == 3


async def test_a_ledger_knows_what_was_given_of_rows_that_are_followed_and_forgets_it():
    ledger = Ledger(Store(MemoryCache(max_bytes=1 << 20, ttl_s=60)))
    items = some(4)
    keys, digests = list(items), [key[-32:] for key in items]
    opinion = cache_key("cd" * 32, digests[0])
    with ledger.following(digests[:2] * 2):
        with ledger.following(digests[1:3]):
            ledger.put_many({**items, opinion: b"opinion"})
            assert ledger.given(digests[:1]) == {keys[0]: items[keys[0]], opinion: b"opinion"}
            assert ledger.given(digests) == {key: items[key] for key in keys[:3]} | {opinion: b"opinion"}
        assert set(ledger.given(digests)) == {keys[0], keys[1], opinion}
    assert ledger.given(digests) == {}
    assert await ledger.get_many(keys) == list(items.values())
    assert ledger.counters.l1_hits == 4
    assert ledger.degraded() == []
    await ledger.flush()
    await ledger.close()


def test_the_only_ensemble_need_not_be_named(configured):
    one = load(configured())
    assert choose(one, None) == choose(one, "toy") == "toy"
    with pytest.raises(UnknownEnsemble, match="no ensemble 'tyo'; did you mean 'toy'"):
        choose(one, "tyo")
    text = configured().read_text()
    two = configured(name="two.yaml")
    two.write_text(text + text.split("ensembles:\n")[1].replace("toy:", "more:"))
    assert choose(load(two), "more") == "more"
    with pytest.raises(ConfigError, match="name one as --ensemble, of toy, more"):
        choose(load(two), None)


def test_chunks_hold_whole_batches_where_that_is_not_too_much(configured):
    async def sizes(change):
        config = configured(change=change)
        labeller = Labeller.open(load(config), "toy", "default", Overrides(), keeping="nothing")
        await labeller.close()
        return labeller.row_bytes, labeller.chunk_rows

    assert asyncio.run(sizes([])) == (4 * 6 + 4 * 4, 1024)
    assert asyncio.run(sizes([("max_rows: 16", "max_rows: 100")])) == (40, 1000)
    assert asyncio.run(sizes([("max_rows: 16", "max_rows: 3000")])) == (40, 3000)
    opinions = [("cache: {", "cache: {opinions: float16, ")]
    assert asyncio.run(sizes(opinions)) == (4 * 6 + 4 * 4 + 2 * 2 * 4, 1024)
    wide = [("features=6&n", "features=60000&n"), ("features=6&s", "features=60000&s")]
    assert asyncio.run(sizes(wide)) == (240_016, 32)
    wider = [("features=6&n", "features=600000&n"), ("features=6&s", "features=600000&s")]
    assert asyncio.run(sizes(wider)) == (2_400_016, 3)


def test_all_processors_label_however_many_processes_would_serve(configured):
    async def threads(workers):
        change = [("workers: 1", f"workers: {workers}"), (", in_flight: 2, threads: 1", "")]
        settings = load(configured(change=change))
        labeller = Labeller.open(settings, "toy", "default", Overrides(), keeping="nothing")
        await labeller.close()
        return labeller.ensemble.processes

    assert asyncio.run(threads(1)) == asyncio.run(threads(8)) == 1


RETRIED = """\
cache: {url: 'URL'}
ensembles:
  toy:
    classes: [a, b, c]
    teachers:
      - {name: one, model: one.onnx, output: {kind: logits}}
      - {name: two, model: two.onnx, output: {kind: logits}}
    batching: {max_rows: 8, in_flight: 1, threads: 1}
    recipes: {default: {operator: linear, weights: {two: 1}}}
"""


def test_answers_that_took_another_way_are_served_and_not_kept(tmp_path):
    """A batch whose graph fails is asked again teacher by teacher; the one that failed has no weight here."""
    models.moody(tmp_path / "one.onnx")
    models.random_linear(tmp_path / "two.onnx", 2, features=3, classes=3)
    x = rows(64)[:, :3]
    x[20, 0] = 5000
    np.save(tmp_path / "x.npy", x)
    config, memory = tmp_path / "c.yaml", tmp_path / "m.yaml"
    config.write_text(RETRIED.replace("URL", f"lmdb://{tmp_path}/cache?max_bytes=8MiB"))
    memory.write_text(RETRIED.replace("URL", "memory://?max_bytes=1MiB"))
    done = prefill(memory, tmp_path / "x.npy", out=tmp_path / "out")
    assert done.code == 0
    table = exported(tmp_path / "out").to_pylist()
    unkept = [row["row_id"] for row in table if not row["keep"]]
    assert 20 in unkept
    assert len(unkept) == 8
    assert all(row["log_probs"] and not row["missing_teachers"] and row["error"] is None for row in table)
    assert commands.import_export(config, tmp_path / "out").code == 0
    brought = asyncio.run(kept(config, tmp_path / "x.npy"))
    assert [row for row, value in enumerate(brought) if value is None] == unkept
    again = prefill(config, tmp_path / "x.npy")
    assert again.code == 1
    assert (
        ": 56 were in the cache, 0 are now, 0 failed, 8 have answers that are not to be kept; " in again.said
    )
    still = asyncio.run(kept(config, tmp_path / "x.npy"))
    assert [row for row, value in enumerate(still) if value is None] == unkept
