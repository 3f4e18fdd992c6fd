"""Quotas of keys: rows a second, rows in flight, and when to come back. The clock is the test's."""

import time
from collections import Counter

import pytest

from service.batching.intake import Intake, Load
from service.batching.quotas import Quotas, quotas_of
from service.config import Limits
from service.errors import QueueFull, QuotaExceeded, TooLarge


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when the test says so; it begins with a window."""
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    return passes


NONE = {"rows_per_s": None, "rows_in_flight": None, "bytes_in_flight": None, "largest": 10}


def rate(rows_per_s, **changed):
    return Quotas(**NONE | {"rows_per_s": rows_per_s} | changed)


def in_flight(rows, **changed):
    return Quotas(**NONE | {"rows_in_flight": rows} | changed)


def in_flight_more(quotas, key, rows, size=0):
    quotas.check_in_flight(key, rows=rows, size=size)
    quotas.enter(key, rows=rows, size=size)


async def test_rows_a_second_are_counted_by_key(clock):
    quotas = rate(20)
    await quotas.spend("one", 15)
    await quotas.spend("one", 5)
    with pytest.raises(QuotaExceeded, match="per_s_per_key is 20, and the rows of the key 'one' came faster"):
        await quotas.spend("one", 1)
    await quotas.spend("other", 20)
    clock(2)
    await quotas.spend("one", 20)


async def test_what_is_asked_for_beyond_what_is_left_is_owed_and_paid_first(clock):
    quotas = rate(20)
    await quotas.spend("one", 19)
    await quotas.spend("one", 10)  # 9 of them are owed
    for _ in range(2):
        with pytest.raises(QuotaExceeded) as told:
            await quotas.spend("one", 1)
    await quotas.spend("other", 10)
    clock(told.value.retry_after_s)
    await quotas.spend("one", 1)


async def test_who_asks_for_many_rows_is_not_held_up_for_ever_by_who_asks_for_few(clock):
    """All of one key; each comes back when it is told to."""
    quotas = rate(100, largest=256)
    due = {"many": 0.0, **{f"few {place}": 0.01 * place for place in range(4)}}
    got, seconds = Counter(), 600
    now = 0.0
    while now < seconds:
        who = min(due, key=due.get)
        clock(due[who] - now)
        now = due[who]
        rows = 256 if who == "many" else 8
        try:
            await quotas.spend("one", rows)
            got[who] += rows
            due[who] += 0.05
        except QuotaExceeded as exc:
            due[who] += exc.retry_after_s
    assert got["many"] > 0.1 * seconds * 100
    assert min(got.values()) > 0
    assert 0.8 * seconds * 100 < sum(got.values()) < seconds * 100 + 3 * 256


@pytest.mark.parametrize("rows_per_s", [1, 3, 7, 20])
@pytest.mark.parametrize("asked", [1, 4, 10])
async def test_who_comes_back_as_told_is_let_in_and_a_second_before_is_not(clock, rows_per_s, asked):
    quotas, refusals = rate(rows_per_s), 0
    for step in range(400):
        try:
            await quotas.spend("one", asked)
        except QuotaExceeded as exc:
            refusals += 1
            clock(exc.retry_after_s - 1)
            if exc.retry_after_s > 1:
                with pytest.raises(QuotaExceeded):
                    await quotas.spend("one", asked)
            clock(1.001)
            await quotas.spend("one", asked)
        clock(0.001 * (step % 7))
    assert refusals


async def test_in_the_long_run_a_key_gets_its_rate_and_a_window_more_at_most(clock):
    quotas, granted = rate(5), 0  # windows of four seconds
    for _ in range(1000):
        try:
            await quotas.spend("greedy", 1)
            granted += 1
        except QuotaExceeded:
            pass
        clock(0.1)
    assert 470 <= granted <= 5 * 100 + 20


@pytest.mark.parametrize("processes", [1, 3, 8])
async def test_processes_share_a_rate_and_any_one_request_fits_in(clock, processes):
    shares = [rate(6, processes=processes) for _ in range(processes)]
    granted, seconds = 0, 400
    for _ in range(seconds):
        for quotas in shares:
            try:
                await quotas.spend("spread", 10)
                granted += 10
            except QuotaExceeded:
                pass
        clock(1)
    assert 0.5 * 6 * seconds <= granted <= 6 * seconds + 20 * processes


async def test_processes_share_rows_in_flight_but_one_request_always_fits_in():
    quotas = in_flight(40, processes=3)
    in_flight_more(quotas, "one", 13)
    with pytest.raises(QuotaExceeded):
        in_flight_more(quotas, "one", 1)
    quotas = in_flight(40, processes=8)
    in_flight_more(quotas, "one", 10)
    with pytest.raises(QuotaExceeded):
        in_flight_more(quotas, "one", 1)


@pytest.mark.parametrize(("workers", "most"), [(1, 40), (3, 13), ("auto", 40)])
async def test_a_worker_grants_the_share_of_the_workers_that_are_configured(workers, most):
    quotas = quotas_of(Limits(max_rows_per_request=10, rows_in_flight_per_key=40), workers)
    in_flight_more(quotas, "one", most)
    with pytest.raises(QuotaExceeded):
        in_flight_more(quotas, "one", 1)
    assert quotas_of(Limits(), workers) is None


async def test_what_is_not_configured_is_not_counted():
    quotas = rate(1)
    in_flight_more(quotas, "one", 10**9)
    quotas = in_flight(10)
    await quotas.spend("one", 10**9)


async def test_rows_in_flight_are_a_key_s_own_until_they_leave():
    intake = Intake(max_rows=100, max_bytes=100, quotas=in_flight(12))
    with Load(intake, "one") as first, Load(intake, "one") as second, Load(intake, "other") as other:
        await first.take(rows=10)
        await second.admit()
        with pytest.raises(QuotaExceeded, match=r"10 rows of the key 'one' are being answered") as told:
            await second.take(rows=3)
        assert told.value.retry_after_s == 1
        await second.take(rows=2)
        with Load(intake, "one") as third, pytest.raises(QuotaExceeded):
            await third.admit()
        await other.take(rows=12)
    assert intake.rows == 0
    with Load(intake, "one") as again:
        await again.take(rows=12)


async def test_a_key_has_its_share_of_the_bytes_in_flight_and_one_request_always_fits_in():
    intake = Intake(max_rows=100, max_bytes=100, quotas=in_flight(50, bytes_in_flight=50))
    with Load(intake, "one") as first:
        first.add(size=40)
        first.add(size=40)  # alone, it may have more
        with (
            Load(intake, "one") as second,
            pytest.raises(QuotaExceeded, match="of the key 'one' have 80 byt"),
        ):
            second.add(size=1)
        with Load(intake, "other") as other:
            other.add(size=20)
    with Load(intake, "one") as first, Load(intake, "one") as second:
        first.add(size=25)
        second.add(size=25)
        with pytest.raises(QuotaExceeded):
            second.check(size=1)
    assert quotas_of(Limits(rows_in_flight_per_key=8192), 1)._most_bytes == 1 << 29


async def test_what_is_announced_takes_no_room():
    intake = Intake(max_rows=100, max_bytes=100)
    with Load(intake) as one, Load(intake) as other:
        one.check(size=100)
        other.add(size=60)
        with pytest.raises(QueueFull):
            one.check(size=41)
        with pytest.raises(TooLarge):
            one.check(size=101)


async def test_nothing_is_read_for_who_has_no_row_left(clock):
    intake = Intake(max_rows=100, max_bytes=100, quotas=rate(20))
    with Load(intake) as load:
        await load.take(rows=20)
    with Load(intake) as load, pytest.raises(QuotaExceeded, match="the rows came faster"):
        await load.admit()
    clock(2)
    with Load(intake) as load:
        await load.admit()


@pytest.mark.usefixtures("clock")
async def test_rows_that_are_refused_for_load_are_not_spent():
    intake = Intake(max_rows=10, max_bytes=100, quotas=rate(20))
    with Load(intake, "other") as other:
        await other.take(rows=10)
        for _ in range(5):
            with Load(intake, "one") as load, pytest.raises(Exception, match="too much is being answered"):
                await load.take(rows=10)
    with Load(intake, "one") as load:
        await load.take(rows=10)
