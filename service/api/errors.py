"""From what the core raises to a status and one JSON shape, once."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from service import errors
from service.telemetry import logger

STATUS: dict[type[errors.ServiceError], int] = {
    errors.ServiceError: 500,
    errors.ConfigError: 500,
    errors.TeacherError: 500,
    errors.TeacherUnreachable: 500,
    errors.DeviceError: 500,
    errors.PortTaken: 500,
    errors.TeacherFailure: 500,
    errors.TeacherOverrun: 500,
    errors.TeacherSilent: 500,
    errors.GraphFailure: 500,
    errors.CannotRecord: 500,
    errors.Overrun: 500,
    errors.NotReady: 503,
    errors.Draining: 503,
    errors.CacheUnavailable: 503,
    errors.CacheTimeout: 503,
    errors.CacheRefused: 503,
    errors.QueueFull: 503,
    errors.RequestError: 400,
    errors.BadInput: 400,
    errors.EmptyBatch: 400,
    errors.BadQuery: 400,
    errors.BadWeights: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.UnknownEnsemble: 404,
    errors.UnknownRecipe: 404,
    errors.OperatorRefused: 422,
    errors.BadConfiguration: 422,
    errors.RecipeExists: 409,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.NotAcceptable: 406,
    errors.TooLarge: 413,
    errors.HeadTooLarge: 431,
    errors.UnsupportedMediaType: 415,
    errors.Unsupported: 501,
    errors.TooSlow: 408,
    errors.QuotaExceeded: 429,
    errors.RowsFailed: 500,
}

# Of rows that fail their whole request: what is wrong with the row itself, and what passes. All else is 500.
ROW_STATUS = {"non_finite_input": 400, "quorum_lost": 503, "deadline_exceeded": 503}

# Seconds after which to ask again: a batch takes less than one, a teacher that fails longer to mend.
RETRY_AFTER: dict[type[errors.ServiceError], int] = {
    errors.QueueFull: 1,
    errors.RowsFailed: 1,
    errors.NotReady: 5,
    errors.Draining: 1,  # of another server, or of the one that takes its place
}

# Where in a request's scope its error's code is left for who looks at the reply from outside.
ERROR_CODE = "soft_targets.error_code"
# What the reply to a request says in its head, whatever else it says; for the one reply that is sent by
# somebody outside of who adds it.
REPLY_HEADERS = "soft_targets.reply_headers"

log = logger("api")


class ErrorReply(JSONResponse):
    """A reply that says what went wrong."""

    def __init__(self, code: str, body: dict[str, Any], status: int, headers: dict[str, str]) -> None:
        super().__init__(body, status, headers)
        self._code = code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        scope[ERROR_CODE] = self._code
        await super().__call__(scope, receive, send)


def answer(error: errors.ServiceError, headers: dict[str, str] | None = None) -> JSONResponse:
    """The reply to a request that cannot be answered."""
    status, code = STATUS[type(error)], error.code
    if isinstance(error, errors.RowsFailed):
        code = error.row_code
        status = ROW_STATUS.get(code, status)
    headers = dict(headers or {})
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if status == HTTPStatus.SERVICE_UNAVAILABLE and type(error) in RETRY_AFTER:
        headers["Retry-After"] = str(RETRY_AFTER[type(error)])
    if isinstance(error, errors.QuotaExceeded):
        headers["Retry-After"] = str(error.retry_after_s)
    body: dict[str, Any] = {"error": str(error), "code": code}
    if isinstance(error, errors.OperatorRefused):
        body["certificate"] = error.certificate
    return ErrorReply(code, body, status, headers)


def install(app: FastAPI) -> None:
    """Give every error one shape: ``{"error": ..., "code": ...}``."""

    async def known(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, errors.ServiceError)
        return answer(exc)

    async def http(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)
        if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            text = f"{request.method} is not allowed on {request.url.path}"
            return answer(errors.MethodNotAllowed(text), dict(exc.headers or {}))
        if exc.status_code == HTTPStatus.NOT_FOUND:
            return answer(errors.NotFound(f"no route {request.url.path}; see /openapi.json"))
        return answer(errors.RequestError(str(exc.detail)))

    async def invalid(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)
        return answer(errors.BadQuery("; ".join(f"{error['loc']}: {error['msg']}" for error in exc.errors())))

    async def unexpected(request: Request, exc: Exception) -> JSONResponse:
        log.error("unexpected error", exc_info=exc)
        headers = {name.decode(): value.decode() for name, value in request.scope.get(REPLY_HEADERS, ())}
        return answer(errors.ServiceError("the server failed on this request; its log says why"), headers)

    app.add_exception_handler(errors.ServiceError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unexpected)
