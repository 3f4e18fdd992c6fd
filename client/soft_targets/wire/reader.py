"""Replies, the client's side: nothing is believed that was not checked."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from soft_targets.errors import IncompleteStream, WireError
from soft_targets.wire.layout import DIAGNOSTICS
from soft_targets.wire.rows import Array
from soft_targets.wire.stream import Stream
from soft_targets.wire.writer import FORMAT, SOURCES, WORDS

MAX_REPLY_BYTES = 1 << 30
SCHEMA_BYTES = 1 << 14  # larger ones are not kept
MAX_LOG_PROB = 1e-4  # probability 1 may be rounded up, by less than this
LOG_PROBS = (pa.float32(), pa.float16())
COLUMNS = frozenset(
    {
        "row_id", "source", "error_code", "error", "missing_teachers",
        "log_probs", "indices", "tail_log_mass", *DIAGNOSTICS,
    }
)  # fmt: skip


class ReplyBatch(NamedTuple):
    """Rows of a reply, as views of its bytes; value columns of error rows hold nothing of meaning."""

    row_ids: pa.Array
    sources: list[str]
    errors: list[tuple[str, str] | None]
    log_probs: Array  # float32 or float16 [n, C] or [n, k]
    indices: Array | None  # int32 [n, k]
    tail_log_mass: Array | None  # float32 [n]
    missing_teachers: list[tuple[str, ...]]
    entropy: Array | None = None  # float32 [n], of the target in nats, where the recipe asks for diagnostics
    divergence: Array | None = None  # float32 [n], of what was fused, likewise


class Closing(NamedTuple):
    """What the closing batch says."""

    rows: int
    failed: int


def read_reply(
    source: Any, *, max_bytes: int = MAX_REPLY_BYTES
) -> tuple[dict[str, str], Iterator[ReplyBatch | Closing]]:
    """Read a reply from bytes or a binary file.

    Args:
        source: bytes, or a file that reads them.
        max_bytes: how many bytes the reply may hold, decompressed, headers included; one that says that it
            holds more is refused before that is allocated.

    Returns:
        The stream's metadata without its prefix, and its batches, the last of them a ``Closing``.

    Raises:
        WireError: the bytes are not a reply of this format version, or too many.
        IncompleteStream: the stream cannot be read, or (from the iterator) ended without its closing batch.
    """
    stream = Stream(source, max_bytes=max_bytes)
    try:
        first = stream.first()
        read = _read_schema if len(first) <= SCHEMA_BYTES else _read_schema.__wrapped__
        metadata, included = read(first)
        reader = pa.ipc.open_stream(
            pa.PythonFile(stream, mode="r"), options=pa.ipc.IpcReadOptions(included_fields=list(included))
        )
    except (pa.ArrowException, OSError) as exc:
        raise IncompleteStream(f"the answer is not an Arrow IPC stream: {exc}") from None
    return dict(metadata), _reply_batches(reader)


@functools.lru_cache(64)
def _read_schema(message: bytes) -> tuple[dict[str, str], tuple[int, ...]]:
    """What a reply says of itself, and the places of the columns that are read; replies mostly begin alike.

    Raises:
        WireError: these are not the columns of a reply of this format version.
    """
    schema = pa.ipc.read_schema(pa.py_buffer(message))
    try:
        metadata = {
            key.decode().removeprefix("soft_targets."): value.decode()
            for key, value in (schema.metadata or {}).items()
            if key.startswith(b"soft_targets.")
        }
        fits = _is_reply(schema)
    except UnicodeDecodeError as exc:
        raise WireError(f"the answer's schema is not UTF-8: {exc}") from None
    if metadata.get("format") != FORMAT:
        raise WireError(f"the answer has format {metadata.get('format')!r}, this client reads {FORMAT!r}")
    if not fits:
        raise WireError(f"the answer's columns are not those of a reply: {schema.names}")
    return metadata, tuple(place for place, name in enumerate(schema.names) if name in COLUMNS)


def _reply_batches(reader: pa.RecordBatchReader) -> Iterator[ReplyBatch | Closing]:
    while True:
        try:
            batch, custom = reader.read_next_batch_with_custom_metadata()
            batch.validate(full=True)  # what follows trusts offsets and indices
        except StopIteration:
            raise IncompleteStream("the answer ended without its closing batch: the stream was cut") from None
        except (pa.ArrowException, OSError) as exc:
            raise IncompleteStream(f"the answer broke off: {exc}") from None
        if custom is not None and custom.get(b"complete") == b"true":
            yield _closing(batch, custom)
            return
        yield _read_batch(batch)


def _is_reply(schema: pa.Schema) -> bool:
    types = dict(zip(schema.names, schema.types, strict=True))
    log_probs, indices = types.get("log_probs"), types.get("indices")
    return (
        len(types) == len(schema.names)
        and types.get("row_id") in (pa.uint64(), pa.string())
        and types.get("source") == pa.dictionary(pa.int8(), pa.string())
        and types.get("missing_teachers", pa.list_(pa.string())) == pa.list_(pa.string())
        and types.get("error_code") == types.get("error") == pa.string()
        and isinstance(log_probs, pa.FixedSizeListType)
        and log_probs.value_type in LOG_PROBS
        and log_probs.list_size > 0
        and (indices is None or indices == pa.list_(pa.int32(), log_probs.list_size))
        and types.get("tail_log_mass") == (None if indices is None else pa.float32())
        and {types.get(name) for name in DIAGNOSTICS} in ({None}, {pa.float32()})
    )


def _closing(batch: pa.RecordBatch, custom: Mapping[bytes, bytes]) -> Closing:
    if len(batch):
        raise WireError("the closing batch of the answer holds rows")
    try:
        return Closing(int(custom[b"rows"]), int(custom[b"failed"]))
    except (KeyError, ValueError):
        raise WireError(
            "the closing batch does not say how many rows there are and how many failed"
        ) from None


def _read_batch(batch: pa.RecordBatch) -> ReplyBatch:
    sources = _sources(batch["source"])
    if batch["row_id"].null_count:
        raise WireError("a row of the answer has no id")
    sparse = "indices" in batch.schema.names
    good = np.array([source not in ("error", "absent") for source in sources], dtype=bool)
    log_probs = _values(batch, "log_probs", good)
    indices = _values(batch, "indices", good) if sparse else None
    tail = _values(batch, "tail_log_mass", good) if sparse else None
    wrong = _no_log_probs(log_probs)
    if tail is not None:
        wrong |= ~(tail <= MAX_LOG_PROB)
    _refuse(wrong & good, batch, "a value that is no log-probability")
    diagnostics = {name: _values(batch, name, good) for name in DIAGNOSTICS if name in batch.schema.names}
    for name, values in diagnostics.items():
        _refuse(~((values >= 0) & (values < np.inf)) & good, batch, f"a value that is no {name}")
    return ReplyBatch(
        row_ids=batch["row_id"],
        sources=sources,
        errors=_errors(batch),
        log_probs=log_probs,
        indices=indices,
        tail_log_mass=tail,
        missing_teachers=_missing_teachers(batch),
        **diagnostics,
    )


def _sources(column: pa.DictionaryArray) -> list[str]:
    if not column.dictionary.equals(WORDS):
        raise WireError(f"the answer's sources are not {', '.join(SOURCES)}, in this order")
    if column.null_count:
        raise WireError("a row of the answer has no source")
    return [SOURCES[place] for place in column.indices.to_pylist()]


def _errors(batch: pa.RecordBatch) -> list[tuple[str, str] | None]:
    codes, texts = batch["error_code"], batch["error"]
    if codes.null_count == len(codes):
        return [None] * len(codes)
    return [
        None if code is None else (code, text or "")
        for code, text in zip(codes.to_pylist(), texts.to_pylist(), strict=True)
    ]


def _refuse(rows: Array, batch: pa.RecordBatch, what: str) -> None:
    """Refuse an answer for the first of these rows, if there is one."""
    if rows.any():
        raise WireError(f"row {batch['row_id'][int(np.argmax(rows))].as_py()!r} of the answer has {what}")


def _no_log_probs(values: Array) -> Array:
    """Which rows hold what is no log-probability; written so that NaN is none."""
    if values.dtype == np.float16:
        # Processors mostly compare halves one by one: by their bits, from -0 (0x8000) to -inf, it is five
        # times as fast. What that does not let pass is looked at once more.
        within = (values.view(np.uint16) ^ 0x8000) <= 0x7C00  # noqa: PLR2004
        wrong = np.asarray(~within.all(axis=1))
        wrong[wrong] = ~(values[wrong] <= MAX_LOG_PROB).all(axis=1)
        return wrong
    return np.asarray(~(values.max(axis=1) <= MAX_LOG_PROB))  # of which NaN is the largest


def _missing_teachers(batch: pa.RecordBatch) -> list[tuple[str, ...]]:
    if "missing_teachers" not in batch.schema.names or not len(batch["missing_teachers"].values):
        return [()] * len(batch)
    return [tuple(names or ()) for names in batch["missing_teachers"].to_pylist()]


def _values(batch: pa.RecordBatch, name: str, good: Array) -> Array:
    """A value column, whole in good rows and null in the others."""
    column = batch[name]
    if column.null_count:
        nulls = column.is_null().to_numpy(zero_copy_only=False)
    else:
        nulls = np.zeros(len(batch), dtype=bool)
    if pa.types.is_fixed_size_list(column.type):
        width = column.type.list_size
        # `values` ignores offset and length, `flatten` drops null rows: slice by hand.
        column = column.values.slice(column.offset * width, len(column) * width)
        shape: tuple[int, ...] = (len(batch), width)
    else:
        shape = (len(batch),)
    if column.null_count:
        inside = column.is_null().to_numpy(zero_copy_only=False).reshape(len(batch), -1).any(axis=1)
        nulls = nulls | (inside & good)
        column = column.fill_null(0)
    if (nulls == good).any():
        raise WireError("a batch of the answer has no value where it promises one, or the reverse")
    return column.to_numpy(zero_copy_only=False).reshape(shape)  # type: ignore[no-any-return]
