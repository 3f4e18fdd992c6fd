"""Mutants that differ only where a certifier may not look, and operators that must not be suspected."""

import json
import re

import numpy as np
import pytest
from certificates import assert_sound
from escapes import (
    biased_at_twelve_classes,
    biased_at_two_classes,
    by_the_size_of_the_batch,
    deaf_to_weights_of_six,
    from_the_hundredth_row,
    hears_one_hots_alone,
    logs,
    nothing_next_to_uniform,
    nothing_when_hot,
    one_teacher_when_hot,
    reversed_when_hot,
    single_of_many_classes,
    single_of_many_teachers,
    unnormalised_from_twenty_classes,
    weights_times_logs,
    without_zeros,
)
from impostors import mean, normal

from operators import geometric, holder, linear
from operators.axioms import AXIOMS, GATES, NotJudged, certify, question_of, replay
from operators.axioms.text import literal, reasons
from operators.axioms.trials import CHECKS, Trials
from operators.base import Operator
from operators.errors import InvalidParameter

A1, A2, A3, A4, A5 = AXIOMS
ABSENT, ROWS = GATES


def operator(fuse, domain="floored"):
    return Operator("mutant", (("power", 2.0),), fuse, domain)


ESCAPES = {
    "by the size of the batch": (by_the_size_of_the_batch, ROWS, {}),
    "from the hundredth row": (from_the_hundredth_row, ROWS, {}),
    "nothing next to uniform": (nothing_next_to_uniform, A5, {}),
    "nothing when hot": (nothing_when_hot, A1, {}),
    "one teacher when hot": (one_teacher_when_hot, A5, {}),
    "reversed when hot": (reversed_when_hot, A5, {}),
    "float32, many classes": (single_of_many_classes, A1, {"classes": 50}),
    "float32, many teachers": (single_of_many_teachers, A1, {"teachers": 8}),
    "biased at twelve classes": (biased_at_twelve_classes, A1, {"classes": 12}),
    "biased at two classes": (biased_at_two_classes, A1, {"classes": 2}),
    "deaf to six weights": (deaf_to_weights_of_six, A3, {"teachers": 8}),
    "weights times logs": (weights_times_logs, ABSENT, {}),
    "one teacher, a jump": (hears_one_hots_alone, A4, {"teachers": 1, "profile": "paper"}),
}


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_hides_by_size_heat_precision_or_absence(name):
    fuse, axiom, options = ESCAPES[name]
    asked = operator(fuse)
    certificate = certify(asked, **{"teachers": 3, "classes": 4} | options)
    assert axiom in certificate.violations
    assert_sound(certificate, asked)


def test_an_operator_without_an_answer_is_refused_in_a_document_that_is_json():
    asked = operator(without_zeros, "zeros")
    certificate = certify(asked, teachers=3, classes=4)
    assert A1 in certificate.violations
    assert certificate.axioms[A1].witness.as_dict()["told"]["sum"] is None
    assert_sound(certificate, asked)


def test_zeros_and_what_is_asked_survive_a_witness():
    """The logarithm of zero is null in JSON, and -inf again in a replay."""
    asked = operator(without_zeros, "zeros")
    witness = certify(asked, teachers=3, classes=4, seed=3).axioms[A4].witness
    assert witness.check == "boundary"
    document = json.loads(json.dumps(witness.as_dict(), allow_nan=False))
    assert document["operator"] == {"name": "mutant", "power": 2.0}
    assert (document["seed"], document["tolerance"]) == (3, 0.02)
    assert (witness.case.log_probs == -np.inf).any()
    assert replay(asked, document)[1] > 0
    document["case"]["log_probs"] = [[[None, 0.0]], [[0.0, None]]]
    document["case"]["weights"] = [[0.5], [0.5]]
    document["case"].pop("probabilities", None)
    assert replay(asked, document)[1] == np.inf


def test_a_witness_as_it_was_written_before_still_replays():
    case = {"probabilities": [[[0.9, 0.1]]], "weights": [[1.0]]}
    asked = operator(lambda p, w: normal(2 * logs(p, w)))
    assert replay(asked, {"check": "unanimity", "case": case})[1] > 0
    # Temperatures were those from .13 to 12 where a case names none.
    assert replay(asked, {"check": "no_jump_in_temperature", "case": case})[1] <= 0


@pytest.mark.parametrize(
    "case",
    [
        {"probabilities": [[[0.9, 0.1]]], "weights": [[0.5], [0.5]]},
        {"probabilities": [[0.9, 0.1]], "weights": [[1.0]]},
        {"probabilities": [[[0.9, 0.1]]], "weights": [[1.0]], "towards": [1]},
        {"probabilities": [[[0.9, 0.1]]], "weights": [[1.0]], "temperature": [1.0, 2.0]},
        {"weights": [[1.0]]},
    ],
)
def test_what_is_no_witness_is_said_to_be_none(case):
    with pytest.raises(InvalidParameter, match="no witness's case"):
        replay(linear(), {"check": "closure", "case": case})


@pytest.mark.parametrize("exponent", [-2, -1.5, -1, -0.5, 0.05, 0.5, 2])
def test_a_steep_slope_is_no_jump(exponent):
    asked = holder(exponent=exponent)
    for teachers, floor, seed in ((2, 1e-9, 0), (3, 1e-6, 1), (5, 1e-9, 2)):
        question = question_of(asked, teachers=teachers, classes=3, seed=seed, floor=floor)
        trials = Trials(asked, question, floor=floor)
        with np.errstate(all="ignore"):
            for law in ("no_jump", "weight_to_zero", "no_jump_in_temperature", "no_dead_zone"):
                assert trials.find(CHECKS[law]).holds
    assert certify(asked, teachers=2, classes=3, floor=1e-9).admitted


def test_from_a_thousand_classes_a_witness_keeps_those_that_matter_within_the_domain():
    certificate = certify(operator(unnormalised_from_twenty_classes), teachers=3, classes=1000)
    witness = certificate.axioms[A1].witness
    classes = witness.case.log_probs.shape[-1]
    assert 20 <= classes <= 40
    assert (np.exp(witness.case.log_probs) >= 1e-6 / classes * (1 - 1e-9)).all()
    assert len(json.dumps(witness.as_dict())) < 4000


def test_a_law_that_breaks_in_a_batch_only_says_so():
    """Beside others no row sums to 1, and every one does alone."""

    def fuse(p, w):
        return logs(p, w) + (0.3 if p.shape[1] > 1 else 0.0)

    asked = operator(fuse)
    certificate = certify(asked, teachers=3, classes=4)
    witness = certificate.axioms[A1].witness
    assert witness.case.rows == 2
    assert "its answer depends on the others" in witness.told["batch"]
    assert certificate.gates[ROWS].witness.case.log_probs.shape == (1, 2, 2)
    assert "np.array" in literal(witness)
    assert_sound(certificate, asked)


def test_properties_that_an_operator_cannot_be_asked_are_not_had():
    """Merging two of two classes leaves one, and a clone makes four teachers of three."""

    def fuse(p, w):
        if p.shape[-1] < 2 or len(p) > 3:
            raise ValueError("two classes at least, three teachers at most")
        return mean(p, w)

    certificate = certify(operator(fuse, "zeros"), teachers=3, classes=2)
    assert certificate.admitted
    assert not certificate.as_dict()["properties"]["clone_invariance"]
    assert certificate.as_dict()["properties"]["anonymity"]


def test_what_breaks_and_is_not_broken_when_asked_again_is_refused_without_a_witness():
    """It answers the first question about two classes wrongly, once."""
    asked = []

    def fuse(p, w):
        first = p.shape[-1] == 7 and not asked
        asked.extend([1] if first else [])
        return mean(p, w) + (0.1 if first else 0.0)

    certificate = certify(operator(fuse, "zeros"), teachers=3, classes=4)
    assert A1 in certificate.violations
    assert certificate.axioms[A1].witness is None
    assert re.search(r"closure on .* cases, and not when asked again", reasons(certificate)[0])


# ---- what cannot be judged


def overwrites(p, w):
    p *= 2
    return geometric().fuse(p, w)


def gives_the_same_array(p, w, kept={}):  # noqa: B006 - that is the point
    answer = kept.setdefault(p.shape, np.empty(p.shape[1:], p.dtype))
    answer[...] = mean(p, w)
    return answer


def guesses(p, w, random=np.random.default_rng(0)):  # noqa: B008 - likewise
    return normal(mean(p, w) + random.normal(size=(p.shape[1], 1)) * np.arange(p.shape[-1]))


def leaves(*_):
    raise SystemExit(3)


class Strange:
    @property
    def __class__(self):
        raise RuntimeError("nobody knows")


@pytest.mark.parametrize(
    ("fuse", "said"),
    [
        (overwrites, "it writes into its arguments"),
        (gives_the_same_array, "writes into what it answered before"),
        (guesses, "differently when asked again"),
        (leaves, "SystemExit"),
        (lambda p, w: mean(p, w).tolist(), "answered with a list, not an array"),
        (lambda *_: None, "answered with a NoneType"),
        (lambda *_: Strange(), "RuntimeError: nobody knows"),
        (lambda p, w: mean(p, w).astype(np.float32), "float64 log_probs with dtype float32"),
        (lambda p, w: mean(p, w).astype(np.float64), "float32 log_probs with dtype float64"),
    ],
)
def test_what_is_no_pure_function_from_arrays_to_arrays_is_not_judged(fuse, said):
    with pytest.raises(NotJudged, match=said):
        certify(operator(fuse), teachers=3, classes=4)


def test_whoever_interrupts_a_certification_is_heard():
    def fuse(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        certify(operator(fuse), teachers=3, classes=4)
