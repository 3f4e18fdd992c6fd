"""What parent and workers say to each other: JSON, a line a message, over a pair of sockets."""

import asyncio
import contextlib
import json
import socket
from typing import Any, Self

Message = dict[str, Any]
# A configuration is in some of them.
LONGEST_BYTES = 64 << 20


class Channel:
    """One end.

    Args:
        reader: of what the other end says.
        writer: of what this end says.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """The end of a pair of sockets."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LONGEST_BYTES))

    def send(self, say: str, **what: Any) -> None:
        """Say something; if nobody is there any more, ``receive`` finds out."""
        self._writer.write(json.dumps({"say": say, **what}).encode() + b"\n")

    async def receive(self) -> Message | None:
        """The next message; None when the other end is gone."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        message: Message | None = json.loads(line) if line.endswith(b"\n") else None
        return message

    async def flush(self) -> None:
        """Wait until what was said has left, if anybody is there."""
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
