"""Groups of a request's rows: those that cannot be asked, those that are absent, and all of them in order."""

from collections.abc import AsyncIterator, Container, Mapping, Sequence

import numpy as np

from service.batching.batcher import Settled
from service.engine.batches import Answer
from service.engine.ensemble import Effective, Ensemble
from service.keys import key_prefix
from service.model import Array, Group, RowFailure


def size_bytes(values: Array) -> int:
    """How much there is to hash; an array of text holds pointers."""
    return sum(map(len, values)) if values.dtype == object else values.nbytes


def non_finite(ensemble: Ensemble, inputs: Mapping[str, Array]) -> dict[int, RowFailure]:
    """The rows that hold NaN or infinity where the input does not allow it."""
    failures: dict[int, RowFailure] = {}
    for name, values in inputs.items():
        if values.dtype.kind != "f" or name in ensemble.allow_nan:
            continue
        finite = np.isfinite(values).reshape(len(values), -1)
        for row in np.flatnonzero(~finite.all(axis=1)):
            where = np.unravel_index(int(np.argmin(finite[row])), values.shape[1:]) if values.ndim > 1 else ()
            failures[int(row)] = RowFailure(
                "non_finite_input",
                f"input {name!r} is {values[row][where]} at {[int(i) for i in where]}; send finite values, "
                "or set allow_nan for the input",
            )
    return failures


def by_key(effective: Effective, digests: Sequence[bytes], without: Container[int]) -> dict[bytes, list[int]]:
    """Cache key to where the row stands; the same row twice in a request is one row."""
    prefix = key_prefix(effective.fingerprint)
    wanted: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        if row not in without:
            wanted.setdefault(prefix + digest, []).append(row)
    return wanted


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
