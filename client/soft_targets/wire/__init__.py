"""The wire format, shared by client and server: the cast, the row digest, requests and replies.

A request is an Arrow IPC stream with one column per input of the ensemble (a fixed-shape tensor, a
fixed-size list, a primitive, or utf8), or with a column ``digest`` instead of them, and optionally
``row_id``. A reply is an Arrow IPC stream whose last record batch is empty and carries ``rows``,
``failed`` and ``complete`` in its custom metadata: an Arrow stream that merely ends cannot be told from one
that was cut, this one can.
"""

from soft_targets.errors import IncompleteStream, InputError, TooManyBytes, TooManyRows, WireError
from soft_targets.wire.digests import classes_digest, row_digests
from soft_targets.wire.layout import DIAGNOSTICS, PRECISIONS, Layout, Precision
from soft_targets.wire.reader import Closing, ReplyBatch, read_reply
from soft_targets.wire.request import (
    MAX_BYTES,
    RESERVED,
    Request,
    decode_request,
    default_row_ids,
    encode_digests,
    encode_request,
    row_id_array,
)
from soft_targets.wire.rows import DTYPES, TensorSpec, cast, check_names, check_shape
from soft_targets.wire.writer import CODECS, FORMAT, MAX_BATCH_BYTES, SOURCES, Codec, ReplyWriter

ARROW = "application/vnd.apache.arrow.stream"

__all__ = [
    "ARROW",
    "CODECS",
    "DIAGNOSTICS",
    "DTYPES",
    "FORMAT",
    "MAX_BATCH_BYTES",
    "MAX_BYTES",
    "PRECISIONS",
    "RESERVED",
    "SOURCES",
    "Closing",
    "Codec",
    "IncompleteStream",
    "InputError",
    "Layout",
    "Precision",
    "ReplyBatch",
    "ReplyWriter",
    "Request",
    "TensorSpec",
    "TooManyBytes",
    "TooManyRows",
    "WireError",
    "cast",
    "check_names",
    "check_shape",
    "classes_digest",
    "decode_request",
    "default_row_ids",
    "encode_digests",
    "encode_request",
    "read_reply",
    "row_digests",
    "row_id_array",
]
