"""The built-in operators by name."""

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from operators.barycentres import tsallis, wasserstein
from operators.base import Factory, Operator
from operators.combinators import (
    entropic_regularised,
    entropy_weighted,
    inverse_entropy,
    smoothed_geometric,
)
from operators.errors import UnknownOperator, UnknownParameter, suggestion
from operators.medians import l2_median
from operators.pools import geometric, holder, linear
from operators.robust import trimmed_mean, weighted_max

BUILTIN: Mapping[str, Factory] = MappingProxyType(
    {
        "entropic_regularised": entropic_regularised,
        "entropy_weighted": entropy_weighted,
        "geometric": geometric,
        "holder": holder,
        "inverse_entropy": inverse_entropy,
        "l2_median": l2_median,
        "linear": linear,
        "smoothed_geometric": smoothed_geometric,
        "trimmed_mean": trimmed_mean,
        "tsallis": tsallis,
        "wasserstein": wasserstein,
        "weighted_max": weighted_max,
    }
)


def make(name: str, /, **parameters: Any) -> Operator:
    """Return the built-in operator of this name with these parameters.

    Args:
        name: a key of BUILTIN.
        **parameters: the factory's keyword parameters; what is left out has its default.

    Returns:
        The operator.

    Raises:
        UnknownOperator: there is no such name; the nearest is named.
        UnknownParameter: this operator takes no such parameter; those it takes are named.
        InvalidParameter: a value is outside its range, which is named.

    Example:
        >>> make("holder", exponent=0.25).parameters
        (('exponent', 0.25),)
        >>> make("gemetric")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        operators.errors.UnknownOperator: no operator 'gemetric': did you mean geometric? ...
    """
    factory = BUILTIN.get(name) if isinstance(name, str) else None
    if factory is None:
        raise UnknownOperator(f"no operator {name!r}: {suggestion(str(name), BUILTIN)}")
    known = inspect.signature(factory).parameters
    for parameter in parameters:
        if parameter not in known:
            raise UnknownParameter(f"{name} has no parameter {parameter!r}: {suggestion(parameter, known)}")
    return factory(**parameters)
