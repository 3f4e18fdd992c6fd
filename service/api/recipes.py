"""Recipes over HTTP: the certificate of each, and new ones until the server stops."""

from typing import Any

from fastapi import FastAPI, Request, Response

from service.api import bodies
from service.batching.intake import Load
from service.config import Limits, read_recipe
from service.engine.changes import Changes
from service.engine.engine import Engine
from service.errors import BadInput, ConfigError, UnknownRecipe
from service.model import nearest

RECIPE_PATH = "/v1/ensembles/{ensemble}/recipes/{recipe}"
CREATED = 201


def install(app: FastAPI, engine: Engine, limits: Limits, changes: Changes) -> None:
    """Add the routes.

    Args:
        app: the application.
        engine: opened.
        limits: what one request may cost.
        changes: puts them.
    """

    @app.get(f"{RECIPE_PATH}/certificate")
    async def certificate(ensemble: str, recipe: str) -> dict[str, Any]:
        """The axiom report: the level reached per axiom, trials, margins, witnesses, further properties."""
        recipes = engine.ensemble(ensemble).recipes
        if recipe not in recipes:
            raise UnknownRecipe(f"ensemble {ensemble!r} has no recipe {recipe!r}{nearest(recipe, recipes)}")
        return recipes[recipe].certificate.document

    @app.put(
        RECIPE_PATH,
        responses={CREATED: {"description": "The recipe is served; its certificate"}},
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}
        },
    )
    async def put(ensemble: str, recipe: str, request: Request, response: Response) -> dict[str, Any]:
        """A new recipe, as in the configuration; certified first, served until the server stops."""
        with Load(engine.intake) as load:
            body = await bodies.whole_document(request.headers, request.receive, limits=limits, load=load)
            try:
                section = read_recipe(recipe, bodies.document_of(body, max_depth=limits.max_json_depth))
            except ConfigError as exc:
                raise BadInput(str(exc)) from None
            if await changes.put(ensemble, recipe, section):
                response.status_code = CREATED
        return engine.ensemble(ensemble).recipes[recipe].certificate.document


_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["operator"],
    "additionalProperties": False,
    "properties": {
        "operator": {
            "anyOf": [
                {"type": "string"},
                {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
            ]
        },
        "profile": {"type": "string", "enum": ["strict", "paper"], "default": "strict"},
        "temperature": {"type": "number"},
        "weights": {"type": "object", "additionalProperties": {"type": "number"}},
        "floor": {"type": "number"},
        "output_temperature": {"type": "number"},
        "sparsity": {"type": "object", "properties": {"top_k": {"type": "integer"}}},
    },
}
