"""Witnesses: a case that breaks a law, as data that replays, to check by hand."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from operators.axioms.cases import Cases, Floats
from operators.axioms.check import Check, Sampler, plain, shown
from operators.axioms.shrink import DIGITS
from operators.base import Fuse, Parameters
from operators.errors import InvalidParameter


class Worst(NamedTuple):
    """The worst case so far, where it stands among which, and where those came from."""

    margin: float
    cases: Cases
    place: int
    generator: str
    sampler: Sampler


class Witness(NamedTuple):
    """A case that breaks a law.

    Attributes:
        operator: the operator's name.
        parameters: its parameters.
        check: the law's name.
        axiom: what it belongs to.
        level: the level that needs it.
        statement: the law.
        case: one case; a batch where the law is about batches, or broken in a batch only.
        margin: by how much it breaks the law beyond the tolerance; infinite where there is no answer.
        tolerance: of the law, for rounding.
        dtype: the precision it was asked in.
        generator: where the case came from.
        seed: of all cases.
        trial: its place among the cases of that generator.
        shrunk: whether it was made smaller.
        told: what was compared, for a person.
    """

    operator: str
    parameters: Parameters
    check: str
    axiom: str
    level: int
    statement: str
    case: Cases
    margin: float
    tolerance: float
    dtype: str
    generator: str
    seed: int
    trial: int
    shrunk: bool
    told: Mapping[str, object]

    def as_dict(self) -> dict[str, Any]:
        """As JSON: everything that a replay needs, and what a person reads."""
        return {
            "operator": {"name": self.operator, **plain(dict(self.parameters))},
            "check": self.check,
            "axiom": self.axiom,
            "level": self.level,
            "statement": self.statement,
            "case": case_as_dict(self.case),
            "margin": plain(self.margin),
            "tolerance": self.tolerance,
            "dtype": self.dtype,
            "generator": self.generator,
            "seed": self.seed,
            "trial": self.trial,
            "shrunk": self.shrunk,
            "told": plain(self.told),
        }


def told_of(check: Check, fuse: Fuse, case: Cases) -> tuple[Cases, dict[str, object]]:
    """What was compared, and the case with the row that it is about first, where that may move."""
    if check.cost == "batch" or case.rows == 1:
        return case, check.explain(fuse, case)
    row = int(check.measure(fuse, case).argmax())
    moved = case.take(np.array([row, *(other for other in range(case.rows) if other != row)]))
    why = f"of {case.rows} rows; alone it does not break the law: its answer depends on the others"
    if check.measure(fuse, moved)[0] > 0:
        return moved, {**check.explain(fuse, moved), "batch": f"the first {why}"}
    answer = fuse(case.log_probs, case.weights)
    return case, {"pool": shown(answer[row]), "batch": f"row {row} {why}"}


def case_as_dict(case: Cases) -> dict[str, Any]:
    """A case as JSON: probabilities where they are short, else their logarithms; ``[K, B, C]``."""
    data: dict[str, Any] = {"weights": case.weights.tolist(), **_beliefs("", case.log_probs)}
    if case.towards is not None:
        data["towards"] = case.towards.tolist()
    if case.temperature is not None:
        data["temperature"] = case.temperature.tolist()
    if case.far_log_probs is not None and case.far_weights is not None:
        data |= {"far_weights": case.far_weights.tolist(), **_beliefs("far_", case.far_log_probs)}
    return data


def _beliefs(prefix: str, log_probs: Floats) -> dict[str, Any]:
    probabilities = np.exp(log_probs)
    rounded = np.round(probabilities, max(DIGITS))
    if np.allclose(rounded, probabilities, rtol=1e-14, atol=0):
        return {f"{prefix}probabilities": rounded.tolist()}
    # JSON has no infinity: null stands for the logarithm of zero.
    logs = log_probs.astype(object)
    logs[np.isneginf(log_probs)] = None
    return {f"{prefix}log_probs": logs.tolist()}


def case_from_dict(data: Mapping[str, Any]) -> Cases:
    """The case that ``case_as_dict`` wrote.

    Raises:
        InvalidParameter: it is not one.
    """
    try:
        case = Cases(
            log_probs=_logs(data, ""),
            weights=np.array(data["weights"], dtype=np.float64),
            towards=None if "towards" not in data else np.array(data["towards"], dtype=np.int64),
            temperature=None
            if "temperature" not in data
            else np.array(data["temperature"], dtype=np.float64),
            far_log_probs=None if "far_weights" not in data else _logs(data, "far_"),
            far_weights=None if "far_weights" not in data else np.array(data["far_weights"], np.float64),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidParameter(f"this is no witness's case: {exc!r}") from None
    whole = case.log_probs.ndim == 3 and case.log_probs.shape[-1] > 0
    rows = {"towards", "temperature"}
    for name, part in case._asdict().items():
        wanted = case.log_probs.shape[: 3 if "log_probs" in name else 2]
        wanted = wanted[1:] if name in rows else wanted
        if part is not None and (not whole or part.shape != wanted):
            raise InvalidParameter(
                f"this is no witness's case: {name} has shape {list(part.shape)}, not {list(wanted)}"
            )
    if case.towards is not None and not ((case.towards >= 0) & (case.towards < len(case.log_probs))).all():
        raise InvalidParameter(f"this is no witness's case: no teacher {case.towards.tolist()}")
    return case


def _logs(data: Mapping[str, Any], prefix: str) -> Floats:
    if f"{prefix}probabilities" in data:
        with np.errstate(divide="ignore"):
            return np.log(np.array(data[f"{prefix}probabilities"], dtype=np.float64))
    logs = np.array(data[f"{prefix}log_probs"], dtype=object)
    logs[logs == None] = -np.inf  # noqa: E711 - element by element
    return logs.astype(np.float64)
