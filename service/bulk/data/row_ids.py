"""Row ids that stand twice, found in bounded memory."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from service.bulk.data.base import ROW_ID
from service.bulk.data.dataset import Dataset
from service.bulk.errors import DataError
from service.model import Array

# Ids that are held against each other at a time; more of them take several passes.
HELD = 1 << 22
# Odd, so that multiplying by it maps no two 64-bit numbers onto one, and mixes their bits upwards.
MIX = np.uint64(0x9E3779B97F4A7C15)
SHIFT = np.uint64(32)


def check_unique(data: Dataset, *, held: int = HELD) -> None:
    """Refuse a row id that stands twice: before any row is answered, since rows are joined by their ids.

    Args:
        data: whose ids are read, once where they rise, else once for each ``held`` of them, and once more.
        held: how many are held against each other at a time.

    Raises:
        DataError: naming the id and its rows.
    """
    if _rising(data.ids()):
        return
    passes = -(-data.rows // held)
    for number in range(passes):
        hashes = np.concatenate([_share(_hashes(ids), passes, number) for ids in data.ids()])
        hashes.sort()
        twice = hashes[1:][hashes[1:] == hashes[:-1]]
        if len(twice):
            _compare(data, np.unique(twice))


def _rising(blocks: Iterator[pa.Array]) -> bool:
    """Whether each id is above the one before it, as ids mostly are."""
    last: pa.Scalar | None = None
    for ids in blocks:
        if not pc.all(pc.less(ids[:-1], ids[1:])).as_py() and len(ids) > 1:
            return False
        if last is not None and last.as_py() >= ids[0].as_py():
            return False
        last = ids[-1]
    return True


def _hashes(ids: pa.Array) -> Array:
    if pa.types.is_uint64(ids.type):
        return ids.to_numpy() * MIX  # type: ignore[no-any-return]
    return np.fromiter(map(hash, ids.to_pylist()), np.int64, len(ids)).view(np.uint64) * MIX


def _share(hashes: Array, passes: int, number: int) -> Array:
    share: Array = hashes[(hashes >> SHIFT) % np.uint64(passes) == number]
    return share


def _compare(data: Dataset, suspects: Array) -> None:
    """Look at the ids themselves: different texts may share a hash."""
    seen: dict[int | str, int] = {}
    start = 0
    for ids in data.ids():
        for row in np.flatnonzero(np.isin(_hashes(ids), suspects)):
            one, place = ids[int(row)].as_py(), start + int(row)
            if one in seen:
                raise DataError(
                    f"{ROW_ID} {one!r} stands twice, in {data.where(seen[one])} and in {data.where(place)}; "
                    "each row needs its own"
                )
            seen[one] = place
        start += len(ids)
