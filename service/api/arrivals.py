"""How long a request may take to arrive, and how long its head may be.

uvicorn bounds neither: a header that never ends would be kept until memory does, and a request that never
ends, or a connection that says nothing, for ever.
"""

import asyncio
from typing import NoReturn

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api import errors
from service.errors import BadInput, HeadTooLarge, ServiceError, TooSlow


class Arrivals(HttpToolsProtocol):
    """A connection whose requests arrive whole, in time, under heads of bounded length.

    What is malformed or too much for the parser is answered in the one shape of errors, and hung up on.

    Attributes:
        longest_head: how many bytes the first line and the headers may have.
        arrival_s: from a request's first byte to its last, and from the connection to its first request.
    """

    longest_head = 32 * 2**10
    arrival_s = 60.0
    _head = 0  # bytes of the first line and headers that were parsed
    _unparsed = 0  # bytes that came since the parser last said anything
    _in_head = False
    _arriving = False
    _deadline: asyncio.TimerHandle | None = None
    _refused: ServiceError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.arrival_s, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._settle()

    def data_received(self, data: bytes) -> None:
        """Parse what came; most requests come whole, and nothing is waited for."""
        self._unparsed += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unparsed > self.longest_head:  # of one header, or of what stands between chunks of a body
            self.refuse(self._too_long())
        elif self._deadline is None and (self._arriving or self._idle()):
            self._deadline = self.loop.call_later(self.arrival_s, self._late)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head = self._unparsed = 0
        self._in_head = self._arriving = True
        self._settle()

    def on_url(self, url: bytes) -> None:
        """Some of the first line."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; or a trailer behind a body, which is none: proxies have not looked at it."""
        if self._in_head:
            super().on_header(name, value)
        self._count(len(name) + len(value) + len(b": \r\n"))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        upgrade = self.parser.should_upgrade()
        if upgrade and any(_announces_body(*header) for header in self.headers):
            # The parser leaves off behind the head, and the body would be taken for the next request.
            self._give_up(
                BadInput("only HTTP/1.1 is spoken here: send a request that has a body without Upgrade")
            )
        if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in self.headers):
            self._give_up(BadInput("of transfer codings only chunked is read; send the body as it is"))
        self._in_head, self._unparsed = False, 0
        super().on_headers_complete()
        if upgrade and self.cycle is not None:
            self.cycle.keep_alive = False  # what came with it the parser has left alone

    def on_body(self, body: bytes) -> None:
        """Some of the body, which those who read it count."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._arriving, self._unparsed = False, 0
        self._settle()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser gave up on, or was told to."""
        error, self._refused = self._refused, None
        self.refuse(error or BadInput(f"{msg.removesuffix('.')}: it is not HTTP/1.1 as RFC 9112 has it"))

    def refuse(self, error: ServiceError) -> None:
        """Say what is wrong and hang up; where that would stand within another reply, just hang up."""
        self._settle()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self._in_head or self.pipeline or cycle.response_started:
                self.transport.abort()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        elif cycle is not None and self._arriving and not self._in_head:
            self.transport.close()  # it is answered, and goes on all the same
            return
        reply = errors.answer(error)
        headers = [*reply.raw_headers, (b"connection", b"close")]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[reply.status_code] + lines + b"\r\n" + bytes(reply.body))
        self.transport.close()

    def _count(self, size: int) -> None:
        self._unparsed = 0
        self._head += size
        if self._head > self.longest_head:
            self._give_up(self._too_long())

    def _give_up(self, error: ServiceError) -> NoReturn:
        """Say no to what is being parsed: the parser stops, and uvicorn has it answered."""
        self._refused = error
        raise error

    def _too_long(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"the first line and headers have more than {self.longest_head} bytes (limits.max_header_bytes)"
        )

    def _late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if not self._arriving:  # nothing ever came
            self.transport.close()
        elif self._waits():
            self._deadline = self.loop.call_later(self.arrival_s, self._late)
        else:
            self.refuse(
                TooSlow(f"the request was not whole after {self.arrival_s:g} s (limits.request_timeout_s)")
            )

    def _idle(self) -> bool:
        """Whether nothing is answered and uvicorn has no timer: a byte between two requests ends it."""
        cycle = self.cycle
        return (cycle is None or cycle.response_complete) and self.timeout_keep_alive_task is None

    def _unsupported_upgrade_warning(self) -> None:
        """Nobody need know: it is answered as HTTP/1.1."""

    def _waits(self) -> bool:
        """Whether a request before this one is being answered: then it is not read, and not late."""
        cycle = self.cycle
        return bool(self.pipeline) or (self._in_head and cycle is not None and not cycle.response_complete)

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _announces_body(name: bytes, value: bytes) -> bool:
    return name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ") != b"")
