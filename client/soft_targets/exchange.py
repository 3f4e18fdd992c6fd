"""What stands between a call and its requests: rows are prepared and cut into parts, answers are joined."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from soft_targets import wire
from soft_targets.errors import FailedRows, IncompleteStream, InputError, RowId, WireError
from soft_targets.targets import SoftTargets
from soft_targets.wire.rows import cut

__all__ = ["Join", "parts", "prepare"]

Array = np.ndarray[Any, Any]


def prepare(
    inputs: Mapping[str, Any],
    specs: Mapping[str, wire.TensorSpec],
    *,
    row_ids: Sequence[RowId] | Array | None,
) -> tuple[dict[str, Array], pa.Array]:
    """Check and cast a call's inputs.

    Returns:
        Name to array ``[B, ...]`` in the ensemble's order, and B row ids.

    Raises:
        InputError: names, dtypes, shapes, lengths or ids do not fit.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(f"inputs must map names to rows, not be a {type(inputs).__name__}")
    wire.check_names(set(inputs), specs)
    arrays = {}
    for name, spec in specs.items():
        values = wire.cast(_as_numpy(inputs[name]), spec.dtype, name=name)
        if values.ndim == 0:
            raise InputError(f"input {name!r} is a single value; give one per row, along a first axis")
        wire.check_shape(values, spec, name)
        arrays[name] = values
    lengths = {name: len(values) for name, values in arrays.items()}
    rows = next(iter(lengths.values()))
    if rows == 0 or set(lengths.values()) != {rows}:
        raise InputError(f"every input needs the same number of rows, at least one; given: {lengths}")
    ids = wire.default_row_ids(rows) if row_ids is None else wire.row_id_array(_as_numpy(row_ids))
    if len(ids) != rows:
        raise InputError(f"{len(ids)} row ids for {rows} rows")
    return arrays, ids


def _as_numpy(values: Any) -> Any:
    """A torch tensor as an array, without knowing torch; anything else as it is."""
    if not hasattr(values, "detach"):
        return values
    tensor = values.detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:  # bfloat16 has no numpy twin; float32 holds each of its values
        return tensor.float().numpy()


def parts(arrays: Mapping[str, Array], ids: pa.Array, *, max_rows: int, max_bytes: int) -> list[slice]:
    """Cut rows so that no request's body exceeds the limits.

    Raises:
        InputError: a single row is larger than ``max_bytes``.
    """
    budget = max_bytes - 2048 - 1024 * len(arrays)  # the schema, and padding of every column
    sizes = np.full(len(ids), 8) if pa.types.is_integer(ids.type) else _text_bytes(ids.to_pylist())
    for values in arrays.values():
        sizes = sizes + (_text_bytes(values) if values.dtype == object else values[0].nbytes)
    for row in np.flatnonzero(sizes > budget)[:1]:
        raise InputError(
            f"row {ids[int(row)].as_py()!r} takes {sizes[row]} bytes, "
            f"more than a request to this server may hold ({max_bytes} bytes)"
        )
    return list(cut(sizes, budget, max_rows=max_rows))


def _text_bytes(texts: Sequence[str] | Array) -> Array:
    return np.array([len(text.encode()) + 4 for text in texts], dtype=np.int64)


class Join:
    """Puts the rows of several answers where they belong, by row id and never by position.

    Args:
        row_ids: B ids.
        classes: C names.
        agree: told each answer's fingerprint before its rows are read; raises where it may not be.
    """

    def __init__(
        self, row_ids: list[RowId], classes: tuple[str, ...], *, agree: Callable[[str], None]
    ) -> None:
        self._row_ids = row_ids
        self._classes = classes
        self._agree = agree
        self._classes_digest = wire.classes_digest(classes)
        self._sources = [""] * len(row_ids)
        self._missing_teachers: list[tuple[str, ...]] = [()] * len(row_ids)
        self._errors: dict[RowId, tuple[str, str]] = {}
        self._columns: tuple[Array, Array | None, Array | None] | None = None
        self._fingerprint: str | None = None
        self._temperature = math.nan

    def add(self, part: slice, answer: bytes, *, broken: Exception | None = None) -> None:
        """Take in the answer to the request that held the rows of ``part``.

        Args:
            part: which rows were asked for.
            answer: the body, as far as it came.
            broken: what broke it off, if anything did.

        Raises:
            IncompleteStream: rows are missing, doubled or foreign, or the closing batch is, or disagrees.
            WireError: the answer does not follow the format, or has another fingerprint than it may have.
        """
        where = {row: part.start + offset for offset, row in enumerate(self._row_ids[part])}
        missing = dict(where)
        try:
            closing = self._read(answer, where, missing)
        except WireError as exc:
            named = isinstance(exc, IncompleteStream) and exc.row_ids
            if named or not (broken or isinstance(exc, IncompleteStream)):
                raise
            raise IncompleteStream(
                f"the answer was cut: {broken or exc}; {_some(missing)} did not arrive", row_ids=list(missing)
            ) from (broken or exc)
        if missing:
            raise IncompleteStream(f"{_some(missing)} missing from a complete answer", row_ids=list(missing))
        failed = sum(row in self._errors for row in where)
        if closing != (len(where), failed):
            raise IncompleteStream(
                f"the closing batch says {closing.rows} rows, {closing.failed} failed; "
                f"{len(where)} rows came, {failed} failed"
            )

    def finish(self) -> SoftTargets:
        """All rows.

        Raises:
            FailedRows: the server answered some with an error.
        """
        if self._errors:
            raise FailedRows(self._errors)
        assert self._columns is not None, "every row was answered, so a batch was read"
        assert self._fingerprint is not None, "a fingerprint is read before a batch"
        log_probs, indices, tail = self._columns
        return SoftTargets(
            row_ids=self._row_ids,
            log_probs=log_probs,
            indices=indices,
            tail_log_mass=tail,
            temperature=self._temperature,
            fingerprint=self._fingerprint,
            source=self._sources,
            missing_teachers=tuple(self._missing_teachers) if any(self._missing_teachers) else (),
            classes=self._classes,
        )

    def _read(self, answer: bytes, where: dict[RowId, int], missing: dict[RowId, int]) -> wire.Closing:
        metadata, batches = wire.read_reply(answer)
        self._believe(metadata)
        for batch in batches:
            if isinstance(batch, wire.Closing):
                return batch
            self._place(batch, where, missing)
        raise AssertionError("read_reply ends with a closing batch or raises")

    def _believe(self, metadata: Mapping[str, str]) -> None:
        try:
            fingerprint, temperature = metadata["fingerprint"], float(metadata["temperature"])
        except (KeyError, ValueError):
            raise WireError("the answer does not say its fingerprint and temperature") from None
        if metadata.get("classes_digest") != self._classes_digest:
            raise WireError(
                "the answer is over other classes than the ensemble's description, which was changed "
                "meanwhile; make a new client"
            )
        if not 0 < temperature < math.inf:
            raise WireError(f"the answer says a temperature of {temperature}")
        self._agree(fingerprint)
        self._fingerprint, self._temperature = fingerprint, temperature

    def _place(self, batch: wire.ReplyBatch, where: dict[RowId, int], missing: dict[RowId, int]) -> None:
        row_ids = batch.row_ids.to_pylist()
        unasked: dict[RowId, str] = {}
        for row in row_ids:
            if missing.pop(row, None) is None:
                unasked[row] = "came twice" if row in where else "was not asked for"
        if unasked:
            said = "; ".join(f"row {row!r} {what}" for row, what in list(unasked.items())[:3])
            raise IncompleteStream(f"{len(unasked)} row(s) are wrong: {said}", row_ids=list(unasked))
        good = np.ones(len(row_ids), dtype=bool)
        for offset, (row, source, error) in enumerate(zip(row_ids, batch.sources, batch.errors, strict=True)):
            if source == "absent":
                raise WireError(f"row {row!r} was sent whole, yet the answer calls it absent")
            if source == "error" or error is not None:
                self._errors[row] = error or ("internal", "the server does not say why")
                good[offset] = False
            self._sources[where[row]] = source
            self._missing_teachers[where[row]] = batch.missing_teachers[offset]
        into = np.array([where[row] for row in row_ids], dtype=np.intp)[good]
        came = (batch.log_probs, batch.indices, batch.tail_log_mass)
        for kept, values in zip(self._room(batch), came, strict=True):
            if kept is not None and values is not None:
                kept[into] = values[good]

    def _room(self, batch: wire.ReplyBatch) -> tuple[Array, Array | None, Array | None]:
        """The arrays to fill, made to the first batch's measure."""
        width, sparse = batch.log_probs.shape[1], batch.indices is not None
        rows, classes = len(self._row_ids), len(self._classes)
        if (width > classes) if sparse else (width != classes):
            raise WireError(f"the answer has {width} log-probabilities a row for {classes} classes")
        if batch.indices is not None and not ((batch.indices >= 0) & (batch.indices < classes)).all():
            raise WireError(f"the answer has a class index outside 0 to {classes - 1}")
        if self._columns is None:
            self._columns = (
                np.empty((rows, width), dtype=np.float32),
                np.empty((rows, width), dtype=np.int32) if sparse else None,
                np.empty(rows, dtype=np.float32) if sparse else None,
            )
        log_probs, indices, _ = self._columns
        if log_probs.shape[1] != width or (indices is not None) != sparse:
            raise WireError("answers to one call differ in how many classes they keep")
        return self._columns


def _some(rows: Mapping[RowId, int]) -> str:
    shown = ", ".join(repr(row) for row in list(rows)[:5])
    return f"{len(rows)} row(s) ({shown}{', ...' if len(rows) > len(list(rows)[:5]) else ''})"
