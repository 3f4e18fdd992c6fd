"""Names, parameters, refusals, and that the documentation runs."""

import doctest
import importlib
import json
import math
import pickle
import pkgutil
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest

import operators
from operators import (
    BUILTIN,
    InvalidParameter,
    OperatorError,
    UnknownOperator,
    UnknownParameter,
    geometric,
    holder,
    linear,
    make,
)


@pytest.mark.parametrize(
    ("operator", "name", "parameters", "domain"),
    [
        (linear(), "linear", (), "zeros"),
        (geometric(), "geometric", (), "floored"),
        (holder(), "holder", (("exponent", 0.5),), "zeros"),
        (holder(exponent=0), "holder", (("exponent", 0.0),), "floored"),
        (holder(exponent=-1), "holder", (("exponent", -1.0),), "floored"),
    ],
)
def test_names_parameters_and_domains(operator, name, parameters, domain):
    assert (operator.name, operator.parameters, operator.domain) == (name, parameters, domain)
    assert hash(operator.parameters) == hash(parameters)
    assert json.loads(json.dumps(dict(operator.parameters))) == dict(parameters)


@pytest.mark.parametrize(
    "exponent", [0.05, -0.05, 2, -2, 1, np.float64(0.5), np.float32(0.5), np.int64(2), Fraction(1, 2)]
)
def test_exponents_within_the_range_become_floats(exponent):
    ((_, value),) = holder(exponent=exponent).parameters
    assert type(value) is float
    assert value == exponent


def test_minus_zero_is_written_as_zero():
    assert json.dumps(dict(holder(exponent=-0.0).parameters)) == '{"exponent": 0.0}'


@pytest.mark.parametrize(
    "exponent",
    [0.0499, -0.0499, 1e-3, 5e-324, 2.0001, -3, math.inf, -math.inf, math.nan, 10**400, np.float32("nan")],
)
def test_exponents_outside_the_range_are_refused_with_the_range(exponent):
    with pytest.raises(InvalidParameter, match=r"it must be 0, or between 0\.05 and 2 in absolute value"):
        holder(exponent=exponent)


@pytest.mark.parametrize("exponent", [True, False, np.True_, "0.5", None, 1j, [0.5], np.asarray(0.5)])
def test_what_is_not_a_number_is_refused_with_the_range(exponent):
    with pytest.raises(InvalidParameter, match=r"must be a number: 0, or between 0\.05 and 2"):
        holder(exponent=exponent)


def test_make_takes_names_and_parameters_from_a_recipe():
    assert make("linear").name == "linear"
    assert make("holder", exponent=2).parameters == (("exponent", 2.0),)
    assert make("holder").parameters == holder().parameters
    assert {name: make(name).name for name in BUILTIN} == {name: name for name in BUILTIN}


@pytest.mark.parametrize("name", ["lineal", "Linear", "geometrical", "hölder"])
def test_an_unknown_operator_names_the_nearest(name):
    nearest = {"l": "linear", "L": "linear", "g": "geometric", "h": "holder"}[name[0]]
    with pytest.raises(UnknownOperator, match=f"no operator '{name}': did you mean {nearest}"):
        make(name)


@pytest.mark.parametrize("name", ["", "zzz", None, 3, ["linear"]])
def test_an_operator_unlike_any_lists_them_all(name):
    with pytest.raises(
        UnknownOperator, match="known: entropic_regularised, entropy_weighted, geometric, holder"
    ):
        make(name)


def test_an_unknown_parameter_names_the_known():
    with pytest.raises(UnknownParameter, match=r"holder has no parameter 'exponnt': did you mean exponent\?"):
        make("holder", exponnt=1)
    with pytest.raises(UnknownParameter, match="linear has no parameter 'name': there are none"):
        make("linear", name="x")


def test_every_error_has_the_root_and_survives_pickling():
    for error in (UnknownOperator, UnknownParameter, InvalidParameter, operators.UnknownPrimitive):
        assert issubclass(error, OperatorError)
        assert str(pickle.loads(pickle.dumps(error("what")))) == "what"


def test_operators_and_the_list_of_them_are_immutable():
    with pytest.raises(AttributeError):
        linear().name = "other"
    with pytest.raises(TypeError):
        BUILTIN["other"] = linear


def test_public_names_are_listed_and_there():
    public = {
        name
        for name, value in vars(operators).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(operators.__all__)
    assert len(public) == len(operators.__all__)


@pytest.mark.parametrize("module", sorted(found.name for found in pkgutil.iter_modules(operators.__path__)))
def test_the_examples_in_the_documentation_run(module):
    failed, _ = doctest.testmod(importlib.import_module(f"operators.{module}"))
    assert failed == 0


@pytest.mark.parametrize("name", BUILTIN)
def test_every_operator_documents_equation_arguments_example_and_source(name):
    text = BUILTIN[name].__doc__
    assert all(
        part in text for part in ("A_c = ", "log_probs: [K, B, C]", "weights: [K, B]", "Example:", "Source:")
    )
