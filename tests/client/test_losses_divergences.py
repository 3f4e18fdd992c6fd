"""Forward KL, reverse KL and Jensen-Shannon: values, gradients, and what zeros and rounding do to them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from distillation import (
    DIVERGENCES,
    FLOOR,
    POLICIES,
    case,
    dense,
    gradient,
    log_softmax,
    reference,
    sparse,
    student,
)

from soft_targets import InputError, losses

KEPT = [None, 1, 4, 9]
each_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)
each_policy = pytest.mark.parametrize(("divergence", "tail"), POLICIES)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def cut(targets, k):
    return targets if k is None else sparse(targets, k)


@each_policy
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("k", KEPT)
def test_the_value_is_the_formula_s(rng, divergence, tail, temperature, k):
    logits, targets, _ = case(rng, temperature=temperature)
    targets = cut(targets, k)
    rows = DIVERGENCES[divergence](logits, targets, tail=tail, reduction="none")
    assert rows.dtype == torch.float64
    expected = reference(logits, targets, divergence, tail)
    np.testing.assert_allclose(rows.detach(), expected, rtol=1e-9, atol=1e-12)
    for reduction, whole in (("mean", expected.mean()), ("sum", expected.sum())):
        value = DIVERGENCES[divergence](logits, targets, tail=tail, reduction=reduction)
        assert value.shape == ()
        np.testing.assert_allclose(value.item(), whole, rtol=1e-9)


@each_policy
@pytest.mark.parametrize("k", KEPT)
def test_the_gradient_is_the_value_s(rng, divergence, tail, k):
    logits, targets, _ = case(rng, rows=3)
    targets = cut(targets, k)
    assert torch.autograd.gradcheck(
        lambda x: DIVERGENCES[divergence](x, targets, tail=tail, reduction="none"), logits
    )


@each_divergence
def test_the_gradient_s_closed_form(rng, divergence):
    logits, targets, _ = case(rng, temperature=3.0, dtype=np.float64)
    q, s = np.exp(targets.log_probs), student(logits, 3.0)
    slope = {
        "forward_kl": -q / s,
        "reverse_kl": np.log(s / q),
        "jensen_shannon": np.log(2 * s / (q + s)) / 2,
    }[divergence]
    expected = s * (slope - (s * slope).sum(axis=1, keepdims=True)) / 3.0
    got = gradient(DIVERGENCES[divergence], logits, targets, reduction="sum")
    np.testing.assert_allclose(got, expected, atol=1e-12)


@each_policy
@pytest.mark.parametrize("k", KEPT)
def test_no_divergence_is_negative_and_its_own_target_has_none(rng, divergence, tail, k):
    logits, targets, _ = case(rng, rows=200, dtype=np.float64)
    targets = cut(targets, k)
    assert (DIVERGENCES[divergence](logits, targets, tail=tail, reduction="none") >= -1e-12).all()
    if k in (None, 9):
        full = np.empty((200, 9))
        columns = np.arange(9) if k is None else targets.indices.astype(np.int64)
        np.put_along_axis(full, np.broadcast_to(columns, (200, 9)), targets.log_probs, axis=1)
        agreed = torch.tensor(full * targets.temperature)
        assert DIVERGENCES[divergence](agreed, targets, tail=tail).abs() < 1e-12
        assert np.abs(gradient(DIVERGENCES[divergence], agreed, targets, tail=tail)).max() < 1e-12


@each_divergence
@pytest.mark.parametrize("k", range(1, 10))
def test_a_bucket_is_never_above_dense_and_rises_with_k(rng, divergence, k):
    logits, targets, _ = case(rng, rows=300, spread=3.0, dtype=np.float64)
    values = [
        DIVERGENCES[divergence](logits, each, reduction="none")
        for each in (sparse(targets, k), sparse(targets, min(k + 1, 9)), targets)
    ]
    assert (values[0] <= values[1] + 1e-12).all()
    assert (values[1] <= values[2] + 1e-12).all()
    # One class is a bucket of its own, and an empty one adds nothing.
    if k >= 8:
        torch.testing.assert_close(values[0], values[2])


def test_a_bucket_of_impossible_classes_is_never_above_dense_either(rng):
    """Reverse KL lifts them: a bucket as a whole by as much as its classes one by one."""
    logits, _, _ = case(rng, rows=50, classes=5)
    target = np.full((50, 5), -np.inf)
    target[:, :2] = np.log([0.7, 0.3])
    targets = dense(target, dtype=np.float64)
    for k in (1, 2, 3):
        part, full = (
            losses.reverse_kl(logits, each, reduction="none") for each in (sparse(targets, k), targets)
        )
        assert (part <= full + 1e-12).all()


def parts(logits, targets, k):
    """The kept classes, the mass of the others, and what lies within them: of the target and the student."""
    q, s = np.exp(targets.log_probs), student(logits, targets.temperature)
    order = np.argsort(-q, axis=1, kind="stable")
    kept, rest = order[:, :k], order[:, k:]
    outside = [np.take_along_axis(p, rest, axis=1) for p in (q, s)]
    masses = [p.sum(axis=1) for p in outside]
    within = [p / mass[:, None] for p, mass in zip(outside, masses, strict=True)]
    return s, kept, masses, within


def kl(p, q):
    return (p * np.log(p / q)).sum(axis=1)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_a_bucket_loses_the_divergence_within_the_tail(rng, k):
    logits, targets, _ = case(rng, rows=40, dtype=np.float64)
    _, _, (t, u), (q, s) = parts(logits, targets, k)
    mean = (t[:, None] * q + u[:, None] * s) / (t + u)[:, None]
    lost = {
        "forward_kl": t * kl(q, s),
        "reverse_kl": u * kl(s, q),
        "jensen_shannon": (t * kl(q, mean) + u * kl(s, mean)) / 2,
    }
    for divergence, measure in DIVERGENCES.items():
        full, part = (measure(logits, x, reduction="none").detach() for x in (targets, sparse(targets, k)))
        np.testing.assert_allclose(full - part, lost[divergence], atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_a_bucket_s_gradient_is_exact_on_the_kept_logits_for_forward_kl_alone(rng, k):
    """For the others the kept logits miss their share of what is lost between the student and the tail."""
    logits, targets, _ = case(rng, rows=40, dtype=np.float64)
    all_s, kept, (t, u), (q, s) = parts(logits, targets, k)
    mean = (t[:, None] * q + u[:, None] * s) / (t + u)[:, None]
    missed = {"forward_kl": 0 * u, "reverse_kl": u * kl(s, q), "jensen_shannon": u * kl(s, mean) / 2}
    for divergence, measure in DIVERGENCES.items():
        full, part = (gradient(measure, logits, x, reduction="sum") for x in (targets, sparse(targets, k)))
        error = np.take_along_axis(part - full, kept, axis=1)
        share = np.take_along_axis(all_s, kept, axis=1) / targets.temperature
        np.testing.assert_allclose(error, share * missed[divergence][:, None], atol=1e-12)


def test_jensen_shannon_is_symmetric_and_never_above_log_2(rng):
    one, other = (log_softmax(rng.normal(size=(50, 9)) * 6) for _ in range(2))
    there, back = (
        losses.jensen_shannon(torch.tensor(s), dense(q, 1.0, np.float64), reduction="none")
        for s, q in ((one, other), (other, one))
    )
    torch.testing.assert_close(there, back)
    assert (there <= math.log(2)).all()
    apart = losses.jensen_shannon(torch.tensor([[0.0, -np.inf]]), dense([[-np.inf, 0.0]], 1.0))
    assert apart.item() == pytest.approx(math.log(2))


def test_where_a_student_is_sure_of_something_else_only_forward_kl_s_gradient_stays():
    logits = torch.tensor([[20.0, 0.0, 0.0]], dtype=torch.float64)
    targets = dense(np.log([[0.01, 0.98, 0.01]]), 1.0, np.float64)
    steepest = {
        name: np.abs(gradient(measure, logits, targets)).max() for name, measure in DIVERGENCES.items()
    }
    assert steepest["forward_kl"] > 0.9
    assert steepest["reverse_kl"] < 1e-6
    assert steepest["jensen_shannon"] < 1e-6


ZEROS = np.array([[0.0, -np.inf, -np.inf, -np.inf], [np.log(0.5), np.log(0.5), -np.inf, -np.inf]])
LOGITS = {
    "zero": np.zeros((2, 4)),
    "large": [[1e4, -1e4, 0, 0], [-1e4, 1e4, 0, 0]],
    "huge": [[1e30, -1e30, 0, 0], [1e30, 1e30, -1e30, 0]],
    "masked": [[3, -np.inf, 1, 0], [3, 3, -np.inf, -np.inf]],
    "masked-tail": [[3, -np.inf, -np.inf, -np.inf], [3, 3, -np.inf, -np.inf]],
    "wrong": [[-np.inf, 0, 0, -np.inf], [-np.inf, -np.inf, -np.inf, 0]],
}


@each_policy
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("target_dtype", [np.float16, np.float32])
@pytest.mark.parametrize("k", [None, 1, 2, 3, 4])
def test_zeros_and_extremes_give_no_nan(divergence, tail, dtype, target_dtype, k):
    targets = cut(dense(ZEROS, 1.0, target_dtype), k)
    largest = torch.finfo(dtype).max
    for name, logits in LOGITS.items():
        values = torch.tensor(np.asarray(logits, dtype=np.float64))
        values = torch.where(values.isfinite(), values.clamp(-largest, largest), values)
        leaf = values.to(dtype).requires_grad_()
        rows = DIVERGENCES[divergence](leaf, targets, tail=tail, reduction="none")
        rows.sum().backward()
        assert not rows.isnan().any(), name
        assert leaf.grad.dtype == dtype
        assert not leaf.grad.isnan().any(), name
        # Forward KL alone is infinite: where the student rules out what the target, or its tail, does not.
        invented = tail == "spread" and k == 1 and name.startswith("masked")
        assert rows.isinf().any() == (divergence == "forward_kl" and (name == "wrong" or invented)), name
        if divergence == "jensen_shannon":
            assert (rows <= math.log(2) + 1e-6).all()


@each_policy
def test_targets_whose_probabilities_underflow(divergence, tail):
    """exp(-200) is 0 in float32: against a student that rules the class out, 0 times infinity."""
    targets = cut(dense([[0.0, -200.0, -300.0]], 1.0), 2)
    logits = torch.tensor([[0.0, -np.inf, -np.inf]], requires_grad=True)
    value = DIVERGENCES[divergence](logits, targets, tail=tail)
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


def test_a_tail_that_the_student_rules_out_costs_everything():
    targets = sparse(dense(np.log([[0.5, 0.25, 0.25]])), 1)
    logits = torch.tensor([[0.0, -np.inf, -np.inf]], requires_grad=True)
    value = losses.forward_kl(logits, targets)
    value.backward()
    assert value.isposinf()
    assert not logits.grad.isnan().any()


def test_reverse_kl_to_an_impossible_class_is_the_floor_s(rng):
    """By definition infinite; lifted to 2^-126 the class costs s (log s + 87.3), and s falls to nothing."""
    targets = dense([[0.0, -np.inf]], 1.0, np.float64)
    logits = torch.tensor([[0.0, -1.0]], dtype=torch.float64)
    s = student(logits, 1.0)[0]
    value = losses.reverse_kl(logits, targets).item()
    assert value == pytest.approx(s[0] * math.log(s[0]) + s[1] * (math.log(s[1]) - math.log(FLOOR)))
    assert gradient(losses.reverse_kl, logits, targets)[0, 1] > 1
    # What is at or above the floor, as every target of a server, is left alone.
    logits, targets, _ = case(rng, dtype=np.float64)
    least = replace(targets, log_probs=np.maximum(targets.log_probs, math.log(FLOOR)))
    assert losses.reverse_kl(logits, targets) == losses.reverse_kl(logits, least)
    assert math.log(FLOOR) == losses.LEAST_LOG_PROBABILITY


@each_policy
@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_students_are_computed_with_in_float32(rng, divergence, tail, k, dtype):
    logits, targets, _ = case(rng, spread=3.0)
    targets, half = cut(targets, k), logits.detach().to(dtype).requires_grad_()
    value = DIVERGENCES[divergence](half, targets, tail=tail)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(reference(half.double(), targets, divergence, tail).mean(), rel=1e-4)
    value.backward()
    exact = gradient(DIVERGENCES[divergence], half.double(), targets, tail=tail)
    np.testing.assert_allclose(
        half.grad.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(torch.float16).tiny
    )


@each_policy
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast(rng, divergence, tail, dtype):
    _, targets, _ = case(rng)
    targets, measure = sparse(targets, 3), DIVERGENCES[divergence]
    rows = torch.tensor(rng.normal(size=(6, 4)), dtype=torch.float32)
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 9)
    with torch.autocast("cpu", dtype=dtype):
        logits = layer(rows)
        inside = measure(logits, targets, tail=tail)
    assert logits.dtype == dtype
    assert inside.dtype == torch.float32
    assert torch.equal(inside, measure(logits, targets, tail=tail))
    inside.backward()
    assert layer.weight.grad.isfinite().all()


@each_policy
@pytest.mark.parametrize("k", [None, 4])
def test_float16_targets_are_renormalised(rng, divergence, tail, k):
    _, targets, _ = case(rng, rows=50, classes=500, spread=0.5, dtype=np.float64)
    # A student of the targets: what is left of the divergence is rounding.
    logits = torch.tensor(targets.log_probs * targets.temperature)
    targets = cut(targets, k)
    rounded = replace(targets, log_probs=targets.log_probs.astype(np.float16))
    exact, got = (
        DIVERGENCES[divergence](logits, each, tail=tail, reduction="none") for each in (targets, rounded)
    )
    # The rounding's first order is gone with the renormalisation, and nothing is negative.
    np.testing.assert_allclose(got, exact, atol=1e-4)
    assert (got >= -1e-12).all()


def test_rounding_to_float16_takes_targets_off_the_simplex(rng):
    log_q = log_softmax(rng.normal(size=(200, 1000)) * 0.5)
    off = np.abs(np.exp(log_q.astype(np.float16).astype(np.float64)).sum(axis=1) - 1)
    entropy = -(np.exp(log_q) * log_q).sum(axis=1)
    assert off.max() > 1e-4
    assert (off <= entropy * 2.0**-11 * 1.01).all()


def test_arrays_reach_the_student_without_a_copy_unless_they_cannot_be_written_to():
    beside = torch.zeros(1)
    free = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert losses._beside(free, beside).data_ptr() == free.ctypes.data
    held = free.copy()
    held.flags.writeable = False
    copied = losses._beside(held, beside)
    assert copied.data_ptr() != held.ctypes.data
    assert copied.tolist() == held.tolist()
    # Slices and reversals are none that torch can share.
    assert losses._beside(free[:, ::-1], beside).tolist() == free[:, ::-1].tolist()


@each_policy
@pytest.mark.parametrize("k", [None, 3])
def test_arrays_that_cannot_be_written_to_are_neither_warned_of_nor_changed(rng, divergence, tail, k):
    logits, targets, _ = case(rng)
    targets = cut(targets, k)
    arrays = [x for x in (targets.log_probs, targets.indices, targets.tail_log_mass) if x is not None]
    before = [x.copy() for x in arrays]
    value = DIVERGENCES[divergence](logits, targets, tail=tail)
    for x, y in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(x, y)
        x.flags.writeable = False
    assert DIVERGENCES[divergence](logits, targets, tail=tail) == value


@each_divergence
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_logits": torch.zeros(5, 9)}, "5 rows, the targets 6"),
        ({"student_logits": torch.zeros(6, 8)}, "8 classes, the targets 9"),
        ({"student_logits": torch.zeros(6, 9, dtype=torch.int64)}, "not torch.int64"),
        ({"tail": "drop"}, "tail must be one of bucket, spread, renormalise, not 'drop'"),
        ({"reduction": "batchmean"}, "reduction must be one of mean, sum, none, not 'batchmean'"),
    ],
)
@pytest.mark.parametrize("k", [None, 3])
def test_what_does_not_fit_is_refused_in_words(rng, divergence, change, message, k):
    _, targets, _ = case(rng)
    with pytest.raises(InputError, match=message):
        DIVERGENCES[divergence](**{"student_logits": torch.zeros(6, 9), "targets": cut(targets, k)} | change)


def test_reverse_kl_refuses_to_renormalise_sparse_targets(rng):
    logits, targets, _ = case(rng)
    with pytest.raises(InputError, match="use tail='bucket' or 'spread'"):
        losses.reverse_kl(logits, sparse(targets, 3), tail="renormalise")
    assert losses.reverse_kl(logits, targets, tail="renormalise") == losses.reverse_kl(logits, targets)


@pytest.mark.parametrize("divergence", ["forward_kl", "jensen_shannon"])
def test_kept_classes_without_any_mass_cannot_be_renormalised(divergence):
    targets = replace(
        sparse(dense(np.log([[0.5, 0.5]]), dtype=np.float32), 1),
        log_probs=np.array([[-np.inf]], dtype=np.float32),
        tail_log_mass=np.zeros(1, dtype=np.float32),
    )
    with pytest.raises(InputError, match="cannot be renormalised"):
        DIVERGENCES[divergence](torch.zeros(1, 2), targets, tail="renormalise")
    assert DIVERGENCES[divergence](torch.zeros(1, 2), targets).isfinite()
