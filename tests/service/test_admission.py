"""Certificates as the service keeps them, and operators from elsewhere."""

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

from operators import geometric, linear
from operators.base import Operator
from service.admission import Certifier, ask_again, judge
from service.config import RecipeSection
from service.errors import ConfigError, OperatorRefused
from service.model import OperatorSpec
from service.plans import operators as plans
from service.plans.operators import resolve

EXAMPLES = Path(__file__).parents[2] / "examples"
SHAPE = {"teachers": 3, "classes": 3, "profile": "strict", "floor": 1e-6}


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def imported(name, **parameters):
    return resolve(OperatorSpec(f"my_operator:{name}", tuple(sorted(parameters.items())), imported=True))


def test_a_certificate_is_named_by_its_question_and_kept(tmp_path):
    first = Certifier(tmp_path).certificate(linear(), "code", **SHAPE)
    file = tmp_path / "certificates" / f"{first.id}.json"
    assert json.loads(file.read_text()) == first.document
    assert first.document["id"] == first.id
    assert not first.violations
    file.write_text(file.read_text().replace('"admitted": true', '"admitted": "kept"'))
    assert Certifier(tmp_path).certificate(linear(), "code", **SHAPE).document["admitted"] == "kept"
    file.write_text("{")  # not whole: it is asked again
    assert Certifier(tmp_path).certificate(linear(), "code", **SHAPE) == first
    other = Certifier(None).certificate(linear(), "other code", **SHAPE)
    assert other.id != first.id
    assert {key: value for key, value in other.document.items() if key != "id"} == {
        key: value for key, value in first.document.items() if key != "id"
    }


def test_another_question_has_another_name():
    questions = [SHAPE, SHAPE | {"classes": 4}, SHAPE | {"teachers": 2}, SHAPE | {"profile": "paper"}]
    names = {judge(linear(), "code", **question).document["id"] for question in questions}
    assert len(names) == 4


def test_a_folder_that_cannot_be_written_costs_no_start(tmp_path):
    (tmp_path / "certificates").write_text("a file, no folder")
    assert Certifier(tmp_path).certificate(linear(), "code", **SHAPE).document["admitted"]


def test_refusal_and_accepted_violations():
    poor = Certifier(None).certificate(*imported("product_of_experts"), **SHAPE)
    assert poor.violations == ["convexity_preservation", "weight_monotonicity", "weight_zero_absence"]
    with pytest.raises(OperatorRefused, match="is broken by teachers") as caught:
        poor.refuse_unless(["weight_monotonicity"], where="r")
    assert caught.value.certificate["axioms"]["convexity_preservation"]["witness"]["shrunk"]
    with pytest.raises(ConfigError, match="no axiom 'convexity'"):
        poor.refuse_unless(["convexity"], where="r")
    with pytest.raises(ConfigError, match="no axiom 'weight_zero_absence'"):
        poor.refuse_unless(["weight_zero_absence"], where="r")  # a gate is not to be waived
    soft = Certifier(None).certificate(
        *resolve(OperatorSpec("entropic_regularised", (("strength", 0.5),))), **SHAPE
    )
    soft.refuse_unless(["convexity_preservation", "weight_monotonicity"], where="r")
    with pytest.raises(OperatorRefused, match="weight_monotonicity, level 1 of 2"):
        soft.refuse_unless(["convexity_preservation"], where="r")


def test_a_factory_of_ones_own_is_certified_with_its_claims():
    operator, code = imported("sure_weighted", sharpness=2)
    assert operator[:2] == ("sure_weighted", (("sharpness", 2.0),))
    assert operator.domain == "zeros"
    certificate = Certifier(None).certificate(operator, code, **SHAPE)
    certificate.refuse_unless([], where="r")
    assert certificate.document["axioms"]["convexity_preservation"]["proved"]
    assert code != resolve(OperatorSpec("linear")).code


def test_the_mean_of_two_good_pools_is_none():
    document = judge(*imported("halfway"), **SHAPE).document
    assert not document["admitted"]
    assert document["axioms"]["weight_monotonicity"]["level"] < 2
    assert document["axioms"]["convexity_preservation"]["level"] == 2


def test_a_bare_function_is_floored_and_claims_nothing():
    operator, code = imported("mean_of_logits")
    assert operator == Operator("my_operator:mean_of_logits", (), operator.fuse, "floored")
    Certifier(None).certificate(operator, code, **SHAPE).refuse_unless([], where="r")


def test_the_code_of_an_own_operator_is_in_its_digest(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    codes = []
    for body in ("log_probs[0]", "log_probs[-1]"):
        (tmp_path / "changing.py").write_text(f"def pool(log_probs, weights):\n    return {body}\n")
        sys.modules.pop("changing", None)
        codes.append(resolve(OperatorSpec("changing:pool", imported=True)).code)
    assert codes[0] != codes[1]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (OperatorSpec("my_operator:nothing", imported=True), "has no function 'nothing'"),
        (OperatorSpec("my_operator", imported=True), 'must look like "package.module:name"'),
        (OperatorSpec("no_such_module:f", imported=True), "cannot import 'no_such_module'"),
        (
            OperatorSpec("my_operator:sure_weighted", (("sharpness", 99),), imported=True),
            "a number from 0 to 20",
        ),
        (OperatorSpec("my_operator:sure_weighted", (("shape", 2.0),), imported=True), "unexpected keyword"),
        (OperatorSpec("my_operator:mean_of_logits", (("a", 1),), imported=True), "takes no parameters"),
        (OperatorSpec("my_operator:Claim", imported=True), "Claim"),
        (OperatorSpec("liner"), "did you mean 'linear'"),
    ],
)
def test_operators_that_cannot_be_had(spec, said):
    with pytest.raises(ConfigError) as caught:
        resolve(spec)
    assert said in str(caught.value)


def test_an_entry_point_is_an_operator_by_name(monkeypatch):
    entry = metadata.EntryPoint("surest", "my_operator:sure_weighted", plans.GROUP)
    monkeypatch.setattr(plans.metadata, "entry_points", lambda group: [entry] if group == plans.GROUP else [])
    resolved = resolve(OperatorSpec("surest", (("sharpness", 0.25),)))
    assert resolved.operator.parameters == (("sharpness", 0.25),)


def test_what_cannot_be_judged_says_so():
    broken = Operator("broken", (), lambda p, _: p, "zeros")
    with pytest.raises(ConfigError, match="operator 'broken' cannot be judged: it answered"):
        Certifier(None).certificate(broken, "code", **SHAPE)


def test_a_witness_can_be_asked_again():
    operator, code = imported("product_of_experts")
    document = judge(operator, code, **SHAPE).document
    witness = json.loads(json.dumps(document["axioms"]["convexity_preservation"]["witness"]))
    assert ask_again(operator, witness).document["broken"]
    assert not ask_again(geometric(), witness).document["broken"]
    with pytest.raises(ConfigError, match="cannot be replayed"):
        ask_again(operator, {"check": "closure"})


def test_profile_and_violations_are_written_in_the_recipe():
    section = RecipeSection.model_validate({"operator": {"import": "a:b", "x": 1}, "profile": "paper"})
    assert section.operator == OperatorSpec("a:b", (("x", 1),), imported=True)
    assert section.operator.as_dict() == {"import": "a:b", "x": 1}
    assert section.profile == "paper"
