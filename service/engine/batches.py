"""One batch through the plans: every row gets its value or its failure."""

import math
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from service.batching.batcher import Part
from service.engine.ensemble import Effective, Ensemble
from service.engine.measuring import Measures
from service.errors import BadInput, TeacherFailure
from service.guarantees import report
from service.model import Array, RowFailure
from service.plans.base import Outcome
from service.telemetry import Spans, correlation, logger
from service.telemetry.spans import BatchSpan

log = logger("engine")


class Answer(NamedTuple):
    """What a batch says of one row.

    Attributes:
        value: its target's bytes, None where there is none.
        failure: why, None where there is one.
        missing: the teachers that it had to do without.
        keep: whether the value may be cached: every teacher was heard, in the pair's own plan.
        source: ``miss``, or ``opinions`` where no teacher was asked.
        opinions: the teachers' opinions as bytes, where they may be kept.
        span: of the batch, where there is one.
    """

    value: bytes | None
    failure: RowFailure | None
    missing: tuple[str, ...] = ()
    keep: bool = False
    source: str = "miss"
    opinions: bytes | None = None
    span: Any = None


FAILED = Answer(None, RowFailure("internal", "the batch failed; the server's log says why"))


class Question(NamedTuple):
    """What a request asks of its rows.

    Attributes:
        effective: the recipe as asked for.
        inputs: ensemble input to array ``[N, ...]``; None where the rows' opinions are known.
        opinions: by row, as they were kept.
        until: by ``time.monotonic``, when the request is over.
        span: of the request, where there is one.
        request_id: of the request, for the log.
    """

    effective: Effective
    inputs: Mapping[str, Array] | None
    opinions: Mapping[int, bytes] = MappingProxyType({})
    until: float = math.inf
    span: Any = None
    request_id: str | None = None


def batch(
    ensemble: Ensemble, measures: Measures, spans: Spans, parts: Sequence[Part[Question]]
) -> list[Answer]:
    """Run one batch through the plan.

    Args:
        ensemble: whose teachers answer.
        measures: of the ensemble.
        spans: of the server.
        parts: rows of requests that ask the same pair, at temperatures and weights of their own.
    """
    asking = [part.payload.span for part in parts]
    rows = sum(len(part.rows) for part in parts)
    ids = correlation.of_requests(part.payload.request_id for part in parts)
    with ids, spans.batch(asking, ensemble=ensemble.name, rows=rows) as span:
        answers = _batch(ensemble, measures, span, parts)
    return answers if span.context is None else [answer._replace(span=span.context) for answer in answers]


def _batch(
    ensemble: Ensemble, measures: Measures, span: BatchSpan, parts: Sequence[Part[Question]]
) -> list[Answer]:
    temperature, weights = (np.concatenate(one, axis=-1) for one in zip(*map(_asked_by, parts), strict=True))
    effective, inference = parts[0].payload.effective, parts[0].payload.inputs is not None
    now = time.monotonic()
    measures.began([now - part.asked for part in parts], len(temperature), inference=inference)
    try:
        if not inference:
            opinions = _opinions(ensemble, parts)
            outcome = ensemble.plans.fuse(opinions, temperature, weights, effective.pair)
            measures.ended(outcome, weights, effective.pair)
            _tell_parts(ensemble, span, outcome)
            answers = answers_of(ensemble, _packed(parts, outcome), weights, outcome)
            return [answer._replace(source="opinions") for answer in answers]
        until = max(part.payload.until for part in parts)
        outcome = ensemble.plans.run(_inputs(parts), temperature, weights, effective.pair, until=until)
    except Exception as exc:
        log.exception("batch failed", ensemble=ensemble.name)
        measures.failed()
        span.failed(repr(exc))
        return [FAILED] * len(temperature)
    ensemble.health.record(weights, outcome.valid)
    measures.ended(outcome, weights, effective.pair)
    _tell_parts(ensemble, span, outcome)
    answers = answers_of(ensemble, _packed(parts, outcome), weights, outcome)
    if not outcome.valid.all():
        _complain(ensemble, weights, outcome)
        measures.degraded(sum(bool(answer.missing) for answer in answers))
    return answers


def _complain(ensemble: Ensemble, weights: Array, outcome: Outcome) -> None:
    """Log which teachers said nothing of a batch, or of rows of it: of each now and then, however often."""
    lost = np.flatnonzero((~outcome.valid & (weights > 0)).any(axis=1))
    for place in sorted({*outcome.failures, *lost.tolist()}):
        teacher = ensemble.members[place].teacher.name
        if batches := ensemble.complaints.times(teacher):
            error = outcome.failures.get(place, "no distribution: not finite, or not summing to one")
            log.warning(
                "teacher failed", ensemble=ensemble.name, teacher=teacher, error=error, batches=batches
            )


def _tell_parts(ensemble: Ensemble, span: BatchSpan, outcome: Outcome) -> None:
    for one in outcome.took:
        if one.fusion:
            name = "fuse"
        elif one.teacher is None:
            name = "teachers"
        else:
            name = f"teacher.{ensemble.members[one.teacher].teacher.name}"
        error = None if one.teacher is None else outcome.failures.get(one.teacher)
        span.part(name, one.began_ns, one.seconds, error=error)


def _inputs(parts: Sequence[Part[Question]]) -> dict[str, Array]:
    given = [(part.payload.inputs or {}, part.rows) for part in parts]
    return {name: np.concatenate([inputs[name][rows] for inputs, rows in given]) for name in given[0][0]}


def _opinions(ensemble: Ensemble, parts: Sequence[Part[Question]]) -> Array:
    """What was kept, as float32 ``[K, B, C]``."""
    return opinions_of(ensemble, b"".join(part.payload.opinions[row] for part in parts for row in part.rows))


def opinions_of(ensemble: Ensemble, data: bytes) -> Array:
    """Kept opinions, those of a row behind those of another, as float32 ``[K, B, C]``."""
    shape = (-1, len(ensemble.members), len(ensemble.classes))
    values = np.frombuffer(data, ensemble.keep).reshape(shape).astype(np.float32)
    return np.ascontiguousarray(values.transpose(1, 0, 2))


def _kept(ensemble: Ensemble, opinions: Array) -> list[bytes]:
    data = opinions.transpose(1, 0, 2).astype(ensemble.keep).tobytes()
    size = len(data) // opinions.shape[1]
    return [data[start : start + size] for start in range(0, len(data), size)]


def _asked_by(part: Part[Question]) -> tuple[Array, Array]:
    return asked_alike(part.payload.effective, len(part.rows))


def _packed(parts: Sequence[Part[Question]], outcome: Outcome) -> list[bytes]:
    """Every row's target as bytes, in the precision that its request asks for."""
    layouts = [part.payload.effective.layout for part in parts]
    packed = {
        layout: layout.pack(
            outcome.log_probs,
            outcome.indices,
            outcome.tail_log_mass,
            entropy=outcome.entropy,
            divergence=outcome.divergence,
        )
        for layout in set(layouts)
    }
    if len(packed) == 1:
        return packed[layouts[0]]
    of_rows = [layout for layout, part in zip(layouts, parts, strict=True) for _ in part.rows]
    return [packed[layout][row] for row, layout in enumerate(of_rows)]


def answers_of(ensemble: Ensemble, values: list[bytes], weights: Array, outcome: Outcome) -> list[Answer]:
    """What a plan's outcome says of each row, by the ensemble's quorum."""
    cached = ensemble.config.not_cached is None
    answers = [
        Answer(value, None, keep=cached and not again)
        for value, again in zip(values, outcome.again, strict=True)
    ]
    for row in np.flatnonzero(~outcome.finite):
        answers[row] = Answer(
            None,
            RowFailure(
                "disjoint_support",
                "the teachers share no class of positive probability, so this operator has no answer",
            ),
        )
    if outcome.opinions is not None and ensemble.keep is not None and cached:
        whole = outcome.valid.all(axis=0) & ~outcome.again
        for place, opinions in enumerate(_kept(ensemble, outcome.opinions)):
            if whole[place]:
                answers[place] = answers[place]._replace(opinions=opinions)
    lost = ~outcome.valid & (weights > 0)
    for row in np.flatnonzero(lost.any(axis=0)):
        failure = _lost(ensemble, np.flatnonzero(lost[:, row]), weights[:, row], outcome, int(row))
        if failure is not None:
            answers[row] = Answer(None, failure)
        elif answers[row].failure is None:
            names = tuple(ensemble.members[k].teacher.name for k in np.flatnonzero(lost[:, row]))
            answers[row] = Answer(values[row], None, names)
    return answers


def _lost(ensemble: Ensemble, silent: Array, weights: Array, outcome: Outcome, row: int) -> RowFailure | None:
    """Why a row without these teachers has no target; None where the quorum is met."""
    names = ", ".join(repr(ensemble.members[k].teacher.name) for k in silent)
    why = "; ".join(outcome.failures[k] for k in silent if k in outcome.failures)
    quorum = ensemble.config.quorum
    if quorum == "all":
        if why:
            return RowFailure(TeacherFailure.code, why)
        return RowFailure(
            "teacher_invalid", f"no distribution from teacher {names}: not finite, or not summing to one"
        )
    heard = outcome.valid[:, row]
    if heard.sum() < quorum or not weights[heard].any():
        left = int(heard.sum())
        return RowFailure(
            "quorum_lost",
            f"{left} of {len(heard)} teachers are left without {names}, "
            + (f"the quorum is {quorum}" if left < quorum else "and none of them has a weight")
            + (f"; {why}" if why else ""),
        )
    return None


def examine(
    ensemble: Ensemble, effective: Effective, inputs: Mapping[str, Array], labels: list[int] | None
) -> list[dict[str, Any]]:
    """The guarantees of a batch: what pooling bought on the rows that every teacher answered.

    Raises:
        TeacherFailure: a teacher failed.
        BadInput: there is no row that every teacher answered.
    """
    rows = len(next(iter(inputs.values())))
    temperature, weights = asked_alike(effective, rows)
    found = ensemble.plans.apart.examine(inputs, temperature, weights, effective.pair)
    for place, message in found.failures.items():
        raise TeacherFailure(message, teacher=ensemble.members[place].teacher.name)
    judged = np.asarray((found.valid | (weights == 0)).all(axis=0))
    if not judged.any():
        raise BadInput("no row of these was answered by every teacher; soft targets of them say why")
    kept = None if labels is None else [label for label, one in zip(labels, judged, strict=True) if one]
    return report(
        effective.pair.operator,
        found.entered[:, judged],
        weights[:, judged],
        found.pooled[judged],
        kept,
        unsafe=ensemble.config.unsafe_indices,
    )


def asked_alike(effective: Effective, rows: int) -> tuple[Array, Array]:
    """Temperature ``[B]`` and weights ``[K, B]`` of rows that are all asked alike."""
    weights = np.array(effective.recipe.weights, dtype=np.float32)
    return (
        np.full(rows, effective.recipe.temperature, dtype=np.float32),
        np.repeat(weights[:, None], rows, axis=1),
    )
