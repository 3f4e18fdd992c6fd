"""``POST /v1/ensembles/{ensemble}/opinions``: what each teacher says of a row, beside the soft target."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from pydantic_core import to_json

from service.api import bodies, media, openapi, query
from service.api.access import key_of
from service.api.replies import distribution
from service.batching.intake import Load
from service.config import Limits
from service.engine.engine import Engine
from service.engine.ensemble import Effective, Ensemble
from service.engine.opinions import Said, say
from service.errors import BadInput, TooLarge
from service.model import Array

# All opinions are named and dense, so that somebody can look at them: a look, no way to label a data set.
MOST_FIGURES = 1 << 20
FIGURE_BYTES = 64  # that a named number takes, as Python's and in the reply


class OpinionsRow(BaseModel):
    """One row; a teacher that said nothing of it is null, and so is a target that there is none of."""

    row_id: int | str
    opinions: dict[str, dict[str, float] | None]
    softened: dict[str, dict[str, float] | None]
    target: dict[str, float] | None
    tail: float = 0.0
    entropy: float = 0.0
    divergence: float = 0.0
    missing_teachers: list[str] = []
    error_code: str = ""
    error: str = ""


class OpinionsInfo(BaseModel):
    """Every teacher's distribution at temperature 1, the same as it is fused at T, and the target."""

    ensemble: str
    recipe: str
    fingerprint: str
    temperature: float
    rows: list[OpinionsRow]


def install(app: FastAPI, engine: Engine, limits: Limits) -> None:
    """Add the route.

    Args:
        app: the application.
        engine: opened.
        limits: what one request may cost.
    """

    @app.post(
        "/v1/ensembles/{ensemble}/opinions",
        response_model=OpinionsInfo,
        openapi_extra={
            "parameters": openapi.QUERY,
            "requestBody": {"required": True, "content": {media.JSON: {"schema": openapi.ROWS}}},
        },
    )
    async def opinions(ensemble: str, request: Request) -> Response:
        """Each teacher's distribution of rows at temperature 1 and at T, and the soft target; JSON only.

        The teachers are asked one by one, whatever the plan, unless their opinions are kept; nothing is
        cached.
        """
        asked = query.parse(request.scope["query_string"])
        if media.of_body(request.headers.get("content-type", "")) != media.JSON:
            raise BadInput("opinions are asked in JSON; soft targets come in Arrow")
        with Load(engine.intake, key_of(request.scope)) as load, engine.hosted(ensemble) as found:
            effective = found.effective(asked.recipe, asked.overrides)
            limit = int(limits.max_body_bytes)
            await load.admit()
            body = await bodies.whole(request.headers, request.receive, limit=limit, load=load)
            most_rows, depth = limits.max_rows_per_request, limits.max_json_depth
            read = partial(bodies.read, body, media.JSON, found, max_rows=most_rows, max_depth=depth)
            row_ids, inputs, _ = await bodies.aside(body, read)
            figures = (2 * len(found.members) + 1) * len(found.classes)
            most = max(1, MOST_FIGURES // figures)
            if len(row_ids) > most:
                raise TooLarge(
                    f"{len(row_ids)} rows; of {len(found.members)} teachers and {len(found.classes)} classes "
                    f"the opinions of at most {most} are told at a time"
                )
            await load.take(rows=len(row_ids), size=len(row_ids) * figures * FIGURE_BYTES)
            said = await say(engine.cache, found, effective, inputs or {})
            content = await asyncio.to_thread(_written, found, effective, row_ids.to_pylist(), said)
        return Response(content, media_type=media.JSON)


def _written(ensemble: Ensemble, effective: Effective, row_ids: Sequence[int | str], said: Said) -> bytes:
    names = [member.teacher.name for member in ensemble.members]
    rows = []
    for place, (row_id, answer) in enumerate(zip(row_ids, said.answers, strict=True)):
        row: dict[str, Any] = {"row_id": row_id}
        for key, values in (("opinions", said.opinions), ("softened", said.softened)):
            row[key] = {
                name: _named(ensemble.classes, values[k, place]) if said.heard[k, place] else None
                for k, name in enumerate(names)
            }
        row["target"] = None
        if answer.value is not None:
            told = distribution(ensemble.classes, effective.layout, answer.value)
            row["target"] = told.pop("probabilities")
            row |= told
        if answer.missing:
            row["missing_teachers"] = list(answer.missing)
        if answer.failure is not None:
            row["error_code"], row["error"] = answer.failure
        rows.append(row)
    return to_json(
        {
            "ensemble": ensemble.name,
            "recipe": effective.name,
            "fingerprint": effective.fingerprint,
            "temperature": effective.recipe.temperature,
            "rows": rows,
        }
    )


def _named(classes: Sequence[str], log_probs: Array) -> dict[str, float]:
    return dict(zip(classes, np.exp(log_probs.astype(np.float64)).tolist(), strict=True))
