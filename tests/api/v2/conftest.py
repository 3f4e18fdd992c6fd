import pytest
import teachers as models
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.auth import open_access
from service.config import load
from service.engine.changes import Alone
from service.engine.engine import Engine

CONFIG = """\
auth: {open: true}
limits: {max_rows_per_request: 40, max_body_bytes: 64KiB, max_decompressed_bytes: 128KiB, max_json_depth: 20}
ensembles:
  mixed:
    inputs:
      image: {dtype: float32, shape: [2, 3]}
      number: {dtype: int64}
      text: {dtype: utf8}
    classes: [a, b, "c:d"]
    teachers:
      - {name: only, model: mixed.onnx, output: {kind: logits}}
    batching: {max_rows: 16, in_flight: 1, threads: 1}
    recipes:
      default: {operator: linear, diagnostics: true}
      sparse: {operator: linear, sparsity: {top_k: 2}}
      whole: {operator: linear, sparsity: {top_k: 3}}
  faulty:
    classes: [a, b, c]
    quorum: 1
    teacher_error_rate: 1
    teachers:
      - {name: one, model: "fake://?classes=3&features=2&nan_above=10", output: {kind: logits}, weight: 2}
      - {name: two, model: "fake://?classes=3&features=2&seed=1&nan_above=100", output: {kind: logits}}
    batching: {max_rows: 16, in_flight: 1, threads: 1}
    recipes: {mine: {operator: linear, temperature: 3}}
"""


class App:
    """An application in this process, its engine and its configuration.

    Args:
        path: of the configuration.
    """

    def __init__(self, path):
        self.path = path
        settings = load(path)
        self.engine = Engine.open(settings)
        changes = Alone(self.engine, lambda: load(path))
        self.app = create_app(self.engine, settings, open_access(settings.auth), changes)
        self.client = TestClient(self.app, raise_server_exceptions=False)


@pytest.fixture(scope="session")
def open_app():
    """Open applications; all are closed at the end."""
    opened = []

    def open_one(folder, text=CONFIG):
        models.two_inputs(folder / "mixed.onnx")
        (folder / "c.yaml").write_text(text)
        opened.append(App(folder / "c.yaml"))
        opened[-1].client.__enter__()
        return opened[-1]

    yield open_one
    for one in opened:
        one.client.__exit__()


@pytest.fixture(scope="session")
def app(tmp_path_factory, open_app):
    """One whose ensembles no test changes."""
    return open_app(tmp_path_factory.mktemp("v2"))


@pytest.fixture(scope="session")
def mixed(app):
    return app.client
