"""From the section of the file to a store: what it may say, and what is refused with which remedy."""

import asyncio
import os
import sys
from pathlib import Path

import lmdb
import pytest
from pydantic import ValidationError

from service.cache import open_store
from service.config import Address, Cache
from service.config.cache import read_url
from service.errors import ConfigError

MIB = 1 << 20
NONE = Address("", max_bytes=0, path=Path(), host="", port=6379, user=None, database=0)


def refused(**section):
    with pytest.raises(ValidationError) as caught:
        Cache(**section)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://", {"max_bytes": 512 * MIB}),
        ("memory://?max_bytes=1KiB", {"max_bytes": 1024}),
        ("lmdb:///var/cache/a%20b", {"max_bytes": 8192 * MIB, "path": Path("/var/cache/a b")}),
        ("lmdb:///x?max_bytes=3MiB", {"max_bytes": 3 * MIB, "path": Path("/x")}),
        ("redis://localhost", {"host": "localhost"}),
        ("redis://h:1/15", {"host": "h", "port": 1, "database": 15}),
        ("redis://[::1]:6380/0", {"host": "::1", "port": 6380}),
        ("rediss://teachers%40home@h/", {"host": "h", "user": "teachers@home"}),
        ("unix:///run/redis.sock", {"path": Path("/run/redis.sock")}),
        ("unix://me@/run/redis.sock?db=2", {"path": Path("/run/redis.sock"), "database": 2, "user": "me"}),
    ],
)
def test_what_a_url_says(url, said):
    address = read_url(url)
    path = {} if address.scheme in {"lmdb", "unix"} else {"path": address.path}
    assert address == NONE._replace(scheme=url.split(":")[0], **path | said)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("http://h", "write one of memory://"),
        ("/var/cache", "write one of memory://"),
        ("memory:///x", "write memory://?max_bytes=512MiB"),
        ("memory://h", "write memory://"),
        ("memory://?max=1", "write memory://"),
        ("memory://?max_bytes=few", "write for instance 512MiB"),
        ("memory://?max_bytes=0", "write for instance 512MiB"),
        ("memory://?max_bytes=-1", "write for instance 512MiB"),
        ("lmdb://x", "write lmdb:///var"),
        ("lmdb://", "write lmdb:///var"),
        ("lmdb:///x?db=1", "write lmdb:///var"),
        ("lmdb:///x?max_bytes=10KiB", "is no size from 1048576 bytes"),
        ("redis://", "write redis://HOST:6379/0"),
        ("redis:///0", "write redis://HOST:6379/0"),
        ("redis://h/zero", "write redis://HOST:6379/0"),
        ("redis://h/1/2", "write redis://HOST:6379/0"),
        ("redis://h/0?ssl=true", "write redis://HOST:6379/0"),
        ("redis://h:port", "is no cache URL: Port"),
        ("redis://h:99999", "is no cache URL: Port out of range"),
        ("redis://[::1", "is no cache URL: Invalid IPv6 URL"),
        ("redis://h/0#x", "write redis://HOST:6379/0"),
        ("rediss://h/" + "9" * 5000, "write rediss://HOST:6379/0"),
        ("unix://redis.sock", "write unix:///run"),
        ("unix:///s?db=x", "write unix:///run"),
        ("unix:///s?timeout=1", "write unix:///run"),
    ],
)
def test_a_url_that_is_none_is_refused_with_one_that_is(url, remedy):
    assert remedy in refused(url=url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@h", "redis://me:hunter2@h:6379/0", "rediss://me:hunter2@h", "redis://:hun/ter2@h",
        "unix://:hunter2@/s", "redis://h/0?password=hunter2", "unix:///s?db=0&password=hunter2",
        "http://me:hunter2@h", "redis://me:hun@ter2@h:port",
    ],
)  # fmt: skip
def test_a_password_in_a_url_is_refused_and_not_repeated(url):
    with pytest.raises(ValidationError) as caught:
        Cache(url=url)
    (error,) = caught.value.errors()
    assert "name it as password_file" in error["msg"]
    assert "hun" not in error["msg"]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"password_file": "p"}, "password_file is for Redis"),
        ({"url": "redis://me@h"}, "name the password_file too"),
        ({"l1_bytes": -1}, "l1_bytes"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"ttl_s": 1e300}, "ttl_s"),
        ({"call_timeout_ms": 0}, "call_timeout_ms"),
        ({"breaker": {"failures": 0}}, "failures"),
        ({"breaker": {"retry_s": 0}}, "retry_s"),
        ({"breaker": {"retries": 1}}, "unknown key 'retries'"),
    ],
)
def test_what_cannot_be_meant_is_refused(section, said):
    assert said in refused(**section)


async def test_the_store_in_memory_takes_what_the_url_says_and_keeps_the_rest():
    store = open_store(Cache(url="memory://?max_bytes=10KiB", l1_bytes=0))
    store.put_many({b"%d" % number: bytes(1000) for number in range(100)})
    values = await store.get_many([b"%d" % number for number in range(100)])
    assert [value is not None for value in values] == [False] * 93 + [True] * 7
    assert store.degraded() == []
    await store.close()


def test_a_password_file_that_cannot_be_used(tmp_path):
    with pytest.raises(ConfigError, match=r"password_file: .*nope cannot be read: No such file"):
        open_store(Cache(url="redis://h", password_file=tmp_path / "nope"))
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match=r"empty is empty; write the password of redis://h into it"):
        open_store(Cache(url="redis://h", password_file=tmp_path / "empty"))


def test_without_the_extra_redis_says_what_to_install(monkeypatch):
    for module in ("service.cache.redis", "service.cache.connection", "hiredis"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"redis://h needs a package .*pip install 'soft-targets\[redis\]'"):
        open_store(Cache(url="redis://h"))


def foreign(folder):
    with lmdb.open(str(folder)) as other, other.begin(write=True) as transaction:
        transaction.put(b"theirs", b"1")


def cut(folder):
    open_and_close(folder)
    os.truncate(folder / "data.mdb", 100_000)


def garbage(folder):
    (folder / "data.mdb").write_bytes(b"garbage!" * 4096)


def a_file(folder):
    folder.rmdir()
    folder.write_text("a file")


def open_and_close(folder):
    store = open_store(Cache(url=f"lmdb://{folder}?max_bytes=4MiB"))

    async def use():
        store.put_many({b"key": bytes(200_000)})
        await store.close()

    asyncio.run(use())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (foreign, "another program's data"),
        (cut, "data.mdb was cut short"),
        (garbage, "MDB_INVALID"),
        (a_file, "File exists"),
    ],
)
def test_a_folder_that_cannot_be_used(tmp_path, spoil, said):
    folder = tmp_path / "cache"
    folder.mkdir()
    spoil(folder)
    with pytest.raises(ConfigError, match=rf"{folder} cannot be used as a cache: .*{said}.*; name a folder"):
        open_and_close(folder)


def test_a_folder_is_made_and_no_business_of_others(tmp_path):
    folder = tmp_path / "deep" / "cache"
    open_and_close(folder)
    open_and_close(folder)
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "data.mdb").stat().st_mode & 0o077 == 0
