"""Guarantees: what pooling bought on a batch, each figure with its bound and for whom it is a theorem."""

import math
from collections.abc import Sequence
from typing import Any

from operators import Operator
from operators.guarantees import guarantees
from service.model import Array

# The arrays come from float32 arithmetic; statements are held against that much rounding.
TOLERANCE = 1e-4


def report(
    operator: Operator,
    entered: Array,
    weights: Array,
    pooled: Array,
    labels: list[int] | None,
    *,
    unsafe: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Everything that can be said of a batch.

    Args:
        operator: that pooled it.
        entered: float32 ``[K, B, C]``, what entered the fusion.
        weights: float32 ``[K, B]``.
        pooled: float32 ``[B, C]``, what came out of it.
        labels: B class indices, -1 where unknown; or None.
        unsafe: the classes whose mass is watched.

    Returns:
        The quantities; a value or bound that is infinite is None.
    """
    found = guarantees(
        operator.name,
        operator.parameters,
        entered,
        weights,
        pooled,
        labels=labels,
        unsafe=unsafe,
        tolerance=TOLERANCE,
    )
    return [
        {
            "name": quantity.name,
            "value": _finite(quantity.value),
            "bound": _finite(quantity.bound),
            "holds": quantity.holds,
            "theorem": quantity.theorem,
            "conditions": quantity.conditions,
        }
        for quantity in found
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
