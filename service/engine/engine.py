"""Answering requests: each row from the cache, or from the teachers, once."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self

import numpy as np

from service.admission import Certifier
from service.cache import Store, open_store
from service.config import RecipeSection, Settings
from service.engine.batches import Answer, batch, examine
from service.engine.ensemble import Effective, Ensemble
from service.errors import BadInput, ConfigError, NotReady, RecipeExists, UnknownEnsemble
from service.keys import cache_key, canonical_json
from service.model import Array, Group, RowFailure, nearest
from service.plans.operators import BUILTIN_NAMES
from service.telemetry import logger
from soft_targets.wire import row_digests

# Hashing this many bytes takes about a millisecond: above it, it leaves the event loop.
LONG_HASH_BYTES = 1 << 20

log = logger("engine")


class Engine:
    """Ensembles and a cache.

    Use ``Engine.open`` and ``close``; answering belongs to one event loop.
    """

    def __init__(
        self,
        ensembles: Mapping[str, Ensemble],
        cache: Store,
        *,
        timeout_s: float,
        entry_points: Sequence[str] = (),
    ) -> None:
        self.ensembles = ensembles
        self.cache = cache
        self._timeout_s = timeout_s
        self._entry_points = entry_points
        self._putting = asyncio.Lock()
        self._pools = {
            name: ThreadPoolExecutor(one.plans.in_flight, thread_name_prefix=f"batches-{name}")
            for name, one in ensembles.items()
        }
        self._running: set[asyncio.Task[list[Answer]]] = set()

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Load every ensemble.

        Raises:
            ConfigError: one cannot be used.
        """
        certifier = Certifier(settings.server.state_dir)
        with ExitStack() as opened:
            ensembles = {}
            for name, config in settings.ensembles.items():
                ensemble = Ensemble.open(name, config, certifier, spread_limit=settings.server.spread_limit)
                opened.callback(ensemble.close)
                ensembles[name] = ensemble
                log.info(
                    "ensemble loaded",
                    ensemble=name,
                    teachers=[member.teacher.name for member in ensemble.members],
                    devices=[str(member.teacher.device) for member in ensemble.members],
                    plans=ensemble.plans.report(),
                )
            cache = open_store(settings.cache)
            engine = cls(
                ensembles,
                cache,
                timeout_s=settings.limits.request_timeout_s,
                entry_points=settings.operators.entry_points,
            )
            opened.pop_all()
            return engine

    async def close(self) -> None:
        """Finish the batches that run, and release everything."""
        await asyncio.gather(*self._running, return_exceptions=True)
        for pool in self._pools.values():
            await asyncio.to_thread(pool.shutdown, wait=True)
        for ensemble in self.ensembles.values():
            ensemble.close()
        await self.cache.close()

    def check_ready(self) -> list[str]:
        """What is amiss, though every request can be answered.

        Raises:
            NotReady: an ensemble has not enough teachers left, or a batch of its does not come back.
        """
        degraded = []
        for name, ensemble in self.ensembles.items():
            failing = ensemble.health.failing()
            told = [
                f"ensemble {name!r}: teacher {one.teacher!r} says nothing of {one.rate:.0%} of the rows of "
                "its last batches"
                for one in failing
            ]
            if not ensemble.health.enough(failing):
                raise NotReady("; ".join(told) + "; the quorum cannot be met")
            if ensemble.deadlines.stuck:
                raise NotReady(
                    f"ensemble {name!r}: a batch was told to stop and does not come back; restart the server"
                )
            degraded += told
        return degraded + self.cache.degraded()

    def ensemble(self, name: str) -> Ensemble:
        """The ensemble of that name.

        Raises:
            UnknownEnsemble: there is none.
        """
        if name not in self.ensembles:
            raise UnknownEnsemble(f"no ensemble {name!r}{nearest(name, self.ensembles)}")
        return self.ensembles[name]

    async def put_recipe(self, ensemble: Ensemble, name: str, section: RecipeSection) -> bool:
        """Serve a new recipe until the server stops; it is certified first, aside from the event loop.

        Args:
            ensemble: that answers it.
            name: of the recipe.
            section: of a built-in operator, or an entry point that the configuration names.

        Returns:
            Whether it is new; the same content again is not.

        Raises:
            BadInput: the recipe does not fit the ensemble, or its operator may not be put.
            OperatorRefused: with the witnesses.
            RecipeExists: the name is taken by other content.
        """
        self._check_put(section)
        async with self._putting:
            if name in ensemble.recipes:
                if _content(ensemble.recipes[name].section) == _content(section):
                    return False
                raise RecipeExists(
                    f"ensemble {ensemble.name!r} has a recipe {name!r} of other content; choose another name"
                )
            try:
                admitted = await asyncio.to_thread(ensemble.admit, name, section)
                await asyncio.to_thread(ensemble.plans.plan, ensemble.asked(admitted).pair)
            except (ConfigError, ValueError) as exc:
                raise BadInput(str(exc)) from None
            ensemble.recipes[name] = admitted
        log.info("recipe put", ensemble=ensemble.name, recipe=name, certificate=admitted.certificate.id)
        return True

    def _check_put(self, section: RecipeSection) -> None:
        spec = section.operator
        if section.accept_violations:
            raise BadInput("accept_violations is only taken from the configuration")
        if spec.imported:
            raise BadInput("an operator by import is only taken from the configuration")
        allowed = {*BUILTIN_NAMES, *self._entry_points}
        if spec.name not in allowed:
            raise BadInput(f"no operator {spec.name!r} may be put{nearest(spec.name, allowed)}")

    async def guarantees(
        self,
        ensemble: Ensemble,
        effective: Effective,
        inputs: Mapping[str, Array],
        labels: list[int] | None,
    ) -> list[dict[str, Any]]:
        """What pooling bought on these rows; rows that are not finite are refused, nothing is cached.

        Raises:
            BadInput: a row holds NaN or infinity.
            TeacherFailure: a teacher failed.
        """
        for row, failure in _non_finite(ensemble, inputs).items():
            raise BadInput(f"row {row}: {failure.message}")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._pools[ensemble.name], examine, ensemble, effective, inputs, labels
        )

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
        failures = _non_finite(ensemble, inputs)
        if failures:
            yield _failed(failures)
        size = sum(_bytes(values) for values in inputs.values())
        if size > LONG_HASH_BYTES:
            digests = await asyncio.to_thread(row_digests, inputs, ensemble.inputs)
        else:
            digests = row_digests(inputs, ensemble.inputs)
        rows = [row for row in range(len(digests)) if row not in failures]
        keys = [cache_key(effective.fingerprint, digests[row]) for row in rows]
        values = await self.cache.get_many(keys)
        hits = [(row, value) for row, value in zip(rows, values, strict=True) if value is not None]
        if hits:
            count = len(hits)
            rows_hit, found = zip(*hits, strict=True)
            yield Group(list(rows_hit), ["hit"] * count, list(found), [None] * count, [()] * count)
        # The same row twice in one request is computed once.
        waiting: dict[bytes, list[int]] = {}
        for row, key, value in zip(rows, keys, values, strict=True):
            if value is None:
                waiting.setdefault(key, []).append(row)
        async for group in self._compute(ensemble, effective, inputs, waiting, deadline):
            yield group

    async def _compute(
        self,
        ensemble: Ensemble,
        effective: Effective,
        inputs: Mapping[str, Array],
        waiting: Mapping[bytes, list[int]],
        deadline: float,
    ) -> AsyncIterator[Group]:
        loop = asyncio.get_running_loop()
        keys = list(waiting)
        step = ensemble.config.batching.max_rows
        chunks = [keys[start : start + step] for start in range(0, len(keys), step)]
        running: dict[asyncio.Task[list[Answer]], list[bytes]] = {}
        while chunks or running:
            while chunks and len(running) < ensemble.plans.in_flight:
                chunk = chunks.pop(0)
                task = asyncio.create_task(self._batch(ensemble, effective, inputs, waiting, chunk))
                running[task] = chunk
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            done, _ = await asyncio.wait(
                running, timeout=max(0, deadline - loop.time()), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                late = RowFailure(
                    "deadline_exceeded",
                    f"not answered within request_timeout_s ({self._timeout_s:g} s); ask again",
                )
                left = [key for chunk in (*running.values(), *chunks) for key in chunk]
                yield _group(left, waiting, [Answer(None, late)] * len(left))
                return
            for task in done:
                yield _group(running.pop(task), waiting, task.result())

    async def _batch(
        self,
        ensemble: Ensemble,
        effective: Effective,
        inputs: Mapping[str, Array],
        waiting: Mapping[bytes, list[int]],
        keys: Sequence[bytes],
    ) -> list[Answer]:
        """Run one batch and keep its values, also when whoever asked is late or gone by then."""
        rows = [waiting[key][0] for key in keys]
        loop = asyncio.get_running_loop()
        results = await loop.run_in_executor(
            self._pools[ensemble.name], batch, ensemble, effective, inputs, rows
        )
        self.cache.put_many(
            {
                key: answer.value
                for key, answer in zip(keys, results, strict=True)
                if answer.keep and answer.value is not None
            }
        )
        return results


def _content(section: RecipeSection) -> bytes:
    """What a recipe says, where true is not 1."""
    return canonical_json(section.model_dump(mode="json"))


def _bytes(values: Array) -> int:
    """How much there is to hash; an array of text holds pointers."""
    return sum(map(len, values)) if values.dtype == object else values.nbytes


def _non_finite(ensemble: Ensemble, inputs: Mapping[str, Array]) -> dict[int, RowFailure]:
    """The rows that hold NaN or infinity where the input does not allow it."""
    failures: dict[int, RowFailure] = {}
    for name, values in inputs.items():
        if values.dtype.kind != "f" or name in ensemble.allow_nan:
            continue
        finite = np.isfinite(values).reshape(len(values), -1)
        for row in np.flatnonzero(~finite.all(axis=1)):
            where = np.unravel_index(int(np.argmin(finite[row])), values.shape[1:]) if values.ndim > 1 else ()
            failures[int(row)] = RowFailure(
                "non_finite_input",
                f"input {name!r} is {values[row][where]} at {[int(i) for i in where]}; send finite values, "
                "or set allow_nan for the input",
            )
    return failures


def _failed(failures: Mapping[int, RowFailure]) -> Group:
    count = len(failures)
    return Group(list(failures), ["error"] * count, [None] * count, list(failures.values()), [()] * count)


def _group(keys: Sequence[bytes], waiting: Mapping[bytes, list[int]], results: Sequence[Answer]) -> Group:
    group = Group([], [], [], [], [])
    for key, result in zip(keys, results, strict=True):
        for position, row in enumerate(waiting[key]):
            found = "coalesced" if position else "miss"
            group.rows.append(row)
            group.sources.append("error" if result.failure is not None else found)
            group.values.append(result.value)
            group.failures.append(result.failure)
            group.missing.append(result.missing)
    return group


async def in_order(groups: AsyncIterator[Group], rows: int) -> AsyncIterator[Group]:
    """The same rows in the order of the request: each group as long as nothing before it is open."""
    sources: list[str] = [""] * rows
    values: list[bytes | None] = [None] * rows
    failures: list[RowFailure | None] = [None] * rows
    missing: list[tuple[str, ...]] = [()] * rows
    done = 0
    async for group in groups:
        for row, source, value, failure, names in zip(*group, strict=True):
            sources[row], values[row], failures[row], missing[row] = source, value, failure, names
        start = done
        while done < rows and sources[done]:
            done += 1
        if done > start:
            part = slice(start, done)
            yield Group(list(range(start, done)), sources[part], values[part], failures[part], missing[part])
            values[part] = [None] * (done - start)
