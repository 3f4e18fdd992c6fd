"""Outputs: which a recipe has, and their tensors out of the values that the cache keeps."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import to_json

from service.api.v2.messages import unknown
from service.api.v2.requests import Asked, RequestedOutput
from service.datatypes import BYTES, datatype_of
from service.errors import BadInput
from service.model import Array
from soft_targets.wire import Layout

# Of a value as JSON, about: JSON's text of a number, or the number as Python holds it.
JSON_BYTES = 32
_CLASSIFIED = ("probabilities", "log_probs")
# So many values are written in less than a millisecond, in which no other thread gets its turn.
_AT_ONCE = 1 << 12
# JSON has no -inf, which an empty tail is; the exponential of this is 0 too.
_LOWEST = np.finfo(np.float32).min


class Output(NamedTuple):
    """An output of a model.

    Attributes:
        datatype: of its values.
        shape: of one row.
    """

    datatype: str
    shape: tuple[int, ...]


class Wanted(NamedTuple):
    """An output that a reply holds.

    Attributes:
        name: of it.
        binary: whether as bytes behind the JSON.
        classification: how many classes instead of the tensor; None for the tensor.
        output: as the model has it.
    """

    name: str
    binary: bool
    classification: int | None
    output: Output

    @property
    def row_bytes(self) -> int:
        """About how much a row of it takes in a reply."""
        count = int(np.prod(self.output.shape)) if self.classification is None else self.classification
        return count * (4 if self.binary and self.classification is None else JSON_BYTES)


class Written(NamedTuple):
    """An output of a reply.

    Attributes:
        name: of it.
        datatype: of its values.
        shape: of them, rows first.
        values: text as bytes.
        binary: whether they are sent as bytes behind the JSON.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Array
    binary: bool

    def data(self) -> bytes:
        """The values as a list in JSON, row-major."""
        flat = self.values.ravel()
        parts = [
            to_json(self._listed(flat[start : start + _AT_ONCE])) for start in range(0, len(flat), _AT_ONCE)
        ]
        return b"[" + b",".join(part[1:-1] for part in parts) + b"]"

    def _listed(self, values: Array) -> list[Any]:
        if self.datatype == BYTES:
            return [text.decode() for text in values]
        if values.dtype.kind == "f":
            values = np.maximum(values, _LOWEST)
        return list(values.tolist())

    def content(self) -> bytes:
        """The values as bytes, row-major."""
        if self.datatype == BYTES:
            return b"".join(len(text).to_bytes(4, "little") + text for text in self.values.ravel())
        return self.values.tobytes()


def outputs_of(layout: Layout) -> dict[str, Output]:
    """The outputs of a recipe, by name: of a dense one its probabilities, then what its values hold."""
    columns = {name: Output(datatype_of(kind.base.str), kind.shape) for name, kind in layout.columns.items()}
    if layout.top_k is not None:
        return columns
    return {"probabilities": Output("FP32", (layout.classes,)), **columns}


def wanted_of(layout: Layout, asked: Asked) -> list[Wanted]:
    """The outputs that a reply holds, in their order.

    Raises:
        BadInput: one is none of this recipe's, or cannot be sent as classes.
    """
    outputs = outputs_of(layout)
    requested = asked.outputs or tuple(map(RequestedOutput, outputs))
    wanted = []
    for name, binary, classification in requested:
        if name not in outputs:
            raise BadInput(unknown("output", name, outputs))
        if classification is not None:
            if name not in _CLASSIFIED:
                raise BadInput(f"output {name!r} holds no classes; ask classification of log_probs")
            if classification > outputs[name].shape[0]:
                raise BadInput(
                    f"output {name!r}: classification is {classification}, it has {outputs[name].shape[0]} "
                    "classes"
                )
        as_bytes = asked.parameters.binary_output if binary is None else binary
        wanted.append(Wanted(name, as_bytes, classification, outputs[name]))
    return wanted


def written(
    wanted: Sequence[Wanted], layout: Layout, classes: Sequence[str], values: Sequence[bytes]
) -> list[Written]:
    """The outputs of a reply.

    Args:
        wanted: which.
        layout: of the values.
        classes: of the ensemble.
        values: of the rows, as the cache keeps them.
    """
    columns: dict[str, Array] = dict(layout.unpack(b"".join(values)))
    if any(one.name == "probabilities" for one in wanted):
        columns["probabilities"] = np.exp(columns["log_probs"].astype(np.float64)).astype(np.float32)
    return [_written(one, columns, classes, len(values)) for one in wanted]


def _written(wanted: Wanted, columns: Mapping[str, Array], classes: Sequence[str], rows: int) -> Written:
    name, values = wanted.name, np.ascontiguousarray(columns[wanted.name])
    if wanted.classification is None:
        shape = (rows, *wanted.output.shape)
        return Written(name, wanted.output.datatype, shape, values, wanted.binary)
    best = _classified(values, columns.get("indices"), classes, wanted.classification)
    return Written(name, BYTES, (rows, wanted.classification), best, wanted.binary)


def _classified(values: Array, indices: Array | None, classes: Sequence[str], count: int) -> Array:
    """The largest values ``[B, count]`` as ``value:index:class``, ties to the lower index.

    Args:
        values: ``[B, C]``, or ``[B, k]`` of the classes that ``indices`` names.
        indices: ``[B, k]`` where they are not all.
        classes: by index.
        count: how many.
    """
    places = np.argsort(-values, axis=1, kind="stable")[:, :count]
    named = places if indices is None else np.take_along_axis(indices, places, axis=1)
    found = np.empty(places.shape, dtype=object)
    for row, place in np.ndindex(*places.shape):
        index = int(named[row, place])
        found[row, place] = f"{values[row, places[row, place]]:f}:{index}:{classes[index]}".encode()
    return found
