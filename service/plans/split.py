"""The split plan: every teacher by itself, in parallel, fused in numpy."""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from operators.simplex import weighted_logsumexp
from service.errors import TeacherFailure, TeacherOverrun
from service.model import Array
from service.plans.base import Opinions, Outcome, Pair, Took, Watch, sampled_rows, survivors
from service.plans.member import Member
from service.plans.stages import diagnosed, enter, recalibrated, sparsified
from service.teachers.remote import RemoteTeacher

# A teacher that overran is not waited for again before this time has passed.
SILENT_S = 30.0

Opinion = tuple[Array, Array]
Heard = tuple[Opinion | TeacherFailure, Took | None]  # None of one that was not asked


class Examined(NamedTuple):
    """What a batch's answer is made of.

    Attributes:
        entered: float32 ``[K, B, C]``, what enters the fusion: softened, and floored where the pair says so.
        pooled: float32 ``[B, C]``, what the operator makes of it, before any stage behind it.
        weights: float32 ``[K, B]``, without the teachers that said nothing.
        valid: ``[K, B]``, as in ``Outcome``.
        failures: as in ``Outcome``.
    """

    entered: Array
    pooled: Array
    weights: Array
    valid: Array
    failures: Mapping[int, str]


class SplitPlan:
    """Teachers in parallel, then floor, fusion and sparsity in numpy.

    Args:
        members: the teachers in the ensemble's order; one that was absent is replaced when it is met.
        classes: how many classes the ensemble has.
        pool: where the teachers of this machine run; those elsewhere need no thread to be waited for.
        reason: why this plan.
    """

    name = "split"

    def __init__(self, members: list[Member], classes: int, *, pool: ThreadPoolExecutor, reason: str) -> None:
        self.reason = reason
        self._members = members
        self._classes = classes
        self._pool = pool
        self._silent_until: dict[int, float] = {}

    def run(
        self,
        inputs: Mapping[str, Array],
        temperature: Array,
        weights: Array,
        pair: Pair,
        *,
        until: float = math.inf,
    ) -> Outcome:
        """Answer a batch; a teacher whose weight is 0 in every row is not asked.

        Args and the answer are those of ``Plan.run``, and ``until`` is that of ``opinions``.
        """
        opinions, valid, failures, took = self.opinions(inputs, weights, until=until)
        outcome = self.fuse(opinions, valid, temperature, weights, pair)
        return outcome._replace(failures=failures, took=took + outcome.took)

    def fuse(self, opinions: Array, valid: Array, temperature: Array, weights: Array, pair: Pair) -> Outcome:
        """Answer rows whose opinions are known."""
        watch = Watch()
        entered, left = enter(opinions, temperature, pair), survivors(weights, valid)
        target, finite = recalibrated(pair.operator.fuse(entered, left), pair)
        some = sampled_rows(len(entered), self._classes)
        outcome = Outcome(
            *sparsified(target, pair),
            valid,
            finite,
            failures={},
            again=np.zeros(len(finite), dtype=bool),
            sample=np.exp(np.concatenate([entered[:, :some], target[None, :some]])),
        )
        if pair.diagnostics:
            entropy, divergence = diagnosed(entered, weighted_logsumexp(entered, left), left, target)
            outcome = outcome._replace(entropy=entropy, divergence=divergence)
        return outcome._replace(took=(watch.took(fusion=True),))

    def examine(
        self, inputs: Mapping[str, Array], temperature: Array, weights: Array, pair: Pair
    ) -> Examined:
        """What enters the fusion, and the pool; the arguments of ``run``."""
        opinions, valid, failures, _ = self.opinions(inputs, weights)
        left = survivors(weights, valid)
        entered = enter(opinions, temperature, pair)
        return Examined(entered, pair.operator.fuse(entered, left), left, valid, failures)

    def opinions(self, inputs: Mapping[str, Array], weights: Array, *, until: float = math.inf) -> Opinions:
        """What the teachers say.

        A teacher whose weight is 0 in every row is not asked: its opinions are 0, and valid.

        Args:
            inputs: ensemble input to array ``[B, ...]``.
            weights: float32 ``[K, B]``.
            until: by ``time.monotonic``: after it a teacher elsewhere is not asked once more.
        """
        asked = [k for k in range(len(self._members)) if weights[k].any()]
        away = {k: self._begin(k, inputs, until) for k in asked if self._is_away(k)}
        here = [k for k in asked if k not in away]
        found = dict(zip(here, self._pool.map(lambda k: self._ask(k, inputs), here), strict=True))
        found |= {k: wait() for k, wait in away.items()}
        opinions = np.zeros((len(self._members), weights.shape[1], self._classes), dtype=np.float32)
        valid = np.ones(weights.shape, dtype=bool)
        failures = {}
        for k, (answer, _) in found.items():
            if isinstance(answer, TeacherFailure):
                valid[k], failures[k] = False, str(answer)
            else:
                opinions[k], valid[k] = answer
        took = tuple(one for _, one in found.values() if one is not None)
        return Opinions(opinions, valid, failures, took)

    @property
    def waiting(self) -> bool:
        """Whether a teacher overran not long ago."""
        now = time.monotonic()
        return any(now < until for until in tuple(self._silent_until.values()))

    def _is_away(self, k: int) -> bool:
        """Whether it can be asked without a thread; to be met, one is needed."""
        member = self._members[k]
        return isinstance(member.teacher, RemoteTeacher) and member.meet is None

    def _begin(self, k: int, inputs: Mapping[str, Array], until: float) -> Callable[[], Heard]:
        """Ask a teacher elsewhere; what is returned waits for its answer."""
        resting = self._resting(k)
        if resting is not None:
            return lambda: (resting, None)
        watch, member = Watch(), self._members[k]
        assert isinstance(member.teacher, RemoteTeacher), "only those elsewhere begin"
        fed, kept = member.feed(inputs)
        wait = member.teacher.begin(fed, until=until)
        return lambda: self._heard(k, watch, lambda: said(member, wait(), kept))

    def _ask(self, k: int, inputs: Mapping[str, Array]) -> Heard:
        resting = self._resting(k)
        if resting is not None:
            return resting, None
        return self._heard(k, Watch(), lambda: ask(self._present(k), inputs))

    def _present(self, k: int) -> Member:
        """A teacher's place, which it takes now where it was absent."""
        member = self._members[k]
        if member.meet is not None:
            member = self._members[k] = member.meet()
        return member

    def _resting(self, k: int) -> TeacherFailure | None:
        left = self._silent_until.get(k, 0.0) - time.monotonic()
        if left <= 0:
            return None
        name = self._members[k].teacher.name
        return TeacherFailure(
            f"teacher {name!r} overran and is not asked for another {left:.0f} s", teacher=name
        )

    def _heard(self, k: int, watch: Watch, answer: Callable[[], Opinion]) -> Heard:
        try:
            return answer(), watch.took(k)
        except TeacherFailure as exc:
            if isinstance(exc, TeacherOverrun):
                self._silent_until[k] = time.monotonic() + SILENT_S
            return exc, watch.took(k)


def ask(member: Member, inputs: Mapping[str, Array]) -> Opinion:
    """A teacher's opinion ``[B, C]`` and valid ``[B]``.

    Raises:
        TeacherFailure: the teacher failed, overran, or answered with another number of classes.
    """
    fed, kept = member.feed(inputs)
    return said(member, member.teacher.answer(fed), kept)


def said(member: Member, answer: Array, kept: Array) -> Opinion:
    """What a teacher's answer says: its opinion ``[B, C]`` and valid ``[B]``.

    Raises:
        TeacherFailure: it is of another number of classes.
    """
    if answer.shape[1] != member.alignment.width:
        name, width = member.teacher.name, member.alignment.width
        raise TeacherFailure(
            f"teacher {name!r} answered {answer.shape[1]} classes, not {width}", teacher=name
        )
    return member.opinion(answer, kept)
