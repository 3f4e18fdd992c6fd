"""A client in processes that were forked off or spawned, and in many threads."""

import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from soft_targets import Client, FailedRows, OtherFingerprint, SoftTargets

ROWS = 12


def inputs_of(rows):
    """Inputs that a spawned process can make too."""
    pixels = np.random.default_rng(3).normal(size=(rows, 3)).astype(np.float32)
    return {"pixels": pixels, "caption": [f"row {row}" for row in range(rows)]}


def ask(client, results):
    targets = client.soft_targets(inputs_of(ROWS))
    results.put((os.getpid(), targets.log_probs.tobytes(), client.stats.rows, client.fingerprint))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_inherits_a_client_opens_its_own_connections(server, method):
    context = multiprocessing.get_context(method)
    with Client(server.url, ensemble="pets", key="st_key") as client:
        mine = client.soft_targets(inputs_of(ROWS))
        stream = iter(client.distill(range(9), inputs=lambda _: inputs_of(ROWS)))
        next(stream)  # threads are under way, and a connection is open
        results = context.Queue()
        children = [context.Process(target=ask, args=(client, results)) for _ in range(2)]
        for child in children:
            child.start()
        got = [results.get(timeout=60) for _ in children]
        for child in children:
            child.join(60)
            assert child.exitcode == 0
        assert len({pid for pid, *_ in got} | {os.getpid()}) == 3
        assert [one[1:] for one in got] == [(mine.log_probs.tobytes(), ROWS, "f" * 64)] * 2
        assert len(list(stream)) == 8
        assert client.soft_targets(inputs_of(ROWS)).log_probs.tobytes() == mine.log_probs.tobytes()
    assert {asked.headers["Authorization"] for asked in server.asked} == {"Bearer st_key"}
    results.close()
    results.join_thread()


class Asking:
    """Collates rows into a batch with its targets, in a loader's worker."""

    def __init__(self, client):
        self.client = client

    def __call__(self, rows):
        everything = inputs_of(ROWS)
        inputs = {
            "pixels": everything["pixels"][rows],
            "caption": [everything["caption"][row] for row in rows],
        }
        return torch.tensor(rows), torch.from_numpy(self.client.soft_targets(inputs, row_ids=rows).log_probs)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_workers_of_a_loader_may_ask(server, answers, method):
    expected = torch.from_numpy(answers.target_of(inputs_of(ROWS)["pixels"]))
    with Client(server.url, ensemble="pets") as client:
        client.info()
        loader = DataLoader(
            range(ROWS),
            batch_size=5,
            num_workers=2,
            collate_fn=Asking(client),
            multiprocessing_context=method,
        )
        for _ in range(2):
            for rows, log_probs in loader:
                torch.testing.assert_close(log_probs, expected[rows], rtol=0, atol=0)
    assert len(server.asked) == 6


def test_a_pickled_client_keeps_its_arguments_and_its_fingerprint(server, answers):
    with Client(server.url, ensemble="pets", top_k=2, recipe="soft") as client:
        client.soft_targets(inputs_of(2))
        with pickle.loads(pickle.dumps(client)) as other:
            assert other.stats.rows == 0
            assert other.soft_targets(inputs_of(2)).is_sparse
            assert other.fingerprint == "f" * 64
            server.answer = lambda asked: answers.reply_of(asked, fingerprint="e" * 64)
            with pytest.raises(OtherFingerprint):
                other.soft_targets(inputs_of(2))
    assert {asked.query["recipe"] for asked in server.asked} == {"soft"}


def test_pickling_sends_nothing(server):
    with pickle.loads(pickle.dumps(Client(server.url, ensemble="pets"))):
        pass
    assert (server.connections, server.described_times) == (0, 0)


def test_a_fork_while_every_lock_is_held(server):
    """Locks that another thread held at that moment are never released in the child."""
    context = multiprocessing.get_context("fork")
    with Client(server.url, ensemble="pets") as client:
        client.soft_targets(inputs_of(1))
        session = client._session
        held = [session.pinning, session.describing, session.tally._lock, session._numbering]
        held += [session.servers._changed, session.habit._lock]
        for lock in held:
            lock.acquire()
        try:
            results = context.Queue()
            child = context.Process(target=ask, args=(client, results))
            child.start()
            assert results.get(timeout=60)[2] == ROWS
            child.join(60)
        finally:
            for lock in held:
                lock.release()
    results.close()
    results.join_thread()


def test_a_fork_that_leaves_a_stream_touches_nothing_of_its_parent(server):
    """The stream's threads are the parent's, and what they had locked is locked for ever in the child."""

    def leave(stream, results):
        stream.close()
        results.put("left")

    context = multiprocessing.get_context("fork")
    with Client(server.url, ensemble="pets") as client:
        distillation = client.distill(range(9), inputs=lambda _: inputs_of(ROWS))
        stream = iter(distillation)
        next(stream)
        results = context.Queue()
        with distillation._under_way._window._changed:
            child = context.Process(target=leave, args=(stream, results))
            child.start()
        assert results.get(timeout=60) == "left"
        child.join(60)
        assert child.exitcode == 0
        assert len(list(stream)) == 8
    results.close()
    results.join_thread()


def fail(client):
    client.soft_targets(inputs_of(ROWS), row_ids=[f"row {row}" for row in range(ROWS)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_errors_come_out_of_other_processes_whole(server, answers, method):
    def failing(asked):
        rows = answers.rows_of(asked)
        rows.values[3], rows.sources[3], rows.errors[3] = None, "error", ("teacher_failed", "svm")
        return answers.reply_of(asked, rows)

    server.answer = failing
    context = multiprocessing.get_context(method)
    with (
        Client(server.url, ensemble="pets") as client,
        ProcessPoolExecutor(1, mp_context=context) as processes,
        pytest.raises(FailedRows, match="row 3: teacher_failed: svm") as caught,
    ):
        processes.submit(fail, client).result(60)
    assert caught.value.errors == {"row 3": ("teacher_failed", "svm")}


def test_streams_in_many_threads_do_not_mix(server, answers):
    wrong = []

    def train(first):
        stream = client.distill(
            range(first, first + 8), inputs=lambda seed: answers.inputs(4, seed), prefetch=2
        )
        for seed, targets in stream:
            assert isinstance(targets, SoftTargets)
            if targets.log_probs.tobytes() != answers.target_of(answers.inputs(4, seed)["pixels"]).tobytes():
                wrong.append(seed)

    with Client(server.url, ensemble="pets", connections=3) as client:
        threads = [threading.Thread(target=train, args=(100 * place,), daemon=True) for place in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(answers.patience_s)
            assert not thread.is_alive()
        assert client.stats.rows == 5 * 8 * 4
    assert wrong == []
