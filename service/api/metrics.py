"""``GET /metrics``, beside the other routes or on a port of its own."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import errors
from service.errors import NotFound, ServiceError
from service.telemetry.figures import Family, exposition

# The figures of all processes; raises NotReady where they cannot be had.
Gather = Callable[[], Awaitable[list[Family]]]
PATH = "/metrics"


def install(app: FastAPI, gather: Gather) -> None:
    """Put the route beside the others.

    Args:
        app: with the other routes.
        gather: the figures.
    """

    @app.get(PATH, response_class=Response)
    async def metrics(request: Request) -> Response:
        """The figures of all processes, as Prometheus reads them."""
        return await _reply(request, gather)


class MetricsPort:
    """ASGI middleware: on one port there is ``/metrics``, which needs no key, and nothing else.

    Args:
        app: what answers on every other port.
        port: that is for the figures alone.
        gather: the figures.
    """

    def __init__(self, app: ASGIApp, *, port: int, gather: Gather) -> None:
        self._app = app
        self._port = port
        self._gather = gather

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to the port; pass on all others."""
        if scope["type"] != "http" or (scope.get("server") or ("", 0))[1] != self._port:
            await self._app(scope, receive, send)
            return
        try:
            if scope["path"] != PATH or scope["method"] not in {"GET", "HEAD"}:
                raise NotFound(f"this port answers GET {PATH} only")
            reply = await _reply(Request(scope), self._gather)
        except ServiceError as exc:
            reply = errors.answer(exc)
        await reply(scope, receive, send)


async def _reply(request: Request, gather: Gather) -> Response:
    body, content_type = exposition(await gather(), request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})
