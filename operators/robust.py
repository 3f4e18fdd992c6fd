"""Pools that choose among the teachers, class by class: the strongest claim, or the middle of all claims."""

import math
import operator
from functools import reduce

from array_api_compat import array_namespace

from operators import lemmas, simplex
from operators.base import Array, Claim, Disclaimer, Fuse, Operator
from operators.lemmas import CONTINUITY, CONVEXITY, POSITIVITY, TEMPERATURE, WEIGHTS
from operators.parameters import between
from operators.pools import lone_teacher_first

SMALLEST_TRIM = 0.05
LARGEST_TRIM = 0.4  # beyond it float32 decides what is in the narrow window that is left


def weighted_max() -> Operator:
    """Pool by each class's strongest claim, weighted.

    A_c = max_k w_k p_kc / Z

    The returned operator's `fuse` takes:
        log_probs: [K, B, C], normalised, -inf allowed (domain "zeros").
        weights: [K, B], non-negative, summing to one over K.

    Small changes of the weights may change nothing, and a teacher that is listed twice with half its weight
    loses. A class is -inf only where all teachers of positive weight have it so. One teacher is returned bit
    for bit.

    Returns:
        The operator `weighted_max`, without parameters; its `fuse` answers log_probs [B, C].

    Example:
        >>> import numpy as np
        >>> log_probs = np.log([[[0.7, 0.2, 0.1]], [[0.3, 0.1, 0.6]]])
        >>> pooled = weighted_max().fuse(log_probs, np.array([[0.5], [0.5]]))
        >>> np.exp(pooled).round(4).tolist()
        [[0.4667, 0.1333, 0.4]]

    Source:
        Kittler, Hatef, Duin and Matas, "On combining classifiers", IEEE Transactions on Pattern Analysis and
        Machine Intelligence 20(3), 1998 (the max rule, there without weights).
    """
    return Operator(
        "weighted_max",
        (),
        lone_teacher_first(_weighted_max),
        "zeros",
        (
            Claim(CONVEXITY, 2, lemmas.INTERNAL),
            Claim(POSITIVITY, 2, lemmas.SOME_SHARE),
            Claim(WEIGHTS, 1),
            Claim(CONTINUITY, 2, lemmas.COMPOSED_AT_ZERO),
            Claim(TEMPERATURE, 1, lemmas.BOUNDED),
        ),
        (
            Disclaimer(
                CONVEXITY, 3, "teachers (.40, .58, .02), (.40, .02, .58), equal weights, give class 0 .256"
            ),
            Disclaimer(
                WEIGHTS,
                2,
                "a dead zone: teachers (.7, .3), (.6, .4) give (.7, .3) at weights .9, .1 and .8, .2",
            ),
            Disclaimer(
                TEMPERATURE,
                2,
                "teachers (.8, .2), (.4, .6), T = 2: softened first (.548, .452), last (.536, .464)",
            ),
        ),
    )


def _weighted_max(log_probs: Array, weights: Array) -> Array:
    xp = array_namespace(log_probs)
    heard = weights > 0
    logs = xp.log(xp.where(heard, weights, 1.0))[..., None] + xp.where(heard[..., None], log_probs, 0.0)
    claims = xp.where(heard[..., None], logs, -math.inf)
    return simplex.log_softmax(reduce(xp.maximum, (claims[k, ...] for k in range(claims.shape[0]))))


def trimmed_mean(*, trim: float = 0.2) -> Operator:
    """Pool by each class's mean over the teachers in the middle, the same weight cut off below and above.

    A_c = 1/Z times the integral over u from trim to 1 - trim of Q_c(u), where Q_c is the weighted quantile
    function of class c: teachers sorted by p_kc, each holding a stretch of [0, 1] as long as its weight.

    The returned operator's `fuse` takes:
        log_probs: [K, B, C], normalised, -inf allowed (domain "zeros").
        weights: [K, B], non-negative, summing to one over K.

    Ties need no rule: tied teachers hold the same value. A class that only teachers of a total weight up to
    `trim` hold possible is -inf. Where that is every class (five disjoint one-hots of weight .2, say), there
    is nothing left, and the row is the linear pool. One teacher is returned bit for bit. Weight that moves to
    a teacher may take the pool further away from it.

    Args:
        trim: the weight cut off at either end, .05 to .4.

    Returns:
        The operator `trimmed_mean` with its parameter `trim`; its `fuse` answers log_probs [B, C].

    Raises:
        InvalidParameter: trim is not a number, or outside its range.

    Example:
        >>> import numpy as np
        >>> log_probs = np.log([[[0.6, 0.4]], [[0.7, 0.3]], [[0.01, 0.99]]])
        >>> pooled = trimmed_mean().fuse(log_probs, np.full((3, 1), 1 / 3))
        >>> np.exp(pooled).round(4).tolist()
        [[0.4911, 0.5089]]

    Source:
        Jose, Grushka-Cockayne and Lichtendahl, "Trimmed opinion pools and the crowd's calibration problem",
        Management Science 60(2), 2014.
    """
    share = between("trim", trim, SMALLEST_TRIM, LARGEST_TRIM)
    return Operator(
        "trimmed_mean",
        (("trim", share),),
        lone_teacher_first(_trimmed_mean(share)),
        "zeros",
        (
            Claim(CONVEXITY, 2, lemmas.INTERNAL),
            Claim(POSITIVITY, 1, "the smallest and the largest of positive numbers bound their trimmed mean"),
            Claim(WEIGHTS, 0),
            Claim(CONTINUITY, 1, lemmas.COMPOSED),
            Claim(TEMPERATURE, 1, lemmas.BOUNDED),
        ),
        (
            Disclaimer(
                CONVEXITY,
                3,
                "teachers (.6, .4, 0, 0), (.2, .4, .1, .3), (.2, .4, .4, 0), equal weights, trim .2, give "
                "class 1 .444",
            ),
            Disclaimer(
                POSITIVITY, 2, "what a teacher of weight up to `trim` alone holds possible is cut off"
            ),
            Disclaimer(
                WEIGHTS,
                1,
                "teachers (.4, .4, .2), (.5, .4, .1), (.05, .11, .84), weights (1, 6, 2)/9, trim .2: a tenth "
                "of the way towards teacher 0, KL(p_0 || A) rises from .0139 to .0194",
            ),
            Disclaimer(
                TEMPERATURE,
                2,
                "teachers (.8, .2), (.4, .6), equal weights, T = 2: softened first (.558, .442), last "
                "(.551, .449)",
            ),
        ),
    )


def _trimmed_mean(trim: float) -> Fuse:
    def fuse(log_probs: Array, weights: Array) -> Array:
        xp = array_namespace(log_probs)
        teachers = range(log_probs.shape[0])
        heard = [xp.where(weights[k, ..., None] > 0, log_probs[k, ...], 0.0) for k in teachers]
        shares = [_share_of_the_middle(heard, weights, k, trim) for k in teachers]
        # One teacher a class: the shares differ between classes, so every class is a row of its own.
        means = simplex.weighted_logsumexp(xp.stack(heard)[..., None], xp.stack(shares))[..., 0]
        nothing = xp.max(means, axis=-1, keepdims=True) == -math.inf
        means = xp.where(nothing, simplex.weighted_logsumexp(log_probs, weights), means)
        # What is cut off is not looked at, but an invalid teacher must show.
        valid = reduce(xp.minimum, heard)
        return simplex.log_softmax(xp.where(xp.isnan(valid), math.nan, means))

    return fuse


def _share_of_the_middle(heard: list[Array], weights: Array, k: int, trim: float) -> Array:
    """How much of teacher k's stretch, [B, C], lies between trim and 1 - trim: found without sorting."""
    xp = array_namespace(weights)
    below = reduce(
        operator.add,
        (
            xp.where(other <= heard[k] if j < k else other < heard[k], weights[j, ..., None], 0.0)
            for j, other in enumerate(heard)
            if j != k
        ),
    )
    return xp.clip(below + weights[k, ..., None], trim, 1 - trim) - xp.clip(below, trim, 1 - trim)
