"""The certifier: a question about an operator, answered the same way every time.

certificate = certify(linear(), teachers=3, classes=10)
certificate.admitted, certificate.axioms["convexity_preservation"].level
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from operators.axioms import properties
from operators.axioms.cases import Floats, judged
from operators.axioms.certificate import Certificate, Finding, Question, Verdict
from operators.axioms.check import GATES, Check, plain
from operators.axioms.trials import CHECKS, Trials
from operators.axioms.witness import case_from_dict, told_of
from operators.base import Operator
from operators.errors import InvalidParameter
from operators.levels import AXIOMS, required_levels
from operators.validity import checked

# A counterexample may need as many; with fewer, a disclaimer that nothing shows is no lie.
ENOUGH_TEACHERS = 3


def question_of(
    operator: Operator,
    *,
    teachers: int,
    classes: int,
    profile: str = "strict",
    budget: str = "quick",
    seed: int = 0,
    floor: float = 1e-6,
) -> Question:
    """The question that ``certify`` answers, as plain data."""
    floored = floor if operator.domain == "floored" else None
    return Question(
        operator.name, operator.parameters, operator.domain, floored, teachers, classes, profile, budget, seed
    )


def certify(
    operator: Operator,
    *,
    teachers: int,
    classes: int,
    profile: str = "strict",
    budget: str = "quick",
    seed: int = 0,
    floor: float = 1e-6,
    rows: Floats | None = None,
) -> Certificate:
    """Ask an operator everything, and say which level of each axiom it reaches.

    Args:
        operator: the rule, with its domain, claims and disclaimers.
        teachers: K, as it will be served.
        classes: C, as it will be served.
        profile: ``paper`` or ``strict``.
        budget: ``quick``, ``full`` or ``soak``.
        seed: of all cases.
        floor: epsilon of the floored domain.
        rows: log-probabilities ``[K, B, C]`` of real rows, judged too.

    Raises:
        InvalidOperator: it is none, or not put together as one.
        InvalidParameter: the profile, the budget, or a number is impossible.
        NotJudged: the operator raised, or does not answer with log-probabilities.
    """
    checked(operator)
    if teachers < 1 or classes < 2:
        raise InvalidParameter(
            f"an operator pools at least 1 teacher over 2 classes, not {teachers} over {classes}"
        )
    question = question_of(
        operator, teachers=teachers, classes=classes, profile=profile, budget=budget, seed=seed, floor=floor
    )
    required = required_levels(profile, operator.domain)
    run = Trials(operator, question, floor=floor, rows=rows)
    run.preflight()
    findings = [run.find(check) for check in CHECKS.values()]
    axioms = {name: _verdict(name, required[name], operator, findings) for name in AXIOMS}
    return Certificate(
        question,
        axioms,
        {name: _verdict(name, 0, operator, findings) for name in GATES},
        {check.axiom: _verdict(check.axiom, None, operator, findings) for check in properties.CHECKS},
        tuple(_contradictions(operator, axioms, teachers)),
    )


def replay(operator: Operator, witness: Mapping[str, Any]) -> tuple[Check, float, Mapping[str, object]]:
    """Ask an operator a witness's question again.

    Returns:
        The law, the margin (positive is broken), and what was compared.

    Raises:
        InvalidOperator: the operator is none, or not put together as one.
        InvalidParameter: it is no witness.
        NotJudged: the operator cannot be judged on it.
    """
    checked(operator)
    check = CHECKS.get(str(witness.get("check")))
    if check is None or not isinstance(witness.get("case"), Mapping):
        raise InvalidParameter(
            "this is no witness: it needs 'check' and 'case', as a certificate writes them"
        )
    case = case_from_dict(witness["case"])
    fuse = judged(operator.fuse)
    with np.errstate(all="ignore"):
        return check, float(check.measure(fuse, case).max()), plain(told_of(check, fuse, case)[1])


def _verdict(name: str, required: int | None, operator: Operator, findings: list[Finding]) -> Verdict:
    mine = tuple(finding for finding in findings if finding.check.axiom == name)
    level = -1
    for step in range(max((one.check.level for one in mine), default=0) + 1):
        if not all(one.holds for one in mine if one.check.level == step):
            break
        level = step
    proven = [claim.level for claim in operator.claims if claim.axiom == name and claim.proof]
    return Verdict(level, required, max(proven, default=-1), mine)


def _contradictions(operator: Operator, axioms: Mapping[str, Verdict], teachers: int) -> Iterator[str]:
    for claim in operator.claims:
        level = axioms[claim.axiom].level
        if level < claim.level:
            yield f"it claims level {claim.level} of {claim.axiom} and reaches {level}"
    if teachers < ENOUGH_TEACHERS:
        return
    for disclaimer in operator.disclaimers:
        level = axioms[disclaimer.axiom].level
        if level >= disclaimer.level:
            yield (
                f"it disclaims level {disclaimer.level} of {disclaimer.axiom}, and nothing breaks it: "
                "drop the disclaimer"
            )
