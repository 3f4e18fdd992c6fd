"""A histogram that is given many values at a time; the library's takes one."""

import threading
from collections.abc import Iterable, Sequence

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from service.model import Array


class Distribution(Collector):
    """A histogram with fixed buckets; thread-safe.

    Args:
        name: of the metric.
        documentation: of the metric.
        labels: their names.
        bounds: upper bounds of the buckets, rising; one without a bound comes after them.
        registry: that collects it.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._head = name, documentation, labels
        self._bounds = np.array(bounds)
        self._names = [*map(floatToGoString, bounds), "+Inf"]
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, ...], tuple[Array, float]] = {}
        registry.register(self)

    def observe(self, values: Array, *labels: str) -> None:
        """Count values ``[N]``; one on a bound is below it, and one that is not finite is left out."""
        values = values[np.isfinite(values)]
        places = np.searchsorted(self._bounds, values)
        counts = np.bincount(places, minlength=len(self._names))
        with self._lock:
            before, total = self._counts.get(labels, (0, 0.0))
            self._counts[labels] = before + counts, total + float(values.sum())

    def collect(self) -> Iterable[Metric]:
        """The metric, as the library asks for it."""
        name, documentation, labels = self._head
        family = HistogramMetricFamily(name, documentation, labels=labels)
        with self._lock:
            for key, (counts, total) in self._counts.items():
                family.add_metric(
                    key, list(zip(self._names, counts.cumsum().tolist(), strict=True)), sum_value=total
                )
        yield family
