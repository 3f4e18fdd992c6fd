"""Arrays of numpy: a .npy file, or the members of an .npz, compressed or not; read like a stream."""

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from service.bulk.data.base import Column
from service.model import Array

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
SKIPPED_BYTES = 1 << 20


class ArraySource:
    """Arrays of one length.

    Args:
        name: the file's.
        openers: array's name to what opens its bytes.

    Raises:
        ValueError, OSError: they cannot be read, or differ in length.
    """

    def __init__(self, name: str, openers: Mapping[str, Callable[[], IO[bytes]]]) -> None:
        self.name = name
        self._openers = openers
        rows, kinds = {}, {}
        for key, opener in openers.items():
            with opener() as stream:
                shape, dtype = _header(stream, key)
            rows[key] = shape[0]
            kinds[key] = _kind(key, shape[1:], dtype)
        if len(set(rows.values())) > 1:
            raise ValueError(f"its arrays differ in length: {rows}")
        self.rows = next(iter(rows.values()), 0)
        self.kinds: Mapping[str, pa.DataType] = kinds

    def open(self, columns: Sequence[str], *, rows_at_a_time: int) -> "_Cursor":  # noqa: ARG002 - the contract's
        """As of ``Source``."""
        return _Cursor({key: self._openers[key]() for key in columns})


def npy_source(path: Path, column: str) -> ArraySource:
    """A .npy file as a data set of one column."""
    return ArraySource(str(path), {column: partial(_file, path)})


def npz_source(path: Path, wanted: Sequence[str]) -> ArraySource:
    """The wanted arrays of an .npz file, those that are there; others may be of any sort and length."""
    with zipfile.ZipFile(path) as archive:
        members = {member.removesuffix(".npy") for member in archive.namelist()}
    return ArraySource(str(path), {key: partial(_member, path, key) for key in wanted if key in members})


def _file(path: Path) -> IO[bytes]:
    return path.open("rb")


def _member(path: Path, key: str) -> IO[bytes]:
    # An archive of its own for each, so that whoever closes the member closes the file too.
    with zipfile.ZipFile(path) as archive:
        return archive.open(f"{key}.npy")


def _header(stream: IO[bytes], key: str) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the dtype, the stream standing at the first value."""
    version = npy.read_magic(stream)
    if version not in HEADERS:
        raise ValueError(f"array {key!r} has version {version} of numpy's format, which nobody here reads")
    shape, in_columns, dtype = HEADERS[version](stream)
    if dtype.hasobject:
        raise ValueError(f"array {key!r} holds Python objects; save numbers, or text of dtype str")
    if not shape:
        raise ValueError(f"array {key!r} is a single value; the first dimension counts the rows")
    if in_columns and len(shape) > 1:
        raise ValueError(f"array {key!r} is stored by columns; save numpy.ascontiguousarray of it")
    return shape, dtype


def _kind(key: str, shape: Sequence[int], dtype: np.dtype) -> pa.DataType:
    """What Arrow calls a row of that shape."""
    if dtype.kind == "U":
        kind = pa.string()
    elif dtype.kind in "biuf" and dtype.itemsize <= 8:  # noqa: PLR2004 - bytes; Arrow has no longer ones
        kind = pa.from_numpy_dtype(dtype.newbyteorder("="))
    else:
        raise ValueError(f"array {key!r} holds {dtype}; save numbers, or text of dtype str")
    for size in reversed(shape):
        kind = pa.list_(kind, size)
    return kind


class _Cursor:
    def __init__(self, streams: Mapping[str, IO[bytes]]) -> None:
        self._streams = streams
        self._arrays = {key: _header(stream, key) for key, stream in streams.items()}

    def skip(self, rows: int) -> None:
        """As of ``Cursor``: what is compressed has to be read for that."""
        for key, stream in self._streams.items():
            left = rows * self._row_bytes(key)
            while left:
                left -= len(self._exactly(stream, min(left, SKIPPED_BYTES), key))

    def read(self, most: int) -> dict[str, Column]:
        """As of ``Cursor``."""
        return {key: self._read(key, stream, most) for key, stream in self._streams.items()}

    def close(self) -> None:
        """As of ``Cursor``."""
        for stream in self._streams.values():
            stream.close()

    def _row_bytes(self, key: str) -> int:
        shape, dtype = self._arrays[key]
        return math.prod(shape[1:]) * dtype.itemsize

    def _read(self, key: str, stream: IO[bytes], rows: int) -> Array:
        shape, dtype = self._arrays[key]
        data = self._exactly(stream, rows * self._row_bytes(key), key)
        if not dtype.itemsize:
            return np.zeros((rows, *shape[1:]), dtype)  # texts that are all empty
        return np.frombuffer(data, dtype).reshape(rows, *shape[1:])

    def _exactly(self, stream: IO[bytes], size: int, key: str) -> bytes:
        data = stream.read(size)
        if len(data) < size:
            raise EOFError(f"array {key!r} ends before its last row")
        return data
