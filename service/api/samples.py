"""``GET /v1/ensembles/{ensemble}/samples``: example rows, as a body that other routes take."""

from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from service.engine.engine import Engine
from service.model import Array


class Samples(BaseModel):
    """Rows of every input, and their ids; none where the configuration names none."""

    inputs: dict[str, list[Any]]
    row_ids: list[int]


def install(app: FastAPI, engine: Engine) -> None:
    """Add the route.

    Args:
        app: the application.
        engine: opened.
    """

    @app.get("/v1/ensembles/{ensemble}/samples")
    async def samples(ensemble: str) -> Samples:
        """A few example rows; as a body that `opinions`, `guarantees` and `soft-targets` take."""
        found = engine.ensemble(ensemble)
        inputs = {name: _listed(found.samples[name]) if found.samples else [] for name in found.inputs}
        return Samples(inputs=inputs, row_ids=list(range(max(map(len, inputs.values()), default=0))))


def _listed(values: Array) -> list[Any]:
    """Rows as JSON has them; of floats the shortest text that is the same number in their own precision."""
    if values.dtype.kind == "f" and values.dtype.itemsize < np.dtype(np.float64).itemsize:
        return values.astype(str).astype(np.float64).tolist()  # type: ignore[no-any-return]
    return values.tolist()  # type: ignore[no-any-return]
