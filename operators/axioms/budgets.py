"""Budgets: how many cases each check gets. Fixed counts, never clocks: the same question has one answer."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from operators.errors import InvalidParameter, suggestion


class Budget(NamedTuple):
    """Counts for one run.

    Attributes:
        pointwise: Dirichlet rows over all shapes for checks that ask once or twice a case.
        others: rows of every other generator and shape for the same checks.
        paths: rows of every generator and shape for checks that follow a path of weights.
        segments: rows of every generator and shape for checks that bisect.
        hull: rows of every generator and shape for the hull.
        classes: the numbers of classes of the full battery.
        teachers: the numbers of teachers beside the question's own.
        climbs: rounds of the search that makes bad cases worse.
        wide: a number of classes for one pass of the cheap checks, or None.
    """

    pointwise: int
    others: int
    paths: int
    segments: int
    hull: int
    classes: tuple[int, ...]
    teachers: tuple[int, ...]
    climbs: int
    wide: int | None


BUDGETS: Mapping[str, Budget] = MappingProxyType(
    {
        "quick": Budget(
            pointwise=100_000,
            others=1_000,
            paths=250,
            segments=60,
            hull=60,
            classes=(3, 4, 7, 10),
            teachers=(),
            climbs=12,
            wide=None,
        ),
        "full": Budget(
            pointwise=1_000_000,
            others=10_000,
            paths=3_000,
            segments=600,
            hull=1_000,
            classes=(2, 3, 4, 7, 10, 17, 100),
            teachers=(1, 2, 8),
            climbs=60,
            wide=50_000,
        ),
        "soak": Budget(
            pointwise=10_000_000,
            others=100_000,
            paths=30_000,
            segments=6_000,
            hull=10_000,
            classes=(2, 3, 4, 7, 10, 17, 100),
            teachers=(1, 2, 4, 8),
            climbs=200,
            wide=50_000,
        ),
    }
)


def budget_of(name: str) -> Budget:
    """The budget of that name.

    Raises:
        InvalidParameter: there is none.
    """
    if name not in BUDGETS:
        raise InvalidParameter(f"no budget {name!r}: {suggestion(name, BUDGETS)}")
    return BUDGETS[name]
