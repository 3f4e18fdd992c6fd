"""Pools made of pools: weights by confidence, softening behind, a floor in front."""

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import TypeAlias

from array_api_compat import array_namespace

from operators import lemmas, simplex
from operators.base import Array, Claim, Disclaimer, Fuse, Operator
from operators.lemmas import CONTINUITY, CONVEXITY, POSITIVITY, TEMPERATURE, WEIGHTS
from operators.parameters import between
from operators.pools import LINEAR_CLAIMS, geometric, linear, present

# Teachers [K, B, C], none of them absent, and weights [K, B] in; logarithms of their factors, [K, B], out.
Factors: TypeAlias = Callable[[Array, Array], Array]


def reweighted(fuse: Fuse, factors: Factors) -> Fuse:
    """Multiply every teacher's weight by a factor of its own, divide by the sum, then pool.

    v_k = w_k g(p_k) / sum_j w_j g(p_j)

    Args:
        fuse: the rule to pool by.
        factors: log g. Where it is -inf for every teacher of positive weight, the row has no pool.

    Returns:
        The rule.

    Example:
        >>> import numpy as np
        >>> from operators import linear
        >>> sure = reweighted(linear().fuse, lambda log_probs, weights: log_probs.max(axis=-1))
        >>> np.exp(sure(np.log([[[0.9, 0.1]], [[0.4, 0.6]]]), np.array([[0.5], [0.5]]))).round(2).tolist()
        [[0.7, 0.3]]
    """

    def pool(log_probs: Array, weights: Array) -> Array:
        if log_probs.shape[-1] == 1:
            return fuse(log_probs, weights)  # one class: nothing to be sure or unsure of
        xp = array_namespace(log_probs)
        weights = xp.astype(weights, log_probs.dtype, copy=False)
        logs = factors(present(log_probs, weights), weights)
        total = simplex.weighted_logsumexp(logs[..., None], weights)[..., 0]
        total = xp.where(total == -math.inf, math.nan, total)
        heard = weights > 0
        shares = xp.exp(xp.log(xp.where(heard, weights, 1.0)) + xp.where(heard, logs, 0.0) - total)
        return fuse(log_probs, xp.where(heard, shares, 0.0))

    return pool


def softened(fuse: Fuse, temperature: float) -> Fuse:
    """Pool, then soften the pool by a temperature (see `operators.simplex.soften`).

    Example:
        >>> import numpy as np
        >>> from operators import linear
        >>> pooled = softened(linear().fuse, 2.0)(np.log([[[0.8, 0.2]]]), np.array([[1.0]]))
        >>> np.exp(pooled).round(4).tolist()
        [[0.6667, 0.3333]]
    """
    return lambda log_probs, weights: simplex.soften(fuse(log_probs, weights), temperature)


def floored(fuse: Fuse, epsilon: float) -> Fuse:
    """Lift the teachers' probabilities, then pool (see `operators.simplex.floor`).

    Example:
        >>> import numpy as np
        >>> from operators import linear
        >>> pooled = floored(linear().fuse, 0.01)(np.array([[[0.0, -np.inf]]]), np.array([[1.0]]))
        >>> np.exp(pooled).round(4).tolist()
        [[0.995, 0.005]]
    """
    return lambda log_probs, weights: fuse(simplex.floor(present(log_probs, weights), epsilon), weights)


def entropy_weighted(*, beta: float = 1.0) -> Operator:
    """Pool by the arithmetic mean, teachers that are sure of themselves weighing more.

    A_c = sum_k v_k p_kc with v_k proportional to w_k exp(-beta H(p_k) / log C), H the entropy in nats.

    The returned operator's `fuse` takes:
        log_probs: [K, B, C], normalised, -inf allowed (domain "zeros").
        weights: [K, B], non-negative, summing to one over K.

    A teacher's factor lies between exp(-beta) and 1, so nobody is silenced; 0 log 0 is 0, and a one-hot
    teacher has factor 1. With one class, or beta = 0, it is the linear pool. One teacher is returned bit for
    bit. Sure is not right: an overconfident teacher is best calibrated first.

    Args:
        beta: how much certainty counts, 0 to 10.

    Returns:
        The operator `entropy_weighted` with its parameter `beta`; its `fuse` answers log_probs [B, C].

    Raises:
        InvalidParameter: beta is not a number, or outside its range.

    Example:
        >>> import numpy as np
        >>> log_probs = np.log([[[0.99, 0.01]], [[0.5, 0.5]]])
        >>> pooled = entropy_weighted().fuse(log_probs, np.array([[0.5], [0.5]]))
        >>> np.exp(pooled).round(4).tolist()
        [[0.8503, 0.1497]]

    Source:
        Kwon, Na, Lee and Kim, "Adaptive knowledge distillation based on entropy", ICASSP 2020, for entropy as
        a teacher's weight.
    """
    strength = between("beta", beta, 0, 10)

    def factors(log_probs: Array, _: Array) -> Array:
        return simplex.entropy(log_probs) * (-strength / math.log(log_probs.shape[-1]))

    return Operator(
        "entropy_weighted",
        (("beta", strength),),
        reweighted(linear().fuse, factors),
        "zeros",
        LINEAR_CLAIMS,
        (
            Disclaimer(
                TEMPERATURE, 2, "teachers (.8, .2), (.4, .6), T = 2: softened first or last, the pools differ"
            ),
        ),
    )


def inverse_entropy() -> Operator:
    """Pool by the arithmetic mean, weights divided by the teachers' entropies.

    A_c = sum_k v_k p_kc with v_k proportional to w_k / H(p_k), H the entropy in nats.

    The returned operator's `fuse` takes:
        log_probs: [K, B, C], normalised, every p at least epsilon / C (domain "floored").
        weights: [K, B], non-negative, summing to one over K.

    The floor keeps the entropies from 0. Without it a one-hot teacher takes all the weight, two of them leave
    the row without a pool (all NaN), and next to two of them a millionth of probability decides: prefer
    `entropy_weighted`. With one class it is the linear pool. One teacher is returned bit for bit.

    Returns:
        The operator `inverse_entropy`, without parameters; its `fuse` answers log_probs [B, C].

    Example:
        >>> import numpy as np
        >>> log_probs = np.log([[[0.99, 0.01]], [[0.5, 0.5]]])
        >>> pooled = inverse_entropy().fuse(log_probs, np.array([[0.5], [0.5]]))
        >>> np.exp(pooled).round(4).tolist()
        [[0.9534, 0.0466]]

    Source:
        Kwon, Na, Lee and Kim, "Adaptive knowledge distillation based on entropy", ICASSP 2020.
    """
    return Operator(
        "inverse_entropy",
        (),
        reweighted(linear().fuse, _inverse_entropies),
        "floored",
        (
            Claim(CONVEXITY, 4, lemmas.HULL),
            Claim(POSITIVITY, 1, lemmas.SOME_SHARE),
            Claim(WEIGHTS, 3, lemmas.STRAIGHT),
            Claim(CONTINUITY, 1, lemmas.COMPOSED),
            Claim(TEMPERATURE, 1, lemmas.BOUNDED),
        ),
        (
            Disclaimer(
                POSITIVITY, 2, "a one-hot teacher takes all the weight: (1, 0, 0) beside (.4, .3, .3)"
            ),
            Disclaimer(
                CONTINUITY,
                2,
                "next to (1, 0), (0, 1): (1-1e-9, 1e-9), (1e-6, 1-1e-6) give class 0 .9985, and with 1e-6 "
                "and 1e-9 swapped .0015",
            ),
            Disclaimer(
                TEMPERATURE,
                2,
                "teachers (.8, .2), (.4, .6), equal weights, T = 2: softened first (.562, .438), last "
                "(.566, .434)",
            ),
        ),
    )


def _inverse_entropies(log_probs: Array, weights: Array) -> Array:
    """The logarithm of 1 / H(p_k) times the product of all entropies, which is the same for all teachers.

    That is the product of the others' entropies: a lone one-hot divides nothing by 0.
    """
    xp = array_namespace(log_probs)
    entropies = simplex.entropy(log_probs)
    certain = entropies <= 0
    logs = xp.where(certain, -math.inf, xp.log(xp.where(certain, 1.0, entropies)))
    logs = xp.where(weights > 0, logs, 0.0)
    teachers = range(logs.shape[0])
    if len(teachers) == 1:
        return weights * 0.0
    return xp.stack([reduce(operator.add, (logs[j, ...] for j in teachers if j != k)) for k in teachers])


def entropic_regularised(*, strength: float = 0.5) -> Operator:
    """Pool by the geometric mean, softened: the pool that also wants to be uncertain.

    A_c = prod_k p_kc^(w_k / (1 + strength)) / Z. At q = A, sum_k w_k KL(q || p_k) - strength H(q) is least.

    The returned operator's `fuse` takes:
        log_probs: [K, B, C], normalised, every p at least epsilon / C (domain "floored").
        weights: [K, B], non-negative, summing to one over K.

    A lone teacher is softened too, and so are unanimous ones: (.6, .4) twice gives (.567, .433). A class at
    -inf in one teacher of positive weight is vetoed; where all are the row is all NaN.

    Args:
        strength: of the regularisation, .01 to 10; the pool is softened by the temperature 1 + strength.

    Returns:
        The operator `entropic_regularised` with its parameter `strength`; its `fuse` answers log_probs
        [B, C].

    Raises:
        InvalidParameter: strength is not a number, or outside its range.

    Example:
        >>> import numpy as np
        >>> log_probs = np.log([[[0.6, 0.4]], [[0.6, 0.4]]])
        >>> pooled = entropic_regularised().fuse(log_probs, np.array([[0.5], [0.5]]))
        >>> np.exp(pooled).round(4).tolist()
        [[0.5672, 0.4328]]

    Source:
        Flouro and Chadwick, "Multi-teacher ensemble distillation: a mathematical framework for
        probability-domain knowledge aggregation", arXiv 2601.09165, name the family; this formula is our
        reading of it.
    """
    weight = between("strength", strength, 0.01, 10)
    return Operator(
        "entropic_regularised",
        (("strength", weight),),
        softened(geometric().fuse, 1.0 + weight),
        "floored",
        (
            Claim(CONVEXITY, 1, lemmas.ANCHORED),
            Claim(POSITIVITY, 1, lemmas.NO_VETO),
            Claim(WEIGHTS, 1, lemmas.SHRINKS),
            Claim(CONTINUITY, 1, lemmas.COMPOSED),
            Claim(TEMPERATURE, 2, lemmas.COMMUTES),
        ),
        (
            Disclaimer(CONVEXITY, 2, "unanimous teachers are softened: (.6, .4) twice gives (.567, .433)"),
            Disclaimer(POSITIVITY, 2, "a veto: teachers (0, .5, .5), (.98, .01, .01) give class 0 nothing"),
            Disclaimer(WEIGHTS, 2, "all weight on (.6, .4) gives (.567, .433)"),
            Disclaimer(
                CONTINUITY, 2, "teachers (1, 0), (0, 1): 0/0, and next to them whatever the zeros' ratio is"
            ),
        ),
    )


def smoothed_geometric(*, epsilon: float = 1e-6) -> Operator:
    """Pool by the geometric mean of teachers that are lifted off zero inside the operator.

    A_c = prod_k ((1 - epsilon) p_kc + epsilon / C)^w_k / Z

    The returned operator's `fuse` takes:
        log_probs: [K, B, C], normalised, -inf allowed (domain "zeros").
        weights: [K, B], non-negative, summing to one over K.

    No class is ever impossible. A lone teacher is lifted too, and softening comes before the lift here and
    after it there: prefer `geometric` with the recipe's floor, which lifts once, at ingestion.

    Args:
        epsilon: the share of the uniform distribution, 1e-7 to .5.

    Returns:
        The operator `smoothed_geometric` with its parameter `epsilon`; its `fuse` answers log_probs [B, C].

    Raises:
        InvalidParameter: epsilon is not a number, or outside its range.

    Example:
        >>> import numpy as np
        >>> with np.errstate(divide="ignore"):
        ...     log_probs = np.log([[[1.0, 0.0]], [[0.5, 0.5]]])
        >>> pooled = smoothed_geometric().fuse(log_probs, np.array([[0.5], [0.5]]))
        >>> np.exp(pooled).round(5).tolist()
        [[0.99929, 0.00071]]

    Source:
        Heskes, "Selecting weighting factors in logarithmic opinion pools", NIPS 10, 1997, for the pool.
    """
    share = between("epsilon", epsilon, 1e-7, 0.5)
    return Operator(
        "smoothed_geometric",
        (("epsilon", share),),
        floored(geometric().fuse, share),
        "zeros",
        (
            Claim(CONVEXITY, 1, "lifting moves every log-odds towards 0; then " + lemmas.INTERNAL),
            Claim(POSITIVITY, 2, "lifted probabilities are positive"),
            Claim(WEIGHTS, 1, lemmas.SHRINKS),
            Claim(CONTINUITY, 2, "lifting is continuous, and lifted probabilities stay away from 0"),
            Claim(TEMPERATURE, 0, lemmas.UNIFORM),
        ),
        (
            Disclaimer(CONVEXITY, 2, "unanimous teachers are lifted: (1, 0) twice gives class 1 epsilon / 2"),
            Disclaimer(WEIGHTS, 2, "all weight on (1, 0) gives class 1 epsilon / 2"),
            Disclaimer(
                TEMPERATURE,
                1,
                "unanimous teachers (1-e, e) with e far below epsilon: their diameter is 0, and "
                "lifting does not commute with softening",
            ),
        ),
    )
