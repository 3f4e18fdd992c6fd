"""Statistics of models, as perf tools sample them: counts and nanoseconds since the process started."""

from collections import Counter
from typing import Any, NamedTuple

from cachetools import LRUCache

from service.api.v2.models import Model


class Times(NamedTuple):
    """How long a request took, in nanoseconds.

    Attributes:
        read: from its last byte to its rows.
        answer: until they all had their targets.
        write: until the reply was ready.
    """

    read: int
    answer: int
    write: int


class _Counts:
    """Of one version of a model."""

    def __init__(self) -> None:
        self.last_ms = self.inferences = self.executions = 0
        self.count: Counter[str] = Counter()
        self.ns: Counter[str] = Counter()

    def add(self, what: str, ns: int) -> None:
        self.count[what] += 1
        self.ns[what] += ns

    def duration(self, what: str) -> dict[str, int]:
        return {"count": self.count[what], "ns": self.ns[what]}


# A request waits for a batch and for its answer in one: how long for which, nobody here knows.
_DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit")


class Statistics:
    """Counts the requests of this process by the name and version of what they ask; for one event loop."""

    def __init__(self) -> None:
        # Bounded: every reload may bring another version of each model.
        self._models: LRUCache[tuple[str, str], _Counts] = LRUCache(4096)

    def answered(self, model: Model, times: Times, *, computed: int, kept: bool, now_ms: int) -> None:
        """Count a request that was answered.

        Args:
            model: that was asked.
            times: that it took.
            computed: how many of its rows teachers were asked for.
            kept: whether all of its rows were in the cache.
            now_ms: since the epoch.
        """
        counts = self._counts(model)
        counts.last_ms = now_ms
        counts.add("success", sum(times))
        if kept:
            counts.add("cache_hit", times.answer)
            return
        counts.inferences += computed
        counts.executions += computed > 0
        counts.add("compute_input", times.read)
        counts.add("compute_infer", times.answer)
        counts.add("compute_output", times.write)

    def failed(self, model: Model, ns: int) -> None:
        """Count a request that was refused, or could not be answered."""
        self._counts(model).add("fail", ns)

    def of(self, model: Model) -> dict[str, Any]:
        """What the protocol's statistics extension says of a model."""
        counts = self._models.get((model.name, model.version)) or _Counts()
        return {
            "name": model.name,
            "version": model.version,
            "last_inference": counts.last_ms,
            "inference_count": counts.inferences,
            "execution_count": counts.executions,
            "inference_stats": {what: counts.duration(what) for what in _DURATIONS},
            "batch_stats": [],
        }

    def _counts(self, model: Model) -> _Counts:
        return self._models.setdefault((model.name, model.version), _Counts())
