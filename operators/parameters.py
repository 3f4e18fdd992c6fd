"""What an operator's numbers may be; a refusal names the parameter, what it was, and its range."""

import math
from numbers import Real

from operators.errors import InvalidParameter


def real(name: str, value: object, allowed: str) -> float:
    """Return a parameter as a float: never -0.0, which is another text in canonical JSON.

    Raises:
        InvalidParameter: it is not a number.

    Example:
        >>> real("beta", "much", "between 0 and 10")
        Traceback (most recent call last):
        operators.errors.InvalidParameter: beta is 'much'; it must be a number: between 0 and 10
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidParameter(f"{name} is {value!r}; it must be a number: {allowed}")
    try:
        return float(value) + 0.0
    except OverflowError:
        return math.inf


def between(name: str, value: object, lowest: float, highest: float) -> float:
    """Return a parameter as a float within a range, both ends included.

    Raises:
        InvalidParameter: it is not a number, or outside the range.

    Example:
        >>> between("trim", 0.7, 0.05, 0.4)
        Traceback (most recent call last):
        operators.errors.InvalidParameter: trim is 0.7; it must be between 0.05 and 0.4
    """
    allowed = f"between {lowest:g} and {highest:g}"
    number = real(name, value, allowed)
    if not lowest <= number <= highest:  # NaN is caught here too
        raise InvalidParameter(f"{name} is {number!r}; it must be {allowed}")
    return number
