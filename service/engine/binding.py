"""Binding: each teacher's inputs, output and classes tied to the ensemble's, and tried."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from service.config import Ensemble as EnsembleConfig
from service.config import FakeModel, RemoteModel, input_name
from service.config import Teacher as TeacherConfig
from service.errors import (
    DeviceError,
    TeacherError,
    TeacherFailure,
    TeacherOverrun,
    TeacherSilent,
    TeacherUnreachable,
)
from service.model import Array
from service.plans.alignment import Alignment
from service.plans.member import Member
from service.plans.stages import beliefs
from service.teachers.base import GraphInput, Teacher
from service.teachers.fake import FakeTeacher
from service.teachers.onnx import OnnxTeacher
from service.teachers.remote import RemoteTeacher
from service.teachers.session import Deadlines
from service.telemetry import logger
from soft_targets.wire import TensorSpec

PROBE_ROWS = 4  # that a teacher alone is tried on
ROWS = 32  # that plans are tried on
ALONE_TOLERANCE = 1e-3

log = logger("engine")


def open_teacher(
    ensemble: str, config: TeacherConfig, section: EnsembleConfig, deadlines: Deadlines
) -> Teacher:
    """Load one teacher, or meet it where it lives elsewhere.

    Raises:
        TeacherError: it cannot be loaded; names the ensemble.
        TeacherUnreachable: it lives elsewhere, and does not answer.
        DeviceError: it does not run on the device that was named.
    """
    if isinstance(config.model, FakeModel):
        return FakeTeacher(config, config.model, deadlines=deadlines)
    if isinstance(config.model, RemoteModel):
        remote = remote_teacher(ensemble, config, config.model, deadlines)
        try:
            remote.meet()
        except TeacherError as exc:
            remote.close()
            raise type(exc)(f"ensemble {ensemble!r}: {exc}") from None
        return remote
    try:
        teacher = OnnxTeacher(
            config, config.model, wanted=section.device, deadlines=deadlines, memory=section.device_memory
        )
    except (TeacherError, DeviceError) as exc:
        raise type(exc)(f"ensemble {ensemble!r}: {exc}") from None
    if not teacher.inputs:
        raise TeacherError(
            f"ensemble {ensemble!r}: teacher {config.name!r}: {config.model} has no input, so it would "
            "answer every row alike"
        )
    return teacher


def remote_teacher(
    ensemble: str, config: TeacherConfig, model: RemoteModel, deadlines: Deadlines
) -> RemoteTeacher:
    """A teacher elsewhere that was not met yet.

    Raises:
        TeacherError: the file with its key cannot be used.
    """
    try:
        return RemoteTeacher(config, model, limit_s=deadlines.limit_s)
    except TeacherError as exc:
        raise TeacherError(f"ensemble {ensemble!r}: {exc}") from None


def _feeds(
    name: str, section: TeacherConfig, teacher: Teacher, declared: Mapping[str, object] | None
) -> dict[str, str]:
    """The model's inputs by the ensemble's names."""
    if section.inputs is not None:
        unknown = section.inputs.keys() - teacher.inputs.keys()
        lacking = teacher.inputs.keys() - section.inputs.keys()
        if unknown or lacking:
            raise TeacherError(
                f"ensemble {name!r}: teacher {section.name!r}: 'inputs' must map each of the model's inputs "
                f"({', '.join(teacher.inputs)}) to one of the ensemble's, and nothing else"
            )
        return dict(section.inputs)
    if declared is not None and len(declared) == len(teacher.inputs) == 1:
        return {next(iter(teacher.inputs)): next(iter(declared))}
    return {name: name for name in teacher.inputs}


def agree_inputs(name: str, config: EnsembleConfig, teachers: Sequence[Teacher]) -> dict[str, TensorSpec]:
    """The ensemble's inputs: as declared, or as the models agree.

    A teacher that is absent has no say.

    Raises:
        TeacherError: the models do not agree, leave a shape open, or name an input as none can be named; or
            an input is declared that none of them reads.
    """
    known = [pair for pair in zip(config.teachers, teachers, strict=True) if pair[1].inputs]
    if config.inputs is not None:
        if len(known) == len(teachers):
            _check_all_read(name, config.inputs, known)
        return {key: TensorSpec(given.wire_dtype, given.shape) for key, given in config.inputs.items()}
    found: dict[str, tuple[str, GraphInput]] = {}
    for section, teacher in known:
        for theirs, ours in _feeds(name, section, teacher, None).items():
            _check_name(f"ensemble {name!r}: teacher {section.name!r}", theirs, ours)
            given = teacher.inputs[theirs]
            first, merged = found.setdefault(ours, (section.name, given))
            agreed = _merge(merged, given)
            if agreed is None:
                raise TeacherError(
                    f"ensemble {name!r}: input {ours!r} is {merged} for teacher {first!r} but {given} for "
                    f"{section.name!r}; declare it under 'inputs' or map the models' inputs with "
                    "'inputs: {theirs: ours}'"
                )
            found[ours] = (first, agreed)
    names = {frozenset(_feeds(name, section, teacher, None).values()) for section, teacher in known}
    if len(names) > 1:
        said = "; ".join(f"{teacher.name}: {', '.join(teacher.inputs)}" for _, teacher in known)
        raise TeacherError(
            f"ensemble {name!r}: the models name their inputs differently ({said}); declare the ensemble's "
            "'inputs' and map each model's with 'inputs: {theirs: ours}'"
        )
    open_ended = [key for key, (_, given) in found.items() if None in given.shape]
    if open_ended:
        raise TeacherError(
            f"ensemble {name!r}: no model fixes the shape of input {open_ended[0]!r}; declare it under "
            "'inputs'"
        )
    return {key: TensorSpec(given.dtype, given.shape) for key, (_, given) in found.items()}  # type: ignore[arg-type]


def _check_all_read(
    name: str, declared: Mapping[str, object], teachers: Sequence[tuple[TeacherConfig, Teacher]]
) -> None:
    """Refuse an input that every request would have to send for nothing."""
    read = {
        ours for section, teacher in teachers for ours in _feeds(name, section, teacher, declared).values()
    }
    if read <= declared.keys():  # else a model's input is fed by none, which says more
        for unread in (key for key in declared if key not in read):
            raise TeacherError(f"ensemble {name!r}: input {unread!r} is read by no teacher; leave it out")


def _check_name(where: str, theirs: str, ours: str) -> None:
    """Refuse a model's name of an input that no request could use, with the mapping that mends it."""
    try:
        input_name(ours)
    except ValueError as exc:
        better = re.sub(r"[^A-Za-z0-9_-]+", "_", theirs).strip("_-")[:64]
        better = better if better and better != theirs else "rows"
        raise TeacherError(
            f"{where}: its input {exc}; map it with 'inputs: {{\"{theirs}\": {better}}}'"
        ) from None


def _merge(one: GraphInput, other: GraphInput) -> GraphInput | None:
    if one.dtype != other.dtype or len(one.shape) != len(other.shape):
        return None
    if any(a is not None and b is not None and a != b for a, b in zip(one.shape, other.shape, strict=True)):
        return None
    return GraphInput(
        one.dtype, tuple(b if a is None else a for a, b in zip(one.shape, other.shape, strict=True))
    )


def member_of(
    ensemble: str,
    section: TeacherConfig,
    teacher: Teacher,
    inputs: Mapping[str, TensorSpec],
    classes: tuple[str, ...],
) -> Member:
    """A teacher bound to the ensemble's inputs and classes.

    Raises:
        TeacherError: an input is fed by nothing, or by what it cannot take.
    """
    where = f"ensemble {ensemble!r}: teacher {section.name!r}"
    feeds = _feeds(ensemble, section, teacher, inputs)
    for theirs, ours in feeds.items():
        if ours not in inputs:
            raise TeacherError(
                f"{where}: its input {theirs!r} is fed from {ours!r}, which is no input of the ensemble "
                f"({', '.join(inputs)}); map it with 'inputs: {{{theirs}: ...}}'"
            )
        _check_feed(f"{where}: input {theirs!r}", teacher.inputs[theirs], inputs[ours])
    pairs = section.classes if section.classes is not None else tuple((one, one) for one in classes)
    return Member(
        teacher=teacher,
        feeds=feeds,
        dtypes={key: given.dtype.replace("utf8", "O") for key, given in teacher.inputs.items()},
        output=teacher.output,
        kind=section.output.kind,
        temperature=section.temperature,
        classes=tuple(theirs for theirs, _ in pairs),
        alignment=Alignment(classes, [ours for _, ours in pairs]),
    )


def _check_feed(where: str, wants: GraphInput, gets: TensorSpec) -> None:
    fits = len(wants.shape) == len(gets.shape) and all(
        a is None or a == b for a, b in zip(wants.shape, gets.shape, strict=True)
    )
    if not fits:
        shape = ["any" if size is None else size for size in wants.shape]
        raise TeacherError(
            f"{where} takes rows of shape {shape}, the ensemble gives {list(gets.shape)}; "
            "reshape inside the model"
        )
    if wants.dtype == gets.dtype:
        return
    if "utf8" in (wants.dtype, gets.dtype) or not (
        np.can_cast(gets.dtype, wants.dtype, "safe") or (wants.dtype[1] == gets.dtype[1] == "f")
    ):
        raise TeacherError(f"{where} takes {wants.dtype}, but the ensemble's {gets.dtype} cannot become that")


def probe(ensemble: str, inputs: Mapping[str, TensorSpec], member: Member) -> None:
    """Ask a teacher a few seeded rows.

    Raises:
        TeacherError: it cannot answer, or its answer cannot be what is said of it.
        TeacherUnreachable: it lives elsewhere, and does not answer.
    """
    where = f"ensemble {ensemble!r}: teacher {member.teacher.name!r}"
    try:
        _probe(where, inputs, member)
    except TeacherFailure as exc:
        away = isinstance(member.teacher, RemoteTeacher)
        silent = away and isinstance(exc, TeacherSilent | TeacherOverrun)
        raise (TeacherUnreachable if silent else TeacherError)(
            f"{where} cannot answer a row: {exc}"
        ) from None


def _probe(where: str, inputs: Mapping[str, TensorSpec], member: Member) -> None:
    rows = {name: values[:PROBE_ROWS] for name, values in probe_rows(inputs).items()}
    answer = member.teacher.answer(member.feed(rows)[0])
    if answer.shape[1] != member.alignment.width:
        raise TeacherError(
            f"{where} answers {answer.shape[1]} classes, but {member.alignment.width} are named for it; list "
            "its own under 'classes', in the order of its output"
        )
    _check_order(where, member, rows, answer)
    _check_alone(where, member, rows, answer)
    _, valid = beliefs(answer, member.kind)
    finite = np.isfinite(answer).all(axis=1)
    if (finite & ~valid).any() or not valid.any():
        row = answer[finite & ~valid if (finite & ~valid).any() else ~valid][0]
        shown = ", ".join(f"{value:.4g}" for value in row[:4])
        raise TeacherError(
            f"{where}: output {member.output!r} holds [{shown}, ...], which is no distribution of kind "
            f"{member.kind!r}; say what it holds with output: {{kind: logits | log_probs | probs}}"
        )
    _warn_of_kind(where, member, answer)


def _check_order(where: str, member: Member, rows: Mapping[str, Array], answer: Array) -> None:
    """Refuse classes in another order than the model's own labels say."""
    own = member.teacher.model.class_labels if isinstance(member.teacher, OnnxTeacher) else None
    if own is not None and own != member.classes and set(own) == set(member.classes):
        raise TeacherError(
            f"{where}: the model's own order of classes is {', '.join(map(repr, own))}: list them under "
            "'classes' in that order"
        )
    labels = member.teacher.labels(member.feed(rows)[0])
    if labels is None or not set(labels) <= set(member.classes):
        return  # it names none, or by names of its own
    ranked = np.sort(answer, axis=1)
    for row, label in enumerate(labels):
        listed = member.classes[int(np.argmax(answer[row]))]
        if label != listed and ranked[row, -1] > ranked[row, -2]:
            raise TeacherError(
                f"{where}: where the model says {label!r}, its largest output is listed as {listed!r}: "
                "list its classes under 'classes' in its own order (scikit-learn sorts them)"
            )


def _check_alone(where: str, member: Member, rows: Mapping[str, Array], answer: Array) -> None:
    """Refuse a model whose answer to a row depends on the rows beside it: what would be cached is luck."""
    for place in range(PROBE_ROWS):
        row = {name: values[place : place + 1] for name, values in rows.items()}
        alone, _ = beliefs(member.teacher.answer(member.feed(row)[0]), member.kind)
        beside, _ = beliefs(answer[place : place + 1], member.kind)
        if np.abs(np.exp(alone) - np.exp(beside)).max() > ALONE_TOLERANCE:
            raise TeacherError(
                f"{where} answers a row differently alone and beside others; export it for inference (no "
                "batch statistics, no softmax over the batch axis)"
            )


def _warn_of_kind(where: str, member: Member, answer: Array) -> None:
    """Logits that look like probabilities are most likely that."""
    if member.kind == "logits" and (answer >= 0).all() and np.allclose(answer.sum(axis=1), 1, atol=1e-4):
        log.warning(
            "every answer sums to one: is this output kind probs?", teacher=member.teacher.name, where=where
        )


def probe_rows(inputs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    """Seeded rows of every input, to try teachers and plans on."""
    random = np.random.default_rng(0)
    rows: dict[str, Array] = {}
    for name, spec in inputs.items():
        shape = (ROWS, *spec.shape)
        if spec.dtype == "utf8":
            rows[name] = np.full(shape, "soft targets", dtype=object)
        elif spec.dtype[1] == "f":
            rows[name] = random.random(shape).astype(spec.dtype)
        else:
            rows[name] = np.zeros(shape, dtype=spec.dtype)
    return rows
