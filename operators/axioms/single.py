"""The same laws once more in float32, the precision that is served, at the tolerances that it allows."""

import numpy as np

from operators.axioms import convexity, positivity
from operators.axioms.cases import Cases, Floats
from operators.axioms.check import Check, Measure
from operators.base import Fuse

TOLERANCE = 1e-4
LOG_ODDS = 1e-3


def in_single(fuse: Fuse) -> Fuse:
    """The same rule asked in float32."""

    def asked(log_probs: Floats, weights: Floats) -> Floats:
        answer = fuse(log_probs.astype(np.float32), weights.astype(np.float32))
        return np.asarray(answer).astype(np.float64)

    return asked


def _rounded(cases: Cases) -> Cases:
    """What float32 can hold of a case, so that only the operator's own rounding is judged."""
    return cases._replace(log_probs=cases.log_probs.astype(np.float32).astype(np.float64))


def closure(fuse: Fuse, cases: Cases) -> Floats:
    """Closure in float32."""
    return convexity.closure_within(in_single(fuse), cases, TOLERANCE)


def unanimity(fuse: Fuse, cases: Cases) -> Floats:
    """Unanimity in float32."""
    return convexity.unanimity_within(in_single(fuse), cases, TOLERANCE)


def odds_internality(fuse: Fuse, cases: Cases) -> Floats:
    """Odds-internality in float32."""
    return convexity.odds_internality_within(in_single(fuse), _rounded(cases), LOG_ODDS)


def joint(fuse: Fuse, cases: Cases) -> Floats:
    """Joint positivity in float32."""
    return positivity.joint(in_single(fuse), cases)


def _single(check: Check, measure: Measure, tolerance: float) -> Check:
    explain = check.explain
    return check._replace(
        name=f"{check.name}_float32",
        measure=measure,
        explain=lambda fuse, case: explain(in_single(fuse), case),
        climb=False,
        tolerance=tolerance,
    )


_BY_NAME = {check.name: check for check in (*convexity.CHECKS, *positivity.CHECKS)}
CHECKS = (
    _single(_BY_NAME["closure"], closure, TOLERANCE),
    _single(_BY_NAME["unanimity"], unanimity, TOLERANCE),
    _single(_BY_NAME["odds_internality"], odds_internality, LOG_ODDS),
    _single(_BY_NAME["joint_positivity"], joint, 0.0),
)
