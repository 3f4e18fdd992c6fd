"""Witnesses: a case that breaks a law, made as small and round as it stays broken, to check by hand."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from operators.axioms.cases import Cases, Floats, NotJudged
from operators.axioms.check import Check
from operators.base import Fuse
from operators.errors import InvalidParameter

DIGITS = (1, 2, 3)
MOST_SHRINKS = 200


class Witness(NamedTuple):
    """A case that breaks a law.

    Attributes:
        check: the law's name.
        axiom: what it belongs to.
        level: the level that needs it.
        statement: the law.
        case: one case (or the batch, where the law is about batches).
        margin: by how much it breaks the law beyond the tolerance; infinite where there is no answer.
        dtype: the precision it was asked in.
        generator: where the case came from.
        trial: its place among the cases of that generator.
        shrunk: whether it was made smaller.
        told: what was compared, for a person.
    """

    check: str
    axiom: str
    level: int
    statement: str
    case: Cases
    margin: float
    dtype: str
    generator: str
    trial: int
    shrunk: bool
    told: Mapping[str, object]

    def as_dict(self) -> dict[str, Any]:
        """As JSON: everything that a replay needs, and what a person reads."""
        return {
            "check": self.check,
            "axiom": self.axiom,
            "level": self.level,
            "statement": self.statement,
            "case": case_as_dict(self.case),
            "margin": None if not np.isfinite(self.margin) else self.margin,
            "dtype": self.dtype,
            "generator": self.generator,
            "trial": self.trial,
            "shrunk": self.shrunk,
            "told": dict(self.told),
        }


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
        return Cases(
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


def _logs(data: Mapping[str, Any], prefix: str) -> Floats:
    if f"{prefix}probabilities" in data:
        with np.errstate(divide="ignore"):
            return np.log(np.array(data[f"{prefix}probabilities"], dtype=np.float64))
    logs = np.array(data[f"{prefix}log_probs"], dtype=object)
    logs[logs == None] = -np.inf  # noqa: E711 - element by element
    return logs.astype(np.float64)


def shrink(check: Check, fuse: Fuse, case: Cases, *, lowest: float) -> tuple[Cases, bool]:
    """Make a broken case smaller: fewer teachers, fewer classes, round numbers, as long as it stays broken.

    Args:
        check: the law.
        fuse: the operator.
        case: one case that breaks it.
        lowest: the smallest probability that the domain allows; 0 allows zeros.

    Returns:
        The case, and whether it was made smaller.
    """
    if case.rows != 1:
        return case, False
    shrunk, changed = case, False
    for _ in range(MOST_SHRINKS):
        for smaller in _smaller(shrunk, lowest):
            if len(smaller.log_probs) >= check.needs and _sound(smaller) and broken(check, fuse, smaller):
                shrunk, changed = smaller, True
                break
        else:
            return shrunk, changed
    return shrunk, changed


def broken(check: Check, fuse: Fuse, case: Cases) -> bool:
    """Whether a case breaks the law; one the operator cannot be judged on does not."""
    try:
        with np.errstate(all="ignore"):
            return bool((check.measure(fuse, case) > 0).any())
    except NotJudged:
        return False


def _smaller(case: Cases, lowest: float) -> Iterator[Cases]:
    teachers, _, classes = case.log_probs.shape
    for teacher in range(teachers) if teachers > 1 else ():
        yield from _without_teacher(case, teacher)
    for column in range(classes) if classes > 2 else ():
        yield _without_class(case, column)
    for digits in DIGITS:
        yield from _rounded(case, digits, lowest)


def _without_teacher(case: Cases, teacher: int) -> Iterator[Cases]:
    keep = [k for k in range(len(case.log_probs)) if k != teacher]
    weights = case.weights[keep]
    if case.towards is not None and (case.towards == teacher).any():
        return
    towards = None if case.towards is None else case.towards - (case.towards > teacher)
    far = case.far_weights
    if weights.sum() <= 0 or (far is not None and far[keep].sum() <= 0):
        return
    yield case._replace(
        log_probs=case.log_probs[keep],
        weights=weights / weights.sum(axis=0),
        towards=towards,
        far_log_probs=None if case.far_log_probs is None else case.far_log_probs[keep],
        far_weights=None if far is None else far[keep] / far[keep].sum(axis=0),
    )


def _without_class(case: Cases, column: int) -> Cases:
    def without(log_probs: Floats | None) -> Floats | None:
        if log_probs is None:
            return None
        kept = np.delete(log_probs, column, axis=-1)
        with np.errstate(all="ignore"):
            return np.asarray(kept - np.log(np.exp(kept).sum(axis=-1, keepdims=True)))

    smaller = without(case.log_probs)
    assert smaller is not None
    return case._replace(log_probs=smaller, far_log_probs=without(case.far_log_probs))


def _rounded(case: Cases, digits: int, lowest: float) -> Iterator[Cases]:
    """Everything on a grid of so many digits, and then each part alone."""
    beliefs = _on_grid(case.log_probs, digits, lowest)
    far = None if case.far_log_probs is None else _on_grid(case.far_log_probs, digits, lowest)
    shares = _shares_on_grid(case.weights, digits)
    far_shares = None if case.far_weights is None else _shares_on_grid(case.far_weights, digits)
    temperature = None if case.temperature is None else np.maximum(np.round(case.temperature, digits), 0.1)
    options = [
        {"log_probs": beliefs, "far_log_probs": far, "weights": shares, "far_weights": far_shares},
        {"log_probs": beliefs, "far_log_probs": far},
        {"weights": shares, "far_weights": far_shares},
        {"temperature": temperature},
    ]
    for option in options:
        smaller = case._replace(**option)  # type: ignore[arg-type]
        if not _same(smaller, case) and _digits(smaller) < _digits(case):
            yield smaller


def _on_grid(log_probs: Floats, digits: int, lowest: float) -> Floats:
    probabilities = np.round(np.exp(log_probs), digits)
    probabilities = np.maximum(probabilities, lowest if lowest == 0 else max(lowest, 10.0**-digits))
    top = probabilities.argmax(axis=-1)[..., None]
    rest = probabilities.sum(axis=-1, keepdims=True) - np.take_along_axis(probabilities, top, axis=-1)
    np.put_along_axis(probabilities, top, np.round(1 - rest, digits), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(probabilities)


def _shares_on_grid(weights: Floats, digits: int) -> Floats:
    shares = np.round(weights, digits)
    top = shares.argmax(axis=0)[None]
    rest = shares.sum(axis=0, keepdims=True) - np.take_along_axis(shares, top, axis=0)
    np.put_along_axis(shares, top, np.round(1 - rest, digits), axis=0)
    return shares


def _same(one: Cases, other: Cases) -> bool:
    return all(
        (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
        for a, b in zip(one, other, strict=True)
    )


def _sound(case: Cases) -> bool:
    """Whether it still holds beliefs and shares: nothing negative, nothing lost."""
    beliefs = [part for part in (case.log_probs, case.far_log_probs) if part is not None]
    shares = [part for part in (case.weights, case.far_weights) if part is not None]
    return not any(np.isnan(part).any() or (part > 1e-12).any() for part in beliefs) and not any(
        np.isnan(part).any() or (part < 0).any() for part in shares
    )


def _digits(case: Cases) -> int:
    parts = [np.exp(case.log_probs), case.weights, case.temperature, case.far_weights]
    if case.far_log_probs is not None:
        parts.append(np.exp(case.far_log_probs))
    return sum(len(f"{value:.12g}") for part in parts if part is not None for value in np.ravel(part))
