"""What pooling guarantees, as figures with their bounds beside them.

Every function says of each figure whether its bound is a theorem for the operator at hand. Which statement
holds for whom, and why, is told with short proofs in docs/guarantees.md.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt

from operators.base import Parameters
from operators.guarantees.batch import Batch, InvalidBatch, gather, unsafe_classes
from operators.guarantees.bias import bias, teacher_biases
from operators.guarantees.diversity import disagreement, divergence, diversity, student_loss
from operators.guarantees.identifiability import identifiability
from operators.guarantees.losses import (
    brier_ambiguity,
    each_teacher,
    jensen_gap,
    kl_ambiguity,
    log_loss,
    log_specht,
)
from operators.guarantees.quantity import Quantity
from operators.guarantees.safety import safety
from operators.guarantees.variance import (
    best_variance,
    effective_teachers,
    optimal_weights,
    variance,
    weighted_variance,
)

__all__ = [
    "Batch",
    "InvalidBatch",
    "Quantity",
    "best_variance",
    "bias",
    "brier_ambiguity",
    "disagreement",
    "divergence",
    "diversity",
    "each_teacher",
    "effective_teachers",
    "gather",
    "guarantees",
    "identifiability",
    "jensen_gap",
    "kl_ambiguity",
    "log_loss",
    "log_specht",
    "optimal_weights",
    "safety",
    "student_loss",
    "teacher_biases",
    "variance",
    "weighted_variance",
]


def guarantees(
    operator_name: str,
    parameters: Mapping[str, Any] | Parameters,
    log_probs: npt.ArrayLike,
    weights: npt.ArrayLike,
    pooled: npt.ArrayLike,
    *,
    labels: npt.ArrayLike | None = None,
    unsafe: Iterable[int] = (),
    tolerance: float | None = None,
) -> tuple[Quantity, ...]:
    """Report everything that can be said of one batch.

    The variance is not among it: that takes replicas of the teachers (see `variance`).

    Args:
        operator_name: the operator's name.
        parameters: its parameters.
        log_probs: [K, B, C], what entered the fusion: aligned, softened, and floored where the rule needs it;
            rows sum to one within 1e-3; -inf allowed. What a teacher of weight 0 holds is never looked at.
        weights: [K, B], non-negative, summing to one over K within 1e-3.
        pooled: [B, C], log-probabilities that came out, before any stage behind the pool. Where they are not
            what the named operator answers, nothing is called a theorem. A row with NaN is left out.
        labels: [B] class indices, -1 where unknown; or None.
        unsafe: class indices whose mass should be watched.
        tolerance: rounding allowed to every statement, relative to bounds above 1. By default 1e-9 if the
            three arrays are float64, else 1e-4.

    Returns:
        The quantities, each name once. First `rows_judged`, beside the number of rows; alone where it is 0.
        The last ones, `linear_*`, compare the answer with the linear pool's on the same rows, unless it is
        the linear pool.

    Raises:
        InvalidBatch: a shape, a weight, a label, a class index or a row is not as described.
        InvalidParameter, UnknownParameter: the operator is a built-in one, and has no such parameters.

    Example:
        >>> import numpy as np
        >>> from operators import geometric
        >>> p, w = np.log([[[0.40, 0.58, 0.02]], [[0.40, 0.02, 0.58]]]), np.array([[0.5], [0.5]])
        >>> found = guarantees("geometric", {}, p, w, geometric().fuse(p, w), labels=[0], unsafe=[0])
        >>> broken = [quantity.name for quantity in found if quantity.theorem and quantity.holds is False]
        >>> len(found), broken
        (50, [])
    """
    batch = gather(operator_name, parameters, log_probs, weights, pooled, labels=labels, tolerance=tolerance)
    classes = unsafe_classes(unsafe, batch.pooled.shape[-1])
    judged = len(batch.pooled)
    rows = Quantity(
        "rows_judged",
        float(judged),
        float(batch.given),
        holds=True,
        theorem=False,
        conditions="Rows whose pool or whose heard teacher is NaN are left out of all other quantities.",
    )
    if judged == 0:
        return (rows,)
    against_linear: tuple[Quantity, ...] = ()
    if batch.exponent != 1:
        compared = identifiability(batch.pooled, batch.linear, batch.labels)
        against_linear = tuple(quantity._replace(name=f"linear_{quantity.name}") for quantity in compared)
    return (
        rows,
        *log_loss(batch),
        *each_teacher(batch),
        *jensen_gap(batch),
        *kl_ambiguity(batch),
        *brier_ambiguity(batch),
        *diversity(batch),
        *student_loss(batch),
        *disagreement(batch),
        *bias(batch),
        *safety(batch, classes),
        *against_linear,
    )
