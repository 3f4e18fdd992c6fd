"""The plans: one graph where it can be, the reason where it cannot, and what happens when a teacher fails."""

import numpy as np
import onnx
import pytest
import teachers as models
from onnx import TensorProto, helper

from operators import BUILTIN, make
from service.config import load
from service.engine.engine import Engine
from service.engine.ensemble import Overrides
from service.plans import plans, recording
from service.plans.base import Pair, survivors
from service.plans.trials import disagreement, not_closed
from service.teachers.base import Device
from service.teachers.session import Session

YAML = """\
ensembles:
  toy:
    inputs: {{pixels: {{dtype: float32, shape: [6]}}}}
    classes: [a, b, c, d]
    {more}
    batching: {{max_rows: 8, threads: 1, in_flight: 2}}
    teachers:
      - {{name: one, model: one.onnx, output: {{kind: logits}}, temperature: 1.5}}
      - {{name: two, model: two.onnx, inputs: {{X: pixels}}, output: {{kind: probs}}}}
    recipes:
      default: {{operator: {operator}, temperature: 2}}
      {recipes}
"""


@pytest.fixture
def ensemble(tmp_path):
    """Load two seeded teachers, or other files of the same names."""
    opened = []

    def load_one(*, operator="linear", recipes="", more="", build=None):
        models.random_linear(tmp_path / "one.onnx", 1)
        models.random_linear(tmp_path / "two.onnx", 2, kind="probs", input_name="X", output_name="p")
        if build is not None:
            build(tmp_path)
        (tmp_path / "e.yaml").write_text(YAML.format(operator=operator, recipes=recipes, more=more))
        opened.append(Engine.open(load(tmp_path / "e.yaml")).ensemble("toy"))
        return opened[-1]

    yield load_one
    for one in opened:
        one.close()


def ask(ensemble, rows, recipe="default", plan=None, **overrides):
    effective = ensemble.effective(recipe, Overrides(**overrides))
    weights = np.repeat(np.array(effective.recipe.weights, np.float32)[:, None], len(rows), axis=1)
    temperature = np.full(len(rows), effective.recipe.temperature, np.float32)
    return (plan or ensemble.plans).run({"pixels": rows}, temperature, weights, effective.pair)


def rows_of(count):
    return np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)


def words(ensemble):
    return [(plan["plan"], plan["reason"]) for plan in ensemble.plans.report()]


@pytest.mark.parametrize("name", sorted(set(BUILTIN) - {"l2_median"}))
def test_every_operator_records_and_agrees_with_numpy(name):
    operator = make(name)
    pair = Pair(operator, 1e-6 if operator.domain == "floored" else None, 1.0, None)
    session = Session(recording.fusion(3, 7, pair), Device("cpu"), where="test")
    assert not_closed(session, pair, 3, 7) is None


def test_one_or_two_pairs_are_fused_and_agree_with_the_split_plan(ensemble):
    found = ensemble(recipes="sparse: {operator: linear, sparsity: {top_k: 2}}")
    assert [plan for plan, _ in words(found)] == ["fused", "fused"]
    for recipe in ("default", "sparse"):
        one, other = (ask(found, rows_of(20), recipe, plan) for plan in (None, found.plans.apart))
        assert disagreement(one.log_probs, other.log_probs) <= 0.1
        assert one.valid.all()
        assert not one.again.any()
    assert one.indices.tolist() == other.indices.tolist()
    np.testing.assert_allclose(one.tail_log_mass, other.tail_log_mass, atol=1e-5)


def test_more_pairs_are_staged_and_late_ones_join_them(ensemble):
    found = ensemble(operator="geometric", recipes="sparse: {operator: linear}")
    late = ask(found, rows_of(5), top_k=3)
    assert found.plans.name_of(found.effective("default", Overrides(top_k=3)).pair) == "staged"
    other = ask(found, rows_of(5), plan=found.plans.apart, top_k=3)
    assert late.indices.tolist() == other.indices.tolist()
    assert disagreement(late.log_probs, other.log_probs) <= 0.1


def test_a_batch_mixes_temperatures_and_weights(ensemble):
    found = ensemble()
    pair = found.effective("default", Overrides()).pair
    temperature = np.array([0.5, 1, 2, 7], np.float32)
    weights = np.array([[0, 1, 0.5, 0.2], [1, 0, 0.5, 0.8]], np.float32)
    one, other = (
        plan.run({"pixels": rows_of(4)}, temperature, weights, pair)
        for plan in (found.plans, found.plans.apart)
    )
    assert disagreement(one.log_probs, other.log_probs) <= 0.1


def test_several_devices_are_split(ensemble, monkeypatch):
    monkeypatch.setattr(Device, "__str__", lambda self: str(id(self)))
    assert words(ensemble())[0][0] == "split"


def test_models_too_large_for_one_graph_are_split(ensemble, monkeypatch):
    monkeypatch.setattr(plans, "LARGEST_BYTES", 10)
    ((word, reason),) = words(ensemble())
    assert word == "split"
    assert "one graph may have 10" in reason


def test_an_operator_that_does_not_record_is_split(ensemble, tmp_path, monkeypatch):
    (tmp_path / "branching.py").write_text(
        "from operators import linear\n\n\n"
        "def pool(log_probs, weights):\n"
        "    return linear().fuse(log_probs, weights) if float(weights.sum()) > 0 else log_probs[0]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    ((word, reason),) = words(ensemble(operator='{import: "branching:pool"}'))
    assert word == "split"
    assert "operator 'branching:pool' does not record" in reason


def test_a_teacher_that_cannot_be_converted_is_split(ensemble, monkeypatch):
    def fail(*_):
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fail)

    def older(folder):
        model = onnx.load(folder / "one.onnx")
        model.opset_import[0].version = 13
        onnx.save(model, folder / "one.onnx")

    ((word, reason),) = words(ensemble(build=older))
    assert (word, reason) == (
        "split",
        "teacher 'one' cannot be converted from opset 13 to 21: no adapter",
    )


def test_a_teacher_of_an_older_opset_is_converted_and_fused(ensemble):
    def older(folder):
        model = onnx.load(folder / "one.onnx")
        model.opset_import[0].version = 13
        onnx.save(model, folder / "one.onnx")

    found = ensemble(build=older)
    assert words(found)[0][0] == "fused"
    one, other = (ask(found, rows_of(9), plan=plan) for plan in (None, found.plans.apart))
    assert disagreement(one.log_probs, other.log_probs) <= 0.1


def raising(folder):
    """Raises where a row's first number is above 1000; NaN where it is above 100."""
    models.save(
        folder / "one.onnx",
        [
            helper.make_node("Slice", ["pixels", "zero", "one", "one"], ["first"]),
            helper.make_node("ReduceMax", ["first"], ["highest"], keepdims=0),
            helper.make_node("Greater", ["highest", "thousand"], ["raise_here"]),
            helper.make_node("Cast", ["raise_here"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["list", "index"], ["offset"]),
            helper.make_node("Greater", ["first", "hundred"], ["nan_here"]),
            helper.make_node("Where", ["nan_here", "nan", "offset"], ["noise"]),
            helper.make_node("Slice", ["pixels", "zero", "four", "one"], ["four_of"]),
            helper.make_node("Add", ["four_of", "noise"], ["logits"]),
        ],
        [("pixels", TensorProto.FLOAT, ["batch", 6])],
        [("logits", TensorProto.FLOAT, ["batch", 4])],
        [
            ("zero", np.array([0])),
            ("one", np.array([1])),
            ("four", np.array([4])),
            ("thousand", np.array(1000, np.float32)),
            ("hundred", np.array(100, np.float32)),
            ("nan", np.array(np.nan, np.float32)),
            ("list", np.array([0], np.float32)),
        ],
    )


def test_a_raising_teacher_is_named_and_with_a_quorum_survived(ensemble):
    found = ensemble(more="quorum: 1", build=raising)
    assert words(found)[0][0] == "fused"
    rows = rows_of(4)
    rows[0, 0] = 5000
    outcome = ask(found, rows)
    assert outcome.again.all()
    assert outcome.valid.tolist() == [[False] * 4, [True] * 4]
    assert "teacher 'one' failed" in outcome.failures[0]
    alone = ask(found, rows, weights={"two": 1})
    np.testing.assert_allclose(outcome.log_probs, alone.log_probs, atol=1e-5)


def test_a_row_of_nan_takes_no_other_with_it(ensemble):
    found = ensemble(more="quorum: 1", build=raising)
    rows = rows_of(4)
    rows[2, 0] = 500
    outcome = ask(found, rows)
    assert outcome.again.tolist() == [False, False, True, False]
    assert outcome.valid.tolist() == [[True, True, False, True], [True] * 4]
    assert outcome.finite.all()
    alone = ask(found, rows[2:3], weights={"two": 1})
    np.testing.assert_allclose(outcome.log_probs[2:3], alone.log_probs, atol=1e-5)


def test_survivors_share_the_weight_and_whole_rows_keep_their_bits():
    weights = np.array([[0.1, 0.1, 0.1], [0.3, 0.3, 0.3], [0.6, 0.6, 0.6]], np.float32)
    valid = np.array([[True, False, False], [True, True, False], [True, True, False]])
    left = survivors(weights, valid)
    assert (left[:, 0] == weights[:, 0]).all()
    np.testing.assert_allclose(left[:, 1], [0, 1 / 3, 2 / 3], rtol=1e-6)
    assert (left[:, 2] == weights[:, 2]).all()
