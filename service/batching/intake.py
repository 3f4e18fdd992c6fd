"""Intake: how much may be in the house at a time, counted at the door."""

import asyncio
from types import TracebackType
from typing import Self

from service.batching.quotas import Quotas
from service.errors import Draining, QueueFull, TooLarge


class Intake:
    """Rows and bytes of the requests that were let in; for one event loop.

    Args:
        max_rows: of all of them together.
        max_bytes: of their bodies and replies together.
        quotas: of the keys that ask; None where there are none.

    Attributes:
        rows: that are in.
        size: of them, in bytes.
        refused: how many requests were turned away.
        requests: how many are in.
        closed: whether nothing more is let in.
    """

    def __init__(self, *, max_rows: int, max_bytes: int, quotas: Quotas | None = None) -> None:
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.quotas = quotas
        self.rows = 0
        self.size = 0
        self.refused = 0
        self.requests = 0
        self.closed = False
        self._empty = asyncio.Event()

    def close(self) -> None:
        """Let nothing more in; who is in, stays."""
        self.closed = True
        self.left()

    def check(self) -> None:
        """Whether something is let in.

        Raises:
            Draining: it is closed.
        """
        if self.closed:
            raise Draining(
                "the server is stopping and takes in nothing more; ask another one, or again in a moment"
            )

    def left(self) -> None:
        """Say so, where the last one has left a closed house."""
        if self.closed and not self.requests:
            self._empty.set()

    async def emptied(self) -> None:
        """Wait until the last one has left; not before it is closed."""
        await self._empty.wait()


class Load:
    """What one request brings in, from its first byte to the last of its reply.

    Args:
        intake: that counts it.
        key: the name of the key that it came with; empty where the server has none.
    """

    def __init__(self, intake: Intake, key: str = "") -> None:
        self._intake = intake
        self._key = key
        self._rows = 0
        self._size = 0

    async def admit(self) -> None:
        """Turn the request away before it is read, where nothing of the key's quota is left.

        Raises:
            QuotaExceeded: so it is.
        """
        if self._intake.quotas is not None:
            await self._intake.quotas.check(self._key)

    async def take(self, *, rows: int, size: int = 0) -> None:
        """Count the request's rows, now that they are known, also against the key's quota.

        Raises:
            QueueFull, TooLarge: as ``add``.
            QuotaExceeded: the key has to wait.
        """
        self.add(rows=rows, size=size)
        if self._intake.quotas is not None:
            await self._intake.quotas.spend(self._key, rows)

    def check(self, *, rows: int = 0, size: int = 0) -> None:
        """Whether there is room for more of the request; what is only announced takes none.

        Raises:
            QueueFull: others have to leave first.
            TooLarge: it would not fit if it were alone.
            QuotaExceeded: others of the same key have to leave first.
        """
        intake = self._intake
        if self._rows + rows > intake.max_rows or self._size + size > intake.max_bytes:
            raise TooLarge(
                f"the request and its reply have {self._rows + rows} rows and {self._size + size} bytes; "
                f"{intake.max_rows} and {intake.max_bytes} are taken in at a time; split the rows"
            )
        if intake.rows + rows > intake.max_rows or intake.size + size > intake.max_bytes:
            intake.refused += 1
            raise QueueFull("too much is being answered; ask again in a moment")
        if intake.quotas is not None:
            intake.quotas.check_in_flight(self._key, rows=rows, size=size, own_size=self._size)

    def add(self, *, rows: int = 0, size: int = 0) -> None:
        """Count more of the request.

        Raises:
            QueueFull, TooLarge, QuotaExceeded: as ``check``.
        """
        self.check(rows=rows, size=size)
        if self._intake.quotas is not None:
            self._intake.quotas.enter(self._key, rows=rows, size=size)
        self._rows += rows
        self._size += size
        self._intake.rows += rows
        self._intake.size += size

    def __enter__(self) -> Self:
        self._intake.check()
        self._intake.requests += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._intake.rows -= self._rows
        self._intake.size -= self._size
        if self._intake.quotas is not None:
            self._intake.quotas.leave(self._key, rows=self._rows, size=self._size)
        self._intake.requests -= 1
        self._intake.left()
