"""What a guarantee is as data, and the three shapes a statement about a batch can have."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]


class Quantity(NamedTuple):
    """One figure about a batch, its bound beside it, and what the two are worth together.

    `holds` always means `value <= bound`, row by row where the statement is about rows, up to rounding. An
    identity is reported by its residual, whose bound is 0.

    Attributes:
        name: what it is, unique within a reply.
        value: the batch's mean, its worst row (`*_worst_excess`, `*_residual`), or a count; nats for losses
            and divergences. It may be infinite: a loss at a class of probability 0 is.
        bound: what it may not exceed; None where there is none.
        holds: whether it does not; None where there is no bound.
        theorem: whether that is proved for the operator at hand, so that `holds` could have been told without
            looking. False: it happened to be so in this batch, or not.
        conditions: in words, for whom it is a theorem, and why it is not one here if it is not.
    """

    name: str
    value: float
    bound: float | None
    holds: bool | None
    theorem: bool
    conditions: str


class Standing(NamedTuple):
    """What a statement is worth here: its `theorem` and `conditions`, and the rounding it is allowed."""

    theorem: bool
    conditions: str
    tolerance: float


def measured(name: str, value: float | np.floating[Any], standing: Standing) -> Quantity:
    """Report a figure that has no bound."""
    return Quantity(name, float(value), None, None, standing.theorem, standing.conditions)


def bounded(
    name: str,
    values: npt.ArrayLike,
    bounds: npt.ArrayLike,
    standing: Standing,
    *,
    least: npt.ArrayLike = -np.inf,
) -> tuple[Quantity, Quantity]:
    """Report `least <= value <= bound` on every row: the means, and the worst row.

    Args:
        name: of the means; the worst row's is this with `_worst_excess`.
        values: any shape, such as [B].
        bounds: broadcasts against values.
        standing: what the statement is worth here.
        least: broadcasts against values; a lower bound that takes part in `holds` and in the excess.

    Returns:
        The two quantities; both hold where every row does.

    Example:
        >>> standing = Standing(True, "Theorem.", 1e-9)
        >>> mean, worst = bounded("loss", [1.0, 3.0], [2.0, 2.5], standing)
        >>> mean.value, mean.bound, mean.holds
        (2.0, 2.25, False)
        >>> worst.name, worst.value, worst.bound, worst.holds
        ('loss_worst_excess', 0.5, 0.0, False)
    """
    values, bounds = np.asarray(values, dtype=np.float64), np.asarray(bounds, dtype=np.float64)
    worst = worst_excess(name, values, bounds, standing, least=least)
    mean = Quantity(
        name, float(values.mean()), float(bounds.mean()), worst.holds, standing.theorem, standing.conditions
    )
    return mean, worst


def worst_excess(
    name: str,
    values: npt.ArrayLike,
    bounds: npt.ArrayLike,
    standing: Standing,
    *,
    least: npt.ArrayLike = -np.inf,
) -> Quantity:
    """Report by how much the worst row exceeds its bound: negative where every row has room.

    Args:
        name: without `_worst_excess`, which is added.
        values: any shape, not empty.
        bounds: broadcasts against values.
        standing: what the statement is worth here.
        least: broadcasts against values; the lower bound, if there is one.

    Returns:
        The quantity, with bound 0. Equal infinities exceed each other by 0.
    """
    above, below = _excess(values, bounds), _excess(least, values)
    slack = standing.tolerance * np.maximum(1.0, np.where(np.isfinite(bounds), np.abs(bounds), 1.0))
    worst = float(max(above.max(), below.max()))
    holds = bool((above <= slack).all() and (below <= slack).all())
    return Quantity(f"{name}_worst_excess", worst, 0.0, holds, standing.theorem, standing.conditions)


def identity(name: str, left: npt.ArrayLike, right: npt.ArrayLike, standing: Standing) -> Quantity:
    """Report by how much two sides of an equation differ at the worst row.

    Args:
        name: without `_residual`, which is added.
        left: any shape, not empty.
        right: broadcasts against left.
        standing: what the statement is worth here.

    Returns:
        The quantity, with bound 0. Equal infinities differ by 0.
    """
    residual = np.maximum(_excess(left, right), _excess(right, left))
    slack = standing.tolerance * np.maximum(1.0, np.where(np.isfinite(right), np.abs(right), 1.0))
    holds = bool((residual <= slack).all())
    return Quantity(
        f"{name}_residual", float(residual.max()), 0.0, holds, standing.theorem, standing.conditions
    )


def _excess(value: npt.ArrayLike, bound: npt.ArrayLike) -> Floats:
    value, bound = np.asarray(value, dtype=np.float64), np.asarray(bound, dtype=np.float64)
    equal = value == bound
    return np.asarray(np.where(equal, 0.0, value - np.where(equal, 0.0, bound)))
