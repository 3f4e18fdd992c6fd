"""What is no operator is said to be none, in words that say what to do."""

import numpy as np
import pytest

from operators import BUILTIN, Claim, Disclaimer, InvalidOperator, OperatorError, checked, linear, make
from operators.axioms import certify, replay


@pytest.mark.parametrize("name", BUILTIN)
def test_every_built_in_is_one(name):
    operator = make(name)
    assert checked(operator) is operator


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 3}, "name is 3; it must be text"),
        ({"name": ""}, "not empty"),
        ({"fuse": None}, "its fuse is None; it must be a function"),
        ({"domain": "Zeros"}, "its domain is 'Zeros'; did you mean zeros"),
        ({"domain": ["zeros"]}, "its domain is"),
        ({"parameters": ("a", "b")}, "no tuple of pairs"),
        ({"parameters": {"a": 1}}, "no tuple of pairs: write tuple"),
        ({"parameters": (("b", 1), ("a", 2))}, "each once, in order"),
        ({"parameters": (("a", 1), ("a", 2))}, "each once, in order"),
        ({"parameters": ((1, 1),)}, "names are text"),
        ({"parameters": (("a", [1, 2]),)}, "parameter 'a' is .* of type list"),
        ({"parameters": (("a", np.int64(1)),)}, "of type int64"),
        ({"parameters": (("a", float("nan")),)}, "parameter 'a' is nan; it must be finite"),
        (
            {"claims": (Claim("convexity_preserved", 2),)},
            "names no axiom 'convexity_preserved': did you mean convexity_",
        ),
        ({"claims": (Claim("continuity", 3),)}, "a claim of continuity has level 3; .* from 0 to 2"),
        ({"claims": (Claim("continuity", True),)}, "has level True"),
        ({"claims": (Claim("continuity", 1, 7),)}, "gives 7 for a reason"),
        ({"claims": [Claim("continuity", 1)]}, "write a tuple of Claim"),
        ({"disclaimers": (Claim("continuity", 1),)}, "write a tuple of Disclaimer"),
        ({"disclaimers": (Disclaimer("order", 1, "so it is"),)}, "a disclaimer names no axiom 'order'"),
        ({"disclaimers": (Disclaimer("continuity", -1, "so it is"),)}, "has level -1"),
        ({"disclaimers": (Disclaimer("continuity", 1, None),)}, "gives None for a reason"),
    ],
)
def test_what_is_wrong_with_an_operator_is_said_before_it_is_asked(change, said):
    made = linear()._replace(**change)
    with pytest.raises(InvalidOperator, match=said):
        checked(made)
    with pytest.raises(OperatorError, match=said):
        certify(made, teachers=3, classes=3)
    with pytest.raises(OperatorError, match=said):
        replay(made, {"check": "closure", "case": {"probabilities": [[[1.0]]], "weights": [[1.0]]}})


@pytest.mark.parametrize("made", [3, None, linear, ("linear", (), linear().fuse, "zeros")])
def test_what_a_factory_made_must_be_an_operator(made):
    with pytest.raises(InvalidOperator, match="is no operator but of type"):
        checked(made)
