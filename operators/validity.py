"""Whether an operator is put together as one, before anybody asks it anything."""

import math
from typing import Any, get_args

from operators.base import Claim, Disclaimer, Domain, Operator
from operators.errors import InvalidOperator, suggestion
from operators.levels import LEVELS

_DOMAINS = get_args(Domain)


def checked(made: Any) -> Operator:
    """Return what a factory made, if it is an operator that can be named, kept and certified.

    Args:
        made: anything.

    Returns:
        The same object.

    Raises:
        InvalidOperator: it is none, or one of its fields is not what `Operator` says; the message tells which
            one and what to write instead.

    Example:
        >>> from operators import linear
        >>> checked(linear()).name
        'linear'
        >>> checked(linear()._replace(domain="Zeros"))
        Traceback (most recent call last):
        operators.errors.InvalidOperator: operator 'linear': its domain is 'Zeros'; did you mean zeros? \
(known: floored, zeros)
    """
    if not isinstance(made, Operator):
        raise InvalidOperator(
            f"{made!r:.80} is no operator but of type {type(made).__name__}: "
            "return operators.Operator(name, parameters, fuse, domain)"
        )
    if not isinstance(made.name, str) or not made.name:
        raise InvalidOperator(f"an operator's name is {made.name!r:.80}; it must be text, and not empty")
    where = f"operator {made.name!r}"
    if not callable(made.fuse):
        raise InvalidOperator(
            f"{where}: its fuse is {made.fuse!r:.80}; it must be a function of log_probs and weights"
        )
    if not isinstance(made.domain, str) or made.domain not in _DOMAINS:
        raise InvalidOperator(
            f"{where}: its domain is {made.domain!r:.80}; {suggestion(str(made.domain), _DOMAINS)}"
        )
    _parameters(made.parameters, where)
    _said(made.claims, Claim, where)
    _said(made.disclaimers, Disclaimer, where)
    return made


def _parameters(parameters: Any, where: str) -> None:
    """Sorted pairs of a name and a plain value: they name the operator in keys and certificates."""
    advice = "write tuple(sorted({'name': value}.items()))"
    pairs = parameters if isinstance(parameters, tuple) else None
    if pairs is None or not all(isinstance(one, tuple) and len(one) == 2 for one in pairs):  # noqa: PLR2004
        raise InvalidOperator(f"{where}: its parameters are {parameters!r:.80}, no tuple of pairs: {advice}")
    names = [name for name, _ in pairs]
    if not all(isinstance(name, str) for name in names) or names != sorted(set(names)):
        raise InvalidOperator(
            f"{where}: its parameters are named {names!r:.80}; names are text, each once, in order: {advice}"
        )
    for name, value in pairs:
        if not isinstance(value, (bool, int, float, str)):
            raise InvalidOperator(
                f"{where}: parameter {name!r} is {value!r:.80} of type {type(value).__name__}; "
                "it must be a bool, int, float or str"
            )
        # NaN is not equal to itself, and JSON, which operators are named in, holds neither.
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidOperator(f"{where}: parameter {name!r} is {value!r}; it must be finite")


def _said(said: Any, kind: type[Claim] | type[Disclaimer], where: str) -> None:
    word = kind.__name__.lower()
    if not isinstance(said, tuple) or not all(isinstance(one, kind) for one in said):
        raise InvalidOperator(
            f"{where}: its {word}s are {said!r:.80}; write a tuple of {kind.__name__}(axiom, level, ...)"
        )
    for axiom, level, why in said:
        if not isinstance(axiom, str) or axiom not in LEVELS:
            raise InvalidOperator(
                f"{where}: a {word} names no axiom {axiom!r:.80}: {suggestion(str(axiom), LEVELS)}"
            )
        highest = len(LEVELS[axiom]) - 1
        if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= highest:
            raise InvalidOperator(
                f"{where}: a {word} of {axiom} has level {level!r:.80}; it must be an int from 0 to {highest}"
            )
        if not isinstance(why, str) and not (kind is Claim and why is None):
            raise InvalidOperator(
                f"{where}: a {word} of {axiom} level {level} gives {why!r:.80} for a reason; write text"
            )
