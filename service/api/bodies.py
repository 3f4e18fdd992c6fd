"""Bodies: rows out of JSON or Arrow."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.types import Receive

from service.api.depth import check_depth
from service.batching.intake import Load
from service.config import DEEPEST, Limits
from service.engine.ensemble import Ensemble
from service.errors import BadInput, EmptyBatch, TooLarge
from service.model import Array
from soft_targets import wire

TOP_KEYS = ("inputs", "row_ids")
# Reading so much JSON takes about a millisecond: above it, it leaves the event loop.
LONG_JSON_BYTES = 1 << 18
# Of a body that holds no rows.
MOST_DOCUMENT_BYTES = 1 << 20

T = TypeVar("T")


class ClientGone(Exception):
    """Raised when the client hung up before its request was whole; nobody is there to answer."""


async def whole(headers: Headers, receive: Receive, *, limit: int, load: Load) -> bytes:
    """The whole body, as long as it is within the limit and there is room for it.

    Raises:
        BadInput: it is encoded.
        TooLarge: it is larger than the limit; what is beyond is not read.
        QueueFull: others have to leave first; what is beyond is not read.
        ClientGone: the client hung up.
    """
    if headers.get("content-encoding", "identity") != "identity":
        raise BadInput(
            f"Content-Encoding {headers['content-encoding']!r} is not read; send the body as it is"
        )
    said = headers.get("content-length", "")
    if said.isdigit():
        if int(said) > limit:
            raise TooLarge(f"the body has {said} bytes, at most {limit} are taken; split the rows")
        load.check(size=int(said))  # what has not come takes no room of others
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"the body has more than {limit} bytes; split the rows")
        load.add(size=len(chunk))
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


async def whole_document(headers: Headers, receive: Receive, *, limits: Limits, load: Load) -> bytes:
    """The whole of a body that holds no rows, which is small.

    Raises:
        BadInput, TooLarge, QueueFull, ClientGone: as ``whole``.
    """
    limit = min(int(limits.max_body_bytes), MOST_DOCUMENT_BYTES)
    return await whole(headers, receive, limit=limit, load=load)


def read(
    body: bytes,
    media: str,
    ensemble: Ensemble,
    *,
    max_rows: int,
    max_depth: int = DEEPEST,
    max_bytes: int = wire.MAX_BYTES,
) -> wire.Request:
    """Rows, or their digests, and their ids out of a body.

    Raises:
        BadInput: the body cannot be read, or does not fit the ensemble.
        EmptyBatch: it holds no rows.
        TooLarge: it holds more than ``max_rows``, or Arrow inflates to more than ``max_bytes``.
    """
    if media != wire.ARROW:
        row_ids, inputs = rows_of(document_of(body, max_depth=max_depth), ensemble, max_rows=max_rows)
        return wire.Request(row_ids, inputs, None)
    try:
        asked = wire.decode_request(body, ensemble.inputs, max_rows=max_rows, max_bytes=max_bytes)
    except (wire.TooManyRows, wire.TooManyBytes) as exc:
        raise TooLarge(str(exc)) from None
    except wire.InputError as exc:
        raise BadInput(str(exc)) from None
    _some(asked.row_ids)
    return asked


async def aside(body: bytes, read: Callable[[], T]) -> T:
    """What is read of a body of JSON; of a long one in a thread, as others are answered meanwhile."""
    return await asyncio.to_thread(read) if len(body) > LONG_JSON_BYTES else read()


def document_of(body: bytes | bytearray, *, max_depth: int) -> Any:
    """A JSON body.

    Raises:
        BadInput: it is none, or nests deeper than ``max_depth``.
    """
    check_depth(body, max_depth)
    try:
        return from_json(body, allow_inf_nan=True)
    except ValueError as exc:
        raise BadInput(f"the body is not JSON: {exc}") from None


def rows_of(document: Any, ensemble: Ensemble, *, max_rows: int) -> tuple[pa.Array, dict[str, Array]]:
    """Rows and their ids out of ``{"inputs": {name: [row, ...]}, "row_ids": [...]}``.

    Raises:
        BadInput, EmptyBatch, TooLarge: as ``read``.
    """
    try:
        row_ids, inputs = _rows(document, ensemble, max_rows)
    except wire.InputError as exc:
        raise BadInput(str(exc)) from None
    return _some(row_ids), inputs


def _some(row_ids: pa.Array) -> pa.Array:
    if not len(row_ids):
        raise EmptyBatch("the request holds no rows; send at least one")
    return row_ids


def _rows(document: Any, ensemble: Ensemble, max_rows: int) -> tuple[pa.Array, dict[str, Array]]:
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), dict):
        raise BadInput('the body must be an object {"inputs": {name: [row, ...]}}, with "row_ids" if wanted')
    extra = document.keys() - set(TOP_KEYS)
    if extra:
        raise BadInput(f"unknown keys in the body: {', '.join(sorted(extra))}; known: {', '.join(TOP_KEYS)}")
    given = document["inputs"]
    wire.check_names(set(given), ensemble.inputs)
    count = _count(given)
    if count > max_rows:
        raise TooLarge(f"{count} rows in one request, at most {max_rows} are taken; split them")
    row_ids = _row_ids(document.get("row_ids"), count)
    if not count:
        return row_ids, {}
    inputs = {}
    for name, spec in ensemble.inputs.items():
        _check_nesting(given[name], spec, name)
        values = wire.cast(_regular(given[name], spec, name), spec.dtype, name=name)
        wire.check_shape(values, spec, name)
        inputs[name] = values
    return row_ids, inputs


def _count(given: Mapping[str, Any]) -> int:
    """How many rows every input has."""
    for name, rows in given.items():
        if not isinstance(rows, list):
            raise BadInput(f"input {name!r} must be a list of rows")
    counts = {name: len(rows) for name, rows in given.items()}
    if len(set(counts.values())) > 1:
        raise BadInput(f"inputs differ in their number of rows: {counts}")
    return next(iter(counts.values()))


def _row_ids(ids: Any, count: int) -> pa.Array:
    if ids is None:
        return wire.default_row_ids(count)
    if not isinstance(ids, list) or len(ids) != count:
        raise BadInput(f"row_ids must be a list of {count} ids, one a row")
    return wire.row_id_array(ids)


def _check_nesting(rows: list[Any], spec: wire.TensorSpec, name: str) -> None:
    """Refuse rows of another shape by the lengths of their lists, before anybody looks at what is in them.

    Raises:
        BadInput: naming the first such row.
    """
    for position, row in enumerate(rows):
        if not _nests(row, spec.shape):
            shape = _shape_of(row)
            said = "is ragged" if tuple(shape) == spec.shape else f"has shape {shape}"
            hint = "; one row is a list of one: [row]" if (len(rows), *shape) == spec.shape else ""
            raise BadInput(f"input {name!r}: row {position} {said}; it takes {spec}{hint}")


def _nests(value: Any, shape: tuple[int, ...]) -> bool:
    if not shape:
        return not isinstance(value, list)
    if not isinstance(value, list) or len(value) != shape[0]:
        return False
    if len(shape) == 1:
        return list not in set(map(type, value))
    return all(_nests(inner, shape[1:]) for inner in value)


def _shape_of(value: Any) -> list[int]:
    """Of lists within lists, as far as the first of each goes."""
    found = []
    while isinstance(value, list):
        found.append(len(value))
        value = value[0] if value else None
    return found


def _regular(rows: list[Any], spec: wire.TensorSpec, name: str) -> Any:
    """Rows of the right shape as an array that says what the JSON says.

    numpy finds one dtype for numbers of several kinds: it would round an integer beside a fraction and take
    true for 1 before the cast could refuse it. Text it would make as wide as the longest, whatever it is for.
    """
    exact = np.asarray(rows, dtype=object)
    kinds = set(map(type, exact.ravel()))
    if spec.dtype == "utf8" or not kinds <= {bool, int, float}:
        return exact  # text beside numbers stays what it is, and is refused by name
    if kinds == {bool}:
        return exact.astype(bool)
    if bool in kinds:
        raise BadInput(f"input {name!r}: true and false among numbers; it takes {spec}")
    values = np.asarray(rows)
    if values.dtype.kind not in "iuf":  # an integer beyond 64 bits
        return exact
    if values.dtype.kind == "f" and int in kinds:
        if spec.dtype[1] in "iu" and kinds == {int}:
            return _whole(rows, spec, name)
        if spec.dtype[1] == "f":
            check_integers(exact, spec.dtype, name)
    return values


def check_integers(exact: Array, dtype: str, name: str) -> None:
    """Refuse integers that a float of the input cannot hold, where numpy has made floats of them already.

    Args:
        exact: the numbers as they were sent, an object array.
        dtype: of the input.
        name: of the input.

    Raises:
        InputError: naming the first.
        OverflowError: one is beyond 64 bits.
    """
    integers = np.where(np.frompyfunc(lambda value: type(value) is int, 1, 1)(exact).astype(bool), exact, 0)
    negative = (integers < 0).astype(bool)
    wire.cast(np.where(negative, integers, 0).astype(np.int64), dtype, name=name)
    wire.cast(np.where(negative, 0, integers).astype(np.uint64), dtype, name=name)


def _whole(rows: list[Any], spec: wire.TensorSpec, name: str) -> Array:
    """Integers so large that numpy would make them fractions."""
    try:
        return np.array(rows, dtype=spec.dtype)
    except OverflowError:
        raise BadInput(
            f"input {name!r}: an integer is beyond {spec.dtype}; send values in its range"
        ) from None
