"""What a target that keeps k classes owes to the whole one, and what teachers cut to k leave certain."""

import numpy as np
import pytest

from operators import linear
from operators.guarantees import divergence
from operators.simplex import log_softmax, soften, top_k


def targets(seed, *, rows=300, classes=12, alpha=0.3):
    rng = np.random.default_rng(seed)
    p = np.maximum(rng.dirichlet(np.full(classes, alpha), rows), 1e-12)
    return log_softmax(np.log(p)), log_softmax(rng.normal(size=(rows, classes)))


def cut(log_q, k):
    """Which classes are kept [B, C], and the mass of the others [B]."""
    indices, _, tail = top_k(log_q, k)
    kept = np.zeros(log_q.shape, dtype=bool)
    np.put_along_axis(kept, indices.astype(np.int64), values=True, axis=-1)
    return kept, np.exp(tail)


def bucket_loss(log_q, log_s, kept, tail):
    """sum_top q log (q / s) + tau log (tau / s_tail)."""
    top = np.where(kept, np.exp(log_q) * (log_q - log_s), 0.0).sum(axis=-1)
    student = np.where(kept, 0.0, np.exp(log_s)).sum(axis=-1)
    return top + tail * (np.log(tail) - np.log(student))


def entropy_of_tail(log_q, kept, tail):
    inside = np.where(kept, 0.0, np.exp(log_q) / tail[:, None])
    return -np.where(kept, 0.0, inside * np.log(np.where(inside > 0, inside, 1.0))).sum(axis=-1)


@pytest.mark.parametrize("k", [1, 3, 6, 11])
def test_g18_top_k_renormalised_moves_the_target_by_its_tail(k):
    log_q, log_s = targets(1)
    kept, tail = cut(log_q, k)
    q = np.exp(log_q)
    cut_q = np.where(kept, q, 0.0) / (1 - tail)[:, None]
    assert np.abs(cut_q - q).sum(axis=-1) / 2 == pytest.approx(tail, abs=1e-9)
    with np.errstate(divide="ignore"):
        log_cut = np.log(cut_q)
    assert divergence(log_cut, log_q) == pytest.approx(-np.log1p(-tail), abs=1e-9)
    assert np.isinf(divergence(log_q, log_cut)).all()
    # The gradient of cross-entropy is s - q: its bias is the target's.
    s = np.exp(log_s)
    assert np.abs((s - cut_q) - (s - q)).sum(axis=-1) == pytest.approx(2 * tail, abs=1e-9)


@pytest.mark.parametrize("k", [1, 3, 6, 11])
def test_g19_the_tail_bucket_loses_the_divergence_inside_the_tail(k):
    log_q, log_s = targets(2)
    kept, tail = cut(log_q, k)
    bucket, full = bucket_loss(log_q, log_s, kept, tail), divergence(log_q, log_s)
    inside_q, inside_s = (log_softmax(np.where(kept, -np.inf, x)) for x in (log_q, log_s))
    gap = tail * divergence(inside_q, inside_s)
    assert (bucket <= full + 1e-9).all()
    assert full - bucket == pytest.approx(gap, abs=1e-9)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_g20_the_tail_bucket_s_gradient_is_exact_on_the_kept_classes(k):
    log_q, logits = targets(3, rows=40)
    kept, tail = cut(log_q, k)
    step = 1e-5
    gradient = np.empty_like(logits)
    for c in range(logits.shape[-1]):
        ends = [log_softmax(logits + sign * step * np.eye(logits.shape[-1])[c]) for sign in (1, -1)]
        above, below = (bucket_loss(log_q, end, kept, tail) for end in ends)
        gradient[:, c] = (above - below) / (2 * step)
    exact = np.exp(log_softmax(logits)) - np.exp(log_q)
    assert np.abs(gradient - exact)[kept].max() < 1e-8
    assert (np.abs(gradient - exact).sum(axis=-1) <= 2 * tail + 1e-7).all()


@pytest.mark.parametrize("k", [1, 3, 6, 11])
def test_g21_a_uniform_tail_loses_the_tail_s_own_shape(k):
    log_q, _ = targets(4)
    kept, tail = cut(log_q, k)
    others = log_q.shape[-1] - k
    flat = np.where(kept, log_q, (np.log(tail) - np.log(others))[:, None])
    lost = tail * (np.log(others) - entropy_of_tail(log_q, kept, tail))
    assert divergence(log_q, flat) == pytest.approx(lost, abs=1e-9)
    assert (lost <= tail * np.log(others) + 1e-9).all()


def test_g22_the_tail_is_bounded_by_the_entropy_and_by_any_norm_below_one():
    for alpha in (0.05, 0.3, 2.0):
        log_q, _ = targets(5, classes=60, alpha=alpha)
        entropy = -(np.exp(log_q) * log_q).sum(axis=-1)
        for k in (2, 3, 8, 30, 59):
            _, tail = cut(log_q, k)
            assert (tail <= entropy / np.log(k) + 1e-9).all()
            for power in (0.3, 0.5, 0.9):
                norm = np.exp(power * log_q).sum(axis=-1) ** (1 / power)
                assert (tail <= k ** (1 - 1 / power) * norm + 1e-9).all()


def test_a_larger_k_only_raises_the_tail_bucket_s_loss_up_to_the_full_one():
    log_q, log_s = targets(6)
    losses = [bucket_loss(log_q, log_s, *cut(log_q, k)) for k in range(1, 12)]
    assert (np.diff(losses, axis=0) >= -1e-9).all()
    # One class is a bucket of its own.
    assert losses[-1] == pytest.approx(divergence(log_q, log_s), abs=1e-9)


def test_g28_softening_a_truncated_row_is_not_truncating_a_softened_one():
    """The tail of 49,990 small classes weighs next to nothing at T = 1, and outweighs the top at T = 4."""
    classes, k, temperature = 50_000, 10, 4.0
    rng = np.random.default_rng(7)
    log_p = log_softmax(np.where(np.arange(classes) < k, 16.0, 0.0) + rng.normal(size=classes))[None]
    _, tail_before = cut(log_p, k)
    assert tail_before[0] < 0.01
    softened = soften(log_p, temperature)
    kept, right = cut(softened, k)
    # A truncating teacher sends its top and one bucket; softening that is all that can be done with it.
    sent = np.concatenate([log_p[kept], np.log(tail_before)])
    wrong = np.exp(soften(sent[None], temperature))[0, -1]
    ratio = (right / (1 - right))[0] / (wrong / (1 - wrong))
    assert ratio > 100


@pytest.mark.parametrize("k", [1, 2, 5, 11])
def test_g29_teachers_cut_to_their_top_classes_bound_every_class_of_the_linear_pool(k):
    rng = np.random.default_rng(8)
    p = np.maximum(rng.dirichlet(np.full(12, 0.4), (3, 300)), 1e-12)
    log_p = log_softmax(np.log(p))
    weights = rng.dirichlet(np.ones(3), 300).T
    pooled = np.exp(linear().fuse(log_p, weights))
    low, unknown = np.zeros_like(pooled), np.zeros_like(pooled)
    for teacher, weight in zip(log_p, weights, strict=True):
        kept, tail = cut(teacher, k)
        smallest = np.exp(np.where(kept, teacher, np.inf).min(axis=-1))
        low += weight[:, None] * np.where(kept, np.exp(teacher), 0.0)
        unknown += np.where(kept, 0.0, (weight * np.minimum(tail, smallest))[:, None])
    assert (pooled >= low - 1e-9).all()
    assert (pooled <= low + unknown + 1e-9).all()


def test_g29_the_geometric_pool_of_cut_teachers_is_bounded_by_nothing():
    """Two rows that a cut makes indistinguishable, and pools that are as far apart as can be."""
    sent = np.log([0.5, 0.5])  # class 0, and a bucket of two
    ends = []
    for share in (1e-300, 1 - 1e-15):
        row = np.array([sent[0], sent[1] + np.log(share), sent[1] + np.log1p(-share)])
        other = np.log([1e-6, 0.5, 0.5 - 1e-6])
        ends.append(np.exp(log_softmax((row + other) / 2)))
    assert ends[0][1] < 1e-100
    assert ends[1][1] > 0.99
