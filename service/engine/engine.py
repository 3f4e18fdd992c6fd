"""Answering requests: each row from the cache, or from the teachers, once."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Container, Mapping, Sequence
from contextlib import ExitStack, aclosing
from functools import partial
from typing import Any, Self

import numpy as np

from service.admission import Certifier
from service.batching.batcher import Batcher, Settled, Ticket
from service.batching.intake import Intake
from service.cache import Store, open_store
from service.config import Limits, RecipeSection, Settings
from service.engine.batches import FAILED, Answer, Question, batch, examine
from service.engine.ensemble import Effective, Ensemble
from service.errors import BadInput, ConfigError, NotReady, RecipeExists, UnknownEnsemble
from service.keys import cache_key, canonical_json, digest_of
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

    Attributes:
        ensembles: by name.
        batchers: by the ensemble's name; they count what is computed.
        cache: of targets.
        intake: how much is being answered.
        inferences: how many rows teachers were asked for, by the ensemble's name.
    """

    def __init__(
        self,
        ensembles: Mapping[str, Ensemble],
        cache: Store,
        *,
        limits: Limits,
        entry_points: Sequence[str] = (),
    ) -> None:
        self.ensembles = ensembles
        self.cache = cache
        self.intake = Intake(max_rows=limits.max_rows_in_flight, max_bytes=int(limits.max_bytes_in_flight))
        self._timeout_s = limits.request_timeout_s
        self._entry_points = entry_points
        self._putting = asyncio.Lock()
        self.inferences = dict.fromkeys(ensembles, 0)
        self.batchers = {name: self._batcher(one) for name, one in ensembles.items()}

    def _batcher(self, ensemble: Ensemble) -> Batcher[Question, Answer]:
        return Batcher(
            partial(batch, ensemble),
            max_rows=ensemble.config.batching.max_rows,
            in_flight=ensemble.plans.in_flight,
            keep=partial(self._keep, ensemble),
            failed=FAILED,
            name=f"batches-{ensemble.name}",
        )

    def _keep(self, ensemble: Ensemble, keys: Sequence[bytes], answers: Sequence[Answer]) -> None:
        kept = {}
        for key, answer in zip(keys, answers, strict=True):
            if answer.keep and answer.value is not None:
                kept[key] = answer.value
            if answer.opinions is not None:
                kept[cache_key(ensemble.opinions_fingerprint, digest_of(key))] = answer.opinions
        self.cache.put_many(kept)
        self.inferences[ensemble.name] += sum(answer.source != "opinions" for answer in answers)

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
                ensemble = Ensemble.open(
                    name,
                    config,
                    certifier,
                    spread_limit=settings.server.spread_limit,
                    keep=settings.cache.kept(len(config.classes)),
                )
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
                limits=settings.limits,
                entry_points=settings.operators.entry_points,
            )
            opened.pop_all()
            return engine

    async def close(self) -> None:
        """Finish the batches that run, and release everything."""
        for batcher in self.batchers.values():
            await batcher.close()
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
        return await asyncio.to_thread(examine, ensemble, effective, inputs, labels)

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
        wanted = _wanted(effective, digests, failures)
        if hits := await self._cached(wanted):
            yield hits
        fused = await self._by_opinions(ensemble, effective, wanted)
        asked = self._ask(ensemble, wanted, Question(effective, inputs))
        async with aclosing(self._settled([fused, asked], deadline)) as groups:  # who leaves, leaves at once
            async for group in groups:
                yield group

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
        wanted = _wanted(effective, digests, ())
        if hits := await self._cached(wanted):
            yield hits
        fused = await self._by_opinions(ensemble, effective, wanted)
        batcher = self.batchers[ensemble.name]
        joined = batcher.ask({key: wanted.pop(key) for key in tuple(wanted) if batcher.flies(key)})
        absent = _absent([row for rows in wanted.values() for row in rows])
        async with aclosing(self._settled([fused, joined], deadline, first=absent)) as groups:
            async for group in groups:
                yield group

    def _ask(self, ensemble: Ensemble, wanted: dict[bytes, list[int]], question: Question) -> Ticket[Answer]:
        pair = question.effective.pair
        group = (pair.key, pair.top_k, question.inputs is None)
        return self.batchers[ensemble.name].ask(wanted, group=group, payload=question)

    async def _by_opinions(
        self, ensemble: Ensemble, effective: Effective, wanted: dict[bytes, list[int]]
    ) -> Ticket[Answer]:
        """Rows whose opinions are kept, to be fused without a teacher; they are wanted no longer."""
        if ensemble.keep is None or not wanted:
            return self.batchers[ensemble.name].ask({})
        fingerprint, keys = ensemble.opinions_fingerprint, list(wanted)
        found = await self.cache.get_many([cache_key(fingerprint, digest_of(key)) for key in keys])
        opinions = {
            wanted[key][0]: value for key, value in zip(keys, found, strict=True) if value is not None
        }
        fused = {key: wanted.pop(key) for key in keys if wanted[key][0] in opinions}
        return self._ask(ensemble, fused, Question(effective, None, opinions))

    async def _cached(self, wanted: dict[bytes, list[int]]) -> Group | None:
        """The rows whose answers are kept; they are wanted no longer."""
        rows: list[int] = []
        values: list[bytes | None] = []
        for key, value in zip(tuple(wanted), await self.cache.get_many(list(wanted)), strict=True):
            if value is not None:
                rows += wanted[key]
                values += [value] * len(wanted.pop(key))
        count = len(rows)
        return Group(rows, ["hit"] * count, values, [None] * count, [()] * count) if rows else None

    async def _settled(
        self, tickets: Sequence[Ticket[Answer]], deadline: float, first: Group | None = None
    ) -> AsyncGenerator[Group, None]:
        """The groups of rows in which tickets are settled; the last one says what is late."""
        loop = asyncio.get_running_loop()
        try:
            if first is not None and first.rows:
                yield first
            for ticket in tickets:
                while settled := await asyncio.wait_for(ticket.settled(), deadline - loop.time()):
                    yield _settled(settled)
        except TimeoutError:
            late = RowFailure(
                "deadline_exceeded",
                f"not answered within request_timeout_s ({self._timeout_s:g} s); ask again",
            )
            yield _failed(
                {row: late for ticket in tickets for rows in ticket.waiting.values() for row in rows}
            )
        finally:
            for ticket in tickets:
                ticket.leave()


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


def _wanted(
    effective: Effective, digests: Sequence[bytes], without: Container[int]
) -> dict[bytes, list[int]]:
    """Cache key to where the row stands; the same row twice in a request is one row."""
    wanted: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        if row not in without:
            wanted.setdefault(cache_key(effective.fingerprint, digest), []).append(row)
    return wanted


def _failed(failures: Mapping[int, RowFailure]) -> Group:
    count = len(failures)
    return Group(list(failures), ["error"] * count, [None] * count, list(failures.values()), [()] * count)


def _absent(rows: list[int]) -> Group:
    count = len(rows)
    return Group(rows, ["absent"] * count, [None] * count, [None] * count, [()] * count)


def _settled(settled: Sequence[Settled[Answer]]) -> Group:
    group = Group([], [], [], [], [])
    for positions, answer, joined in settled:
        count = len(positions)
        group.rows.extend(positions)
        if answer.failure is not None:
            group.sources.extend(["error"] * count)
        else:
            group.sources.extend(["coalesced"] * count)
            if not joined:
                group.sources[-count] = answer.source
        group.values.extend([answer.value] * count)
        group.failures.extend([answer.failure] * count)
        group.missing.extend([answer.missing] * count)
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
