"""The split plan: one session per teacher, in parallel, fused in numpy."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from service.errors import TeacherFailure
from service.model import Array
from service.plans.alignment import Alignment
from service.plans.base import Examined, Outcome, Pair
from service.plans.stages import enter, finish, opinion, says_the_same
from service.teachers.base import Kind, Teacher


class Member(NamedTuple):
    """A teacher's place in an ensemble.

    Attributes:
        feeds: the model's input to the ensemble's input.
        dtypes: the model's input to its numpy dtype.
        output: the model's output that is the teacher's answer.
        kind: what the teacher's answer holds.
        temperature: calibrates the teacher's own belief.
        classes: its own names of its outputs, in their order.
        alignment: its classes by ours.
    """

    teacher: Teacher
    feeds: Mapping[str, str]
    dtypes: Mapping[str, str]
    output: str
    kind: Kind
    temperature: float
    classes: tuple[str, ...]
    alignment: Alignment

    def feed(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
        """The ensemble's inputs under the model's names and dtypes, and for which rows they say the same."""
        fed, kept = {}, np.ones(len(next(iter(inputs.values()))), dtype=bool)
        for theirs, ours in self.feeds.items():
            given = inputs[ours]
            with np.errstate(over="ignore", invalid="ignore"):
                fed[theirs] = given.astype(self.dtypes[theirs], copy=False)
                if fed[theirs].dtype != given.dtype:
                    same = says_the_same(given, fed[theirs])
                    kept &= same.reshape(len(given), -1).all(axis=1)
        return fed, kept


class SplitPlan:
    """Teachers in parallel, then floor, fusion and sparsity in numpy.

    Args:
        members: the teachers in the ensemble's order.
        classes: how many classes the ensemble has.
        pool: where the teachers run.
        reason: why this plan.
    """

    name = "split"

    def __init__(self, members: Sequence[Member], classes: int, *, pool: Executor, reason: str) -> None:
        self.reason = reason
        self._members = members
        self._classes = classes
        self._pool = pool

    def run(self, inputs: Mapping[str, Array], temperature: Array, weights: Array, pair: Pair) -> Outcome:
        """Answer a batch; a teacher whose weight is 0 in every row is not asked."""
        examined = self.examine(inputs, temperature, weights, pair)
        log_probs, finite, sparse = finish(examined.pooled, pair)
        indices, tail = sparse or (None, None)
        return Outcome(log_probs, indices, tail, examined.valid, finite)

    def examine(
        self, inputs: Mapping[str, Array], temperature: Array, weights: Array, pair: Pair
    ) -> Examined:
        """What enters the fusion, and the pool."""
        asked = [k for k in range(len(self._members)) if weights[k].any()]
        answers = list(self._pool.map(lambda k: ask(self._members[k], inputs), asked))
        opinions = np.full((len(self._members), len(temperature), self._classes), 0, dtype=np.float32)
        valid = np.ones((len(self._members), len(temperature)), dtype=bool)
        for k, (log_probs, sound) in zip(asked, answers, strict=True):
            opinions[k] = log_probs
            valid[k] = sound
        entered = enter(opinions, temperature, pair)
        return Examined(entered, pair.operator.fuse(entered, weights), valid | (weights == 0))


def ask(member: Member, inputs: Mapping[str, Array]) -> tuple[Array, Array]:
    """A teacher's opinion ``[B, C]`` and valid ``[B]``.

    Raises:
        TeacherFailure: the teacher failed, or answered with another number of classes.
    """
    fed, kept = member.feed(inputs)
    answer = member.teacher.answer(fed)
    if answer.shape[1] != member.alignment.width:
        name, width = member.teacher.name, member.alignment.width
        raise TeacherFailure(
            f"teacher {name!r} answered {answer.shape[1]} classes, not {width}", teacher=name
        )
    log_probs, valid = opinion(
        answer, kept, kind=member.kind, temperature=member.temperature, alignment=member.alignment
    )
    return log_probs, valid
