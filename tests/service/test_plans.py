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
from service.errors import ConfigError
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


def test_recipes_that_differ_in_temperature_are_one_pair(ensemble):
    others = [f"t{t}: {{operator: linear, temperature: {t}}}" for t in (1, 3, 5)]
    found = ensemble(recipes="\n      ".join(others))
    assert {plan for plan, _ in words(found)} == {"fused"}
    assert len({found.effective(name, Overrides()).pair.key for name in ("default", "t1", "t3", "t5")}) == 1


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
    np.testing.assert_allclose(outcome.sample[-1], np.exp(outcome.log_probs), atol=1e-6)


def test_survivors_share_the_weight_and_whole_rows_keep_their_bits():
    weights = np.array([[0.1, 0.1, 0.1], [0.3, 0.3, 0.3], [0.6, 0.6, 0.6]], np.float32)
    valid = np.array([[True, False, False], [True, True, False], [True, True, False]])
    left = survivors(weights, valid)
    assert (left[:, 0] == weights[:, 0]).all()
    np.testing.assert_allclose(left[:, 1], [0, 1 / 3, 2 / 3], rtol=1e-6)
    assert (left[:, 2] == weights[:, 2]).all()


MIXED = """\
ensembles:
  toy:
    inputs: {pixels: {dtype: float32, shape: [6]}, extra: {dtype: float64, shape: []}}
    classes: [a, b, c, d]
    batching: {max_rows: 8, threads: 1, in_flight: 2}
    teachers:
      - {name: old, model: old.onnx, inputs: {pixels: pixels}, output: {kind: logits}}
      - {name: older, model: older.onnx, inputs: {pixels: pixels}, output: {kind: log_probs}}
      - {name: forest, model: forest.onnx, inputs: {X: pixels}, output: {kind: probs}}
      - {name: mapped, model: mapped.onnx, inputs: {X: pixels},
         output: {name: output_probability, kind: probs}}
      - {name: both, model: both.onnx, output: {kind: logits}}
      - {name: merged, model: merged.onnx, inputs: {pixels: pixels}, output: {kind: logits},
         classes: [{puma: c}, {lion: c}, a, {blank: null}, b, d]}
    recipes:
      default: {operator: {name: holder, exponent: 0.5}, temperature: 3}
      sparse: {operator: geometric, temperature: 2, sparsity: {top_k: 2}}
"""


def two_inputs(path):
    """Logits: the first four pixels plus the extra number times (1, 2, 3, 4), in float64 inside."""
    models.save(
        path,
        [
            helper.make_node("Slice", ["pixels", "zero", "four", "one"], ["four_of"]),
            helper.make_node("Cast", ["four_of"], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("Unsqueeze", ["extra", "one"], ["column"]),
            helper.make_node("Mul", ["column", "ramp"], ["slope"]),
            helper.make_node("Add", ["wide", "slope"], ["logits"]),
        ],
        [("pixels", TensorProto.FLOAT, ["batch", 6]), ("extra", TensorProto.DOUBLE, ["batch"])],
        [("logits", TensorProto.DOUBLE, ["batch", 4])],
        [
            ("zero", np.array([0])),
            ("one", np.array([1])),
            ("four", np.array([4])),
            ("ramp", np.array([[1.0, 2, 3, 4]])),
        ],
        opset=15,
    )


def test_opsets_trees_a_zipmap_two_inputs_and_merged_classes_are_one_graph_and_agree(tmp_path):
    for name, opset, kind in (("old", 13, "logits"), ("older", 17, "log_probs")):
        models.random_linear(tmp_path / f"{name}.onnx", opset, kind=kind)
        model = onnx.load(tmp_path / f"{name}.onnx")
        model.opset_import[0].version = opset
        onnx.save(model, tmp_path / f"{name}.onnx")
    models.forest(tmp_path / "forest.onnx", zipmap=False)
    models.forest(tmp_path / "mapped.onnx", zipmap=True)
    two_inputs(tmp_path / "both.onnx")
    models.random_linear(tmp_path / "merged.onnx", 5, classes=6)
    (tmp_path / "e.yaml").write_text(MIXED)
    found = Engine.open(load(tmp_path / "e.yaml")).ensemble("toy")
    assert [plan["plan"] for plan in found.plans.report()] == ["fused", "fused"], words(found)
    rows = {"pixels": rows_of(50), "extra": np.random.default_rng(1).normal(size=50)}
    weights = np.random.default_rng(2).dirichlet(np.ones(6), size=50).T.astype(np.float32)
    temperature = np.random.default_rng(3).uniform(0.5, 8, size=50).astype(np.float32)
    for recipe in ("default", "sparse"):
        pair = found.effective(recipe, Overrides()).pair
        one, other = (plan.run(rows, temperature, weights, pair) for plan in (found.plans, found.plans.apart))
        assert one.valid.all()
        difference = np.abs(one.log_probs.astype(float) - other.log_probs)
        assert (difference <= 1e-5 + 1e-6 * np.abs(other.log_probs))[other.log_probs > -80].all()
        assert pair.top_k is None or (one.indices == other.indices).all()
    opinions, *_ = found.plans.apart.opinions(rows, weights)
    pair = found.effective("default", Overrides()).pair
    softened = models.log_softmax(opinions.astype(float) / temperature[None, :, None])
    exact = pair.operator.fuse(softened, weights.astype(float))
    dense = found.plans.run(rows, temperature, weights, pair).log_probs
    assert (np.abs(dense - exact) <= 1e-5 + 1e-6 * np.abs(exact))[exact > -80].all()
    found.close()


TREES = """\
ensembles:
  toy:
    inputs: {pixels: {dtype: float32, shape: [6]}}
    classes: [a, b, c, d]
    batching: {max_rows: 8, threads: 1, in_flight: 2}
    teachers:
      - {name: one, model: one.onnx, inputs: {X: pixels}, output: {kind: probs}}
      - {name: other, model: other.onnx, inputs: {X: pixels}, output: {kind: KIND}}
    recipes:
      default: {operator: linear}
"""


def test_trees_of_two_versions_of_the_domain_are_one_graph(tmp_path):
    for name, version in (("one", 1), ("other", 3)):
        models.forest(tmp_path / f"{name}.onnx", zipmap=False)
        model = onnx.load(tmp_path / f"{name}.onnx")
        next(one for one in model.opset_import if one.domain == "ai.onnx.ml").version = version
        onnx.save(model, tmp_path / f"{name}.onnx")
    (tmp_path / "e.yaml").write_text(TREES.replace("KIND", "probs"))
    found = Engine.open(load(tmp_path / "e.yaml")).ensemble("toy")
    assert [plan for plan, _ in words(found)] == ["fused"], words(found)


def test_trees_beside_a_version_of_the_domain_that_has_dropped_them_are_split(tmp_path):
    models.forest(tmp_path / "one.onnx", zipmap=False)
    models.scaled_linear(tmp_path / "other.onnx", version=5)
    (tmp_path / "e.yaml").write_text(TREES.replace("KIND", "logits"))
    found = Engine.open(load(tmp_path / "e.yaml")).ensemble("toy")
    ((plan, reason),) = words(found)
    assert plan == "split"
    assert "TreeEnsembleClassifier is deprecated in domain_version of 5" in reason


def test_a_graph_that_answers_differently_is_split(ensemble, monkeypatch):
    soften = recording._softened
    monkeypatch.setattr(
        recording,
        "_softened",
        lambda one, given, temperature: soften(one, given, temperature * 1.01),
    )
    assert words(ensemble()) == [("split", plans.DISAGREES)]


def test_a_converted_model_that_answers_differently_is_split(ensemble, monkeypatch):
    convert = onnx.version_converter.convert_version

    def wrong(model, opset):
        converted = convert(model, opset)
        for node in converted.graph.node:
            if node.op_type == "Identity":
                node.op_type = "Neg"
        return converted

    def older(folder):
        model = onnx.load(folder / "one.onnx")
        model.opset_import[0].version = 13
        onnx.save(model, folder / "one.onnx")

    monkeypatch.setattr(onnx.version_converter, "convert_version", wrong)
    assert words(ensemble(build=older)) == [("split", "teacher 'one' answers differently at opset 21")]


def test_a_recorded_operator_that_gives_no_targets_is_split(ensemble, monkeypatch):
    monkeypatch.setattr(plans, "not_closed", lambda *_: "recorded, it gives rows that sum to 2")
    ((word, reason),) = words(ensemble())
    assert (word, reason) == ("split", "operator 'linear': recorded, it gives rows that sum to 2")


def test_answers_that_depend_on_the_batch_stop_the_start(ensemble, monkeypatch):
    monkeypatch.setattr(plans, "spread", lambda *_: 1e-3)
    with pytest.raises(ConfigError, match=r"differ by 0.001 nats between batch sizes .*spread_limit"):
        ensemble()


def test_a_part_of_a_device_s_teacher_on_the_cpu_is_split(ensemble, monkeypatch):
    found = ensemble()
    for member in found.members:
        monkeypatch.setattr(member.teacher, "device", Device("cuda"))
    monkeypatch.setattr(found.members[1].teacher, "allow_cpu", True)
    assert found.plans._why_no_graph({}) == "teacher 'two' may run in part on the CPU"


def test_a_named_device_that_cannot_be_had_stops_the_start(ensemble):
    with pytest.raises(ConfigError, match=r"device cuda:1 was asked for, but this ONNX Runtime has no CUDA"):
        ensemble(more="device: cuda:1")


def test_local_functions_are_inlined_and_fused(ensemble):
    def with_function(folder):
        doubled = helper.make_function(
            "own", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])],
            [helper.make_opsetid("", 21)],
        )  # fmt: skip
        model = onnx.load(folder / "one.onnx")
        last = model.graph.node[-1]
        last.op_type, last.domain = "Twice", "own"
        model.functions.append(doubled)
        model.opset_import.append(helper.make_opsetid("own", 1))
        onnx.save(model, folder / "one.onnx")

    found = ensemble(build=with_function)
    assert words(found)[0][0] == "fused"
    one, other = (ask(found, rows_of(9), plan=plan) for plan in (None, found.plans.apart))
    assert disagreement(one.log_probs, other.log_probs) <= 0.1


def test_a_bound_session_reuses_its_buffers_and_answers_as_run_does():
    pair = Pair(make("linear"), None, 1.0, None)
    session = Session(recording.fusion(2, 5, pair), Device("cpu"), where="test")
    bound = session.bound()
    random = np.random.default_rng(0)
    for rows in (4, 2, 7, 4):
        feeds = {
            "opinions": models.log_softmax(random.normal(size=(2, rows, 5))).astype(np.float32),
            "temperature": np.ones(rows, np.float32),
            "weights": np.full((2, rows), 0.5, np.float32),
        }
        (found,) = bound.run({"log_probs": (np.dtype(np.float32), (rows, 5))}, feeds)
        (expected,) = session.run(["log_probs"], feeds)
        assert (found == expected).all()


def test_threads_and_batches_at_a_time_are_found_by_measurement(ensemble, monkeypatch):
    monkeypatch.setattr("service.engine.ensemble.processors", lambda: 4)
    asked = []

    def measured(_, in_flight):
        asked.append(in_flight)
        return {4: 1.0, 2: 3.0, 1: 2.0}[in_flight]

    monkeypatch.setattr("service.plans.sizing.throughput", measured)
    monkeypatch.setitem(globals(), "YAML", YAML.replace(", threads: 1, in_flight: 2", ""))
    found = ensemble()
    assert sorted(set(asked)) == [1, 2, 4]
    assert (found.plans.threads, found.plans.in_flight) == (2, 2)
    assert ask(found, rows_of(3)).valid.all()
