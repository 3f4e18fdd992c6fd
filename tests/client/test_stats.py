"""What was done, counted: whole snapshots that may be kept, sent and logged."""

import copy
import json
import math
import pickle
import threading
from dataclasses import FrozenInstanceError, asdict

import pytest

from soft_targets import Client, FailedRows, Stats
from soft_targets.stats import Tally


def test_nothing_was_done_yet():
    stats = Tally().stats
    assert (stats.rows, stats.requests, stats.rows_by_source) == (0, 0, {})
    assert math.isnan(stats.hit_rate)
    assert math.isnan(stats.stall)


def test_rows_are_counted_by_their_source_and_those_that_failed_are_no_targets():
    tally = Tally()
    tally.add(sources=["hit", "miss", "error", "hit"])
    tally.add(sources=["coalesced"], requests=2, retries=1, sent_bytes=30, received_bytes=400)
    stats = tally.stats
    assert stats.rows_by_source == {"hit": 2, "miss": 1, "error": 1, "coalesced": 1}
    assert (stats.rows, stats.requests, stats.retries) == (4, 2, 1)
    assert (stats.sent_bytes, stats.received_bytes) == (30, 400)
    assert stats.hit_rate == 0.5


def test_stall_is_the_share_of_the_time_that_was_waited():
    tally = Tally()
    tally.add(waited_s=1.0, elapsed_s=1.0)
    tally.add(waited_s=0.5, elapsed_s=5.0)
    assert tally.stats.stall == 0.25


def test_a_snapshot_stays_what_it_is():
    tally = Tally()
    tally.add(sources=["hit"])
    before = tally.stats
    tally.add(sources=["hit", "miss"])
    assert (before.rows, before.rows_by_source) == (1, {"hit": 1})
    with pytest.raises(FrozenInstanceError):
        before.rows = 2


def test_what_a_stream_does_its_client_does():
    client = Tally()
    one, other = Tally(client), Tally(client)
    one.add(sources=["hit"], requests=1)
    other.add(sources=["miss"], waited_s=1.0)
    assert (one.stats.rows, other.stats.rows, client.stats.rows) == (1, 1, 2)
    assert (client.stats.requests, client.stats.waited_s) == (1, 1.0)


def test_threads_lose_nothing():
    above = Tally()
    tally = Tally(above)
    together = threading.Barrier(6, timeout=30)

    def count():
        together.wait()
        for _ in range(200):
            tally.add(sources=["hit", "miss"], requests=1, sent_bytes=3)

    threads = [threading.Thread(target=count, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    for stats in (tally.stats, above.stats):
        assert (stats.rows, stats.requests, stats.sent_bytes) == (2400, 1200, 3600)
        assert stats.rows_by_source == {"hit": 1200, "miss": 1200}


@pytest.mark.parametrize("way", [copy.deepcopy, lambda stats: pickle.loads(pickle.dumps(stats))])
def test_stats_can_be_gathered_from_other_processes(way):
    stats = Stats(rows=3, rows_by_source={"hit": 1, "miss": 2}, retries=4, elapsed_s=2.5)
    assert way(stats) == stats
    assert way(Stats()) == Stats()


def test_stats_can_be_logged_as_json(client, answers):
    client.soft_targets(answers.inputs(3))
    assert json.loads(json.dumps(asdict(client.stats)))["rows_by_source"] == {"miss": 3}


def test_tries_that_failed_are_retries_and_no_requests(server, answers):
    server.answer = answers.first(answers.refused(503), then=server.honest)
    with Client(server.url, ensemble="pets") as client:
        client.soft_targets(answers.inputs(3))
        stats = client.stats
    assert (stats.requests, stats.retries, stats.rows) == (1, 1, 3)
    assert stats.sent_bytes == int(server.asked[1].headers["Content-Length"])


def test_rows_of_a_call_that_raised_are_not_handed_out_and_not_counted(server, client, answers):
    def failing(asked):
        rows = answers.rows_of(asked)
        rows.values[0], rows.sources[0], rows.errors[0] = None, "error", ("internal", "no")
        return answers.reply_of(asked, rows)

    server.answer = failing
    with pytest.raises(FailedRows):
        client.soft_targets(answers.inputs(3))
    assert (client.stats.rows, client.stats.requests) == (0, 1)
    client.soft_targets(answers.inputs(3), errors="keep")
    assert client.stats.rows == 2
    assert client.stats.rows_by_source["error"] == 1


def test_a_stream_counts_for_itself(client, answers):
    streams = [
        client.distill(range(batches), inputs=lambda seed: answers.inputs(2, seed)) for batches in (2, 3)
    ]
    for stream in streams:
        list(stream)
    assert [stream.stats.rows for stream in streams] == [4, 6]
    assert client.stats.rows == 10
    assert streams[0].stats.elapsed_s >= streams[0].stats.waited_s > 0
