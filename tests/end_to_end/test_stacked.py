"""Servers stacked: a recipe of one teaches another, and both together say what one server would."""

import numpy as np
import pytest
import teachers as models

from soft_targets import Client

CLASSES = "    classes: [ant, bee, cat, dog]\n"
ONE = "      - {name: one, model: one.onnx, output: {kind: logits}, temperature: 1.5, weight: WEIGHT}\n"
TWO = (
    "      - {name: two, model: two.onnx, inputs: {X: pixels}, output: {kind: probs}, "
    "classes: [dog, cat, bee, ant], weight: WEIGHT}\n"
)
THREE = "      - {name: three, model: three.onnx, output: {kind: log_probs}, weight: WEIGHT}\n"
HEAD = (
    "server: {port: 0}\nensembles:\n  toy:\n    inputs: {pixels: {dtype: float32, shape: [6]}}\n"
    + CLASSES
    + "    batching: {in_flight: 1, threads: 1}\n    teachers:\n"
)
RECIPES = (
    "    recipes:\n      default: {operator: linear}\n      sure: {operator: linear, weights: {FIRST: 1}}\n"
)


def weighted(teacher, weight):
    return teacher.replace("WEIGHT", str(weight))


@pytest.fixture
def write(tmp_path):
    models.random_linear(tmp_path / "one.onnx", 1)
    models.random_linear(tmp_path / "two.onnx", 2, kind="probs", input_name="X", output_name="p")
    models.random_linear(tmp_path / "three.onnx", 3, kind="log_probs", output_name="l")

    def to(name, *teachers, first):
        path = tmp_path / f"{name}.yaml"
        path.write_text(HEAD + "".join(teachers) + RECIPES.replace("FIRST", first))
        return path

    return to


def answers(start, path, rows, recipe="default"):
    with Client(start(path).url, ensemble="toy", recipe=recipe) as client:
        targets = client.soft_targets({"pixels": rows})
    assert set(targets.source) == {"miss"}
    return targets.probabilities


@pytest.mark.parametrize(
    ("output", "classes"),
    [
        ("{name: probabilities, kind: probs}", ""),
        ("{name: log_probs, kind: log_probs}", ", classes: [ant, bee, cat, dog]"),
    ],
)
def test_a_pool_of_a_pool_is_the_pool_of_all(start, write, output, classes):
    """0.5 (0.4 one + 0.6 two) + 0.5 three = 0.2 one + 0.3 two + 0.5 three."""
    inner = start(write("inner", weighted(ONE, 0.4), weighted(TWO, 0.6), first="one")).url
    model = f'model: "kserve+{inner}/toy.default", revision: a'
    far = f"      - {{name: far, {model}, output: {output}{classes}}}\n"
    outer = write("outer", far, weighted(THREE, 1), first="far")
    whole = write("whole", weighted(ONE, 0.2), weighted(TWO, 0.3), weighted(THREE, 0.5), first="one")
    rows = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    np.testing.assert_allclose(answers(start, outer, rows), answers(start, whole, rows), rtol=0, atol=1e-5)


def test_a_recipe_of_the_inner_one_is_a_teacher_of_its_own(start, write):
    inner = start(write("inner", weighted(ONE, 0.4), weighted(TWO, 0.6), first="one")).url
    output = "output: {name: probabilities, kind: probs}"
    far = f'      - {{name: far, model: "kserve+{inner}/toy.sure", {output}}}\n'
    outer = write("outer", far, weighted(THREE, 3), first="far")
    whole = write("whole", weighted(ONE, 1), weighted(THREE, 3), first="one")
    rows = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    for recipe in ("default", "sure"):
        stacked, single = answers(start, outer, rows, recipe), answers(start, whole, rows, recipe)
        np.testing.assert_allclose(stacked, single, rtol=0, atol=1e-5)
