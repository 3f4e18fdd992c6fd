"""Ensembles, their cache, and how both begin, change and end."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

from service.admission import Certifier
from service.batching.batcher import Batcher
from service.batching.intake import Intake
from service.batching.quotas import quotas_of
from service.cache import Store, open_store
from service.config import RecipeSection, Settings
from service.engine.answering import Answering
from service.engine.batches import FAILED, Answer, Question, batch, examine
from service.engine.ending import Ending
from service.engine.ensemble import Effective, Ensemble
from service.engine.groups import non_finite
from service.engine.hosting import Hosted
from service.engine.measuring import Measures
from service.engine.readings import Readings
from service.errors import BadInput, ConfigError, RecipeExists, UnknownEnsemble
from service.keys import cache_key, canonical_json, digest_of
from service.model import Array, Group, nearest
from service.plans.operators import BUILTIN_NAMES
from service.telemetry import Metrics, Spans, logger

# What writing the last of a reply may take.
LAST_S = 1.0

log = logger("engine")


class Engine:
    """Ensembles and a cache.

    Use ``Engine.open`` and ``close``; answering belongs to one event loop.

    Attributes:
        cache: of targets.
        intake: how much is being answered.
        metrics: of all that happens here.
        spans: likewise.
        inferences: how many rows teachers were asked for, by the ensemble's name.
    """

    def __init__(
        self,
        ensembles: Mapping[str, Ensemble],
        cache: Store,
        settings: Settings,
        certifier: Certifier,
        spans: Spans,
    ) -> None:
        self.cache = cache
        self.inferences = dict.fromkeys(ensembles, 0)
        limits = settings.limits
        size, quotas = int(limits.max_bytes_in_flight), quotas_of(limits, settings.server.workers)
        self.intake = Intake(max_rows=limits.max_rows_in_flight, max_bytes=size, quotas=quotas)
        self._drain_s = limits.drain_s
        self._ending = Ending()
        self._certifier = certifier
        self._entry_points = settings.operators.entry_points
        self.metrics = Metrics()
        self.spans = spans
        self._measures: dict[Ensemble, Measures] = {}
        self._changing = asyncio.Lock()
        self._batchers: dict[Ensemble, Batcher[Question, Answer]] = {}  # also of those that retire
        self._hosted = {name: self._host(one) for name, one in ensembles.items()}
        self._retiring: set[asyncio.Task[None]] = set()
        self._answering = Answering(
            cache,
            self._batchers,
            self._measures,
            self._ending,
            timeout_s=limits.request_timeout_s,
            drain_s=limits.drain_s,
            metrics=self.metrics,
            spans=spans,
        )
        self._readings = Readings(self.metrics, cache, self.intake, self._batchers)

    @property
    def ensembles(self) -> dict[str, Ensemble]:
        """The ensembles that are served, by name."""
        return {name: hosted.ensemble for name, hosted in self._hosted.items()}

    @property
    def batchers(self) -> dict[str, Batcher[Question, Answer]]:
        """Their batchers, which count what is computed."""
        return {name: hosted.batcher for name, hosted in self._hosted.items()}

    def _host(self, ensemble: Ensemble) -> Hosted:
        measures = self._measures[ensemble] = Measures(self.metrics, ensemble)
        self._batchers[ensemble] = Batcher(
            partial(batch, ensemble, measures, self.spans),
            max_rows=ensemble.config.batching.max_rows,
            in_flight=ensemble.plans.in_flight,
            keep=partial(self._keep, ensemble),
            failed=FAILED,
            name=f"batches-{ensemble.name}",
        )
        return Hosted(ensemble, self._batchers[ensemble])

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
    def open(cls, settings: Settings, spans: Spans | None = None) -> Self:
        """Load every ensemble.

        Args:
            settings: the whole configuration.
            spans: that are made of what happens here; the engine closes them.

        Raises:
            ConfigError: one cannot be used.
        """
        certifier = Certifier(settings.server.state_dir)
        with ExitStack() as opened:
            ensembles = {}
            for name in settings.ensembles:
                ensembles[name] = _load(name, settings, certifier)
                opened.callback(ensembles[name].close)
            engine = cls(ensembles, open_store(settings.cache), settings, certifier, spans or Spans())
            opened.pop_all()
            return engine

    async def reload(self, settings: Settings, names: Collection[str]) -> None:
        """Load ensembles beside those that are served, and put them in their places, all or none of them.

        Whoever asked before is answered by what was served then. Recipes that were put at run time stay,
        where they fit.

        Args:
            settings: of which the ensembles' part is taken; what it no longer names is served no longer.
            names: of the ensembles.

        Raises:
            ConfigError: one cannot be used; all are served as before.
        """
        async with self._changing:
            loaded: dict[str, Ensemble] = {}
            try:
                for name in sorted(settings.ensembles.keys() & names):
                    loaded[name] = await asyncio.to_thread(_load, name, settings, self._certifier)
                    if name in self._hosted:
                        await asyncio.to_thread(loaded[name].take_over, self._hosted[name].ensemble)
            except BaseException:
                for ensemble in loaded.values():
                    ensemble.close()
                raise
            for name in self._hosted.keys() & names:
                self._retire(self._hosted.pop(name))
            for name, ensemble in loaded.items():
                self.inferences.setdefault(name, 0)
                self._hosted[name] = self._host(ensemble)

    async def unload(self, name: str) -> None:
        """Serve an ensemble no longer; whoever asked before is answered.

        Raises:
            UnknownEnsemble: there is none of that name.
        """
        async with self._changing:
            self._retire(self.hosted(name))
            del self._hosted[name]

    def _retire(self, hosted: Hosted) -> None:
        async def retire() -> None:
            await hosted.retire(self._drain_s)
            self._readings.forget(hosted.ensemble)
            del self._batchers[hosted.ensemble], self._measures[hosted.ensemble]

        task = asyncio.create_task(retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def drain(self) -> float:
        """Take in nothing more, and wait until what was taken in is answered.

        A row that is not within ``limits.drain_s`` is late then, and its reply is closed like any other.

        Returns:
            How much of that time is left, in seconds.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + self._drain_s
        self.intake.close()
        self._ending.set(end)
        with contextlib.suppress(TimeoutError):  # a request that never ends, or a reply that nobody reads
            async with asyncio.timeout_at(end + LAST_S):
                await self.intake.emptied()
        return max(0.0, end - clock())

    async def close(self) -> None:
        """Finish the batches that run, and release everything."""
        for hosted in self._hosted.values():
            self._retire(hosted)
        await asyncio.gather(*self._retiring)
        await self.cache.close()
        await asyncio.to_thread(self.spans.close)

    def check_ready(self) -> list[str]:
        """What is amiss, though every request can be answered.

        Raises:
            NotReady: an ensemble has not enough teachers left, or a batch of its does not come back; or the
                server stops.
        """
        self.intake.check()
        degraded = [told for ensemble in self.ensembles.values() for told in ensemble.check_ready()]
        return degraded + self.cache.degraded()

    def hosted(self, name: str) -> Hosted:
        """The ensemble of that name, as a context for one request: it is not closed before that ends.

        Raises:
            UnknownEnsemble: there is none.
        """
        if name not in self._hosted:
            raise UnknownEnsemble(f"no ensemble {name!r}{nearest(name, self._hosted)}")
        return self._hosted[name]

    def ensemble(self, name: str) -> Ensemble:
        """The ensemble of that name, for a look.

        Raises:
            UnknownEnsemble: there is none.
        """
        return self.hosted(name).ensemble

    async def put_recipe(self, of: str, name: str, section: RecipeSection) -> bool:
        """Serve a new recipe until the server stops; it is certified first, aside from the event loop.

        Args:
            of: the name of the ensemble that is to answer it.
            name: of the recipe.
            section: of a built-in operator, or an entry point that the configuration names.

        Returns:
            Whether it is new; the same content again is not.

        Raises:
            UnknownEnsemble: there is none of that name.
            BadInput: the recipe does not fit the ensemble, or its operator may not be put.
            OperatorRefused: with the witnesses.
            RecipeExists: the name is taken by other content.
        """
        self._check_put(section)
        self.ensemble(of)  # if there is none, at once
        async with self._changing:
            ensemble = self.ensemble(of)
            if name in ensemble.recipes:
                if _content(ensemble.recipes[name].section) == _content(section):
                    return False
                raise RecipeExists(
                    f"ensemble {ensemble.name!r} has a recipe {name!r} of other content; choose another name"
                )
            try:
                admitted = await asyncio.to_thread(ensemble.prepare, name, section)
            except (ConfigError, ValueError) as exc:
                raise BadInput(str(exc)) from None
            ensemble.recipes[name] = admitted
            ensemble.put.add(name)
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
            BadInput: a row holds NaN or infinity, or there is none that every teacher answered.
            TeacherFailure: a teacher failed.
        """
        everyone = range(len(next(iter(inputs.values()))))
        for row, failure in non_finite(ensemble, inputs, everyone).items():
            raise BadInput(f"row {row}: {failure.message}")
        return await asyncio.to_thread(examine, ensemble, effective, inputs, labels)

    def answer(
        self, ensemble: Ensemble, effective: Effective, inputs: Mapping[str, Array]
    ) -> AsyncGenerator[Group, None]:
        """Soft targets for rows: see ``Answering.answer``."""
        return self._answering.answer(ensemble, effective, inputs)

    def recall(
        self, ensemble: Ensemble, effective: Effective, digests: Sequence[bytes]
    ) -> AsyncGenerator[Group, None]:
        """Soft targets for rows known by their digests: see ``Answering.recall``."""
        return self._answering.recall(ensemble, effective, digests)


def _load(name: str, settings: Settings, certifier: Certifier) -> Ensemble:
    config = settings.ensembles[name]
    ensemble = Ensemble.open(
        name,
        config,
        certifier,
        spread_limit=settings.server.spread_limit,
        keep=settings.cache.kept(len(config.classes)),
        processes=1 if settings.server.workers == "auto" else settings.server.workers,
    )
    log.info(
        "ensemble loaded",
        ensemble=name,
        teachers=[member.teacher.name for member in ensemble.members],
        devices=[str(member.teacher.device) for member in ensemble.members],
        plans=ensemble.plans.report(),
    )
    if ensemble.config.not_cached is not None:
        log.warning("targets are not kept", ensemble=name, reason=ensemble.config.not_cached)
    return ensemble


def _content(section: RecipeSection) -> bytes:
    """What a recipe says, where true is not 1."""
    return canonical_json(section.model_dump(mode="json"))
