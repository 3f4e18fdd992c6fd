import math

import array_api_strict
import numpy as np
import pytest
import torch

from operators import InvalidParameter, UnknownPrimitive, native, simplex
from operators.simplex import (
    REFERENCE,
    copy,
    entropy,
    floor,
    log_softmax,
    logsumexp,
    register,
    soften,
    weighted_logsumexp,
    weighted_sum,
)

INF = math.inf
SPECIAL = [
    [0.0, 1.0, 2.0, 3.0],
    [-INF, 0.0, 0.0, -INF],
    [-INF, -INF, -INF, -INF],
    [math.nan, 0.0, 1.0, 1000.0],
    [math.nan, -INF, -INF, -INF],
    [INF, 0.0, 1000.0, -INF],
    [1e4, 1e4, 0.0, -1e4],
    [-1e4, -1e4, -1e4, -INF],
]
LIBRARIES = {"numpy": np.asarray, "torch": torch.asarray, "strict": array_api_strict.asarray}
each_library = pytest.mark.parametrize("asarray", LIBRARIES.values(), ids=LIBRARIES)


def normalised(rng, *shape, scale=3.0):
    return log_softmax(rng.normal(size=shape) * scale)


@each_library
def test_log_softmax_decides_every_degenerate_row(asarray):
    found = np.asarray(log_softmax(asarray(np.asarray(SPECIAL))))
    half, third = math.log(0.5), math.log(1 / 3)
    total = math.log(1 + math.e + math.e**2 + math.e**3)
    assert found[0] == pytest.approx([x - total for x in (0, 1, 2, 3)])
    assert found[1].tolist() == [-INF, half, half, -INF]
    assert np.isnan(found[2:6]).all()
    assert found[6] == pytest.approx([half, half, half - 1e4, half - 2e4])
    assert found[7] == pytest.approx([third, third, third, -INF])


@each_library
def test_logsumexp_decides_every_degenerate_row(asarray):
    found = np.asarray(logsumexp(asarray(np.asarray(SPECIAL))))
    assert found[[0, 1, 6, 7]] == pytest.approx(
        [math.log(1 + math.e + math.e**2 + math.e**3), math.log(2), 1e4 + math.log(2), math.log(3) - 1e4]
    )
    assert found[2] == -INF
    assert np.isnan(found[3:6]).all()


@each_library
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_logsumexp_reduces_any_axis(asarray, axis):
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    found = np.asarray(logsumexp(asarray(x), axis))
    np.testing.assert_allclose(found, np.log(np.exp(x).sum(axis=axis)), rtol=1e-12)


@each_library
def test_weighted_reductions_never_look_at_a_weightless_teacher(asarray):
    x = np.log([[[0.9, 0.1]], [[0.5, 0.5]], [[0.5, 0.5]]])
    x[2] = [[math.nan, -INF]]
    w = asarray(np.asarray([[0.25], [0.75], [0.0]]))
    assert np.exp(np.asarray(weighted_logsumexp(asarray(x), w))) == pytest.approx(np.asarray([[0.6, 0.4]]))
    expected = 0.25 * x[0] + 0.75 * x[1]
    assert np.asarray(weighted_sum(asarray(x), w)) == pytest.approx(expected)


@each_library
def test_weighted_logsumexp_of_impossible_and_of_invalid_classes(asarray):
    x = np.asarray([[[-INF, -INF, -INF, -800.0]], [[-INF, 0.0, math.nan, -800.0]]])
    found = np.asarray(weighted_logsumexp(asarray(x), asarray(np.asarray([[0.5], [0.5]]))))[0]
    assert found[0] == -INF
    assert found[1] == pytest.approx(math.log(0.5))
    assert np.isnan(found[2])
    assert found[3] == pytest.approx(-800)


@each_library
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1, 2.0, 10, 100.0])
def test_soften_against_the_formula(asarray, temperature):
    x = normalised(np.random.default_rng(1), 6, 9)
    p = np.exp(x) ** (1 / temperature)
    expected = np.log(p / p.sum(axis=-1, keepdims=True))
    for given in (temperature, asarray(np.full((6, 1), float(temperature)))):
        np.testing.assert_allclose(np.asarray(soften(asarray(x), given)), expected, rtol=1e-10)


@each_library
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_soften_takes_a_temperature_per_row_and_leaves_ones_bit_for_bit(asarray, dtype):
    x = normalised(np.random.default_rng(2), 5, 7).astype(dtype)
    x[0, 3] = -INF
    temperatures = np.asarray([[1.0], [2.0], [1.0], [0.5], [4.0]])
    found = np.asarray(soften(asarray(x), asarray(temperatures)))
    assert found.dtype == dtype
    assert found[[0, 2]].tobytes() == x[[0, 2]].tobytes()
    for row in (1, 3, 4):
        alone = np.asarray(soften(asarray(x), float(temperatures[row, 0])))[row]
        assert found[row].tobytes() == alone.tobytes()
    ones = np.asarray(soften(asarray(x), asarray(np.ones((5, 1)))))
    assert ones.tobytes() == np.asarray(soften(asarray(x), 1)).tobytes() == x.tobytes()


@each_library
def test_soften_keeps_the_support_and_flattens_it(asarray):
    x = asarray(np.log([[0.9, 0.1, 1.0]]) + np.asarray([[0, 0, -INF]]))
    found = np.asarray(soften(x, 1e7))
    assert found == pytest.approx(np.asarray([[math.log(0.5), math.log(0.5), -INF]]), abs=1e-6)


def test_soften_does_not_promote_for_a_numpy_scalar():
    assert soften(np.zeros((1, 1), dtype=np.float32), np.float64(2)).dtype == np.float32


@each_library
@pytest.mark.parametrize("epsilon", [1e-300, 1e-12, 1e-6, 0.01, 0.5, 0.999])
def test_floor_against_the_formula(asarray, epsilon):
    x = normalised(np.random.default_rng(3), 6, 9)
    x[0, 4] = -INF
    found = np.asarray(floor(asarray(x), epsilon))
    expected = np.log((1 - epsilon) * np.exp(x) + epsilon / 9)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-15)
    assert (found >= math.log(epsilon / 9)).all()


def test_floor_lifts_what_float32_cannot_hold_as_a_probability():
    x = np.asarray([[0.0, -200.0, -INF]], dtype=np.float32)
    found = floor(x, 1e-60)
    assert found.dtype == np.float32
    assert found[0] == pytest.approx([0, math.log(1e-60 / 3), math.log(1e-60 / 3)], rel=1e-6)


def test_floor_leaves_an_invalid_class_invalid():
    assert np.isnan(floor(np.asarray([[math.nan, 0.0]]), 0.1)).tolist() == [[True, False]]


@pytest.mark.parametrize("epsilon", [0, 1, -0.1, 1.5, math.nan, INF, True, "0.1", None])
def test_a_floor_out_of_range_is_refused(epsilon):
    with pytest.raises(InvalidParameter, match="between 0 and 1, both excluded"):
        floor(np.zeros((1, 2)), epsilon)


@each_library
def test_copy_is_new_and_of_the_same_bits(asarray):
    x = np.asarray([-0.0, 0.0, -INF, 5e-324, 1.0])
    given = asarray(x.copy())
    copied = copy(given)
    given[0] = 3.0
    assert np.asarray(copied).tobytes() == x.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("primitive", sorted(REFERENCE.keys() - {"iterate", "matmul"}))
def test_numpys_own_versions_agree_with_the_references(primitive, dtype):
    rng = np.random.default_rng(4)
    x = normalised(rng, 3, 8, 11).astype(dtype)
    x[rng.random(x.shape) < 0.1] = -INF
    x[1, 2] = math.nan
    x[0, 3] = -INF
    w = rng.dirichlet(np.ones(3), 8).T.astype(dtype)
    w[1, :4] = 0
    arguments = {
        "log_softmax": (x,),
        "logsumexp": (x, -1),
        "soften": (x, np.asarray(rng.choice([1, 2, 5], size=(8, 1)), dtype=dtype)),
        "top_k": (x[0], 4),
        "weighted_logsumexp": (x, w),
        "weighted_sum": (x, w),
    }[primitive]
    own = getattr(native, primitive)(*arguments)
    strict = [array_api_strict.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments]
    reference = REFERENCE[primitive](*strict)
    if primitive != "top_k":
        own, reference = (own,), (reference,)
    for one, other in zip(own, reference, strict=True):
        tolerance = 1e-12 if dtype == np.float64 else 2e-6
        np.testing.assert_allclose(one, np.asarray(other), rtol=tolerance, atol=tolerance)
        assert one.dtype == np.asarray(other).dtype


def test_a_registered_version_serves_its_library_alone(monkeypatch):
    monkeypatch.setattr(simplex, "_NATIVE", dict(simplex._NATIVE))
    register("log_softmax", "torch", lambda x: torch.log_softmax(x, -1) + 100)
    assert float(log_softmax(torch.zeros(1, 1))[0, 0]) == 100
    assert float(log_softmax(np.zeros((1, 1)))[0, 0]) == 0
    assert float(log_softmax(array_api_strict.zeros((1, 1)))[0, 0]) == 0


def test_a_version_of_an_unknown_primitive_is_refused():
    with pytest.raises(UnknownPrimitive, match="did you mean log_softmax"):
        register("logsoftmax", "torch", lambda x: x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpys_own_iteration_and_product_agree_with_the_references(dtype):
    x = np.random.default_rng(5).normal(size=(3, 8, 4)).astype(dtype)
    matrix = np.random.default_rng(6).normal(size=(4, 4)).astype(dtype)

    def step(state):
        return state[0] / 2, state[1] + 1

    pairs = zip(REFERENCE["iterate"](step, (x, x), 3), native.iterate(step, (x, x), 3), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    np.testing.assert_allclose(native.matmul(x, matrix), REFERENCE["matmul"](x, matrix), rtol=1e-5, atol=1e-6)


@each_library
def test_entropy_is_exact_next_to_one_hots_and_where_two_classes_are_a_hair_above_a_half(asarray):
    hair = math.log(0.5) * (1 - 2.0**-52)
    sure = [math.log1p(-1e-12), math.log(1e-12)]
    rows = np.array([sure, [hair, hair], [math.log(0.75), math.log(0.25)], [0.0, -INF]])
    expected = [1e-12 * (1 + 12 * math.log(10)), math.log(2), 2 * math.log(2) - 0.75 * math.log(3), 0.0]
    np.testing.assert_allclose(np.asarray(entropy(asarray(rows))), expected, rtol=1e-11, atol=0)
