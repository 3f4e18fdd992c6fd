"""Messages of the Open Inference Protocol v2: tensors within JSON, or as bytes behind it."""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from service.datatypes import BYTES, DTYPE_OF
from service.model import Array

# What a server lists in its metadata that sends and takes tensors as bytes.
BINARY = "binary_tensor_data"
HEADER_LENGTH = "Inference-Header-Content-Length"
FLOATS = ("FP16", "FP32", "FP64")
LONGEST_LENGTH = 19  # digits of a number of bytes


class Malformed(Exception):
    """A message does not follow the protocol; what of it does not."""


class Tensor(NamedTuple):
    """What a server says of one input or output: -1 in a shape is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name!r} ({self.datatype} {list(self.shape)})"


class Described(NamedTuple):
    """What a server says of a model.

    Attributes:
        name: of the model, as the server calls it.
        inputs: in the server's order.
        outputs: likewise.
    """

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class Request(NamedTuple):
    """A question as it is sent."""

    body: bytes
    headers: dict[str, str]


class Answer(NamedTuple):
    """What came back; None where the server does not say it.

    Attributes:
        model: its name, as it answered.
        version: of the model.
        number: of the request that is answered.
        datatype: of the values.
        values: the output that was asked for.
    """

    model: str | None
    version: str | None
    number: str | None
    datatype: str
    values: Array


def encode(
    inputs: Mapping[str, tuple[str, Array]],
    *,
    output: str,
    parameters: Mapping[str, Any],
    number: str,
    binary: bool,
) -> Request:
    """A request for one output.

    Args:
        inputs: name to datatype and array ``[B, ...]``; text as an array of ``str``.
        output: what is asked for.
        parameters: that go with the request.
        number: that the answer repeats.
        binary: tensors go and come as bytes.
    """
    tensors, pieces = [], []
    for name, (datatype, values) in inputs.items():
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if binary:
            data = _bytes(datatype, values)
            tensor["parameters"] = {"binary_data_size": len(data)}
            pieces.append(data)
        else:
            tensor["data"] = values.reshape(-1).tolist()
        tensors.append(tensor)
    wanted: dict[str, Any] = {"name": output}
    if binary:
        wanted["parameters"] = {"binary_data": True}
    message: dict[str, Any] = {"id": number, "inputs": tensors, "outputs": [wanted]}
    if parameters:
        message["parameters"] = dict(parameters)
    head = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
    if not binary:
        return Request(head, {"Content-Type": "application/json"})
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return Request(b"".join([head, *pieces]), headers)


def _bytes(datatype: str, values: Array) -> bytes:
    if datatype != BYTES:
        return values.astype(DTYPE_OF[datatype], order="C", copy=False).tobytes()
    texts = [text.encode() for text in values.reshape(-1)]
    return b"".join(piece for text in texts for piece in (struct.pack("<I", len(text)), text))


def takes_bytes(body: bytes) -> bool:
    """Whether a server's metadata lists the binary extension.

    Raises:
        Malformed: it is no metadata.
    """
    extensions = _object(body).get("extensions")
    return isinstance(extensions, list) and BINARY in extensions


def describe(body: bytes) -> Described:
    """A model's metadata.

    Raises:
        Malformed: it is none.
    """
    message = _object(body)
    if not isinstance(message.get("name"), str):
        raise Malformed("it says no name")
    inputs, outputs = ([_tensor(one) for one in _tensors(message, what)] for what in ("inputs", "outputs"))
    return Described(message["name"], inputs, outputs)


def read_answer(body: bytes, header_length: str | None, *, output: str) -> Answer:
    """An answer.

    Args:
        body: whole.
        header_length: the bytes of JSON before those of tensors, as the header says; None where all is JSON.
        output: what was asked for.

    Raises:
        Malformed: it is no answer, or not to that.
    """
    head, rest = _parted(body, header_length)
    message = _object(head)
    used, found = 0, []
    for entry in _tensors(message, "outputs"):
        size, data = _binary_size(entry), None
        if size is not None:
            data = rest[used : used + size]
            used += size
        if entry.get("name") == output:
            found.append((entry, data))
    if used != len(rest):
        raise Malformed(f"its outputs take {used} bytes behind the JSON, and {len(rest)} came")
    if len(found) != 1:
        raise Malformed(f"it holds output {output!r} {len(found)} times")
    entry, data = found[0]
    tensor = _tensor(entry)
    if tensor.datatype not in FLOATS or any(size < 0 for size in tensor.shape):
        raise Malformed(f"its output {tensor} is not one float a class")
    values = _from_json(entry.get("data"), tensor) if data is None else _from_bytes(data, tensor)
    model, number = message.get("model_name"), message.get("id")
    return Answer(
        model if isinstance(model, str) else None,
        _text(message.get("model_version")),
        number if isinstance(number, str) and number else None,
        tensor.datatype,
        values,
    )


def error_of(body: bytes) -> str:
    """What an error reply says, as far as it can be read."""
    try:
        said = _object(body).get("error", body)
    except Malformed:
        said = body
    text = said if isinstance(said, str) else bytes(said).decode(errors="replace") if said is body else ""
    return "".join(sign if sign.isprintable() else " " for sign in text).strip()


def _parted(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    sound = header_length.isascii() and header_length.isdecimal() and len(header_length) <= LONGEST_LENGTH
    if not sound or int(header_length) > len(body):
        raise Malformed(f"its {HEADER_LENGTH} is {header_length[:40]!r}, and {len(body)} bytes came")
    length = int(header_length)
    return body[:length], memoryview(body)[length:]


def _object(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise Malformed("it is no JSON") from None
    if not isinstance(message, dict):
        raise Malformed("it is no JSON object")
    return message


def _tensors(message: Mapping[str, Any], what: str) -> list[dict[str, Any]]:
    """The list of that name; a server that says nothing of it may leave it out."""
    entries = message.get(what) or []
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise Malformed(f"its {what} are no list of tensors")
    return entries


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    name, datatype, shape = (entry.get(key) for key in ("name", "datatype", "shape"))
    if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(shape, list):
        raise Malformed("one of its tensors has no name, datatype or shape")
    if not all(type(size) is int and size >= -1 for size in shape):
        raise Malformed(f"the shape of its tensor {name!r} is not made of sizes")
    return Tensor(name, datatype, tuple(shape))


def _binary_size(entry: Mapping[str, Any]) -> int | None:
    parameters = entry.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None and (type(size) is not int or size < 0):
        raise Malformed(f"the binary_data_size of its tensor {entry.get('name')!r} is no number of bytes")
    return size


def _from_bytes(data: memoryview, tensor: Tensor) -> Array:
    dtype = np.dtype(DTYPE_OF[tensor.datatype])
    if len(data) != math.prod(tensor.shape) * dtype.itemsize:
        raise Malformed(f"its output {tensor} takes {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(tensor.shape)


def _from_json(data: Any, tensor: Tensor) -> Array:
    try:
        values = np.asarray(data)
    except ValueError:  # lists of several lengths
        raise Malformed(f"the data of its output {tensor} are no tensor") from None
    if values.dtype.kind not in "iuf" and values.size:
        raise Malformed(f"the data of its output {tensor} are not all numbers")
    if values.size != math.prod(tensor.shape):
        raise Malformed(f"the data of its output {tensor} are {values.size} numbers")
    with np.errstate(over="ignore"):
        return values.astype(DTYPE_OF[tensor.datatype]).reshape(tensor.shape)


def _text(value: Any) -> str | None:
    """A version, which some servers give as a number."""
    return None if value is None or value == "" else str(value)
