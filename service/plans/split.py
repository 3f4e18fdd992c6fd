"""The split plan: one session per teacher, in parallel, fused in numpy."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from operators.simplex import floor, log_softmax, soften, top_k
from service.errors import TeacherFailure
from service.model import Array
from service.plans.alignment import Alignment
from service.plans.base import Examined, Outcome, Pair
from service.teachers.base import Kind, Teacher, beliefs

# Probabilities below the smallest normal float32 would become zero on their way to a student.
LOG_SMALLEST = np.float32(np.log(2.0**-126))


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
        """The ensemble's inputs under the model's names and dtypes.

        Returns:
            The model's inputs, and for which rows ``[B]`` they still say what was given: a value that is too
            large for the model's dtype, or an integer that it cannot hold, would be another question.
        """
        fed, kept = {}, np.ones(len(next(iter(inputs.values()))), dtype=bool)
        for theirs, ours in self.feeds.items():
            given = inputs[ours]
            with np.errstate(over="ignore"):
                fed[theirs] = given.astype(self.dtypes[theirs], copy=False)
            if fed[theirs].dtype != given.dtype:
                kept &= _says_the_same(given, fed[theirs]).reshape(len(given), -1).all(axis=1)
        return fed, kept


def _says_the_same(given: Array, fed: Array) -> Array:
    if given.dtype.kind == "f":
        return np.asarray(np.isfinite(fed) | ~np.isfinite(given))
    if fed.dtype.kind == "f":
        return np.asarray(fed.astype(np.longdouble) == given.astype(np.longdouble))
    return np.ones(given.shape, dtype=bool)  # integers only ever go to wider ones


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
        return finish(examined.pooled, examined.valid, pair)

    def examine(
        self, inputs: Mapping[str, Array], temperature: Array, weights: Array, pair: Pair
    ) -> Examined:
        """What enters the fusion, and the pool."""
        asked = [k for k in range(len(self._members)) if weights[k].any()]
        answers = list(self._pool.map(lambda k: opinion(self._members[k], inputs), asked))
        opinions = np.full((len(self._members), len(temperature), self._classes), 0, dtype=np.float32)
        valid = np.ones((len(self._members), len(temperature)), dtype=bool)
        for k, (log_probs, sound) in zip(asked, answers, strict=True):
            opinions[k] = log_probs
            valid[k] = sound
        entered = enter(opinions, temperature, pair)
        return Examined(entered, pair.operator.fuse(entered, weights), valid | (weights == 0))


def opinion(member: Member, inputs: Mapping[str, Array]) -> tuple[Array, Array]:
    """A teacher's aligned, calibrated log-probabilities ``[B, C]`` at temperature 1, and valid ``[B]``.

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
    log_probs, valid = beliefs(answer, member.kind)
    if member.temperature != 1:
        log_probs = log_softmax(log_probs / np.float32(member.temperature))
    aligned = member.alignment(log_probs)
    valid &= kept & ~np.isnan(aligned).any(axis=1)
    return np.where(valid[:, None], aligned, np.float32(0)), valid


def enter(opinions: Array, temperature: Array, pair: Pair) -> Array:
    """Soften opinions ``[K, B, C]``, and floor them where the pair says so."""
    softened = opinions if (temperature == 1).all() else soften(opinions, temperature[None, :, None])
    return softened if pair.floor is None else floor(softened, pair.floor)


def finish(pooled: Array, valid: Array, pair: Pair) -> Outcome:
    """Recalibrate and sparsify a pool ``[B, C]``; every class stays a normal float32."""
    if pair.output_temperature != 1:
        pooled = log_softmax(pooled / np.float32(pair.output_temperature))
    finite = np.asarray(~np.isnan(pooled).any(axis=1))
    pooled = np.maximum(pooled, LOG_SMALLEST)
    if pair.top_k is None:
        return Outcome(pooled, None, None, valid, finite)
    indices, kept, tail = top_k(pooled, pair.top_k)
    return Outcome(kept, indices, tail, valid, finite)
