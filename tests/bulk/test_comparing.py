"""When two targets of a row count as the same."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bulk.comparing import difference
from service.bulk.values import value_dtype
from soft_targets.wire import Layout

LIMIT = 1e-4


def value(layout, **given):
    found = np.zeros(1, value_dtype(layout))
    for name, one in given.items():
        found[name] = one
    return found[0]


def compared(layout, one, other):
    return difference(value(layout, **one), value(layout, **other), limit=LIMIT, classes=layout.classes)


@pytest.mark.parametrize(("shift", "times"), [(0, 0), (0.5e-4, 0.5), (-2e-4, 2), (1e-2, 100)])
def test_log_probabilities_may_differ_by_the_limit(shift, times):
    one = [-0.1, -3.0, -20.0]
    nats, found = compared(Layout(3), {"log_probs": one}, {"log_probs": [-0.1, -3.0 + shift, -20.0]})
    assert nats == pytest.approx(abs(shift), rel=1e-2, abs=1e-9)
    assert found == pytest.approx(times, rel=1e-2)


def test_what_is_almost_impossible_is_not_compared():
    layout = Layout(3)
    assert compared(layout, {"log_probs": [0, -81, -87]}, {"log_probs": [0, -85, -math.inf]}) == (0, 0)
    nats, times = compared(layout, {"log_probs": [0, -79, -87]}, {"log_probs": [0, -85, -87]})
    assert (nats, times > 1) == (6, True)
    nats, times = compared(layout, {"log_probs": [0, -3, -87]}, {"log_probs": [0, -math.inf, -87]})
    assert (nats, times) == (math.inf, math.inf)


@pytest.mark.parametrize("name", ["log_probs", "tail_log_mass"])
def test_what_is_no_number_is_never_the_same(name):
    layout = Layout(4, top_k=2)
    one = {"indices": [0, 1], "log_probs": [-0.5, -1.0], "tail_log_mass": -4.0}
    nats, times = compared(layout, one, {**one, name: math.nan})
    assert not nats <= 1
    assert not times <= 1


def test_half_precision_may_be_rounded_to_either_side():
    layout = Layout(2, dtype="float16")
    one = np.array([-3.0, -9.0], np.float16)
    other = np.nextafter(one, np.float16(0))
    nats, times = compared(layout, {"log_probs": one}, {"log_probs": other})
    assert nats > LIMIT
    assert times <= 1
    _, times = compared(layout, {"log_probs": one}, {"log_probs": np.nextafter(other, np.float16(0))})
    assert times > 1


SPARSE = {"indices": [3, 1, 0], "log_probs": [-0.5, -1.5, -3.0], "tail_log_mass": -3.2}


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (SPARSE, True),
        # Classes that are as good as equal may change places, or be chosen in each other's stead.
        ({**SPARSE, "indices": [3, 1, 2], "log_probs": [-0.5, -1.5, -3.00005]}, True),
        ({**SPARSE, "indices": [1, 3, 0]}, False),
        ({**SPARSE, "indices": [3, 2, 0]}, False),
        ({**SPARSE, "log_probs": [-0.5, -1.6, -3.0]}, False),
        ({**SPARSE, "tail_log_mass": -3.1}, False),
    ],
)
def test_sparse_targets_are_compared_by_class(other, same):
    _, times = compared(Layout(5, top_k=3), SPARSE, other)
    assert (times <= 1) == same
    _, times = compared(Layout(5, top_k=3), other, SPARSE)
    assert (times <= 1) == same


def test_classes_that_tie_may_change_places():
    one = {"indices": [3, 1], "log_probs": [-1.0, -1.00001], "tail_log_mass": -2.0}
    other = {"indices": [1, 3], "log_probs": [-1.0, -1.00001], "tail_log_mass": -2.0}
    _, times = compared(Layout(5, top_k=2), one, other)
    assert times <= 1


@given(st.integers(2, 50), st.integers(0, 2**32 - 1))
def test_entropies_move_by_no_more_than_their_log_probabilities_let_them(classes, seed):
    random = np.random.default_rng(seed)
    logits = random.normal(size=classes) * 4
    moved = logits + random.uniform(-1, 1, classes) * LIMIT / 2
    entropies, logs = [], []
    for one in (logits, moved):
        log_probs = one - np.log(np.exp(one).sum())
        logs.append(log_probs)
        entropies.append(-(np.exp(log_probs) * log_probs).sum())
    layout = Layout(classes, diagnostics=True)
    one, other = (
        {"log_probs": log_probs, "entropy": entropy, "divergence": entropy}
        for log_probs, entropy in zip(logs, entropies, strict=True)
    )
    assert compared(layout, one, other)[1] <= 1.05
    _, times = compared(layout, one, {**other, "entropy": entropies[1] + 0.1})
    assert times > 1
