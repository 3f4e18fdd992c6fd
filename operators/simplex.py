"""Primitives on log-probabilities, and their versions per array library.

Every primitive has a reference written in nothing but the array API standard (`operators.reference`): no
data-dependent control flow, no boolean indexing, Python scalars as constants, shapes read first; so it also
records as a graph where the arrays are symbolic. A library may have its own version of a primitive, found in
a dictionary keyed by (primitive, namespace): numpy's stand in `operators.native`; others are added by
`register`.

Classes are the last axis. Nothing here modifies its arguments, and a row's answer depends on that row alone.
"""

import math

from array_api_compat import array_namespace

from operators import native
from operators.base import Array
from operators.errors import InvalidParameter, UnknownPrimitive, suggestion
from operators.reference import REFERENCE, Primitive, State, Step, log


def log_softmax(x: Array) -> Array:
    """Normalise unnormalised log-probabilities (logits) over the classes.

    y_c = x_c - log sum_d exp x_d

    Args:
        x: [..., C], finite or -inf.

    Returns:
        [..., C] log-probabilities; -inf stays -inf. A row that is -inf everywhere, or holds NaN or +inf, has
        no distribution and is all NaN.

    Example:
        >>> import numpy as np
        >>> np.exp(log_softmax(np.log([[1.0, 3.0]]))).round(6).tolist()
        [[0.25, 0.75]]
    """
    return _version("log_softmax", x)(x)


def logsumexp(x: Array, axis: int = -1) -> Array:
    """Add up in the log domain along one axis.

    y = log sum_c exp x_c

    Args:
        x: an array with `axis`, finite or -inf.
        axis: the axis to reduce; the classes by default.

    Returns:
        x's shape without `axis`. -inf everywhere adds up to -inf; where NaN or +inf takes part, it is NaN.

    Example:
        >>> import numpy as np
        >>> logsumexp(np.array([[-1000.0, -1000.0], [-np.inf, -np.inf]])).round(4).tolist()
        [-999.3069, -inf]
    """
    return _version("logsumexp", x)(x, axis)


def weighted_logsumexp(x: Array, weights: Array) -> Array:
    """Add up over the teachers in the log domain, weighted.

    y = log sum_k w_k exp x_k

    Args:
        x: [K, ..., C], finite or -inf.
        weights: [K, ...], non-negative, of x's dtype. What a teacher of weight 0 holds is never looked at.

    Returns:
        [..., C]; -inf where every teacher of positive weight is -inf, NaN where one of them is NaN.

    Example:
        >>> import numpy as np
        >>> x = np.log([[[0.9, 0.1]], [[0.5, 0.5]]])
        >>> np.exp(weighted_logsumexp(x, np.array([[0.5], [0.5]]))).round(6).tolist()
        [[0.7, 0.3]]
    """
    return _version("weighted_logsumexp", x)(x, weights)


def weighted_sum(x: Array, weights: Array) -> Array:
    """Add up over the teachers, weighted.

    y = sum_k w_k x_k

    Args:
        x: [K, ..., C], finite or -inf.
        weights: [K, ...], non-negative, of x's dtype. What a teacher of weight 0 holds is never looked at:
            0 times -inf or NaN is 0 here.

    Returns:
        [..., C].

    Example:
        >>> import numpy as np
        >>> weighted_sum(np.array([[[-np.inf, 0.0]], [[-1.0, -2.0]]]), np.array([[0.0], [1.0]])).tolist()
        [[-1.0, -2.0]]
    """
    return _version("weighted_sum", x)(x, weights)


def logaddexp(x: Array, y: Array) -> Array:
    """Add two arrays up in the log domain.

    z = log(exp x + exp y)

    Args:
        x: an array, finite or -inf.
        y: an array that broadcasts against x, finite or -inf.

    Returns:
        The shape of x + y; -inf where both are -inf, NaN where one is NaN.

    Example:
        >>> import numpy as np
        >>> logaddexp(np.array([-1000.0, -np.inf]), np.array([-1000.0, -np.inf])).round(4).tolist()
        [-999.3069, -inf]
    """
    xp = array_namespace(x)
    peak = xp.maximum(x, y)
    peak = xp.where(peak == -math.inf, 0.0, peak)
    return log(xp.exp(x - peak) + xp.exp(y - peak)) + peak


def entropy(log_probs: Array) -> Array:
    """Measure the uncertainty of distributions, in nats.

    H(p) = -sum_c p_c log p_c, with 0 log 0 = 0.

    Args:
        log_probs: [..., C], normalised; -inf allowed.

    Returns:
        [...], relatively exact down to one-hots, which have 0; log C for the uniform distribution, NaN where
        there is a NaN.

    Example:
        >>> import numpy as np
        >>> entropy(np.array([[0.0, -np.inf], [np.log(0.5), np.log(0.5)]])).round(4).tolist()
        [0.0, 0.6931]
    """
    xp = array_namespace(log_probs)
    probabilities = xp.exp(log_probs)
    # One class at most is above 3/4. Next to 1 its logarithm is mostly rounding: take it from the others.
    top = log_probs > math.log(0.75)
    logs = xp.where(top | (log_probs == -math.inf), 0.0, log_probs)
    others = xp.where(top, 0.0, probabilities)
    rest = xp.sum(others, axis=-1)
    above = xp.max(log_probs, axis=-1) > math.log(0.75)
    share = xp.where(above, rest, 0.0)
    # -log(1 - x) = 2 artanh(x / (2 - x)), exact for small x
    return (1.0 - share) * 2.0 * xp.atanh(share / (2.0 - share)) - xp.sum(others * logs, axis=-1)


def matmul(x: Array, matrix: Array) -> Array:
    """Multiply rows by a matrix.

    y_c = sum_d x_d m_dc

    Args:
        x: [..., D], finite.
        matrix: [D, C], finite, of x's dtype.

    Returns:
        [..., C]; a row with NaN is NaN, and touches no other.

    Example:
        >>> import numpy as np
        >>> matmul(np.array([[1.0, 2.0]]), np.array([[1.0, 0.5], [0.0, 1.0]])).tolist()
        [[1.0, 2.5]]
    """
    return _version("matmul", x)(x, matrix)


def iterate(step: Step, state: State, times: int) -> State:
    """Take a step again and again.

    x_(n+1) = step(x_n), n = 0 .. times - 1

    Args:
        step: from a state to the next one, of the same shapes and dtypes; pure, and free to use other arrays.
        state: a tuple of at least one array, to start from.
        times: how many steps, at least 0.

    Returns:
        The state after `times` steps. A version may stop where a step changes no bit: all others would not.

    Example:
        >>> import numpy as np
        >>> halves = iterate(lambda state: ((state[0] + 2 / state[0]) / 2,), (np.array([1.0, 2.0]),), 8)
        >>> halves[0].round(6).tolist()
        [1.414214, 1.414214]
    """
    following: State = _version("iterate", state[0])(step, state, times)
    return following


def soften(log_probs: Array, temperature: Array | float) -> Array:
    """Soften distributions by a temperature, on their support.

    S_T(p)_c = p_c^(1/T) / sum_d p_d^(1/T)

    Args:
        log_probs: [..., C], normalised; -inf allowed.
        temperature: T > 0, a number or an array that broadcasts against log_probs, such as [B, 1].

    Returns:
        [..., C]; -inf stays -inf. Rows with T = 1 come back bit for bit.

    Example:
        >>> import numpy as np
        >>> np.exp(soften(np.log([[0.8, 0.2]]), np.array([[2.0]]))).round(6).tolist()
        [[0.666667, 0.333333]]

    Source:
        Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
    """
    if isinstance(temperature, (int, float)):
        # float(): a numpy float64 scalar is a float too, and would promote float32 rows.
        return copy(log_probs) if temperature == 1 else log_softmax(log_probs / float(temperature))
    xp = array_namespace(log_probs)
    return _version("soften", log_probs)(log_probs, xp.astype(temperature, log_probs.dtype, copy=False))


def floor(log_probs: Array, epsilon: float) -> Array:
    """Mix a little of the uniform distribution in, so that no class is impossible.

    q_c = (1 - epsilon) p_c + epsilon / C

    Soften first, floor second: softening a floored distribution lifts the floor with it, and over many
    classes the tail then outweighs the top.

    Args:
        log_probs: [..., C], normalised; -inf allowed.
        epsilon: the share of the uniform distribution, 0 < epsilon < 1.

    Returns:
        [..., C], every entry at least log(epsilon / C).

    Raises:
        InvalidParameter: epsilon is not a number in that range.

    Example:
        >>> import numpy as np
        >>> np.exp(floor(np.array([[0.0, -np.inf]]), 0.01)).round(6).tolist()
        [[0.995, 0.005]]
    """
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 < epsilon < 1:
        raise InvalidParameter(
            f"the floor is {epsilon!r}; it must be a number between 0 and 1, both excluded"
        )
    xp = array_namespace(log_probs)
    lowest = math.log(epsilon / log_probs.shape[-1])
    lifted = log_probs + math.log1p(-epsilon)
    larger = xp.where(lifted > lowest, lifted, lowest)
    # Not log1p: it is several times slower on numpy and unknown to ONNX, and a log-probability needs absolute
    # precision only.
    return larger + xp.log(1.0 + xp.exp(-xp.abs(lifted - lowest)))


def top_k(log_probs: Array, k: int) -> tuple[Array, Array, Array]:
    """Keep the k most probable classes of each row, and the mass of the others exactly.

    tail = log sum_{c not kept} p_c, added up, never 1 minus the kept: that loses the tail to rounding.

    Args:
        log_probs: [..., C]; -inf allowed.
        k: how many to keep, 1 to C.

    Returns:
        Three arrays. Indices int32 [..., k], in descending order of probability; among equals the lower index
        comes first, at the cut too. Log-probabilities [..., k], copied. Tail log mass [...]: -inf when k = C.
        NaN sorts last, so a row with one shows it in its last kept values or its tail.

    Raises:
        InvalidParameter: k is not an integer in that range.

    Example:
        >>> import numpy as np
        >>> indices, kept, tail = top_k(np.log([[0.1, 0.4, 0.1, 0.4]]), 3)
        >>> indices.tolist(), np.exp(kept).round(6).tolist(), np.exp(tail).round(6).tolist()
        ([[1, 3, 0]], [[0.4, 0.4, 0.1]], [0.1])
    """
    classes = log_probs.shape[-1]
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= classes:
        raise InvalidParameter(
            f"k is {k!r}; it must be an integer from 1 to the number of classes, {classes}"
        )
    indices, kept, tail = _version("top_k", log_probs)(log_probs, k)
    return indices, kept, tail


def copy(x: Array) -> Array:
    """Return a new array of the same bits, still part of the graph where a library records one.

    Args:
        x: any array of floats.

    Returns:
        The copy.

    Example:
        >>> import numpy as np
        >>> copy(np.array([-0.0, -np.inf])).tolist()
        [-0.0, -inf]
    """
    return x * 1.0


def register(primitive: str, namespace: str, version: Primitive) -> None:
    """Give a primitive its own version for one array library; the latest registration stands.

    Args:
        primitive: a key of REFERENCE.
        namespace: the library's module, such as "torch" or "ndonnx" (array_api_compat's prefix left out).
        version: takes the primitive's arguments by position and obeys its docstring, ties and NaN included.

    Raises:
        UnknownPrimitive: there is no such primitive.

    Example:
        >>> register("log_softmaks", "numpy", log_softmax)
        Traceback (most recent call last):
        operators.errors.UnknownPrimitive: no primitive 'log_softmaks': did you mean log_softmax? \
(known: iterate, log_softmax, logsumexp, matmul, soften, top_k, weighted_logsumexp, weighted_sum)
    """
    if primitive not in REFERENCE:
        raise UnknownPrimitive(f"no primitive {primitive!r}: {suggestion(primitive, REFERENCE)}")
    _NATIVE[primitive, namespace] = version


def _version(primitive: str, x: Array) -> Primitive:
    namespace = array_namespace(x).__name__.removeprefix("array_api_compat.")
    return _NATIVE.get((primitive, namespace), REFERENCE[primitive])


_NATIVE: dict[tuple[str, str], Primitive] = {
    ("iterate", "numpy"): native.iterate,
    ("log_softmax", "numpy"): native.log_softmax,
    ("logsumexp", "numpy"): native.logsumexp,
    ("matmul", "numpy"): native.matmul,
    ("soften", "numpy"): native.soften,
    ("top_k", "numpy"): native.top_k,
    ("weighted_logsumexp", "numpy"): native.weighted_logsumexp,
    ("weighted_sum", "numpy"): native.weighted_sum,
}
