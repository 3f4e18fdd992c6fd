"""How much a pool's answer varies when its teachers are trained again, and the weights that vary it least.

All of it is about replicas: the same teachers trained anew from other seeds or samples. Residuals against
labels are no substitute: label noise is common to all teachers, and makes independent errors look correlated.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from operators.base import Parameters
from operators.guarantees.batch import InvalidBatch, gather
from operators.guarantees.quantity import Floats, Quantity, Standing, bounded, identity, measured


def effective_teachers(weights: npt.ArrayLike) -> Floats:
    """Return how many equal teachers the weights amount to.

    K_eff = 1 / sum_k w_k^2

    Args:
        weights: [K] or [K, B], non-negative, summing to one over K.

    Returns:
        [] or [B], from 1 to K.

    Example:
        >>> effective_teachers([0.5, 0.25, 0.25]).round(4).tolist()
        2.6667

    Source:
        Kish, "Survey sampling", 1965.
    """
    return np.asarray(1 / (np.asarray(weights, dtype=np.float64) ** 2).sum(axis=0))


def weighted_variance(weights: npt.ArrayLike, deviations: npt.ArrayLike, correlation: float) -> float:
    """Return the variance of a weighted mean of errors that are all equally correlated.

    Var = (1 - rho) sum_k w_k^2 sigma_k^2 + rho (sum_k w_k sigma_k)^2
    equal sigma: sigma^2 ((1 - rho) / K_eff + rho), so never below rho sigma^2, however many teachers

    Args:
        weights: [K], summing to one.
        deviations: [K], the standard deviations sigma_k >= 0.
        correlation: rho, from -1 / (K - 1) to 1: less is no correlation of K variables.

    Returns:
        The variance; at most sum_k w_k sigma_k^2.

    Raises:
        InvalidBatch: the arrays differ in shape, a deviation is negative, or rho is outside its range.

    Example:
        >>> round(weighted_variance([0.25] * 4, [1.0] * 4, 0.2), 4)
        0.4

    Source:
        Tumer and Ghosh, "Error correlation and error reduction in ensemble classifiers", Connection Science
        8, 1996.
    """
    w, sigma = np.asarray(weights, dtype=np.float64), np.asarray(deviations, dtype=np.float64)
    if w.ndim != 1 or w.shape != sigma.shape or not (sigma >= 0).all():
        raise InvalidBatch(
            f"weights and deviations are {w.tolist()} and {sigma.tolist()}; they must be one number a "
            "teacher, and deviations non-negative"
        )
    least = -1 / (w.size - 1) if w.size > 1 else -1.0
    if not least - 1e-12 <= correlation <= 1:  # 1e-12: -1 / (K - 1) may have been rounded
        raise InvalidBatch(
            f"correlation is {correlation}; {w.size} teachers can be equally correlated from {least:.6g} to 1"
        )
    return float((1 - correlation) * (w**2 @ sigma**2) + correlation * (w @ sigma) ** 2)


def variance(
    operator_name: str,
    parameters: Mapping[str, Any] | Parameters,
    replicas: npt.ArrayLike,
    weights: npt.ArrayLike,
    pooled: npt.ArrayLike,
) -> tuple[Quantity, ...]:
    """Compare the pool's variance over replicas of its teachers with the teachers' own.

    Var(A) = w' S w <= sum_k w_k S_kk, S the covariance of the teachers over the replicas

    It is about probabilities for the linear pool, and for the geometric pool about log-odds:
    log-probabilities less their mean over the classes. For every other operator the probabilities' variance
    is reported as found.

    Args:
        operator_name: the operator's name.
        parameters: its parameters.
        replicas: [R, K, B, C], R >= 2: the log-probabilities of K teachers trained R times; for the geometric
            pool without -inf.
        weights: [K, B], the same for all replicas.
        pooled: [R, B, C], what the operator answered to each.

    Returns:
        `variance` (mean over rows and classes of the pool's variance, beside the teachers' weighted mean) and
        its worst row and class; `variance_residual`, of the formula w' S w at the worst row and class;
        `correlation`, the mean correlation of two teachers, weighted by their deviations;
        `variance_by_correlation`, the mean of the formula of `weighted_variance` with it; and
        `variance_floor`, rho times the squared weighted mean deviation, which no number of such teachers
        undercuts.

    Raises:
        InvalidBatch: shapes do not fit, a row has no distribution, or the geometric pool's rows hold -inf.

    Example:
        >>> from operators import linear
        >>> rng = np.random.default_rng(0)
        >>> p = np.log(rng.dirichlet(np.ones(3), (50, 4, 2)))
        >>> w = np.full((4, 2), 0.25)
        >>> found = variance("linear", {}, p, w, np.stack([linear().fuse(x, w) for x in p]))
        >>> found[0].value < found[0].bound, found[0].theorem, found[2].name, found[2].holds
        (True, True, 'variance_residual', True)

    Source:
        Tumer and Ghosh, "Error correlation and error reduction in ensemble classifiers", Connection Science
        8, 1996; Gupta, Smith, Adlam and Mariet, "Ensembles of classifiers: a bias-variance perspective", TMLR
        2022 (the geometric pool).
    """
    opinions, answers, shares = np.asarray(replicas), np.asarray(pooled), np.asarray(weights)
    if (
        opinions.ndim != 4  # noqa: PLR2004 - replicas, teachers, rows, classes
        or opinions.shape[0] < 2  # noqa: PLR2004 - a variance needs two
        or answers.shape != opinions.shape[:1] + opinions.shape[2:]
        or shares.shape != opinions.shape[1:3]
    ):
        raise InvalidBatch(
            f"replicas has shape {opinions.shape}, pooled {answers.shape} and weights {shares.shape}; they "
            "must be [R, K, B, C] with R at least 2, [R, B, C] and [K, B]"
        )
    runs, teachers, rows, classes = opinions.shape
    # One batch of R * B rows: replica by replica, row by row.
    batch = gather(
        operator_name,
        parameters,
        np.moveaxis(opinions, 0, 1).reshape(teachers, runs * rows, classes),
        np.tile(shares, (1, runs)),
        answers.reshape(runs * rows, classes),
    )
    if len(batch.pooled) < runs * rows:
        raise InvalidBatch("replicas or pooled hold NaN; leave out the rows without a pool in every replica")
    standing = batch.standing(
        "the linear pool in probabilities and the geometric pool in log-odds", here=batch.exponent in (0, 1)
    )
    scale = _log_odds if batch.exponent == 0 else np.exp
    w = batch.weights[:, :rows]
    x = scale(batch.log_probs).reshape(teachers, runs, rows, classes)
    a = scale(batch.pooled).reshape(runs, rows, classes)
    centred = x - x.mean(axis=1, keepdims=True)
    covariance = np.einsum("jrbc,krbc->bcjk", centred, centred) / (runs - 1)
    spread = np.einsum("jb,bcjk,kb->bc", w, covariance, w)
    each = np.einsum("kb,bckk->bc", w, covariance)
    own = a.var(axis=0, ddof=1)
    return (
        *bounded("variance", own, each, standing),
        identity("variance", own, spread, standing),
        *_equally_correlated(
            covariance, w, batch.nowhere("it takes all pairs of teachers as equally correlated")
        ),
    )


def optimal_weights(covariance: npt.ArrayLike, *, sign: str = "non-negative") -> Floats:
    """Return the weights under which a linear pool's variance is least.

    min_w w' S w, sum_k w_k = 1; without a sign: w = S^-1 1 / (1' S^-1 1)

    Args:
        covariance: S [K, K], symmetric and positive definite: shrink an estimate towards its diagonal first.
        sign: "non-negative" (weights that a pool accepts) or "any" (the closed form, which may have negative
            entries).

    Returns:
        [K], summing to one.

    Raises:
        InvalidBatch: S is not symmetric and positive definite, or sign is another word.

    Example:
        >>> optimal_weights([[1.0, 0.0], [0.0, 3.0]]).round(4).tolist()
        [0.75, 0.25]
        >>> optimal_weights([[1.0, 1.8], [1.8, 4.0]], sign="any").round(4).tolist()
        [1.5714, -0.5714]
        >>> optimal_weights([[1.0, 1.8], [1.8, 4.0]]).round(4).tolist()
        [1.0, 0.0]

    Source:
        Bates and Granger, "The combination of forecasts", Operational Research Quarterly 20, 1969; Lawson and
        Hanson, "Solving least squares problems", 1974, chapter 23 (the active set).
    """
    s = np.asarray(covariance, dtype=np.float64)
    if sign not in ("non-negative", "any"):
        raise InvalidBatch(f"sign is {sign!r}; it must be 'non-negative' or 'any'")
    square = s.ndim == 2 and s.shape[0] == s.shape[1] and s.size > 0  # noqa: PLR2004
    if (
        not square
        or not (np.isfinite(s).all() and np.allclose(s, s.T, atol=0))
        or not np.linalg.eigvalsh(s)[0] > 0
    ):
        raise InvalidBatch(
            "covariance must be a symmetric positive definite matrix; shrink an estimate towards its "
            "diagonal first"
        )
    x = np.linalg.solve(s, np.ones(len(s))) if sign == "any" else _non_negative(s)
    return np.asarray(x / x.sum())


def best_variance(covariance: npt.ArrayLike, weights: npt.ArrayLike) -> Quantity:
    """Report the least variance that non-negative weights reach, beside that of the weights in use.

    Args:
        covariance: S [K, K], as for `optimal_weights`.
        weights: [K] in use.

    Returns:
        `best_variance`, min_w w' S w beside w' S w.

    Raises:
        InvalidBatch: as `optimal_weights`.

    Example:
        >>> found = best_variance([[1.0, 0.0], [0.0, 3.0]], [0.5, 0.5])
        >>> found.value, found.bound, found.holds
        (0.75, 1.0, True)
    """
    s, w = np.asarray(covariance, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    best = optimal_weights(s)
    value, bound = float(best @ s @ best), float(w @ s @ w)
    return Quantity(
        "best_variance",
        value,
        bound,
        value <= bound * (1 + 1e-9),
        theorem=True,
        conditions="Theorem for operators linear in the weights, on the covariance's own data.",
    )


def _non_negative(s: Floats) -> Floats:
    """Minimise x' S x / 2 - sum x over x >= 0 by an active set; its direction is the best weight."""
    x = np.zeros(len(s))
    free = np.zeros(len(s), dtype=bool)
    slack = 1e-12 * len(s)  # of a gradient that starts at 1, whatever the scale of S
    while True:
        gradient = np.where(free, -np.inf, 1 - s @ x)
        if gradient.max() <= slack:
            return x
        free[gradient.argmax()] = True
        while True:
            trial = np.zeros(len(s))
            trial[free] = np.linalg.solve(s[np.ix_(free, free)], np.ones(free.sum()))
            if (trial[free] > 0).all():
                x = trial
                break
            # Walk towards the trial until the first entry reaches 0, and hold that one there.
            steps = np.full(len(s), np.inf)
            blocking = free & (trial <= 0)
            steps[blocking] = x[blocking] / (x[blocking] - trial[blocking])
            x = x + steps.min() * (trial - x)
            free &= steps > steps.min()
            x[~free] = 0.0


def _equally_correlated(covariance: Floats, w: Floats, standing: Standing) -> tuple[Quantity, ...]:
    sigma = np.sqrt(np.einsum("bckk->bck", covariance))
    teachers = sigma.shape[-1]
    products = sigma[..., :, None] * sigma[..., None, :]
    apart = ~np.eye(teachers, dtype=bool)
    scale = products[..., apart].sum()
    rho = float(covariance[..., apart].sum() / scale) if scale > 0 else 0.0
    square = ((w.T[:, None, :] * sigma).sum(axis=-1) ** 2).mean()
    own = (w.T[:, None, :] ** 2 * sigma**2).sum(axis=-1).mean()
    return (
        measured("correlation", rho, standing),
        measured("variance_by_correlation", (1 - rho) * own + rho * square, standing),
        measured("variance_floor", max(rho, 0.0) * square, standing),
    )


def _log_odds(log_probs: Floats) -> Floats:
    if np.isinf(log_probs).any():
        raise InvalidBatch("log-odds of a class of probability 0 are infinite; floor the rows first")
    return np.asarray(log_probs - log_probs.mean(axis=-1, keepdims=True))
