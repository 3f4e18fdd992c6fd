"""What a cache says of itself, for whoever is about to rely on it; and what a value takes in it."""

from dataclasses import dataclass

from service.cache.memory import cost_bytes
from service.cache.opening import open_backend
from service.cache.values import HEAD_BYTES
from service.config import REMOTE, Cache
from service.errors import CacheUnavailable

KEY = bytes(79)  # as long as one of service.keys.cache_key
# Beside the bytes of a key and its sealed value: entries of two dictionaries, objects, what is rounded up.
REDIS_OVERHEAD_BYTES = 137
# Two entries of trees, whose pages are two thirds full.
LMDB_OVERHEAD_BYTES, LMDB_SPREAD = 120, 1.5


@dataclass(frozen=True)
class Inspected:
    """What was found out.

    Attributes:
        url: of the cache.
        answers: whether it does.
        reason: why not.
        version: of Redis.
        max_bytes: what it keeps at most; 0 where it has no limit, or does not answer.
        used_bytes: of Redis, now.
        policy: of Redis, what goes first when it is full.
    """

    url: str
    answers: bool
    reason: str | None = None
    version: str | None = None
    max_bytes: int = 0
    used_bytes: int | None = None
    policy: str | None = None


async def inspect(config: Cache) -> Inspected:
    """Open a cache, ask it what it is, and close it.

    Raises:
        ConfigError: its folder, its password's file or the installation cannot be used.
    """
    address = config.address
    backend = open_backend(config)
    try:
        if backend is None or address.scheme not in REMOTE:
            return Inspected(config.url, answers=True, max_bytes=address.max_bytes)
        said = await backend.info()  # type: ignore[attr-defined]
    except CacheUnavailable as exc:
        return Inspected(config.url, answers=False, reason=str(exc))
    finally:
        if backend is not None:
            await backend.close()
    return Inspected(
        config.url,
        answers=True,
        version=said.get("redis_version"),
        max_bytes=int(said.get("maxmemory", 0)),
        used_bytes=int(said["used_memory"]) if "used_memory" in said else None,
        policy=said.get("maxmemory_policy"),
    )


def kept_bytes(scheme: str, value_bytes: int) -> int:
    """About what a value takes in a cache of that kind, its key included."""
    value = HEAD_BYTES + value_bytes
    if scheme in REMOTE:
        return len(KEY) + value + REDIS_OVERHEAD_BYTES
    if scheme == "lmdb":
        return int(LMDB_SPREAD * (len(KEY) + value + LMDB_OVERHEAD_BYTES))
    return cost_bytes(KEY, bytes(value_bytes))
