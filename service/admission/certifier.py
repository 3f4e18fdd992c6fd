"""Certificates that are asked for once, and kept where the server keeps its state."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from operators import Operator
from operators.axioms import question_of
from service.admission.certificate import Asked, Certificate, sound
from service.admission.judging import judge
from service.model import OperatorSpec
from service.telemetry import logger

log = logger("admission")


class Certifier:
    """Asks each question once.

    Args:
        state_dir: where certificates are kept from one start to the next; None keeps them in memory only.
        keep: whether new ones are kept there too.
    """

    def __init__(self, state_dir: Path | None, *, keep: bool = True) -> None:
        self._folder = None if state_dir is None else state_dir / "certificates"
        self._keep = keep
        self._known: dict[str, Certificate] = {}

    def certificate(
        self,
        operator: Operator,
        code: str,
        given: OperatorSpec,
        *,
        teachers: int,
        classes: int,
        profile: str,
        floor: float,
    ) -> Certificate:
        """The certificate of an operator as a recipe will use it; takes seconds when it is new.

        Args:
            operator: resolved.
            code: the digest of its sources.
            given: as the recipe gives it.
            teachers: K.
            classes: C.
            profile: ``strict`` or ``paper``.
            floor: epsilon, where the domain is floored.

        Raises:
            ConfigError: the operator cannot be judged: it raises, or does not answer with log-probabilities.
        """
        shape: dict[str, Any] = {"teachers": teachers, "classes": classes, "profile": profile, "floor": floor}
        asked = Asked(code, given, question_of(operator, **shape))
        identity = asked.identity
        if identity not in self._known:
            self._known[identity] = self._read(asked) or self._ask(operator, asked, shape)
        return self._known[identity]

    def _ask(self, operator: Operator, asked: Asked, shape: dict[str, Any]) -> Certificate:
        certificate = judge(operator, asked.code, asked.given, **shape).certificate
        log.info(
            "operator certified",
            operator=asked.given.name,
            certificate=certificate.id,
            admitted=certificate.document["admitted"],
        )
        self._write(certificate)
        return certificate

    def _read(self, asked: Asked) -> Certificate | None:
        if self._folder is None:
            return None
        path = self._folder / f"{asked.identity}.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as exc:
            log.warning("certificate not read: asked again", file=str(path), error=str(exc))
            return None
        if not sound(document, asked):
            log.warning("certificate not read: asked again", file=str(path), error="it does not answer")
            return None
        return Certificate(asked.identity, document)

    def _write(self, certificate: Certificate) -> None:
        if self._folder is None or not self._keep:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(certificate.document, file, allow_nan=False)
                Path(name).replace(self._folder / f"{certificate.id}.json")
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except Exception as exc:  # noqa: BLE001 - what is not kept is asked again at the next start, no more
            log.warning(
                "certificate not kept", folder=str(self._folder), error=f"{type(exc).__name__}: {exc}"
            )


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")
