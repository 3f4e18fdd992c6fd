"""What a pool's systematic errors owe to its teachers'."""

import numpy as np

from operators.guarantees.batch import Batch, Integers
from operators.guarantees.quantity import Floats, Quantity, bounded, identity, measured


def bias(batch: Batch) -> tuple[Quantity, ...]:
    """Compare the pool's bias with its teachers' biases.

    b_k = mean_i (p_ki - e_{y_i}), a vector over the classes; b_A likewise for the pool
    linear: b_A = sum_k w_k b_k, so |b_A| <= sum_k w_k |b_k|
    |b_A|^2 = sum_k w_k |b_k|^2 - sum_k w_k |b_k - b_A|^2

    Norms are Euclidean. Attenuation is |b_A| / sum_k w_k |b_k|, between 0 and 1; **it is 1 where the
    teachers' biases point the same way, so nothing guarantees that pooling removes any**. Where weights
    differ from row to row, w_k b_k stands for mean_i w_ki (p_ki - e_{y_i}), and the last identity, which
    needs fixed weights, is left out.

    Args:
        batch: log_probs [K, B, C], weights [K, B], pooled [B, C], labels [B]. Without labels there is nothing
            to report. Labels are noisy draws: see the standard error beside the bias.

    Returns:
        `bias` (|b_A| beside sum_k w_k |b_k|), `bias_standard_error` (of the vector b_A: the root of the
        summed variances of its entries; infinite on one row), `bias_attenuation` beside 1 (0 where no teacher
        has a bias), and with fixed weights `bias_squared_residual`.

    Example:
        >>> from operators.guarantees import gather
        >>> p = np.log([[[0.9, 0.1], [0.6, 0.4]], [[0.4, 0.6], [0.3, 0.7]]])
        >>> pooled = np.log([[0.65, 0.35], [0.45, 0.55]])
        >>> batch = gather("linear", {}, p, np.full((2, 2), 0.5), pooled, labels=[0, 1])
        >>> [(q.name, round(q.value, 4)) for q in bias(batch)]  # doctest: +NORMALIZE_WHITESPACE
        [('bias', 0.0707), ('bias_standard_error', 0.5657), ('bias_attenuation', 0.25),
         ('bias_squared_residual', 0.0)]

    Source:
        Krogh and Vedelsby, "Neural network ensembles, cross validation, and active learning", NIPS 7, 1995.
    """
    rows = batch.labelled()
    if not rows.size:
        return ()
    own = _errors(batch, batch.pooled, rows)
    each = _errors(batch, batch.log_probs, rows)
    weights = batch.weights[:, rows]
    total = own.mean(axis=0)
    parts = (weights[..., None] * each).mean(axis=1)
    norm, most = _norm(total), _norm(parts).sum()
    standing = batch.standing(
        "the linear pool; it is no guarantee of a smaller bias, since biases may point the same way",
        here=batch.exponent == 1,
    )
    mean, _ = bounded("bias", norm, most, standing)
    spread = np.sqrt(own.var(axis=0, ddof=1).sum() / rows.size) if rows.size > 1 else np.inf
    attenuation = norm / most if most > 0 else 0.0
    found: tuple[Quantity, ...] = (
        mean,
        measured("bias_standard_error", spread, batch.nowhere("it is an estimate from these labels")),
        Quantity(
            "bias_attenuation", float(attenuation), 1.0, mean.holds, standing.theorem, standing.conditions
        ),
    )
    if (weights == weights[:, :1]).all():
        fixed, teachers = weights[:, 0], each.mean(axis=1)
        right = fixed @ _norm(teachers) ** 2 - fixed @ _norm(teachers - total) ** 2
        found += (identity("bias_squared", norm**2, right, standing),)
    return found


def teacher_biases(batch: Batch) -> tuple[Floats, Floats]:
    """Return every teacher's bias over the labelled rows, and its standard error.

    b_k(c) = mean_i (p_ki(c) - 1[y_i = c])

    Args:
        batch: with labels; a teacher is judged on all labelled rows, so one of weight 0 on some of them is
            judged there by what stands in for it (see `Batch`).

    Returns:
        Two arrays [K, C]: the biases, and their standard errors (infinite on one row). NaN where no row has a
        label.

    Example:
        >>> from operators.guarantees import gather
        >>> p = np.log([[[0.9, 0.1], [0.6, 0.4]]])
        >>> biases, errors = teacher_biases(gather("linear", {}, p, np.ones((1, 2)), p[0], labels=[0, 1]))
        >>> biases.round(3).tolist(), errors.round(3).tolist()
        ([[0.25, -0.25]], [[0.35, 0.35]])
    """
    rows = batch.labelled()
    if not rows.size:
        nothing = np.full((batch.log_probs.shape[0], batch.log_probs.shape[2]), np.nan)
        return nothing, nothing.copy()
    errors = _errors(batch, batch.log_probs, rows)
    biases = errors.mean(axis=1)
    if rows.size == 1:
        return biases, np.full_like(biases, np.inf)
    return biases, np.asarray(errors.std(axis=1, ddof=1) / np.sqrt(rows.size))


def _errors(batch: Batch, log_probs: Floats, rows: Integers) -> Floats:
    """P - e_y of the labelled rows, [..., n, C]."""
    assert batch.labels is not None
    errors = np.exp(log_probs[..., rows, :])
    errors[..., np.arange(rows.size), batch.labels[rows]] -= 1
    return errors


def _norm(x: Floats) -> Floats:
    return np.asarray(np.sqrt((x**2).sum(axis=-1)))
