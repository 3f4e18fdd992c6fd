"""Closing from any thread, whatever is under way; and errors that go from one process to another."""

import contextlib
import gc
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from soft_targets import (
    Client,
    FailedRows,
    IncompleteStream,
    OtherFingerprint,
    RequestRefused,
    SoftTargetsError,
    WireError,
)


def ask_in_thread(client, inputs):
    """What came of a call, in a list, and the thread."""
    came = []

    def ask():
        try:
            came.append(client.soft_targets(inputs))
        except SoftTargetsError as exc:
            came.append(exc)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return came, thread


@pytest.mark.parametrize("rows", [1, 600], ids=["one request", "several"])
def test_closing_ends_a_wait(server, answers, rows):
    refused = threading.Event()

    def refuses(asked):  # noqa: ARG001 - called with it
        refused.set()
        return answers.refused(503, "3600")

    server.answer = refuses
    client = Client(server.url, ensemble="pets", retry_s=1e6)
    came, asking = ask_in_thread(client, answers.inputs(rows))
    assert refused.wait(answers.patience_s)
    client.close()
    asking.join(answers.patience_s)
    assert not asking.is_alive()
    assert isinstance(came[0], SoftTargetsError)
    assert "closed" in str(came[0])


def test_leaving_a_loop_ends_its_waits(server, answers):
    """The client goes on; who left the loop does not wait for what is tried again for it."""
    refused = threading.Event()

    def refuses(asked):
        if asked.number == 0:
            return server.honest(asked)
        refused.set()
        return answers.refused(503, "3600")

    server.answer = refuses
    with Client(server.url, ensemble="pets", connections=1, retry_s=1e6) as client:
        for _ in client.distill(range(9), inputs=lambda seed: answers.inputs(2, seed)):
            assert refused.wait(answers.patience_s)
            break
        server.answer = server.honest
        assert len(client.soft_targets(answers.inputs(1))) == 1


def test_leaving_a_loop_asks_for_nothing_more(server, answers):
    """Not for the rest of a batch either."""
    server.described["limits"]["max_rows_per_request"] = 10
    held = threading.Event()

    def answer(asked):
        if asked.number > 0:
            held.set()
            assert stream._under_way._stopping.wait(answers.patience_s)
        return server.honest(asked)

    server.answer = answer
    with Client(server.url, ensemble="pets", connections=1) as client:
        stream = client.distill([10, 200], inputs=answers.inputs)
        for _ in stream:
            assert held.wait(answers.patience_s)
            break
    assert len(server.asked) == 2


def test_closing_waits_for_what_is_under_way_and_opens_nothing_after_it(server, answers):
    arrived, let_go = threading.Event(), threading.Event()

    def held(asked):
        arrived.set()
        assert let_go.wait(answers.patience_s)
        return server.honest(asked)

    server.answer = held
    client = Client(server.url, ensemble="pets", connections=1, timeout_s=answers.patience_s)
    client.info()
    calls = [ask_in_thread(client, answers.inputs(1)) for _ in range(5)]
    assert arrived.wait(answers.patience_s)
    closing = threading.Thread(target=client.close, daemon=True)
    closing.start()
    let_go.set()
    for thread in [closing, *(thread for _, thread in calls)]:
        thread.join(answers.patience_s)
        assert not thread.is_alive()
    for [one], _ in calls:
        assert "closed" in str(one) if isinstance(one, SoftTargetsError) else len(one) == 1
    assert server.connections == 1
    del client
    gc.collect()  # a connection that was left open would be told here


def test_a_client_may_be_closed_by_what_reads_for_it(server, answers):
    """In the thread that reads the loader, which then does not wait for itself."""
    client = Client(server.url, ensemble="pets")

    def inputs(seed):
        if seed == 2:
            client.close()
        return answers.inputs(2, seed)

    with pytest.raises(SoftTargetsError, match="closed"):
        list(client.distill(range(9), inputs=inputs))


def test_a_stream_that_ends_in_one_of_the_clients_own_threads_waits_for_none(server, answers):
    """The garbage collector ends abandoned ones in any thread; another thread may be waiting for that one."""
    arrived, let_go = threading.Event(), threading.Event()

    def held(asked):
        arrived.set()
        assert let_go.wait(answers.patience_s)
        return server.honest(asked)

    server.answer = held
    with Client(server.url, ensemble="pets", timeout_s=answers.patience_s) as client:
        stream = client.distill(range(9), inputs=lambda seed: answers.inputs(2, seed))

        def consume():
            with contextlib.suppress(SoftTargetsError):
                next(iter(stream))

        consuming = threading.Thread(target=consume, daemon=True)
        consuming.start()
        assert arrived.wait(answers.patience_s)
        own = threading.Thread(target=stream.close, name="soft-targets-part_0", daemon=True)
        own.start()
        own.join(answers.patience_s)
        assert not own.is_alive()
        let_go.set()
        consuming.join(answers.patience_s)
        assert not consuming.is_alive()


def test_many_may_close(server, answers):
    client = Client(server.url, ensemble="pets")
    client.soft_targets(answers.inputs(1))
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(client.close) for _ in range(8)]:
            done.result(answers.patience_s)


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "error",
    [
        RequestRefused("no", status=429, code="quota_exceeded", retry_after_s=3.0),
        IncompleteStream("cut", row_ids=[1, "b"]),
        FailedRows({1: ("internal", "no"), "b": ("teacher_failed", "svm")}),
        OtherFingerprint("changed"),
        WireError("odd"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error):
    error.add_note("more")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
