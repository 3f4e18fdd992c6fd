"""Batches without a timer: the next batch is whatever queued while the device was busy.

A row is known by its key. One that is queued or being computed is joined, not computed again, whoever asks.
A row that nobody waits for any more is dropped before it gets into a batch, and however a batch ends, every
row of it is settled.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from service.telemetry import logger

P = TypeVar("P")
A = TypeVar("A")

log = logger("batching")


class Part(NamedTuple, Generic[P]):
    """Rows of one request that are in a batch together.

    Attributes:
        payload: what the request asks, and its rows.
        rows: which of them.
        asked: when they were queued, by ``time.monotonic``.
    """

    payload: P
    rows: list[int]
    asked: float = 0.0


class Settled(NamedTuple, Generic[A]):
    """A row of a request with its answer.

    Attributes:
        positions: where it stands in the request; more than once if it was sent more than once.
        answer: to the row.
        joined: whether somebody else had asked for it before.
    """

    positions: list[int]
    answer: A
    joined: bool


class Ticket(Generic[A]):
    """What one request waits for; made by ``Batcher.ask``. Whoever holds it calls ``leave`` at the end.

    Attributes:
        waiting: the rows without an answer, by key, and where each stands in the request.
        gone: whether nobody waits any more.
    """

    def __init__(self, waiting: dict[bytes, list[int]], leaving: "Callable[[Ticket[A]], None]") -> None:
        self.waiting = waiting
        self.gone = False
        self._leaving = leaving
        self._ready: list[Settled[A]] = []
        self._waker: asyncio.Future[None] | None = None

    async def settled(self) -> list[Settled[A]]:
        """The rows settled since the last call, waiting for one if there are none; empty when all were."""
        while not self._ready and self.waiting:
            self._waker = asyncio.get_running_loop().create_future()
            await self._waker
        ready, self._ready = self._ready, []
        return ready

    def leave(self) -> None:
        """Wait no longer: rows that nobody else waits for are not computed. Again does no harm."""
        if not self.gone:
            self.gone = True
            self._leaving(self)

    def settle(self, key: bytes, answer: A, *, joined: bool) -> None:
        """Hand a row its answer; the batcher does."""
        if self.gone:
            return
        self._ready.append(Settled(self.waiting.pop(key), answer, joined))
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)


class _Job(NamedTuple, Generic[P]):
    """The rows of a request that are queued: their keys, where each stands in the payload, and since when."""

    payload: P
    keys: list[bytes]
    rows: list[int]
    asked: float


class Batcher(Generic[P, A]):
    """Puts rows of many requests into batches; for one event loop.

    Args:
        run: answers a batch, in a thread: an answer for each row of each part, in their order.
        max_rows: of a batch.
        in_flight: how many batches run at a time.
        keep: is handed every key with its answer as soon as there is one, before anybody else.
        failed: the answer of rows whose batch raised.
        name: of the threads.

    Attributes:
        batches: how many were run.
        rows: how many rows were in them.
        dropped: how many were not, as nobody waited for them any more.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Part[P]]], Sequence[A]],
        *,
        max_rows: int,
        in_flight: int,
        keep: Callable[[Sequence[bytes], Sequence[A]], None],
        failed: A,
        name: str,
    ) -> None:
        self._run = run
        self._max_rows = max_rows
        self._in_flight = in_flight
        self._keep = keep
        self._failed = failed
        self._threads = ThreadPoolExecutor(in_flight, thread_name_prefix=name)
        # By what may share a batch; the groups take turns, and so do the requests of a group.
        self._queues: OrderedDict[Hashable, OrderedDict[Ticket[A], _Job[P]]] = OrderedDict()
        self._flights: dict[bytes, list[Ticket[A]]] = {}
        self._running: set[asyncio.Future[Sequence[A]]] = set()
        self.batches = 0
        self.rows = 0
        self.dropped = 0

    @property
    def queued(self) -> int:
        """How many rows wait for a batch."""
        return sum(len(job.keys) for queue in self._queues.values() for job in queue.values())

    @property
    def joined(self) -> int:
        """How many rows wait for the same row of another request."""
        return sum(len(tickets) - 1 for tickets in self._flights.values())

    def flies(self, key: bytes) -> bool:
        """Whether a row is queued or being computed."""
        return key in self._flights

    def ask(
        self, wanted: dict[bytes, list[int]], *, group: Hashable = None, payload: P | None = None
    ) -> Ticket[A]:
        """Queue a request's rows, and join those that fly.

        Args:
            wanted: key to the row's places in the request, distinct rows all; the ticket's from now on.
            group: rows of the same group may share a batch.
            payload: what ``run`` gets with the rows; the first place of each names it there. None where
                all rows fly.
        """
        ticket: Ticket[A] = Ticket(wanted, self._leave)
        flights, keys, rows = self._flights, [], []
        for key, positions in wanted.items():
            flight = flights.get(key)
            if flight is None:
                flights[key] = [ticket]
                keys.append(key)
                rows.append(positions[0])
            else:
                flight.append(ticket)
        if keys:
            assert payload is not None, "only rows that fly can be asked for without"
            self._queues.setdefault(group, OrderedDict())[ticket] = _Job(
                payload, keys, rows, time.monotonic()
            )
            self._start()
        return ticket

    async def close(self) -> None:
        """Answer what is queued as failed, and wait for the batches that run."""
        for queue in tuple(self._queues.values()):
            for job in queue.values():
                self._settle(job.keys, [self._failed] * len(job.keys))
        self._queues.clear()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    def _start(self) -> None:
        while self._queues and len(self._running) < self._in_flight:
            keys, parts = self._next()
            if not keys:
                continue
            self.batches += 1
            self.rows += len(keys)
            future = asyncio.get_running_loop().run_in_executor(self._threads, self._run, parts)
            self._running.add(future)
            future.add_done_callback(lambda done, keys=keys: self._done(keys, done))  # type: ignore[misc]

    def _next(self) -> tuple[list[bytes], list[Part[P]]]:
        keys: list[bytes] = []
        parts: list[Part[P]] = []
        group, queue = self._queues.popitem(last=False)
        while queue and len(keys) < self._max_rows:
            ticket, job = queue.popitem(last=False)
            if ticket.gone:
                self._drop_unwanted(job)
            room = self._max_rows - len(keys)
            if job.keys:
                keys += job.keys[:room]
                parts.append(Part(job.payload, job.rows[:room], job.asked))
            if len(job.keys) > room:
                queue[ticket] = job._replace(keys=job.keys[room:], rows=job.rows[room:])
        if queue:
            self._queues[group] = queue
        return keys, parts

    def _drop_unwanted(self, job: "_Job[P]") -> None:
        """Keep of the queued rows those that somebody waits for."""
        kept = [
            (key, row)
            for key, row in zip(job.keys, job.rows, strict=True)
            if not all(ticket.gone for ticket in self._flights[key])
        ]
        for key in set(job.keys).difference(key for key, _ in kept):
            del self._flights[key]
        self.dropped += len(job.keys) - len(kept)
        job.keys[:], job.rows[:] = [key for key, _ in kept], [row for _, row in kept]

    def _leave(self, ticket: Ticket[A]) -> None:
        """Forget at once what nobody waits for: its rows need not stay in memory until a batch is free."""
        for group, queue in self._queues.items():
            job = queue.get(ticket)
            if job is None:
                continue
            self._drop_unwanted(job)
            if not job.keys:
                del queue[ticket]
                if not queue:
                    del self._queues[group]
            return

    def _done(self, keys: list[bytes], done: asyncio.Future[Sequence[A]]) -> None:
        self._running.discard(done)
        self._start()  # first of all: the device waits
        answers: Sequence[A] = [self._failed] * len(keys)
        if error := done.exception():
            log.error("batch failed", exc_info=error)
        elif len(done.result()) != len(keys):
            log.error("batch answered another number of rows", asked=len(keys), answered=len(done.result()))
        else:
            answers = done.result()
        try:
            self._keep(keys, answers)
        finally:
            self._settle(keys, answers)

    def _settle(self, keys: Iterable[bytes], answers: Sequence[A]) -> None:
        for key, answer in zip(keys, answers, strict=True):
            owner, *others = self._flights.pop(key)
            owner.settle(key, answer, joined=False)
            for ticket in others:
                ticket.settle(key, answer, joined=True)
