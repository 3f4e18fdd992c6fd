import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

__all__ = ["Stats", "Tally"]


@dataclass(frozen=True, slots=True)
class Stats:
    """What was done so far, by a client or by one of its streams.

    Attributes:
        rows: rows that have a soft target.
        rows_by_source: rows by where the server had them from: ``hit``, ``miss``, ... ``error``.
        requests: requests that were answered with targets.
        retries: requests that were sent again.
        sent_bytes: bytes of the bodies of requests that were answered.
        received_bytes: bytes of their answers.
        waited_s: seconds the consumer of ``distill`` stood still for targets or the loader.
        elapsed_s: seconds since the consumer of ``distill`` wanted its first batch, all epochs together.
    """

    rows: int = 0
    rows_by_source: Mapping[str, int] = field(default_factory=dict)
    requests: int = 0
    retries: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    waited_s: float = 0.0
    elapsed_s: float = 0.0

    @property
    def hit_rate(self) -> float:
        """The share of the rows that the server had kept, 0 to 1; NaN before the first row."""
        return self.rows_by_source.get("hit", 0) / self.rows if self.rows else float("nan")

    @property
    def stall(self) -> float:
        """The share of the time that the consumer stood still, 0 to 1; NaN before the first batch."""
        return self.waited_s / self.elapsed_s if self.elapsed_s else float("nan")


class Tally:
    """Counts from several threads; ``stats`` is a whole snapshot, read without a lock.

    Args:
        above: is told everything as well.
    """

    def __init__(self, above: "Tally | None" = None) -> None:
        self._lock = threading.Lock()
        self._above = above
        self.stats = Stats()

    def add(
        self,
        *,
        sources: Sequence[str] = (),
        requests: int = 0,
        retries: int = 0,
        sent_bytes: int = 0,
        received_bytes: int = 0,
        waited_s: float = 0.0,
        elapsed_s: float = 0.0,
    ) -> None:
        """Count what was done; ``sources`` has one word for each row that was answered."""
        counted = Counter(sources)
        with self._lock:
            before = self.stats
            self.stats = replace(
                before,
                rows=before.rows + len(sources) - counted["error"],
                rows_by_source=dict(Counter(before.rows_by_source) + counted),
                requests=before.requests + requests,
                retries=before.retries + retries,
                sent_bytes=before.sent_bytes + sent_bytes,
                received_bytes=before.received_bytes + received_bytes,
                waited_s=before.waited_s + waited_s,
                elapsed_s=before.elapsed_s + elapsed_s,
            )
        if self._above is not None:
            self._above.add(
                sources=sources,
                requests=requests,
                retries=retries,
                sent_bytes=sent_bytes,
                received_bytes=received_bytes,
                waited_s=waited_s,
                elapsed_s=elapsed_s,
            )
