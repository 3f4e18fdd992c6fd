"""``POST /v1/ensembles/{ensemble}/reload``: serve an ensemble as its configuration says now."""

import asyncio
from collections.abc import Callable

from fastapi import FastAPI

from service.api.models import EnsembleInfo, describe
from service.config import Limits, Settings
from service.engine.engine import Engine
from service.errors import BadConfiguration, ConfigError
from service.model import nearest


def install(app: FastAPI, engine: Engine, limits: Limits, source: Callable[[], Settings]) -> None:
    """Add the route.

    Args:
        app: the application.
        engine: opened.
        limits: what one request may cost.
        source: reads the configuration again.
    """

    @app.post("/v1/ensembles/{ensemble}/reload")
    async def reload(ensemble: str) -> EnsembleInfo:
        """The ensemble is loaded beside the one that is served, certified, warmed, and takes its place."""
        try:
            settings = await asyncio.to_thread(source)
            if ensemble not in settings.ensembles:
                engine.ensemble(ensemble)  # neither here nor there: an unknown one
                raise BadConfiguration(
                    f"the configuration has no ensemble {ensemble!r} any more"
                    f"{nearest(ensemble, settings.ensembles)}; it is served as before"
                )
            await engine.reload(settings, [ensemble])
        except ConfigError as exc:
            raise BadConfiguration(f"{exc}; the ensemble is served as before") from None
        return describe(engine.ensemble(ensemble), limits)
