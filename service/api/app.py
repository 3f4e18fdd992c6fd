"""The application: routes over one engine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

import service
from service.api import errors, guarantees, metrics, openapi, opinions, recipes, reloads, samples
from service.api.access import Guard
from service.api.console import events, page
from service.api.models import EnsembleInfo, EnsembleList, Readiness, describe
from service.api.observation import Observer
from service.api.routing import PlainRoute
from service.api.soft_targets import SoftTargets
from service.api.v2 import routes
from service.auth import Access
from service.config import Settings
from service.engine.changes import Changes
from service.engine.engine import Engine
from service.telemetry.figures import Family, taken


def create_app(
    engine: Engine,
    settings: Settings,
    access: Access,
    changes: Changes,
    beside: Callable[[], Coroutine[None, None, None]] | None = None,
    *,
    gather: metrics.Gather | None = None,
    metrics_port: int | None = None,
) -> FastAPI:
    """The ASGI application; it closes the engine when it stops.

    Args:
        engine: opened.
        settings: with which it was.
        access: who may do what.
        changes: what may change while it runs.
        beside: runs as long as the application does.
        gather: the figures of all processes; None where this is the only one.
        metrics_port: where they are, alone; None puts them beside the other routes.
    """
    limits = settings.limits
    gather = gather or partial(_alone, engine)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(beside()) if beside else None
        yield
        if task:
            task.cancel()
            await asyncio.wait({task})
        await engine.close()

    app = FastAPI(
        title="soft-targets",
        version=service.__version__,
        lifespan=lifespan,
        redirect_slashes=False,  # to where the request's Host says, and in the clear behind a proxy
        docs_url=None,  # they load scripts from elsewhere; the console lists the calls
        redoc_url=None,
        responses=openapi.ERRORS,
        telemetry={
            "tracer_provider": engine.spans.provider,
            "tracing": engine.spans.provider is not None,
            "operation_spans": False,
            "metrics": False,
            "logs": False,
        },
    )
    errors.install(app)
    app.add_middleware(Guard, access=access)
    if metrics_port is None:
        metrics.install(app, gather)
    else:
        app.add_middleware(metrics.MetricsPort, port=metrics_port, gather=gather)
    app.add_middleware(
        Observer, metrics=engine.metrics, spans=engine.spans, access_log=settings.server.access_log
    )

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
        return Readiness(ready=True, degraded=engine.check_ready() + changes.degraded())

    recipes.install(app, engine, limits, changes)
    opinions.install(app, engine, limits)
    guarantees.install(app, engine, limits)
    samples.install(app, engine)
    reloads.install(app, engine, limits, changes)
    app.router.routes.extend(routes.routes_of(engine, settings, changes))
    # Not through FastAPI's own dispatch, which would halve the throughput of one-row requests; and first of
    # all routes, which are tried in their order.
    app.router.routes.insert(
        0,
        PlainRoute(
            openapi.SOFT_TARGETS_PATH, SoftTargets(engine, limits), methods=["POST"], include_in_schema=False
        ),
    )
    page.install(app)
    app.state.drain = events.install(app, engine, changes, gather)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app


async def _alone(engine: Engine) -> list[Family]:
    """The figures of the only process."""
    return taken(engine.metrics)
