"""The fake teacher, and what the engine makes of its moods: every row is answered once, whatever happens."""

import asyncio
import random

import numpy as np
import pytest

from service.config import load
from service.engine.engine import Engine
from service.engine.ensemble import Overrides
from service.errors import ConfigError
from soft_targets.wire import row_digests

CONFIG = """\
limits: {request_timeout_s: 2}
ensembles:
  toy:
    classes: [a, b, c]
    teacher_timeout_s: 0.3
    teachers:
      - {name: steady, model: "fake://?classes=3&features=4&seed=1&delay_ms=1", output: {kind: logits}}
      - {name: moody, model: "MOODY", output: {kind: logits}}
    batching: {max_rows: 4, in_flight: 2, threads: 1}
    recipes:
      default: {operator: linear}
"""
MOODY = "fake://?classes=3&features=4&seed=2&nan_above=10&raise_above=100&hang_above=1000"


@pytest.fixture
def opened(tmp_path):
    def read(moody=MOODY):
        (tmp_path / "c.yaml").write_text(CONFIG.replace("MOODY", moody))
        return Engine.open(load(tmp_path / "c.yaml"))

    return read


def rows_of(count, seed=0, first=0.0):
    rows = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    rows[:, 0] = first
    return rows


async def answers(engine, rows):
    """Row to (source, value, failure); each row must come exactly once."""
    toy = engine.ensemble("toy")
    found = {}
    async for group in engine.answer(toy, toy.effective("default", Overrides()), {"x": rows}):
        for row, *rest in zip(*group, strict=True):
            assert row not in found
            found[row] = rest
    assert sorted(found) == list(range(len(rows)))
    return found


def test_an_ensemble_of_fakes_is_split_and_says_why(opened):
    (plan,) = opened().ensemble("toy").plans.report()
    assert plan["plan"] == "split"
    assert plan["reason"] == "teacher 'steady' answers from elsewhere"
    assert plan["spread"] == 0


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("fake://here?classes=3", "is no fake teacher; write fake://?classes=10&features=64"),
        ("fake://?clases=3", "unknown 'clases'; did you mean 'classes'?"),
        ("fake://?classes=many", "classes is 'many', which is no number"),
        ("fake://?classes=3&features=0", "classes and features are 1 at least"),
        ("fake://?classes=3&delay_ms=-1", "delay_ms 0"),
    ],
)
def test_an_address_that_says_nothing_is_refused(opened, address, said):
    with pytest.raises(ConfigError) as refused:
        opened(address)
    assert said in str(refused.value)


async def test_every_mood_is_what_it_says(opened):
    engine = opened()
    codes = {first: (await answers(engine, rows_of(1, first=first)))[0][2] for first in (0, 11, 101, 1001)}
    assert codes[0] is None
    assert codes[11].code == "teacher_invalid"
    assert (codes[101].code, codes[101].message) == (
        "teacher_failed",
        "teacher 'moody' failed: a row told it to",
    )
    assert codes[1001].code == "teacher_failed"
    assert "no answer within 0.3 s" in codes[1001].message
    await engine.close()


@pytest.mark.parametrize("seed", range(3))
async def test_no_row_is_lost_hung_or_answered_twice_while_teachers_fail_and_clients_vanish(opened, seed):
    engine, chance = opened(), random.Random(seed)
    firsts = [0.0] * 12 + [11.0, 101.0] + [1001.0] * (seed == 0)

    async def student(number):
        for turn in range(8):
            rows = rows_of(chance.randrange(1, 12), seed=chance.randrange(5), first=chance.choice(firsts))
            asking = asyncio.ensure_future(answers(engine, rows))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.02)
                asking.cancel()
                await asyncio.wait([asking])
                continue
            found = await asyncio.wait_for(asking, 20)
            for source, value, failure, _ in found.values():
                assert (source == "error") == (failure is not None) == (value is None), (number, turn)

    await asyncio.gather(*(student(number) for number in range(8)))
    batcher = engine.batchers["toy"]
    assert batcher.queued == 0
    await batcher.close()
    assert not batcher._flights
    await engine.close()


async def test_permuted_batches_hit_every_time(opened):
    engine, rows = opened(), rows_of(30)
    first = await answers(engine, rows)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(30)
        again = await answers(engine, rows[order])
        assert [again[place][:2] for place in range(30)] == [["hit", first[row][1]] for row in order]
    assert engine.batchers["toy"].rows == 30
    await engine.close()


async def test_eight_who_ask_for_the_same_rows_at_once_cost_one_inference_each(opened):
    engine, rows = opened(), rows_of(30)
    orders = [np.random.default_rng(seed).permutation(30) for seed in range(8)]
    all_found = await asyncio.gather(*(answers(engine, rows[order]) for order in orders))
    assert engine.batchers["toy"].rows == engine.inferences["toy"] == 30
    values = [
        {row: found[place][1] for place, row in enumerate(order)}
        for found, order in zip(all_found, orders, strict=True)
    ]
    assert all(one == values[0] for one in values)
    sources = [source for found in all_found for source, *_ in found.values()]
    assert sources.count("miss") == 30
    assert set(sources) <= {"miss", "coalesced", "hit"}
    await engine.close()


async def recalled(engine, digests):
    """Row to (source, value); each row must come exactly once."""
    toy = engine.ensemble("toy")
    found = {}
    async for group in engine.recall(toy, toy.effective("default", Overrides()), digests):
        for row, source, value, *_ in zip(*group, strict=True):
            assert row not in found
            found[row] = source, value
    assert sorted(found) == list(range(len(digests)))
    return found


async def test_digests_find_what_is_kept_or_being_computed_and_nothing_else(opened):
    engine, rows = opened(), rows_of(6)
    digests = row_digests({"x": rows}, engine.ensemble("toy").inputs)
    kept = await answers(engine, rows[:2])
    computing = asyncio.ensure_future(answers(engine, rows[2:4]))
    for _ in range(10):
        await asyncio.sleep(0)
    found = await recalled(engine, [*digests, digests[0], digests[2], digests[5]])
    computed = await computing
    assert {place: source for place, (source, _) in found.items()} == {
        0: "hit", 1: "hit", 2: "coalesced", 3: "coalesced", 4: "absent", 5: "absent",
        6: "hit", 7: "coalesced", 8: "absent",
    }  # fmt: skip
    assert [found[place][1] for place in (0, 1, 6)] == [kept[row][1] for row in (0, 1, 0)]
    assert [found[place][1] for place in (2, 3, 7)] == [computed[row][1] for row in (0, 1, 0)]
    assert found[4][1] is None
    assert engine.batchers["toy"].rows == 4
    await engine.close()


async def test_who_waits_by_digest_gets_the_row_though_its_sender_left(opened):
    engine, rows = opened(), rows_of(1)
    digests = row_digests({"x": rows}, engine.ensemble("toy").inputs)
    blocking = [asyncio.ensure_future(answers(engine, rows_of(4, seed=seed))) for seed in (5, 6)]
    for _ in range(10):
        await asyncio.sleep(0)
    sender = asyncio.ensure_future(answers(engine, rows))  # queued: both places are taken
    for _ in range(10):
        await asyncio.sleep(0)
    waiting = asyncio.ensure_future(recalled(engine, digests))
    for _ in range(10):
        await asyncio.sleep(0)
    sender.cancel()
    found = await waiting
    assert found[0][0] == "coalesced"
    assert (await answers(engine, rows))[0][:2] == ["hit", found[0][1]]
    await asyncio.gather(*blocking)
    await engine.close()
