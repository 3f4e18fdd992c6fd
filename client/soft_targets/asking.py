"""What a question to the server is made of, and what the server says of itself."""

import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx2

from soft_targets import wire
from soft_targets.errors import InputError, RequestRefused, WireError

MAX_ROWS = 256
MAX_BYTES = 16 * 1024 * 1024


class Ensemble(NamedTuple):
    """What of the server's description is needed to ask it."""

    described: dict[str, Any]
    specs: dict[str, wire.TensorSpec]
    classes: tuple[str, ...]
    max_rows: int
    max_bytes: int


def query(
    recipe: str, temperature: float | None, weights: Mapping[str, float] | None, top_k: int | None
) -> dict[str, str]:
    """The parameters of a question.

    Raises:
        InputError: a value does not make sense.
    """
    asked = {"recipe": recipe}
    if temperature is not None:
        given = _number(temperature)
        if not 0 < given < math.inf:
            raise InputError(f"temperature must be a finite number above 0, not {temperature!r}")
        asked["temperature"] = repr(given)
    if weights is not None:
        numbers = {teacher: _number(weight) for teacher, weight in weights.items()}
        for teacher, number in numbers.items():
            if not 0 <= number < math.inf:
                said = weights[teacher]
                raise InputError(f"the weight of {teacher!r} must be finite and at least 0, not {said!r}")
        if not any(numbers.values()):
            raise InputError("at least one weight must be above 0")
        asked["weights"] = ",".join(f"{teacher}:{number!r}" for teacher, number in numbers.items())
    if top_k is not None:
        asked["top_k"] = str(_top_k(top_k))
    return asked


def _number(value: Any) -> float:
    """A number, NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _top_k(value: Any) -> int:
    try:
        kept = operator.index(value)
    except TypeError:
        kept = None
    if kept is None or isinstance(value, bool):
        raise InputError(f"top_k must be a whole number, not {value!r}")
    if kept < 1:
        raise InputError(f"top_k must be at least 1, not {kept}")
    return kept


def read_ensemble(response: httpx2.Response) -> Ensemble:
    """The server's description of an ensemble.

    Raises:
        WireError: it is none, or needs a newer client.
    """
    try:
        described = response.json()
        limits = described.get("limits", {})
        specs = {
            name: wire.TensorSpec(entry["dtype"], tuple(int(size) for size in entry["shape"]))
            for name, entry in described["inputs"].items()
        }
        known = Ensemble(
            described=described,
            specs=specs,
            classes=tuple(described["classes"]),
            max_rows=min(MAX_ROWS, int(limits.get("max_rows_per_request", MAX_ROWS))),
            max_bytes=min(MAX_BYTES, int(limits.get("max_body_bytes", MAX_BYTES))),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise WireError(f"{response.url} did not answer with an ensemble's description ({exc!r})") from exc
    unknown = {spec.dtype for spec in specs.values()} - set(wire.DTYPES)
    if unknown or not specs:
        raise WireError(
            f"the ensemble's inputs cannot be understood ({described['inputs']}); update the client"
        )
    return known


def refusal(response: httpx2.Response) -> RequestRefused:
    """What the server said instead of answering, or what else may answer at that address."""
    status = response.status_code
    try:
        body = response.json()
        return RequestRefused(str(body["error"]), status=status, code=str(body["code"]))
    except (ValueError, TypeError, KeyError):
        pass
    if response.has_redirect_location:
        said = f"it redirects to {response.headers['Location']}: use that address as base_url"
    else:
        start = " ".join(response.text.split())[:200]
        said = f"not with this server's JSON; a proxy or another program answers there: {start!r}"
    kind = response.headers.get("Content-Type", "no type")
    return RequestRefused(f"{response.url} answered with {kind}, {said}", status=status, code="unknown")
