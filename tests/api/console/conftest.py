"""A server of its own for the console: keys, example rows, an operator with violations, three ensembles."""

import numpy as np
import pytest

from service.auth import Scope, new_key

CONFIG = """\
server: {port: 0}
limits: {drain_s: 300}
auth: {keys_file: keys.jsonl}
ensembles:
  toy:
    inputs: {pixels: {dtype: float32, shape: [6]}}
    classes: [ant, bee, cat, dog]
    unsafe_classes: [dog]
    samples: samples.npz
    teachers:
      - {name: logits, model: logits.onnx, output: {name: logits, kind: logits}, weight: 0.5,
         temperature: 1.5}
      - {name: probs, model: probs.onnx, inputs: {X: pixels}, output: {kind: probs}, weight: 0.3,
         classes: [dog, cat, bee, ant]}
      - {name: merged, model: merged.onnx, inputs: {rows: pixels}, output: {kind: log_probs}, weight: 0.2,
         classes: [{puma: cat}, {lion: cat}, ant, {blank: null}, bee, dog]}
    batching: {max_rows: 16, in_flight: 1, threads: 1}
    recipes:
      default: {operator: {name: holder, exponent: 0.5}, temperature: 4.0, diagnostics: true}
      geometric: {operator: geometric, temperature: 2.0, floor: 1.0e-4}
      sparse: {operator: linear, temperature: 2.0, sparsity: {top_k: 2}}
  plain:
    classes: [a, b, c]
    teachers:
      - {name: one, model: "fake://?classes=3&features=2", output: {kind: logits}}
      - {name: two, model: "fake://?classes=3&features=2&seed=1", output: {kind: logits}}
    batching: {max_rows: 16, in_flight: 1, threads: 1}
    recipes:
      largest: {operator: weighted_max, accept_violations: [weight_monotonicity]}
  wide:
    inputs: {x: {dtype: float32, shape: [2]}}
    classes: [WIDE]
    unsafe_classes: [c29]
    samples: wide.npz
    teachers:
      - {name: one, model: "fake://?classes=30&features=2", output: {kind: logits}}
      - {name: fails, model: "fake://?classes=30&features=2&seed=1&raise_above=10", output: {kind: logits}}
    batching: {max_rows: 16, in_flight: 1, threads: 1}
    recipes:
      default: {operator: linear, sparsity: {top_k: 8}}
""".replace("WIDE", ", ".join(f"c{place}" for place in range(30)))


class Console:
    """The server, and a key that may read."""

    def __init__(self, url, key):
        self.url = url
        self.key = key
        self.headers = {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="session")
def configured(toy, tmp_path_factory):
    """The configuration beside the toy's models, and a key."""
    folder = tmp_path_factory.mktemp("console")
    for model in toy.folder.glob("*.onnx"):
        (folder / model.name).symlink_to(model)
    np.savez(folder / "samples.npz", pixels=toy.rows(5, seed=9))
    np.savez(folder / "wide.npz", x=np.array([[1, 2], [11, 3]], np.float32))  # no answer to the second
    (folder / "console.yaml").write_text(CONFIG)
    key, _ = new_key(folder / "keys.jsonl", [Scope.TARGETS_READ], name="reader")
    return folder / "console.yaml", key


@pytest.fixture(scope="session")
def console(configured, start):
    config, key = configured
    return Console(start(config).url, key)
