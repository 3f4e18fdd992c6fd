"""An ensemble asked in process, chunk by chunk, so that its teachers are never without rows."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Literal, NamedTuple, Self, TypeVar

import numpy as np

from service.bulk.data import Chunk
from service.bulk.ledger import Ledger, answering, arrive, patience_s
from service.config import Settings
from service.engine.engine import Engine
from service.engine.ensemble import Overrides
from service.errors import ConfigError, UnknownEnsemble
from service.keys import cache_key
from service.model import RowFailure, nearest

# Of a chunk: enough that what a chunk costs is little beside its rows, too little to be felt in memory.
CHUNK_ROWS = 1024
CHUNK_BYTES = 8 << 20
# Of all chunks that are being answered.
WINDOW_BYTES = 256 << 20
# A text is taken for so long: nobody says beforehand how long it is.
TEXT_BYTES = 4096
# No row waits for a student here. A teacher's calls have time limits of their own.
NO_TIMEOUT_S = 1e9

Keeping = Literal["all", "as served", "nothing"]
I = TypeVar("I")  # noqa: E741 - the items
R = TypeVar("R")


class Labelled(NamedTuple):
    """A chunk with its answers, row by row.

    Attributes:
        chunk: the rows.
        sources: where each answer came from.
        values: each answer's bytes, None where it failed.
        failures: why, None where it did not fail.
        missing: the teachers that each answer had to do without.
        keep: whether a cache may hold the answer: every teacher was heard, in the recipe's own plan.
    """

    chunk: Chunk
    sources: list[str]
    values: list[bytes | None]
    failures: list[RowFailure | None]
    missing: list[tuple[str, ...]]
    keep: list[bool]


def choose(settings: Settings, name: str | None) -> str:
    """The ensemble of that name; without one, the only one there is.

    Raises:
        UnknownEnsemble: there is none of that name.
        ConfigError: there are several, and none was named.
    """
    names = list(settings.ensembles)
    if name is None and len(names) > 1:
        raise ConfigError(f"there are several ensembles: name one as --ensemble, of {', '.join(names)}")
    if name is not None and name not in names:
        raise UnknownEnsemble(f"no ensemble {name!r}{nearest(name, names)}")
    return name or names[0]


class Labeller:
    """A recipe of an ensemble, asked for data sets; for one event loop.

    Args:
        settings: the configuration.
        engine: opened for the ensemble alone.
        name: of the ensemble.
        recipe: its name.
        overrides: of the recipe.

    Attributes:
        settings: the configuration, as it is used.
        ensemble: that answers.
        effective: the recipe.
        store: what the answers are kept in.
        patience_s: how long the cache may be away.

    Raises:
        RequestError: there is no such recipe, or it cannot be overridden so.
    """

    def __init__(
        self, settings: Settings, engine: Engine, name: str, recipe: str, overrides: Overrides
    ) -> None:
        self.settings = settings
        self.ensemble = engine.ensemble(name)
        self.effective = self.ensemble.effective(recipe, overrides)
        self.patience_s = patience_s(settings.cache)
        self.store = engine.cache = Ledger(engine.cache)
        self._engine = engine

    @classmethod
    def open(
        cls,
        settings: Settings,
        ensemble: str,
        recipe: str,
        overrides: Overrides,
        *,
        keeping: Keeping,
    ) -> Self:
        """Open an ensemble as the server would, but for its time limit and what it keeps.

        Args:
            settings: the configuration.
            ensemble: its name.
            recipe: its name.
            overrides: of the recipe.
            keeping: ``all``: whatever may be kept is, in the cache behind the memory, or the caller is told;
                ``as served``: as the server does; ``nothing``: every row is computed.

        Raises:
            ConfigError: it cannot be used.
            RequestError: there is no such recipe, or it cannot be overridden so.
        """
        nothing = settings.ensembles[ensemble].not_cached
        if keeping == "all" and nothing is not None:
            raise ConfigError(f"ensemble {ensemble!r}: no target of it is kept in a cache: {nothing}")
        limits = settings.limits.model_copy(update={"request_timeout_s": NO_TIMEOUT_S})
        cache: dict[Keeping, dict[str, Any]] = {
            "all": {"l1_bytes": 0},  # what is read back must come from the cache itself
            "as served": {},
            "nothing": {"url": "memory://?max_bytes=1"},
        }
        settings = settings.model_copy(
            update={
                "limits": limits,
                # However many would serve, one process labels, and has all processors.
                "server": settings.server.model_copy(update={"workers": 1}),
                "cache": settings.cache.model_copy(update=cache[keeping]),
                "ensembles": {ensemble: settings.ensembles[ensemble]},
            }
        )
        engine = Engine.open(settings)
        try:
            return cls(settings, engine, ensemble, recipe, overrides)
        except BaseException:
            asyncio.run(engine.close())
            raise

    async def close(self) -> None:
        """Finish the batches that run, and release everything."""
        await self._engine.close()

    @property
    def row_bytes(self) -> int:
        """What a row and its answer take, opinions included."""
        size = self.effective.layout.row_bytes
        for spec in self.ensemble.inputs.values():
            one = TEXT_BYTES if spec.dtype == "utf8" else np.dtype(spec.dtype).itemsize
            size += one * math.prod(spec.shape)
        if self.ensemble.keep is not None:
            opinions = len(self.ensemble.members) * len(self.ensemble.classes)
            size += np.dtype(self.ensemble.keep).itemsize * opinions
        return size

    @property
    def chunk_rows(self) -> int:
        """The rows of a chunk: as many as whole batches have, where that is not too much."""
        batch = self.ensemble.config.batching.max_rows
        most = max(1, min(max(batch, CHUNK_ROWS), CHUNK_BYTES // self.row_bytes))
        return most - most % batch if most > batch else most

    @property
    def _at_a_time(self) -> int:
        """How many chunks are on their way: twice what runs, one being read, and some being written."""
        running = self.ensemble.config.batching.max_rows * self.ensemble.plans.in_flight
        wanted = 4 + math.ceil(2 * running / self.chunk_rows)
        return min(wanted, max(2, WINDOW_BYTES // (self.chunk_rows * self.row_bytes)))

    async def answering(self) -> None:
        """Wait until the cache answers.

        Raises:
            CacheLost: it does not.
        """
        await answering(self.store, self.effective.fingerprint, patience_s=self.patience_s)

    async def label(self, chunks: Iterator[Chunk], *, kept: bool) -> AsyncGenerator[Labelled, None]:
        """Answer chunks, in their order.

        Args:
            chunks: read in a thread, as far ahead as it takes to keep the teachers busy.
            kept: whether a chunk is handed out only when the cache has all of it that may be kept.

        Raises:
            DataError: (from the iterator) the data say so; what is before has been handed out.
            CacheLost: the cache does not keep what it is given.
        """

        async def answer(chunk: Chunk) -> Labelled:
            with self.store.following(chunk.digests):
                labelled = await self._answer(chunk)
                if kept:
                    given = self.store.given(chunk.digests)
                    await arrive(self.store, given, patience_s=self.patience_s)
                return labelled

        async with aclosing(ordered(chunks, answer, at_a_time=self._at_a_time)) as answered:
            async for labelled in answered:
                yield labelled

    async def _answer(self, chunk: Chunk) -> Labelled:
        rows = len(chunk.digests)
        sources: list[str] = [""] * rows
        values: list[bytes | None] = [None] * rows
        failures: list[RowFailure | None] = [None] * rows
        missing: list[tuple[str, ...]] = [()] * rows
        async with aclosing(self._engine.answer(self.ensemble, self.effective, chunk.inputs)) as groups:
            async for group in groups:
                for row, source, value, failure, names in zip(*group, strict=True):
                    sources[row], values[row], failures[row], missing[row] = source, value, failure, names
        assert all(sources), "every row is answered"
        given = self.store.given(chunk.digests)
        keep = [
            source == "hit" or cache_key(self.effective.fingerprint, digest) in given
            for source, digest in zip(sources, chunk.digests, strict=True)
        ]
        return Labelled(chunk, sources, values, failures, missing, keep)


async def ordered(
    items: Iterator[I], work: Callable[[I], Awaitable[R]], *, at_a_time: int
) -> AsyncGenerator[R, None]:
    """Work on several items at a time, and hand out the results in the items' order.

    Args:
        items: read in a thread.
        work: on one of them.
        at_a_time: how many are read, being worked on, or waiting to be handed out.

    Raises:
        Exception: (from the iterator) what an item or the work on it raised, in its turn.
    """
    loop = asyncio.get_running_loop()
    free = asyncio.Semaphore(at_a_time)
    begun: asyncio.Queue[asyncio.Task[R] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[R]] = set()
    reader = ThreadPoolExecutor(1, thread_name_prefix="data")

    async def one(item: I) -> R:
        return await work(item)

    async def begin() -> None:
        try:
            while True:
                await free.acquire()
                item = await loop.run_in_executor(reader, next, items, None)
                if item is None:
                    return
                task = asyncio.create_task(one(item))
                tasks.add(task)
                begun.put_nowait(task)
        finally:
            begun.put_nowait(None)

    reading = asyncio.create_task(begin())
    try:
        while (task := await begun.get()) is not None:
            result = await task
            tasks.discard(task)
            yield result
            free.release()
        await reading
    finally:
        for left in (reading, *tasks):
            left.cancel()
        await asyncio.gather(reading, *tasks, return_exceptions=True)
        await asyncio.to_thread(reader.shutdown)
