"""The certifier: proved pools pass, every mutant is caught by the axiom that should catch it, at quick."""

import json
from functools import reduce

import numpy as np
import pytest
from certificates import assert_sound
from impostors import (
    at_extreme_weights,
    at_ties,
    blurred,
    by_the_batch,
    by_the_place,
    experts,
    forgets_one_teacher,
    from_five_classes,
    gate,
    hears_the_absent,
    in_float32,
    jumps_at_a_third,
    loses_the_small,
    mean,
    normal,
    overshoots,
    own_weights,
    sharpened,
    shrunk,
    smallest,
    stays_put,
    surest_only,
    top_two,
    twice_softmax,
    unweighted_max,
    unweighted_median,
    vote,
    weighted_median,
    when_cold,
    where,
    with_a_zero,
)

from operators import geometric, holder, linear
from operators.axioms import AXIOMS, GATES, NotJudged, certify
from operators.base import Claim, Disclaimer, Operator
from operators.errors import InvalidParameter

A1, A2, A3, A4, A5 = AXIOMS
ABSENT, ROWS = GATES


def run(fuse, domain="zeros", **options):
    options = {"teachers": 3, "classes": 10, "profile": "strict"} | options
    return certify(Operator("mutant", (), fuse, domain), **options)


def test_the_same_question_has_the_same_answer_and_it_is_json():
    certificates = [certify(holder(exponent=0.05), teachers=3, classes=10) for _ in range(2)]
    assert certificates[0].admitted
    documents = [json.dumps(certificate.as_dict(), allow_nan=False) for certificate in certificates]
    assert documents[0] == documents[1]
    odds = next(f for f in certificates[0].axioms[A1].findings if f.check.name == "odds_internality")
    assert odds.trials >= 100_000
    other = certify(holder(exponent=0.05), teachers=3, classes=10, seed=1)
    assert other.axioms[A1].margin != certificates[0].axioms[A1].margin


# ---- impostors that are published, and mutants of our own: fuse, domain, what must catch them

PUBLISHED = {
    "unweighted max": (unweighted_max, "zeros", {A1, A3, ABSENT}),
    "unweighted median": (unweighted_median, "floored", {A1, A3, ABSENT}),
    "weighted median": (weighted_median, "floored", {A3, A4}),
    "smallest": (smallest, "floored", {A3, A4}),
    "vote": (vote, "zeros", {A1, A2, A4, A5}),
    "top two": (top_two, "floored", {A1, A2, A4, A5}),
    "surest only": (surest_only, "floored", {A3, A4, A5}),
    "gate": (gate, "floored", {A1, A3, A4, A5}),
    "own weights": (own_weights, "floored", {A1, A3, A5}),
    "product of experts": (experts, "floored", {A1, A3}),
    "double softmax": (twice_softmax, "zeros", {A1, A3, A5}),
    "shrunk": (shrunk, "zeros", {A1, A3, A5}),
    "sharpened": (sharpened, "zeros", {A1, A3, A5}),
    "smoothed": (blurred, "zeros", {A1, A3, A5}),
}


MUTANTS = {
    "at extreme weights": (at_extreme_weights, "zeros", A1),
    "at ties": (at_ties, "zeros", A1),
    "from five classes": (from_five_classes, "zeros", A1),
    "when cold": (when_cold, "zeros", A5),
    "in float32": (in_float32, "zeros", A1),
    "with a zero": (with_a_zero, "zeros", A1),
    "by the batch": (by_the_batch, "zeros", ROWS),
    "by the place": (by_the_place, "zeros", ROWS),
    "hears the absent": (hears_the_absent, "zeros", ABSENT),
    "loses the small": (loses_the_small, "zeros", A2),
    "jumps at a third": (jumps_at_a_third, "zeros", A4),
    "stays put": (stays_put, "zeros", A3),
    "overshoots": (overshoots, "zeros", A3),
    "forgets one teacher": (forgets_one_teacher, "zeros", ABSENT),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_impostors_fail_where_they_are_said_to(name):
    fuse, domain, expected = PUBLISHED[name]
    certificate = run(fuse, domain)
    assert not certificate.admitted
    assert expected <= set(certificate.violations)
    assert_sound(certificate, Operator("mutant", (), fuse, domain))


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught_by_the_axiom_that_should_catch_them(name):
    fuse, domain, axiom = MUTANTS[name]
    certificate = run(fuse, domain)
    assert axiom in certificate.violations
    verdict = {**certificate.axioms, **certificate.gates}[axiom]
    assert verdict.witness is not None
    assert verdict.witness.margin > 0
    assert_sound(certificate, Operator("mutant", (), fuse, domain))


def reverses_one_in_ten_thousand(p, w):
    """The linear pool, but for one profile in ten thousand whose two first classes change places."""
    pool = mean(p, w)
    rare = np.abs(np.sin(1e4 * p[0, :, 0])) < 1.57e-4
    turned = pool.copy()
    turned[:, [0, 1]] = pool[:, [1, 0]]
    return where(rare, turned, pool)


def test_one_reversed_profile_in_ten_thousand_is_refused_with_a_witness_to_check_by_hand():
    certificate = run(reverses_one_in_ten_thousand)
    assert A1 in certificate.violations
    witness = certificate.axioms[A1].witness
    assert witness.case.log_probs.shape[0] <= 3
    assert witness.case.log_probs.shape[-1] <= 4
    assert "law" in witness.told


def test_a_witness_is_small_and_round():
    witness = run(experts, "floored").axioms[A1].witness
    data = witness.as_dict()["case"]
    digits = [len(f"{value:g}") for row in np.ravel(data["probabilities"]) for value in [row]]
    assert np.shape(data["probabilities"])[0] <= 2
    assert np.shape(data["probabilities"])[2] == 2
    assert max(digits) <= 5


@pytest.mark.parametrize(
    ("fuse", "said"),
    [
        (lambda p, _: p, "shape"),
        (lambda p, w: np.exp(mean(p, w)), "must return normalised log-probabilities"),
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda p, w: mean(p, w).astype(int), "dtype int64"),
    ],
)
def test_what_cannot_be_judged_is_not_called_broken(fuse, said):
    with pytest.raises(NotJudged, match=said):
        run(fuse)


def test_claims_and_disclaimers_are_strict_both_ways():
    proud = Operator("proud", (), geometric().fuse, "floored", claims=(Claim(A1, 3),))
    modest = Operator("modest", (), linear().fuse, "zeros", disclaimers=(Disclaimer(A1, 3, "no reason"),))
    proof = Operator("proved", (), linear().fuse, "zeros", claims=(Claim(A1, 4, "a convex combination"),))
    found = [certify(operator, teachers=3, classes=3) for operator in (proud, modest, proof)]
    assert "claims level 3" in found[0].contradictions[0]
    assert "drop the disclaimer" in found[1].contradictions[0]
    assert [certificate.admitted for certificate in found] == [False, False, True]
    assert found[2].axioms[A1].proved


def test_real_rows_are_judged_too():
    rows = np.log(np.random.default_rng(0).dirichlet(np.ones(4), size=(3, 50)))
    secret = rows[0, 7].copy()

    def fuse(p, w):
        return where((p[0] == secret).all(axis=-1) if p.shape[-1] == 4 else np.zeros(p.shape[1], bool),
                     normal(1.1 * mean(p, w)), mean(p, w))  # fmt: skip

    assert run(fuse, classes=4).admitted
    assert A1 in run(fuse, classes=4, rows=rows).violations


@pytest.mark.parametrize(
    "options", [{"profile": "lax"}, {"budget": "brief"}, {"teachers": 0}, {"classes": 1}]
)
def test_impossible_questions_are_refused(options):
    with pytest.raises(InvalidParameter):
        run(mean, **options)


def test_many_teachers_and_classes_are_judged_at_their_own_size():
    certificate = certify(linear(), teachers=8, classes=1000)
    assert certificate.admitted
    odd = reduce(
        lambda found, one: found or one.check.name == "closure", certificate.axioms[A1].findings, False
    )
    assert odd
    assert A1 in run(lambda p, w: mean(p, w) + (1e-3 if p.shape[-1] == 1000 else 0), classes=1000).violations
    eight = run(lambda p, w: normal(1.1 * mean(p, w)) if len(p) == 8 else mean(p, w), teachers=8)
    assert A1 in eight.violations


def test_one_teacher_alone():
    assert certify(linear(), teachers=1, classes=3).admitted
    assert certify(geometric(), teachers=1, classes=3).admitted
