"""What has been done so far, counted."""

from dataclasses import dataclass, field

from service.bulk.labelling import Labelled

SHOWN = 10


@dataclass
class Tally:
    """Rows by what became of them.

    Attributes:
        rows: that there are.
        done: that are answered, failed or looked at.
        before: of them, those that were done before this command began.
        hits: found in the cache.
        computed: answered by the teachers, or from their opinions.
        failed: without an answer.
        degraded: answered without some of the teachers.
        unkept: answered in a way that no cache may keep, degraded ones among them.
        failures: the first that failed, as people are told.
    """

    rows: int
    done: int = 0
    before: int = 0
    hits: int = 0
    computed: int = 0
    failed: int = 0
    degraded: int = 0
    unkept: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, labelled: Labelled) -> None:
        """Count a chunk."""
        hits, failed = labelled.sources.count("hit"), labelled.sources.count("error")
        rows = len(labelled.sources)
        self.done += rows
        self.hits += hits
        self.failed += failed
        self.computed += rows - hits - failed
        self.degraded += sum(map(bool, labelled.missing))
        self.unkept += labelled.keep.count(False) - failed
        if failed and len(self.failures) < SHOWN:
            self.failures += [
                f"row {row_id.as_py()!r}: {failure.code}: {failure.message}"
                for row_id, failure in zip(labelled.chunk.row_ids, labelled.failures, strict=True)
                if failure is not None
            ]
            del self.failures[SHOWN:]
