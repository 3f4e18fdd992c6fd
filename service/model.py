"""The values that the parts of the service hand to each other."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from soft_targets.wire import Layout, Precision

Array = np.ndarray[Any, Any]


class OperatorSpec(NamedTuple):
    """An operator as a recipe names it: resolved, and refused if unknown, when the ensemble is loaded.

    Attributes:
        name: of a built-in operator or an entry point; or the path of an import, ``module:attribute``.
        parameters: in order of their names.
        imported: whether the name is such a path.
    """

    name: str
    parameters: tuple[tuple[str, Any], ...] = ()
    imported: bool = False

    def as_dict(self) -> dict[str, Any]:
        """``{"name": ..., parameter: value, ...}``, or ``import`` for ``name``."""
        return {"import" if self.imported else "name": self.name, **dict(self.parameters)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that determines a target besides the input.

    Attributes:
        weights: one per teacher, in the ensemble's order; they sum to one.
        temperature: softens every teacher before fusion.
        floor: epsilon of ``p <- (1 - epsilon) p + epsilon / C``, where the operator needs a floor.
        output_temperature: recalibrates the fused target; no part of the operator.
        top_k: how many classes are kept; None keeps all.
        dtype: of the target's log-probabilities, in the cache and on the wire.
        diagnostics: whether a target comes with its entropy and the divergence of what was fused.
    """

    operator: OperatorSpec
    weights: tuple[float, ...]
    temperature: float
    floor: float
    output_temperature: float
    top_k: int | None
    dtype: Precision = "float32"
    diagnostics: bool = False

    def layout(self, classes: int) -> Layout:
        """How a target of this recipe is laid out as bytes."""
        return Layout(classes, self.top_k, self.dtype, self.diagnostics)


class RowFailure(NamedTuple):
    """Why one row has no soft target: the row's own code, and what was wrong."""

    code: str
    message: str


class Group(NamedTuple):
    """Rows of one request that are finished together.

    Attributes:
        rows: their positions in the request.
        sources: where each answer came from, one of ``wire.SOURCES``.
        values: each answer's bytes, None where it failed.
        failures: why, None where it did not fail.
        missing: the teachers that each answer had to do without.
    """

    rows: list[int]
    sources: list[str]
    values: list[bytes | None]
    failures: list[RowFailure | None]
    missing: list[tuple[str, ...]]


def normalise(weights: Mapping[str, float], teachers: Collection[str]) -> tuple[float, ...]:
    """Weights in the teachers' order, summing to one; a teacher not named has weight 0.

    Raises:
        ValueError: a name is unknown, a weight is negative or not finite, or all are zero.
    """
    for name, weight in weights.items():
        if name not in teachers:
            raise ValueError(f"unknown teacher {name!r}{nearest(name, teachers)}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"the weight of {name!r} is {weight}; weights are finite and not negative")
    total = sum(weights.values())
    if not 0 < total < float("inf"):
        raise ValueError("at least one weight must be positive, and their sum finite")
    # Never -0.0, which is another text in a fingerprint.
    return tuple(weights.get(name, 0.0) / total + 0.0 for name in teachers)


def nearest(name: str, known: Collection[str]) -> str:
    """What a message about an unknown name ends with: the nearest known one, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(known)) or 'none'}"
