"""Admission: every recipe's operator is certified before it answers a row.

A certificate is named by its question: operator, parameters, code, domain, floor, teachers, classes,
profile, budget, seed and versions. The same question has the same answer, so it is asked once, and kept where
the server keeps its state.
"""

import json
import math
import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from operators import Operator
from operators.axioms import AXIOMS, Verdict, Witness, certify, question_of, replay
from operators.axioms import Certificate as Certified
from operators.axioms.text import reasons, table
from operators.errors import OperatorError
from service.errors import ConfigError, OperatorRefused
from service.keys import certificate_id
from service.model import nearest
from service.telemetry import logger

log = logger("admission")


class Judgement(NamedTuple):
    """A certificate as a command shows it.

    Attributes:
        document: as JSON, its id included.
        text: for people.
        witnesses: against what is required and not reached.
    """

    document: dict[str, Any]
    text: str
    witnesses: list[Witness]

    def commands(self, operator: str) -> list[str]:
        """A shell command a witness, which asks the operator that question again.

        Args:
            operator: the options that name it.
        """
        return [
            shlex.join(
                ["soft-targets", "certify", *shlex.split(operator), "--replay", json.dumps(one.as_dict())]
            )
            for one in self.witnesses
        ]


def judge(operator: Operator, code: str, **question: Any) -> Judgement:
    """Ask a question afresh, whatever is kept.

    Args:
        operator: resolved.
        code: the digest of its sources.
        **question: teachers, classes, profile, floor, budget, seed, as ``certify`` takes them.

    Raises:
        ConfigError: the operator cannot be judged, or the question is impossible.
    """
    try:
        found = certify(operator, **question)
    except OperatorError as exc:
        raise ConfigError(f"operator {operator.name!r} cannot be judged: {exc}") from None
    identity = certificate_id(question_of(operator, **question)._asdict(), code)
    document = {"id": identity, **found.as_dict(), "reasons": reasons(found)}
    return Judgement(
        document, table(found), [verdict.witness for verdict in _missed(found) if verdict.witness]
    )


def _missed(certificate: Certified) -> list[Verdict]:
    both = {**certificate.axioms, **certificate.gates}
    return [both[name] for name in certificate.violations]


def ask_again(operator: Operator, witness: dict[str, Any]) -> Judgement:
    """Ask an operator a witness's question again.

    Raises:
        ConfigError: it is no witness, or the operator cannot be judged on it.
    """
    try:
        check, margin, told = replay(operator, witness)
    except OperatorError as exc:
        raise ConfigError(f"the witness cannot be replayed: {exc}") from None
    broken = margin > 0
    document = {"check": check.name, "broken": broken, "margin": margin if math.isfinite(margin) else None}
    lines = [f"{check.name}: {check.statement}", *(f"  {key}: {value}" for key, value in told.items())]
    return Judgement(
        document, "\n".join([*lines, f"{'BROKEN' if broken else 'holds'}, margin {margin:.3g}"]), []
    )


class Certificate(NamedTuple):
    """What is known of an operator for one question.

    Attributes:
        id: names the question.
        document: the answer as JSON, its id included.
    """

    id: str
    document: dict[str, Any]

    @property
    def violations(self) -> list[str]:
        """The axioms and gates below what the profile requires."""
        both = {**self.document["axioms"], **self.document["gates"]}
        return [name for name, verdict in both.items() if verdict["level"] < verdict["required"]]

    def refuse_unless(self, accepted: Sequence[str], *, where: str) -> None:
        """Admit the operator, with the violations that were accepted by name.

        Args:
            accepted: axioms that may be below the profile; gates may not.
            where: the recipe, for messages.

        Raises:
            ConfigError: an accepted name is no axiom.
            OperatorRefused: with the witnesses.
        """
        for name in accepted:
            if name not in AXIOMS:
                raise ConfigError(f"{where}: accept_violations: no axiom {name!r}{nearest(name, AXIOMS)}")
        left = [name for name in self.violations if name not in accepted]
        if left or self.document["contradictions"]:
            told = "\n  ".join(
                text
                for text in self.document["reasons"]
                if not any(text.startswith(f"{name},") for name in accepted)
            )
            raise OperatorRefused(
                f"{where}: the operator is refused under profile {self.document['profile']!r}:\n  {told}",
                certificate=self.document,
            )


class Certifier:
    """Asks each question once.

    Args:
        state_dir: where certificates are kept from one start to the next; None keeps them in memory only.
    """

    def __init__(self, state_dir: Path | None) -> None:
        self._folder = None if state_dir is None else state_dir / "certificates"
        self._known: dict[str, Certificate] = {}

    def certificate(
        self, operator: Operator, code: str, *, teachers: int, classes: int, profile: str, floor: float
    ) -> Certificate:
        """The certificate of an operator as a recipe will use it; takes seconds when it is new.

        Args:
            operator: resolved.
            code: the digest of its sources.
            teachers: K.
            classes: C.
            profile: ``strict`` or ``paper``.
            floor: epsilon, where the domain is floored.

        Raises:
            ConfigError: the operator cannot be judged: it raises, or does not answer with log-probabilities.
        """
        shape: dict[str, Any] = {"teachers": teachers, "classes": classes, "profile": profile, "floor": floor}
        question = question_of(operator, **shape)
        identity = certificate_id(question._asdict(), code)
        if identity not in self._known:
            self._known[identity] = self._read(identity) or self._ask(operator, code, identity, shape)
        return self._known[identity]

    def _ask(self, operator: Operator, code: str, identity: str, shape: dict[str, Any]) -> Certificate:
        document = judge(operator, code, **shape).document
        log.info(
            "operator certified", operator=operator.name, certificate=identity, admitted=document["admitted"]
        )
        self._write(identity, document)
        return Certificate(identity, document)

    def _read(self, identity: str) -> Certificate | None:
        if self._folder is None:
            return None
        try:
            document = json.loads((self._folder / f"{identity}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # not there, or not whole: it is asked again
        if not isinstance(document, dict) or document.get("id") != identity:
            return None
        return Certificate(identity, document)

    def _write(self, identity: str, document: dict[str, Any]) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(document, file, allow_nan=False)
            Path(name).replace(self._folder / f"{identity}.json")
        except OSError as exc:
            log.warning("certificate not kept", folder=str(self._folder), error=str(exc))
