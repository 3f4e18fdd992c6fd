"""The way through all files of a data set, one after another."""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import pyarrow as pa

from service.bulk.data.base import Column, Cursor, Source
from service.bulk.errors import DataError

# What readers raise over bytes that are not what they should be; a RuntimeError, over an encrypted archive.
UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, pa.ArrowException,
)  # fmt: skip

T = TypeVar("T")


class Piece(NamedTuple):
    """Rows of one file.

    Attributes:
        source: the file.
        row: the first row's place in it.
        rows: how many.
        columns: by name.
    """

    source: Source
    row: int
    rows: int
    columns: Mapping[str, Column]

    def first(self, rows: int) -> "Piece":
        """The first of its rows."""
        return self._replace(rows=rows, columns={key: column[:rows] for key, column in self.columns.items()})


class Reader:
    """Some columns of some files, from front to back.

    Args:
        sources: the files.
        columns: their names.
        rows_at_a_time: what will be asked for, about.

    Attributes:
        place: of the next row.
    """

    def __init__(self, sources: Sequence[Source], columns: Sequence[str], *, rows_at_a_time: int) -> None:
        self.place = 0
        self._sources: Iterator[Source] = iter(sources)
        self._columns = columns
        self._rows = rows_at_a_time
        self._source: Source | None = None
        self._cursor: Cursor | None = None
        self._row = 0  # the next in the file

    def skip(self, rows: int) -> None:
        """Go on without reading.

        Raises:
            DataError: a file cannot be read.
        """
        while rows:
            source, cursor = self._current()
            step = min(rows, source.rows - self._row)
            _guarded(source, self._row, lambda: cursor.skip(step))  # noqa: B023 - called at once
            self._advance(step)
            rows -= step

    def read(self, most: int) -> Piece:
        """The next rows: one at least, of one file.

        Raises:
            DataError: a file cannot be read.
        """
        source, cursor = self._current()
        row, most = self._row, min(most, source.rows - self._row)
        columns = _guarded(source, row, lambda: cursor.read(most))
        rows = len(columns[self._columns[0]])
        self._advance(rows)
        return Piece(source, row, rows, columns)

    def close(self) -> None:
        """Close the file."""
        if self._cursor is not None:
            self._cursor.close()
        self._cursor = None

    def _current(self) -> tuple[Source, Cursor]:
        """The file that has the next row."""
        while self._cursor is None or self._source is None or self._row == self._source.rows:
            self.close()
            source = self._source = next(self._sources)
            self._row = 0
            self._cursor = _guarded(
                source,
                0,
                lambda: source.open(self._columns, rows_at_a_time=self._rows),  # noqa: B023
            )
        return self._source, self._cursor

    def _advance(self, rows: int) -> None:
        self._row += rows
        self.place += rows


def _guarded(source: Source, row: int, read: Callable[[], T]) -> T:
    try:
        return read()
    except UNREADABLE as exc:
        raise DataError(f"{source.name} cannot be read from row {row} on: {exc}") from None
