"""The plan in process against the bare limit: batches of S, M and V, interleaved.

make bench-engine

Medians of nine rounds, and their range, of rows per second over one graph merged by hand (`bench/sets.py`):
how much is left when the same teachers run through `Plans.run`, with a temperature and weights a row,
validity and float32 positivity. In brackets behind it, over the same graph without its logarithm, which
answers probabilities and so does a little less than targets need.
"""

import argparse
import os
import statistics
from functools import partial
from typing import Any

import numpy as np
from sets import SETS, TEMPERATURE, WEIGHTS, TeacherSet, ensemble, merged, rate, rows_of, session

from service.engine.ensemble import Overrides

ROUNDS = 9
ROUND_S = 0.7


def limit_runs(teachers: TeacherSet, batches: list[np.ndarray], *, logs: bool) -> list[tuple[Any, int]]:
    """One session of all threads, and one of one thread called as often at a time."""
    model = merged(teachers, logs=logs)
    cores = os.cpu_count() or 1
    return [
        (partial(_bare, session(model, cores), batches), 1),
        (partial(_bare, session(model, 1), batches), cores),
    ]


def _bare(bare: Any, batches: list[np.ndarray], number: int) -> None:
    bare.run(None, {"x": batches[number % len(batches)]})


def measure(name: str, size: int) -> str:
    teachers = SETS[name]
    batches = [rows_of(teachers, size, seed) for seed in range(4)]
    limits = {logs: limit_runs(teachers, batches, logs=logs) for logs in (True, False)}
    ratios: dict[bool, list[float]] = {True: [], False: []}
    with ensemble(teachers) as served:
        question = (
            np.full(size, TEMPERATURE, np.float32),
            np.repeat(np.array(WEIGHTS, np.float32)[:, None], size, axis=1),
            served.effective("default", Overrides()).pair,
        )

        def run(number: int) -> Any:
            return served.plans.run({"x": batches[number % len(batches)]}, *question)

        (expected,) = session(merged(teachers), 1).run(None, {"x": batches[0]})
        assert np.allclose(run(0).log_probs, expected, rtol=1e-5, atol=1e-4), "both must answer alike"
        count = max(2, int(ROUND_S * rate(limits[True][1][0], 4, limits[True][1][1])))
        for _ in range(ROUNDS):
            ours = rate(run, count, served.plans.in_flight)
            for logs, runs in limits.items():
                ratios[logs].append(ours / max(rate(bare, count, in_flight) for bare, in_flight in runs))
        plan = served.plans.report()[0]["plan"]
        how = f"{plan}, {served.plans.in_flight} batches of {served.plans.threads} threads"
    shown = [f"{statistics.median(one):.2f} [{min(one):.2f}-{max(one):.2f}]" for one in ratios.values()]
    return f"{name} b{size:<4} {shown[0]}  ({shown[1]})  {how}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="SMV")
    parser.add_argument("--sizes", default="128")
    asked = parser.parse_args()
    print(
        f"{os.cpu_count()} CPUs, {ROUNDS} rounds: the plan in process over the merged graph, rows per second"
    )
    for name in asked.sets:
        for size in asked.sizes.split(","):
            print(measure(name, int(size)), flush=True)


if __name__ == "__main__":
    main()
