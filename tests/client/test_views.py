import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from soft_targets import Client, InputError, Views, view_seed


def jitter(row, generator):
    return row + generator.normal(size=row.shape).astype(np.float32)


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)


def all_of(views):
    return np.stack([views[i] for i in range(len(views))])


def test_a_view_comes_again_after_as_many_epochs_as_there_are_views(rows):
    views = Views(rows, jitter, views=3)
    seen = []
    for epoch in range(7):
        views.set_epoch(epoch)
        seen.append(all_of(views))
    for epoch in range(4):
        np.testing.assert_array_equal(seen[epoch], seen[epoch + 3])
    assert len({epoch.tobytes() for epoch in seen}) == 3
    assert len({row.tobytes() for epoch in seen for row in epoch}) == 3 * 12


def test_rows_views_and_seeds_each_make_another_seed():
    seeds = {view_seed(row, view, seed=s) for row in (7, "7", 8) for view in (0, 1) for s in (0, 1)}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert view_seed(np.int64(7), 1) == view_seed(7, 1) == 3200109086067516714
    torch.Generator().manual_seed(view_seed("a", 0))


def test_another_seed_makes_other_views(rows):
    assert not np.array_equal(
        all_of(Views(rows, jitter, views=1)), all_of(Views(rows, jitter, views=1, seed=1))
    )


def test_places_count_from_the_end_too_and_end(rows):
    views = Views(rows, jitter, views=2)
    np.testing.assert_array_equal(views[-1], views[11])
    assert len(views) == 12
    with pytest.raises(IndexError):
        views[12]


def test_there_is_at_least_one_view(rows):
    with pytest.raises(InputError, match="views must be at least 1, not 0"):
        Views(rows, jitter, views=0)


def test_the_worker_processes_of_a_loader_hear_of_the_epoch(rows):
    views = Views(rows, jitter, views=2)
    # They outlive the epoch, so what they were handed at their start is old by then.
    loader = DataLoader(
        views, batch_size=4, num_workers=1, persistent_workers=True, multiprocessing_context="fork"
    )
    for epoch in range(3):
        views.set_epoch(epoch)
        came = torch.cat(list(loader)).numpy()
        np.testing.assert_array_equal(came, all_of(views))


@pytest.mark.parametrize(("views", "epochs"), [(1, 4), (2, 6), (3, 3)])
def test_the_hit_rate_is_what_is_promised(server, rows, views, epochs):
    data = Views(rows, jitter, views=views)
    loader = DataLoader(data, batch_size=5)
    with Client(server.url, ensemble="pets") as client:
        stream = client.distill(loader, inputs=lambda batch: {"pixels": batch, "caption": [""] * len(batch)})
        for epoch in range(epochs):
            data.set_epoch(epoch)
            assert sum(len(targets) for _, targets in stream) == 12
        assert stream.stats.hit_rate == pytest.approx(1 - views / epochs)
