"""What an engine's batches and answers are in figures."""

import math
import threading
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from service.engine.ensemble import Ensemble
from service.model import Array, Group
from service.plans.base import Outcome, Pair, survivors
from service.telemetry import Metrics

SMALLEST = np.finfo(np.float32).smallest_normal
# Of the time, at most so much goes into looking at samples, however many batches there are.
LOOKING = 0.05
ALL_TEACHERS = "*"


class Measures:
    """The figures of one ensemble; thread-safe but for ``answered``.

    Args:
        metrics: of the process.
        ensemble: whose they are.
    """

    def __init__(self, metrics: Metrics, ensemble: Ensemble) -> None:
        self._metrics = metrics
        self._name = name = ensemble.name
        self._classes = len(ensemble.classes)
        self._unsafe = list(ensemble.config.unsafe_indices)
        self._teachers = [teacher.name for teacher in ensemble.config.teachers]
        self._rows = {
            source: metrics.rows.labels(name, source)
            for source in ("hit", "opinions", "miss", "coalesced", "absent", "error")
        }
        self._saved = metrics.saved_inferences.labels(name)
        self._saved_seconds = metrics.saved_device_seconds.labels(name)
        self._queue_wait = metrics.queue_wait.labels(name)
        self._batch_rows = metrics.batch_rows.labels(name)
        self._inferences = metrics.inferences.labels(name)
        self._degraded = metrics.quorum_degraded_rows.labels(name)
        self._failed = metrics.failed_batches.labels(name)
        self._look_again = 0.0
        self._lock = threading.Lock()
        # What a row took when the teachers were tried stands for a batch, until there are others.
        self._computed_rows = ensemble.config.batching.max_rows if ensemble.plans.row_s else 0
        self._computed_s = self._computed_rows * ensemble.plans.row_s
        for teacher in self._teachers:  # what has not happened yet is 0: a rate sees the first time too
            for counted in (metrics.teacher_errors, metrics.teacher_invalid_rows):
                counted.labels(name, teacher)

    def answered(self, group: Group) -> Group:
        """Rows on their way to whoever asked; the same group."""
        for source, rows in Counter(group.sources).items():
            self._answered(source, rows)
        return group

    def _answered(self, source: str, rows: int) -> None:
        self._rows[source].inc(rows)
        if source in {"hit", "opinions"}:
            self._saved.inc(rows)
            if self._computed_rows:
                self._saved_seconds.inc(rows * self._computed_s / self._computed_rows)

    def began(self, waited_s: Sequence[float], rows: int, *, inference: bool) -> None:
        """A batch begins.

        Args:
            waited_s: how long each of its requests was queued.
            rows: of the batch.
            inference: whether teachers are asked.
        """
        for seconds in waited_s:
            self._queue_wait.observe(seconds)
        self._batch_rows.observe(rows)
        if inference:
            self._inferences.inc(rows)

    def failed(self) -> None:
        """A batch ended without an answer."""
        self._failed.inc()

    def ended(self, outcome: Outcome, weights: Array, pair: Pair) -> None:
        """A batch ended.

        Args:
            outcome: what it says.
            weights: ``[K, B]``, as asked for.
            pair: for whom.
        """
        self._record_times(outcome, weights.shape[1], pair)
        for k in outcome.failures:
            self._metrics.teacher_errors.labels(self._name, self._teachers[k]).inc()
        lost = ~outcome.valid & (weights > 0)
        if lost.any():
            for place in np.flatnonzero(lost.any(axis=1)):
                count = int(lost[place].sum())
                self._metrics.teacher_invalid_rows.labels(self._name, self._teachers[place]).inc(count)
        began = time.perf_counter()
        if began >= self._look_again:
            self._look_into(outcome, weights)
            ended = time.perf_counter()
            self._look_again = ended + (ended - began) * (1 / LOOKING - 1)

    def degraded(self, rows: int) -> None:
        """Rows got a target without all of their teachers."""
        self._degraded.inc(rows)

    def _record_times(self, outcome: Outcome, rows: int, pair: Pair) -> None:
        for one in outcome.took:
            if one.fusion:
                self._metrics.fusion_duration.labels(self._name, pair.operator.name).observe(one.seconds)
                continue
            teacher = ALL_TEACHERS if one.teacher is None else self._teachers[one.teacher]
            self._metrics.inference_duration.labels(self._name, teacher).observe(one.seconds)
        if asked_s := outcome.asked_s:
            with self._lock:
                self._computed_rows += rows
                self._computed_s += asked_s

    def _look_into(self, outcome: Outcome, weights: Array) -> None:
        """Entropy, divergence, what is unsafe, and who agrees with the pool, on the batch's sample."""
        *said, target = outcome.sample
        some = np.flatnonzero(outcome.finite[: len(target)])
        target, shares = target[some], survivors(weights, outcome.valid)[:, some]
        heard = shares > 0
        # What was not heard may be no number.
        beliefs = np.where(heard[:, :, None], np.stack(said)[:, some], 0)
        entropy = _entropy(target)
        if self._classes > 1:
            self._metrics.target_entropy.observe(entropy / math.log(self._classes), self._name)
        mixture = np.einsum("kb,kbc->bc", shares, beliefs)
        divergence = _entropy(mixture) - (shares * _entropy(beliefs)).sum(axis=0)
        self._metrics.divergence.observe(np.maximum(divergence, 0), self._name)
        if self._unsafe:
            for of, probabilities in (("target", target), ("teachers", mixture)):
                unsafe = probabilities[:, self._unsafe].sum(axis=1)
                self._metrics.unsafe_probability.observe(unsafe, self._name, of)
        agrees = heard & (beliefs.argmax(axis=2) == target.argmax(axis=1))
        for teacher, count, agreed in zip(self._teachers, heard.sum(axis=1), agrees.sum(axis=1), strict=True):
            self._metrics.teacher_compared_rows.labels(self._name, teacher).inc(int(count))
            self._metrics.teacher_agreeing_rows.labels(self._name, teacher).inc(int(agreed))


def _entropy(probabilities: Array) -> Array:
    """Of distributions on the last axis, in nats; 0 log 0 is 0."""
    found: Array = -(probabilities * np.log(np.maximum(probabilities, SMALLEST))).sum(axis=-1)
    return found
