"""The metrics of one process: every one of them is declared here, and nowhere else."""

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import service
from service.telemetry.distribution import Distribution

PREFIX = "soft_targets"

# Seconds: from a cache in memory to a request that waits for all of its rows.
QUICK_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
SLOW_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SHARES = tuple(round(0.05 * step, 2) for step in range(1, 21))
SMALL_SHARES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
NATS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0)


class Metrics:
    """The metrics of one process, in a registry of their own.

    What is counted already elsewhere is read when somebody asks (``before``); the other metrics are moved as
    things happen, once a request or a batch, never once a row.

    Attributes:
        registry: of them all.
        before: called before the registry is read, to bring up to date what is only read then.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.before: list[Callable[[], None]] = []
        self._counter = partial(Counter, namespace=PREFIX, registry=self.registry)
        self._gauge = partial(Gauge, namespace=PREFIX, registry=self.registry)
        self._histogram = partial(Histogram, namespace=PREFIX, registry=self.registry)
        self._distribution = partial(Distribution, registry=self.registry)

        self.processes = self._gauge("processes", "Processes that answer requests")
        self.processes.set(1)
        self.build_info = self._gauge("build_info", "1; which version answers", ["version"])
        self.build_info.labels(service.__version__).set(1)
        self._declare_edge()
        self._declare_cache()
        self._declare_batches()
        self._declare_teachers()

    def of_requests(self, route: str, status: int) -> Callable[[float], None]:
        """Counts a request to a route that was answered with a status, and in so many seconds."""
        requests, duration = self.requests.labels(route, str(status)), self.request_duration.labels(route)

        def count(seconds: float) -> None:
            requests.inc()
            duration.observe(seconds)

        return count

    def _declare_edge(self) -> None:
        self.requests = self._counter("requests_total", "Requests by route and status", ["route", "code"])
        self.request_duration = self._histogram(
            "request_duration_seconds",
            "From a request's head to the last byte of its reply",
            ["route"],
            buckets=SLOW_S,
        )
        self.requests_in_flight = self._gauge("requests_in_flight", "Requests that are being answered")
        self.rejected_requests = self._counter(
            "rejected_requests_total",
            "Requests turned away before any work, by the code of their error",
            ["reason"],
        )
        self.rows = self._counter(
            "rows_total", "Rows answered, by where the answer came from", ["ensemble", "source"]
        )
        self.rows_in_flight = self._gauge("rows_in_flight", "Rows of the requests that were let in")
        self.rows_in_flight_limit = self._gauge(
            "rows_in_flight_limit", "How many may be: limits.max_rows_in_flight"
        )
        self.bytes_in_flight = self._gauge(
            "bytes_in_flight", "Bytes of the requests that were let in, and of their replies"
        )

    def _declare_cache(self) -> None:
        self.cache_lookups = self._counter(
            "cache_lookups_total",
            "Values looked up, by tier (memory; backend: LMDB or Redis) and outcome (hit, miss, corrupt, "
            "unavailable)",
            ["tier", "outcome"],
        )
        self.cache_lookup_duration = self._histogram(
            "cache_lookup_duration_seconds",
            "Looking up the rows of a request, all tiers together",
            buckets=QUICK_S,
        )
        self.cache_writes = self._counter(
            "cache_writes_total", "Values for the backend, by outcome (written, dropped)", ["outcome"]
        )
        self.cache_bytes = self._gauge("cache_bytes", "Size of the cache in memory")
        self.redis_breaker_state = self._gauge(
            "redis_breaker_state",
            "0 while the cache's backend is asked; else how many processes leave it alone, because it does "
            "not answer",
        )
        self.saved_inferences = self._counter(
            "saved_inferences_total",
            "Rows that no teacher had to be asked for, as they were kept",
            ["ensemble"],
        )
        self.saved_device_seconds = self._counter(
            "saved_device_seconds_total",
            "Seconds of teachers' work that the rows saved would have taken, at what a row has taken since "
            "the ensemble was loaded, trials included",
            ["ensemble"],
        )

    def _declare_batches(self) -> None:
        self.queue_rows = self._gauge("queue_rows", "Rows that wait for a batch", ["ensemble"])
        self.singleflight_waiters = self._gauge(
            "singleflight_waiters", "Rows that wait for the same row of another request", ["ensemble"]
        )
        self.queue_wait = self._histogram(
            "queue_wait_seconds",
            "From the queue into a batch, once for each request in it",
            ["ensemble"],
            buckets=SLOW_S,
        )
        self.batch_rows = self._histogram("batch_rows", "Rows of a batch", ["ensemble"], buckets=ROWS)
        self.inferences = self._counter(
            "inferences_total", "Rows that teachers were asked for, to make targets", ["ensemble"]
        )
        self.inference_duration = self._histogram(
            "inference_duration_seconds",
            "A batch in a teacher, or in one graph of all teachers ('*'); under the fused plan it fuses too",
            ["ensemble", "teacher"],
            buckets=SLOW_S,
        )
        self.fusion_duration = self._histogram(
            "fusion_duration_seconds",
            "A batch's fusion, where it is not part of the teachers' graph",
            ["ensemble", "operator"],
            buckets=QUICK_S,
        )
        self.failed_batches = self._counter("failed_batches_total", "Batches without an answer", ["ensemble"])
        self.quorum_degraded_rows = self._counter(
            "quorum_degraded_rows_total", "Rows answered without all of their teachers", ["ensemble"]
        )
        self.cancelled_rows = self._counter(
            "cancelled_rows_total", "Rows dropped from the queue, as nobody waited any more", ["ensemble"]
        )

    def _declare_teachers(self) -> None:
        self.teacher_info = self._gauge(
            "teacher_info",
            "1; what each teacher is, and the device that it is bound to",
            ["ensemble", "teacher", "digest", "provider", "device"],
        )
        self.teacher_errors = self._counter(
            "teacher_errors_total",
            "Batches of which a teacher that was asked by itself said nothing at all",
            ["ensemble", "teacher"],
        )
        self.teacher_invalid_rows = self._counter(
            "teacher_invalid_rows_total",
            "Rows of which a teacher said nothing: it failed, or its answer was no distribution",
            ["ensemble", "teacher"],
        )
        self.teacher_compared_rows = self._counter(
            "teacher_compared_rows_total",
            "Rows on which a teacher's class was compared with the pool's: a few of each batch",
            ["ensemble", "teacher"],
        )
        self.teacher_agreeing_rows = self._counter(
            "teacher_agreeing_rows_total",
            "Of the rows compared, those whose most probable class is the pool's",
            ["ensemble", "teacher"],
        )
        self.target_entropy = self._distribution(
            f"{PREFIX}_target_entropy_ratio",
            "Entropy of computed targets, before they are made sparse, as a share of log C: a few of each "
            "batch",
            ["ensemble"],
            bounds=SHARES,
        )
        self.divergence = self._distribution(
            f"{PREFIX}_teacher_divergence_nats",
            "Divergence between the teachers of computed targets, H(sum w p) - sum w H(p): a few of each "
            "batch",
            ["ensemble"],
            bounds=NATS,
        )
        self.unsafe_probability = self._distribution(
            f"{PREFIX}_unsafe_probability",
            "Probability of the unsafe_classes together, of='target' in computed targets, of='teachers' in "
            "what was fused, by weight: a few rows of each batch",
            ["ensemble", "of"],
            bounds=SMALL_SHARES,
        )
