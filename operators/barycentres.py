"""Barycentres found by iteration: in a proper scoring rule's geometry, and in optimal transport's."""

import math
import operator
from functools import reduce

from array_api_compat import array_namespace, device

from operators import lemmas, simplex
from operators.base import Array, Claim, Disclaimer, Fuse, Operator
from operators.errors import InvalidParameter, suggestion
from operators.lemmas import CONTINUITY, CONVEXITY, POSITIVITY, TEMPERATURE, WEIGHTS
from operators.parameters import between
from operators.pools import lone_teacher_first, present

NEWTON_STEPS = 32
ROUNDING = 1e-14  # a shift below this is the rounding of teachers that agree
SINKHORN_STEPS = 96
RELAXATION = 1.8
# Beyond exp(-1/epsilon) the kernel's smallest entries leave what is well within reach of float64.
SMALLEST_EPSILON = 0.02
DISTANCES = {"absolute": 1, "squared": 2}


def tsallis(*, a: float = 0.5) -> Operator:
    """Pool by the quasi-arithmetic mean of the Tsallis score: powers are averaged, and shifted to sum to 1.

    A_c = (sum_k w_k p_kc^a + shift)^(1/a), with the one shift >= 0 for which sum_c A_c = 1.

    The returned operator's `fuse` takes:
        log_probs: [K, B, C], normalised, -inf allowed (domain "zeros").
        weights: [K, B], non-negative, summing to one over K.

    The shift is 0 where the teachers agree, else positive: classes that all teachers hold impossible become
    possible then. Found by 32 of Newton's steps from C^-a, which is above it: the sum is convex and rises
    with the shift, so the steps fall towards it. In float64; a shift below 1e-14 counts as 0. One teacher is
    returned bit for bit.

    Args:
        a: the power, .1 to .9; 1 would be the linear pool, and beyond it shifts may have to be negative.

    Returns:
        The operator `tsallis` with its parameter `a`; its `fuse` answers log_probs [B, C].

    Raises:
        InvalidParameter: a is not a number, or outside its range.

    Example:
        >>> import numpy as np
        >>> with np.errstate(divide="ignore"):
        ...     log_probs = np.log([[[0.9, 0.1, 0.0]], [[0.1, 0.9, 0.0]]])
        >>> pooled = tsallis().fuse(log_probs, np.array([[0.5], [0.5]]))
        >>> np.exp(pooled).round(4).tolist()
        [[0.4974, 0.4974, 0.0053]]

    Source:
        Neyman and Roughgarden, "From proper scoring rules to max-min optimal forecast aggregation", arXiv
        2102.07081.
    """
    power = between("a", a, 0.1, 0.9)
    return Operator(
        "tsallis",
        (("a", power),),
        lone_teacher_first(_tsallis(power)),
        "zeros",
        (
            Claim(
                CONVEXITY,
                1,
                "the shift is not negative, as power means of a < 1 sum to at most 1; so odds to the power a "
                "are mediants of the teachers' and of 1",
            ),
            Claim(POSITIVITY, 2, lemmas.SOME_SHARE),
            Claim(WEIGHTS, 1),
            Claim(
                CONTINUITY,
                2,
                "the shift is the only root of a sum that rises with it, continuous in all it holds",
            ),
            Claim(TEMPERATURE, 0, lemmas.UNIFORM),
        ),
        (
            Disclaimer(
                CONVEXITY, 2, "teachers (.9, .1, 0), (.1, .9, 0), equal weights, a = .5, give class 2 .0053"
            ),
            Disclaimer(WEIGHTS, 2, "from (.9, .1, 0) to (.1, .9, 0) class 2 comes and goes"),
            Disclaimer(
                TEMPERATURE,
                1,
                "teachers (.00431, .48443, .51126), (.00527, .45694, .53779), weights (.683, .317), "
                "T = .153, a = .5: the defect is 19.04, the bound 1.70",
            ),
        ),
    )


def _tsallis(power: float) -> Fuse:
    def fuse(log_probs: Array, weights: Array) -> Array:
        xp = array_namespace(log_probs)
        # In float64, from distributions and weights that sum to 1: the shift would make up for the rest.
        exact = simplex.log_softmax(xp.astype(present(log_probs, weights), xp.float64))
        shares = xp.astype(weights, xp.float64)
        shares = shares / reduce(operator.add, (shares[k, ...] for k in range(shares.shape[0])))
        log_means = simplex.weighted_logsumexp(exact * power, shares)
        means = xp.exp(log_means)
        start = means[..., :1] * 0.0 + log_probs.shape[-1] ** -power
        (shift,) = simplex.iterate(lambda state: (_newton(means, state[0], power),), (start,), NEWTON_STEPS)
        some = shift > ROUNDING
        log_shift = xp.where(some, xp.log(xp.where(some, shift, 1.0)), -math.inf)
        pooled = simplex.log_softmax(simplex.logaddexp(log_means, log_shift) / power)
        return xp.astype(pooled, log_probs.dtype, copy=False)

    return fuse


def _newton(means: Array, shift: Array, power: float) -> Array:
    """One step towards sum_c (means_c + shift)^(1/power) = 1."""
    xp = array_namespace(means)
    moved = means + shift
    possible = moved > 0
    slopes = moved
    if power != 0.5:  # noqa: PLR2004 - there the slope is the number itself, and powers are slow
        slopes = xp.exp(xp.log(xp.where(possible, moved, 1.0)) * (1 / power - 1))
        slopes = xp.where(possible, slopes, 0.0)
    excess = xp.sum(moved * slopes, axis=-1, keepdims=True) - 1.0
    slope = xp.sum(slopes, axis=-1, keepdims=True) / power
    return xp.clip(shift - excess / slope, 0.0, None)


def wasserstein(*, epsilon: float = 0.02, distances: str = "squared") -> Operator:
    """Pool by the entropic barycentre of optimal transport: mass in between, where classes have an order.

    A_c = q_c, where q makes sum_k w_k W(p_k, q) least, and W is the least sum_ij t_ij (d_ij + epsilon log
    t_ij) over plans t with marginals p_k and q; d_ij = ((i - j) / (C - 1))^2 or |i - j| / (C - 1).

    The returned operator's `fuse` takes:
        log_probs: [K, B, C], normalised, -inf allowed (domain "zeros").
        weights: [K, B], non-negative, summing to one over K.

    Only for classes that are ordered, such as grades or ages: between the first and the last of three,
    squared distances answer the one in the middle, which no teacher believes in; absolute ones find all
    equally good. A lone teacher is blurred, as unanimous and even uniform ones are; every class becomes
    possible. Sinkhorn's steps, over-relaxed, 96 of them, in float64: with squared distances nine random rows
    in ten are then within 3e-3 of the limit in total variation over three classes, and within 1e-6 over ten;
    the worst are 4e-2 away. They cost C^2 each: a few hundred classes at most.

    Args:
        epsilon: how much a plan's entropy counts against distances, .02 to 1: the blur.
        distances: "squared" or "absolute".

    Returns:
        The operator `wasserstein` with its parameters; its `fuse` answers log_probs [B, C].

    Raises:
        InvalidParameter: epsilon is not a number, or outside its range, or distances is no such word.

    Example:
        >>> import numpy as np
        >>> log_probs = np.log([[[0.98, 0.01, 0.01]], [[0.01, 0.01, 0.98]]])
        >>> pooled = wasserstein().fuse(log_probs, np.array([[0.5], [0.5]]))
        >>> np.exp(pooled).round(2).tolist()
        [[0.02, 0.96, 0.02]]

    Source:
        Benamou, Carlier, Cuturi, Nenna and Peyre, "Iterative Bregman projections for regularized
        transportation problems", SIAM Journal on Scientific Computing 37(2), 2015; for ensembles of
        classifiers Dognin et al., "Wasserstein barycenter model ensembling", arXiv 1902.04999; over-relaxed
        as in Thibault et al., "Overrelaxed Sinkhorn-Knopp algorithm for regularized optimal transport", arXiv
        1711.01851.
    """
    blur = between("epsilon", epsilon, SMALLEST_EPSILON, 1)
    if not isinstance(distances, str) or distances not in DISTANCES:
        raise InvalidParameter(f"no distances {distances!r}: {suggestion(str(distances), DISTANCES)}")
    return Operator(
        "wasserstein",
        (("distances", distances), ("epsilon", blur)),
        _wasserstein(blur, DISTANCES[distances]),
        "zeros",
        (
            Claim(CONVEXITY, 0, lemmas.NORMALISED),
            Claim(POSITIVITY, 2, "every plan reaches every class: the kernel exp(-d / epsilon) is positive"),
            Claim(WEIGHTS, 0),
            Claim(CONTINUITY, 2, "a fixed number of continuous steps that divide by positive sums"),
        ),
        (
            Disclaimer(CONVEXITY, 1, "teachers (1, 0, 0), (0, 0, 1), equal weights, give (0, 1, 0)"),
            Disclaimer(
                WEIGHTS, 1, "mass takes the way through the classes in between, and a lone teacher is blurred"
            ),
            Disclaimer(TEMPERATURE, 0, "uniform teachers are not repeated: the ends have fewer neighbours"),
        ),
    )


def _wasserstein(epsilon: float, power: int) -> Fuse:
    def fuse(log_probs: Array, weights: Array) -> Array:
        xp = array_namespace(log_probs)
        probabilities = xp.exp(xp.astype(present(log_probs, weights), xp.float64))
        shares = xp.astype(weights, xp.float64)
        kernel = _kernel(probabilities, epsilon, power)

        def barycentre(potentials: Array) -> tuple[Array, Array]:
            """What the teachers' plans carry to each class in logs, [K, B, C], and their mean, [B, C]."""
            scaling = probabilities / simplex.matmul(xp.exp(potentials), kernel)
            carried = simplex.matmul(scaling, kernel)
            logs = xp.log(xp.where(carried > 0, carried, math.nan))  # nothing to carry: an invalid teacher
            return logs, simplex.weighted_sum(logs, shares)

        def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
            (potentials,) = state
            logs, mean = barycentre(potentials)
            return (potentials + RELAXATION * (mean - logs - potentials),)

        (potentials,) = simplex.iterate(step, (probabilities * 0.0,), SINKHORN_STEPS)
        return xp.astype(simplex.log_softmax(barycentre(potentials)[1]), log_probs.dtype, copy=False)

    return fuse


def _kernel(like: Array, epsilon: float, power: int) -> Array:
    """exp(-d_ij / epsilon), [C, C]."""
    xp = array_namespace(like)
    classes = like.shape[-1]
    places = xp.arange(classes, dtype=like.dtype, device=device(like)) / max(classes - 1, 1)
    apart = xp.abs(places[:, None] - places[None, :])
    return xp.exp((apart * apart if power == 2 else apart) / -epsilon)  # noqa: PLR2004
