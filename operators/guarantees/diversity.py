"""How far the teachers are apart, and what that leaves for a student to lose."""

from itertools import combinations

import numpy as np

from operators.guarantees.batch import ODDS, Batch, InvalidBatch
from operators.guarantees.losses import geometric_gain
from operators.guarantees.quantity import Floats, Quantity, bounded, identity, measured
from operators.simplex import log_softmax


def divergence(p: Floats, q: Floats) -> Floats:
    """Return KL(p || q) of distributions given by their logarithms.

    KL(p || q) = sum_c p_c (log p_c - log q_c), 0 log 0 = 0

    Args:
        p: [..., C] log-probabilities; -inf allowed.
        q: broadcasts against p; where it is -inf and p is not, the divergence is infinite.

    Returns:
        [...], in nats.

    Example:
        >>> divergence(np.log([0.5, 0.5]), np.log([0.9, 0.1])).round(4).tolist()
        0.5108
    """
    possible = p > -np.inf
    difference = np.where(possible, p, 0.0) - np.where(possible, q, 0.0)
    return np.asarray((np.exp(p) * difference).sum(axis=-1))


def diversity(batch: Batch) -> tuple[Quantity, ...]:
    """Report the teachers' weighted Jensen-Shannon divergence, beside the most that the weights allow.

    JS_w = H(m) - sum_k w_k H(p_k) = sum_k w_k KL(p_k || m)
    0 <= JS_w <= H(w) <= log K

    It is the mutual information between a teacher drawn by weight and a class drawn from it: it cannot exceed
    the entropy of the draw, and reaches it where the teachers' supports are disjoint.

    Args:
        batch: log_probs [K, B, C], weights [K, B]; the pool and labels are not looked at.

    Returns:
        `diversity` (the mean JS_w, beside the mean H(w)), its worst row, and `diversity_share`, the ratio of
        the two means, beside 1 (0 where no row has two teachers).

    Example:
        >>> from operators.guarantees import gather
        >>> p = np.log([[[0.9, 0.1]], [[0.4, 0.6]]])
        >>> js, _, share = diversity(gather("linear", {}, p, [[0.5], [0.5]], np.log([[0.65, 0.35]])))
        >>> round(js.value, 4), round(js.bound, 4), round(share.value, 4)
        (0.1484, 0.6931, 0.2141)

    Source:
        Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on Information Theory
        37(1), 1991.
    """
    standing = batch.everywhere("the teachers and their weights")
    spread, most = jensen_shannon(batch), _entropy_of_weights(batch)
    mean, worst = bounded("diversity", spread, most, standing, least=0.0)
    share = spread.mean() / most.mean() if most.mean() > 0 else 0.0
    return (
        mean,
        worst,
        Quantity("diversity_share", float(share), 1.0, mean.holds, standing.theorem, standing.conditions),
    )


def jensen_shannon(batch: Batch) -> Floats:
    """Return JS_w = sum_k w_k KL(p_k || m) of every row, [B]; rounding never makes it negative."""
    return np.asarray(np.maximum(_mean_divergence(batch, batch.log_probs, batch.linear), 0.0))


def student_loss(batch: Batch, student: Floats | None = None) -> tuple[Quantity, ...]:
    """Report what a student loses against all teachers, and what part of it the right target would save.

    sum_k w_k KL(p_k || s) = KL(m || s) + JS_w     forward: least at s = m, the linear pool
    sum_k w_k KL(s || p_k) = KL(s || g) + G        reverse: least at s = g, the geometric pool

    So the linear pool is the target for students trained by forward KL (cross-entropy), the geometric one for
    those trained by reverse KL. The reverse identity is about the rows that have a geometric pool.

    Args:
        batch: log_probs [K, B, C], weights [K, B]; labels are not looked at.
        student: [B, C] log-probabilities of a student on the batch's rows; by default the pool itself, as a
            student that has learnt its target perfectly.

    Returns:
        `forward_loss` and `reverse_loss` (means of the left sides), `forward_excess` and `reverse_excess`
        (means of KL(m || s) and KL(s || g): what the other pool would save), and the residuals of both
        identities.

    Raises:
        InvalidBatch: student is of another shape than the pool, or holds NaN.

    Example:
        >>> from operators.guarantees import gather
        >>> p = np.log([[[0.9, 0.1]], [[0.4, 0.6]]])
        >>> batch = gather("linear", {}, p, [[0.5], [0.5]], np.log([[0.65, 0.35]]))
        >>> [(q.name, round(q.value, 4)) for q in student_loss(batch) if q.name.endswith("excess")]
        [('forward_excess', 0.0), ('reverse_excess', 0.0085)]

    Source:
        Wood, Mu, Webb, Reeve, Lujan and Brown, "A unified theory of diversity in ensemble learning", JMLR 24,
        2023.
    """
    standing = batch.everywhere("every student and every row")
    s = batch.pooled if student is None else np.asarray(student, dtype=np.float64)
    if s.shape != batch.pooled.shape or np.isnan(s).any():
        raise InvalidBatch(
            f"student has shape {s.shape}{' and holds NaN' if np.isnan(s).any() else ''}; it must hold "
            f"log-probabilities of shape {batch.pooled.shape}"
        )
    loss, excess = _mean_divergence(batch, batch.log_probs, s), np.maximum(divergence(batch.linear, s), 0.0)
    forward = (
        measured("forward_loss", loss.mean(), standing),
        measured("forward_excess", excess.mean(), standing),
        identity("forward_loss", loss, excess + jensen_shannon(batch), standing),
    )
    gain = geometric_gain(batch)
    rows = np.isfinite(gain)
    if not rows.any():
        return forward
    loss = _mean_divergence(batch, s, batch.log_probs)[rows]
    excess = np.maximum(divergence(s[rows], log_softmax(batch.mean_log[rows])), 0.0)
    return (
        *forward,
        measured("reverse_loss", loss.mean(), standing),
        measured("reverse_excess", excess.mean(), standing),
        identity("reverse_loss", loss, excess + gain[rows], standing),
    )


def disagreement(batch: Batch) -> tuple[Quantity, ...]:
    """Report how far the teachers' opinions reach, and how many teachers the weights amount to.

    diameter = max_{j, k} max_{c, d} |log (p_jc / p_jd) - log (p_kc / p_kd)|, teachers of positive weight only
    K_eff = 1 / sum_k w_k^2

    For a pool whose log-odds lie between its teachers', such as every power mean, diameter / T bounds by how
    much softening before the pool and softening behind it can differ, in log-odds. A class that one teacher
    holds impossible and another does not makes the diameter infinite; a class that both hold impossible is
    passed over.

    Args:
        batch: log_probs [K, B, C], weights [K, B]; labels are not looked at.

    Returns:
        `diameter` (mean), `diameter_worst_row`, `top1_agreement` (the share of rows on which all teachers
        rank the same class first; of equals the lowest index) and `effective_teachers` (mean K_eff).

    Example:
        >>> from operators.guarantees import gather
        >>> p = np.log([[[0.9, 0.1]], [[0.4, 0.6]]])
        >>> found = disagreement(gather("linear", {}, p, [[0.5], [0.5]], np.log([[0.65, 0.35]])))
        >>> [round(q.value, 4) for q in found]
        [2.6027, 2.6027, 0.0, 2.0]

    Source:
        Kish, "Survey sampling", 1965 (the effective number); Birkhoff, "Extensions of Jentzsch's theorem",
        Transactions of the AMS 85, 1957 (the projective metric).
    """
    standing = batch.standing(
        "pools whose log-odds lie between their teachers': diameter / T bounds by how much softening before "
        "the pool and behind it differ",
        here=batch.convexity >= ODDS,
    )
    distance = diameter(batch)
    first = batch.log_probs.argmax(axis=-1)
    return (
        measured("diameter", distance.mean(), standing),
        measured("diameter_worst_row", distance.max(), standing),
        measured(
            "top1_agreement",
            (first == first[0]).all(axis=0).mean(),
            batch.nowhere("it describes the teachers"),
        ),
        measured(
            "effective_teachers",
            (1 / (batch.weights**2).sum(axis=0)).mean(),
            batch.nowhere("it describes the weights"),
        ),
    )


def diameter(batch: Batch) -> Floats:
    """Return the largest Hilbert distance between two heard teachers of every row, [B]."""
    largest = np.zeros(batch.pooled.shape[0])
    for one, other in combinations(batch.log_probs, 2):
        same = one == other  # also where both are -inf
        difference = np.where(same, 0.0, one - np.where(same, 0.0, other))
        excluded = np.isneginf(one) & np.isneginf(other)
        high = np.where(excluded, -np.inf, difference).max(axis=-1)
        low = np.where(excluded, np.inf, difference).min(axis=-1)
        largest = np.maximum(largest, high - low)
    return largest


def _mean_divergence(batch: Batch, p: Floats, q: Floats) -> Floats:
    """sum_k w_k KL(p_k || q_k), where a teacher of weight 0 takes no part."""
    each = divergence(p, q)
    return np.asarray((batch.weights * np.where(batch.weights > 0, each, 0.0)).sum(axis=0))


def _entropy_of_weights(batch: Batch) -> Floats:
    w = batch.weights
    return np.asarray(-(w * np.log(np.where(w > 0, w, 1.0))).sum(axis=0))
