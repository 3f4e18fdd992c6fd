"""Operators of your own: a factory with claims, a bare function, and two that look fine and are refused.

    PYTHONPATH=examples soft-targets certify --operator my_operator:sure_weighted --param sharpness=2

In an ensemble's YAML, with the folder of this file on PYTHONPATH:

    recipes:
      mine: {operator: {import: "my_operator:sure_weighted", sharpness: 2}, temperature: 2.0}
"""

from array_api_compat import array_namespace

from operators import Claim, Operator, geometric, linear, simplex
from operators.base import Array
from operators.combinators import reweighted


def sure_weighted(*, sharpness: float = 1.0) -> Operator:
    """A linear pool that listens more to teachers that are surer of themselves.

    The weights are w_k exp(sharpness * max_c p_kc), normalised. They depend continuously on each teacher's
    own answer alone and are never zero, so whatever holds of the linear pool for all weights holds here too.
    """
    if not 0 <= sharpness <= 20:  # noqa: PLR2004 - beyond, float32 leaves the other teachers no weight
        raise ValueError(f"sharpness is {sharpness}; give a number from 0 to 20")

    def surest(log_probs: Array, _: Array) -> Array:
        xp = array_namespace(log_probs)
        return sharpness * xp.exp(xp.max(log_probs, axis=-1))

    proof = "a linear pool, whose weights are w_k g(p_k) with g positive and continuous"
    claims = (
        Claim("convexity_preservation", 4, proof),
        Claim("positivity_inheritance", 2, proof),
        Claim("weight_monotonicity", 2, proof),
        Claim("continuity", 2, proof),
    )
    return Operator(
        "sure_weighted",
        (("sharpness", float(sharpness)),),
        reweighted(linear().fuse, surest),
        "zeros",
        claims,
    )


def mean_of_logits(log_probs: Array, weights: Array) -> Array:
    """A bare function: taken as floored, with no claims. It is the geometric pool."""
    return simplex.log_softmax(simplex.weighted_sum(log_probs, weights))


def product_of_experts(log_probs: Array, weights: Array) -> Array:
    """Refused: two teachers that agree on .6 come out at .692."""
    return simplex.log_softmax(len(log_probs) * simplex.weighted_sum(log_probs, weights))


def halfway(log_probs: Array, weights: Array) -> Array:
    """Refused: a mean of two good pools. One's odds may rise to a teacher's while the other's fall."""
    return simplex.log_softmax((linear().fuse(log_probs, weights) + geometric().fuse(log_probs, weights)) / 2)
