"""What a client holds open in one process: connections, threads, locks and counts."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from soft_targets.exchange import Array, Part
from soft_targets.lookups import Habit
from soft_targets.servers import Servers
from soft_targets.stats import Tally

__all__ = ["Session"]


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
        self.pool = ThreadPoolExecutor(connections, thread_name_prefix="soft-targets-part")
        self._numbering = threading.Lock()
        # Far from zero and from each other's, so that one client's rows are not another's either.
        self._next_row = int.from_bytes(os.urandom(6), "big") << 15

    def part(self, rows: Array) -> Part:
        """A request's rows under ids that were not used before."""
        with self._numbering:
            first = self._next_row
            self._next_row += len(rows)
        return Part(rows, first)

    def close(self) -> None:
        """Stop what is under way and close all connections; may be called twice."""
        self.closed = True
        for stream in list(self.streams):
            stream.close()
        self.servers.close()
        self.pool.shutdown(cancel_futures=True)

    def __reduce__(self) -> Any:
        raise TypeError("a session belongs to its process")
