"""Digests: a row, or a list of classes, as 32 bytes that mean the same to client and server."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from blake3 import blake3

from soft_targets.wire.rows import Array, TensorSpec


def classes_digest(classes: Sequence[str]) -> str:
    """BLAKE3-256 of the class list as JSON without spaces, in hexadecimal."""
    text = json.dumps(list(classes), separators=(",", ":"), ensure_ascii=False)
    return blake3(text.encode()).hexdigest()


def row_digests(inputs: Mapping[str, Array], specs: Mapping[str, TensorSpec]) -> list[bytes]:
    """Hash every row: BLAKE3-256 over names, dtypes, shapes and little-endian bytes, in the ensemble's order.

    Args:
        inputs: name to array ``[B, ...]``, already cast.
        specs: the ensemble's inputs, in its order.

    Returns:
        B digests of 32 bytes.
    """
    rows = len(next(iter(inputs.values())))
    heads = [_digest_head(name, spec) for name, spec in specs.items()]
    if any(spec.dtype == "utf8" for spec in specs.values()):
        views = [_row_views(inputs[name], spec, rows) for name, spec in specs.items()]
        return [
            blake3(
                b"st-row\x01"
                + b"".join(
                    head + len(view[row]).to_bytes(8, "little") + view[row]
                    for head, view in zip(heads, views, strict=True)
                )
            ).digest()
            for row in range(rows)
        ]
    # Rows of one size: lay headers and data side by side once, then hash row by row without another copy.
    parts: list[Array] = [_tile(b"st-row\x01", rows)]
    for head, (name, spec) in zip(heads, specs.items(), strict=True):
        data = np.ascontiguousarray(inputs[name], dtype=spec.dtype).reshape(rows, -1).view(np.uint8)
        parts += [_tile(head + data.shape[1].to_bytes(8, "little"), rows), data]
    flat = np.concatenate(parts, axis=1)
    view = memoryview(flat.reshape(-1))  # type: ignore[arg-type]
    size = flat.shape[1]
    return [blake3(view[row * size : (row + 1) * size]).digest() for row in range(rows)]


def _tile(head: bytes, rows: int) -> Array:
    return np.broadcast_to(np.frombuffer(head, dtype=np.uint8), (rows, len(head)))


def _digest_head(name: str, spec: TensorSpec) -> bytes:
    encoded, dtype = name.encode(), spec.dtype.encode()
    dimensions = b"".join(size.to_bytes(8, "little") for size in spec.shape)
    return (
        len(encoded).to_bytes(4, "little")
        + encoded
        + len(dtype).to_bytes(4, "little")
        + dtype
        + len(spec.shape).to_bytes(1, "little")
        + dimensions
    )


def _row_views(values: Array, spec: TensorSpec, rows: int) -> list[bytes]:
    if spec.dtype == "utf8":
        return [str(text).encode() for text in values]
    data = np.ascontiguousarray(values, dtype=spec.dtype).reshape(rows, -1)
    return [row.tobytes() for row in data]
