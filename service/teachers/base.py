"""A teacher's contract, and what its answer means."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np

from service.errors import TeacherFailure
from service.model import Array

Kind = Literal["logits", "log_probs", "probs"]

# A distribution's sum may be off by this much (rounding in half precision); it is then renormalised.
SUM_TOLERANCE = 1e-3
# Forests that add up float32 votes answer -1.2e-7.
NEGATIVE_TOLERANCE = 1e-5


class GraphInput(NamedTuple):
    """One input of a model: its dtype as the wire spells it, and a row's shape, None where not fixed."""

    dtype: str
    shape: tuple[int | None, ...]


class Teacher(Protocol):
    """What every teacher offers."""

    @property
    def name(self) -> str:
        """Its name in the ensemble."""
        ...

    @property
    def digest(self) -> str:
        """The digest of its model, external data included."""
        ...

    @property
    def device(self) -> str:
        """The device it is bound to."""
        ...

    @property
    def inputs(self) -> Mapping[str, GraphInput]:
        """The model's inputs, by the model's names."""
        ...

    def answer(self, inputs: Mapping[str, Array]) -> Array:
        """The raw answer ``[B, C_t]`` to rows ``[B, ...]`` under the model's names; thread-safe.

        Raises:
            TeacherFailure: the model raised, or answered with another shape.
        """
        ...

    def labels(self, inputs: Mapping[str, Array]) -> list[str] | None:
        """The class that the model itself names for each row, or None where it names none.

        Raises:
            TeacherFailure: the model raised.
        """
        ...


def beliefs(answer: Array, kind: Kind) -> tuple[Array, Array]:
    """What an answer says, as log-probabilities, and for which rows it says anything.

    A zero probability (a logit of -inf) is a belief; NaN, +inf, a negative probability, and a sum that is off
    by more than ``SUM_TOLERANCE`` are not. Sums within it are renormalised.

    Args:
        answer: ``[B, C_t]``, of any float dtype.
        kind: what it holds.

    Returns:
        float32 log-probabilities ``[B, C_t]``, and valid ``[B]``; invalid rows hold the uniform distribution.
    """
    values = answer.astype(np.float32, copy=False)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        if kind == "probs":
            total = values.sum(axis=1, dtype=np.float64)
            valid = (values >= -NEGATIVE_TOLERANCE).all(axis=1) & (np.abs(total - 1) <= SUM_TOLERANCE)
            log_probs = np.log(np.maximum(values, 0)) - np.log(total)[:, None].astype(np.float32)
        else:
            peak = values.max(axis=1, keepdims=True)
            shifted = values - peak
            total = np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)
            log_probs = shifted - np.log(total).astype(np.float32)
            valid = np.isfinite(peak[:, 0]) & np.isfinite(total[:, 0])
            if kind == "log_probs":
                mass = peak[:, 0] + np.log(total[:, 0])
                valid &= np.abs(np.expm1(mass)) <= SUM_TOLERANCE
    if not valid.all():
        log_probs[~valid] = -np.log(np.float32(values.shape[1]))
    return log_probs, valid


def check_shape(teacher: str, answer: Array, rows: int) -> None:
    """Refuse an answer that is not one distribution a row.

    Raises:
        TeacherFailure: naming the teacher and both shapes.
    """
    if answer.ndim != 2 or len(answer) != rows:  # noqa: PLR2004 - rows and classes
        raise TeacherFailure(
            f"teacher {teacher!r} answered {rows} rows with shape {list(answer.shape)}, "
            f"not [{rows}, classes]",
            teacher=teacher,
        )
