"""Worked counterexamples of rules that look fine and are not, with their inputs."""

import impostors
import numpy as np
import pytest

from operators import linear, simplex

HALVES = [0.5, 0.5]


def pooled(rule, teachers, weights):
    with np.errstate(all="ignore"):
        log_probs = np.log(np.array(teachers, dtype=float))[:, None]
        return np.exp(rule(log_probs, np.array(weights, dtype=float)[:, None]))[0]


def test_n4_a_product_of_experts_sharpens_unanimous_teachers():
    assert pooled(impostors.experts, [[0.6, 0.4]] * 2, HALVES) == pytest.approx([0.6923, 0.3077], abs=5e-5)


def test_n6_a_second_softmax_blurs_unanimous_teachers():
    assert pooled(impostors.twice_softmax, [[0.6, 0.4]] * 2, HALVES) == pytest.approx(
        [0.5498, 0.4502], abs=5e-5
    )


def test_n7_the_median_of_three_disjoint_one_hots_is_no_distribution():
    assert np.isnan(pooled(impostors.unweighted_median, np.eye(3), [1 / 3] * 3)).all()


def test_n8_the_weighted_median_jumps_where_weights_are_equal():
    teachers = [[0.9, 0.1], [0.2, 0.8]]
    one, other = (pooled(impostors.weighted_median, teachers, [0.5 + e, 0.5 - e]) for e in (-1e-9, 1e-9))
    assert np.abs(one - other).sum() / 2 > 0.5


def test_n9_a_vote_jumps_at_a_tie():
    before = pooled(impostors.vote, [[0.51, 0.49], [0.3, 0.7]], HALVES)
    behind = pooled(impostors.vote, [[0.49, 0.51], [0.3, 0.7]], HALVES)
    assert (before.tolist(), behind.tolist()) == ([0.5, 0.5], [0, 1])


def by_class(log_probs, _):
    """Class 0 from teacher 0, class 1 from teacher 1, the others half and half."""
    shares = np.array(
        [[1, 0, *[0.5] * (log_probs.shape[-1] - 2)], [0, 1, *[0.5] * (log_probs.shape[-1] - 2)]]
    )
    return simplex.log_softmax(np.log((shares[:, None] * np.exp(log_probs)).sum(axis=0)))


def test_n11_weights_by_class_multiply_odds_that_all_teachers_share():
    answer = pooled(by_class, [[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]], HALVES)
    assert answer[0] / answer[1] == pytest.approx(6)


def test_n34_weights_by_class_reverse_a_ranking_that_all_teachers_share():
    answer = pooled(by_class, [[0.20, 0.10, 0.70], [0.50, 0.45, 0.05]], HALVES)
    assert answer == pytest.approx([0.1951, 0.4390, 0.3659], abs=5e-5)


def test_n22_half_precision_has_no_small_probabilities_and_has_their_logarithms():
    p = np.array([1e-8, 1 - 1e-8])
    assert p.astype(np.float16)[0] == 0
    assert np.log(p).astype(np.float16)[0] == pytest.approx(np.log(1e-8), rel=1e-3)


def test_n26_a_gate_that_closes_on_all_teachers_has_no_pool():
    assert np.isnan(pooled(impostors.gate, [[0.59, 0.41], [0.55, 0.45]], HALVES)).all()


def test_g34_weight_from_one_teacher_to_another_may_lower_odds_that_both_raise():
    """Monotonicity under transfer, a reading that not even the linear pool of three teachers has."""
    teachers = [[0.2, 0.05, 0.75], [0.02, 0.002, 0.978], [0.1, 0.4, 0.5]]
    before = pooled(linear().fuse, teachers, [0.3, 0.1, 0.6])
    behind = pooled(linear().fuse, teachers, [0.2, 0.2, 0.6])
    odds = [row[0] / row[1] for row in teachers]
    assert odds[1] > odds[0] > odds[2]
    assert behind[0] / behind[1] < before[0] / before[1]
