"""Whether two operators can be told apart by what they answer."""

import numpy as np
import numpy.typing as npt

from operators.guarantees.batch import InvalidBatch
from operators.guarantees.quantity import Floats, Quantity

SMALLEST_DISTANCE = 0.005  # mean total variation below which two operators answer the same for all purposes
STANDARD_ERRORS = 2.0  # a difference in loss of fewer is none


def identifiability(
    pooled: npt.ArrayLike, other: npt.ArrayLike, labels: npt.ArrayLike | None = None
) -> tuple[Quantity, ...]:
    """Compare two operators' answers to the same rows, and say whether anything tells them apart.

    TV = mean_i sum_c |A_ic - B_ic| / 2
    D = mean_i (L_i(A) - L_i(B)), s.e. = sd_i / sqrt n, paired over the labelled rows

    Not separable if TV < 0.005, or |D| < 2 s.e., or there are no two labels to take D from: then the simpler
    operator should be kept. Nothing here is a bound: it is a measurement on these rows.

    Args:
        pooled: [B, C] log-probabilities of the one; -inf allowed.
        other: [B, C] of the other, on the same rows.
        labels: [B] class indices, -1 where unknown; or None.

    Returns:
        `total_variation`; with two labels or more `log_loss_difference` (D, negative where the one is better)
        and `log_loss_difference_standard_error`; `separable`, 1 or 0, with the verdict in its conditions.
        Rows on which either is NaN are left out. A difference of infinite losses has an infinite standard
        error.

    Raises:
        InvalidBatch: shapes differ, no row is left, or a label is no class.

    Example:
        >>> one, two = np.log([[0.65, 0.35], [0.3, 0.7]]), np.log([[0.64, 0.36], [0.29, 0.71]])
        >>> for quantity in identifiability(one, two, [0, 1]):
        ...     print(quantity.name, round(quantity.value, 4))
        total_variation 0.01
        log_loss_difference -0.0007
        log_loss_difference_standard_error 0.0148
        separable 0.0
    """
    one, two = np.asarray(pooled, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if one.ndim != 2 or one.shape != two.shape:  # noqa: PLR2004 - rows, classes
        raise InvalidBatch(f"pooled has shape {one.shape} and other {two.shape}; both must be [B, C]")
    kept = np.asarray(~(np.isnan(one) | np.isnan(two)).any(axis=-1))
    if not kept.any():
        raise InvalidBatch("no row has both pools: there is nothing to compare")
    distance = float(np.abs(np.exp(one[kept]) - np.exp(two[kept])).sum(axis=-1).mean() / 2)
    found = [_measurement("total_variation", distance)]
    differences = np.empty(0) if labels is None else _differences(one, two, np.asarray(labels), kept)
    if differences.size > 1:
        mean, error = _mean_and_error(differences)
        found += [
            _measurement("log_loss_difference", mean),
            _measurement("log_loss_difference_standard_error", error),
        ]
        unclear = abs(mean) < STANDARD_ERRORS * error or mean == 0
        reason = f"losses differ by {mean:.3g}, less than {STANDARD_ERRORS:g} standard errors ({error:.3g})"
    else:
        unclear = True
        reason = "without at least two labelled rows nothing says which is better"
    if distance < SMALLEST_DISTANCE:
        unclear = True
        reason = f"the mean total variation is {distance:.3g}, below {SMALLEST_DISTANCE}"
    verdict = (
        f"Not separable, keep the simpler operator: {reason}." if unclear else "Separable on these rows."
    )
    return (*found, Quantity("separable", float(not unclear), None, None, theorem=False, conditions=verdict))


def _differences(
    one: Floats, two: Floats, labels: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]
) -> Floats:
    rows, classes = one.shape
    if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidBatch(f"labels has shape {labels.shape}; it must hold {rows} integers, one a row")
    if labels.min() < -1 or labels.max() >= classes:
        raise InvalidBatch(f"a label is a class from 0 to {classes - 1}, or -1 where it is unknown")
    known = np.flatnonzero(kept & (labels >= 0))
    first, second = one[known, labels[known]], two[known, labels[known]]
    same = first == second  # also where both losses are infinite
    return np.asarray(np.where(same, 0.0, second - np.where(same, 0.0, first)))


def _mean_and_error(differences: Floats) -> tuple[float, float]:
    if not np.isfinite(differences).all():
        finite = differences[np.isfinite(differences)]
        return float(finite.mean()) if finite.size else 0.0, float("inf")
    return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(differences.size))


def _measurement(name: str, value: float) -> Quantity:
    return Quantity(name, value, None, None, theorem=False, conditions="A measurement for every operator.")
