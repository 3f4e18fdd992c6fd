"""The files of an export: written whole or not at all, and looked at before they are believed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from service.bulk.data import Chunk
from service.bulk.errors import ExportRefused
from service.bulk.labelling import Labelled
from service.bulk.manifest import Manifest, PartFile, file_digest, sync
from service.bulk.values import schema, to_columns
from soft_targets.wire import Layout

PARTIAL = ".partial"
# Of a row group: what a reader has in memory.
GROUP_BYTES = 16 << 20
# Of a file, and what a row takes beside its value. A run that is killed does the file again that it was at.
FILE_BYTES, ROW_BYTES = 64 << 20, 64
FILE_ROWS = 1 << 16
ROWS_AT_A_TIME, BYTES_AT_A_TIME = 1024, 8 << 20
BUFFER_BYTES = 1 << 20


def rows_per_file(layout: Layout) -> int:
    """How many rows a file has where nobody says."""
    return min(FILE_ROWS, max(1, FILE_BYTES // (layout.row_bytes + ROW_BYTES)))


class RowsDigest:
    """BLAKE3 over the ids and digests of rows that follow each other, however they come in chunks."""

    def __init__(self) -> None:
        self._ids, self._digests = blake3(), blake3()

    def add(self, chunk: Chunk) -> None:
        """The next rows."""
        if pa.types.is_uint64(chunk.row_ids.type):
            self._ids.update(chunk.row_ids.to_numpy().astype("<u8").tobytes())
        else:
            texts = [text.encode() for text in chunk.row_ids.to_pylist()]
            self._ids.update(b"".join(len(text).to_bytes(4, "little") + text for text in texts))
        self._digests.update(b"".join(chunk.digests))

    def hexdigest(self) -> str:
        """Of all rows so far."""
        return blake3(self._ids.digest() + self._digests.digest()).hexdigest()


class PartWriter:
    """One file while it is written; it has its name only when it is whole.

    Args:
        folder: of the export.
        number: of the file.
        first_row: its place in the data.
        layout: of the values.
        ids_type: of the row ids.
    """

    def __init__(
        self, folder: Path, number: int, first_row: int, layout: Layout, ids_type: pa.DataType
    ) -> None:
        self._folder = folder
        self._name = f"part-{number:05}.parquet"
        self._path = folder / (self._name + PARTIAL)
        self._first_row = first_row
        self._layout = layout
        self._file = self._path.open("wb")
        kinds = schema(layout, ids_type)
        self._writer = pq.ParquetWriter(
            self._file,
            kinds,
            compression="zstd",
            use_dictionary=False,
            use_byte_stream_split=_floats(kinds),  # a fifth smaller than without, and faster
        )
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0
        self._digest = RowsDigest()
        self._counts = dict.fromkeys(("rows", "failed", "degraded", "unkept"), 0)

    def add(self, labelled: Labelled) -> None:
        """The next rows."""
        batch = to_columns(labelled, self._layout)
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        if self._waiting_bytes > GROUP_BYTES:
            self._write()
        self._digest.add(labelled.chunk)
        failed = len(batch) - labelled.failures.count(None)
        self._counts["rows"] += len(batch)
        self._counts["failed"] += failed
        self._counts["degraded"] += sum(map(bool, labelled.missing))
        self._counts["unkept"] += labelled.keep.count(False) - failed

    def _write(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting)
            self._writer.write_table(table, row_group_size=len(table))
        self._waiting, self._waiting_bytes = [], 0

    def finish(self) -> PartFile:
        """Give it its name, once it is on the disk."""
        self._write()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        path = self._folder / self._name
        os.replace(self._path, path)  # noqa: PTH105 - as for the manifest
        sync(self._folder)
        return PartFile(
            name=self._name,
            first_row=self._first_row,
            size_bytes=path.stat().st_size,
            blake3=file_digest(path),
            rows_blake3=self._digest.hexdigest(),
            **self._counts,
        )

    def abandon(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        self._file.close()
        self._path.unlink(missing_ok=True)


def _floats(kinds: pa.Schema) -> list[str]:
    """The columns of float32, as Parquet names them."""
    lists = [field for field in kinds if pa.types.is_fixed_size_list(field.type)]
    return [field.name for field in kinds if field.type == pa.float32()] + [
        f"{field.name}.list.element" for field in lists if field.type.value_type == pa.float32()
    ]


def check_files(folder: Path, manifest: Manifest, layout: Layout) -> None:
    """See that the files are there, are those that were written, and follow each other.

    Raises:
        ExportRefused: naming the file, and what is wrong with it.
    """
    place = 0
    for file in manifest.files:
        path = folder / file.name
        if file.name != Path(file.name).name or file.first_row != place:
            raise ExportRefused(f"{folder}: the manifest's files do not follow each other at {file.name}")
        place = file.stop
        try:
            size = path.stat().st_size
        except OSError as exc:
            raise ExportRefused(f"{path} is missing: {exc.strerror}") from None
        if size != file.size_bytes:
            raise ExportRefused(f"{path} has {size} bytes of {file.size_bytes}: it was cut or changed")
        if file_digest(path) != file.blake3:
            raise ExportRefused(f"{path} was changed: its digest is of other content")
        with pq.ParquetFile(path) as parquet:
            rows, found = parquet.metadata.num_rows, parquet.schema_arrow.remove_metadata()
        expected = schema(layout, pa.type_for_alias(manifest.row_id))
        if rows != file.rows or not found.equals(expected):
            raise ExportRefused(f"{path} has {rows} rows of {found.names}, other than the manifest says")


def read_part(path: Path, layout: Layout) -> Iterator[pa.RecordBatch]:
    """The rows of a file that was checked, some at a time."""
    rows = max(1, min(ROWS_AT_A_TIME, BYTES_AT_A_TIME // layout.row_bytes))
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
        yield from file.iter_batches(rows, use_threads=False)
