import array_api_strict
import numpy as np
import pytest
import torch

from operators import InvalidParameter
from operators.simplex import REFERENCE, log_softmax, logsumexp, top_k

LIBRARIES = {
    "numpy": np.asarray,
    "torch": torch.asarray,
    "strict": array_api_strict.asarray,
}


def plainly(rows, k):
    """Sort each row as Python would, and add the rest up."""
    indices = np.asarray(
        [sorted(range(len(row)), key=lambda c, row=row: (-row[c], c))[:k] for row in rows.tolist()]
    )
    rest = rows.astype(np.float64)
    np.put_along_axis(rest, indices, -np.inf, axis=-1)
    return indices, np.take_along_axis(rows, indices, axis=-1), logsumexp(rest)


def agrees(found, expected, *, tolerance):
    indices, kept, tail = (np.asarray(part) for part in found)
    assert indices.dtype == np.int32
    assert (indices == expected[0]).all()
    assert (kept == expected[1]).all()
    assert kept.dtype == tail.dtype
    np.testing.assert_allclose(tail, expected[2], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["smooth", "coarse", "few", "floored", "equal"])
@pytest.mark.parametrize("k", [1, 2, 7, 29, 30])
def test_agrees_with_a_plain_sort(library, dtype, kind, k):
    rng = np.random.default_rng(k)
    logits = rng.normal(size=(40, 30)) * 4
    if kind == "coarse":
        logits = np.round(logits)
    elif kind == "few":
        logits[rng.random(logits.shape) < 0.8] = -np.inf
        logits[:, 3] = 0
    elif kind == "floored":
        logits = np.maximum(logits, 0)
    elif kind == "equal":
        logits[:] = 0
    rows = log_softmax(logits).astype(dtype)
    found = top_k(LIBRARIES[library](rows), k)
    agrees(found, plainly(rows, k), tolerance=1e-12 if dtype == np.float64 else 2e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_ties_go_to_the_lower_index_inside_and_at_the_cut(library):
    rows = np.log([[0.1, 0.3, 0.1, 0.3, 0.1, 0.1], [0.2, 0.1, 0.2, 0.2, 0.2, 0.1]])
    indices, _, tail = top_k(LIBRARIES[library](rows), 3)
    assert np.asarray(indices).tolist() == [[1, 3, 0], [0, 2, 3]]
    assert np.exp(np.asarray(tail)).tolist() == pytest.approx([0.3, 0.4])


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_empty_tail_is_minus_infinity(library):
    _, kept, tail = top_k(LIBRARIES[library](np.log([[0.25, 0.75], [0.5, 0.5]])), 2)
    assert np.asarray(tail).tolist() == [-np.inf, -np.inf]
    assert np.exp(np.asarray(kept)) == pytest.approx(np.asarray([[0.75, 0.25], [0.5, 0.5]]))


def test_a_tail_far_below_the_rounding_of_one_is_exact():
    rows = np.full((1, 1000), np.log(1e-13), dtype=np.float32)
    rows[0, 0] = 0
    _, _, tail = top_k(rows, 1)
    assert tail[0] == pytest.approx(np.log(999e-13), rel=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_nan_sorts_last_disturbs_no_other_row_and_shows(library, k):
    rows = np.log([[0.4, 0.1, 0.1, 0.2, 0.2], [0.1, 0.2, 0.2, 0.1, 0.4]])
    whole = top_k(LIBRARIES[library](rows), k)
    for broken in ([3], [0, 1, 4], [0, 1, 2, 3, 4]):
        spoilt = rows.copy()
        spoilt[0, broken] = np.nan
        found = top_k(LIBRARIES[library](spoilt), k)
        assert all((np.asarray(a)[1] == np.asarray(b)[1]).all() for a, b in zip(found, whole, strict=True))
        reference = REFERENCE["top_k"](array_api_strict.asarray(spoilt), k)
        assert (np.asarray(found[0]) == np.asarray(reference[0])).all()
        shown = np.isnan(np.asarray(found[1])[0]).any() or np.isnan(np.asarray(found[2])[0])
        assert shown


@pytest.mark.parametrize("k", [1, 3, 5])
def test_shapes(k):
    for batch in ((), (0,), (1,), (4,), (2, 3)):
        rows = log_softmax(np.random.default_rng(0).normal(size=(*batch, 5)))
        indices, kept, tail = top_k(rows, k)
        assert (indices.shape, kept.shape, tail.shape) == ((*batch, k), (*batch, k), batch)
        assert indices.dtype == np.int32


@pytest.mark.parametrize("k", [0, 6, -1, True, 2.0, None, "2"])
def test_k_out_of_range_is_refused_with_the_range(k):
    with pytest.raises(InvalidParameter, match="integer from 1 to the number of classes, 5"):
        top_k(np.zeros((2, 5)), k)


@pytest.mark.parametrize("layout", ["fortran", "strided", "read-only"])
def test_any_layout_and_no_argument_is_modified(layout):
    plain = log_softmax(np.random.default_rng(1).normal(size=(6, 20)).round(1))
    rows = {
        "fortran": np.asfortranarray(plain),
        "strided": np.repeat(plain, 2, axis=1)[:, ::2],
        "read-only": plain.copy(),
    }[layout]
    rows.flags.writeable = False
    before = rows.tobytes()
    agrees(top_k(rows, 4), plainly(plain, 4), tolerance=1e-12)
    assert rows.tobytes() == before
