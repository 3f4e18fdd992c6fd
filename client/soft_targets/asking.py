"""What a question to the server is made of, and what the server says of itself."""

import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, cast

import httpx2

from soft_targets import wire
from soft_targets.errors import InputError, RequestRefused, ServerUnreachable, WireError
from soft_targets.servers import Answer, Server

MAX_ROWS = 256
MAX_BYTES = 16 * 1024 * 1024
OK = 200


class Ensemble(NamedTuple):
    """What of the server's description is needed to ask it."""

    described: dict[str, Any]
    specs: dict[str, wire.TensorSpec]
    classes: tuple[str, ...]
    classes_digest: str
    max_rows: int
    max_bytes: int


def base_urls(given: str | Sequence[str]) -> tuple[str, ...]:
    """Where the servers are, without a slash at the end.

    Raises:
        InputError: one is no address, or stands twice. What it says repeats no password.
    """
    urls = tuple(url.rstrip("/") for url in ((given,) if isinstance(given, str) else given))
    for base_url in urls:
        try:
            url = httpx2.URL(base_url)
        except httpx2.InvalidURL as exc:
            shown = "(it holds an @ and is not shown)" if "@" in base_url else repr(base_url)
            raise InputError(f"base_url {shown} is no address: {exc}") from None
        if url.userinfo or url.query or url.fragment:
            raise InputError(
                f"base_url must be an address alone, such as {url.scheme}://{url.netloc.decode()}, without "
                "a password, a query or a fragment; a key is passed as key="
            )
        if url.scheme not in ("http", "https") or not url.host:
            raise InputError(f"base_url must look like http://host:8000, not {base_url!r}")
    if not urls or len(set(urls)) < len(urls):
        raise InputError(f"base_url must be one address or several different ones, not {given!r}")
    return urls


def query(
    recipe: str,
    temperature: float | None,
    weights: Mapping[str, float] | None,
    top_k: int | None,
    dtype: str,
) -> dict[str, str]:
    """The parameters of a question.

    Raises:
        InputError: a value does not make sense.
    """
    asked = {"recipe": recipe}
    if temperature is not None:
        given = _number(temperature)
        if not 0 < given < math.inf:
            raise InputError(f"temperature must be a finite number above 0, not {temperature!r}")
        asked["temperature"] = repr(given)
    if weights is not None:
        numbers = {teacher: _number(weight) for teacher, weight in weights.items()}
        for teacher, number in numbers.items():
            if not 0 <= number < math.inf:
                said = weights[teacher]
                raise InputError(f"the weight of {teacher!r} must be finite and at least 0, not {said!r}")
        if not any(numbers.values()):
            raise InputError("at least one weight must be above 0")
        asked["weights"] = ",".join(f"{teacher}:{number!r}" for teacher, number in numbers.items())
    if top_k is not None:
        asked["top_k"] = str(_top_k(top_k))
    if dtype not in ("float32", "float16"):
        raise InputError(f"dtype must be 'float32' or 'float16', not {dtype!r}")
    if dtype != "float32":
        asked["dtype"] = dtype
    return asked


def _number(value: Any) -> float:
    """A number, NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _top_k(value: Any) -> int:
    try:
        kept = operator.index(value)
    except TypeError:
        kept = None
    if kept is None or isinstance(value, bool):
        raise InputError(f"top_k must be a whole number, not {value!r}")
    if kept < 1:
        raise InputError(f"top_k must be at least 1, not {kept}")
    return kept


def read_ensemble(response: httpx2.Response) -> Ensemble:
    """The server's description of an ensemble.

    Raises:
        WireError: it is none, or needs a newer client.
    """
    try:
        described = response.json()
        limits = described.get("limits", {})
        specs = {
            name: wire.TensorSpec(entry["dtype"], tuple(int(size) for size in entry["shape"]))
            for name, entry in described["inputs"].items()
        }
        known = Ensemble(
            described=described,
            specs=specs,
            classes=tuple(described["classes"]),
            classes_digest=wire.classes_digest(described["classes"]),
            max_rows=min(MAX_ROWS, int(limits.get("max_rows_per_request", MAX_ROWS))),
            max_bytes=min(MAX_BYTES, int(limits.get("max_body_bytes", MAX_BYTES))),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise WireError(f"{response.url} did not answer with an ensemble's description ({exc!r})") from exc
    unknown = {spec.dtype for spec in specs.values()} - set(wire.DTYPES)
    if unknown or not specs:
        raise WireError(
            f"the ensemble's inputs cannot be understood ({described['inputs']}); update the client"
        )
    return known


def get(server: Server, path: str) -> httpx2.Response:
    """Fetch a description.

    Raises:
        ServerUnreachable: no answer came.
        RequestRefused: the server refused.
    """
    try:
        response = server.http.get(path)
    except httpx2.RequestError as exc:
        raise unreachable(server, exc) from exc
    if response.status_code != OK:
        raise refusal(server, response)
    return response


def post(
    server: Server,
    path: str,
    params: Mapping[str, str],
    body: bytes,
    read: Callable[[bytes, httpx2.RequestError | None], Answer],
    *,
    accept: str,
    max_bytes: int,
) -> Answer:
    """Send one request for targets, and have the answer read before its connection serves another.

    Returns:
        What ``read`` returned.

    Args:
        server: whom.
        path: the route.
        params: the query.
        body: an Arrow stream.
        read: is given the answer as far as it came, and what broke it off if anything did. Where it raises
            WireError, the connection is hung up: answers that follow may be another request's too.
        accept: what the answer may be.
        max_bytes: what an answer may take.

    Raises:
        ServerUnreachable: no answer came.
        RequestRefused: the server refused.
        WireError: the answer is no Arrow stream, longer than it may be, or what ``read`` raises.
    """
    # No content coding: a stream is compressed as the server and this client agree, or not at all.
    headers = {"Content-Type": wire.ARROW, "Accept": accept, "Accept-Encoding": "identity"}
    pieces: list[bytes] = []
    broken: httpx2.RequestError | None = None
    try:
        with server.http.stream("POST", path, params=params, content=body, headers=headers) as response:
            if response.status_code != OK:
                response.read()
                raise refusal(server, response)
            kind = response.headers.get("Content-Type", "")
            if kind.split(";")[0].strip().lower() != wire.ARROW:
                raise WireError(f"{server.base_url} answered with {kind or 'no type'}, not {wire.ARROW}")
            size = 0
            try:
                # response.iter_bytes() would give the connection back at its end.
                for piece in cast("httpx2.SyncByteStream", response.stream):
                    pieces.append(piece)  # what came before a break stays in the list
                    size += len(piece)
                    if size > max_bytes:
                        raise WireError(f"the answer of {server.base_url} is longer than its rows can be")
            except httpx2.RequestError as exc:
                broken = exc
            try:
                return read(b"".join(pieces), broken)
            except WireError:
                response.extensions["network_stream"].close()
                raise
    except httpx2.RequestError as exc:
        raise unreachable(server, exc) from exc


def unreachable(server: Server, exc: httpx2.RequestError) -> ServerUnreachable:
    """Why no answer came."""
    said = str(exc) or type(exc).__name__
    if isinstance(exc, httpx2.TimeoutException):
        return ServerUnreachable(
            f"{server.base_url} did not answer in time ({said}); "
            "it may be overloaded: a larger timeout_s waits longer"
        )
    return ServerUnreachable(
        f"{server.base_url} cannot be reached ({said}); "
        "check that the server runs there (GET /readyz answers) and that the address is right"
    )


def refusal(server: Server, response: httpx2.Response) -> RequestRefused:
    """What the server said instead of answering, or what else may answer at that address."""
    status, retry_after_s = response.status_code, _retry_after_s(response.headers.get("Retry-After"))
    try:
        body = response.json()
        return RequestRefused(
            f"{server.base_url}: {body['error']}",
            status=status,
            code=str(body["code"]),
            retry_after_s=retry_after_s,
        )
    except (ValueError, TypeError, KeyError):
        pass
    if response.has_redirect_location:
        said = f"it redirects to {response.headers['Location']}: use that address as base_url"
    else:
        start = " ".join(response.text.split())[:200]
        said = f"not with this server's JSON; a proxy or another program answers there: {start!r}"
    kind = response.headers.get("Content-Type", "no type")
    return RequestRefused(
        f"{response.url} answered with {kind}, {said}",
        status=status,
        code="unknown",
        retry_after_s=retry_after_s,
    )


def _retry_after_s(said: str | None) -> float | None:
    """Seconds, or until a date; None where it is neither."""
    if said is None:
        return None
    if said.strip().isdecimal():
        return float(said)
    try:
        date = parsedate_to_datetime(said)
    except ValueError:
        return None
    # HTTP's dates are in GMT; read from a zone of "-0000" they come without one.
    return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time())
