"""Asking ahead: the next batches' soft targets are on their way while the student trains on this one."""

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from soft_targets.errors import InputError, SoftTargetsError
from soft_targets.exchange import Prepared
from soft_targets.stats import Tally
from soft_targets.targets import SoftTargets

__all__ = ["Prefetcher", "Window"]

Batch = TypeVar("Batch")


class Window:
    """What may be asked for ahead: batches, and their rows and bytes; one batch may always be.

    Args:
        batches: at most so many, at least 1.
        rows: at most so many.
        bytes: at most so many.
    """

    def __init__(self, *, batches: int, rows: int, bytes: int) -> None:  # noqa: A002 - what they are
        self._most = (batches, rows, bytes)
        self._held = (0, 0, 0)
        self._changed = threading.Condition()
        self._closed = False

    def enter(self, *, rows: int, size_bytes: int) -> bool:
        """Wait until a batch fits; False if it was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fits(rows, size_bytes))
            self._held = self._with(1, rows, size_bytes)
            return not self._closed

    def wait_for_a_batch(self) -> bool:
        """Wait until one more batch may be read; False if it was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._held[0] < self._most[0])
            return not self._closed

    def leave(self, *, rows: int, size_bytes: int) -> None:
        """A batch that entered is not ahead any more."""
        with self._changed:
            self._held = self._with(-1, -rows, -size_bytes)
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _with(self, *more: int) -> tuple[int, int, int]:
        batches, rows, size_bytes = (held + one for held, one in zip(self._held, more, strict=True))
        return batches, rows, size_bytes

    def _fits(self, rows: int, size_bytes: int) -> bool:
        then = self._with(1, rows, size_bytes)
        return not self._held[0] or all(held <= most for held, most in zip(then, self._most, strict=True))


class _Asked(NamedTuple, Generic[Batch]):
    """A batch that is asked for."""

    batch: Batch
    targets: Future[SoftTargets]
    loader_state: Any
    rows: int
    size_bytes: int


class _End(NamedTuple):
    """Stands behind the last batch: the loader is exhausted, or failed."""

    error: BaseException | None
    loader_state: Any = None


class Prefetcher(Generic[Batch]):
    """Reads a loader ahead of its consumer, as far as a window allows.

    One thread reads the loader (and alone calls ``prepare``), ``connections`` threads ask the server. Nothing
    starts before the first batch is wanted. The queue between them is unbounded: the window bounds what may
    enter it, so nobody ever waits to put something in, and stopping needs no draining.

    Args:
        loader: any iterable of batches; if it has a ``state_dict``, its state after each batch is handed out.
        skip: batches to read and drop first.
        prepare: a batch to the rows to ask for.
        fetch: rows, and an event that is set once they are not wanted any more, to soft targets; called from
            several threads.
        target_bytes: what the target of one row takes.
        window: how far ahead.
        connections: requests under way at once.
        tally: told the seconds the consumer waited, and the time that passed.
    """

    def __init__(
        self,
        loader: Iterable[Batch],
        *,
        skip: int,
        prepare: Callable[[Batch], Prepared],
        fetch: Callable[..., SoftTargets],
        target_bytes: Callable[[], int],
        window: Window,
        connections: int,
        tally: Tally,
    ) -> None:
        self._loader = loader
        self._skip = skip
        self._prepare = prepare
        self._fetch = fetch
        self._target_bytes = target_bytes
        self._window = window
        self._tally = tally
        self.loader_state: Any = None  # once it was read to the end
        self._asked: SimpleQueue[_Asked[Batch] | _End] = SimpleQueue()
        self._stopping = threading.Event()
        self._process = os.getpid()
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="soft-targets-request")
        # A daemon, so that a program may end while a half-read stream is still referenced somewhere.
        self._reader = threading.Thread(target=self._read, name="soft-targets-loader", daemon=True)

    def run(self) -> Generator[tuple[Batch, SoftTargets, Any], None, None]:
        """Yield each batch, its targets and the loader's state behind it, in the loader's order.

        Errors come where their batch would have.

        Raises:
            SoftTargetsError: ``close`` was called while batches were still wanted.
        """
        self._reader.start()
        last = time.perf_counter()
        try:
            while True:
                began = time.perf_counter()
                try:
                    asked = self._next()
                finally:
                    now = time.perf_counter()
                    self._tally.add(waited_s=now - began, elapsed_s=now - last)
                    last = now
                if asked is None:
                    return
                self._window.leave(rows=asked.rows, size_bytes=asked.size_bytes)
                yield asked.batch, asked.targets.result(), asked.loader_state
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading and asking, and wait for both; may be called twice and from any thread.

        Waits for the batch the loader is producing and for the requests under way, which end at the latest
        when the client's time runs out; requests that have not begun, or would be tried again, are dropped.
        """
        if os.getpid() != self._process:
            return  # forked off: the threads are the parent's, and its locks may never be let go of here
        self._stopping.set()
        self._window.close()
        # The garbage collector may close an abandoned generator in any thread. One of a client's own must not
        # wait: another may be waiting for it.
        own = threading.current_thread().name.startswith("soft-targets-")
        if self._reader.ident is not None and not own:
            self._reader.join()
        self._pool.shutdown(wait=not own, cancel_futures=True)

    def _next(self) -> _Asked[Batch] | None:
        try:
            entry = self._asked.get()
            if self._stopping.is_set():
                raise SoftTargetsError("the client was closed before its targets were read to the end")
            if isinstance(entry, _End):
                if entry.error is not None:
                    raise entry.error
                self.loader_state = entry.loader_state
                return None
            entry.targets.result()
        except CancelledError:
            raise SoftTargetsError("the client was closed before its targets were read to the end") from None
        return entry

    def _read(self) -> None:
        try:
            batches = iter(self._loader)
            self._drop(batches)
            while self._window.wait_for_a_batch():
                try:
                    batch = next(batches)
                except StopIteration:
                    break
                state = self._state()
                prepared = self._prepare(batch)
                rows = len(prepared.row_ids)
                size_bytes = int(prepared.sizes.sum()) + rows * self._target_bytes()
                if not self._window.enter(rows=rows, size_bytes=size_bytes):
                    break
                targets = self._pool.submit(self._fetch, prepared, self._stopping)
                self._asked.put(_Asked(batch, targets, state, rows, size_bytes))
        except BaseException as exc:  # noqa: BLE001 - whatever the loader raises belongs to the consumer
            self._asked.put(_End(exc))
        else:
            self._asked.put(_End(None, self._state()))

    def _drop(self, batches: Iterator[Batch]) -> None:
        """Read what was consumed before."""
        for dropped in range(self._skip):
            if not self._stopping.is_set() and next(batches, _NOTHING) is _NOTHING:
                raise InputError(
                    f"the loader ended after {dropped} batches, before the {self._skip} that were consumed "
                    "when the state was taken: resume with the loader of then"
                )

    def _state(self) -> Any:
        return self._loader.state_dict() if hasattr(self._loader, "state_dict") else None


_NOTHING = object()
