"""Asking ahead: the next batches' soft targets are on their way while the student trains on this one."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from soft_targets.errors import SoftTargetsError
from soft_targets.targets import SoftTargets

__all__ = ["Prefetcher"]

Batch = TypeVar("Batch")
Inputs = Mapping[str, Any]


class _End(NamedTuple):
    """Stands behind the last batch: the loader is exhausted, or failed."""

    error: BaseException | None


class Prefetcher(Generic[Batch]):
    """Reads a loader ahead of its consumer and keeps at most ``prefetch`` batches asked for.

    One thread reads the loader (and alone calls ``inputs``), ``connections`` threads ask the server. Nothing
    starts before the first batch is wanted. The queue between them is unbounded: a semaphore bounds what may
    enter it, so nobody ever waits to put something in, and stopping needs no draining.

    Args:
        loader: any iterable of batches.
        inputs: a batch to the ensemble's inputs.
        fetch: inputs to soft targets; called from several threads.
        prefetch: batches read ahead, at least 1.
        connections: requests under way at once.
        waited: told the seconds the consumer waited for each batch.
    """

    def __init__(
        self,
        loader: Iterable[Batch],
        *,
        inputs: Callable[[Batch], Inputs],
        fetch: Callable[[Inputs], SoftTargets],
        prefetch: int,
        connections: int,
        waited: Callable[[float], None],
    ) -> None:
        self._loader = loader
        self._inputs = inputs
        self._fetch = fetch
        self._waited = waited
        self._free = threading.Semaphore(prefetch)
        self._asked: SimpleQueue[tuple[Batch, Future[SoftTargets]] | _End] = SimpleQueue()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="soft-targets-request")
        # A daemon, so that a program may end while a half-read stream is still referenced somewhere.
        self._reader = threading.Thread(target=self._read, name="soft-targets-loader", daemon=True)

    def run(self) -> Generator[tuple[Batch, SoftTargets], None, None]:
        """Yield each batch with its targets, in the loader's order; errors come where their batch would have.

        Raises:
            SoftTargetsError: ``close`` was called while batches were still wanted.
        """
        self._reader.start()
        try:
            while True:
                pair = self._next()
                if pair is None:
                    return
                self._free.release()
                yield pair
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading and asking, and wait for both; may be called twice and from any thread.

        Waits for the batch the loader is producing and for the requests under way, which end at the latest
        when the client's time runs out; requests that have not begun are dropped.
        """
        self._stopping.set()
        self._free.release()
        # The garbage collector may close an abandoned generator in any thread, this one's own included.
        if self._reader.ident is not None and self._reader is not threading.current_thread():
            self._reader.join()
        self._pool.shutdown(wait=not _is_own(threading.current_thread()), cancel_futures=True)

    def _next(self) -> tuple[Batch, SoftTargets] | None:
        began = time.perf_counter()
        try:
            entry = self._asked.get()
            if self._stopping.is_set():
                raise SoftTargetsError("the client was closed before its targets were read to the end")
            if isinstance(entry, _End):
                if entry.error is not None:
                    raise entry.error
                return None
            batch, targets = entry
            return batch, targets.result()
        except CancelledError:
            raise SoftTargetsError("the client was closed before its targets were read to the end") from None
        finally:
            self._waited(time.perf_counter() - began)

    def _read(self) -> None:
        try:
            batches = iter(self._loader)
            while True:
                self._free.acquire()
                if self._stopping.is_set():
                    break
                try:
                    batch = next(batches)
                except StopIteration:
                    break
                self._asked.put((batch, self._pool.submit(self._fetch, self._inputs(batch))))
        except BaseException as exc:  # noqa: BLE001 - whatever the loader raises belongs to the consumer
            self._asked.put(_End(exc))
        else:
            self._asked.put(_End(None))


def _is_own(thread: threading.Thread) -> bool:
    return thread.name.startswith("soft-targets-request")
