"""What is seen of every request from outside: how it was answered, and how long that took."""

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import ERROR_CODE
from service.telemetry import Metrics

# Of a request that reached no route: a path that somebody made up must not make a series.
NO_ROUTE = "none"
# Errors for which nothing of a request was done.
REJECTED = {
    "unauthenticated",
    "forbidden",
    "too_large",
    "quota_exceeded",
    "queue_full",
    "not_ready",
    "draining",
}


class Observer:
    """ASGI middleware: counts requests and times them.

    Args:
        app: what is observed.
        metrics: that count.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._known: dict[tuple[str, int], Callable[[float], None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and see what becomes of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # what an error that nobody expected becomes

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        in_flight = self._metrics.requests_in_flight
        began = time.perf_counter()
        in_flight.inc()
        try:
            await self._app(scope, receive, observed)
        finally:
            in_flight.dec()
            seconds = time.perf_counter() - began
            self._count(scope, status, seconds)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", NO_ROUTE)
        counted = self._known.get((route, status))
        if counted is None:
            counted = self._known[route, status] = self._metrics.of_requests(route, status)
        counted(seconds)
        if (code := scope.get(ERROR_CODE)) in REJECTED:
            self._metrics.rejected_requests.labels(code).inc()
