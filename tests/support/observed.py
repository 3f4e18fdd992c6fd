"""An engine over teachers made of arithmetic, its application, and what its metrics say."""

from starlette.testclient import TestClient

from service.api.app import create_app
from service.auth import open_access
from service.config import load
from service.engine.changes import Alone
from service.engine.engine import Engine
from service.engine.ensemble import Overrides
from service.telemetry.figures import snapshot, taken

CONFIG = """\
server: {port: 0}
cache: {opinions: OPINIONS}
ensembles:
  toy:
    classes: [a, b, c]
    teachers:
      - {name: one, model: "fake://?classes=3&features=4&seed=1", output: {kind: logits}}
      - {name: two, model: "fake://?classes=3&features=4&seed=2", output: {kind: logits}}
    batching: {max_rows: 8, in_flight: 1, threads: 1}
    recipes:
      default: {operator: linear, temperature: 2.0}
      told: {operator: linear, temperature: 2.0, diagnostics: true}
"""


PATH = "/v1/ensembles/toy/soft-targets"


class Observed:
    """An engine and its figures."""

    def __init__(self, path, text):
        path.write_text(text)
        self.settings = load(path)
        self.engine = Engine.open(self.settings)
        self.app = create_app(
            self.engine,
            self.settings,
            open_access(self.settings.auth),
            Alone(self.engine, lambda: self.settings),
        )

    def client(self, **options):
        return TestClient(self.app, client=("127.0.0.1", 1), **options)

    async def ask(self, rows, recipe="default", *, close=True, **overrides):
        """The sources of rows, in the order in which they came."""
        ensemble = self.engine.ensemble("toy")
        effective = ensemble.effective(recipe, Overrides(**overrides))
        answer = self.engine.answer(ensemble, effective, {"x": rows})
        found = [source async for group in answer for source in group.sources]
        if close:
            await self.engine.close()
        return found

    def figures(self):
        return snapshot(taken(self.engine.metrics))

    def value(self, name, **labels):
        """Of a counter or a gauge; None where there is no such series."""
        return next((one["value"] for one in self.figures()[name] if one["labels"] == labels), None)

    def histogram(self, name, **labels):
        return next(one for one in self.figures()[name] if one["labels"] == labels)
