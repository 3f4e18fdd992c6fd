"""``POST /v1/ensembles/{ensemble}/reload``: serve an ensemble as its configuration says now."""

from fastapi import FastAPI

from service.api.models import EnsembleInfo, describe
from service.batching.intake import Load
from service.config import Limits
from service.engine.changes import Changes
from service.engine.engine import Engine


def install(app: FastAPI, engine: Engine, limits: Limits, changes: Changes) -> None:
    """Add the route.

    Args:
        app: the application.
        engine: opened.
        limits: what one request may cost.
        changes: loads it.
    """

    @app.post("/v1/ensembles/{ensemble}/reload")
    async def reload(ensemble: str) -> EnsembleInfo:
        """The ensemble is loaded beside the one that is served, certified, warmed, and takes its place."""
        with Load(engine.intake):
            await changes.reload(ensemble)
        return describe(engine.ensemble(ensemble), limits)
