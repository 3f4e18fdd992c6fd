"""Shapes: of which sizes the cases of a check are, and how many of each; counted, so that a run repeats."""

from collections.abc import Iterator
from typing import NamedTuple

from operators.axioms.budgets import Budget
from operators.axioms.check import Check

BATTERY_TEACHERS = 5
BATCH_ROWS = 64
LARGE_BATCH = 4096
LARGE_BATCH_CLASSES = 3
ORDINARY_CLASSES = 10
# Numbers in the log-probabilities of one batch at the real size: rows get fewer as classes get more.
MOST_NUMBERS = 500_000
FEWEST_ROWS = 2
IN_SINGLE = (
    "closure_float32",
    "unanimity_float32",
    "odds_internality_float32",
    "joint_positivity_float32",
)
AT_REAL_TEACHERS = frozenset(
    {
        "closure",
        "unanimity",
        "odds_internality",
        "joint_positivity",
        "divergence_falls",
        "vertex_fidelity",
        "no_dead_zone",
        "weight_zero_absence",
        "row_independence",
        *IN_SINGLE,
    }
)
AT_REAL_CLASSES = frozenset(
    {
        "closure",
        "unanimity",
        "odds_internality",
        "joint_positivity",
        "becomes_uniform",
        "no_jump_in_temperature",
        "weight_zero_absence",
        "row_independence",
        *IN_SINGLE,
    }
)
VECTORISED = frozenset({"closure", "anchored_odds_internality", "odds_internality", "unanimity", "box"})
DIRICHLET = "dirichlet"
CHEAP = (DIRICHLET, "near_uniform")
MANY_CLASSES = 1000


class Shape(NamedTuple):
    """Cases of one size.

    Attributes:
        teachers: K.
        classes: C.
        share: of the budget's rows.
        rows: how many, where no budget decides.
        sources: the only generators that are drawn from; none of them names all.
    """

    teachers: int
    classes: int
    share: float = 1.0
    rows: int | None = None
    sources: tuple[str, ...] = ()

    def counted(self, check: Check, source: str, budget: Budget) -> int:
        """How many rows a generator is asked for."""
        if self.rows is not None:
            return self.rows
        if check.cost == "batch":
            return BATCH_ROWS
        if check.cost != "pointwise":
            return max(8, int(getattr(budget, check.cost) * self.share))
        if source == DIRICHLET and check.name in VECTORISED:
            return max(64, int(budget.pointwise / len(budget.classes) * self.share))
        return max(64, int(budget.others * self.share))


def shapes(check: Check, budget: Budget, *, teachers: int, classes: int) -> Iterator[Shape]:
    """The sizes that a check is asked, for an operator of so many teachers and classes.

    The full battery at few teachers and classes; then what grows with neither at the real numbers of both.
    """
    battery = min(teachers, BATTERY_TEACHERS)
    for count in budget.classes:
        # Pairs of classes cost that much.
        yield Shape(battery, count, min(1.0, (ORDINARY_CLASSES / count) ** 2))
    for number in budget.teachers:
        if number != battery:
            yield Shape(number, 4, 0.25)
    if teachers > BATTERY_TEACHERS and check.name in AT_REAL_TEACHERS:
        yield Shape(teachers, 4, 0.05)
    if check.name in AT_REAL_CLASSES:
        real = {classes, budget.wide} - {None, *budget.classes}
        for wide in sorted(int(one or 0) for one in real):
            segments = check.cost == "segments"
            few = CHEAP if segments and wide > MANY_CLASSES else ()
            yield Shape(teachers, wide, rows=rows_at(teachers, wide, segments=segments), sources=few)
    if check.cost == "batch":
        yield Shape(battery, LARGE_BATCH_CLASSES, rows=LARGE_BATCH, sources=(DIRICHLET,))


def rows_at(teachers: int, classes: int, *, segments: bool = False) -> int:
    """How many rows of a size are asked at once; segments, which are asked fifty times, have fewer."""
    most = MOST_NUMBERS // 4 if segments else MOST_NUMBERS
    return max(FEWEST_ROWS, min(BATCH_ROWS, most // (teachers * classes)))
