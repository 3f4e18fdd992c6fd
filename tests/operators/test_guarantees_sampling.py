"""Targets drawn at random: what stays unbiased, with what variance, and what does not.

Every figure is a mean over seeded repetitions, compared within five of its own standard errors or with a
margin that the text gives.
"""

import numpy as np
import pytest

from operators import geometric, linear
from operators.simplex import soften

REPEATS = 20_000
Q = np.array([0.5, 0.2, 0.15, 0.1, 0.04, 0.01])


def draws(rng, q, size, *, repeats=REPEATS):
    """Counts of `size` draws, [repeats, C]."""
    return rng.multinomial(size, q, size=repeats)


def agrees(samples, expected):
    """Whether the mean over the first axis is the expected value within five standard errors everywhere."""
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    return bool((np.abs(samples.mean(axis=0) - expected) <= 5 * error + 1e-12).all())


@pytest.mark.parametrize("size", [1, 5, 50])
def test_g23_a_histogram_of_draws_is_unbiased_and_sums_to_one(size):
    counts = draws(np.random.default_rng(1), Q, size)
    found = counts / size
    assert (counts.sum(axis=-1) == size).all()
    assert agrees(found, Q)
    assert agrees(((found - Q) ** 2).sum(axis=-1), (1 - (Q**2).sum()) / size)
    assert agrees((counts > 0).sum(axis=-1).astype(float), (1 - (1 - Q) ** size).sum())


def importance(rng, size):
    """Importance-weighted draws from a proposal: estimates [repeats, C], and the proposal."""
    proposal = np.full(len(Q), 1 / len(Q)) * 0.5 + Q[::-1] * 0.5
    return draws(rng, proposal, size) / size * (Q / proposal), proposal


@pytest.mark.parametrize("size", [1, 8])
def test_g24_importance_weights_are_unbiased_with_a_known_variance(size):
    found, proposal = importance(np.random.default_rng(2), size)
    assert agrees(found, Q)
    assert agrees((found - Q) ** 2, Q**2 * (1 - proposal) / (size * proposal))
    assert found.sum(axis=-1).std() > 0.1  # no distribution, and none may be made of it


def test_g24_dividing_importance_weights_by_their_sum_makes_them_biased():
    found, _ = importance(np.random.default_rng(3), 8)
    normalised = found / found.sum(axis=-1, keepdims=True)
    error = (normalised.std(axis=0) / np.sqrt(REPEATS)).max()
    bias = np.abs(normalised.mean(axis=0) - Q).max()
    assert bias > 10 * error
    assert bias > 0.01


def test_g25_softening_a_sampled_target_is_biased():
    counts = draws(np.random.default_rng(4), Q, 12)
    with np.errstate(divide="ignore"):
        found = np.exp(soften(np.log(counts / 12), 2.0))
    expected = np.exp(soften(np.log(Q), 2.0))
    error = (found.std(axis=0) / np.sqrt(REPEATS)).max()
    bias = np.abs(found.mean(axis=0) - expected).max()
    assert bias > 0.05
    assert bias > 20 * error


def test_a_sampled_target_s_entropy_is_biased_and_its_cross_entropy_is_not():
    found = draws(np.random.default_rng(5), Q, 12) / 12
    student = np.array([0.3, 0.3, 0.2, 0.1, 0.05, 0.05])
    assert agrees(-(found * np.log(student)).sum(axis=-1), -(Q * np.log(student)).sum())
    entropy = -(found * np.log(np.where(found > 0, found, 1))).sum(axis=-1)
    assert entropy.mean() < -(Q * np.log(Q)).sum() - 0.1


def test_g26_drawing_a_teacher_and_then_a_class_draws_from_the_linear_pool():
    rng = np.random.default_rng(6)
    teachers, weights = rng.dirichlet(np.ones(6), 3), np.array([0.5, 0.3, 0.2])
    pooled = np.exp(linear().fuse(np.log(teachers)[:, None], weights[:, None]))[0]
    chosen = rng.choice(3, size=(REPEATS, 10), p=weights)
    uniform = rng.random((REPEATS, 10, 1))
    classes = (uniform > teachers[chosen].cumsum(axis=-1)).sum(axis=-1)
    found = np.stack([(classes == c).mean(axis=-1) for c in range(6)], axis=-1)
    assert agrees(found, pooled)


def test_g26_pooling_sampled_teachers_linearly_is_unbiased_too():
    rng = np.random.default_rng(7)
    teachers, weights = rng.dirichlet(np.ones(6), 3), np.array([0.5, 0.3, 0.2])
    sampled = np.stack([draws(rng, p, 12) / 12 for p in teachers])
    with np.errstate(divide="ignore"):
        found = np.exp(linear().fuse(np.log(sampled), np.repeat(weights[:, None], REPEATS, axis=1)))
    assert agrees(found, weights @ teachers)


def test_g27_the_geometric_pool_of_sampled_teachers_often_does_not_exist_and_is_biased_where_it_does():
    """Over many classes twelve draws of one teacher seldom meet those of another."""
    rng = np.random.default_rng(8)
    rows = 2000
    teachers = rng.dirichlet(np.full(100, 0.3), (3, rows))
    sampled = rng.multinomial(12, teachers) / 12
    with np.errstate(divide="ignore"):
        found = geometric().fuse(np.log(sampled), np.full((3, rows), 1 / 3))
    missing = np.isnan(found).all(axis=-1)
    assert 0.3 < missing.mean() < 1
    assert not np.isnan(
        geometric().fuse(np.log(np.maximum(teachers, 1e-300)), np.full((3, rows), 1 / 3))
    ).any()
    pair = np.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])
    drawn = np.stack([draws(rng, p, 12) / 12 for p in pair])
    with np.errstate(divide="ignore"):
        pooled = np.exp(geometric().fuse(np.log(drawn), np.full((2, REPEATS), 0.5)))
    exact = np.exp(geometric().fuse(np.log(pair)[:, None], np.full((2, 1), 0.5)))[0]
    there = pooled[~np.isnan(pooled).any(axis=-1)]
    assert np.abs(there.mean(axis=0) - exact).max() > 5 * (there.std(axis=0) / np.sqrt(len(there))).max()
