"""The primitives' references: nothing but the array API standard, obeying `operators.simplex`."""

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import TypeAlias

from array_api_compat import array_namespace

from operators.base import Array

Primitive: TypeAlias = Callable[..., Array]
State: TypeAlias = tuple[Array, ...]
Step: TypeAlias = Callable[[State], State]

# Every `where` in front of a log or a subtraction keeps log 0 and inf - inf from arising at all, with their
# warnings and, under a gradient, their NaN; afterwards it would be too late.


def log_softmax(x: Array) -> Array:
    """See `operators.simplex.log_softmax`."""
    xp = array_namespace(x)
    shifted = x - _finite_peak(x, axis=-1)
    total = xp.sum(xp.exp(shifted), axis=-1, keepdims=True)
    return shifted - xp.log(xp.where(total == 0, math.nan, total))


def logsumexp(x: Array, axis: int) -> Array:
    """See `operators.simplex.logsumexp`."""
    xp = array_namespace(x)
    peak = _finite_peak(x, axis=axis)
    total = xp.sum(xp.exp(x - peak), axis=axis)
    return log(total) + xp.squeeze(peak, axis=axis)


def _finite_peak(x: Array, *, axis: int) -> Array:
    """The maximum, made safe to subtract: 0 for -inf, and NaN for +inf."""
    xp = array_namespace(x)
    peak = xp.max(x, axis=axis, keepdims=True)
    return xp.where(peak == -math.inf, 0.0, xp.where(peak == math.inf, math.nan, peak))


def log(x: Array) -> Array:
    """The logarithm, and -inf for 0."""
    xp = array_namespace(x)
    return xp.where(x == 0, -math.inf, xp.log(xp.where(x == 0, 1.0, x)))


def weighted_logsumexp(x: Array, weights: Array) -> Array:
    """See `operators.simplex.weighted_logsumexp`."""
    xp = array_namespace(x)
    teachers = range(x.shape[0])
    heard = [xp.where(weights[k, ..., None] > 0, x[k, ...], -math.inf) for k in teachers]
    peak = reduce(xp.maximum, heard)
    peak = xp.where(peak == -math.inf, 0.0, peak)
    total = reduce(operator.add, (weights[k, ..., None] * xp.exp(heard[k] - peak) for k in teachers))
    return log(total) + peak


def weighted_sum(x: Array, weights: Array) -> Array:
    """See `operators.simplex.weighted_sum`."""
    xp = array_namespace(x)
    shares = [weights[k, ..., None] for k in range(x.shape[0])]
    return reduce(operator.add, (w * xp.where(w > 0, x[k, ...], 0.0) for k, w in enumerate(shares)))


def matmul(x: Array, matrix: Array) -> Array:
    """See `operators.simplex.matmul`."""
    return array_namespace(x).matmul(x, matrix)


def iterate(step: Step, state: State, times: int) -> State:
    """See `operators.simplex.iterate`."""
    for _ in range(times):
        state = step(state)
    return state


def soften(log_probs: Array, temperature: Array) -> Array:
    """See `operators.simplex.soften`."""
    xp = array_namespace(log_probs)
    return xp.where(temperature == 1, log_probs, log_softmax(log_probs / temperature))


def top_k(log_probs: Array, k: int) -> tuple[Array, Array, Array]:
    """See `operators.simplex.top_k`."""
    xp = array_namespace(log_probs)
    # A stable ascending sort of the negatives: equals keep the order of their indices, NaN goes last.
    order = xp.argsort(-log_probs, axis=-1, stable=True)
    ranked = xp.take_along_axis(log_probs, order, axis=-1)
    kept = ranked[..., :k]
    if k == log_probs.shape[-1]:
        tail = xp.full_like(kept[..., 0], -math.inf)
    else:
        tail = logsumexp(ranked[..., k:], -1)
    return xp.astype(order[..., :k], xp.int32), kept, tail


REFERENCE: dict[str, Primitive] = {
    "iterate": iterate,
    "log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "matmul": matmul,
    "soften": soften,
    "top_k": top_k,
    "weighted_logsumexp": weighted_logsumexp,
    "weighted_sum": weighted_sum,
}
