import doctest
from itertools import pairwise

import numpy as np
import pytest
import torch
from distillation import case, dense, gradient, log_softmax, reference, sparse

from soft_targets import InputError, distillation_loss, losses


def expected(logits, targets, labels=None, alpha=0.9):
    """The loss in plain float64 numpy."""
    soft = targets.temperature**2 * reference(logits, targets).mean()
    if labels is None:
        return soft
    hard = -np.mean(log_softmax(logits.detach())[np.arange(len(logits)), labels])
    return alpha * soft + (1 - alpha) * hard


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("k", [None, 1, 4, 9])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_value_is_the_formula_s(rng, temperature, k, alpha):
    logits, targets, labels = case(rng, temperature=temperature)
    targets = targets if k is None else sparse(targets, k)
    value = distillation_loss(logits, targets, labels, alpha=alpha)
    assert value.dtype == torch.float64
    assert value.shape == ()
    np.testing.assert_allclose(value.item(), expected(logits, targets, labels, alpha), rtol=1e-9)
    alone = distillation_loss(logits, targets, alpha=alpha)
    np.testing.assert_allclose(alone.item(), expected(logits, targets), rtol=1e-9)


@pytest.mark.parametrize("k", [None, 1, 3, 9])
def test_the_gradient_is_the_value_s(rng, k):
    logits, targets, labels = case(rng)
    targets = targets if k is None else sparse(targets, k)
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, targets, labels), logits)
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, targets), logits)


def test_the_dense_gradient_is_t_times_the_difference_over_b(rng):
    logits, targets, _ = case(rng, temperature=3.0)
    s = np.exp(log_softmax(logits.detach().numpy() / 3.0))
    np.testing.assert_allclose(
        gradient(distillation_loss, logits, targets),
        3.0 * (s - np.exp(targets.log_probs.astype(np.float64))) / 6,
        atol=1e-7,
    )


def test_a_student_that_agrees_has_no_loss_and_no_gradient(rng):
    _, targets, _ = case(rng)
    logits = torch.tensor(targets.log_probs.astype(np.float64) * targets.temperature)
    for each in (targets, sparse(targets, 4)):
        assert abs(distillation_loss(logits, each).item()) < 1e-6
        assert np.abs(gradient(distillation_loss, logits, each)).max() < 1e-6


@pytest.mark.parametrize("k", range(1, 10))
def test_sparse_is_never_above_dense_and_its_gradient_is_exact_on_the_kept_logits(rng, k):
    logits, targets, _ = case(rng)
    kept = sparse(targets, k)
    full, part = distillation_loss(logits, targets).item(), distillation_loss(logits, kept).item()
    assert -1e-6 <= part <= full + 1e-6
    rows = np.arange(6)[:, None]
    exact, got = gradient(distillation_loss, logits, targets), gradient(distillation_loss, logits, kept)
    np.testing.assert_allclose(got[rows, kept.indices], exact[rows, kept.indices], atol=1e-7)
    # Over all logits the error is at most twice the tail's mass (times T / B).
    tail = np.exp(kept.tail_log_mass)
    assert (np.abs(got - exact).sum(axis=1) <= 2 * tail * targets.temperature / 6 + 1e-6).all()


def test_a_larger_k_never_lowers_the_loss(rng):
    logits, targets, _ = case(rng)
    values = [distillation_loss(logits, sparse(targets, k)).item() for k in range(1, 10)]
    assert all(low <= high + 1e-6 for low, high in pairwise(values))


def test_keeping_every_class_is_dense(rng):
    logits, targets, labels = case(rng)
    kept = sparse(targets, 9)
    assert np.isneginf(kept.tail_log_mass).all()
    torch.testing.assert_close(
        distillation_loss(logits, kept, labels), distillation_loss(logits, targets, labels)
    )
    np.testing.assert_allclose(
        gradient(distillation_loss, logits, kept, labels),
        gradient(distillation_loss, logits, targets, labels),
    )


@pytest.mark.parametrize(
    ("divergence", "share"), [("forward_kl", 1), ("reverse_kl", 1), ("jensen_shannon", 1 / 4)]
)
def test_t_squared_keeps_the_size_of_the_gradient(rng, divergence, share):
    logits, _, _ = case(rng, spread=0.5)
    teacher = rng.normal(size=(6, 9)) * 0.5
    # What all of them tend to: the difference of the logits, each about its mean.
    centred = [x - x.mean(axis=1, keepdims=True) for x in (logits.detach().numpy(), teacher)]
    for t in (20.0, 40.0, 80.0):
        got = gradient(distillation_loss, logits, dense(log_softmax(teacher / t), t), divergence=divergence)
        np.testing.assert_allclose(got, share * (centred[0] - centred[1]) / 9 / 6, rtol=0, atol=0.04 / t)


ZEROS = [[0.0, -np.inf, -np.inf, -np.inf], [np.log(0.5), np.log(0.5), -np.inf, -np.inf]]


@pytest.mark.parametrize("k", [None, 1, 2, 3, 4])
@pytest.mark.parametrize(
    "logits",
    [
        np.zeros((2, 4)),
        [[1e4, -1e4, 0, 0], [-1e4, 1e4, 0, 0]],
        [[1e30, -1e30, 0, 0], [1e30, 1e30, -1e30, 0]],
        [[3, -np.inf, 1, 0], [3, 3, -np.inf, -np.inf]],
        [[3, -np.inf, -np.inf, -np.inf], [3, 3, -np.inf, -np.inf]],
        [[3e38, -3e38, 0, 0], [3e38, 3e38, -3e38, 0]],
    ],
    ids=["zero", "large", "huge", "masked", "masked-tail", "largest"],
)
def test_zeros_and_extremes_give_no_nan(k, logits):
    targets = dense(ZEROS, temperature=1.0)
    targets = targets if k is None else sparse(targets, k)
    student = torch.tensor(np.asarray(logits), dtype=torch.float32, requires_grad=True)
    value = distillation_loss(student, targets, torch.tensor([0, 1]))
    value.backward()
    assert not value.isnan()
    assert not student.grad.isnan().any()


def test_a_class_the_student_rules_out_costs_everything():
    targets = dense(np.log([[0.5, 0.25, 0.25]]))
    student = torch.tensor([[0.0, 0.0, -np.inf]], requires_grad=True)
    value = distillation_loss(student, targets)
    value.backward()
    assert value.isposinf()
    assert not student.grad.isnan().any()


def test_a_tiny_tail_is_not_lost_to_rounding():
    # 1 - sum would be 0 in float32: the student's tail is exp(-40).
    targets = sparse(dense([[np.log1p(-1e-12), np.log(1e-12)]], temperature=1.0), 1)
    student = torch.tensor([[40.0, 0.0]], requires_grad=True)
    value = distillation_loss(student, targets)
    np.testing.assert_allclose(value.item(), 1e-12 * (np.log(1e-12) + 40 - 1), rtol=1e-3)
    value.backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [None, 3])
def test_half_precision_students_are_computed_with_in_float32(rng, dtype, k):
    logits, targets, labels = case(rng, spread=3.0)
    targets = targets if k is None else sparse(targets, k)
    half = logits.detach().to(dtype).requires_grad_()
    value = distillation_loss(half, targets, labels)
    assert value.dtype == torch.float32
    np.testing.assert_allclose(value.item(), expected(half.detach().double(), targets, labels), rtol=1e-5)
    value.backward()
    assert half.grad.dtype == dtype
    assert half.grad.isfinite().all()


def test_under_autocast(rng):
    logits, targets, labels = case(rng)
    plain = distillation_loss(logits.float(), sparse(targets, 3), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = distillation_loss(logits.float(), sparse(targets, 3), labels)
    torch.testing.assert_close(cast, plain)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_labels_may_be_any_integers(rng, dtype):
    logits, targets, labels = case(rng)
    np.testing.assert_allclose(
        distillation_loss(logits, targets, labels.to(dtype)).item(),
        expected(logits, targets, labels),
    )


def test_arrays_that_cannot_be_written_to(rng):
    logits, targets, _ = case(rng)
    targets.log_probs.flags.writeable = False
    assert distillation_loss(logits, targets).isfinite()


def test_a_student_learns_its_teacher(rng):
    teacher = torch.tensor(rng.normal(size=(64, 5)))
    targets = dense(log_softmax(teacher.numpy() / 2.0))
    logits = torch.zeros(64, 5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.2)
    for _ in range(100):
        optimiser.zero_grad()
        distillation_loss(logits, targets).backward()
        optimiser.step()
    np.testing.assert_allclose(log_softmax(logits.detach()), log_softmax(teacher), atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_logits": torch.zeros(5, 9)}, "5 rows, the targets 6"),
        ({"student_logits": torch.zeros(6, 8)}, "8 classes, the targets 9"),
        ({"student_logits": torch.zeros(9)}, r"float \[B, C\], not torch.float32 of shape \[9\]"),
        ({"student_logits": torch.zeros(6, 9, dtype=torch.int64)}, "not torch.int64"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, r"integer \[B\].*shape \[5\]"),
        ({"labels": torch.zeros(6, 9, dtype=torch.int64)}, r"shape \[6, 9\]"),
        ({"labels": torch.zeros(6)}, "not torch.float32"),
        ({"labels": torch.zeros(6, dtype=torch.bool)}, "not torch.bool"),
        ({"alpha": 1.5}, "alpha must be between 0 and 1"),
        ({"alpha": float("nan")}, "alpha must be between 0 and 1"),
    ],
)
@pytest.mark.parametrize("k", [None, 3])
def test_what_does_not_fit_is_refused_in_words(rng, k, change, message):
    _, targets, _ = case(rng)
    targets = targets if k is None else sparse(targets, k)
    arguments = {
        "student_logits": torch.zeros(6, 9),
        "targets": targets,
        "labels": None,
        "alpha": 0.9,
    } | change
    with pytest.raises(InputError, match=message):
        distillation_loss(**arguments)


def test_an_empty_batch_is_refused():
    with pytest.raises(InputError, match="not empty"):
        distillation_loss(torch.zeros(0, 3), dense(np.zeros((0, 3))))


def test_the_docstring_s_example_runs():
    tried = doctest.testmod(losses)
    assert tried.failed == 0
    assert tried.attempted > 0
