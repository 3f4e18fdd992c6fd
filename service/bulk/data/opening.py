"""From what the command line names to a data set."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.bulk.data.arrays import npy_source, npz_source
from service.bulk.data.base import ROW_ID, Source
from service.bulk.data.dataset import Dataset
from service.bulk.data.hugging_face import SavedDataset, is_saved
from service.bulk.data.reader import UNREADABLE
from service.bulk.data.tables import ParquetSource
from service.bulk.errors import DataError
from soft_targets.wire import TensorSpec

SUFFIXES = (".parquet", ".npz", ".npy")
KNOWN = "a Parquet file (.parquet), .npz, .npy, a folder or glob of them, or a folder that save_to_disk wrote"


def open_dataset(path: str, specs: Mapping[str, TensorSpec]) -> Dataset:
    """A data set for an ensemble: every file is there, and its columns fit.

    Args:
        path: of a file or a folder, or a glob.
        specs: the ensemble's inputs.

    Raises:
        DataError: naming the file and the column, and what to do.
    """
    if is_saved(Path(path)):
        try:
            sources: list[Source] = [SavedDataset(Path(path))]
        except UNREADABLE as exc:
            raise DataError(f"{path}: cannot be read: {exc}") from None
    else:
        files = _files(path)
        sources = [_source(one, specs) for one in files]
    return Dataset(path, sources, specs)


def _files(path: str) -> list[Path]:
    """The files in the order of their names."""
    if Path(path).is_dir():
        found = [one for one in Path(path).rglob("*") if one.suffix in SUFFIXES and not _hidden(one, path)]
        found = [one for one in found if one.is_file()]
        what = "holds no file of a known kind"
    elif Path(path).is_file():
        found, what = [Path(path)], ""
    else:
        found = [Path(one) for one in glob.glob(path, recursive=True) if Path(one).is_file()]  # noqa: PTH207 - absolute ones too
        what = "does not exist" if not glob.has_magic(path) else "matches no file"
    if not found:
        raise DataError(f"{path} {what}; give {KNOWN}")
    odd = [one for one in found if one.suffix not in SUFFIXES]
    if odd:
        raise DataError(f"{odd[0]} is of no known kind; give {KNOWN}")
    if len({one.suffix for one in found}) > 1:
        raise DataError(
            f"{path} holds files of several kinds ({', '.join(sorted({one.suffix for one in found}))}); "
            f"name one kind, as {path}/**/*{found[0].suffix}"
        )
    return sorted(found)


def _hidden(path: Path, root: str) -> bool:
    """Whether others put it there for themselves."""
    return any(part[0] in "._" for part in path.relative_to(root).parts)


def _source(path: Path, specs: Mapping[str, TensorSpec]) -> Source:
    try:
        if path.suffix == ".parquet":
            return ParquetSource(path)
        if path.suffix == ".npz":
            return npz_source(path, [*specs, ROW_ID])
        return npy_source(path, _only(specs, path))
    except UNREADABLE as exc:
        raise DataError(f"{path}: cannot be read: {exc}") from None


def _only(specs: Mapping[str, TensorSpec], path: Path) -> str:
    names: Sequence[str] = list(specs)
    if len(names) > 1:
        raise DataError(
            f"{path} is one array, the ensemble takes {', '.join(names)}; save an .npz with one of each name"
        )
    return names[0]
