"""The ensemble that the examples ask for, with small teachers, on the real server; and how they are run."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import teachers as models
from sklearn.datasets import load_digits

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST_S = 300.0  # longer than any example takes: after it a test fails rather than hangs

# A test that counts what had to be computed has a recipe of its own, whose rows nobody else asks for.
CONFIG = """\
server: {port: 0}
ensembles:
  digits:
    inputs: {pixels: {dtype: float32, shape: [64]}}
    classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
    teachers:
      - {name: even, model: even.onnx, output: {kind: logits}}
      - {name: odd, model: odd.onnx, inputs: {X: pixels}, output: {kind: probs},
         classes: ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"]}
    recipes:
      default: {operator: {name: holder, exponent: 0.5}, temperature: 2.0}
      other: {operator: linear, temperature: 2.0}
      ddp: {operator: linear, temperature: 3.0}
      views: {operator: linear, temperature: 4.0}
"""


@pytest.fixture(scope="session")
def digits(tmp_path_factory, start):
    """A server of two linear teachers, each fitted by least squares to every other digit."""
    folder = tmp_path_factory.mktemp("digits")
    pixels, labels = load_digits(return_X_y=True)
    rows = np.hstack([pixels / 16, np.ones((len(pixels), 1))])
    for first, name in enumerate(("even", "odd")):
        x, y = rows[first::2], np.eye(10)[labels[first::2]]
        weight = 8 * np.linalg.solve(x.T @ x + np.eye(65), x.T @ y)
        if name == "odd":
            weight = weight[:, ::-1]
        said = {} if name == "even" else {"input_name": "X", "output_name": "p", "kind": "probs"}
        models.linear(folder / f"{name}.onnx", weight[:-1], weight[-1], **said)
    config = folder / "digits.yaml"
    config.write_text(CONFIG)
    return start(config)


@pytest.fixture(scope="session")
def run():
    """Run a program beside the examples as a user does, but every warning that is not named is an error."""

    def run_one(*command, ignore=(), code=0):
        warnings = ["error", *(f"ignore:{start}" for start in ignore)]
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=EXAMPLES,
            env=os.environ | {"PYTHONWARNINGS": ",".join(warnings), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run_one
