"""Temperature coherence: what softening the teachers does to the pool."""

from collections.abc import Callable

import numpy as np

from operators import simplex
from operators.axioms.cases import Cases, Floats, diameter, hilbert
from operators.axioms.check import Check, Sampler, outside, positive_profiles, shown, unless_lost
from operators.axioms.continuity import JUMP, bisect, jump_margin
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
VERY_SOFT = 1e4
COOLEST, HOTTEST = 0.1, 1e7
STRETCH = 100.0  # the jump finder follows the larger change: over all temperatures that is the cold end's
RANKED = 64


def softened(log_probs: Floats, temperature: Floats) -> Floats:
    """S_T of every teacher, ``[K, B, C]``."""
    return np.asarray(simplex.soften(log_probs, temperature[None, :, None]))


def becomes_uniform(fuse: Fuse, cases: Cases) -> Floats:
    """At T = 1e7 the pool is uniform: |C A_c - 1| <= 1e-3, relative because 1/C may be small."""
    answer = fuse(softened(cases.log_probs, np.full(cases.rows, HOT)), cases.weights)
    gap = np.abs(np.exp(answer) * answer.shape[-1] - 1).max(axis=-1)
    return unless_lost(fuse(cases.log_probs, cases.weights), answer, outside(gap, UNIFORM))


def no_jump_in_temperature(fuse: Fuse, cases: Cases) -> Floats:
    """T to A(S_T P; w) does not jump between a temperature and a hundred times as much."""
    return jump_margin(bisect(*_over_temperatures(fuse, cases)))


def _over_temperatures(fuse: Fuse, cases: Cases) -> tuple[Callable[[Floats], Floats], Floats, Floats]:
    low, high = (np.full(cases.rows, end) for end in RANGE)
    if cases.temperature is not None:
        low, high = cases.temperature, np.minimum(cases.temperature * STRETCH, HOTTEST)

    def at(log_t: Floats) -> Floats:
        return np.asarray(fuse(softened(cases.log_probs, np.exp(log_t)), cases.weights))

    return at, np.log(low), np.log(high)


def shared_ranking(fuse: Fuse, cases: Cases) -> Floats:
    """Where every teacher holds c more probable than d, so does the pool of the softened teachers.

    Of more than 64 classes as many take c's part, the same ones for all rows.
    """
    assert cases.temperature is not None
    answer = fuse(softened(cases.log_probs, cases.temperature), cases.weights)
    heard = cases.weights[..., None] > 0
    margin = np.full(cases.rows, -np.inf)
    classes = answer.shape[-1]
    few = classes <= RANKED
    for first in range(classes) if few else np.random.default_rng(classes).choice(classes, RANKED):
        with np.errstate(invalid="ignore"):
            ahead = cases.log_probs[..., first : first + 1] - cases.log_probs
            behind = np.exp(answer) - np.exp(answer[:, first : first + 1])
        shared = np.where(heard, ahead > 0, True).all(axis=0)
        np.maximum(margin, np.where(shared, behind - RANKING, -np.inf).max(axis=-1), out=margin)
    return unless_lost(fuse(cases.log_probs, cases.weights), answer, margin)


def _both_orders(fuse: Fuse, cases: Cases) -> tuple[Floats, Floats]:
    """Softened, then pooled; pooled, then softened."""
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
    return unless_lost(other, one, outside(over, DEFECT))


def commutes(fuse: Fuse, cases: Cases) -> Floats:
    """A(S_T P) = S_T A(P)."""
    one, other = _both_orders(fuse, cases)
    size = np.abs(np.where(np.isfinite(other), other, 0)).max(axis=-1)
    return unless_lost(other, one, outside(hilbert(one, other), COMMUTES * (1 + size)))


def _with_temperature(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    hottest = np.where(np.arange(rows) % 8 == 1, VERY_SOFT, RANGE[1])
    spread = np.exp(sampler.random.uniform(np.log(RANGE[0]), np.log(hottest)))
    fixed = np.resize(FIXED, rows)
    return positive_profiles(sampler, generator, rows)._replace(
        temperature=np.where(np.arange(rows) % 2 == 0, fixed, spread)
    )


def _from_some_temperature(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    """Every other row starts at the coolest."""
    start = 10.0 ** sampler.random.uniform(np.log10(COOLEST), np.log10(HOTTEST / STRETCH), size=rows)
    return positive_profiles(sampler, generator, rows)._replace(
        temperature=np.where(np.arange(rows) % 2 == 0, COOLEST, start)
    )


def _explain_hot(fuse: Fuse, case: Cases) -> dict[str, object]:
    answer = fuse(softened(case.log_probs, np.full(1, HOT)), case.weights)
    return {"pool": shown(answer), "law": f"at T = {HOT:g} it is uniform"}


def _explain_jump(fuse: Fuse, case: Cases) -> dict[str, object]:
    piece = bisect(*_over_temperatures(fuse, case))
    start, end = (float(np.exp(at[0])) for at in (piece.start, piece.end))
    return {
        "pool": {f"T = {start!r}": shown(piece.near[0]), f"T = {end!r}": shown(piece.far[0])},
        "law": "the pool does not jump with T",
    }


def _explain_orders(fuse: Fuse, case: Cases) -> dict[str, object]:
    one, other = _both_orders(fuse, case)
    assert case.temperature is not None
    bound = diameter(case.log_probs, case.weights) / case.temperature
    return {
        "pool": {"softened, then pooled": shown(one[0]), "pooled, then softened": shown(other[0])},
        "defect": f"{hilbert(one, other)[0]:.6g}",
        "law": f"the defect is at most the diameter over T, {bound[0]:.6g}, and shared rankings survive",
    }


CHECKS = (
    Check(
        "becomes_uniform", AXIOM, 0, "A(S_T P) is uniform as T grows", becomes_uniform, _explain_hot,
        draw=positive_profiles, sources=tuple(POSITIVE), tolerance=UNIFORM,
    ),
    Check(
        "no_jump_in_temperature", AXIOM, 0, "T to A(S_T P) is continuous", no_jump_in_temperature,
        _explain_jump, draw=_from_some_temperature,
        sources=("dirichlet", "coarse", "swapped", "near_uniform"), cost="segments", tolerance=JUMP,
    ),
    Check(
        "shared_ranking", AXIOM, 1, "p_kc > p_kd for all k => A(S_T P)_c >= A(S_T P)_d", shared_ranking,
        _explain_orders, draw=_with_temperature, climb=True, tolerance=RANKING,
    ),
    Check(
        "bounded_defect", AXIOM, 1, "d_H(A(S_T P), S_T A(P)) <= diam(P) / T", bounded_defect,
        _explain_orders, draw=_with_temperature, climb=True, tolerance=DEFECT,
    ),
    Check(
        "commutes", AXIOM, 2, "A(S_T P) = S_T A(P)", commutes, _explain_orders, draw=_with_temperature,
        tolerance=COMMUTES,
    ),
)  # fmt: skip
