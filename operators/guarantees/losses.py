"""What a pool's losses owe to its teachers' losses.

L(q) = -log q_y is the log-loss of a row at its label y. Statements for every label need no label, and are
reported without; those about the batch's own labels are reported where labels are known.
"""

import numpy as np

from operators.guarantees.batch import Batch
from operators.guarantees.quantity import Floats, Quantity, bounded, identity, measured, worst_excess
from operators.simplex import logsumexp

ONLY_LINEAR = "the linear pool, on every row and for every label"
ZERO_TO_ONE = (
    "power means with an exponent from 0 (geometric) to 1 (linear), on every row and for every label"
)


def jensen_gap(batch: Batch) -> tuple[Quantity, ...]:
    """Report what the linear pool gains on its teachers' weighted mean log-loss: up to Specht's bound.

    J_y = log A_y - sum_k w_k log p_ky
    0 <= J_y <= log S(max_k p_ky / min_k p_ky), teachers of positive weight only
    S(x) = (x - 1) x^(1 / (x - 1)) / (e ln x), S(1) = 1

    Both ends are attained. Where every teacher has probability 0 the gap is 0 by decision; where only some
    have, gap and bound are infinite.

    Args:
        batch: log_probs [K, B, C], weights [K, B], pooled [B, C]; labels [B] or None.

    Returns:
        `expected_jensen_gap`, averaged over the classes by the pool's own probabilities, which needs no
        labels; with labels `jensen_gap`; and the worst row of each.

    Example:
        >>> from operators.guarantees import gather
        >>> p = np.log([[[0.9, 0.1]], [[0.4, 0.6]]])
        >>> batch = gather("linear", {}, p, [[0.5], [0.5]], np.log([[0.65, 0.35]]), labels=[0])
        >>> gap = {quantity.name: quantity for quantity in jensen_gap(batch)}["jensen_gap"]
        >>> round(gap.value, 4), round(gap.bound, 4), gap.holds, gap.theorem
        (0.08, 0.0815, True, True)

    Source:
        Specht, "Zur Theorie der elementaren Mittel", Mathematische Zeitschrift 74, 1960.
    """
    standing = batch.standing(ONLY_LINEAR, here=batch.exponent == 1)
    gap = _difference(batch.pooled, batch.mean_log)
    bound = log_specht(_difference(batch.log_probs.max(axis=0), batch.log_probs.min(axis=0)))
    found: tuple[Quantity, ...] = bounded(
        "expected_jensen_gap",
        _expected(batch.pooled, gap),
        _expected(batch.pooled, bound),
        standing,
        least=0.0,
    )
    if batch.labelled().size:
        found += bounded("jensen_gap", batch.at_label(gap), batch.at_label(bound), standing, least=0.0)
    return found


def log_specht(log_ratio: Floats) -> Floats:
    """Return the logarithm of Specht's ratio S(x) at log x.

    log S = log((x - 1) / ln x) + ln x / (x - 1) - 1

    Args:
        log_ratio: log x >= 0, any shape; inf allowed.

    Returns:
        The same shape; about (log x)^2 / 8 near 0, where the formula itself would lose all digits.

    Example:
        >>> log_specht(np.log([1.0, 2.25, 1e9])).round(4).tolist()
        [0.0, 0.0815, 16.692]
    """
    t = np.asarray(log_ratio, dtype=np.float64)
    near = t <= 1e-2  # noqa: PLR2004 - there the series' next term is below 1e-15
    small = np.where(near, t, 0.0)
    series = small**2 / 8 - small**4 / 576
    safe = np.where(near | np.isinf(t), 1.0, t)
    rest = -np.expm1(-safe)  # 1 - 1 / x
    exact = safe + np.log(rest / safe) + safe * np.exp(-safe) / rest - 1
    return np.asarray(np.where(np.isinf(t), np.inf, np.where(near, series, exact)))


def log_loss(batch: Batch) -> tuple[Quantity, ...]:
    """Compare the pool's log-loss with its teachers' weighted mean.

    L(A) <= sum_k w_k L(p_k)

    A theorem for the power means with exponent 0 <= r <= 1 and for no other: the power mean is at least the
    geometric one, and its normaliser at most 1. Outside, both negative and larger exponents exceed the mean.

    Args:
        batch: log_probs [K, B, C], weights [K, B], pooled [B, C]; labels [B] or None.

    Returns:
        `log_loss_every_label_worst_excess`, over rows and classes, without labels; with labels `log_loss` and
        its worst row.

    Example:
        >>> from operators.guarantees import gather
        >>> p = np.log([[[0.9, 0.1]], [[0.4, 0.6]]])
        >>> batch = gather("linear", {}, p, [[0.5], [0.5]], np.log([[0.65, 0.35]]), labels=[0])
        >>> _, mean, _ = log_loss(batch)
        >>> round(mean.value, 4), round(mean.bound, 4), mean.holds
        (0.4308, 0.5108, True)

    Source:
        Hardy, Littlewood and Polya, "Inequalities", 2.9 (power means increase with their exponent).
    """
    standing = batch.standing(ZERO_TO_ONE, here=batch.exponent_within(0, 1))
    loss, mean = -batch.pooled, -batch.mean_log
    found: tuple[Quantity, ...] = (worst_excess("log_loss_every_label", loss, mean, standing),)
    if batch.labelled().size:
        found += bounded("log_loss", batch.at_label(loss), batch.at_label(mean), standing)
    return found


def each_teacher(batch: Batch) -> tuple[Quantity, ...]:
    """Compare the pool's log-loss with each teacher's.

    min_k L(p_k) <= L(A) <= min_k (L(p_k) + log 1 / w_k), and L(A) <= max_k L(p_k)

    On a row the linear pool lies above its best teacher; over a data set it may well lie below. No other
    power mean has a bound by each teacher: with r <= 0 a single veto costs everything. But with r <= 1 each
    lies below its worst teacher.

    Args:
        batch: log_probs [K, B, C], weights [K, B], pooled [B, C]; labels [B] or None.

    Returns:
        `each_teacher_every_label_worst_excess` of L(A) over L(p_k) + log 1 / w_k, over rows, teachers and
        classes. With labels also: `log_loss_against_each_teacher`, the mean L(A) beside the smallest of the
        teachers' mean bounds; `log_loss_against_worst_teacher`, the mean L(A) beside the mean over rows of
        max_k L(p_k), and its worst row; `oracle_log_loss`, the mean of min_k L(p_k) beside the mean L(A), and
        its worst row; and `best_teacher_log_loss`, the smallest mean of a teacher that is heard on all rows,
        if there is one.

    Example:
        >>> from operators.guarantees import gather
        >>> p = np.log([[[0.9, 0.1]], [[0.4, 0.6]]])
        >>> batch = gather("linear", {}, p, [[0.5], [0.5]], np.log([[0.65, 0.35]]), labels=[0])
        >>> [(round(q.value, 4), round(q.bound, 4)) for q in each_teacher(batch)[:2]]
        [(-0.1542, 0.0), (0.4308, 0.7985)]

    Source:
        Cesa-Bianchi and Lugosi, "Prediction, learning, and games", 2006, 9.2 (the mixture forecaster).
    """
    standing = batch.standing(ONLY_LINEAR, here=batch.exponent == 1)
    with np.errstate(divide="ignore"):
        allowed = -batch.log_probs - np.log(batch.weights)[..., None]
    every = worst_excess("each_teacher_every_label", -batch.pooled[None], allowed, standing)
    if not batch.labelled().size:
        return (every,)
    loss, losses = batch.at_label(-batch.pooled), batch.at_label(-batch.log_probs)
    # The mean is bounded teacher by teacher, so by the smallest of those bounds.
    least = batch.at_label(allowed).mean(axis=-1).min()
    against_each = Quantity(
        "log_loss_against_each_teacher",
        float(loss.mean()),
        float(least),
        worst_excess("", loss.mean(), least, standing).holds,
        standing.theorem,
        standing.conditions,
    )
    hull = "operators that answer within the teachers' convex hull, such as the linear pool, on every row"
    worst = batch.standing(
        f"{hull}, and for power means with an exponent of at most 1",
        here=batch.in_hull() or batch.exponent_within(-np.inf, 1),
    )
    oracle = batch.standing(hull, here=batch.in_hull())
    found: tuple[Quantity, ...] = (
        every,
        against_each,
        *bounded("log_loss_against_worst_teacher", loss, losses.max(axis=0), worst),
        *bounded("oracle_log_loss", losses.min(axis=0), loss, oracle),
    )
    heard = (batch.weights[:, batch.labelled()] > 0).all(axis=-1)
    if heard.any():
        best = losses[heard].mean(axis=-1).min()
        reason = "the pool of a data set may lie above its best teacher or below"
        found += (measured("best_teacher_log_loss", best, batch.nowhere(reason)),)
    return found


def kl_ambiguity(batch: Batch) -> tuple[Quantity, ...]:
    """Report by how much the geometric pool beats its teachers' mean log-loss: the same for every label.

    L(g) = sum_k w_k L(p_k) - G
    G = -log sum_c prod_k p_kc^w_k = sum_k w_k KL(g || p_k) >= 0

    G needs no labels. It is infinite where the teachers share no class, and there is no geometric pool.

    Args:
        batch: log_probs [K, B, C], weights [K, B], pooled [B, C]; labels are not looked at.

    Returns:
        `kl_ambiguity`, the mean G, and `kl_ambiguity_residual`, by how much the identity is missed by the
        pool at the worst row and class.

    Example:
        >>> from operators.guarantees import gather
        >>> p = np.log([[[0.40, 0.58, 0.02]], [[0.40, 0.02, 0.58]]])
        >>> batch = gather("geometric", {}, p, [[0.5], [0.5]], np.log([[0.65, 0.175, 0.175]]), tolerance=1e-4)
        >>> ambiguity, residual = kl_ambiguity(batch)
        >>> round(ambiguity.value, 4), residual.holds, residual.theorem
        (0.4855, True, True)

    Source:
        Heskes, "Selecting weighting factors in logarithmic opinion pools", NIPS 10, 1997.
    """
    standing = batch.standing(
        "the geometric pool, on every row and for every label", here=batch.exponent == 0
    )
    mean = batch.mean_log
    gain = geometric_gain(batch)[:, None]
    impossible = np.isneginf(mean)
    right = np.where(impossible, np.inf, -mean - np.where(impossible, 0.0, gain))
    return (
        measured("kl_ambiguity", gain.mean(), standing),
        identity("kl_ambiguity", -batch.pooled, right, standing),
    )


def geometric_gain(batch: Batch) -> Floats:
    """Return G = -log sum_c prod_k p_kc^w_k of every row, [B]; rounding never makes it negative."""
    return np.asarray(np.maximum(-logsumexp(batch.mean_log), 0.0))


def brier_ambiguity(batch: Batch) -> tuple[Quantity, ...]:
    """Report by how much the linear pool beats its teachers' mean Brier score: the same for every label.

    |m - e_y|^2 = sum_k w_k |p_k - e_y|^2 - sum_k w_k |p_k - m|^2

    Args:
        batch: log_probs [K, B, C], weights [K, B], pooled [B, C]; labels [B] or None.

    Returns:
        `brier_ambiguity`, the mean of the last term with the pool in m's place, without labels; with labels
        `brier` beside the teachers' weighted mean, its worst row, and `brier_ambiguity_residual`.

    Example:
        >>> from operators.guarantees import gather
        >>> p = np.log([[[0.9, 0.1]], [[0.4, 0.6]]])
        >>> batch = gather("linear", {}, p, [[0.5], [0.5]], np.log([[0.65, 0.35]]), labels=[0])
        >>> ambiguity, brier, *_ = brier_ambiguity(batch)
        >>> round(ambiguity.value, 4), round(brier.value, 4), round(brier.bound, 4)
        (0.125, 0.245, 0.37)

    Source:
        Krogh and Vedelsby, "Neural network ensembles, cross validation, and active learning", NIPS 7, 1995.
    """
    standing = batch.standing(ONLY_LINEAR, here=batch.exponent == 1)
    teachers, pool = np.exp(batch.log_probs), np.exp(batch.pooled)
    spread = _weighted(batch.weights, ((teachers - pool) ** 2).sum(axis=-1))
    found: tuple[Quantity, ...] = (measured("brier_ambiguity", spread.mean(), standing),)
    rows = batch.labelled()
    if rows.size:
        scores = _brier(batch, teachers)
        mean, own = _weighted(batch.weights[:, rows], scores), _brier(batch, pool)
        found += bounded("brier", own, mean, standing)
        found += (identity("brier_ambiguity", own, mean - spread[rows], standing),)
    return found


def _brier(batch: Batch, probabilities: Floats) -> Floats:
    """|p - e_y|^2 of the labelled rows."""
    chosen = batch.at_label(probabilities)
    squares = (probabilities[..., batch.labelled(), :] ** 2).sum(axis=-1)
    return np.asarray(squares - 2 * chosen + 1)


def _weighted(weights: Floats, values: Floats) -> Floats:
    return np.asarray((weights * values).sum(axis=0))


def _difference(larger: Floats, smaller: Floats) -> Floats:
    """Subtract where equal infinities differ by 0."""
    same = larger == smaller
    return np.asarray(np.where(same, 0.0, larger - np.where(same, 0.0, smaller)))


def _expected(log_probs: Floats, values: Floats) -> Floats:
    """sum_c q_c x_c, where 0 times anything is 0."""
    possible = log_probs > -np.inf
    return np.asarray((np.exp(log_probs) * np.where(possible, values, 0.0)).sum(axis=-1))
