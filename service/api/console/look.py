"""One look at the live figures: what the page draws, out of the metrics' snapshot."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from service.api.openapi import SOFT_TARGETS_PATH

Series = Sequence[Mapping[str, Any]]
Snapshot = Mapping[str, Series]
# Requests that have rows in them; those of the console itself would drown them.
ANSWERING = (SOFT_TARGETS_PATH, "/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
TOGETHER = "*"  # one graph of all teachers
ABSENT = "absent"  # a row that was asked for by its digest: it is sent next, and counted then


class Served(NamedTuple):
    """What is served of an ensemble.

    Attributes:
        teachers: their names.
        recipes: their fingerprints by name.
    """

    teachers: Sequence[str]
    recipes: Mapping[str, str]


def look(
    snapshot: Snapshot, ensembles: Mapping[str, Served], degraded: Sequence[str], *, now: float
) -> dict[str, Any]:
    """Counters since the start of the server, and gauges; whoever wants a rate takes the difference of two.

    Args:
        snapshot: of the metrics, over all processes.
        ensembles: what is served, by name.
        degraded: what is amiss.
        now: the time in seconds since 1970.
    """
    rows = _by_source(snapshot["rows_total"])
    requests = [one for one in snapshot["request_duration_seconds"] if one["labels"]["route"] in ANSWERING]
    return {
        "time": now,
        "degraded": list(degraded),
        "rows": rows,
        "latency": _histogram(requests),
        "queued_rows": _sum(snapshot["queue_rows"]),
        "in_flight_rows": _sum(snapshot["rows_in_flight"]),
        "batches": _batches(snapshot["batch_rows"]),
        "saved": {
            "inferences": _sum(snapshot["saved_inferences_total"]),
            "device_seconds": _sum(snapshot["saved_device_seconds_total"]),
        },
        "ensembles": {name: _ensemble(snapshot, name, served) for name, served in ensembles.items()},
    }


def _ensemble(snapshot: Snapshot, name: str, served: Served) -> dict[str, Any]:
    def of(metric: str, **labels: str) -> Series:
        wanted = {"ensemble": name, **labels}
        return [one for one in snapshot[metric] if wanted.items() <= one["labels"].items()]

    def asked(teacher: str) -> dict[str, float]:
        found = of("inference_duration_seconds", teacher=teacher)
        return {"calls": sum(one["count"] for one in found), "seconds": sum(one["sum"] for one in found)}

    return {
        "recipes": dict(served.recipes),
        "rows": _by_source(of("rows_total")),
        "batches": _batches(of("batch_rows")),
        "queued_rows": _sum(of("queue_rows")),
        "together": asked(TOGETHER),
        "teachers": {
            teacher: {
                **asked(teacher),
                "errors": _sum(of("teacher_errors_total", teacher=teacher)),
                "invalid": _sum(of("teacher_invalid_rows_total", teacher=teacher)),
                "compared": _sum(of("teacher_compared_rows_total", teacher=teacher)),
                "agreed": _sum(of("teacher_agreeing_rows_total", teacher=teacher)),
            }
            for teacher in served.teachers
        },
        "entropy": _histogram(of("target_entropy_ratio")),
        "divergence": _histogram(of("teacher_divergence_nats")),
        "unsafe": {who: _means(of("unsafe_probability", of=who)) for who in ("target", "teachers")},
    }


def _sum(series: Series) -> float:
    return math.fsum(one["value"] for one in series)


def _by_source(series: Series) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in series:
        source = one["labels"]["source"]
        if source != ABSENT:
            found[source] = found.get(source, 0) + one["value"]
    return found


def _means(series: Series) -> dict[str, float]:
    return {"rows": sum(one["count"] for one in series), "sum": sum(one["sum"] for one in series)}


def _batches(series: Series) -> dict[str, float]:
    return {"count": sum(one["count"] for one in series), "rows": sum(one["sum"] for one in series)}


def _histogram(series: Series) -> dict[str, list[float]]:
    """Several series of a histogram as one: its bounds, and a count for each and for what is beyond."""
    counts: dict[float, float] = {}
    for one in series:
        for bound, count in one["buckets"]:
            counts[float(bound)] = counts.get(float(bound), 0) + count
    bounds = sorted(counts)
    edges = [bound for bound in bounds if math.isfinite(bound)]
    return {"edges": edges, "counts": [counts[bound] for bound in bounds] or [0]}
