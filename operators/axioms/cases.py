"""Cases: what an operator is asked, a batch at a time, in float64 and in the log domain."""

from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from operators.base import Fuse
from operators.errors import OperatorError

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


class NotJudged(OperatorError):
    """Raised when an operator cannot be judged: it raised, or did not answer with one row a row."""


class Cases(NamedTuple):
    """B questions of one shape: K teachers, C classes.

    Attributes:
        log_probs: ``[K, B, C]``.
        weights: ``[K, B]``, summing to one over K.
        towards: ``[B]``, the teacher that weight moves to, where a check moves weight.
        temperature: ``[B]``, where a check softens.
        far_log_probs: ``[K, B, C]``, the other end of a segment, where a check follows one.
        far_weights: ``[K, B]``, likewise.
    """

    log_probs: Floats
    weights: Floats
    towards: Ints | None = None
    temperature: Floats | None = None
    far_log_probs: Floats | None = None
    far_weights: Floats | None = None

    @property
    def rows(self) -> int:
        """B."""
        return int(self.log_probs.shape[1])

    def take(self, index: Any) -> Self:
        """Some of the cases."""
        return self._replace(
            log_probs=self.log_probs[:, index],
            weights=self.weights[:, index],
            towards=None if self.towards is None else self.towards[index],
            temperature=None if self.temperature is None else self.temperature[index],
            far_log_probs=None if self.far_log_probs is None else self.far_log_probs[:, index],
            far_weights=None if self.far_weights is None else self.far_weights[:, index],
        )


def judged(fuse: Fuse) -> Fuse:
    """The same rule, whose failures to answer are ``NotJudged`` and whose warnings are silent.

    Its arguments are read-only: what it wrote there would be judged in the place of what it was asked.
    """

    def asked(log_probs: Floats, weights: Floats) -> Floats:
        with np.errstate(all="ignore"):
            try:
                answer = fuse(_read_only(log_probs), _read_only(weights))
                sound = isinstance(answer, np.ndarray)
            except (Exception, SystemExit) as exc:
                if isinstance(exc, ValueError) and "read-only" in str(exc):
                    raise NotJudged(
                        f"it writes into its arguments ({exc}): let it write into a copy"
                    ) from exc
                said = f"{type(exc).__name__}: {exc}"
                raise NotJudged(f"it raised on {_shapes(log_probs, weights)}: {said}") from exc
        if not sound:
            raise NotJudged(
                f"it answered with a {type(answer).__name__}, not an array of numpy, as it was given"
            )
        if answer.shape != log_probs.shape[1:]:
            raise NotJudged(
                f"it answered {_shapes(log_probs, weights)} with shape {list(answer.shape)}, "
                f"not {list(log_probs.shape[1:])}"
            )
        if answer.dtype != log_probs.dtype:
            raise NotJudged(
                f"it answered {log_probs.dtype} log_probs with dtype {answer.dtype}; "
                "the answer has the dtype of log_probs"
            )
        return np.asarray(answer)

    return asked


def _read_only(given: Floats) -> Floats:
    view = given.view()
    view.flags.writeable = False
    return view


def _shapes(log_probs: Floats, weights: Floats) -> str:
    return f"log_probs {list(log_probs.shape)}, weights {list(weights.shape)}"


def total_variation(one: Floats, other: Floats) -> Floats:
    """Half the sum of absolute differences of probabilities, over the last axis; NaN without an answer."""
    return np.asarray(0.5 * np.abs(np.exp(one) - np.exp(other)).sum(axis=-1))


def hilbert(one: Floats, other: Floats) -> Floats:
    """The largest difference of any log-odds: the Hilbert distance, over the last axis.

    Classes that both hold impossible do not count; one that a single side does makes it infinite.
    """
    with np.errstate(invalid="ignore"):
        difference = one - other
    nothing = (one == -np.inf) & (other == -np.inf)
    top = np.where(nothing, -np.inf, difference).max(axis=-1)
    bottom = np.where(nothing, np.inf, difference).min(axis=-1)
    return np.asarray(top - bottom)


def diameter(log_probs: Floats, weights: Floats) -> Floats:
    """The largest Hilbert distance of two teachers of positive weight, ``[B]``."""
    widest = np.zeros(log_probs.shape[1])
    for one in range(len(log_probs)):
        for other in range(one):
            both = (weights[one] > 0) & (weights[other] > 0)
            widest = np.maximum(widest, np.where(both, hilbert(log_probs[one], log_probs[other]), 0))
    return widest


def divergence(one: Floats, other: Floats) -> Floats:
    """KL(one || other) over the last axis; 0 log 0 = 0."""
    with np.errstate(invalid="ignore"):
        terms = np.exp(one) * (one - other)
    return np.asarray(np.where(one == -np.inf, 0.0, terms).sum(axis=-1))
