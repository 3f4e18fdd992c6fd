"""A server that is asked over HTTP: bounded in time and bytes, asked again where that may help."""

import asyncio
import functools
import math
import ssl
import threading
import time
import zlib
from collections.abc import Mapping
from concurrent.futures import Future
from typing import NamedTuple

import httpx2
import stamina

from service.errors import TeacherFailure, TeacherOverrun, TeacherSilent
from service.teachers.remote_tensors import error_of
from service.telemetry.correlation import outgoing_traceparent

TRY_AGAIN = frozenset({429, 502, 503, 504})  # refused by load, or by a proxy whose server is gone
OK, REDIRECTS = 200, range(300, 400)
KEY_REFUSED = frozenset({401, 403})
FIRST_WAIT_S, LONGEST_WAIT_S, JITTER_S = 0.1, 2.0, 0.1
MOST_RETRIES = 16.0
RETRIES_EARNED = 0.2  # by an answer: where most requests fail, trying again only adds to the load
KEPT_CONNECTIONS = 16
KEEPALIVE_S = 4.0  # below the 5 s after which many servers close
MOST_ERROR_BYTES = 4096
LONGEST_ERROR = 300  # characters of a server's own words that are passed on
WINDOWS = {"gzip": 31, "deflate": 15}  # zlib's wbits


class Reply(NamedTuple):
    """A reply with status 200, read whole.

    Attributes:
        headers: looked up in any case.
        body: inflated.
    """

    headers: Mapping[str, str]
    body: bytes


class Terms(NamedTuple):
    """What a question may cost.

    Attributes:
        timeout_s: one try.
        limit_s: all tries of it together, and the waits between.
        retries: further tries.
        max_reply_bytes: of a reply, on its way and inflated.
    """

    timeout_s: float
    limit_s: float
    retries: int
    max_reply_bytes: int


class RemoteServer:
    """One server, asked by many threads through one event loop of its own.

    A question that got no answer, a cut one, or 429, 502, 503 or 504 is asked again, after waits that grow
    from 0.1 s to 2 s, or as long as ``Retry-After`` says: they are all idempotent. Retries come from a
    budget, which answers refill. A redirect is not followed: the key and the rows are for nobody else.

    Args:
        name: of the teacher, for messages.
        address: scheme, host and port.
        key: sent as a bearer's; None for none.
        terms: what a question may cost.
    """

    def __init__(self, name: str, address: str, *, key: str | None, terms: Terms) -> None:
        self._name = name
        self._key = key
        self._terms = terms
        self._budget = MOST_RETRIES
        headers = {"Accept-Encoding": "identity", "User-Agent": "soft-targets"}
        self._http = httpx2.AsyncClient(
            base_url=address,
            headers=headers if key is None else {**headers, "Authorization": f"Bearer {key}"},
            verify=_trust(address),
            timeout=None,
            limits=httpx2.Limits(
                max_connections=None,
                max_keepalive_connections=KEPT_CONNECTIONS,
                keepalive_expiry=KEEPALIVE_S,
            ),
            trust_env=False,  # neither proxies nor keys that are not in the configuration
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._turn, name=f"teacher-{name}", daemon=True)
        self._thread.start()

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        until: float = math.inf,
    ) -> "Future[Reply]":
        """Send a question; the future holds the reply or a ``TeacherFailure``.

        Args:
            method: of HTTP.
            path: on the server.
            body: if any.
            headers: besides those that go with every question.
            until: by ``time.monotonic``: nobody waits after it, so no further try begins.
        """
        sent = {**(headers or {})}
        if (traceparent := outgoing_traceparent.get()) is not None:
            sent["traceparent"] = traceparent
        request = self._http.build_request(method, path, content=body, headers=sent)
        return asyncio.run_coroutine_threadsafe(self._answered(request, until), self._loop)

    def close(self) -> None:
        """Break off what is under way, and close all connections."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _turn(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _close(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._http.aclose()

    async def _answered(self, request: httpx2.Request, until: float) -> Reply:
        end = time.monotonic() + self._terms.limit_s
        try:
            async with asyncio.timeout(self._terms.limit_s):
                async for attempt in stamina.retry_context(
                    functools.partial(self._wait_before_retry, end=end, until=until),
                    attempts=self._terms.retries + 1,
                    timeout=None,
                    wait_initial=FIRST_WAIT_S,
                    wait_max=LONGEST_WAIT_S,
                    wait_jitter=JITTER_S,
                ):
                    if attempt.num > 1:
                        self._budget -= 1
                    with attempt:
                        reply = await self._once(request)
        except TimeoutError:
            raise self._late(self._terms.limit_s) from None
        self._budget = min(MOST_RETRIES, self._budget + RETRIES_EARNED)
        return reply

    async def _once(self, request: httpx2.Request) -> Reply:
        try:
            async with asyncio.timeout(self._terms.timeout_s):
                response = await self._http.send(request, stream=True)
                try:
                    if response.status_code != OK:
                        raise await self._refusal(response)
                    return Reply(response.headers, await self._body(response))
                finally:
                    await response.aclose()
        except TimeoutError:
            raise self._late(self._terms.timeout_s) from None
        except httpx2.HTTPError as exc:
            said = str(exc) or type(exc).__name__
            text = f"teacher {self._name!r} does not answer: {said}"
            raise TeacherSilent(text, teacher=self._name) from None

    async def _body(self, response: httpx2.Response) -> bytes:
        """The body, of which never more than the bound is in memory."""
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        inflater = zlib.decompressobj(WINDOWS[coding]) if coding in WINDOWS else None
        if inflater is None and coding != "identity":
            raise self._failure(f"its reply is coded as {coding[:40]!r}, which was not asked for")
        most, size, pieces = self._terms.max_reply_bytes, 0, []
        declared = response.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) > most:
            raise self._too_long()
        async for raw in response.aiter_raw():
            try:
                piece = raw if inflater is None else inflater.decompress(raw, most - size + 1)
            except zlib.error as exc:
                raise self._failure(f"its reply is not {coding}: {exc}") from None
            size += len(piece)
            if size > most:
                raise self._too_long()
            pieces.append(piece)
        if inflater is not None and not inflater.eof:
            raise self._failure(f"its reply is no whole {coding}")
        if inflater is not None and inflater.unused_data:
            raise self._failure(f"its reply is more than {coding}")
        return b"".join(pieces)

    async def _refusal(self, response: httpx2.Response) -> TeacherFailure:
        status = response.status_code
        if status in REDIRECTS:
            return self._failure(f"it redirects (HTTP {status}), which is not followed; name where it is")
        said = self._own_words(await _beginning(response))
        text = f"it answers HTTP {status}{f': {said}' if said else ''}"
        if status in KEY_REFUSED:
            text += "; it wants a key: name its key_file" if self._key is None else "; it refuses the key"
        if status not in TRY_AGAIN:
            return self._failure(text)
        asked = response.headers.get("Retry-After", "").strip()
        return TeacherSilent(
            f"teacher {self._name!r} failed: {text}",
            teacher=self._name,
            retry_after_s=float(asked) if asked.isascii() and asked.isdecimal() else None,
        )

    def _own_words(self, body: bytes) -> str:
        """What a server says is wrong; should it repeat our key, without it."""
        said = error_of(body)
        if self._key is not None:
            said = said.replace(self._key, "[key]")
        return said if len(said) <= LONGEST_ERROR else said[:LONGEST_ERROR] + " ..."

    def _wait_before_retry(self, failed: Exception, *, end: float, until: float) -> bool | float:
        """Whether to try again, and after how long where the server says it."""
        if not isinstance(failed, TeacherSilent | TeacherOverrun) or self._budget < 1:
            return False
        asked = failed.retry_after_s if isinstance(failed, TeacherSilent) else None
        if time.monotonic() + (asked or 0.0) >= min(end, until):
            return False
        return True if asked is None else asked

    def _failure(self, text: str) -> TeacherFailure:
        return TeacherFailure(f"teacher {self._name!r} failed: {text}", teacher=self._name)

    def _late(self, limit_s: float) -> TeacherOverrun:
        return TeacherOverrun(
            f"teacher {self._name!r} gave no answer within {limit_s:g} s", teacher=self._name
        )

    def _too_long(self) -> TeacherFailure:
        return self._failure(f"its reply is longer than max_reply_bytes ({self._terms.max_reply_bytes})")


def _trust(address: str) -> ssl.SSLContext:
    """Whom to believe: the system's authorities and those in SSL_CERT_FILE; nobody over plain HTTP."""
    if address.startswith("https:"):
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def _beginning(response: httpx2.Response) -> bytes:
    """The first bytes of an error reply, as they are."""
    pieces, size = [], 0
    async for piece in response.aiter_raw():
        pieces.append(piece)
        size += len(piece)
        if size >= MOST_ERROR_BYTES:
            break
    return b"".join(pieces)[:MOST_ERROR_BYTES]
