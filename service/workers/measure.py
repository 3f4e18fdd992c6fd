"""How many workers a machine is best served by."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.api import bodies
from service.engine.binding import probe_rows
from service.engine.engine import Engine
from service.engine.ensemble import Ensemble, Overrides
from service.keys import cache_key
from service.model import Array
from service.plans.trials import throughput
from soft_targets.wire import ARROW, ReplyWriter, default_row_ids, encode_request, row_digests

MEASURE_S = 0.3
GPUS = Path("/proc/driver/nvidia/gpus")


class Best(NamedTuple):
    """How many workers, and whether each of them has a GPU of its own."""

    workers: int
    gpus: bool


def best_count(engine: Engine, cores: int) -> Best:
    """The fewest processes whose event loops keep up with what the processors can do in all.

    A row takes ``loop`` seconds of one event loop, and ``plan`` seconds of all processors together. They can
    do no more than ``cores / (loop + cores * plan)`` rows a second, and an event loop ``1 / loop``. On GPUs
    it is one process each.

    Args:
        engine: opened, with all processors to itself.
        cores: how many there are.
    """
    devices = [member.teacher.device for one in engine.ensembles.values() for member in one.members]
    if any(device.kind == "cuda" for device in devices):
        # Who names the second one has divided them already.
        several = GPUS.is_dir() and not any(device.number for device in devices)
        return Best(max(1, len(list(GPUS.iterdir()))) if several else 1, gpus=several)
    return Best(max(min(cores, _best(one, cores)) for one in engine.ensembles.values()), gpus=False)


def _best(ensemble: Ensemble, cores: int) -> int:
    size = ensemble.config.batching.max_rows
    inputs = {
        name: np.resize(values, (size, *values.shape[1:]))
        for name, values in probe_rows(ensemble.inputs).items()
    }
    effective = ensemble.effective(next(iter(ensemble.recipes)), Overrides())
    question = (
        np.full(size, effective.recipe.temperature, np.float32),
        np.repeat(np.array(effective.recipe.weights, np.float32)[:, None], size, axis=1),
        effective.pair,
    )
    plan = 1 / (size * throughput(lambda: ensemble.plans.run(inputs, *question), ensemble.plans.in_flight))
    loop = _seconds(lambda: _exchange(ensemble, effective.fingerprint, inputs)) / size
    most = cores / (loop + cores * plan)
    return math.ceil(most * loop)


def _exchange(ensemble: Ensemble, fingerprint: str, inputs: Mapping[str, Array]) -> None:
    """What an event loop does for a request beside waiting."""
    rows = len(next(iter(inputs.values())))
    body = encode_request(inputs, default_row_ids(rows))
    asked = bodies.read(body, ARROW, ensemble, max_rows=rows)
    assert asked.inputs is not None
    for digest in row_digests(asked.inputs, ensemble.inputs):
        cache_key(fingerprint, digest)
    layout = ensemble.recipes[next(iter(ensemble.recipes))].recipe.layout(len(ensemble.classes))
    writer = ReplyWriter(layout, row_id_type=asked.row_ids.type, metadata={})
    values = [bytes(layout.row_bytes)] * rows
    for _ in writer.group(asked.row_ids, ["miss"] * rows, values, [None] * rows):
        pass
    writer.close()


def _seconds(run: Callable[[], None]) -> float:
    run()
    done, began = 0, time.perf_counter()
    while time.perf_counter() < began + MEASURE_S:
        run()
        done += 1
    return (time.perf_counter() - began) / max(1, done)
