"""Rows: what an input is, the one cast into it, and what is refused."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from soft_targets.errors import InputError

DTYPES = (
    "|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8", "utf8",
)  # fmt: skip

LONGEST_SHOWN = 100  # characters of a value that is wrong

Array = np.ndarray[Any, Any]


class TensorSpec(NamedTuple):
    """One input of an ensemble: its dtype (one of ``DTYPES``) and the shape of one row (no batch axis)."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} of shape {list(self.shape)}"


def check_names(given: set[str], specs: Mapping[str, TensorSpec]) -> None:
    """Refuse inputs that are missing or unknown.

    Raises:
        InputError: naming them, and what is expected.
    """
    missing, extra = sorted(specs.keys() - given), sorted(given - specs.keys())
    if missing or extra:
        named = (("missing", missing), ("unknown", extra))
        said = [f"{which}: {', '.join(names)}" for which, names in named if names]
        raise InputError(f"inputs do not fit ({'; '.join(said)}); this ensemble takes {', '.join(specs)}")


def check_shape(values: Array, spec: TensorSpec, name: str) -> None:
    """Refuse rows of another shape.

    Raises:
        InputError: naming the input, what was given and what it takes.
    """
    if values.shape[1:] != spec.shape:
        hint = "; one row is a list of one: [row]" if values.shape == spec.shape else ""
        raise InputError(f"input {name!r}: rows have shape {list(values.shape[1:])}, it takes {spec}{hint}")


def cut(sizes: Array, budget: int, *, max_rows: int) -> Iterator[slice]:
    """Cut rows into runs of at most ``budget`` bytes together; a row that is larger is a run of its own.

    Args:
        sizes: the bytes of each row.
        budget: the bytes of a run.
        max_rows: the rows of a run, at least 1.
    """
    ends, start = np.cumsum(sizes), 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
        stop = min(stop, start + max_rows)
        yield slice(start, stop)
        start = stop


def cast(values: Any, dtype: str, *, name: str) -> Array:
    """Cast values to an input's dtype without ever changing what they say.

    Within integers, and from integers to floats, only where every value is kept exactly; from float to float
    values may round, but a finite one may not become infinite. Booleans and text stay what they are.

    Args:
        values: an array, or whatever ``numpy.asarray`` reads.
        dtype: one of ``DTYPES``.
        name: the input's name, for messages.

    Returns:
        A C-contiguous little-endian array; text as an object array of ``str``.

    Raises:
        InputError: naming the input, the first offending position and what to do.
    """
    try:
        # As objects where text is asked for: numpy would quietly turn a number among strings into text.
        source = np.asarray(values, dtype=object if dtype == "utf8" else None)
    except ValueError:
        raise InputError(f"input {name!r}: rows differ in shape; give every row the same shape") from None
    if dtype == "utf8":
        return _cast_text(source, name)
    target = np.dtype(dtype)
    if source.dtype.kind not in "biuf":
        odd = _odd_one(np.asarray(values, dtype=object))
        raise InputError(f"input {name!r}: {odd} is not a number; it takes {dtype}")
    if source.dtype == target:
        return np.ascontiguousarray(source).reshape(source.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        result = source.astype(target, order="C")
    kinds = ("i" if source.dtype.kind == "u" else source.dtype.kind) + (
        "i" if target.kind == "u" else target.kind
    )
    if kinds == "ff":
        lost = np.isinf(result) & np.isfinite(source)
    elif kinds == "ii":
        limits = np.iinfo(target)
        lost = (source < limits.min) | (source > limits.max)
    elif kinds == "if":
        lost = _inexact(source, result)
    else:
        raise InputError(f"input {name!r}: {source.dtype.name} cannot become {dtype}; send {dtype}")
    if lost.any():
        where = tuple(int(i) for i in np.argwhere(lost)[0])
        raise InputError(
            f"input {name!r}: {source[where]!s} at {list(where)} cannot be kept as {dtype}; "
            "send values in its range"
        )
    return result


def _cast_text(source: Array, name: str) -> Array:
    result = np.asarray(source, dtype=object)
    for where, value in np.ndenumerate(result):
        if not isinstance(value, str):
            raise InputError(f"input {name!r}: {_shown(value)} at {list(where)} is not text; it takes utf8")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"input {name!r}: the text at {list(where)} is not valid Unicode") from None
    return result


def _odd_one(source: Array) -> str:
    """Describe the first value that is no number, for a message."""
    for where, value in np.ndenumerate(source):
        if isinstance(value, str) or not isinstance(value, int | float | np.number):
            return f"{_shown(value)} at {list(where)}"
    return f"a value of dtype {source.dtype}"


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    said = repr(value)
    return said if len(said) <= LONGEST_SHOWN else f"{said[:LONGEST_SHOWN]}..."


def _inexact(source: Array, result: Array) -> Array:
    """Where an integer did not survive becoming a float."""
    limits = np.iinfo(source.dtype)
    back = np.atleast_1d(result.astype(np.float64))
    # Twice half of it: the largest integer itself would round up to what is beyond.
    fits = (back >= float(limits.min)) & (back < 2.0 * (limits.max // 2 + 1))
    lost = ~fits
    lost[fits] = back[fits].astype(source.dtype) != np.atleast_1d(source)[fits]
    return lost.reshape(source.shape)
