"""The split plan's own care: what is fed, what comes out, and which rows are not answered."""

import numpy as np
import pytest
import teachers as models
from onnx import TensorProto, helper

from service.config import load
from service.engine.engine import Engine
from service.engine.ensemble import Overrides
from service.errors import ConfigError


@pytest.fixture
def run(tmp_path):
    """Answer rows with one teacher: the outcome of the plan, and the engine's results."""

    def answer(build, rows, *, dtype="float32", recipe="operator: linear"):
        build(tmp_path / "one.onnx")
        shape = list(rows.shape[1:])
        (tmp_path / "e.yaml").write_text(
            f"ensembles:\n  toy:\n    inputs: {{pixels: {{dtype: {dtype}, shape: {shape}}}}}\n"
            "    classes: [a, b, c, d]\n"
            f"    teachers: [{{name: one, model: one.onnx, output: {{kind: logits}}}}]\n"
            f"    recipes: {{default: {{{recipe}}}}}\n"
        )
        ensemble = Engine.open(load(tmp_path / "e.yaml")).ensemble("toy")
        pair = ensemble.effective("default", Overrides()).pair
        count = len(rows)
        outcome = ensemble.plans.run(
            {"pixels": rows}, np.ones(count, np.float32), np.ones((1, count), np.float32), pair
        )
        ensemble.close()
        return outcome

    return answer


def cast_to(element):
    """A teacher that takes another dtype: logits are its four inputs."""

    def build(path):
        models.save(
            path,
            [helper.make_node("Cast", ["pixels"], ["logits"], to=TensorProto.FLOAT)],
            [("pixels", element, ["batch", 4])],
            [("logits", TensorProto.FLOAT, ["batch", 4])],
        )

    return build


def test_a_value_too_large_for_a_teacher_s_dtype_is_not_answered_as_another(run):
    rows = np.array([[1, 2, 3, 4], [1, 70_000, 3, 4]], dtype=np.float32)
    outcome = run(cast_to(TensorProto.FLOAT16), rows)
    assert outcome.valid.tolist() == [[True, False]]


def test_an_integer_a_teacher_cannot_hold_is_not_answered_as_another(run):
    rows = np.array([[1, 2, 3, 4], [1, 2**53 + 1, 3, 4]], dtype=np.int64)
    outcome = run(cast_to(TensorProto.DOUBLE), rows, dtype="int64")
    assert outcome.valid.tolist() == [[True, False]]


def test_recalibration_leaves_every_class_possible(run):
    rows = np.array([[90, 0, 0, 0]], dtype=np.float32)
    outcome = run(cast_to(TensorProto.FLOAT), rows, recipe="operator: linear, output_temperature: 0.05")
    assert outcome.finite.all()
    assert (np.exp(outcome.log_probs.astype(np.float64)) >= 2.0**-126 * (1 - 1e-5)).all()


def test_a_teacher_whose_answer_depends_on_its_neighbours_is_refused(run):
    def build(path):
        models.save(
            path,
            [helper.make_node("Softmax", ["pixels"], ["logits"], axis=0)],
            [("pixels", TensorProto.FLOAT, ["batch", 4])],
            [("logits", TensorProto.FLOAT, ["batch", 4])],
        )

    with pytest.raises(ConfigError, match="answers a row differently alone and beside others"):
        run(build, np.zeros((1, 4), np.float32))
