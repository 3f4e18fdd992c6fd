"""Requests: rows and their ids as an Arrow IPC stream, a column per input."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from soft_targets.errors import InputError, TooManyRows
from soft_targets.wire.rows import Array, TensorSpec, cast, check_names, check_shape


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
        if pa.types.is_integer(array.type):
            array = array.cast(pa.uint64())
        elif pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
            array = array.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as exc:
        raise InputError(f"row ids must be all non-negative integers or all text: {exc}") from None
    if array.type not in (pa.uint64(), pa.string()) or array.null_count:
        raise InputError(
            f"row ids must be all non-negative integers or all text, not {array.type} with nulls"
        )
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
    """One request body: a column per input (already cast, ``[B, ...]``) and ``row_id``."""
    columns = {"row_id": row_ids}
    for name, values in inputs.items():
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
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise InputError(f"the body is not a readable Arrow IPC stream: {exc}") from None
    if rows == 0:
        return default_row_ids(0), {}
    inputs = {name: _column(table[name], spec, name) for name, spec in specs.items()}
    has_ids = "row_id" in table.schema.names
    return row_id_array(_combine(table["row_id"])) if has_ids else default_row_ids(rows), inputs


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
            raise InputError(
                f"input {name!r} holds null; every value must be given (NaN is a value, null is not)"
            )
        if not (
            pa.types.is_primitive(array.type)
            or pa.types.is_string(array.type)
            or pa.types.is_large_string(array.type)
        ):
            raise InputError(f"input {name!r}: a column of type {column.type} cannot be read as {spec}")
        values = array.to_numpy(zero_copy_only=False).reshape(shape)
    check_shape(values, spec, name)
    return cast(values, spec.dtype, name=name)
