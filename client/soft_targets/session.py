"""What a client holds open in one process: connections, threads, locks and counts."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import httpx2

from soft_targets.errors import SoftTargetsError
from soft_targets.exchange import Array, Part
from soft_targets.lookups import DigestFirst, Habit
from soft_targets.servers import Server, Servers
from soft_targets.stats import Tally

__all__ = ["Session", "open_session"]

KEEPALIVE_S = 60.0  # below the server's 75 s: never reuse a connection that it is just closing
CONNECT_S = 10.0  # a server that is gone without a word is given up sooner than one that computes


class Closes(Protocol):
    """What ends with the session."""

    def close(self) -> None:
        """Stop, and wait for it."""


class Session:
    """One process's own; a process that was forked off opens another, and leaves the one it inherited alone.

    Args:
        servers: who is asked; closed with the session.
        habit: when digests are asked for.
        connections: threads for the requests of one call.
    """

    def __init__(self, servers: Servers, habit: Habit, *, connections: int) -> None:
        self.servers = servers
        self.habit = habit
        self.tally = Tally()
        self.describing = threading.Lock()
        self.pinning = threading.Lock()
        self.streams: set[Closes] = set()
        self.closed = False
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="soft-targets-part")
        self._numbering = threading.Lock()
        # Far from zero and from each other's, so that one client's rows are not another's either.
        self._next_row = int.from_bytes(os.urandom(6), "big") << 15

    def part(self, rows: Array) -> Part:
        """A request's rows under ids that were not used before."""
        with self._numbering:
            first = self._next_row
            self._next_row += len(rows)
        return Part(rows, first)

    def each(self, cuts: Sequence[slice], fetch: Callable[[slice], None]) -> None:
        """Send the requests of a call, as many at once as there are connections, and wait for all of them.

        Raises:
            SoftTargetsError: what the first that failed raised, or that the session was closed meanwhile.
        """
        if len(cuts) == 1:
            fetch(cuts[0])
            return
        pending: list[Future[None]] = []
        try:
            pending.extend(self._submit(fetch, cut) for cut in cuts)
            for future in pending:
                future.result()
        except CancelledError:
            raise SoftTargetsError("the client was closed while it asked") from None
        finally:
            # Only those that run: one that is cancelled by a pool's shutdown is never told to be done.
            wait([future for future in pending if not future.cancel()])

    def _submit(self, fetch: Callable[[slice], None], cut: slice) -> Future[None]:
        try:
            return self._pool.submit(fetch, cut)
        except RuntimeError:  # it takes nothing more
            raise SoftTargetsError("this client is closed; make a new one") from None

    def close(self) -> None:
        """Stop what is under way, wait for it, and close all connections; may be called twice."""
        self.closed = True
        self.servers.stop()  # first of all: what is to be waited for must not be tried again for a minute
        for stream in list(self.streams):
            stream.close()
        self._pool.shutdown(cancel_futures=True)
        self.servers.close()

    def __reduce__(self) -> Any:
        raise TypeError("a session belongs to its process")


def open_session(
    base_urls: Sequence[str],
    *,
    digest_first: DigestFirst,
    timeout_s: float,
    retry_s: float,
    connections: int,
    key: str | None,
    transport: httpx2.BaseTransport | None,
) -> Session:
    """A session as a client's arguments want it; nothing is sent yet."""
    tls = httpx2.create_ssl_context()  # once for all: it takes longer than the rest
    servers = [
        Server(
            base_url,
            httpx2.Client(
                base_url=base_url,
                headers={} if key is None else {"Authorization": f"Bearer {key}"},
                # Waiting for a free connection has no limit of its own: those who hold them have theirs.
                timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S), pool=None),
                limits=httpx2.Limits(
                    max_connections=connections,
                    max_keepalive_connections=connections,
                    keepalive_expiry=KEEPALIVE_S,
                ),
                verify=tls,
                transport=transport,
            ),
        )
        for base_url in base_urls
    ]
    asked = Servers(servers, retry_s=retry_s, connections=connections)
    return Session(asked, Habit(digest_first), connections=connections)
