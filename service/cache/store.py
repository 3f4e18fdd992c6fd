"""What the engine asks: memory first, then the cache behind it; written behind the replies' back."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from service.cache.breaker import Breaker
from service.cache.memory import MemoryCache, cost_bytes
from service.cache.values import seal, unseal
from service.errors import CacheRefused, CacheUnavailable
from service.telemetry import logger

# What is written at once: enough to make a command's overhead small, too little to hold up reads.
BATCH_KEYS = 512
BATCH_BYTES = 2 << 20
# What may wait to be written: half a second of targets over 32,000 classes, seconds of all smaller ones.
QUEUE_BYTES = 64 << 20
# How long a server that stops goes on writing.
FLUSH_S = 2.0

log = logger("cache")


@dataclass(slots=True)
class Counters:
    """What became of the rows asked for, each in one of the first five, and of the values that were put.

    Attributes:
        l1_hits: found in memory.
        backend_hits: found behind it.
        misses: in neither.
        corrupt: found, but not what was put under the key.
        unavailable: not in memory, and what is behind it did not answer.
        written: taken by the backend, also where it has a value already.
        dropped: not taken: it does not answer, it is full, or too many wait.
    """

    l1_hits: int = 0
    backend_hits: int = 0
    misses: int = 0
    corrupt: int = 0
    unavailable: int = 0
    written: int = 0
    dropped: int = 0


class Store:
    """For one event loop, and made outside of it.

    Args:
        memory: the first level.
        backend: the second, if there is one.
        name: of the second, as people are told.
        queue_bytes: what may wait to be written.
    """

    def __init__(
        self,
        memory: MemoryCache,
        backend: Breaker | None = None,
        *,
        name: str = "",
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._memory = memory
        self._backend = backend
        self._name = name
        self._queue_bytes = queue_bytes
        self._queue: OrderedDict[bytes, bytes] = OrderedDict()
        self._queued_bytes = 0
        self._spoiled: set[bytes] = set()
        self._writer: asyncio.Task[None] | None = None
        self._refused: str | None = None
        self._counts = Counters()

    @property
    def counters(self) -> Counters:
        """How much there was of everything up to now."""
        return replace(self._counts)

    @property
    def memory_bytes(self) -> int:
        """What is kept in memory."""
        return self._memory.size_bytes

    @property
    def has_backend(self) -> bool:
        """Whether there is anything behind the memory."""
        return self._backend is not None

    @property
    def answers(self) -> bool:
        """Whether what is behind the memory answers, if there is anything."""
        return self._backend is None or self._backend.reason is None

    def degraded(self) -> list[str]:
        """What is amiss with the cache, for people; nothing in the best case."""
        if self._backend is not None and self._backend.reason is not None:
            return [f"the cache at {self._name} does not answer: {self._backend.reason}"]
        if self._refused is not None:
            return [f"the cache at {self._name} keeps nothing new: {self._refused}"]
        return []

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values, in the order of the keys; None where there is none, or nobody can say. Never raises."""
        values = self._memory.get_many(keys)
        absent = [index for index, value in enumerate(values) if value is None]
        counts = self._counts
        counts.l1_hits += len(values) - len(absent)
        if self._backend is None:
            counts.misses += len(absent)
        if self._backend is None or not absent:
            return values
        asked = [keys[index] for index in absent]
        kept = await self._ask(self._backend, asked)
        found = {}
        # What was put while the backend was asked is in memory by now: it need not be computed again.
        for index, key, sealed, put in zip(
            absent, asked, kept or [None] * len(asked), self._memory.get_many(asked), strict=True
        ):
            if put is not None:
                counts.l1_hits += 1
                values[index] = put
            elif kept is None:
                counts.unavailable += 1
            elif sealed is None:
                counts.misses += 1
            elif (value := unseal(key, sealed)) is None:
                counts.corrupt += 1
                self._spoiled.add(key)
            else:
                counts.backend_hits += 1
                values[index] = found[key] = value
        self._memory.set_many(found)
        self._write()
        return values

    async def _ask(self, backend: Breaker, keys: Sequence[bytes]) -> list[bytes | None] | None:
        """What the backend keeps, sealed; None if it does not answer."""
        try:
            return await backend.get_many(keys)
        except CacheUnavailable:
            return None
        except Exception:
            log.exception("reading the cache failed")
            return None

    def put_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep the values in memory now, and behind it soon; a value that is kept already stays."""
        self._memory.set_many(items)
        if self._backend is None:
            return
        for key, value in items.items():
            if key in self._queue:
                continue
            cost = cost_bytes(key, value)
            if self._queued_bytes + cost > self._queue_bytes:
                self._counts.dropped += 1
                continue
            self._queue[key] = value
            self._queued_bytes += cost
        self._write()

    def _write(self) -> None:
        """Have a task write what waits, unless one does."""
        if (self._queue or self._spoiled) and (self._writer is None or self._writer.done()):
            self._writer = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        assert self._backend is not None
        while self._queue or self._spoiled:
            spoiled, self._spoiled = self._spoiled, set()
            batch, cost = self._next_batch()
            taken = 0
            try:
                # A value that is kept stays, so one that is no good has to go first.
                if spoiled:
                    await self._backend.delete_many([*spoiled])
                await self._backend.set_many({key: seal(key, value) for key, value in batch.items()})
                taken = len(batch)
                self._refused = None
            except CacheRefused as exc:
                self._refused = str(exc)
            except CacheUnavailable:
                self._refused = None  # the breaker knows the reason
            except Exception:
                log.exception("writing to the cache failed")
            finally:
                self._counts.written += taken
                self._counts.dropped += len(batch) - taken
                self._queued_bytes -= cost

    def _next_batch(self) -> tuple[dict[bytes, bytes], int]:
        """The values that have waited longest, as many as are written at once, and what they cost."""
        batch: dict[bytes, bytes] = {}
        cost = size = 0
        while self._queue and len(batch) < BATCH_KEYS and size < BATCH_BYTES:
            key, value = self._queue.popitem(last=False)
            batch[key] = value
            cost += cost_bytes(key, value)
            size += len(value)
        return batch, cost

    async def flush(self) -> None:
        """Wait until nothing waits to be written, two seconds at most."""
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=FLUSH_S)

    async def close(self) -> None:
        """Write what waits, if that can be done in time, and release everything."""
        await self.flush()
        if self._writer is not None and not self._writer.done():
            self._writer.cancel()
            await asyncio.wait({self._writer})
        self._counts.dropped += len(self._queue)
        self._queue.clear()
        if self._backend is not None:
            await self._backend.close()
            self._backend = None
        self._memory.clear()
