"""Values: how one row's target is laid out as bytes, which the cache keeps and a reply carries."""

import functools
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa

from soft_targets.wire.rows import Array

Precision = Literal["float32", "float16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DIAGNOSTICS = ("entropy", "divergence")


class Layout(NamedTuple):
    """How one row's value is laid out as bytes: the columns of a reply, one after the other, little-endian.

    Attributes:
        classes: of the ensemble.
        top_k: how many classes are kept; None keeps all.
        dtype: of the log-probabilities; all else is int32 or float32.
        diagnostics: whether the target's entropy and the divergence of what was fused come last.
    """

    classes: int
    top_k: int | None = None
    dtype: Precision = "float32"
    diagnostics: bool = False

    @property
    def columns(self) -> dict[str, np.dtype[Any]]:
        """What one row holds, by column, in their order; a list is a dtype with a shape."""
        return _columns(self)

    @property
    def row_bytes(self) -> int:
        """The size of one value."""
        return _record(self).itemsize

    def pack(
        self,
        log_probs: Array,
        indices: Array | None = None,
        tail: Array | None = None,
        *,
        entropy: Array | None = None,
        divergence: Array | None = None,
    ) -> list[bytes]:
        """Values of a batch.

        Args:
            log_probs: float32 ``[B, C]`` or ``[B, k]``; rounded here where they are laid out as float16.
            indices: int32 ``[B, k]`` where sparse.
            tail: float32 ``[B]`` where sparse.
            entropy: float32 ``[B]`` where there are diagnostics.
            divergence: likewise.
        """
        given = {
            "indices": indices,
            "log_probs": log_probs,
            "tail_log_mass": tail,
            "entropy": entropy,
            "divergence": divergence,
        }
        values = np.empty(len(log_probs), _record(self))
        with np.errstate(over="ignore"):  # what is below the smallest float16 is -inf there
            for name in self.columns:
                values[name] = given[name]
        data, size = values.tobytes(), self.row_bytes
        return [data[start : start + size] for start in range(0, len(data), size)]

    def unpack(self, data: bytes) -> dict[str, Array]:
        """Joined values back to their columns ``[B, ...]``, by name, as views of the bytes."""
        values = np.frombuffer(data, _record(self))
        return {name: values[name] for name in self.columns}

    def fields(self) -> list[pa.Field]:
        """The value columns."""
        return [pa.field(name, _arrow(kind)) for name, kind in self.columns.items()]


def _arrow(kind: np.dtype[Any]) -> pa.DataType:
    value = pa.from_numpy_dtype(kind.base)
    return pa.list_(value, *kind.shape) if kind.shape else value


@functools.lru_cache(256)
def _columns(layout: Layout) -> dict[str, np.dtype[Any]]:
    log_probs = {"float32": "<f4", "float16": "<f2"}[layout.dtype]
    last = dict.fromkeys(DIAGNOSTICS if layout.diagnostics else (), np.dtype("<f4"))
    if layout.top_k is None:
        return {"log_probs": np.dtype((log_probs, (layout.classes,))), **last}
    return {
        "indices": np.dtype(("<i4", (layout.top_k,))),
        "log_probs": np.dtype((log_probs, (layout.top_k,))),
        "tail_log_mass": np.dtype("<f4"),
        **last,
    }


@functools.lru_cache(256)
def _record(layout: Layout) -> np.dtype[Any]:
    """One value as numpy sees it: the columns side by side."""
    return np.dtype(list(_columns(layout).items()))
