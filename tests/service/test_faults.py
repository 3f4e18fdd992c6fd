"""Teachers that fail: named, survived where the quorum allows it, never cached, seen by readiness."""

import asyncio

import numpy as np
import onnx
import pytest
import teachers as models

from service.config import load
from service.engine.engine import Engine
from service.engine.ensemble import Overrides
from service.engine.health import Health
from service.errors import BadInput, NotReady

YAML = """\
limits: {{request_timeout_s: 30}}
ensembles:
  toy:
    inputs: {{pixels: {{dtype: float32, shape: [6]}}}}
    classes: [a, b, c, d]
    quorum: {quorum}
    teacher_timeout_s: 0.3
    batching: {{max_rows: 8, threads: 1, in_flight: 2}}
    teachers:
      - {{name: bad, model: bad.onnx, output: {{kind: logits}}, weight: 3}}
      - {{name: good, model: good.onnx, output: {{kind: logits}}}}
    recipes: {{default: {{operator: linear}}}}
"""


@pytest.fixture
def engine(tmp_path):
    def opened(build, quorum="all"):
        build(tmp_path / "bad.onnx")
        models.random_linear(tmp_path / "good.onnx", 2)
        (tmp_path / "e.yaml").write_text(YAML.format(quorum=quorum))
        return Engine.open(load(tmp_path / "e.yaml"))

    return opened


def rows_of(count, first=None):
    rows = np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)
    if first is not None:
        rows[0, 0] = first
    return rows


async def ask(engine, rows, **overrides):
    ensemble = engine.ensemble("toy")
    effective = ensemble.effective("default", Overrides(**overrides))
    found = {}
    async for group in engine.answer(ensemble, effective, {"pixels": rows}):
        for row, source, value, failure, missing in zip(*group, strict=True):
            found[row] = (source, value, failure, missing)
    return [found[row] for row in range(len(rows))]


def nan(path):
    """NaN where the first number is above 100 (so that its square root is taken of a negative one)."""
    x, op = models.spox.argument(models.spox.Tensor(np.float32, ("batch", 6))), models.op
    first = op.slice(x, op.const([0]), op.const([1]), op.const([1]))
    root = op.sqrt(op.min([op.sub(op.const(np.float32(100)), first), op.const(np.float32(0))]))
    logits = op.add(op.slice(x, op.const([0]), op.const([4]), op.const([1])), root)
    onnx.save(models.spox.build({"pixels": x}, {"logits": logits}), path)


def raising(path):
    """Raises where the first number is above 1000: it gathers what is not there."""
    x, op = models.spox.argument(models.spox.Tensor(np.float32, ("batch", 6))), models.op
    first = op.slice(x, op.const([0]), op.const([1]), op.const([1]))
    beyond = op.cast(op.greater(op.reduce_max(first, keepdims=0), op.const(np.float32(1000))), to=np.int64)
    nothing = op.gather(op.const(np.array([0], np.float32)), beyond)
    logits = op.add(op.slice(x, op.const([0]), op.const([4]), op.const([1])), nothing)
    onnx.save(models.spox.build({"pixels": x}, {"logits": logits}), path)


FAULTS = [(nan, 500, 1, "teacher_invalid"), (raising, 5000, 4, "teacher_failed")]
FAULTS.append((models.hanging, 5000, 4, "teacher_failed"))


@pytest.mark.parametrize(("build", "first", "lost", "code"), FAULTS)
async def test_without_a_quorum_the_rows_fail_by_name_and_others_do_not(engine, build, first, lost, code):
    served = engine(build)
    found = await ask(served, rows_of(4, first))
    assert [source for source, *_ in found] == ["error"] * lost + ["miss"] * (4 - lost)
    assert {failure.code for _, _, failure, _ in found[:lost]} == {code}
    assert "'bad'" in found[0][2].message
    if build is models.hanging:
        assert "no answer within 0.3 s" in found[0][2].message
    await served.close()


async def test_guarantees_are_of_the_rows_that_every_teacher_answered(engine):
    served = engine(nan)
    ensemble = served.ensemble("toy")
    effective = ensemble.effective("default", Overrides())
    said = await served.guarantees(ensemble, effective, {"pixels": rows_of(4, 500)}, None)
    assert next(one["value"] for one in said if one["name"] == "rows_judged") == 3
    with pytest.raises(BadInput, match="no row of these was answered by every teacher"):
        await served.guarantees(ensemble, effective, {"pixels": rows_of(1, 500)}, None)
    await served.close()


@pytest.mark.parametrize(("build", "first", "lost", "code"), FAULTS)
async def test_with_a_quorum_the_rows_are_answered_without_it_and_never_cached(
    engine, build, first, lost, code
):
    del code
    served = engine(build, quorum=1)
    rows = rows_of(4, first)
    alone = await ask(served, rows, weights={"good": 1})
    for _ in range(2):
        found = await ask(served, rows)
        assert [missing for *_, missing in found] == [("bad",)] * lost + [()] * (4 - lost)
        assert {source for source, *_ in found[:lost]} == {"miss"}
        for (_, value, failure, _), (_, expected, _, _) in zip(found[:lost], alone, strict=False):
            assert failure is None
            np.testing.assert_allclose(np.frombuffer(value, "<f4"), np.frombuffer(expected, "<f4"), atol=1e-5)
    await served.close()


async def test_a_quorum_that_is_lost_is_said(engine):
    served = engine(nan, quorum=2)
    found = await ask(served, rows_of(2, 500))
    assert found[0][2].code == "quorum_lost"
    assert "1 of 2 teachers are left without 'bad', the quorum is 2" in found[0][2].message
    found = await ask(served, rows_of(2, 500), weights={"bad": 1})
    assert found[0][2].code == "quorum_lost"
    await served.close()


async def test_only_teachers_without_weight_are_no_quorum(engine):
    served = engine(nan, quorum=1)
    found = await ask(served, rows_of(2, 500), weights={"bad": 1})
    assert found[0][2].code == "quorum_lost"
    assert "none of them has a weight" in found[0][2].message
    await served.close()


async def test_a_teacher_that_hangs_holds_others_up_once(engine):
    served = engine(models.hanging, quorum=1)
    await ask(served, rows_of(4, 5000))
    assert served.ensemble("toy").plans.apart.waiting
    began = asyncio.get_running_loop().time()
    found = [await ask(served, rows_of(4, 5000 + number)) for number in range(5)]
    assert asyncio.get_running_loop().time() - began < 5 * 0.3
    assert all(missing == ("bad",) for answers in found for *_, missing in answers)
    await served.close()


@pytest.mark.parametrize(("quorum", "ready"), [("all", False), (1, True)])
async def test_readiness_names_a_teacher_that_fails_too_often(engine, quorum, ready):
    served = engine(nan, quorum=quorum)
    assert served.check_ready() == []
    for number in range(6):
        await ask(served, rows_of(1, 500 + number))
    if ready:
        (told,) = served.check_ready()
        assert told == ("ensemble 'toy': teacher 'bad' says nothing of 100% of the rows of its last batches")
    else:
        with pytest.raises(NotReady, match=r"teacher 'bad' .* the quorum cannot be met"):
            served.check_ready()
    await served.close()


def test_a_rate_is_over_the_last_hundred_batches_and_old_ones_are_forgotten(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("service.engine.health.time.monotonic", lambda: clock[0])
    health = Health(["one", "two"], limit=0.5, quorum=2)
    weights = np.array([[1.0, 1.0], [0.0, 0.0]])
    lost, sound = np.array([[False, False], [False, False]]), np.ones((2, 2), dtype=bool)
    for _ in range(4):
        health.record(weights, lost)
    assert health.failing() == []  # too few to say
    for _ in range(60):
        health.record(weights, lost)
    assert [one.teacher for one in health.failing()] == ["one"]  # weight 0 is not counted
    for _ in range(60):
        health.record(weights, sound)
    assert health.failing() == []
    for _ in range(60):
        health.record(weights, lost)
    assert health.failing()
    clock[0] = 1000.0
    assert health.failing() == []
