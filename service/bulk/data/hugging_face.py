"""Folders as ``save_to_disk`` of Hugging Face's datasets writes them; their files are mapped, not read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from service.bulk.data.base import Column
from service.bulk.errors import DataError

STATE, SPLITS = "state.json", "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Whether a folder is one of these."""
    return (folder / STATE).exists() or (folder / SPLITS).exists()


class SavedDataset:
    """One folder.

    Args:
        folder: of it.

    Raises:
        DataError: it holds several splits, or the package is missing.
        ValueError, OSError: it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        if (folder / SPLITS).exists():
            splits = json.loads((folder / SPLITS).read_text())["splits"]
            named = ", ".join(f"{folder}/{split}" for split in splits)
            raise DataError(f"{folder} holds several splits; name one of {named}")
        try:
            import datasets  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise DataError(
                f"{folder} was saved by Hugging Face's datasets, and a package is missing ({exc.name}): "
                "pip install 'soft-targets[datasets]'"
            ) from None
        self.name = str(folder)
        self._dataset: Any = datasets.load_from_disk(str(folder)).with_format("arrow")
        self.rows = len(self._dataset)
        schema = self._dataset.features.arrow_schema
        self.kinds: Mapping[str, pa.DataType] = dict(zip(schema.names, schema.types, strict=True))

    def open(self, columns: Sequence[str], *, rows_at_a_time: int) -> "_Cursor":  # noqa: ARG002 - the contract's
        """As of ``Source``."""
        return _Cursor(self._dataset.select_columns(list(columns)))


class _Cursor:
    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._at = 0

    def skip(self, rows: int) -> None:
        """As of ``Cursor``."""
        self._at += rows

    def read(self, most: int) -> dict[str, Column]:
        """As of ``Cursor``: not across the places where one of its files ends and the next begins."""
        table = self._dataset[self._at : self._at + most]
        first = [table[name].chunk(0) for name in table.column_names]
        rows = min(map(len, first))
        self._at += rows
        return dict(zip(table.column_names, (one[:rows] for one in first), strict=True))

    def close(self) -> None:
        """As of ``Cursor``."""
