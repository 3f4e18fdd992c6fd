"""A column's values as an input's: what fits is known from its type, what does not is named by its row."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from service.bulk.data.base import ROW_ID, Column, Misfit
from service.model import Array
from soft_targets.wire import InputError, TensorSpec, cast


def check_kind(kind: pa.DataType, spec: TensorSpec, name: str) -> None:
    """Refuse a column that can hold no row of an input, whatever is in it.

    Lists need not have a fixed size: Parquet has only lists, and each is looked at when it is read.

    Raises:
        InputError: what the column holds, and what the input takes.
    """
    shape, leaf = _shape(kind)
    fits = len(shape) == len(spec.shape) and all(
        size in {None, wanted} for size, wanted in zip(shape, spec.shape, strict=True)
    )
    if spec.dtype == "utf8":
        fits &= _is_text(leaf)
    elif not (pa.types.is_integer(leaf) or pa.types.is_floating(leaf) or pa.types.is_boolean(leaf)):
        fits = False
    if not fits:
        raise InputError(f"it holds {kind}, the input takes {spec}")
    if spec.dtype != "utf8":
        cast(np.empty(0, leaf.to_pandas_dtype()), spec.dtype, name=name)


def check_id_kind(kind: pa.DataType) -> None:
    """Refuse a column that can hold no row ids.

    Raises:
        InputError: what it holds.
    """
    if not (pa.types.is_integer(kind) or _is_text(_leaf(kind))):
        raise InputError(f"it holds {kind}; row ids are all non-negative integers or all text")


def id_type(kind: pa.DataType) -> pa.DataType:
    """As what the row ids of a column are kept: uint64 or utf8."""
    return pa.uint64() if pa.types.is_integer(kind) else pa.string()


def read_values(column: Column, spec: TensorSpec, name: str) -> Array:
    """A column's rows, cast to the input's dtype.

    Args:
        column: of a kind that was checked.
        spec: of the input.
        name: of the input.

    Returns:
        ``[B, ...]``.

    Raises:
        Misfit: a row holds null, has another shape, or a value that cannot be kept.
    """
    values = _unnested(column, spec) if isinstance(column, pa.Array) else column
    try:
        return cast(values, spec.dtype, name=name)
    except InputError as exc:
        for row, value in enumerate(values):
            try:
                cast(value, spec.dtype, name=name)
            except InputError as one:
                raise Misfit(row, str(one)) from None
        raise Misfit(0, str(exc)) from None


def read_ids(column: Column) -> pa.Array:
    """A column's row ids, as uint64 or utf8.

    Raises:
        Misfit: one is null, or negative.
    """
    ids = column if isinstance(column, pa.Array) else pa.array(column)
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    _refuse_nulls(ids, 1)
    if not pa.types.is_integer(ids.type):
        return ids.cast(pa.string())
    negative = pc.less(ids, pa.scalar(0, ids.type)).to_numpy(zero_copy_only=False)
    if negative.any():
        row = int(np.argmax(negative))
        raise Misfit(row, f"{ROW_ID} is {ids[row]}; row ids are not negative")
    return ids.cast(pa.uint64())


def _unnested(column: pa.Array, spec: TensorSpec) -> Array:
    rows, sizes = len(column), spec.shape
    if isinstance(column.type, pa.FixedShapeTensorType):
        sizes = (math.prod(sizes),)  # its storage is flat
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    per_row = 1
    _refuse_nulls(column, per_row)
    for size in sizes:
        if not pa.types.is_fixed_size_list(column.type):
            lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
            wrong = np.flatnonzero(lengths != size)
            if len(wrong):
                raise Misfit(
                    int(wrong[0]) // per_row,
                    f"a list of {lengths[wrong[0]]} where {size} belong; the input takes {spec}",
                )
        column = column.flatten()
        per_row *= size
        _refuse_nulls(column, per_row)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values: Array = column.to_numpy(zero_copy_only=False)
    return values.reshape(rows, *spec.shape)


def _refuse_nulls(column: pa.Array, per_row: int) -> None:
    if column.null_count:
        place = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise Misfit(place // per_row, "it is null; every value must be given (NaN is a value, null is not)")


def _shape(kind: pa.DataType) -> tuple[list[int | None], pa.DataType]:
    """The shape of a row, None where it is not fixed, and the type of a value."""
    shape: list[int | None] = []
    if isinstance(kind, pa.FixedShapeTensorType):
        # Readers disagree on what a permutation does to the values.
        plain = kind.permutation in (None, list(range(len(kind.shape))))
        return (list(kind.shape), kind.value_type) if plain else ([], pa.null())
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    while True:
        if pa.types.is_fixed_size_list(kind):
            shape.append(kind.list_size)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            shape.append(None)
        else:
            return shape, _leaf(kind)
        kind = kind.value_type


def _leaf(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
