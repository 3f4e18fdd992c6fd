"""How batches are run: as configured, and what is left open by measurement."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from service.model import Array
from service.plans.base import Asked, Plan
from service.plans.trials import probe_of, throughput

MOST_IN_FLIGHT = 16
IN_FLIGHT_ELSEWHERE = 8  # batches; to wait for another server takes none of this one's processors
ROWS_ELSEWHERE = 8  # that it is tried on: each batch size is a request there, and each row of the first one


class Sizing(NamedTuple):
    """How batches are run, as configured: None is found by measurement, with so many processors."""

    max_rows: int
    in_flight: int | None
    threads: int | None
    memory: int | None
    cores: int

    def candidates(self, kind: str) -> list[tuple[int, int]]:
        """Threads a session and batches at a time that use the machine fully and fit what is configured."""
        if kind == "cuda":
            found = [(1, 1), (1, 2)]
        else:
            cores = self.cores
            found = sorted({(1, min(cores, MOST_IN_FLIGHT)), (cores, 1), (max(1, cores // 2), min(cores, 2))})
        fitting = [
            (threads, in_flight)
            for threads, in_flight in found
            if self.threads in {None, threads} and self.in_flight in {None, in_flight}
        ]
        return fitting or [(self.threads or 1, self.in_flight or 1)]


def fastest(candidates: Sequence[tuple[int, int]], runs: Sequence[Callable[[], object]]) -> tuple[int, int]:
    """The threads and batches at a time that answer most; the runs belong to the candidates."""
    speed = [0.0] * len(candidates)
    for _ in range(2):  # the better of two rounds, interleaved: other work may come between
        for place, (_, in_flight) in enumerate(candidates):
            speed[place] = max(speed[place], throughput(runs[place], in_flight))
    return candidates[int(np.argmax(speed))]


def resized(rows: Mapping[str, Array], size: int) -> dict[str, Array]:
    """So many rows, repeated from those."""
    return {name: np.resize(values, (size, *values.shape[1:])) for name, values in rows.items()}


def warm(plan: Plan, one: Asked, rows: Mapping[str, Array], *, max_rows: int) -> float:
    """Run the batch sizes that will occur, so that the first request does not wait for it.

    Returns:
        How many seconds teachers were asked for a row of the largest.
    """
    asked_s = 0.0
    for size in sorted({*(2**power for power in range(max_rows.bit_length())), max_rows}):
        batch = resized(rows, size)
        asked_s = probe_of(plan, batch, one.temperature, one.weights, one.pair)(slice(0, size)).asked_s
    return asked_s / max_rows


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
