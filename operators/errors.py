"""What can be wrong with an operator, or with what it is asked.

OperatorError
├── UnknownOperator    no operator has that name
├── UnknownParameter   the operator takes no such parameter
├── InvalidParameter   a value is outside its range
├── UnknownPrimitive   no primitive has that name
├── InvalidOperator    an operator is not put together as one
├── NotJudged          it raised, or did not answer with log-probabilities (operators.axioms)
└── InvalidBatch       arrays that are no batch of rows (operators.guarantees)
"""

from collections.abc import Iterable
from difflib import get_close_matches


class OperatorError(Exception):
    """The root of everything this package raises on purpose."""


class UnknownOperator(OperatorError):
    """No built-in operator has this name."""


class UnknownParameter(OperatorError):
    """The operator takes no parameter of this name."""


class InvalidParameter(OperatorError):
    """A parameter's value is of the wrong kind or outside its range; the message says the range."""


class InvalidOperator(OperatorError):
    """What a factory made is no operator, or a field of it is not what `Operator` says."""


class UnknownPrimitive(OperatorError):
    """A native version was offered for a primitive that does not exist."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known one, then all of them.

    Example:
        >>> suggestion("gemetric", ["linear", "geometric"])
        'did you mean geometric? (known: geometric, linear)'
        >>> suggestion("weight", [])
        'there are none'
    """
    ordered = sorted(known)
    if not ordered:
        return "there are none"
    nearest = get_close_matches(name, ordered, n=1)
    return (
        f"did you mean {nearest[0]}? (known: {', '.join(ordered)})"
        if nearest
        else f"known: {', '.join(ordered)}"
    )
