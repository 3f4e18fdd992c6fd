"""Laws over whatever hypothesis finds; derandomised, so that a failure is everyone's failure."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from operators import geometric, holder, linear
from operators.simplex import floor, log_softmax, soften, top_k

quick = settings(derandomize=True, max_examples=60, deadline=None)
operators = st.one_of(
    st.just(linear()),
    st.just(geometric()),
    st.floats(0.05, 2).map(lambda r: holder(exponent=r)),
    st.floats(-2, -0.05).map(lambda r: holder(exponent=r)),
)


@st.composite
def profiles(draw, *, rows=1):
    teachers, classes = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    size = teachers * rows * classes
    logits = draw(st.lists(st.floats(-60, 60), min_size=size, max_size=size))
    shares = draw(
        st.lists(
            st.one_of(st.just(0.0), st.floats(1e-6, 1)), min_size=teachers * rows, max_size=teachers * rows
        )
    )
    weights = np.reshape(shares, (teachers, rows))
    assume((weights.sum(axis=0) > 0).all())
    return log_softmax(np.reshape(logits, (teachers, rows, classes))), weights / weights.sum(axis=0)


@quick
@given(operators, profiles(rows=2))
def test_a_pool_is_a_distribution(operator, profile):
    fused = operator.fuse(*profile)
    assert np.isfinite(fused).all()
    assert np.abs(np.exp(fused).sum(axis=-1) - 1).max() <= 1e-9


@quick
@given(operators, profiles())
def test_log_odds_lie_between_the_teachers(operator, profile):
    log_probs, weights = profile
    heard = log_probs[weights[:, 0] > 0, 0]
    odds = heard[:, :, None] - heard[:, None, :]
    fused = operator.fuse(log_probs, weights)[0]
    found = fused[:, None] - fused[None, :]
    slack = 1e-7 * (1 + np.abs(found))
    assert (found >= odds.min(axis=0) - slack).all()
    assert (found <= odds.max(axis=0) + slack).all()


@quick
@given(operators, profiles())
def test_removing_the_teachers_of_weight_zero_changes_nothing(operator, profile):
    log_probs, weights = profile
    heard = weights[:, 0] > 0
    fewer = operator.fuse(log_probs[heard], weights[heard])
    np.testing.assert_allclose(operator.fuse(log_probs, weights), fewer, rtol=1e-9, atol=1e-8)


@quick
@given(operators, profiles(), st.floats(0.1, 50))
def test_the_temperature_defect_is_bounded_by_the_teachers_disagreement(operator, profile, temperature):
    log_probs, weights = profile
    heard = log_probs[weights[:, 0] > 0, 0]
    odds = heard[:, :, None] - heard[:, None, :]
    diameter = (odds.max(axis=0) - odds.min(axis=0)).max()
    before = operator.fuse(soften(log_probs, temperature), weights)[0]
    after = soften(operator.fuse(log_probs, weights), temperature)[0]
    difference = before - after
    bound = diameter / temperature
    assert difference.max() - difference.min() <= bound + 1e-6 + 1e-9 * bound


@quick
@given(profiles(rows=2), st.floats(0.1, 50), st.floats(0.1, 50))
def test_softening_composes_and_keeps_the_ranking(profile, first, second):
    log_probs, _ = profile
    np.testing.assert_allclose(
        soften(soften(log_probs, first), second), soften(log_probs, first * second), rtol=1e-9, atol=1e-9
    )
    softened = soften(log_probs, first)
    differences = np.diff(np.take_along_axis(softened, np.argsort(log_probs, axis=-1), axis=-1), axis=-1)
    assert (differences >= -1e-12).all()


@quick
@given(profiles(rows=2), st.floats(1e-12, 0.9))
def test_a_floored_distribution_is_one_and_holds_the_floor(profile, epsilon):
    floored = floor(profile[0], epsilon)
    assert np.abs(np.exp(floored).sum(axis=-1) - 1).max() <= 1e-9
    assert (floored >= np.log(epsilon / floored.shape[-1]) - 1e-12).all()


@quick
@given(
    st.integers(1, 12).flatmap(
        lambda c: st.tuples(
            st.lists(st.sampled_from([-np.inf, -3.0, -1.0, -0.0, 0.0, 1.0, np.nan]), min_size=c, max_size=c),
            st.integers(1, c),
        )
    )
)
def test_top_k_orders_by_value_then_by_index_with_nan_last(case):
    row, k = case
    order = sorted(range(len(row)), key=lambda c: (np.isnan(row[c]), 0 if np.isnan(row[c]) else -row[c], c))
    indices, kept, _ = top_k(np.asarray([row]), k)
    assert indices[0].tolist() == order[:k]
    np.testing.assert_array_equal(kept[0], np.asarray(row)[order[:k]])
