"""A real Redis, and all that can become of it: rows are computed then, and nobody waits or is misled."""

import asyncio
import shutil
import ssl
import subprocess
import time

import pytest
import redis as other
import uvloop
from proxy import Proxy

from service.cache import open_store
from service.cache.redis import REPLY_BYTES, RedisCache
from service.cache.values import seal
from service.config import Cache
from service.config.cache import read_url
from service.errors import CacheRefused, CacheTimeout, CacheUnavailable

# Far above what anything takes that happens at once, far below what waiting for it would.
AT_ONCE_S = 1.0
PATIENT_S = 20


def cache_at(url, *, timeout_s=PATIENT_S, password=None):
    return RedisCache(read_url(url), password=password, ttl_s=60, call_timeout_s=timeout_s)


def store_at(url, *, timeout_ms=2000, retry_s=0.02, failures=3, **section):
    breaker = {"failures": failures, "retry_s": retry_s}
    return open_store(Cache(url=url, call_timeout_ms=timeout_ms, breaker=breaker, l1_bytes=0, **section))


async def until(holds):
    """Give the background time to do its work."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("after ten seconds it is not so")


async def put(store, items):
    store.put_many(items)
    await store.flush()


# What it is like when all is well.


async def test_a_batch_is_one_command_each_way_and_values_expire(redis_server):
    cache = cache_at(redis_server.url)
    items = {b"%d" % number: bytes(400) for number in range(128)}
    with redis_server.client() as client:
        await cache.set_many(items)
        before = client.info("commandstats")
        assert await cache.get_many(list(items)) == list(items.values())
        after = client.info("commandstats")
        assert after["cmdstat_mget"]["calls"] - before.get("cmdstat_mget", {"calls": 0})["calls"] == 1
        assert 0 < client.pttl("7") <= 60_000
        assert client.get("7") == bytes(400)
    await cache.close()


async def test_large_values_come_a_few_at_a_time(redis_server):
    cache = cache_at(redis_server.url)
    items = {b"%d" % number: bytes(REPLY_BYTES // 4) for number in range(16)}
    await cache.set_many(items)
    await cache.get_many(list(items))
    with redis_server.client() as client:
        client.config_resetstat()
        assert await cache.get_many(list(items)) == list(items.values())
        assert client.info("commandstats")["cmdstat_mget"]["calls"] == 4
        client.config_resetstat()
        await cache.set_many({b"s%d" % number: b"1" for number in range(100)})
        for _ in range(20):
            assert await cache.get_many([b"s%d" % number for number in range(100)]) == [b"1"] * 100
        client.config_resetstat()
        await cache.get_many([b"s%d" % number for number in range(100)])
        assert client.info("commandstats")["cmdstat_mget"]["calls"] == 1
    await cache.close()


async def test_a_value_of_another_type_under_a_key_is_a_miss_of_that_key_alone(redis_server):
    store = store_at(redis_server.url)
    await put(store, {b"a": b"1", b"c": b"3"})
    with redis_server.client() as client:
        client.lpush("b", "theirs")
        client.hset("d", "theirs", "1")
    assert await store.get_many([b"a", b"b", b"c", b"d"]) == [b"1", None, b"3", None]
    await put(store, {b"b": b"2", b"e": b"5"})
    assert await store.get_many([b"b", b"e"]) == [None, b"5"]
    with redis_server.client() as client:
        assert client.lrange("b", 0, -1) == [b"theirs"]
    assert store.degraded() == []
    assert store.counters.unavailable == store.counters.dropped == 0
    await store.close()


@pytest.mark.parametrize("spoil", ["flip", "swap", "foreign"])
async def test_what_others_did_to_a_value_is_seen_and_made_good(redis_server, spoil):
    store = store_at(redis_server.url)
    await put(store, {b"a": b"value a", b"b": b"value b"})
    with redis_server.client() as client:
        sealed = client.get("a")
        assert sealed == seal(b"a", b"value a")
        spoiled = {
            "flip": sealed[:12] + bytes([sealed[12] ^ 4]) + sealed[13:],
            "swap": client.get("b"),
            "foreign": b"value a",
        }[spoil]
        client.set("a", spoiled)
        assert await store.get_many([b"a", b"b"]) == [None, b"value b"]
        assert store.counters.corrupt == 1
        await put(store, {b"a": b"computed again"})
        assert client.get("a") == seal(b"a", b"computed again")
    assert await store.get_many([b"a"]) == [b"computed again"]
    await store.close()


async def test_databases_are_kept_apart(redis_server):
    first = cache_at(redis_server.url)
    third = cache_at(redis_server.url.replace("/0", "/3"))
    await third.set_many({b"a": b"3"})
    assert await first.get_many([b"a"]) == [None]
    assert await third.get_many([b"a"]) == [b"3"]
    await first.close()
    await third.close()


def test_it_works_on_the_server_s_event_loop_too(redis_server):
    async def use():
        cache = cache_at(redis_server.unix_url)
        items = {b"%d" % number: bytes([number]) * 50_000 for number in range(200)}
        await cache.set_many(items)
        assert await cache.get_many(list(items)) == list(items.values())
        async with Proxy(redis_server.port) as proxy:
            cut = cache_at(f"redis://127.0.0.1:{proxy.port}")
            proxy.cut_after = 100_000
            with pytest.raises(CacheUnavailable, match="closed"):
                await cut.get_many(list(items))
            proxy.cut_after = None
            assert await cut.get_many(list(items)) == list(items.values())
            proxy.held = True
            cut._reads._budget_s = 0.05
            with pytest.raises(CacheTimeout):
                await cut.get_many(list(items))
            await cut.close()
        await cache.close()

    uvloop.run(use())


# A server that is not there, goes and comes back.


async def test_absent_at_the_start_it_is_found_when_it_comes(own_redis):
    server = own_redis()
    store = store_at(server.url)
    assert store.degraded() == []
    for _ in range(5):
        assert await store.get_many([b"a"]) == [None]
    await put(store, {b"a": b"1"})
    assert (store.counters.unavailable, store.counters.dropped) == (5, 1)
    (told,) = store.degraded()
    assert told.startswith(f"the cache at {server.url} does not answer: no connection: ")
    server.start()
    await until(lambda: store.degraded() == [])
    await put(store, {b"a": b"1"})
    assert await store.get_many([b"a"]) == [b"1"]
    await store.close()


async def test_killed_between_and_during_calls_it_is_found_again(own_redis):
    server = own_redis().start()
    store = store_at(server.url)
    for _ in range(2):
        await put(store, {b"a": b"1"})
        assert await store.get_many([b"a"]) == [b"1"]
        asking = [asyncio.create_task(store.get_many([b"%d" % number])) for number in range(50)]
        await asyncio.sleep(0)
        server.stop()
        assert await asyncio.gather(*asking) == [[None]] * 50
        assert await store.get_many([b"a"]) == [None]
        assert "does not answer" in store.degraded()[0]
        server.start()
        await until(lambda: store.degraded() == [])
    await store.close()


async def test_restarted_between_calls_nobody_notices(own_redis):
    server = own_redis().start()
    store = store_at(server.url, failures=1, retry_s=3600)
    assert await store.get_many([b"a"]) == [None]
    server.stop()
    server.start()
    await asyncio.sleep(0.05)
    await put(store, {b"a": b"1"})
    assert await store.get_many([b"a"]) == [b"1"]
    assert store.counters.unavailable == 0
    await store.close()


async def test_frozen_it_costs_its_time_once_and_is_found_when_it_moves_again(own_redis):
    server = own_redis().start()
    store = store_at(server.url, timeout_ms=300)
    await put(store, {b"a": b"1"})
    assert await store.get_many([b"a"]) == [b"1"]
    server.freeze()
    start = time.monotonic()
    assert await asyncio.gather(*(store.get_many([b"a"]) for _ in range(20))) == [[None]] * 20
    first = time.monotonic() - start
    assert 0.25 < first < 0.3 + AT_ONCE_S
    assert "no reply in time" in store.degraded()[0]
    start = time.monotonic()
    for _ in range(50):
        assert await store.get_many([b"a"]) == [None]
        store.put_many({b"b": b"2"})
    assert time.monotonic() - start < AT_ONCE_S
    server.thaw()
    await until(lambda: store.degraded() == [])
    assert await store.get_many([b"a"]) == [b"1"]
    await store.close()


async def test_frozen_while_it_is_written_to_nobody_waits(own_redis):
    server = own_redis().start()
    store = store_at(server.url, timeout_ms=20)
    server.freeze()
    start = time.monotonic()
    store.put_many({b"%d" % number: bytes(1 << 20) for number in range(20)})
    assert time.monotonic() - start < AT_ONCE_S
    await store.flush()
    assert store.counters.dropped == 20
    server.thaw()
    await until(lambda: store.degraded() == [])
    await put(store, {b"a": b"1"})
    assert await store.get_many([b"a"]) == [b"1"]
    await store.close()


async def test_full_it_is_still_read_and_what_it_does_not_take_is_counted(own_redis):
    server = own_redis("--maxmemory", "6mb", "--maxmemory-policy", "noeviction").start()
    store = store_at(server.url, failures=1)
    await put(store, {b"a": b"1"})
    for number in range(80):
        await put(store, {b"%d" % number: bytes(100_000)})
    assert 0 < store.counters.dropped < 80
    assert store.counters.written == 81 - store.counters.dropped
    (told,) = store.degraded()
    assert told.startswith(f"the cache at {server.url} keeps nothing new: OOM command not allowed")
    for _ in range(5):
        assert await store.get_many([b"a", b"x"]) == [b"1", None]
    assert store.counters.unavailable == 0
    with server.client() as client:
        client.config_set("maxmemory", "100mb")
    await put(store, {b"b": b"2"})
    assert store.degraded() == []
    assert await store.get_many([b"b"]) == [b"2"]
    await store.close()


async def test_full_and_evicting_it_forgets_and_takes_what_is_new(own_redis):
    server = own_redis("--maxmemory", "6mb", "--maxmemory-policy", "allkeys-lru").start()
    store = store_at(server.url)
    for number in range(80):
        await put(store, {b"%d" % number: bytes(100_000)})
    values = await store.get_many([b"%d" % number for number in range(80)])
    assert 0 < values.count(None) < 80
    assert values[-1] == bytes(100_000)
    assert store.counters.dropped == 0
    await store.close()


async def test_a_replica_is_read_and_takes_nothing(own_redis):
    server = own_redis().start()
    store = store_at(server.url, failures=1)
    await put(store, {b"a": b"1"})
    with server.client() as client:
        client.replicaof("127.0.0.1", "1")
    await put(store, {b"b": b"2"})
    assert "keeps nothing new: READONLY" in store.degraded()[0]
    assert await store.get_many([b"a", b"b"]) == [b"1", None]
    await store.close()


# Who may, and how it is told.


async def test_the_password_comes_from_its_file(own_redis, tmp_path):
    server = own_redis("--requirepass", "hunter2").start()
    (tmp_path / "password").write_text("hunter2\n")
    store = store_at(server.url, password_file=tmp_path / "password")
    await put(store, {b"a": b"1"})
    assert await store.get_many([b"a"]) == [b"1"]
    await store.close()


async def test_a_user_has_a_name_and_rights_of_its_own(own_redis, tmp_path):
    server = own_redis("--user", "me", "on", ">hunter2", "~mine*", "+mget", "+set", "+del", "+select").start()
    (tmp_path / "password").write_text("hunter2\n")
    store = store_at(
        f"redis://me@127.0.0.1:{server.port}/1", password_file=tmp_path / "password", failures=99
    )
    await put(store, {b"mine": b"1"})
    assert await store.get_many([b"mine"]) == [b"1"]
    await put(store, {b"theirs": b"1"})
    assert "keeps nothing new: NOPERM" in store.degraded()[0]
    assert await store.get_many([b"theirs"]) == [None]
    assert "does not answer: NOPERM" in store.degraded()[0]
    await store.close()


@pytest.mark.parametrize("password", ["wrong", None])
async def test_with_a_wrong_password_rows_are_computed_and_the_reason_is_told(own_redis, tmp_path, password):
    server = own_redis("--requirepass", "hunter2").start()
    section = {}
    if password:
        (tmp_path / "password").write_text(password)
        section = {"password_file": tmp_path / "password"}
    store = store_at(server.url, **section)
    assert await store.get_many([b"a"]) == [None]
    (told,) = store.degraded()
    assert "WRONGPASS" in told or "NOAUTH" in told
    assert "wrong" not in told.replace("WRONGPASS", "")
    with server.client(password="hunter2") as client:
        client.config_set("requirepass", "wrong" if password else "")
    await until(lambda: store.degraded() == [])
    await put(store, {b"a": b"1"})
    assert await store.get_many([b"a"]) == [b"1"]
    await store.close()


async def test_a_database_that_is_not_there_is_told(redis_server):
    store = store_at(redis_server.url.replace("/0", "/999"))
    assert await store.get_many([b"a"]) == [None]
    assert "DB index is out of range" in store.degraded()[0]
    await store.close()


async def test_a_host_that_is_none_is_told():
    store = store_at("redis://no-such-host.invalid/0", timeout_ms=20_000)
    assert await store.get_many([b"a"]) == [None]
    assert "no connection: " in store.degraded()[0]
    await store.close()


async def test_over_tls_the_server_must_be_who_it_says(own_redis, tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: install the Debian package openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(  # noqa: ASYNC221 - nothing else runs meanwhile
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = own_redis("--tls-cert-file", str(certificate), "--tls-key-file", str(key),
                       "--tls-auth-clients", "no")  # fmt: skip
    server.options = (*server.options, "--tls-port", str(server.port), "--port", "0")
    try:
        server.start()
    except AssertionError as exc:
        if "tls" not in str(exc).lower():
            raise
        pytest.skip("this redis-server was built without TLS")
    url = server.url.replace("redis:", "rediss:")
    stranger = store_at(url, timeout_ms=5000)
    assert await stranger.get_many([b"a"]) == [None]
    assert "certificate verify failed" in stranger.degraded()[0]
    await stranger.close()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert ssl.create_default_context().cert_store_stats()["x509"] == 1
    store = store_at(url, timeout_ms=5000)
    await put(store, {b"a": bytes(500_000)})
    assert await store.get_many([b"a"]) == [bytes(500_000)]
    await store.close()


# A network that is bad.


@pytest.fixture
async def proxy(redis_server):
    async with Proxy(redis_server.port) as made:
        yield made


def through(proxy, **options):
    return store_at(f"redis://127.0.0.1:{proxy.port}/0", **options)


async def test_slow_but_in_time_is_well(proxy):
    store = through(proxy)
    proxy.delay_s = 0.05
    await put(store, {b"a": bytes(100_000)})
    assert await store.get_many([b"a"]) == [bytes(100_000)]
    assert store.degraded() == []
    await store.close()


@pytest.mark.parametrize("how", ["late", "throttled", "held"])
async def test_what_comes_too_late_is_an_outage_and_never_somebody_else_s_answer(proxy, how):
    store = through(proxy, timeout_ms=150)
    await put(store, {b"a": b"a" * 400_000, b"b": b"b" * 400_000})
    assert store.counters.written == 2
    if how == "late":
        proxy.delay_s = 0.4
    elif how == "throttled":
        proxy.piece = 4096
    else:
        proxy.held = True
    start = time.monotonic()
    assert await store.get_many([b"a"]) == [None]
    assert time.monotonic() - start < 0.15 + AT_ONCE_S
    assert store.counters.unavailable == 1
    proxy.delay_s, proxy.piece, proxy.held = 0, None, False
    await until(lambda: store.degraded() == [])
    assert await store.get_many([b"b"]) == [b"b" * 400_000]
    assert await store.get_many([b"b", b"a"]) == [b"b" * 400_000, b"a" * 400_000]
    await store.close()


async def test_cut_in_the_middle_of_a_reply_the_next_comes_whole(proxy):
    store = through(proxy)
    await put(store, {b"a": b"a" * 400_000, b"b": b"b" * 400_000})
    proxy.cut_after = 300_000
    assert await store.get_many([b"a"]) == [None]
    proxy.cut_after = None
    assert await store.get_many([b"b"]) == [b"b" * 400_000]
    assert store.counters.unavailable == 1
    assert store.degraded() == []
    await store.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n", b":7\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n",
        b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"$99999999999999999999\r\n", b"*1\r\n:5\r\n", b"\x00\xff" * 99,
        b"-ERR what?\r\n", b"*1\r\n*1\r\n+a\r\n", b"*1\r\n-ERR what?\r\n",
    ],
)  # fmt: skip
async def test_garbage_is_an_outage_and_the_connection_is_not_used_again(proxy, garbage):
    store = through(proxy, failures=9)
    await put(store, {b"a": b"1"})
    assert await store.get_many([b"a"]) == [b"1"]
    before = proxy.connections
    proxy.garbage = garbage
    assert await store.get_many([b"a"]) == [None]
    assert store.counters.unavailable == 1
    proxy.garbage = None
    assert await store.get_many([b"a"]) == [b"1"]
    assert proxy.connections == before + 1
    await store.close()


@pytest.mark.parametrize("garbage", [b":1\r\n", b"$3\r\nfoo\r\n", b"HTTP/1.1 200 OK\r\n"])
async def test_garbage_in_reply_to_writes_is_an_outage(proxy, garbage):
    cache = cache_at(f"redis://127.0.0.1:{proxy.port}")
    proxy.garbage = garbage
    with pytest.raises(CacheUnavailable) as caught:
        await cache.set_many({b"a": b"1"})
    assert not isinstance(caught.value, CacheRefused)
    await cache.close()


async def test_what_nobody_asked_for_ends_the_connection(proxy):
    cache = cache_at(f"redis://127.0.0.1:{proxy.port}")
    await cache.set_many({b"a": b"1"})
    assert await cache.get_many([b"a"]) == [b"1"]
    connection = cache._reads._connection
    connection.data_received(b"+unasked\r\n")
    assert connection.broken
    with pytest.raises(CacheUnavailable, match="it closed the connection"):
        await connection.ask([b"PING\r\n"], due=asyncio.get_running_loop().time() + PATIENT_S)
    assert await cache.get_many([b"a"]) == [b"1"]
    await cache.close()


async def test_a_process_that_was_busy_itself_does_not_blame_redis(redis_server):
    cache = cache_at(redis_server.url)
    large = bytes(16 << 20)  # more than the kernel holds, so that it has to be read piece by piece
    await cache.set_many({b"a": large})
    assert await cache.get_many([b"a"]) == [large]
    cache._reads._budget_s = 0.05
    asking = asyncio.create_task(cache.get_many([b"a"]))
    await asyncio.sleep(0)
    time.sleep(0.5)  # noqa: ASYNC251 - what a long computation on the event loop is like
    assert await asking == [large]
    await cache.close()


async def test_connections_that_are_being_made_are_closed_too(proxy):
    proxy.held = True
    cache = RedisCache(
        read_url(f"redis://127.0.0.1:{proxy.port}/1"), password=None, ttl_s=60, call_timeout_s=0.05
    )
    with pytest.raises(CacheTimeout, match="no connection in time"):
        await cache.get_many([b"a"])
    await cache.close()
    await cache.close()


async def test_values_are_what_another_client_reads(redis_server):
    """The format is ours, the protocol is everybody's."""
    store = store_at(redis_server.unix_url)
    await put(store, {b"\x00key\r\n": b"\x00\r\nvalue"})
    with other.Redis(unix_socket_path=f"{redis_server.folder}/redis.sock") as client:
        assert client.get(b"\x00key\r\n") == seal(b"\x00key\r\n", b"\x00\r\nvalue")
    await store.close()
