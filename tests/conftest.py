"""What all tests share: a toy ensemble of four real ONNX files, and the real server on it as a process."""

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import teachers as models
from hypothesis import settings

settings.register_profile("ci", derandomize=True, max_examples=50, deadline=None)
settings.load_profile("ci")

TOY = """\
server: {port: 0}
limits: {max_rows_per_request: 300, max_body_bytes: 1MiB}
ensembles:
  toy:
    inputs: {pixels: {dtype: float32, shape: [6]}}
    classes: [ant, bee, cat, dog]
    teachers:
      - {name: logits, model: logits.onnx, output: {name: logits, kind: logits}, weight: 0.5,
         temperature: 1.5}
      - {name: probs, model: probs.onnx, inputs: {X: pixels}, output: {kind: probs}, weight: 0.3,
         classes: [dog, cat, bee, ant]}
      - {name: merged, model: merged.onnx, inputs: {rows: pixels}, output: {kind: log_probs}, weight: 0.2,
         classes: [{puma: cat}, {lion: cat}, ant, {blank: null}, bee, dog]}
    batching: {max_rows: 16, in_flight: 2, threads: 1}
    recipes:
      default: {operator: {name: holder, exponent: 0.5}, temperature: 4.0}
      linear: {operator: linear, temperature: 2.0}
      geometric: {operator: geometric, temperature: 2.0, floor: 1.0e-4}
      sparse: {operator: linear, temperature: 2.0, sparsity: {top_k: 2}}
      cooled: {operator: linear, output_temperature: 0.5}
"""


def pytest_configure(config):  # noqa: ARG001
    """Certificates are found out once a session: servers and engines that the tests start share them."""
    os.environ["SOFT_TARGETS__SERVER__STATE_DIR"] = tempfile.mkdtemp(prefix="soft-targets-test-")


def pytest_unconfigure(config):  # noqa: ARG001
    shutil.rmtree(os.environ["SOFT_TARGETS__SERVER__STATE_DIR"], ignore_errors=True)


def pytest_runtest_makereport(item, call):  # noqa: ARG001
    """Where everything is installed, a skipped test is a failure."""
    if (
        os.environ.get("SOFT_TARGETS_TEST_NO_SKIP")
        and call.excinfo
        and call.excinfo.errisinstance(pytest.skip.Exception)
    ):
        reason = f"skipped although nothing may be: {call.excinfo.value}"
        call.excinfo = pytest.ExceptionInfo.from_exception(AssertionError(reason))


class Toy:
    """The toy ensemble: its folder, its configuration and its arithmetic in float64."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logits = models.random_linear(folder / "logits.onnx", 1)
        self.probs = models.random_linear(
            folder / "probs.onnx", 2, kind="probs", input_name="X", output_name="p"
        )
        self.merged = models.random_linear(
            folder / "merged.onnx", 3, classes=6, kind="log_probs", input_name="rows", output_name="l"
        )
        self.config = folder / "toy.yaml"
        self.config.write_text(TOY)
        self.classes = ["ant", "bee", "cat", "dog"]

    def rows(self, count, seed=0):
        return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)

    def opinions(self, rows):
        """The teachers' aligned, calibrated log-probabilities ``[K, B, C]`` in float64."""
        x = rows.astype(np.float64)
        one = models.log_softmax((x @ self.logits[0] + self.logits[1]) / 1.5)
        two = models.log_softmax(x @ self.probs[0] + self.probs[1])[:, ::-1]
        six = np.exp(models.log_softmax(x @ self.merged[0] + self.merged[1]))
        four = np.stack([six[:, 2], six[:, 4], six[:, 0] + six[:, 1], six[:, 5]], axis=1)
        return np.stack([one, two, np.log(four / four.sum(axis=1, keepdims=True))])

    def reference(self, rows, *, operator, temperature, weights=(0.5, 0.3, 0.2), exponent=0.5, floor=1e-6):
        """Soft targets by the formulas, as probabilities in float64."""
        p = np.exp(models.log_softmax(self.opinions(rows) / temperature))
        w = np.array(weights)[:, None, None]
        if operator == "linear":
            return (w * p).sum(axis=0)
        if operator == "holder":
            pooled = (w * p**exponent).sum(axis=0) ** (1 / exponent)
        else:
            floored = (1 - floor) * p + floor / 4
            pooled = np.exp((w * np.log(floored)).sum(axis=0))
        return pooled / pooled.sum(axis=1, keepdims=True)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    return Toy(tmp_path_factory.mktemp("toy"))


START_S = 120


class Running:
    """A server process and where it listens.

    Args:
        config: the YAML file.
        first: Python that runs in the process before the command does.
        arguments: of the command, besides.
    """

    def __init__(self, config: Path, *, first: str = "", arguments: Sequence[str] = ()) -> None:
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{first}\nfrom service.cli import main; main()",
                "serve",
                str(config),
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
        )
        if not select.select([self.process.stdout], [], [], START_S)[0]:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server said nothing for {START_S} s: {self.log()}")
        line = self.process.stdout.readline()
        if " listening on " not in line:
            code = self.process.wait(timeout=30)
            raise AssertionError(f"the server ended with {code}: {self.log()}")
        self.url = line.split(" listening on ")[1].strip()

    def log(self):
        self.stderr.seek(0)
        return self.stderr.read().decode()

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(timeout=30)
        finally:
            self.process.kill()
            self.process.stdout.close()
            self.stderr.close()


@pytest.fixture(scope="session")
def start():
    """Start servers on configurations; all are stopped at the end."""
    running = []

    def start_one(config, **options):
        running.append(Running(config, **options))
        return running[-1]

    yield start_one
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def server(toy, start):
    return start(toy.config)
