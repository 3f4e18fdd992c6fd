"""Ensembles of fake teachers, rows for them, and the commands over data sets: called, or as processes."""

import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.bulk import commands
from service.bulk.data import open_dataset
from service.bulk.labelling import Labeller
from service.config import load
from service.engine.ensemble import Overrides
from service.keys import cache_key
from soft_targets.wire import TensorSpec

CONFIG = """\
server: {port: 0, workers: 1}
cache: {url: 'URL', call_timeout_ms: 150, breaker: {failures: 1, retry_s: 0.05}}
ensembles:
  toy:
    classes: [ant, bee, cat, dog]
    quorum: QUORUM
    teachers:
      - {name: one, model: 'fake://?classes=4&features=6&nan_above=100', output: {kind: logits}, weight: 0.6}
      - {name: two, model: 'fake://?classes=4&features=6&seed=1', output: {kind: logits}, weight: 0.4}
    batching: {max_rows: 16, in_flight: 2, threads: 1}
    recipes:
      default: {operator: linear, temperature: 2.0}
      sparse: {operator: linear, temperature: 2.0, sparsity: {top_k: 2}}
"""
WAIT_S = 120
# Whoever runs the tests in the background of a shell has interrupts ignored, and so have all that he starts.
HEEDS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
SPECS = {"x": TensorSpec("<f4", (6,))}


def rows(count, seed=0):
    """Numbers that every teacher answers."""
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


def prefill(config, data, *, ensemble=None, recipe="default", out=None, options=None, file_rows=None):
    """The command, called."""
    return commands.prefill(
        commands.Prefill(config, str(data), ensemble, recipe, out, options or {}, file_rows)
    )


@contextmanager
def begun(*arguments, first=""):
    """The command as a process; ``first`` is Python that it runs before."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"{HEEDS}\n{first}\nfrom service.cli import main; main()",
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def typed(*arguments, first=""):
    """The command as a process, to its end: the exit code, and what it said and noted."""
    with begun(*arguments, first=first) as process:
        said, noted = process.communicate(timeout=WAIT_S)
    return process.returncode, said, noted


async def kept(config, data, *, recipe="default", overrides=None):
    """What the cache behind the memory holds of the rows, in their order."""
    labeller = Labeller.open(load(config), "toy", recipe, overrides or Overrides(), keeping="all")
    try:
        digests = [
            digest
            for chunk in open_dataset(str(data), labeller.ensemble.inputs).chunks(1000)
            for digest in chunk.digests
        ]
        fingerprint = labeller.effective.fingerprint
        return await labeller.store.get_many([cache_key(fingerprint, digest) for digest in digests])
    finally:
        await labeller.close()


def exported(folder):
    """All rows of an export."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))]
    return pa.concat_tables(tables)
