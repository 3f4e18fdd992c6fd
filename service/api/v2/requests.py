"""Inference requests: JSON, with tensors in it, behind it, or both."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from service.api import bodies
from service.api.v2.messages import repeated, short, unknown_keys
from service.api.v2.parameters import RequestParameters, boolean, parameters_of, request_parameters, whole
from service.api.v2.tensors import Tensor, tensor_of, values_of
from service.config import Limits
from service.errors import BadInput
from service.model import Array
from soft_targets.wire import InputError, TensorSpec, check_names

KEYS = ("id", "model_name", "model_version", "parameters", "inputs", "outputs")
_OUTPUT_KEYS = ("name", "parameters")
_OUTPUT_PARAMETERS = ("binary_data", "classification")


class RequestedOutput(NamedTuple):
    """An output that a request names.

    Attributes:
        name: of it.
        binary: whether it is sent as bytes; None leaves that to the request.
        classification: how many classes are sent instead of the tensor; None sends the tensor.
    """

    name: str
    binary: bool | None = None
    classification: int | None = None


class Asked(NamedTuple):
    """An inference request.

    Attributes:
        id: to be repeated; empty where the request has none.
        rows: how many.
        inputs: ensemble input to array ``[B, ...]``, cast.
        outputs: that are wanted; None wants all.
        parameters: of the request.
    """

    id: str
    rows: int
    inputs: dict[str, Array]
    outputs: tuple[RequestedOutput, ...] | None
    parameters: RequestParameters


class Target(NamedTuple):
    """What a request is addressed to: a body that names another model went astray."""

    name: str
    version: str


def document_of(body: bytes | bytearray, *, max_depth: int) -> dict[str, Any]:
    """A body that is one JSON object.

    Raises:
        BadInput: it is none, or nests too deep.
    """
    document = bodies.document_of(body, max_depth=max_depth)
    if not isinstance(document, dict):
        raise BadInput("the body must be a JSON object")
    return document


def read(
    body: bytes | bytearray,
    json_bytes: int,
    target: Target,
    inputs: Mapping[str, TensorSpec],
    limits: Limits,
) -> Asked:
    """A request out of a body.

    Args:
        body: inflated.
        json_bytes: how much of it is JSON; the rest is tensors.
        target: the model that it was sent to.
        inputs: that the ensemble takes.
        limits: what a request may cost.

    Raises:
        BadInput: it cannot be read, or does not fit the ensemble.
        TooLarge: it has too many rows.
        Unsupported: it asks for what is not built here.
    """
    document = document_of(body[:json_bytes], max_depth=limits.max_json_depth)
    if extra := document.keys() - set(KEYS):
        raise BadInput(f"the body: {unknown_keys(extra, KEYS)}")
    for key, served in zip(("model_name", "model_version"), target, strict=True):
        if document.get(key) not in {None, "", served}:
            raise BadInput(f"{key} is {short(document[key])}, but the request was sent to {served!r}")
    identity = document.get("id") or ""
    if not isinstance(identity, str):
        raise BadInput(f"id is {short(identity)}: give a text")
    parameters, outputs = request_parameters(document), _outputs(document.get("outputs"))
    tensors = _tensors(document.get("inputs"), inputs, max_rows=limits.max_rows_per_request)
    content = memoryview(body)[json_bytes:]
    size = sum(tensor.size or 0 for tensor in tensors)
    if size != len(content):
        raise BadInput(
            f"the inputs have {size} bytes behind the JSON, the body has {len(content)}; set "
            "Inference-Header-Content-Length to the bytes of the JSON, and send each input's binary_data_size"
        )
    values, start = {}, 0
    for tensor in tensors:
        end = start + (tensor.size or 0)
        values[tensor.name] = values_of(tensor, content[start:end], inputs[tensor.name])
        start = end
    return Asked(identity, tensors[0].shape[0], values, outputs, parameters)


def read_raw(body: bytes | bytearray, inputs: Mapping[str, TensorSpec]) -> Asked:
    """A request that is nothing but one row of the only input; a text stands there without its length.

    Raises:
        BadInput: the ensemble takes more than one input, or the body is no such row.
    """
    if len(inputs) > 1:
        raise BadInput(
            "Inference-Header-Content-Length 0 says that the body is one row of the only input; this "
            f"ensemble takes {', '.join(inputs)}"
        )
    ((name, spec),) = inputs.items()
    values: Array
    if spec.dtype == "utf8":
        try:
            values = np.array([str(body, "utf-8")], dtype=object)
        except UnicodeDecodeError as exc:
            raise BadInput(f"input {name!r}: the body is not UTF-8: {exc.reason}") from None
        values = values.reshape(1, *spec.shape)
    else:
        row = np.dtype((spec.dtype, spec.shape))
        if len(body) != row.itemsize:
            raise BadInput(f"input {name!r}: one row of {spec} has {row.itemsize} bytes, not {len(body)}")
        values = np.frombuffer(body, spec.dtype).reshape(1, *spec.shape)
    document = {"parameters": {"binary_data_output": True}}
    return Asked("", 1, {name: values}, None, request_parameters(document))


def _tensors(given: Any, specs: Mapping[str, TensorSpec], *, max_rows: int) -> list[Tensor]:
    if not isinstance(given, list):
        raise BadInput("the body must have inputs, a list of tensors")
    tensors = [tensor_of(one, specs, max_rows=max_rows) for one in given]
    if twice := repeated(tensor.name for tensor in tensors):
        raise BadInput(f"input {twice} stands twice")
    try:
        check_names({tensor.name for tensor in tensors}, specs)
    except InputError as exc:
        raise BadInput(str(exc)) from None
    if len({tensor.shape[0] for tensor in tensors}) > 1:
        rows = {tensor.name: tensor.shape[0] for tensor in tensors}
        raise BadInput(f"inputs differ in their number of rows: {rows}")
    return tensors


def _outputs(given: Any) -> tuple[RequestedOutput, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list):
        raise BadInput("outputs must be a list; leave it out to get all")
    outputs = tuple(map(_output, given))
    if twice := repeated(output.name for output in outputs):
        raise BadInput(f"output {twice} stands twice")
    return outputs or None


def _output(given: Any) -> RequestedOutput:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise BadInput("every output must be an object with a name")
    where = f"output {short(given['name'])}"
    if extra := given.keys() - set(_OUTPUT_KEYS):
        raise BadInput(f"{where}: {unknown_keys(extra, _OUTPUT_KEYS)}")
    parameters = parameters_of(given, _OUTPUT_PARAMETERS, where)
    binary, count = parameters.get("binary_data"), parameters.get("classification")
    return RequestedOutput(
        given["name"],
        None if binary is None else boolean("binary_data", binary),
        None if count is None else whole("classification", count, least=1),
    )
