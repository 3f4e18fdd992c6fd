"""The contract of the kinds of files that data can be in: columns by name, read once from front to back."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from service.errors import ServiceError
from service.model import Array

ROW_ID = "row_id"
# An array of Arrow or of numpy, the rows first.
Column = Any


class Misfit(ServiceError):
    """Raised when a value of a column does not fit.

    Attributes:
        row: which one, counted from the first row at hand.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


class Chunk(NamedTuple):
    """Rows that follow each other.

    Attributes:
        start: the place of the first in the data set.
        row_ids: uint64 or utf8 ``[B]``.
        inputs: ensemble input to array ``[B, ...]``, cast.
        digests: of the rows.
    """

    start: int
    row_ids: pa.Array
    inputs: dict[str, Array]
    digests: list[bytes]

    @property
    def stop(self) -> int:
        """The place behind the last row."""
        return self.start + len(self.digests)


class Cursor(Protocol):
    """A way through a file, from front to back."""

    def skip(self, rows: int) -> None:
        """Go on without reading; so many rows are left."""
        ...

    def read(self, most: int) -> Mapping[str, Column]:
        """The next rows: one at least where any are left, and not more than that."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class Source(Protocol):
    """A file, or a folder that is like one.

    Attributes:
        name: its path.
        rows: how many it holds.
        kinds: its columns; what numpy holds is a fixed-size list where a row has dimensions.
    """

    name: str
    rows: int
    kinds: Mapping[str, pa.DataType]

    def open(self, columns: Sequence[str], *, rows_at_a_time: int) -> Cursor:
        """Begin to read some columns."""
        ...
