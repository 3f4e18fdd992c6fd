"""The labels' term beside the targets': class weights, ignored rows, reductions; and what a caller states."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from distillation import DIVERGENCES, POLICIES, case, dense, gradient, sparse

from soft_targets import InputError, distillation_loss

WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0, 1.0, 1.0, 0.1, 1.0], dtype=torch.float64)


@pytest.fixture
def rng():
    return np.random.default_rng(13)


def with_ignored(labels):
    return torch.where(torch.arange(len(labels)) % 3 == 0, -100, labels)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS, WEIGHTS.half()])
@pytest.mark.parametrize("ignoring", [False, True])
def test_the_labels_term_is_torch_s_cross_entropy(rng, reduction, class_weights, ignoring):
    logits, targets, labels = case(rng, rows=20)
    labels = with_ignored(labels) if ignoring else labels
    options = {"reduction": reduction, "class_weights": class_weights}
    got = distillation_loss(logits, targets, labels, alpha=0, **options)
    weight = None if class_weights is None else class_weights.double()
    expected = F.cross_entropy(logits, labels, weight=weight, reduction=reduction)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("divergence", "tail"), POLICIES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("k", [None, 3])
def test_the_loss_is_the_two_terms_in_their_shares(rng, divergence, tail, reduction, k):
    logits, targets, labels = case(rng, temperature=3.0)
    targets = targets if k is None else sparse(targets, k)
    got = distillation_loss(
        logits, targets, labels, alpha=0.7, divergence=divergence, tail=tail, reduction=reduction
    )
    soft = DIVERGENCES[divergence](logits, targets, tail=tail, reduction=reduction)
    hard = F.cross_entropy(logits, labels, reduction=reduction)
    torch.testing.assert_close(got, 0.7 * 9 * soft + 0.3 * hard)
    alone = distillation_loss(logits, targets, divergence=divergence, tail=tail, reduction=reduction)
    torch.testing.assert_close(alone, 9 * soft)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_the_rows_losses_add_up_to_their_sum(rng, class_weights):
    logits, targets, labels = case(rng, rows=20)
    labels = with_ignored(labels)
    rows, total = (
        distillation_loss(logits, targets, labels, class_weights=class_weights, reduction=reduction)
        for reduction in ("none", "sum")
    )
    assert rows.shape == (20,)
    torch.testing.assert_close(rows.sum(), total)
    # An ignored row keeps its soft target.
    soft = distillation_loss(logits, targets, reduction="none")
    torch.testing.assert_close(rows[::3], 0.9 * soft[::3])


def test_sums_over_micro_batches_add_up_to_the_whole_batch(rng):
    """Each is divided by the rows of all of them: their gradients accumulate to that of one big batch."""
    logits, _, labels = case(rng, rows=12)
    _, targets, _ = case(rng, rows=12)
    whole = gradient(distillation_loss, logits, targets, labels)
    leaf = logits.detach().clone().requires_grad_()
    for part in (slice(0, 2), slice(2, 9), slice(9, 12)):
        few = dense(targets.log_probs[part], targets.temperature)
        (distillation_loss(leaf[part], few, labels[part], reduction="sum") / 12).backward()
    np.testing.assert_allclose(leaf.grad, whole, atol=1e-15)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_batch_without_a_label_has_its_soft_targets_alone(rng, reduction, class_weights, dtype):
    logits, targets, _ = case(rng)
    leaf = logits.detach().to(dtype).requires_grad_()
    labels = torch.full((6,), -100)
    options = {"reduction": reduction, "class_weights": class_weights}
    value = distillation_loss(leaf, targets, labels, **options)
    torch.testing.assert_close(value, 0.9 * distillation_loss(leaf, targets, reduction=reduction))
    value.sum().backward()
    assert leaf.grad.isfinite().all()
    nothing = distillation_loss(leaf, targets, labels, alpha=0, **options)
    assert (nothing == 0).all()


def test_a_row_whose_label_weighs_nothing_counts_as_ignored(rng):
    logits, targets, labels = case(rng, rows=20)
    labels[:4] = 3
    none = torch.where(labels == 3, -100, labels)
    for reduction in ("mean", "sum", "none"):
        options = {"class_weights": WEIGHTS, "reduction": reduction}
        given, ignored = (distillation_loss(logits, targets, y, **options) for y in (labels, none))
        assert torch.equal(given, ignored)
    # Even where the student rules it out: 0 times infinity is 0.
    with torch.no_grad():
        logits[:, 3] = -np.inf
    value = distillation_loss(logits, targets, labels, alpha=0, class_weights=WEIGHTS)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_a_term_without_a_share_is_left_out_even_where_it_is_infinite():
    targets = dense(np.log([[0.5, 0.5]]), 1.0)
    logits, impossible = torch.tensor([[0.0, -np.inf]], requires_grad=True), torch.tensor([1])
    assert distillation_loss(logits, targets, torch.tensor([0]), alpha=0).item() == 0
    assert distillation_loss(logits, targets, torch.tensor([0]), alpha=0.5).isposinf()
    agreed = dense([[0.0, -np.inf]], 1.0)
    value = distillation_loss(logits, agreed, impossible, alpha=1)
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0
    assert distillation_loss(logits, agreed, impossible, alpha=0.5).isposinf()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_gradient_is_the_value_s(rng, reduction):
    logits, targets, labels = case(rng, rows=4)
    labels = with_ignored(labels)
    for divergence in DIVERGENCES:
        options = {"divergence": divergence, "reduction": reduction, "class_weights": WEIGHTS}
        assert torch.autograd.gradcheck(
            lambda x, options=options: distillation_loss(x, targets, labels, alpha=0.4, **options), logits
        )


@pytest.mark.parametrize("wrong", [9, -1, -99])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS, torch.zeros(9)])
def test_labels_that_are_no_class_are_not_ignored(rng, wrong, class_weights):
    logits, targets, labels = case(rng)
    labels[2] = wrong
    with pytest.raises(IndexError):
        distillation_loss(logits, targets, labels, class_weights=class_weights)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_labels_of_any_signed_integers_can_be_ignored(rng, dtype):
    logits, targets, labels = case(rng)
    ignored = with_ignored(labels)
    assert distillation_loss(logits, targets, ignored.to(dtype)) == distillation_loss(
        logits, targets, ignored
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_under_autocast(rng, reduction):
    logits, targets, labels = case(rng)
    logits, labels = logits.detach().half(), with_ignored(labels)
    options = {"reduction": reduction, "class_weights": WEIGHTS}
    with torch.autocast("cpu", dtype=torch.float16):
        cast = distillation_loss(logits, targets, labels, **options)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, distillation_loss(logits, targets, labels, **options))


@pytest.mark.parametrize("stated", [2.0, 2, np.float32(2), 2.0000001])
def test_a_temperature_that_is_the_targets_changes_nothing(rng, stated):
    logits, targets, labels = case(rng, temperature=2.0)
    assert distillation_loss(logits, targets, labels, temperature=stated) == distillation_loss(
        logits, targets, labels
    )


def test_a_float32_of_the_targets_temperature_is_the_same(rng):
    logits, targets, _ = case(rng, temperature=0.1)
    assert distillation_loss(logits, targets, temperature=np.float32(0.1)).isfinite()


@pytest.mark.parametrize("stated", [1.0, 2.001, 0.0, float("nan")])
def test_another_temperature_is_refused(rng, stated):
    logits, targets, labels = case(rng, temperature=2.0)
    with pytest.raises(
        InputError, match=rf"temperature is {stated}, but the targets were made at 2.0; ask for"
    ):
        distillation_loss(logits, targets, labels, temperature=stated)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"divergence": "kl"}, "divergence must be one of forward_kl, reverse_kl, jensen_shannon, not 'kl'"),
        ({"tail": "drop"}, "tail must be one of bucket, spread, renormalise, not 'drop'"),
        ({"reduction": "batchmean"}, "reduction must be one of mean, sum, none, not 'batchmean'"),
        ({"class_weights": torch.ones(8)}, r"class_weights must be float \[9\].*shape \[8\]"),
        ({"class_weights": torch.ones(6, 9)}, r"class_weights must be float \[9\].*shape \[6, 9\]"),
        ({"class_weights": torch.ones(9, dtype=torch.int64)}, "not torch.int64"),
        ({"class_weights": torch.ones(9), "labels": None}, "pass labels too, or neither"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_words(rng, change, message):
    logits, targets, labels = case(rng)
    with pytest.raises(InputError, match=message):
        distillation_loss(logits, targets, **{"labels": labels} | change)
