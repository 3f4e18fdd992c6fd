"""Which server is asked, and what happens when it does not answer: another one, or the same again later."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import httpx2

from soft_targets.errors import (
    IncompleteStream,
    OtherFingerprint,
    RequestRefused,
    ServerUnreachable,
    SoftTargetsError,
    WireError,
)

__all__ = ["Server", "Servers"]

Answer = TypeVar("Answer")

TRY_AGAIN = frozenset({408, 429, 502, 503, 504})  # too slow a network, load, or a proxy whose server is gone
FIRST_ANSWER_S = 10.0  # where no server ever answered, the address is as likely to be wrong
FIRST_REST_S, LONGEST_REST_S = 0.1, 60.0
LONGEST_WAIT_S = 5.0  # where there is nobody else to ask, a server is asked before its rest is over
JITTER_S = 0.5
GARBLED_TRIES = 3  # of a question whose answers do not follow the format
RETRIES_PER_CONNECTION = 16.0
RETRIES_EARNED = 0.2  # by an answer: where most requests fail, trying again only adds to the load

log = logging.getLogger("soft_targets")


@dataclass(eq=False, slots=True)
class Server:
    """One base URL, and how it did."""

    base_url: str
    http: httpx2.Client = field(repr=False)
    in_flight: int = 0
    asked: int = 0  # the number of the last question it was asked
    failures: int = 0  # in a row; those of requests that were under way together are one
    failed_at: float = 0.0
    rests_until: float = 0.0
    said_when: bool = False  # how long it rests
    other_fingerprint: bool = False


class Budget:
    """Retries that may be sent: earned by answers, and by time at the pace that waits have at the longest.

    An outage is therefore survived by as many questions as there are connections, however long it is, but a
    server that answers little of what it is asked is not asked five times as much.

    Args:
        connections: questions that may be under way at once.
        now: a time, in seconds.
    """

    def __init__(self, connections: int, *, now: float) -> None:
        self._most = self._left = RETRIES_PER_CONNECTION * connections
        self._per_s = connections / LONGEST_WAIT_S
        self._then = now

    def earn(self, retries: float, *, now: float) -> None:
        """Add what an answer earns, and what the time since then did."""
        self._left = min(self._most, self._left + retries + self._per_s * (now - self._then))
        self._then = now

    def spend(self, *, now: float) -> bool:
        """Take one retry, if one is left."""
        self.earn(0.0, now=now)
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Servers:
    """Replicas of one ensemble: each question goes to the least loaded, and elsewhere or again if it fails.

    Tried again are questions that got no answer, an incomplete one, or 408, 429, 502, 503 or 504, and twice
    those whose answer does not follow the format: at once with a server that is well and that they were not
    tried with, else after a wait that grows from 0.1 s to 5 s with jitter, or as long as ``Retry-After``
    says, up to a minute. Retries that nobody else is there for, and no server said when to send, come from
    one budget, which answers and time refill. A server whose answers have another fingerprint is left alone
    for a minute.

    Args:
        servers: at least one.
        retry_s: how long a question may be tried again after it first failed; 0 never.
        connections: questions that may be under way at once; the budget's measure.
    """

    def __init__(self, servers: Sequence[Server], *, retry_s: float, connections: int) -> None:
        self._servers = tuple(servers)
        self._retry_s = retry_s
        self._budget = Budget(connections, now=time.monotonic())
        self._answered = False  # any of them, ever
        self._questions = 0
        self._asking: set[int] = set()  # threads
        # Reentrant: a signal's handler may close the client in the middle of anything.
        self._changed = threading.Condition(threading.RLock())
        self._closing = threading.Event()

    def ask(
        self,
        send: Callable[[Server], Answer],
        *,
        retried: Callable[[], None],
        stopping: threading.Event | None = None,
    ) -> Answer:
        """Send a question until it is answered, or trying again makes no sense.

        Args:
            send: asks one server; may be called again, with another or the same.
            retried: told before each further try.
            stopping: set when the answer is not wanted any more; ends a wait, as ``stop`` does.

        Raises:
            SoftTargetsError: what the last try raised, or that the client is closed.
        """
        stopping = stopping or self._closing
        tried: list[Server] = []
        first_failed_at: float | None = None
        while not stopping.is_set():
            try:
                with self._chosen(tried) as server:
                    return send(server)
            except SoftTargetsError as exc:
                now = time.monotonic()
                first_failed_at = now if first_failed_at is None else first_failed_at
                if self._closing.is_set():
                    raise SoftTargetsError("the client was closed while it asked") from exc
                wait_s = self._wait_before_retry(exc, tried, failing_s=now - first_failed_at, now=now)
                if wait_s is None:
                    raise
                then = f"trying again in {wait_s:.1f} s" if wait_s else "asking another server"
                log.log(_level(exc, wait_s=wait_s, tries=len(tried)), "%s; %s", exc, then)
            if not stopping.wait(wait_s):
                retried()
        raise SoftTargetsError("the client was closed while it asked")

    def stop(self) -> None:
        """Let nothing begin or be tried again."""
        self._closing.set()

    def close(self) -> None:
        """Stop, wait for what other threads have under way, and close all connections."""
        self.stop()
        with self._changed:
            self._changed.wait_for(lambda: self._asking <= {threading.get_ident()})
        for server in self._servers:
            server.http.close()

    @contextmanager
    def _chosen(self, tried: list[Server]) -> Iterator[Server]:
        with self._changed:
            if self._closing.is_set():
                raise SoftTargetsError("this client is closed; make a new one")
            asked_at = time.monotonic()
            server = min(self._servers, key=lambda one: _order(one, asked_at, tried=one in tried))
            self._questions += 1
            server.asked = self._questions
            server.in_flight += 1
            self._asking.add(threading.get_ident())
        tried.append(server)
        try:
            yield server
        except SoftTargetsError as exc:
            self._note(server, exc, asked_at)
            raise
        else:
            self._note(server, None, asked_at)
        finally:
            with self._changed:
                server.in_flight -= 1
                self._asking.discard(threading.get_ident())
                self._changed.notify_all()

    def _note(self, server: Server, failed: SoftTargetsError | None, asked_at: float) -> None:
        with self._changed:
            now = time.monotonic()
            self._answered |= failed is None or isinstance(failed, (RequestRefused, WireError))
            if failed is None:
                server.failures, server.rests_until = 0, 0.0
                server.said_when = server.other_fingerprint = False
                self._budget.earn(RETRIES_EARNED, now=now)
            elif isinstance(failed, OtherFingerprint):
                server.other_fingerprint, server.said_when = True, False
                server.rests_until = now + LONGEST_REST_S
            elif _may_pass(failed, tries=1):
                server.failures += asked_at >= server.failed_at
                server.failed_at = now
                said_s = _retry_after(failed)
                server.said_when = said_s is not None
                server.rests_until = now + (_back_off(server.failures) if said_s is None else said_s)

    def _wait_before_retry(
        self, failed: SoftTargetsError, tried: list[Server], *, failing_s: float, now: float
    ) -> float | None:
        """Seconds, or None where trying again makes no sense."""
        with self._changed:
            same = [server for server in self._servers if not server.other_fingerprint]
            if not (_may_pass(failed, tries=len(tried)) or (isinstance(failed, OtherFingerprint) and same)):
                return None
            patience_s = self._retry_s if self._answered else min(self._retry_s, FIRST_ANSWER_S)
            if not patience_s:
                return None
            if any(server.rests_until <= now and server not in tried for server in self._servers):
                return 0.0 if failing_s < patience_s else None
            waits = [
                (max(0.0, server.rests_until - now), server.said_when) for server in same or self._servers
            ]
            wait_s, said = min((wait if said else min(wait, LONGEST_WAIT_S), said) for wait, said in waits)
            if failing_s + wait_s >= patience_s:
                failed.add_note(f"tried {len(tried)} time(s); a larger retry_s tries longer")
                return None
            if not said and not self._budget.spend(now=now):
                failed.add_note(
                    f"tried {len(tried)} time(s); too many of the last requests failed to try again"
                )
                return None
        return wait_s


def _order(server: Server, now: float, *, tried: bool) -> tuple[float, ...]:
    """The smallest is asked: of those that are well the least loaded, else the first to be well."""
    if server.rests_until <= now:
        return (0, tried, server.in_flight, server.asked)
    return (1, server.other_fingerprint, server.said_when, server.rests_until)


def _may_pass(failed: Exception, *, tries: int) -> bool:
    """Whether the same question may be answered later."""
    if isinstance(failed, RequestRefused):
        return failed.status in TRY_AGAIN
    if isinstance(failed, (ServerUnreachable, IncompleteStream)):
        return True
    # It was garbled on its way, or this client and that server do not understand each other.
    return (
        isinstance(failed, WireError) and not isinstance(failed, OtherFingerprint) and tries < GARBLED_TRIES
    )


def _level(failed: SoftTargetsError, *, wait_s: float, tries: int) -> int:
    """How loudly to say so: to pass over a server, or to wait for one under load as it asks, is usual."""
    if isinstance(failed, OtherFingerprint):
        return logging.WARNING
    asked_to_wait = isinstance(failed, RequestRefused) and failed.retry_after_s is not None
    return logging.WARNING if wait_s and not (asked_to_wait and tries == 1) else logging.INFO


def _back_off(failures: int) -> float:
    longest_s = min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** min(failures, 16))
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load


def _retry_after(failed: SoftTargetsError) -> float | None:
    """Seconds that the server asked for, and a little more, lest all trainers come back in one moment."""
    asked_s = failed.retry_after_s if isinstance(failed, RequestRefused) else None
    if asked_s is None:
        return None
    rest_s = min(max(asked_s, FIRST_REST_S), LONGEST_REST_S)
    return rest_s + random.uniform(0.0, min(rest_s, JITTER_S))  # noqa: S311 - spreads load
