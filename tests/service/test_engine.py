"""Answering: every row once, from the cache or the teachers, whatever its neighbours do."""

import asyncio
import threading

import numpy as np
import pytest
import teachers as models

from service.config import load
from service.engine.engine import Engine
from service.engine.ensemble import Overrides
from service.engine.groups import in_order
from service.errors import UnknownEnsemble
from service.model import Group

CONFIG = """\
limits: {request_timeout_s: TIMEOUT}
ensembles:
  toy:
    classes: [a, b, c]
    teachers:
      - {name: plain, model: plain.onnx, output: {kind: logits}}
      - {name: moody, model: moody.onnx, output: {kind: logits}}
    batching: {max_rows: 4, in_flight: 2, threads: 1}
    recipes:
      default: {operator: linear}
      plain: {operator: linear, weights: {plain: 1}}
"""


@pytest.fixture
def engine(tmp_path):
    models.random_linear(tmp_path / "plain.onnx", 1, features=3, classes=3)
    models.moody(tmp_path / "moody.onnx")
    (tmp_path / "c.yaml").write_text(CONFIG.replace("TIMEOUT", "60"))
    return Engine.open(load(tmp_path / "c.yaml"))


async def answers(engine, rows, recipe="default", *, ordered=False):
    """Row to (source, value, failure); each row must come exactly once."""
    toy = engine.ensemble("toy")
    groups = engine.answer(toy, toy.effective(recipe, Overrides()), {"pixels": rows})
    found = {}
    async for group in in_order(groups, len(rows)) if ordered else groups:
        for row, *rest in zip(*group, strict=True):
            assert row not in found
            found[row] = rest
    assert sorted(found) == list(range(len(rows)))
    return found


def rows_of(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


async def test_first_misses_then_hits_bit_for_bit(engine):
    rows = rows_of(10)
    first = await answers(engine, rows)
    assert {source for source, *_ in first.values()} == {"miss"}
    again = await answers(engine, rows[::-1])
    assert {source for source, *_ in again.values()} == {"hit"}
    assert [again[9 - row][1] for row in range(10)] == [first[row][1] for row in range(10)]
    await engine.close()


async def test_the_same_row_twice_in_a_request_is_computed_once(engine):
    rows = rows_of(2)[[0, 1, 0, 0]]
    found = await answers(engine, rows)
    assert [found[row][0] for row in range(4)] == ["miss", "miss", "coalesced", "coalesced"]
    assert found[0][1] == found[2][1] == found[3][1]
    await engine.close()


async def test_bad_rows_fail_alone_and_are_not_cached(engine):
    rows = rows_of(6)
    rows[1, 2] = np.nan
    rows[3, 0] = -np.inf
    rows[4, 0] = 500  # the moody teacher answers NaN
    found = await answers(engine, rows)
    assert {row: found[row][2] and found[row][2].code for row in range(6)} == {
        0: None, 1: "non_finite_input", 2: None, 3: "non_finite_input", 4: "teacher_invalid", 5: None,
    }  # fmt: skip
    assert "'pixels' is nan at [2]" in found[1][2].message
    assert "'moody'" in found[4][2].message
    assert "'plain'" not in found[4][2].message
    good = await answers(engine, rows[[0, 2, 5]])
    assert [good[i][:2] for i in range(3)] == [["hit", found[row][1]] for row in (0, 2, 5)]
    assert (await answers(engine, rows[[4]]))[0][0] == "error"
    await engine.close()


async def test_neighbours_of_a_bad_row_are_the_same_bit_for_bit_as_without_it(engine):
    rows = rows_of(4)
    beside = rows.copy()
    beside[2] = [500, 0, 0]  # the moody teacher answers NaN
    bad = await answers(engine, beside)
    engine.cache._memory.clear()
    good = await answers(engine, rows)
    assert bad[2][0] == "error"
    assert [bad[row][:2] for row in (0, 1, 3)] == [["miss", good[row][1]] for row in (0, 1, 3)]
    await engine.close()


async def test_a_teacher_that_raises_fails_its_batch_only_and_is_named(engine):
    rows = rows_of(8)
    rows[1, 0] = 5000  # the moody teacher raises on this batch of four
    found = await answers(engine, rows, ordered=True)
    assert [found[row][0] for row in range(8)] == ["error"] * 4 + ["miss"] * 4
    assert {found[row][2].code for row in range(4)} == {"teacher_failed"}
    assert "teacher 'moody' failed" in found[0][2].message
    again = await answers(engine, rows[[0, 2, 3]])
    assert {again[i][0] for i in range(3)} == {"miss"}
    await engine.close()


async def test_a_teacher_without_weight_takes_no_row_with_it(engine):
    rows = rows_of(4)
    rows[0, 0], rows[1, 0] = 500, 5000
    found = await answers(engine, rows, "plain")
    assert {found[row][0] for row in range(4)} == {"miss"}
    await engine.close()


async def test_an_unexpected_error_settles_every_row(engine, monkeypatch):
    def run(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(engine.ensemble("toy").plans, "run", run)
    found = await answers(engine, rows_of(9))
    assert {found[row][2].code for row in range(9)} == {"internal"}
    assert "a bug" not in found[0][2].message
    await engine.close()


async def test_rows_that_are_late_say_so_and_the_stream_ends(tmp_path, engine):
    (tmp_path / "c.yaml").write_text(CONFIG.replace("TIMEOUT", "0.05"))
    hurried = Engine.open(load(tmp_path / "c.yaml"))
    release = threading.Event()
    plan = hurried.ensemble("toy").plans
    run = plan.run

    def hang(*arguments, **named):
        release.wait(30)
        return run(*arguments, **named)

    plan.run = hang
    found = await answers(hurried, rows_of(12), ordered=True)
    assert {found[row][2].code for row in range(12)} == {"deadline_exceeded"}
    release.set()
    again = await answers(hurried, rows_of(8))
    # What was computed too late was not in vain, and what was not begun by then never was.
    assert {again[row][0] for row in range(8)} <= {"hit", "coalesced"}
    assert hurried.batchers["toy"].rows == 8
    await hurried.close()
    await engine.close()


async def test_eight_clients_who_ask_for_the_same_rows_cost_one_inference(engine):
    rows = rows_of(10)
    orders = [np.random.default_rng(seed).permutation(10) for seed in range(8)]
    found = await asyncio.gather(*(answers(engine, rows[order]) for order in orders))
    assert engine.batchers["toy"].rows == 10
    sources = sorted(source for one in found for source, *_ in one.values())
    assert sources == ["coalesced"] * 70 + ["miss"] * 10
    assert len({value for one in found for _, value, *_ in one.values()}) == 10
    await engine.close()


async def test_temperatures_and_weights_share_a_batch_and_change_no_answer(engine):
    toy, rows = engine.ensemble("toy"), rows_of(3)
    asked = [
        toy.effective("default", Overrides(temperature=temperature, weights=weights))
        for temperature, weights in ((1.0, None), (4.0, {"plain": 1, "moody": 3}), (0.5, {"moody": 1}))
    ]
    gate = threading.Event()
    run = toy.plans.run
    toy.plans.run = lambda *arguments, **named: gate.wait(20) and run(*arguments, **named)

    async def ask(effective, row):
        groups = engine.answer(toy, effective, {"pixels": rows[row : row + 1]})
        return [value async for group in groups for value in group.values]

    busy = [asyncio.create_task(ask(asked[0], 1)), asyncio.create_task(ask(asked[0], 2))]
    waiting = [asyncio.create_task(ask(effective, 0)) for effective in asked]
    for _ in range(100):  # turns of the loop, in which all are queued
        await asyncio.sleep(0)
    gate.set()
    together = await asyncio.gather(*waiting, *busy)
    assert (engine.batchers["toy"].batches, engine.batchers["toy"].rows) == (3, 5)
    for effective, (value,) in zip(asked, together[:3], strict=True):
        weights = np.array(effective.recipe.weights, np.float32)[:, None]
        alone = toy.plans.apart.run(
            {"pixels": rows[:1]}, np.float32([effective.recipe.temperature]), weights, effective.pair
        )
        found = effective.layout.unpack(value)["log_probs"]
        np.testing.assert_allclose(found, alone.log_probs, rtol=1e-5, atol=1e-5)
    await engine.close()


async def test_precisions_share_a_batch_and_each_gets_its_own_bytes(engine):
    toy, rows = engine.ensemble("toy"), rows_of(4)
    asked = [toy.effective("default", Overrides(dtype=dtype)) for dtype in ("float16", None, "float16", None)]
    gate = threading.Event()
    run = toy.plans.run
    toy.plans.run = lambda *arguments, **named: gate.wait(20) and run(*arguments, **named)

    async def ask(effective, row):
        groups = engine.answer(toy, effective, {"pixels": rows[row : row + 1]})
        return [value async for group in groups for value in group.values]

    busy = [asyncio.create_task(ask(asked[1], 1)), asyncio.create_task(ask(asked[1], 2))]
    waiting = [
        asyncio.create_task(ask(effective, row)) for effective, row in zip(asked, (0, 0, 3, 3), strict=True)
    ]
    for _ in range(100):  # turns of the loop, in which all are queued
        await asyncio.sleep(0)
    gate.set()
    together = await asyncio.gather(*waiting, *busy)
    assert (engine.batchers["toy"].batches, engine.batchers["toy"].rows) == (3, 6)
    for effective, (half,), (whole,), row in (
        (asked[0], together[0], together[1], 0),
        (asked[0], together[2], together[3], 3),
    ):
        assert (len(half), len(whole)) == (3 * 2, 3 * 4)
        known = asked[1].layout.unpack(whole)["log_probs"]
        np.testing.assert_array_equal(
            effective.layout.unpack(half)["log_probs"], known.astype(np.float16), err_msg=str(row)
        )
    await engine.close()


async def test_an_unknown_ensemble_is_refused(engine):
    with pytest.raises(UnknownEnsemble, match="no ensemble 'tyo'; did you mean 'toy'"):
        engine.ensemble("tyo")
    await engine.close()


async def test_groups_are_put_in_order_as_early_as_possible():
    async def groups():
        for rows in ([2, 3], [0], [5], [1], [4]):
            count = len(rows)
            yield Group(rows, ["miss"] * count, [bytes([row]) for row in rows], [None] * count, [()] * count)

    given = [group async for group in in_order(groups(), 6)]
    assert [group.rows for group in given] == [[0], [1, 2, 3], [4, 5]]
    assert [value for group in given for value in group.values] == [bytes([row]) for row in range(6)]
