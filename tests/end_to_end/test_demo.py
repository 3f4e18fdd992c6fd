"""The main job, small: teachers trained, served as a process, a student distilled over HTTP, a report."""

import json
import subprocess
import sys

from service.demo.run import run
from service.demo.setting import SETTINGS


def test_the_demo_end_to_end(tmp_path):
    setting = SETTINGS["digits"]._replace(
        epochs=2, student_rows=200, test_rows=100, teacher_rows=150, teacher_epochs=4, trees=10
    )
    report = run(out=tmp_path, seeds=1, setting=setting)
    written = json.loads((tmp_path / "report.json").read_text())
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert [teacher["name"] for teacher in written["teachers"]] == ["cnn", "trees", "svm"]
    assert {teacher.name for teacher in report.alone} == {"cnn alone", "trees alone", "svm alone"}
    for traffic in report.traffic:
        assert [epoch.rows for epoch in traffic.epochs] == [200, 200]
        assert [epoch.rows_by_source for epoch in traffic.epochs] == [{"miss": 200}, {"hit": 200}]
    # The pool as served is a distribution that beats guessing by far, even of teachers this hasty.
    assert report.pool.scores.accuracy > 0.6
    assert (tmp_path / "ensemble.yaml").exists()


def test_a_data_set_that_is_not_there_is_one_sentence_and_exit_code_3(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom service.demo import data\n"
        f"data.FASHION_MNIST_FOLDER = Path({str(tmp_path)!r})\n"
        "sys.argv = ['soft-targets', 'demo', '--dataset', 'fashion-mnist']\n"
        "from service.cli import main\nmain()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ended.returncode == 3
    assert len(ended.stderr.splitlines()) == 1
    assert "apt-get install dataset-fashion-mnist" in ended.stderr
