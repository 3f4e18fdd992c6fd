"""Parameters of requests, inputs and outputs: what is known is read, the rest is refused."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from service.api.v2.messages import short, unknown
from service.config import TEMPERATURES
from service.engine.ensemble import Overrides
from service.errors import BadInput, Unsupported

PREFIX = "soft_targets_"
SHARED_MEMORY = "shared_memory_"
LARGEST = 2**63 - 1
Value = str | int | float | bool


class RequestParameters(NamedTuple):
    """What a request says beside its tensors.

    Attributes:
        overrides: of the recipe.
        timeout_s: after which nobody waits any more; None where the request does not say.
        binary_output: whether outputs are sent as bytes where they do not say themselves.
    """

    overrides: Overrides
    timeout_s: float | None
    binary_output: bool


def parameters_of(holder: Mapping[str, Any], known: Collection[str], where: str) -> dict[str, Value]:
    """The parameters of a request, an input or an output.

    Args:
        holder: that has them, or not.
        known: their names.
        where: for messages.

    Raises:
        BadInput: one is unknown, or of a type that no parameter has.
        Unsupported: it is about shared memory.
    """
    given = holder.get("parameters")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BadInput(f"{where}: parameters must be an object")
    for name, value in given.items():
        if name.startswith(SHARED_MEMORY):
            raise Unsupported(f"{where}: shared memory is not used here; send tensors in the body")
        if name not in known:
            raise BadInput(f"{where}: {unknown('parameter', name, known)}")
        if not isinstance(value, str | int | float):
            raise BadInput(f"{where}: parameter {name!r} must be a text, a number or a boolean")
    return given


def request_parameters(document: Mapping[str, Any]) -> RequestParameters:
    """The parameters of an inference request.

    Raises:
        BadInput: one is unknown, or has an impossible value.
        Unsupported: one asks for sequences or priorities.
    """
    read: dict[str, Any] = {
        name: _READERS[name](name, value)
        for name, value in parameters_of(document, _READERS, "the request").items()
    }
    timeout_us = read.get("timeout", 0)
    return RequestParameters(
        Overrides(temperature=read.get(f"{PREFIX}temperature"), top_k=read.get(f"{PREFIX}top_k")),
        timeout_us / 1e6 if timeout_us else None,
        read.get("binary_data_output", False),
    )


def boolean(name: str, value: Value) -> bool:
    """A parameter that is true or false.

    Raises:
        BadInput: it is not.
    """
    if not isinstance(value, bool):
        raise BadInput(f"parameter {name!r} is {short(value)}: give true or false")
    return value


def whole(name: str, value: Value, *, least: int = 0) -> int:
    """A parameter that is a whole number.

    Raises:
        BadInput: it is not, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
        raise BadInput(f"parameter {name!r} is {short(value)}: give a whole number from {least}")
    return value


def _top_k(name: str, value: Value) -> int:
    return whole(name, value, least=1)


def _temperature(name: str, value: Value) -> float:
    low, high = TEMPERATURES
    if isinstance(value, str | bool) or not low <= value <= high:
        raise BadInput(f"parameter {name!r} is {short(value)}: give a number from {low:g} to {high:g}")
    return float(value)


def _priority(name: str, value: Value) -> int:
    if whole(name, value):
        raise Unsupported(f"parameter {name!r} is {value!r}: all requests are alike here; leave it out")
    return 0


def _sequence(name: str, value: Value) -> None:
    if value:
        raise Unsupported(f"parameter {name!r}: rows have no sequence here; leave it out")


_READERS: Mapping[str, Callable[[str, Value], Any]] = {
    f"{PREFIX}temperature": _temperature,
    f"{PREFIX}top_k": _top_k,
    "binary_data_output": boolean,
    "timeout": whole,
    "priority": _priority,
    "sequence_id": _sequence,
    "sequence_start": _sequence,
    "sequence_end": _sequence,
}
