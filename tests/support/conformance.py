"""Other people's clients of the Open Inference Protocol, each in an environment of its own, against a server.

tritonclient takes no ml_dtypes as new as the service's, and KServe's client brings sixty packages. Their
environments are kept in ``build/clients``: installing them takes half a minute.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import teachers as models

ROOT = Path(__file__).parents[2]
CHECKS = ROOT / "tests" / "conformance"
KEPT = ROOT / "build" / "clients"
CONFIG = """\
server: {port: 0}
auth: {open: true}
limits: {max_rows_per_request: 300, max_body_bytes: 1MiB}
"""
MIXED = """\
  mixed:
    inputs:
      image: {dtype: float32, shape: [2, 3]}
      number: {dtype: int64}
      text: {dtype: utf8}
    classes: [a, b, größer]
    teachers: [{name: only, model: mixed.onnx, output: {kind: logits}}]
    recipes:
      default: {operator: linear}
"""
FAILING = """\
server: {port: 0}
ensembles:
  bad:
    classes: [a, b, c]
    teachers:
      - {name: only, model: "fake://?classes=3&features=2&nan_above=10", output: {kind: logits}}
    recipes: {default: {operator: linear}}
  good:
    classes: [a, b, c]
    teachers:
      - {name: only, model: "fake://?classes=3&features=2", output: {kind: logits}}
    recipes: {default: {operator: linear}}
"""


def python_of(name):
    """The interpreter of a client's environment, which is made if it is not there."""
    pins = CHECKS / f"{name}.txt"
    digest = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = KEPT / f"{name}-{digest}"
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        if not (folder / "complete").exists():
            venv.create(folder, clear=True)
            command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install"]
            options = ["--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps", "-r", pins]
            done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{name}'s client cannot be installed: {done.stderr[-300:]}")
            (folder / "complete").touch()
    return folder / "bin" / "python"


def servers_of(toy, start, folder):
    """A server of the toy ensemble and of one with inputs of every kind; and one that is not ready.

    Returns:
        What the checks are told, as environment variables.
    """
    models.two_inputs(toy.folder / "mixed.onnx")
    lines = toy.config.read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if "geometric" not in line)  # which takes long to certify
    config = toy.folder / f"{folder.name}.yaml"
    config.write_text(CONFIG + text[text.index("ensembles:") :] + MIXED)
    (folder / "failing.yaml").write_text(FAILING)
    np.savez(folder / "expected.npz", **_expected(toy))
    told = {
        "url": start(config).url,
        "failing": start(folder / "failing.yaml").url,
        "expected": str(folder / "expected.npz"),
        "classes": toy.classes,
        "document": str(ROOT / "docs" / "v2.md"),
    }
    return {"SOFT_TARGETS_CONFORMANCE": json.dumps(told)}


def _expected(toy):
    """Rows, and their targets by the formulas in float64."""
    random = np.random.default_rng(5)
    rows, image = toy.rows(64, seed=5), random.normal(size=(6, 2, 3)).astype(np.float32)
    number, text = np.arange(-3, 3), ["yes", "no", "", "größer", "a\0b", "yes"]
    score = (
        2 * image.sum(axis=1, dtype=float)
        + number[:, None]
        + np.array([one == "yes" for one in text])[:, None]
    )
    return {
        "rows": rows,
        "default": toy.reference(rows, operator="holder", temperature=4),
        "linear": toy.reference(rows, operator="linear", temperature=2),
        "linear_at_3": toy.reference(rows, operator="linear", temperature=3),
        "image": image,
        "number": number,
        "text": np.array(text),
        "mixed": np.exp(models.log_softmax(score * [1, -1, 0.5])),
    }


def check(name, told):
    """Run a client's checks in its environment.

    Args:
        name: of the client.
        told: as ``servers_of`` returns it.
    """
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))}
    command = [python_of(name), "-m", "pytest", "-c", CHECKS / "pytest.ini", CHECKS / f"check_{name}.py"]
    done = subprocess.run(command, env=clean | told, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
    return done.stdout
