"""How much a request holds, read from its messages' own headers before anything is decompressed or copied.

Arrow says in the header of a record batch how many rows it has and where its buffers lie; a compressed buffer
begins with the size it inflates to, and a reader allocates exactly that much. pyarrow shows neither, so the
few fields that are needed are read here, by the layout of Arrow's ``Message.fbs`` and of FlatBuffers.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

_HEADER, _ROWS, _BUFFERS, _COMPRESSION = 2, 0, 2, 3  # numbers of fields in Message and RecordBatch


class Size(NamedTuple):
    """What one record batch holds once it is read."""

    rows: int
    bytes: int


def batch_sizes(body: bytes) -> Iterator[Size]:
    """The size of every record batch of an Arrow IPC stream.

    Raises:
        pa.ArrowException, OSError, struct.error: it cannot be read, or holds more than record batches.
    """
    for number, message in enumerate(pa.ipc.MessageReader.open_stream(body)):
        if message.type == "record batch":
            yield _batch_size(memoryview(message.metadata), memoryview(message.body))
        elif number:
            raise pa.ArrowInvalid(f"a {message.type} stands where only record batches are read")


def _batch_size(header: memoryview, body: memoryview) -> Size:
    place = _field(header, _follow(header, 0), _HEADER)
    if place is None:
        raise pa.ArrowInvalid("a record batch has no header")
    batch = _follow(header, place)
    rows, buffers = _field(header, batch, _ROWS), _field(header, batch, _BUFFERS)
    compressed = _field(header, batch, _COMPRESSION) is not None
    size = 0
    if buffers is not None:
        vector = _follow(header, buffers)
        for entry in range(*_entries(header, vector)):
            offset, length = _count(header, entry), _count(header, entry + 8)
            size += _inflated(body, offset, length) if compressed else length
    return Size(0 if rows is None else _count(header, rows), size)


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


def _entries(data: memoryview, vector: int) -> tuple[int, int, int]:
    """Begin, end and step of a vector of pairs of 8-byte integers."""
    return vector + 4, vector + 4 + 16 * _read("<I", data, vector), 16
