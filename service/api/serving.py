"""How uvicorn serves the application, in every process alike."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from service.api.arrivals import Arrivals
from service.config import Settings
from service.errors import ServiceError

LOOKS = 4  # for progress, in the time that a reader has


class Connection(Arrivals):
    """A connection that ends when its client reads nothing for too long, while there is something to read.

    A reply waits for its reader: uvicorn sends no more while there is much to read. It would wait for ever,
    and the reply would keep its place among the rows in flight. When the connection is aborted, the
    application is told that the client is gone, as it is of any other.

    Attributes:
        patience_s: for how long a client may read nothing.
        drain: called when the server drains, to end the replies that end by nothing else.
    """

    patience_s = 30.0
    drain = staticmethod(lambda: None)
    _timer: asyncio.TimerHandle | None = None

    def shutdown(self) -> None:
        """Begin to end, with the server."""
        self.drain()
        super().shutdown()

    def pause_writing(self) -> None:
        """Look whether the client reads, as long as it has much to read."""
        super().pause_writing()
        self._look(self._unread, 0)

    def resume_writing(self) -> None:
        """Look no longer, but at the last of what there is to read."""
        super().resume_writing()
        self._stop()
        self._await_end()

    def on_response_complete(self) -> None:
        """Begin to wait for the end, where this was the last reply."""
        super().on_response_complete()
        self._await_end()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also where its client has not read all that it was sent."""
        super().timeout_keep_alive_handler()
        if self._unread:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no longer."""
        super().connection_lost(exc)
        self._stop()

    def refuse(self, error: ServiceError) -> None:
        """Say what is wrong, and wait for the client to read it, in time."""
        super().refuse(error)
        self._await_end()

    @property
    def _unread(self) -> int:
        """How many bytes wait here for the client to read others before them."""
        return self.transport.get_write_buffer_size()

    def _look(self, before: int, idle: int) -> None:
        unread = self._unread
        idle = 0 if unread < before else idle + 1
        if idle > LOOKS:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(self.patience_s / LOOKS, self._look, unread, idle)

    def _await_end(self) -> None:
        """The little that is left to read of a connection that closes is read in time, or not at all."""
        if self.transport.is_closing() and self._timer is None:
            self._timer = self.loop.call_later(self.patience_s, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def port_of(listeners: Sequence[socket.socket]) -> int | None:
    """The port of the metrics, where there is a second listener."""
    return int(listeners[1].getsockname()[1]) if len(listeners) > 1 else None


def config_of(
    app: ASGIApp, settings: Settings, *, drain: Callable[[], None] = lambda: None
) -> uvicorn.Config:
    """The server's configuration.

    Args:
        app: what answers.
        settings: with its limits.
        drain: ends the replies that end by nothing else, when the server does.
    """
    limits = settings.limits
    bounds: dict[str, Any] = {
        "patience_s": limits.slow_reader_s,
        "longest_head": int(limits.max_header_bytes),
        "arrival_s": limits.request_timeout_s,
        "drain": staticmethod(drain),
    }
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=type("Connection", (Connection,), bounds),
        ws="none",
        ssl_certfile=settings.server.tls_certificate_file,
        ssl_keyfile=settings.server.tls_key_file,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks where a request comes from
        timeout_keep_alive=75,  # longer than clients and balancers keep an idle connection
    )
