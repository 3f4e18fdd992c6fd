"""When whoever waits gives up: each at a time of its own, and all of them when the server has to stop."""

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Ending:
    """For one event loop.

    Attributes:
        at: by the loop's clock, when nobody waits any more; infinite until it is said.
    """

    def __init__(self) -> None:
        self.at = math.inf
        self._waiting: set[asyncio.Timeout] = set()

    def set(self, at: float) -> None:
        """Nobody waits longer than that, not even who waits already."""
        self.at = at
        for waiting in self._waiting:
            if not waiting.expired():
                waiting.reschedule(min(at, waiting.when() or math.inf))

    async def wait(self, deadline: float, work: Awaitable[T]) -> T:
        """Wait for something.

        Not by ``asyncio.wait_for``: Python 3.11's swallows a cancellation that comes as its future is done,
        and whoever had left, or would wait no longer, went on being answered.

        Raises:
            TimeoutError: it was not done before the deadline, or the end.
        """
        async with asyncio.timeout_at(min(deadline, self.at)) as waiting:
            self._waiting.add(waiting)
            try:
                return await work
            finally:
                self._waiting.discard(waiting)
