"""The kinds of value a configuration holds, and what is refused everywhere in it."""

import re
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from service.model import nearest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TEMPERATURES = (0.1, 100.0)
# What a request's rows have beside the inputs, as columns of one table.
RESERVED = ("row_id", "digest")

directory: ContextVar[Path] = ContextVar("directory of the configuration file", default=Path())


def refuse(message: str) -> PydanticCustomError:
    """The error that says why a value is refused."""
    return PydanticCustomError("refused", "{message}", {"message": message})


def _name(value: Any) -> Any:
    if not NAME.fullmatch(value if isinstance(value, str) else text(value)):
        raise refuse(
            f"{value!r} is no name: letters, digits, '_' and '-', at most 64, the first a letter or digit"
        )
    return value


def input_name(value: Any) -> Any:
    """The name of an ensemble's input.

    Raises:
        PydanticCustomError: it is no name, or that of a column beside the inputs.
    """
    if value in RESERVED:
        raise refuse(f"{value!r} is a column of its own beside the inputs: name the input otherwise")
    return _name(value)


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise refuse(f"{str(value).lower()} is not a number")
    return value


def text(value: Any) -> Any:
    """Text as it is; a number or boolean is refused with the quoted form.

    Raises:
        PydanticCustomError: it is not text, or empty.
    """
    if not isinstance(value, str):
        if value is not None and not isinstance(value, (int, float)):
            raise refuse(f"{value!r} is not text")
        written = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        raise refuse(f'{written} is not text: write "{written}" with quotes')
    if not value:
        raise refuse("an empty text names nothing")
    return value


Name = Annotated[str, BeforeValidator(_name)]
InputName = Annotated[str, BeforeValidator(input_name)]


def whole_or(word: str) -> BeforeValidator:
    """A whole number above 0, or one word that leaves it to the service."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value.isdecimal():
            value = int(value)  # from the environment
        if value != word and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise refuse(f"{value!r} is neither {word} nor a whole number from 1")
        return value

    return BeforeValidator(check)


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_number)]
Text = Annotated[str, BeforeValidator(text)]
FilePath = Annotated[Path, AfterValidator(lambda path: directory.get() / path)]
Temperature = Annotated[Number, Field(ge=TEMPERATURES[0], le=TEMPERATURES[1])]
# Beyond it float32 knows only one class, or all alike.
Calibration = Annotated[Number, Field(ge=0.01, le=100)]


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


def refuse_unknown(data: Mapping[Any, Any], *, known: Collection[str], later: frozenset[str]) -> None:
    """Refuse the first key that is no text or unknown, or whose feature comes later.

    Raises:
        PydanticCustomError: naming it.
    """
    for key in data:
        text(key)
        if key in later:
            raise refuse(f"key {key!r} is not yet supported; leave it out")
        if key not in known:
            raise refuse(f"unknown key {key!r}{nearest(key, known)}")
