"""Pooling operators: pure functions over log-probabilities, written once for every array library."""

from operators.barycentres import tsallis, wasserstein
from operators.base import Array, Claim, Disclaimer, Domain, Factory, Fuse, Operator, Parameters
from operators.builtin import BUILTIN, make
from operators.combinators import (
    entropic_regularised,
    entropy_weighted,
    floored,
    inverse_entropy,
    reweighted,
    smoothed_geometric,
    softened,
)
from operators.errors import (
    InvalidOperator,
    InvalidParameter,
    OperatorError,
    UnknownOperator,
    UnknownParameter,
    UnknownPrimitive,
)
from operators.medians import l2_median
from operators.pools import geometric, holder, linear
from operators.robust import trimmed_mean, weighted_max
from operators.validity import checked

__all__ = [
    "BUILTIN",
    "Array",
    "Claim",
    "Disclaimer",
    "Domain",
    "Factory",
    "Fuse",
    "InvalidOperator",
    "InvalidParameter",
    "Operator",
    "OperatorError",
    "Parameters",
    "UnknownOperator",
    "UnknownParameter",
    "UnknownPrimitive",
    "checked",
    "entropic_regularised",
    "entropy_weighted",
    "floored",
    "geometric",
    "holder",
    "inverse_entropy",
    "l2_median",
    "linear",
    "make",
    "reweighted",
    "smoothed_geometric",
    "softened",
    "trimmed_mean",
    "tsallis",
    "wasserstein",
    "weighted_max",
]
