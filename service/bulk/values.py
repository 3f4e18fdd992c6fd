"""Rows of an export as columns of Arrow, and their values back as the bytes that a cache keeps."""

import numpy as np
import pyarrow as pa

from service.bulk.errors import ExportRefused
from service.bulk.labelling import Labelled
from service.model import Array
from soft_targets.wire import Layout

DIGEST = pa.binary(32)


def value_dtype(layout: Layout) -> np.dtype:
    """A value as numpy sees it: the layout's columns, one behind the other."""
    dtype = np.dtype(list(layout.columns.items()))
    assert dtype.itemsize == layout.row_bytes, "a value is its columns, and nothing between them"
    return dtype


def schema(layout: Layout, ids_type: pa.DataType) -> pa.Schema:
    """The columns of an export."""
    return pa.schema(
        [
            pa.field("row_id", ids_type, nullable=False),
            pa.field("digest", DIGEST, nullable=False),
            *layout.fields(),
            pa.field("error_code", pa.string()),
            pa.field("error", pa.string()),
            pa.field("missing_teachers", pa.list_(pa.string()), nullable=False),
            pa.field("keep", pa.bool_(), nullable=False),
        ]
    )


def to_columns(labelled: Labelled, layout: Layout) -> pa.RecordBatch:
    """A chunk with its answers as rows of an export."""
    chunk = labelled.chunk
    absent = np.array([value is None for value in labelled.values], dtype=bool)
    nulls = pa.array(absent)
    filler = bytes(layout.row_bytes)
    values = np.frombuffer(b"".join([value or filler for value in labelled.values]), value_dtype(layout))
    found = [chunk.row_ids, pa.array(chunk.digests, DIGEST)]
    for field in layout.fields():
        flat = np.ascontiguousarray(values[field.name])
        if flat.ndim == 1:
            found.append(pa.array(flat, mask=absent))
        else:
            numbers = pa.array(flat.reshape(-1))
            found.append(pa.FixedSizeListArray.from_arrays(numbers, type=field.type, mask=nulls))
    failures = labelled.failures
    return pa.RecordBatch.from_arrays(
        [
            *found,
            pa.array([failure and failure.code for failure in failures], pa.string()),
            pa.array([failure and failure.message for failure in failures], pa.string()),
            pa.array(list(map(list, labelled.missing)), pa.list_(pa.string())),
            pa.array(labelled.keep),
        ],
        schema=schema(layout, chunk.row_ids.type),
    )


def to_values(batch: pa.RecordBatch, layout: Layout) -> Array:
    """The values of rows that all have one.

    Args:
        batch: of an export.
        layout: of its values.

    Returns:
        ``[B]`` of ``value_dtype``, whose bytes are what a cache keeps.

    Raises:
        ExportRefused: a value is not there.
    """
    found = np.empty(len(batch), value_dtype(layout))
    for field in layout.fields():
        column = batch[field.name]
        if column.null_count:
            raise ExportRefused(f"a row that should have a target has no {field.name}")
        if pa.types.is_fixed_size_list(column.type):
            column = column.flatten()
        found[field.name] = column.to_numpy(zero_copy_only=False).reshape(found[field.name].shape)
    return found
