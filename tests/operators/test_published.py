"""The README's axiom table is what the certifier finds, and what each operator claims."""

import re
from pathlib import Path

import pytest

from operators import BUILTIN, make
from operators.axioms import AXIOMS, certify
from operators.axioms.text import published

README = (Path(__file__).parents[2] / "README.md").read_text()
ROWS = {
    "`linear`": make("linear"),
    "`geometric`": make("geometric"),
    "`holder` r = 0.5": make("holder", exponent=0.5),
    "`holder` r = 2": make("holder", exponent=2),
    "`holder` r = -1": make("holder", exponent=-1),
    "`entropy_weighted`": make("entropy_weighted"),
    "`inverse_entropy`": make("inverse_entropy"),
    "`entropic_regularised`": make("entropic_regularised"),
    "`weighted_max`": make("weighted_max"),
    "`trimmed_mean`": make("trimmed_mean"),
    "`smoothed_geometric`": make("smoothed_geometric"),
}
# These iterate and take minutes at quick: `make axioms` writes their rows, `make nightly` judges them.
SLOW = {"l2_median", "tsallis", "wasserstein"}


def row(name):
    return re.search(rf"^\| {re.escape(name)} \|.*$", README, re.MULTILINE).group()


def test_every_built_in_operator_is_published():
    assert {operator.name for operator in ROWS.values()} | SLOW == set(BUILTIN)
    for name in SLOW:
        assert row(f"`{name}`")


@pytest.mark.parametrize("name", ROWS)
def test_the_published_row_is_what_is_found(name):
    certificate = certify(ROWS[name], teachers=3, classes=10)
    assert row(name) in published({name: certificate})
    # What is claimed of any number of teachers is reached by these, and what is disclaimed is not.
    assert not certificate.contradictions
    for claim in ROWS[name].claims:
        assert claim.level <= certificate.axioms[claim.axiom].level
    assert {claim.axiom for claim in ROWS[name].claims} == set(AXIOMS)
