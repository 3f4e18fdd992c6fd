"""Fusion alone: operators in numpy against hand-written numpy, and recorded graphs against merged ones.

make bench-operators

Linear pool of softened teachers, [3, 512, 100] and [3, 64, 32000], float32, interleaved; medians of time over
the best hand-written numpy of the same answer, and of the recorded graph of S, M and V over the graph merged
by hand (`bench/sets.py`), one thread each. Not called operators.py: a program's own folder comes first when
it imports.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from sets import SETS, TEMPERATURE, WEIGHTS, ensemble, merged, rows_of, session

from operators import make
from service.engine.ensemble import Overrides
from service.plans import recording
from service.teachers.base import Device
from service.teachers.session import Session

ROUNDS = 15
SHAPES = ((3, 512, 100), (3, 64, 32_000))


def by_hand(log_probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Log sum_k w_k exp(log p_k), in the log domain, buffers reused: what a careful person writes."""
    peak = log_probs.max(axis=0)
    total, term = np.zeros_like(peak), np.empty_like(peak)
    for one, weight in zip(log_probs, weights, strict=True):
        np.subtract(one, peak, out=term)
        np.exp(term, out=term)
        term *= weight[:, None]
        total += term
    np.log(total, out=total)
    total += peak
    return total


def in_probabilities(log_probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The same in probabilities; shorter, and without an answer where they underflow."""
    total, term = np.zeros_like(log_probs[0]), np.empty_like(log_probs[0])
    for one, weight in zip(log_probs, weights, strict=True):
        np.exp(one, out=term)
        term *= weight[:, None]
        total += term
    return np.log(total, out=total)


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def compare(ours: Callable[[], object], others: list[Callable[[], object]]) -> str:
    """The median and range of our time over the shortest of the others', interleaved."""
    for run in (ours, *others):
        run()
    ratios = [seconds(ours) / min(seconds(other) for other in others) for _ in range(ROUNDS)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]"


def numpy_ratio(shape: tuple[int, int, int]) -> str:
    random = np.random.default_rng(0)
    logits = random.normal(size=shape).astype(np.float32)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    weights = np.repeat(np.array(WEIGHTS, np.float32)[:, None], shape[1], axis=1)
    fuse = make("linear").fuse
    assert np.allclose(fuse(log_probs, weights), by_hand(log_probs, weights), atol=1e-5)
    hands = [partial(by_hand, log_probs, weights), partial(in_probabilities, log_probs, weights)]
    return compare(partial(fuse, log_probs, weights), hands)


def graph_ratio(name: str) -> str:
    teachers = SETS[name]
    rows = rows_of(teachers, 128)
    with ensemble(teachers) as served:
        pair = served.effective("default", Overrides()).pair
        model = recording.fused([recording.source(one) for one in served.members], served.inputs, pair)
    recorded = Session(model, Device("cpu"), where=name)
    feeds = {
        recording.inputs_of("x"): rows,
        "temperature": np.full(len(rows), TEMPERATURE, np.float32),
        "weights": np.repeat(np.array(WEIGHTS, np.float32)[:, None], len(rows), axis=1),
    }
    bare = session(merged(teachers), 1)
    outputs = ("log_probs", "finite", "valid")
    return compare(lambda: recorded.run(outputs, feeds), [lambda: bare.run(None, {"x": rows})])


def main() -> None:
    print("time over the best hand-written numpy, linear pool")
    for shape in SHAPES:
        print(f"  {list(shape)!s:16} {numpy_ratio(shape)}", flush=True)
    print("time of the recorded graph over the graph merged by hand, 128 rows, one thread")
    for name in SETS:
        print(f"  {name:16} {graph_ratio(name)}", flush=True)


if __name__ == "__main__":
    main()
