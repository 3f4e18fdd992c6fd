"""Continuity: close teachers and weights, close pools; jumps are hunted by bisection, not by luck."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from operators import simplex
from operators.axioms.cases import Cases, Floats, total_variation
from operators.axioms.check import Check, Sampler, shown
from operators.axioms.generators import POSITIVE, Generator, lifted
from operators.base import Fuse

AXIOM = "continuity"
HALVINGS = 50
DEEPER = 3
JUMP = 1e-6
LOWEST = 1e-6  # the smallest probability of a segment's ends: steeper slopes look like jumps and are none
NEXT_TO_NOTHING = (1e-13, 1e-26)
DEPTHS = (85.0, 690.0)
PATHS = 4
SPREAD = 0.02
SHRINKS = 0.7


class Piece(NamedTuple):
    """What bisection leaves of each of B segments.

    Attributes:
        start: where it starts, ``[B]``.
        end: where it ends, ``[B]``.
        near: the pool at the start, ``[B, C]``.
        far: the pool at the end, ``[B, C]``.
        before: the pool's change over the piece that was left ``DEEPER`` halvings earlier, ``[B]``.
    """

    start: Floats
    end: Floats
    near: Floats
    far: Floats
    before: Floats


def jump(fuse: Fuse, cases: Cases) -> Floats:
    """The change of the pool over the last 2^-50 of a segment, halved towards the change."""
    return jump_margin(_last_piece(fuse, cases))


def jump_margin(piece: Piece) -> Floats:
    """How far the change over a piece is beyond what is no jump; no pool at all is beyond it.

    A jump is as high over an eighth of the way; a slope, however steep, is not. With r = -2 a Hölder pool
    honestly moves by hundredths over 2^-44 of a weight.
    """
    change = total_variation(piece.near, piece.far)
    with np.errstate(invalid="ignore"):
        stays = change >= SHRINKS * piece.before
    return np.where(np.isnan(change), np.inf, np.where(stays, change - JUMP, -JUMP))


def bisect(at: Callable[[Floats], Floats], start: Floats, end: Floats) -> Piece:
    """Halve every segment, keeping the half over which the pool changes more.

    Args:
        at: parameter ``[B]`` to the pool there, ``[B, C]``.
        start: where each segment starts.
        end: where it ends.

    Returns:
        What is left.
    """
    near, far = at(start), at(end)
    before = total_variation(near, far)
    for halving in range(HALVINGS):
        if halving == HALVINGS - DEEPER:
            before = total_variation(near, far)
        middle = (start + end) / 2
        pool = at(middle)
        first, second = total_variation(near, pool), total_variation(pool, far)
        left = (np.isnan(first) | (first >= second)) & ~(np.isnan(second) & ~np.isnan(first))
        start, near = np.where(left, start, middle), np.where(left[:, None], near, pool)
        end, far = np.where(left, middle, end), np.where(left[:, None], pool, far)
    return Piece(start, end, near, far, before)


def _last_piece(fuse: Fuse, cases: Cases) -> Piece:
    assert cases.far_log_probs is not None
    assert cases.far_weights is not None
    ends = np.exp(cases.log_probs), np.exp(cases.far_log_probs)
    weights = cases.weights, cases.far_weights

    def at(where: Floats) -> Floats:
        share = where[None, :, None]
        between = (1 - share) * ends[0] + share * ends[1]
        return np.asarray(fuse(np.log(between), (1 - where) * weights[0] + where * weights[1]))

    zero = np.zeros(cases.rows)
    return bisect(at, zero, zero + 1)


def weight_to_zero(fuse: Fuse, cases: Cases) -> Floats:
    """A weight next to nothing is as good as none, or comes to it as it shrinks further.

    The second depth spares pools that are continuous and steep there: with r = 2 a Hölder pool moves by the
    root of the weight.
    """
    gone = _with_weight(cases, 0.0)
    alone = fuse(cases.log_probs, gone)
    change, deeper = (
        total_variation(alone, fuse(cases.log_probs, _with_weight(cases, weight)))
        for weight in NEXT_TO_NOTHING
    )
    margin = np.where(deeper < SHRINKS * change, -JUMP, change - JUMP)
    margin = np.where(np.isnan(change) | np.isnan(deeper), np.inf, margin)
    return np.where(np.isnan(gone).any(axis=0), -np.inf, margin)  # nobody else has any weight


def _with_weight(cases: Cases, weight: float) -> Floats:
    assert cases.towards is not None
    chosen = np.arange(len(cases.weights))[:, None] == cases.towards
    changed = np.where(chosen, weight, cases.weights)
    with np.errstate(invalid="ignore"):
        return np.asarray(changed / changed.sum(axis=0))


def boundary(fuse: Fuse, cases: Cases) -> Floats:
    """Different ways to the same zeros lead to the same pool, and it is the pool at the zeros themselves.

    Two depths tell a jump from a slow modulus: the spread of a continuous pool shrinks as the ways deepen.
    """
    spreads = [_spread(fuse, cases, depth) for depth in DEPTHS]
    with np.errstate(invalid="ignore", divide="ignore"):
        stays = spreads[1] >= SHRINKS * spreads[0]
    nowhere = np.isnan(spreads[0]) | np.isnan(spreads[1])
    return np.where(nowhere, np.inf, np.where(stays, spreads[1] - SPREAD, -SPREAD))


def _spread(fuse: Fuse, cases: Cases, depth: float) -> Floats:
    """The widest total variation between the pools along four ways at a depth, and the pool at the end."""
    pools = [fuse(cases.log_probs, cases.weights)]
    pools += [fuse(*_approach(cases, depth, way)) for way in range(PATHS)]
    widest = np.zeros(cases.rows)
    for one in range(len(pools)):
        for other in range(one):
            widest = np.maximum(widest, total_variation(pools[one], pools[other]))
    return widest


def _approach(cases: Cases, depth: float, way: int) -> tuple[Floats, Floats]:
    """Zeros replaced by exp(-depth u): u is 1 for all, or its own for every teacher and class."""
    random = np.random.default_rng(way)
    teachers, _, classes = cases.log_probs.shape
    slopes = np.ones((teachers, 1, classes)) if way == 0 else random.uniform(0.1, 1.0, (teachers, 1, classes))
    filled = np.where(cases.log_probs == -np.inf, -depth * slopes, cases.log_probs)
    return np.asarray(simplex.log_softmax(filled)), cases.weights


def segments(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    """Segments that cross ties: to other beliefs, to swapped teachers or classes, from vertex to vertex."""
    log_probs = lifted(sampler.beliefs(generator, rows), LOWEST)
    far = lifted(sampler.beliefs(generator, rows), LOWEST)
    weights, far_weights = sampler.weights(rows), sampler.weights(rows)
    kind = np.arange(rows) % (6 if sampler.teachers > 1 else 3)  # a lone teacher's weight moves nowhere
    order = sampler.random.permutation(sampler.teachers)
    columns = sampler.random.permutation(sampler.classes)
    far = np.where((kind == 1)[:, None], log_probs[order], far)  # teachers change places
    far = np.where((kind == 2)[:, None], log_probs[:, :, columns], far)  # classes do
    far = np.where((kind >= 3)[:, None], log_probs, far)  # only weight moves
    still = (kind == 1) | (kind == 2)
    far_weights = np.where(still, weights, far_weights)
    one, other = np.eye(sampler.teachers)[sampler.random.integers(sampler.teachers, size=(2, rows))]
    weights = np.where(kind == 4, one.T, weights)
    far_weights = np.where(kind == 4, other.T, far_weights)
    # Two teachers between (.4, .6) and (.6, .4): the tie of weights is in the middle.
    lean = 0.4 * one + 0.6 * other
    weights = np.where(kind == 5, lean.T, weights)
    far_weights = np.where(kind == 5, (one + other - lean).T, far_weights)
    return Cases(log_probs, weights, far_log_probs=far, far_weights=far_weights)


def _vanishing(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    return Cases(
        lifted(sampler.beliefs(generator, rows), LOWEST),
        sampler.positive_weights(rows),
        towards=sampler.random.integers(sampler.teachers, size=rows),
    )


def _at_the_boundary(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    return Cases(generator(sampler.random, sampler.teachers, rows, sampler.classes), sampler.weights(rows))


def _explain_jump(fuse: Fuse, case: Cases) -> dict[str, object]:
    piece = _last_piece(fuse, case)
    start, end = float(piece.start[0]), float(piece.end[0])
    return {
        "segment": f"from t = {start!r} to {end!r} of the way to the far end",
        "pool": {"before": shown(piece.near[0]), "behind": shown(piece.far[0])},
        "law": "the pool does not jump",
    }


def _explain_weight(fuse: Fuse, case: Cases) -> dict[str, object]:
    assert case.towards is not None
    pools = {
        f"w_{int(case.towards[0])} = {weight:g}": shown(fuse(case.log_probs, _with_weight(case, weight))[0])
        for weight in (0.0, *NEXT_TO_NOTHING)
    }
    return {"pool": pools, "law": "they come to the same"}


def _explain_boundary(fuse: Fuse, case: Cases) -> dict[str, object]:
    ways = {f"way {way}": shown(fuse(*_approach(case, DEPTHS[1], way))[0]) for way in range(PATHS)}
    return {
        "pool": {"at the zeros": shown(fuse(case.log_probs, case.weights)[0]), **ways},
        "law": "all ways to the zeros lead to the pool there",
    }


CHECKS = (
    Check(
        "no_jump", AXIOM, 1, "A is continuous along a segment of positive profiles and weights",
        jump, _explain_jump, draw=segments, cost="segments", sources=tuple(POSITIVE), tolerance=JUMP,
    ),
    Check(
        "weight_to_zero", AXIOM, 1, "A(P; w) tends to A(P; w without j) as w_j tends to 0",
        weight_to_zero, _explain_weight, draw=_vanishing,
        sources=("dirichlet", "coarse", "swapped", "near_uniform"), needs=2, tolerance=JUMP,
    ),
    Check(
        "boundary", AXIOM, 2, "A(P) tends to A(P0) as P tends to P0, where P0 has zeros",
        boundary, _explain_boundary, draw=_at_the_boundary, sources=("zeros",), tolerance=SPREAD,
    ),
)  # fmt: skip
