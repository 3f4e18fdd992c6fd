"""A row id that stands twice is found, wherever the two are and however little is held at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bulk.data import open_dataset, row_ids
from service.bulk.data.row_ids import check_unique
from service.bulk.errors import DataError
from soft_targets.wire import TensorSpec

X = {"x": TensorSpec("<f4", (1,))}


def saved(folder, *files):
    for number, ids in enumerate(files):
        np.savez(folder / f"{number}.npz", x=np.zeros((len(ids), 1), np.float32), row_id=np.array(ids))
    return open_dataset(str(folder), X)


@pytest.mark.parametrize(
    "files",
    [
        [[5, 3, 9], [1, 2]],
        [[2**63 - 1, 0]],
        [["b", "a"], ["c", ""]],
        [list(range(1000)), list(range(2000, 1000, -1))],
        [["a", "b"], ["c"]],
    ],
)
@pytest.mark.parametrize("held", [1, 2, 7, 10_000])
def test_ids_that_differ(tmp_path, files, held):
    check_unique(saved(tmp_path, *files), held=held)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([[5, 3, 5]], "row_id 5 stands twice, in {0}/0.npz, row 0 and in {0}/0.npz, row 2"),
        ([[5, 3], [4, 3]], "row_id 3 stands twice, in {0}/0.npz, row 1 and in {0}/1.npz, row 1"),
        ([[1, 2], [2, 3]], "row_id 2 stands twice, in {0}/0.npz, row 1 and in {0}/1.npz, row 0"),
        ([["b", "a"], ["b"]], "row_id 'b' stands twice, in {0}/0.npz, row 0 and in {0}/1.npz, row 0"),
        ([["a", "a"]], "row_id 'a' stands twice, in {0}/0.npz, row 0 and in {0}/0.npz, row 1"),
    ],
)
@pytest.mark.parametrize("held", [1, 10_000])
def test_ids_that_do_not(tmp_path, files, message, held):
    with pytest.raises(DataError) as caught:
        check_unique(saved(tmp_path, *files), held=held)
    assert str(caught.value) == message.format(tmp_path) + "; each row needs its own"


def test_many_ids_in_many_passes(tmp_path):
    ids = np.random.default_rng(0).permutation(20_000)
    check_unique(saved(tmp_path, ids), held=3000)
    ids[19_999] = ids[7]
    with pytest.raises(DataError, match=rf"row_id {ids[7]} stands twice, in .*, row 7 and in .*, row 19999"):
        check_unique(saved(tmp_path, ids), held=3000)


def test_ids_that_share_their_low_bits_are_spread_over_the_passes(tmp_path):
    ids = np.random.default_rng(0).permutation(4096).astype(np.uint64) * np.uint64(2**20)
    shares = [
        len(row_ids._share(row_ids._hashes(next(saved(tmp_path, ids).ids())), 8, one)) for one in range(8)
    ]
    assert sum(shares) == 4096
    assert max(shares) < 2 * 4096 / 8


def test_texts_of_one_hash_are_told_apart(tmp_path, monkeypatch):
    data = saved(tmp_path, ["b", "a", "d", "c"])
    monkeypatch.setattr(row_ids, "_hashes", lambda ids: np.zeros(len(ids), np.uint64))
    check_unique(data)
    with pytest.raises(DataError, match="'b' stands twice"):
        check_unique(saved(tmp_path, ["b", "a"], ["b"]))


@given(st.lists(st.integers(0, 12), max_size=12), st.integers(1, 5))
def test_as_a_set_would_say(tmp_path_factory, ids, held):
    path = tmp_path_factory.mktemp("ids") / "x.npz"
    np.savez(path, x=np.zeros((len(ids), 1), np.float32), row_id=np.array(ids, np.int64))
    data = open_dataset(str(path), X)
    if len(set(ids)) == len(ids):
        check_unique(data, held=held)
    else:
        with pytest.raises(DataError):
            check_unique(data, held=held)
