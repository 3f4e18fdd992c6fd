"""numpy's own versions of the primitives: fewer passes, buffers reused, the same answers as the references.

They obey the docstrings in `operators.simplex`. Inside `errstate` IEEE arithmetic is left to give the answers
that the references reach by masking: log 0 = -inf, and -inf - -inf = NaN for a row without a distribution.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[Any]

State: TypeAlias = tuple[Floats, ...]

PANEL = 32  # rows that are multiplied at a time
BLOCK = 32768  # elements of a block of rows; a few such arrays fit a core's cache


def log_softmax(x: Floats) -> Floats:
    """See `operators.simplex.log_softmax`."""
    with np.errstate(all="ignore"):
        shifted: Floats = x - x.max(axis=-1, keepdims=True)
        total = np.exp(shifted).sum(axis=-1, keepdims=True)
        shifted -= np.log(total)
    return shifted


def logsumexp(x: Floats, axis: int) -> Floats:
    """See `operators.simplex.logsumexp`."""
    with np.errstate(all="ignore"):
        peak = x.max(axis=axis, keepdims=True)
        peak = np.where(peak == -np.inf, 0.0, peak)
        terms = x - peak
        np.exp(terms, out=terms)
        return np.asarray(np.log(terms.sum(axis=axis)) + np.squeeze(peak, axis=axis))


def weighted_logsumexp(x: Floats, weights: Floats) -> Floats:
    """See `operators.simplex.weighted_logsumexp`."""
    teachers, *batch, classes = x.shape
    terms, shares = x.reshape(teachers, -1, classes), weights.reshape(teachers, -1)
    pooled = np.empty(terms.shape[1:], dtype=x.dtype)
    # By blocks of rows: every teacher is read twice, and the second read should find it in the core's cache.
    step = max(1, BLOCK // classes)
    with np.errstate(all="ignore"):
        for start in range(0, pooled.shape[0], step):
            rows = slice(start, start + step)
            _pool_block(terms[:, rows], shares[:, rows], pooled[rows])
    return pooled.reshape(*batch, classes)


def _pool_block(x: Floats, weights: Floats, total: Floats) -> None:
    """Write log sum_k w_k exp x_k of a block [K, rows, C] into `total`."""
    x = _heard(x, weights, otherwise=-np.inf)
    peak = x.max(axis=0)
    np.copyto(peak, 0.0, where=peak == -np.inf)
    total[...] = 0.0
    term = np.empty_like(total)
    for teacher, weight in zip(x, weights, strict=True):
        np.subtract(teacher, peak, out=term)
        np.exp(term, out=term)
        term *= weight[..., None]
        total += term
    np.log(total, out=total)
    total += peak


def weighted_sum(x: Floats, weights: Floats) -> Floats:
    """See `operators.simplex.weighted_sum`."""
    x = _heard(x, weights, otherwise=0.0)
    total: Floats = x[0] * weights[0][..., None]
    term = np.empty_like(total)
    for teacher, weight in zip(x[1:], weights[1:], strict=True):
        np.multiply(teacher, weight[..., None], out=term)
        total += term
    return total


def matmul(x: Floats, matrix: Floats) -> Floats:
    """See `operators.simplex.matmul`.

    By panels of rows that are always full: BLAS adds up in another order for another number of rows, and a
    row should keep its bits whatever batch it comes in.
    """
    rows = x.reshape(-1, x.shape[-1])
    panels = -(-rows.shape[0] // PANEL)
    padded = np.zeros((panels * PANEL, x.shape[-1]), dtype=x.dtype)
    padded[: rows.shape[0]] = rows
    with np.errstate(all="ignore"):
        product = padded.reshape(panels, PANEL, x.shape[-1]) @ matrix
    return product.reshape(-1, matrix.shape[-1])[: rows.shape[0]].reshape(*x.shape[:-1], matrix.shape[-1])


def iterate(step: Callable[[State], State], state: State, times: int) -> State:
    """See `operators.simplex.iterate`: stop where a step changes nothing, as all further ones would not."""
    for _ in range(times):
        following = step(state)
        if all(np.array_equal(old, new, equal_nan=True) for old, new in zip(state, following, strict=True)):
            break
        state = following
    return state


def soften(log_probs: Floats, temperature: Floats) -> Floats:
    """See `operators.simplex.soften`."""
    unchanged = temperature == 1
    if unchanged.all():
        return log_probs.copy()
    softened = log_softmax(log_probs / temperature)
    if unchanged.any():
        np.copyto(softened, log_probs, where=unchanged)
    return softened


def top_k(log_probs: Floats, k: int) -> tuple[Floats, Floats, Floats]:
    """See `operators.simplex.top_k`: a partition over the classes, and a sort over the k kept ones only."""
    *batch, classes = log_probs.shape
    rows = log_probs.reshape(-1, classes)
    keep = _largest(rows, k)
    # Row-major: a row's kept classes come in the order of their indices, and a stable sort leaves equals so.
    indices = np.nonzero(keep)[1].reshape(-1, k)
    kept = np.take_along_axis(rows, indices, axis=-1)
    order = np.argsort(-kept, axis=-1, kind="stable")
    indices = np.take_along_axis(indices, order, axis=-1)
    kept = np.take_along_axis(kept, order, axis=-1)
    if k == classes:
        tail = np.full_like(kept[..., 0], -np.inf)
    else:
        tail = logsumexp(np.where(keep, -np.inf, rows), -1)
    return indices.astype(np.int32).reshape(*batch, k), kept.reshape(*batch, k), tail.reshape(batch)


def _heard(x: Floats, weights: Floats, *, otherwise: float) -> Floats:
    heard = weights > 0
    return x if heard.all() else np.where(heard[..., None], x, otherwise)


def _largest(rows: Floats, k: int) -> npt.NDArray[np.bool_]:
    """Mark the k largest of each row: of equals at the cut those of lower index, NaN for want of others."""
    classes = rows.shape[-1]
    if k == classes:
        return np.ones(rows.shape, dtype=np.bool_)
    cut = -np.partition(-rows, k - 1, axis=-1)[:, k - 1 : k]
    keep = rows >= cut
    marked = np.count_nonzero(keep, axis=-1)
    tied = marked > k
    if tied.any():
        above = rows[tied] > cut[tied]
        equal = keep[tied] & ~above
        wanted = k - np.count_nonzero(above, axis=-1, keepdims=True)
        keep[tied] = above | (equal & (np.cumsum(equal, axis=-1, dtype=np.int32) <= wanted))
    short = marked < k
    if short.any():  # fewer than k numbers: the NaNs fill up
        keep[short] = False
        order = np.argsort(-rows[short], axis=-1, kind="stable")[:, :k]
        np.put_along_axis(mask := keep[short], order, values=True, axis=-1)
        keep[short] = mask
    return keep
