"""A plan's contract: a batch of rows in, one fused distribution a row out."""

import time
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from operators import Operator
from service.model import Array

# A few rows of many batches tell enough; of many classes or teachers, fewer.
SAMPLED_ROWS, SAMPLED_NUMBERS = 16, 1 << 15


class Pair(NamedTuple):
    """What a plan is made for: an operator with its parameters, dense or sparse, with diagnostics or not.

    Attributes:
        operator: the pool.
        floor: epsilon where the operator needs a floor, else None.
        output_temperature: recalibrates the fused target; no part of the operator.
        top_k: how many classes are kept; None keeps all.
        diagnostics: whether the target's entropy and the divergence of what is fused come with it.
    """

    operator: Operator
    floor: float | None
    output_temperature: float
    top_k: int | None
    diagnostics: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """What a graph is made for: how many classes are kept comes with each batch."""
        name, parameters, fuse = self.operator[:3]
        sparse = self.top_k is not None
        return name, parameters, fuse, self.floor, self.output_temperature, sparse, self.diagnostics


class Took(NamedTuple):
    """How long a part of a batch took.

    Attributes:
        teacher: the place of the teacher that was asked; None where it was all of them in one graph.
        fusion: whether opinions were fused, and nobody was asked.
        began_ns: when, since the epoch.
        seconds: how long, by a clock that is never set.
    """

    teacher: int | None
    fusion: bool
    began_ns: int
    seconds: float


class Watch:
    """Says how long something took."""

    def __init__(self) -> None:
        self._began_ns, self._began = time.time_ns(), time.perf_counter()

    def took(self, teacher: int | None = None, *, fusion: bool = False) -> Took:
        """What has been done since the watch was made."""
        return Took(teacher, fusion, self._began_ns, time.perf_counter() - self._began)


class Opinions(NamedTuple):
    """What the teachers say of a batch.

    Attributes:
        values: float32 ``[K, B, C]``, at temperature 1.
        valid: ``[K, B]``, as in ``Outcome``.
        failures: as in ``Outcome``.
        took: as in ``Outcome``.
    """

    values: Array
    valid: Array
    failures: dict[int, str]
    took: tuple[Took, ...]


class Outcome(NamedTuple):
    """The answer to a batch; the arrays are the calling thread's until it runs the plan again.

    Attributes:
        log_probs: float32 ``[B, C]``, or ``[B, k]`` where sparse.
        indices: int32 ``[B, k]`` where sparse, by falling log-probability, ties by index.
        tail_log_mass: float32 ``[B]`` where sparse: the log-sum-exp over the classes not kept.
        valid: ``[K, B]``, whether the teacher said anything of the row; true where it was not asked.
        finite: ``[B]``, whether the fused row is a distribution; teachers that share no class may have none.
        failures: by the teacher's place, why it said nothing of the whole batch.
        again: ``[B]``, whether the row was answered by another plan than the pair's own.
        sample: float32 ``[K + 1, n, C]``, probabilities of the first n rows (``sampled_rows``): what each
            teacher put into the fusion, and behind them the dense target. What a teacher says that was not
            heard, or has no weight, means nothing.
        opinions: float32 ``[K, B, C]``, as they are kept where opinions are, else None.
        entropy: float32 ``[B]``, of the target before it is made sparse, where diagnostics are asked for.
        divergence: float32 ``[B]``, of what enters the fusion, likewise.
        took: how long its parts took.
    """

    log_probs: Array
    indices: Array | None
    tail_log_mass: Array | None
    valid: Array
    finite: Array
    failures: Mapping[int, str]
    again: Array
    sample: Array
    opinions: Array | None = None
    entropy: Array | None = None
    divergence: Array | None = None
    took: tuple[Took, ...] = ()

    @property
    def asked_s(self) -> float:
        """How long teachers were asked; under the fused plan they are fused meanwhile."""
        return sum(one.seconds for one in self.took if not one.fusion)

    def amended(self, rows: Array, part: "Outcome") -> "Outcome":
        """With those rows as they were answered again."""
        again, valid = self.again.copy(), self.valid.copy()
        again[rows], valid[:, rows] = True, part.valid
        changed = {}
        for name in BY_ROW:
            whole, asked_again = getattr(self, name), getattr(part, name)
            if whole is not None:
                changed[name] = whole.copy()
                changed[name][rows] = asked_again
        sampled = rows[rows < self.sample.shape[1]]
        changed["sample"] = self.sample.copy()
        changed["sample"][:, sampled] = part.sample[:, : len(sampled)]
        took = self.took + part.took
        return self._replace(**changed, valid=valid, failures=part.failures, again=again, took=took)


# What an outcome holds of each row, on the first axis.
BY_ROW = ("log_probs", "indices", "tail_log_mass", "finite", "entropy", "divergence")


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
        """Answer a batch; thread-safe. Teachers that say nothing of a row are left out of it.

        Args:
            inputs: ensemble input to array ``[B, ...]``.
            temperature: float32 ``[B]``.
            weights: float32 ``[K, B]``, summing to one over K.
            pair: what is made of the teachers' opinions.

        Raises:
            GraphFailure: a graph of several teachers raised or overran.
        """
        ...


class Asked(NamedTuple):
    """What a recipe of the configuration asks of the plans.

    Attributes:
        pair: what is made of the opinions.
        temperature: of the recipe.
        weights: of the recipe, one a teacher.
    """

    pair: Pair
    temperature: float
    weights: tuple[float, ...]


class Chosen(NamedTuple):
    """A pair's plan.

    Attributes:
        plan: which answers.
        pair: for whom.
        spread: by how much the same rows differ between batch sizes, in nats.
    """

    plan: Plan
    pair: Pair
    spread: float | None


def sampled_rows(teachers: int, classes: int) -> int:
    """How many rows of a batch its sample holds: of many batches a few tell enough."""
    return max(1, min(SAMPLED_ROWS, SAMPLED_NUMBERS // (teachers * classes)))


def survivors(weights: Array, valid: Array) -> Array:
    """Weights ``[K, B]`` of the teachers that said something; rows that lose nobody keep their bits.

    A row whose every weight is lost keeps its weights: it has no answer.
    """
    lost = ~valid & (weights > 0)
    if not lost.any():
        return weights
    left = np.where(valid, weights, np.float32(0))
    total = left.sum(axis=0)
    renormalised = np.where(total > 0, left / np.where(total > 0, total, 1), weights)
    return np.where(lost.any(axis=0), renormalised, weights).astype(np.float32)
