"""Digests before bytes: what goes up, and that nothing else changes."""

import numpy as np
import pytest

from soft_targets import Client, FailedRows, WireError
from soft_targets.lookups import Habit

TEXT = "x" * 3000  # so that a row is of 3 KB


@pytest.fixture
def large(answers):
    """Rows that are worth asking for by digest."""

    def make(rows, seed=0):
        inputs = answers.inputs(rows, seed)
        return inputs | {"caption": [f"{TEXT} {seed} {row}" for row in range(rows)]}

    return make


def forms(server):
    return ["digests" if asked.inputs is None else "rows" for asked in server.asked]


def test_rows_that_are_kept_are_not_sent(server, answers, large):
    with Client(server.url, ensemble="pets", digest_first="always") as client:
        inputs = large(5)
        first = client.soft_targets(inputs)
        again = client.soft_targets(inputs)
    assert forms(server) == ["digests", "rows", "digests"]
    np.testing.assert_array_equal(first.log_probs, answers.target_of(inputs["pixels"]))
    np.testing.assert_array_equal(again.log_probs, first.log_probs)
    assert (first.source, again.source) == (["miss"] * 5, ["hit"] * 5)


def test_only_the_absent_are_sent_and_land_where_they_belong(server, answers, large):
    with Client(server.url, ensemble="pets", digest_first="always") as client:
        inputs = large(9)
        known = [1, 4, 5, 8]
        client.soft_targets(
            {"pixels": inputs["pixels"][known], "caption": [inputs["caption"][i] for i in known]}
        )
        targets = client.soft_targets(inputs, row_ids=[f"r{i}" for i in range(9)])
    assert [len(asked.row_ids) for asked in server.asked] == [4, 4, 9, 5]
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
    assert targets.source == ["hit" if i in known else "miss" for i in range(9)]
    assert targets.row_ids == [f"r{i}" for i in range(9)]
    assert list(server.asked[-1].inputs["caption"]) == [
        inputs["caption"][i] for i in range(9) if i not in known
    ]


def test_without_it_every_row_is_sent(server, large):
    with Client(server.url, ensemble="pets", digest_first="never") as client:
        for _ in range(3):
            client.soft_targets(large(5))
    assert forms(server) == ["rows"] * 3


def test_small_rows_are_sent_however_often_they_were_kept(server, client, answers):
    for _ in range(4):
        client.soft_targets(answers.inputs(5))
    assert forms(server) == ["rows"] * 4


def test_a_habit_is_made_by_answers_to_rows_and_lost_by_absent_ones(server, large):
    with Client(server.url, ensemble="pets") as client:
        client.soft_targets(large(4))
        client.soft_targets(large(4))
        assert forms(server) == ["rows"] * 2
        client.soft_targets(large(4))
        client.soft_targets(large(4))
        assert forms(server)[2:] == ["digests"] * 2
        for seed in (1, 2, 3):
            client.soft_targets(large(4, seed))
    assert forms(server)[4:] == ["digests", "rows", "rows", "rows"]


def test_where_most_rows_are_kept_asking_by_digest_goes_on(server, large):
    """Those that were absent are sent whole, which says nothing new of the others."""

    def some(seed, rows):
        inputs = large(10, seed)
        return {name: values[:rows] for name, values in inputs.items()}

    with Client(server.url, ensemble="pets", digest_first="never") as other:
        for seed in range(6):
            other.soft_targets(some(seed, 7))
    asked = len(server.asked)
    with Client(server.url, ensemble="pets") as client:
        for seed in (0, 0):
            client.soft_targets(some(seed, 7))
        for seed in range(1, 6):
            client.soft_targets(some(seed, 10))
    assert forms(server)[asked:] == ["rows", "digests"] + ["digests", "rows"] * 5
    assert {len(one.row_ids) for one in server.asked[asked + 3 :: 2]} == {3}


def test_an_epoch_over_kept_rows_sends_a_fiftieth_of_the_first(server, answers, large):
    with Client(server.url, ensemble="pets") as client:
        stream = client.distill(range(24), inputs=lambda seed: large(32, seed), prefetch=3)
        sent = []
        for _ in range(3):
            before = stream.stats.sent_bytes
            for seed, targets in stream:
                np.testing.assert_array_equal(targets.log_probs, answers.target_of(large(32, seed)["pixels"]))
            sent.append(stream.stats.sent_bytes - before)
        assert stream.stats.rows_by_source == {"miss": 768, "hit": 1536}
    assert sent[0] > 768 * 3000
    assert max(sent[1:]) < sent[0] / 50
    assert sum(int(asked.headers["Content-Length"]) for asked in server.asked) == sum(sent)


def test_digests_do_not_depend_on_how_inputs_are_given(server, large):
    inputs = large(3)
    with Client(server.url, ensemble="pets", digest_first="always") as client:
        client.soft_targets(inputs)
        client.soft_targets(inputs | {"pixels": np.asfortranarray(inputs["pixels"].astype(np.float64))})
        client.soft_targets(inputs | {"pixels": inputs["pixels"].tolist()})
    assert forms(server) == ["digests", "rows", "digests", "digests"]


def test_a_row_that_is_evicted_is_sent_again(server, answers, large):
    inputs = large(4)
    with Client(server.url, ensemble="pets", digest_first="always") as client:
        client.soft_targets(inputs)
        for digest in list(server.known)[1:3]:
            del server.known[digest]
        targets = client.soft_targets(inputs)
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
    assert targets.source == ["hit", "miss", "miss", "hit"]


def test_rows_that_come_and_go_between_the_two_requests(server, answers, large):
    """What was a hit stays one though it is evicted; what was absent may be kept by now."""
    inputs = large(4)

    def answer(asked):
        reply = server.honest(asked)
        if asked.inputs is None:
            server.known.clear()
        return reply

    with Client(server.url, ensemble="pets", digest_first="always") as client:
        client.soft_targets({name: values[:2] for name, values in inputs.items()})
        server.answer = answer
        targets = client.soft_targets(inputs)
        assert targets.source == ["hit", "hit", "miss", "miss"]
        np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
        server.answer = answers.first(
            *[server.honest] * len(server.asked),
            lambda asked: answers.reply_of(asked, answers.known_of(asked, {})),
            then=server.honest,
        )
        targets = client.soft_targets({name: values[2:] for name, values in inputs.items()})
    assert targets.source == ["hit", "hit"]


def test_a_row_that_is_answered_with_an_error_by_digest_is_not_sent(server, answers, large):
    """Nor is one that is called absent held to be an error, whatever code stands there."""

    def answer(asked):
        if asked.inputs is not None:
            return server.honest(asked)
        rows = answers.known_of(asked, {})
        rows.sources[1], rows.errors[1] = "error", ("deadline_exceeded", "late")
        return answers.reply_of(asked, rows)

    server.answer = answer
    inputs = large(3)
    with Client(server.url, ensemble="pets", digest_first="always") as client:
        targets = client.soft_targets(inputs, errors="keep")
    assert targets.errors == {1: ("deadline_exceeded", "late")}
    assert targets.source == ["miss", "error", "miss"]
    assert [len(asked.row_ids) for asked in server.asked] == [3, 2]
    np.testing.assert_array_equal(
        targets.log_probs[targets.valid], answers.target_of(inputs["pixels"])[[0, 2]]
    )


def test_a_row_that_is_absent_fails_like_any_other(server, answers, large):
    def failing(asked):
        if asked.inputs is None:
            return server.honest(asked)
        rows = answers.rows_of(asked)
        rows.values[0], rows.sources[0], rows.errors[0] = None, "error", ("teacher_failed", "svm")
        return answers.reply_of(asked, rows)

    server.answer = failing
    with Client(server.url, ensemble="pets", digest_first="always") as client:
        with pytest.raises(FailedRows) as caught:
            client.soft_targets(large(3), row_ids=[7, 8, 9])
        assert caught.value.errors == {7: ("teacher_failed", "svm")}
        kept = client.soft_targets(large(3), row_ids=[7, 8, 9], errors="keep")
    assert kept.valid.tolist() == [False, True, True]
    assert kept.source[0] == "error"


def test_a_row_that_was_sent_whole_cannot_be_absent_again(server, answers, large):
    server.answer = lambda asked: answers.reply_of(asked, answers.known_of(asked, {}))
    with (
        Client(server.url, ensemble="pets", digest_first="always") as client,
        pytest.raises(WireError, match="row 5 was sent whole, yet the answer calls it absent"),
    ):
        client.soft_targets(large(1), row_ids=[5])


def test_a_call_of_many_requests_asks_each_by_digest(server, answers, large):
    server.described["limits"]["max_rows_per_request"] = 4
    with Client(server.url, ensemble="pets", digest_first="always") as client:
        client.soft_targets(large(6))
        inputs = large(10)
        targets = client.soft_targets(inputs)
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
    assert targets.source == ["hit"] * 6 + ["miss"] * 4


def test_a_habit_by_itself():
    habit = Habit("auto")
    assert not habit.by_digest(3000)
    habit.begin_epoch()
    assert habit.by_digest(3000)
    assert not habit.by_digest(255)
    habit.learn(["absent"] * 4)
    assert not habit.by_digest(3000)
    for _ in range(2):
        habit.learn(["hit", "coalesced", "opinions", "miss"])
    assert habit.by_digest(3000)
    assert Habit("always").by_digest(1)
    assert not Habit("never").by_digest(1e9)
