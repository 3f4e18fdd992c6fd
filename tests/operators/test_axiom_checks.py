"""Each axiom's checks pass the proved pools and break on an impostor; the certifier comes on top of them."""

import numpy as np
import pytest

from operators import geometric, holder, linear
from operators.axioms import coherence, continuity, convexity, gates, generators, monotonicity, positivity
from operators.axioms.cases import judged
from operators.axioms.check import Sampler

CHECKS = {
    check.name: check
    for part in (convexity, positivity, monotonicity, continuity, coherence, gates)
    for check in part.CHECKS
}
PROVED = [  # operator, the levels of the five axioms that are proved
    (linear(), (4, 2, 3, 2, 1)),
    (geometric(), (2, 1, 2, 1, 2)),
    (holder(exponent=0.5), (2, 2, 2, 2, 1)),
    (holder(exponent=-1), (2, 1, 2, 1, 1)),
]
ORDER = [part.AXIOM for part in (convexity, positivity, monotonicity, continuity, coherence)]


def worst(operator_or_fuse, check, domain, rows=300):
    fuse = judged(getattr(operator_or_fuse, "fuse", operator_or_fuse))
    found = -np.inf
    for number, name in enumerate(check.sources):
        if name in generators.EXTREME and domain == "floored" and check.name != "boundary":
            continue
        generator = {**generators.POSITIVE, **generators.EXTREME}[name]
        sampler = Sampler(np.random.default_rng(number), 3, 4, domain, 1e-6)
        margin = check.measure(fuse, check.draw(sampler, generator, rows))
        judged_rows = margin[margin > -np.inf]  # the others are not this law's to judge
        if len(judged_rows):
            found = max(found, float((judged_rows > 0).mean()) - check.allowed)
    return found


PROMISED = [
    pytest.param(operator, check, id=f"{operator.name}-{dict(operator.parameters)}-{check.name}")
    for operator, levels in PROVED
    for check in CHECKS.values()
    if check.axiom not in ORDER or check.level <= levels[ORDER.index(check.axiom)]
]


@pytest.mark.parametrize(("operator", "check"), PROMISED)
def test_no_false_alarm_on_what_is_proved(operator, check):
    assert worst(operator, check, operator.domain) <= 0


def pooled(log_probs, weights):
    return linear().fuse(log_probs, weights)


def normalised(log_probs):
    return log_probs - np.log(np.exp(log_probs).sum(axis=-1, keepdims=True))


IMPOSTORS = {
    "odds_internality": lambda p, w: normalised(1.1 * pooled(p, w)),
    "unanimity": lambda p, w: normalised(0.9 * pooled(p, w)),
    "closure": lambda p, w: pooled(p, w) + 1e-6,
    "any_positivity": geometric().fuse,
    "responsive": lambda p, w: pooled(p, np.full_like(w, 1 / len(w))),
    "no_jump": lambda p, w: p[np.argmax(w, axis=0), np.arange(p.shape[1])],
    "boundary": geometric().fuse,
    "bounded_defect": lambda p, w: normalised(np.exp(pooled(p, w))),
    "commutes": linear().fuse,
    "weight_zero_absence": lambda p, _: normalised(p.max(axis=0)),
    "row_independence": lambda p, w: normalised(pooled(p, w) * (1 + 1e-6 * p.shape[1])),
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_impostors_break_the_law_they_should(name):
    domain = "floored" if name in {"any_positivity", "boundary"} else "zeros"
    assert worst(IMPOSTORS[name], CHECKS[name], domain) > 0
