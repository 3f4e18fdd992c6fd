"""Positivity inheritance: what the teachers hold possible stays possible."""

import numpy as np

from operators.axioms.cases import Cases, Floats
from operators.axioms.check import Check, Sampler, shown, where_answered
from operators.axioms.generators import POSITIVE, Generator
from operators.base import Fuse

AXIOM = "positivity_inheritance"


def nonnegative(fuse: Fuse, cases: Cases) -> Floats:
    """No probability is infinite; none can be negative in the log domain."""
    answer = fuse(cases.log_probs, cases.weights)
    return where_answered(answer, np.where((answer == np.inf).any(axis=-1), np.inf, -1.0))


def joint(fuse: Fuse, cases: Cases) -> Floats:
    """If every teacher of positive weight holds a class possible, so does the pool: log A_c is finite.

    Judged in logs, where 1e-400 is a number.
    """
    answer = fuse(cases.log_probs, cases.weights)
    heard = cases.weights[..., None] > 0
    possible = (np.where(heard, cases.log_probs, 0.0) > -np.inf).all(axis=0)
    lost = (possible & ~np.isfinite(answer)).any(axis=-1)
    return where_answered(answer, np.where(lost, 1.0, -1.0))


def anyone(fuse: Fuse, cases: Cases) -> Floats:
    """If one teacher of positive weight holds a class possible, so does the pool. No answer breaks it too."""
    answer = fuse(cases.log_probs, cases.weights)
    heard = cases.weights[..., None] > 0
    possible = (np.where(heard, cases.log_probs, -np.inf) > -np.inf).any(axis=0)
    lost = (possible & ~np.isfinite(answer)).any(axis=-1)
    return np.where(lost, 1.0, -1.0)


def _lone_holders(sampler: Sampler, generator: Generator, rows: int) -> Cases:
    """A class that a single teacher holds possible; now and then that is all the teacher holds possible."""
    log_probs = generator(sampler.random, sampler.teachers, rows, sampler.classes)
    holder = sampler.random.integers(sampler.teachers, size=rows)
    column = sampler.random.integers(sampler.classes, size=rows)
    is_holder = np.arange(sampler.teachers)[:, None] == holder
    is_column = np.arange(sampler.classes) == column[:, None]
    impossible = ~is_holder[..., None] & is_column[None]
    one_hot = is_holder[..., None] & ~is_column[None] & (np.arange(rows) % 4 == 0)[None, :, None]
    kept = np.where(impossible | one_hot, -np.inf, log_probs)
    total = np.log(np.exp(kept).sum(axis=-1, keepdims=True))
    return Cases(kept - total, sampler.positive_weights(rows))


def _explain(fuse: Fuse, case: Cases) -> dict[str, object]:
    answer = fuse(case.log_probs, case.weights)
    gone = [int(c) for c in np.flatnonzero(~np.isfinite(answer[0]))]
    return {"pool": shown(answer[0]), "law": f"class {', '.join(map(str, gone))} is possible"}


CHECKS = (
    Check("nonnegative", AXIOM, 0, "0 <= A_c < infinity", nonnegative, _explain),
    Check("joint_positivity", AXIOM, 1, "p_kc > 0 for all k => A_c > 0", joint, _explain),
    Check(
        "any_positivity", AXIOM, 2, "p_kc > 0 for one k with w_k > 0 => A_c > 0", anyone, _explain,
        draw=_lone_holders, sources=tuple(POSITIVE), needs=2,
    ),
)  # fmt: skip
