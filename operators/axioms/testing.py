"""The bridge to pytest: every law as a test of its own, for whoever writes an operator.

@parametrize_with_axioms([my_pool()], expected_failures={"box": "it may leave the teachers' box"})
def test_my_pool(operator, check):
    check(operator)
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from operators.axioms.certify import question_of
from operators.axioms.check import Check
from operators.axioms.text import tell
from operators.axioms.trials import CHECKS, Trials
from operators.base import Operator
from operators.levels import AXIOMS, required_levels

Law = Callable[[Operator], None]


def laws(
    operator: Operator, *, profile: str = "strict", teachers: int = 3, classes: int = 4, budget: str = "quick"
) -> Iterable[tuple[str, Law]]:
    """The laws that a profile asks of an operator, each a function that raises AssertionError with a witness.

    Args:
        operator: whose domain decides the levels.
        profile: ``paper`` or ``strict``.
        teachers: K.
        classes: C.
        budget: ``quick``, ``full`` or ``soak``.
    """
    required = required_levels(profile, operator.domain)
    question = question_of(
        operator, teachers=teachers, classes=classes, profile=profile, budget=budget, seed=0
    )
    for name, check in CHECKS.items():
        if check.axiom in AXIOMS and check.level > required[check.axiom]:
            continue
        if not check.decides:
            continue

        def law(asked: Operator, check: Check = check) -> None:
            trials = Trials(asked, question, floor=1e-6)
            with np.errstate(all="ignore"):
                trials.preflight()
                finding = trials.find(check)
            if not finding.holds:
                told = tell(finding.witness) if finding.witness else "no witness"
                cases = f"{finding.broken} of {finding.trials} cases"
                raise AssertionError(f"{asked.name} breaks {check.name} on {cases}: {told}")

        law.__name__ = name
        yield name, law


def parametrize_with_axioms(
    operators: Iterable[Operator],
    *,
    profile: str = "strict",
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,
) -> Any:
    """A pytest decorator: the test gets ``operator`` and ``check``, once for every law of every operator.

    Args:
        operators: to be tested.
        profile: which laws.
        expected_failures: law to reason; such a test must fail, lest an old reason stay.
        **options: of ``laws``.
    """
    import pytest  # noqa: PLC0415 - needed by whoever tests, by nobody else

    expected = expected_failures or {}
    return pytest.mark.parametrize(
        ("operator", "check"),
        [
            pytest.param(
                operator,
                law,
                id=f"{operator.name}-{name}",
                marks=[pytest.mark.xfail(reason=expected[name], strict=True)] if name in expected else [],
            )
            for operator in operators
            for name, law in laws(operator, profile=profile, **options)
        ],
    )
