"""What each policy for the classes not kept costs: in value, in gradient, and in the student it makes."""

import numpy as np
import pytest
import torch
from distillation import DIVERGENCES, TAILS, case, dense, gradient, log_softmax, sparse, student, whole

from soft_targets import distillation_loss, losses

KEPT = pytest.mark.parametrize("k", [1, 3, 7])
CLASSES = 9


@pytest.fixture
def targets():
    _, made, _ = case(np.random.default_rng(17), rows=40, classes=CLASSES, dtype=np.float64)
    return made


@pytest.fixture
def logits():
    made, _, _ = case(np.random.default_rng(19), rows=40, classes=CLASSES)
    return made


def agreed_with(targets):
    """The logits of a student that has the whole target."""
    return torch.tensor(targets.log_probs * targets.temperature)


def entropy(q):
    return -(q * np.log(np.where(q > 0, q, 1.0))).sum(axis=1)


def tail_of(distribution, kept):
    """The mass outside the kept classes, and the distribution within it."""
    outside = distribution.copy()
    np.put_along_axis(outside, kept.astype(np.int64), 0.0, axis=1)
    mass = outside.sum(axis=1)
    return mass, outside / mass[:, None]


def gradients(logits, targets, part, tail):
    """Of the whole target and of the sparse one, a row each, without the 1 / T of the softened student."""
    full = gradient(losses.forward_kl, logits, targets, reduction="sum")
    cut = gradient(losses.forward_kl, logits, part, tail=tail, reduction="sum")
    return full * targets.temperature, cut * targets.temperature


def on(columns, values):
    return np.take_along_axis(values, columns.astype(np.int64), axis=1)


@KEPT
@pytest.mark.parametrize("tail", ["spread", "renormalise"])
def test_a_policy_that_replaces_the_target_is_off_by_what_it_replaces(targets, logits, tail, k):
    """H(q) - H(q') + sum_c (q_c - q'_c) log s_c: of either sign, by whom the student agrees with."""
    q, part = np.exp(targets.log_probs), sparse(targets, k)
    other = whole(part, tail)
    theirs = np.log((1 - 1e-9) * other + 1e-9 / CLASSES) * targets.temperature
    for x, sign in ((logits, 0), (agreed_with(targets), 1), (torch.tensor(theirs), -1)):
        s = student(x, targets.temperature)
        bias = entropy(q) - entropy(other) + ((q - other) * np.log(s)).sum(axis=1)
        got = losses.forward_kl(x, part, tail=tail, reduction="none")
        full = losses.forward_kl(x, targets, reduction="none")
        np.testing.assert_allclose((got - full).detach(), bias, atol=1e-12)
        assert (sign * bias >= 0).all()


@KEPT
def test_the_values_of_a_student_that_has_the_whole_target(targets, k):
    """A bucket sees nothing to improve; the others do, by what they made of the tail."""
    agreed, part = agreed_with(targets), sparse(targets, k)
    t, within = tail_of(np.exp(targets.log_probs), part.indices)
    flat = -np.log(CLASSES - k) - np.log(np.where(within > 0, within, 1)).sum(axis=1) / (CLASSES - k)
    for tail, value in (("bucket", 0 * t), ("spread", t * flat), ("renormalise", -np.log1p(-t))):
        got = losses.forward_kl(agreed, part, tail=tail, reduction="none")
        np.testing.assert_allclose(got, value, atol=1e-12)


@KEPT
def test_a_bucket_s_gradient(targets, logits, k):
    """Exact on the kept logits; outside it errs by t |q - s| within the tail, never more than 2 t."""
    part = sparse(targets, k)
    full, got = gradients(logits, targets, part, "bucket")
    np.testing.assert_allclose(on(part.indices, got), on(part.indices, full), atol=1e-12)
    t, q = tail_of(np.exp(targets.log_probs), part.indices)
    _, s = tail_of(student(logits, targets.temperature), part.indices)
    error = np.abs(got - full).sum(axis=1)
    np.testing.assert_allclose(error, t * np.abs(q - s).sum(axis=1), atol=1e-12)
    assert (error <= 2 * t + 1e-12).all()
    np.testing.assert_allclose(got.sum(axis=1), 0, atol=1e-12)


@KEPT
def test_a_spread_tail_s_gradient(targets, logits, k):
    """Exact on the kept logits; outside it errs by t |q - uniform| within the tail, whatever the student."""
    part = sparse(targets, k)
    t, q = tail_of(np.exp(targets.log_probs), part.indices)
    uniform = np.where(q > 0, 1 / (CLASSES - k), 0)
    for x in (logits, agreed_with(targets)):
        full, got = gradients(x, targets, part, "spread")
        np.testing.assert_allclose(on(part.indices, got), on(part.indices, full), atol=1e-12)
        error = np.abs(got - full).sum(axis=1)
        np.testing.assert_allclose(error, t * np.abs(q - uniform).sum(axis=1), atol=1e-12)
        assert (error <= 2 * t + 1e-12).all()


@KEPT
def test_a_renormalised_target_s_gradient(targets, logits, k):
    """It errs by q t / (1 - t) on each kept logit, and by 2 t over all of them, whatever the student."""
    part = sparse(targets, k)
    t, _ = tail_of(np.exp(targets.log_probs), part.indices)
    for x in (logits, agreed_with(targets)):
        full, got = gradients(x, targets, part, "renormalise")
        np.testing.assert_allclose(
            on(part.indices, full - got), np.exp(part.log_probs) * (t / (1 - t))[:, None], atol=1e-12
        )
        np.testing.assert_allclose(np.abs(got - full).sum(axis=1), 2 * t, atol=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_where_every_class_is_kept_policies_agree(targets, logits, divergence):
    everything = sparse(targets, CLASSES)
    assert np.isneginf(everything.tail_log_mass).all()
    full = DIVERGENCES[divergence](logits, targets)
    for tail in TAILS:
        if (divergence, tail) != ("reverse_kl", "renormalise"):
            torch.testing.assert_close(DIVERGENCES[divergence](logits, everything, tail=tail), full)


def trained(targets, tail, divergence="forward_kl"):
    """The distributions of a student with logits of its own for every row."""
    start = np.random.default_rng(23).normal(size=(len(targets), CLASSES))
    logits = torch.tensor(start, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=100, tolerance_grad=1e-8, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = distillation_loss(logits, targets, divergence=divergence, tail=tail)
        loss.backward()
        return loss

    optimiser.step(closure)
    return student(logits, targets.temperature)


@pytest.fixture
def few():
    log_q = log_softmax(np.random.default_rng(29).normal(size=(4, CLASSES)))
    return dense(log_q, 2.0, np.float64)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_bucket_s_student_has_the_kept_probabilities_and_the_tail_s_mass(few, divergence):
    part = sparse(few, 3)
    s = trained(part, "bucket", divergence)
    np.testing.assert_allclose(on(part.indices, s), np.exp(part.log_probs), atol=1e-5)
    # The shape of its tail is its own.
    _, within = tail_of(s, part.indices)
    _, theirs = tail_of(np.exp(few.log_probs), part.indices)
    assert np.abs(within - theirs).sum(axis=1).min() > 0.1


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_spread_tail_s_student_has_a_flat_tail(few, divergence):
    part = sparse(few, 3)
    np.testing.assert_allclose(trained(part, "spread", divergence), whole(part, "spread"), atol=1e-5)


def test_a_renormalised_target_s_student_is_too_sure(few):
    part = sparse(few, 3)
    s = trained(part, "renormalise")
    np.testing.assert_allclose(s, whole(part, "renormalise"), atol=1e-4)
    assert (on(part.indices, s) > 1.05 * np.exp(part.log_probs)).all()
