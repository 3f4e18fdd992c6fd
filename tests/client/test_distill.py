import gc
import subprocess
import sys
import threading
from itertools import count

import numpy as np
import pytest
import torch

from soft_targets import Client, FailedRows, InputError, ServerUnreachable, SoftTargetsError


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("soft-targets")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert threads() == []


def seeds(batches):
    return iter(range(batches))


@pytest.fixture
def inputs(answers):
    return lambda seed: answers.inputs(5, seed)


def test_batches_come_in_order_with_their_targets(client, answers, inputs):
    seen = []
    for seed, targets in client.distill(seeds(20), inputs=inputs):
        np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs(seed)["pixels"]))
        seen.append(seed)
    assert seen == list(range(20))
    assert client.stats.rows == 100
    assert client.stats.waited_s > 0


def test_order_holds_when_answers_overtake_each_other(server, answers, inputs):
    later = threading.Event()

    def answer(asked):
        # The first request is held until the second was answered.
        if asked.number == 0:
            assert later.wait(answers.patience_s)
        reply = answers.reply_of(asked)
        if asked.number == 1:
            later.set()
        return reply

    server.answer = answer
    with Client(server.url, ensemble="pets", connections=2, timeout_s=answers.patience_s) as client:
        pairs = list(client.distill(seeds(6), inputs=inputs))
    assert [seed for seed, _ in pairs] == list(range(6))
    for seed, targets in pairs:
        np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs(seed)["pixels"]))


def test_several_epochs_over_a_torch_loader(server, client, answers):
    pixels = torch.from_numpy(answers.inputs(20)["pixels"])
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(pixels, torch.arange(20)), batch_size=8
    )
    for _ in range(3):
        rows = 0
        for (batch, labels), targets in client.distill(
            loader, inputs=lambda batch: {"pixels": batch[0], "caption": [str(int(i)) for i in batch[1]]}
        ):
            assert len(batch) == len(labels) == len(targets)
            np.testing.assert_array_equal(targets.log_probs, answers.target_of(batch.numpy()))
            rows += len(batch)
        assert rows == 20
    assert len(server.asked) == 9
    assert server.connections <= 2


def test_nothing_starts_before_the_first_batch_is_wanted(server, client, inputs):
    read = []
    stream = iter(client.distill((read.append(seed) or seed for seed in seeds(3)), inputs=inputs))
    assert threads() == []
    assert read == []
    stream.close()
    assert server.asked == []


@pytest.mark.parametrize("prefetch", [1, 3])
def test_the_loader_is_read_only_so_far_ahead(server, client, answers, inputs, prefetch):
    read = []
    ahead = threading.Semaphore(0)

    def loader():
        for seed in count():
            read.append(seed)
            ahead.release()
            yield seed

    stream = iter(client.distill(loader(), inputs=inputs, prefetch=prefetch))
    for taken in range(1, 6):
        next(stream)
        # The batch just taken frees a place: wait until it is filled, then nothing more may be read.
        for _ in range(prefetch + 1 if taken == 1 else 1):
            assert ahead.acquire(timeout=answers.patience_s)
        assert len(read) == taken + prefetch
    stream.close()
    assert len(read) == 5 + prefetch
    assert len(server.asked) <= 5 + prefetch


def test_a_loop_that_breaks_out_leaves_nothing_behind(client, inputs):
    for seed, _ in client.distill(count(), inputs=inputs):
        if seed == 3:
            break
    assert threads() == []


def test_a_loop_that_raises_leaves_nothing_behind(client, inputs):
    def train():
        for _ in client.distill(count(), inputs=inputs):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    gc.collect()
    assert threads() == []


def test_a_closed_generator_leaves_nothing_behind(client, inputs):
    stream = iter(client.distill(count(), inputs=inputs))
    next(stream)
    stream.close()
    assert threads() == []
    stream.close()


def test_an_error_of_the_loader_comes_after_the_batches_before_it(client, inputs):
    def loader():
        yield from range(3)
        raise OSError("disk on fire")

    stream = iter(client.distill(loader(), inputs=inputs, prefetch=8))
    assert [next(stream)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="disk on fire"):
        next(stream)
    assert list(stream) == []


def test_something_that_is_no_iterable(client, inputs):
    with pytest.raises(TypeError, match="iterable"):
        next(iter(client.distill(3, inputs=inputs)))


def test_an_error_of_the_inputs_function_comes_in_place_of_its_batch(client, inputs):
    stream = iter(client.distill(count(), inputs=lambda seed: inputs(seed) if seed < 2 else {}[seed]))
    assert [next(stream)[0] for _ in range(2)] == [0, 1]
    with pytest.raises(KeyError, match="2"):
        next(stream)


def test_an_inputs_function_that_stops_iteration_does_not_end_the_epoch_quietly(client, inputs):
    stream = iter(client.distill(seeds(3), inputs=lambda seed: inputs(seed) if seed < 2 else next(iter(()))))
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(stream)


def test_an_error_of_a_request_comes_in_place_of_its_batch(server, client, answers, inputs):
    def answer(asked):
        rows = answers.rows_of(asked)
        if asked.inputs["pixels"][0, 0] == inputs(2)["pixels"][0, 0]:
            rows.values[1], rows.sources[1], rows.errors[1] = None, "error", ("teacher_failed", "svm")
        return answers.reply_of(asked, rows)

    server.answer = answer
    stream = iter(client.distill(count(), inputs=inputs))
    assert [next(stream)[0] for _ in range(2)] == [0, 1]
    with pytest.raises(FailedRows, match="svm"):
        next(stream)
    assert threads() == []


def test_inputs_that_do_not_fit(client):
    with pytest.raises(InputError, match="missing: caption"):
        next(iter(client.distill([np.zeros((1, 3))], inputs=lambda batch: {"pixels": batch})))


def test_a_server_that_is_gone(server, answers, inputs):
    with Client(server.url, ensemble="pets", timeout_s=answers.patience_s, retry_s=0) as client:
        client.info()
        server.answer = lambda _: (_ for _ in ()).throw(ConnectionAbortedError)
        server.handle_error = lambda *_: None
        with pytest.raises(ServerUnreachable):
            next(iter(client.distill(seeds(3), inputs=inputs)))


def test_prefetch_is_checked_at_once(client, inputs):
    with pytest.raises(InputError, match="prefetch"):
        client.distill(seeds(3), inputs=inputs, prefetch=0)


def test_an_empty_loader(client, inputs):
    assert list(client.distill([], inputs=inputs)) == []


def test_closing_the_client_ends_a_stream_with_an_error_not_quietly(client, inputs):
    stream = iter(client.distill(seeds(50), inputs=inputs, prefetch=2))
    next(stream)
    client.close()
    assert threads() == []
    with pytest.raises(SoftTargetsError, match="closed before"):
        list(stream)


def test_closing_the_client_wakes_a_consumer_that_waits(server, answers, inputs):
    arrived, let_go = threading.Event(), threading.Event()

    def answer(asked):
        arrived.set()
        assert let_go.wait(answers.patience_s)
        return answers.reply_of(asked)

    server.answer = answer
    client = Client(server.url, ensemble="pets", connections=1, timeout_s=answers.patience_s)
    caught = []

    def consume():
        try:
            list(client.distill(seeds(9), inputs=inputs))
        except SoftTargetsError as exc:
            caught.append(exc)

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    assert arrived.wait(answers.patience_s)
    closer = threading.Thread(target=client.close, daemon=True)
    closer.start()
    let_go.set()
    for thread in (closer, consumer):
        thread.join(answers.patience_s)
        assert not thread.is_alive()
    assert len(caught) == 1


def test_stats_may_be_read_while_it_runs(client, inputs):
    seen = [client.stats for _ in client.distill(seeds(8), inputs=inputs)]
    assert [stats.rows >= 5 * (i + 1) for i, stats in enumerate(seen)] == [True] * 8
    waits = [stats.waited_s for stats in seen]
    assert waits == sorted(waits)


PROGRAM = """
import sys
from itertools import count
from soft_targets import Client

client = Client(sys.argv[1], ensemble="pets")
stream = iter(client.distill(count(), inputs=lambda i: {"pixels": [[0.0, 1.0, i]], "caption": ["x"]}))
next(stream)
print("half-read")
"""


def test_a_program_may_end_with_a_half_read_stream(server):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, server.url], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "half-read\n", "")
