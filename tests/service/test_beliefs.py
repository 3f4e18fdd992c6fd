import numpy as np
import pytest

from service.errors import TeacherFailure
from service.plans.stages import beliefs
from service.teachers.base import check_shape


def test_logits_become_log_probabilities():
    answer = np.array([[1.0, 2, 3], [0, 0, 0], [1000, -1000, 0]])
    log_probs, valid = beliefs(answer, "logits")
    assert log_probs.dtype == np.float32
    assert valid.all()
    expected = answer - np.log(np.exp(answer - answer.max(1, keepdims=True)).sum(1, keepdims=True))
    expected -= answer.max(1, keepdims=True)
    np.testing.assert_allclose(log_probs, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_are_renormalised_within_the_tolerance(dtype):
    answer = np.array(
        [[0.5, 0.25, 0.25], [0.5002, 0.25, 0.25], [1, 0, 0], [1 + 2e-7, -1.2e-7, 0]], dtype=dtype
    )
    log_probs, valid = beliefs(answer, "probs")
    assert valid.all()
    np.testing.assert_allclose(np.exp(log_probs.astype(np.float64)).sum(axis=1), 1, atol=1e-6)
    assert log_probs[2].tolist() == [0, -np.inf, -np.inf]
    before = answer.copy()
    beliefs(answer, "probs")
    assert answer.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("probs", [0.5, 0.4, 0.0]),
        ("probs", [0.5, 0.6, 0.0]),
        ("probs", [1.1, -0.1, 0.0]),
        ("probs", [np.nan, 0.5, 0.5]),
        ("probs", [np.inf, 0, 0]),
        ("probs", [0, 0, 0]),
        ("logits", [np.nan, 0, 0]),
        ("logits", [np.inf, 0, 0]),
        ("logits", [-np.inf, -np.inf, -np.inf]),
        ("log_probs", [0, 0, 0]),
        ("log_probs", [-1, -1, np.nan]),
        ("log_probs", [-np.inf, -np.inf, -np.inf]),
    ],
)
def test_what_is_no_distribution_is_invalid_and_leaves_its_neighbours_alone(kind, row):
    good = {"probs": [0.2, 0.3, 0.5], "logits": [3.0, 1, 2]}.get(kind, np.log([0.2, 0.3, 0.5]))
    log_probs, valid = beliefs(np.array([good, row, good], dtype=np.float32), kind)
    assert valid.tolist() == [True, False, True]
    assert np.isfinite(log_probs).all()
    alone, _ = beliefs(np.array([good], dtype=np.float32), kind)
    assert log_probs[0].tobytes() == log_probs[2].tobytes() == alone[0].tobytes()


@pytest.mark.parametrize("kind", ["logits", "log_probs"])
def test_a_class_may_be_impossible(kind):
    log_probs, valid = beliefs(np.array([[0, -np.inf, -np.inf]], dtype=np.float32), kind)
    assert valid.all()
    assert log_probs.tolist() == [[0, -np.inf, -np.inf]]


@pytest.mark.parametrize("shape", [(3,), (2, 4), (3, 4, 1), ()])
def test_an_answer_of_another_shape_is_a_failure(shape):
    with pytest.raises(TeacherFailure, match="'cnn' answered 3 rows") as caught:
        check_shape("cnn", np.zeros(shape), 3)
    assert caught.value.teacher == "cnn"
