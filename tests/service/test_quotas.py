"""Quotas of keys: rows a second, rows in flight, and when to come back. The clock is the test's."""

import time

import pytest

from service.batching.intake import Intake, Load
from service.batching.quotas import Quotas, quotas_of
from service.config import Limits
from service.errors import QuotaExceeded


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when the test says so; it begins with a window."""
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    return passes


def rate(rows_per_s, **changed):
    return Quotas(**{"rows_per_s": rows_per_s, "rows_in_flight": None, "largest": 10} | changed)


def in_flight(rows, **changed):
    return Quotas(**{"rows_per_s": None, "rows_in_flight": rows, "largest": 10} | changed)


async def test_rows_a_second_are_counted_by_key(clock):
    quotas = rate(20)
    await quotas.spend("one", 15)
    with pytest.raises(QuotaExceeded, match="per_s_per_key is 20, and the rows of the key 'one' came faster"):
        await quotas.spend("one", 6)
    await quotas.spend("other", 20)
    await quotas.spend("one", 5)
    clock(2)
    await quotas.spend("one", 20)


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
    quotas.enter("one", 13)
    with pytest.raises(QuotaExceeded):
        quotas.enter("one", 1)
    quotas = in_flight(40, processes=8)
    quotas.enter("one", 10)
    with pytest.raises(QuotaExceeded):
        quotas.enter("one", 1)


@pytest.mark.parametrize(("workers", "most"), [(1, 40), (3, 13), ("auto", 40)])
async def test_a_worker_grants_the_share_of_the_workers_that_are_configured(workers, most):
    quotas = quotas_of(Limits(max_rows_per_request=10, rows_in_flight_per_key=40), workers)
    quotas.enter("one", most)
    with pytest.raises(QuotaExceeded):
        quotas.enter("one", 1)
    assert quotas_of(Limits(), workers) is None


async def test_what_is_not_configured_is_not_counted():
    quotas = rate(1)
    quotas.enter("one", 10**9)
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
