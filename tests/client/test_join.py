"""Answers that are put together to one call's targets, or refused as a whole."""

import threading
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from soft_targets import Client, FailedRows, IncompleteStream, WireError

BROKEN = [("teacher_failed", "svm")]


@pytest.fixture
def parted(server, answers):
    """A client whose calls go out in requests of two rows, one after the other."""
    server.described["limits"]["max_rows_per_request"] = 2
    with Client(
        server.url, ensemble="pets", connections=1, timeout_s=answers.patience_s, digest_first="never"
    ) as client:
        yield client


def failed(answers, asked, place):
    rows = answers.rows_of(asked)
    rows.values[place], rows.sources[place], rows.errors[place] = None, "error", BROKEN[0]
    return rows


def sparse(answers, asked, rows):
    """The same rows, with two classes each."""
    return answers.reply_of(replace(asked, query=asked.query | {"top_k": "2"}), rows)


def test_rows_that_failed_are_kept_across_the_parts_of_a_call(server, parted, answers):
    server.answer = lambda asked: answers.reply_of(asked, failed(answers, asked, asked.number % 2))
    inputs = answers.inputs(6)
    targets = parted.soft_targets(inputs, row_ids=list("abcdef"), errors="keep")
    assert targets.errors == dict.fromkeys("ade", BROKEN[0])
    assert targets.valid.tolist() == [False, True, True, False, False, True]
    assert np.isnan(targets.log_probs[[0, 3, 4]]).all()
    np.testing.assert_array_equal(
        targets.select(targets.valid).log_probs, answers.target_of(inputs["pixels"])[[1, 2, 5]]
    )
    with pytest.raises(FailedRows) as caught:
        parted.soft_targets(inputs, row_ids=list("abcdef"))
    assert set(caught.value.errors) == set("bcf")  # the other places


def test_a_part_of_another_width_leaves_nothing_and_is_asked_for_again(server, parted, answers):
    def answer(asked):
        if asked.number != 1:
            return server.honest(asked)
        rows = answers.rows_of(replace(asked, query=asked.query | {"top_k": "2"}))
        return sparse(
            answers,
            asked,
            replace(rows, values=[rows.values[0], None], sources=["hit", "error"], errors=[None, BROKEN[0]]),
        )

    server.answer = answer
    inputs = answers.inputs(4)
    targets = parted.soft_targets(inputs)  # and no row has failed
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
    assert targets.source == ["miss"] * 4
    assert parted.stats.retries == 1


def test_parts_that_differ_for_good(server, parted, answers):
    def answer(asked):
        rows = answers.rows_of(replace(asked, query=asked.query | {"top_k": "2"}))
        return sparse(answers, asked, rows) if asked.number else server.honest(asked)

    server.answer = answer
    with pytest.raises(WireError, match="differ in what a row holds") as caught:
        parted.soft_targets(answers.inputs(4))
    assert caught.value.__notes__[0] == f"this is what {server.url} answered"
    assert len(server.asked) == 4  # the second of the two was tried three times


def test_parts_of_different_temperatures(server, parted, answers):
    server.answer = lambda asked: answers.reply_of(asked, temperature=str(1.0 + asked.number))
    with pytest.raises(WireError, match="differ in their fingerprint or temperature"):
        parted.soft_targets(answers.inputs(4))


def test_a_row_doubled_in_another_part_s_answer_is_foreign_there(server, client, answers):
    """Parts may be answered at the same time, and each row is one part's only."""
    server.described["limits"]["max_rows_per_request"] = 2
    first = []

    def answer(asked):
        rows = answers.rows_of(asked)
        if not first:
            first.append(rows)
            return answers.reply_of(asked, rows)
        both = replace(
            rows, **{name: [*getattr(rows, name), getattr(first[0], name)[0]] for name in vars(rows)}
        )
        return answers.reply_of(asked, both, size=1)

    server.answer = answer
    with pytest.raises(IncompleteStream, match="was not asked for") as caught:
        client.soft_targets(answers.inputs(4))
    (foreign,) = caught.value.row_ids
    assert foreign in server.asked[0].row_ids


def test_answers_of_many_threads_do_not_mix(server, answers):
    """Each is answered with the rows that another asked for: they have no id in common."""
    swap, seen, lock = threading.Barrier(2, timeout=answers.patience_s), {}, threading.Lock()

    def answer(asked):
        with lock:
            seen[asked.number % 2] = answers.rows_of(asked)
        swap.wait()
        return answers.reply_of(asked, seen[1 - asked.number % 2])

    server.answer = answer
    wrong, caught = [], []

    def ask(seed):
        try:
            wrong.append(client.soft_targets(answers.inputs(3, seed), row_ids=[0, 1, 2]))
        except IncompleteStream as exc:
            caught.append(exc)

    with Client(server.url, ensemble="pets", retry_s=0, connections=2) as client:
        client.info()
        threads = [threading.Thread(target=ask, args=(seed,), daemon=True) for seed in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(answers.patience_s)
            assert not thread.is_alive()
    assert wrong == []
    assert len(caught) == 2


def test_a_batch_of_no_rows_with_text_ids(server, client, answers):
    def answer(asked):
        texts = replace(answers.rows_of(asked), row_ids=[str(row) for row in asked.row_ids])
        with pa.ipc.open_stream(b"".join(answers.reply_of(asked, texts).pieces)) as reader:
            batch = reader.read_next_batch()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch.slice(0, 0))
        return answers.reply([sink.getvalue().to_pybytes()])

    server.answer = answer
    with pytest.raises(IncompleteStream):
        client.soft_targets(answers.inputs(3))
