"""Certificates: what was asked of an operator, and what was found."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from operators.axioms.check import Check, plain
from operators.axioms.witness import Witness
from operators.base import Domain


class Question(NamedTuple):
    """What is asked; with the code's digest it names a certificate."""

    operator: str
    parameters: tuple[tuple[str, Any], ...]
    domain: Domain
    floor: float | None
    teachers: int
    classes: int
    profile: str
    budget: str
    seed: int


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        trials: how many cases it judged.
        broken: how many of them break the law.
        margin: the worst margin beyond the tolerance; negative where the law holds.
        witness: where it is broken.
    """

    check: Check
    trials: int
    broken: int
    margin: float
    witness: Witness | None

    @property
    def holds(self) -> bool:
        """Whether no more cases break the law than it allows."""
        return self.broken <= self.check.allowed * self.trials


class Verdict(NamedTuple):
    """What was found of one axiom, gate or property.

    Attributes:
        level: the level reached; for gates and properties 0 where they hold, else -1.
        required: the level asked for, None where nothing is.
        proven: the highest level that a proof is cited for, -1 where none is.
        findings: of its checks.
    """

    level: int
    required: int | None
    proven: int
    findings: tuple[Finding, ...]

    @property
    def proved(self) -> bool:
        """Whether a proof is cited for what is required."""
        return self.proven >= (0 if self.required is None else self.required)

    @property
    def reached(self) -> bool:
        """Whether the level is what is required."""
        return self.required is None or self.level >= self.required

    @property
    def trials(self) -> int:
        """How many cases were judged."""
        return sum(finding.trials for finding in self.findings)

    @property
    def margin(self) -> float:
        """The worst margin of the checks up to the level required (or reached)."""
        upto = self.level if self.required is None else self.required
        return max((one.margin for one in self.findings if one.check.level <= upto), default=-np.inf)

    @property
    def witness(self) -> Witness | None:
        """Against the lowest level that is not reached."""
        broken = [one for one in self.findings if not one.holds]
        return min(broken, key=lambda one: one.check.level).witness if broken else None

    def as_dict(self) -> dict[str, Any]:
        """As JSON; a number that is not finite is null."""
        return {
            "level": self.level,
            "required": self.required,
            "proved": self.proved,
            "trials": self.trials,
            "margin": plain(float(self.margin)),
            "witness": None if self.witness is None else self.witness.as_dict(),
        }


class Certificate(NamedTuple):
    """The answer.

    Attributes:
        question: what was asked.
        axioms: by name.
        gates: by name.
        properties: by name; they decide nothing.
        contradictions: claims that do not hold and disclaimers that nothing shows, in words.
    """

    question: Question
    axioms: Mapping[str, Verdict]
    gates: Mapping[str, Verdict]
    properties: Mapping[str, Verdict]
    contradictions: tuple[str, ...]

    @property
    def missed(self) -> dict[str, Verdict]:
        """The axioms and gates that are below what is required."""
        both = {**self.axioms, **self.gates}
        return {name: verdict for name, verdict in both.items() if not verdict.reached}

    @property
    def violations(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.missed)

    @property
    def admitted(self) -> bool:
        """Whether everything required was reached and everything said of the operator is so."""
        return not self.violations and not self.contradictions

    def as_dict(self) -> dict[str, Any]:
        """As JSON, without the identity, which the service computes."""
        question = self.question
        return {
            "admitted": self.admitted,
            "profile": question.profile,
            "operator": {"name": question.operator, **plain(dict(question.parameters))},
            "domain": question.domain,
            "floor": question.floor,
            "K": question.teachers,
            "C": question.classes,
            "budget": question.budget,
            "seed": question.seed,
            "axioms": {name: verdict.as_dict() for name, verdict in self.axioms.items()},
            "gates": {name: verdict.as_dict() for name, verdict in self.gates.items()},
            "properties": {name: verdict.level >= 0 for name, verdict in self.properties.items()},
            "contradictions": list(self.contradictions),
        }
