"""Two targets of one row, held against each other."""

import numpy as np

from service.model import Array
from service.plans.trials import LOG_COMPARED

LOGS = frozenset({"log_probs", "tail_log_mass"})
INDICES = "indices"


def difference(one: Array, other: Array, *, limit: float, classes: int) -> tuple[float, float]:
    """By how much two targets of a row differ.

    Log-probabilities may differ by ``limit``, and by one step of their dtype where that is a coarse one.
    Below ``LOG_COMPARED`` they are not compared: float32 has no digits left for them. What is a sum over the
    classes (an entropy) may differ by ``2 * limit * (1 + log C)``, which is what ``limit`` in every
    log-probability can do to it.

    Args:
        one: a scalar of the layout's fields.
        other: likewise.
        limit: in nats.
        classes: C.

    Returns:
        The largest difference of log-probabilities, in nats; and the largest difference of anything, as a
        multiple of what is allowed. NaN where one is NaN.
    """
    names = one.dtype.names or ()
    nats = times = 0.0
    for name in names:
        if name == INDICES:
            continue
        if name == "log_probs" and INDICES in names:
            first, second = _aligned(one, other)
        else:
            first, second = np.atleast_1d(one[name]), np.atleast_1d(other[name])
        allowed = limit if name in LOGS else 2 * limit * (1 + np.log(classes))
        if name in LOGS:
            shown = ~(np.maximum(first, second) <= LOG_COMPARED)  # written so that NaN is shown
            first, second = first[shown], second[shown]
        gap = np.abs(first.astype(np.float64) - second.astype(np.float64))
        step = _step(first, second)
        if name in LOGS:
            nats = float(np.max(gap, initial=nats))
        times = float(np.max(gap / (allowed + step), initial=times))
    return nats, times


def _step(first: Array, second: Array) -> Array:
    """One step of the dtype at these values; none where it is far below any limit."""
    if first.dtype.itemsize >= np.dtype(np.float32).itemsize:
        return np.zeros(len(first))
    return np.spacing(np.maximum(np.abs(first), np.abs(second))).astype(np.float64)


def _aligned(one: Array, other: Array) -> tuple[Array, Array]:
    """Sparse log-probabilities by class.

    A class that only one of them keeps is held against the least that the other keeps: the two may have
    chosen differently among classes that are as good as equal.
    """
    first = dict(zip(one[INDICES].tolist(), one["log_probs"], strict=True))
    second = dict(zip(other[INDICES].tolist(), other["log_probs"], strict=True))
    union = sorted(first.keys() | second.keys())
    dtype = one["log_probs"].dtype
    return (
        np.array([first.get(index, one["log_probs"][-1]) for index in union], dtype),
        np.array([second.get(index, other["log_probs"][-1]) for index in union], dtype),
    )
