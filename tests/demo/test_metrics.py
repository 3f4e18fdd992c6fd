import numpy as np
import pytest

from service.demo.calibration import at_temperature, fit_temperature
from service.demo.metrics import (
    accuracy,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    score,
)

PROBABILITIES = np.array([[0.9, 0.1], [0.7, 0.3], [0.65, 0.35], [0.2, 0.8]])
LABELS = np.array([0, 0, 1, 1])


def test_accuracy_counts_the_most_probable_class():
    assert accuracy(np.log(PROBABILITIES), LABELS) == 0.75


def test_a_tie_goes_to_the_lower_index():
    assert accuracy(np.log([[0.5, 0.5]]), np.array([0])) == 1.0


def test_negative_log_likelihood_by_hand():
    expected = -(np.log(0.9) + np.log(0.7) + np.log(0.35) + np.log(0.8)) / 4
    assert negative_log_likelihood(np.log(PROBABILITIES), LABELS) == pytest.approx(expected)


def test_an_impossible_truth_costs_infinitely_much():
    with np.errstate(divide="ignore"):
        assert negative_log_likelihood(np.log([[1.0, 0.0]]), np.array([1])) == np.inf


def test_calibration_error_by_hand():
    # Four bins: .9 and .8 in the last (right, right), .7 and .65 in the third (right, wrong).
    expected = 2 / 4 * abs(1.0 - 0.85) + 2 / 4 * abs(0.5 - 0.675)
    assert expected_calibration_error(np.log(PROBABILITIES), LABELS, bins=4) == pytest.approx(expected)


def test_calibration_error_has_fifteen_bins():
    # .9, .7, .65 and .8 lie in the bins 14, 11, 10 and 12 of 15: each row is alone.
    expected = (0.1 + 0.3 + 0.65 + 0.2) / 4
    assert expected_calibration_error(np.log(PROBABILITIES), LABELS) == pytest.approx(expected)


def test_certain_and_right_is_calibrated():
    with np.errstate(divide="ignore"):
        assert expected_calibration_error(np.log(np.eye(3)), np.arange(3)) == 0.0


def test_reliability_leaves_empty_bins_open():
    diagram = reliability(np.log(PROBABILITIES), LABELS, bins=4)
    assert diagram.rows.tolist() == [0, 0, 2, 2]
    assert np.isnan(diagram.accuracy[:2]).all()
    assert diagram.accuracy[2:].tolist() == [0.5, 1.0]
    assert diagram.confidence[2:] == pytest.approx([0.675, 0.85])


def test_score_is_all_three():
    log_probs = np.log(PROBABILITIES)
    assert score(log_probs, LABELS) == (
        accuracy(log_probs, LABELS),
        negative_log_likelihood(log_probs, LABELS),
        expected_calibration_error(log_probs, LABELS),
    )


def test_temperature_by_hand():
    # p^(1/2) of .8 and .2 is as 2 to 1.
    assert np.exp(at_temperature(np.array([[0.8, 0.2]]), 2.0))[0] == pytest.approx([2 / 3, 1 / 3])


def test_temperature_bears_a_probability_of_zero():
    log_probs = at_temperature(np.array([[1.0, 0.0]]), 0.5)
    assert np.isfinite(log_probs).all()


def test_temperature_recovers_what_was_done_to_the_truth():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(4), size=20_000)
    labels = (truth.cumsum(axis=1) > rng.random((len(truth), 1))).argmax(axis=1)
    softened = np.exp(at_temperature(truth, 2.0))
    assert fit_temperature(softened, labels) == pytest.approx(0.5, rel=0.06)
