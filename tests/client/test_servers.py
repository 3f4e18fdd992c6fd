"""Several base URLs: who is asked, who instead, and that no other fingerprint gets in."""

import logging
import socket
import threading
from dataclasses import replace

import httpx2
import numpy as np
import pytest

from soft_targets import (
    Client,
    InputError,
    OtherFingerprint,
    RequestRefused,
    ServerUnreachable,
    SoftTargetsError,
)
from soft_targets.wire import classes_digest

OURS, THEIRS = "f" * 64, "e" * 64


def both(server, replica, answers, **arguments):
    urls = [server.url, replica.url]
    return Client(urls, **{"ensemble": "pets", "timeout_s": answers.patience_s} | arguments)


def changed(answers):
    """Answers of a server whose teachers were changed: other targets, and another fingerprint."""

    def answer(asked):
        rows = answers.rows_of(asked)
        other = answers.layout_of(asked).pack(answers.target_of(-asked.inputs["pixels"]))
        return answers.reply_of(asked, replace(rows, values=other), fingerprint=THEIRS)

    return answer


@pytest.fixture
def nowhere():
    """The address of a port that nobody listens at, yet."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


# ----------------------------------------------------------------------------------------------- who is asked


def test_requests_at_the_same_time_go_to_different_servers(server, replica, answers):
    together = threading.Barrier(2, timeout=answers.patience_s)

    def answer(asked):
        together.wait()  # with both of a call's requests at one server, the other would never come
        return answers.reply_of(asked)

    server.answer = replica.answer = answer
    server.described["limits"]["max_rows_per_request"] = 2
    replica.described["limits"]["max_rows_per_request"] = 2
    with both(server, replica, answers, connections=2) as client:
        for _ in range(3):
            inputs = answers.inputs(4)
            targets = client.soft_targets(inputs)
            np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
    assert (len(server.asked), len(replica.asked)) == (3, 3)


def test_the_least_loaded_is_asked(server, replica, answers):
    arrived, let_go = threading.Event(), threading.Event()

    def held(asked):
        arrived.set()
        assert let_go.wait(answers.patience_s)
        return answers.reply_of(asked)

    server.answer = held
    with both(server, replica, answers, connections=4) as client:
        holding = threading.Thread(target=client.soft_targets, args=(answers.inputs(1),), daemon=True)
        while not arrived.is_set():  # the description was the first question: whose turn it is, is open
            holding = threading.Thread(target=client.soft_targets, args=(answers.inputs(1),), daemon=True)
            holding.start()
            while holding.is_alive() and not arrived.wait(0.01):
                pass
        before = len(replica.asked)
        for _ in range(3):
            client.soft_targets(answers.inputs(1))
        assert (len(server.asked), len(replica.asked) - before) == (1, 3)
        let_go.set()
        holding.join(answers.patience_s)
        assert not holding.is_alive()


def test_equals_take_turns(server, replica, start, answers):
    third = start()
    with Client([server.url, replica.url, third.url], ensemble="pets") as client:
        for _ in range(9):
            client.soft_targets(answers.inputs(1))
    assert [len(one.asked) for one in (server, replica, third)] == [3, 3, 3]


@pytest.mark.parametrize(
    "urls",
    [[], ["http://a", "http://a/"], ["http://a", "http://b", "http://a"]],
    ids=["none", "same", "again"],
)
def test_addresses_must_be_different_ones(urls):
    with pytest.raises(InputError, match="one address or several different ones"):
        Client(urls, ensemble="pets")


# -------------------------------------------------------------------------------------------------- failover


def test_a_server_that_dies_mid_stream_is_passed_over_at_once(server, replica, answers, caplog):
    """In the middle of one call's answer; the first try leaves nothing behind in the targets."""

    def dies(asked):
        whole = answers.reply_of(asked, answers.rows_of(asked), size=2)
        return replace(whole, pieces=whole.pieces[:2], cut=True)

    server.answer = dies
    with caplog.at_level(logging.INFO, "soft_targets"), both(server, replica, answers) as client:
        for seed in range(2):  # whoever's turn it is
            inputs = answers.inputs(6, seed)
            targets = client.soft_targets(inputs)
            np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
        assert client.stats.retries == 1
        assert client.stats.rows == 12
    assert (len(server.asked), len(replica.asked)) == (1, 2)
    [record] = [one for one in caplog.records if one.name == "soft_targets"]
    assert record.levelno == logging.INFO
    assert "did not arrive; asking another server" in record.getMessage()


def test_a_server_that_is_not_there_is_passed_over(server, nowhere, answers):
    with Client([nowhere, server.url], ensemble="pets") as client:
        for _ in range(4):
            client.soft_targets(answers.inputs(1))
        assert client.stats.rows == 4
    assert len(server.asked) == 4


def test_passing_over_costs_nothing_of_the_budget_for_retries(server, replica, answers, monkeypatch):
    monkeypatch.setattr("soft_targets.servers.RETRIES_PER_CONNECTION", 0.0)
    monkeypatch.setattr("soft_targets.servers.FIRST_REST_S", 0.0)  # it is asked again and again
    server.answer = answers.gone
    with both(server, replica, answers) as client:
        for _ in range(20):
            client.soft_targets(answers.inputs(1))
        assert client.stats.retries == len(server.asked) > 5


def test_a_server_that_hangs_is_passed_over_though_the_time_for_retries_is_over(server, replica, answers):
    """The time counts from the first failure: a wait for an answer, however long, uses none of it up."""
    let_go = threading.Event()

    def hangs(asked):
        let_go.wait(answers.patience_s)
        return answers.reply_of(asked)

    server.answer = hangs
    with both(server, replica, answers, timeout_s=0.5, retry_s=0.01) as client:
        for _ in range(2):
            client.soft_targets(answers.inputs(1))
        assert client.stats.retries == 1
        let_go.set()


def test_both_die(server, replica, answers):
    server.answer = replica.answer = answers.gone
    with both(server, replica, answers, retry_s=1) as client:
        client.info()
        with pytest.raises(ServerUnreachable, match="cannot be reached") as caught:
            client.soft_targets(answers.inputs(1))
        retries = client.stats.retries
        assert retries >= 2
    assert caught.value.__notes__ == [f"tried {retries + 1} time(s); a larger retry_s tries longer"]
    assert len(server.asked) + len(replica.asked) == retries + 1
    assert min(len(server.asked), len(replica.asked)) >= 1


def test_one_comes_back(server, nowhere, start, answers):
    """Nobody can answer; then a server begins to listen where none was."""
    refused = threading.Event()

    def full(asked):
        if asked.number == 1:
            refused.set()
        return answers.refused(503, "0")

    server.answer = full
    got = []
    with Client([nowhere, server.url], ensemble="pets", retry_s=answers.patience_s) as client:
        asking = threading.Thread(
            target=lambda: got.append(client.soft_targets(answers.inputs(3))), daemon=True
        )
        asking.start()
        assert refused.wait(answers.patience_s)
        back = start(int(nowhere.rpartition(":")[2]))
        asking.join(answers.patience_s)
        assert not asking.is_alive()
    assert len(got[0]) == 3
    assert len(back.asked) == 1


def test_a_server_that_answers_again_is_asked_again(server, replica, answers):
    server.answer = answers.first(answers.gone, then=answers.reply_of)
    with both(server, replica, answers) as client:
        while len(server.asked) < 3:  # its rest is short: it failed once only
            client.soft_targets(answers.inputs(1))
        assert client.stats.retries == 1


def test_a_server_that_asks_to_be_left_alone_is(server, replica, answers):
    server.answer = lambda _: answers.refused(429, "3600")
    with both(server, replica, answers) as client:
        for _ in range(6):
            client.soft_targets(answers.inputs(1))
    assert (len(server.asked), len(replica.asked)) == (1, 6)


# ---------------------------------------------------------------------------------------- other fingerprints


def test_a_replica_with_another_fingerprint_is_refused_and_the_others_used(server, replica, answers, caplog):
    replica.answer = changed(answers)
    with both(server, replica, answers, fingerprint=OURS) as client:
        for seed in range(5):
            inputs = answers.inputs(4, seed)
            targets = client.soft_targets(inputs)
            np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
            assert targets.fingerprint == OURS
        assert client.stats.retries == 1
    assert (len(server.asked), len(replica.asked)) == (5, 1)
    [record] = [one for one in caplog.records if one.name == "soft_targets"]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{replica.url}: this answer has the fingerprint {THEIRS}")


def test_the_answers_to_one_call_are_of_one_fingerprint(server, replica, answers):
    """Parts of it go to both, and whichever answers first is gone by."""
    for one in (server, replica):
        one.described["limits"]["max_rows_per_request"] = 2
    replica.answer = changed(answers)
    for seed in range(5):
        inputs = answers.inputs(12, seed)
        with both(server, replica, answers, connections=4) as client:
            targets = client.soft_targets(inputs)
        sign = {OURS: 1, THEIRS: -1}[targets.fingerprint]
        np.testing.assert_array_equal(targets.log_probs, answers.target_of(sign * inputs["pixels"]))


def test_replicas_that_were_all_changed(server, replica, answers):
    with both(server, replica, answers) as client:
        client.soft_targets(answers.inputs(2))
        server.answer = replica.answer = changed(answers)
        asked = len(server.asked) + len(replica.asked)
        for _ in range(2):
            with pytest.raises(OtherFingerprint, match=THEIRS) as caught:
                client.soft_targets(answers.inputs(2))
            assert str(caught.value).startswith((server.url, replica.url))
    # Each was asked once, and the first of them again for the second call.
    assert len(server.asked) + len(replica.asked) == asked + 3
    assert client.stats.rows == 2


def test_a_single_server_that_was_changed_is_not_tried_again(server, answers):
    with Client(server.url, ensemble="pets", retry_s=answers.patience_s) as client:
        client.soft_targets(answers.inputs(2))
        server.answer = changed(answers)
        with pytest.raises(OtherFingerprint, match=f"^{server.url}: .*earlier ones {OURS}"):
            client.soft_targets(answers.inputs(2))
        assert client.stats.retries == 0
    assert len(server.asked) == 2


def test_a_changed_server_does_not_stand_in_for_one_that_is_gone(server, replica, answers):
    replica.answer = changed(answers)
    with both(server, replica, answers, fingerprint=OURS, retry_s=0.3) as client:
        client.soft_targets(answers.inputs(2))
        server.answer = answers.gone
        for _ in range(2):
            with pytest.raises(ServerUnreachable, match=server.url):
                client.soft_targets(answers.inputs(2))
        assert client.stats.rows == 2


def test_a_fingerprint_known_beforehand(server, answers):
    with Client(server.url, ensemble="pets", fingerprint=OURS) as client:
        assert client.fingerprint == OURS
        assert client.soft_targets(answers.inputs(1)).fingerprint == OURS
    with Client(server.url, ensemble="pets", fingerprint=THEIRS) as client:
        with pytest.raises(OtherFingerprint, match=f"{OURS}, this client was made for {THEIRS}"):
            client.soft_targets(answers.inputs(1))
        assert client.stats.rows == 0


def test_a_replica_over_other_classes_is_refused_and_the_others_used(server, replica, answers):
    """Whether or not a fingerprint is known yet."""
    others = classes_digest(["cat", "dog"])
    replica.answer = lambda asked: answers.reply_of(asked, fingerprint=THEIRS, classes_digest=others)
    with both(server, replica, answers) as client:
        for _ in range(3):
            assert client.soft_targets(answers.inputs(2)).fingerprint == OURS
    assert (len(server.asked), len(replica.asked)) == (3, 1)


# --------------------------------------------------------------------------------------------------- secrets

KEY = "st_not-to-be-seen"


def test_a_key_is_in_no_log_and_no_error(server, nowhere, answers, caplog):
    caplog.set_level(logging.DEBUG)
    server.answer = answers.first(
        answers.gone,
        answers.refused(503, "0"),
        answers.reply_of,
        then=lambda _: answers.refused(401, code="unauthorized"),
    )
    with Client([nowhere, server.url], ensemble="pets", key=KEY) as client:
        client.soft_targets(answers.inputs(1))
        with pytest.raises(RequestRefused) as caught:
            client.soft_targets(answers.inputs(1))
        shown = [repr(client), repr(client.stats), repr(client._session.servers._servers)]
    assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    logged = [f"{record.getMessage()} {record.args}" for record in caplog.records]
    assert any("trying again" in line for line in logged)
    assert any(record.name.startswith("httpx2") for record in caplog.records)
    assert KEY not in "\n".join([*logged, *shown, str(caught.getrepr(style="native")), repr(caught.value)])


@pytest.mark.parametrize(
    "url",
    ["http://me:hunter2@host", "http://host?token=hunter2", "http://host#hunter2", "http://me:hunter2@[x"],
)
def test_an_address_that_holds_a_password_is_refused_and_not_repeated(url):
    with pytest.raises(InputError, match="base_url") as caught:
        Client([url, "http://other"], ensemble="pets")
    assert "hunter2" not in str(caught.value)


def test_an_error_of_a_server_names_it(server, answers):
    server.answer = lambda _: answers.refused(404, code="unknown_recipe")
    with Client(server.url, ensemble="pets") as client, pytest.raises(RequestRefused) as caught:
        client.soft_targets(answers.inputs(1))
    assert str(caught.value) == f"{server.url}: refused with 404 [404 unknown_recipe]"


def test_a_client_closed_by_its_own_transport_does_not_wait_for_itself():
    """As a signal's handler does, in the middle of a request of its own thread."""

    def answer(request):  # noqa: ARG001 - called with it
        client.close()
        return httpx2.Response(404, json={"error": "gone", "code": "not_found"})

    client = Client("http://x", ensemble="pets", transport=httpx2.MockTransport(answer))
    with pytest.raises(SoftTargetsError, match="closed"):
        client.info()
