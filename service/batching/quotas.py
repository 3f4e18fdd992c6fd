"""Quotas: how much each key may ask for, whoever else asks."""

import math
from collections import Counter

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from service.config import Limits
from service.errors import QuotaExceeded

IN_FLIGHT_RETRY_S = 1
# In a window of one request alone, the next would wait for it to be over: half of the rate, unused.
REQUESTS_PER_WINDOW = 2


class Quotas:
    """Rows in flight and rows a second of every key, in one process; for one event loop.

    Each of several processes grants its share, so that together they grant no more than is configured. Any
    one request has to fit in, however small the share is: the window in which rows are counted is so long
    that two of the largest do, a second at the least, and in flight there may always be as many rows as one
    request holds.

    Args:
        rows_per_s: of a key; None does not count them.
        rows_in_flight: of a key; None does not bound them.
        largest: how many rows one request may have.
        processes: that grant shares.
    """

    def __init__(
        self, *, rows_per_s: int | None, rows_in_flight: int | None, largest: int, processes: int = 1
    ) -> None:
        self._rate: RateLimitItem | None = None
        if rows_per_s is not None:
            window_s = max(1, math.ceil(REQUESTS_PER_WINDOW * largest * processes / rows_per_s))
            self._rate = RateLimitItemPerSecond(rows_per_s * window_s // processes, window_s)
        self._said_per_s, self._said_in_flight = rows_per_s, rows_in_flight
        self._most = math.inf if rows_in_flight is None else max(largest, rows_in_flight // processes)
        self._in_flight: Counter[str] = Counter()
        self._windows = MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(self._windows)

    async def check(self, key: str) -> None:
        """Refuse a request whose rows are not known yet, where there is no room for a single one.

        Raises:
            QuotaExceeded: there is none.
        """
        self._check_in_flight(key, 1)
        if self._rate is not None and not await self._limiter.test(self._rate, key):
            raise await self._too_fast(key, 1)

    def enter(self, key: str, rows: int) -> None:
        """Count rows as in flight.

        Raises:
            QuotaExceeded: others of the key have to leave first.
        """
        self._check_in_flight(key, rows)
        self._in_flight[key] += rows

    def leave(self, key: str, rows: int) -> None:
        """Rows have left."""
        self._in_flight[key] -= rows
        if not self._in_flight[key]:
            del self._in_flight[key]

    async def spend(self, key: str, rows: int) -> None:
        """Count rows as asked for.

        Raises:
            QuotaExceeded: the key asked for too many a moment ago.
        """
        if self._rate is not None and not await self._limiter.hit(self._rate, key, cost=rows):
            raise await self._too_fast(key, rows)

    def _check_in_flight(self, key: str, rows: int) -> None:
        if self._in_flight[key] + rows > self._most:
            raise QuotaExceeded(
                f"{self._in_flight[key]} rows{_of(key)} are being answered, and "
                f"limits.rows_in_flight_per_key is {self._said_in_flight}: wait for their answers before "
                f"asking for {rows} more",
                retry_after_s=IN_FLIGHT_RETRY_S,
            )

    async def _too_fast(self, key: str, rows: int) -> QuotaExceeded:
        assert self._rate is not None
        window_s, most = self._rate.get_expiry(), self._rate.amount
        before, _, now, expires_in_s = await self._windows.get_sliding_window(
            self._rate.key_for(key), window_s
        )
        # Of the rows of the window before, those count that would be left if they had come evenly.
        left_s, room = expires_in_s - window_s, most - rows + 1
        if now < room:
            wait_s = left_s - window_s * (room - now) / before if before else 0.0
        else:
            wait_s = left_s + window_s * (1 - room / now)
        wait_s = max(1, math.ceil(wait_s))
        return QuotaExceeded(
            f"limits.rows_per_s_per_key is {self._said_per_s}, and the rows{_of(key)} came faster: ask for "
            f"these {rows} again in {wait_s} s",
            retry_after_s=wait_s,
        )


def quotas_of(limits: Limits, workers: int | str) -> Quotas | None:
    """What a key may ask of this process; None where that is as much as anyone may.

    Args:
        limits: as configured.
        workers: how many processes serve; a word where this one does alone, as those that are counted out
            by measurement are told how many they are.
    """
    if limits.rows_per_s_per_key is None and limits.rows_in_flight_per_key is None:
        return None
    return Quotas(
        rows_per_s=limits.rows_per_s_per_key,
        rows_in_flight=limits.rows_in_flight_per_key,
        largest=limits.max_rows_per_request,
        processes=workers if isinstance(workers, int) else 1,
    )


def _of(key: str) -> str:
    return f" of the key {key!r}" if key else ""
