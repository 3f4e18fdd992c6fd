import io
import json

import numpy as np
import pytest
from rich.console import Console

from service.demo import picture, tables
from service.demo.metrics import Reliability, Scores
from service.demo.report import Member, Report, Spread, Taught, Traffic, write_json
from service.demo.setting import SETTINGS
from service.demo.students import Epoch


def member(name, accuracy):
    return Member(
        name=name,
        kind="fake",
        trained_rows=100,
        temperature=None if name == "pool" else 1.25,
        numbers=5000,
        size_bytes=20_000,
        scores=Scores(accuracy, 0.3, 0.05),
    )


def taught(name, *accuracies):
    return Taught(name=name, scores=[Scores(accuracy, 0.4, 0.02) for accuracy in accuracies])


def epoch(**by_source):
    return Epoch(sum(by_source.values()), by_source, 2.0, 0.5, 2048, 1024)


def report(*, pool=(0.92, 0.94), labels=(0.80, 0.82), alone=(0.90, 0.96)):
    bins = Reliability(np.array([0, 10, 20]), np.array([np.nan, 0.5, 0.9]), np.array([np.nan, 0.6, 0.95]))
    return Report(
        dataset="digits",
        setting=SETTINGS["digits"],
        seeds=[0, 1],
        versions={"python": "3.11"},
        test_rows=397,
        student_numbers=2410,
        teachers=[member("cnn", 0.93), member("svm", 0.95)],
        pool=member("pool", 0.96),
        labels_only=taught("50 labels", *labels),
        alone=[taught("cnn alone", *alone), taught("svm alone", 0.5, 0.5)],
        from_pool=taught("the pool", *pool),
        traffic=[
            Traffic(name="the pool", seed=0, epochs=[epoch(miss=100), epoch(hit=100), epoch(hit=75, miss=25)])
        ],
        reliability=dict.fromkeys(["pool of the teachers", "a", "b", "c"], bins),
        seconds=60.0,
    )


def test_spread_is_mean_and_sample_deviation():
    assert Spread.of([1.0, 3.0]) == Spread(mean=2.0, deviation=pytest.approx(2**0.5))
    assert Spread.of([1.0]) == Spread(mean=1.0, deviation=0.0)


def test_the_rival_is_the_best_student_of_one_teacher():
    assert report().rival.name == "cnn alone"


def test_the_verdict_says_better_only_if_every_seed_does():
    verdict = report().verdict
    assert (
        "93.0 ± 1.4 % (NLL 0.400): in every seed better than, by 12.0 points on average, the same student"
        in verdict
    )
    assert "not clearly different (+0.0 points, of either sign over the seeds) from the best" in verdict


def test_the_verdict_does_not_hide_a_loss():
    verdict = report(pool=(0.7, 0.7), labels=(0.80, 0.82)).verdict
    assert "in every seed worse than, by 11.0 points on average, the same student" in verdict


def test_the_file_holds_all_figures(tmp_path):
    path = tmp_path / "new" / "report.json"
    write_json(report(), path)
    written = json.loads(path.read_text())
    assert written["setting"]["student_rows"] == 760
    assert written["versions"] == {"python": "3.11"}
    assert written["seeds"] == [0, 1]
    assert written["teachers"][1]["scores"]["accuracy"] == 0.95
    assert written["student_bytes"] == 4 * written["student_numbers"] == 9640
    students = {student["name"]: student for student in written["students"]}
    assert list(students) == ["50 labels", "cnn alone", "svm alone", "the pool"]
    assert students["the pool"]["accuracy"] == pytest.approx({"mean": 0.93, "deviation": 0.02 / 2**0.5})
    assert students["50 labels"]["by_seed"][1]["accuracy"] == 0.82
    (traffic,) = written["traffic"]
    assert traffic["hit_rate_by_epoch"] == [0.0, 1.0, 0.75]
    assert traffic["rows"] == 300
    assert traffic["rows_per_s"] == 50.0
    assert traffic["waited_share"] == 0.25
    assert written["reliability"]["a"]["accuracy"] == [None, 0.6, 0.95]
    assert written["verdict"] == report().verdict


def test_the_tables_fit_a_terminal_of_eighty_columns():
    console = Console(file=io.StringIO(), width=80, color_system=None)
    tables.show(report(), console)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    for figure in ("93.0 ± 1.4 %", "2,410", "1.5 s, 25 %", "75 %", "19.5 KiB"):
        assert figure in shown


def test_the_picture_is_written(tmp_path):
    path = tmp_path / "new" / "report.png"
    picture.write_png(report(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
