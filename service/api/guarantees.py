"""``POST /v1/ensembles/{ensemble}/guarantees``: what pooling bought on the rows of a request."""

from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel

from service.api import bodies, media, query
from service.api.access import key_of
from service.batching.intake import Load
from service.config import Limits
from service.engine.engine import Engine
from service.engine.ensemble import Ensemble
from service.errors import BadInput
from service.model import Array, nearest

FIGURE_BYTES = 8  # of a probability, while it is looked at


class QuantityInfo(BaseModel):
    """One figure: its bound, whether that holds, and for whom it is a theorem."""

    name: str
    value: float | None
    bound: float | None
    holds: bool | None
    theorem: bool
    conditions: str


class GuaranteesInfo(BaseModel):
    """All figures of a batch."""

    quantities: list[QuantityInfo]


def install(app: FastAPI, engine: Engine, limits: Limits) -> None:
    """Add the route.

    Args:
        app: the application.
        engine: opened.
        limits: what one request may cost.
    """

    @app.post(
        "/v1/ensembles/{ensemble}/guarantees",
        openapi_extra={"requestBody": {"required": True, "content": {media.JSON: {"schema": _SCHEMA}}}},
    )
    async def guarantees(ensemble: str, request: Request) -> GuaranteesInfo:
        """Rows (and labels, if known) in; losses, ambiguities, diversity, bias and safety out."""
        asked = query.parse(request.scope["query_string"])
        if media.of_body(request.headers.get("content-type", "")) != media.JSON:
            raise BadInput("guarantees are asked in JSON: labels stand beside the rows")
        with Load(engine.intake, key_of(request.scope)) as load, engine.hosted(ensemble) as found:
            effective = found.effective(asked.recipe, asked.overrides)
            await load.admit()
            limit = int(limits.max_body_bytes)
            body = await bodies.whole(request.headers, request.receive, limit=limit, load=load)
            asked_of = partial(_asked_of, body, found, limits)
            rows, inputs, indices = await bodies.aside(body, asked_of)
            figures = (len(found.members) + 1) * len(found.classes)
            await load.take(rows=rows, size=rows * figures * FIGURE_BYTES)
            quantities = await engine.guarantees(found, effective, inputs, indices)
        return GuaranteesInfo.model_validate({"quantities": quantities})


def _asked_of(
    body: bytes, ensemble: Ensemble, limits: Limits
) -> tuple[int, dict[str, Array], list[int] | None]:
    """How many rows, the rows, and their labels' indices, where they are given."""
    document = bodies.document_of(body, max_depth=limits.max_json_depth)
    labels = document.pop("labels", None) if isinstance(document, dict) else None
    row_ids, inputs = bodies.rows_of(document, ensemble, max_rows=limits.max_rows_per_request)
    return len(row_ids), inputs, None if labels is None else _indices(labels, ensemble, len(row_ids))


def _indices(labels: Any, ensemble: Ensemble, rows: int) -> list[int]:
    """Class names to indices; null is unknown."""
    if not isinstance(labels, list) or len(labels) != rows:
        raise BadInput(f"labels must be a list of {rows} class names (or null where unknown), one a row")
    places = {name: place for place, name in enumerate(ensemble.classes)}
    for label in labels:
        if label is not None and (not isinstance(label, str) or label not in places):
            raise BadInput(f"label {label!r} is no class of this ensemble{nearest(str(label), places)}")
    return [-1 if label is None else places[label] for label in labels]


_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "additionalProperties": False,
    "properties": {
        "inputs": {"type": "object", "additionalProperties": {"type": "array"}},
        "row_ids": {"type": "array"},
        "labels": {"type": "array", "items": {"type": ["string", "null"]}},
    },
}
