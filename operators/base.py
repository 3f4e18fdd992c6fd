"""The seam: what an operator is, and the types its makers and users share."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

# Any array of the Python array API standard. The standard publishes no type, and a protocol of our own would
# have to be cast at every call of a namespace that is only known at run time.
Array: TypeAlias = Any

Domain: TypeAlias = Literal["zeros", "floored"]

# Sorted pairs: immutable, hashable, and `dict(parameters)` is canonical JSON's input.
Parameters: TypeAlias = tuple[tuple[str, bool | int | float | str], ...]

Fuse: TypeAlias = Callable[[Array, Array], Array]


class Claim(NamedTuple):
    """A promise: on its domain the operator reaches this level of this axiom.

    Attributes:
        axiom: one of `operators.axioms.AXIOMS`.
        level: the level it reaches at least (see `operators.levels`).
        proof: where the proof stands, or None where the claim is only tested.
    """

    axiom: str
    level: int
    proof: str | None = None


class Disclaimer(NamedTuple):
    """An admission: the operator does not reach this level of this axiom.

    Attributes:
        axiom: one of `operators.axioms.AXIOMS`.
        level: the level it does not reach.
        reason: why, with the smallest example that shows it.
    """

    axiom: str
    level: int
    reason: str


class Operator(NamedTuple):
    """A pooling rule: several class distributions and their weights in, one class distribution out.

    `fuse(log_probs[K, B, C], weights[K, B]) -> log_probs[B, C]` is pure and row-wise: row b of the answer
    depends on row b of the arguments alone. `log_probs` are natural logarithms of K normalised distributions
    per row, `weights` are non-negative and sum to one over K. A teacher of weight 0 is absent, whatever its
    log_probs hold. The answer has the dtype of `log_probs`. A row without a pool is all NaN; no row raises.

    Two operators are the same rule when their `name` and `parameters` are equal; `fuse` compares by identity.

    Attributes:
        name: the word for it in a recipe.
        parameters: its parameters with their values, defaults included, sorted by name.
        fuse: the rule.
        domain: "zeros" where probabilities may be exactly 0 (log_probs of -inf); "floored" where every
            probability must first be lifted to at least epsilon / C (see `operators.simplex.floor`).
        claims: what it promises; the certifier finds a claim that does not hold.
        disclaimers: what it does not promise; the certifier finds one that it cannot witness.

    Example:
        >>> from operators import holder
        >>> operator = holder(exponent=2)
        >>> operator.name, operator.parameters, operator.domain
        ('holder', (('exponent', 2.0),), 'zeros')
    """

    name: str
    parameters: Parameters
    fuse: Fuse
    domain: Domain
    claims: tuple[Claim, ...] = ()
    disclaimers: tuple[Disclaimer, ...] = ()


# Makes an operator from keyword parameters, or raises InvalidParameter.
Factory: TypeAlias = Callable[..., Operator]
