"""Judging an operator afresh, and asking it a witness's question again."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from operators import Operator
from operators.axioms import Certificate as Certified
from operators.axioms import certify, question_of, replay
from operators.axioms.text import reasons, table
from operators.errors import OperatorError
from service.admission.certificate import Asked, Certificate, graded, missed, shortened
from service.errors import ConfigError
from service.model import OperatorSpec


class Judgement(NamedTuple):
    """An operator judged afresh.

    Attributes:
        certificate: what was found.
        table: for people, without the verdict, which may depend on what a recipe accepts.
    """

    certificate: Certificate
    table: str


def judge(operator: Operator, code: str, given: OperatorSpec, **question: Any) -> Judgement:
    """Ask a question afresh, whatever is kept.

    Args:
        operator: resolved.
        code: the digest of its sources.
        given: as the recipe gives it.
        **question: teachers, classes, profile, floor, budget, seed, as ``certify`` takes them.

    Raises:
        ConfigError: the operator cannot be judged, or the question is impossible.
    """
    floor = question.get("floor", 0.5)
    if not 0 < floor < 1:
        raise ConfigError(f"floor is {floor}; give a number between 0 and 1, both excluded")
    try:
        found = certify(operator, **question)
    except (OperatorError, MemoryError) as exc:
        raise ConfigError(f"operator {operator.name!r} cannot be judged: {exc}") from None
    except (Exception, SystemExit) as exc:
        said = f"{type(exc).__name__}: {exc}"
        raise ConfigError(f"operator {operator.name!r} cannot be judged: asking it raised {said}") from exc
    asked = Asked(code, given, question_of(operator, **question))
    document = {**asked.head, **found.as_dict(), "reasons": reasons(found)}
    for verdict in {**document["axioms"], **document["gates"]}.values():
        if verdict["witness"]:
            verdict["witness"]["code"] = code
            verdict["witness"]["again"] = asked.again(verdict["witness"])
    return Judgement(Certificate(asked.identity, document), _without_verdict(found))


def _without_verdict(found: Certified) -> str:
    verdict = "ADMITTED" if found.admitted else "REFUSED"
    ending = "\n".join([verdict, *(f"  {text}" for text in reasons(found))])
    return table(found).removesuffix(ending).rstrip()


class Replayed(NamedTuple):
    """A witness asked again.

    Attributes:
        broken: whether the law is broken on it.
        document: as JSON.
        text: for people.
    """

    broken: bool
    document: dict[str, Any]
    text: str


def ask_again(operator: Operator, code: str, witness: Mapping[str, Any]) -> Replayed:
    """Ask an operator a witness's question again.

    Args:
        operator: resolved.
        code: the digest of its sources.
        witness: as a certificate writes it.

    Raises:
        ConfigError: it is no witness, or the operator cannot be judged on it.
    """
    try:
        check, margin, told = replay(operator, witness)
    except OperatorError as exc:
        raise ConfigError(f"the witness cannot be replayed: {exc}") from None
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - a case of any shape, asked of a user's operator
        said = f"{type(exc).__name__}: {exc}"
        raise ConfigError(
            f"the witness cannot be replayed: its case does not fit the check {witness.get('check')!r}, or "
            f"the operator fails on it ({said}); pass a witness as a certificate writes it"
        ) from None
    broken = not margin <= 0  # NaN is no answer, which is broken too
    found_in = witness.get("code", code)
    document = {
        "check": check.name,
        "broken": broken,
        "margin": margin if math.isfinite(margin) else None,
        "code": code,
        "same_code": found_in == code,
    }
    lines = [f"{check.name}: {check.statement}", *(f"  {key}: {value}" for key, value in told.items())]
    if found_in != code:
        lines.append(f"  code: {code}, and the witness was found in {found_in}")
    lines.append(f"{'BROKEN' if broken else 'holds'}, margin {margin:.3g}")
    return Replayed(broken, document, "\n".join(map(shortened, lines)))


def witnesses_in(document: Any) -> list[Mapping[str, Any]]:
    """The witness that a document is, or those of a certificate or of a refusal against what is required.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(document, dict) and isinstance(document.get("certificate"), dict):
        document = document["certificate"]  # the body of a 422
    if isinstance(document, dict) and "check" in document:
        return [document]
    if not isinstance(document, dict) or not graded(document):
        raise ConfigError(
            "what is no witness cannot be replayed: give an object with 'check' and 'case', as a certificate "
            "writes it, or a whole certificate"
        )
    both = {**document["axioms"], **document["gates"]}
    found = [both[name]["witness"] for name in missed(document) if both[name]["witness"]]
    if not found:
        raise ConfigError("this certificate holds no witness: nothing that is required was found broken")
    return found
