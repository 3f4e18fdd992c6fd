"""Batches: nothing is lost, hung, computed for nobody or answered twice, whatever happens."""

import asyncio
import random
import threading

import pytest

from service.batching.batcher import Batcher

FAILED = "failed"


class Runs:
    """Answers every row with its payload's name and its number, one batch at a time as the test lets it."""

    def __init__(self, *, free=True):
        self.batches = []
        self.kept = {}
        self.gate = threading.Semaphore(10**6 if free else 0)

    def __call__(self, parts):
        rows = [(part.payload, row) for part in parts for row in part.rows]
        assert self.gate.acquire(timeout=20)
        self.batches.append(rows)
        if any(row >= 900 for _, row in rows):
            raise ValueError("a teacher raised")
        return [f"{payload}{row}" for payload, row in rows]

    def keep(self, keys, answers):
        self.kept |= dict(zip(keys, answers, strict=True))


def batcher(runs, *, max_rows=4, in_flight=1):
    return Batcher(
        runs, max_rows=max_rows, in_flight=in_flight, keep=runs.keep, failed=FAILED, name="batches"
    )


def wanted(*rows):
    return {b"%d" % row: [row] for row in rows}


async def everything(ticket):
    """Position to (answer, joined); no position twice."""
    found = {}
    while settled := await asyncio.wait_for(ticket.settled(), 20):
        for positions, answer, joined in settled:
            for position in positions:
                assert position not in found
                found[position] = answer, joined
    return found


async def test_a_lone_row_waits_for_nobody():
    runs = Runs()
    one = batcher(runs)
    assert await everything(one.ask(wanted(7), payload="a")) == {7: ("a7", False)}
    assert runs.batches == [[("a", 7)]]
    assert runs.kept == {b"7": "a7"}
    await one.close()


async def test_what_queues_while_the_device_is_busy_is_the_next_batch():
    runs = Runs(free=False)
    one = batcher(runs)
    tickets = [one.ask(wanted(row), payload="abcdef"[row]) for row in range(6)]
    runs.gate.release(3)
    for row, ticket in enumerate(tickets):
        assert await everything(ticket) == {row: (f"{'abcdef'[row]}{row}", False)}
    assert [len(batch) for batch in runs.batches] == [1, 4, 1]
    assert (one.batches, one.rows, one.queued) == (3, 6, 0)
    await one.close()


async def test_big_requests_are_cut_and_take_turns_with_small_ones():
    runs = Runs(free=False)
    one = batcher(runs)
    big = one.ask(wanted(*range(10)), payload="a")
    small = one.ask(wanted(20), payload="b")
    runs.gate.release(4)
    assert len(await everything(big)) == 10
    assert await everything(small) == {20: ("b20", False)}
    assert [len(batch) for batch in runs.batches] == [4, 4, 3]
    assert runs.batches[2][0] == ("b", 20)
    await one.close()


async def test_groups_do_not_mix_and_take_turns():
    runs = Runs(free=False)
    one = batcher(runs)
    tickets = [one.ask(wanted(0), group="x", payload="x")]
    tickets += [
        one.ask(wanted(*range(10 * n, 10 * n + 6)), group=g, payload=g) for n, g in ((1, "x"), (2, "y"))
    ]
    runs.gate.release(10)
    for ticket in tickets:
        await everything(ticket)
    assert [{payload for payload, _ in batch} for batch in runs.batches] == [
        {"x"}, {"x"}, {"y"}, {"x"}, {"y"},
    ]  # fmt: skip
    await one.close()


async def test_a_row_that_flies_is_joined_whether_it_is_queued_or_runs():
    runs = Runs(free=False)
    one = batcher(runs)
    tickets = [one.ask(wanted(1, 2), payload="a") for _ in range(8)]
    assert one.flies(b"1")
    assert not one.flies(b"3")
    runs.gate.release(1)
    found = [await everything(ticket) for ticket in tickets]
    assert found[0] == {1: ("a1", False), 2: ("a2", False)}
    assert found[1:] == [{1: ("a1", True), 2: ("a2", True)}] * 7
    assert runs.batches == [[("a", 1), ("a", 2)]]
    assert not one.flies(b"1")
    await one.close()


async def test_rows_that_fly_can_be_asked_for_by_their_keys_alone():
    runs = Runs(free=False)
    one = batcher(runs)
    first = one.ask(wanted(1), payload="a")
    second = one.ask({b"1": [5, 6]})
    runs.gate.release(1)
    assert await everything(second) == {5: ("a1", True), 6: ("a1", True)}
    assert await everything(first) == {1: ("a1", False)}
    await one.close()


async def test_a_batch_that_raises_settles_all_its_rows_and_no_others():
    runs = Runs(free=False)
    one = batcher(runs)
    bad, good = one.ask(wanted(900, 1), payload="a"), one.ask(wanted(2), payload="b")
    joined = one.ask(wanted(1), payload="c")
    runs.gate.release(2)
    assert await everything(bad) == {900: (FAILED, False), 1: (FAILED, False)}
    assert await everything(joined) == {1: (FAILED, True)}
    assert await everything(good) == {2: ("b2", False)}
    await one.close()


async def test_a_batch_that_answers_another_number_of_rows_fails_them():
    runs = Runs()
    one = Batcher(
        lambda _: ["too", "many"], max_rows=4, in_flight=1, keep=runs.keep, failed=FAILED, name="batches"
    )
    assert await everything(one.ask(wanted(1), payload="a")) == {1: (FAILED, False)}
    await one.close()


async def test_rows_of_who_left_are_dropped_unless_somebody_else_waits():
    runs = Runs(free=False)
    one = batcher(runs)
    busy = one.ask(wanted(0), payload="a")
    left, joiner = one.ask(wanted(1, 2, 3), payload="b"), one.ask(wanted(2, 4), payload="c")
    left.leave()
    left.leave()
    assert one.queued == 2
    assert not one.flies(b"1")
    runs.gate.release(2)
    assert await everything(joiner) == {2: ("b2", True), 4: ("c4", False)}
    await everything(busy)
    assert runs.batches == [[("a", 0)], [("b", 2), ("c", 4)]]
    await one.close()


async def test_a_row_whose_owner_and_joiner_left_is_not_computed():
    runs = Runs(free=False)
    one = batcher(runs)
    busy = one.ask(wanted(0), payload="a")
    owner, joiner = one.ask(wanted(1), payload="b"), one.ask(wanted(1), payload="c")
    owner.leave()
    joiner.leave()
    runs.gate.release(5)
    await everything(busy)
    assert await everything(one.ask(wanted(1), payload="d")) == {1: ("d1", False)}
    assert runs.batches == [[("a", 0)], [("d", 1)]]
    await one.close()


async def test_a_storm_of_disconnects_leaves_the_queue_empty():
    runs = Runs(free=False)
    one = batcher(runs)
    busy = one.ask(wanted(0), payload="a")
    storm = [one.ask(wanted(*range(10 * n, 10 * n + 10)), payload="b") for n in range(1, 1000)]
    assert one.queued == 9990
    for ticket in storm:
        ticket.leave()
    assert one.queued == 0
    runs.gate.release(10)
    await everything(busy)
    assert await everything(one.ask(wanted(5), payload="c")) == {5: ("c5", False)}
    assert one.batches == 2
    await one.close()


async def test_rows_that_run_when_their_client_leaves_are_still_kept():
    runs = Runs(free=False)
    one = batcher(runs)
    ticket = one.ask(wanted(1), payload="a")
    ticket.leave()
    runs.gate.release(1)
    await one.close()
    assert runs.kept == {b"1": "a1"}


async def test_closing_settles_what_is_queued():
    runs = Runs(free=False)
    one = batcher(runs)
    running, queued = one.ask(wanted(1), payload="a"), one.ask(wanted(2), payload="b")
    runs.gate.release(1)
    await one.close()
    assert await everything(queued) == {2: (FAILED, False)}
    assert await everything(running) == {1: ("a1", False)}


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_every_row_is_answered_once(seed):
    chance = random.Random(seed)
    runs = Runs()
    one = batcher(runs, max_rows=chance.randrange(1, 9), in_flight=chance.randrange(1, 4))

    async def client(name):
        for _ in range(20):
            rows = chance.sample(range(60), chance.randrange(1, 20))
            if chance.random() < 0.1:
                rows.append(900 + chance.randrange(3))
            ticket = one.ask(wanted(*rows), group=chance.randrange(2), payload=name)
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.002)
                ticket.leave()
                continue
            found = await everything(ticket)
            ticket.leave()
            assert sorted(found) == sorted(rows)
            for row, (answer, _) in found.items():
                assert answer == FAILED or answer.endswith(str(row))

    await asyncio.gather(*(client(name) for name in "abcdefgh"))
    assert one.queued == 0
    assert all(not one.flies(b"%d" % row) for row in range(60)) or one._running
    assert max(map(len, runs.batches)) <= one._max_rows
    await one.close()
    assert not one._flights
