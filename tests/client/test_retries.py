"""What is tried again, how often, after which waits, and what ends them."""

import logging
import threading
import time
from dataclasses import replace
from email.utils import formatdate

import numpy as np
import pytest

from soft_targets import (
    Client,
    IncompleteStream,
    InputError,
    RequestRefused,
    ServerUnreachable,
)
from soft_targets.asking import _retry_after_s
from soft_targets.servers import Budget


@pytest.fixture
def patient(server, answers):
    """Gives nothing up before the test does."""
    with Client(
        server.url,
        ensemble="pets",
        connections=1,
        timeout_s=answers.patience_s,
        retry_s=answers.patience_s,
    ) as client:
        yield client


@pytest.fixture
def _short_rests(monkeypatch):
    monkeypatch.setattr("soft_targets.servers.FIRST_REST_S", 0.001)


# ---------------------------------------------------------------------------------------- what is tried again


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_refusal_that_may_pass_is_tried_again(server, patient, answers, status):
    refused = answers.refused(status)
    server.answer = answers.first(refused, refused, then=server.honest)
    inputs = answers.inputs(3)
    targets = patient.soft_targets(inputs)
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
    assert (patient.stats.retries, patient.stats.requests, patient.stats.rows) == (2, 1, 3)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
def test_a_refusal_that_will_not_pass_is_not(server, patient, answers, status):
    server.answer = lambda _: answers.refused(status, "0")
    with pytest.raises(RequestRefused, match=f"refused with {status}"):
        patient.soft_targets(answers.inputs(1))
    assert (len(server.asked), patient.stats.retries) == (1, 0)


def test_what_a_proxy_says_for_its_server_is_tried_again(server, patient, answers):
    page = answers.reply([b"<html>Bad Gateway</html>"], status=502, content_type="text/html")
    server.answer = answers.first(page, then=server.honest)
    assert len(patient.soft_targets(answers.inputs(1))) == 1


def lies(answers, bend):
    """Answers with targets that are all wrong, bent besides: none of their rows may be kept."""

    def answer(asked):
        rows = answers.rows_of(asked)
        wrong = answers.layout_of(asked).pack(np.full((len(rows.values), 3), -9, np.float32))
        return bend(answers, asked, replace(rows, values=wrong, sources=["hit"] * len(wrong)))

    return answer


def cut(answers, asked, rows):
    whole = answers.reply_of(asked, rows)
    return replace(whole, pieces=whole.pieces[:2], cut=True)


def without_its_end(answers, asked, rows):
    whole = answers.reply_of(asked, rows)
    return replace(whole, pieces=whole.pieces[:-1])


def nothing_and_broken_off(answers, asked, rows):  # noqa: ARG001 - called with them
    return answers.reply([], cut=True)


def doubled_across_batches(answers, asked, rows):
    return answers.reply_of(asked, rows.take([0, 1, 2, 3, 4, 5, 0]), size=2)


def doubled_within_a_batch(answers, asked, rows):
    return answers.reply_of(asked, rows.take([0, 0, 2, 3, 4, 5]), size=6)


def dropped(answers, asked, rows):
    return answers.reply_of(asked, rows.take([0, 2, 3, 4, 5]))


def foreign(answers, asked, rows):
    return answers.reply_of(asked, replace(rows, row_ids=[row + 6 for row in rows.row_ids]))


def of_text_ids(answers, asked, rows):
    return answers.reply_of(asked, replace(rows, row_ids=[str(row) for row in rows.row_ids]))


BENT = [
    cut,
    without_its_end,
    nothing_and_broken_off,
    doubled_across_batches,
    doubled_within_a_batch,
    dropped,
    foreign,
    of_text_ids,
]


@pytest.mark.parametrize("bend", BENT)
def test_an_answer_that_is_not_whole_leaves_nothing_and_is_asked_for_again(server, patient, answers, bend):
    server.answer = answers.first(lies(answers, bend), then=server.honest)
    inputs = answers.inputs(6)
    targets = patient.soft_targets(inputs, row_ids=list("abcdef"))
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
    assert targets.source == ["miss"] * 6
    assert patient.stats.retries == 1
    assert [len(asked.row_ids) for asked in server.asked] == [6, 6]


@pytest.mark.parametrize("bend", BENT)
@pytest.mark.usefixtures("_short_rests")
def test_an_answer_that_is_never_whole_is_an_error(server, answers, bend, monkeypatch):
    monkeypatch.setattr("soft_targets.servers.RETRIES_PER_CONNECTION", 2.0)
    server.answer = lies(answers, bend)
    with (
        Client(server.url, ensemble="pets", connections=1, retry_s=answers.patience_s) as client,
        pytest.raises(IncompleteStream) as caught,
    ):
        client.soft_targets(answers.inputs(6))
    assert f"this is what {server.url} answered" in caught.value.__notes__


def test_rows_that_failed_in_an_answer_that_was_cut_have_not_failed(server, patient, answers):
    def failing(asked):
        rows = answers.rows_of(asked)
        n = len(rows.values)
        rows = replace(rows, values=[None] * n, sources=["error"] * n, errors=[("internal", "no")] * n)
        return without_its_end(answers, asked, rows)

    server.answer = answers.first(failing, then=server.honest)
    assert patient.soft_targets(answers.inputs(6), errors="keep").valid.all()


def test_without_patience_nothing_is_tried_again(server, client, answers):
    server.answer = lambda _: answers.refused(503, "0")
    with pytest.raises(RequestRefused) as caught:
        client.soft_targets(answers.inputs(1))
    assert len(server.asked) == 1
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"retry_s": -1}, "retry_s must be at least 0"),
        ({"retry_s": np.nan}, "retry_s must be at least 0"),
        ({"timeout_s": 0}, "timeout_s must be above 0"),
        ({"timeout_s": np.nan}, "timeout_s must be above 0"),
    ],
)
def test_times_that_make_no_sense(arguments, message):
    with pytest.raises(InputError, match=message):
        Client("http://teachers", ensemble="pets", **arguments)


# --------------------------------------------------------------------------------------- a server that starts


def test_a_server_that_starts_is_waited_for(server, answers, monkeypatch):
    """It says so: whoever answers, with a refusal even, is there."""
    monkeypatch.setattr("soft_targets.servers.FIRST_ANSWER_S", 0.0)
    honest = server.description
    starting = iter([lambda: answers.refused(503, "0", "not_ready")] * 3)
    server.description = lambda: next(starting, honest)()  # noqa: PLW0108 - another each time
    with Client(server.url, ensemble="pets") as client:
        assert client.info()["name"] == "pets"
        assert client.stats.retries == 3


def test_an_address_where_nobody_ever_answered_is_given_up_sooner(server, answers, monkeypatch):
    monkeypatch.setattr("soft_targets.servers.FIRST_ANSWER_S", 0.2)
    server.description = lambda: answers.gone(None)
    with (
        Client(server.url, ensemble="pets", retry_s=1e6) as client,
        pytest.raises(ServerUnreachable, match="check that the server runs there"),
    ):
        client.info()


# ------------------------------------------------------------------------------------------------------ waits


def waits(caplog):
    return [record.args[1] for record in caplog.records if record.name == "soft_targets"]


@pytest.mark.usefixtures("_short_rests")
def test_waits_grow(server, patient, answers, monkeypatch, caplog):
    monkeypatch.setattr("soft_targets.servers.LONGEST_WAIT_S", 0.02)
    caplog.set_level(logging.INFO, "soft_targets")
    rests = []
    chosen = patient._session.servers._servers[0]

    def refuses(asked):
        rests.append(chosen.failures)
        return answers.gone(asked) if asked.number < 7 else server.honest(asked)

    server.answer = refuses
    patient.soft_targets(answers.inputs(1))
    assert rests == list(range(8))
    assert chosen.failures == 0
    assert len(waits(caplog)) == 7


def test_requests_that_fail_together_are_one_failure(server, answers):
    """Else a server that was restarted would be left alone the longer, the more had been under way."""
    together = threading.Barrier(4, timeout=answers.patience_s)

    def fails(asked):
        together.wait()
        return answers.gone(asked)

    server.described["limits"]["max_rows_per_request"] = 1
    server.answer = fails
    with Client(server.url, ensemble="pets", connections=4, retry_s=0) as client:
        with pytest.raises(ServerUnreachable):
            client.soft_targets(answers.inputs(4))
        assert client._session.servers._servers[0].failures == 1


def test_retry_after_is_waited_for(server, patient, answers, caplog):
    caplog.set_level(logging.INFO, "soft_targets")
    server.answer = answers.first(answers.refused(503, "1"), then=server.honest)
    patient.soft_targets(answers.inputs(1))
    [then] = waits(caplog)
    assert then.startswith("trying again in 1.")


def test_a_server_that_wants_more_time_than_there_is_ends_it_at_once(server, answers):
    server.answer = lambda _: answers.refused(429, "30")
    with Client(server.url, ensemble="pets", retry_s=20) as client:
        with pytest.raises(RequestRefused, match="429") as caught:
            client.soft_targets(answers.inputs(1))
        assert client.stats.retries == 0
    assert caught.value.retry_after_s == 30
    assert caught.value.__notes__ == ["tried 1 time(s); a larger retry_s tries longer"]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, None),
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:00 -0000", 0),
        ("soon", None),
        ("-1", None),
        ("", None),
        ("1.5", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(said, seconds):
    assert _retry_after_s(said) == seconds


@pytest.mark.parametrize("usegmt", [True, False], ids=["GMT", "-0000"])
def test_retry_after_is_a_date_in_gmt_wherever_the_trainer_is(monkeypatch, usegmt):
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert 3500 < _retry_after_s(formatdate(time.time() + 3600, usegmt=usegmt)) <= 3600
    finally:
        monkeypatch.undo()
        time.tzset()


def test_load_is_said_once_it_lasts_and_an_outage_at_once(server, patient, answers, caplog):
    caplog.set_level(logging.INFO, "soft_targets")
    full = answers.refused(503, "0")
    server.answer = answers.first(full, full, answers.gone, then=server.honest)
    patient.soft_targets(answers.inputs(1))
    levels = [record.levelname for record in caplog.records if record.name == "soft_targets"]
    assert levels == ["INFO", "WARNING", "WARNING"]
    said = caplog.records[-1].getMessage()
    assert said.startswith(f"{server.url} cannot be reached")
    assert "trying again in 0." in said


# ----------------------------------------------------------------------------------------------------- budget


def test_a_budget_is_spent_and_earned_by_answers():
    budget = Budget(2, now=0.0)
    assert [budget.spend(now=0.0) for _ in range(33)] == [True] * 32 + [False]
    for _ in range(4):
        budget.earn(0.2, now=0.0)
    assert not budget.spend(now=0.0)
    budget.earn(0.2000001, now=0.0)
    assert budget.spend(now=0.0)
    assert not budget.spend(now=0.0)


def test_a_budget_survives_an_outage_of_an_hour():
    """As many questions as connections, each sent again every 5 s, as waits are at the longest."""
    budget = Budget(2, now=0.0)
    assert all(budget.spend(now=now) for now in range(0, 3600, 5) for _ in range(2))


def test_a_budget_does_not_grow_beyond_its_measure():
    budget = Budget(1, now=0.0)
    budget.earn(1000.0, now=1e6)
    assert [budget.spend(now=1e6) for _ in range(17)] == [True] * 16 + [False]


@pytest.mark.usefixtures("_short_rests")
def test_when_the_budget_is_spent_failures_are_errors(server, answers, monkeypatch):
    monkeypatch.setattr("soft_targets.servers.RETRIES_PER_CONNECTION", 3.0)
    server.answer = answers.gone
    with Client(server.url, ensemble="pets", connections=1, retry_s=answers.patience_s) as client:
        with pytest.raises(ServerUnreachable) as caught:
            client.soft_targets(answers.inputs(1))
        assert len(server.asked) == client.stats.retries + 1 >= 4
    assert "too many of the last requests failed to try again" in caught.value.__notes__[0]


def test_waiting_as_a_server_asks_costs_nothing_of_the_budget(server, answers, monkeypatch):
    """Servers under load say when to come again: that is how several trainers share one."""
    monkeypatch.setattr("soft_targets.servers.RETRIES_PER_CONNECTION", 0.0)
    full = answers.refused(503, "0")
    server.answer = answers.first(full, full, full, then=server.honest)
    with Client(server.url, ensemble="pets", connections=1) as client:
        client.soft_targets(answers.inputs(1))
        assert client.stats.retries == 3
