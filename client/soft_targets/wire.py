"""The wire format, shared by client and server: the cast, the row digest, requests and replies.

A request is an Arrow IPC stream with one column per input of the ensemble (a fixed-shape tensor, a
fixed-size list, a primitive, or utf8) and optionally ``row_id``. A reply is an Arrow IPC stream whose
last record batch is empty and carries ``rows``, ``failed`` and ``complete`` in its custom metadata: an
Arrow stream that merely ends cannot be told from one that was cut, this one can.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from blake3 import blake3

from soft_targets.errors import IncompleteStream, InputError, TooManyRows, WireError

__all__ = [
    "ARROW",
    "DTYPES",
    "FORMAT",
    "MAX_BATCH_BYTES",
    "SOURCES",
    "Closing",
    "IncompleteStream",
    "InputError",
    "Layout",
    "ReplyBatch",
    "ReplyWriter",
    "TensorSpec",
    "TooManyRows",
    "WireError",
    "cast",
    "decode_request",
    "default_row_ids",
    "encode_request",
    "read_reply",
    "row_digests",
    "row_id_array",
]

ARROW = "application/vnd.apache.arrow.stream"
FORMAT = "1"
MAX_BATCH_BYTES = 4 * 1024 * 1024
SOURCES = ("hit", "opinions", "miss", "coalesced", "absent", "error")
DTYPES = (
    "|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8", "utf8",
)  # fmt: skip

Array = np.ndarray[Any, Any]


class TensorSpec(NamedTuple):
    """One input of an ensemble: its dtype (one of ``DTYPES``) and the shape of one row, without the batch axis."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} of shape {list(self.shape)}"


# ---------------------------------------------------------------------------------------------------- cast


def cast(values: Any, dtype: str, *, name: str) -> Array:
    """Cast values to an input's dtype without ever changing what they say.

    Within integers, and from integers to floats, only where every value is kept exactly; from float to float
    values may round, but a finite one may not become infinite. Booleans and text stay what they are.

    Args:
        values: an array, or whatever ``numpy.asarray`` reads.
        dtype: one of ``DTYPES``.
        name: the input's name, for messages.

    Returns:
        A C-contiguous little-endian array; text as an object array of ``str``.

    Raises:
        InputError: naming the input, the first offending position and what to do.
    """
    try:
        source = np.asarray(values)
    except ValueError:
        raise InputError(f"input {name!r}: rows differ in shape; give every row the same shape") from None
    if dtype == "utf8":
        return _cast_text(source, name)
    target = np.dtype(dtype)
    if source.dtype.kind not in "biuf":
        raise InputError(f"input {name!r}: {_odd_one(source)} is not a number; it takes {dtype}")
    if source.dtype == target:
        return np.ascontiguousarray(source).reshape(source.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        result = source.astype(target, order="C")
    kinds = ("i" if source.dtype.kind == "u" else source.dtype.kind) + (
        "i" if target.kind == "u" else target.kind
    )
    if kinds == "ff":
        lost = np.isinf(result) & np.isfinite(source)
    elif kinds == "ii":
        limits = np.iinfo(target)
        lost = (source < limits.min) | (source > limits.max)
    elif kinds == "if":
        lost = _inexact(source, result)
    else:
        raise InputError(f"input {name!r}: {source.dtype.name} cannot become {dtype}; send {dtype}")
    if lost.any():
        where = tuple(int(i) for i in np.argwhere(lost)[0])
        raise InputError(
            f"input {name!r}: {source[where]!s} at {list(where)} cannot be kept as {dtype}; send values in its range"
        )
    return result


def _cast_text(source: Array, name: str) -> Array:
    result = np.asarray(source, dtype=object)
    for where, value in np.ndenumerate(result):
        if not isinstance(value, str):
            raise InputError(f"input {name!r}: {value!r} at {list(where)} is not text; it takes utf8")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"input {name!r}: the text at {list(where)} is not valid Unicode") from None
    return result


def _odd_one(source: Array) -> str:
    """Describe the first value that is no number, for a message."""
    for where, value in np.ndenumerate(source):
        if isinstance(value, str) or not isinstance(value, int | float | np.number):
            return f"{value!r} at {list(where)}"
    return f"a value of dtype {source.dtype}"


def _inexact(source: Array, result: Array) -> Array:
    """Where an integer did not survive becoming a float; only large ones need a look."""
    exact_up_to = 2 ** (np.finfo(result.dtype).nmant + 1)
    doubtful = (source > exact_up_to) | (source < -exact_up_to if source.dtype.kind == "i" else False)
    lost = np.zeros(source.shape, dtype=bool)
    for where in zip(*np.nonzero(doubtful), strict=True):
        value = float(result[where])
        lost[where] = not np.isfinite(value) or int(value) != int(source[where])
    return lost


# ------------------------------------------------------------------------------------------------- digests


def row_digests(inputs: Mapping[str, Array], specs: Mapping[str, TensorSpec]) -> list[bytes]:
    """Hash every row: BLAKE3-256 over names, dtypes, shapes and little-endian bytes, in the ensemble's order.

    Args:
        inputs: name to array ``[B, ...]``, already cast.
        specs: the ensemble's inputs, in its order.

    Returns:
        B digests of 32 bytes.
    """
    rows = len(next(iter(inputs.values())))
    heads = [_digest_head(name, spec) for name, spec in specs.items()]
    if any(spec.dtype == "utf8" for spec in specs.values()):
        views = [_row_views(inputs[name], spec, rows) for name, spec in specs.items()]
        return [
            blake3(
                b"st-row\x01"
                + b"".join(
                    head + len(view[row]).to_bytes(8, "little") + view[row]
                    for head, view in zip(heads, views, strict=True)
                )
            ).digest()
            for row in range(rows)
        ]
    # Rows of one size: lay headers and data side by side once, then hash row by row without another copy.
    parts: list[Array] = [_tile(b"st-row\x01", rows)]
    for head, (name, spec) in zip(heads, specs.items(), strict=True):
        data = np.ascontiguousarray(inputs[name], dtype=spec.dtype).reshape(rows, -1).view(np.uint8)
        parts += [_tile(head + data.shape[1].to_bytes(8, "little"), rows), data]
    flat = np.concatenate(parts, axis=1)
    view = memoryview(flat.reshape(-1))
    size = flat.shape[1]
    return [blake3(view[row * size : (row + 1) * size]).digest() for row in range(rows)]


def _tile(head: bytes, rows: int) -> Array:
    return np.broadcast_to(np.frombuffer(head, dtype=np.uint8), (rows, len(head)))


def _digest_head(name: str, spec: TensorSpec) -> bytes:
    encoded, dtype = name.encode(), spec.dtype.encode()
    dimensions = b"".join(size.to_bytes(8, "little") for size in spec.shape)
    return (
        len(encoded).to_bytes(4, "little")
        + encoded
        + len(dtype).to_bytes(4, "little")
        + dtype
        + len(spec.shape).to_bytes(1, "little")
        + dimensions
    )


def _row_views(values: Array, spec: TensorSpec, rows: int) -> list[bytes]:
    if spec.dtype == "utf8":
        return [str(text).encode() for text in values]
    data = np.ascontiguousarray(values, dtype=spec.dtype).reshape(rows, -1)
    return [row.tobytes() for row in data]


# ------------------------------------------------------------------------------------------------ requests


def default_row_ids(rows: int) -> pa.Array:
    """0, 1, 2 ... as uint64: the ids of rows that were sent without any."""
    return pa.array(np.arange(rows, dtype=np.uint64))


def row_id_array(row_ids: Any) -> pa.Array:
    """Row ids as uint64 or utf8.

    Raises:
        InputError: they are neither all non-negative integers nor all text, or one stands twice.
    """
    try:
        array = row_ids if isinstance(row_ids, pa.Array) else pa.array(row_ids)
        if pa.types.is_integer(array.type):
            array = array.cast(pa.uint64())
        elif pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
            array = array.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as exc:
        raise InputError(f"row ids must be all non-negative integers or all text: {exc}") from None
    if array.type not in (pa.uint64(), pa.string()) or array.null_count:
        raise InputError(f"row ids must be all non-negative integers or all text, not {array.type} with nulls")
    counts = array.value_counts()
    if len(counts) != len(array):
        twice = [entry["values"].as_py() for entry in counts if entry["counts"].as_py() > 1]
        raise InputError(f"row ids must be unique; these stand more than once: {twice[:5]}")
    return array


def encode_request(inputs: Mapping[str, Array], row_ids: pa.Array) -> bytes:
    """One request body: a column per input (already cast, ``[B, ...]``) and ``row_id``."""
    columns = {"row_id": row_ids}
    for name, values in inputs.items():
        if values.dtype == object:
            columns[name] = pa.array(values, pa.string())
        elif values.ndim == 1:
            columns[name] = pa.array(values)
        else:
            columns[name] = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
    batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def decode_request(
    body: bytes, specs: Mapping[str, TensorSpec], *, max_rows: int
) -> tuple[pa.Array, dict[str, Array]]:
    """Read a request body.

    Returns:
        Row ids, and name to array ``[B, ...]`` of the declared dtype.

    Raises:
        InputError: the body is not an Arrow stream, or its columns do not fit ``specs``.
        TooManyRows: it holds more than ``max_rows`` rows.
    """
    try:
        batches, rows = [], 0
        with pa.ipc.open_stream(body) as reader:
            check_names(set(reader.schema.names) - {"row_id"}, specs)
            if len(set(reader.schema.names)) != len(reader.schema.names):
                raise InputError(f"a column stands twice: {reader.schema.names}")
            for batch in reader:
                rows += batch.num_rows
                if rows > max_rows:
                    raise TooManyRows(f"more than {max_rows} rows in one request; split them")
                batch.validate(full=True)
                batches.append(batch)
            table = pa.Table.from_batches(batches, reader.schema)
    except (pa.ArrowException, OSError) as exc:
        raise InputError(f"the body is not a readable Arrow IPC stream: {exc}") from None
    if rows == 0:
        return default_row_ids(0), {}
    inputs = {name: _column(table[name], spec, name) for name, spec in specs.items()}
    has_ids = "row_id" in table.schema.names
    return row_id_array(_combine(table["row_id"])) if has_ids else default_row_ids(rows), inputs


def check_names(given: set[str], specs: Mapping[str, TensorSpec]) -> None:
    """Refuse inputs that are missing or unknown.

    Raises:
        InputError: naming them, and what is expected.
    """
    missing, extra = sorted(specs.keys() - given), sorted(given - specs.keys())
    if missing or extra:
        said = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(extra)}"] * bool(extra)
        raise InputError(f"inputs do not fit ({'; '.join(said)}); this ensemble takes {', '.join(specs)}")


def check_shape(values: Array, spec: TensorSpec, name: str) -> None:
    """Refuse rows of another shape.

    Raises:
        InputError: naming the input, what was given and what it takes.
    """
    if values.shape[1:] != spec.shape:
        raise InputError(f"input {name!r}: rows have shape {list(values.shape[1:])}, it takes {spec}")


def _combine(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined.combine_chunks() if isinstance(combined, pa.ChunkedArray) else combined


def _column(column: pa.ChunkedArray, spec: TensorSpec, name: str) -> Array:
    array, shape = _combine(column), [len(column)]
    if isinstance(array.type, pa.FixedShapeTensorType) and not array.null_count:
        values = array.to_numpy_ndarray()
    else:
        while pa.types.is_fixed_size_list(array.type) and not array.null_count:
            shape.append(array.type.list_size)
            array = array.flatten()
        if array.null_count:
            raise InputError(f"input {name!r} holds null; every value must be given (NaN is a value, null is not)")
        if not (
            pa.types.is_primitive(array.type)
            or pa.types.is_string(array.type)
            or pa.types.is_large_string(array.type)
        ):
            raise InputError(f"input {name!r}: a column of type {column.type} cannot be read as {spec}")
        values = array.to_numpy(zero_copy_only=False).reshape(shape)
    check_shape(values, spec, name)
    return cast(values, spec.dtype, name=name)


# ------------------------------------------------------------------------------------------------- replies


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
    ) -> Iterator[bytes]:
        """Rows that are finished, cut into record batches of at most 4 MiB (or one row).

        Args:
            row_ids: uint64 or utf8 ``[n]``.
            sources: n of ``SOURCES``.
            values: n values of the layout, None on error and absent rows.
            errors: n of (code, message), or None.
        """
        step = max(1, MAX_BATCH_BYTES // (self._layout.row_bytes + 256))
        for start in range(0, len(row_ids), step):
            part = slice(start, start + step)
            batch = self._batch(row_ids[part], sources[part], values[part], errors[part])
            self.rows += batch.num_rows
            self.failed += sum(error is not None for error in errors[part])
            self._writer.write_batch(batch)
            yield self._sink.take()

    def close(self) -> bytes:
        """The closing batch, which tells a whole stream from a cut one."""
        closing = {"rows": str(self.rows), "failed": str(self.failed), "complete": "true"}
        self._writer.write_batch(self._empty(), closing)
        self._writer.close()
        return self._sink.take()

    def _empty(self) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in self._schema], schema=self._schema)

    def _batch(
        self,
        row_ids: pa.Array,
        sources: Sequence[str],
        values: Sequence[bytes | None],
        errors: Sequence[tuple[str, str] | None],
    ) -> pa.RecordBatch:
        rows = len(row_ids)
        absent = [value is None for value in values]
        nulls = pa.array(absent) if any(absent) else None
        filler = bytes(self._layout.row_bytes)
        log_probs, indices, tail = self._layout.unpack(b"".join(value or filler for value in values))
        columns = [
            row_ids,
            pa.DictionaryArray.from_arrays(
                pa.array([SOURCES.index(source) for source in sources], pa.int8()), pa.array(SOURCES)
            ),
            pa.array([error and error[0] for error in errors], pa.string()),
            pa.array([error and error[1] for error in errors], pa.string()),
            pa.array([[]] * rows, pa.list_(pa.string())),
        ]
        for name, column in (("indices", indices), ("log_probs", log_probs), ("tail_log_mass", tail)):
            if column is None:
                continue
            flat = pa.array(np.ascontiguousarray(column).reshape(-1))
            if name == "tail_log_mass":
                columns.append(pa.array(tail, mask=np.array(absent)))
            else:
                width = column.shape[1]
                columns.append(pa.FixedSizeListArray.from_arrays(flat, width, mask=nulls))
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)


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


class ReplyBatch(NamedTuple):
    """Rows of a reply, as views of its bytes; value columns of error rows hold nothing of meaning."""

    row_ids: pa.Array
    sources: list[str]
    errors: list[tuple[str, str] | None]
    log_probs: Array  # float32 [n, C] or [n, k]
    indices: Array | None  # int32 [n, k]
    tail_log_mass: Array | None  # float32 [n]


class Closing(NamedTuple):
    """What the closing batch says."""

    rows: int
    failed: int


def read_reply(source: Any) -> tuple[dict[str, str], Iterator[ReplyBatch | Closing]]:
    """Read a reply from bytes or a binary file.

    Returns:
        The stream's metadata without its prefix, and its batches, the last of them a ``Closing``.

    Raises:
        WireError: the bytes are not a reply of this format version.
        IncompleteStream: (from the iterator) the stream ended without its closing batch.
    """
    try:
        reader = pa.ipc.open_stream(source)
    except (pa.ArrowException, OSError) as exc:
        raise WireError(f"the answer is not an Arrow IPC stream: {exc}") from None
    raw = reader.schema.metadata or {}
    metadata = {
        key.decode().removeprefix("soft_targets."): value.decode()
        for key, value in raw.items()
        if key.startswith(b"soft_targets.")
    }
    if metadata.get("format") != FORMAT:
        raise WireError(f"the answer has format {metadata.get('format')!r}, this client reads {FORMAT!r}")
    return metadata, _reply_batches(reader)


def _reply_batches(reader: pa.RecordBatchReader) -> Iterator[ReplyBatch | Closing]:
    while True:
        try:
            batch, custom = reader.read_next_batch_with_custom_metadata()
        except StopIteration:
            raise IncompleteStream("the answer ended without its closing batch: the stream was cut") from None
        except (pa.ArrowException, OSError) as exc:
            raise IncompleteStream(f"the answer broke off: {exc}") from None
        if custom is not None and custom.get(b"complete") == b"true":
            yield Closing(int(custom[b"rows"]), int(custom[b"failed"]))
            return
        yield _read_batch(batch)


def _read_batch(batch: pa.RecordBatch) -> ReplyBatch:
    def matrix(name: str) -> Array:
        column = batch[name]
        width = column.type.list_size
        # `values` ignores offset and length, `flatten` drops null rows: slice by hand.
        flat = column.values.slice(column.offset * width, len(column) * width)
        return flat.to_numpy(zero_copy_only=False).reshape(-1, width)  # type: ignore[no-any-return]

    codes, texts = batch["error_code"].to_pylist(), batch["error"].to_pylist()
    sparse = "indices" in batch.schema.names
    return ReplyBatch(
        row_ids=batch["row_id"],
        sources=batch["source"].to_pylist(),
        errors=[None if code is None else (code, text or "") for code, text in zip(codes, texts, strict=True)],
        log_probs=matrix("log_probs"),
        indices=matrix("indices") if sparse else None,
        tail_log_mass=batch["tail_log_mass"].to_numpy(zero_copy_only=False) if sparse else None,
    )
