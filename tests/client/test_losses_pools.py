"""Which pool goes with which divergence: a student of one target learns what it would from all teachers."""

import numpy as np
import pytest
import torch
from distillation import dense, gradient, log_softmax, student

from operators import geometric, holder, linear
from soft_targets import distillation_loss, losses

TEMPERATURE = 2.0
WEIGHTS = np.array([0.5, 0.3, 0.2])
PAIRS = {"forward_kl": (linear, losses.forward_kl), "reverse_kl": (geometric, losses.reverse_kl)}
each_pair = pytest.mark.parametrize("divergence", PAIRS)


@pytest.fixture
def opinions():
    """Three teachers' log-probabilities, softened, [K, B, C]."""
    return log_softmax(np.random.default_rng(31).normal(size=(3, 5, 6)) * 4 / TEMPERATURE)


def pooled(operator, opinions):
    weights = np.repeat(WEIGHTS[:, None], opinions.shape[1], axis=1)
    return dense(operator.fuse(opinions, weights), TEMPERATURE, np.float64)


def mean_over_teachers(measure, opinions):
    """The objective of a student that is shown every teacher: the weighted mean of its divergences."""
    each = [dense(one, TEMPERATURE, np.float64) for one in opinions]
    return lambda logits: sum(w * measure(logits, one) for w, one in zip(WEIGHTS, each, strict=True))


def minimise(objective, shape=(5, 6)):
    logits = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=200, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = objective(logits)
        loss.backward()
        return loss

    optimiser.step(closure)
    return logits.detach()


@each_pair
def test_trained_by_its_pool_a_student_minimises_the_mean_over_the_teachers(opinions, divergence):
    operator, measure = PAIRS[divergence]
    target, objective = pooled(operator(), opinions), mean_over_teachers(measure, opinions)
    logits = minimise(lambda x: distillation_loss(x, target, divergence=divergence))
    assert np.abs(gradient(objective, logits)).max() < 1e-7
    # The same student as one that was trained by all teachers at once, and the pool itself.
    alone = minimise(objective)
    np.testing.assert_allclose(student(logits, TEMPERATURE), student(alone, TEMPERATURE), atol=1e-6)
    np.testing.assert_allclose(student(logits, TEMPERATURE), np.exp(target.log_probs), atol=1e-6)
    assert objective(logits).item() == pytest.approx(objective(alone).item(), abs=1e-10)


@each_pair
def test_trained_by_another_pool_it_does_not(opinions, divergence):
    operator, measure = PAIRS[divergence]
    objective = mean_over_teachers(measure, opinions)
    least = objective(minimise(objective)).item()
    others = [
        other for other in (linear(), geometric(), holder(exponent=0.5)) if other.name != operator().name
    ]
    for other in others:
        target = pooled(other, opinions)
        logits = minimise(lambda x, target=target: distillation_loss(x, target, divergence=divergence))
        assert objective(logits).item() > least + 1e-3


def test_for_jensen_shannon_neither_pool_does_and_a_power_mean_comes_closer(opinions):
    objective = mean_over_teachers(losses.jensen_shannon, opinions)
    least = objective(minimise(objective)).item()
    excess = {}
    for operator in (linear(), geometric(), holder(exponent=0.5)):
        target = pooled(operator, opinions)
        logits = minimise(lambda x, target=target: distillation_loss(x, target, divergence="jensen_shannon"))
        np.testing.assert_allclose(student(logits, TEMPERATURE), np.exp(target.log_probs), atol=1e-4)
        excess[operator.name] = objective(logits).item() - least
    assert min(excess.values()) > 1e-4
    assert excess["holder"] < min(excess["linear"], excess["geometric"]) / 4


@each_pair
def test_the_mean_over_the_teachers_and_the_pool_differ_by_a_constant(opinions, divergence):
    """What no student can change: for linear the Jensen-Shannon divergence, for geometric -log Z."""
    operator, measure = PAIRS[divergence]
    target, objective = pooled(operator(), opinions), mean_over_teachers(measure, opinions)
    p, w = np.exp(opinions), WEIGHTS[:, None, None]
    if divergence == "forward_kl":
        mean = (w * p).sum(axis=0)
        constant = (-mean * np.log(mean)).sum(axis=1) + (w * p * opinions).sum(axis=(0, 2))
    else:
        constant = -np.log(np.exp((w * opinions).sum(axis=0)).sum(axis=1))
    rng = np.random.default_rng(37)
    for _ in range(5):
        logits = torch.tensor(rng.normal(size=(5, 6)) * 3)
        apart = objective(logits).item() - measure(logits, target).item()
        assert apart == pytest.approx(constant.mean(), abs=1e-12)
        np.testing.assert_allclose(gradient(objective, logits), gradient(measure, logits, target), atol=1e-12)


@each_pair
def test_softening_the_pool_commutes_for_the_geometric_one_alone(opinions, divergence):
    """Why T is asked of the server: a linear pool of softened teachers is no softened linear pool."""
    operator, _ = PAIRS[divergence]
    before = pooled(operator(), opinions).log_probs
    after = log_softmax(pooled(operator(), log_softmax(opinions * TEMPERATURE)).log_probs / TEMPERATURE)
    apart = np.abs(np.exp(before) - np.exp(after)).max()
    assert (apart < 1e-12) == (divergence == "reverse_kl")
    assert divergence == "reverse_kl" or apart > 0.01
