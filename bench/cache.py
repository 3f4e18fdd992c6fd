"""The cache's backends against a bare blocking socket and a dictionary, in one run: values per second.

make bench-cache

Batches of 128 keys. Reads over MGET, and writes that expire and keep the first value over MSET, which can do
neither, both on a blocking socket with hiredis. Beside ours: redis-py's client, and the same writes as a
script. Medians of interleaved rounds, and their range; absolute figures of a shared machine mean little.
"""

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

import hiredis
import redis.asyncio
import uvloop
from running import running_redis

from service.cache.lmdb import LmdbCache
from service.cache.memory import MemoryCache
from service.cache.redis import RedisCache
from service.cache.values import seal, unseal
from service.config.cache import read_url

KEYS, ROUNDS, ROUND_BYTES, TTL_S = 128, 9, 8 << 20, 600
SCRIPT = b"for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1], 'EX', ARGV[1], 'NX') end"

Keys = list[bytes]
Run = Callable[[Keys, Keys], Awaitable[object]]
numbers = count()


def fresh_keys() -> Keys:
    """Keys as long as the service's, never seen before."""
    return [b"soft-targets:1:" + next(numbers).to_bytes(64, "big") for _ in range(KEYS)]


class Blocking:
    """The limit: nothing between the socket and the parser."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._reader = hiredis.Reader()
        self._buffer = bytearray(1 << 20)

    def ask(self, *words: bytes) -> object:
        self._socket.sendall(hiredis.pack_command(words))
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._buffer, 0, self._socket.recv_into(self._buffer))
        return reply

    async def mget(self, keys: Keys, _: Keys) -> object:
        return self.ask(b"MGET", *keys)

    async def mset(self, keys: Keys, values: Keys) -> object:
        return self.ask(b"MSET", *(word for pair in zip(keys, values, strict=True) for word in pair))

    def close(self) -> None:
        self._socket.close()


class Other:
    """redis-py, the library."""

    def __init__(self, path: str) -> None:
        self.client = redis.asyncio.Redis(unix_socket_path=path)
        self._sha = ""

    async def mget(self, keys: Keys, _: Keys) -> object:
        return await self.client.mget(keys)

    async def pipeline(self, keys: Keys, values: Keys) -> object:
        pipeline = self.client.pipeline(transaction=False)
        for key, value in zip(keys, values, strict=True):
            pipeline.set(key, value, ex=TTL_S, nx=True)
        return await pipeline.execute()

    async def script(self, keys: Keys, values: Keys) -> object:
        self._sha = self._sha or await self.client.script_load(SCRIPT)
        return await self.client.evalsha(self._sha, len(keys), *keys, TTL_S, *values)


async def rate(run: Run, keys: list[Keys], values: Keys) -> float:
    start = time.perf_counter()
    for some in keys:
        await run(some, values)
    return KEYS * len(keys) / (time.perf_counter() - start)


def shown(name: str, ratios: list[float]) -> str:
    return f"{name} {statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]"


async def compare(path: str, size: int) -> None:
    blocking, other = Blocking(path), Other(path)
    ours = RedisCache(read_url(f"unix://{path}"), password=None, ttl_s=TTL_S, call_timeout_s=60)
    raw_sha = str(await other.client.script_load(SCRIPT)).encode()

    async def get(keys: Keys, _: Keys) -> object:
        return await ours.get_many(keys)

    async def put(keys: Keys, values: Keys) -> object:
        return await ours.set_many(dict(zip(keys, values, strict=True)))

    async def script(keys: Keys, values: Keys) -> object:
        command = (b"EVALSHA", raw_sha, b"%d" % len(keys), *keys, b"%d" % TTL_S, *values)
        packed = [hiredis.pack_command(command)]
        return await ours._writes.ask(packed, fits=lambda reply: reply is None)  # noqa: SLF001

    reads = {"limit": blocking.mget, "ours": get, "redis-py": other.mget}
    writes = {
        "limit": blocking.mset,
        "ours": put,
        "the same connection, one script": script,
        "redis-py, pipeline": other.pipeline,
        "redis-py, script": other.script,
    }
    values = [os.urandom(size) for _ in range(KEYS)]
    batches = max(4, ROUND_BYTES // (KEYS * size))
    ratios: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        await other.client.flushdb()
        kept = fresh_keys()
        await put(kept, values)
        assert await get(kept, values) == await reads["redis-py"](kept, values) == values, "all read the same"
        for what, runs in (("read", reads), ("write", writes)):
            rates = {}
            for name, run in runs.items():
                keys = [kept if what == "read" else fresh_keys() for _ in range(batches)]
                rates[name] = await rate(run, keys, values)
            for name in list(runs)[1:]:
                ratios.setdefault(f"{what}: {name}", []).append(rates[name] / rates["limit"])
    for name, some in ratios.items():
        print(f"  {size:>6} bytes  {shown(name, some)}", flush=True)
    blocking.close()
    await ours.close()
    await other.client.aclose()


async def local() -> None:
    """What has no server: the dictionary, the seal and the file, over one another."""
    values = [os.urandom(400) for _ in range(KEYS)]
    memory = MemoryCache(max_bytes=64 << 20, ttl_s=TTL_S)
    plain: dict[bytes, bytes] = {}
    names = [fresh_keys() for _ in range(300)]
    with tempfile.TemporaryDirectory() as folder:
        file = LmdbCache(Path(folder), max_bytes=1 << 30, ttl_s=TTL_S)
        for keys in names:
            items = dict(zip(keys, values, strict=True))
            memory.set_many(items)
            plain.update(items)
            await file.set_many(items)
        # Other objects of the same bytes, as they come with a request.
        asked = [[bytes(bytearray(key)) for key in keys] for keys in names]

        async def dictionary(keys: Keys, _: Keys) -> object:
            return [plain.get(key) for key in keys]

        async def in_memory(keys: Keys, _: Keys) -> object:
            return memory.get_many(keys)

        async def seals(keys: Keys, values: Keys) -> object:
            pairs = zip(keys, values, strict=True)
            return [unseal(key, seal(key, value)) for key, value in pairs]

        async def in_the_file(keys: Keys, _: Keys) -> object:
            return await file.get_many(keys)

        ratios: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            limit = await rate(dictionary, asked, values)
            for name, run in (("memory", in_memory), ("seal and unseal", seals), ("file", in_the_file)):
                asked = [[bytes(bytearray(key)) for key in keys] for keys in names]
                ratios.setdefault(name, []).append(limit / await rate(run, asked, values))
        print("  400 bytes, time over a dictionary's:", *(shown(name, some) for name, some in ratios.items()))
        await file.close()


def main() -> None:
    print(
        f"{os.cpu_count()} CPUs, {ROUNDS} rounds, batches of {KEYS}: values per second over a blocking socket"
    )
    with running_redis() as path:
        for size in (400, 4096, 65536):
            uvloop.run(compare(path, size))
    uvloop.run(local())


if __name__ == "__main__":
    main()
