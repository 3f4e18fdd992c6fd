"""Two servers over one Redis, and what they say once it is gone."""

import time

import httpx2
import pytest
from redis_server import RedisServer


@pytest.fixture
def redis(tmp_path):
    server = RedisServer(tmp_path, "--requirepass", "hunter2").start()
    yield server
    server.stop()


def asked(server, rows):
    reply = httpx2.post(
        f"{server.url}/v1/ensembles/toy/soft-targets", json={"inputs": {"pixels": rows.tolist()}}, timeout=60
    )
    assert reply.status_code == 200, reply.text
    targets = reply.json()["targets"]
    return {target["source"] for target in targets}, [target["probabilities"] for target in targets]


def test_what_one_computed_the_other_has_and_both_outlive_redis(toy, start, redis, tmp_path):
    (tmp_path / "password").write_text("hunter2\n")
    config = toy.folder / "with_redis.yaml"
    section = f"cache: {{url: '{redis.url}', password_file: {tmp_path}/password, call_timeout_ms: 2000}}\n"
    text = toy.config.read_text().replace("{port: 0}", "{port: 0, workers: 1}")
    config.write_text(section + text)
    one, other = start(config), start(config)
    rows = toy.rows(20, seed=77)
    sources, targets = asked(one, rows)
    assert sources == {"miss"}
    with redis.client(password="hunter2") as client:
        deadline = time.monotonic() + 30
        while client.dbsize() < 20:
            assert time.monotonic() < deadline
    assert asked(other, rows) == ({"hit"}, targets)
    redis.freeze()
    assert asked(one, rows) == ({"hit"}, targets)  # its own memory
    assert asked(other, toy.rows(20, seed=78))[0] == {"miss"}
    ready = httpx2.get(f"{other.url}/readyz").json()
    assert ready["ready"]
    assert ready["degraded"] == [
        f"the cache at {redis.url} does not answer: no reply in time (cache.call_timeout_ms)"
    ]
    assert "hunter2" not in one.log() + other.log()
    assert "the cache does not answer" in other.log()
    assert (one.stop(), other.stop()) == (0, 0)
