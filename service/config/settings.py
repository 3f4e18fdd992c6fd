"""The whole configuration, and how it is read."""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import ByteSize, Field, TypeAdapter, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from service.config.ensemble import Ensemble
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
)
from service.errors import ConfigError
from service.model import nearest

PREFIX = "SOFT_TARGETS__"


class Server(Section):
    """Where the server listens; port 0 takes a free one."""

    later: ClassVar = frozenset({"workers", "metrics_port", "state_dir", "replicated", "spread_limit"})
    host: Text = "127.0.0.1"
    port: Annotated[Whole, Field(ge=0, le=65535)] = 8000


class Limits(Section):
    """What one request may cost."""

    later: ClassVar = frozenset(
        {
            "max_rows_in_flight", "max_bytes_in_flight", "drain_s", "max_decompressed_bytes",
            "max_json_depth", "max_header_bytes", "slow_reader_s",
            "rows_per_s_per_key", "rows_in_flight_per_key",
        }
    )  # fmt: skip
    max_body_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(64 * 2**20)
    max_rows_per_request: Annotated[Whole, Field(gt=0)] = 4096
    request_timeout_s: Annotated[Number, Field(gt=0)] = 60.0


class Auth(Section):
    """Who may ask: whoever has a key of the file; without one, this machine, or everyone."""

    keys_file: FilePath | None = None
    open: bool = False

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if self.open and self.keys_file is not None:
            raise refuse("open: true is for a server without keys; leave out open or keys_file")
        return self


class Cache(Section):
    """Where answers are kept: ``memory://?max_bytes=512MiB``."""

    later: ClassVar = frozenset(
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
            raise refuse(f"a cache at {url.scheme}:// is not yet supported; use memory://?max_bytes=512MiB")
        if url.scheme != "memory" or url.netloc or url.path or parse_qs(url.query).keys() - {"max_bytes"}:
            raise refuse(f"{self.url!r} is no cache URL; use memory://?max_bytes=512MiB")
        try:
            positive = self.max_bytes > 0
        except ValidationError:
            positive = False
        if not positive:
            raise refuse(f"max_bytes in {self.url!r} is no size; write for instance 512MiB")
        return self


class Settings(BaseSettings):
    """The whole file, environment overrides applied."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter="__"
    )
    server: Server = Server()
    limits: Limits = Limits()
    auth: Auth = Auth()
    cache: Cache = Cache()
    ensembles: Annotated[dict[Name, Ensemble], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        refuse_unknown(data, known=cls.model_fields.keys(), later=frozenset({"operators"}))
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
        mark = getattr(exc, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}: is not YAML: {getattr(exc, 'problem', None) or exc}{where}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds no configuration; it needs at least 'ensembles:'")
    for variable in os.environ:
        key = variable.removeprefix(PREFIX).split("__")[0].lower()
        if variable.startswith(PREFIX) and key not in Settings.model_fields:
            raise ConfigError(
                f"environment variable {variable}: unknown key{nearest(key, Settings.model_fields)}"
            )
    token = directory.set(path.resolve().parent)
    try:
        return Settings(**raw)
    except ValidationError as exc:
        raise ConfigError("\n".join(_finding(path, error) for error in exc.errors())) from None
    finally:
        directory.reset(token)


def _finding(path: Path, error: Any) -> str:
    """One finding: where it stands, in the file or in the environment, and what it is."""
    keys = [str(part) for part in error["loc"]]
    given = f", not {error['input']!r}" if error["type"] == "literal_error" else ""
    said = f"{'.'.join(keys)}: {error['msg']}{given}" if keys else error["msg"]
    prefix = PREFIX + "__".join(keys).upper()
    variables = [name for name in os.environ if keys and (name == prefix or name.startswith(f"{prefix}__"))]
    return f"{path}{f' (with {variables[0]} set)' if variables else ''}: {said}"
