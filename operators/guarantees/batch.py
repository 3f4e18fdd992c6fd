"""A batch as the guarantees see it: what entered the fusion, what came out, and which rule stood between."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from operators.base import Operator, Parameters
from operators.builtin import BUILTIN, make
from operators.errors import OperatorError
from operators.guarantees.quantity import Floats, Standing
from operators.lemmas import CONVEXITY
from operators.simplex import log_softmax, logsumexp, weighted_logsumexp, weighted_sum

Integers: TypeAlias = npt.NDArray[np.int64]

EXACT = 1e-9  # rounding that float64 rows are allowed, relative to bounds above 1
ROUNDED = 1e-4  # likewise, where an array of the batch came in a narrower type
ODDS, HULL = 2, 4  # levels of convexity preservation: log-odds between the teachers', answers in their hull


class InvalidBatch(OperatorError):
    """The arrays do not fit together, or do not hold what they should; the message says which and where."""


class Batch(NamedTuple):
    """The rows that can be judged, in float64 and normalised, and the rule that pooled them.

    A teacher of weight 0 is absent: its row here is a copy of the row's first teacher that has a weight, so
    that minima and maxima over the teachers are those over the teachers that were heard.

    Attributes:
        operator: the rule in words, such as "holder(exponent=0.5)".
        name: the rule's name.
        exponent: r, if the rule is a power mean: 1 for linear, 0 for geometric; else None.
        convexity: the level of convexity preservation that is proved for the rule: 2 where log-odds stay
            between the teachers', 4 where the answer stays in their convex hull; -1 where nothing is proved.
        defect: the largest difference between a log-probability of `pooled` and of the rule's own answer,
            relative above 1; None where the rule is not a built-in one and has no own answer to compare with.
        log_probs: [K, B, C]; -inf allowed.
        weights: [K, B], non-negative, summing to one over K.
        pooled: [B, C]; -inf allowed.
        labels: [B], -1 where unknown; None where none is known.
        given: how many rows were handed in; B of them could be judged.
        tolerance: the rounding that a statement is allowed.
    """

    operator: str
    name: str
    exponent: float | None
    convexity: int
    defect: float | None
    log_probs: Floats
    weights: Floats
    pooled: Floats
    labels: Integers | None
    given: int
    tolerance: float

    @property
    def faithful(self) -> bool:
        """Whether `pooled` is what a built-in rule answers; only then can a theorem speak of it."""
        return self.defect is not None and self.defect <= self.tolerance

    @property
    def linear(self) -> Floats:
        """The linear pool m of the rows, as log-probabilities [B, C], whatever the rule."""
        return np.asarray(weighted_logsumexp(self.log_probs, self.weights))

    @property
    def mean_log(self) -> Floats:
        """The teachers' weighted mean log-probability [B, C]: the unnormalised geometric pool."""
        return np.asarray(weighted_sum(self.log_probs, self.weights))

    def exponent_within(self, low: float, high: float) -> bool:
        """Whether the rule is a power mean with low <= r <= high."""
        return self.exponent is not None and low <= self.exponent <= high

    def in_hull(self) -> bool:
        """Whether the rule always answers within the convex hull of the teachers."""
        return self.convexity >= HULL

    def labelled(self) -> Integers:
        """The indices of the rows whose label is known."""
        return np.flatnonzero(self.labels >= 0) if self.labels is not None else np.empty(0, np.int64)

    def at_label(self, x: Floats) -> Floats:
        """Pick the label's column of every labelled row: [..., B, C] to [..., n]."""
        assert self.labels is not None
        rows = self.labelled()
        return np.asarray(x[..., rows, self.labels[rows]])

    def standing(self, scope: str, *, here: bool) -> Standing:
        """Say what a statement is worth for this rule and these rows.

        Args:
            scope: for whom it is a theorem, to end "Theorem for ...".
            here: whether this rule is among them.

        Returns:
            A theorem where `here` and the rows are the rule's own answer; else a measurement, and why.
        """
        if not here:
            return Standing(
                False,
                f"Theorem for {scope}. For {self.operator} reported as a measurement only.",
                self.tolerance,
            )
        if not self.faithful:
            apart = (
                "cannot be compared with its own answer"
                if self.defect is None
                else f"are not its own answer (log-probabilities differ by up to {self.defect:.2g})"
            )
            return Standing(
                False,
                f"Theorem for {scope}. The rows pooled under the name {self.operator} {apart}: reported as a "
                "measurement only.",
                self.tolerance,
            )
        return Standing(True, f"Theorem for {scope}.", self.tolerance)

    def everywhere(self, subject: str) -> Standing:
        """Say that a statement is a theorem whatever the rule, since its subject is not the rule."""
        return Standing(True, f"Theorem for every operator: it is about {subject}.", self.tolerance)

    def nowhere(self, reason: str) -> Standing:
        """Say that a figure is a measurement for every rule."""
        return Standing(False, f"A measurement for every operator: {reason}.", self.tolerance)


def gather(
    operator_name: str,
    parameters: Mapping[str, Any] | Parameters,
    log_probs: npt.ArrayLike,
    weights: npt.ArrayLike,
    pooled: npt.ArrayLike,
    *,
    labels: npt.ArrayLike | None = None,
    tolerance: float | None = None,
) -> Batch:
    """Check the arrays of a batch, and keep the rows that can be judged.

    Rows whose pool, or whose heard teacher, is NaN are left out. What is kept is normalised once more in
    float64. If the rule is a built-in one, `pooled` is compared with what it answers to `log_probs` and
    `weights`.

    Args:
        operator_name: the operator's name.
        parameters: its parameters.
        log_probs: [K, B, C], what entered the fusion: aligned, softened, and floored where the rule needs it;
            rows sum to one within 1e-3; -inf allowed. What a teacher of weight 0 holds is never looked at.
        weights: [K, B], non-negative, summing to one over K within 1e-3.
        pooled: [B, C], log-probabilities that came out, before any stage behind the pool.
        labels: [B] class indices, -1 where unknown; or None.
        tolerance: rounding allowed to every statement, relative to bounds above 1. By default 1e-9 if the
            three arrays are float64, else 1e-4.

    Returns:
        The batch.

    Raises:
        InvalidBatch: a shape, a weight, a label or a row is not as described.
        InvalidParameter, UnknownParameter: the rule is a built-in one, and has no such parameters.

    Example:
        >>> p = np.log([[[0.9, 0.1]], [[0.4, 0.6]]])
        >>> batch = gather("linear", {}, p, [[0.5], [0.5]], np.log([[0.65, 0.35]]))
        >>> batch.exponent, batch.faithful
        (1.0, True)
        >>> gather("linear", {}, p, [[0.5], [0.5]], np.log([[0.8, 0.2]])).faithful
        False
    """
    arrays = [np.asarray(array) for array in (log_probs, weights, pooled)]
    if tolerance is None:
        tolerance = EXACT if all(array.dtype == np.float64 for array in arrays) else ROUNDED
    opinions, shares, answers = _checked_shapes(*arrays)
    shares = _checked_weights(shares)
    known = _checked_labels(labels, *answers.shape)
    heard = shares > 0
    invalid = np.isnan(opinions).any(axis=-1) & heard
    judged = np.asarray(~(invalid.any(axis=0) | np.isnan(answers).any(axis=-1)))
    opinions, shares, answers, heard = (
        opinions[:, judged],
        shares[:, judged],
        answers[judged],
        heard[:, judged],
    )
    first = np.take_along_axis(opinions, heard.argmax(axis=0)[None, :, None], axis=0)
    opinions = np.where(heard[..., None], opinions, first)
    indices = np.flatnonzero(judged)
    opinions = _normalised(opinions, "log_probs", indices)
    answers = _normalised(answers, "pooled", indices)
    rule = make(operator_name, **dict(parameters)) if operator_name in BUILTIN else None
    return Batch(
        operator=_in_words(operator_name, dict(parameters) if rule is None else dict(rule.parameters)),
        name=operator_name,
        exponent=_exponent(rule),
        convexity=_convexity(rule),
        defect=None if rule is None else _defect(answers, rule.fuse(opinions, shares)),
        log_probs=opinions,
        weights=shares,
        pooled=answers,
        labels=None if known is None else known[judged],
        given=len(judged),
        tolerance=tolerance,
    )


def unsafe_classes(unsafe: Iterable[int], classes: int) -> Integers:
    """Check a set of class indices.

    Args:
        unsafe: indices, 0 to C - 1, in any order.
        classes: C.

    Returns:
        The indices, sorted, each once.

    Raises:
        InvalidBatch: one of them is no class.
    """
    indices = np.unique(np.asarray(list(unsafe)))
    if not indices.size:
        return np.empty(0, np.int64)
    if not np.issubdtype(indices.dtype, np.integer) or indices[0] < 0 or indices[-1] >= classes:
        raise InvalidBatch(
            f"unsafe is {indices.tolist()}; it must hold class indices from 0 to {classes - 1}"
        )
    return indices.astype(np.int64)


def _checked_shapes(
    log_probs: npt.NDArray[Any], weights: npt.NDArray[Any], pooled: npt.NDArray[Any]
) -> tuple[Floats, Floats, Floats]:
    if log_probs.ndim != 3 or not log_probs.size:  # noqa: PLR2004 - teachers, rows, classes
        raise InvalidBatch(f"log_probs has shape {log_probs.shape}; it must be [K, B, C], none of them 0")
    teachers, rows, classes = log_probs.shape
    for name, array, shape in (("weights", weights, (teachers, rows)), ("pooled", pooled, (rows, classes))):
        if array.shape != shape:
            raise InvalidBatch(
                f"{name} has shape {array.shape}; beside log_probs of shape {log_probs.shape} it must be "
                f"{shape}"
            )
    return log_probs.astype(np.float64), weights.astype(np.float64), pooled.astype(np.float64)


def _checked_weights(weights: Floats) -> Floats:
    total = weights.sum(axis=0)
    wrong = ~((weights >= 0).all(axis=0) & (np.abs(total - 1) <= 1e-3))  # noqa: PLR2004 - see gather; NaN too
    if wrong.any():
        row = int(wrong.argmax())
        raise InvalidBatch(
            f"the weights of row {row} are {weights[:, row].tolist()}; they must be non-negative and sum to "
            "one"
        )
    return np.asarray(weights / total)


def _checked_labels(labels: npt.ArrayLike | None, rows: int, classes: int) -> Integers | None:
    if labels is None:
        return None
    known = np.asarray(labels)
    if known.shape != (rows,) or not np.issubdtype(known.dtype, np.integer):
        raise InvalidBatch(
            f"labels is {known.dtype} of shape {known.shape}; it must hold {rows} integers, one a row"
        )
    if known.min() < -1 or known.max() >= classes:
        raise InvalidBatch(
            f"labels run from {known.min()} to {known.max()}; a label is a class from 0 to {classes - 1}, or "
            "-1 where it is unknown"
        )
    return known.astype(np.int64)


def _normalised(log_probs: Floats, name: str, rows: Integers) -> Floats:
    total = np.exp(logsumexp(log_probs))
    wrong = ~(np.abs(total - 1) <= 1e-3)  # noqa: PLR2004 - see gather
    if wrong.any():
        *teacher, row = (int(i[0]) for i in np.nonzero(wrong))
        where = f"row {rows[row]}" + "".join(f" of teacher {k}" for k in teacher)
        raise InvalidBatch(
            f"{name}: {where} sums to {total[(*teacher, row)]:.6g}; it must hold the logarithms of "
            "probabilities"
        )
    return np.asarray(log_softmax(log_probs))


def _defect(pooled: Floats, own: Floats) -> float:
    same = pooled == own
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, pooled - own)
    scale = np.maximum(1.0, np.where(np.isfinite(own), np.abs(own), 1.0))
    worst = float(np.max(np.abs(difference) / scale, initial=0.0))
    return math.inf if math.isnan(worst) else worst


def _exponent(rule: Operator | None) -> float | None:
    if rule is None:
        return None
    if rule.name == "holder":
        return float(dict(rule.parameters)["exponent"])
    return {"linear": 1.0, "geometric": 0.0}.get(rule.name)


def _convexity(rule: Operator | None) -> int:
    claims = rule.claims if rule is not None else ()
    return max((claim.level for claim in claims if claim.axiom == CONVEXITY and claim.proof), default=-1)


def _in_words(name: str, parameters: dict[str, Any]) -> str:
    inside = ", ".join(f"{key}={value}" for key, value in sorted(parameters.items()))
    return f"{name}({inside})" if inside else name
