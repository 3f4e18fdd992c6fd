"""How far ahead a stream asks."""

import threading

import pytest

from soft_targets import Client, InputError
from soft_targets.prefetching import Window


def fits(window, rows, size_bytes):
    """Whether a batch is let in at once; it is taken out again."""
    inside = threading.Event()

    def enter():
        if window.enter(rows=rows, size_bytes=size_bytes):
            inside.set()

    entering = threading.Thread(target=enter, daemon=True)
    entering.start()
    entering.join(0.05)
    came = inside.is_set()
    if not came:
        window.close()
        entering.join(30)
    return came


@pytest.mark.parametrize(
    ("rows", "size_bytes", "let_in"),
    [(10, 100, True), (90, 900, True), (91, 100, False), (10, 901, False)],
)
def test_rows_and_bytes_are_bounded_together(rows, size_bytes, let_in):
    window = Window(batches=5, rows=100, bytes=1000)
    assert window.enter(rows=10, size_bytes=100)
    assert fits(window, rows, size_bytes) == let_in


def test_one_batch_is_always_let_in():
    window = Window(batches=1, rows=1, bytes=1)
    assert fits(window, 10**6, 10**12)


def test_batches_are_bounded_before_they_are_read():
    window = Window(batches=2, rows=100, bytes=1000)
    for _ in range(2):
        assert window.wait_for_a_batch()
        assert window.enter(rows=1, size_bytes=1)
    waited = []
    waiting = threading.Thread(target=lambda: waited.append(window.wait_for_a_batch()), daemon=True)
    waiting.start()
    window.leave(rows=1, size_bytes=1)
    waiting.join(30)
    assert waited == [True]


def test_what_left_makes_room():
    window = Window(batches=5, rows=100, bytes=1000)
    window.enter(rows=100, size_bytes=10)
    entered = []
    entering = threading.Thread(
        target=lambda: entered.append(window.enter(rows=50, size_bytes=10)), daemon=True
    )
    entering.start()
    window.leave(rows=100, size_bytes=10)
    entering.join(30)
    assert entered == [True]


def test_closing_lets_nobody_wait():
    window = Window(batches=1, rows=1, bytes=1)
    window.enter(rows=1, size_bytes=1)
    window.close()
    assert not window.wait_for_a_batch()
    assert not window.enter(rows=1, size_bytes=1)


@pytest.mark.parametrize(
    "bound", [{"prefetch": 1}, {"prefetch_rows": 5}, {"prefetch_bytes": 400}, {"prefetch_bytes": 1}]
)
def test_a_stream_asks_no_further_ahead_than_its_bounds(server, answers, bound):
    """While no batch is taken, what is asked for stays within them; taken ones make room for as many."""
    asked, lock = [], threading.Semaphore(0)

    def answer(one):
        asked.append(len(one.row_ids))
        lock.release()
        return server.honest(one)

    server.answer = answer
    with Client(server.url, ensemble="pets", connections=4) as client:
        stream = client.distill(
            range(6), inputs=lambda seed: answers.inputs(4, seed), **{"prefetch": 6, **bound}
        )
        for taken, _ in enumerate(stream, start=1):
            # One batch of four rows, or of some 300 bytes, is as far ahead as these bounds allow.
            assert len(asked) <= taken + 1
    assert len(asked) == 6


@pytest.mark.parametrize("name", ["prefetch", "prefetch_rows", "prefetch_bytes"])
def test_bounds_are_at_least_one(client, name):
    with pytest.raises(InputError, match=f"{name} must be at least 1, not 0"):
        client.distill([], inputs=None, **{name: 0})
