"""Gates: what the service relies on in every profile."""

from collections.abc import Iterator

import numpy as np

from operators.axioms.cases import Cases, Floats
from operators.axioms.check import Check, Sampler, outside, shown
from operators.axioms.generators import Generator
from operators.base import Fuse

ABSENCE = 1e-8
INDEPENDENCE = 1e-10
ALONE = 16
PIECES = (17, 1000)
PIECES_EACH = 24
# What a teacher that failed may leave behind, beside the beliefs that a case holds.
LEFT_BEHIND = (np.nan, -np.inf, 0.0)


def weight_zero_absence(fuse: Fuse, cases: Cases) -> Floats:
    """A teacher of weight 0 is as good as not there, whatever it holds: a quorum relies on it.

    It is asked with the beliefs of the case, and with NaN, -inf and 0 in every class.
    """
    assert cases.towards is not None
    answers = [fuse(held, cases.weights) for held in _holding(cases)]
    margin = np.full(cases.rows, -np.inf)
    for teacher in range(len(cases.log_probs)):
        rows = np.flatnonzero(cases.towards == teacher)
        if len(rows):
            without = _without(cases, teacher, rows)
            alone = fuse(without.log_probs, without.weights)
            gaps = [_difference(answer[rows], alone) for answer in answers]
            margin[rows] = np.max(gaps, axis=0) - ABSENCE
    return margin


def _holding(cases: Cases) -> list[Floats]:
    absent = np.arange(len(cases.log_probs))[:, None] == cases.towards
    left = [np.where(absent[..., None], value, cases.log_probs) for value in LEFT_BEHIND]
    return [cases.log_probs, *left]


def _without(cases: Cases, teacher: int, rows: np.ndarray) -> Cases:
    others = [k for k in range(len(cases.log_probs)) if k != teacher]
    return Cases(cases.log_probs[others][:, rows], cases.weights[others][:, rows])


def _difference(one: Floats, other: Floats) -> Floats:
    gap = np.abs(np.exp(one) - np.exp(other))
    gap = np.where(np.isnan(one) & np.isnan(other), 0.0, gap)
    return outside(gap.max(axis=-1), 0.0)


def row_independence(fuse: Fuse, cases: Cases) -> Floats:
    """A row's answer is the same alone, in another order and in another batch size."""
    answer = fuse(cases.log_probs, cases.weights)
    backwards = fuse(cases.log_probs[:, ::-1], cases.weights[:, ::-1])[::-1]
    margin = _apart(answer, backwards)
    for piece in _pieces(cases.rows):
        part = fuse(cases.log_probs[:, piece], cases.weights[:, piece])
        margin[piece] = np.maximum(margin[piece], _apart(answer[piece], part))
    return margin


def _pieces(rows: int) -> Iterator[slice]:
    """The first half; some rows alone, from first to last; and pieces of 17 and of 1,000 rows."""
    yield slice(0, (rows + 1) // 2)
    for row in np.unique(np.linspace(0, rows - 1, ALONE).astype(int)).tolist():
        yield slice(row, row + 1)
    for size in PIECES:
        if rows > size:
            starts = np.arange(0, rows, size)
            chosen = np.unique(np.linspace(0, len(starts) - 1, PIECES_EACH).astype(int))
            yield from (slice(at, at + size) for at in starts[chosen].tolist())


def _apart(one: Floats, other: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        gap = np.abs(one - other) - INDEPENDENCE * (1 + np.abs(np.where(np.isfinite(one), one, 0)))
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return outside(np.where(same, -INDEPENDENCE, gap).max(axis=-1), 0.0)


def _with_absent(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    absent = sampler.random.integers(sampler.teachers, size=rows)
    weights = sampler.positive_weights(rows)
    weights = np.where(np.arange(sampler.teachers)[:, None] == absent, 0.0, weights)
    return Cases(sampler.beliefs(generator, rows), weights / weights.sum(axis=0), towards=absent)


def _explain_absence(fuse: Fuse, case: Cases) -> dict[str, object]:
    assert case.towards is not None
    teacher = int(case.towards[0])
    without = _without(case, teacher, np.array([0]))
    alone = fuse(without.log_probs, without.weights)
    pools = {
        f"teacher {teacher} at weight 0, holding {what}": fuse(held, case.weights)[:1]
        for what, held in zip(("its beliefs", *map(str, LEFT_BEHIND)), _holding(case), strict=True)
    }
    differing = {
        what: shown(pool[0]) for what, pool in pools.items() if _difference(pool, alone)[0] > ABSENCE
    }
    return {"pool": {**differing, "without it": shown(alone[0])}, "law": "they are the same"}


def _explain_rows(fuse: Fuse, case: Cases) -> dict[str, object]:
    answer = fuse(case.log_probs, case.weights)
    margins = row_independence(fuse, case)
    row = int(margins.argmax())
    told = {f"row {row} of {case.rows}": shown(answer[row])}
    for piece in (slice(row, row + 1), *_pieces(case.rows)):
        part = fuse(case.log_probs[:, piece], case.weights[:, piece])
        if (
            piece.start <= row < piece.stop
            and _apart(answer[row : row + 1], part[row - piece.start][None])[0] > 0
        ):
            told[f"among rows {piece.start} to {piece.start + len(part) - 1}"] = shown(
                part[row - piece.start]
            )
            break
    else:
        backwards = fuse(case.log_probs[:, ::-1], case.weights[:, ::-1])[::-1]
        told["in the opposite order"] = shown(backwards[row])
    return {"pool": told, "law": "they are the same"}


CHECKS = (
    Check(
        "weight_zero_absence", "weight_zero_absence", 0, "A(P; w) with w_j = 0 is A without j",
        weight_zero_absence, _explain_absence, draw=_with_absent, needs=2,
        tolerance=ABSENCE,
    ),
    Check(
        "row_independence", "row_independence", 0, "a row's answer depends on that row alone",
        row_independence, _explain_rows, cost="batch", tolerance=INDEPENDENCE,
    ),
)  # fmt: skip
