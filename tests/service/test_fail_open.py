"""Whatever becomes of Redis, students get right targets; and when it is well again, so is the server."""

import asyncio

import numpy as np
import pytest
import teachers as models
from proxy import Proxy

from service.config import load
from service.engine.engine import Engine
from service.engine.ensemble import Overrides

CONFIG = """\
cache: {url: 'URL', l1_bytes: 0, call_timeout_ms: 300, breaker: {failures: 2, retry_s: 0.1}}
ensembles:
  toy:
    classes: [a, b, c]
    teachers: [{name: plain, model: plain.onnx, output: {kind: logits}}]
    batching: {max_rows: 8, in_flight: 1, threads: 1}
    recipes: {default: {operator: linear}}
"""
ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


class Student:
    """Asks an engine whose teacher's arithmetic is known."""

    def __init__(self, folder):
        self.weight, self.bias = models.random_linear(folder / "plain.onnx", 1, features=3, classes=3)
        self.folder = folder

    def open(self, url):
        (self.folder / "c.yaml").write_text(CONFIG.replace("URL", url))
        self.engine = Engine.open(load(self.folder / "c.yaml"))
        self.toy = self.engine.ensemble("toy")
        self.effective = self.toy.effective("default", Overrides())

    async def asks(self):
        """The sources of the rows, all of which must be right."""
        sources, found = set(), {}
        groups = self.engine.answer(self.toy, self.effective, {"pixels": ROWS})
        async for group in groups:
            assert set(group.failures) == {None}
            sources |= {*group.sources}
            found |= zip(group.rows, group.values, strict=True)
        values = b"".join(found[row] for row in range(len(ROWS)))
        log_probs = self.effective.layout.unpack(values)["log_probs"]
        expected = models.log_softmax(ROWS.astype(float) @ self.weight + self.bias)
        np.testing.assert_allclose(log_probs, expected, rtol=1e-5, atol=1e-5)
        return sources

    async def hits(self):
        """Ask until every row comes from the cache: it is well again."""
        async with asyncio.timeout(30):
            while await self.asks() != {"hit"}:
                await self.engine.cache.flush()
                await asyncio.sleep(0.05)


@pytest.fixture
async def student(tmp_path):
    student = Student(tmp_path)
    yield student
    await student.engine.close()


async def test_absent_at_start(student, own_redis):
    redis = own_redis()
    student.open(redis.url)
    assert await student.asks() == {"miss"}
    assert "does not answer" in student.engine.check_ready()[0]
    redis.start()
    await student.hits()
    assert student.engine.check_ready() == []


async def test_killed_in_the_middle(student, own_redis):
    redis = own_redis().start()
    student.open(redis.url)
    await student.hits()
    asking = [asyncio.create_task(student.asks()) for _ in range(20)]
    await asyncio.sleep(0)
    redis.stop()
    await asyncio.gather(*asking, *(student.asks() for _ in range(20)))
    assert "does not answer" in student.engine.check_ready()[0]
    redis.start()
    await student.hits()


async def test_frozen_costs_its_time_once_and_then_nothing(student, own_redis):
    redis = own_redis().start()
    student.open(redis.url)
    await student.hits()
    redis.freeze()
    before, loop = student.engine.cache.counters.unavailable, asyncio.get_running_loop()
    began = loop.time()
    for _ in range(30):
        assert await student.asks() == {"miss"}
    assert student.engine.cache.counters.unavailable == before + 30 * len(ROWS)
    assert loop.time() - began < 30 * 0.3  # it would be more if each of them had waited
    redis.thaw()
    await student.hits()


async def test_full(student, own_redis):
    redis = own_redis("--maxmemory", "1", "--maxmemory-policy", "noeviction").start()
    student.open(redis.url)
    for _ in range(3):
        assert await student.asks() == {"miss"}
        await student.engine.cache.flush()
    (told,) = student.engine.check_ready()
    assert "keeps nothing new" in told
    with redis.client() as client:
        client.config_set("maxmemory", "100mb")
    await student.hits()
    assert student.engine.check_ready() == []


async def test_foreign_types_and_flipped_bits_are_misses_that_are_replaced(student, redis_server):
    student.open(redis_server.url)
    await student.hits()
    with redis_server.client() as client:
        keys = client.keys("*")
        assert len(keys) == len(ROWS)
        for key in keys[:10]:
            client.delete(key)
            client.rpush(key, "a list")
        for key in keys[10:20]:
            value = bytearray(client.get(key))
            value[20] ^= 1
            client.set(key, bytes(value))
        client.set(keys[20], client.get(keys[21]))
        assert await student.asks() == {"hit", "miss"}
        assert student.engine.cache.counters.corrupt == 11
        for key in keys[:10]:
            client.delete(key)
    await student.hits()


@pytest.mark.parametrize("network", ["slow", "gone", "garbage", "cut"])
async def test_a_bad_network(student, redis_server, network):
    async with Proxy(redis_server.port) as proxy:
        student.open(f"redis://127.0.0.1:{proxy.port}/0")
        await student.hits()
        match network:
            case "slow":
                proxy.delay_s = 5.0
            case "gone":
                proxy.held = True
            case "garbage":
                proxy.garbage = b"HTTP/1.1 400 Bad Request\r\n\r\n"
            case "cut":
                proxy.cut_after = 100
        for _ in range(5):
            assert await student.asks() == {"miss"}
        assert "does not answer" in student.engine.check_ready()[0]
        proxy.delay_s, proxy.held, proxy.garbage, proxy.cut_after = 0.0, False, None, None
        await student.hits()
        assert student.engine.check_ready() == []
        await student.engine.cache.close()
