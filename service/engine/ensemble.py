"""An ensemble as it is served: teachers bound to inputs, a plan, and recipes with their fingerprints."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Self

from cachetools import LRUCache

from service.admission import Certificate, Certifier
from service.config import Ensemble as EnsembleConfig
from service.config import RecipeSection
from service.engine.absence import absent_member, may_be_absent, open_teachers
from service.engine.binding import agree_inputs, member_of, probe, probe_rows
from service.engine.health import Health
from service.engine.identity import Identity
from service.engine.recipes import Admitted, admit
from service.engine.samples import read_samples
from service.errors import (
    BadQuery,
    BadWeights,
    ConfigError,
    NotReady,
    OperatorRefused,
    TeacherUnreachable,
    UnknownRecipe,
)
from service.keys import canonical_json, fingerprint
from service.model import Recipe, nearest, normalise
from service.plans.base import Asked, Pair
from service.plans.operators import Resolved
from service.plans.plans import Plans
from service.plans.sizing import Sizing, processors
from service.plans.stages import Kept
from service.teachers.session import Deadlines
from service.telemetry import Seldom, logger
from soft_targets.wire import FORMAT, Layout, Precision, classes_digest

log = logger("engine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overrides:
    """What a request may change of a recipe; None leaves it."""

    temperature: float | None = None
    weights: Mapping[str, float] | None = None
    top_k: int | None = None
    dtype: Precision | None = None


class Effective(NamedTuple):
    """A recipe as one request asks for it.

    Attributes:
        recipe: with the request's overrides.
        pair: what the plan makes of it.
        layout: how its targets are laid out.
        fingerprint: what the targets are a function of, besides the input.
        certificate: of the operator.
        metadata: what a reply says of itself.
    """

    name: str
    recipe: Recipe
    pair: Pair
    layout: Layout
    fingerprint: str
    certificate: Certificate
    metadata: Mapping[str, str]


class Ensemble:
    """Ordered teachers over one list of classes.

    Attributes:
        inputs: name to dtype and shape of a row.
        allow_nan: the inputs that may hold values that are not finite.
        samples: example rows by input, where there are any.
        members: the teachers in order; one that was absent is replaced when it is met.
        plans: how batches are answered.
        health: how often each teacher has failed of late.
        complaints: when the log is to say so.
        recipes: by name, each admitted.
        put: the names of those that do not stand in the configuration.
        keep: in which precision each teacher's opinion is kept; None where it is not.
        processes: how many share the machine's processors.
    """

    def __init__(
        self,
        name: str,
        config: EnsembleConfig,
        certifier: Certifier,
        *,
        keep: Kept | None = None,
        processes: int = 1,
    ) -> None:
        self.name = name
        self.config = config
        self.keep = keep
        self.processes = processes
        self.classes = config.classes
        self.classes_digest = classes_digest(config.classes)
        self.deadlines = Deadlines(config.teacher_timeout_s)
        try:
            self._teachers = open_teachers(name, config, self.deadlines)
            try:
                self._load(config)
            except BaseException:
                self._close_teachers()
                raise
        except BaseException:
            self.deadlines.close()
            raise
        self._identity = Identity(config, self.members, self.allow_nan, keep)
        self._certifier = certifier
        self._operators: dict[str, Resolved] = {}
        self.recipes: dict[str, Admitted] = {}
        self.put: set[str] = set()
        # Bounded, so that clients cannot fill the memory with overrides.
        self._known: LRUCache[tuple[str, Recipe], Effective] = LRUCache(1024)

    def _load(self, config: EnsembleConfig) -> None:
        self.inputs = agree_inputs(self.name, config, self._teachers)
        self.samples = (
            {} if config.samples is None else read_samples(config.samples, self.inputs, ensemble=self.name)
        )
        self.allow_nan = {key for key, given in (config.inputs or {}).items() if given.allow_nan}
        self.members = [
            # Without inputs it is one elsewhere that has not been met.
            (member_of if teacher.inputs else absent_member)(
                self.name, section, teacher, self.inputs, self.classes
            )
            for section, teacher in zip(config.teachers, self._teachers, strict=True)
        ]
        batching = config.batching
        self.plans = Plans(
            self.name,
            self.members,
            self.inputs,
            len(self.classes),
            sizing=Sizing(
                batching.max_rows,
                None if batching.in_flight == "auto" else batching.in_flight,
                None if batching.threads == "auto" else batching.threads,
                config.device_memory,
                max(1, processors() // self.processes),
            ),
            partial=config.quorum != "all",
            deadlines=self.deadlines,
            keep=self.keep,
        )
        self.complaints = Seldom()
        self.health = Health(
            [member.teacher.name for member in self.members],
            limit=config.teacher_error_rate,
            quorum=len(self.members) if config.quorum == "all" else config.quorum,
        )

    @classmethod
    def open(
        cls,
        name: str,
        config: EnsembleConfig,
        certifier: Certifier,
        *,
        spread_limit: float,
        keep: Kept | None = None,
        processes: int = 1,
    ) -> Self:
        """Load an ensemble, ask every teacher a few rows, certify every recipe, and choose the plans.

        Raises:
            ConfigError: something in it cannot be used; names the ensemble, the part and what to do.
        """
        ensemble = cls(name, config, certifier, keep=keep, processes=processes)
        try:
            ensemble.try_teachers()
            for recipe, section in config.recipes.items():
                ensemble.recipes[recipe] = ensemble.admit(recipe, section)
            asked = [ensemble.asked(admitted) for admitted in ensemble.recipes.values()]
            ensemble.plans.choose(asked, probe_rows(ensemble.inputs), spread_limit=spread_limit)
        except OperatorRefused as exc:
            ensemble.close()
            raise ConfigError(str(exc)) from None
        except BaseException:
            ensemble.close()
            raise
        return ensemble

    def try_teachers(self) -> None:
        """Ask every teacher that is there a few rows; one elsewhere that falls silent is absent from now on.

        Raises:
            TeacherError: one cannot answer, or its answer cannot be what is said of it.
            TeacherUnreachable: too many are absent.
        """
        for place, member in enumerate(self.members):
            if member.meet is not None:
                continue
            try:
                probe(self.name, self.inputs, member)
            except TeacherUnreachable as exc:
                if not may_be_absent(self.config, len(self.absent) + 1):
                    raise
                log.warning("teacher absent", reason=str(exc))
                section = self.config.teachers[place]
                self.members[place] = absent_member(
                    self.name, section, member.teacher, self.inputs, self.classes
                )

    @property
    def absent(self) -> list[str]:
        """The teachers elsewhere that have not been met since the start."""
        return [member.teacher.name for member in self.members if member.meet is not None]

    def prepare(self, name: str, section: RecipeSection) -> Admitted:
        """Certify a recipe that comes after loading, and make its plan.

        Raises:
            ConfigError: its operator is unknown, or cannot be judged.
            OperatorRefused: with the witnesses.
            ValueError: it does not fit the ensemble.
        """
        admitted = self.admit(name, section)
        self.plans.plan(self.asked(admitted).pair)
        return admitted

    def take_over(self, other: "Ensemble") -> None:
        """Serve the recipes that were put into another one, where this one can and has none of the name."""
        for name in sorted(other.put - self.recipes.keys()):
            section = other.recipes[name].section
            try:
                admitted = self.prepare(name, section)
            except (ConfigError, OperatorRefused, ValueError) as exc:
                log.warning("recipe dropped", ensemble=self.name, recipe=name, reason=str(exc))
                continue
            self.recipes[name] = admitted
            self.put.add(name)

    def check_ready(self) -> list[str]:
        """What is amiss, though every request can be answered.

        Raises:
            NotReady: it has not enough teachers left, or a batch of its does not come back.
        """
        failing, absent = self.health.failing(), self.absent
        told = [
            f"ensemble {self.name!r}: teacher {one!r} has been absent since the start; batches seek it again"
            for one in absent
        ]
        told += [
            f"ensemble {self.name!r}: teacher {one.teacher!r} says nothing of {one.rate:.0%} of the rows of "
            "its last batches"
            for one in failing
        ]
        if not self.health.enough({*absent, *(one.teacher for one in failing)}):
            raise NotReady("; ".join(told) + "; the quorum cannot be met")
        if self.deadlines.stuck:
            raise NotReady(
                f"ensemble {self.name!r}: a batch was told to stop and does not come back; restart the server"
            )
        return told

    def close(self) -> None:
        """Stop the threads, and let the teachers go."""
        self.plans.close()
        self._close_teachers()
        self.deadlines.close()

    def _close_teachers(self) -> None:
        for teacher in self._teachers:
            teacher.close()

    def asked(self, admitted: Admitted) -> Asked:
        """What a recipe asks of the plans."""
        recipe = admitted.recipe
        return Asked(self._pair(recipe, admitted.resolved), recipe.temperature, recipe.weights)

    def admit(self, name: str, section: RecipeSection) -> Admitted:
        """Certify a recipe for this ensemble.

        Raises:
            ConfigError: its operator is unknown, or cannot be judged.
            OperatorRefused: with the witnesses.
        """
        where = f"ensembles.{self.name}.recipes.{name}"
        return admit(name, section, self.config, self._certifier, where=where)

    def effective(self, name: str, overrides: Overrides) -> Effective:
        """A recipe with a request's overrides.

        Raises:
            UnknownRecipe: there is no such recipe.
            BadQuery: an override is impossible for this ensemble or recipe.
            BadWeights: the weights are not weights of these teachers.
        """
        if name not in self.recipes:
            hint = "; ask for one by name with ?recipe=" if name == "default" else ""
            raise UnknownRecipe(
                f"ensemble {self.name!r} has no recipe {name!r}{nearest(name, self.recipes)}{hint}"
            )
        recipe = self._overridden(self.recipes[name].recipe, overrides)
        known = self._known.get((name, recipe))
        if known is None:
            known = self._known[name, recipe] = self._effective(name, recipe, self.recipes[name])
        return known

    def _overridden(self, recipe: Recipe, overrides: Overrides) -> Recipe:
        if overrides.temperature is not None:
            if recipe.output_temperature != 1 and overrides.temperature != 1:
                raise BadQuery(
                    "this recipe has an output_temperature, which recalibrates targets at temperature 1 only"
                )
            recipe = dataclasses.replace(recipe, temperature=overrides.temperature)
        if overrides.weights is not None:
            try:
                weights = normalise(overrides.weights, [member.teacher.name for member in self.members])
            except ValueError as exc:
                raise BadWeights(f"weights: {exc}") from None
            recipe = dataclasses.replace(recipe, weights=weights)
        if overrides.top_k is not None:
            if overrides.top_k > len(self.classes):
                raise BadQuery(f"top_k is {overrides.top_k}; this ensemble has {len(self.classes)} classes")
            recipe = dataclasses.replace(recipe, top_k=overrides.top_k)
        if overrides.dtype is not None:
            recipe = dataclasses.replace(recipe, dtype=overrides.dtype)
        return recipe

    def _effective(self, name: str, recipe: Recipe, admitted: Admitted) -> Effective:
        pair, certificate = self._pair(recipe, admitted.resolved), admitted.certificate
        known = self._identity.target(recipe, admitted.resolved.identity, self.plans.name_of(pair))
        metadata = {
            "format": FORMAT,
            "ensemble": self.name,
            "recipe": name,
            "fingerprint": known,
            "temperature": repr(recipe.temperature),
            "operator": canonical_json(recipe.operator.as_dict()).decode(),
            "certificate": certificate.id,
            "violations": ",".join(certificate.violations),
            "classes_digest": self.classes_digest,
        }
        return Effective(
            name,
            recipe,
            pair,
            recipe.layout(len(self.classes)),
            known,
            certificate,
            MappingProxyType(metadata),
        )

    def _pair(self, recipe: Recipe, resolved: Resolved) -> Pair:
        # Recipes of one operator share it, and with it the graphs that it is part of.
        operator = self._operators.setdefault(fingerprint(resolved.identity), resolved).operator
        floored = operator.domain == "floored" or any(teacher.missing for teacher in self.config.teachers)
        return Pair(
            operator,
            recipe.floor if floored else None,
            recipe.output_temperature,
            recipe.top_k,
            recipe.diagnostics,
        )

    @property
    def opinions_fingerprint(self) -> str:
        """What kept opinions are a function of, besides the input."""
        return self._identity.opinions()
