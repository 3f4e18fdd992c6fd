"""The built-in operators. Each factory takes keyword parameters and returns an immutable Operator."""

import inspect
import math
from collections.abc import Mapping
from functools import reduce
from numbers import Real
from types import MappingProxyType
from typing import Any

from array_api_compat import array_namespace

from operators import simplex
from operators.base import Array, Factory, Fuse, Operator
from operators.errors import InvalidParameter, UnknownOperator, UnknownParameter, suggestion

SMALLEST_EXPONENT = 0.05
LARGEST_EXPONENT = 2.0


def linear() -> Operator:
    """Pool by the weighted arithmetic mean of the teachers' probabilities.

    A_c = sum_k w_k p_kc, computed as log sum_k w_k exp(log p_kc), so that probabilities may underflow.

    The returned operator's `fuse` takes:
        log_probs: [K, B, C], normalised, -inf allowed (domain "zeros").
        weights: [K, B], non-negative, summing to one over K.

    A class that no teacher of positive weight holds possible stays at -inf. One teacher, or one positive
    weight, is returned bit for bit (but a -0.0 becomes 0.0 beside teachers of weight 0).

    Returns:
        The operator `linear`, without parameters; its `fuse` answers log_probs [B, C].

    Example:
        >>> import numpy as np
        >>> log_probs = np.log([[[0.40, 0.58, 0.02]], [[0.40, 0.02, 0.58]]])
        >>> pooled = linear().fuse(log_probs, np.array([[0.5], [0.5]]))
        >>> np.exp(pooled).round(3).tolist()
        [[0.4, 0.3, 0.3]]

    Source:
        Genest and Zidek, "Combining probability distributions: a critique and an annotated bibliography",
        Statistical Science 1(1), 1986.
    """
    return Operator("linear", (), _lone_teacher_first(simplex.weighted_logsumexp), "zeros")


def geometric() -> Operator:
    """Pool by the normalised weighted geometric mean: the mean of the teachers' logits.

    A_c = prod_k p_kc^w_k / Z, computed as log_softmax(sum_k w_k log p_kc).

    The returned operator's `fuse` takes:
        log_probs: [K, B, C], normalised, every p at least epsilon / C (domain "floored").
        weights: [K, B], non-negative, summing to one over K.

    A class at -inf in one teacher of positive weight is vetoed: -inf in the answer. Where every class is
    vetoed (disjoint supports) the row is all NaN. The floor in front of this operator is a veto's strength.
    A class may come out above its probability at every teacher.

    Returns:
        The operator `geometric`, without parameters; its `fuse` answers log_probs [B, C].

    Example:
        >>> import numpy as np
        >>> log_probs = np.log([[[0.40, 0.58, 0.02]], [[0.40, 0.02, 0.58]]])
        >>> pooled = geometric().fuse(log_probs, np.array([[0.5], [0.5]]))
        >>> np.exp(pooled).round(3).tolist()
        [[0.65, 0.175, 0.175]]

    Source:
        Heskes, "Selecting weighting factors in logarithmic opinion pools", NIPS 10, 1997.
    """
    return Operator("geometric", (), _lone_teacher_first(_geometric), "floored")


def holder(*, exponent: float = 0.5) -> Operator:
    """Pool by the normalised weighted power mean of the teachers' probabilities.

    A_c = (sum_k w_k p_kc^r)^(1/r) / Z, computed as log_softmax(log(sum_k w_k exp(r log p_kc)) / r).
    r = 1 is the linear pool, r -> 0 the geometric one, r = -1 the harmonic one.

    The returned operator's `fuse` takes:
        log_probs: [K, B, C], normalised; -inf allowed where r > 0 (domain "zeros"), else floored.
        weights: [K, B], non-negative, summing to one over K.

    With r <= 0 a class at -inf in one teacher of positive weight is vetoed: -inf in the answer; where every
    class is vetoed the row is all NaN. With r > 0 a class is -inf only where all such teachers have it so.

    Args:
        exponent: r: 0 (exactly the geometric pool), or .05 <= |r| <= 2. In between, float32 magnifies
            rounding by 1/r, and the pool cannot be told from the geometric one.

    Returns:
        The operator `holder` with its parameter `exponent` as a float; its `fuse` answers log_probs [B, C].

    Raises:
        InvalidParameter: the exponent is not a number, or outside its range.

    Example:
        >>> import numpy as np
        >>> log_probs = np.log([[[0.9, 0.1]], [[0.4, 0.6]]])
        >>> pooled = holder(exponent=-1).fuse(log_probs, np.array([[0.5], [0.5]]))
        >>> np.exp(pooled).round(4).tolist()
        [[0.7636, 0.2364]]

    Source:
        Amari, "Integration of stochastic models by minimizing alpha-divergence", Neural Computation 19(10),
        2007.
    """
    power = _exponent(exponent)
    fuse: Fuse = _geometric
    if power > 0:
        fuse = _power_mean(power)
    elif power < 0:
        fuse = _vetoing_power_mean(power)
    return Operator(
        "holder", (("exponent", power),), _lone_teacher_first(fuse), "zeros" if power > 0 else "floored"
    )


BUILTIN: Mapping[str, Factory] = MappingProxyType(
    {"geometric": geometric, "holder": holder, "linear": linear}
)


def make(name: str, /, **parameters: Any) -> Operator:
    """Return the built-in operator of this name with these parameters.

    Args:
        name: a key of BUILTIN.
        **parameters: the factory's keyword parameters; what is left out has its default.

    Returns:
        The operator.

    Raises:
        UnknownOperator: there is no such name; the nearest is named.
        UnknownParameter: this operator takes no such parameter; those it takes are named.
        InvalidParameter: a value is outside its range, which is named.

    Example:
        >>> make("holder", exponent=0.25).parameters
        (('exponent', 0.25),)
        >>> make("gemetric")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        operators.errors.UnknownOperator: no operator 'gemetric': did you mean geometric? ...
    """
    factory = BUILTIN.get(name) if isinstance(name, str) else None
    if factory is None:
        raise UnknownOperator(f"no operator {name!r}: {suggestion(str(name), BUILTIN)}")
    known = inspect.signature(factory).parameters
    for parameter in parameters:
        if parameter not in known:
            raise UnknownParameter(f"{name} has no parameter {parameter!r}: {suggestion(parameter, known)}")
    return factory(**parameters)


def _exponent(value: object) -> float:
    allowed = f"0, or between {SMALLEST_EXPONENT} and {LARGEST_EXPONENT:g} in absolute value"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidParameter(f"exponent is {value!r}; it must be a number: {allowed}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if number == 0:
        return 0.0  # not -0.0, which is another text in canonical JSON
    if not SMALLEST_EXPONENT <= abs(number) <= LARGEST_EXPONENT:  # NaN is caught here too
        raise InvalidParameter(f"exponent is {number!r}; it must be {allowed}")
    return number


def _lone_teacher_first(fuse: Fuse) -> Fuse:
    """Answer a lone teacher bit for bit; give `fuse` the weights in the dtype of the log-probabilities."""

    def pool(log_probs: Array, weights: Array) -> Array:
        if log_probs.shape[0] == 1:
            return simplex.copy(log_probs[0, ...])
        xp = array_namespace(log_probs)
        return fuse(log_probs, xp.astype(weights, log_probs.dtype, copy=False))

    return pool


def _geometric(log_probs: Array, weights: Array) -> Array:
    return simplex.log_softmax(simplex.weighted_sum(log_probs, weights))


def _power_mean(exponent: float) -> Fuse:
    def fuse(log_probs: Array, weights: Array) -> Array:
        return simplex.log_softmax(simplex.weighted_logsumexp(log_probs * exponent, weights) / exponent)

    return fuse


def _vetoing_power_mean(exponent: float) -> Fuse:
    """A negative power turns -inf into +inf, so vetoed classes are taken out before it and put back after."""

    def fuse(log_probs: Array, weights: Array) -> Array:
        xp = array_namespace(log_probs)
        heard = [
            xp.where(weights[k, ..., None] > 0, log_probs[k, ...], 0.0) for k in range(log_probs.shape[0])
        ]
        # A minimum, not "any of them is -inf": NaN survives it, so a veto never hides an invalid teacher.
        vetoed = reduce(xp.minimum, heard) == -math.inf
        powers = xp.where(vetoed, 0.0, log_probs) * exponent
        means = simplex.weighted_logsumexp(powers, weights) / exponent
        return simplex.log_softmax(xp.where(vetoed, -math.inf, means))

    return fuse
