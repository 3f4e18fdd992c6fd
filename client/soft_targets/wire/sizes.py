"""How much a request holds, read from its messages' own headers before anything is decompressed or copied.

Arrow says in the header of a record batch how many rows it has and where its buffers lie; a compressed buffer
begins with the size it inflates to, and a reader allocates exactly that much. pyarrow shows neither, so the
few fields that are needed are read here, by the layout of Arrow's ``Message.fbs`` and of FlatBuffers.
"""

import struct
from typing import Any, NamedTuple

import pyarrow as pa

_HEADER, _ROWS, _BUFFERS, _COMPRESSION = 2, 0, 2, 3  # numbers of fields in Message and RecordBatch


class Size(NamedTuple):
    """What one record batch holds once it is read."""

    rows: int
    bytes: int


def batch_size(message: pa.ipc.Message) -> Size:
    """The size of a record batch of an Arrow IPC stream.

    Raises:
        pa.ArrowInvalid, struct.error: it cannot be read, or is none.
    """
    if message.type != "record batch":
        raise pa.ArrowInvalid(f"a {message.type} stands where only record batches are read")
    header, body = memoryview(message.metadata), memoryview(message.body)
    place = _field(header, _follow(header, 0), _HEADER)
    if place is None:
        raise pa.ArrowInvalid("a record batch has no header")
    batch = _follow(header, place)
    rows, buffers = _field(header, batch, _ROWS), _field(header, batch, _BUFFERS)
    compressed = _field(header, batch, _COMPRESSION) is not None
    places = _pairs(header, _follow(header, buffers)) if buffers is not None else ()
    if any(number < 0 for number in places):
        raise pa.ArrowInvalid("a buffer begins or ends before the batch does")
    lengths = places[1::2]
    if compressed:
        lengths = tuple(_inflated(body, *place) for place in zip(places[::2], lengths, strict=True))
    return Size(0 if rows is None else _count(header, rows), sum(lengths))


def _inflated(body: memoryview, offset: int, length: int) -> int:
    """What a compressed buffer takes; one that was left as it is says -1."""
    if not length or _read("<q", body, offset) == -1:
        return length
    return _count(body, offset)


def _count(data: memoryview, place: int) -> int:
    count = int(_read("<q", data, place))
    if count < 0:
        raise pa.ArrowInvalid(f"it counts {count} rows or bytes")
    return count


def _read(kind: str, data: memoryview, place: int) -> Any:
    return struct.unpack_from(kind, data, place)[0]


def _follow(data: memoryview, place: int) -> int:
    """Where the table or vector is that the offset at ``place`` points to."""
    return place + int(_read("<I", data, place))


def _field(data: memoryview, table: int, number: int) -> int | None:
    """Where a table's field is, None if it was left out."""
    fields = table - _read("<i", data, table)
    slot = 4 + 2 * number
    offset = _read("<H", data, fields + slot) if slot < _read("<H", data, fields) else 0
    return table + offset if offset else None


def _pairs(data: memoryview, vector: int) -> tuple[int, ...]:
    """A vector of pairs of 8-byte integers."""
    count = _read("<I", data, vector)
    if count > len(data) // 16:
        raise pa.ArrowInvalid(f"a vector of {count} pairs is longer than what holds it")
    return struct.unpack_from(f"<{2 * count}q", data, vector + 4)
