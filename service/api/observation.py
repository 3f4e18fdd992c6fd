"""What is seen of every request from outside: how it was answered, how long that took, and who it was."""

import time
from collections.abc import Callable
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access import key_of
from service.api.errors import ERROR_CODE, REPLY_HEADERS
from service.telemetry import Metrics, Spans, correlation, logger

# Of a request that reached no route: a path that somebody made up must not make a series.
NO_ROUTE = "none"
# Errors for which nothing of a request was done.
REJECTED = {
    "unauthenticated", "forbidden", "too_large", "quota_exceeded", "queue_full", "not_ready", "draining",
}  # fmt: skip
# What became of a request whose client was gone before there was a reply, as nginx writes it.
CLIENT_GONE = 499
ROWS = "soft_targets.rows"

log = logger("access")


def tell_rows(scope: Scope, rows: int) -> None:
    """Leave in a request's scope how many rows it has."""
    scope[ROWS] = rows


class Observer:
    """ASGI middleware: gives each request an id, counts and times it, and writes a line of it into the log.

    Args:
        app: what is observed.
        metrics: that count.
        spans: of the server.
        access_log: whether there is a line of each.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, spans: Spans, access_log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._spans = spans
        self._access_log = access_log
        for code in sorted(REJECTED):
            metrics.rejected_requests.labels(code)  # 0, so that a rate sees the first one too
        self._known: dict[tuple[str, int], Callable[[float], None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and see what becomes of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = CLIENT_GONE
        headers = scope[REPLY_HEADERS] = _identified(scope, self._spans)

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        in_flight = self._metrics.requests_in_flight
        began = time.perf_counter()
        in_flight.inc()
        try:
            await self._app(scope, receive, observed)
        except Exception:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            raise
        finally:
            in_flight.dec()
            self._ended(scope, int(status), time.perf_counter() - began)

    def _ended(self, scope: Scope, status: int, seconds: float) -> None:
        route, code = getattr(scope.get("route"), "path", NO_ROUTE), scope.get(ERROR_CODE)
        counted = self._known.get((route, status))
        if counted is None:
            counted = self._known[route, status] = self._metrics.of_requests(route, status)
        counted(seconds)
        if code in REJECTED:
            self._metrics.rejected_requests.labels(code).inc()
        if self._access_log:
            _write(scope, route, status, seconds)


def _identified(scope: Scope, spans: Spans) -> list[tuple[bytes, bytes]]:
    """Find out who a request is, bind that to the log, and say what its reply repeats."""
    given = {name: value for name, value in scope["headers"] if name in {b"x-request-id", b"traceparent"}}
    named = correlation.request_id(given.get(b"x-request-id"))
    trace = spans.traceparent() or correlation.trace_of(given.get(b"traceparent"))
    correlation.bind(request_id=named, trace_id=trace[1] if trace else None)
    headers = [(b"x-request-id", named.encode("ascii"))]
    return [*headers, (b"traceparent", trace[0])] if trace else headers


def _write(scope: Scope, route: str, status: int, seconds: float) -> None:
    said = {
        "method": scope["method"],
        "route": route,
        "status": status,
        "ms": round(1000 * seconds, 3),
        "rows": scope.get(ROWS),
        "key": key_of(scope),
        "code": scope.get(ERROR_CODE),
    }
    write = log.info
    if status >= HTTPStatus.BAD_REQUEST:
        write = log.error if status >= HTTPStatus.INTERNAL_SERVER_ERROR else log.warning
    write("request", **{name: value for name, value in said.items() if value not in {None, ""}})
