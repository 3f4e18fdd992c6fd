"""What each ensemble of a configuration would need, looked at without serving it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from service.admission import Certifier
from service.checking.costs import Planned, cost_of, rate_of
from service.config import Ensemble as EnsembleConfig
from service.config import Settings, load
from service.engine.binding import agree_inputs, member_of, open_teacher, probe, probe_rows
from service.engine.ensemble import Ensemble
from service.errors import ConfigError, OperatorRefused
from service.plans.plans import MOST_FUSED
from service.teachers.base import Teacher
from service.teachers.session import Deadlines

MIB = 2**20
# The interpreter with all that the service imports.
PROCESS_BYTES = 160 * MIB


class Finding(NamedTuple):
    """What is amiss.

    Attributes:
        severity: an error stops the start.
        message: what, where, and what to do.
    """

    severity: Literal["error", "warning"]
    message: str


@dataclass
class Checked:
    """What was found out about one ensemble.

    Attributes:
        name: of the ensemble.
        teachers: each as JSON: file, size, digest, device, inputs, output, classes.
        inputs: of a request, each dtype and shape; None where the teachers do not agree.
        plans: as the API reports them.
        memory: bytes by what they are for; an estimate.
        costs: of a training that is planned, by recipe.
        findings: what is amiss.
    """

    name: str
    teachers: list[dict[str, Any]] = field(default_factory=list)
    inputs: dict[str, str] | None = None
    plans: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def check_config(path: Path, planned: Planned | None = None) -> list[Checked]:
    """Look at every ensemble of a configuration; one that cannot be served does not hide another.

    Args:
        path: of the file.
        planned: a training, whose costs are wanted.

    Raises:
        ConfigError: the file itself cannot be used.
    """
    settings = load(path)
    certifier = Certifier(settings.server.state_dir, keep=False)  # nothing is left behind, in nobody's name
    return [_check(name, config, settings, certifier, planned) for name, config in settings.ensembles.items()]


def _check(
    name: str, config: EnsembleConfig, settings: Settings, certifier: Certifier, planned: Planned | None
) -> Checked:
    checked = Checked(name)
    teachers = _teachers(name, config, checked)
    try:
        if len(teachers) < len(config.teachers) or not _bind(name, config, teachers, checked):
            return checked
    finally:
        for teacher in teachers:
            teacher.close()
    del teachers  # the ensemble opens them again, and two copies are no estimate of one
    try:
        ensemble = Ensemble(name, config, certifier)
    except ConfigError as exc:
        checked.findings.append(Finding("error", str(exc)))
        return checked
    try:
        _plan(ensemble, settings, checked, planned)
    finally:
        ensemble.close()
    return checked


def _teachers(name: str, config: EnsembleConfig, checked: Checked) -> list[Teacher]:
    opened = []
    deadlines = Deadlines(config.teacher_timeout_s)
    for section in config.teachers:
        try:
            teacher = open_teacher(name, section, config, deadlines)
        except ConfigError as exc:
            checked.findings.append(Finding("error", str(exc)))
            continue
        opened.append(teacher)
        inputs = {key: f"{given.dtype}{_shape(given.shape)}" for key, given in teacher.inputs.items()}
        checked.teachers.append(
            {
                "name": teacher.name,
                "model": str(section.model),
                "bytes": teacher.size_bytes,
                "digest": teacher.digest,
                "device": str(teacher.device),
                "inputs": inputs,
                "output": teacher.output,
                "kind": section.output.kind,
                "classes": len(section.classes) if section.classes is not None else len(config.classes),
            }
        )
    deadlines.close()
    return opened


def _shape(shape: Sequence[int | None]) -> str:
    return f"[{', '.join(['batch', *('any' if size is None else str(size) for size in shape)])}]"


def _bind(name: str, config: EnsembleConfig, teachers: list[Teacher], checked: Checked) -> bool:
    try:
        inputs = agree_inputs(name, config, teachers)
    except ConfigError as exc:
        checked.findings.append(Finding("error", str(exc)))
        return False
    checked.inputs = {key: f"{spec.dtype}{list(spec.shape)}" for key, spec in inputs.items()}
    for section, teacher in zip(config.teachers, teachers, strict=True):
        try:
            probe(name, inputs, member_of(name, section, teacher, inputs, config.classes))
        except ConfigError as exc:
            checked.findings.append(Finding("error", str(exc)))
    return not checked.findings


def _plan(ensemble: Ensemble, settings: Settings, checked: Checked, planned: Planned | None) -> None:
    recipes = {}
    for recipe, section in ensemble.config.recipes.items():
        try:
            admitted = ensemble.admit(recipe, section)
        except (ConfigError, OperatorRefused) as exc:
            checked.findings.append(Finding("error", str(exc)))
            continue
        recipes[recipe] = (admitted.recipe, ensemble.asked(admitted))
    if checked.findings:
        return
    limit = settings.server.spread_limit
    try:
        asked = [one for _, one in recipes.values()]
        ensemble.plans.choose(asked, probe_rows(ensemble.inputs), spread_limit=limit)
    except ConfigError as exc:
        checked.findings.append(Finding("error", str(exc)))
        return
    checked.plans.extend(ensemble.plans.report())
    if ensemble.config.not_cached is not None:
        text = f"ensemble {ensemble.name!r}: targets are not kept: {ensemble.config.not_cached}"
        checked.findings.append(Finding("warning", text))
    for plan in checked.plans:
        if plan["plan"] == "split":
            what = f"operator {plan['operator']['name']!r}{', sparse' if plan['sparse'] else ''}"
            checked.findings.append(
                Finding("warning", f"ensemble {ensemble.name!r}: {what} is split: {plan['reason']}")
            )
    checked.memory.update(_memory(ensemble, settings))
    if planned is None:
        return
    for name, (given, one) in recipes.items():
        checked.costs[name] = cost_of(
            planned,
            row_bytes=given.layout(len(ensemble.classes)).row_bytes,
            rate=rate_of(ensemble, one),
            cache=settings.cache,
            kept=ensemble.config.not_cached is None,
        )


def _memory(ensemble: Ensemble, settings: Settings) -> dict[str, int]:
    """Bytes: the models once a session that holds them, the rows in flight, the cache."""
    models = sum(member.teacher.size_bytes for member in ensemble.members)
    words = [plan["plan"] for plan in ensemble.plans.report()]
    copies = words.count("fused") + ("staged" in words) + ("split" in words)
    row = sum(8 * math.prod(spec.shape) for spec in ensemble.inputs.values())
    # Of every teacher an answer and what enters the fusion; the pool and two on the way to it.
    fused = 4 * len(ensemble.classes) * (2 * len(ensemble.members) + 3)
    return {
        "process": PROCESS_BYTES,
        "models": models * min(copies, MOST_FUSED + 1),
        "batches": ensemble.plans.in_flight * ensemble.config.batching.max_rows * (row + fused),
        "cache": settings.cache.memory_bytes,
    }
