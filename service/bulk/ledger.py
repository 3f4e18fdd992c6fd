"""What became of the values that the engine gave to the cache, for whoever has to know."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from service.bulk.errors import CacheLost
from service.cache import Counters, Store
from service.config import Cache
from service.keys import cache_key, digest_of

# Between two looks: the first comes about when a small batch has been written.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.002, 0.25
# In which an outage may end: so many attempts of the breaker, and writes that take their time.
ATTEMPTS, CALLS = 6, 20


class Ledger(Store):
    """A store around another one, that remembers what it is given of rows as long as somebody follows them.

    Args:
        store: that keeps.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._followed: Counter[bytes] = Counter()
        self._given: dict[bytes, dict[bytes, bytes]] = {}

    @property
    def counters(self) -> Counters:
        """As of the store."""
        return self._store.counters

    def degraded(self) -> list[str]:
        """As of the store."""
        return self._store.degraded()

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """As of the store."""
        return await self._store.get_many(keys)

    def put_many(self, items: Mapping[bytes, bytes]) -> None:
        """As of the store."""
        for key, value in items.items():
            if (digest := digest_of(key)) in self._followed:
                self._given.setdefault(digest, {})[key] = value
        self._store.put_many(items)

    async def flush(self) -> None:
        """As of the store."""
        await self._store.flush()

    async def close(self) -> None:
        """As of the store."""
        await self._store.close()

    @contextmanager
    def following(self, digests: Sequence[bytes]) -> Iterator[None]:
        """Remember what is given of these rows."""
        self._followed.update(digests)
        try:
            yield
        finally:
            self._followed.subtract(digests)
            for digest in digests:
                if not self._followed[digest]:
                    del self._followed[digest]
                    self._given.pop(digest, None)

    def given(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Of rows that are followed, what was given, by key."""
        found: dict[bytes, bytes] = {}
        for digest in digests:
            found |= self._given.get(digest, {})
        return found


def patience_s(config: Cache) -> float:
    """How long an outage may last before a command gives up: half a minute with the defaults."""
    return max(ATTEMPTS * config.breaker.retry_s, CALLS * config.call_timeout_ms / 1000)


async def arrive(store: Store, items: Mapping[bytes, bytes], *, patience_s: float) -> None:
    """Wait until the cache behind the store has all of these; what was dropped is given to it again.

    Args:
        store: without a first level, so that whoever reads, reads the cache.
        items: that were given to it.
        patience_s: how long nothing at all may arrive.

    Raises:
        CacheLost: nothing did.
    """
    loop = asyncio.get_running_loop()
    absent, pause, due = dict(items), FIRST_PAUSE_S, loop.time() + patience_s
    while absent:
        await asyncio.sleep(pause)
        found = await store.get_many(list(absent))
        left = {key: value for (key, value), one in zip(absent.items(), found, strict=True) if one is None}
        if len(left) < len(absent):
            due, pause = loop.time() + patience_s, FIRST_PAUSE_S
        elif loop.time() > due:
            raise CacheLost(_lost(store, len(left)))
        else:
            store.put_many(left)  # what waits to be written stays as it is, what was dropped comes in again
            pause = min(2 * pause, LONGEST_PAUSE_S)
        absent = left


async def answering(store: Store, fingerprint: str, *, patience_s: float) -> None:
    """Wait until the cache answers at all.

    Raises:
        CacheLost: it does not.
    """
    loop = asyncio.get_running_loop()
    pause, due = FIRST_PAUSE_S, loop.time() + patience_s
    while True:
        before = store.counters.unavailable
        await store.get_many([cache_key(fingerprint, bytes(32))])
        if store.counters.unavailable == before:
            return
        if loop.time() > due:
            raise CacheLost("; ".join(store.degraded()) or "the cache does not answer")
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _lost(store: Store, count: int) -> str:
    why = "; ".join(store.degraded()) or "it does not say why; has it room (max_bytes, maxmemory)?"
    return f"{count} values did not arrive in the cache: {why}"
