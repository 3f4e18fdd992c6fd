"""How many workers a machine is best served by."""

import math
from pathlib import Path
from typing import NamedTuple

from service.api import bodies
from service.engine.binding import probe_rows
from service.engine.engine import Engine
from service.engine.ensemble import Effective, Ensemble, Overrides
from service.engine.groups import keys_of, parted
from service.plans.sizing import resized
from service.plans.trials import probe_of, throughput
from soft_targets.wire import ARROW, ReplyWriter, default_row_ids, encode_request, row_digests

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
    inputs = resized(probe_rows(ensemble.inputs), size)
    effective = ensemble.effective(next(iter(ensemble.recipes)), Overrides())
    recipe, plan = effective.recipe, ensemble.plans.plan(effective.pair)
    probe = probe_of(plan, inputs, recipe.temperature, recipe.weights, effective.pair)
    body = encode_request(inputs, default_row_ids(size))
    of_plan = 1 / (size * throughput(lambda: probe(slice(0, size)), ensemble.plans.in_flight))
    of_loop = 1 / (size * throughput(lambda: _exchange(ensemble, effective, body, size), 1))
    return math.ceil(cores / (of_loop + cores * of_plan) * of_loop)


def _exchange(ensemble: Ensemble, effective: Effective, body: bytes, rows: int) -> None:
    """What an event loop does for a request beside waiting."""
    asked = bodies.read(body, ARROW, ensemble, max_rows=rows)
    assert asked.inputs is not None
    keys = keys_of(effective, row_digests(asked.inputs, ensemble.inputs))
    parted(keys, [None] * len(keys))
    writer = ReplyWriter(effective.layout, row_id_type=asked.row_ids.type, metadata={})
    values = [bytes(effective.layout.row_bytes)] * rows
    for _ in writer.group(asked.row_ids, ["miss"] * rows, values, [None] * rows):
        pass
    writer.close()
