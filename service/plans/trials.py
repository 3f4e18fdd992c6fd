"""What a plan must show before it answers: targets, those of numpy, and the same at every batch size."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from operators.simplex import log_softmax
from service.errors import CannotRecord, TeacherError, TeacherFailure, TeacherOverrun, TeacherSilent
from service.model import Array
from service.plans import recording
from service.plans.base import Outcome, Pair, Plan
from service.plans.member import Member
from service.plans.split import ask
from service.plans.stages import LOG_SMALLEST, enter, recalibrated
from service.teachers.session import Session
from service.telemetry import logger

# Below it float32 has too few digits of a probability left to compare.
LOG_COMPARED = -80.0
# Between a graph and numpy; what rounding does is a tenth of it.
AGREEMENT, RELATIVE_AGREEMENT = 1e-4, 1e-5
CLOSURE = 1e-4
SIZES = (1, 7, 32)
MEASURE_S = 0.15
FEWEST = 4

log = logger("plans")


def disagreement(one: Array, other: Array) -> float:
    """By how much log-probabilities differ, as a multiple of what rounding may do.

    Args:
        one: ``[..., C]``.
        other: of the same shape; NaN must stand in the same places.
    """
    if (np.isnan(one) != np.isnan(other)).any():
        return math.inf
    shown = np.maximum(one, other) > LOG_COMPARED
    if not shown.any():
        return 0.0
    first, second = one[shown].astype(np.float64), other[shown].astype(np.float64)
    return float((np.abs(first - second) / (AGREEMENT + RELATIVE_AGREEMENT * np.abs(second))).max())


def differs(found: Outcome, known: Outcome) -> bool:
    """Whether two answers to the same rows differ by more than rounding."""
    if not (found.valid == known.valid).all():
        return True
    pairs = (
        (found.log_probs, known.log_probs),
        (found.entropy, known.entropy),
        (found.divergence, known.divergence),
    )
    return any(disagreement(one, other) > 1 for one, other in pairs if one is not None and other is not None)


def spread(run: Callable[[slice], Outcome], rows: int) -> float:
    """By how much log-probabilities of the same rows differ between batch sizes, in nats.

    Args:
        run: from a range of rows to their answer.
        rows: how many there are.
    """
    whole = run(slice(0, rows)).log_probs.copy()
    worst = 0.0
    for size in SIZES:
        for start in range(0, rows, size):
            part = slice(start, min(start + size, rows))
            found, known = run(part).log_probs, whole[part]
            if (np.isnan(found) != np.isnan(known)).any():
                return math.inf
            shown = np.maximum(found, known) > LOG_COMPARED
            worst = max(worst, float(np.abs(found[shown] - known[shown]).max(initial=0.0)))
    return worst


def spread_apart(where: str, member: Member, few: Mapping[str, Array], batch: Mapping[str, Array]) -> float:
    """By how much a teacher's opinion of the same row differs between batch sizes, in nats.

    A teacher elsewhere that falls silent meanwhile is not judged: that is for the batches to come.

    Args:
        where: for messages.
        member: who is tried.
        few: ensemble input to array ``[B, ...]``, sent in pieces too.
        batch: the same, as many rows as a batch may have.

    Raises:
        TeacherError: it does not answer these rows.
    """
    worst, count = 0.0, len(next(iter(few.values())))
    try:
        whole = _shown(member, few)
        for size in SIZES:
            for start in range(0, count, size) if size < count else ():
                part = slice(start, start + size)
                found = _shown(member, {name: values[part] for name, values in few.items()})
                if (np.isnan(found) != np.isnan(whole[part])).any():
                    return math.inf
                compared = np.maximum(found, whole[part]) > LOG_COMPARED
                worst = max(worst, float(np.abs(found[compared] - whole[part][compared]).max(initial=0.0)))
        ask(member, batch)
    except (TeacherSilent, TeacherOverrun) as exc:
        log.warning("teacher not tried to the end", where=where, reason=str(exc))
    except TeacherFailure as exc:
        most = len(next(iter(batch.values())))
        raise TeacherError(
            f"{where}: {exc}; it was sent up to batching.max_rows ({most}) rows at a time"
        ) from None
    return worst


def _shown(member: Member, rows: Mapping[str, Array]) -> Array:
    """A teacher's opinion ``[B, C]``, NaN in rows that it says nothing of."""
    opinions, valid = ask(member, rows)
    return np.where(valid[:, None], opinions, np.nan)


def check_converted(source: recording.Source, rows: Mapping[str, Array]) -> None:
    """A converted model must answer as the original does.

    Raises:
        CannotRecord: it does not, or not at all.
    """
    fed, _ = source.member.feed(rows)
    name = source.member.teacher.name
    given = {
        theirs: values.reshape(-1, 1) if source.teacher.columns(theirs) else values
        for theirs, values in fed.items()
    }
    try:
        session = Session(source.model.SerializeToString(), source.teacher.device, where=f"teacher {name!r}")
        (found,) = session.run([source.member.output], given)
    except Exception as exc:  # noqa: BLE001 - ONNX Runtime's errors have no common root
        raise CannotRecord(f"teacher {name!r} does not run at opset {recording.OPSET}: {exc}") from None
    known = source.teacher.answer(fed)
    scale = max(1.0, float(np.abs(known[np.isfinite(known)]).max(initial=0.0)))
    if not np.allclose(found, known, rtol=0, atol=AGREEMENT * scale, equal_nan=True):
        raise CannotRecord(f"teacher {name!r} answers differently at opset {recording.OPSET}")


def not_closed(session: Session, pair: Pair, count: int, classes: int) -> str | None:
    """What is wrong with a recorded operator, or None: it must give targets, and those that numpy gives.

    Args:
        session: of the graph that ``recording.fusion`` made of the dense pair.
        pair: with its operator.
        count: of teachers.
        classes: of the ensemble.
    """
    opinions, weights = _profiles(
        count, classes, zeros=pair.floor is None and pair.operator.domain == "zeros"
    )
    feeds = {
        "opinions": opinions.astype(np.float32),
        "temperature": np.ones(opinions.shape[1], dtype=np.float32),
        "weights": weights.astype(np.float32),
    }
    (found,) = session.run(["log_probs"], feeds)
    entered = enter(feeds["opinions"].astype(np.float64), np.ones(opinions.shape[1]), pair)
    expected, _ = recalibrated(pair.operator.fuse(entered, feeds["weights"].astype(np.float64)), pair)
    known = ~np.isnan(expected).any(axis=1)
    found, expected = found[known], expected[known]
    mass = np.exp(found.astype(np.float64)).sum(axis=1)
    if not (np.abs(mass - 1) <= CLOSURE + 2.0**-126 * classes).all():
        return f"recorded, it gives rows that sum to {mass[np.argmax(np.abs(mass - 1))]:.6g}"
    if not (found >= np.float32(LOG_SMALLEST)).all():
        return f"recorded, it gives a probability below 2^-126, log {found.min():.4g}"
    if (worst := disagreement(found, expected)) > 1:
        return f"recorded, it differs from float64 by {worst:.3g} times what is allowed"
    return None


def _profiles(count: int, classes: int, *, zeros: bool) -> tuple[Array, Array]:
    """Log-probabilities ``[K, B, C]`` of every sort, and weights ``[K, B]``, some of them 0."""
    rows = max(4, min(64, 1_000_000 // (count * classes)))
    random = np.random.default_rng(0)
    shape = (count, rows, classes)
    kinds = [log_softmax(random.normal(size=shape) * scale) for scale in (0.1, 2.0, 8.0)]
    near = log_softmax(random.normal(size=(1, rows, classes)) + 1e-3 * random.normal(size=shape))
    tied = np.full(shape, -math.log(classes))
    kinds += [near, tied]
    if zeros:
        hot = np.full(shape, -np.inf)
        np.put_along_axis(hot, random.integers(0, classes, size=(count, rows, 1)), 0.0, axis=-1)
        kinds.append(hot)
    opinions = np.concatenate(kinds, axis=1)
    weights = random.dirichlet(np.ones(count), size=opinions.shape[1]).T
    weights[:, ::5] = np.eye(count)[:, [0]]
    if count > 1:
        weights[0, 1::5] = 0
    return opinions, weights / weights.sum(axis=0)


def throughput(run: Callable[[], object], in_flight: int) -> float:
    """Batches per second of that many at a time, for a fraction of a second and some batches at least."""
    end = time.perf_counter() + MEASURE_S

    def loop() -> int:
        done = 0
        while done < FEWEST or time.perf_counter() < end:
            run()
            done += 1
        return done

    with ThreadPoolExecutor(in_flight) as pool:
        began = time.perf_counter()
        done = sum(pool.map(lambda _: loop(), range(in_flight)))
        return done / (time.perf_counter() - began)


def probe_of(
    plan: Plan, inputs: Mapping[str, Array], temperature: float, weights: Sequence[float], pair: Pair
) -> Callable[[slice], Outcome]:
    """A function from a range of the rows to the plan's answer."""

    def run(part: slice) -> Outcome:
        rows = part.stop - part.start
        return plan.run(
            {name: values[part] for name, values in inputs.items()},
            np.full(rows, temperature, dtype=np.float32),
            np.repeat(np.array(weights, dtype=np.float32)[:, None], rows, axis=1),
            pair,
        )

    return run
