"""A plan's contract: a batch of rows in, one fused distribution a row out."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from operators import Operator
from service.model import Array


class Pair(NamedTuple):
    """What a plan is made for: an operator with its parameters, dense or sparse.

    Attributes:
        operator: the pool.
        floor: epsilon where the operator needs a floor, else None.
        output_temperature: recalibrates the fused target; no part of the operator.
        top_k: how many classes are kept; None keeps all.
    """

    operator: Operator
    floor: float | None
    output_temperature: float
    top_k: int | None


class Outcome(NamedTuple):
    """The answer to a batch.

    Attributes:
        log_probs: float32 ``[B, C]``, or ``[B, k]`` where sparse.
        indices: int32 ``[B, k]`` where sparse, by falling log-probability, ties by index.
        tail_log_mass: float32 ``[B]`` where sparse: the log-sum-exp over the classes not kept.
        valid: ``[K, B]``, whether the teacher said anything of the row; true where its weight is 0.
        finite: ``[B]``, whether the fused row is a distribution; teachers that share no class may have none.
    """

    log_probs: Array
    indices: Array | None
    tail_log_mass: Array | None
    valid: Array
    finite: Array


class Examined(NamedTuple):
    """What a batch's answer is made of.

    Attributes:
        entered: float32 ``[K, B, C]``, what enters the fusion: softened, and floored where the pair says so.
        pooled: float32 ``[B, C]``, what the operator makes of it, before any stage behind it.
        valid: ``[K, B]``, as in ``Outcome``.
    """

    entered: Array
    pooled: Array
    valid: Array


class Plan(Protocol):
    """What every plan offers."""

    @property
    def name(self) -> str:
        """Fused, staged or split."""
        ...

    @property
    def reason(self) -> str:
        """Why this plan and no other."""
        ...

    def run(self, inputs: Mapping[str, Array], temperature: Array, weights: Array, pair: Pair) -> Outcome:
        """Answer a batch; thread-safe.

        Args:
            inputs: ensemble input to array ``[B, ...]``.
            temperature: float32 ``[B]``.
            weights: float32 ``[K, B]``, summing to one over K.
            pair: what is made of the teachers' opinions.

        Raises:
            TeacherFailure: a teacher with a positive weight failed.
        """
        ...

    def examine(
        self, inputs: Mapping[str, Array], temperature: Array, weights: Array, pair: Pair
    ) -> Examined:
        """What ``run`` would fuse, and what the operator makes of it; the same arguments and errors."""
        ...
