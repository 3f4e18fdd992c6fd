"""Parquet files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from service.bulk.data.base import Column

# Read at a time of each column: without, a whole row group is, however large it was written.
BUFFER_BYTES = 1 << 20


class ParquetSource:
    """One file.

    Args:
        path: of it.

    Raises:
        OSError, ArrowException: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        with pq.ParquetFile(path) as file:
            self.rows: int = file.metadata.num_rows
            schema = file.schema_arrow
        self.kinds: Mapping[str, pa.DataType] = dict(zip(schema.names, schema.types, strict=True))

    def open(self, columns: Sequence[str], *, rows_at_a_time: int) -> "_Cursor":
        """As of ``Source``."""
        return _Cursor(self._path, columns, rows_at_a_time)


class _Cursor:
    def __init__(self, path: Path, columns: Sequence[str], rows: int) -> None:
        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
        self._columns = list(columns)
        self._rows = rows
        metadata = self._file.metadata
        self._sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._group = 0  # the next to be begun
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._rest: pa.RecordBatch | None = None

    def skip(self, rows: int) -> None:
        """As of ``Cursor``: whole row groups are not even read."""
        while rows:
            if not self._rest and self._batches is None and self._sizes[self._group] <= rows:
                rows -= self._sizes[self._group]
                self._group += 1
            else:
                rows -= len(self._next(rows))

    def read(self, most: int) -> dict[str, Column]:
        """As of ``Cursor``."""
        batch = self._next(most)
        return dict(zip(batch.schema.names, batch.columns, strict=True))

    def close(self) -> None:
        """As of ``Cursor``."""
        self._file.close()

    def _next(self, most: int) -> pa.RecordBatch:
        while not self._rest:
            if self._batches is None:
                if self._group == len(self._sizes):
                    raise EOFError("it ends before its last row")
                self._batches = self._file.iter_batches(
                    self._rows, row_groups=[self._group], columns=self._columns, use_threads=False
                )
                self._group += 1
            self._rest = next(self._batches, None)
            if self._rest is None:
                self._batches = None
        batch = self._rest[:most]
        self._rest = self._rest[most:]
        return batch
