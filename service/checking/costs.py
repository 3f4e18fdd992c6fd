"""What a training costs: what the cache has to keep, and what the teachers are asked with and without it."""

from typing import Any, NamedTuple

from service.cache import kept_bytes
from service.config import Cache
from service.engine.binding import probe_rows
from service.engine.ensemble import Ensemble
from service.plans.base import Asked
from service.plans.sizing import resized
from service.plans.trials import probe_of, throughput


class Planned(NamedTuple):
    """A training to come.

    Attributes:
        rows: different ones.
        epochs: how often each trainer asks for all of them.
        trainers: how many ask.
    """

    rows: int
    epochs: int = 1
    trainers: int = 1


def rate_of(ensemble: Ensemble, asked: Asked) -> float:
    """Rows a second that the plan of a recipe computes, measured for a moment on rows of zeros and noise."""
    size = ensemble.config.batching.max_rows
    inputs = resized(probe_rows(ensemble.inputs), size)
    plan = ensemble.plans.plan(asked.pair)
    probe = probe_of(plan, inputs, asked.temperature, asked.weights, asked.pair)
    return size * throughput(lambda: probe(slice(0, size)), ensemble.plans.in_flight)


def cost_of(planned: Planned, *, row_bytes: int, rate: float, cache: Cache, kept: bool) -> dict[str, Any]:
    """What a recipe's targets cost, as JSON.

    Args:
        planned: what is to come.
        row_bytes: of a target.
        rate: rows a second that are computed.
        cache: the section.
        kept: whether its targets are kept at all.
    """
    asked = planned.rows * planned.epochs * planned.trainers
    computed = planned.rows if kept else asked
    return {
        "rows_asked": asked,
        "reply_bytes": asked * row_bytes,
        "kept_bytes": planned.rows * kept_bytes(cache.address.scheme, row_bytes) if kept else 0,
        "rows_per_s": rate,
        "without_cache": {"rows_computed": asked, "teachers_s": asked / rate},
        "with_cache": {"rows_computed": computed, "teachers_s": computed / rate},
    }
