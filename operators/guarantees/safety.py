"""How much probability a pool gives to a set of classes that it should not."""

from collections.abc import Iterable

import numpy as np

from operators.guarantees.batch import Batch, unsafe_classes
from operators.guarantees.quantity import Floats, Quantity, Standing, bounded, measured
from operators.simplex import logsumexp, weighted_logsumexp, weighted_sum

HULL_ONLY = "operators that answer within the teachers' convex hull, such as the linear pool, on every row"


def safety(batch: Batch, unsafe: Iterable[int]) -> tuple[Quantity, ...]:
    """Compare the mass that the pool gives to a set U of classes with what its teachers give to it.

    s_A = sum_{c in U} A_c, s_k = sum_{c in U} p_kc
    linear: s_A = sum_k w_k s_k <= max_k s_k
    power mean, r <= 1: s_A <= M_r(s_1, ..., s_K) / Z_r <= sum_k w_k s_k / Z_r

    with M_r the weighted power mean and Z_r = sum_c M_r(p_1c, ..., p_Kc) the pool's normaliser; for the
    geometric pool the first bound is prod_k s_k^w_k / Z. **Z_r < 1 for r < 1 where the teachers disagree, so
    these bounds may lie above the worst teacher, and so may the pool**: two teachers (.40, .58, .02) and
    (.40, .02, .58) both give class 0 a probability of .40, and the geometric pool gives it .65.

    Args:
        batch: log_probs [K, B, C], weights [K, B], pooled [B, C]; labels are not looked at.
        unsafe: the class indices of U. Without any there is nothing to report.

    Returns:
        `unsafe_mass` (means of s_A and of sum_k w_k s_k) and its worst row; `unsafe_ratio_to_mean` and
        `unsafe_ratio_to_worst_teacher`, the largest ratio s_A / sum_k w_k s_k and s_A / max_k s_k of a row (0
        / 0 is 0), beside 1; `unsafe_rows_above_worst_teacher`, a count, beside 0; and for power means
        `unsafe_certificate` (means of s_A and of its bound M_r / Z_r), `unsafe_weighted_certificate` (of
        sum_k w_k s_k / Z_r), their worst rows, and `unsafe_normaliser` (mean Z_r).

    Raises:
        InvalidBatch: an index is no class.

    Example:
        >>> from operators import geometric
        >>> from operators.guarantees import gather
        >>> p, w = np.log([[[0.40, 0.58, 0.02]], [[0.40, 0.02, 0.58]]]), np.array([[0.5], [0.5]])
        >>> found = safety(gather("geometric", {}, p, w, geometric().fuse(p, w)), [0])
        >>> for name in ("unsafe_mass", "unsafe_rows_above_worst_teacher", "unsafe_certificate"):
        ...     quantity = next(q for q in found if q.name == name)
        ...     figures = [round(quantity.value, 2), round(quantity.bound, 2)]
        ...     print(name, figures, quantity.holds, quantity.theorem)
        unsafe_mass [0.65, 0.4] False False
        unsafe_rows_above_worst_teacher [1.0, 0.0] False False
        unsafe_certificate [0.65, 0.65] True True

    Source:
        Hardy, Littlewood and Polya, "Inequalities", 2.10 and 2.11 (Holder's and Minkowski's inequalities).
    """
    classes = unsafe_classes(unsafe, batch.pooled.shape[-1])
    if not classes.size:
        return ()
    log_masses = np.asarray(logsumexp(batch.log_probs[..., classes]))
    mass, masses = np.exp(logsumexp(batch.pooled[:, classes])), np.exp(log_masses)
    mean, worst = (batch.weights * masses).sum(axis=0), masses.max(axis=0)
    linear = batch.standing("the linear pool, on every row", here=batch.exponent == 1)
    hull = batch.standing(HULL_ONLY, here=batch.in_hull())
    above = int(np.count_nonzero(mass > worst * (1 + batch.tolerance)))
    found = (
        *bounded("unsafe_mass", mass, mean, linear),
        _largest_ratio("unsafe_ratio_to_mean", mass, mean, linear),
        _largest_ratio("unsafe_ratio_to_worst_teacher", mass, worst, hull),
        Quantity(
            "unsafe_rows_above_worst_teacher", float(above), 0.0, above == 0, hull.theorem, hull.conditions
        ),
    )
    if batch.exponent is None:
        return found
    certified = batch.standing(
        "power means with an exponent of at most 1, on every row; it may lie above the worst teacher",
        here=batch.exponent <= 1,
    )
    log_total = logsumexp(log_power_mean(batch.log_probs, batch.weights, batch.exponent))
    log_bound = log_power_mean(log_masses[..., None], batch.weights, batch.exponent)[..., 0] - log_total
    with np.errstate(divide="ignore", over="ignore"):
        bound, weaker = np.exp(log_bound), np.exp(np.log(mean) - log_total)
    return (
        *found,
        *bounded("unsafe_certificate", mass, bound, certified),
        *bounded("unsafe_weighted_certificate", mass, weaker, certified),
        measured("unsafe_normaliser", np.exp(log_total).mean(), certified),
    )


def log_power_mean(x: Floats, weights: Floats, exponent: float) -> Floats:
    """Return the logarithm of the weighted power mean of the teachers' values, not normalised.

    log M_r = log(sum_k w_k exp(r x_k)) / r, and sum_k w_k x_k for r = 0

    Args:
        x: [K, B, C] logarithms; -inf allowed, and with r <= 0 a veto.
        weights: [K, B].
        exponent: r.

    Returns:
        [B, C].

    Example:
        >>> x = np.log([[[0.9]], [[0.4]]])
        >>> w = np.array([[0.5], [0.5]])
        >>> [round(float(np.exp(log_power_mean(x, w, r))[0, 0]), 4) for r in (-1, 0, 1)]
        [0.5538, 0.6, 0.65]
    """
    if exponent == 0:
        return np.asarray(weighted_sum(x, weights))
    if exponent > 0:
        return np.asarray(weighted_logsumexp(x * exponent, weights)) / exponent
    vetoed = (np.isneginf(x) & (weights > 0)[..., None]).any(axis=0)
    mean = np.asarray(weighted_logsumexp(np.where(vetoed, 0.0, x) * exponent, weights)) / exponent
    return np.asarray(np.where(vetoed, -np.inf, mean))


def _largest_ratio(name: str, mass: Floats, reference: Floats, standing: Standing) -> Quantity:
    with np.errstate(divide="ignore", over="ignore"):
        ratio = np.where(mass > 0, mass / np.where(mass > 0, reference, 1.0), 0.0).max()
    holds = bool(ratio <= 1 + standing.tolerance)
    return Quantity(name, float(ratio), 1.0, holds, standing.theorem, standing.conditions)
