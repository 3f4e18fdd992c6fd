"""A cache that is left alone while it does not answer, so that nobody waits for it in vain."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from typing import TypeVar

from service.cache.base import Cache
from service.errors import CacheRefused, CacheTimeout, CacheUnavailable
from service.keys import NAMESPACE
from service.telemetry import logger

# It is asked for this key to see whether it answers again; nothing is kept there.
PROBE = NAMESPACE + b":probe"

G = TypeVar("G")
T = TypeVar("T")

log = logger("cache")


class Breaker:
    """A cache around another one, whose failures it counts.

    After ``failures`` of them in a row, or one call that overran, every call fails at once. From the first
    failure on a task of its own asks again every ``retry_s`` seconds, so no student pays for finding out that
    the cache is back. That nothing new is kept is no failure: reads are answered.

    Args:
        cache: that may fail.
        failures: how many in a row open it.
        retry_s: between two attempts.
        sleep: what waits, ``asyncio.sleep`` but for tests.

    Attributes:
        reason: why the last call failed; None while the cache answers.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        failures: int,
        retry_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.reason: str | None = None
        self._cache = cache
        self._most = failures
        self._retry_s = retry_s
        self._sleep = sleep
        self._failures = 0
        self._probing: asyncio.Task[None] | None = None

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """As of the cache.

        Raises:
            CacheUnavailable: it does not answer, or is left alone.
        """
        return await self._call(self._cache.get_many, keys)

    async def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """As of the cache.

        Raises:
            CacheUnavailable: it does not answer, keeps nothing new, or is left alone.
        """
        await self._call(self._cache.set_many, items)

    async def delete_many(self, keys: Sequence[bytes]) -> None:
        """As of the cache.

        Raises:
            CacheUnavailable: it does not answer, keeps nothing new, or is left alone.
        """
        await self._call(self._cache.delete_many, keys)

    async def close(self) -> None:
        """Stop asking, and close the cache."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait({self._probing})
        await self._cache.close()

    async def _call(self, ask: Callable[[G], Awaitable[T]], given: G) -> T:
        if self._failures >= self._most:
            raise CacheUnavailable(self.reason)
        try:
            answer = await ask(given)
        except CacheRefused:
            raise
        except CacheUnavailable as exc:
            self._failed(exc)
            raise
        self._answered()
        return answer

    def _failed(self, error: CacheUnavailable) -> None:
        self._failures = self._most if isinstance(error, CacheTimeout) else self._failures + 1
        self.reason = str(error)
        if self._probing is None or self._probing.done():
            log.warning("the cache does not answer", reason=self.reason)
            # In a context of its own: it is no part of the request that found out.
            self._probing = asyncio.create_task(self._probe(), context=Context())

    def _answered(self) -> None:
        if self.reason is not None:
            log.info("the cache answers again")
        self._failures, self.reason = 0, None

    async def _probe(self) -> None:
        """Ask now and then until there is an answer; other calls may get it first."""
        while self.reason is not None:
            await self._sleep(self._retry_s)
            try:
                await self._cache.get_many([PROBE])
            except CacheUnavailable as exc:
                self.reason = str(exc)
            except Exception:
                # Were this task to end, nobody would ask any more.
                log.exception("asking the cache failed")
            else:
                self._answered()
