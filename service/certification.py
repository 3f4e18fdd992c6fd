"""``soft-targets certify``: an operator, or every recipe of a configuration, asked and answered."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from service.admission import Judgement, ask_again, check_accepted, judge, shortened, witnesses_in
from service.config import load
from service.errors import ConfigError, OperatorRefused
from service.model import OperatorSpec
from service.plans.operators import WORDS, resolve


class Answer(NamedTuple):
    """One question answered.

    Attributes:
        where: the operator, or the recipe.
        admitted: with the violations that the recipe accepts; of a witness, whether the law holds.
        document: as JSON.
        text: for people.
    """

    where: str
    admitted: bool
    document: dict[str, Any]
    text: str


def spec_of(operator: str, parameters: Sequence[str]) -> OperatorSpec:
    """An operator from the command line: a name or ``module:factory``, and ``key=value`` pairs.

    Raises:
        ConfigError: a pair has no ``=``, or stands twice, or its value is none.
    """
    given: dict[str, Any] = {}
    for pair in parameters:
        key, equals, value = pair.partition("=")
        if not equals or not key or key in given:
            raise ConfigError(f"--param {pair!r}: give key=value, each key once")
        if key in WORDS:
            raise ConfigError(f"--param {pair!r}: no parameter can be called {key!r}; --operator names it")
        given[key] = _value(pair, value)
    return OperatorSpec(operator, tuple(sorted(given.items())), ":" in operator)


def _value(pair: str, text: str) -> bool | float | str:
    """A JSON value: a number, a boolean, or a text in quotes; what is no JSON is a text as it stands."""
    if text in {"True", "False"}:
        raise ConfigError(f"--param {pair!r}: write {text.lower()}, or '\"{text}\"' if the text is meant")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(value, bool | int | float | str) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise ConfigError(
            f"--param {pair!r}: give a finite number, true, false or a text; a text that reads otherwise in "
            f"JSON quotes"
        )
    return value


def certify_operator(spec: OperatorSpec, **question: Any) -> Answer:
    """Certify an operator by itself.

    Raises:
        ConfigError: there is no such operator, or it cannot be judged.
    """
    given = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in spec.parameters)
    where = f"{spec.name}({given})" if given else spec.name
    return _answer(where, judge(*resolve(spec), **question), ())


def certify_config(path: Path, **question: Any) -> Iterator[Answer]:
    """Certify every recipe of a configuration as the server would; its models are not needed.

    Raises:
        ConfigError: the configuration cannot be used, or an operator cannot be judged.
    """
    for ensemble, config in load(path).ensembles.items():
        for name, section in config.recipes.items():
            where = f"ensembles.{ensemble}.recipes.{name}"
            check_accepted(section.accept_violations, where=where)
            recipe = config.recipe(name)
            try:
                judgement = judge(
                    *resolve(recipe.operator),
                    teachers=len(config.teachers),
                    classes=len(config.classes),
                    profile=section.profile,
                    floor=recipe.floor,
                    **question,
                )
            except ConfigError as exc:
                raise ConfigError(f"{where}: {exc}") from None
            yield _answer(where, judgement, section.accept_violations)


def _answer(where: str, judgement: Judgement, accepted: Sequence[str]) -> Answer:
    certificate = judgement.certificate
    try:
        certificate.refuse_unless(accepted, where=where)
        admitted = True
    except OperatorRefused:
        admitted = False
    violations = certificate.violations
    waived = [name for name in violations if name in accepted]
    said = ", accepted violations: " + ", ".join(waived) if waived else ""
    lines = [f"{where}: {judgement.table}", "", ("ADMITTED" if admitted else "REFUSED") + said]
    lines += [f"  {shortened(reason)}" for reason in certificate.document["reasons"]]
    lines += [f"  again: {command}" for command in certificate.commands(violations)]
    document = {"where": where, "accepted_violations": waived, **certificate.document}
    return Answer(where, admitted, document, "\n".join(lines))


def replay_witnesses(spec: OperatorSpec, given: str) -> list[Answer]:
    """Ask an operator the questions of witnesses again; what it should hold is admitted.

    Args:
        spec: the operator.
        given: a witness as JSON, or a certificate, whose witnesses are asked; ``@file``, or ``-`` for the
            standard input.

    Raises:
        ConfigError: it cannot be read, or is no witness.
    """
    try:
        document = json.loads(_text(given))
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"--replay is no JSON: {exc}; give a witness, @FILE, or - for stdin") from None
    operator, code, _ = resolve(spec)
    answers = [ask_again(operator, code, witness) for witness in witnesses_in(document)]
    return [
        Answer(spec.name, not one.broken, {"where": spec.name, **one.document}, f"{spec.name}: {one.text}")
        for one in answers
    ]


def _text(given: str) -> str:
    try:
        if given == "-":
            return sys.stdin.read()
        return Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"--replay {given}: cannot be read: {exc}") from None
