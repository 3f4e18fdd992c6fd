"""How good a set of predictions is: accuracy, negative log-likelihood, calibration."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks"


class Reliability(NamedTuple):
    """Rows grouped by how sure the prediction is, in bins of equal width between 0 and 1; NaN where empty."""

    rows: NDArray[np.int64]  # [bins]
    confidence: NDArray[np.float64]  # [bins], the mean probability of the predicted class
    accuracy: NDArray[np.float64]  # [bins], the share of rows where the predicted class is the true one


class Scores(NamedTuple):
    """The three figures of every line of the report."""

    accuracy: float
    nll: float  # nats a row
    ece: float


def accuracy(log_probs: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The share of rows whose most probable class is the true one; ties go to the lower index.

    Args:
        log_probs: ``[B, C]``.
        labels: ``[B]``.
    """
    return float(np.mean(log_probs.argmax(axis=1) == labels))


def negative_log_likelihood(log_probs: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The mean of ``-log p(true class)`` in nats; infinite if a true class was called impossible.

    Args:
        log_probs: ``[B, C]``.
        labels: ``[B]``.
    """
    return float(-np.mean(log_probs[np.arange(len(labels)), labels], dtype=np.float64))


def reliability(
    log_probs: NDArray[np.floating], labels: NDArray[np.int64], *, bins: int = BINS
) -> Reliability:
    """Confidence against accuracy; a row sure to exactly ``i / bins`` counts to the lower bin.

    Args:
        log_probs: ``[B, C]``.
        labels: ``[B]``.
        bins: how many.
    """
    sure = np.exp(log_probs.max(axis=1).astype(np.float64))
    right = log_probs.argmax(axis=1) == labels
    index = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            rows=rows,
            confidence=np.bincount(index, weights=sure, minlength=bins) / rows,
            accuracy=np.bincount(index, weights=right, minlength=bins) / rows,
        )


def expected_calibration_error(
    log_probs: NDArray[np.floating], labels: NDArray[np.int64], *, bins: int = BINS
) -> float:
    """The mean gap between confidence and accuracy: ``sum_b n_b / n * |accuracy_b - confidence_b|``.

    Args:
        log_probs: ``[B, C]``.
        labels: ``[B]``.
        bins: how many, of equal width.
    """
    diagram = reliability(log_probs, labels, bins=bins)
    gaps = np.nan_to_num(np.abs(diagram.accuracy - diagram.confidence))
    return float(np.sum(diagram.rows * gaps) / len(labels))


def score(log_probs: NDArray[np.floating], labels: NDArray[np.int64]) -> Scores:
    """All three at once.

    Args:
        log_probs: ``[B, C]``.
        labels: ``[B]``.
    """
    return Scores(
        accuracy=accuracy(log_probs, labels),
        nll=negative_log_likelihood(log_probs, labels),
        ece=expected_calibration_error(log_probs, labels),
    )
