"""What a student sees of the cache behind the server: bits that stay, and never an error."""

import numpy as np
import pytest
import teachers as models

from service.config import load
from service.engine.engine import Engine
from service.engine.ensemble import Overrides

CONFIG = """\
cache: {url: 'URL', l1_bytes: 0, call_timeout_ms: 500, breaker: {failures: 1, retry_s: 0.05}}
ensembles:
  toy:
    classes: [a, b, c]
    teachers: [{name: plain, model: plain.onnx, output: {kind: logits}}]
    batching: {max_rows: 8, in_flight: 1, threads: 1}
    recipes: {default: {operator: linear}}
"""
ROWS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


@pytest.fixture
def opened(tmp_path):
    models.random_linear(tmp_path / "plain.onnx", 1, features=3, classes=3)

    def open_one(url):
        (tmp_path / "c.yaml").write_text(CONFIG.replace("URL", url))
        return Engine.open(load(tmp_path / "c.yaml"))

    return open_one


async def answers(engine):
    """The rows' sources, and their values in order."""
    toy = engine.ensemble("toy")
    sources, values = set(), {}
    async for group in engine.answer(toy, toy.effective("default", Overrides()), {"pixels": ROWS}):
        assert set(group.failures) == {None}
        sources |= {*group.sources}
        values |= zip(group.rows, group.values, strict=True)
    return sources, [values[row] for row in range(len(ROWS))]


@pytest.mark.parametrize("kind", ["redis", "lmdb"])
async def test_another_server_answers_the_same_bits_without_a_teacher(opened, request, tmp_path, kind):
    url = f"lmdb://{tmp_path}/cache?max_bytes=4MiB"
    if kind == "redis":
        url = request.getfixturevalue("redis_server").url
    first = opened(url)
    sources, values = await answers(first)
    assert sources == {"miss"}
    await first.close()
    second = opened(url)
    assert await answers(second) == ({"hit"}, values)
    assert second.cache.counters.backend_hits == len(ROWS)
    await second.close()


async def test_a_server_whose_redis_comes_and_goes_answers_every_row(opened, own_redis):
    redis = own_redis()
    engine = opened(redis.url)
    assert engine.check_ready() == []
    for happens in (lambda: None, redis.start, redis.freeze, redis.thaw, redis.stop):
        happens()
        await answers(engine)
    (told,) = engine.check_ready()
    assert told.startswith(f"the cache at {redis.url} does not answer: ")
    await engine.close()
