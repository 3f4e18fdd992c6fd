"""Rows of an export computed again, and held against what is in it."""

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from service.bulk.comparing import difference
from service.bulk.data import Dataset
from service.bulk.labelling import Labelled, Labeller
from service.bulk.manifest import Manifest
from service.bulk.parts import read_part
from service.bulk.tally import Tally
from service.bulk.values import to_values, value_dtype
from service.model import Array
from soft_targets.wire import Layout

Id = int | str


class Sampled(NamedTuple):
    """A row of the export.

    Attributes:
        digest: of the input that was labelled.
        value: its target, a scalar of ``value_dtype``.
    """

    digest: bytes
    value: Array


@dataclass
class Verdict:
    """What became of rows that were computed again.

    Attributes:
        compared: how many were.
        nats: by how much a log-probability differs at most.
        worst: the id of its row.
        wrong: each row that differs by more than it may, or could not be compared: its id, and why.
    """

    compared: int = 0
    nats: float = 0.0
    worst: Id | None = None
    wrong: list[tuple[Id, str]] = field(default_factory=list)


def draw(folder: Path, manifest: Manifest, layout: Layout, *, count: int, seed: int) -> dict[Id, Sampled]:
    """Rows of an export, by their ids, drawn among those whose targets a cache may keep.

    Args:
        folder: of the export, which was checked.
        manifest: in it.
        layout: of its values.
        count: how many; all of them where there are not so many.
        seed: of the draw.
    """
    total = manifest.counts["rows"] - manifest.counts["failed"] - manifest.counts["unkept"]
    drawn = np.sort(
        np.random.default_rng(seed).choice(total, min(count, total), replace=False, shuffle=False)
    )
    found: dict[Id, Sampled] = {}
    start = 0
    for file in manifest.files:
        stop = start + file.rows - file.failed - file.unkept
        if not len(_between(drawn, start, stop)):
            start = stop
            continue
        for batch in read_part(folder / file.name, layout):
            kept = batch.filter(batch["keep"])
            rows = kept.take(pa.array(_between(drawn, start, start + len(kept)) - start))
            ids, digests = rows["row_id"].to_pylist(), rows["digest"].to_pylist()
            for row_id, digest, value in zip(ids, digests, to_values(rows, layout), strict=True):
                found[row_id] = Sampled(digest, value)
            start += len(kept)
    return found


def _between(drawn: Array, start: int, stop: int) -> Array:
    return drawn[np.searchsorted(drawn, start) : np.searchsorted(drawn, stop)]


async def recompute(
    labeller: Labeller, data: Dataset, sampled: Mapping[Id, Sampled], tally: Tally
) -> Verdict:
    """Compute rows again, and compare.

    Args:
        labeller: opened for keeping nothing.
        data: that was labelled.
        sampled: the rows.
        tally: of the rows.

    Raises:
        DataError: the data say so.
    """
    left, verdict = dict(sampled), Verdict()
    chunks = data.take(data.places(left), labeller.chunk_rows)
    async with aclosing(labeller.label(chunks, kept=False)) as answered:
        async for labelled in answered:
            tally.add(labelled)
            _compare(labeller, labelled, left, verdict)
    verdict.wrong.extend((row_id, "the data have no such row") for row_id in left)
    return verdict


def _compare(labeller: Labeller, labelled: Labelled, left: dict[Id, Sampled], verdict: Verdict) -> None:
    layout, limit = labeller.effective.layout, labeller.settings.server.spread_limit
    for row, row_id in enumerate(labelled.chunk.row_ids.to_pylist()):
        known, value, failure = left.pop(row_id), labelled.values[row], labelled.failures[row]
        if labelled.chunk.digests[row] != known.digest:
            verdict.wrong.append((row_id, "its input is not the one that was labelled"))
        elif value is None:
            why = f": {failure.code}: {failure.message}" if failure else ""
            verdict.wrong.append((row_id, f"it has no answer now{why}"))
        else:
            found = np.frombuffer(value, value_dtype(layout))[0]
            nats, times = difference(known.value, found, limit=limit, classes=layout.classes)
            verdict.compared += 1
            if nats > verdict.nats:
                verdict.nats, verdict.worst = nats, row_id
            if not times <= 1:
                verdict.wrong.append(
                    (row_id, f"it differs by {nats:.3g} nats; {times:.3g} times what is allowed")
                )
