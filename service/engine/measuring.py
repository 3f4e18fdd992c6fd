"""What an engine's batches and answers are in figures."""

import math
import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np

from service.engine.ensemble import Ensemble
from service.model import Array, Group
from service.plans.base import Outcome, Pair, Took
from service.telemetry import Metrics

# So many rows of a batch are looked into: a share or a distribution is known from a few of many batches, and
# the pass over all classes of all rows would be felt where there are tens of thousands.
LOOKED_INTO = 16
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
        self._lock = threading.Lock()
        self._computed_rows = 0
        self._computed_s = 0.0

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
        self._record_times(outcome.took, weights.shape[1], pair)
        for k in outcome.failures:
            self._metrics.teacher_errors.labels(self._name, self._teachers[k]).inc()
        lost = ~outcome.valid & (weights > 0)
        if lost.any():
            for place in np.flatnonzero(lost.any(axis=1)):
                count = int(lost[place].sum())
                self._metrics.teacher_invalid_rows.labels(self._name, self._teachers[place]).inc(count)
        self._look_into(outcome, weights, pair)

    def degraded(self, rows: int) -> None:
        """Rows got a target without all of their teachers."""
        self._degraded.inc(rows)

    def _record_times(self, took: Sequence[Took], rows: int, pair: Pair) -> None:
        asked_s = 0.0
        for one in took:
            if one.fusion:
                self._metrics.fusion_duration.labels(self._name, pair.operator.name).observe(one.seconds)
                continue
            teacher = ALL_TEACHERS if one.teacher is None else self._teachers[one.teacher]
            self._metrics.inference_duration.labels(self._name, teacher).observe(one.seconds)
            asked_s += one.seconds
        if asked_s:
            with self._lock:
                self._computed_rows += rows
                self._computed_s += asked_s

    def _look_into(self, outcome: Outcome, weights: Array, pair: Pair) -> None:
        """Entropy, divergence, and who agrees with the pool."""
        some = np.flatnonzero(outcome.finite[:LOOKED_INTO])
        if not len(some):
            return
        entropy = outcome.entropy
        if entropy is not None:
            entropy = entropy[some]
        elif pair.top_k is None:
            log_probs = outcome.log_probs[some]
            entropy = -(np.exp(log_probs) * log_probs).sum(axis=1)
        if entropy is not None and self._classes > 1:
            self._metrics.target_entropy.observe(entropy / math.log(self._classes), self._name)
        if outcome.divergence is not None:
            self._metrics.divergence.observe(outcome.divergence[some], self._name)
        if outcome.opinions is not None:
            self._compare(outcome, weights, some)

    def _compare(self, outcome: Outcome, weights: Array, some: Array) -> None:
        assert outcome.opinions is not None
        pooled = (
            outcome.log_probs[some].argmax(axis=1) if outcome.indices is None else outcome.indices[some, 0]
        )
        agrees = outcome.opinions[:, some].argmax(axis=2) == pooled
        compared = outcome.valid[:, some] & (weights[:, some] > 0)
        for teacher, count, agreed in zip(
            self._teachers, compared.sum(axis=1), (agrees & compared).sum(axis=1), strict=True
        ):
            self._metrics.teacher_compared_rows.labels(self._name, teacher).inc(int(count))
            self._metrics.teacher_agreeing_rows.labels(self._name, teacher).inc(int(agreed))
