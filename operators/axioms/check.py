"""What a check is: a named law over data, usable on any cases, with or without a certifier around it."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from operators import simplex
from operators.axioms import generators
from operators.axioms.cases import Cases, Floats
from operators.base import Domain, Fuse
from operators.levels import AXIOMS

# By how much each case breaks the law beyond the tolerance, [B]: positive is broken, -inf does not apply.
Measure: TypeAlias = Callable[[Fuse, Cases], Floats]
# What was compared, for a person: the sides of the law on a single case.
Explain: TypeAlias = Callable[[Fuse, Cases], dict[str, object]]

Cost: TypeAlias = Literal["pointwise", "paths", "segments", "hull", "batch"]

GATES = ("weight_zero_absence", "row_independence")
SHOWN = 64  # how many classes a person is shown


class Sampler(NamedTuple):
    """Where a check draws its cases from.

    Attributes:
        random: seeded.
        teachers: K.
        classes: C.
        domain: of the operator.
        floor: epsilon of the floored domain.
    """

    random: np.random.Generator
    teachers: int
    classes: int
    domain: Domain
    floor: float

    def beliefs(self, generator: generators.Generator, rows: int) -> Floats:
        """Log-probabilities ``[K, rows, C]`` within the operator's domain."""
        log_probs = generator(self.random, self.teachers, rows, self.classes)
        return self.within(log_probs)

    def within(self, log_probs: Floats) -> Floats:
        """The same, floored where the domain is."""
        if self.domain == "zeros":
            return log_probs
        return np.asarray(simplex.floor(log_probs, self.floor))

    def weights(self, rows: int) -> Floats:
        """Weights ``[K, rows]``, zeros among them."""
        return generators.weights(self.random, self.teachers, rows)

    def positive_weights(self, rows: int) -> Floats:
        """Weights ``[K, rows]``, all positive."""
        return generators.positive_weights(self.random, self.teachers, rows)


Draw: TypeAlias = Callable[[Sampler, generators.Generator, int], Cases]


def profiles(sampler: Sampler, generator: generators.Generator, rows: int) -> Cases:
    """Teachers and weights."""
    return Cases(sampler.beliefs(generator, rows), sampler.weights(rows))


def positive_profiles(sampler: Sampler, generator: generators.Generator, rows: int) -> Cases:
    """Teachers, all of them with some weight."""
    return Cases(sampler.beliefs(generator, rows), sampler.positive_weights(rows))


class Check(NamedTuple):
    """One law.

    Attributes:
        name: of the law.
        axiom: the axiom, gate or property it belongs to.
        level: the level of the axiom that needs it.
        statement: the law in words and symbols.
        measure: how much each case breaks it.
        explain: what was compared, on a single case.
        draw: cases from a generator.
        sources: the generators, by name; those among ``EXTREME`` only where the domain holds zeros.
        allowed: the share of cases that may break it: 0, but for laws about most cases.
        climb: whether a search may try to make a case worse by moving it a little.
        cost: how it asks: once or twice a case, along a path, by bisection; a budget has counts for each.
        needs: how many teachers it needs at least.
        tolerance: what rounding may cost: a margin is beyond it.
        implied_by: a stronger law on the same cases; where that is never broken, this one is not either.
    """

    name: str
    axiom: str
    level: int
    statement: str
    measure: Measure
    explain: Explain
    draw: Draw = profiles
    sources: tuple[str, ...] = (*generators.POSITIVE, *generators.EXTREME)
    allowed: float = 0.0
    climb: bool = False
    cost: Cost = "pointwise"
    needs: int = 1
    tolerance: float = 0.0
    implied_by: str | None = None

    @property
    def decides(self) -> bool:
        """Whether it belongs to an axiom or a gate; properties are reported and decide nothing."""
        return self.axiom in AXIOMS or self.axiom in GATES


def outside(value: Floats, tolerance: Floats | float) -> Floats:
    """The margin of a violation that must stay within a tolerance; NaN counts as beyond any."""
    return np.where(np.isnan(value), np.inf, value - tolerance)


def where_answered(answer: Floats, margin: Floats) -> Floats:
    """The margin where there is an answer; a row without one is closure's to judge."""
    return np.where(np.isnan(answer).any(axis=-1), -np.inf, margin)


def unless_lost(pool: Floats, answer: Floats, margin: Floats) -> Floats:
    """The margin of a law that compares a pool with another one, ``answer``.

    Without a pool to begin with it is closure's to judge; where that is lost on the way, the law is broken.
    """
    lost = np.isnan(answer).any(axis=-1)
    return where_answered(pool, np.where(lost, np.inf, margin))


def shown(log_probs: Floats) -> list[object]:
    """Probabilities of one row for a person: enough digits to check by hand, None where there is none."""
    row = np.exp(np.ravel(log_probs))
    told: list[object] = [
        float(f"{value:.10g}") if np.isfinite(value) else None for value in row[:SHOWN].tolist()
    ]
    return told if len(row) <= SHOWN else [*told, f"and {len(row) - SHOWN} more"]


def plain(value: Any) -> Any:
    """The same as JSON can hold it: a number that is not finite is null."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
