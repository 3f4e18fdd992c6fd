"""Convexity preservation: the pool lies, in one sense after the other, between its teachers."""

from itertools import combinations

import numpy as np

from operators.axioms.cases import Cases, Floats
from operators.axioms.check import Check, Sampler, outside, shown, where_answered
from operators.axioms.generators import Generator
from operators.base import Fuse

AXIOM = "convexity_preservation"
CLOSURE_SUM = 1e-9
CLOSURE_TOP = 1e-12
UNANIMITY = 1e-8
LOG_ODDS = 1e-7
BOX = 1e-9
HULL = 1e-8
ALL_PAIRS_UP_TO = 64
RANDOM_PAIRS = 4096
HULL_TEACHERS = 5


def closure(fuse: Fuse, cases: Cases) -> Floats:
    """The pool is a distribution: every probability at most 1, and their sum 1."""
    return closure_within(fuse, cases, CLOSURE_SUM)


def closure_within(fuse: Fuse, cases: Cases, tolerance: float) -> Floats:
    """Closure to a tolerance of the sum."""
    answer = fuse(cases.log_probs, cases.weights).astype(np.float64)
    total = np.abs(np.exp(answer).sum(axis=-1) - 1)
    return np.maximum(outside(total, tolerance), outside(answer.max(axis=-1), max(CLOSURE_TOP, tolerance)))


def unanimity(fuse: Fuse, cases: Cases) -> Floats:
    """Teachers that agree are repeated: A(p, ..., p; w) = p."""
    return unanimity_within(fuse, cases, UNANIMITY)


def unanimity_within(fuse: Fuse, cases: Cases, tolerance: float) -> Floats:
    """Unanimity to a tolerance of every probability; the first teacher is taken for all."""
    same = _unanimous(cases)
    answer = fuse(same.log_probs, same.weights)
    gap = np.abs(np.exp(answer) - np.exp(same.log_probs[0])).max(axis=-1)
    return where_answered(answer, outside(gap, tolerance))


def _unanimous(cases: Cases) -> Cases:
    return cases._replace(log_probs=np.repeat(cases.log_probs[:1], len(cases.log_probs), axis=0))


def odds_internality(fuse: Fuse, cases: Cases) -> Floats:
    """min_k log p_kc/p_kd <= log A_c/A_d <= max_k log p_kc/p_kd, over teachers of positive weight."""
    return odds_internality_within(fuse, cases, LOG_ODDS)


def odds_internality_within(fuse: Fuse, cases: Cases, tolerance: float) -> Floats:
    """Odds-internality to a tolerance of every log-odds, relative above 1."""
    answer = fuse(cases.log_probs, cases.weights)
    return where_answered(answer, _odds_margin(answer, cases, anchored=False, tolerance=tolerance))


def anchored_odds_internality(fuse: Fuse, cases: Cases) -> Floats:
    """The same with the uniform distribution as one more teacher: the pool may soften, not exceed."""
    answer = fuse(cases.log_probs, cases.weights)
    return where_answered(answer, _odds_margin(answer, cases, anchored=True))


def _odds_margin(answer: Floats, cases: Cases, *, anchored: bool, tolerance: float = LOG_ODDS) -> Floats:
    margin = np.full(cases.rows, -np.inf)
    for first, second in _pairs(answer, cases):
        pairs = _pair_margins(answer, cases, first, second, anchored=anchored, tolerance=tolerance)
        np.maximum(margin, pairs.max(axis=-1), out=margin)
    return margin


def _pairs(answer: Floats, cases: Cases) -> list[tuple[np.ndarray, np.ndarray]]:
    """Index arrays ``[B, n]`` of the classes to compare; all of them, or the suspicious and some more."""
    rows, classes = answer.shape
    if classes <= ALL_PAIRS_UP_TO:
        every = np.arange(classes)[None]
        return [(np.full((1, 1), first), every) for first in range(classes)]
    with np.errstate(all="ignore"):
        mean = np.log((cases.weights[..., None] * np.exp(cases.log_probs)).sum(axis=0))
        gap = np.nan_to_num(np.abs(answer - mean), nan=0.0, posinf=np.inf)
    chosen = np.argsort(-gap, axis=-1)[:, :ALL_PAIRS_UP_TO]
    random = np.random.default_rng(classes).integers(classes, size=(2, 1, RANDOM_PAIRS))
    spread = (
        np.broadcast_to(random[0], (rows, RANDOM_PAIRS)),
        np.broadcast_to(random[1], (rows, RANDOM_PAIRS)),
    )
    return [(chosen[:, place : place + 1], chosen) for place in range(chosen.shape[1])] + [
        spread,
        spread[::-1],
    ]


def _pair_at(first: np.ndarray, second: np.ndarray, place: int) -> tuple[int, int]:
    ahead, behind = np.broadcast_arrays(first[0], second[0])
    return int(ahead[place]), int(behind[place])


def _pair_margins(
    answer: Floats,
    cases: Cases,
    first: np.ndarray,
    second: np.ndarray,
    *,
    anchored: bool,
    tolerance: float,
) -> Floats:
    rows = np.arange(len(answer))[:, None]
    with np.errstate(invalid="ignore"):
        odds = cases.log_probs[:, rows, first] - cases.log_probs[:, rows, second]
        mine = answer[rows, first] - answer[rows, second]
    # Where both are impossible there are no odds: a teacher then binds nothing, and the pool breaks nothing.
    odds = np.where(np.isnan(odds), np.inf, odds)
    odds = np.where(cases.weights[..., None] > 0, odds, -np.inf)
    top = odds.max(axis=0)
    if anchored:
        top = np.maximum(top, 0.0)
    free = (top == np.inf) | (mine == -np.inf) | np.isnan(mine)
    with np.errstate(invalid="ignore"):
        over = mine - top - tolerance * (1 + np.where(np.isfinite(mine), np.abs(mine), 0))
    return np.asarray(np.where(free, -np.inf, over))


def box(fuse: Fuse, cases: Cases) -> Floats:
    """min_k p_kc <= A_c <= max_k p_kc over teachers of positive weight."""
    answer = fuse(cases.log_probs, cases.weights)
    heard = cases.weights[..., None] > 0
    probabilities, pooled = np.exp(cases.log_probs), np.exp(answer)
    over = pooled - np.where(heard, probabilities, -np.inf).max(axis=0)
    under = np.where(heard, probabilities, np.inf).min(axis=0) - pooled
    return where_answered(answer, outside(np.maximum(over, under).max(axis=-1), BOX))


def hull(fuse: Fuse, cases: Cases) -> Floats:
    """A = sum_k a_k p_k for some a_k >= 0 summing to 1: the distance to the nearest face that has one."""
    answer = fuse(cases.log_probs, cases.weights)
    if len(cases.log_probs) > HULL_TEACHERS:
        return np.full(cases.rows, -np.inf)
    points = np.exp(np.moveaxis(cases.log_probs, 0, -1))  # [B, C, K]
    target = np.nan_to_num(np.exp(answer))
    nearest = np.full(cases.rows, np.inf)
    teachers = range(points.shape[-1])
    for size in range(1, len(teachers) + 1):
        for face in combinations(teachers, size):
            allowed = (cases.weights[list(face)] > 0).all(axis=0)
            distance = _to_face(points[..., list(face)], target)
            nearest = np.where(allowed, np.minimum(nearest, distance), nearest)
    return where_answered(answer, outside(nearest, HULL))


def _to_face(points: Floats, target: Floats) -> Floats:
    """The distance to a face, infinite where the foot of the perpendicular lies outside it."""
    origin, edges = points[..., :1], points[..., 1:] - points[..., :1]
    offset = target[..., None] - origin
    shares = np.linalg.pinv(edges, rcond=1e-12) @ offset if edges.shape[-1] else np.zeros((len(points), 0, 1))
    residual = np.abs(offset - edges @ shares).max(axis=(-2, -1))
    inside = (shares >= -1e-9).all(axis=(-2, -1)) & (shares.sum(axis=(-2, -1)) <= 1 + 1e-9)
    return np.where(inside, residual, np.inf)


def _explain_sum(fuse: Fuse, case: Cases) -> dict[str, object]:
    answer = fuse(case.log_probs, case.weights)[0]
    return {"pool": shown(answer), "sum": float(np.exp(answer).sum()), "law": "the sum is 1"}


def _explain_unanimity(fuse: Fuse, case: Cases) -> dict[str, object]:
    same = _unanimous(case)
    return {
        "pool": shown(fuse(same.log_probs, same.weights)[0]),
        "law": f"it is {shown(same.log_probs[0, 0])}",
    }


def explain_odds(fuse: Fuse, case: Cases) -> dict[str, object]:
    """The pair of classes whose odds are furthest outside, and the teachers' odds of it."""
    answer = fuse(case.log_probs, case.weights)[:1]
    case = case.take(slice(0, 1))
    worst = (-np.inf, 0, 0)
    for ahead, behind in _pairs(answer, case):
        margins = _pair_margins(answer, case, ahead, behind, anchored=False, tolerance=LOG_ODDS)[0]
        place = int(margins.argmax())
        worst = max(worst, (float(margins[place]), *_pair_at(ahead, behind, place)))
    _, first, second = worst
    with np.errstate(all="ignore"):
        odds = np.exp(case.log_probs[:, 0, first] - case.log_probs[:, 0, second])
        mine = np.exp(answer[0, first] - answer[0, second])
    return {
        "pool": shown(answer),
        "odds": f"of class {first} to class {second}: {mine:.6g}",
        "law": f"between the teachers' {', '.join(f'{value:.6g}' for value in odds)}",
    }


def _explain_box(fuse: Fuse, case: Cases) -> dict[str, object]:
    return {
        "pool": shown(fuse(case.log_probs, case.weights)[0]),
        "law": "each between the smallest and the largest of the teachers' probabilities",
    }


def _unanimous_profiles(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    return _unanimous(Cases(sampler.beliefs(generator, rows), sampler.weights(rows)))


CHECKS = (
    Check("closure", AXIOM, 0, "sum_c A_c = 1", closure, _explain_sum, tolerance=CLOSURE_SUM),
    Check(
        "anchored_odds_internality", AXIOM, 1,
        "min(0, min_k log p_kc/p_kd) <= log A_c/A_d <= max(0, max_k log p_kc/p_kd)",
        anchored_odds_internality, explain_odds, climb=True, implied_by="odds_internality",
        tolerance=LOG_ODDS,
    ),
    Check(
        "odds_internality", AXIOM, 2,
        "min_k log p_kc/p_kd <= log A_c/A_d <= max_k log p_kc/p_kd",
        odds_internality, explain_odds, climb=True, tolerance=LOG_ODDS,
    ),
    Check(
        "unanimity", AXIOM, 2, "A(p, ..., p; w) = p", unanimity, _explain_unanimity,
        draw=_unanimous_profiles, climb=True, tolerance=UNANIMITY,
    ),
    Check("box", AXIOM, 3, "min_k p_kc <= A_c <= max_k p_kc", box, _explain_box, tolerance=BOX),
    Check(
        "hull", AXIOM, 4, "A = sum_k a_k p_k, a_k >= 0, sum_k a_k = 1", hull, _explain_box, cost="hull",
        tolerance=HULL,
    ),
)  # fmt: skip
