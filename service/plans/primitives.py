"""ONNX's own versions of the operators' primitives, used while a graph is recorded under ndonnx.

They obey the docstrings in `operators.simplex`. Three things are remembered beside a recorded array. Its
*parts*: an array that was stacked here need not be taken apart again. Its *probabilities*: where an array of
logarithms is the logarithm of something that a graph gets more cheaply (a softmax, a mixture of softmaxes),
that something is kept, and a consumer that ends in probabilities takes it instead of exp(log(...)). Its
*first rows*: how the probabilities of a few rows are made without it. What nobody uses is not built.
"""

import math
import operator
import weakref
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import ndonnx as ndx
import numpy as np
import spox.opset.ai.onnx.v21 as onnx_ops
from spox import Var

from operators.simplex import register

Symbol = Any  # an ndonnx array
State = tuple[Symbol, ...]

_PARTS: "weakref.WeakKeyDictionary[Var, list[Symbol]]" = weakref.WeakKeyDictionary()
_PROBABILITIES: "weakref.WeakKeyDictionary[Var, Symbol]" = weakref.WeakKeyDictionary()
_FIRST: "weakref.WeakKeyDictionary[Var, Callable[[int], Symbol]]" = weakref.WeakKeyDictionary()


def install() -> None:
    """Register everything here for ndonnx; again does no harm."""
    versions: dict[str, Callable[..., Any]] = {
        "iterate": _iterate,
        "log_softmax": log_softmax,
        "logsumexp": _logsumexp,
        "matmul": matmul,
        "weighted_logsumexp": _weighted_logsumexp,
        "weighted_sum": _weighted_sum,
    }
    for name, version in versions.items():
        register(name, "ndonnx", version)


def stack(parts: Sequence[Symbol]) -> Symbol:
    """``[..., ]`` K times to ``[K, ...]``, remembering the parts."""
    stacked = ndx.stack(list(parts))
    _PARTS[stacked.unwrap_spox()] = list(parts)
    return stacked


def unstack(stacked: Symbol) -> list[Symbol]:
    """The parts along the first axis."""
    known = _PARTS.get(stacked.unwrap_spox())
    return known if known is not None else [stacked[k, ...] for k in range(stacked.shape[0])]


def probabilities(logs: Symbol) -> Symbol | None:
    """What an array is the logarithm of, where that is cheaper than its exponential; else None."""
    return _PROBABILITIES.get(logs.unwrap_spox())


def log_softmax(x: Symbol) -> Symbol:
    """ONNX Runtime's kernel is NaN for a row without a distribution, as ours is."""
    logs = ndx.asarray(onnx_ops.log_softmax(x.unwrap_spox(), axis=-1))
    _PROBABILITIES[logs.unwrap_spox()] = _softmax(x)
    _FIRST[logs.unwrap_spox()] = lambda count: _softmax(x[:count, ...])
    return logs


def first(logs: Symbol, count: int) -> Symbol:
    """The probabilities of the first rows, or of all where they are fewer.

    They are no second use of the array, nor of its probabilities: these may then be overwritten in place.
    """
    make = _FIRST.get(logs.unwrap_spox())
    return ndx.exp(logs[:count, ...]) if make is None else make(count)


def _softmax(x: Symbol) -> Symbol:
    return ndx.asarray(onnx_ops.softmax(x.unwrap_spox(), axis=-1))


def floor(logs: Symbol, epsilon: float) -> Symbol:
    """`operators.simplex.floor`: where the softmax is known, in probabilities, which a floor keeps normal."""
    known = probabilities(logs)

    def lift(mass: Symbol) -> Symbol:
        return mass * (1 - epsilon) + epsilon / logs.shape[-1]

    lifted = lift(ndx.exp(logs) if known is None else known)
    floored = ndx.log(lifted)
    _PROBABILITIES[floored.unwrap_spox()] = lifted
    _FIRST[floored.unwrap_spox()] = lambda count: lift(first(logs, count))
    return floored


def top_k(logs: Symbol, k: Var) -> tuple[Symbol, Symbol, Symbol]:
    """`operators.simplex.top_k`, with k a number ``[1]`` that comes with each batch."""
    var = logs.unwrap_spox()
    kept, indices = onnx_ops.top_k(var, k)
    nothing = onnx_ops.mul(onnx_ops.add(kept, onnx_ops.neg(kept)), onnx_ops.const(np.float32(0)))
    gone = onnx_ops.add(nothing, onnx_ops.const(np.float32(-np.inf)))
    left = onnx_ops.scatter_elements(var, indices, gone, axis=-1)
    tail = _logsumexp(ndx.asarray(left), -1)
    return ndx.asarray(onnx_ops.cast(indices, to=np.int32)), ndx.asarray(kept), tail


def _logsumexp(x: Symbol, axis: int) -> Symbol:
    peak = _reduced(onnx_ops.reduce_max, x, axis)
    # NaN need not survive a maximum; it does survive the sum.
    peak = ndx.where(peak == -math.inf, 0.0, ndx.where(peak == math.inf, math.nan, peak))
    total = _reduced(onnx_ops.reduce_sum, ndx.exp(x - peak), axis)
    return ndx.squeeze(ndx.log(total) + peak, axis=axis)


def _reduced(reduction: Callable[..., Var], x: Symbol, axis: int) -> Symbol:
    return ndx.asarray(reduction(x.unwrap_spox(), onnx_ops.const(np.array([axis])), keepdims=1))


def _weighted_logsumexp(x: Symbol, weights: Symbol) -> Symbol:
    parts = unstack(x)
    shares = [weights[k, ..., None] for k in range(len(parts))]
    heard = [ndx.where(share > 0, part, -math.inf) for part, share in zip(parts, shares, strict=True)]
    peak = ndx.asarray(onnx_ops.max([part.unwrap_spox() for part in heard]))
    peak = ndx.where(peak == -math.inf, 0.0, peak)
    terms = [share * ndx.exp(part - peak) for part, share in zip(heard, shares, strict=True)]
    logs = ndx.log(_sum(terms)) + peak
    known = [probabilities(part) for part in parts]
    if all(one is not None for one in known):
        # NaN at weight 0 is NaN here: a row that is lost this way is found not to be finite.
        _PROBABILITIES[logs.unwrap_spox()] = _sum(
            [share * one for one, share in zip(known, shares, strict=True)]
        )
    return logs


def _weighted_sum(x: Symbol, weights: Symbol) -> Symbol:
    parts = unstack(x)
    shares = [weights[k, ..., None] for k in range(len(parts))]
    return _sum([share * ndx.where(share > 0, part, 0.0) for part, share in zip(parts, shares, strict=True)])


def _sum(terms: Sequence[Symbol]) -> Symbol:
    return reduce(operator.add, terms)  # in place where the runtime can; its variadic Sum takes longer


def matmul(x: Symbol, matrix: Symbol) -> Symbol:
    """`operators.simplex.matmul`."""
    return ndx.asarray(onnx_ops.matmul(x.unwrap_spox(), matrix.unwrap_spox()))


def _iterate(step: Callable[[State], State], state: State, times: int) -> State:
    if times == 0:
        return state
    shapes = [one.shape for one in state]

    def body(_: Var, go_on: Var, *current: Var) -> list[Var]:
        following = step(tuple(map(_shaped, current, shapes)))
        return [onnx_ops.identity(go_on), *(one.unwrap_spox() for one in following)]

    found = onnx_ops.loop(
        onnx_ops.const(np.array(times)),
        v_initial=[one.unwrap_spox() for one in state],
        body=body,
    )
    return tuple(map(_shaped, found, shapes))


def _shaped(var: Var, shape: tuple[int | None, ...]) -> Symbol:
    """Say again what a loop forgets: how many classes and teachers there are."""
    if reduce(lambda unknown, size: unknown + (size is None), shape, 0) > 1:
        return ndx.asarray(var)
    sizes = [-1 if size is None else size for size in shape]
    return ndx.asarray(onnx_ops.reshape(var, onnx_ops.const(np.array(sizes, dtype=np.int64))))
