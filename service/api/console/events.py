"""``GET /v1/events``: the live figures once a second, as server-sent events."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic_core import to_json

from service.api.access import key_of
from service.api.console.look import Served, look
from service.api.metrics import Gather
from service.engine.changes import Changes
from service.engine.engine import Engine
from service.engine.ensemble import Ensemble, Overrides
from service.errors import NotReady, QueueFull, QuotaExceeded
from service.telemetry.figures import snapshot

EVERY_S = 1.0
RETRY_S = 5
MOST_LISTENERS, MOST_OF_A_KEY = 32, 8


class Events:
    """Listeners of the live figures, which are taken once a second, however many there are.

    Args:
        look: takes the figures.
        every_s: how often.
    """

    def __init__(self, look: Callable[[], Awaitable[Mapping[str, Any]]], *, every_s: float = EVERY_S) -> None:
        self._look = look
        self._every_s = every_s
        self._listeners = Counter[str]()
        self._ended = asyncio.Event()
        self._taking = asyncio.Lock()
        self._taken = -float("inf")
        self._event = ServerSentEvent(comment="nothing was taken yet")

    def end(self) -> None:
        """Let all listeners go, as the server drains."""
        self._ended.set()

    async def seat(self, request: Request) -> AsyncIterator[None]:
        """A listener's place, held as long as it is served.

        Raises:
            QueueFull: there are too many.
            QuotaExceeded: there are too many of its key.
        """
        key = key_of(request.scope)
        if self._listeners.total() >= MOST_LISTENERS:
            raise QueueFull(f"{MOST_LISTENERS} listen to the live figures already; ask again later")
        if key and self._listeners[key] >= MOST_OF_A_KEY:
            raise QuotaExceeded(
                f"{MOST_OF_A_KEY} listen to the live figures with the key {key!r} already; end one of them",
                retry_after_s=RETRY_S,
            )
        self._listeners[key] += 1
        try:
            yield
        finally:
            self._listeners[key] -= 1

    async def all(self) -> AsyncIterator[ServerSentEvent]:
        """The events of one listener, until the server drains."""
        while not self._ended.is_set():
            yield await self._current()
            await self._rest()

    async def _current(self) -> ServerSentEvent:
        async with self._taking:
            now = time.monotonic()
            if now - self._taken >= self._every_s:
                try:
                    said = to_json(await self._look()).decode()
                except NotReady as exc:  # of another process; the stream is there for when it is back
                    return ServerSentEvent(comment=str(exc))
                self._event, self._taken = ServerSentEvent(raw_data=said, event="look"), now
            return self._event

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._every_s):
                await self._ended.wait()
        except TimeoutError:
            pass


def install(app: FastAPI, engine: Engine, changes: Changes, gather: Gather) -> Callable[[], None]:
    """Add the route.

    Args:
        app: the application.
        engine: opened.
        changes: knows which processes are missing.
        gather: the figures of all processes.

    Returns:
        Lets all listeners go, for when the server drains.
    """

    async def taken() -> Mapping[str, Any]:
        try:
            degraded = engine.check_ready() + changes.degraded()
        except NotReady as exc:
            degraded = [str(exc)]
        served = {name: _served(ensemble) for name, ensemble in engine.ensembles.items()}
        return look(snapshot(await gather()), served, degraded, now=time.time())

    events = Events(taken)

    # The library sends a comment where 15 s pass without an event, and tells proxies not to buffer.
    @app.get("/v1/events", response_class=EventSourceResponse)
    async def live(_: Annotated[None, Depends(events.seat)]) -> AsyncIterator[ServerSentEvent]:
        """Live figures: an event a second, each what was counted since the server's start."""
        async for event in events.all():
            yield event

    return events.end


def _served(ensemble: Ensemble) -> Served:
    recipes = {name: ensemble.effective(name, Overrides()).fingerprint for name in ensemble.recipes}
    return Served([member.teacher.name for member in ensemble.members], recipes)
