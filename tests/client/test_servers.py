"""Which server is asked, and what happens when one does not answer."""

import email.utils
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from soft_targets import (
    Client,
    IncompleteStream,
    InputError,
    OtherFingerprint,
    RequestRefused,
    ServerUnreachable,
    SoftTargetsError,
    servers,
)


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(servers, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(servers, "JITTER_S", 0.001)
    monkeypatch.setattr(servers, "LONGEST_WAIT_S", 0.01)


def gone(server):
    """Let a server close every connection without a word."""

    def answer(_):
        raise ConnectionAbortedError

    server.answer = answer
    server.handle_error = lambda *_: None


def refused(answers, status, **headers):
    return answers.json_reply(status, {"error": "later", "code": "queue_full"}, **headers)


def in_turn(*replies):
    """An answer that is another each time, the last for ever."""
    left, lock = list(replies), threading.Lock()

    def answer(asked):
        with lock:
            reply = left.pop(0) if left[1:] else left[0]
        return reply(asked)

    return answer


# ------------------------------------------------------------------------------------------- the same again


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_asked_again(server, answers, status):
    server.answer = in_turn(*[lambda _: refused(answers, status)] * 2, server.honest)
    with Client(server.url, ensemble="pets") as client:
        inputs = answers.inputs(3)
        targets = client.soft_targets(inputs)
        np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
        assert (client.stats.retries, client.stats.requests, client.stats.rows) == (2, 1, 3)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 500])
def test_what_will_not_pass_is_not(server, answers, status):
    server.answer = lambda _: refused(answers, status)
    with Client(server.url, ensemble="pets") as client, pytest.raises(RequestRefused):
        client.soft_targets(answers.inputs(1))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "bend",
    [
        lambda reply: replace(reply, pieces=reply.pieces[:1], cut=True),
        lambda reply: replace(reply, pieces=reply.pieces[:-1]),
        lambda reply: replace(reply, pieces=[]),
        lambda reply: replace(reply, pieces=[*reply.pieces[:2], reply.pieces[1], *reply.pieces[2:]]),
        lambda reply: replace(reply, pieces=[reply.pieces[0], *reply.pieces[2:]]),
    ],
    ids=["cut", "without its end", "nothing", "doubled", "dropped"],
)
def test_an_answer_that_is_not_whole_leaves_nothing_and_is_asked_for_again(server, answers, bend):
    def poisoned(asked):
        rows = answers.rows_of(asked)
        lies = answers.layout_of(asked).pack(np.full((len(rows.values), 3), -9, np.float32))
        return bend(answers.reply_of(asked, replace(rows, values=lies, sources=["hit"] * len(lies))))

    server.answer = in_turn(poisoned, server.honest)
    with Client(server.url, ensemble="pets") as client:
        inputs = answers.inputs(6)
        targets = client.soft_targets(inputs)
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
    assert targets.source == ["miss"] * 6


def test_rows_that_failed_in_an_answer_that_was_cut_are_not_failed(server, answers):
    def failing(asked):
        rows = answers.rows_of(asked)
        n = len(rows.values)
        rows = replace(rows, values=[None] * n, sources=["error"] * n, errors=[("internal", "no")] * n)
        reply = answers.reply_of(asked, rows)
        return replace(reply, pieces=reply.pieces[:-1], cut=True)

    server.answer = in_turn(failing, server.honest)
    with Client(server.url, ensemble="pets") as client:
        assert client.soft_targets(answers.inputs(6), errors="keep").valid.all()


def test_a_server_that_starts_late_is_waited_for(server, answers):
    honest = server.description
    replies = iter([lambda: refused(answers, 503)] * 3)
    server.description = lambda: next(replies, honest)()  # noqa: PLW0108 - another each time
    with Client(server.url, ensemble="pets") as client:
        assert client.info()["name"] == "pets"
        assert client.stats.retries == 3


def test_patience_ends_with_what_the_last_try_said(server, answers):
    with Client(server.url, ensemble="pets", retry_s=0.05) as client:
        client.info()
        gone(server)
        with pytest.raises(ServerUnreachable, match="cannot be reached"):
            client.soft_targets(answers.inputs(1))
        assert client.stats.retries > 0


def test_without_patience_nothing_is_asked_again(server, answers):
    server.answer = lambda _: refused(answers, 503)
    with Client(server.url, ensemble="pets", retry_s=0) as client, pytest.raises(RequestRefused):
        client.soft_targets(answers.inputs(1))
    assert len(server.asked) == 1


@pytest.mark.parametrize("patience_s", [-1, float("nan")])
def test_patience_is_a_time(patience_s):
    with pytest.raises(InputError, match="retry_s must be at least 0"):
        Client("http://teachers", ensemble="pets", retry_s=patience_s)


def test_the_budget_ends_and_answers_refill_it(server, answers):
    with Client(server.url, ensemble="pets", connections=1) as client:
        client.soft_targets(answers.inputs(1))
        server.answer = lambda _: refused(answers, 503, **{"Retry-After": "0"})
        for spent in (16, 0):
            before = len(server.asked)
            with pytest.raises(RequestRefused):
                client.soft_targets(answers.inputs(1))
            assert len(server.asked) - before == spent + 1
        server.answer = server.honest
        for _ in range(6):
            client.soft_targets(answers.inputs(1))
        server.answer = in_turn(lambda _: refused(answers, 503), server.honest)
        client.soft_targets(answers.inputs(1))


# ---------------------------------------------------------------------------------------------- Retry-After


@pytest.mark.parametrize("said", ["7", "date", "3000"])
def test_the_server_says_when_to_come_again(server, answers, monkeypatch, said):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    when = email.utils.formatdate(time.time() + 7, usegmt=True) if said == "date" else said
    server.answer = in_turn(lambda _: refused(answers, 503, **{"Retry-After": when}), server.honest)
    with Client(server.url, ensemble="pets") as client:
        client.soft_targets(answers.inputs(1))
    waited = max(slept)
    assert (waited == 60) if said == "3000" else (5 < waited <= 7)


@pytest.mark.parametrize("said", ["soon", "-1", ""])
def test_what_is_no_time_is_left_to_the_back_off(server, answers, said):
    server.answer = in_turn(lambda _: refused(answers, 503, **{"Retry-After": said}), server.honest)
    with Client(server.url, ensemble="pets") as client:
        client.soft_targets(answers.inputs(1))
    with Client(server.url, ensemble="pets", retry_s=0) as client:
        server.answer = lambda _: refused(answers, 503, **{"Retry-After": said})
        with pytest.raises(RequestRefused) as caught:
            client.soft_targets(answers.inputs(1))
    assert caught.value.retry_after_s is None


# ----------------------------------------------------------------------------------------- several servers


def both(server, replica, **options):
    return Client([server.url, replica.url], ensemble="pets", **options)


def test_another_server_takes_over_at_once_and_for_good(server, replica, answers, monkeypatch):
    monkeypatch.setattr(servers, "LONGEST_WAIT_S", 3600.0)
    monkeypatch.setattr(servers, "FIRST_WAIT_S", 1800.0)
    with both(server, replica) as client:
        client.soft_targets(answers.inputs(1))
        gone(server)
        for _ in range(5):
            client.soft_targets(answers.inputs(2))
        # It was asked once more at most; then it rests, and the other is asked.
        assert len(server.asked) + len(replica.asked) == 6 + client.stats.retries
        assert client.stats.retries <= 1
        assert len(replica.asked) >= 5


def test_a_server_that_is_back_is_asked_again(server, replica, answers):
    with both(server, replica) as client:
        client.info()
        gone(server)
        client.soft_targets(answers.inputs(1))
        client.soft_targets(answers.inputs(1))
        server.answer = server.honest
        gone(replica)
        for _ in range(3):
            client.soft_targets(answers.inputs(1))


def test_both_gone_is_an_error(server, replica, answers):
    with both(server, replica, retry_s=0.05) as client:
        client.info()
        gone(server)
        gone(replica)
        with pytest.raises(ServerUnreachable):
            client.soft_targets(answers.inputs(1))
        assert server.asked
        assert replica.asked


def test_the_least_loaded_is_asked(server, replica, answers):
    """While one holds a request, the other gets all that come."""
    held, let_go = threading.Event(), threading.Event()

    def hold(asked):
        held.set()
        assert let_go.wait(answers.patience_s)
        return server.honest(asked)

    with both(server, replica, connections=4) as client:
        client.info()
        server.answer = replica.answer = in_turn(hold, server.honest)
        slow = threading.Thread(target=client.soft_targets, args=(answers.inputs(1),), daemon=True)
        slow.start()
        assert held.wait(answers.patience_s)
        for _ in range(4):
            client.soft_targets(answers.inputs(1))
        counts = sorted([len(server.asked), len(replica.asked)])
        let_go.set()
        slow.join(answers.patience_s)
    assert counts == [1, 4]


def test_equals_take_turns(server, replica, answers):
    with both(server, replica) as client:
        for _ in range(6):
            client.soft_targets(answers.inputs(1))
    assert abs(len(server.asked) - len(replica.asked)) <= 1


def test_load_is_shared(server, replica, answers):
    with both(server, replica, connections=4) as client:
        client.soft_targets(answers.inputs(256 * 8))
    shares = Counter({"one": len(server.asked), "other": len(replica.asked)})
    assert sum(shares.values()) == 8
    assert min(shares.values()) >= 1


@pytest.mark.parametrize("urls", [[], ["http://a", "http://a/"], ["http://a", "b"]])
def test_addresses_that_make_no_sense(urls):
    with pytest.raises(InputError, match="base_url"):
        Client(urls, ensemble="pets")


# ---------------------------------------------------------------------------------------- other fingerprints


def changed(server, answers, fingerprint="e" * 64):
    server.answer = lambda asked: answers.reply_of(asked, fingerprint=fingerprint)


def test_a_replica_with_another_fingerprint_is_refused_not_mixed(server, replica, answers):
    with both(server, replica) as client:
        client.soft_targets(answers.inputs(1))
        changed(server, answers)
        seen = {client.soft_targets(answers.inputs(2)).fingerprint for _ in range(6)}
        assert seen == {"f" * 64}
        # It is left alone for a minute.
        assert len([asked for asked in server.asked if asked.number]) <= 1


def test_when_all_were_changed_it_says_so_and_where(server, replica, answers):
    with both(server, replica) as client:
        client.soft_targets(answers.inputs(1))
        changed(server, answers)
        changed(replica, answers)
        with pytest.raises(
            OtherFingerprint, match=r"http://127.*: this answer has the fingerprint e+, earlier"
        ):
            client.soft_targets(answers.inputs(1))


def test_a_single_server_that_was_changed_is_told_at_once(server, answers):
    with Client(server.url, ensemble="pets") as client:
        client.soft_targets(answers.inputs(1))
        changed(server, answers)
        with pytest.raises(OtherFingerprint, match="make a new client"):
            client.soft_targets(answers.inputs(1))
        assert client.stats.retries == 0


def test_the_fingerprint_may_be_known_beforehand(server, replica, answers):
    changed(server, answers)
    with both(server, replica, fingerprint="f" * 64) as client:
        assert client.soft_targets(answers.inputs(4)).fingerprint == "f" * 64
    with both(server, replica, fingerprint="d" * 64) as client, pytest.raises(OtherFingerprint):
        client.soft_targets(answers.inputs(4))


# ------------------------------------------------------------------------------------------------------ ends


def test_closing_ends_what_is_being_tried_again(server, answers):
    tried = threading.Event()

    def refuse(asked):  # noqa: ARG001 - called with it
        tried.set()
        return refused(answers, 503)

    server.answer = refuse
    client, caught = Client(server.url, ensemble="pets", retry_s=1e6, connections=100), []

    def ask():
        try:
            client.soft_targets(answers.inputs(1))
        except SoftTargetsError as exc:
            caught.append(exc)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert tried.wait(answers.patience_s)
    client.close()
    asking.join(answers.patience_s)
    assert not asking.is_alive()
    assert len(caught) == 1


def test_a_key_is_in_no_message(server, answers, caplog):
    gone(server)
    with (
        Client(server.url, ensemble="pets", key="st_secret", retry_s=0.05) as client,
        pytest.raises((ServerUnreachable, IncompleteStream)) as caught,
    ):
        client.soft_targets(answers.inputs(1))
    assert "st_secret" not in str(caught.value) + repr(client) + caplog.text
