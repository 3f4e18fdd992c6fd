"""An Arrow IPC stream from somebody who need not be believed, a message at a time.

Arrow allocates what a message claims to hold. So every message is judged by its own header before Arrow is
shown a byte of it, and a file is read only as far as a message may reach.
"""

import struct
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from soft_targets.errors import IncompleteStream, WireError
from soft_targets.wire.sizes import DICTIONARY, HEAD_BYTES, RECORD_BATCH, body_bytes, message_size

MAX_HEADER_BYTES = 1 << 20
_CONTINUATION = b"\xff\xff\xff\xff"
_READ_BYTES = 1 << 20  # of a file at a time: some allocate what they are asked for before they have it


class Stream:
    """A binary file for Arrow to read, over the messages that were found to be within the limit.

    Args:
        source: bytes, or a binary file.
        max_bytes: how much all messages together may hold, decompressed, headers included.
    """

    closed = False

    def __init__(self, source: Any, *, max_bytes: int) -> None:
        self._take = _from_file(source) if hasattr(source, "read") else _from_bytes(source)
        self._max_bytes = max_bytes
        self._left = max_bytes
        self._has_rows = False
        self._pieces: list[memoryview] = []

    def first(self) -> bytes:
        """The first message, which stays to be read.

        Raises:
            WireError: it is none, or beyond the limit.
        """
        self._pieces = self._next()
        return b"".join(self._pieces)

    def read(self, size: int) -> memoryview:
        """The next bytes, of one message at most; none at the end.

        Raises:
            WireError: the next message is none, or beyond the limit.
        """
        if not self._pieces:
            self._pieces = self._next()
        if not self._pieces:
            return memoryview(b"")
        piece = self._pieces.pop(0)
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]

    def _next(self) -> list[memoryview]:
        """The pieces of the next message; none at the end of what there is."""
        head = self._take(HEAD_BYTES)
        if head[:4] != _CONTINUATION[: len(head)]:
            raise WireError("the answer is not an Arrow IPC stream")
        if not head:
            return []
        length = struct.unpack("<i", head[4:])[0] if len(head) == HEAD_BYTES else 0
        if not length:
            return [head]  # the end, or less
        if not 0 < length <= MAX_HEADER_BYTES:
            raise WireError(f"a message of the answer has a header of {length} bytes")
        header = self._whole(length)
        try:
            body = self._whole(body_bytes(header))
            held = message_size(header, body)
        except (pa.ArrowInvalid, struct.error) as exc:
            raise WireError(f"a message of the answer cannot be read: {exc}") from None
        self._spend(max(0, held.bytes - len(body)))
        if held.rows > held.bytes:
            raise WireError(f"a message of the answer counts {held.rows} rows in {held.bytes} bytes")
        if held.kind == DICTIONARY and self._has_rows:
            raise WireError("a dictionary of the answer comes behind its rows")
        self._has_rows |= held.kind == RECORD_BATCH
        return [piece for piece in (head, header, body) if len(piece)]

    def _whole(self, size: int) -> memoryview:
        """So many bytes of the source, if that is within the limit."""
        self._spend(size)
        piece = self._take(size)
        if len(piece) < size:
            raise IncompleteStream("the answer was cut inside a message")
        return piece

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise WireError(f"the answer says that it holds more than {self._max_bytes} bytes")


def _from_bytes(source: Any) -> Callable[[int], memoryview]:
    rest = memoryview(pa.py_buffer(source)).cast("B")

    def take(size: int) -> memoryview:
        nonlocal rest
        piece, rest = rest[:size], rest[size:]
        return piece

    return take


def _from_file(source: Any) -> Callable[[int], memoryview]:
    def take(size: int) -> memoryview:
        chunks, missing = [], size
        while missing and (chunk := source.read(min(missing, _READ_BYTES))):
            chunks.append(chunk)
            missing -= len(chunk)
        return memoryview(b"".join(chunks))

    return take
