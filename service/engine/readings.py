"""What is read off an engine's parts when somebody asks for its figures."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from service.batching.batcher import Batcher
from service.batching.intake import Intake
from service.cache import Counters, Store
from service.engine.ensemble import Ensemble
from service.telemetry import Metrics


class Readings:
    """Brings the metrics up to date that are only read.

    Args:
        metrics: that show it.
        cache: of the engine.
        intake: of the engine.
        batchers: of every ensemble that is not closed.
    """

    def __init__(
        self, metrics: Metrics, cache: Store, intake: Intake, batchers: Mapping[Ensemble, Batcher[Any, Any]]
    ) -> None:
        self._metrics = metrics
        self._cache = cache
        self._intake = intake
        self._batchers = batchers
        self._counted = Counters()
        self._dropped: dict[Ensemble, int] = {}
        metrics.before.append(self.read)

    def read(self) -> None:
        """Bring the metrics up to date."""
        metrics, intake = self._metrics, self._intake
        metrics.rows_in_flight.set(intake.rows)
        metrics.rows_in_flight_limit.set(intake.max_rows)
        metrics.bytes_in_flight.set(intake.size)
        metrics.cache_bytes.set(self._cache.memory_bytes)
        metrics.redis_breaker_state.set(not self._cache.answers)
        self._read_counters()
        for gauge in (metrics.queue_rows, metrics.singleflight_waiters, metrics.teacher_info):
            gauge.clear()
        for ensemble, batcher in self._batchers.items():
            name = ensemble.name
            metrics.queue_rows.labels(name).inc(batcher.queued)
            metrics.singleflight_waiters.labels(name).inc(batcher.joined)
            metrics.cancelled_rows.labels(name).inc(batcher.dropped - self._dropped.get(ensemble, 0))
            self._dropped[ensemble] = batcher.dropped
            for member in ensemble.members:
                teacher = member.teacher
                device = teacher.device
                metrics.teacher_info.labels(
                    name, teacher.name, teacher.digest, device.provider, str(device)
                ).set(1)

    def forget(self, ensemble: Ensemble) -> None:
        """Read an ensemble for the last time."""
        self.read()
        self._dropped.pop(ensemble, None)

    def _read_counters(self) -> None:
        now, before = self._cache.counters, self._counted
        self._counted = now
        new = {name: value - getattr(before, name) for name, value in asdict(now).items()}
        behind = {
            "hit": new["backend_hits"],
            "miss": new["misses"],
            "corrupt": new["corrupt"],
            "unavailable": new["unavailable"],
        }
        lookups, writes = self._metrics.cache_lookups, self._metrics.cache_writes
        lookups.labels("memory", "hit").inc(new["l1_hits"])
        lookups.labels("memory", "miss").inc(sum(behind.values()))
        if self._cache.has_backend:
            for outcome, count in behind.items():
                lookups.labels("backend", outcome).inc(count)
            for outcome in ("written", "dropped"):
                writes.labels(outcome).inc(new[outcome])
