"""A teacher's own temperature: how much its answers must be sharpened or softened to be believed."""

import numpy as np
from numpy.typing import NDArray

from service.demo.metrics import negative_log_likelihood

SMALLEST = 2.0**-126  # the smallest float32 that keeps its precision, where the server's pools end too
GRID = np.geomspace(0.2, 5.0, 65)


def at_temperature(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """``log softmax(log p / T)``, in float64; a probability of zero counts as 2^-126.

    Args:
        probabilities: ``[B, C]``.
        temperature: below one sharpens, above one softens.
    """
    scaled = np.log(np.maximum(probabilities, SMALLEST, dtype=np.float64)) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    log_probs: NDArray[np.float64] = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return log_probs


def fit_temperature(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature of smallest negative log-likelihood on rows that were held back, to two decimals.

    Guo et al. 2017, "On Calibration of Modern Neural Networks"; a grid is exact enough for one number.

    Args:
        probabilities: ``[B, C]``, of rows the teacher was not trained on.
        labels: ``[B]``.
    """
    losses = [negative_log_likelihood(at_temperature(probabilities, value), labels) for value in GRID]
    return round(float(GRID[int(np.argmin(losses))]), 2)
