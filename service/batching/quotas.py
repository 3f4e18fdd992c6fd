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
    """What every key may have in flight, and its rows a second, in one process; for one event loop.

    Each of several processes grants its share, so that together they grant no more than is configured. Any
    one request has to get in, however small the share is. So in flight there may always be one; and as long
    as any of the rate is left, a request is let in whole and owes what is beyond, which is paid before the
    next one. Else those who ask for many rows would wait for ever behind those who ask for few.

    Args:
        rows_per_s: of a key; None does not count them.
        rows_in_flight: of a key; None does not bound them.
        bytes_in_flight: of a key's bodies and replies; None does not bound them.
        largest: how many rows one request may have.
        processes: that grant shares.
    """

    def __init__(
        self,
        *,
        rows_per_s: int | None,
        rows_in_flight: int | None,
        bytes_in_flight: int | None,
        largest: int,
        processes: int = 1,
    ) -> None:
        self._rate: RateLimitItem | None = None
        if rows_per_s is not None:
            window_s = max(1, math.ceil(REQUESTS_PER_WINDOW * largest * processes / rows_per_s))
            self._rate = RateLimitItemPerSecond(rows_per_s * window_s // processes, window_s)
        self._said_per_s, self._said_in_flight = rows_per_s, rows_in_flight
        self._most = math.inf if rows_in_flight is None else max(largest, rows_in_flight // processes)
        self._most_bytes = math.inf if bytes_in_flight is None else bytes_in_flight // processes
        self._rows: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._owed: Counter[str] = Counter()
        self._windows = MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(self._windows)

    async def check(self, key: str) -> None:
        """Refuse a request whose rows are not known yet, where there is no room for a single one.

        Raises:
            QuotaExceeded: there is none.
        """
        self.check_in_flight(key, rows=1)
        if self._rate is not None:
            await self._settle(self._rate, key, 1)

    def check_in_flight(self, key: str, *, rows: int, size: int = 0, own_size: int = 0) -> None:
        """Whether there is room for more of a request.

        Args:
            key: that it came with.
            rows: that are to be counted.
            size: likewise, in bytes.
            own_size: how many bytes of it are counted already.

        Raises:
            QuotaExceeded: others of the key have to leave first.
        """
        if rows and self._rows[key] + rows > self._most:
            raise QuotaExceeded(
                f"{self._rows[key]} rows{_of(key)} are being answered, and "
                f"limits.rows_in_flight_per_key is {self._said_in_flight}: wait for their answers before "
                f"asking for {rows} more",
                retry_after_s=IN_FLIGHT_RETRY_S,
            )
        others = self._bytes[key] - own_size
        if size and others and others + own_size + size > self._most_bytes:
            raise QuotaExceeded(
                f"other requests{_of(key)} have {others} bytes in flight, bodies and replies, and with this "
                f"one more than its share of limits.max_bytes_in_flight, {self._most_bytes}: wait for their "
                "answers",
                retry_after_s=IN_FLIGHT_RETRY_S,
            )

    def enter(self, key: str, *, rows: int, size: int = 0) -> None:
        """Count more of a request as in flight; there is room for it."""
        self._rows[key] += rows
        self._bytes[key] += size

    def leave(self, key: str, *, rows: int, size: int = 0) -> None:
        """It has left."""
        for counted, much in ((self._rows, rows), (self._bytes, size)):
            counted[key] -= much
            if not counted[key]:
                del counted[key]

    async def spend(self, key: str, rows: int) -> None:
        """Count rows as asked for.

        Raises:
            QuotaExceeded: the key asked for too many a moment ago.
        """
        if self._rate is None:
            return
        left = await self._settle(self._rate, key, rows)
        paid = min(rows, left)
        if not await self._limiter.hit(self._rate, key, cost=paid):
            raise await self._too_fast(self._rate, key, rows, 1)
        if rows > paid:
            self._owed[key] = rows - paid

    async def _settle(self, rate: RateLimitItem, key: str, rows: int) -> int:
        """Pay what a key owes; how much of its rate is left.

        Raises:
            QuotaExceeded: something is owed still, or nothing is left.
        """
        left = (await self._limiter.get_window_stats(rate, key)).remaining
        owed = self._owed.get(key, 0)
        paid = min(owed, left)
        if paid and await self._limiter.hit(rate, key, cost=paid):
            owed, left = owed - paid, left - paid
            if owed:
                self._owed[key] = owed
            else:
                del self._owed[key]
        if owed or not left:
            raise await self._too_fast(rate, key, rows, owed + 1)
        return left

    async def _too_fast(self, rate: RateLimitItem, key: str, rows: int, needed: int) -> QuotaExceeded:
        """Says when so many rows of a key's rate will be left."""
        window_s, most = rate.get_expiry(), rate.amount
        before, _, now, expires_in_s = await self._windows.get_sliding_window(rate.key_for(key), window_s)
        # Of the rows of the window before, those count that would be left if they had come evenly.
        left_s, room = expires_in_s - window_s, most - needed + 1
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
    rows_in_flight = limits.rows_in_flight_per_key
    if limits.rows_per_s_per_key is None and rows_in_flight is None:
        return None
    share = None if rows_in_flight is None else min(1.0, rows_in_flight / limits.max_rows_in_flight)
    return Quotas(
        rows_per_s=limits.rows_per_s_per_key,
        rows_in_flight=rows_in_flight,
        bytes_in_flight=None if share is None else int(limits.max_bytes_in_flight * share),
        largest=limits.max_rows_per_request,
        processes=workers if isinstance(workers, int) else 1,
    )


def _of(key: str) -> str:
    return f" of the key {key!r}" if key else ""
