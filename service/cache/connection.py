"""A connection to Redis that several calls share: replies come in the order of the commands.

Bytes go straight between the transport and hiredis. The streams and pools of a client library in
between take half of a read's time (docs/performance.md).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from hiredis import ProtocolError, Reader, ReplyError

from service.errors import CacheTimeout, CacheUnavailable

Connect = Callable[[Callable[[], "Connection"]], Awaitable[tuple[Any, "Connection"]]]
# A call that waits for a connection has its own, shorter time; the next one may still find it made.
CONNECT_S = 1.0


class _Call:
    """What waits for replies."""

    __slots__ = ("count", "future", "replies", "timer")

    def __init__(self, future: asyncio.Future[list[Any]], count: int) -> None:
        self.future = future
        self.count = count
        self.replies: list[Any] = []
        self.timer: asyncio.TimerHandle


class Connection(asyncio.Protocol):
    """Whatever goes wrong on it ends it: half a reply can never become part of another one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = Reader()
        self._calls: deque[_Call] = deque()
        self._transport: asyncio.Transport
        self._closed = self._loop.create_future()
        self.broken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """What the event loop calls once."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """What the event loop calls with any piece of the replies."""
        try:
            self._reader.feed(data)
            while not self.broken and (reply := self._reader.gets()) is not False:
                self._take(reply)
        except ProtocolError as exc:
            self.abort(CacheUnavailable(f"what it says is not Redis: {exc}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """What the event loop calls at the end."""
        self.abort(CacheUnavailable(f"it closed the connection{f': {exc}' if exc else ''}"))
        self._closed.set_result(None)

    def _take(self, reply: Any) -> None:
        if not self._calls:
            self.abort(CacheUnavailable("what it says is no reply"))
            return
        call = self._calls[0]
        call.replies.append(reply)
        if len(call.replies) == call.count:
            self._calls.popleft()
            if not call.future.done():
                call.future.set_result(call.replies)

    async def ask(self, commands: Sequence[bytes], *, due: float) -> list[Any]:
        """Send commands and wait for their replies; errors among them are returned like any other.

        Args:
            commands: packed.
            due: when to give up, by the event loop's clock.

        Raises:
            CacheUnavailable: the connection broke before the last reply; ``CacheTimeout`` if by this call.
        """
        if self.broken:
            raise CacheUnavailable("it closed the connection")
        call = _Call(self._loop.create_future(), len(commands))
        self._calls.append(call)
        call.timer = self._loop.call_at(due, self._overdue, call, due)
        self._transport.writelines(commands)
        try:
            return await call.future
        finally:
            call.timer.cancel()

    def _overdue(self, call: _Call, due: float) -> None:
        """Give up, but not before what came while this process itself was busy has been read."""
        call.timer = self._loop.call_later(self._loop.time() - due, self._give_up, call)

    def _give_up(self, call: _Call) -> None:
        if not call.future.done():
            self.abort(CacheTimeout("no reply in time (cache.call_timeout_ms)"))

    def abort(self, reason: CacheUnavailable) -> None:
        """End it; all calls that wait fail."""
        if self.broken:
            return
        self.broken = True
        self._transport.abort()
        for call in self._calls:
            if not call.future.done():
                call.future.set_exception(type(reason)(*reason.args))

    async def close(self) -> None:
        """End it, and wait until the socket is closed."""
        self.abort(CacheUnavailable("the cache was closed"))
        await self._closed


class Line:
    """A connection that is made when one is needed, and again after it broke.

    Args:
        connect: makes a connection.
        greeting: commands that come first.
        budget_s: what a call may take, connecting included.
    """

    def __init__(self, connect: Connect, *, greeting: Sequence[bytes], budget_s: float) -> None:
        self._connect = connect
        self._greeting = greeting
        self._budget_s = budget_s
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None

    async def ask(self, commands: Sequence[bytes], *, fits: Callable[[Any], bool]) -> list[Any]:
        """Send commands and wait for their replies.

        Args:
            commands: packed.
            fits: whether a reply is one to these commands.

        Raises:
            CacheUnavailable: no connection, it broke, or a reply does not fit; ``CacheTimeout`` if not in
                time.
            ReplyError: the first error among the replies.
        """
        due = asyncio.get_running_loop().time() + self._budget_s
        connection = self._connection
        if connection is None or connection.broken:
            connection = await self._opened()
        replies = await connection.ask(commands, due=due)
        for reply in replies:
            if not fits(reply):
                # Also after an error: it may have lost its rights, or be a replica by now.
                reason = CacheUnavailable("what it says is no reply to what was asked")
                connection.abort(reason)
                raise reply if isinstance(reply, ReplyError) else reason
        return replies

    async def _opened(self) -> Connection:
        """A connection; all calls that need one wait for the same."""
        opening = self._opening
        if opening is None or opening.done():
            opening = self._opening = asyncio.create_task(self._open())
            # Whoever waits may have given up by the time it fails.
            opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait({opening}, timeout=self._budget_s)
        if opening.cancelled():
            raise CacheUnavailable("the cache was closed")
        if not opening.done():
            raise CacheTimeout("no connection in time (cache.call_timeout_ms)")
        return opening.result()

    async def _open(self) -> Connection:
        due = asyncio.get_running_loop().time() + CONNECT_S
        try:
            async with asyncio.timeout_at(due):
                _, connection = await self._connect(Connection)
        except TimeoutError:
            raise CacheTimeout("no connection in time") from None
        except (OSError, UnicodeError) as exc:
            raise CacheUnavailable(f"no connection: {exc}") from None
        try:
            await self._greet(connection, due)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return connection

    async def _greet(self, connection: Connection, due: float) -> None:
        for command in self._greeting:
            (reply,) = await connection.ask([command], due=due)
            if reply != b"OK":
                raise CacheUnavailable(str(reply))

    async def close(self) -> None:
        """End the connection, or the attempt to make one."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._connection is not None:
            await self._connection.close()
