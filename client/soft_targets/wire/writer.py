"""Replies, the server's side: values as bytes, and groups of rows as record batches."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soft_targets.wire.rows import Array, cut

FORMAT = "1"
MAX_BATCH_BYTES = 4 * 1024 * 1024
_HEADER_BYTES = 4096  # of a batch: its header and the padding of its columns
_ROW_BYTES = 24  # of a row, besides its value and texts: offsets, the source, bits of validity
SOURCES = ("hit", "opinions", "miss", "coalesced", "absent", "error")


PLACES = {source: place for place, source in enumerate(SOURCES)}
_WORDS = pa.array(SOURCES)


class Layout(NamedTuple):
    """How one row's value is laid out as bytes: what the cache keeps and the stream carries.

    Dense: ``classes`` float32 log-probabilities. Sparse: ``top_k`` int32 indices, as many float32
    log-probabilities, and the float32 log of the mass of all other classes.
    """

    classes: int
    top_k: int | None = None

    @property
    def row_bytes(self) -> int:
        """The size of one value."""
        return 4 * self.classes if self.top_k is None else 8 * self.top_k + 4

    def pack(self, log_probs: Array, indices: Array | None = None, tail: Array | None = None) -> list[bytes]:
        """Values of a batch.

        Args:
            log_probs: float32 ``[B, C]`` or ``[B, k]``.
            indices: int32 ``[B, k]`` where sparse.
            tail: float32 ``[B]`` where sparse.
        """
        rows = len(log_probs)
        flat = np.ascontiguousarray(log_probs, dtype="<f4")
        if indices is not None and tail is not None:
            flat = np.concatenate(
                [indices.astype("<i4").view("<f4"), flat, tail.astype("<f4").reshape(rows, 1)], axis=1
            )
        data, size = flat.tobytes(), self.row_bytes
        return [data[row * size : (row + 1) * size] for row in range(rows)]

    def unpack(self, data: bytes) -> tuple[Array, Array | None, Array | None]:
        """Joined values back to ``log_probs, indices, tail``; the last two are None where dense."""
        if self.top_k is None:
            return np.frombuffer(data, "<f4").reshape(-1, self.classes), None, None
        flat, k = np.frombuffer(data, "<f4").reshape(-1, 2 * self.top_k + 1), self.top_k
        return flat[:, k : 2 * k], flat[:, :k].view("<i4"), flat[:, 2 * k]

    def fields(self) -> list[pa.Field]:
        """The value columns."""
        if self.top_k is None:
            return [pa.field("log_probs", pa.list_(pa.float32(), self.classes))]
        return [
            pa.field("indices", pa.list_(pa.int32(), self.top_k)),
            pa.field("log_probs", pa.list_(pa.float32(), self.top_k)),
            pa.field("tail_log_mass", pa.float32()),
        ]


class ReplyWriter:
    """Writes one reply, a group of rows at a time; every method returns bytes to send."""

    def __init__(self, layout: Layout, *, row_id_type: pa.DataType, metadata: Mapping[str, str]) -> None:
        self._layout = layout
        self._schema = pa.schema(
            [
                pa.field("row_id", row_id_type, nullable=False),
                pa.field("source", pa.dictionary(pa.int8(), pa.string()), nullable=False),
                pa.field("error_code", pa.string()),
                pa.field("error", pa.string()),
                pa.field("missing_teachers", pa.list_(pa.string()), nullable=False),
                *layout.fields(),
            ],
            metadata={f"soft_targets.{key}": value for key, value in metadata.items()},
        )
        self._sink = _Sink()
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._sink, mode="w"), self._schema)
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
        without = [()] * len(row_ids) if missing is None else missing
        sizes = self._sizes(row_ids, errors)
        if any(without):
            for row, names in enumerate(without):
                sizes[row] += sum(4 + len(name.encode()) for name in names)
        for part in cut(sizes, MAX_BATCH_BYTES - _HEADER_BYTES, max_rows=len(sizes)):
            batch = self._batch(row_ids[part], sources[part], values[part], errors[part], without[part])
            self.rows += batch.num_rows
            self.failed += len(row_ids[part]) - errors[part].count(None)
            self._writer.write_batch(batch)
            yield self._sink.take()

    def close(self) -> bytes:
        """The closing batch, which tells a whole stream from a cut one."""
        closing = {"rows": str(self.rows), "failed": str(self.failed), "complete": "true"}
        self._writer.write_batch(self._empty(), closing)
        self._writer.close()
        return self._sink.take()

    def _sizes(self, row_ids: pa.Array, errors: Sequence[tuple[str, str] | None]) -> Array:
        """The bytes of each row."""
        sizes = np.full(len(row_ids), self._layout.row_bytes + _ROW_BYTES, dtype=np.int64)
        sizes += 8 if pa.types.is_integer(row_ids.type) else 4 + pc.binary_length(row_ids).to_numpy()
        if any(errors):
            for row, error in enumerate(errors):
                if error is not None:
                    sizes[row] += sum(len(text.encode()) for text in error)
        return sizes

    def _empty(self) -> pa.RecordBatch:
        return self._batch(pa.array([], self._schema.field("row_id").type), [], [], [], [])

    def _batch(
        self,
        row_ids: pa.Array,
        sources: Sequence[str],
        values: Sequence[bytes | None],
        errors: Sequence[tuple[str, str] | None],
        missing: Sequence[Sequence[str]],
    ) -> pa.RecordBatch:
        absent = np.array([value is None for value in values], dtype=bool)
        nulls = pa.array(absent) if absent.any() else None
        filler = bytes(self._layout.row_bytes)
        joined = b"".join(values if nulls is None else [value or filler for value in values])  # type: ignore[arg-type]
        log_probs, indices, tail = self._layout.unpack(joined)
        columns = [
            row_ids,
            pa.DictionaryArray.from_arrays(
                pa.array(np.array([PLACES[source] for source in sources], np.int8)), _WORDS
            ),
            *_texts(errors),
            pa.array(list(map(list, missing)), pa.list_(pa.string()))
            if any(missing)
            else _nobody(len(values)),
        ]
        for name, column in (("indices", indices), ("log_probs", log_probs), ("tail_log_mass", tail)):
            if column is None:
                continue
            flat = pa.array(np.ascontiguousarray(column).reshape(-1))
            if name == "tail_log_mass":
                columns.append(pa.array(tail, mask=absent))
            else:
                width = column.shape[1]
                columns.append(pa.FixedSizeListArray.from_arrays(flat, width, mask=nulls))
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)


def _texts(errors: Sequence[tuple[str, str] | None]) -> list[pa.Array]:
    """The codes and the texts."""
    if not any(errors):
        return [_no_text(len(errors))] * 2
    return [pa.array([error and error[place] for error in errors], pa.string()) for place in (0, 1)]


# Most groups have no error and nobody missing, and are of few sizes.
@functools.lru_cache(64)
def _no_text(rows: int) -> pa.Array:
    return pa.array([None] * rows, pa.string())


@functools.lru_cache(64)
def _nobody(rows: int) -> pa.Array:
    return pa.array([[]] * rows, pa.list_(pa.string()))


class _Sink:
    """A file that hands over what was written to it, piece by piece."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to release."""

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
