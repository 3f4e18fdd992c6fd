"""Trials: one check after the other, asked of an operator over a budget of cases."""

import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from operators.axioms import (
    coherence,
    continuity,
    convexity,
    gates,
    generators,
    monotonicity,
    positivity,
    properties,
    single,
)
from operators.axioms.budgets import Budget
from operators.axioms.cases import Cases, Floats, NotJudged
from operators.axioms.certificate import Finding, Question
from operators.axioms.check import Check, Sampler
from operators.axioms.search import climb
from operators.axioms.witness import Witness, shrink
from operators.base import Fuse

PARTS = (convexity, positivity, monotonicity, continuity, coherence, single, gates, properties)
CHECKS: Mapping[str, Check] = {check.name: check for part in PARTS for check in part.CHECKS}

CHUNK = 4096
BATTERY_TEACHERS = 5
BATCH_ROWS = 64
WIDE_ROWS = 8
ORDINARY_CLASSES = 10
MANY_CLASSES = 1000
AT_REAL_TEACHERS = ("closure", "unanimity", "odds_internality", "joint_positivity", "divergence_falls")
AT_REAL_CLASSES = (
    "closure",
    "unanimity",
    "joint_positivity",
    "becomes_uniform",
    "no_jump_in_temperature",
)
VECTORISED = ("closure", "anchored_odds_internality", "odds_internality", "unanimity", "box")
DIRICHLET = "dirichlet"


class _Worst(NamedTuple):
    """The worst case so far, where it stands among which, and where those came from."""

    margin: float
    cases: Cases
    place: int
    generator: str
    sampler: Sampler


class Trials(NamedTuple):
    """One certification under way."""

    question: Question
    fuse: Fuse
    budget: Budget
    floor: float
    rows: Floats | None
    found: dict[str, Finding]
    drawn: dict[tuple[str, str, int, int, int], tuple[Sampler, Cases]]

    def preflight(self) -> None:
        """Refuse what does not answer with log-probabilities at all."""
        sampler = self._sampler(
            "preflight", 0, min(self.question.teachers, BATTERY_TEACHERS), self.question.classes
        )
        cases = Cases(sampler.beliefs(generators.dirichlet, BATCH_ROWS), sampler.positive_weights(BATCH_ROWS))
        total = np.exp(self.fuse(cases.log_probs, cases.weights)).sum(axis=-1)
        if not (np.abs(total - 1) < 0.5).any():
            raise NotJudged(
                f"no answer is a distribution: exp of it sums to {np.nanmedian(total):.4g}; "
                "fuse must return normalised log-probabilities"
            )

    def find(self, check: Check) -> Finding:
        """Run one check over all its cases, once."""
        if check.name not in self.found:
            stronger = self.find(CHECKS[check.implied_by]) if check.implied_by else None
            spared = stronger is not None and not stronger.broken
            self.found[check.name] = (
                stronger._replace(check=check) if stronger and spared else self._run(check)
            )
        return self.found[check.name]

    def _run(self, check: Check) -> Finding:
        trials = broken = 0
        found: _Worst | None = None
        for name, sampler, cases in self._draws(check):
            margins = self._measure(check, cases)
            trials += int((margins > -np.inf).sum())
            broken += int((margins > 0).sum())
            if not len(margins):
                continue
            place = int(np.argmax(margins))
            if found is None or margins[place] > found.margin:
                found = _Worst(float(margins[place]), cases, place, name, sampler)
        if found is None:
            return Finding(check, 0, 0, -np.inf, None)
        finding = Finding(check, trials, broken, found.margin, None)
        return finding if finding.holds else finding._replace(witness=self._witness(check, found))

    def _one(self, check: Check, cases: Cases, place: int) -> Cases:
        """The case in question; of a law about batches as few rows as break it."""
        if check.cost != "batch":
            return cases.take(slice(place, place + 1))
        for other in range(cases.rows):
            pair = cases.take(np.array([place, other]))
            if other != place and (self._measure(check, pair) > 0).any():
                return pair
        return cases

    def _witness(self, check: Check, worst: "_Worst") -> Witness:
        sampler = worst.sampler
        lowest = 0.0 if sampler.domain == "zeros" else sampler.floor / sampler.classes
        case = self._one(check, worst.cases, worst.place)
        with np.errstate(all="ignore"):
            case, shrunk = shrink(check, self.fuse, case, lowest=lowest)
            return Witness(
                check=check.name,
                axiom=check.axiom,
                level=check.level,
                statement=check.statement,
                case=case,
                margin=float(check.measure(self.fuse, case).max()),
                dtype="float32" if check.name.endswith("_float32") else "float64",
                generator=worst.generator,
                trial=worst.place,
                shrunk=shrunk,
                told=check.explain(self.fuse, case),
            )

    def _measure(self, check: Check, cases: Cases) -> Floats:
        with np.errstate(all="ignore"):
            if check.cost == "batch" or cases.rows <= CHUNK:
                return check.measure(self.fuse, cases)
            pieces = [cases.take(slice(at, at + CHUNK)) for at in range(0, cases.rows, CHUNK)]
            return np.concatenate([check.measure(self.fuse, piece) for piece in pieces])

    def _sampler(self, label: str, number: int, teachers: int, classes: int) -> Sampler:
        key = (self.question.seed, zlib.crc32(label.encode()), number, teachers, classes)
        return Sampler(np.random.default_rng(key), teachers, classes, self.question.domain, self.floor)

    def _shapes(self, check: Check) -> Iterator[tuple[int, int, float]]:
        """Teachers, classes, and the share of the budget's rows."""
        teachers, classes = self.question.teachers, self.question.classes
        battery = min(teachers, BATTERY_TEACHERS)
        for count in self.budget.classes:
            yield battery, count, min(1.0, (ORDINARY_CLASSES / count) ** 2)  # pairs of classes cost that much
        for number in self.budget.teachers:
            if number >= check.needs and number != battery:
                yield number, 4, 0.25
        if teachers > BATTERY_TEACHERS and check.name in AT_REAL_TEACHERS:
            yield teachers, 4, 0.05
        if check.name in AT_REAL_CLASSES:
            for wide in {classes, self.budget.wide} - {None, *self.budget.classes}:
                yield battery, int(wide or 0), 0.0

    def _rows(self, check: Check, source: str, share: float, classes: int) -> int:
        if share == 0:
            wide = classes > self.question.classes or (check.cost == "segments" and classes > MANY_CLASSES)
            return WIDE_ROWS if wide else BATCH_ROWS
        if check.cost == "batch":
            return BATCH_ROWS
        if check.cost != "pointwise":
            return max(8, int(getattr(self.budget, check.cost) * share))
        if source == DIRICHLET and check.name in VECTORISED:
            return max(64, int(self.budget.pointwise / len(self.budget.classes) * share))
        return max(64, int(self.budget.others * share))

    def _draws(self, check: Check) -> Iterator[tuple[str, Sampler, Cases]]:
        every = {**generators.POSITIVE, **generators.EXTREME}
        for teachers, classes, share in self._shapes(check):
            if teachers < check.needs:
                continue
            for source in check.sources:
                rows = self._rows(check, source, share, classes)
                # Checks that draw alike are asked the same cases.
                key = (check.draw.__name__, source, teachers, classes, rows)
                if key not in self.drawn:
                    sampler = self._sampler(f"{check.draw.__name__} {source}", rows, teachers, classes)
                    self.drawn[key] = sampler, check.draw(sampler, every[source], rows)
                sampler, cases = self.drawn[key]
                yield source, sampler, cases
                if check.climb and source == DIRICHLET and share == 1:
                    yield "climb", sampler, self._climbed(check, sampler, cases)
        if self.rows is not None and check.cost == "pointwise":
            yield "real", *self._real(check)

    def _climbed(self, check: Check, sampler: Sampler, cases: Cases) -> Cases:
        some = cases.take(slice(0, CHUNK))
        sampler = self._sampler(f"climb {check.name}", 0, sampler.teachers, sampler.classes)
        with np.errstate(all="ignore"):
            margin = check.measure(self.fuse, some)
            return climb(check, self.fuse, some, margin, sampler=sampler, rounds=self.budget.climbs)

    def _real(self, check: Check) -> tuple[Sampler, Cases]:
        assert self.rows is not None
        given = np.asarray(self.rows, dtype=np.float64)
        sampler = self._sampler(check.name, len(check.sources), given.shape[0], given.shape[2])
        return sampler, check.draw(sampler, lambda *_: given, given.shape[1])
