"""What stands between a call and its requests: rows are prepared and cut into parts, answers are joined."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from soft_targets import wire
from soft_targets.errors import FailedRows, IncompleteStream, InputError, OtherFingerprint, RowId, WireError
from soft_targets.targets import SoftTargets
from soft_targets.wire.rows import cut

__all__ = ["Join", "Part", "Prepared", "parts", "prepare"]

Array = np.ndarray[Any, Any]
Room = Callable[[tuple[int, ...], Any], Array]


class Prepared(NamedTuple):
    """A call's rows, checked and cast.

    Attributes:
        arrays: name to array ``[B, ...]``, in the ensemble's order.
        row_ids: B ids, the caller's.
        sizes: the bytes of each row, int ``[B]``.
    """

    arrays: dict[str, Array]
    row_ids: list[RowId]
    sizes: Array


class Part(NamedTuple):
    """The rows of one request.

    On the wire rows have ids that no other request of the client has, ``first``, ``first + 1`` ..., so that
    an answer to another request, of whatever rows, is not taken for this one's.

    Attributes:
        rows: their places in the call, int ``[n]``.
        first: the id of the first of them on the wire.
    """

    rows: Array
    first: int

    @property
    def wire_ids(self) -> pa.Array:
        """uint64 ``[n]``."""
        return pa.array(np.arange(self.first, self.first + len(self.rows), dtype=np.uint64))


def prepare(
    inputs: Mapping[str, Any],
    specs: Mapping[str, wire.TensorSpec],
    *,
    row_ids: Sequence[RowId] | Array | None,
) -> Prepared:
    """Check and cast a call's inputs.

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
    sizes = np.full(rows, 8)  # the id
    for values in arrays.values():
        sizes = sizes + (_text_bytes(values) if values.dtype == object else values[0].nbytes)
    return Prepared(arrays, ids.to_pylist(), sizes)


def _as_numpy(values: Any) -> Any:
    """A torch tensor as an array, without knowing torch; anything else as it is."""
    if not hasattr(values, "detach"):
        return values
    tensor = values.detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:  # bfloat16 has no numpy twin; float32 holds each of its values
        return tensor.float().numpy()


def parts(prepared: Prepared, *, max_rows: int, max_bytes: int) -> list[slice]:
    """Cut rows so that no request's body exceeds the limits.

    Raises:
        InputError: a single row is larger than ``max_bytes``.
    """
    budget = max_bytes - 2048 - 1024 * len(prepared.arrays)  # the schema, and padding of every column
    for row in np.flatnonzero(prepared.sizes > budget)[:1]:
        raise InputError(
            f"row {prepared.row_ids[int(row)]!r} takes {prepared.sizes[row]} bytes, "
            f"more than a request to this server may hold ({max_bytes} bytes)"
        )
    return list(cut(prepared.sizes, budget, max_rows=max_rows))


def _text_bytes(texts: Sequence[str] | Array) -> Array:
    return np.array([len(text.encode()) + 4 for text in texts], dtype=np.int64)


class Join:
    """Puts the rows of several answers where they belong, by row id and never by position.

    May be shared by threads, each with a part of its own.

    Args:
        row_ids: B ids, the caller's.
        classes: C names.
        classes_digest: of them, as answers must have it.
        agree: told the fingerprint of each answer that is whole; raises where it may not be.
        room: makes the arrays to fill, from shape and dtype.
    """

    def __init__(
        self,
        row_ids: list[RowId],
        classes: tuple[str, ...],
        *,
        classes_digest: str,
        agree: Callable[[str], None],
        room: Room = np.empty,
    ) -> None:
        self._row_ids = row_ids
        self._classes = classes
        self._agree = agree
        self._make = room
        self._classes_digest = classes_digest
        self._sources = [""] * len(row_ids)
        self._missing_teachers: list[tuple[str, ...]] = [()] * len(row_ids)
        self._errors: dict[RowId, tuple[str, str]] = {}
        self._lock = threading.Lock()
        self._columns: tuple[Array | None, ...] | None = None
        self._said: tuple[str, float] | None = None

    def add(
        self,
        part: Part,
        answer: bytes,
        *,
        broken: Exception | None = None,
        by_digest: bool = False,
        max_bytes: int = wire.MAX_BYTES,
    ) -> tuple[list[str], Array]:
        """Take in the answer to one request, all of it or nothing.

        Args:
            part: which rows were asked for.
            answer: the body, as far as it came.
            broken: what broke it off, if anything did.
            by_digest: the rows were asked for by their digests, and may be absent.
            max_bytes: what the answer may take once it is decompressed.

        Returns:
            Where each row came from, and the offsets within the part of those that are absent.

        Raises:
            IncompleteStream: rows are missing, doubled or foreign, or the closing batch is, or disagrees.
            WireError: the answer does not follow the format, or has another fingerprint than it may have.
        """
        came = np.zeros(len(part.rows), dtype=bool)
        try:
            metadata, entries = wire.read_reply(answer, max_bytes=max_bytes)
            batches, closing = self._read(part, entries, came)
        except WireError as exc:
            named = isinstance(exc, IncompleteStream) and exc.row_ids
            if named or not (broken or isinstance(exc, IncompleteStream)):
                raise
            missing = self._named(part, ~came)
            raise IncompleteStream(
                f"the answer was cut: {broken or exc}; {_some(missing)} did not arrive", row_ids=missing
            ) from (broken or exc)
        if not came.all():
            missing = self._named(part, ~came)
            raise IncompleteStream(f"{_some(missing)} missing from a complete answer", row_ids=missing)
        failed = sum(len(_errors(batch)) for _, batch in batches)
        if closing != (len(came), failed):
            raise IncompleteStream(
                f"the closing batch says {closing.rows} rows, {closing.failed} failed; "
                f"{len(came)} rows came, {failed} failed"
            )
        # Only now that it is known to answer this question: another's says nothing of this call's targets.
        said = self._believe(metadata)
        for _, batch in batches:
            self._check(batch)
        absent = [
            places[place]
            for places, batch in batches
            for place, source in enumerate(batch.sources)
            if source == "absent"
        ]
        if absent and not by_digest:
            [row, *_] = self._named(part, absent)
            raise WireError(f"row {row!r} was sent whole, yet the answer calls it absent")
        with self._lock:
            if self._said not in (None, said):
                raise WireError("answers to one call differ in their fingerprint or temperature")
            self._said = said
            for _, batch in batches:
                self._room(batch)  # before anything is placed: another try may follow
            for places, batch in batches:
                self._place(part.rows[places], batch)
        return [source for _, batch in batches for source in batch.sources], np.array(absent, dtype=np.intp)

    def finish(self, *, keep_errors: bool) -> SoftTargets:
        """All rows.

        Raises:
            FailedRows: the server answered some with an error, and they are not to be kept.
        """
        if self._errors and not keep_errors:
            raise FailedRows(self._errors)
        assert self._columns is not None, "every row was answered, so a batch was read"
        assert self._said is not None, "a fingerprint is read before a batch"
        log_probs, indices, tail, entropy, divergence = self._columns
        assert log_probs is not None, "every answer has log-probabilities"
        fingerprint, temperature = self._said
        return SoftTargets(
            row_ids=self._row_ids,
            log_probs=log_probs,
            indices=indices,
            tail_log_mass=tail,
            temperature=temperature,
            fingerprint=fingerprint,
            source=self._sources,
            missing_teachers=tuple(self._missing_teachers) if any(self._missing_teachers) else (),
            classes=self._classes,
            errors={row: self._errors[row] for row in self._row_ids if row in self._errors},
            entropy=entropy,
            divergence=divergence,
        )

    def _named(self, part: Part, places: Any) -> list[RowId]:
        """The caller's ids of some of a part's rows."""
        return [self._row_ids[row] for row in part.rows[places]]

    def _read(
        self,
        part: Part,
        entries: Iterator[wire.ReplyBatch | wire.Closing],
        came: Array,
    ) -> tuple[list[tuple[Array, wire.ReplyBatch]], wire.Closing]:
        """Batches, with their rows' places in the part; ``came`` is told the rows that were read."""
        batches: list[tuple[Array, wire.ReplyBatch]] = []
        for entry in entries:
            if isinstance(entry, wire.Closing):
                return batches, entry
            batches.append((self._places(part, entry, came), entry))
        raise AssertionError("read_reply ends with a closing batch or raises")

    def _believe(self, metadata: Mapping[str, str]) -> tuple[str, float]:
        try:
            fingerprint, temperature = metadata["fingerprint"], float(metadata["temperature"])
        except (KeyError, ValueError):
            raise WireError("the answer does not say its fingerprint and temperature") from None
        if metadata.get("classes_digest") != self._classes_digest:
            raise OtherFingerprint(
                "the answer is over other classes than the ensemble's description, which was changed "
                "meanwhile; make a new client"
            )
        if not 0 < temperature < math.inf:
            raise WireError(f"the answer says a temperature of {temperature}")
        self._agree(fingerprint)
        return fingerprint, temperature

    def _places(self, part: Part, batch: wire.ReplyBatch, came: Array) -> Array:
        """Where in the part each row belongs."""
        if not pa.types.is_uint64(batch.row_ids.type):
            ids = batch.row_ids.to_pylist()
            raise IncompleteStream(
                f"{len(ids)} row(s) are wrong: row {''.join(ids[:1])!r} was not asked for", row_ids=ids
            )
        ids = batch.row_ids.to_numpy()
        offsets = ids - np.uint64(part.first)  # wraps around below the first
        foreign = offsets >= len(came)
        if foreign.any():
            wrong = ids[foreign].tolist()
            raise IncompleteStream(
                f"{len(wrong)} row(s) are wrong: row {wrong[0]} was not asked for", row_ids=wrong
            )
        places = offsets.astype(np.intp)
        times = np.bincount(places, minlength=len(came)) + came
        if (times > 1).any():
            again = self._named(part, times > 1)
            raise IncompleteStream(
                f"{len(again)} row(s) are wrong: row {again[0]!r} came twice", row_ids=again
            )
        came[places] = True
        return places  # type: ignore[no-any-return]

    def _place(self, rows: Array, batch: wire.ReplyBatch) -> None:
        # Mostly the rows of a batch follow each other and have nothing amiss: then they go in one piece.
        run = len(rows) > 0 and bool((np.diff(rows) == 1).all())
        if run:
            self._sources[rows[0] : rows[-1] + 1] = batch.sources
        else:
            for row, source in zip(rows.tolist(), batch.sources, strict=True):
                self._sources[row] = source
        if any(batch.missing_teachers):
            for row, names in zip(rows.tolist(), batch.missing_teachers, strict=True):
                self._missing_teachers[row] = names
        failed = _errors(batch)
        for place, error in failed.items():
            self._errors[self._row_ids[rows[place]]] = error
        without = [*failed, *(place for place, one in enumerate(batch.sources) if one == "absent")]
        good = np.ones(len(rows), dtype=bool)
        good[without] = False
        into: Any = slice(rows[0], rows[-1] + 1) if run and not without else rows[good]
        for kept, values in zip(self._room(batch), _columns(batch), strict=True):
            if kept is not None and values is not None:
                kept[into] = values[good] if without else values
                if without:
                    kept[rows[~good]] = 0 if values.dtype.kind == "i" else math.nan

    def _check(self, batch: wire.ReplyBatch) -> None:
        width, classes = batch.log_probs.shape[1], len(self._classes)
        if (width > classes) if batch.indices is not None else (width != classes):
            raise WireError(f"the answer has {width} log-probabilities a row for {classes} classes")
        if batch.indices is not None and not ((batch.indices >= 0) & (batch.indices < classes)).all():
            raise WireError(f"the answer has a class index outside 0 to {classes - 1}")

    def _room(self, batch: wire.ReplyBatch) -> tuple[Array | None, ...]:
        """The arrays to fill, made to the first batch's measure."""
        shapes = [
            None if values is None else ((len(self._row_ids), *values.shape[1:]), values.dtype)
            for values in _columns(batch)
        ]
        if self._columns is None:
            self._columns = tuple(shape and self._make(*shape) for shape in shapes)
        if shapes != [kept if kept is None else (kept.shape, kept.dtype) for kept in self._columns]:
            raise WireError("answers to one call differ in what a row holds")
        return self._columns


def _columns(batch: wire.ReplyBatch) -> tuple[Array | None, ...]:
    return (batch.log_probs, batch.indices, batch.tail_log_mass, batch.entropy, batch.divergence)


def _errors(batch: wire.ReplyBatch) -> dict[int, tuple[str, str]]:
    """The rows that failed, by their place in the batch; absent ones are yet to be asked for."""
    if "error" not in batch.sources and batch.errors.count(None) == len(batch.errors):
        return {}
    return {
        place: error or ("internal", "the server does not say why")
        for place, (source, error) in enumerate(zip(batch.sources, batch.errors, strict=True))
        if source == "error" or (error is not None and source != "absent")
    }


def _some(rows: Sequence[RowId]) -> str:
    shown = ", ".join(repr(row) for row in rows[:5])
    return f"{len(rows)} row(s) ({shown}{', ...' if rows[5:] else ''})"
