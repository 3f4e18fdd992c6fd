"""Whether what a user's factory returned is an operator; ``operators.checked`` is to take this over."""

import math
from typing import Any, get_args

from operators import Domain, Operator
from operators.axioms import LEVELS
from operators.errors import OperatorError, suggestion


def checked(operator: Operator) -> Operator:
    """The operator, if it is what its type says: a user's factory may fill in anything.

    Raises:
        OperatorError: naming the field.
    """
    name, parameters, fuse, domain, claims, disclaimers = operator
    if not isinstance(name, str) or not name:
        raise OperatorError(f"its name is {name!r}; give a text")
    if not callable(fuse):
        raise OperatorError(f"its fuse is {fuse!r}; give a function of log_probs and weights")
    if domain not in get_args(Domain):
        raise OperatorError(f"its domain is {domain!r}; give 'zeros' or 'floored'")
    return operator._replace(
        parameters=_pairs(parameters),
        claims=_said("claims", claims),
        disclaimers=_said("disclaimers", disclaimers),
    )


def _pairs(parameters: Any) -> tuple[tuple[str, Any], ...]:
    try:
        pairs = sorted((name, value) for name, value in parameters)
        unique = len(dict(pairs)) == len(pairs)
    except (TypeError, ValueError):
        raise OperatorError(f"its parameters are {parameters!r:.200}; give pairs (name, value)") from None
    for name, value in pairs:
        if not isinstance(name, str):
            raise OperatorError(f"one of its parameters is called {name!r}; give a text")
        if not isinstance(value, bool | int | float | str) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise OperatorError(
                f"its parameter {name!r} is {value!r:.200}; give a finite number, a text, true or false"
            )
    if not unique:
        raise OperatorError(f"its parameters {parameters!r:.200} hold a name twice")
    return tuple(pairs)


def _said(word: str, promises: Any) -> tuple[Any, ...]:
    try:
        for promise in promises:
            if promise.axiom not in LEVELS:
                raise OperatorError(
                    f"it speaks of the axiom {promise.axiom!r}: {suggestion(str(promise.axiom), LEVELS)}"
                )
            if promise.level not in range(len(LEVELS[promise.axiom])):
                raise OperatorError(
                    f"it speaks of level {promise.level!r} of {promise.axiom}, whose levels are 0 to "
                    f"{len(LEVELS[promise.axiom]) - 1}"
                )
        return tuple(promises)
    except (AttributeError, TypeError):
        raise OperatorError(
            f"its {word} are {promises!r:.200}; give a tuple of Claim or Disclaimer"
        ) from None
