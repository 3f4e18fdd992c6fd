"""Tensors of a request: what each says of itself, checked before its values are looked at, and its values."""

import itertools
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from service.api.bodies import check_integers
from service.api.v2.messages import short, unknown, unknown_keys
from service.api.v2.parameters import parameters_of, whole
from service.datatypes import BFLOAT16, BINARY_ONLY, BYTES, DATATYPES, FIXED
from service.errors import BadInput, TooLarge
from service.model import Array
from soft_targets.wire import InputError, TensorSpec, cast

_KEYS = ("name", "datatype", "shape", "parameters", "data")
_LENGTH = struct.Struct("<I")
# What JSON has for the values of a datatype; of all others whole numbers.
_FLOATS = (int, float)
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "BOOL": (bool,), BYTES: (str,), "FP32": _FLOATS, "FP64": _FLOATS,
}  # fmt: skip


class Tensor(NamedTuple):
    """What a request says of an input.

    Attributes:
        name: of the input.
        datatype: of its values.
        shape: of them, rows first.
        data: the values, if they stand in the JSON.
        size: of their bytes, if they stand behind it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None
    size: int | None

    def __str__(self) -> str:
        return f"input {self.name!r} ({self.datatype} {list(self.shape)})"


def tensor_of(given: Any, specs: Mapping[str, TensorSpec], *, max_rows: int) -> Tensor:
    """An input as a request describes it.

    Raises:
        BadInput: it does not fit the ensemble, or contradicts itself.
        TooLarge: it has more than ``max_rows`` rows.
    """
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise BadInput("every input must be an object with a name")
    name = given["name"]
    if name not in specs:
        raise BadInput(unknown("input", name, specs))
    where = f"input {name!r}"
    if extra := given.keys() - set(_KEYS):
        raise BadInput(f"{where}: {unknown_keys(extra, _KEYS)}")
    datatype = given.get("datatype")
    if datatype not in DATATYPES:
        raise BadInput(f"{where}: datatype is {short(datatype)}; give one of {', '.join(DATATYPES)}")
    shape = _shape(given.get("shape"), specs[name], where, max_rows)
    parameters = parameters_of(given, ("binary_data_size",), where)
    data, size = given.get("data"), parameters.get("binary_data_size")
    tensor = Tensor(name, datatype, shape, data, None if size is None else whole("binary_data_size", size))
    _check_values(tensor)
    return tensor


def _shape(shape: Any, spec: TensorSpec, where: str, max_rows: int) -> tuple[int, ...]:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise BadInput(f"{where}: shape must be a list of whole numbers")
    if len(shape) != 1 + len(spec.shape) or tuple(shape[1:]) != spec.shape:
        takes = [-1, *spec.shape]
        raise BadInput(f"{where}: shape is {short(shape)}, it takes {takes}, rows first, of {spec.dtype}")
    if shape[0] > max_rows:
        raise TooLarge(f"{short(shape[0])} rows in one request, at most {max_rows} are taken; split them")
    return tuple(shape)


def _check_values(tensor: Tensor) -> None:
    """Refuse what has no values or two, and bytes of another size than the shape's."""
    if (tensor.data is None) == (tensor.size is None):
        raise BadInput(f"{tensor}: give data, or binary_data_size and the bytes behind the JSON")
    if tensor.data is not None:
        if not isinstance(tensor.data, list):
            raise BadInput(f"{tensor}: data must be a list")
        if tensor.datatype in BINARY_ONLY:
            raise BadInput(f"{tensor}: JSON holds no {tensor.datatype}; send it as bytes behind the JSON")
        return
    count = math.prod(tensor.shape)  # of Python's integers, which do not wrap
    if tensor.datatype == BYTES:
        takes, fits = f"at least {_LENGTH.size * count}", (tensor.size or 0) >= _LENGTH.size * count
    else:
        exact = count * np.dtype(FIXED[tensor.datatype]).itemsize
        takes, fits = str(exact), tensor.size == exact
    if not fits:
        raise BadInput(f"{tensor}: binary_data_size is {tensor.size}, its datatype and shape take {takes}")


def values_of(tensor: Tensor, content: memoryview, spec: TensorSpec) -> Array:
    """The values of an input, cast to what the ensemble takes.

    Args:
        tensor: what the request says of it.
        content: its bytes; not looked at where its values stand in the JSON.
        spec: what the ensemble takes.

    Raises:
        BadInput: they are not what the request says, or cannot be cast without changing what they say.
    """
    values = _of_bytes(tensor, content) if tensor.data is None else _of_json(tensor, tensor.data)
    try:
        return cast(values.reshape(tensor.shape), spec.dtype, name=tensor.name)
    except InputError as exc:
        raise BadInput(str(exc)) from None


def _of_bytes(tensor: Tensor, content: memoryview) -> Array:
    if tensor.datatype == BYTES:
        return _texts(tensor, content)
    values: Array = np.frombuffer(content, FIXED[tensor.datatype])
    if tensor.datatype == "BOOL" and (values.view(np.uint8) > 1).any():
        raise BadInput(f"{tensor}: a boolean is a byte of 0 or 1")
    if tensor.datatype == BFLOAT16:
        return (values.astype("<u4") << 16).view("<f4")  # the upper half of a float32
    return values


def _texts(tensor: Tensor, content: memoryview) -> Array:
    """Elements of 4 bytes of length and so many bytes of UTF-8."""
    count, start = math.prod(tensor.shape), 0
    values = np.empty(count, dtype=object)
    for place in range(count):
        end = start + _LENGTH.size
        if end <= len(content):
            start, end = end, end + _LENGTH.unpack_from(content, start)[0]
        if end > len(content):
            raise BadInput(f"{tensor}: its bytes end within element {place} of {count}")
        try:
            values[place] = str(content[start:end], "utf-8")
        except UnicodeDecodeError as exc:
            raise BadInput(f"{tensor}: element {place} is not UTF-8: {exc.reason}") from None
        start = end
    if start != len(content):
        raise BadInput(f"{tensor}: {len(content) - start} bytes are left behind its {count} elements")
    return values


def _of_json(tensor: Tensor, data: list[Any]) -> Array:
    flat, count = _flat(tensor, data), math.prod(tensor.shape)
    if len(flat) != count:
        raise BadInput(f"{tensor}: data holds {len(flat)} values, its shape takes {count}")
    known = _JSON_TYPES.get(tensor.datatype, (int,))
    kinds = set(map(type, flat))
    if odd := kinds - set(known):
        place = next(place for place, value in enumerate(flat) if type(value) in odd)
        raise BadInput(f"{tensor}: value {place} is {short(flat[place])}, which is no {tensor.datatype}")
    try:
        if tensor.datatype == BYTES:
            return np.array(flat, dtype=object)
        if known is _FLOATS:
            if int in kinds:
                check_integers(np.array(flat, dtype=object), FIXED[tensor.datatype], tensor.name)
            return cast(np.array(flat, dtype="<f8"), FIXED[tensor.datatype], name=tensor.name)
        return np.array(flat, dtype=FIXED[tensor.datatype])
    except OverflowError:
        raise BadInput(f"{tensor}: a value is beyond {tensor.datatype}; send values in its range") from None
    except InputError as exc:
        raise BadInput(str(exc)) from None


def _flat(tensor: Tensor, data: list[Any]) -> list[Any]:
    """The values of a tensor that nests as its shape says, or stands in one list, row-major."""
    if not data or not isinstance(data[0], list):
        return data
    for axis, size in enumerate(tensor.shape[1:], start=1):
        if not all(isinstance(one, list) and len(one) == size for one in data):
            raise BadInput(
                f"{tensor}: data does not nest as the shape says: lists of axis {axis} hold {size} each"
            )
        data = list(itertools.chain.from_iterable(data))
    return data
