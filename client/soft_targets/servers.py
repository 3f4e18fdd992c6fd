"""Which server is asked, and what happens when it does not answer: another one, or the same again later."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx2
import stamina

from soft_targets.errors import (
    IncompleteStream,
    OtherFingerprint,
    RequestRefused,
    ServerUnreachable,
    SoftTargetsError,
)

__all__ = ["Server", "Servers"]

Answer = TypeVar("Answer")

TRY_AGAIN = frozenset({429, 502, 503, 504})  # refused by load, or by a proxy whose server is gone
FIRST_WAIT_S, LONGEST_WAIT_S, JITTER_S = 0.1, 5.0, 0.5
LONGEST_RETRY_AFTER_S = 60.0
OTHER_FINGERPRINT_REST_S = 60.0  # until a server that was changed is looked at again
RETRIES_PER_CONNECTION = 16.0
RETRIES_EARNED = 0.2  # by an answer: where most requests fail, trying again only adds to the load


@dataclass(eq=False, slots=True)
class Server:
    """One base URL, and how it did."""

    base_url: str
    http: httpx2.Client
    in_flight: int = 0
    asked: int = 0
    failures: int = 0  # in a row
    rests_until: float = 0.0
    other_fingerprint: bool = False


class Servers:
    """Replicas of one ensemble: each question goes to the least loaded, and elsewhere or again if it fails.

    Tried again are questions that got no answer, an incomplete one, or 429, 502, 503 or 504: with another
    server at once where one is well, else after a wait that grows from 0.1 s to 5 s with jitter, or as long
    as ``Retry-After`` says, up to a minute. All retries come from one budget, which answers refill. A server
    whose answers have another fingerprint is left alone for a minute.

    Args:
        servers: at least one.
        retry_s: how long a question may be tried again after it was first sent; 0 never.
        connections: questions that may be under way at once; the budget's measure.
    """

    def __init__(self, servers: Sequence[Server], *, retry_s: float, connections: int) -> None:
        self._servers = tuple(servers)
        self._retry_s = retry_s
        self._most = self._budget = RETRIES_PER_CONNECTION * connections
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def ask(
        self, send: Callable[[Server], Answer], *, retried: Callable[[], None], at_most_s: float | None = None
    ) -> Answer:
        """Send a question until it is answered, or trying again makes no sense.

        Args:
            send: asks one server; may be called again, with another or the same.
            retried: told before each further try.
            at_most_s: instead of ``retry_s``, where that is longer.

        Raises:
            SoftTargetsError: what the last try raised.
        """
        patience_s = self._retry_s if at_most_s is None else min(self._retry_s, at_most_s)
        if not patience_s:
            with self._chosen() as server:
                return send(server)
        for attempt in stamina.retry_context(
            self._wait_before_retry,
            attempts=None,
            timeout=patience_s,
            wait_initial=FIRST_WAIT_S,
            wait_max=LONGEST_WAIT_S,
            wait_jitter=JITTER_S,
        ):
            if attempt.num > 1:
                retried()
            with attempt, self._chosen() as server:
                return send(server)
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Close all connections; nothing is tried again any more."""
        self._closing.set()
        for server in self._servers:
            server.http.close()

    @contextmanager
    def _chosen(self) -> Iterator[Server]:
        with self._lock:
            now = time.monotonic()
            well = [server for server in self._servers if server.rests_until <= now]
            # Where none is well, the wait before a retry is what was waited: the first to be well is asked.
            server = min(well or self._servers, key=lambda one: (one.in_flight, one.rests_until, one.asked))
            server.in_flight += 1
            server.asked += 1
        failed: SoftTargetsError | None = None
        try:
            yield server
        except SoftTargetsError as exc:
            failed = exc
            raise
        finally:
            self._note(server, failed)

    def _note(self, server: Server, failed: SoftTargetsError | None) -> None:
        with self._lock:
            server.in_flight -= 1
            if failed is None:
                server.failures, server.rests_until, server.other_fingerprint = 0, 0.0, False
                self._budget = min(self._most, self._budget + RETRIES_EARNED)
            elif isinstance(failed, OtherFingerprint):
                server.other_fingerprint = True
                server.rests_until = time.monotonic() + OTHER_FINGERPRINT_REST_S
            elif _may_pass(failed):
                server.failures += 1
                rest_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(server.failures, 10))
                server.rests_until = time.monotonic() + (_retry_after(failed) or rest_s)

    def _wait_before_retry(self, failed: Exception) -> bool | float:
        """Whether to try again, and after how long where that is not left to the back-off."""
        with self._lock:
            elsewhere = isinstance(failed, OtherFingerprint) and not all(
                server.other_fingerprint for server in self._servers
            )
            if self._closing.is_set() or self._budget < 1 or not (elsewhere or _may_pass(failed)):
                return False
            self._budget -= 1
            now = time.monotonic()
            if any(server.rests_until <= now for server in self._servers):
                return 0.0
        return _retry_after(failed) or True


def _may_pass(failed: Exception) -> bool:
    """Whether the same question may be answered later."""
    if isinstance(failed, RequestRefused):
        return failed.status in TRY_AGAIN
    return isinstance(failed, (ServerUnreachable, IncompleteStream))


def _retry_after(failed: Exception) -> float | None:
    asked = failed.retry_after_s if isinstance(failed, RequestRefused) else None
    return None if asked is None else min(asked, LONGEST_RETRY_AFTER_S)
