"""The three families to begin with: arithmetic, geometric and power means of the teachers' probabilities."""

import math
from functools import reduce

from array_api_compat import array_namespace

from operators import lemmas, simplex
from operators.base import Array, Claim, Disclaimer, Fuse, Operator
from operators.errors import InvalidParameter
from operators.lemmas import CONTINUITY, CONVEXITY, POSITIVITY, TEMPERATURE, WEIGHTS
from operators.parameters import real

SMALLEST_EXPONENT = 0.05
LARGEST_EXPONENT = 2.0

LINEAR_CLAIMS = (
    Claim(CONVEXITY, 4, lemmas.HULL),
    Claim(POSITIVITY, 2, lemmas.SOME_SHARE),
    Claim(WEIGHTS, 3, lemmas.STRAIGHT),
    Claim(CONTINUITY, 2, lemmas.COMPOSED_AT_ZERO),
    Claim(TEMPERATURE, 1, lemmas.BOUNDED),
)
_LINEAR_DISCLAIMERS = (
    Disclaimer(
        TEMPERATURE,
        2,
        "teachers (.8, .2), (.4, .6), equal weights, T = 2: softened first (.558, .442), last (.551, .449)",
    ),
)
_VETO = Disclaimer(
    POSITIVITY, 2, "a veto: teachers (0, .5, .5), (.98, .01, .01), equal weights, give class 0 nothing"
)
_DISJOINT = Disclaimer(
    CONTINUITY,
    2,
    "teachers (1, 0), (0, 1), equal weights: 0/0, and next to them whatever their zeros' ratio is",
)


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
    return Operator(
        "linear",
        (),
        lone_teacher_first(simplex.weighted_logsumexp),
        "zeros",
        LINEAR_CLAIMS,
        _LINEAR_DISCLAIMERS,
    )


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
    return Operator(
        "geometric",
        (),
        lone_teacher_first(_geometric),
        "floored",
        (
            Claim(CONVEXITY, 2, lemmas.INTERNAL),
            Claim(POSITIVITY, 1, lemmas.NO_VETO),
            Claim(WEIGHTS, 2, lemmas.LOGS_MIX),
            Claim(CONTINUITY, 1, lemmas.COMPOSED),
            Claim(TEMPERATURE, 2, lemmas.COMMUTES),
        ),
        (*_outside_the_box("geometric"), _VETO, _DISJOINT),
    )


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
    twin = {0.0: geometric(), 1.0: linear()}.get(power)
    if twin is not None:
        return twin._replace(
            name="holder",
            parameters=(("exponent", power),),
            fuse=twin.fuse if power == 0 else lone_teacher_first(_power_mean(power)),
        )
    return Operator(
        "holder",
        (("exponent", power),),
        lone_teacher_first(_power_mean(power) if power > 0 else _vetoing_power_mean(power)),
        "zeros" if power > 0 else "floored",
        (
            Claim(CONVEXITY, 2, lemmas.INTERNAL),
            Claim(POSITIVITY, 2, lemmas.SOME_SHARE) if power > 0 else Claim(POSITIVITY, 1, lemmas.NO_VETO),
            Claim(WEIGHTS, 2, lemmas.MEDIANT),
            Claim(CONTINUITY, 2, lemmas.COMPOSED_AT_ZERO)
            if power > 0
            else Claim(CONTINUITY, 1, lemmas.COMPOSED),
            Claim(TEMPERATURE, 1, lemmas.BOUNDED),
        ),
        (
            *_outside_the_box("power mean"),
            *(() if power > 0 else (_VETO, _DISJOINT)),
            Disclaimer(
                TEMPERATURE, 2, "teachers (.8, .2), (.4, .6), T = 2: softened first or last, the pools differ"
            ),
        ),
    )


def _exponent(value: object) -> float:
    allowed = f"0, or between {SMALLEST_EXPONENT} and {LARGEST_EXPONENT:g} in absolute value"
    number = real("exponent", value, allowed)
    if number != 0 and not SMALLEST_EXPONENT <= abs(number) <= LARGEST_EXPONENT:  # NaN is caught here too
        raise InvalidParameter(f"exponent is {number!r}; it must be {allowed}")
    return number


def _outside_the_box(pool: str) -> tuple[Disclaimer, Disclaimer]:
    """Class 0 is neither kept where both teachers have it, nor moved one way: there is nowhere to go."""
    example = "teachers (.40, .58, .02), (.40, .02, .58), equal weights"
    figure = "give class 0 .65" if pool == "geometric" else "do not give class 0 .40"
    return (
        Disclaimer(CONVEXITY, 3, f"{example}, {figure}"),
        Disclaimer(
            WEIGHTS,
            3,
            f"{example}, {figure}; towards either teacher it goes back to the .40 where it came from",
        ),
    )


def lone_teacher_first(fuse: Fuse) -> Fuse:
    """Answer a lone teacher bit for bit; give `fuse` the weights in the dtype of the log-probabilities.

    Args:
        fuse: a rule under which unanimous teachers are repeated, so that a lone one is the answer.

    Returns:
        The rule for any number of teachers.
    """

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


def present(log_probs: Array, weights: Array) -> Array:
    """Replace absent teachers by the uniform distribution.

    A teacher of weight 0 may hold anything. Formulas that multiply by its weight in the end should meet
    numbers on the way, so that neither 0 times NaN nor the gradient of it arises.

    Args:
        log_probs: [K, ..., C].
        weights: [K, ...], non-negative.

    Returns:
        [K, ..., C].
    """
    xp = array_namespace(log_probs)
    return xp.where(weights[..., None] > 0, log_probs, -math.log(log_probs.shape[-1]))
