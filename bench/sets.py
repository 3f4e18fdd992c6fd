"""The yardstick: three seeded sets of teachers, their ensembles, and the best that a machine does with them.

S: three small nets, 784 numbers in, 10 classes. M: a residual net, a depthwise one and a small transformer
on 3 x 32 x 32 pixels, 100 classes. V: three linear heads, 256 numbers in, 32,000 classes. T = 4, weights .5,
.3 and .2, linear pool. The limit of a round is one graph merged by hand (teachers, softening, pool and
logarithm), called in process: the better of one session with all threads and as many of one thread each.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import spox
import spox.opset.ai.onnx.v21 as op

from service.admission import Certifier
from service.config import load
from service.engine.ensemble import Ensemble

TEMPERATURE = 4.0
WEIGHTS = (0.5, 0.3, 0.2)


class TeacherSet(NamedTuple):
    """A set of teachers.

    Attributes:
        shape: of a row.
        classes: how many.
        build: the logits of each teacher from rows, seeded.
    """

    shape: tuple[int, ...]
    classes: int
    build: tuple[Callable[[Any], Any], ...]


def _weight(random: np.random.Generator, *shape: int) -> Any:
    scale = np.sqrt(2 / np.prod(shape[1:] if len(shape) > 2 else shape[:1]))  # noqa: PLR2004 - a kernel
    return op.const((random.normal(size=shape) * scale).astype(np.float32))


def _net(seed: int, *widths: int) -> Callable[[Any], Any]:
    def build(x: Any) -> Any:
        random = np.random.default_rng(seed)
        for number, (before, after) in enumerate(itertools.pairwise(widths)):
            x = op.matmul(x, _weight(random, before, after))
            if number < len(widths) - 2:
                x = op.relu(x)
        return x

    return build


def _convolution(random: np.random.Generator, x: Any, out: int, into: int, size: int, **options: Any) -> Any:
    pad = size // 2
    return op.conv(x, _weight(random, out, into, size, size), pads=[pad] * 4, **options)


def _head(random: np.random.Generator, x: Any, width: int, classes: int) -> Any:
    pooled = op.reshape(op.global_average_pool(x), op.const(np.array([0, width])))
    return op.matmul(pooled, _weight(random, width, classes))


def _residual(x: Any) -> Any:
    random = np.random.default_rng(1)
    x = op.relu(_convolution(random, x, 16, 3, 3))
    width = 16
    for out, stride in ((16, 1), (32, 2), (64, 2)):
        for block in range(3):
            step = stride if block == 0 else 1
            y = op.relu(_convolution(random, x, out, width, 3, strides=[step, step]))
            y = _convolution(random, y, out, out, 3)
            if width != out:
                x = op.conv(x, _weight(random, out, width, 1, 1), strides=[step, step])
            x, width = op.relu(op.add(x, y)), out
    return _head(random, x, width, 100)


def _depthwise(x: Any) -> Any:
    random = np.random.default_rng(2)
    x = op.relu(_convolution(random, x, 16, 3, 3, strides=[2, 2]))
    width = 16
    for out, stride in ((32, 1), (64, 2), (96, 2)):
        x = op.relu(_convolution(random, x, width, 1, 3, strides=[stride, stride], group=width))
        x, width = op.relu(op.conv(x, _weight(random, out, width, 1, 1))), out
    return _head(random, x, width, 100)


def _transformer(x: Any) -> Any:
    random = np.random.default_rng(3)
    width, heads = 128, 4
    x = op.conv(x, _weight(random, width, 3, 4, 4), strides=[4, 4])
    x = op.transpose(op.reshape(x, op.const(np.array([0, width, 64]))), perm=[0, 2, 1])
    scale, shift = op.const(np.ones(width, np.float32)), op.const(np.zeros(width, np.float32))
    split = op.const(np.array([0, 0, heads, width // heads]))
    for _ in range(1):
        y, _, _ = op.layer_normalization(x, scale, shift)
        query, key, value = (op.reshape(op.matmul(y, _weight(random, width, width)), split) for _ in range(3))
        query, value = op.transpose(query, perm=[0, 2, 1, 3]), op.transpose(value, perm=[0, 2, 1, 3])
        scores = op.matmul(query, op.transpose(key, perm=[0, 2, 3, 1]))
        mixed = op.matmul(op.softmax(op.mul(scores, op.const(np.float32(width**-0.5)))), value)
        mixed = op.reshape(op.transpose(mixed, perm=[0, 2, 1, 3]), op.const(np.array([0, 0, width])))
        x = op.add(x, op.matmul(mixed, _weight(random, width, width)))
        y, _, _ = op.layer_normalization(x, scale, shift)
        y = op.relu(op.matmul(y, _weight(random, width, 4 * width)))
        x = op.add(x, op.matmul(y, _weight(random, 4 * width, width)))
    pooled = op.reduce_mean(x, op.const(np.array([1])), keepdims=0)
    return op.matmul(pooled, _weight(random, width, 100))


SETS = {
    "S": TeacherSet(
        (784,), 10, (_net(1, 784, 200, 10), _net(2, 784, 256, 128, 10), _net(3, 784, 512, 128, 10))
    ),
    "M": TeacherSet((3, 32, 32), 100, (_residual, _depthwise, _transformer)),
    "V": TeacherSet((256,), 32_000, tuple(_net(seed, 256, 32_000) for seed in (1, 2, 3))),
}


def rows_of(teachers: TeacherSet, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *teachers.shape), dtype=np.float32)


def merged(teachers: TeacherSet, *, logs: bool = True) -> bytes:
    """The graph that a person would write, without checks; it ends in log-probabilities, as targets are."""
    x = spox.argument(spox.Tensor(np.float32, ("rows", *teachers.shape)))
    cold = op.const(np.float32(TEMPERATURE))
    shares = [
        op.mul(op.softmax(op.div(build(x), cold), axis=-1), op.const(np.float32(weight)))
        for build, weight in zip(teachers.build, WEIGHTS, strict=True)
    ]
    pooled = op.log(op.sum(shares)) if logs else op.sum(shares)
    return bytes(spox.build({"x": x}, {"pooled": pooled}).SerializeToString())


def session(model: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def written(teachers: TeacherSet, folder: Path, *, device: str = "cpu") -> Path:
    """The same teachers and their configuration, as this project serves them."""
    for number, build in enumerate(teachers.build):
        x = spox.argument(spox.Tensor(np.float32, ("rows", *teachers.shape)))
        onnx.save(spox.build({"x": x}, {"logits": build(x)}), folder / f"{number}.onnx")
    (folder / "classes.txt").write_text("\n".join(map(str, range(teachers.classes))))
    listed = "".join(
        f"\n      - {{name: t{number}, model: {number}.onnx, output: {{kind: logits}}, weight: {weight}}}"
        for number, weight in enumerate(WEIGHTS)
    )
    path = folder / "bench.yaml"
    path.write_text(
        f"ensembles:\n  bench:\n    classes: {{file: classes.txt}}\n    device: {device}\n"
        f"    teachers:{listed}\n"
        f"    recipes: {{default: {{operator: linear, temperature: {TEMPERATURE}}}}}\n"
    )
    return path


@contextmanager
def ensemble(teachers: TeacherSet, *, device: str = "cpu") -> Iterator[Ensemble]:
    """The same teachers, loaded."""
    with tempfile.TemporaryDirectory() as name:
        config = load(written(teachers, Path(name), device=device)).ensembles["bench"]
        opened = Ensemble.open("bench", config, Certifier(None), spread_limit=1e-3)
        try:
            yield opened
        finally:
            opened.close()


def rate(run: Callable[[int], object], batches: int, in_flight: int) -> float:
    """Batches per second of that many at a time."""
    with ThreadPoolExecutor(in_flight) as pool:
        began = time.perf_counter()
        list(pool.map(run, range(batches)))
        return batches / (time.perf_counter() - began)
