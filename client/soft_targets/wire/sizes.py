"""How much a message holds, read from its own header before anything is decompressed or copied.

Arrow says in the header of a record batch how many rows it has and where its buffers lie; a compressed buffer
begins with the size it inflates to, and a reader allocates exactly that much. pyarrow shows neither, so the
few fields that are needed are read here, by the layout of Arrow's ``Message.fbs`` and of FlatBuffers. What is
no such header is refused here or, by its own verifier, by Arrow.
"""

import struct
from typing import Any, NamedTuple

import pyarrow as pa

# Numbers of fields in Message, Schema, DictionaryBatch and RecordBatch.
_KIND, _HEADER, _BODY_BYTES = 1, 2, 3
_ENDIANNESS = 0
_DATA, _IS_DELTA = 1, 2
_ROWS, _BUFFERS, _COMPRESSION = 0, 2, 3
HEAD_BYTES = 8  # before a header: a mark, and its length
SCHEMA, DICTIONARY, RECORD_BATCH = 1, 2, 3
# Where Arrow 0.17 said that buffers are compressed; readers still look there, a header's reader would not.
_ELSEWHERE = b"ARROW:experimental_compression"


class Size(NamedTuple):
    """What a message holds once it is read.

    Attributes:
        kind: ``SCHEMA``, ``DICTIONARY`` or ``RECORD_BATCH``.
        rows: of its columns.
        bytes: of its buffers, decompressed.
    """

    kind: int
    rows: int
    bytes: int


def body_bytes(header: memoryview) -> int:
    """How many bytes follow a message's header.

    Raises:
        pa.ArrowInvalid, struct.error: it is no such header.
    """
    place = _field(header, _follow(header, 0), _BODY_BYTES)
    return 0 if place is None else _count(header, place)


def message_size(header: memoryview, body: memoryview) -> Size:
    """The size of a message of an Arrow IPC stream.

    Raises:
        pa.ArrowInvalid, struct.error: it cannot be read, or is none that a stream of ours may hold.
    """
    if _ELSEWHERE in bytes(header):
        raise pa.ArrowInvalid("it is compressed as an experiment of Arrow 0.17 had it")
    message = _follow(header, 0)
    kind, place = _small(header, message, _KIND), _field(header, message, _HEADER)
    if place is None:
        raise pa.ArrowInvalid("a message has no header")
    table = _follow(header, place)
    if kind == SCHEMA:
        if _small(header, table, _ENDIANNESS):
            raise pa.ArrowInvalid("its numbers are big-endian")
        return Size(kind, 0, 0)
    if kind == DICTIONARY:
        if _small(header, table, _IS_DELTA):
            raise pa.ArrowInvalid("it adds to a dictionary")
        place = _field(header, table, _DATA)
        if place is None:
            raise pa.ArrowInvalid("a dictionary has no words")
        table = _follow(header, place)
    elif kind != RECORD_BATCH:
        raise pa.ArrowInvalid(f"a message of kind {kind} stands where only rows are read")
    return Size(kind, *_batch(header, table, body))


def _batch(header: memoryview, batch: int, body: memoryview) -> tuple[int, int]:
    """The rows of a record batch, and its bytes."""
    rows, buffers = _field(header, batch, _ROWS), _field(header, batch, _BUFFERS)
    compressed = _field(header, batch, _COMPRESSION) is not None
    places = _pairs(header, _follow(header, buffers)) if buffers is not None else ()
    if any(number < 0 for number in places):
        raise pa.ArrowInvalid("a buffer begins or ends before the batch does")
    lengths = places[1::2]
    if compressed:
        lengths = tuple(_inflated(body, *place) for place in zip(places[::2], lengths, strict=True))
    return 0 if rows is None else _count(header, rows), sum(lengths)


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
    if place < 0:  # to struct that is a place from the end
        raise pa.ArrowInvalid("a header points before its own beginning")
    return struct.unpack_from(kind, data, place)[0]


def _small(data: memoryview, table: int, number: int) -> int:
    """A field of one byte, or the lower one of two; 0 if it was left out."""
    place = _field(data, table, number)
    return 0 if place is None else int(_read("<B", data, place))


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
