"""Temperature coherence: what softening the teachers does to the pool."""

import numpy as np

from operators import simplex
from operators.axioms.cases import Cases, Floats, diameter, hilbert
from operators.axioms.check import Check, Sampler, outside, shown, where_answered
from operators.axioms.continuity import bisect, jump_margin
from operators.axioms.generators import POSITIVE, Generator
from operators.base import Fuse

AXIOM = "temperature_coherence"
HOT = 1e7
UNIFORM = 1e-3
DEFECT = 1e-6
RANKING = 1e-9
COMMUTES = 1e-6
FIXED = (0.5, 2.0, 5.0)
RANGE = (0.13, 12.0)


def softened(log_probs: Floats, temperature: Floats) -> Floats:
    """S_T of every teacher, ``[K, B, C]``."""
    return np.asarray(simplex.soften(log_probs, temperature[None, :, None]))


def becomes_uniform(fuse: Fuse, cases: Cases) -> Floats:
    """At T = 1e7 the pool is uniform: |C A_c - 1| <= 1e-3, relative because 1/C may be small."""
    answer = fuse(softened(cases.log_probs, np.full(cases.rows, HOT)), cases.weights)
    gap = np.abs(np.exp(answer) * answer.shape[-1] - 1).max(axis=-1)
    return where_answered(answer, outside(gap, UNIFORM))


def no_jump_in_temperature(fuse: Fuse, cases: Cases) -> Floats:
    """T to A(S_T P; w) does not jump for T from .13 to 12."""
    return jump_margin(*_last_piece(fuse, cases)[2])


def _last_piece(fuse: Fuse, cases: Cases) -> tuple[Floats, Floats, tuple[Floats, Floats]]:
    low, high = (np.full(cases.rows, np.log(end)) for end in RANGE)
    return bisect(lambda log_t: fuse(softened(cases.log_probs, np.exp(log_t)), cases.weights), low, high)


def shared_ranking(fuse: Fuse, cases: Cases) -> Floats:
    """Where every teacher holds c at least as probable as d, so does the pool of the softened teachers."""
    assert cases.temperature is not None
    answer = fuse(softened(cases.log_probs, cases.temperature), cases.weights)
    heard = cases.weights[..., None] > 0
    margin = np.full(cases.rows, -np.inf)
    for first in range(answer.shape[-1]):
        with np.errstate(invalid="ignore"):
            ahead = cases.log_probs[..., first : first + 1] - cases.log_probs
            behind = np.exp(answer) - np.exp(answer[:, first : first + 1])
        shared = np.where(heard, ahead > 0, True).all(axis=0)
        np.maximum(margin, np.where(shared, behind - RANKING, -np.inf).max(axis=-1), out=margin)
    return where_answered(answer, margin)


def _both_orders(fuse: Fuse, cases: Cases) -> tuple[Floats, Floats]:
    assert cases.temperature is not None
    first = fuse(softened(cases.log_probs, cases.temperature), cases.weights)
    pool = fuse(cases.log_probs, cases.weights)
    return first, np.asarray(simplex.soften(pool, cases.temperature[:, None]))


def bounded_defect(fuse: Fuse, cases: Cases) -> Floats:
    """d_H(A(S_T P), S_T A(P)) <= diam(P) / T in the Hilbert distance."""
    assert cases.temperature is not None
    one, other = _both_orders(fuse, cases)
    bound = diameter(cases.log_probs, cases.weights) / cases.temperature
    defect = hilbert(one, other)
    with np.errstate(invalid="ignore"):
        over = np.where(bound == np.inf, -np.inf, defect - bound)
    return where_answered(one + other, outside(over, DEFECT))


def commutes(fuse: Fuse, cases: Cases) -> Floats:
    """A(S_T P) = S_T A(P)."""
    one, other = _both_orders(fuse, cases)
    size = np.abs(np.where(np.isfinite(other), other, 0)).max(axis=-1)
    return where_answered(one + other, outside(hilbert(one, other), COMMUTES * (1 + size)))


def _with_temperature(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    spread = np.exp(sampler.random.uniform(np.log(RANGE[0]), np.log(RANGE[1]), size=rows))
    fixed = np.resize(FIXED, rows)
    return Cases(
        sampler.beliefs(generator, rows),
        sampler.positive_weights(rows),
        temperature=np.where(np.arange(rows) % 2 == 0, fixed, spread),
    )


def _positive(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    return Cases(sampler.beliefs(generator, rows), sampler.positive_weights(rows))


def _explain_hot(fuse: Fuse, case: Cases) -> dict[str, object]:
    answer = fuse(softened(case.log_probs, np.full(1, HOT)), case.weights)
    return {"pool": shown(answer), "law": f"at T = {HOT:g} it is uniform"}


def _explain_jump(fuse: Fuse, case: Cases) -> dict[str, object]:
    start, end, (near, far) = _last_piece(fuse, case)
    return {
        "pool": {f"T = {np.exp(start[0])!r}": shown(near), f"T = {np.exp(end[0])!r}": shown(far)},
        "law": "the pool does not jump with T",
    }


def _explain_orders(fuse: Fuse, case: Cases) -> dict[str, object]:
    one, other = _both_orders(fuse, case)
    assert case.temperature is not None
    bound = diameter(case.log_probs, case.weights) / case.temperature
    return {
        "pool": {"softened, then pooled": shown(one), "pooled, then softened": shown(other)},
        "defect": f"{hilbert(one, other)[0]:.6g}",
        "law": f"the defect is at most the diameter over T, {bound[0]:.6g}, and shared rankings survive",
    }


CHECKS = (
    Check(
        "becomes_uniform", AXIOM, 0, "A(S_T P) is uniform as T grows", becomes_uniform, _explain_hot,
        draw=_positive, sources=tuple(POSITIVE),
    ),
    Check(
        "no_jump_in_temperature", AXIOM, 0, "T to A(S_T P) is continuous", no_jump_in_temperature,
        _explain_jump, draw=_positive, sources=("dirichlet", "coarse", "swapped"), cost="segments",
    ),
    Check(
        "shared_ranking", AXIOM, 1, "p_kc > p_kd for all k => A(S_T P)_c >= A(S_T P)_d", shared_ranking,
        _explain_orders, draw=_with_temperature, climb=True,
    ),
    Check(
        "bounded_defect", AXIOM, 1, "d_H(A(S_T P), S_T A(P)) <= diam(P) / T", bounded_defect,
        _explain_orders, draw=_with_temperature, climb=True,
    ),
    Check(
        "commutes", AXIOM, 2, "A(S_T P) = S_T A(P)", commutes, _explain_orders, draw=_with_temperature,
    ),
)  # fmt: skip
