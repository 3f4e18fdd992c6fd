"""The whole configuration, and how it is read."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ByteSize, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError

from service.config.cache import Cache
from service.config.ensemble import Ensemble, RecipeSection
from service.config.values import (
    FilePath,
    Name,
    Number,
    Section,
    Text,
    Whole,
    directory,
    refuse,
    refuse_unknown,
    whole_or,
)
from service.errors import ConfigError
from service.model import nearest

LONGEST_PATIENCE_S = 86_400.0
SMALLEST_HEAD = 1024  # bytes: an address and what every client says of itself
DEEPEST = 200  # the parser goes no deeper
PREFIX = "SOFT_TARGETS__"
KINDS = {
    str: "text",
    list: "a list",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
}
# What to write where a key that has no default is not there.
NEEDED = {
    "ensembles": "; name one at least, with its classes, teachers and recipes",
    "classes": "; name them in order, as [cat, dog], or as {file: classes.txt}, one a line",
    "teachers": "; name one at least: {name: NAME, model: FILE.onnx, output: {kind: logits}}",
    "recipes": "; name one at least: default: {operator: linear}",
    "output": "; say what it holds: {kind: logits}, {kind: log_probs} or {kind: probs}",
    "kind": "; say what the output holds: logits, log_probs or probs",
    "operator": "; name one, as linear, or {name: holder, exponent: 0.5}",
    "model": "; give the path of an ONNX file, or the address of a model on another server",
}


class Server(Section):
    """Where the server listens, a port 0 takes a free one; and where it keeps what it found out."""

    later: ClassVar = frozenset({"replicated"})
    host: Text = "127.0.0.1"
    port: Annotated[Whole, Field(ge=0, le=65535)] = 8000
    metrics_port: Annotated[Whole, Field(ge=0, le=65535)] | None = None
    access_log: bool = False
    workers: Annotated[int | Literal["auto"], whole_or("auto")] = "auto"
    state_dir: FilePath | None = None
    spread_limit: Annotated[Number, Field(gt=0)] = 1e-4
    tls_certificate_file: FilePath | None = None
    tls_key_file: FilePath | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise refuse("tls_certificate_file and tls_key_file go together; name both, or neither")
        if self.metrics_port == self.port != 0:
            raise refuse(f"metrics_port and port are both {self.port}; give the figures a port of their own")
        return self


class Limits(Section):
    """What one request may cost, and all of them at a time."""

    max_body_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(64 * 2**20)
    max_decompressed_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(256 * 2**20)
    max_json_depth: Annotated[Whole, Field(gt=0, le=DEEPEST)] = 100
    max_rows_per_request: Annotated[Whole, Field(gt=0)] = 4096
    max_rows_in_flight: Annotated[Whole, Field(gt=0)] = 16_384
    max_bytes_in_flight: Annotated[ByteSize, Field(gt=0)] = ByteSize(2**30)
    rows_per_s_per_key: Annotated[Whole | None, Field(gt=0)] = None
    rows_in_flight_per_key: Annotated[Whole | None, Field(gt=0)] = None
    max_header_bytes: Annotated[ByteSize, Field(ge=SMALLEST_HEAD)] = ByteSize(32 * 2**10)
    request_timeout_s: Annotated[Number, Field(gt=0)] = 60.0
    slow_reader_s: Annotated[Number, Field(gt=0, le=LONGEST_PATIENCE_S)] = 30.0
    drain_s: Annotated[Number, Field(ge=0)] = 30.0

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        if self.max_rows_per_request > self.max_rows_in_flight:
            raise refuse(
                f"max_rows_in_flight ({self.max_rows_in_flight}) must be max_rows_per_request "
                f"({self.max_rows_per_request}) at least"
            )
        if self.max_body_bytes > self.max_bytes_in_flight:
            raise refuse(
                f"max_bytes_in_flight ({int(self.max_bytes_in_flight)}) must be max_body_bytes "
                f"({int(self.max_body_bytes)}) at least"
            )
        per_key = self.rows_in_flight_per_key
        if per_key is not None and per_key < self.max_rows_per_request:
            raise refuse(
                f"rows_in_flight_per_key ({per_key}) must be max_rows_per_request "
                f"({self.max_rows_per_request}) at least"
            )
        return self


class Auth(Section):
    """Who may ask: whoever has a key of the file; without one, this machine, or everyone."""

    keys_file: FilePath | None = None
    open: bool = False

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if self.open and self.keys_file is not None:
            raise refuse("open: true is for a server without keys; leave out open or keys_file")
        return self


class Operators(Section):
    """Which entry points of the group soft_targets.operators a recipe that is put at run time may name."""

    entry_points: tuple[Text, ...] = ()


class Settings(BaseSettings):
    """The whole file, environment overrides applied."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter="__"
    )
    server: Server = Server()
    limits: Limits = Limits()
    auth: Auth = Auth()
    cache: Cache = Cache()
    operators: Operators = Operators()
    ensembles: Annotated[dict[Name, Ensemble], Field(min_length=1)]

    @property
    def alone(self) -> bool:
        """Whether one process serves; several would each keep in memory what the others keep too."""
        workers = self.server.workers
        return workers == 1 or (workers == "auto" and self.cache.address.scheme == "memory")

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


class _CoreSchema(SafeConstructor):
    """YAML 1.2's core schema, which has no dates: what looks like one is text."""


_CoreSchema.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def load(path: Path, text: str | None = None) -> Settings:
    """Read a configuration.

    Args:
        path: of the file.
        text: what is in it; None reads it.

    Raises:
        ConfigError: naming the file, the key and what to do, a line a finding.
    """
    raw = _read(path, text_of(path) if text is None else text)
    try:
        # Before pydantic-settings sees them: some keys it would take for options of its own.
        refuse_unknown(raw, known=Settings.model_fields.keys(), later=frozenset())
    except PydanticCustomError as exc:
        raise ConfigError(f"{path}: {exc.message()}") from None
    variables = _variables()
    for variable, keys in variables.items():
        _check_variable(variable, keys, raw)
    token = directory.set(path.resolve().parent)
    try:
        return Settings(**raw)
    except ValidationError as exc:
        findings = [_finding(path, error, variables) for error in _apart(exc.errors())]
        raise ConfigError("\n".join(findings)) from None
    except SettingsError as exc:
        # It names the field at most; the text that is no JSON leads to the variable.
        text = getattr(exc.__cause__, "doc", None)
        named = [name for name in variables if os.environ[name] == text] or variables
        raise ConfigError(
            f"environment variable {' or '.join(named)}: what is more than one value is set as JSON: "
            f"{exc.__cause__ or exc}"
        ) from None
    finally:
        directory.reset(token)


def read_recipe(name: str, data: Any) -> RecipeSection:
    """One recipe that does not come from a file.

    Args:
        name: that it would have.
        data: as the file would hold it.

    Raises:
        ConfigError: a line a finding.
    """
    try:
        TypeAdapter(Name).validate_python(name)
        return RecipeSection.model_validate(data)
    except ValidationError as exc:
        raise ConfigError("; ".join(_said(error) for error in _apart(exc.errors()))) from None


def text_of(path: Path) -> str:
    """What is in a configuration's file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8: {exc}") from None


def _read(path: Path, text: str) -> dict[Any, Any]:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _CoreSchema
    try:
        raw = yaml.load(text)
    except YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}: is not YAML: {getattr(exc, 'problem', None) or exc}{where}") from None
    except Exception as exc:  # noqa: BLE001 - a value under a tag that it cannot have raises anything
        raise ConfigError(f"{path}: holds a value that cannot be read: {exc}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds no configuration; it needs at least 'ensembles:'")
    return raw


def _variables() -> dict[str, list[str]]:
    """The environment's variables for the configuration, and the keys that each leads through."""
    return {
        name: name[len(PREFIX) :].lower().split("__")
        for name in os.environ
        if name.upper().startswith(PREFIX)
    }


def _check_variable(variable: str, keys: list[str], raw: Any) -> None:
    """Refuse a variable that could not set what it names."""
    where = f"environment variable {variable}"
    if keys[0] not in Settings.model_fields:
        raise ConfigError(f"{where}: unknown key{nearest(keys[0], Settings.model_fields)}")
    node = raw
    for depth, key in enumerate(keys):
        if isinstance(node, list):
            whole = PREFIX + "__".join(keys[:depth]).upper()
            raise ConfigError(
                f"{where}: {keys[depth - 1]!r} is a list, which is set whole: as JSON in {whole}, or in "
                "the file"
            )
        if not isinstance(node, Mapping):
            return
        capitals = [name for name in node if isinstance(name, str) and name.lower() == key != name]
        if capitals and key not in node:
            raise ConfigError(
                f"{where}: {capitals[0]!r} has capitals, which a variable cannot say; set it in the file"
            )
        node = node.get(key)


def _finding(path: Path, error: Any, variables: Mapping[str, list[str]]) -> str:
    """One finding: where it stands, in the file or in the environment, and what it is."""
    keys = [str(part) for part in error["loc"]]
    said = _said(error)
    # What is missing is missing beside the rest; a variable may hold more than the key, or lead further.
    place = [key.lower() for key in (keys[:-1] if error["type"] == "missing" else keys)]
    concerned = [
        name
        for name, way in variables.items()
        if place and all(a == b for a, b in zip(place, way, strict=False))
    ]
    return f"{path}{f' (with {concerned[0]} set)' if concerned else ''}: {said}"


def _apart(errors: Sequence[Any]) -> list[Any]:
    """Without what only follows from another: a list is not empty because what is in it is wrong."""
    return [
        error
        for error in errors
        if error["type"] != "too_short"
        or not any(
            other["loc"][: len(error["loc"])] == error["loc"] for other in errors if other is not error
        )
    ]


def _said(error: Any) -> str:
    """What is wrong, of which key, and what to do."""
    keys = [str(part) for part in error["loc"] if part != "[key]"]
    match error["type"]:
        case "missing":
            said = f"is missing{NEEDED.get(keys[-1], '; it has no default')}"
        case "too_short":
            least = error["ctx"]["min_length"]
            needed = NEEDED.get(keys[-1]) if least == 1 else None
            said = f"is empty{needed}" if needed else f"holds too little; {least} are needed at least"
        case "dict_type" | "model_type" | "model_attributes_type":
            # Its kind, not what it is: that may be a password which stands where it should not.
            said = f"must be a section, keys with values, not {KINDS.get(type(error['input']), 'that')}"
        case "byte_size" | "byte_size_unit":
            said = "is no size; write a number of bytes, or with a unit: 64MiB, 1GiB"
        case "literal_error":
            said = f"{error['msg']}, not {error['input']!r}"
        case _:
            said = error["msg"]
    return f"{'.'.join(keys)}: {said}" if keys else str(said)
