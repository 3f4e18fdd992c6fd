"""A data set: its files in order, and their rows in chunks that fit the ensemble."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import PurePath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from service.bulk.data.base import ROW_ID, Chunk, Misfit, Source
from service.bulk.data.columns import check_id_kind, check_kind, id_type, read_ids, read_values
from service.bulk.data.reader import Piece, Reader
from service.bulk.errors import DataError
from service.model import Array
from soft_targets.wire import InputError, TensorSpec, row_digests

IDS_AT_A_TIME = 1 << 16


class Dataset:
    """Files whose rows follow each other.

    Args:
        path: as it was given.
        sources: at least one.
        specs: the ensemble's inputs.

    Attributes:
        rows: of all files.
        ids_type: uint64 or utf8.

    Raises:
        DataError: a file lacks a column, or holds one of another kind.
    """

    def __init__(self, path: str, sources: Sequence[Source], specs: Mapping[str, TensorSpec]) -> None:
        self.path = path
        self.rows = sum(source.rows for source in sources)
        self.ids_type = pa.uint64()
        self._sources = sources
        self._specs = specs
        self._has_ids = ROW_ID in sources[0].kinds
        for source in sources:
            self._check(source)
        if self._has_ids:
            self.ids_type = id_type(sources[0].kinds[ROW_ID])

    def _check(self, source: Source) -> None:
        missing = [name for name in self._specs if name not in source.kinds]
        if missing:
            raise DataError(
                f"{source.name} has no column {missing[0]!r}; the ensemble takes {', '.join(self._specs)}, "
                f"and there are {', '.join(source.kinds) or 'none'}"
            )
        first = self._sources[0]
        if (ROW_ID in source.kinds) != self._has_ids:
            have, lack = (first, source) if self._has_ids else (source, first)
            raise DataError(
                f"{have.name} has a column {ROW_ID!r}, {lack.name} has none; give one to all files or to none"
            )
        column = ROW_ID
        try:
            if self._has_ids:
                check_id_kind(source.kinds[ROW_ID])
            for column, spec in self._specs.items():
                check_kind(source.kinds[column], spec, column)
        except InputError as exc:
            raise DataError(f"{source.name}, column {column!r}: {exc}") from None
        if self._has_ids and id_type(source.kinds[ROW_ID]) != id_type(first.kinds[ROW_ID]):
            raise DataError(
                f"column {ROW_ID!r} holds numbers in one of {first.name} and {source.name}, text in the other"
            )

    def files(self) -> list[tuple[str, int]]:
        """Each file's name, from their common folder on, and its rows."""
        root = os.path.commonpath([PurePath(source.name).parent for source in self._sources])
        return [
            (PurePath(os.path.relpath(source.name, root)).as_posix(), source.rows) for source in self._sources
        ]

    def where(self, place: int) -> str:
        """A row as people find it: its file, and its place there."""
        for source in self._sources:
            if place < source.rows:
                return f"{source.name}, row {place}"
            place -= source.rows
        raise AssertionError("there is no such row")

    def chunks(self, rows: int, *, every: int | None = None) -> Iterator[Chunk]:
        """All rows in order.

        Args:
            rows: of a chunk, at most.
            every: a chunk ends at each multiple of it too.

        Raises:
            DataError: (from the iterator) naming file, row and column; what is before has been handed out.
        """
        start = 0
        with closing(self._reader(rows)) as reader:
            while start < self.rows:
                stop = min(start + rows, self.rows)
                if every is not None:
                    stop = min(stop, start - start % every + every)
                chunk, wrong = self._chunk(reader, start, stop)
                if len(chunk.digests):
                    yield chunk
                if wrong is not None:
                    raise wrong
                start = stop

    def take(self, places: Sequence[int], rows: int) -> Iterator[Chunk]:
        """The rows at some places, in chunks whose rows need not follow each other.

        Args:
            places: rising.
            rows: of a chunk, at most.

        Raises:
            DataError: (from the iterator) naming file, row and column.
        """
        with closing(self._reader(rows)) as reader:
            for first in range(0, len(places), rows):
                found = []
                for place in places[first : first + rows]:
                    reader.skip(place - reader.place)
                    chunk, wrong = self._chunk(reader, place, place + 1)
                    if wrong is not None:
                        raise wrong
                    found.append(chunk)
                yield _joined(found)

    def places(self, ids: Collection[int | str]) -> list[int]:
        """Where rows stand, rising, by their ids; those that there are.

        Raises:
            DataError: an id is null or negative.
        """
        if not self._has_ids:
            return sorted(place for place in ids if isinstance(place, int) and place < self.rows)
        wanted = pa.array(list(ids), self.ids_type)
        found: list[int] = []
        start = 0
        for some in self.ids():
            rows = np.flatnonzero(pc.is_in(some, wanted).to_numpy(zero_copy_only=False))
            found.extend((rows + start).tolist())
            start += len(some)
        return found

    def ids(self) -> Iterator[pa.Array]:
        """All row ids, some at a time.

        Raises:
            DataError: (from the iterator) one is null or negative.
        """
        if not self._has_ids:
            for start in range(0, self.rows, IDS_AT_A_TIME):
                yield _places(start, min(start + IDS_AT_A_TIME, self.rows))
            return
        with closing(Reader(self._sources, [ROW_ID], rows_at_a_time=IDS_AT_A_TIME)) as reader:
            while reader.place < self.rows:
                piece = reader.read(IDS_AT_A_TIME)
                try:
                    yield read_ids(piece.columns[ROW_ID])
                except Misfit as exc:
                    raise _misfit(piece, ROW_ID, exc) from None

    def _reader(self, rows: int) -> Reader:
        columns = [*self._specs, ROW_ID] if self._has_ids else list(self._specs)
        return Reader(self._sources, columns, rows_at_a_time=rows)

    def _chunk(self, reader: Reader, start: int, stop: int) -> tuple[Chunk, DataError | None]:
        """Rows that follow each other, up to the first that is wrong; and what is wrong with it."""
        ids: list[pa.Array] = []
        inputs: dict[str, list[Array]] = {name: [] for name in self._specs}
        place, wrong = start, None
        while place < stop and wrong is None:
            try:
                piece = reader.read(stop - place)
            except DataError as exc:
                wrong = exc
                break
            some, values, wrong = self._values(piece, place)
            ids.append(some)
            for name, parts in inputs.items():
                parts.append(values[name])
            place += len(some)
        if place == start:
            return Chunk(start, pa.array([], self.ids_type), {}, []), wrong
        joined = {name: some[0] if len(some) == 1 else np.concatenate(some) for name, some in inputs.items()}
        return Chunk(start, pa.concat_arrays(ids), joined, row_digests(joined, self._specs)), wrong

    def _values(self, piece: Piece, place: int) -> tuple[pa.Array, dict[str, Array], DataError | None]:
        values: dict[str, Array] = {}
        column = ROW_ID
        try:
            ids = read_ids(piece.columns[ROW_ID]) if self._has_ids else _places(place, place + piece.rows)
            for column, spec in self._specs.items():
                values[column] = read_values(piece.columns[column], spec, column)
        except Misfit as exc:
            wrong = _misfit(piece, column, exc)
            ids, values, earlier = self._values(piece.first(exc.row), place)
            return ids, values, earlier or wrong
        return ids, values, None


def _places(start: int, stop: int) -> pa.Array:
    return pa.array(np.arange(start, stop, dtype=np.uint64))


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    inputs = {name: np.concatenate([chunk.inputs[name] for chunk in chunks]) for name in chunks[0].inputs}
    ids = pa.concat_arrays([chunk.row_ids for chunk in chunks])
    return Chunk(chunks[0].start, ids, inputs, [digest for chunk in chunks for digest in chunk.digests])


def _misfit(piece: Piece, column: str, found: Misfit) -> DataError:
    return DataError(f"{piece.source.name}, row {piece.row + found.row}, column {column!r}: {found}")
