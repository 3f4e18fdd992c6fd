"""Requests: rows and their ids as an Arrow IPC stream, a column per input."""

import functools
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from soft_targets.errors import InputError, TooManyBytes, TooManyRows
from soft_targets.wire.rows import Array, TensorSpec, cast, check_names
from soft_targets.wire.sizes import HEAD_BYTES, RECORD_BATCH, Size, message_size

MAX_BYTES = 256 * 1024 * 1024
RESERVED = ("row_id", "digest")  # columns of the format itself, so that no input can have their names
DIGEST = pa.binary(32)
SCHEMA_BYTES = 1 << 14  # larger ones are not kept


class Request(NamedTuple):
    """What a request asks for: rows, or rows by their digests.

    Attributes:
        row_ids: uint64 or utf8 ``[B]``.
        inputs: name to array ``[B, ...]`` of the declared dtype; None where digests were sent instead.
        digests: B times 32 bytes; None where rows were sent.
    """

    row_ids: pa.Array
    inputs: dict[str, Array] | None
    digests: list[bytes] | None


def default_row_ids(rows: int) -> pa.Array:
    """0, 1, 2 ... as uint64: the ids of rows that were sent without any."""
    return pa.array(np.arange(rows, dtype=np.uint64))


def row_id_array(row_ids: Any) -> pa.Array:
    """Row ids as uint64 or utf8.

    Raises:
        InputError: they are neither all non-negative integers nor all text, or one stands twice.
    """
    try:
        array = row_ids if isinstance(row_ids, pa.Array) else _row_ids(row_ids)
        if pa.types.is_integer(array.type) and array.type != pa.uint64():
            array = array.cast(pa.uint64())
        elif pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
            array = array.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as exc:
        raise InputError(f"row ids must be all non-negative integers or all text: {exc}") from None
    if array.type not in (pa.uint64(), pa.string()) or array.null_count:
        raise InputError(
            f"row ids must be all non-negative integers or all text, not {array.type} with nulls"
        )
    if pa.types.is_uint64(array.type):
        values = array.to_numpy()
        if (values[1:] > values[:-1]).all():
            return array
    counts = array.value_counts()
    if len(counts) != len(array):
        twice = [entry["values"].as_py() for entry in counts if entry["counts"].as_py() > 1]
        raise InputError(f"row ids must be unique; these stand more than once: {twice[:5]}")
    return array


def _row_ids(values: Any) -> pa.Array:
    try:
        return pa.array(values)
    except OverflowError:  # Python integers above the largest int64, for instance hashes
        return pa.array(values, pa.uint64())


def encode_request(inputs: Mapping[str, Array], row_ids: pa.Array) -> bytes:
    """One request body: a column per input (already cast, ``[B, ...]``) and ``row_id``.

    Raises:
        InputError: an input has the name of a column of the format.
    """
    columns = {"row_id": row_ids}
    for name, values in inputs.items():
        if name in RESERVED:
            raise InputError(f"input {name!r} cannot be sent: the column of this name means something else")
        if values.dtype == object:
            columns[name] = pa.array(values, pa.string())
        elif values.ndim == 1:
            columns[name] = pa.array(values)
        elif values.dtype == bool:  # Arrow has no tensors of bits
            columns[name] = pa.array(values.reshape(-1))
            for size in reversed(values.shape[1:]):
                columns[name] = pa.FixedSizeListArray.from_arrays(columns[name], size)
        else:
            columns[name] = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
    return _encoded(columns)


def encode_digests(digests: Sequence[bytes], row_ids: pa.Array) -> bytes:
    """One request body that asks by digest, as ``row_digests`` makes them, and ``row_id``."""
    return _encoded({"row_id": row_ids, "digest": pa.array(digests, DIGEST)})


def _encoded(columns: Mapping[str, pa.Array]) -> bytes:
    batch = pa.record_batch(dict(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def decode_request(
    body: bytes, specs: Mapping[str, TensorSpec], *, max_rows: int, max_bytes: int = MAX_BYTES
) -> Request:
    """Read a request body; its columns and its size are checked before any row is read or decompressed.

    Args:
        body: an Arrow IPC stream.
        specs: the ensemble's inputs.
        max_rows: how many rows it may hold.
        max_bytes: how many bytes its columns may take once they are decompressed.

    Raises:
        InputError: the body is not an Arrow stream, or its columns do not fit ``specs``.
        TooManyRows: it holds more than ``max_rows`` rows.
        TooManyBytes: it holds more than ``max_bytes`` bytes.
    """
    try:
        batches = _batches(body, specs, max_rows, max_bytes)
    except (pa.ArrowException, OSError, UnicodeDecodeError, struct.error) as exc:
        raise InputError(f"the body is not a readable Arrow IPC stream: {exc}") from None
    if not batches:
        return Request(default_row_ids(0), {}, None)
    columns = _combined(batches)
    if "row_id" in columns:
        row_ids = row_id_array(columns["row_id"])
    else:
        row_ids = default_row_ids(sum(batch.num_rows for batch in batches))
    if "digest" in columns:
        return Request(row_ids, None, _digests(columns["digest"]))
    return Request(row_ids, {name: _values(columns[name], spec, name) for name, spec in specs.items()}, None)


def _batches(
    body: bytes, specs: Mapping[str, TensorSpec], max_rows: int, max_bytes: int
) -> list[pa.RecordBatch]:
    """The record batches that hold rows."""
    messages = list(pa.ipc.MessageReader.open_stream(body))
    if not messages:
        raise pa.ArrowInvalid("it is empty")
    first = messages.pop(0).serialize().to_pybytes()
    read = _read_schema if len(first) <= SCHEMA_BYTES else _read_schema.__wrapped__
    schema = read(first, tuple(specs.items()))
    sizes = [_size(message) for message in messages]
    if sum(size.rows for size in sizes) > max_rows:
        raise TooManyRows(f"more than {max_rows} rows in one request; split them")
    if sum(size.bytes for size in sizes) > max_bytes:
        raise TooManyBytes(f"more than {max_bytes} bytes of rows in one request; split them")
    batches = [
        pa.ipc.read_record_batch(message, schema)
        for message, size in zip(messages, sizes, strict=True)
        if size.rows
    ]
    for batch in batches:
        batch.validate(full=True)
    return batches


def _size(message: pa.ipc.Message) -> Size:
    size = message_size(memoryview(message.metadata), memoryview(message.body))
    if size.kind != RECORD_BATCH:
        raise pa.ArrowInvalid(f"a {message.type} stands where only record batches are read")
    return size


@functools.lru_cache(128)
def _read_schema(message: bytes, specs: tuple[tuple[str, TensorSpec], ...]) -> pa.Schema:
    """A client's requests all begin with the same schema."""
    message_size(memoryview(message)[HEAD_BYTES:], memoryview(b""))
    schema = pa.ipc.read_schema(pa.py_buffer(message))
    _check_columns(schema, dict(specs))
    return schema


def _combined(batches: Sequence[pa.RecordBatch]) -> dict[str, pa.Array]:
    """The columns of all batches, each in one piece."""
    if len(batches) == 1:
        return dict(zip(batches[0].schema.names, batches[0].columns, strict=True))
    table = pa.Table.from_batches(batches)
    return {name: _combine(table[name]) for name in table.schema.names}


def _check_columns(schema: pa.Schema, specs: Mapping[str, TensorSpec]) -> None:
    if "digest" in schema.names:
        beside = set(schema.names) - set(RESERVED)
        if beside:
            raise InputError(f"digests stand instead of rows; leave out {', '.join(sorted(beside))}")
    else:
        check_names(set(schema.names) - {"row_id"}, specs)
    if len(set(schema.names)) != len(schema.names):
        raise InputError(f"a column stands twice: {schema.names}")
    for name, kind in zip(schema.names, schema.types, strict=True):
        if name in specs:
            _check_type(kind, specs[name], name)
        elif name == "digest":
            if kind != DIGEST:
                raise InputError(f"digests must be {DIGEST}, not {kind}")
        elif not (pa.types.is_integer(kind) or _is_text(kind)):
            raise InputError(f"row ids must be all non-negative integers or all text, not {kind}")


def _check_type(kind: pa.DataType, spec: TensorSpec, name: str) -> None:
    shape, value = [], kind
    if isinstance(kind, pa.FixedShapeTensorType):
        shape, value = kind.shape, kind.value_type
        # Readers disagree on what a permutation does to the values (pyarrow's own among them).
        if kind.permutation not in (None, list(range(len(shape)))):
            raise InputError(
                f"input {name!r} has the permutation {kind.permutation}; send it in the order of its shape"
            )
    while pa.types.is_fixed_size_list(value):
        shape.append(value.list_size)
        value = value.value_type
    number = pa.types.is_integer(value) or pa.types.is_floating(value) or pa.types.is_boolean(value)
    if not (_is_text(value) if spec.dtype == "utf8" else number):
        raise InputError(f"input {name!r}: a column of type {kind} cannot be read as {spec}")
    if tuple(shape) != spec.shape:
        raise InputError(f"input {name!r}: rows have shape {shape}, it takes {spec}")


def _is_text(kind: pa.DataType) -> bool:
    # Not views: thousands of them may show the same bytes, and would be copied out one by one.
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _combine(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined.combine_chunks() if isinstance(combined, pa.ChunkedArray) else combined


def _digests(column: pa.Array) -> list[bytes]:
    if column.null_count:
        raise InputError("a digest is null; every row must be named by one")
    size = DIGEST.byte_width
    return np.frombuffer(column.buffers()[1], f"V{size}", len(column), column.offset * size).tolist()  # type: ignore[no-any-return]


def _values(column: pa.Array, spec: TensorSpec, name: str) -> Array:
    array = column
    if isinstance(array.type, pa.FixedShapeTensorType):
        array = array.storage  # the tensor itself counts whole rows as null only, and reads others as numbers
    while pa.types.is_fixed_size_list(array.type) and not array.null_count:
        array = array.flatten()
    if array.null_count:
        raise InputError(
            f"input {name!r} holds null; every value must be given (NaN is a value, null is not)"
        )
    values = array.to_numpy(zero_copy_only=False).reshape(len(column), *spec.shape)
    return cast(values, spec.dtype, name=name)
