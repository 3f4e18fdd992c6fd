"""What came out of the demo, as values; how it is shown is told in ``tables`` and ``picture``."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.demo.metrics import Reliability, Scores
from service.demo.setting import Setting
from service.demo.students import Epoch


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over the seeds: the mean, and the sample standard deviation (0 for one seed)."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(
            mean=statistics.fmean(values), deviation=statistics.stdev(values) if len(values) > 1 else 0.0
        )


@dataclass(frozen=True, kw_only=True)
class Member:
    """A teacher, or the pool of all of them, as the server answers for it on the test rows."""

    name: str
    kind: str
    trained_rows: int
    temperature: float | None  # the teacher's own; None for the pool
    numbers: int  # floating-point numbers held
    size_bytes: int
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class Taught:
    """The student taught in one way, once per seed."""

    name: str
    scores: list[Scores]  # [seeds]

    def spread(self, figure: str) -> Spread:
        """Of ``accuracy``, ``nll`` or ``ece``."""
        return Spread.of([float(getattr(scores, figure)) for scores in self.scores])


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one student asked of the server, by epoch."""

    name: str
    seed: int
    epochs: list[Epoch]

    @property
    def rows(self) -> int:
        """Rows served."""
        return sum(epoch.rows for epoch in self.epochs)

    @property
    def seconds(self) -> float:
        """The whole training loop, the student's own steps included."""
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def waited_s(self) -> float:
        """How long the student had nothing to do but wait for targets."""
        return sum(epoch.waited_s for epoch in self.epochs)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything the demo says."""

    dataset: str
    setting: Setting
    seeds: list[int]
    versions: dict[str, str]
    test_rows: int
    student_numbers: int
    teachers: list[Member]
    pool: Member
    labels_only: Taught
    alone: list[Taught]  # by each teacher alone
    from_pool: Taught
    traffic: list[Traffic]  # one a student that asked the server
    reliability: dict[str, Reliability]  # of the pool and the students, all seeds together
    seconds: float

    @property
    def taught(self) -> list[Taught]:
        """The student in all the ways it was taught."""
        return [self.labels_only, *self.alone, self.from_pool]

    @property
    def rival(self) -> Taught:
        """Of the students taught by one teacher, the best on the test rows: the choice hardest on the pool.

        It need not come from the best teacher: an accurate one whose answers say little teaches little.
        """
        return max(self.alone, key=lambda taught: taught.spread("accuracy").mean)

    @property
    def student_bytes(self) -> int:
        """The student's weights in float32."""
        return 4 * self.student_numbers

    @property
    def verdict(self) -> str:
        """What came out, in one sentence that does not flatter."""
        pool, labels, rival = (_figures(it) for it in (self.from_pool, self.labels_only, self.rival))
        return (
            f"Taught by the pool, on {self.setting.student_rows:,} rows without labels, the student reaches "
            f"an accuracy of {pool}: {_against(self.from_pool, self.labels_only)} the same student taught by "
            f"{self.labels_only.name}, {labels}, and {_against(self.from_pool, self.rival)} the best of "
            f"those taught by one teacher, {self.rival.name}, {rival}."
        )

    @property
    def caution(self) -> str:
        """How far the figures can be trusted."""
        mean = self.from_pool.spread("accuracy").mean
        error = (mean * (1 - mean) / self.test_rows) ** 0.5
        return (
            f"With {self.test_rows:,} test rows an accuracy has a standard error of about {100 * error:.1f} "
            f"points, beside the spread over {len(self.seeds)} seed(s); the students share the test rows, so "
            "differences between them are surer than that."
        )

    def as_json(self) -> dict[str, Any]:
        """All figures, with means and spreads worked out; NaN, an empty bin, becomes null."""
        raw = asdict(self)
        for key in ("labels_only", "alone", "from_pool", "traffic", "reliability", "setting"):
            del raw[key]
        for member, entry in zip([*self.teachers, self.pool], [*raw["teachers"], raw["pool"]], strict=True):
            entry["scores"] = member.scores._asdict()
        return {
            "verdict": self.verdict,
            "caution": self.caution,
            "split": self.setting.split(len(self.teachers)),
            "setting": self.setting._asdict(),
            **raw,
            "rival": self.rival.name,
            "student_bytes": self.student_bytes,
            "students": [
                {
                    "name": taught.name,
                    "by_seed": [scores._asdict() for scores in taught.scores],
                    **{figure: asdict(taught.spread(figure)) for figure in Scores._fields},
                }
                for taught in self.taught
            ],
            "traffic": [
                {
                    "name": traffic.name,
                    "seed": traffic.seed,
                    "rows": traffic.rows,
                    "rows_per_s": traffic.rows / traffic.seconds,
                    "seconds": traffic.seconds,
                    "waited_s": traffic.waited_s,
                    "waited_share": traffic.waited_s / traffic.seconds,
                    "hit_rate_by_epoch": [epoch.hit_rate for epoch in traffic.epochs],
                    "epochs": [epoch._asdict() for epoch in traffic.epochs],
                }
                for traffic in self.traffic
            ],
            "reliability": {
                name: {
                    field: [None if np.isnan(value) else value for value in values.tolist()]
                    for field, values in diagram._asdict().items()
                }
                for name, diagram in self.reliability.items()
            },
        }


def write_json(report: Report, path: Path) -> None:
    """Write every figure of the report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _figures(taught: Taught) -> str:
    spread, nll = taught.spread("accuracy"), taught.spread("nll").mean
    return f"{100 * spread.mean:.1f} ± {100 * spread.deviation:.1f} % (NLL {nll:.3f})"


def _against(one: Taught, other: Taught) -> str:
    """Compare seed by seed: paired students began with the same weights."""
    gains = [mine.accuracy - its.accuracy for mine, its in zip(one.scores, other.scores, strict=True)]
    mean = 100 * statistics.fmean(gains)
    points = f"{abs(mean):.1f} points"
    if all(gain > 0 for gain in gains):
        return f"in every seed better than, by {points} on average,"
    if all(gain < 0 for gain in gains):
        return f"in every seed worse than, by {points} on average,"
    return f"not clearly different ({mean:+.1f} points, of either sign over the seeds) from"
