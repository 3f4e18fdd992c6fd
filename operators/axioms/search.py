"""Search: cases near the edge of a law, moved a little again and again towards breaking it."""

import numpy as np

from operators import simplex
from operators.axioms.cases import Cases, Floats
from operators.axioms.check import Check, Sampler
from operators.base import Fuse

STARTS = 16
CHILDREN = 12
SCALES = np.array([0.01, 0.1, 0.5, 2.0])


def climb(check: Check, fuse: Fuse, cases: Cases, margin: Floats, *, sampler: Sampler, rounds: int) -> Cases:
    """The worst cases, made worse: after every round the best of each family goes on.

    Args:
        check: the law.
        fuse: the operator.
        cases: where to start; the worst of them are taken.
        margin: of the cases.
        sampler: for randomness and the domain.
        rounds: how often.

    Returns:
        At most ``STARTS`` cases, at least as bad as they began.
    """
    finite = np.where(np.isfinite(margin), margin, -np.inf)
    best = cases.take(np.argsort(-finite, kind="stable")[:STARTS])
    score = check.measure(fuse, best)
    families = best.rows
    for _ in range(rounds):
        children = _moved(best.take(np.repeat(np.arange(families), CHILDREN)), sampler)
        scores = check.measure(fuse, children).reshape(families, CHILDREN)
        scores = np.where(np.isnan(scores), -np.inf, scores)
        winner = scores.argmax(axis=1)
        better = scores[np.arange(families), winner] > score
        best = _choose(better, children.take(np.arange(families) * CHILDREN + winner), best)
        score = np.where(better, scores[np.arange(families), winner], score)
    return best


def _moved(cases: Cases, sampler: Sampler) -> Cases:
    random = sampler.random
    scale = random.choice(SCALES, size=(1, cases.rows, 1))
    noise = random.normal(size=cases.log_probs.shape) * scale
    one_teacher = random.random((len(cases.log_probs), cases.rows, 1)) < 0.5
    log_probs = cases.log_probs + np.where(one_teacher, noise, 0.0)
    weights = cases.weights * np.exp(random.normal(size=cases.weights.shape) * scale[..., 0])
    temperature = cases.temperature
    if temperature is not None:
        temperature = np.clip(temperature * np.exp(random.normal(size=cases.rows) * 0.3), 0.1, 100.0)
    return cases._replace(
        log_probs=sampler.within(np.asarray(simplex.log_softmax(log_probs))),
        weights=weights / weights.sum(axis=0),
        temperature=temperature,
    )


def _choose(better: np.ndarray, one: Cases, other: Cases) -> Cases:
    return other._replace(
        log_probs=np.where(better[:, None], one.log_probs, other.log_probs),
        weights=np.where(better, one.weights, other.weights),
        temperature=None
        if one.temperature is None or other.temperature is None
        else np.where(better, one.temperature, other.temperature),
    )
