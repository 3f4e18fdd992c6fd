"""What every pool must do with weights, teachers, rows and bits, on numpy."""

import math

import numpy as np
import pytest

from operators import (
    BUILTIN,
    entropic_regularised,
    entropy_weighted,
    geometric,
    holder,
    linear,
    make,
    native,
    smoothed_geometric,
    trimmed_mean,
    tsallis,
    wasserstein,
)
from operators.simplex import floor, log_softmax

EVERY = [
    *(make(name) for name in sorted(BUILTIN)),
    *(holder(exponent=r) for r in (-2, -0.5, -0.05, 0, 0.05, 1, 2)),
    *(tsallis(a=0.1), tsallis(a=0.9), trimmed_mean(trim=0.4), entropy_weighted(beta=10)),
    *(entropic_regularised(strength=10), smoothed_geometric(epsilon=0.5)),
    wasserstein(epsilon=1, distances="absolute"),
]
NAMES = ["-".join(map(str, (operator.name, *dict(operator.parameters).values()))) for operator in EVERY]
FORMULAS = {
    "linear": lambda p, w: np.sum(w * p, axis=0),
    "geometric": lambda p, w: np.prod(p**w, axis=0),
    "holder": lambda p, w, r: np.sum(w * p**r, axis=0) ** (1 / r),
}
ITERATED = {"l2_median", "tsallis", "wasserstein"}
LIFTS_ZEROS = {"smoothed_geometric", "tsallis", "wasserstein"}
MOVES_LONE_TEACHERS = {"entropic_regularised", "smoothed_geometric", "wasserstein"}


def each(chosen):
    pairs = [(operator, name) for operator, name in zip(EVERY, NAMES, strict=True) if chosen(operator)]
    return pytest.mark.parametrize("operator", [one for one, _ in pairs], ids=[name for _, name in pairs])


each_operator = each(lambda _: True)
each_that_repeats = each(lambda operator: operator.name not in MOVES_LONE_TEACHERS)
each_blind_to_order = each(lambda operator: operator.name != "wasserstein")
each_with_a_formula = each(lambda operator: operator.name in FORMULAS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def affordable(operator, classes):
    """Transport costs the square of the classes."""
    return min(classes, 30) if operator.name == "wasserstein" else classes


def positivity(operator):
    return next(claim.level for claim in operator.claims if claim.axiom == "positivity_inheritance")


def profile(seed, *, teachers=3, rows=16, classes=10, scale=3.0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(rng.normal(size=(teachers, rows, classes)) * scale).astype(dtype)
    return log_probs, rng.dirichlet(np.ones(teachers), rows).T.astype(dtype)


@each_with_a_formula
def test_agrees_with_its_formula(operator):
    log_probs, weights = profile(0)
    p, w = np.exp(log_probs), weights[..., None]
    r = dict(operator.parameters).get("exponent")
    pooled = (
        FORMULAS[operator.name](p, w, r) if r else FORMULAS["geometric" if r == 0 else operator.name](p, w)
    )
    expected = np.log(pooled / pooled.sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(operator.fuse(log_probs, weights), expected, rtol=1e-11)


@each_operator
@each_dtype
@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
@pytest.mark.parametrize("teachers", [2, 5])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 300.0])
def test_closure(operator, dtype, classes, teachers, scale):
    classes = affordable(operator, classes)
    log_probs, weights = profile(1, teachers=teachers, classes=classes, scale=scale, dtype=dtype)
    if operator.name == "inverse_entropy":  # two rows that are one-hots to float32 have no such pool
        log_probs = floor(log_probs, 1e-6)
    fused = operator.fuse(log_probs, weights)
    assert fused.dtype == dtype
    assert np.isfinite(fused).all()
    tolerance = 1e-9 if dtype == np.float64 else 1e-5
    assert np.abs(np.exp(fused.astype(np.float64)).sum(axis=-1) - 1).max() <= tolerance


@each_that_repeats
@each_dtype
def test_identical_teachers_are_returned(operator, dtype):
    log_probs, weights = profile(2, dtype=dtype)
    log_probs[:] = log_probs[0]
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(
        operator.fuse(log_probs, weights), log_probs[0], rtol=tolerance, atol=tolerance
    )


@each_blind_to_order
def test_all_uniform_is_uniform(operator):
    _, weights = profile(3, classes=7)
    log_probs = np.full((3, 16, 7), -math.log(7))
    np.testing.assert_allclose(operator.fuse(log_probs, weights), log_probs[0], atol=1e-14)


@each_operator
@each_dtype
@pytest.mark.parametrize("content", [0.0, math.nan, -math.inf, "mixed"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_teacher_of_weight_zero_is_absent(operator, dtype, content, place):
    log_probs, weights = profile(4, dtype=dtype)
    absent = np.full((1, 16, 10), math.nan if content == "mixed" else content, dtype=dtype)
    if content == "mixed":
        absent[..., ::2] = -math.inf
    padded = np.insert(log_probs, [place], absent, axis=0)
    padded_weights = np.insert(weights, place, 0, axis=0)
    found, expected = operator.fuse(padded, padded_weights), operator.fuse(log_probs, weights)
    assert found.tobytes() == expected.tobytes()


@each_operator
def test_weight_zero_is_decided_row_by_row(operator):
    log_probs, weights = profile(5)
    weights[1, ::2] = 0
    weights /= weights.sum(axis=0)
    spoilt = log_probs.copy()
    spoilt[1, ::2] = math.nan
    assert operator.fuse(spoilt, weights).tobytes() == operator.fuse(log_probs, weights).tobytes()


@each_that_repeats
@each_dtype
def test_one_teacher_is_returned_bit_for_bit(operator, dtype):
    log_probs, weights = profile(6, teachers=1, scale=100, dtype=dtype)
    log_probs[0, 0] = math.nan
    log_probs[0, 1, 1:] = -math.inf
    log_probs[0, 1, 0] = -0.0
    fused = operator.fuse(log_probs, weights)
    assert fused.tobytes() == log_probs[0].tobytes()
    assert not np.shares_memory(fused, log_probs)


@each_operator
@each_dtype
def test_one_teacher_is_itself_beside_absent_ones(operator, dtype):
    log_probs, weights = profile(6, teachers=1, dtype=dtype)
    padded = np.concatenate([np.full_like(log_probs, math.nan), log_probs])
    found = operator.fuse(padded, np.concatenate([weights * 0, weights]))
    tolerance = 1e-12 if dtype == np.float64 else 5e-6
    np.testing.assert_allclose(found, operator.fuse(log_probs, weights), rtol=tolerance, atol=tolerance)


@each_that_repeats
@each_dtype
@pytest.mark.parametrize("lone", [0, 1, 2])
def test_one_positive_weight_returns_that_teacher(operator, dtype, lone):
    log_probs, weights = profile(7, dtype=dtype, scale=10)
    weights[:] = np.eye(3, dtype=dtype)[lone][:, None]
    fused = operator.fuse(log_probs, weights)
    if operator.name == "linear":
        assert fused.tobytes() == log_probs[lone].tobytes()
    tolerance = 1e-12 if dtype == np.float64 else 5e-6
    np.testing.assert_allclose(fused, log_probs[lone], rtol=tolerance, atol=tolerance)


@each_operator
def test_the_order_of_the_teachers_does_not_matter(operator):
    log_probs, weights = profile(8, teachers=4)
    order = [2, 0, 3, 1]
    found = operator.fuse(log_probs[order], weights[order])
    tolerance = 1e-7 if operator.name == "l2_median" else 1e-12
    np.testing.assert_allclose(found, operator.fuse(log_probs, weights), rtol=tolerance)


@each_blind_to_order
def test_the_order_of_the_classes_is_kept(operator):
    log_probs, weights = profile(9)
    order = np.random.default_rng(0).permutation(10)
    found = operator.fuse(log_probs[..., order], weights)
    tolerance = 1e-7 if operator.name == "l2_median" else 1e-12
    np.testing.assert_allclose(found, operator.fuse(log_probs, weights)[..., order], rtol=tolerance)


@each_operator
@each_dtype
@pytest.mark.parametrize("classes", [2, 7, 10, 100, 1000])
def test_a_row_does_not_depend_on_its_batch(operator, dtype, classes):
    classes = affordable(operator, classes)
    log_probs, weights = profile(10, classes=classes, dtype=dtype, rows=9)
    weights[0, 4] = 0
    weights /= weights.sum(axis=0)
    whole = operator.fuse(log_probs, weights)
    for row in range(9):
        alone = operator.fuse(log_probs[:, row : row + 1], weights[:, row : row + 1])
        assert alone[0].tobytes() == whole[row].tobytes()
    backwards = operator.fuse(log_probs[:, ::-1], weights[:, ::-1])
    assert np.ascontiguousarray(backwards[::-1]).tobytes() == whole.tobytes()


@each_operator
def test_blocks_of_rows_leave_no_trace(operator, monkeypatch):
    log_probs, weights = profile(21)
    weights[1, 3] = 0
    log_probs[1, 3] = math.nan
    whole = operator.fuse(log_probs, weights)
    for block in (1, 25, 100):
        monkeypatch.setattr(native, "BLOCK", block)
        assert operator.fuse(log_probs, weights).tobytes() == whole.tobytes()


@each_operator
@each_dtype
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_bad_row_leaves_the_others_bit_for_bit(operator, dtype, bad):
    log_probs, weights = profile(11, dtype=dtype)
    expected = operator.fuse(log_probs, weights)
    spoilt = log_probs.copy()
    spoilt[0, 5] = bad
    found = operator.fuse(spoilt, weights)
    others = np.arange(16) != 5
    assert found[others].tobytes() == expected[others].tobytes()
    if np.isnan(bad):
        assert np.isnan(found[5]).all()


@each_operator
@pytest.mark.parametrize("hidden_by", [-1.0, -math.inf])
def test_one_invalid_class_of_one_teacher_is_never_hidden(operator, hidden_by):
    log_probs, weights = profile(12)
    log_probs[0, 0, 3] = math.nan
    log_probs[1, 0, 3] = hidden_by
    assert np.isnan(operator.fuse(log_probs, weights)[0, 3])


@each_operator
def test_a_class_impossible_for_one_teacher(operator):
    log_probs, weights = profile(13)
    log_probs[1, :, 4] = -math.inf
    log_probs = log_softmax(log_probs)
    fused = operator.fuse(log_probs, weights)
    assert np.exp(fused).sum(axis=-1) == pytest.approx(np.ones(16), abs=1e-12)
    assert np.isfinite(np.delete(fused, 4, axis=-1)).all()
    if positivity(operator) == 2:
        assert np.isfinite(fused[:, 4]).all()
    elif operator.name in {"geometric", "holder", "entropic_regularised"}:
        assert (fused[:, 4] == -math.inf).all()


@each_operator
def test_a_class_impossible_for_all_stays_impossible(operator):
    log_probs, weights = profile(14)
    log_probs[..., 4] = -math.inf
    fused = operator.fuse(log_softmax(log_probs), weights)
    assert (np.isfinite(fused[:, 4]) == (operator.name in LIFTS_ZEROS)).all()
    assert np.isfinite(np.delete(fused, 4, axis=-1)).all()


@each(lambda operator: operator.name not in {"inverse_entropy", "smoothed_geometric", "wasserstein"})
def test_agreeing_one_hots_are_returned(operator):
    one_hot = np.full((3, 1, 4), -math.inf)
    one_hot[..., 2] = 0
    fused = operator.fuse(one_hot, np.full((3, 1), 1 / 3))
    assert np.exp(fused) == pytest.approx(np.asarray([[0, 0, 1, 0]]), abs=1e-15)


@each(lambda operator: operator.domain == "zeros")
@pytest.mark.parametrize("teachers", [2, 3, 8])
def test_disjoint_one_hots_have_a_pool_where_zeros_are_allowed(operator, teachers):
    one_hots = np.where(np.eye(teachers)[:, None, :] > 0, 0, -math.inf)
    fused = operator.fuse(one_hots, np.full((teachers, 1), 1 / teachers))
    assert np.exp(fused).sum() == pytest.approx(1, abs=1e-9)


@each_that_repeats
@each_dtype
def test_probabilities_may_underflow(operator, dtype):
    if operator.name == "inverse_entropy" and dtype == np.float32:
        dtype = np.float64  # as far as float32 can tell both are one-hots, and two of them have no such pool
    log_probs = np.asarray([[[-1e-30, -300.0, -2000.0]], [[-1e-30, -310.0, -2100.0]]], dtype=dtype)
    fused = operator.fuse(log_probs, np.full((2, 1), 0.5, dtype=dtype))[0]
    assert np.isfinite(fused).all()
    assert -310 <= fused[1] <= -300
    assert -2100 <= fused[2] <= -2000


@each_operator
def test_a_class_of_probability_1e_minus_200_stays_finite(operator):
    log_probs, weights = profile(15)
    log_probs[0, :, 2] = math.log(1e-200)
    assert np.isfinite(operator.fuse(log_probs, weights)).all()


@each_operator
@pytest.mark.parametrize("faint", [1e-300, 1e-30, 1e-12])
def test_a_faint_weight_is_close_to_none(operator, faint):
    log_probs, weights = profile(16, scale=0.5)
    weights[0] = 0
    weights /= weights.sum(axis=0)
    without = operator.fuse(log_probs, weights)
    weights[0] = faint
    np.testing.assert_allclose(operator.fuse(log_probs, weights), without, atol=1e-8)


@each_operator
@pytest.mark.parametrize(("classes", "scale"), [(10, 3.0), (10, 40.0), (1000, 3.0), (1000, 40.0)])
def test_float32_agrees_with_float64(operator, classes, scale):
    classes = affordable(operator, classes)
    log_probs, weights = profile(17, classes=classes, scale=scale, dtype=np.float32, teachers=4)
    assert (log_probs.max() - log_probs.min() > 100) == (scale == 40.0)  # logit gaps
    fused = operator.fuse(log_probs, weights)
    expected = operator.fuse(log_probs.astype(np.float64), weights.astype(np.float64))
    seen = expected > -80
    allowed = 1e-5 + 1e-6 * np.abs(expected)
    assert (np.abs(fused - expected) <= allowed)[seen].all()


@each_operator
@each_dtype
def test_pure(operator, dtype):
    log_probs, weights = profile(18, dtype=dtype)
    weights[0, :3] = 0
    log_probs[1, 4] = -math.inf
    log_probs.flags.writeable = weights.flags.writeable = False
    before = log_probs.tobytes(), weights.tobytes()
    first, second = operator.fuse(log_probs, weights), operator.fuse(log_probs, weights)
    assert (log_probs.tobytes(), weights.tobytes()) == before
    assert first.tobytes() == second.tobytes()


@each_operator
def test_float64_weights_do_not_promote_float32_rows(operator):
    log_probs, weights = profile(19, dtype=np.float32)
    assert operator.fuse(log_probs, weights.astype(np.float64)).dtype == np.float32


@each_operator
def test_an_empty_batch_is_empty(operator):
    assert operator.fuse(np.zeros((3, 0, 4)), np.zeros((3, 0))).shape == (0, 4)


def test_exponents_meet_the_pools_they_are_named_after():
    log_probs, weights = profile(20)
    same = {1: linear(), 0: geometric()}
    for exponent, operator in same.items():
        found = holder(exponent=exponent).fuse(log_probs, weights)
        np.testing.assert_allclose(found, operator.fuse(log_probs, weights), rtol=1e-12)
    zero, near = (holder(exponent=r).fuse(log_probs, weights) for r in (0, 0.05))
    assert 0 < np.abs(zero - near).max() < 0.6
