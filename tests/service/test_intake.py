import pytest

from service.batching.intake import Intake, Load
from service.errors import QueueFull, TooLarge


def test_loads_are_counted_until_they_leave():
    intake = Intake(max_rows=10, max_bytes=100)
    with Load(intake) as one:
        one.add(size=60)
        one.add(rows=8)
        with Load(intake) as other:
            with pytest.raises(QueueFull):
                other.add(size=41)
            other.add(size=40)
            with pytest.raises(QueueFull):
                other.add(rows=3)
            assert (intake.rows, intake.size, intake.refused) == (8, 100, 2)
        assert (intake.rows, intake.size) == (8, 60)
    assert intake.size == 0


def test_what_would_not_fit_alone_is_too_large_and_not_refused_for_now():
    intake = Intake(max_rows=10, max_bytes=100)
    with Load(intake) as busy, Load(intake) as one:
        busy.add(rows=10, size=100)
        with pytest.raises(TooLarge, match="101 bytes; 10 and 100 are taken in at a time; split the rows"):
            one.add(size=101)
        with pytest.raises(TooLarge):
            one.add(rows=11)
    assert intake.refused == 0


def test_whatever_ends_a_request_gives_its_room_back():
    intake = Intake(max_rows=10, max_bytes=100)
    one = Load(intake)
    one.add(rows=3, size=3)
    one.__exit__(ValueError, ValueError("ended"), None)
    assert (intake.rows, intake.size) == (0, 0)
