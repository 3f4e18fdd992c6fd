"""The server against the plan in process, in one run: rows per second as ratios.

make bench

Three small seeded nets (784 -> 10, the shape of MNIST), linear pool at T = 4. A round measures, one after the
other: the limit (the plan called in process on ready arrays, batches of 128), the server on rows it has never
seen, and the server on the same rows again (its cache), both as Arrow requests of 128 rows on four
connections from another process. Medians and ranges of the ratios are printed; absolute figures
of a shared machine mean little.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.config import load
from service.engine.engine import Engine
from service.engine.ensemble import Ensemble, Overrides
from soft_targets import wire

FEATURES, CLASSES, ROWS, SIZE, CONNECTIONS, ROUNDS = 784, 10, 8192, 128, 4, 5


def write_teacher(path: Path, seed: int, hidden: int) -> None:
    """784 -> hidden -> 10 with a ReLU between, seeded."""
    random = np.random.default_rng(seed)
    layers = [("one", (FEATURES, hidden)), ("two", (hidden, CLASSES))]
    tensors = [
        numpy_helper.from_array((random.normal(size=shape) / shape[0] ** 0.5).astype(np.float32), name)
        for name, shape in layers
    ]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["pixels", "one"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "two"], ["logits"]),
        ],
        "teacher",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def in_process(ensemble: Ensemble, rows: np.ndarray) -> float:
    """Rows per second of the plan, the better of one and two batches at a time."""
    pair = ensemble.effective("default", Overrides()).pair
    temperature = np.full(SIZE, 4, np.float32)
    weights = np.full((3, SIZE), 1 / 3, np.float32)
    batches = [rows[start : start + SIZE] for start in range(0, len(rows), SIZE)]

    def run(batch: np.ndarray) -> None:
        ensemble.plans.run({"pixels": batch}, temperature, weights, pair)

    best = 0.0
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            list(pool.map(run, batches))
            best = max(best, len(rows) / (time.perf_counter() - began))
    return best


def over_http(client: httpx2.Client, url: str, bodies: list[bytes], source: str) -> float:
    """Rows per second of the server; every answer must be whole and from where it is said to be."""

    def ask(body: bytes) -> None:
        reply = client.post(url, content=body, headers={"Content-Type": wire.ARROW}).raise_for_status()
        *groups, closing = list(wire.read_reply(reply.content)[1])
        assert closing == wire.Closing(SIZE, 0)
        assert {one for group in groups for one in group.sources} == {source}

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        began = time.perf_counter()
        list(pool.map(ask, bodies))
        return ROWS / (time.perf_counter() - began)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, hidden in enumerate((256, 256, 512)):
            write_teacher(folder / f"{seed}.onnx", seed, hidden)
        teachers = "".join(
            f"\n      - {{name: t{i}, model: {i}.onnx, output: {{kind: logits}}}}" for i in range(3)
        )
        (folder / "bench.yaml").write_text(
            "server: {port: 0}\nensembles:\n  bench:\n    classes: ["
            + ", ".join(f'"{i}"' for i in range(CLASSES))
            + f"]\n    teachers:{teachers}\n    recipes: {{default: {{operator: linear, temperature: 4}}}}\n"
        )
        command = [sys.executable, "-m", "service", "serve", str(folder / "bench.yaml")]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout is not None
        try:
            base = server.stdout.readline().split(" listening on ")[1].strip()
            measure(folder, f"{base}/v1/ensembles/bench/soft-targets")
        finally:
            server.terminate()
            server.wait()


def measure(folder: Path, url: str) -> None:
    engine = Engine.open(load(folder / "bench.yaml"))
    ensemble = engine.ensemble("bench")
    ratios: dict[str, list[float]] = {"cold": [], "hits": []}
    with httpx2.Client(timeout=60) as client:
        for number in range(ROUNDS):
            rows = np.random.default_rng(number).random((ROWS, FEATURES), dtype=np.float32)
            bodies = [
                wire.encode_request({"pixels": rows[start : start + SIZE]}, wire.default_row_ids(SIZE))
                for start in range(0, ROWS, SIZE)
            ]
            limit = in_process(ensemble, rows)
            ratios["cold"].append(over_http(client, url, bodies, "miss") / limit)
            ratios["hits"].append(over_http(client, url, bodies, "hit") / limit)
    ensemble.close()
    print(f"{os.cpu_count()} CPUs, {ROUNDS} rounds of {ROWS} rows; rows per second over the plan in process:")
    for name, values in ratios.items():
        print(f"  {name:5} {statistics.median(values):.2f}  [{min(values):.2f} - {max(values):.2f}]")


if __name__ == "__main__":
    main()
