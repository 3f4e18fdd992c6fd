"""Worked counterexamples and identities of the linear, geometric and power pools, with their inputs.

The ids name lines of the mathematics the operators were derived from: N is an example, G an identity.
"""

import math

import numpy as np
import pytest

from operators import geometric, holder, linear
from operators.simplex import floor, log_softmax, logsumexp, soften

HALVES = (0.5, 0.5)
THIRDS = (1 / 3, 1 / 3, 1 / 3)
EVERY = [linear(), geometric(), *(holder(exponent=r) for r in (-2, -1, -0.05, 0, 0.05, 0.5, 1, 2))]
NAMES = [f"{operator.name}{dict(operator.parameters).get('exponent', '')}" for operator in EVERY]


def log(probabilities):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probabilities, dtype=np.float64))


def pool(operator, teachers, weights):
    fused = operator.fuse(log(teachers)[:, None, :], np.asarray(weights, dtype=np.float64)[:, None])
    return np.exp(fused)[0]


def entropy(p):
    return -float(np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)))


def kl(p, q):
    return np.sum(p * (np.log(p) - np.log(q)), axis=-1)


def sample(rng, *, alpha=1.0, teachers=3, classes=4):
    p = np.maximum(rng.dirichlet(np.full(classes, alpha), teachers), 1e-12)
    return p / p.sum(axis=-1, keepdims=True), rng.dirichlet(np.ones(teachers))


def test_n1_geometric_exceeds_both_teachers():
    p = [(0.40, 0.58, 0.02), (0.40, 0.02, 0.58)]
    assert pool(geometric(), p, HALVES) == pytest.approx((0.6500, 0.1750, 0.1750), abs=5e-5)
    assert pool(linear(), p, HALVES)[0] == pytest.approx(0.40, abs=1e-12)
    total = np.sum(np.sqrt(np.prod(p, axis=0)))
    assert total == pytest.approx(0.6154, abs=5e-5)
    assert 0.4 / total == pytest.approx(0.65, abs=1e-4)


def test_n2_entropy_of_the_linear_pool_is_not_monotone_in_temperature():
    p = [(0.9, 0.1), (0.4, 0.6)]
    found = [entropy(pool(linear(), np.exp(soften(log(p), t)), HALVES)) for t in (0.02, 1, 1e4)]
    assert found == pytest.approx([0.6931, 0.6474, 0.6931], abs=5e-5)


def test_n3_only_geometric_commutes_with_softening():
    p = [(0.8, 0.2), (0.4, 0.6)]
    softened = np.exp(soften(log(p), 2.0))
    assert pool(linear(), softened, HALVES) == pytest.approx((0.5581, 0.4419), abs=5e-5)
    after = np.exp(soften(log(pool(linear(), p, HALVES)), 2.0))
    assert after == pytest.approx((0.5505, 0.4495), abs=5e-5)
    after = np.exp(soften(log(pool(geometric(), p, HALVES)), 2.0))
    assert pool(geometric(), softened, HALVES) == pytest.approx(after, abs=1e-12)


def test_n5_softening_the_geometric_pool_moves_unanimous_teachers():
    pooled = pool(geometric(), [(0.6, 0.4), (0.6, 0.4)], HALVES)
    assert np.exp(soften(log(pooled), 1.5)) == pytest.approx((0.5672, 0.4328), abs=5e-5)


def test_n10_the_winner_of_the_linear_pool_may_jump_where_the_pool_does_not():
    p = [(0.34, 0.33, 0.33), (0.33, 0.34, 0.33)]
    one, other = pool(linear(), p, (0.51, 0.49)), pool(linear(), p, (0.49, 0.51))
    assert (one.argmax(), other.argmax()) == (0, 1)
    assert np.abs(one - other).max() < 3e-4


def test_n12_the_mean_of_logits_is_the_geometric_pool_whatever_the_offsets():
    for logits in ([(10.0, 10.0), (2.0, 0.0)], [(0.0, 0.0), (2.0, 0.0)]):
        mean = np.exp(log_softmax(np.mean(logits, axis=0)))
        pooled = pool(geometric(), np.exp(log_softmax(np.asarray(logits))), HALVES)
        assert pooled == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("exponent", [0, -0.5, -1, -2])
def test_n13_disjoint_supports_have_no_geometric_pool(exponent):
    p = [(1.0, 0.0), (0.0, 1.0)]
    assert np.isnan(pool(geometric(), p, HALVES)).all()
    assert np.isnan(pool(holder(exponent=exponent), p, HALVES)).all()


@pytest.mark.parametrize("operator", [linear(), holder(), holder(exponent=2)])
def test_n13_disjoint_supports_are_mixed_on_the_domain_with_zeros(operator):
    assert pool(operator, [(1.0, 0.0), (0.0, 1.0)], HALVES) == pytest.approx((0.5, 0.5), abs=1e-15)


@pytest.mark.parametrize("operator", EVERY, ids=NAMES)
def test_n14_a_zero_of_a_weightless_teacher_is_not_heard(operator):
    assert pool(operator, [(0.0, 1.0), (0.5, 0.5)], (0.0, 1.0)) == pytest.approx((0.5, 0.5), abs=1e-12)


@pytest.mark.parametrize("operator", EVERY, ids=NAMES)
def test_n18_cloning_a_teacher_and_splitting_its_weight_changes_nothing(operator):
    p = [(0.6, 0.4), (0.4, 0.6)]
    cloned = pool(operator, [p[0], p[1], p[0]], (0.25, 0.5, 0.25))
    assert cloned == pytest.approx(pool(operator, p, HALVES), abs=1e-12)


@pytest.mark.parametrize("operator", EVERY, ids=NAMES)
def test_n19_a_lone_weight_is_that_teacher(operator):
    assert pool(operator, [(0.6, 0.4), (0.4, 0.6)], (1.0, 0.0)) == pytest.approx((0.6, 0.4), abs=1e-12)


def test_n20_power_pools_are_not_reducible_as_a_tree_and_the_others_are():
    p = [(0.9, 0.05, 0.05), (0.8, 0.1, 0.1), (0.01, 0.01, 0.98)]
    distances = {}
    for name, operator in {"half": holder(), "linear": linear(), "geometric": geometric()}.items():
        pair = pool(operator, p[:2], HALVES)
        tree = pool(operator, [pair, p[2]], (2 / 3, 1 / 3))
        distances[name] = np.abs(tree - pool(operator, p, THIRDS)).sum() / 2
    assert distances["half"] == pytest.approx(6.8e-4, abs=5e-6)
    assert max(distances["linear"], distances["geometric"]) < 1e-12


@pytest.mark.parametrize("operator", EVERY, ids=NAMES)
def test_n25_a_vanishing_weight_is_continuous_with_none(operator):
    p = [(0.9, 0.1), (0.2, 0.8), (0.5, 0.5)]
    absent, faint = pool(operator, p, (0.5, 0.0, 0.5)), pool(operator, p, (0.5, 1e-12, 0.5))
    assert np.abs(absent - faint).max() < 1e-9


def test_n29_sharpening_after_the_linear_pool_moves_unanimous_teachers():
    pooled = pool(linear(), [(0.9, 0.1), (0.9, 0.1)], HALVES)
    assert pooled == pytest.approx((0.9, 0.1), abs=1e-12)
    assert np.exp(soften(log(pooled), 0.5)) == pytest.approx((0.9878, 0.0122), abs=5e-5)


def test_n30_floor_before_softening_lifts_the_tail_above_the_top():
    classes = 50_000
    one_hot = np.full((1, classes), -np.inf)
    one_hot[0, 0] = 0.0
    wrong = np.exp(soften(floor(one_hot, 1e-4), 4.0))[0]
    assert wrong[1:].sum() / wrong[0] == pytest.approx(334, abs=0.5)
    right = np.exp(floor(soften(one_hot, 4.0), 1e-4))[0]
    assert right[1:].sum() / right[0] == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(("veto", "expected"), [(1e-6, 0.201), (1e-12, 0.059), (1e-24, 0.004)])
def test_n31_the_floor_is_the_strength_of_a_veto(veto, expected):
    teachers = np.asarray([[math.log(0.5), math.log(0.5)], [math.log(veto), math.log1p(-veto)]])[:, None, :]
    fused = geometric().fuse(teachers, np.asarray([[0.9], [0.1]]))
    assert np.exp(fused)[0, 0] == pytest.approx(expected, abs=5e-4)


def test_n33_sharpening_after_the_linear_pool_breaks_the_temperature_bound_and_the_pool_alone_does_not():
    p = log([(0.52816, 0.47184), (0.83165, 0.16835), (0.99121, 0.00879)])[:, None, :]
    w, temperature = np.asarray([[0.0002], [0.0018], [0.998]]), 0.163

    def odds(x):
        return float(x[0, 0] - x[0, 1])

    def defect(rule):
        return abs(odds(rule(soften(p, temperature))) - odds(soften(rule(p), temperature)))

    bound = (odds(p[2]) - odds(p[0])) / temperature
    assert bound == pytest.approx(28.30, abs=0.01)
    assert defect(lambda x: soften(linear().fuse(x, w), 0.5)) == pytest.approx(38.23, abs=0.01)
    assert defect(lambda x: linear().fuse(x, w)) <= bound


def test_g1_g2_jensen_gap_of_the_linear_pool_lies_below_spechts_ratio():
    rng = np.random.default_rng(1)
    for _ in range(200):
        p, w = sample(rng)
        gap = np.log(pool(linear(), p, w)) - w @ np.log(p)
        ratio = p.max(axis=0) / p.min(axis=0)
        specht = (ratio - 1) * ratio ** (1 / (ratio - 1)) / (math.e * np.log(ratio))
        assert (gap >= -1e-9).all()
        assert (gap <= np.log(specht) + 1e-9).all()


def test_g3_g4_ambiguity_decompositions_are_exact():
    rng = np.random.default_rng(2)
    for _ in range(200):
        p, w = sample(rng)
        g, m = pool(geometric(), p, w), pool(linear(), p, w)
        diversity = -float(logsumexp(w @ np.log(p)))
        assert diversity == pytest.approx(float(w @ kl(g, p)), abs=1e-9)
        assert -np.log(g) == pytest.approx(w @ -np.log(p) - diversity, abs=1e-9)
        for label in np.eye(p.shape[1]):
            spread = w @ np.sum((p - m) ** 2, axis=-1)
            brier = w @ np.sum((p - label) ** 2, axis=-1) - spread
            assert np.sum((m - label) ** 2) == pytest.approx(brier, abs=1e-9)


def test_g5_g6_diversity_is_bounded_and_no_teacher_beats_the_linear_pool_by_more_than_its_weight():
    rng = np.random.default_rng(3)
    for _ in range(200):
        p, w = sample(rng)
        m = pool(linear(), p, w)
        diversity = entropy(m) - sum(w_k * entropy(p_k) for w_k, p_k in zip(w, p, strict=True))
        assert diversity == pytest.approx(float(w @ kl(p, m)), abs=1e-9)
        assert -1e-9 <= diversity <= entropy(w) + 1e-9
        assert (-np.log(m) <= -np.log(p) + np.log(1 / w)[:, None] + 1e-9).all()


def test_g7_g8_g35_mass_of_an_unsafe_set():
    rng = np.random.default_rng(4)
    for _ in range(200):
        p, w = sample(rng, alpha=0.3)
        unsafe = p[:, :2].sum(axis=-1)
        assert pool(linear(), p, w)[:2].sum() == pytest.approx(float(w @ unsafe), abs=1e-9)
        total = np.exp(w @ np.log(p)).sum()
        assert pool(geometric(), p, w)[:2].sum() <= np.prod(unsafe**w) / total + 1e-9
        for exponent in (0.05, 0.5, 1):
            total = ((w @ p**exponent) ** (1 / exponent)).sum()
            assert pool(holder(exponent=exponent), p, w)[:2].sum() <= w @ unsafe / total + 1e-9


def excess(exponent, rng):
    """By how much the pool's log-loss exceeds the teachers' weighted mean, at the worst of all labels."""
    p, w = sample(rng, alpha=0.3)
    return float(np.max(w @ np.log(p) - np.log(pool(holder(exponent=exponent), p, w))))


@pytest.mark.parametrize("exponent", [0, 0.05, 0.5, 1])
def test_g9_log_loss_is_below_the_weighted_mean_for_exponents_from_zero_to_one(exponent):
    rng = np.random.default_rng(5)
    assert max(excess(exponent, rng) for _ in range(300)) <= 1e-9


@pytest.mark.parametrize("exponent", [-1, 2])
def test_g9_and_not_outside(exponent):
    rng = np.random.default_rng(5)
    assert max(excess(exponent, rng) for _ in range(300)) > 0.1


def test_g14_g15_linear_serves_forward_and_geometric_reverse_divergence():
    rng = np.random.default_rng(6)
    for _ in range(100):
        p, w = sample(rng)
        student = rng.dirichlet(np.ones(p.shape[1]))
        m, g = pool(linear(), p, w), pool(geometric(), p, w)
        assert w @ kl(p, student) == pytest.approx(kl(m, student) + w @ kl(p, m), abs=1e-9)
        assert w @ kl(student, p) == pytest.approx(kl(student, g) + w @ kl(g, p), abs=1e-9)


def test_g38_geometric_often_exceeds_the_worst_teacher():
    rng = np.random.default_rng(7)
    for classes, expected in ((3, 0.06), (10, 0.17), (100, 0.18)):
        rows = 1000
        p = np.maximum(rng.dirichlet(np.full(classes, 0.3), (3, rows)), 1e-300)
        fused = np.exp(geometric().fuse(np.log(p), rng.dirichlet(np.ones(3), rows).T))
        share = np.mean(fused[:, 0] > p[:, :, 0].max(axis=0))
        assert share == pytest.approx(expected, abs=0.05)


def test_g37_a_float32_softmax_has_zeros_and_its_logarithm_has_not():
    x = log_softmax(np.asarray([[0.0, 110.0]], dtype=np.float32))
    assert np.exp(x)[0, 0] == 0
    assert x[0, 0] == np.float32(-110)
