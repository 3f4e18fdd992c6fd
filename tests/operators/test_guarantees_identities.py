"""The identities and bounds behind the guarantees, on random rows and at the ends that they reach.

The ids are those of the mathematics the operators were derived from; those about a pool alone stand in
test_counterexamples.py.
"""

import math

import numpy as np
import pytest

from operators import geometric, holder, linear
from operators.guarantees import (
    InvalidBatch,
    bias,
    disagreement,
    divergence,
    diversity,
    each_teacher,
    gather,
    identifiability,
    jensen_gap,
    log_specht,
    safety,
    student_loss,
    teacher_biases,
)
from operators.guarantees.safety import log_power_mean
from operators.simplex import soften


def sample(rng, *, teachers=3, rows=100, classes=4, alpha=0.5):
    p = np.maximum(rng.dirichlet(np.full(classes, alpha), (teachers, rows)), 1e-12)
    return np.log(p / p.sum(axis=-1, keepdims=True)), rng.dirichlet(np.ones(teachers), rows).T


def batch_of(operator, log_probs, weights, labels=None):
    pooled = operator.fuse(log_probs, weights)
    return gather(operator.name, operator.parameters, log_probs, weights, pooled, labels=labels)


def named(quantities):
    return {quantity.name: quantity for quantity in quantities}


@pytest.mark.parametrize("ratio", [1 + 1e-9, 1.003, 1.0101, 1.5, 9.0, 1e3, 1e12])
def test_g2_specht_s_bound_is_reached_by_two_teachers(ratio):
    """At theta = 1 / ln x - 1 / (x - 1) on the likelier teacher the gap is the bound."""
    t = math.log(ratio)
    heavier = 0.5 if t < 1e-6 else 1 / t - 1 / math.expm1(t)
    label = np.array([[-t - 1.0], [-1.0]])
    log_probs = np.stack([label, np.log(-np.expm1(label))], axis=-1)
    weights = np.array([[1 - heavier], [heavier]])
    found = named(jensen_gap(batch_of(linear(), log_probs, weights, [0])))["jensen_gap"]
    assert found.value == pytest.approx(found.bound, abs=1e-9)
    assert found.holds


def test_specht_s_ratio_far_out_and_at_its_seam():
    assert log_specht(np.array([0.0, np.inf])).tolist() == [0.0, np.inf]
    below, above = log_specht(np.array([0.01, np.nextafter(0.01, 1)]))
    assert below == pytest.approx(above, rel=1e-9)
    assert log_specht(np.array(1e4)) == pytest.approx(1e4 - 1 - math.log(1e4), rel=1e-12)
    assert (np.diff(log_specht(np.linspace(0, 40, 4001))) > 0).all()


def test_g5_diversity_reaches_the_entropy_of_the_weights_on_disjoint_supports():
    with np.errstate(divide="ignore"):
        log_probs = np.log([[[0.3, 0.7, 0, 0]], [[0, 0, 1, 0]], [[0, 0, 0, 1.0]]])
    weights = np.array([[0.5], [0.3], [0.2]])
    mean, _, share = diversity(batch_of(linear(), log_probs, weights))
    assert mean.value == pytest.approx(mean.bound, abs=1e-12)
    assert mean.bound == pytest.approx(-(weights * np.log(weights)).sum())
    assert mean.bound <= math.log(3)
    assert share.value == pytest.approx(1)


def test_g5_the_two_forms_of_diversity_agree():
    rng = np.random.default_rng(1)
    log_probs, weights = sample(rng)
    batch = batch_of(linear(), log_probs, weights)
    pooled = np.exp(batch.pooled)
    entropies = -(np.exp(log_probs) * log_probs).sum(axis=-1)
    difference = -(pooled * batch.pooled).sum(axis=-1) - (weights * entropies).sum(axis=0)
    assert diversity(batch)[0].value == pytest.approx(difference.mean(), abs=1e-12)


def test_g6_a_data_set_s_pool_may_beat_its_best_teacher_although_no_row_s_pool_does():
    log_probs = np.log([[[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]]])
    weights = np.full((2, 2), 0.5)
    found = named(each_teacher(batch_of(linear(), log_probs, weights, [0, 0])))
    assert found["log_loss_against_each_teacher"].value < found["best_teacher_log_loss"].value
    assert found["oracle_log_loss"].value < found["oracle_log_loss"].bound
    assert found["oracle_log_loss"].holds


def test_g13_bias_of_the_linear_pool_is_the_mean_of_biases_less_their_spread():
    rng = np.random.default_rng(2)
    for _ in range(50):
        log_probs, _ = sample(rng, rows=40)
        weights = np.repeat(rng.dirichlet(np.ones(3))[:, None], 40, axis=1)
        labels = rng.integers(4, size=40)
        batch = batch_of(linear(), log_probs, weights, labels)
        found = named(bias(batch))
        assert found["bias"].holds
        assert 0 <= found["bias_attenuation"].value <= 1
        assert found["bias_squared_residual"].value <= 1e-9
        assert found["bias_squared_residual"].theorem
        biases, errors = teacher_biases(batch)
        assert found["bias"].value == pytest.approx(np.linalg.norm(weights[:, 0] @ biases), abs=1e-12)
        assert biases.sum(axis=-1) == pytest.approx(np.zeros(3), abs=1e-12)
        assert (errors > 0).all()


def test_aligned_biases_are_not_attenuated_and_opposite_ones_vanish():
    labels = np.array([0, 1] * 50)
    weights = np.full((2, 100), 0.5)
    aligned = np.log(np.broadcast_to([[[0.8, 0.2]], [[0.7, 0.3]]], (2, 100, 2)))
    found = named(bias(batch_of(linear(), aligned, weights, labels)))
    assert found["bias_attenuation"].value == pytest.approx(1)
    opposite = np.log(np.broadcast_to([[[0.8, 0.2]], [[0.2, 0.8]]], (2, 100, 2)))
    found = named(bias(batch_of(linear(), opposite, weights, labels)))
    assert found["bias"].value == pytest.approx(0, abs=1e-12)
    assert found["bias_attenuation"].value == pytest.approx(0, abs=1e-12)


def test_weights_that_vary_by_row_keep_the_attenuation_and_lose_the_identity():
    rng = np.random.default_rng(3)
    log_probs, weights = sample(rng)
    found = named(bias(batch_of(linear(), log_probs, weights, rng.integers(4, size=100))))
    assert found["bias"].holds
    assert found["bias_attenuation"].theorem
    assert "bias_squared_residual" not in found


def test_a_bias_s_standard_error_is_that_of_many_repetitions():
    rng = np.random.default_rng(4)
    truth = np.array([0.5, 0.3, 0.2])
    log_probs, weights = np.broadcast_to(np.log([0.6, 0.2, 0.2]), (1, 400, 3)), np.ones((1, 400))
    vectors, errors = [], []
    for _ in range(300):
        batch = batch_of(linear(), log_probs, weights, rng.choice(3, size=400, p=truth))
        vectors.append(teacher_biases(batch)[0][0])
        errors.append(named(bias(batch))["bias_standard_error"].value)
    spread = math.sqrt(np.var(vectors, axis=0).sum())
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)
    assert np.mean(vectors, axis=0) == pytest.approx([0.1, -0.1, 0], abs=0.006)


def test_g14_g15_a_student_s_loss_is_its_distance_from_the_right_pool_and_a_constant():
    rng = np.random.default_rng(5)
    log_probs, weights = sample(rng)
    student, _ = sample(rng, teachers=1)
    for operator in (linear(), geometric(), holder()):
        found = named(student_loss(batch_of(operator, log_probs, weights), student[0]))
        assert found["forward_loss_residual"].value <= 1e-9
        assert found["reverse_loss_residual"].value <= 1e-9
    learnt = named(student_loss(batch_of(linear(), log_probs, weights)))
    assert learnt["forward_excess"].value == pytest.approx(0, abs=1e-12)
    assert learnt["reverse_excess"].value > 0.01
    learnt = named(student_loss(batch_of(geometric(), log_probs, weights)))
    assert learnt["reverse_excess"].value == pytest.approx(0, abs=1e-12)
    assert learnt["forward_excess"].value > 0.01


def test_a_student_of_another_shape_is_refused():
    rng = np.random.default_rng(6)
    batch = batch_of(linear(), *sample(rng))
    with pytest.raises(InvalidBatch, match=r"student has shape \(100, 3\)"):
        student_loss(batch, np.zeros((100, 3)))
    with pytest.raises(InvalidBatch, match="holds NaN"):
        student_loss(batch, np.full((100, 4), np.nan))


def test_divergence_counts_nothing_where_the_first_is_zero():
    with np.errstate(divide="ignore"):
        p, q = np.log([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]]), np.log([[0.5, 0.5], [1.0, 0.0], [1.0, 0.0]])
    assert divergence(p, q).tolist() == pytest.approx([math.log(2), np.inf, 0.0])


def test_the_power_mean_of_masses_is_the_sharper_certificate_and_reached():
    rng = np.random.default_rng(7)
    log_probs, weights = sample(rng, rows=500, classes=5, alpha=0.3)
    for exponent in (-2, -1, -0.05, 0, 0.05, 0.5, 1):
        found = named(safety(batch_of(holder(exponent=exponent), log_probs, weights), [0, 3]))
        certificate, weaker = found["unsafe_certificate"], found["unsafe_weighted_certificate"]
        assert certificate.holds
        assert certificate.theorem
        assert certificate.bound <= weaker.bound + 1e-12
        # One class has nothing to be superadditive over: the certificate is the mass itself.
        alone = named(safety(batch_of(holder(exponent=exponent), log_probs, weights), [2]))
        assert alone["unsafe_certificate"].value == pytest.approx(alone["unsafe_certificate"].bound, rel=1e-9)


def test_above_one_the_power_mean_of_masses_bounds_from_below():
    rng = np.random.default_rng(8)
    log_probs, weights = sample(rng, rows=500, classes=5, alpha=0.3)
    found = named(safety(batch_of(holder(exponent=2), log_probs, weights), [0, 3]))["unsafe_certificate"]
    assert found.value > found.bound
    assert not found.holds
    assert not found.theorem


def test_every_class_unsafe_is_mass_one_and_no_class_no_report():
    rng = np.random.default_rng(9)
    batch = batch_of(linear(), *sample(rng))
    found = named(safety(batch, range(4)))
    assert found["unsafe_mass"].value == pytest.approx(1)
    assert safety(batch, ()) == ()
    assert safety(batch, [1, 1, 0]) == safety(batch, [0, 1])


def test_g36_capping_the_unsafe_class_restores_its_bound_and_breaks_the_odds_on_some_rows():
    """So the cap is a stage behind the pool, and no operator that keeps the teachers' odds."""
    rng = np.random.default_rng(10)
    log_probs, weights = sample(rng, rows=5000, alpha=1.0)
    pooled = np.exp(geometric().fuse(log_probs, weights))
    cap = np.exp(log_probs[..., 0]).max(axis=0)
    above = pooled[:, 0] > cap
    assert 0.01 < above.mean() < 0.15
    rest = pooled[above, 1:] * ((1 - cap[above]) / (1 - pooled[above, 0]))[:, None]
    capped = np.log(np.concatenate([cap[above, None], rest], axis=-1))
    odds = log_probs[:, above, 0, None] - log_probs[:, above, 1:]
    found = capped[:, :1] - capped[:, 1:]
    broken = ((found < odds.min(axis=0) - 1e-9) | (found > odds.max(axis=0) + 1e-9)).any(axis=-1)
    assert 0.01 < broken.mean() < 0.6


def test_g38_how_often_the_report_counts_rows_above_the_worst_teacher():
    rng = np.random.default_rng(11)
    for classes, expected in ((3, 0.06), (10, 0.17), (100, 0.18)):
        log_probs, weights = sample(rng, rows=2000, classes=classes, alpha=0.3)
        found = named(safety(batch_of(geometric(), log_probs, weights), [0]))
        share = found["unsafe_rows_above_worst_teacher"].value / 2000
        assert share == pytest.approx(expected, abs=0.05)  # the floor in front differs


def test_g10_the_diameter_over_the_temperature_bounds_the_defect_of_softening():
    rng = np.random.default_rng(12)
    log_probs, weights = sample(rng)
    worst = named(disagreement(batch_of(linear(), log_probs, weights)))["diameter_worst_row"].value
    for temperature in (0.5, 2.0, 5.0):
        for operator in (linear(), holder(), holder(exponent=2)):
            before = operator.fuse(soften(log_probs, temperature), weights)
            difference = before - soften(operator.fuse(log_probs, weights), temperature)
            assert np.ptp(difference, axis=-1).max() <= worst / temperature + 1e-9


def test_g33_moving_all_odds_towards_a_teacher_brings_the_pool_nearer_in_every_f_divergence():
    rng = np.random.default_rng(13)
    log_probs, weights = sample(rng, rows=300)
    towards = np.zeros_like(weights)
    towards[0] = 1
    p = np.exp(log_probs[0])
    measures = {
        "forward": lambda q: (p * np.log(p / q)).sum(axis=-1),
        "reverse": lambda q: (q * np.log(q / p)).sum(axis=-1),
        "total variation": lambda q: np.abs(p - q).sum(axis=-1) / 2,
        "hellinger": lambda q: ((np.sqrt(p) - np.sqrt(q)) ** 2).sum(axis=-1),
        "chi squared": lambda q: ((p - q) ** 2 / q).sum(axis=-1),
    }
    for operator in (linear(), geometric(), holder(), holder(exponent=2), holder(exponent=-1)):
        path = [
            np.exp(operator.fuse(log_probs, (1 - d) * weights + d * towards))
            for d in (0, 0.2, 0.5, 0.8, 0.98, 1)
        ]
        for name, measure in measures.items():
            distances = np.stack([measure(q) for q in path])
            slack = 1e-9 * (1 + np.abs(distances[:-1]))
            assert (np.diff(distances, axis=0) <= slack).all(), (operator.name, name)


def test_disagreement_of_teachers_that_are_far_apart_and_of_one_teacher_twice():
    log_probs = np.log([[[0.9, 0.1], [0.6, 0.4]], [[0.4, 0.6], [0.6, 0.4]]])
    weights = np.array([[0.5, 0.25], [0.5, 0.75]])
    found = named(disagreement(batch_of(linear(), log_probs, weights)))
    assert found["diameter_worst_row"].value == pytest.approx(math.log(9 / (4 / 6)))
    assert found["diameter"].value == pytest.approx(found["diameter_worst_row"].value / 2)
    assert found["top1_agreement"].value == 0.5
    assert found["effective_teachers"].value == pytest.approx((2 + 1 / (0.0625 + 0.5625)) / 2)


def test_a_class_that_all_hold_impossible_does_not_set_them_apart():
    with np.errstate(divide="ignore"):
        log_probs = np.log([[[0.9, 0.1, 0.0]], [[0.4, 0.6, 0.0]]])
    found = named(disagreement(batch_of(linear(), log_probs, np.full((2, 1), 0.5))))
    assert found["diameter"].value == pytest.approx(math.log(9 / (4 / 6)))


def test_zero_exponent_is_the_limit_of_the_power_means():
    rng = np.random.default_rng(14)
    log_probs, weights = sample(rng, rows=20, alpha=2)
    near = log_power_mean(log_probs, weights, 1e-7)
    np.testing.assert_allclose(near, log_power_mean(log_probs, weights, 0), atol=1e-4)


def test_two_operators_of_the_same_answers_are_not_separable_and_of_better_ones_are():
    rng = np.random.default_rng(15)
    truth, _ = sample(rng, teachers=1, rows=3000)
    labels = (rng.random((3000, 1)) > np.exp(truth[0]).cumsum(axis=-1)).sum(axis=-1).clip(0, 3)
    good, bad = truth[0], np.log(0.5 * np.exp(truth[0]) + 0.5 / 4)
    found = named(identifiability(good, bad, labels))
    assert found["log_loss_difference"].value < -2 * found["log_loss_difference_standard_error"].value
    assert found["separable"].value == 1
    assert named(identifiability(bad, good, labels))["log_loss_difference"].value > 0
    near = np.log(0.999 * np.exp(good) + 0.001 / 4)
    found = named(identifiability(good, near, labels))
    assert found["separable"].value == 0
    assert "Not separable, keep the simpler operator" in found["separable"].conditions
    assert "total variation" in found["separable"].conditions


def test_without_labels_or_with_noise_alone_nothing_is_separable():
    rng = np.random.default_rng(16)
    (one,), _ = sample(rng, teachers=1, rows=30)
    two = one[:, ::-1]
    assert named(identifiability(one, two))["separable"].value == 0
    assert "without at least two labelled rows" in named(identifiability(one, two))["separable"].conditions
    labels = np.full(30, -1)
    labels[0] = 1
    assert set(named(identifiability(one, two, labels))) == {"total_variation", "separable"}
    coin = np.log(np.full((30, 4), 0.25))
    assert named(identifiability(coin, coin[:, ::-1], np.zeros(30, int)))["separable"].value == 0


def test_infinite_losses_leave_the_difference_unjudged():
    with np.errstate(divide="ignore"):
        one, two = np.log([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]]), np.log([[0.9, 0.1], [0.5, 0.5], [1.0, 0.0]])
    found = named(identifiability(one, two, [1, 0, 1]))
    assert found["log_loss_difference_standard_error"].value == math.inf
    assert found["log_loss_difference"].value == 0
    assert found["separable"].value == 0


@pytest.mark.parametrize(
    ("one", "two", "labels", "message"),
    [
        (np.zeros((2, 1)), np.zeros((1, 1)), None, "both must be"),
        (np.full((1, 2), np.nan), np.zeros((1, 2)), None, "nothing to compare"),
        (np.log([[0.5, 0.5]]), np.log([[0.5, 0.5]]), [0, 1], "one a row"),
        (np.log([[0.5, 0.5]]), np.log([[0.5, 0.5]]), [2], "from 0 to 1"),
    ],
)
def test_answers_that_cannot_be_compared_are_refused(one, two, labels, message):
    with pytest.raises(InvalidBatch, match=message):
        identifiability(one, two, labels)
