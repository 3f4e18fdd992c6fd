"""A teacher's place in an ensemble."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from service.model import Array
from service.plans.alignment import Alignment
from service.plans.stages import Symbol, opinion, says_the_same
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
        meet: where it was absent when the ensemble was loaded, gives the member that takes this one's place,
            or raises a TeacherFailure; None where it is there.
    """

    teacher: Teacher
    feeds: Mapping[str, str]
    dtypes: Mapping[str, str]
    output: str
    kind: Kind
    temperature: float
    classes: tuple[str, ...]
    alignment: Alignment
    meet: "Callable[[], Member] | None" = None

    def opinion(self, answer: Symbol, kept: Symbol | None) -> tuple[Symbol, Symbol]:
        """What the teacher's answer ``[B, C_t]`` says: ``stages.opinion``."""
        return opinion(answer, kept, kind=self.kind, temperature=self.temperature, alignment=self.alignment)

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
