"""The golden replies in Arrow: the rows that they hold, and how those are written and read."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from soft_targets import wire


class Golden(NamedTuple):
    """A golden file.

    Attributes:
        made: the bytes as they are written today.
        read: from bytes to what they say, in plain values.
        says: that, put down by hand.
        exact: whether they are written as ever; else they only say the same.
    """

    name: str
    made: Callable[[], bytes]
    read: Callable[[bytes], Any]
    says: Any
    exact: bool = True


METADATA = {
    "format": "1",
    "ensemble": "pets",
    "fingerprint": "ab" * 32,
    "temperature": "2.0",
    "violations": "",
}
ERROR = ("non_finite_input", "input 'x' holds NaN")
NO_QUORUM = ("quorum_lost", "1 of 3 teachers are left without 'größer', 'zwei', the quorum is 2")
COLUMNS = ("log_probs", "indices", "tail_log_mass", "entropy", "divergence")


class Row(NamedTuple):
    """A row of a reply."""

    row_id: int | str
    source: str
    log_probs: list[float] | None = None
    indices: list[int] | None = None
    tail_log_mass: float | None = None
    entropy: float | None = None
    divergence: float | None = None
    error: tuple[str, str] | None = None
    missing: tuple[str, ...] = ()


DENSE = [
    [Row("a", "hit", [-0.6931471824645996, -1.3862943649291992, -1.3862943649291992]),
     Row("é", "error", error=ERROR)],
    [Row("c", "coalesced", [-2.079441547393799, -2.079441547393799, -0.28768208622932434])],
]  # fmt: skip
SPARSE = [
    [Row(5, "miss", [-0.6931471824645996, -1.3862943649291992], [8, 0], -1.0),
     Row(2**64 - 1, "opinions", [-1.0986123085021973, -1.0986123085021973], [1, 2], -2.0)],
    [Row(0, "absent")],
]  # fmt: skip
HALVES = [
    [
        Row(1, "hit", [-1.0, -0.5, -87.3125, 0.0]),
        Row(2, "miss", [-float("inf"), 5.960464477539063e-08, -1, -2]),
    ],
    [Row(3, "error", error=ERROR)],
]
SPARSE_HALVES = [
    [Row("a", "hit", [-0.5, -1.5, -2.5], [7, 0, 3], -float("inf")), Row("b", "absent")],
    [Row("c", "coalesced", [-0.25, -4, -87.3125], [1, 2, 8], -1.25)],
]
DIAGNOSED = [
    [Row(1, "hit", [-0.5, -1.0], entropy=0.5, divergence=0.0), Row(2, "absent"),
     Row(3, "miss", [-2.0, -0.125], entropy=0.75, divergence=0.25), Row(4, "error", error=ERROR)],
]  # fmt: skip
ALL_AT_ONCE = [
    [Row(9, "hit", [-0.5], [1], -0.9375, 0.6875, 0.125), Row(8, "opinions", [-0.25], [0], -1.5, 0.5, 0.0625)],
    [Row(7, "error", error=NO_QUORUM)],
]
DEGRADED = [
    [Row(1, "miss", [-0.5, -1.0], missing=("größer", "zwei")), Row(2, "hit", [-1.0, -0.5]),
     Row(3, "error", error=NO_QUORUM), Row(4, "miss", [-0.75, -0.625], missing=("zwei",))],
]  # fmt: skip
REPETITIVE = [[Row(i, "hit", [-6.25] * 64) for i in range(40)] + [Row(40, "error", error=ERROR)]]


def written(groups, layout, *, codec=None):
    """The pieces of a reply."""
    first = groups[0][0].row_id
    kind = pa.string() if isinstance(first, str) else pa.uint64()
    writer = wire.ReplyWriter(layout, row_id_type=kind, metadata=METADATA, codec=codec)
    pieces = []
    for group in groups:
        values = [packed(layout, row) for row in group]
        pieces += writer.group(
            pa.array([row.row_id for row in group], kind),
            [row.source for row in group],
            values,
            [row.error for row in group],
            [row.missing for row in group],
        )
    return [*pieces, writer.close()]


def packed(layout, row):
    """A row's value, None where it has none."""
    if row.log_probs is None:
        return None
    log_probs, indices, tail, entropy, divergence = (
        None if getattr(row, name) is None else np.array([getattr(row, name)]) for name in COLUMNS
    )
    return layout.pack(log_probs, indices, tail, entropy=entropy, divergence=divergence)[0]


def said(body):
    """What a reply says, in plain values: its metadata, its rows, and what its end says."""
    metadata, batches = wire.read_reply(body)
    *groups, closing = batches
    return metadata, [rows_of(group) for group in groups], tuple(closing)


def rows_of(batch):
    """The rows of a batch that was read."""
    columns = {name: getattr(batch, name) for name in COLUMNS}
    rows = []
    for place, (row_id, source) in enumerate(zip(batch.row_ids.to_pylist(), batch.sources, strict=True)):
        values = {
            name: column[place].tolist()
            for name, column in columns.items()
            if column is not None and source not in ("error", "absent")
        }
        rows.append(
            Row(row_id, source, error=batch.errors[place], missing=batch.missing_teachers[place], **values)
        )
    return rows


def reply(name, groups, layout, *, codec=None):
    rows = [row for group in groups for row in group]
    return Golden(
        name,
        lambda: b"".join(written(groups, layout, codec=codec)),
        said,
        (METADATA, groups, (len(rows), sum(row.error is not None for row in rows))),
        exact=codec is None,
    )


REPLIES = [
    reply("reply-dense.arrows", DENSE, wire.Layout(3)),
    reply("reply-sparse.arrows", SPARSE, wire.Layout(9, 2)),
    reply("reply-float16.arrows", HALVES, wire.Layout(4, None, "float16")),
    reply("reply-sparse-float16.arrows", SPARSE_HALVES, wire.Layout(9, 3, "float16")),
    reply("reply-diagnostics.arrows", DIAGNOSED, wire.Layout(2, None, "float32", diagnostics=True)),
    reply("reply-all.arrows", ALL_AT_ONCE, wire.Layout(2, 1, "float16", diagnostics=True)),
    reply("reply-missing-teachers.arrows", DEGRADED, wire.Layout(2)),
    reply("reply-zstd.arrows", REPETITIVE, wire.Layout(64), codec="zstd"),
    reply("reply-lz4.arrows", REPETITIVE, wire.Layout(64), codec="lz4"),
]
