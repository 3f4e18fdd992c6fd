"""How rows are answered: from the cache, or from the teachers, once."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from service.batching.batcher import Batcher, Ticket
from service.cache import Store
from service.engine.batches import Answer, Question
from service.engine.ending import Ending
from service.engine.ensemble import Effective, Ensemble
from service.engine.groups import absent_rows, failed, keys_of, non_finite, of_settled, parted, size_bytes
from service.engine.measuring import Measures
from service.keys import cache_key, digest_of
from service.model import Array, Group, RowFailure
from service.telemetry import Metrics, Spans, correlation
from soft_targets.wire import row_digests

# Hashing this many bytes takes about a millisecond: above it, it leaves the event loop.
LONG_HASH_BYTES = 1 << 21


class Answering:
    """Looks rows up, asks for what is not there, and hands out what is finished; for one event loop.

    Args:
        cache: of targets.
        batchers: of every ensemble that answers, those that retire included.
        measures: of the same ensembles.
        ending: when nobody waits any longer.
        timeout_s: how long a request may take.
        drain_s: how long it may while the server stops.
        metrics: that lookups are told to.
        spans: likewise.
    """

    def __init__(
        self,
        cache: Store,
        batchers: Mapping[Ensemble, Batcher[Question, Answer]],
        measures: Mapping[Ensemble, Measures],
        ending: Ending,
        *,
        timeout_s: float,
        drain_s: float,
        metrics: Metrics,
        spans: Spans,
    ) -> None:
        self._cache = cache
        self._batchers = batchers
        self._measures = measures
        self._ending = ending
        self._timeout_s = timeout_s
        self._drain_s = drain_s
        self._lookup_duration = metrics.cache_lookup_duration
        self._spans = spans

    async def answer(
        self, ensemble: Ensemble, effective: Effective, inputs: Mapping[str, Array]
    ) -> AsyncGenerator[Group, None]:
        """Soft targets for rows, group by group as they are finished.

        Every row stands in exactly one group. A row that cannot be answered carries its failure; it never
        takes another row with it.

        Args:
            ensemble: whose teachers answer.
            effective: the recipe as asked for.
            inputs: ensemble input to array ``[B, ...]``, cast.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        told = self._measures[ensemble].answered
        size = sum(size_bytes(values) for values in inputs.values())
        if size > LONG_HASH_BYTES:
            digests = await asyncio.to_thread(row_digests, inputs, ensemble.inputs)
        else:
            digests = row_digests(inputs, ensemble.inputs)
        keys = keys_of(effective, digests)
        hits, wanted = parted(keys, await self._kept(ensemble, keys))
        if hits:
            yield told(hits)
        if not wanted:
            return
        # Among rows that are kept there is none.
        waiting = sorted(row for rows in wanted.values() for row in rows)
        if failures := non_finite(ensemble, inputs, waiting):
            yield told(failed(failures))
            wanted = {key: rows for key, rows in wanted.items() if rows[0] not in failures}
        if not wanted:
            return
        fused = await self._by_opinions(ensemble, effective, wanted)
        until = time.monotonic() + self._timeout_s
        asked = self._ask(ensemble, wanted, Question(effective, inputs, until=until))
        async with aclosing(self._settled([fused, asked], deadline)) as groups:  # who leaves, leaves at once
            async for group in groups:
                yield told(group)

    async def recall(
        self, ensemble: Ensemble, effective: Effective, digests: Sequence[bytes]
    ) -> AsyncGenerator[Group, None]:
        """Soft targets for rows known by their digests: cached, or being computed; the others are absent.

        Args:
            ensemble: whose teachers answered.
            effective: the recipe as asked for.
            digests: of the rows, as ``soft_targets.wire.row_digests`` makes them.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        told = self._measures[ensemble].answered
        keys = keys_of(effective, digests)
        hits, wanted = parted(keys, await self._kept(ensemble, keys))
        if hits:
            yield told(hits)
        if not wanted:
            return
        fused = await self._by_opinions(ensemble, effective, wanted)
        batcher = self._batchers[ensemble]
        joined = batcher.ask({key: wanted.pop(key) for key in tuple(wanted) if batcher.flies(key)})
        absent = absent_rows([row for rows in wanted.values() for row in rows])
        async with aclosing(self._settled([fused, joined], deadline, first=absent)) as groups:
            async for group in groups:
                yield told(group)

    async def _kept(self, ensemble: Ensemble, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """What is kept of rows; of an ensemble whose targets are not there is nothing to look for."""
        if ensemble.config.not_cached is not None:
            return [None] * len(keys)
        began = time.perf_counter()
        with self._spans.child("cache.lookup", rows=len(keys)):
            found = await self._cache.get_many(keys)
        self._lookup_duration.observe(time.perf_counter() - began)
        return found

    def _ask(self, ensemble: Ensemble, wanted: dict[bytes, list[int]], question: Question) -> Ticket[Answer]:
        question = question._replace(span=self._spans.here(), request_id=correlation.current())
        pair = question.effective.pair
        group = (pair.key, pair.top_k, question.inputs is None)
        return self._batchers[ensemble].ask(wanted, group=group, payload=question)

    async def _by_opinions(
        self, ensemble: Ensemble, effective: Effective, wanted: dict[bytes, list[int]]
    ) -> Ticket[Answer]:
        """Rows whose opinions are kept, to be fused without a teacher; they are wanted no longer."""
        if ensemble.keep is None or ensemble.config.not_cached is not None or not wanted:
            return self._batchers[ensemble].ask({})
        fingerprint, keys = ensemble.opinions_fingerprint, list(wanted)
        found = await self._cache.get_many([cache_key(fingerprint, digest_of(key)) for key in keys])
        opinions = {
            wanted[key][0]: value for key, value in zip(keys, found, strict=True) if value is not None
        }
        fused = {key: wanted.pop(key) for key in keys if wanted[key][0] in opinions}
        return self._ask(ensemble, fused, Question(effective, None, opinions))

    async def _settled(
        self, tickets: Sequence[Ticket[Answer]], deadline: float, first: Group | None = None
    ) -> AsyncGenerator[Group, None]:
        """The groups of rows in which tickets are settled; the last one says what is late."""
        try:
            if first is not None and first.rows:
                yield first
            for ticket in tickets:
                while settled := await self._ending.wait(deadline, ticket.settled()):
                    self._spans.link([one.answer.span for one in settled if one.joined])
                    yield of_settled(settled)
        except TimeoutError:
            stopped = self._ending.at < deadline
            limit = f"drain_s ({self._drain_s:g}" if stopped else f"request_timeout_s ({self._timeout_s:g}"
            why = "the server is stopping, and " if stopped else ""
            late = RowFailure("deadline_exceeded", f"{why}not answered within {limit} s); ask again")
            yield failed(
                {row: late for ticket in tickets for rows in ticket.waiting.values() for row in rows}
            )
        finally:
            for ticket in tickets:
                ticket.leave()
