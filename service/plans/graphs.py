"""The plans that run graphs: fused is one session; staged is one for the teachers and a small one a pair."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from cachetools import LRUCache

from service.errors import GraphFailure
from service.model import Array
from service.plans.base import Opinions, Outcome, Pair, Watch, sampled_rows, survivors
from service.plans.recording import inputs_of
from service.teachers.session import Deadlines, Session

# Pairs that arrive while the service runs are few: each is an operator with its parameters, dense or sparse.
MOST_PAIRS = 64


class FusedPlan:
    """One session for everything between a row and its target.

    Args:
        session: of the graph that ``recording.fused`` made.
        classes: of the ensemble.
        deadlines: how long a batch may take.
        reason: why this plan.
    """

    name = "fused"

    def __init__(self, session: Session, classes: int, *, deadlines: Deadlines, reason: str) -> None:
        self.reason = reason
        self._session = session
        self._classes = classes
        self._deadlines = deadlines
        self._own = threading.local()

    def run(self, inputs: Mapping[str, Array], temperature: Array, weights: Array, pair: Pair) -> Outcome:
        """Answer a batch.

        Raises:
            GraphFailure: a teacher raised or overran.
        """
        feeds = {inputs_of(name): values for name, values in inputs.items()}
        feeds |= {"temperature": temperature, "weights": weights, **_kept(pair)}
        watch = Watch()
        found = _run(self._deadlines, lambda options: self._call(feeds, pair, options))
        *made, valid = found
        return _outcome(pair, made, valid)._replace(took=(watch.took(),))

    def _call(self, feeds: dict[str, Array], pair: Pair, options: Any) -> list[Array]:
        names = [*_outputs(pair), "valid"]
        if self._session.device.kind == "cpu":  # there the runtime's own memory is handed out, without a copy
            return self._session.run(names, feeds, options)
        if any(values.dtype == object for values in feeds.values()):
            return self._session.run(names, feeds, options)
        bound = getattr(self._own, "bound", None)
        if bound is None:
            bound = self._own.bound = self._session.bound()
        shapes = _shapes(feeds["weights"].shape, pair.top_k, self._classes)
        return bound.run({name: shapes[name] for name in names}, feeds, options)


class StagedPlan:
    """One session for the teachers, and a small one for each pair.

    Args:
        session: of the graph that ``recording.teachers`` made.
        fusion: makes the session of a pair.
        deadlines: how long a batch may take.
        reason: why this plan.
    """

    name = "staged"

    def __init__(
        self, session: Session, fusion: Callable[[Pair], Session], *, deadlines: Deadlines, reason: str
    ) -> None:
        self.reason = reason
        self._session = session
        self._fusion = fusion
        self._deadlines = deadlines
        self._fusions: LRUCache[Any, Session] = LRUCache(MOST_PAIRS)
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, Array], temperature: Array, weights: Array, pair: Pair) -> Outcome:
        """Answer a batch.

        Raises:
            GraphFailure: a teacher raised or overran.
            CannotRecord: the pair's operator does not record.
        """
        self.fusion(pair)
        opinions, valid, _, took = self.opinions(inputs, weights, until=math.inf)
        outcome = self.fuse(opinions, valid, temperature, weights, pair)
        return outcome._replace(took=took + outcome.took)

    def opinions(
        self,
        inputs: Mapping[str, Array],
        weights: Array,  # noqa: ARG002 - all teachers are in the graph
        *,
        until: float,  # noqa: ARG002 - and none is elsewhere
    ) -> Opinions:
        """What the teachers say, without failures: they answer together or not at all.

        Raises:
            GraphFailure: a teacher raised or overran.
        """
        feeds = {inputs_of(name): values for name, values in inputs.items()}
        watch = Watch()
        opinions, valid = _run(
            self._deadlines, lambda options: self._session.run(["opinions", "valid"], feeds, options)
        )
        return Opinions(opinions, valid, {}, (watch.took(),))

    def fuse(self, opinions: Array, valid: Array, temperature: Array, weights: Array, pair: Pair) -> Outcome:
        """Answer rows whose opinions are known.

        Raises:
            CannotRecord: the pair's operator does not record.
        """
        given = {"opinions": opinions, "temperature": temperature, "weights": survivors(weights, valid)}
        session, watch = self.fusion(pair), Watch()
        outcome = _outcome(pair, session.run(_outputs(pair), {**given, **_kept(pair)}), valid)
        return outcome._replace(took=(watch.took(fusion=True),))

    def fusion(self, pair: Pair) -> Session:
        """The session of a pair, made when it is first asked for.

        Raises:
            CannotRecord: the pair's operator does not record.
        """
        with self._lock:
            if pair.key not in self._fusions:
                self._fusions[pair.key] = self._fusion(pair)
            return self._fusions[pair.key]


def _run(deadlines: Deadlines, call: Callable[[Any], list[Array]]) -> list[Array]:
    try:
        with deadlines.watch() as options:
            return call(options)
    except Exception as exc:  # noqa: BLE001 - ONNX Runtime's errors have no common root
        raise GraphFailure(f"the teachers' graph failed: {exc}") from None


def _kept(pair: Pair) -> dict[str, Array]:
    return {} if pair.top_k is None else {"k": np.array([pair.top_k])}


def _outputs(pair: Pair) -> list[str]:
    """The outputs of a pair's graph, but for ``valid``."""
    sparse = () if pair.top_k is None else ("indices", "tail")
    return [
        "log_probs",
        "finite",
        "sample",
        *sparse,
        *(("entropy", "divergence") if pair.diagnostics else ()),
    ]


def _shapes(
    weights: tuple[int, ...], top_k: int | None, classes: int
) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """The dtype and shape of every output that a graph can have."""
    (count, rows), single = weights, (np.dtype(np.float32), (weights[1],))
    sampled = min(rows, sampled_rows(count, classes))
    return {
        "log_probs": (np.dtype(np.float32), (rows, top_k or classes)),
        "finite": (np.dtype(bool), (rows,)),
        "valid": (np.dtype(bool), weights),
        "sample": (np.dtype(np.float32), (count + 1, sampled, classes)),
        "indices": (np.dtype(np.int32), (rows, top_k or classes)),
        "tail": single,
        "entropy": single,
        "divergence": single,
    }


def _outcome(pair: Pair, found: Sequence[Array], valid: Array) -> Outcome:
    made = dict(zip(_outputs(pair), found, strict=True))
    return Outcome(
        made["log_probs"],
        made.get("indices"),
        made.get("tail"),
        valid,
        made["finite"],
        failures={},
        again=np.zeros(len(valid[0]), dtype=bool),
        sample=made["sample"],
        entropy=made.get("entropy"),
        divergence=made.get("divergence"),
    )
