"""A server that is pressed for a while stays as it is; an hour of it is ``make soak``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from soak import Sample, judge

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
def test_load_churn_disconnects_and_reloads_leave_a_server_as_it_is():
    settings = {"SOAK_S": "60", "SOAK_PAUSE_S": "0.15"} | os.environ
    said = subprocess.run(
        [sys.executable, ROOT / "bench" / "soak.py"],
        env=settings, capture_output=True, text=True, check=False, timeout=60 + float(settings["SOAK_S"]),
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    assert "nothing has grown" in said.stdout


def samples(rss, descriptors):
    return [Sample(place, int(rss(place)), descriptors(place), 5) for place in range(60)]


@pytest.mark.parametrize(
    ("rss", "descriptors", "said"),
    [
        (lambda _: 1e8, lambda place: 9 + place % 3, None),
        (lambda place: 1e8 if place < 20 else 1.3e8, lambda _: 9, None),  # before it was warm
        (lambda place: 1e8 * (1 + place / 1000), lambda _: 9, None),
        (lambda place: 1e8 * (1 + place / 400), lambda _: 9, "memory grew"),
        (lambda _: 1e8, lambda place: 9 + place // 15, "descriptors grew from 10 to 12"),
    ],
)
def test_what_grows_is_told(rss, descriptors, said):
    found = judge(samples(rss, descriptors))
    assert (found == []) if said is None else (said in found[0])
