"""Weight monotonicity: weight that moves to a teacher moves the pool to that teacher's own."""

import numpy as np

from operators.axioms.cases import Cases, Floats, divergence, hilbert, total_variation
from operators.axioms.check import Check, Sampler, outside, shown, where_answered
from operators.axioms.generators import POSITIVE, Generator, lifted
from operators.base import Fuse

AXIOM = "weight_monotonicity"
STEPS = np.array([0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.999, 1.0])
DIVERGENCE = 1e-9
LOG_ODDS = 1e-7
VERTEX = 1e-8
CLASSWISE = 1e-9
STILL = 1e-12  # total variation below which nothing moved
# The smallest probability where dead zones are sought. With r = -2, and two teachers that rule out each
# other's classes by 1e-9, what a third one adds is 1e-18 of the rest, and no float64 moves by that.
CLEAR = 1e-4
FAR = 0.05  # total variation from where there is a way to go


def path(fuse: Fuse, cases: Cases) -> Floats:
    """The pool along ``(1 - delta) w + delta e_k``, ``[steps, B, C]``."""
    assert cases.towards is not None
    teachers, rows, classes = cases.log_probs.shape
    vertex = np.arange(teachers)[:, None] == cases.towards
    weights = (1 - STEPS[:, None, None]) * cases.weights + STEPS[:, None, None] * vertex  # [S, K, B]
    tiled = np.broadcast_to(cases.log_probs[:, None], (teachers, len(STEPS), rows, classes))
    answer = fuse(tiled.reshape(teachers, -1, classes), np.moveaxis(weights, 0, 1).reshape(teachers, -1))
    return np.asarray(answer.reshape(len(STEPS), rows, classes))


def _judge(answers: Floats, margin: Floats) -> Floats:
    """A path that starts at a pool and loses it breaks any law of paths."""
    lost = np.isnan(answers).any(axis=(0, 2))
    return where_answered(answers[0], np.where(lost, np.inf, margin))


def divergence_falls(fuse: Fuse, cases: Cases) -> Floats:
    """KL(A(P; e_k) || A(P; w_delta)) never rises with delta."""
    answers = path(fuse, cases)
    distance = divergence(answers[-1], answers)
    with np.errstate(invalid="ignore"):
        rise = np.diff(distance, axis=0)
    rise = np.where((distance[1:] == np.inf) & (distance[:-1] == np.inf), -np.inf, rise)
    return _judge(answers, outside(rise.max(axis=0), DIVERGENCE))


def responsive(fuse: Fuse, cases: Cases) -> Floats:
    """Where a lone teacher would change the pool, some weight on it does."""
    answers = path(fuse, cases)
    moved = total_variation(answers[1:-1], answers[:1]).max(axis=0)
    way = total_variation(answers[0], np.asarray(cases.log_probs)[cases.towards, np.arange(cases.rows)])
    return _judge(answers, np.where(way <= FAR, -np.inf, np.where(moved < STILL, 1.0, -1.0)))


def odds_move_one_way(fuse: Fuse, cases: Cases) -> Floats:
    """Every log-odds of the pool is monotone in delta."""
    answers = path(fuse, cases)
    margin = np.full(cases.rows, -np.inf)
    with np.errstate(invalid="ignore"):
        for first in range(answers.shape[-1] - 1):
            odds = answers[..., first : first + 1] - answers[..., first + 1 :]
            step = np.diff(odds, axis=0)
            step = np.where(np.isnan(step), 0.0, step)
            back = np.minimum(step.max(axis=0), -step.min(axis=0))
            size = np.where(np.isfinite(odds), np.abs(odds), 0).max(axis=0)
            np.maximum(margin, (back - LOG_ODDS * (1 + size)).max(axis=-1), out=margin)
    return _judge(answers, margin)


def vertex_fidelity(fuse: Fuse, cases: Cases) -> Floats:
    """A(P; e_k) = p_k."""
    assert cases.towards is not None
    vertex = (np.arange(len(cases.log_probs))[:, None] == cases.towards).astype(np.float64)
    answer = fuse(cases.log_probs, vertex)
    alone = cases.log_probs[cases.towards, np.arange(cases.rows)]
    return outside(np.abs(np.exp(answer) - np.exp(alone)).max(axis=-1), VERTEX)


def no_dead_zone(fuse: Fuse, cases: Cases) -> Floats:
    """A step of .02 towards a teacher moves the pool, unless it is there already."""
    answers = path(fuse, cases)
    way = total_variation(answers[0], answers[-1])
    moved = total_variation(answers[0], answers[1])
    # In log-odds too: a teacher's 1e-200 may move a pool by less than any probability shows.
    still = (moved < STILL) & (hilbert(answers[0], answers[1]) < LOG_ODDS)
    return _judge(answers, np.where((way > FAR) & still, 1.0, -1.0))


def probabilities_move_one_way(fuse: Fuse, cases: Cases) -> Floats:
    """Every probability of the pool is monotone in delta."""
    answers = path(fuse, cases)
    step = np.diff(np.exp(answers), axis=0)
    back = np.minimum(step.max(axis=0), -step.min(axis=0)).max(axis=-1)
    return _judge(answers, outside(back, CLASSWISE))


def _paths(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    return Cases(
        sampler.beliefs(generator, rows),
        sampler.weights(rows),
        towards=sampler.random.integers(sampler.teachers, size=rows),
    )


def _clear_paths(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    cases = _paths(sampler, generator, rows)
    return cases._replace(log_probs=lifted(cases.log_probs, CLEAR))


def _explain_path(fuse: Fuse, case: Cases) -> dict[str, object]:
    answers = path(fuse, case)[:, 0]
    distance = divergence(answers[-1], answers)
    with np.errstate(invalid="ignore"):
        rise = np.diff(distance)
    place = int(np.argmax(np.where(np.isnan(rise), np.inf, rise)))
    return {
        "pool": {f"{STEPS[i]:g}": shown(answers[i]) for i in (0, place, place + 1, len(STEPS) - 1)},
        "divergence": f"{distance[place]:.6g} at delta {STEPS[place]:g}, {distance[place + 1]:.6g} at "
        f"{STEPS[place + 1]:g}",
        "law": "KL to the pool with all weight on the teacher never rises",
    }


def _explain_odds(fuse: Fuse, case: Cases) -> dict[str, object]:
    answers = path(fuse, case)[:, 0]
    worst = (-np.inf, 0, 0)
    for first in range(answers.shape[-1] - 1):
        with np.errstate(invalid="ignore"):
            odds = answers[:, first : first + 1] - answers[:, first + 1 :]
            step = np.nan_to_num(np.diff(odds, axis=0))
        back = np.minimum(step.max(axis=0), -step.min(axis=0))
        worst = max(worst, (float(back.max()), first, first + 1 + int(back.argmax())))
    _, first, second = worst
    with np.errstate(all="ignore"):
        odds = np.exp(answers[:, first] - answers[:, second])
    told = ", ".join(f"{STEPS[i]:g}: {odds[i]:.6g}" for i in range(len(STEPS)))
    return {"odds": f"of class {first} to class {second} along delta: {told}", "law": "they move one way"}


def _explain_ends(fuse: Fuse, case: Cases) -> dict[str, object]:
    answers = path(fuse, case)[:, 0]
    assert case.towards is not None
    return {
        "pool": {f"{STEPS[i]:g}": shown(answers[i]) for i in (0, 1, len(STEPS) - 2, len(STEPS) - 1)},
        "law": f"it moves at once, and ends at {shown(case.log_probs[int(case.towards[0]), 0])}",
    }


CHECKS = (
    Check(
        "divergence_falls", AXIOM, 1, "KL(A(P; e_k) || A(P; (1-d) w + d e_k)) does not rise with d",
        divergence_falls, _explain_path, draw=_paths, cost="paths", climb=True, needs=2, tolerance=DIVERGENCE,
    ),
    Check(
        "responsive", AXIOM, 1, "on 5 % of the probes at least, some weight on a teacher moves the pool",
        responsive, _explain_ends, draw=_paths, cost="paths", sources=("dirichlet",), allowed=0.95, needs=2,
    ),
    Check(
        "odds_move_one_way", AXIOM, 2, "log A_c/A_d is monotone in d along (1-d) w + d e_k",
        odds_move_one_way, _explain_odds, draw=_paths, cost="paths", climb=True, needs=2,
        tolerance=LOG_ODDS,
    ),
    Check(
        "vertex_fidelity", AXIOM, 2, "A(P; e_k) = p_k", vertex_fidelity, _explain_ends, draw=_paths, needs=2,
        tolerance=VERTEX,
    ),
    Check(
        "no_dead_zone", AXIOM, 2, "a step of .02 towards p_k moves A", no_dead_zone, _explain_ends,
        draw=_clear_paths, cost="paths", sources=tuple(POSITIVE), needs=2,
    ),
    Check(
        "probabilities_move_one_way", AXIOM, 3, "A_c is monotone in d along (1-d) w + d e_k",
        probabilities_move_one_way, _explain_ends, draw=_paths, cost="paths", needs=2,
        tolerance=CLASSWISE,
    ),
)  # fmt: skip
