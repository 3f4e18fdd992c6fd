"""What a certificate is named by, what it says, and whether a recipe may answer with it."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from operators.axioms import AXIOMS, GATES, Question, required_levels
from service.errors import ConfigError, OperatorRefused
from service.keys import canonical_json, certificate_id
from service.model import OperatorSpec, nearest

# Of a certificate's document. Another format is another question: what an older one kept is not read.
FORMAT = 1
# A witness that is longer is not put into a command; the certificate that holds it is.
LONGEST_ARGUMENT = 2000
CERTIFICATE_FILE = "certificate.json"


class Asked(NamedTuple):
    """A question about an operator as it was given: what an operator says of itself may not tell it apart.

    Attributes:
        code: the digest of its sources.
        given: as the recipe gives it.
        question: with what it says of itself.
    """

    code: str
    given: OperatorSpec
    question: Question

    @property
    def identity(self) -> str:
        """The certificate's name."""
        return certificate_id({"format": FORMAT, "given": self.given, **self.question._asdict()}, self.code)

    @property
    def head(self) -> dict[str, Any]:
        """What a document repeats of its question."""
        question = self.question
        return {
            "format": FORMAT,
            "id": self.identity,
            "given": self.given.as_dict(),
            "code": self.code,
            "profile": question.profile,
            "domain": question.domain,
            "floor": question.floor,
            "K": question.teachers,
            "C": question.classes,
            "budget": question.budget,
            "seed": question.seed,
        }

    def again(self, witness: Mapping[str, Any]) -> str:
        """A shell command that asks the operator a witness's question again."""
        operator = ["soft-targets", "certify", "--operator", self.given.name]
        for key, value in self.given.parameters:
            operator += ["--param", f"{key}={json.dumps(value, ensure_ascii=False)}"]
        # Without what is for people.
        needed = {key: value for key, value in witness.items() if key not in {"told", "statement", "again"}}
        inline = json.dumps(needed)
        if len(inline) <= LONGEST_ARGUMENT:
            return shlex.join([*operator, "--replay", inline])
        # The same question has the same answer, so the certificate can be had again.
        question = self.question
        options = {
            "profile": question.profile,
            "teachers": question.teachers,
            "classes": question.classes,
            **({} if question.floor is None else {"floor": question.floor}),
            "budget": question.budget,
            "seed": question.seed,
        }
        asked = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        first = shlex.join([*operator, *asked, "--json"])
        return f"{first} > {CERTIFICATE_FILE}; {shlex.join([*operator, '--replay', f'@{CERTIFICATE_FILE}'])}"


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
        return missed(self.document)

    def commands(self, names: Iterable[str]) -> list[str]:
        """Shell commands that ask the operator the witnesses of these axioms and gates again."""
        both = {**self.document["axioms"], **self.document["gates"]}
        witnesses = [both[name]["witness"] for name in names]
        return list(dict.fromkeys(witness["again"] for witness in witnesses if witness))

    def refuse_unless(self, accepted: Sequence[str], *, where: str) -> None:
        """Admit the operator, with the violations that were accepted by name.

        Args:
            accepted: axioms that may be below the profile; gates may not.
            where: the recipe, for messages.

        Raises:
            ConfigError: an accepted name is no axiom.
            OperatorRefused: with the witnesses.
        """
        check_accepted(accepted, where=where)
        left = [name for name in self.violations if name not in accepted]
        if left or self.document["contradictions"]:
            told = [
                shortened(text)
                for text in self.document["reasons"]
                if not any(text.startswith(f"{name},") for name in accepted)
            ]
            told += [f"again: {command}" for command in self.commands(left)]
            told += [f"code: {self.document['code']}"]
            raise OperatorRefused(
                "\n  ".join(
                    [
                        f"{where}: the operator is refused under profile {self.document['profile']!r}:",
                        *told,
                    ]
                ),
                certificate=self.document,
            )


def check_accepted(accepted: Sequence[str], *, where: str) -> None:
    """See that only axioms are accepted to be violated.

    Raises:
        ConfigError: a name is no axiom; nobody may waive a gate.
    """
    for name in accepted:
        if name in GATES:
            raise ConfigError(
                f"{where}: accept_violations: {name!r} is a gate, which the service relies on and nobody may "
                f"waive; only axioms may be accepted: {', '.join(AXIOMS)}"
            )
        if name not in AXIOMS:
            raise ConfigError(f"{where}: accept_violations: no axiom {name!r}{nearest(name, AXIOMS)}")


def shortened(text: str) -> str:
    """What a person reads of a text; a witness over thousands of classes is for programs."""
    if len(text) <= LONGEST_ARGUMENT:
        return text
    return f"{text[:LONGEST_ARGUMENT]} ... (whole in the certificate)"


def missed(document: Mapping[str, Any]) -> list[str]:
    """The axioms and gates below what is required of them."""
    both = {**document["axioms"], **document["gates"]}
    return [name for name, verdict in both.items() if verdict["level"] < verdict["required"]]


def graded(document: Mapping[str, Any]) -> bool:
    """Whether it holds a verdict on every axiom and gate, and on nothing else."""
    parts = ((document.get("axioms"), AXIOMS), (document.get("gates"), GATES))
    return all(
        isinstance(verdicts, dict) and verdicts.keys() == set(names) and all(map(_verdict, verdicts.values()))
        for verdicts, names in parts
    )


def sound(document: Any, asked: Asked) -> bool:
    """Whether a kept document answers the question whole: what decides is looked at, not believed."""
    if not isinstance(document, dict) or not graded(document):
        return False
    head = asked.head
    if canonical_json({key: document.get(key) for key in head}) != canonical_json(head):
        return False
    required = required_levels(asked.question.profile, asked.question.domain) | dict.fromkeys(GATES, 0)
    both = {**document["axioms"], **document["gates"]}
    contradictions = document.get("contradictions")
    return (
        all(both[name]["required"] == level for name, level in required.items())
        and _texts(contradictions)
        and _texts(document.get("reasons"))
        and document.get("admitted") is (not (missed(document) or contradictions))
    )


def _verdict(verdict: Any) -> bool:
    if not isinstance(verdict, dict) or any(
        type(verdict.get(key)) is not int for key in ("level", "required")
    ):
        return False
    witness = verdict.get("witness")
    return witness is None or (isinstance(witness, dict) and isinstance(witness.get("again"), str))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
