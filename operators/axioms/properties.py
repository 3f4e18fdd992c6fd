"""Properties that are reported and never decide: what else a pool has, or has not."""

import numpy as np

from operators import simplex
from operators.axioms.cases import Cases, Floats
from operators.axioms.check import Check, Sampler, outside, positive_profiles, shown, where_answered
from operators.axioms.generators import POSITIVE, Generator
from operators.base import Fuse

SAME = 1e-8
SOURCES = ("dirichlet", "coarse")


def _gap(one: Floats, other: Floats) -> Floats:
    return where_answered(one + other, outside(np.abs(np.exp(one) - np.exp(other)).max(axis=-1), SAME))


def anonymity(fuse: Fuse, cases: Cases) -> Floats:
    """Teachers and their weights may change places."""
    return _gap(fuse(cases.log_probs, cases.weights), fuse(cases.log_probs[::-1], cases.weights[::-1]))


def neutrality(fuse: Fuse, cases: Cases) -> Floats:
    """Classes may change places, and the pool's change with them."""
    turned = np.roll(cases.log_probs, 1, axis=-1)
    return _gap(np.roll(fuse(cases.log_probs, cases.weights), 1, axis=-1), fuse(turned, cases.weights))


def clone_invariance(fuse: Fuse, cases: Cases) -> Floats:
    """A teacher may be there twice, with its weight divided."""
    twice = np.concatenate([cases.log_probs, cases.log_probs[:1]])
    shares = np.concatenate([cases.weights[:1] * 0.3, cases.weights[1:], cases.weights[:1] * 0.7])
    return _gap(fuse(cases.log_probs, cases.weights), fuse(twice, shares))


def marginalisation(fuse: Fuse, cases: Cases) -> Floats:
    """Two classes may be merged before or after."""
    return _gap(_merged(fuse(cases.log_probs, cases.weights)), fuse(_merged(cases.log_probs), cases.weights))


def _merged(log_probs: Floats) -> Floats:
    both = np.asarray(simplex.logsumexp(log_probs[..., :2]))
    return np.concatenate([both[..., None], log_probs[..., 2:]], axis=-1)


def external_bayesianity(fuse: Fuse, cases: Cases) -> Floats:
    """Evidence may be taken in before or after: multiplied into every teacher, or into the pool."""
    evidence = np.log(np.linspace(0.2, 1.0, cases.log_probs.shape[-1]))
    before = fuse(np.asarray(simplex.log_softmax(cases.log_probs + evidence)), cases.weights)
    after = np.asarray(simplex.log_softmax(fuse(cases.log_probs, cases.weights) + evidence))
    return _gap(before, after)


def tree_reducibility(fuse: Fuse, cases: Cases) -> Floats:
    """The first two teachers may be pooled first: A(A(1, 2), 3, ...) = A(1, 2, 3, ...)."""
    pair = cases.weights[:2].sum(axis=0)
    first = fuse(cases.log_probs[:2], cases.weights[:2] / pair)
    then = fuse(
        np.concatenate([first[None], cases.log_probs[2:]]), np.concatenate([pair[None], cases.weights[2:]])
    )
    return _gap(fuse(cases.log_probs, cases.weights), then)


def weight_linearity(fuse: Fuse, cases: Cases) -> Floats:
    """The pool is linear in the weights: the only case in which the classical variance formula is exact."""
    turned = np.roll(cases.weights, 1, axis=0)
    middle = fuse(cases.log_probs, (cases.weights + turned) / 2)
    mean = (np.exp(fuse(cases.log_probs, cases.weights)) + np.exp(fuse(cases.log_probs, turned))) / 2
    return where_answered(middle, outside(np.abs(np.exp(middle) - mean).max(axis=-1), SAME))


def zero_preservation(fuse: Fuse, cases: Cases) -> Floats:
    """What all teachers hold impossible is impossible for the pool."""
    answer = fuse(cases.log_probs, cases.weights)
    impossible = (np.where(cases.weights[..., None] > 0, cases.log_probs, -np.inf) == -np.inf).all(axis=0)
    leaked = np.where(impossible, np.exp(answer), 0.0).max(axis=-1)
    return where_answered(answer, outside(leaked, 0.0) - 1e-300)


def _impossible(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    log_probs = generator(sampler.random, sampler.teachers, rows, sampler.classes)
    column = sampler.random.integers(sampler.classes, size=rows)
    shut = np.where(np.arange(sampler.classes) == column[:, None], -np.inf, log_probs)
    return Cases(np.asarray(simplex.log_softmax(shut)), sampler.positive_weights(rows))


def _explain(fuse: Fuse, case: Cases) -> dict[str, object]:
    return {"pool": shown(fuse(case.log_probs, case.weights)[0])}


CHECKS = tuple(
    Check(
        measure.__name__, measure.__name__, 0, (measure.__doc__ or "").split("\n", maxsplit=1)[0], measure,
        _explain, draw=draw, sources=sources, needs=needs, tolerance=SAME,
    )
    for measure, draw, sources, needs in (
        (anonymity, positive_profiles, SOURCES, 2),
        (neutrality, positive_profiles, SOURCES, 1),
        (clone_invariance, positive_profiles, SOURCES, 1),
        (marginalisation, positive_profiles, SOURCES, 1),
        (external_bayesianity, positive_profiles, SOURCES, 1),
        (tree_reducibility, positive_profiles, SOURCES, 3),
        (weight_linearity, positive_profiles, SOURCES, 2),
        (zero_preservation, _impossible, tuple(POSITIVE), 1),
    )
)  # fmt: skip
