import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.plans.alignment import Alignment

P = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]])
OURS = ["a", "b", "c", "d"]


def aligned(ours, theirs, p=P):
    with np.errstate(divide="ignore"):
        return np.exp(Alignment(ours, theirs)(np.log(p).astype(np.float32)))


def test_the_same_order_is_the_same_array():
    log_probs = np.log(P)
    assert Alignment(OURS, OURS)(log_probs) is log_probs


def test_a_permutation_goes_by_name():
    np.testing.assert_allclose(aligned(OURS, ["d", "c", "a", "b"]), P[:, [2, 3, 1, 0]], rtol=1e-6)


def test_several_onto_one_are_summed():
    expected = np.stack([P[:, 1], P[:, 0] + P[:, 2], P[:, 3]], axis=1)
    np.testing.assert_allclose(aligned(["a", "b", "c"], ["b", "a", "b", "c"]), expected, rtol=1e-6)


def test_a_dropped_class_gives_its_mass_to_the_others_in_proportion():
    expected = P[:, 1:] / P[:, 1:].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(aligned(["a", "b", "c"], [None, "a", "b", "c"]), expected, rtol=1e-6)


def test_a_class_the_teacher_lacks_is_impossible():
    result = aligned(["a", "x", "b", "c", "d"], OURS)
    assert (result[:, 1] == 0).all()
    np.testing.assert_allclose(np.delete(result, 1, axis=1), P, rtol=1e-6)
    assert Alignment(["a", "x", "b", "c", "d"], OURS).lacks == ["x"]


def test_a_row_all_of_whose_mass_is_dropped_is_no_distribution():
    result = aligned(["a", "b"], ["a", "b", None], np.array([[0, 0, 1], [0.5, 0.25, 0.25]]))
    assert np.isnan(result[0]).all()
    np.testing.assert_allclose(result[1], [2 / 3, 1 / 3], rtol=1e-6)


@given(st.lists(st.sampled_from([*OURS, None]), min_size=1, max_size=9).filter(any), st.integers(0, 99))
def test_against_plain_sums(theirs, seed):
    p = np.random.default_rng(seed).dirichlet(np.ones(len(theirs)), size=3)
    expected = np.stack(
        [sum((p[:, i] for i, t in enumerate(theirs) if t == name), np.zeros(3)) for name in OURS], 1
    )
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(aligned(OURS, theirs, p), expected, rtol=1e-5, atol=1e-7)


def test_width_is_how_many_classes_the_teacher_has():
    assert Alignment(["a", "b"], ["a", None, "b"]).width == 3
    with pytest.raises(KeyError):
        Alignment(["a"], ["b"])
