"""docs/guarantees.md tells the truth: it names the figures that are reported, and its numbers come out."""

import re
from pathlib import Path

import numpy as np
import pytest

from operators import geometric, holder, linear
from operators.guarantees import best_variance, guarantees, variance

DOCUMENT = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text()


def report(operator, log_probs, weights, labels, unsafe):
    pooled = operator.fuse(log_probs, weights)
    found = guarantees(
        operator.name, operator.parameters, log_probs, weights, pooled, labels=labels, unsafe=unsafe
    )
    return {quantity.name: quantity for quantity in found}


def test_it_names_every_figure_and_no_other():
    tables = [line.split("|")[1] for line in DOCUMENT.splitlines() if line.startswith("| `")]
    documented = re.findall(r"`(\w+)`", " ".join(tables))
    rng = np.random.default_rng(1)
    log_probs, weights = np.log(rng.dirichlet(np.ones(4), (3, 5))), np.full((3, 5), 1 / 3)
    found = set(report(geometric(), log_probs, weights, rng.integers(4, size=5), [0]))
    runs = np.stack([log_probs, log_probs[..., ::-1]])
    pooled = np.stack([linear().fuse(run, weights) for run in runs])
    found |= {quantity.name for quantity in variance("linear", {}, runs, weights, pooled)}
    found.add(best_variance(np.eye(2), [0.5, 0.5]).name)
    bases = {name.removesuffix("_worst_excess").removesuffix("_residual") for name in found}
    assert {name.removesuffix("_residual") for name in documented} == bases
    assert len(documented) == len(set(documented))


def test_the_safety_example():
    p, w = np.log([[[0.40, 0.58, 0.02]], [[0.40, 0.02, 0.58]]]), np.full((2, 1), 0.5)
    assert "(.65, .175, .175)" in DOCUMENT
    assert np.exp(geometric().fuse(p, w))[0] == pytest.approx([0.65, 0.175, 0.175], abs=5e-4)
    assert "r = .5 gives .50" in DOCUMENT
    assert np.exp(holder(exponent=0.5).fuse(p, w))[0, 0] == pytest.approx(0.50, abs=5e-3)
    found = report(geometric(), p, w, None, [0])
    assert ".615" in DOCUMENT
    assert found["unsafe_normaliser"].value == pytest.approx(0.615, abs=5e-4)


def test_the_pool_that_beats_its_best_teacher():
    p = np.log([[[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]]])
    found = report(linear(), p, np.full((2, 2), 0.5), [0, 0], ())
    assert "Each loses 1.20 on average, their pool .69." in " ".join(DOCUMENT.split())
    assert found["best_teacher_log_loss"].value == pytest.approx(1.20, abs=5e-3)
    assert found["log_loss"].value == pytest.approx(0.69, abs=5e-3)
