"""What the metrics of one process say, and of several processes together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from service.telemetry.metrics import PREFIX, Metrics

# What goes on counting when another process takes over; gauges end with theirs.
LASTING = {"counter", "histogram"}
Labels = Mapping[str, str]


class Family(NamedTuple):
    """A metric with its samples; as JSON a list of four.

    Attributes:
        name: of the metric.
        kind: counter, gauge or histogram.
        documentation: of the metric.
        samples: name, labels and value.
    """

    name: str
    kind: str
    documentation: str
    samples: list[tuple[str, Labels, float]]


def taken(metrics: Metrics) -> list[Family]:
    """The figures of this process, now."""
    for bring_up_to_date in metrics.before:
        bring_up_to_date()
    return [
        Family(
            one.name,
            one.type,
            one.documentation,
            # When a series began is no figure, and of several processes there is no one answer.
            [(s.name, s.labels, s.value) for s in one.samples if not s.name.endswith("_created")],
        )
        for one in metrics.registry.collect()
    ]


def merged(many: Iterable[Sequence[Family]]) -> list[Family]:
    """The figures of several processes as one: sums, but of what is only told (``_info``)."""
    heads: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for families in many:
        for family in families:
            heads.setdefault(family.name, family)
            known = values.setdefault(family.name, {})
            for name, labels, value in family.samples:
                key = name, tuple(labels.items())
                before = known.get(key, 0.0)
                known[key] = max(before, value) if family.name.endswith("_info") else before + value
    return [
        family._replace(
            samples=[(sample, dict(labels), value) for (sample, labels), value in values[name].items()]
        )
        for name, family in heads.items()
    ]


def lasting(families: Sequence[Family]) -> list[Family]:
    """Those that go on counting when their process has ended."""
    return [family for family in families if family.kind in LASTING]


def exposition(families: Sequence[Family], accept: str) -> tuple[bytes, str]:
    """The figures as Prometheus reads them.

    Args:
        families: all figures.
        accept: the request's header.

    Returns:
        The body, and its media type.
    """
    encode, content_type = choose_encoder(accept)
    return encode(_Fixed(families)), content_type


class _Fixed(Collector):
    """Figures as the library's encoders ask for them."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for name, kind, documentation, samples in self._families:
            metric = Metric(name, documentation, kind)
            for sample in samples:
                metric.add_sample(sample[0], dict(sample[1]), sample[2])
            yield metric


def snapshot(families: Sequence[Family]) -> dict[str, list[dict[str, Any]]]:
    """The figures as JSON: each metric's series by its name, without the prefix ``soft_targets_``.

    Counters and gauges are named as they are exposed (``rows_total``, ``queue_rows``), and each of their
    series is ``{"labels": {...}, "value": ...}``. A series of a histogram (``queue_wait_seconds``,
    ``target_entropy_ratio``) is ``{"labels": {...}, "count": ..., "sum": ..., "buckets": [[bound, count],
    ...]}``: bounds as text, rising, the last one ``"+Inf"``; a count is of its own bucket, not of those
    before it. A metric of which nothing is known yet has no series. Everything counts from the start of the
    server, over all of its processes: whoever wants a rate takes the difference of two snapshots.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for family in families:
        name = family.name.removeprefix(f"{PREFIX}_")
        if family.kind == "histogram":
            found[name] = _series(family)
        else:
            suffix = "_total" if family.kind == "counter" else ""
            found[name + suffix] = [
                {"labels": dict(labels), "value": value} for _, labels, value in family.samples
            ]
    return found


def _series(family: Family) -> list[dict[str, Any]]:
    series: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for name, labels, value in family.samples:
        own = {key: text for key, text in labels.items() if key != "le"}
        one = series.setdefault(tuple(own.items()), {"labels": own, "count": 0, "sum": 0.0, "buckets": []})
        if name.endswith("_bucket"):
            one["buckets"].append([labels["le"], value - one["count"]])
            one["count"] = value
        elif name.endswith("_sum"):
            one["sum"] = value
    return list(series.values())
