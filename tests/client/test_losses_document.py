"""docs/losses.md tells the truth: its examples run, and it names the options there are."""

import doctest
import inspect
import re
from pathlib import Path
from typing import get_args

import pytest
import torch

from soft_targets import distillation_loss, losses

PATH = Path(__file__).parents[2] / "docs" / "losses.md"
DOCUMENT = PATH.read_text()


def test_the_examples_run():
    tried = doctest.testfile(str(PATH), module_relative=False)
    assert tried.failed == 0
    assert tried.attempted > 8


@pytest.mark.parametrize(
    ("header", "options"), [("| `tail` |", losses.Tail), ("| `reduction` |", losses.Reduction)]
)
def test_its_tables_have_every_option_and_no_other(header, options):
    table = DOCUMENT[DOCUMENT.index(header) :].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)[1:] == list(get_args(options))


def test_it_names_every_function_divergence_and_argument():
    named = set(re.findall(r"\w+", DOCUMENT))
    assert set(losses.__all__) <= named
    assert set(get_args(losses.Divergence)) == set(losses._DIVERGENCES) <= named
    assert set(inspect.signature(distillation_loss).parameters) - {"student_logits"} <= named


def test_its_figures():
    text = " ".join(DOCUMENT.split())
    assert "alpha = .9 if nothing is said" in text
    assert inspect.signature(distillation_loss).parameters["alpha"].default == 0.9
    assert "s (log s + 87.3)" in text
    assert round(-losses.LEAST_LOG_PROBABILITY, 1) == 87.3
    assert "below 2^-25 is 0" in text
    assert torch.tensor(2.0**-25).half() == 0
    assert torch.tensor(2.0**-24.9).half() > 0
