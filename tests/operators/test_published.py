"""The README's axiom table is what the certifier finds, and what each operator claims."""

import re
from pathlib import Path

import pytest
from axioms import ROWS, SLOW

from operators import BUILTIN
from operators.axioms import AXIOMS, certify
from operators.axioms.text import published

README = (Path(__file__).parents[2] / "README.md").read_text()
FAST = {name: operator for name, operator in ROWS.items() if operator.name not in SLOW}


def row(name):
    return re.search(rf"^\| {re.escape(name)} \|.*$", README, re.MULTILINE).group()


def test_every_built_in_operator_is_published():
    assert {operator.name for operator in ROWS.values()} == set(BUILTIN)
    for name in ROWS:
        assert row(name)


@pytest.mark.parametrize("name", FAST)
def test_the_published_row_is_what_is_found(name):
    certificate = certify(ROWS[name], teachers=3, classes=10)
    assert row(name) in published({name: certificate})
    # What is claimed of any number of teachers is reached by these, and what is disclaimed is not.
    assert not certificate.contradictions
    for claim in ROWS[name].claims:
        assert claim.level <= certificate.axioms[claim.axiom].level
    assert {claim.axiom for claim in ROWS[name].claims} == set(AXIOMS)
