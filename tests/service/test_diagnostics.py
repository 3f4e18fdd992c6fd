"""Diagnostics: a target's entropy, and how far apart what was fused is, in every plan as float64 says."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import teachers as models
from onnx import TensorProto, helper

from operators import make
from service.config import load
from service.engine.engine import Engine
from service.engine.ensemble import Overrides
from service.plans import recording
from service.plans.base import Pair, sampled_rows
from service.plans.trials import differs, disagreement
from soft_targets.wire import row_digests

CONFIG = """\
cache: {opinions: KEPT}
ensembles:
  toy:
    inputs: {pixels: {dtype: float32, shape: [3]}}
    classes: [a, b, c]
    quorum: 1
    teachers:
      - {name: plain, model: plain.onnx, output: {kind: logits}, temperature: 1.5}
      - {name: sure, model: sure.onnx, output: {kind: probs}}
      - {name: moody, model: moody.onnx, output: {kind: logits}}
    batching: {max_rows: 8, in_flight: 1, threads: 1}
    recipes:
RECIPES
"""
OPERATORS = {
    "linear": "linear",
    "holder": "{name: holder, exponent: 0.5}",
    "geometric": "geometric",
    "wider": "{name: holder, exponent: 1}",
}
FLOOR = 1e-6


def sure(path):
    """All probability on the class of the largest number: the others are impossible."""
    models.save(
        path,
        [
            helper.make_node("ReduceMax", ["pixels", "axis"], ["highest"], keepdims=1),
            helper.make_node("GreaterOrEqual", ["pixels", "highest"], ["best"]),
            helper.make_node("Cast", ["best"], ["p"], to=TensorProto.FLOAT),
        ],
        [("pixels", TensorProto.FLOAT, ["batch", 3])],
        [("p", TensorProto.FLOAT, ["batch", 3])],
        [("axis", np.array([1]))],
    )


class Toy:
    """An ensemble whose every recipe asks for diagnostics, in one plan, and its arithmetic in float64."""

    def __init__(self, folder, plan, monkeypatch, *, kept="off"):
        self.weight, self.bias = models.random_linear(folder / "plain.onnx", 1, features=3, classes=3)
        sure(folder / "sure.onnx")
        models.moody(folder / "moody.onnx")
        if plan == "split":
            monkeypatch.setattr("service.plans.plans.LARGEST_BYTES", 0)
        names = ["linear", "geometric"] if plan == "fused" else list(OPERATORS)
        lines = [f"      {name}: {{operator: {OPERATORS[name]}, diagnostics: true}}" for name in names]
        text = CONFIG.replace("KEPT", f'"{kept}"').replace("RECIPES", "\n".join(lines))
        (folder / "c.yaml").write_text(text)
        self.engine = Engine.open(load(folder / "c.yaml"))
        self.ensemble = self.engine.ensemble("toy")
        assert {one["plan"] for one in self.ensemble.plans.report()} == {plan}
        assert all(one["diagnostics"] for one in self.ensemble.plans.report())

    def run(self, recipe, rows, temperature, weights, **overrides):
        pair = self.ensemble.effective(recipe, Overrides(**overrides)).pair
        return self.ensemble.plans.run({"pixels": rows}, temperature, weights, pair)

    def expected(self, recipe, rows, temperature, weights):
        """Entropy and divergence by their formulas."""
        x = rows.astype(np.float64)
        one_hot = (x >= x.max(axis=1, keepdims=True)).astype(np.float64)
        with np.errstate(divide="ignore"):
            opinions = [models.log_softmax((x @ self.weight + self.bias) / 1.5), np.log(one_hot), x]
        p = np.exp(models.log_softmax(np.stack(opinions) / temperature.astype(np.float64)[None, :, None]))
        if recipe == "geometric":
            p = (1 - FLOOR) * p + FLOOR / 3
        w = weights.astype(np.float64)[..., None]
        mixture = (w * p).sum(axis=0)
        pooled = {
            "linear": lambda: mixture,
            "holder": lambda: (w * p**0.5).sum(axis=0) ** 2,
            "geometric": lambda: np.exp((w * np.log(p)).sum(axis=0)),
        }
        return entropy(pooled[recipe]()), entropy(mixture) - (w[..., 0] * entropy(p)).sum(axis=0)


def entropy(p):
    p = p / p.sum(axis=-1, keepdims=True)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1)


def close(found, expected):
    for one, other in zip((found.entropy, found.divergence), expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)
    assert (found.divergence >= 0).all()
    assert (found.entropy >= 0).all()


@pytest.fixture(params=["fused", "staged", "split"])
def toy(request, tmp_path, monkeypatch):
    opened = Toy(tmp_path, request.param, monkeypatch)
    yield opened
    opened.ensemble.close()


def asked(count, seed=0):
    """Rows, and for each a temperature and weights of its own; some weights are 0."""
    random = np.random.default_rng(seed)
    rows = (random.normal(size=(count, 3)) * 3).astype(np.float32)
    weights = random.dirichlet(np.ones(3), size=count).T
    weights[random.integers(3, size=count // 2), np.arange(count // 2)] = 0
    weights[:, -3:] = np.eye(3)
    return (
        rows,
        random.uniform(0.3, 12, size=count).astype(np.float32),
        (weights / weights.sum(axis=0)).astype(np.float32),
    )


@pytest.mark.parametrize("top_k", [None, 1, 2])
@pytest.mark.parametrize("recipe", ["linear", "geometric", "holder"])
def test_every_plan_says_what_float64_says(toy, recipe, top_k):
    if recipe not in toy.ensemble.recipes:
        recipe = "linear"
    question = asked(40)
    found = toy.run(recipe, *question, top_k=top_k)
    close(found, toy.expected(recipe, *question))
    dense = toy.run(recipe, *question)
    assert disagreement(dense.entropy, found.entropy) < 0.1
    assert disagreement(dense.divergence, found.divergence) < 0.1
    for row in range(0, 40, 7):  # a row's figures are the row's alone
        rows, temperature, weights = question
        alone = toy.run(recipe, rows[row : row + 1], temperature[row : row + 1], weights[:, row : row + 1])
        np.testing.assert_allclose(alone.divergence, found.divergence[row : row + 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("recipe", ["linear", "geometric", "holder"])
def test_a_batch_s_sample_is_what_was_fused_and_the_dense_target(toy, recipe, top_k):
    if recipe not in toy.ensemble.recipes:
        recipe = "linear"
    rows, temperature, weights = asked(40)
    entropies, divergences = toy.expected(recipe, rows, temperature, weights)
    for count, sampled in ((40, 16), (3, 3)):
        found = toy.run(recipe, rows[:count], temperature[:count], weights[:, :count], top_k=top_k).sample
        assert found.shape == (4, sampled, 3)
        *said, target = found.astype(np.float64)
        shares = weights[:, :sampled].astype(np.float64)
        mixture = np.einsum("kb,kbc->bc", shares, said)
        divergence = entropy(mixture) - (shares * entropy(np.stack(said))).sum(axis=0)
        np.testing.assert_allclose(entropy(target), entropies[:sampled], rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(divergence, divergences[:sampled], rtol=1e-5, atol=2e-6)


def test_of_many_classes_fewer_rows_are_sampled():
    assert sampled_rows(3, 10) == 16
    assert sampled_rows(4, 1024) == 8
    assert sampled_rows(3, 32_000) == 1


def test_without_a_teacher_the_others_share_its_weight(toy):
    rows, temperature, weights = asked(12, seed=3)
    weights[:] = np.array([[0.2], [0.3], [0.5]], np.float32)
    rows[::3, 0] = 500  # there the moody teacher answers NaN
    found = toy.run("linear", rows, temperature, weights)
    assert (~found.valid[2]).sum() == 4
    left = weights.copy()
    left[:, ::3] = np.array([[0.4], [0.6], [0]])
    close(found, toy.expected("linear", rows, temperature, left))


def test_what_a_teacher_without_weight_says_changes_nothing(toy):
    rows, temperature, weights = asked(6, seed=4)
    weights[:] = np.array([[0.5], [0.5], [0]], np.float32)
    rows[1::2, 0] = 500
    close(toy.run("linear", rows, temperature, weights), toy.expected("linear", rows, temperature, weights))


def test_certainty_is_zero_and_disagreement_the_entropy_of_the_weights(toy):
    rows = np.array([[90, 0, 0], [0, 90, 0], [90, 0, 0]], np.float32)
    weights = np.array([[0, 0, 0], [1, 0.5, 0.25], [0, 0.5, 0.75]], np.float32)
    found = toy.run("linear", rows, np.ones(3, np.float32), weights)
    assert found.divergence[0] == 0
    assert (found.entropy < 1e-35).all()  # but for the smallest number that stands for impossible
    assert (found.divergence < 1e-6).all()
    apart = np.array([[5, 5.001, 0]], np.float32)
    weights = np.array([[0], [0.5], [0.5]], np.float32)
    close(
        toy.run("linear", apart, np.ones(1, np.float32), weights),
        toy.expected("linear", apart, np.ones(1), weights),
    )


async def answers(engine, recipe, rows, **overrides):
    """Each row's source and columns, or its failure."""
    toy = engine.ensemble("toy")
    effective, found = toy.effective(recipe, Overrides(**overrides)), {}
    async for group in engine.answer(toy, effective, {"pixels": rows}):
        for row, source, value, failure, _ in zip(*group, strict=True):
            columns = None if value is None else effective.layout.unpack(value)
            found[row] = (source, columns, failure)
    return [found[row] for row in range(len(rows))]


def figures(answered):
    return [np.array([columns[name][0] for _, columns, _ in answered]) for name in ("entropy", "divergence")]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
async def test_they_are_kept_with_the_target_and_follow_every_override(toy, dtype):
    rows = asked(5, seed=5)[0]
    for overrides in (
        {},
        {"temperature": 3.0},
        {"weights": {"plain": 1, "sure": 3}},
        {"top_k": 2},
        {"top_k": 1, "temperature": 0.5},
    ):
        first, again = [await answers(toy.engine, "linear", rows, dtype=dtype, **overrides) for _ in range(2)]
        assert [source for source, *_ in first] == ["miss"] * 5
        assert [source for source, *_ in again] == ["hit"] * 5
        effective = toy.ensemble.effective("linear", Overrides(**overrides))
        weights = np.repeat(np.array(effective.recipe.weights, np.float32)[:, None], 5, axis=1)
        temperature = np.full(5, effective.recipe.temperature, np.float32)
        expected = toy.expected("linear", rows, temperature, weights)
        for known, one, other in zip(expected, figures(first), figures(again), strict=True):
            np.testing.assert_allclose(one, known, rtol=1e-5, atol=2e-6)
            assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kept", ["float32", "float16"])
@pytest.mark.parametrize("plan", ["staged", "split"])
async def test_they_come_from_kept_opinions_without_a_teacher(tmp_path, monkeypatch, plan, kept):
    toy, rows = Toy(tmp_path, plan, monkeypatch, kept=kept), asked(6, seed=6)[0]
    await answers(toy.engine, "wider", rows)
    assert toy.engine.inferences == {"toy": 6}
    for recipe in ("linear", "geometric", "holder"):
        answered = await answers(toy.engine, recipe, rows, temperature=4.0, weights={"sure": 1, "moody": 3})
        assert [source for source, *_ in answered] == ["opinions"] * 6
        weights = np.repeat(np.array([[0], [0.25], [0.75]], np.float32), 6, axis=1)
        expected = toy.expected(recipe, rows, np.full(6, 4.0), weights)
        tolerance = 1e-5 if kept == "float32" else 5e-3
        for one, other in zip(figures(answered), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
    assert toy.engine.inferences == {"toy": 6}
    digests = row_digests({"pixels": rows}, toy.ensemble.inputs)
    groups = toy.engine.recall(toy.ensemble, toy.ensemble.effective("linear", Overrides()), digests)
    assert {source async for group in groups for source in group.sources} == {"opinions"}
    await toy.engine.close()


async def test_a_row_without_a_target_has_none(toy):
    rows = asked(3, seed=7)[0]
    rows[1, 2] = np.nan
    answered = await answers(toy.engine, "linear", rows)
    assert [failure and failure.code for *_, failure in answered] == [None, "non_finite_input", None]
    assert [columns is None for _, columns, _ in answered] == [False, True, False]


def test_buffers_that_are_kept_for_a_device_hold_them_too(tmp_path, monkeypatch):
    toy, question = Toy(tmp_path, "fused", monkeypatch), asked(9)
    plan = toy.ensemble.plans.plan(toy.ensemble.effective("linear", Overrides()).pair)
    known = toy.run("linear", *question)
    monkeypatch.setattr(plan._session, "device", SimpleNamespace(kind="one that is not the CPU"))
    found = toy.run("linear", *question)
    assert not differs(found, known)
    close(found, toy.expected("linear", *question))
    np.testing.assert_allclose(found.sample, known.sample, atol=1e-6)
    toy.ensemble.close()


def test_who_does_not_ask_does_not_pay():
    plain = Pair(make("linear"), None, 1.0, 2)
    asking = plain._replace(diagnostics=True)
    assert plain.key != asking.key
    outputs = [
        {one.name for one in onnx.load_from_string(recording.fusion(3, 5, pair)).graph.output}
        for pair in (plain, asking)
    ]
    assert outputs[0] == {"log_probs", "finite", "indices", "tail", "sample"}
    assert outputs[1] - outputs[0] == {"entropy", "divergence"}


def test_a_graph_whose_diagnostics_are_others_is_split(tmp_path, monkeypatch):
    right = recording.diagnosed
    monkeypatch.setattr(recording, "diagnosed", lambda *arguments: right(*arguments)[::-1])
    Toy(tmp_path, "split", monkeypatch).ensemble.close()
