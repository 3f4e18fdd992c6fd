"""Trials: one check after the other, asked of an operator over a budget of cases."""

import zlib
from collections.abc import Iterator, Mapping

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
from operators.axioms.budgets import budget_of
from operators.axioms.cases import Cases, Floats, NotJudged, judged
from operators.axioms.certificate import Finding, Question
from operators.axioms.check import Check, Draw, Sampler
from operators.axioms.search import climb
from operators.axioms.shapes import BATTERY_TEACHERS, DIRICHLET, rows_at, shapes
from operators.axioms.shrink import broken, shrink
from operators.axioms.witness import Witness, Worst, told_of
from operators.base import Operator

PARTS = (convexity, positivity, monotonicity, continuity, coherence, single, gates, properties)
CHECKS: Mapping[str, Check] = {check.name: check for part in PARTS for check in part.CHECKS}
_LAST_TO_DRAW = {check.draw: name for name, check in CHECKS.items()}

CHUNK = 4096
REPEATS = 1e-10


class Trials:
    """One certification under way.

    Args:
        operator: who is asked.
        question: what is asked.
        floor: epsilon of the floored domain.
        rows: log-probabilities ``[K, B, C]`` of real rows, or None.
    """

    def __init__(
        self, operator: Operator, question: Question, *, floor: float, rows: Floats | None = None
    ) -> None:
        self._fuse = judged(operator.fuse)
        self._question = question
        self._budget = budget_of(question.budget)
        self._floor = floor
        self._rows = rows
        self._found: dict[str, Finding] = {}
        self._drawn: dict[tuple[Draw, str, int, int, int], tuple[Sampler, Cases]] = {}

    def preflight(self) -> None:
        """Refuse what is no function of its arguments, or does not answer with log-probabilities at all.

        Raises:
            NotJudged: it is so.
        """
        teachers, classes = self._question.teachers, self._question.classes
        sampler = self._sampler("preflight", 0, min(teachers, BATTERY_TEACHERS), classes)
        rows = rows_at(teachers, classes)
        beliefs, weights = sampler.beliefs(generators.dirichlet, rows), sampler.positive_weights(rows)
        answer = self._fuse(beliefs, weights)
        kept = answer.copy()
        total = np.exp(answer).sum(axis=-1)
        if not (np.abs(total - 1) < 0.5).any():
            raise NotJudged(
                f"no answer is a distribution: exp of it sums to {np.nanmedian(total):.4g}; "
                "fuse must return normalised log-probabilities"
            )
        self._fuse(beliefs[:, ::-1], weights[:, ::-1])
        if not np.array_equal(answer, kept, equal_nan=True):
            raise NotJudged("it writes into what it answered before: let every answer be a new array")
        if not np.allclose(self._fuse(beliefs, weights), kept, rtol=REPEATS, atol=REPEATS, equal_nan=True):
            raise NotJudged("it answers the same question differently when asked again: fuse must be pure")
        self._fuse(beliefs.astype(np.float32), weights.astype(np.float32))

    def find(self, check: Check) -> Finding:
        """Run one check over all its cases, once."""
        if check.name not in self._found:
            stronger = self.find(CHECKS[check.implied_by]) if check.implied_by else None
            spared = stronger is not None and not stronger.broken
            self._found[check.name] = (
                stronger._replace(check=check) if stronger and spared else self._judge(check)
            )
            if _LAST_TO_DRAW[check.draw] == check.name:
                for key in [key for key in self._drawn if key[0] is check.draw]:
                    del self._drawn[key]
        return self._found[check.name]

    def _judge(self, check: Check) -> Finding:
        """Properties ask for one class less or one teacher more: who cannot answer that, has not got them."""
        try:
            return self._run(check)
        except NotJudged:
            if check.decides:
                raise
            return Finding(check, 1, 1, np.inf, None)

    def _run(self, check: Check) -> Finding:
        trials = broken_ones = 0
        found: Worst | None = None
        for name, sampler, cases in self._draws(check):
            margins = self._measure(check, cases)
            trials += int((margins > -np.inf).sum())
            broken_ones += int((margins > 0).sum())
            if not len(margins):
                continue
            place = int(np.argmax(margins))
            if found is None or margins[place] > found.margin:
                found = Worst(float(margins[place]), cases, place, name, sampler)
        if found is None:
            return Finding(check, 0, 0, -np.inf, None)
        finding = Finding(check, trials, broken_ones, found.margin, None)
        return finding if finding.holds else finding._replace(witness=self._witness(check, found))

    def _witness(self, check: Check, worst: Worst) -> Witness | None:
        """The worst case, shrunk: alone, or where it is not broken alone, with the batch it was asked in."""
        start = worst.place - worst.place % CHUNK
        batch = worst.cases.take(slice(start, start + CHUNK))
        alone = worst.cases.take(slice(worst.place, worst.place + 1))
        asked = batch if check.cost == "batch" or not broken(check, self._fuse, alone) else alone
        if not broken(check, self._fuse, asked):
            return None  # it is not the same operator any more
        floor = 0.0 if worst.sampler.domain == "zeros" else worst.sampler.floor
        with np.errstate(all="ignore"):
            case, shrunk = shrink(check, self._fuse, asked, floor=floor)
            case, told = told_of(check, self._fuse, case)
            return Witness(
                operator=self._question.operator,
                parameters=self._question.parameters,
                check=check.name,
                axiom=check.axiom,
                level=check.level,
                statement=check.statement,
                case=case,
                margin=float(check.measure(self._fuse, case).max()),
                tolerance=check.tolerance,
                dtype="float32" if check.name.endswith("_float32") else "float64",
                generator=worst.generator,
                seed=self._question.seed,
                trial=worst.place,
                shrunk=shrunk,
                told=told,
            )

    def _measure(self, check: Check, cases: Cases) -> Floats:
        with np.errstate(all="ignore"):
            if check.cost == "batch" or cases.rows <= CHUNK:
                return check.measure(self._fuse, cases)
            pieces = [cases.take(slice(at, at + CHUNK)) for at in range(0, cases.rows, CHUNK)]
            return np.concatenate([check.measure(self._fuse, piece) for piece in pieces])

    def _sampler(self, label: str, number: int, teachers: int, classes: int) -> Sampler:
        key = (self._question.seed, zlib.crc32(label.encode()), number, teachers, classes)
        return Sampler(np.random.default_rng(key), teachers, classes, self._question.domain, self._floor)

    def _draws(self, check: Check) -> Iterator[tuple[str, Sampler, Cases]]:
        question = self._question
        for shape in shapes(check, self._budget, teachers=question.teachers, classes=question.classes):
            if shape.teachers < check.needs:
                continue
            for source in shape.sources or check.sources:
                rows = shape.counted(check, source, self._budget)
                sampler, cases = self._draw(check, source, shape.teachers, shape.classes, rows)
                yield source, sampler, cases
                if check.climb and source == DIRICHLET and shape.rows is None and shape.share == 1:
                    yield "climb", sampler, self._climbed(check, sampler, cases)
        if self._rows is not None and check.cost == "pointwise":
            yield "real", *self._real(check, self._rows)

    def _draw(
        self, check: Check, source: str, teachers: int, classes: int, rows: int
    ) -> tuple[Sampler, Cases]:
        """Cases; checks that draw alike are asked the same ones."""
        key = (check.draw, source, teachers, classes, rows)
        if key not in self._drawn:
            sampler = self._sampler(f"{check.draw.__name__} {source}", rows, teachers, classes)
            every = {**generators.POSITIVE, **generators.EXTREME}
            self._drawn[key] = sampler, check.draw(sampler, every[source], rows)
        return self._drawn[key]

    def _climbed(self, check: Check, sampler: Sampler, cases: Cases) -> Cases:
        some = cases.take(slice(0, CHUNK))
        sampler = self._sampler(f"climb {check.name}", 0, sampler.teachers, sampler.classes)
        with np.errstate(all="ignore"):
            margin = check.measure(self._fuse, some)
            return climb(check, self._fuse, some, margin, sampler=sampler, rounds=self._budget.climbs)

    def _real(self, check: Check, rows: Floats) -> tuple[Sampler, Cases]:
        given = np.asarray(rows, dtype=np.float64)
        sampler = self._sampler(check.name, len(check.sources), given.shape[0], given.shape[2])
        return sampler, check.draw(sampler, lambda *_: given, given.shape[1])
