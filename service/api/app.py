"""The application: routes over one engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.routing import Route

import service
from service.api import errors, guarantees, openapi, recipes
from service.api.access import Guard
from service.api.models import EnsembleInfo, EnsembleList, Readiness, describe
from service.api.soft_targets import SoftTargets
from service.auth import Access
from service.config import Limits
from service.engine.engine import Engine


def create_app(engine: Engine, limits: Limits, access: Access) -> FastAPI:
    """The ASGI application; it closes the engine when it stops.

    Args:
        engine: opened.
        limits: what one request may cost.
        access: who may do what.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.close()

    app = FastAPI(
        title="soft-targets", version=service.__version__, lifespan=lifespan, responses=openapi.ERRORS
    )
    errors.install(app)
    app.add_middleware(Guard, access=access)

    @app.get("/v1/ensembles")
    async def ensembles() -> EnsembleList:
        """All ensembles: inputs, classes, teachers, recipes with fingerprints, plans with their reasons."""
        return EnsembleList(ensembles=[describe(one, limits) for one in engine.ensembles.values()])

    @app.get("/v1/ensembles/{ensemble}")
    async def ensemble(ensemble: str) -> EnsembleInfo:
        """One ensemble."""
        return describe(engine.ensemble(ensemble), limits)

    @app.get("/livez")
    async def livez() -> dict[str, bool]:
        """Whether the process turns."""
        return {"live": True}

    @app.get("/readyz")
    async def readyz() -> Readiness:
        """Whether requests are answered; nothing listens before the teachers are loaded, bound and warmed."""
        return Readiness(ready=True, degraded=engine.check_ready())

    recipes.install(app, engine, limits)
    guarantees.install(app, engine, limits)
    # Not through FastAPI's own dispatch, which would halve the throughput of one-row requests.
    app.router.routes.append(
        Route(
            openapi.SOFT_TARGETS_PATH, SoftTargets(engine, limits), methods=["POST"], include_in_schema=False
        )
    )
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app
