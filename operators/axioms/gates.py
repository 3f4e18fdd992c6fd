"""Gates: what the service relies on in every profile."""

import numpy as np

from operators.axioms.cases import Cases, Floats
from operators.axioms.check import Check, Sampler, outside, shown
from operators.axioms.generators import Generator
from operators.base import Fuse

ABSENCE = 1e-8
INDEPENDENCE = 1e-10
ALONE = 16


def weight_zero_absence(fuse: Fuse, cases: Cases) -> Floats:
    """A teacher of weight 0 is as good as not there: a quorum relies on it."""
    assert cases.towards is not None
    answer = fuse(cases.log_probs, cases.weights)
    margin = np.full(cases.rows, -np.inf)
    for teacher in range(len(cases.log_probs)):
        rows = np.flatnonzero(cases.towards == teacher)
        if len(rows):
            without = _without(cases, teacher, rows)
            alone = fuse(without.log_probs, without.weights)
            margin[rows] = _difference(answer[rows], alone) - ABSENCE
    return margin


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
    half = (cases.rows + 1) // 2
    margin[:half] = np.maximum(
        margin[:half], _apart(answer[:half], fuse(cases.log_probs[:, :half], cases.weights[:, :half]))
    )
    for row in range(min(ALONE, cases.rows)):
        alone = fuse(cases.log_probs[:, row : row + 1], cases.weights[:, row : row + 1])
        margin[row] = max(margin[row], _apart(answer[row : row + 1], alone)[0])
    return margin


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
    without = _without(case, int(case.towards[0]), np.array([0]))
    return {
        "pool": {
            f"teacher {int(case.towards[0])} at weight 0": shown(fuse(case.log_probs, case.weights)),
            "without it": shown(fuse(without.log_probs, without.weights)),
        },
        "law": "they are the same",
    }


def _explain_rows(fuse: Fuse, case: Cases) -> dict[str, object]:
    return {
        "pool": {
            f"row {row} of {case.rows}": shown(fuse(case.log_probs, case.weights)[row])
            for row in range(case.rows)
        },
        "law": "each is what the row gives alone, in another order and in another batch size",
    }


CHECKS = (
    Check(
        "weight_zero_absence", "weight_zero_absence", 0, "A(P; w) with w_j = 0 is A without j",
        weight_zero_absence, _explain_absence, draw=_with_absent, needs=2,
    ),
    Check(
        "row_independence", "row_independence", 0, "a row's answer depends on that row alone",
        row_independence, _explain_rows, cost="batch",
    ),
)  # fmt: skip
