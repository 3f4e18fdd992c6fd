"""A cache in Redis, shared by all who use the same URL."""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from hiredis import ReplyError, pack_command

from service.cache.connection import Connect, Connection, Line
from service.config import Address
from service.errors import CacheRefused, CacheTimeout, CacheUnavailable

# As it is: its own stub takes a command for one word.
pack: Callable[[tuple[str | int | bytes, ...]], bytes] = pack_command  # type: ignore[assignment]
# A reply above a few MiB holds up Redis, and everybody who waits behind it; most batches are far below it.
REPLY_BYTES = 2 << 20
# Values are taken for this large until some were seen.
FIRST_GUESS_BYTES = 4096
VALUE_TYPES = {bytes, type(None)}
# Nobody waits for a write: it may take longer than a read, on a connection of its own.
WRITE_PATIENCE = 10


class RedisCache:
    """One command a batch for reads, one pipeline for writes; for one event loop.

    Args:
        address: of the server.
        password: None if it wants none.
        ttl_s: how long a value is kept.
        call_timeout_s: what a command may take, connecting included.
    """

    def __init__(
        self, address: Address, *, password: bytes | None, ttl_s: float, call_timeout_s: float
    ) -> None:
        greeting = []
        if password is not None:
            user = () if address.user is None else (address.user,)
            greeting.append(pack(("AUTH", *user, password)))
        if address.database:
            greeting.append(pack(("SELECT", address.database)))
        line = partial(Line, _connect(address), greeting=greeting)
        self._reads = line(budget_s=call_timeout_s)
        self._writes = line(budget_s=call_timeout_s * WRITE_PATIENCE)
        self._ttl_ms = max(1, int(ttl_s * 1000))
        self._value_bytes = FIRST_GUESS_BYTES

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values, in the order of the keys; None where there is none, or a value of another type.

        Raises:
            CacheUnavailable: it does not answer; ``CacheTimeout`` if not in its time.
        """
        found: list[bytes | None] = []
        while len(found) < len(keys):
            part = keys[len(found) : len(found) + max(1, REPLY_BYTES // self._value_bytes)]
            found += await self._get(part)
        return found

    async def _get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        def fits(reply: Any) -> bool:
            return isinstance(reply, list) and len(reply) == len(keys) and {*map(type, reply)} <= VALUE_TYPES

        try:
            replies = await self._reads.ask([pack(("MGET", *keys))], fits=fits)
        except ReplyError as exc:
            raise CacheUnavailable(str(exc)) from None
        except CacheTimeout:
            # It may be because the values are larger than those seen last.
            self._value_bytes = max(self._value_bytes, REPLY_BYTES // 16)
            raise
        values: list[bytes | None] = replies[0]
        self._learn(value for value in values if value is not None)
        return values

    def _learn(self, values: Iterable[bytes]) -> None:
        largest = max(map(len, values), default=0)
        if largest:
            self._value_bytes = max(largest, self._value_bytes // 2)

    async def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep the values for a time; one that is kept already stays.

        Raises:
            CacheUnavailable: it does not answer, or (``CacheRefused``) keeps nothing new.
        """
        # One by one packed and sent at once: faster than a script, and Redis serves others in between.
        commands = [pack(("SET", key, value, "PX", self._ttl_ms, "NX")) for key, value in items.items()]
        self._learn(items.values())
        await self._write(commands, lambda reply: reply is None or reply == b"OK")

    async def delete_many(self, keys: Sequence[bytes]) -> None:
        """Forget the values.

        Raises:
            CacheUnavailable: it does not answer, or (``CacheRefused``) deletes nothing.
        """
        await self._write([pack(("DEL", key)) for key in keys], lambda reply: isinstance(reply, int))

    async def info(self) -> dict[str, str]:
        """What the server says of itself and of its memory.

        Raises:
            CacheUnavailable: it does not answer, or may not be asked that.
        """
        asked = [pack(("INFO", "server")), pack(("INFO", "memory"))]
        try:
            replies = await self._writes.ask(asked, fits=lambda reply: isinstance(reply, bytes))
        except ReplyError as exc:
            raise CacheUnavailable(str(exc)) from None
        lines = b"\n".join(replies).decode(errors="replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    async def _write(self, commands: list[bytes], fits: Callable[[Any], bool]) -> None:
        if not commands:
            return
        try:
            await self._writes.ask(commands, fits=fits)
        except ReplyError as exc:
            raise CacheRefused(str(exc)) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._reads.close()
        await self._writes.close()


def _connect(address: Address) -> Connect:
    """How a connection to the address is made."""
    context = ssl.create_default_context() if address.scheme == "rediss" else None

    async def connect(protocol: Callable[[], Connection]) -> tuple[Any, Connection]:
        loop = asyncio.get_running_loop()
        if address.scheme == "unix":
            return await loop.create_unix_connection(protocol, str(address.path))
        return await loop.create_connection(protocol, address.host, address.port, ssl=context)

    return connect
