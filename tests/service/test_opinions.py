"""Kept opinions: another temperature, operator, weighting or sparsity over the same rows asks no teacher."""

import itertools

import numpy as np
import pytest
import teachers as models

from service.config import load
from service.engine.engine import Engine
from service.engine.ensemble import Overrides
from soft_targets.wire import row_digests

CONFIG = """\
cache: {opinions: KEPT, opinions_max_classes: 4}
ensembles:
  toy:
    classes: [a, b, c]
    quorum: 1
    teachers:
      - {name: plain, model: plain.onnx, output: {kind: logits}}
      - {name: moody, model: moody.onnx, output: {kind: logits}, temperature: 2}
    batching: {max_rows: 4, in_flight: 1, threads: 1}
    recipes:
      linear: {operator: linear}
      holder: {operator: {name: holder, exponent: 0.5}}
      geometric: {operator: geometric}
      plain: {operator: linear, weights: {plain: 1}}
"""


@pytest.fixture
def opened(tmp_path):
    models.random_linear(tmp_path / "plain.onnx", 1, features=3, classes=3)
    models.moody(tmp_path / "moody.onnx")

    def read(kept, *, change=("", "")):
        (tmp_path / "c.yaml").write_text(CONFIG.replace("KEPT", kept).replace(*change))
        return Engine.open(load(tmp_path / "c.yaml"))

    return read


def rows_of(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


async def answers(engine, rows, recipe, **overrides):
    """Row to (source, value, failure, missing); each row must come exactly once."""
    toy, found = engine.ensemble("toy"), {}
    async for group in engine.answer(toy, toy.effective(recipe, Overrides(**overrides)), {"pixels": rows}):
        for row, *rest in zip(*group, strict=True):
            assert row not in found
            found[row] = rest
    assert sorted(found) == list(range(len(rows)))
    return found


@pytest.mark.parametrize("kept", ["float32", "float16"])
@pytest.mark.parametrize("plan", ["staged", "split"])
async def test_a_sweep_over_kept_rows_asks_no_teacher(opened, monkeypatch, kept, plan):
    if plan == "split":
        monkeypatch.setattr("service.plans.plans.LARGEST_BYTES", 0)
    engine, rows = opened(kept), rows_of(9)
    toy = engine.ensemble("toy")
    assert {one["plan"] for one in toy.plans.report()} == {plan}
    await answers(engine, rows, "linear")
    assert engine.inferences == {"toy": 9}
    sweep = itertools.product(
        np.geomspace(0.3, 30, 10),
        ("linear", "holder", "geometric"),
        ({"plain": 1, "moody": 3}, {"moody": 1}),
        (None, 1, 2),
    )
    for temperature, recipe, weights, top_k in sweep:
        overrides = {"temperature": float(temperature), "weights": weights, "top_k": top_k}
        found = await answers(engine, rows, recipe, **overrides)
        assert {source for source, *_ in found.values()} == {"opinions"}
        effective = toy.effective(recipe, Overrides(**overrides))
        value = b"".join(found[row][1] for row in range(9))
        columns = effective.layout.unpack(value)
        log_probs, indices = columns["log_probs"], columns.get("indices")
        w = np.repeat(np.array(effective.recipe.weights, np.float32)[:, None], 9, axis=1)
        t = np.full(9, temperature, np.float32)
        known = toy.plans.apart.run({"pixels": rows}, t, w, effective.pair)
        close = {"float32": 1e-5, "float16": 2e-2 / min(1, temperature)}[kept]
        if indices is None or kept == "float32":
            np.testing.assert_allclose(log_probs, known.log_probs, rtol=close, atol=close)
        if indices is not None and kept == "float32":
            assert (indices == known.indices).all()
    assert engine.inferences == {"toy": 9}
    await engine.close()


@pytest.mark.parametrize("kept", ["float32", "float16"])
async def test_a_target_is_the_same_bits_from_the_teachers_and_from_kept_opinions(opened, kept):
    first, second, rows = opened(kept), opened(kept), rows_of(4)
    asked = await answers(first, rows, "holder")
    await answers(second, rows, "linear")
    fused = await answers(second, rows, "holder")
    assert [fused[row][0] for row in range(4)] == ["opinions"] * 4
    assert [fused[row][1] for row in range(4)] == [asked[row][1] for row in range(4)]
    await first.close()
    await second.close()


async def test_a_recipe_that_leaves_a_teacher_out_keeps_its_opinion_all_the_same(opened):
    engine, rows = opened("float32"), rows_of(4)
    await answers(engine, rows, "plain")
    found = await answers(engine, rows, "linear")
    assert {source for source, *_ in found.values()} == {"opinions"}
    assert engine.inferences == {"toy": 4}
    await engine.close()


async def test_opinions_of_a_row_that_lost_a_teacher_are_not_kept(opened):
    engine, rows = opened("float32"), rows_of(3)
    rows[1, 0] = 500  # the moody teacher answers NaN
    first = await answers(engine, rows, "linear")
    assert [first[row][0] for row in range(3)] == ["miss"] * 3
    assert first[1][3] == ("moody",)
    again = await answers(engine, rows, "geometric")
    assert [again[row][0] for row in range(3)] == ["opinions", "miss", "opinions"]
    assert again[1][3] == ("moody",)
    await engine.close()


async def test_opinions_answer_digests_too(opened):
    engine, rows = opened("float32"), rows_of(3)
    toy = engine.ensemble("toy")
    await answers(engine, rows[:2], "linear")
    digests = row_digests({"pixels": rows}, toy.inputs)
    groups = engine.recall(toy, toy.effective("holder", Overrides()), digests)
    found = {
        row: source async for group in groups for row, source in zip(group.rows, group.sources, strict=True)
    }
    assert found == {0: "opinions", 1: "opinions", 2: "absent"}
    assert engine.inferences == {"toy": 2}
    await engine.close()


async def test_more_classes_than_said_keep_none(opened):
    engine, rows = (
        opened("float32", change=("opinions_max_classes: 4", "opinions_max_classes: 2")),
        rows_of(2),
    )
    assert {one["plan"] for one in engine.ensemble("toy").plans.report()} == {"staged"}
    await answers(engine, rows, "linear")
    assert {source for source, *_ in (await answers(engine, rows, "holder")).values()} == {"miss"}
    await engine.close()


def test_the_precision_is_in_the_fingerprint(opened):
    found = {
        kept: opened(kept).ensemble("toy").effective("linear", Overrides()).fingerprint
        for kept in ('"off"', "float32", "float16")
    }
    assert len(set(found.values())) == 3
