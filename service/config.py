"""The configuration: one YAML 1.2 file, strict, read once into frozen values.

    settings = load(Path("ensembles.yaml"))

Every key can be overridden by an environment variable: ``SOFT_TARGETS__SERVER__PORT=9000``. Paths are
relative to the file. An unknown key is refused with the nearest known one, and a key whose feature is not
there yet is refused by name.
"""

import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from service.errors import ConfigError
from service.model import OperatorSpec, Recipe, nearest, normalise
from soft_targets.wire import DTYPES

PREFIX = "SOFT_TARGETS__"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TEMPERATURES = (0.1, 100.0)

_directory: ContextVar[Path] = ContextVar("directory of the configuration file", default=Path())


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{message}", {"message": message})


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise _refuse(
            f"{value!r} is no name: letters, digits, '_' and '-', at most 64, the first a letter or digit"
        )
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise _refuse(f"{str(value).lower()} is not a number")
    return value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        written = str(value).lower() if isinstance(value, bool) else value
        raise _refuse(f'{written} is not text: write "{written}" with quotes')
    if not value:
        raise _refuse("an empty text names nothing")
    return value


Name = Annotated[str, AfterValidator(_name)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_number)]
Text = Annotated[str, BeforeValidator(_text)]
FilePath = Annotated[Path, AfterValidator(lambda path: _directory.get() / path)]
Temperature = Annotated[Number, Field(ge=TEMPERATURES[0], le=TEMPERATURES[1])]


class Section(BaseModel):
    """A part of the file; what it does not know, it refuses."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            refuse_unknown(data, known=cls.model_fields.keys(), later=cls.later)
        return data


def refuse_unknown(data: Mapping[Any, Any], *, known: Any, later: frozenset[str]) -> None:
    """Refuse the first key that is unknown, or whose feature comes later."""
    for key in data:
        if key in later:
            raise _refuse(f"key {key!r} is not yet supported; leave it out")
        if key not in known:
            raise _refuse(f"unknown key {key!r}{nearest(str(key), set(known))}")


class Server(Section):
    """Where the server listens; port 0 takes a free one."""

    later = frozenset({"workers", "metrics_port", "state_dir", "replicated", "spread_limit"})
    host: Text = "127.0.0.1"
    port: Annotated[Whole, Field(ge=0, le=65535)] = 8000


class Limits(Section):
    """What one request may cost."""

    later = frozenset(
        {
            "max_rows_in_flight", "max_bytes_in_flight", "drain_s", "max_decompressed_bytes",
            "max_json_depth", "max_header_bytes", "slow_reader_s",
            "rows_per_s_per_key", "rows_in_flight_per_key",
        }
    )  # fmt: skip
    max_body_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(64 * 2**20)
    max_rows_per_request: Annotated[Whole, Field(gt=0)] = 4096
    request_timeout_s: Annotated[Number, Field(gt=0)] = 60.0


class Cache(Section):
    """Where answers are kept: ``memory://?max_bytes=512MiB``."""

    later = frozenset(
        {
            "password_file", "l1_bytes", "opinions", "opinions_max_classes", "call_timeout_ms",
            "breaker", "lease",
        }
    )  # fmt: skip
    url: Text = "memory://?max_bytes=512MiB"
    ttl_s: Annotated[Number, Field(gt=0)] = 604_800.0

    @property
    def max_bytes(self) -> int:
        """The bound of the memory cache, in bytes."""
        value = parse_qs(urlsplit(self.url).query).get("max_bytes", ["512MiB"])[-1]
        return int(TypeAdapter(ByteSize).validate_python(value))

    @model_validator(mode="after")
    def _readable(self) -> Self:
        url = urlsplit(self.url)
        if url.scheme in {"redis", "rediss", "unix", "lmdb"}:
            raise _refuse(f"a cache at {url.scheme}:// is not yet supported; use memory://?max_bytes=512MiB")
        if url.scheme != "memory" or url.netloc or url.path or parse_qs(url.query).keys() - {"max_bytes"}:
            raise _refuse(f"{self.url!r} is no cache URL; use memory://?max_bytes=512MiB")
        try:
            positive = self.max_bytes > 0
        except ValidationError:
            positive = False
        if not positive:
            raise _refuse(f"max_bytes in {self.url!r} is no size; write for instance 512MiB")
        return self


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
            raise _refuse("a utf8 input is one text a row: leave its shape out")
        return self


class Output(Section):
    """Which of the graph's outputs is the teacher's answer, and what it holds."""

    name: Text | None = None
    kind: Literal["logits", "log_probs", "probs"]


def _class_pair(value: Any) -> tuple[str, str | None]:
    """``"cat"`` or ``{theirs: ours}``; ``{theirs: null}`` drops the class."""
    if isinstance(value, Mapping):
        if len(value) != 1:
            raise _refuse(
                f"{dict(value)!r} must map one class of the teacher to one of the ensemble, or to null"
            )
        theirs, ours = next(iter(value.items()))
        return _text(theirs), None if ours is None else _text(ours)
    return _text(value), _text(value)


class Teacher(Section):
    """One teacher: an ONNX file, how its inputs and output are named, and what its classes mean."""

    later = frozenset(
        {"device", "allow_cpu", "revision", "parameters", "timeout_s", "retries", "max_reply_bytes"}
    )
    name: Name
    model: FilePath
    inputs: dict[Text, Name] | None = None
    output: Output
    temperature: Annotated[Number, Field(gt=0)] = 1.0
    weight: Annotated[Number, Field(ge=0)] = 1.0
    classes: tuple[Annotated[tuple[str, str | None], BeforeValidator(_class_pair)], ...] | None = None
    missing: Literal["floor"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _local(cls, data: Any) -> Any:
        model = data.get("model") if isinstance(data, Mapping) else None
        if isinstance(model, str) and "://" in model:
            raise _refuse(f"a teacher at {model!r} is not yet supported; give the path of an ONNX file")
        return data


def _operator(value: Any) -> OperatorSpec:
    """``linear`` or ``{name: holder, exponent: 0.5}``."""
    if isinstance(value, OperatorSpec):
        return value
    if isinstance(value, str):
        return OperatorSpec(value)
    if not isinstance(value, Mapping):
        raise _refuse(f"{value!r} is no operator: write its name, or {{name: holder, exponent: 0.5}}")
    if "import" in value:
        raise _refuse("an operator by 'import' is not yet supported; name a built-in one")
    if not isinstance(value.get("name"), str):
        raise _refuse("an operator needs a name: {name: holder, exponent: 0.5}")
    return OperatorSpec(value["name"], tuple(sorted((key, value[key]) for key in value if key != "name")))


class Sparsity(Section):
    """How many classes of a fused target are kept."""

    top_k: Annotated[Whole, Field(ge=1)]


class RecipeSection(Section):
    """All that determines a target besides the input."""

    later = frozenset({"profile", "accept_violations", "diagnostics"})
    operator: Annotated[OperatorSpec, BeforeValidator(_operator)]
    temperature: Temperature = 1.0
    weights: dict[Name, Number] | None = None
    floor: Annotated[Number, Field(gt=0, lt=1)] = 1e-6
    output_temperature: Annotated[Number, Field(gt=0)] = 1.0
    sparsity: Sparsity | None = None

    @model_validator(mode="after")
    def _recalibrates_once(self) -> Self:
        if self.output_temperature != 1 and self.temperature != 1:
            raise _refuse("output_temperature recalibrates targets at temperature 1 only; set temperature: 1")
        return self


class Batching(Section):
    """How rows are put together for the teachers."""

    later = frozenset({"in_flight", "threads"})
    max_rows: Annotated[Whole, Field(gt=0)] = 128


def _classes(value: Any) -> Any:
    if isinstance(value, Mapping):
        refuse_unknown(value, known={"file"}, later=frozenset())
        path = _directory.get() / str(value.get("file"))
        try:
            return path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise _refuse(f"the classes' file cannot be read: {exc}") from None
    return value


class Ensemble(Section):
    """Ordered teachers over one list of classes, and the recipes that fuse them."""

    later = frozenset(
        {"unsafe_classes", "quorum", "samples", "teacher_timeout_s", "teacher_error_rate", "device_memory"}
    )
    inputs: dict[Name, Input] | None = None
    classes: Annotated[tuple[Text, ...], BeforeValidator(_classes), Field(min_length=2)]
    teachers: Annotated[tuple[Teacher, ...], Field(min_length=1)]
    device: Literal["auto", "cpu"] = "auto"
    batching: Batching = Batching()
    recipes: Annotated[dict[Name, RecipeSection], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _known_device(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and str(data.get("device", "")).startswith("cuda"):
            raise _refuse(f"device {data['device']!r} is not yet supported; use cpu")
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _unique("class", self.classes)
        _unique("teacher", [teacher.name for teacher in self.teachers])
        for teacher in self.teachers:
            self._classes_of(teacher)
        for name in self.recipes:
            self.recipe(name)
        return self

    def _classes_of(self, teacher: Teacher) -> None:
        where = f"teacher {teacher.name!r}: "
        pairs = teacher.classes if teacher.classes is not None else [(name, name) for name in self.classes]
        _unique(where + "class", [theirs for theirs, _ in pairs])
        known = set(self.classes)
        foreign = [ours for _, ours in pairs if ours is not None and ours not in known]
        if foreign:
            raise _refuse(
                f"{where}classes unknown to the ensemble: {_some(foreign)}; rename them with "
                "{theirs: ours} or drop them with {theirs: null}"
            )
        lacking = [name for name in self.classes if name not in {ours for _, ours in pairs}]
        if lacking and teacher.missing is None:
            raise _refuse(
                f"{where}lacks the ensemble's classes {_some(lacking)}; add them, or say missing: floor to "
                "let the floor stand for them"
            )

    def recipe(self, name: str) -> Recipe:
        """A recipe with its weights normalised."""
        section = self.recipes[name]
        top_k = section.sparsity.top_k if section.sparsity else None
        if top_k is not None and top_k > len(self.classes):
            raise _refuse(f"recipe {name!r}: top_k {top_k} exceeds the {len(self.classes)} classes")
        names = [teacher.name for teacher in self.teachers]
        weights = section.weights or {teacher.name: teacher.weight for teacher in self.teachers}
        try:
            normalised = normalise(weights, names)
        except ValueError as exc:
            raise _refuse(f"recipe {name!r}: {exc}") from None
        return Recipe(
            operator=section.operator,
            weights=normalised,
            temperature=section.temperature,
            floor=section.floor,
            output_temperature=section.output_temperature,
            top_k=top_k,
        )


def _unique(what: str, names: Any) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _refuse(f"{what} {name!r} stands twice; names must be unique")
        seen.add(name)


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


class Settings(BaseSettings):
    """The whole file, environment overrides applied."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter="__"
    )
    server: Server = Server()
    limits: Limits = Limits()
    cache: Cache = Cache()
    ensembles: Annotated[dict[Name, Ensemble], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        refuse_unknown(data, known=cls.model_fields.keys(), later=frozenset({"auth", "operators"}))
        return data

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is the library's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file; nothing else is read."""
        return env_settings, init_settings


def load(path: Path) -> Settings:
    """Read a configuration.

    Raises:
        ConfigError: naming the file, the key and what to do, a line a finding.
    """
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8: {exc}") from None
    except YAMLError as exc:
        raise ConfigError(f"{path}: is not YAML: {exc}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds no configuration; it needs at least 'ensembles:'")
    for variable in os.environ:
        key = variable.removeprefix(PREFIX).split("__")[0].lower()
        if variable.startswith(PREFIX) and key not in Settings.model_fields:
            raise ConfigError(
                f"environment variable {variable}: unknown key{nearest(key, Settings.model_fields)}"
            )
    token = _directory.set(path.resolve().parent)
    try:
        return Settings(**raw)
    except ValidationError as exc:
        raise ConfigError("\n".join(f"{path}: {_finding(error)}" for error in exc.errors())) from None
    finally:
        _directory.reset(token)


def _finding(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    return f"{where}: {error['msg']}" if where else str(error["msg"])
