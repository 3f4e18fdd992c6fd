"""``soft-targets certify``: an operator, or every recipe of a configuration, asked and answered."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from service.admission import Judgement, ask_again, judge
from service.config import load
from service.errors import ConfigError
from service.model import OperatorSpec
from service.plans.operators import resolve


class Answer(NamedTuple):
    """One question answered.

    Attributes:
        where: the operator, or the recipe.
        admitted: with the violations that the recipe accepts.
        judgement: the certificate.
        spec: the operator.
    """

    where: str
    admitted: bool
    judgement: Judgement
    spec: OperatorSpec

    @property
    def text(self) -> str:
        """The certificate for people, with a command for every witness."""
        options = ["--operator", self.spec.name]
        for key, value in self.spec.parameters:
            options += ["--param", f"{key}={value}"]
        lines = [f"{self.where}: {self.judgement.text}"]
        lines += [f"  again: {command}" for command in self.judgement.commands(shlex.join(options))]
        return "\n".join(lines)


def spec_of(operator: str, parameters: list[str]) -> OperatorSpec:
    """An operator from the command line: a name or ``module:factory``, and ``key=value`` pairs.

    Raises:
        ConfigError: a pair has no ``=``, or stands twice.
    """
    given: dict[str, Any] = {}
    for pair in parameters:
        key, equals, value = pair.partition("=")
        if not equals or not key or key in given:
            raise ConfigError(f"--param {pair!r}: give key=value, each key once")
        given[key] = _scalar(value)
    return OperatorSpec(operator, tuple(sorted(given.items())), ":" in operator)


def _scalar(text: str) -> bool | int | float | str:
    """A number, true or false where it reads as one; else text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def certify_operator(spec: OperatorSpec, **question: Any) -> Answer:
    """Certify an operator by itself.

    Raises:
        ConfigError: there is no such operator, or it cannot be judged.
    """
    judgement = judge(*resolve(spec), **question)
    return Answer(spec.name, judgement.document["admitted"], judgement, spec)


def certify_config(path: Path, **question: Any) -> Iterator[Answer]:
    """Certify every recipe of a configuration as the server would; its models are not needed.

    Raises:
        ConfigError: the configuration cannot be used, or an operator cannot be judged.
    """
    for ensemble, config in load(path).ensembles.items():
        for name, section in config.recipes.items():
            recipe = config.recipe(name)
            judgement = judge(
                *resolve(recipe.operator),
                teachers=len(config.teachers),
                classes=len(config.classes),
                profile=section.profile,
                floor=recipe.floor,
                **question,
            )
            document = judgement.document
            missed = {
                key
                for key, verdict in {**document["axioms"], **document["gates"]}.items()
                if verdict["level"] < verdict["required"]
            }
            admitted = not document["contradictions"] and missed <= set(section.accept_violations)
            yield Answer(f"{ensemble}.{name}", admitted, judgement, recipe.operator)


def replay_witness(spec: OperatorSpec, text: str) -> Answer:
    """Ask an operator a witness's question again; what it should hold is admitted.

    Raises:
        ConfigError: it is no witness.
    """
    try:
        witness = json.loads(text)
    except ValueError as exc:
        raise ConfigError(f"--replay is no JSON: {exc}") from None
    if not isinstance(witness, dict):
        raise ConfigError("--replay: a witness is an object, as a certificate writes it")
    judgement = ask_again(resolve(spec).operator, witness)
    return Answer(spec.name, not judgement.document["broken"], judgement, spec)
