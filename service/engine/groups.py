"""Groups of a request's rows: those that cannot be asked, those that are absent, and all of them in order."""

from collections.abc import AsyncIterator, Mapping, Sequence

import numpy as np

from service.batching.batcher import Settled
from service.engine.batches import Answer
from service.engine.ensemble import Effective, Ensemble
from service.keys import key_prefix
from service.model import Array, Group, RowFailure


def size_bytes(values: Array) -> int:
    """How much there is to hash; an array of text holds pointers."""
    return sum(map(len, values)) if values.dtype == object else values.nbytes


def non_finite(ensemble: Ensemble, inputs: Mapping[str, Array], rows: Sequence[int]) -> dict[int, RowFailure]:
    """Those of the rows, in their order, that hold NaN or infinity where the input does not allow it."""
    failures: dict[int, RowFailure] = {}
    for name, values in inputs.items():
        if values.dtype.kind != "f" or name in ensemble.allow_nan:
            continue
        asked = values if len(rows) == len(values) else values[rows]
        finite = np.isfinite(asked).reshape(len(rows), -1)
        for place in np.flatnonzero(~finite.all(axis=1)):
            row = rows[int(place)]
            where = (
                np.unravel_index(int(np.argmin(finite[place])), values.shape[1:]) if values.ndim > 1 else ()
            )
            failures[row] = RowFailure(
                "non_finite_input",
                f"input {name!r} is {values[row][where]} at {[int(i) for i in where]}; send finite values, "
                "or set allow_nan for the input",
            )
    return failures


def keys_of(effective: Effective, digests: Sequence[bytes]) -> list[bytes]:
    """The cache keys of rows."""
    prefix = key_prefix(effective.fingerprint)
    return [prefix + digest for digest in digests]


def parted(
    keys: Sequence[bytes], values: Sequence[bytes | None]
) -> tuple[Group | None, dict[bytes, list[int]]]:
    """The rows that are kept, and where the others stand by their keys: the same row twice is one row."""
    if None not in values:
        return _hits(list(range(len(values))), values), {}
    wanted: dict[bytes, list[int]] = {}
    kept: list[int] = []
    for row, value in enumerate(values):
        if value is None:
            wanted.setdefault(keys[row], []).append(row)
        else:
            kept.append(row)
    return _hits(kept, [values[row] for row in kept]) if kept else None, wanted


def _hits(rows: list[int], values: Sequence[bytes | None]) -> Group:
    count = len(rows)
    return Group(rows, ["hit"] * count, list(values), [None] * count, [()] * count)


def failed(failures: Mapping[int, RowFailure]) -> Group:
    """Rows without an answer, each with its reason."""
    count = len(failures)
    return Group(list(failures), ["error"] * count, [None] * count, list(failures.values()), [()] * count)


def absent_rows(rows: list[int]) -> Group:
    """Rows of which only the digest is known."""
    count = len(rows)
    return Group(rows, ["absent"] * count, [None] * count, [None] * count, [()] * count)


def of_settled(settled: Sequence[Settled[Answer]]) -> Group:
    """Rows that batches have answered."""
    group = Group([], [], [], [], [])
    for positions, answer, joined in settled:
        count = len(positions)
        group.rows.extend(positions)
        if answer.failure is not None:
            group.sources.extend(["error"] * count)
        else:
            group.sources.extend(["coalesced"] * count)
            if not joined:
                group.sources[-count] = answer.source
        group.values.extend([answer.value] * count)
        group.failures.extend([answer.failure] * count)
        group.missing.extend([answer.missing] * count)
    return group


async def in_order(groups: AsyncIterator[Group], rows: int) -> AsyncIterator[Group]:
    """The same rows in the order of the request: each group as long as nothing before it is open."""
    sources: list[str] = [""] * rows
    values: list[bytes | None] = [None] * rows
    failures: list[RowFailure | None] = [None] * rows
    missing: list[tuple[str, ...]] = [()] * rows
    done = 0
    async for group in groups:
        if not done and group.rows == list(range(rows)):
            yield group  # all of them at once, as kept rows mostly come
            return
        for row, source, value, failure, names in zip(*group, strict=True):
            sources[row], values[row], failures[row], missing[row] = source, value, failure, names
        start = done
        while done < rows and sources[done]:
            done += 1
        if done > start:
            part = slice(start, done)
            yield Group(list(range(start, done)), sources[part], values[part], failures[part], missing[part])
            values[part] = [None] * (done - start)
