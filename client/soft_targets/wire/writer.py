"""Replies, the server's side: values as bytes, and groups of rows as record batches.

A value is kept as the bytes that are sent. Rows with nothing amiss are therefore laid between bytes that
depend on nothing but their number, which pyarrow writes once; all others it writes itself.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soft_targets.wire.layout import Layout
from soft_targets.wire.rows import Array, cut

FORMAT = "1"
MAX_BATCH_BYTES = 4 * 1024 * 1024
_HEADER_BYTES = 4096  # of a batch: its header, the padding of its columns, what compression may add to them
_ROW_BYTES = 24  # of a row, besides its value and texts: offsets, the source, bits of validity
SOURCES = ("hit", "opinions", "miss", "coalesced", "absent", "error")
Codec = Literal["zstd", "lz4"]
CODECS: tuple[Codec, ...] = get_args(Codec)
PLACES = {source: place for place, source in enumerate(SOURCES)}
WORDS = pa.array(SOURCES)
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of an Arrow IPC stream


class ReplyWriter:
    """Writes one reply, a group of rows at a time; every method returns bytes to send.

    Args:
        layout: of the values.
        row_id_type: uint64 or utf8.
        metadata: what the reply says of itself.
        codec: by which the rows' buffers are compressed; None leaves them as they are.

    Attributes:
        rows: written so far.
        failed: how many of them were errors.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        row_id_type: pa.DataType,
        metadata: Mapping[str, str],
        codec: Codec | None = None,
    ) -> None:
        self._layout = layout
        self._codec = codec
        self._row_id_type = row_id_type
        self._opening = _opening(layout, row_id_type, tuple(metadata.items()))
        self.rows = 0
        self.failed = 0

    def group(
        self,
        row_ids: pa.Array,
        sources: Sequence[str],
        values: Sequence[bytes | None],
        errors: Sequence[tuple[str, str] | None],
        missing: Sequence[Sequence[str]] | None = None,
    ) -> Iterator[bytes]:
        """Rows that are finished, cut into record batches of at most 4 MiB (or one row).

        Args:
            row_ids: uint64 or utf8 ``[n]``.
            sources: n of ``SOURCES``.
            values: n values of the layout, None on error and absent rows.
            errors: n of (code, message), or None.
            missing: n lists of the teachers that a row had to do without; None where none had.
        """
        without = missing if missing is not None and any(missing) else None
        plain = without is None and None not in values and pa.types.is_uint64(row_ids.type)
        for part in self._parts(row_ids, errors, without, plain=plain):
            ids, texts = row_ids[part], errors[part]
            self.rows += len(ids)
            self.failed += len(ids) - texts.count(None)
            # Nothing of it stays here while it is sent: its reader may take his time.
            if plain and self._codec is None:
                yield self._joined(ids, sources[part], values[part])
            else:
                yield self._written(
                    _batch(self._layout, ids, sources[part], values[part], texts, without and without[part])
                )

    def close(self) -> bytes:
        """The closing batch, which tells a whole stream from a cut one."""
        return self._opened() + _closing(self._layout, self._row_id_type, self.rows, self.failed)

    def _joined(self, row_ids: pa.Array, sources: Sequence[str], values: Sequence[bytes | None]) -> bytes:
        pieces = _joined(self._layout, row_ids, sources, values)  # type: ignore[arg-type]
        return b"".join([self._opened(), *pieces])

    def _written(self, batch: pa.RecordBatch) -> bytes:
        message = batch.serialize() if self._codec is None else _messages(batch, codec=self._codec)[-1]
        return b"".join([self._opened(), message])

    def _opened(self) -> bytes:
        """What comes before the first message."""
        opening, self._opening = self._opening, b""
        return opening

    def _parts(
        self,
        row_ids: pa.Array,
        errors: Sequence[tuple[str, str] | None],
        missing: Sequence[Sequence[str]] | None,
        *,
        plain: bool,
    ) -> Iterator[slice]:
        """The rows of each batch."""
        budget, rows = MAX_BATCH_BYTES - _HEADER_BYTES, len(row_ids)
        if not plain:
            yield from cut(self._sizes(row_ids, errors, missing), budget, max_rows=rows)
            return
        step = max(1, budget // (self._layout.row_bytes + _ROW_BYTES + 8))
        for start in range(0, rows, step):
            yield slice(start, start + step)

    def _sizes(
        self,
        row_ids: pa.Array,
        errors: Sequence[tuple[str, str] | None],
        missing: Sequence[Sequence[str]] | None,
    ) -> Array:
        """The bytes of each row."""
        sizes = np.full(len(row_ids), self._layout.row_bytes + _ROW_BYTES, dtype=np.int64)
        sizes += 8 if pa.types.is_integer(row_ids.type) else 4 + pc.binary_length(row_ids).to_numpy()
        for row, names in enumerate(missing or ()):
            sizes[row] += sum(4 + len(name.encode()) for name in names)
        if any(errors):
            for row, error in enumerate(errors):
                if error is not None:
                    sizes[row] += sum(len(text.encode()) for text in error)
        return sizes


def _joined(
    layout: Layout, row_ids: pa.Array, sources: Sequence[str], values: Sequence[bytes]
) -> list[bytes]:
    """The message of ``_batch`` for rows with integer ids and nothing amiss, in pieces."""
    rows = len(values)
    before, between = _frame(layout, rows)
    words = bytes([PLACES[source] for source in sources])
    pieces = [before, row_ids.to_numpy().tobytes(), words, bytes(-rows % 8), between]
    if len(layout.columns) == 1:
        return [*pieces, *values, bytes(-rows * layout.row_bytes % 8)]
    for column in _columns(layout, b"".join(values)):
        pieces += [column.tobytes(), bytes(-column.nbytes % 8)]
    return pieces


@functools.lru_cache(256)
def _frame(layout: Layout, rows: int) -> tuple[bytes, bytes]:
    """What stands before the ids, and between the sources and the first value."""
    ids = pa.array(np.zeros(rows, np.uint64))
    batch = _batch(layout, ids, ["hit"] * rows, [bytes(layout.row_bytes)] * rows, [None] * rows, None)
    message = batch.serialize().to_pybytes()
    body = len(message) - pa.ipc.read_message(message).body.size
    end = len(message) - sum(_padded(rows * kind.itemsize) for kind in layout.columns.values())
    return message[:body], message[body + 8 * rows + _padded(rows) : end]


def _padded(size: int) -> int:
    """A buffer of that size with its padding."""
    return size + -size % 8


@functools.lru_cache(64)
def _opening(layout: Layout, row_id_type: pa.DataType, metadata: tuple[tuple[str, str], ...]) -> bytes:
    """The schema, and the dictionary of the sources."""
    said = {f"soft_targets.{key}": value for key, value in metadata}
    nothing = _nothing(layout, row_id_type).replace_schema_metadata(said)
    return b"".join(_messages(nothing)[:2])


@functools.lru_cache(256)
def _closing(layout: Layout, row_id_type: pa.DataType, rows: int, failed: int) -> bytes:
    """The empty batch with what it says, and the end of the stream."""
    said = {"rows": str(rows), "failed": str(failed), "complete": "true"}
    return b"".join([_messages(_nothing(layout, row_id_type), said)[-1], END])


def _nothing(layout: Layout, row_id_type: pa.DataType) -> pa.RecordBatch:
    return _batch(layout, pa.array([], row_id_type), [], [], [], None)


def _messages(
    batch: pa.RecordBatch, said: Mapping[str, str] | None = None, *, codec: Codec | None = None
) -> list[pa.Buffer]:
    """A stream of one batch: its schema, its dictionary and the batch."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch, said)
    return [one.serialize() for one in pa.ipc.MessageReader.open_stream(sink.getvalue())]


@functools.lru_cache(64)
def _schema(layout: Layout, row_id_type: pa.DataType) -> pa.Schema:
    return pa.schema(
        [
            pa.field("row_id", row_id_type, nullable=False),
            pa.field("source", pa.dictionary(pa.int8(), pa.string()), nullable=False),
            pa.field("error_code", pa.string()),
            pa.field("error", pa.string()),
            pa.field("missing_teachers", pa.list_(pa.string()), nullable=False),
            *layout.fields(),
        ]
    )


def _batch(  # noqa: PLR0917 - the columns
    layout: Layout,
    row_ids: pa.Array,
    sources: Sequence[str],
    values: Sequence[bytes | None],
    errors: Sequence[tuple[str, str] | None],
    missing: Sequence[Sequence[str]] | None,
) -> pa.RecordBatch:
    absent = np.array([value is None for value in values], dtype=bool)
    nulls = pa.array(absent) if absent.any() else None
    filler = bytes(layout.row_bytes)
    columns = [
        row_ids,
        pa.DictionaryArray.from_arrays(
            pa.array(np.array([PLACES[source] for source in sources], np.int8)), WORDS
        ),
        *_texts(errors),
        pa.array(list(map(list, missing or [()] * len(values))), pa.list_(pa.string())),
    ]
    for column in _columns(layout, b"".join([value or filler for value in values])):
        flat = pa.array(column.reshape(-1))
        if column.ndim == 1:
            columns.append(pa.array(column, mask=absent))
        else:
            columns.append(pa.FixedSizeListArray.from_arrays(flat, column.shape[1], mask=nulls))
    return pa.RecordBatch.from_arrays(columns, schema=_schema(layout, row_ids.type))


def _columns(layout: Layout, data: bytes) -> list[Array]:
    """Joined values in the order of the layout's fields, each of them contiguous."""
    return [np.require(column, requirements=["C", "A"]) for column in layout.unpack(data).values()]


def _texts(errors: Sequence[tuple[str, str] | None]) -> list[pa.Array]:
    """The codes and the texts."""
    return [pa.array([error and error[place] for error in errors], pa.string()) for place in (0, 1)]
