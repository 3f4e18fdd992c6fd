"""The story: train teachers, serve them, teach the student in several ways, report."""

import contextlib
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from service.demo import data, picture, server, students, tables, teachers
from service.demo.metrics import reliability, score
from service.demo.report import Member, Report, Taught, Traffic, write_json
from service.demo.setting import SETTINGS, Setting
from soft_targets import Client

POOL = "pool of the teachers"
VERSIONS_OF = ("soft-targets", "numpy", "onnx", "onnxruntime", "scikit-learn", "skl2onnx", "torch")

LogProbs = NDArray[np.float32]  # [B, C]


def main(dataset: str, out: Path) -> None:
    """Run the demo as the command line does.

    Raises:
        ServiceError: for instance ``MissingDataset``; its message says what to do.
    """
    run(dataset=dataset, out=out, console=Console())


def run(
    *,
    dataset: str = "digits",
    out: Path = Path("build/demo"),
    seeds: int = 3,
    setting: Setting | None = None,
    console: Console | None = None,
) -> Report:
    """The main job on real data, from nothing to a report.

    Args:
        dataset: ``digits`` or ``fashion-mnist``.
        out: a folder for the teachers, the configuration, the server's log and the report.
        seeds: how often each student is taught.
        setting: sizes and training; the data set's own by default.
        console: where to tell the story; nowhere by default.

    Raises:
        MissingDataset: the data set is not installed.
        ExportDiffers: a teacher's file, or what is served of it, is not the teacher that was trained.
        ServerFailed: the server did not start.
    """
    began = time.perf_counter()
    setting = setting or SETTINGS[dataset]
    console = console or Console(quiet=True)
    source = data.load(dataset)
    split = data.cut(source, setting, teachers=len(teachers.MAKERS))
    console.print(f"\n[bold]soft-targets demo[/bold] on {dataset}: {setting.split(len(split.teachers))}\n")

    trained = []
    for name, part in zip(teachers.MAKERS, split.teachers, strict=True):
        with _told(
            console, f"teacher {name}: {len(part.rows):,} rows of its own, exported to ONNX and compared"
        ):
            trained.append(
                teachers.make(
                    name,
                    part,
                    out / "teachers",
                    calibration=split.calibration,
                    dataset=source,
                    setting=setting,
                )
            )
    config = out / "ensemble.yaml"
    server.write_yaml(config, source, trained, setting)
    with contextlib.ExitStack() as stack:
        stack.enter_context(students.one_thread())
        with _told(console, f"server started on {config}, as a process of its own"):
            address = stack.enter_context(server.serving(config, log=out / "server.log"))
        lesson = _Lesson(
            address=address,
            source=source,
            split=split,
            setting=setting,
            seeds=list(range(seeds)),
            console=console,
        )
        members = lesson.members(trained)
        report = lesson.report(members, began=began)

    write_json(report, out / "report.json")
    picture.write_png(report, out / "report.png")
    tables.show(report, console)
    console.print(
        f"\n{out / 'report.json'} and {out / 'report.png'}, after {report.seconds:.0f} s. {report.verdict}",
        highlight=False,
        markup=False,
    )
    return report


@dataclass(frozen=True, kw_only=True)
class _Lesson:
    """Everything that is done while the server runs."""

    address: str
    source: data.Dataset
    split: data.Split
    setting: Setting
    seeds: list[int]
    console: Console
    predictions: dict[str, list[LogProbs]] = field(default_factory=dict)  # of pool and students, by seed
    traffic: list[Traffic] = field(default_factory=list)

    def client(self, *, teacher: str | None = None, temperature: float | None = None) -> Client:
        """A client of the pool, or of one teacher alone."""
        weights = None if teacher is None else {teacher: 1.0}
        return Client(
            self.address,
            ensemble=self.source.name,
            recipe=server.RECIPE,
            weights=weights,
            temperature=temperature,
        )

    def members(self, trained: list[teachers.Teacher]) -> list[Member]:
        """Every teacher, and last the pool, as the server answers at temperature one."""
        members = []
        with _told(
            self.console, "teachers and pool asked for the test rows, teachers compared with the originals"
        ):
            for teacher in trained:
                answered = self.ask(teacher.name)
                teachers.compare(
                    f"what the server answers for teacher {teacher.name!r}",
                    np.exp(answered[: teachers.CHECKED_ROWS]),
                    teacher.calibrated,
                    self.split.test.rows,
                )
                members.append(
                    Member(
                        name=teacher.name,
                        kind=teacher.kind,
                        trained_rows=teacher.trained_rows,
                        temperature=teacher.temperature,
                        numbers=teacher.parameters,
                        size_bytes=teacher.size_bytes,
                        scores=score(answered, self.split.test.labels),
                    )
                )
            pooled = self.ask(None)
        self.predictions[POOL] = [pooled]
        return [
            *members,
            Member(
                name="pool",
                kind=f"Hölder {self.setting.exponent:g}",
                trained_rows=sum(member.trained_rows for member in members),
                temperature=None,
                numbers=sum(member.numbers for member in members),
                size_bytes=sum(member.size_bytes for member in members),
                scores=score(pooled, self.split.test.labels),
            ),
        ]

    def ask(self, teacher: str | None) -> LogProbs:
        """Log-probabilities of the test rows."""
        with self.client(teacher=teacher, temperature=1.0) as client:
            log_probs: LogProbs = client.soft_targets({server.INPUT: self.split.test.rows}).log_probs
        return log_probs

    def student(self, seed: int) -> nn.Module:
        """The same weights for the same seed, whoever teaches."""
        return students.new_student(
            inputs=self.source.side**2, classes=len(self.source.classes), setting=self.setting, seed=seed
        )

    def by_labels(self) -> Taught:
        """Teach by the few labels."""
        name, found = f"{self.setting.few_labels:,} labels", []
        with _told(
            self.console, f"student taught by {name}, {students.steps(self.setting):,} steps, each seed"
        ):
            for seed in self.seeds:
                student = students.learn_from_labels(
                    self.student(seed), self.split.few, self.setting, seed=seed
                )
                found.append(students.predict(student, self.split.test.rows))
        return self.taught(name, found)

    def by_server(self, name: str, *, teacher: str | None) -> Taught:
        """Teach by the soft targets of the pool, or of one teacher."""
        found = []
        what = f"student taught by {name} over HTTP, {self.setting.epochs} epochs, each seed"
        with _told(self.console, what):
            for seed in self.seeds:
                with self.client(teacher=teacher) as client:
                    distilled = students.learn_from_server(
                        self.student(seed), self.split.student, client, self.setting, seed=seed
                    )
                self.traffic.append(Traffic(name=name, seed=seed, epochs=distilled.epochs))
                found.append(students.predict(distilled.student, self.split.test.rows))
        return self.taught(name, found)

    def taught(self, name: str, found: list[LogProbs]) -> Taught:
        """Score the students of one way."""
        self.predictions[f"student by {name}"] = found
        return Taught(name=name, scores=[score(log_probs, self.split.test.labels) for log_probs in found])

    def report(self, members: list[Member], *, began: float) -> Report:
        """Teach in every way and put everything together."""
        labels_only = self.by_labels()
        alone = [self.by_server(f"{one.name} alone", teacher=one.name) for one in members[:-1]]
        from_pool = self.by_server("the pool", teacher=None)
        labels = self.split.test.labels
        rival = max(alone, key=lambda taught: taught.spread("accuracy").mean)
        shown = [POOL, *(f"student by {taught.name}" for taught in (labels_only, rival, from_pool))]
        return Report(
            dataset=self.source.name,
            setting=self.setting,
            seeds=self.seeds,
            versions={"python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}},
            test_rows=len(labels),
            student_numbers=sum(weights.numel() for weights in self.student(0).parameters()),
            teachers=members[:-1],
            pool=members[-1],
            labels_only=labels_only,
            alone=alone,
            from_pool=from_pool,
            traffic=self.traffic,
            reliability={
                name: reliability(np.concatenate(found), np.tile(labels, len(found)))
                for name in shown
                for found in [self.predictions[name]]
            },
            seconds=time.perf_counter() - began,
        )


@contextlib.contextmanager
def _told(console: Console, what: str) -> Iterator[None]:
    """Say what was done and how long it took, once it is done."""
    began = time.perf_counter()
    with console.status(what):
        yield
    console.print(
        f"[green]✓[/green] {what} [dim]({time.perf_counter() - began:.1f} s)[/dim]", highlight=False
    )
