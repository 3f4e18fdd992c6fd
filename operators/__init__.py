"""Pooling operators: pure functions over log-probabilities, written once for every array library."""

from operators.base import Array, Claim, Disclaimer, Domain, Factory, Fuse, Operator, Parameters
from operators.errors import (
    InvalidParameter,
    OperatorError,
    UnknownOperator,
    UnknownParameter,
    UnknownPrimitive,
)
from operators.pools import BUILTIN, geometric, holder, linear, make

__all__ = [
    "BUILTIN",
    "Array",
    "Claim",
    "Disclaimer",
    "Domain",
    "Factory",
    "Fuse",
    "InvalidParameter",
    "Operator",
    "OperatorError",
    "Parameters",
    "UnknownOperator",
    "UnknownParameter",
    "UnknownPrimitive",
    "geometric",
    "holder",
    "linear",
    "make",
]
