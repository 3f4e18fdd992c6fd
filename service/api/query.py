"""The soft-targets query: what a request may ask for."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from service.config import TEMPERATURES
from service.engine.ensemble import Overrides
from service.errors import BadQuery, BadWeights
from service.model import nearest
from soft_targets.wire import PRECISIONS

ORDERS = ("input", "arrival")
# What float() takes besides is a slip more often than a number: 1_0, blanks, digits of other scripts.
NUMBER = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Query(NamedTuple):
    """A request's parameters, checked."""

    recipe: str
    order: str
    overrides: Overrides


def parse(query: bytes) -> Query:
    """Read a query string.

    Raises:
        BadQuery: a parameter is unknown, stands twice, or has an impossible value.
        BadWeights: the weights cannot be read.
    """
    readers: Mapping[str, Callable[[str], Any]] = {
        "recipe": str,
        "temperature": _temperature,
        "weights": _weights,
        "top_k": _top_k,
        "dtype": partial(_one_of, "dtype", PRECISIONS),
        "order": partial(_one_of, "order", ORDERS),
    }
    given: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as exc:
        raise BadQuery(f"the query string cannot be read: {exc}") from None
    for name, value in pairs:
        if name not in readers:
            raise BadQuery(f"unknown query parameter {name!r}{nearest(name, readers)}")
        if name in given:
            raise BadQuery(f"query parameter {name!r} stands twice")
        given[name] = readers[name](value)
    return Query(given.pop("recipe", "default"), given.pop("order", "input"), Overrides(**given))


def _temperature(value: str) -> float:
    low, high = TEMPERATURES
    temperature = _float(value)
    if temperature is None or not low <= temperature <= high:
        raise BadQuery(f"temperature={value!r}: give a number from {low:g} to {high:g}")
    return temperature


def _top_k(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value)):  # noqa: PLR2004 - int32
        raise BadQuery(f"top_k={value!r}: give a whole number from 1 to the number of classes")
    return int(value)


def _one_of(name: str, words: Sequence[str], value: str) -> str:
    if value not in words:
        raise BadQuery(f"{name}={value!r}: give {' or '.join(words)}")
    return value


def _weights(value: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in value.split(","):
        name, colon, text = part.partition(":")
        weight = _float(text)
        if not colon or weight is None or name in weights:
            raise BadWeights(f"weights={value!r}: give teacher:weight,teacher:weight, each teacher once")
        weights[name] = weight
    return weights


def _float(text: str) -> float | None:
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None
