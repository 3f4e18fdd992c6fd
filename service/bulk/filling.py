"""A data set into the cache: every answer that may be kept is seen there before its rows count as done."""

import heapq
from collections.abc import Iterable
from contextlib import aclosing

from service.bulk.data import Dataset
from service.bulk.errors import CacheLost
from service.bulk.labelling import Labeller
from service.bulk.tally import Tally
from service.cache import Store
from service.keys import cache_key

# Rows that are looked up once more at the end.
SAMPLED = 1024
ASKED_AT_A_TIME = 128


class Sample:
    """The rows of the smallest digests, which are as good as drawn; a row that comes twice is one."""

    def __init__(self, size: int = SAMPLED) -> None:
        self._size = size
        self._largest: list[int] = []  # a heap of their negatives
        self._members: set[int] = set()

    def add(self, digests: Iterable[bytes]) -> None:
        """More rows that are kept."""
        for digest in digests:
            number = int.from_bytes(digest, "big")
            if number in self._members:
                continue
            if len(self._members) < self._size:
                heapq.heappush(self._largest, -number)
            elif number < -self._largest[0]:
                self._members.discard(-heapq.heapreplace(self._largest, -number))
            else:
                continue
            self._members.add(number)

    async def gone(self, store: Store, fingerprint: str) -> str:
        """What to say if some of them are kept no longer; empty if all are.

        Raises:
            CacheLost: the cache does not answer.
        """
        keys = [cache_key(fingerprint, number.to_bytes(32, "big")) for number in self._members]
        before, gone = store.counters.unavailable, 0
        for start in range(0, len(keys), ASKED_AT_A_TIME):
            gone += (await store.get_many(keys[start : start + ASKED_AT_A_TIME])).count(None)
        if store.counters.unavailable > before:
            raise CacheLost("; ".join(store.degraded()) or "the cache does not answer any more")
        if not gone:
            return ""
        return (
            f"of {len(keys)} rows that were looked up again at the end, {gone} are kept no longer: the cache "
            "has no room for all of the data; give it more (max_bytes, Redis's maxmemory)"
        )


async def fill(labeller: Labeller, data: Dataset, tally: Tally) -> str:
    """Label a data set into the cache.

    Args:
        labeller: opened for keeping all.
        data: to label.
        tally: of the rows; whatever happens, those that count as done are.

    Returns:
        What is wrong with the cache, though everything arrived there; mostly nothing.

    Raises:
        DataError: the data say so.
        CacheLost: the cache does not answer, or does not keep what it is given.
    """
    await labeller.answering()
    sample = Sample()
    async with aclosing(labeller.label(data.chunks(labeller.chunk_rows), kept=True)) as chunks:
        async for labelled in chunks:
            tally.add(labelled)
            sample.add(
                digest for digest, keep in zip(labelled.chunk.digests, labelled.keep, strict=True) if keep
            )
    return await sample.gone(labeller.store, labeller.effective.fingerprint)
