"""Servers stacked: a recipe of one teaches another, and both together say what one server would."""

import numpy as np
import pytest
import teachers as models
from inference_server import InferenceServer, Model

from service.config import load
from service.engine.engine import Engine
from service.engine.ensemble import Overrides

CLASSES = "    classes: [ant, bee, cat, dog]\n"
ONE = "      - {name: one, model: one.onnx, output: {kind: logits}, temperature: 1.5, weight: WEIGHT}\n"
TWO = (
    "      - {name: two, model: two.onnx, inputs: {X: pixels}, output: {kind: probs}, "
    "classes: [dog, cat, bee, ant], weight: WEIGHT}\n"
)
THREE = "      - {name: three, model: three.onnx, output: {kind: log_probs}, weight: WEIGHT}\n"
HEAD = (
    "ensembles:\n  toy:\n    inputs: {pixels: {dtype: float32, shape: [6]}}\n"
    + CLASSES
    + "    batching: {in_flight: 1, threads: 1}\n    teachers:\n"
)
RECIPES = (
    "    recipes:\n      default: {operator: linear}\n      sure: {operator: linear, weights: {FIRST: 1}}\n"
)


def weighted(teacher, weight):
    return teacher.replace("WEIGHT", str(weight))


@pytest.fixture
def elsewhere():
    """Serves the recipes of a configuration by the Open Inference Protocol, as models ``ensemble.recipe``.

    Returns:
        From a path to where they are: ``kserve+http://host:port``.
    """
    engines, servers = [], []

    def serve(path):
        engines.append(Engine.open(load(path)))
        toy = engines[-1].ensemble("toy")
        servers.append(InferenceServer({f"toy.{name}": served(toy, name) for name in toy.recipes}))
        return f"kserve+http://127.0.0.1:{servers[-1].__enter__().port}"

    yield serve
    for server in servers:
        server.__exit__()
    for engine in engines:
        engine.ensemble("toy").close()


def served(ensemble, recipe):
    effective = ensemble.effective(recipe, Overrides())

    def answer(given):
        rows = len(given["pixels"])
        weights = np.repeat(np.float32(effective.recipe.weights)[:, None], rows, axis=1)
        temperature = np.full(rows, effective.recipe.temperature, dtype=np.float32)
        log_probs = ensemble.plans.run(given, temperature, weights, effective.pair).log_probs
        return {"log_probs": log_probs, "probabilities": np.exp(log_probs)}

    outputs = [("probabilities", "FP32", [-1, 4]), ("log_probs", "FP32", [-1, 4])]
    return Model([("pixels", "FP32", [-1, 6])], outputs, answer)


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


async def answers(path, rows, recipe="default"):
    engine = Engine.open(load(path))
    toy, found = engine.ensemble("toy"), np.empty((len(rows), 4))
    async for group in engine.answer(toy, toy.effective(recipe, Overrides()), {"pixels": rows}):
        assert set(group.sources) == {"miss"}, group.failures
        for row, value in zip(group.rows, group.values, strict=True):
            found[row] = np.frombuffer(value, "<f4")
    await engine.close()
    return np.exp(found)


@pytest.mark.parametrize(
    ("output", "classes"),
    [
        ("{name: probabilities, kind: probs}", ""),
        ("{name: log_probs, kind: log_probs}", ", classes: [ant, bee, cat, dog]"),
    ],
)
async def test_a_pool_of_a_pool_is_the_pool_of_all(elsewhere, write, output, classes):
    """0.5 (0.4 one + 0.6 two) + 0.5 three = 0.2 one + 0.3 two + 0.5 three."""
    inner = elsewhere(write("inner", weighted(ONE, 0.4), weighted(TWO, 0.6), first="one"))
    far = f'      - {{name: far, model: "{inner}/toy.default", output: {output}{classes}, revision: a}}\n'
    outer = write("outer", far, weighted(THREE, 1), first="far")
    whole = write("whole", weighted(ONE, 0.2), weighted(TWO, 0.3), weighted(THREE, 0.5), first="one")
    rows = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    np.testing.assert_allclose(await answers(outer, rows), await answers(whole, rows), rtol=0, atol=1e-5)


async def test_a_recipe_of_the_inner_one_is_a_teacher_of_its_own(elsewhere, write):
    inner = elsewhere(write("inner", weighted(ONE, 0.4), weighted(TWO, 0.6), first="one"))
    far = f'      - {{name: far, model: "{inner}/toy.sure", output: {{name: probabilities, kind: probs}}}}\n'
    outer = write("outer", far, weighted(THREE, 3), first="far")
    whole = write("whole", weighted(ONE, 1), weighted(THREE, 3), first="one")
    rows = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    for recipe in ("default", "sure"):
        stacked, single = await answers(outer, rows, recipe), await answers(whole, rows, recipe)
        np.testing.assert_allclose(stacked, single, rtol=0, atol=1e-5)
