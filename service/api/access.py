"""Who may call what: one table of all routes, and the guard that stands before them."""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service import auth
from service.api import errors
from service.errors import Forbidden, Unauthenticated

OPEN = None
_KEY = "key"  # in the state of a request that was let in
READ = auth.Scope.TARGETS_READ
# Every route stands here with what it needs; a test holds the table against the application.
ACCESS: Mapping[str, auth.Scope | None] = {
    "GET /": OPEN,
    "GET /console/{file}": OPEN,
    "GET /livez": OPEN,
    "GET /readyz": OPEN,
    "GET /metrics": READ,
    "GET /v1/events": READ,
    "GET /v1/ensembles": READ,
    "GET /v1/ensembles/{ensemble}": READ,
    "POST /v1/ensembles/{ensemble}/soft-targets": READ,
    "POST /v1/ensembles/{ensemble}/opinions": READ,
    "POST /v1/ensembles/{ensemble}/guarantees": READ,
    "GET /v1/ensembles/{ensemble}/samples": READ,
    "GET /v1/ensembles/{ensemble}/recipes/{recipe}/certificate": READ,
    "PUT /v1/ensembles/{ensemble}/recipes/{recipe}": auth.Scope.RECIPES_WRITE,
    "POST /v1/ensembles/{ensemble}/reload": auth.Scope.ADMIN,
    "GET /v2": READ,
    "GET /v2/health/live": OPEN,
    "GET /v2/health/ready": OPEN,
    "GET /v2/models/stats": READ,
    "GET /v2/models/{model}": READ,
    "GET /v2/models/{model}/config": READ,
    "GET /v2/models/{model}/ready": READ,
    "GET /v2/models/{model}/stats": READ,
    "POST /v2/models/{model}/infer": READ,
    "GET /v2/models/{model}/versions/{version}": READ,
    "GET /v2/models/{model}/versions/{version}/config": READ,
    "GET /v2/models/{model}/versions/{version}/ready": READ,
    "GET /v2/models/{model}/versions/{version}/stats": READ,
    "POST /v2/models/{model}/versions/{version}/infer": READ,
    "POST /v2/repository/index": READ,
    "POST /v2/repository/models/{model}/load": auth.Scope.ADMIN,
    "POST /v2/repository/models/{model}/unload": auth.Scope.ADMIN,
    "GET /openapi.json": READ,
}


class Guard:
    """ASGI middleware: no request reaches a route without the scope that the table names.

    A path that is in no table needs ``targets:read`` too: nobody learns without a key what is there.

    Args:
        app: what is guarded.
        access: the server's keys.
        table: ``METHOD /path/{template}`` to a scope, or to None where everyone may.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: auth.Access,
        table: Mapping[str, auth.Scope | None] = ACCESS,
    ) -> None:
        self._app = app
        self._access = access
        # Only what differs from the rule is looked for, by the router's own matching.
        self._others: dict[str, list[tuple[Route, auth.Scope | None]]] = {}
        for line, needed in table.items():
            if needed is not READ:
                method, path = line.split(" ")
                route = Route(path, endpoint=Guard, methods=[method])
                for one in route.methods or ():
                    self._others.setdefault(one, []).append((route, needed))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 401 or 403."""
        if scope["type"] == "websocket":  # nothing here speaks it
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http" and (needed := self._needed(scope)) is not OPEN:
            try:
                key = self._access.require(needed, presented(Headers(scope=scope)))
            except (Unauthenticated, Forbidden) as exc:
                await errors.answer(exc)(scope, receive, send)
                return
            scope.setdefault("state", {})[_KEY] = key
        await self._app(scope, receive, send)

    def _needed(self, request: Scope) -> auth.Scope | None:
        others = self._others.get(request["method"], ())
        return next((scope for route, scope in others if route.matches(request)[0] is Match.FULL), READ)


def key_of(scope: Scope) -> str:
    """The name of the key that a request came with; empty where it needed none."""
    name: str = scope.get("state", {}).get(_KEY, "")
    return name


def presented(headers: Headers) -> set[bytes]:
    """The different keys that a request carries; an Authorization of another scheme is none."""
    keys = set(headers.getlist("x-api-key"))
    for value in headers.getlist("authorization"):
        scheme, _, key = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            keys.add(key.strip())
    return {key.encode("latin-1") for key in keys if key}
