"""The same source on numpy, torch and the strict reference of the array API standard."""

import math

import array_api_strict
import numpy as np
import pytest
import torch

from operators import BUILTIN, holder, linear, make, simplex
from operators.simplex import floor, log_softmax, logsumexp, soften

EVERY = [
    *(make(name) for name in sorted(BUILTIN)),
    *(holder(exponent=r) for r in (-2, -0.05, 0, 0.05, 2)),
]
NAMES = [f"{operator.name}{dict(operator.parameters).get('exponent', '')}" for operator in EVERY]
each_operator = pytest.mark.parametrize("operator", EVERY, ids=NAMES)


def profile(dtype=np.float64):
    """Ordinary rows, and one of each: teacher absent and NaN, class impossible, row invalid, row disjoint."""
    rng = np.random.default_rng(0)
    log_probs = log_softmax(rng.normal(size=(3, 8, 12)) * 6)
    weights = rng.dirichlet(np.ones(3), 8).T
    weights[1, 0] = 0
    log_probs[1, 0] = math.nan
    log_probs[0, 1, 4] = -math.inf
    log_probs[2, 2] = math.nan
    log_probs[:, 3] = np.where(np.eye(3, 12) > 0, 0, -math.inf)
    weights /= weights.sum(axis=0)
    return log_probs.astype(dtype), weights.astype(dtype)


@pytest.fixture
def references_only(monkeypatch):
    monkeypatch.setattr(simplex, "_NATIVE", {})


@each_operator
@pytest.mark.usefixtures("references_only")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_strict_is_bit_equal_to_numpys_reference(operator, dtype):
    log_probs, weights = profile(dtype)
    expected = operator.fuse(log_probs, weights)
    found = np.asarray(operator.fuse(array_api_strict.asarray(log_probs), array_api_strict.asarray(weights)))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


@each_operator
@pytest.mark.parametrize("asarray", [array_api_strict.asarray, torch.asarray], ids=["strict", "torch"])
def test_agrees_with_numpy(operator, asarray):
    log_probs, weights = profile()
    found = operator.fuse(asarray(log_probs), asarray(weights))
    np.testing.assert_allclose(np.asarray(found), operator.fuse(log_probs, weights), rtol=1e-12, atol=1e-12)


@each_operator
def test_torch_float32_agrees_with_numpy_float64(operator):
    log_probs, weights = profile(np.float32)
    found = operator.fuse(torch.asarray(log_probs), torch.asarray(weights))
    assert found.dtype == torch.float32
    expected = operator.fuse(log_probs.astype(np.float64), weights.astype(np.float64))
    seen = expected > -80
    np.testing.assert_allclose(found.numpy()[seen], expected[seen], rtol=1e-6, atol=1e-5)
    assert (np.isnan(found.numpy()) == np.isnan(expected)).all()


@pytest.mark.usefixtures("references_only")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_primitives_on_strict_are_bit_equal_to_numpys_references(dtype):
    log_probs, weights = profile(dtype)
    temperatures = np.linspace(1, 4, 8, dtype=dtype)[:, None]
    for primitive, arguments in {
        log_softmax: (log_probs,),
        logsumexp: (log_probs, 0),
        simplex.weighted_logsumexp: (log_probs, weights),
        simplex.weighted_sum: (log_probs, weights),
        soften: (log_probs, temperatures),
        floor: (log_probs, 1e-6),
    }.items():
        strict = [array_api_strict.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments]
        np.testing.assert_array_equal(np.asarray(primitive(*strict)), primitive(*arguments))


@each_operator
def test_torch_gradients_reach_weights_and_teachers(operator):
    """Finite wherever a pool exists, also beside an absent NaN teacher, and right."""
    log_probs, weights = (torch.asarray(array) for array in profile())
    ordinary = [0, *range(4, 8)]
    log_probs, weights = log_probs[:, ordinary].requires_grad_(), weights[:, ordinary].requires_grad_()
    operator.fuse(log_probs, weights)[..., 0].sum().backward()
    assert torch.isfinite(log_probs.grad).all()
    assert torch.isfinite(weights.grad).all()
    assert (log_probs.grad[1, 0] == 0).all()
    inner = (log_probs[:, 1:].detach().requires_grad_(), weights[:, 1:].detach().requires_grad_())
    # Those that iterate take half a minute otherwise: in random directions instead of all.
    iterates = operator.name in {"wasserstein", "l2_median"}
    assert torch.autograd.gradcheck(operator.fuse, inner, fast_mode=iterates)


def test_a_lone_teacher_passes_its_gradient_on():
    log_probs = torch.log_softmax(torch.ones(1, 2, 3), -1).requires_grad_()
    linear().fuse(log_probs, torch.ones(1, 2)).sum().backward()
    assert (log_probs.grad == 1).all()


def test_more_batch_axes_come_for_free():
    rng = np.random.default_rng(1)
    log_probs, weights = log_softmax(rng.normal(size=(3, 4, 5, 6))), rng.dirichlet(np.ones(3), (4, 5))
    weights = np.moveaxis(weights, -1, 0)
    for operator in EVERY:
        flat = operator.fuse(log_probs.reshape(3, 20, 6), weights.reshape(3, 20))
        assert operator.fuse(log_probs, weights).tobytes() == flat.tobytes()
