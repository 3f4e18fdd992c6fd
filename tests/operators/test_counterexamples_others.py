"""Worked counterexamples of the operators beyond the means, with their inputs and formulas in plain numpy."""

import math

import numpy as np
import pytest

from operators import (
    entropic_regularised,
    entropy_weighted,
    inverse_entropy,
    l2_median,
    linear,
    make,
    smoothed_geometric,
    trimmed_mean,
    tsallis,
    wasserstein,
    weighted_max,
)
from operators.simplex import soften

HALVES = (0.5, 0.5)
THIRDS = (1 / 3, 1 / 3, 1 / 3)


def log(probabilities):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probabilities, dtype=np.float64))


def pool(operator, teachers, weights):
    fused = operator.fuse(log(teachers)[:, None, :], np.asarray(weights, dtype=np.float64)[:, None])
    return np.exp(fused)[0]


def kl(p, q):
    with np.errstate(divide="ignore"):
        return float(np.sum(np.asarray(p) * (np.log(p) - np.log(q))))


def towards(weights, teacher, delta):
    """The weights after a step of delta straight to a teacher."""
    return (1 - delta) * np.asarray(weights) + delta * np.eye(len(weights))[teacher]


def defect(operator, teachers, weights, temperature):
    """The Hilbert distance of softening first to softening last, and the teachers' diameter over T."""
    p, w = log(teachers)[:, None, :], np.asarray(weights)[:, None]
    gap = operator.fuse(soften(p, temperature), w)[0] - soften(operator.fuse(p, w), temperature)[0]
    between = p[0, 0] - p[1, 0]
    return float(np.ptp(gap)), float(np.ptp(between)) / temperature


def test_n5_entropic_regularisation_softens_unanimous_teachers():
    found = pool(entropic_regularised(strength=0.5), [(0.6, 0.4), (0.6, 0.4)], HALVES)
    assert found == pytest.approx((0.5672, 0.4328), abs=5e-5)


def test_n15_tsallis_gives_mass_where_all_teachers_have_none():
    p = [(0.9, 0.1, 0.0), (0.1, 0.9, 0.0)]
    assert pool(tsallis(), p, HALVES) == pytest.approx((0.4974, 0.4974, 0.0053), abs=5e-5)
    assert pool(tsallis(), p, (1, 0))[2] == 0


def test_n16_transport_meets_in_the_class_between():
    floored = [(1 - 2e-12, 1e-12, 1e-12), (1e-12, 1e-12, 1 - 2e-12)]
    assert pool(wasserstein(epsilon=0.02), floored, HALVES)[1] > 0.9999
    assert pool(wasserstein(epsilon=0.02), [(1, 0, 0), (0, 0, 1)], HALVES)[1] > 0.9999
    absolute = pool(wasserstein(epsilon=0.02, distances="absolute"), floored, HALVES)
    assert absolute == pytest.approx(THIRDS, abs=1e-3)


def test_n17_inverse_entropy_has_no_pool_of_two_one_hots_and_depends_on_the_way_there():
    assert np.isnan(pool(inverse_entropy(), [(1.0, 0.0), (0.0, 1.0)], HALVES)).all()
    one = pool(inverse_entropy(), [(1 - 1e-9, 1e-9), (1e-6, 1 - 1e-6)], HALVES)
    other = pool(inverse_entropy(), [(1 - 1e-6, 1e-6), (1e-9, 1 - 1e-9)], HALVES)
    assert one == pytest.approx((0.9985, 0.0015), abs=5e-5)
    assert other == pytest.approx((0.0015, 0.9985), abs=5e-5)


def test_n17_entropy_weights_take_one_hots_as_they_come():
    assert pool(entropy_weighted(), [(1.0, 0.0), (0.0, 1.0)], HALVES) == pytest.approx(HALVES, abs=1e-15)


def test_a_single_one_hot_takes_all_the_weight_under_inverse_entropy():
    found = pool(inverse_entropy(), [(1.0, 0.0, 0.0), (0.4, 0.3, 0.3)], (0.1, 0.9))
    assert found == pytest.approx((1, 0, 0), abs=1e-15)


def test_n18_cloning_a_teacher_moves_the_weighted_max():
    p = [(0.6, 0.4), (0.4, 0.6)]
    assert pool(weighted_max(), p, HALVES) == pytest.approx((0.5, 0.5), abs=1e-15)
    assert pool(weighted_max(), [*p, p[0]], (0.25, 0.5, 0.25)) == pytest.approx((0.4, 0.6), abs=1e-15)


@pytest.mark.parametrize("name", ["entropy_weighted", "l2_median", "trimmed_mean", "tsallis", "wasserstein"])
def test_n18_and_not_the_others(name):
    p = [(0.6, 0.4), (0.4, 0.6)]
    cloned = pool(make(name), [*p, p[0]], (0.25, 0.5, 0.25))
    assert cloned == pytest.approx(pool(make(name), p, HALVES), abs=1e-9)


def test_n19_a_teacher_of_weight_zero_is_not_heard_by_the_weighted_max():
    found = pool(weighted_max(), [(0.6, 0.4), (0.4, 0.6)], (1.0, 0.0))
    assert found == pytest.approx((0.6, 0.4), abs=1e-15)


def test_n23_weight_to_a_teacher_takes_the_trimmed_mean_away_from_it():
    p, w = [(0.4, 0.4, 0.2), (0.5, 0.4, 0.1), (0.05, 0.11, 0.84)], np.array([1, 6, 2]) / 9
    before, after = (kl(p[0], pool(trimmed_mean(trim=0.2), p, towards(w, 0, step))) for step in (0, 0.1))
    assert (before, after) == pytest.approx((0.0139, 0.0194), abs=5e-5)


def test_n24_the_l2_median_jumps_where_weights_are_equal():
    p = [(0.9, 0.1), (0.2, 0.8)]
    below, above = (pool(l2_median(), p, (0.5 + step, 0.5 - step)) for step in (-1e-9, 1e-9))
    assert below == pytest.approx(p[1], abs=1e-12)
    assert above == pytest.approx(p[0], abs=1e-12)
    assert pool(l2_median(), p, HALVES) == pytest.approx((0.55, 0.45), abs=1e-12)


def test_n27_the_routers_teachers_are_mixed_by_weights_and_do_not_jump():
    p = [(0.8, 0.2), (0.1, 0.9)]
    for operator in (entropy_weighted(), inverse_entropy()):
        one, other = pool(operator, p, (0.99, 0.01)), pool(operator, p, (0.01, 0.99))
        assert np.abs(one - other).max() > 0.5
        step = [pool(operator, [(0.9, 0.1), (0.1 - e, 0.9 + e)], HALVES) for e in (-1e-9, 1e-9)]
        assert np.abs(step[0] - step[1]).max() < 1e-7


def test_n28_the_weighted_max_has_dead_zones():
    p = [(0.7, 0.3), (0.6, 0.4)]
    for weights in ((0.9, 0.1), (0.8, 0.2)):
        assert pool(weighted_max(), p, weights) == pytest.approx((0.7, 0.3), abs=1e-15)


def test_n29_smoothing_inside_is_shrinking_and_moves_unanimous_teachers():
    found = pool(smoothed_geometric(epsilon=0.05), [(0.9, 0.1), (0.9, 0.1)], HALVES)
    assert found == pytest.approx((0.88, 0.12), abs=1e-12)


def test_n32_tsallis_breaks_the_temperature_bound():
    p, w = [(0.00431, 0.48443, 0.51126), (0.00527, 0.45694, 0.53779)], (0.683, 0.317)
    found, bound = defect(tsallis(a=0.5), p, w, 0.153)
    assert found == pytest.approx(19.04, abs=0.05)
    assert bound == pytest.approx(1.70, abs=0.005)


def test_n35_the_l2_median_does_not_commute_with_softening():
    p, w = log([(0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.2, 0.3, 0.5)])[:, None, :], np.full((3, 1), 1 / 3)
    first = np.exp(l2_median().fuse(soften(p, 2.0), w))
    last = np.exp(soften(l2_median().fuse(p, w), 2.0))
    assert np.abs(first - last).sum() / 2 == pytest.approx(0.0046, abs=5e-5)


def test_n36_weight_to_a_teacher_takes_the_l2_median_away_from_it():
    p = [(0.0476, 0.8571, 0.0953), (0.2, 0.1, 0.7), (0.0952, 0.0476, 0.8572)]
    found = [kl(p[0], pool(l2_median(), p, towards((0.1, 0.4, 0.5), 0, step))) for step in (0.1, 0.15)]
    assert found == pytest.approx([1.5798, 1.5830], abs=5e-5)


def test_nothing_is_left_to_trim_of_five_disjoint_one_hots():
    one_hots, fifths = np.eye(5), np.full(5, 0.2)
    assert pool(trimmed_mean(trim=0.2), one_hots, fifths) == pytest.approx(fifths, abs=1e-15)
    lopsided = (0.2, 0.2, 0.2, 0.18, 0.22)
    assert pool(trimmed_mean(trim=0.2), one_hots, lopsided) == pytest.approx((0, 0, 0, 0, 1), abs=1e-15)


def test_what_disclaimers_say_in_figures():
    boxed = [(0.40, 0.58, 0.02), (0.40, 0.02, 0.58)]
    assert pool(weighted_max(), boxed, HALVES)[0] == pytest.approx(0.256, abs=5e-4)
    trimmed = [(0.6, 0.4, 0, 0), (0.2, 0.4, 0.1, 0.3), (0.2, 0.4, 0.4, 0)]
    assert pool(trimmed_mean(), trimmed, THIRDS)[1] == pytest.approx(0.444, abs=5e-4)
    two, halves = log([(0.8, 0.2), (0.4, 0.6)])[:, None, :], np.full((2, 1), 0.5)
    for operator, first, last in (
        (linear(), (0.558, 0.442), (0.551, 0.449)),
        (trimmed_mean(), (0.558, 0.442), (0.551, 0.449)),
        (inverse_entropy(), (0.562, 0.438), (0.566, 0.434)),
        (weighted_max(), (0.548, 0.452), (0.536, 0.464)),
    ):
        assert np.exp(operator.fuse(soften(two, 2.0), halves))[0] == pytest.approx(first, abs=5e-4)
        assert np.exp(soften(operator.fuse(two, halves), 2.0))[0] == pytest.approx(last, abs=5e-4)


def profile(seed, *, teachers=3, rows=8, classes=6):
    random = np.random.default_rng(seed)
    return random.dirichlet(np.ones(classes), (teachers, rows)), random.dirichlet(np.ones(teachers), rows).T


def fused(operator, p, w):
    return np.exp(operator.fuse(np.log(p), w))


def normalised(x):
    return x / x.sum(axis=-1, keepdims=True)


def entropies(p):
    return -(p * np.log(p)).sum(axis=-1)


@pytest.mark.parametrize("beta", [0, 0.3, 1, 10])
def test_entropy_weighted_is_its_formula(beta):
    p, w = profile(1)
    v = w * np.exp(-beta * entropies(p) / math.log(6))
    expected = np.einsum("kb,kbc->bc", v / v.sum(axis=0), p)
    np.testing.assert_allclose(fused(entropy_weighted(beta=beta), p, w), expected, rtol=1e-12)


def test_inverse_entropy_is_its_formula():
    p, w = profile(2)
    v = w / entropies(p)
    expected = np.einsum("kb,kbc->bc", v / v.sum(axis=0), p)
    np.testing.assert_allclose(fused(inverse_entropy(), p, w), expected, rtol=1e-12)


@pytest.mark.parametrize("strength", [0.01, 0.5, 10])
def test_entropic_regularised_is_its_formula_and_the_least_of_what_it_weighs(strength):
    p, w = profile(3)
    expected = normalised(np.prod(p ** w[..., None], axis=0) ** (1 / (1 + strength)))
    found = fused(entropic_regularised(strength=strength), p, w)
    np.testing.assert_allclose(found, expected, rtol=1e-12)

    def cost(q):
        return sum(w[k] * (q * np.log(q / p[k])).sum(axis=-1) for k in range(3)) - strength * entropies(q)

    random = np.random.default_rng(3)
    for _ in range(20):
        assert (cost(found) <= cost(normalised(found + 0.02 * random.random(found.shape)))).all()


@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
def test_smoothed_geometric_is_its_formula(epsilon):
    p, w = profile(4)
    expected = normalised(np.prod(((1 - epsilon) * p + epsilon / 6) ** w[..., None], axis=0))
    np.testing.assert_allclose(fused(smoothed_geometric(epsilon=epsilon), p, w), expected, rtol=1e-12)


def test_weighted_max_is_its_formula():
    p, w = profile(5)
    expected = normalised((w[..., None] * p).max(axis=0))
    np.testing.assert_allclose(fused(weighted_max(), p, w), expected, rtol=1e-12)


@pytest.mark.parametrize("trim", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("teachers", [2, 3, 6])
def test_trimmed_mean_is_the_integral_of_the_sorted_teachers(trim, teachers):
    p, w = profile(6, teachers=teachers)
    p[:, 0] = np.round(p[:, 0], 1) + 0.01  # ties
    p = normalised(p)
    expected = np.zeros(p.shape[1:])
    for row, column in np.ndindex(expected.shape):
        order = np.argsort(p[:, row, column], kind="stable")
        edges = np.concatenate([[0], np.cumsum(w[order, row])])
        inside = np.clip(edges, trim, 1 - trim)
        expected[row, column] = np.diff(inside) @ p[order, row, column]
    np.testing.assert_allclose(fused(trimmed_mean(trim=trim), p, w), normalised(expected), rtol=1e-11)


@pytest.mark.parametrize("a", [0.1, 0.5, 0.9])
def test_tsallis_is_its_formula_with_the_shift_found_by_bisection(a):
    p, w = profile(7)
    means = np.einsum("kb,kbc->bc", w, p**a)
    low, high = np.zeros((8, 1)), np.ones((8, 1))
    for _ in range(200):
        middle = (low + high) / 2
        over = ((means + middle) ** (1 / a)).sum(axis=-1, keepdims=True) > 1
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    np.testing.assert_allclose(fused(tsallis(a=a), p, w), (means + low) ** (1 / a), rtol=1e-10)


@pytest.mark.parametrize("teachers", [2, 3, 5, 8])
def test_no_point_has_a_smaller_weighted_distance_than_the_l2_median(teachers):
    p, w = profile(8, teachers=teachers, rows=200)
    found = fused(l2_median(), p, w)

    def cost(q):
        return (w * np.sqrt(((q - p) ** 2).sum(axis=-1))).sum(axis=0)

    q = np.einsum("kb,kbc->bc", w, p)
    for _ in range(3000):
        pulls = w / np.maximum(np.sqrt(((q - p) ** 2).sum(axis=-1)), 1e-12)
        q = np.einsum("kb,kbc->bc", pulls / pulls.sum(axis=0), p)
    assert (cost(found) <= cost(q) + 1e-14).all()
    assert (cost(found) <= np.asarray([cost(teacher) for teacher in p]).min(axis=0) + 1e-14).all()


@pytest.mark.parametrize("distances", ["squared", "absolute"])
def test_wasserstein_agrees_with_plain_bregman_projections(distances):
    p, w = profile(9, classes=8)
    apart = np.abs(np.subtract.outer(np.arange(8), np.arange(8))) / 7
    kernel = np.exp(-(apart**2 if distances == "squared" else apart) / 0.1)
    scaling = np.ones_like(p)
    for _ in range(3000):
        carried = (p / (scaling @ kernel)) @ kernel
        middle = np.prod(carried ** w[..., None], axis=0)
        scaling = middle / carried
    found = fused(wasserstein(epsilon=0.1, distances=distances), p, w)
    np.testing.assert_allclose(found, middle, rtol=1e-6)
    np.testing.assert_allclose(middle.sum(axis=-1), 1, rtol=1e-9)
