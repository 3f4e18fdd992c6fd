"""Certificates as the service keeps them, and operators from elsewhere."""

import json
import math
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from operators import geometric, linear
from operators.axioms import question_of
from operators.base import Operator
from service import keys
from service.admission import Certifier, ask_again, certificate, certifier, judge, witnesses_in
from service.admission.certificate import Asked
from service.certification import spec_of
from service.config import RecipeSection
from service.errors import ConfigError, OperatorRefused
from service.model import OperatorSpec
from service.plans.operators import resolve

EXAMPLES = Path(__file__).parents[2] / "examples"
LINEAR = OperatorSpec("linear")
SHAPE = {"teachers": 3, "classes": 3, "profile": "strict", "floor": 1e-6}


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def imported(name, **parameters):
    return resolve(OperatorSpec(f"my_operator:{name}", tuple(sorted(parameters.items())), imported=True))


def certified(state_dir, operator=None, code="code", given=LINEAR):
    return Certifier(state_dir).certificate(operator or linear(), code, given, **SHAPE)


def test_a_certificate_is_named_by_its_question_and_kept(tmp_path):
    first = certified(tmp_path)
    file = tmp_path / "certificates" / f"{first.id}.json"
    assert json.loads(file.read_text()) == first.document
    assert first.document["id"] == first.id
    assert (first.document["given"], first.document["code"]) == ({"name": "linear"}, "code")
    assert not first.violations
    kept = first.document | {"properties": {"read": True}}
    file.write_text(json.dumps(kept))
    assert certified(tmp_path).document == kept
    assert certified(None) == first


@pytest.fixture(scope="module")
def answer():
    """An honest answer, so that tests of what is kept need not find it again and again."""
    return judge(linear(), "code", LINEAR, **SHAPE)


def spoiled(document, *path, value=None):
    """The document with one value replaced, or left out."""
    copy = json.loads(json.dumps(document))
    *way, last = path
    inner = copy
    for key in way:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(copy)


def test_a_kept_certificate_is_read_only_if_it_answers_the_question_whole(tmp_path, answer, monkeypatch):
    asked = []
    monkeypatch.setattr(certifier, "judge", lambda *_, **__: asked.append(1) or answer)
    first = certified(tmp_path)
    file = tmp_path / "certificates" / f"{first.id}.json"
    document = first.document
    level = ("axioms", "continuity", "level")
    spoils = (
        "{",
        "[]",
        "null",
        "NaN",
        "[" * 100_000,
        "\ufeff" + json.dumps(document),
        json.dumps({"id": first.id}),
        json.dumps(document | {"axioms": {}}),
        json.dumps(document | {"axioms": [], "gates": []}),
        json.dumps(document | {"axioms": {**document["axioms"], "beauty": document["axioms"]["continuity"]}}),
        spoiled(document, "axioms", "continuity"),
        spoiled(document, "gates", "row_independence"),
        spoiled(document, "format", value=0),
        spoiled(document, "format"),
        spoiled(document, "id", value="0" * 64),
        spoiled(document, "given", value={"name": "geometric"}),
        spoiled(document, "code", value="older code"),
        spoiled(document, "profile", value="paper"),
        spoiled(document, "K", value=2),
        spoiled(document, "C", value=4),
        spoiled(document, "budget", value="soak"),
        spoiled(document, "seed", value=1),
        spoiled(document, "contradictions", value="none"),
        spoiled(document, "contradictions", value=["it lies"]),
        spoiled(document, "reasons", value=[1]),
        spoiled(document, "admitted", value="yes"),
        spoiled(document, "admitted", value=False),
        spoiled(document, "axioms", "continuity", "required", value=0),
        spoiled(document, *level, value=0),
        spoiled(document, *level, value="2"),
        spoiled(document, *level, value=True),
        spoiled(document, *level, value=2.0),
        spoiled(document, *level),
        spoiled(document, "axioms", "continuity", "witness", value="none"),
        json.dumps(document).replace('"margin": ', '"margin": NaN, "other": ', 1),
    )
    for times, text in enumerate(spoils, start=2):
        file.write_text(text)
        assert certified(tmp_path) == first, text[:100]
        assert len(asked) == times, text[:100]
        assert json.loads(file.read_text()) == document, text[:100]
    assert certified(tmp_path) == first
    assert len(asked) == times


def test_another_question_has_another_name(monkeypatch):
    def name(given=LINEAR, code="code", **question):
        return Asked(code, given, question_of(linear(), **SHAPE | question)).identity

    others = ({"classes": 4}, {"teachers": 2}, {"profile": "paper"}, {"seed": 1})
    names = [
        name(),
        name(code="other code"),
        name(OperatorSpec("linear", imported=True)),
        name(OperatorSpec("linear", (("power", 2.0),))),
        name(OperatorSpec("linear", (("power", 2.5),))),
        *(name(**question) for question in others),
    ]
    versions = {"numpy": "2.0.0", "array-api-compat": "1.0"}
    monkeypatch.setattr(keys.metadata, "version", versions.get)
    for changed in ("numpy", "array-api-compat"):
        versions[changed] += "1"
        names.append(name())
    monkeypatch.setattr(certificate, "FORMAT", certificate.FORMAT + 1)
    names.append(name())
    assert len(set(names)) == len(names)


def test_a_folder_that_cannot_be_written_costs_no_start(tmp_path, answer, monkeypatch):
    monkeypatch.setattr(certifier, "judge", lambda *_, **__: answer)
    (tmp_path / "certificates").write_text("a file, no folder")
    assert certified(tmp_path) == answer.certificate


@pytest.mark.parametrize("strange", [math.nan, math.inf, {1, 2}])
def test_what_cannot_be_written_is_served_all_the_same(tmp_path, answer, monkeypatch, strange, capsys):
    odd = answer.certificate._replace(document=answer.certificate.document | {"told": strange})
    monkeypatch.setattr(certifier, "judge", lambda *_, **__: answer._replace(certificate=odd))
    assert certified(tmp_path) == odd
    assert not list((tmp_path / "certificates").iterdir())
    assert "certificate not kept" in capsys.readouterr().out


def test_refusal_and_accepted_violations():
    poor = Certifier(None).certificate(*imported("product_of_experts"), **SHAPE)
    assert poor.violations == ["convexity_preservation", "weight_monotonicity", "weight_zero_absence"]
    with pytest.raises(OperatorRefused, match="is broken by teachers") as caught:
        poor.refuse_unless(["weight_monotonicity"], where="r")
    assert caught.value.certificate["axioms"]["convexity_preservation"]["witness"]["shrunk"]
    with pytest.raises(ConfigError, match="no axiom 'convexity'"):
        poor.refuse_unless(["convexity"], where="r")
    with pytest.raises(ConfigError, match="'weight_zero_absence' is a gate"):
        poor.refuse_unless(["weight_zero_absence"], where="r")  # a gate is not to be waived
    soft = Certifier(None).certificate(
        *resolve(OperatorSpec("entropic_regularised", (("strength", 0.5),))), **SHAPE
    )
    soft.refuse_unless(["convexity_preservation", "weight_monotonicity"], where="r")
    with pytest.raises(OperatorRefused, match="weight_monotonicity, level 1 of 2"):
        soft.refuse_unless(["convexity_preservation"], where="r")


def test_a_factory_of_ones_own_is_certified_with_its_claims():
    operator, code, given = imported("sure_weighted", sharpness=2)
    assert given == OperatorSpec("my_operator:sure_weighted", (("sharpness", 2),), imported=True)
    assert operator[:2] == ("sure_weighted", (("sharpness", 2.0),))
    assert operator.domain == "zeros"
    certificate = Certifier(None).certificate(operator, code, given, **SHAPE)
    certificate.refuse_unless([], where="r")
    assert certificate.document["axioms"]["convexity_preservation"]["proved"]
    assert code != resolve(OperatorSpec("linear")).code


def test_the_mean_of_two_good_pools_is_none():
    document = judge(*imported("halfway"), **SHAPE).certificate.document
    assert not document["admitted"]
    assert document["axioms"]["weight_monotonicity"]["level"] < 2
    assert document["axioms"]["convexity_preservation"]["level"] == 2


def test_a_bare_function_is_floored_and_claims_nothing():
    operator, code, given = imported("mean_of_logits")
    assert operator == Operator("my_operator:mean_of_logits", (), operator.fuse, "floored")
    Certifier(None).certificate(operator, code, given, **SHAPE).refuse_unless([], where="r")


def test_what_cannot_be_judged_says_so():
    broken = Operator("broken", (), lambda p, _: p, "zeros")
    with pytest.raises(ConfigError, match="operator 'broken' cannot be judged: it answered"):
        certified(None, broken)


def test_what_is_raised_where_an_operator_is_asked_is_told():
    def leaves(*_):
        raise SystemExit(3)

    with pytest.raises(ConfigError, match=r"'leaves' cannot be judged: .*SystemExit: 3"):
        certified(None, Operator("leaves", (), leaves, "zeros"))
    for floor in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="give a number between 0 and 1"):
            judge(linear(), "code", LINEAR, **SHAPE | {"floor": floor})


def test_a_witness_can_be_asked_again():
    operator, code, given = imported("product_of_experts")
    document = judge(operator, code, given, **SHAPE).certificate.document
    witness = json.loads(json.dumps(document["axioms"]["convexity_preservation"]["witness"]))
    assert witness["code"] == code
    again = ask_again(operator, code, witness)
    assert again.broken
    assert again.document["broken"]
    assert again.document["same_code"]
    elsewhere = ask_again(geometric(), "other code", witness)
    assert not elsewhere.broken
    assert not elsewhere.document["same_code"]
    assert f"the witness was found in {code}" in elsewhere.text
    assert witnesses_in(witness) == [witness]
    missed = ["convexity_preservation", "weight_monotonicity", "weight_zero_absence"]
    all_three = witnesses_in({"error": "refused", "code": "operator_refused", "certificate": document})
    assert [one["axiom"] for one in all_three] == missed


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"weights": [[1.0]]},
        {"weights": "none", "probabilities": [[[0.5, 0.5]]]},
        {"weights": [[1.0]], "probabilities": 1},
        {"weights": [[0.5], [0.25], [0.25]], "probabilities": [[[0.5, 0.5]], [[0.5, 0.5]]]},
        {"weights": [[0.5], [0.5]], "probabilities": [[[0.5, 0.5]], [[0.5, 0.5]]], "towards": [7]},
        {"weights": [[0.5], [0.5]], "probabilities": [[[0.5, 0.5]], [[0.5, 0.5]]]},
    ],
)
def test_a_case_that_is_malformed_cannot_be_replayed(case):
    with pytest.raises(ConfigError, match="cannot be replayed"):
        ask_again(geometric(), "code", {"check": "vertex_fidelity", "case": case})


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "'check' and 'case'"),
        (1, "'check' and 'case'"),
        ({"axioms": 1}, "'check' and 'case'"),
        ({"certificate": {}}, "'check' and 'case'"),
    ],
)
def test_what_is_no_witness(document, said):
    with pytest.raises(ConfigError, match=said):
        witnesses_in(document)


def test_a_certificate_of_a_good_operator_holds_no_witness():
    with pytest.raises(ConfigError, match="holds no witness"):
        witnesses_in(certified(None).document)


def test_a_refusal_tells_the_commands_that_show_it_again():
    given = OperatorSpec("own:pool", (("a b", "it's"), ("flag", True), ("x", 2.0)), imported=True)
    operator = imported("product_of_experts").operator
    found = judge(operator, "the code", given, **SHAPE).certificate
    with pytest.raises(OperatorRefused) as caught:
        found.refuse_unless([], where="r")
    commands = found.commands(found.violations)
    assert len(commands) == 3
    for command in commands:
        assert f"again: {command}" in str(caught.value)
        words = shlex.split(command)
        assert words[:4] == ["soft-targets", "certify", "--operator", "own:pool"]
        assert spec_of("own:pool", [b for a, b in pairwise(words) if a == "--param"]) == given
        assert ask_again(operator, "the code", json.loads(words[words.index("--replay") + 1])).broken
    assert "code: the code" in str(caught.value)


def test_a_witness_over_many_classes_goes_by_a_file():
    def sharper_over_many(log_probs, weights):
        pool = geometric().fuse(log_probs, weights)
        return pool + 0.1 if log_probs.shape[-1] >= 500 else pool

    given = OperatorSpec("own:pool", imported=True)
    operator = Operator("own:pool", (), sharper_over_many, "floored")
    found = judge(operator, "code", given, **SHAPE | {"classes": 500, "floor": 1e-4}).certificate
    (command,) = found.commands(["convexity_preservation"])
    assert command == (
        "soft-targets certify --operator own:pool --profile strict --teachers 3 --classes 500 --floor 0.0001 "
        "--budget quick --seed 0 --json > certificate.json; "
        "soft-targets certify --operator own:pool --replay @certificate.json"
    )
    with pytest.raises(OperatorRefused) as caught:
        found.refuse_unless([], where="r")
    assert len(str(caught.value)) < 10_000
    assert all(ask_again(operator, "code", witness).broken for witness in witnesses_in(found.document))


def test_profile_and_violations_are_written_in_the_recipe():
    section = RecipeSection.model_validate({"operator": {"import": "a:b", "x": 1}, "profile": "paper"})
    assert section.operator == OperatorSpec("a:b", (("x", 1),), imported=True)
    assert section.operator.as_dict() == {"import": "a:b", "x": 1}
    assert section.profile == "paper"
