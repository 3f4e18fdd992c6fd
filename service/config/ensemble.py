"""The ensemble's part of a configuration: inputs, teachers, recipes."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, ByteSize, Field, model_validator

from service.config.fake import FakeModel, read_fake
from service.config.remote import SCHEME, RemoteModel, read_remote
from service.config.values import (
    Calibration,
    FilePath,
    InputName,
    Name,
    Number,
    Section,
    Temperature,
    Text,
    Whole,
    directory,
    refuse,
    refuse_unknown,
    text,
    whole_or,
)
from service.model import OperatorSpec, Recipe, nearest, normalise
from soft_targets.wire import DTYPES

SMALLEST_NORMAL = 2.0**-126  # of float32
_SEQUENCE = "rows are asked in any order, and a row's answer may not depend on others"
RESERVED_PARAMETERS = {
    "binary_data_output": "how tensors travel is agreed with the server",
    "sequence_id": _SEQUENCE,
    "sequence_start": _SEQUENCE,
    "sequence_end": _SEQUENCE,
}
ELSEWHERE = frozenset({"revision", "parameters", "timeout_s", "retries", "max_reply_bytes", "key_file"})
HERE = frozenset({"device", "allow_cpu"})


class Input(Section):
    """One input of an ensemble, a row at a time (no batch axis)."""

    dtype: Literal[
        "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
        "float16", "float32", "float64", "utf8",
    ]  # fmt: skip
    shape: tuple[Annotated[Whole, Field(gt=0)], ...] = ()
    allow_nan: bool = False

    @property
    def wire_dtype(self) -> str:
        """The dtype as the wire format spells it."""
        names = get_args(type(self).model_fields["dtype"].annotation)
        return DTYPES[names.index(self.dtype)]

    @model_validator(mode="after")
    def _one_text_a_row(self) -> Self:
        if self.dtype == "utf8" and self.shape:
            raise refuse("a utf8 input is one text a row: leave its shape out")
        return self


def _device(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
        raise refuse(f"{value!r} is no device: write auto, cpu, cuda or cuda:1")
    return value


DeviceName = Annotated[str, BeforeValidator(_device)]


class Output(Section):
    """Which of the graph's outputs is the teacher's answer, and what it holds."""

    name: Text | None = None
    kind: Literal["logits", "log_probs", "probs"]


def _class_pair(value: Any) -> tuple[str, str | None]:
    """``"cat"`` or ``{theirs: ours}``; ``{theirs: null}`` drops the class."""
    if isinstance(value, Mapping):
        if len(value) != 1:
            raise refuse(
                f"{dict(value)!r} must map one class of the teacher to one of the ensemble, or to null"
            )
        theirs, ours = next(iter(value.items()))
        return text(theirs), None if ours is None else text(ours)
    return text(value), text(value)


def _model(value: Any) -> Path | FakeModel | RemoteModel:
    if isinstance(value, FakeModel | RemoteModel):
        return value
    if not isinstance(value, (str, Path)):
        raise refuse(f"{value!r} is no model; give the path of an ONNX file")
    if str(value).startswith("fake:"):
        return read_fake(str(value))
    if str(value).startswith(SCHEME):
        return read_remote(str(value))
    if "://" in str(value):
        raise refuse(
            f"{str(value).partition(':')[0]!r} is no scheme of a teacher; give the path of an ONNX file, or "
            "kserve+http://host:port/model"
        )
    return directory.get() / value


def _parameters(value: Any) -> Any:
    """What goes with every request to a teacher elsewhere, and may change nothing but its answers."""
    if not isinstance(value, Mapping):
        raise refuse(f"{value!r} are no parameters: write {{name: value}}")
    for key, given in value.items():
        text(key)
        if not isinstance(given, (str, int, float)) or (
            isinstance(given, float) and not math.isfinite(given)
        ):
            raise refuse(f"parameter {key!r} is {given!r}; give a finite number, a text, true or false")
        if key in RESERVED_PARAMETERS:
            raise refuse(f"parameter {key!r} is not for you to set: {RESERVED_PARAMETERS[key]}")
    return value


class Teacher(Section):
    """One teacher: its model, how its inputs and output are named, and what its classes mean."""

    name: Name
    model: Annotated[Path | FakeModel | RemoteModel, BeforeValidator(_model)]
    inputs: dict[Text, InputName] | None = None
    output: Output
    temperature: Calibration = 1.0
    weight: Annotated[Number, Field(ge=0)] = 1.0
    classes: tuple[Annotated[tuple[str, str | None], BeforeValidator(_class_pair)], ...] | None = None
    missing: Literal["floor"] | None = None
    device: DeviceName | None = None
    allow_cpu: bool = False
    revision: Text | None = None
    parameters: Annotated[
        dict[str, bool | int | float | str], BeforeValidator(_parameters), Field(default_factory=dict)
    ]
    timeout_s: Annotated[Number, Field(gt=0)] = 10.0
    retries: Annotated[Whole, Field(ge=0, le=10)] = 2
    max_reply_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(64 * 2**20)
    key_file: FilePath | None = None

    @model_validator(mode="after")
    def _only_what_it_has(self) -> Self:
        if isinstance(self.model, RemoteModel):
            for key in HERE & self.model_fields_set:
                raise refuse(f"{key} is for a model that runs here; this one runs at {self.model.server}")
        else:
            for key in ELSEWHERE & self.model_fields_set:
                raise refuse(f"{key} is for a teacher elsewhere, model: kserve+http://host:port/model")
        return self


def _operator(value: Any) -> OperatorSpec:
    """``linear`` or ``{name: holder, exponent: 0.5}``."""
    if isinstance(value, OperatorSpec):
        return value
    if isinstance(value, str):
        return OperatorSpec(value)
    if not isinstance(value, Mapping):
        raise refuse(f"{value!r} is no operator: write its name, or {{name: holder, exponent: 0.5}}")
    imported = "import" in value
    word = "import" if imported else "name"
    if not isinstance(value.get(word), str) or (imported and "name" in value):
        raise refuse('an operator needs a name, or an import: {name: holder, exponent: 0.5}, {import: "m:f"}')
    parameters = {text(key): value[key] for key in value if key != word}
    for key, given in parameters.items():
        if not isinstance(given, (str, int, float)) or (
            isinstance(given, float) and not math.isfinite(given)
        ):
            raise refuse(f"parameter {key!r} is {given!r}; give a finite number, a text, true or false")
    return OperatorSpec(value[word], tuple(sorted(parameters.items())), imported)


class Sparsity(Section):
    """How many classes of a fused target are kept."""

    top_k: Annotated[Whole, Field(ge=1)]


class RecipeSection(Section):
    """All that determines a target besides the input."""

    operator: Annotated[OperatorSpec, BeforeValidator(_operator)]
    profile: Literal["strict", "paper"] = "strict"
    accept_violations: tuple[Text, ...] = ()
    temperature: Temperature = 1.0
    weights: dict[Name, Number] | None = None
    floor: Annotated[Number, Field(gt=0, lt=1)] = 1e-6
    output_temperature: Calibration = 1.0
    sparsity: Sparsity | None = None
    diagnostics: bool = False

    @model_validator(mode="after")
    def _recalibrates_once(self) -> Self:
        if self.output_temperature != 1 and self.temperature != 1:
            raise refuse("output_temperature recalibrates targets at temperature 1 only; set temperature: 1")
        return self


class Batching(Section):
    """How rows are put together for the teachers."""

    max_rows: Annotated[Whole, Field(gt=0)] = 128
    in_flight: Annotated[int | Literal["auto"], whole_or("auto")] = "auto"
    threads: Annotated[int | Literal["auto"], whole_or("auto")] = "auto"


def _classes(value: Any) -> Any:
    if isinstance(value, Mapping):
        refuse_unknown(value, known={"file"}, later=frozenset())
        if not isinstance(value.get("file"), str):
            raise refuse(
                "name the classes' file as {file: classes.txt}, or the classes in order as [cat, dog]"
            )
        path = directory.get() / value["file"]
        try:
            return path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise refuse(f"the classes' file cannot be read: {exc}") from None
    return value


class Ensemble(Section):
    """Ordered teachers over one list of classes, and the recipes that fuse them."""

    inputs: dict[InputName, Input] | None = None
    classes: Annotated[tuple[Text, ...], BeforeValidator(_classes), Field(min_length=2)]
    teachers: Annotated[tuple[Teacher, ...], Field(min_length=1)]
    device: DeviceName = "auto"
    device_memory: Annotated[ByteSize, Field(gt=0)] | None = None
    quorum: Annotated[int | Literal["all"], whole_or("all")] = "all"
    teacher_timeout_s: Annotated[Number, Field(gt=0)] = 10.0
    teacher_error_rate: Annotated[Number, Field(gt=0, le=1)] = 0.5
    batching: Batching = Batching()
    unsafe_classes: tuple[Text, ...] = ()
    samples: FilePath | None = None
    recipes: Annotated[dict[Name, RecipeSection], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _unique("class", self.classes)
        _unique("teacher", [teacher.name for teacher in self.teachers])
        if self.quorum != "all" and self.quorum > len(self.teachers):
            raise refuse(f"quorum {self.quorum} exceeds the {len(self.teachers)} teachers")
        _unique("unsafe class", self.unsafe_classes)
        for name in self.unsafe_classes:
            if name not in self.classes:
                raise refuse(f"unsafe_classes: {name!r} is no class{nearest(name, self.classes)}")
        for teacher in self.teachers:
            self._classes_of(teacher)
            if "timeout_s" in teacher.model_fields_set and teacher.timeout_s > self.teacher_timeout_s:
                raise refuse(
                    f"teacher {teacher.name!r}: timeout_s {teacher.timeout_s:g} of one try exceeds "
                    f"teacher_timeout_s ({self.teacher_timeout_s:g}), which bounds all of them together"
                )
        for name in self.recipes:
            self.recipe(name)
        return self

    def _classes_of(self, teacher: Teacher) -> None:
        where = f"teacher {teacher.name!r}: "
        pairs = teacher.classes if teacher.classes is not None else [(name, name) for name in self.classes]
        _unique(where + "class", [theirs for theirs, _ in pairs])
        known = set(self.classes)
        if all(ours is None for _, ours in pairs):
            raise refuse(f"{where}drops every class of its own; it could say nothing")
        foreign = [ours for _, ours in pairs if ours is not None and ours not in known]
        if foreign:
            close = nearest(foreign[0], self.classes)
            hint = f" ({close[2:]})" if "did you mean" in close else ""
            raise refuse(
                f"{where}classes unknown to the ensemble: {_some(foreign)}{hint}; rename with "
                "{theirs: ours}, or drop with {theirs: null}"
            )
        told = {ours for _, ours in pairs}
        lacking = [name for name in self.classes if name not in told]
        if lacking and teacher.missing is None:
            raise refuse(
                f"{where}lacks the ensemble's classes {_some(lacking)}; name which outputs they are, or "
                "say missing: floor to let the floor stand for them"
            )

    @property
    def unsafe_indices(self) -> tuple[int, ...]:
        """Where the unsafe classes stand among the classes."""
        return tuple(self.classes.index(name) for name in self.unsafe_classes)

    @property
    def not_cached(self) -> str | None:
        """Why no target of this ensemble may be kept, or None where they may."""
        nameless = [
            repr(teacher.name)
            for teacher in self.teachers
            if isinstance(teacher.model, RemoteModel) and teacher.revision is None
        ]
        if not nameless:
            return None
        return (
            f"teacher {', '.join(nameless)} has no revision, so nobody knows whether a row that was kept is "
            "still what it would answer; declare one, and change it whenever the model there changes"
        )

    def recipe(self, name: str, section: RecipeSection | None = None) -> Recipe:
        """A recipe with its weights normalised; one of the file's, or another for this ensemble.

        Raises:
            PydanticCustomError: it does not fit the ensemble.
        """
        section = section or self.recipes[name]
        top_k = section.sparsity.top_k if section.sparsity else None
        if top_k is not None and top_k > len(self.classes):
            raise refuse(f"recipe {name!r}: top_k {top_k} exceeds the {len(self.classes)} classes")
        smallest = len(self.classes) * SMALLEST_NORMAL
        if section.floor < smallest:
            raise refuse(
                f"recipe {name!r}: floor {section.floor} is too small: it goes to {len(self.classes)} "
                "classes in equal parts, which must be normal float32 numbers; give a number from "
                f"{smallest} to less than 1"
            )
        names = [teacher.name for teacher in self.teachers]
        weights = section.weights
        if weights is None:
            weights = {teacher.name: teacher.weight for teacher in self.teachers}
        try:
            normalised = normalise(weights, names)
        except ValueError as exc:
            raise refuse(f"recipe {name!r}: {exc}") from None
        return Recipe(
            operator=section.operator,
            weights=normalised,
            temperature=section.temperature,
            floor=section.floor,
            output_temperature=section.output_temperature,
            top_k=top_k,
            diagnostics=section.diagnostics,
        )


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise refuse(f"{what} {name!r} stands twice; names must be unique")
        seen.add(name)


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
