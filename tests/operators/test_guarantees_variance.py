"""The variance of a pool over replicas of its teachers, and the weights that make it least."""

import numpy as np
import pytest

from operators import geometric, holder, linear
from operators.guarantees import (
    InvalidBatch,
    best_variance,
    effective_teachers,
    optimal_weights,
    variance,
    weighted_variance,
)
from operators.simplex import log_softmax


def named(quantities):
    return {quantity.name: quantity for quantity in quantities}


def replicas(seed, *, runs=200, teachers=3, rows=5, classes=4, shared=0.0):
    """Teachers trained anew: their logits carry noise of their own, and some that all of them share."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(1, 1, rows, classes))
    own = rng.normal(size=(runs, teachers, rows, classes))
    common = rng.normal(size=(runs, 1, rows, classes))
    return log_softmax(centre + np.sqrt(1 - shared) * own + np.sqrt(shared) * common)


def report(operator, runs, weights):
    pooled = np.stack([operator.fuse(run, weights) for run in runs])
    return named(variance(operator.name, operator.parameters, runs, weights, pooled))


def test_g11_the_formula_is_the_variance_of_equally_correlated_errors():
    rng = np.random.default_rng(1)
    for rho in (-0.3, 0.0, 0.2, 0.9):
        weights, sigma = rng.dirichlet(np.ones(4)), rng.uniform(0.5, 2, 4)
        correlation = np.full((4, 4), rho) + (1 - rho) * np.eye(4)
        exact = weights @ (correlation * np.outer(sigma, sigma)) @ weights
        expected = weighted_variance(weights, sigma, rho)
        assert expected == pytest.approx(exact, abs=1e-12)
        assert expected <= weights @ sigma**2 + 1e-12
        draws = rng.multivariate_normal(np.zeros(4), correlation * np.outer(sigma, sigma), 100_000) @ weights
        assert draws.var() == pytest.approx(expected, rel=0.025)  # five standard errors


def test_equal_errors_have_a_floor_that_no_number_of_teachers_undercuts():
    for teachers in (1, 2, 10, 1000):
        weights = np.full(teachers, 1 / teachers)
        found = weighted_variance(weights, np.ones(teachers), 0.3)
        assert found == pytest.approx(0.7 / effective_teachers(weights) + 0.3)
        assert found >= 0.3
    assert weighted_variance([0.5, 0.5], [1, 1], -1) == pytest.approx(0, abs=1e-15)
    assert weighted_variance([1 / 3] * 3, [1, 1, 1], -0.5) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("weights", "sigma", "rho", "message"),
    [
        ([0.5, 0.5], [1, 1], 1.1, "from -1 to 1"),
        ([1 / 3] * 3, [1, 1, 1], -0.6, "from -0.5 to 1"),
        ([0.5, 0.5], [1], 0, "one number a teacher"),
        ([0.5, 0.5], [1, -1], 0, "non-negative"),
        ([0.5, 0.5], [1, 1], np.nan, "equally correlated"),
    ],
)
def test_correlations_that_cannot_be_are_refused(weights, sigma, rho, message):
    with pytest.raises(InvalidBatch, match=message):
        weighted_variance(weights, sigma, rho)


@pytest.mark.parametrize("operator", [linear(), geometric(), holder(exponent=1), holder(exponent=0)])
def test_the_pools_that_are_linear_in_something_have_the_formula_exactly(operator):
    rng = np.random.default_rng(2)
    weights = rng.dirichlet(np.ones(3), 5).T
    found = report(operator, replicas(3), weights)
    assert found["variance"].theorem
    assert found["variance"].holds
    assert found["variance_residual"].theorem
    assert found["variance_residual"].value <= 1e-12
    assert found["variance_floor"].value <= found["variance_by_correlation"].value


@pytest.mark.parametrize("operator", [holder(), holder(exponent=2), holder(exponent=-1)])
def test_the_others_are_measured_and_nothing_is_claimed(operator):
    found = report(operator, replicas(4), np.full((3, 5), 1 / 3))
    assert not any(quantity.theorem for quantity in found.values())
    assert found["variance_residual"].holds is False
    assert found["variance"].value > 0


def test_shared_noise_is_found_as_correlation_and_sets_the_floor():
    weights = np.full((3, 5), 1 / 3)
    for shared in (0.0, 0.5, 1.0):
        found = report(geometric(), replicas(5, runs=2000, shared=shared), weights)
        assert found["correlation"].value == pytest.approx(shared, abs=0.04)
        assert found["variance_by_correlation"].value == pytest.approx(found["variance"].value, rel=0.05)
    assert found["variance"].value == pytest.approx(found["variance_floor"].value, rel=1e-6)


def test_a_teacher_of_weight_zero_does_not_disturb_the_variance():
    runs = replicas(6)
    weights = np.concatenate([np.full((2, 5), 0.5), np.zeros((1, 5))])
    more = runs.copy()
    more[:, 2] = np.nan
    for operator in (linear(), geometric()):
        found = report(operator, more, weights)
        alone = report(operator, runs[:, :2], weights[:2])
        for name in ("variance", "variance_residual"):
            assert found[name].value == pytest.approx(alone[name].value, abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "pooled", "weights", "message"),
    [
        ((1, 2, 3, 4), (1, 3, 4), (2, 3), "R at least 2"),
        ((5, 2, 3, 4), (5, 3, 3), (2, 3), "they must be"),
        ((5, 2, 3), (5, 3), (2, 3), "they must be"),
        ((5, 2, 3, 4), (5, 3, 4), (2,), "they must be"),
    ],
)
def test_replicas_that_do_not_fit_are_refused(shape, pooled, weights, message):
    arrays = [np.log(np.full(s, 0.25)) for s in (shape, pooled)]
    with pytest.raises(InvalidBatch, match=message):
        variance("linear", {}, arrays[0], np.full(weights, 0.5), arrays[1])


def test_infinite_log_odds_and_missing_pools_are_refused():
    with np.errstate(divide="ignore"):
        runs = np.log(np.broadcast_to([1.0, 0.0], (3, 2, 4, 2)))
    weights = np.full((2, 4), 0.5)
    with pytest.raises(InvalidBatch, match="floor the rows first"):
        report(geometric(), runs, weights)
    assert report(linear(), runs, weights)["variance"].value == 0
    with pytest.raises(InvalidBatch, match="hold NaN"):
        variance("linear", {}, runs, weights, np.full((3, 4, 2), np.nan))


def test_optimal_weights_are_a_minimum_on_the_simplex():
    rng = np.random.default_rng(7)
    on_the_edge = 0
    for size in (1, 2, 3, 5, 12):
        for scale in (1e-12, 1.0, 1e9):
            root = rng.normal(size=(size, size + 2)) + 0.7
            covariance = scale * root @ root.T
            weights = optimal_weights(covariance)
            assert weights.sum() == pytest.approx(1)
            assert (weights >= 0).all()
            best = weights @ covariance @ weights
            # Karush, Kuhn and Tucker: no teacher's marginal variance is below that of those in use.
            marginal = covariance @ weights
            assert (marginal >= best * (1 - 1e-9)).all()
            others = rng.dirichlet(np.ones(size), 200)
            assert (np.einsum("nj,jk,nk->n", others, covariance, others) >= best * (1 - 1e-9)).all()
            free = optimal_weights(covariance, sign="any")
            assert free.sum() == pytest.approx(1)
            assert free @ covariance @ free <= best * (1 + 1e-9)
            on_the_edge += (weights == 0).any()
    assert on_the_edge >= 3


def test_independent_errors_are_weighted_by_their_precision():
    assert optimal_weights(np.diag([1.0, 2.0, 4.0])) == pytest.approx(np.array([4, 2, 1]) / 7)
    assert optimal_weights(np.diag([1.0, 2.0, 4.0]), sign="any") == pytest.approx(np.array([4, 2, 1]) / 7)


@pytest.mark.parametrize(
    "covariance",
    [[[1.0, 2.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0 - 1e-9]], [1.0], [[1.0, np.nan]] * 2, np.eye(0)],
)
def test_a_matrix_that_is_no_covariance_is_refused(covariance):
    with pytest.raises(InvalidBatch, match="positive definite"):
        optimal_weights(covariance)


def test_a_sign_that_is_none_is_refused():
    with pytest.raises(InvalidBatch, match="'non-negative' or 'any'"):
        optimal_weights(np.eye(2), sign="both")


def test_the_best_variance_is_never_above_that_in_use():
    rng = np.random.default_rng(8)
    for _ in range(20):
        root = rng.normal(size=(4, 6))
        assert best_variance(root @ root.T, rng.dirichlet(np.ones(4))).holds


def test_g12_label_noise_makes_independent_errors_look_alike():
    """Residuals against one-hot labels correlate at .99 while the errors do not, nor do differences."""
    rng = np.random.default_rng(9)
    rows, noise = 20_000, 0.05
    truth = rng.uniform(0.2, 0.8, rows)
    teachers = truth + noise * rng.normal(size=(3, rows))
    residuals = teachers - (rng.random(rows) < truth)
    assert np.corrcoef(residuals)[0, 1] > 0.98
    errors = teachers - truth
    assert abs(np.corrcoef(errors)[0, 1]) < 0.03
    # cov(p_0 - p_1, p_0 - p_2) = var e_0 where errors are independent: the labels cancel.
    estimate = np.cov(residuals[0] - residuals[1], residuals[0] - residuals[2])[0, 1]
    assert estimate == pytest.approx(noise**2, rel=0.05)
