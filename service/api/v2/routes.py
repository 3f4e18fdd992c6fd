"""The routes of the protocol, with and without versions."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api import bodies
from service.api.routing import PlainRoute
from service.api.v2 import description, repository
from service.api.v2.infer import Infer
from service.api.v2.models import Model, ensemble_of, model_of, models_of
from service.api.v2.statistics import Statistics
from service.batching.intake import Load
from service.config import Settings
from service.engine.changes import Changes
from service.engine.engine import Engine
from service.engine.ensemble import Ensemble
from service.errors import NotReady

MODEL = "/v2/models/{model}"
INFER_PATH = f"{MODEL}/infer"


def routes_of(engine: Engine, settings: Settings, changes: Changes) -> list[PlainRoute]:
    """All routes, in the order in which they are to be tried.

    Args:
        engine: opened.
        settings: with which it was.
        changes: loads and unloads.
    """
    statistics = Statistics()
    said = _Said(engine, settings, statistics)
    stored = _Stored(engine, settings, changes)
    infer = Infer(engine, settings.limits, statistics)
    of_a_model: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
        ("", said.metadata),
        ("/ready", said.model_ready),
        ("/config", said.config),
        ("/stats", said.stats),
    ]
    both = (MODEL, f"{MODEL}/versions/{{version}}")
    return [
        *(_route("POST", f"{model}/infer", infer) for model in both),
        _route("GET", "/v2", said.server),
        _route("GET", "/v2/health/live", said.live),
        _route("GET", "/v2/health/ready", said.ready),
        _route("GET", "/v2/models/stats", said.all_stats),  # before those of a model: it is none's name
        *(_route("GET", f"{model}{path}", endpoint) for path, endpoint in of_a_model for model in both),
        _route("POST", "/v2/repository/index", stored.index),
        _route("POST", "/v2/repository/models/{model}/load", stored.load),
        _route("POST", "/v2/repository/models/{model}/unload", stored.unload),
    ]


def _route(method: str, path: str, endpoint: Infer | Callable[[Request], Awaitable[Response]]) -> PlainRoute:
    return PlainRoute(path, endpoint, methods=[method], include_in_schema=False)


class _Said:
    """What is said of the server and of its models."""

    def __init__(self, engine: Engine, settings: Settings, statistics: Statistics) -> None:
        self._engine = engine
        self._limits = settings.limits
        self._statistics = statistics

    def _found(self, request: Request) -> tuple[Ensemble, Model]:
        name, version = request.path_params["model"], request.path_params.get("version")
        ensemble = self._engine.ensemble(ensemble_of(self._engine, name))
        return ensemble, model_of(ensemble, name, version)

    async def server(self, _: Request) -> Response:
        return JSONResponse(description.server())

    async def live(self, _: Request) -> Response:
        try:
            self._engine.check_ready()
        except NotReady:
            return JSONResponse({"live": True, "ready": False})
        return JSONResponse({"live": True, "ready": True})

    async def ready(self, _: Request) -> Response:
        self._engine.check_ready()
        return JSONResponse({"live": True, "ready": True})

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(description.metadata(*self._found(request)))

    async def model_ready(self, request: Request) -> Response:
        ensemble, model = self._found(request)
        self._engine.intake.check()
        ensemble.check_ready()
        return JSONResponse({"name": model.name, "ready": True})

    async def config(self, request: Request) -> Response:
        return JSONResponse(description.config(*self._found(request), self._limits))

    async def stats(self, request: Request) -> Response:
        _, model = self._found(request)
        return JSONResponse({"model_stats": [self._statistics.of(model)]})

    async def all_stats(self, _: Request) -> Response:
        models = [model for ensemble in self._engine.ensembles.values() for model in models_of(ensemble)]
        return JSONResponse({"model_stats": [self._statistics.of(model) for model in models]})


class _Stored:
    """What is in the repository, and what becomes of it."""

    def __init__(self, engine: Engine, settings: Settings, changes: Changes) -> None:
        self._engine = engine
        self._settings = settings
        self._changes = changes

    async def index(self, request: Request) -> Response:
        document = await self._document(request)
        return JSONResponse(repository.index(self._engine, self._settings.ensembles, document))

    async def load(self, request: Request) -> Response:
        document = await self._document(request)
        await repository.load(self._engine, self._changes, request.path_params["model"], document)
        return Response()

    async def unload(self, request: Request) -> Response:
        document = await self._document(request)
        await repository.unload(self._changes, request.path_params["model"], document)
        return Response()

    async def _document(self, request: Request) -> dict[str, object]:
        """The body, which may be empty.

        Raises:
            BadInput: it is no JSON object.
        """
        limits = self._settings.limits
        with Load(self._engine.intake) as load:
            body = await bodies.whole_document(request.headers, request.receive, limits=limits, load=load)
            return repository.document_of(body, max_depth=limits.max_json_depth)
