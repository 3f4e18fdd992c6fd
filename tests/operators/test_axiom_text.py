"""Certificates for people, and the bridge to pytest."""

import numpy as np
import pytest

from operators import linear, simplex
from operators.axioms import certify
from operators.axioms.testing import laws, parametrize_with_axioms
from operators.axioms.text import literal, published, table
from operators.base import Operator


def experts(p, w):
    return simplex.log_softmax(len(p) * simplex.weighted_sum(p, w))


@pytest.fixture(scope="module")
def refused():
    return certify(Operator("experts", (), experts, "floored"), teachers=3, classes=3)


def test_a_refusal_can_be_read_and_checked_by_hand(refused):
    shown = table(refused)
    assert "REFUSED" in shown
    assert "convexity_preservation, level 0 of 2" in shown
    assert "is broken by teachers" in shown
    assert "between the teachers'" in shown


def test_a_witness_is_code_that_shows_what_it_says(refused):
    names = {}
    exec(literal(refused.axioms["convexity_preservation"].witness), names)
    answer = experts(names["log_probs"], names["weights"])
    odds = answer[:, :, None] - answer[:, None]
    teachers = (names["log_probs"][..., :, None] - names["log_probs"][..., None, :]).max(axis=0)
    assert (odds > np.maximum(teachers, 0) + 1e-3).any()


def test_the_published_table_says_who_is_admitted(refused):
    shown = published({"experts": refused, "linear": certify(linear(), teachers=3, classes=3)})
    assert "| experts | 0 |" in shown
    assert shown.splitlines()[-1].endswith("| admitted | admitted |")


@parametrize_with_axioms([linear()], classes=3)
def test_the_bridge_on_a_proved_pool(operator, check):
    check(operator)


@parametrize_with_axioms(
    [Operator("experts", (), experts, "floored")],
    classes=3,
    expected_failures={
        "odds_internality": "odds multiply",
        "unanimity": "odds multiply",
        "anchored_odds_internality": "odds multiply",
        "vertex_fidelity": "odds multiply",
        "weight_zero_absence": "the absent count",
        "odds_internality_float32": "odds multiply",
        "unanimity_float32": "odds multiply",
    },
)
def test_the_bridge_on_an_impostor(operator, check):
    check(operator)


def test_a_law_fails_with_a_witness():
    unanimity = dict(laws(Operator("experts", (), experts, "floored"), classes=3))["unanimity"]
    with pytest.raises(AssertionError, match=r"experts breaks unanimity on .* is broken by teachers"):
        unanimity(Operator("experts", (), experts, "floored"))
