"""What the theory of learned weights promises, tried with the shortest programs that learn them.

The weights of a linear pool are a concave problem that expectation-maximisation climbs, with a certificate of
how far it has to go; those of a geometric pool a convex one.
"""

import numpy as np
import pytest

from operators.simplex import logsumexp

STEPS = 400


def opinions(seed, *, rows=300, teachers=4, classes=5):
    """Teachers of different quality about labels, as probabilities [K, B, C]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    skill = np.linspace(0.2, 2.0, teachers)[:, None, None]
    logits = rng.normal(size=(teachers, rows, classes)) + skill * np.eye(classes)[labels]
    return np.exp(logits - logsumexp(logits)[..., None]), labels


def climb(chosen):
    """Expectation-maximisation from uniform weights; yields weights, mean log-likelihood and certificate."""
    weights = np.full(chosen.shape[0], 1 / chosen.shape[0])
    for _ in range(STEPS):
        mixed = weights @ chosen
        ratios = (chosen / mixed).mean(axis=-1)
        yield weights, np.log(mixed).mean(), np.log(ratios.max())
        weights = weights * ratios


@pytest.mark.parametrize("seed", range(5))
def test_g16_expectation_maximisation_climbs_and_knows_how_far_it_has_to_go(seed):
    p, labels = opinions(seed)
    chosen = p[:, np.arange(labels.size), labels]
    trail = list(climb(chosen))
    likelihoods = np.array([likelihood for _, likelihood, _ in trail])
    certificates = np.array([certificate for *_, certificate in trail])
    assert (np.diff(likelihoods) >= -1e-12).all()
    for weights, *_ in trail:
        assert weights.sum() == pytest.approx(1, abs=1e-9)
        assert (weights >= 0).all()
    # The optimum lies between the last value and its certificate; so does every step's certified range.
    best_at_least, best_at_most = likelihoods[-1], likelihoods[-1] + certificates[-1]
    assert (likelihoods + certificates >= best_at_least - 1e-12).all()
    steps = np.arange(1, STEPS)
    assert (best_at_most - likelihoods[1:] <= np.log(len(chosen)) / steps + certificates[-1] + 1e-12).all()
    assert certificates[-1] < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_g16_no_weights_beat_the_certificate(seed):
    p, labels = opinions(seed, rows=60)
    chosen = p[:, np.arange(labels.size), labels]
    others = np.random.default_rng(seed).dirichlet(np.full(len(chosen), 0.5), 3000)
    found = np.log(others @ chosen).mean(axis=-1).max()
    for step, (_, likelihood, certificate) in enumerate(climb(chosen)):
        if step % 20 == 0:
            assert found <= likelihood + certificate + 1e-12


def test_the_linear_pool_s_likelihood_is_concave_in_its_weights():
    p, labels = opinions(7)
    chosen = p[:, np.arange(labels.size), labels]
    rng = np.random.default_rng(7)
    one, other = rng.dirichlet(np.ones(4), (2, 500))
    middle = np.log((one + other) / 2 @ chosen).mean(axis=-1)
    ends = (np.log(one @ chosen).mean(axis=-1) + np.log(other @ chosen).mean(axis=-1)) / 2
    assert (middle >= ends - 1e-12).all()


def test_g17_the_geometric_pool_s_loss_is_convex_in_its_weights_even_off_the_simplex():
    p, labels = opinions(8)
    log_probs = np.log(p)

    def loss(weights):
        mixed = np.einsum("nk,kbc->nbc", weights, log_probs)
        return (logsumexp(mixed) - mixed[:, np.arange(labels.size), labels]).mean(axis=-1)

    rng = np.random.default_rng(8)
    one, other = rng.normal(scale=2, size=(2, 200, 4))
    assert (loss((one + other) / 2) <= (loss(one) + loss(other)) / 2 + 1e-9).all()


def test_weights_that_do_not_sum_to_one_are_a_hidden_temperature():
    p, _ = opinions(9, rows=20)
    log_probs, weights = np.log(p), np.array([0.2, 0.6, 0.5, 0.7])
    total = weights.sum()
    mixed = np.einsum("k,kbc->bc", weights, log_probs)
    softened = total * np.einsum("k,kbc->bc", weights / total, log_probs)
    np.testing.assert_allclose(mixed, softened, atol=1e-12)


def test_a_prior_keeps_every_teacher_s_influence_above_a_floor():
    p, labels = opinions(10)
    chosen = p[:, np.arange(labels.size), labels]
    rows, teachers, alpha = labels.size, len(chosen), 5.0
    weights = np.full(teachers, 1 / teachers)
    for _ in range(STEPS):
        counts = (weights[:, None] * chosen / (weights @ chosen)).sum(axis=-1)
        weights = (counts + alpha - 1) / (rows + teachers * (alpha - 1))
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        assert (weights >= (alpha - 1) / (rows + teachers * (alpha - 1))).all()


def test_mixing_uniform_weights_in_costs_no_more_than_its_share():
    p, labels = opinions(11)
    chosen = p[:, np.arange(labels.size), labels]
    for share in (0.01, 0.1, 0.5):
        for weights in np.random.default_rng(11).dirichlet(np.ones(4), 50):
            mixed = (1 - share) * weights + share / 4
            cost = np.log(weights @ chosen) - np.log(mixed @ chosen)
            assert cost.max() <= -np.log1p(-share) + 1e-12
