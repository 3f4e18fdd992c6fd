"""The stages between a teacher's answer and a target, written once for every array library.

The order is fixed: log-softmax, calibrate, align, soften, floor, fuse, output temperature, sparsify. numpy
runs these functions in the split plan; recording them under ndonnx gives the same stages as a graph.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace

from operators.simplex import entropy, floor, log_softmax, logsumexp, soften, top_k
from service.model import Array
from service.plans.alignment import Alignment
from service.plans.base import Pair
from service.teachers.base import Kind

# Any array of the Python array API standard; a symbolic one while a graph is recorded.
Symbol = Any
Kept = Literal["float32", "float16"]

# A distribution's sum may be off by this much (rounding in half precision); it is then renormalised.
SUM_TOLERANCE = 1e-3
# Forests that add up float32 votes answer -1.2e-7.
NEGATIVE_TOLERANCE = 1e-5
# Probabilities below the smallest normal float32 would become zero on their way to a student.
LOG_SMALLEST = math.log(2.0**-126)


def beliefs(answer: Symbol, kind: Kind) -> tuple[Symbol, Symbol]:
    """What an answer says, as log-probabilities, and for which rows it says anything.

    A zero probability (a logit of -inf) is a belief; NaN, +inf, a negative probability, and a sum that is off
    by more than ``SUM_TOLERANCE`` are not. Sums within it are renormalised.

    Args:
        answer: ``[B, C_t]``, of any float dtype.
        kind: what it holds.

    Returns:
        float32 log-probabilities ``[B, C_t]``, and valid ``[B]``; invalid rows hold the uniform distribution.
    """
    xp = array_namespace(answer)
    values = xp.astype(answer, xp.float32, copy=False)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        if kind == "probs":
            total = xp.sum(values, axis=1)
            valid = (xp.min(values, axis=1) >= -NEGATIVE_TOLERANCE) & (xp.abs(total - 1.0) <= SUM_TOLERANCE)
            log_probs = xp.log(xp.where(values > 0, values, 0.0)) - xp.log(total)[:, None]
        else:
            log_probs = log_softmax(values)
            valid = ~xp.isnan(log_probs[:, 0])  # a row without a distribution is NaN everywhere
            if kind == "log_probs":
                valid = valid & (xp.abs(xp.exp(logsumexp(values)) - 1.0) <= SUM_TOLERANCE)
        uniform = -math.log(values.shape[1])
        return xp.where(valid[:, None], log_probs, uniform), valid


def opinion(
    answer: Symbol, kept: Symbol | None, *, kind: Kind, temperature: float, alignment: Alignment
) -> tuple[Symbol, Symbol]:
    """A teacher's aligned, calibrated log-probabilities ``[B, C]`` at temperature 1, and valid ``[B]``.

    Args:
        answer: ``[B, C_t]``.
        kept: ``[B]``, whether the teacher was asked what was given; None where that is sure.
        kind: what the answer holds.
        temperature: calibrates the teacher's belief.
        alignment: its classes by ours.
    """
    xp = array_namespace(answer)
    log_probs, valid = beliefs(answer, kind)
    if temperature != 1:
        log_probs = log_softmax(log_probs / temperature)
    aligned = alignment(log_probs)
    if kept is not None:
        valid = valid & kept
    if alignment.drops:
        valid = valid & ~xp.isnan(aligned[:, 0])  # all its mass was on classes that are dropped
    return xp.where(valid[:, None], aligned, 0.0), valid


def as_kept(opinions: Array, dtype: Kept) -> Array:
    """Opinions as they come back once they were kept in that precision, as float32."""
    if dtype == "float32":
        return opinions
    half = np.finfo(np.float16)
    inside = np.where(np.isfinite(opinions), np.maximum(opinions, half.min), opinions)
    return inside.astype(np.float16).astype(np.float32)


def says_the_same(given: Symbol, fed: Symbol) -> Symbol:
    """Where a value cast for a model still says what was given.

    A value too large for the model's dtype, or an integer that it cannot hold, would be another question.
    """
    xp = array_namespace(given)
    if xp.isdtype(given.dtype, "real floating"):
        return xp.isfinite(fed) | ~xp.isfinite(given)
    return xp.astype(fed, given.dtype) == given


def enter(opinions: Symbol, temperature: Symbol, pair: Pair) -> Symbol:
    """Soften opinions ``[K, B, C]`` by temperatures ``[B]``, and floor them where the pair says so."""
    softened = soften(opinions, temperature[None, :, None])
    return softened if pair.floor is None else floor(softened, pair.floor)


def recalibrated(pooled: Symbol, pair: Pair) -> tuple[Symbol, Symbol]:
    """The dense target of a pool ``[B, C]``, no class below a normal float32; ``[B]``, whether it is one."""
    xp = array_namespace(pooled)
    if pair.output_temperature != 1:
        pooled = log_softmax(pooled / pair.output_temperature)
    finite = ~xp.any(xp.isnan(pooled), axis=1)
    return xp.where(pooled < LOG_SMALLEST, LOG_SMALLEST, pooled), finite


def sparsified(target: Symbol, pair: Pair) -> tuple[Symbol, Symbol | None, Symbol | None]:
    """A target's log-probabilities ``[B, C]`` or ``[B, k]``; where sparse indices and the tail's log mass."""
    if pair.top_k is None:
        return target, None, None
    indices, kept, tail = top_k(target, pair.top_k)
    return kept, indices, tail


def diagnosed(
    entered: Sequence[Symbol], mixture: Symbol, weights: Symbol, target: Symbol
) -> tuple[Symbol, Symbol]:
    """How uncertain a target is, and how far apart what was fused is: both ``[B]``, in nats.

    entropy = H(target), divergence = H(sum_k w_k p_k) - sum_k w_k H(p_k), with 0 log 0 = 0

    The divergence is the weighted Jensen-Shannon divergence, whatever the operator: 0 where all teachers
    agree, at most the entropy of the weights. What a teacher of weight 0 says is not looked at.

    Args:
        entered: K arrays ``[B, C]``, softened, and floored where the operator needs it.
        mixture: ``[B, C]``, log sum_k w_k p_k.
        weights: ``[K, B]``, summing to one over K.
        target: ``[B, C]``, dense.
    """
    xp = array_namespace(target)
    divergence = entropy(mixture)
    for k, one in enumerate(entered):
        share = weights[k, ...]
        divergence = divergence - share * xp.where(share > 0, entropy(one), 0.0)
    # Rounding may take it below 0; NaN stays NaN.
    return entropy(target), xp.where(divergence < 0, 0.0, divergence)
