"""Shrinking: a broken case with fewer rows, teachers and classes, and in round numbers, that stays broken."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from operators import simplex
from operators.axioms.cases import Cases, Floats, NotJudged
from operators.axioms.check import Check
from operators.base import Fuse

DIGITS = (1, 2, 3)
# What one witness is worth: calls of the operator, and numbers in the log-probabilities it was given.
MOST_CALLS = 6_000
MOST_NUMBERS = 50_000_000
ROUND_UP_TO = 64  # classes: more in round numbers do not sum to one

Drop = Callable[[Cases, np.ndarray], Cases | None]


def shrink(check: Check, fuse: Fuse, case: Cases, *, floor: float) -> tuple[Cases, bool]:
    """Make a broken case smaller, as long as it stays broken and within the domain it came from.

    Halves are dropped before quarters, and single rows, teachers and classes last.

    Args:
        check: the law.
        fuse: the operator.
        case: a case that breaks it; of several rows only where one alone does not.
        floor: epsilon of the floored domain; 0 where zeros are allowed.

    Returns:
        The case, and whether it was made smaller.
    """
    attempt = _Attempt(check, fuse, case)
    # Some laws are about what lies outside the domain: their cases do not begin in it.
    floor = floor if floor and _within(case, floor) else 0.0
    changed = True
    while changed and not attempt.spent:
        changed = _fewer(attempt, lambda case: case.rows, _keep_rows)
        changed |= _fewer(attempt, lambda case: len(case.log_probs), _keep_teachers)
        changed |= _fewer(attempt, lambda case: case.log_probs.shape[-1], _keeping_classes(floor))
        changed |= any(attempt.takes(rounder) for rounder in _rounded(attempt.case, floor))
    return attempt.case, attempt.case is not case


class _Attempt:
    """The smallest broken case so far, and how often the operator was asked."""

    def __init__(self, check: Check, fuse: Fuse, case: Cases) -> None:
        self._check = check
        self._fuse = fuse
        self._calls = 0
        self._numbers = 0
        self.case = case

    @property
    def spent(self) -> bool:
        """Whether the operator was asked as often as one witness is worth."""
        return self._calls >= MOST_CALLS or self._numbers >= MOST_NUMBERS

    def takes(self, smaller: Cases | None) -> bool:
        """Whether a case is one, and broken: it is then the smallest so far."""
        if smaller is None or self.spent or len(smaller.log_probs) < self._check.needs or not _sound(smaller):
            return False
        if broken(self._check, self._asked, smaller):
            self.case = smaller
            return True
        return False

    def _asked(self, log_probs: Floats, weights: Floats) -> Floats:
        self._calls += 1
        self._numbers += log_probs.size
        return np.asarray(self._fuse(log_probs, weights))


def broken(check: Check, fuse: Fuse, case: Cases) -> bool:
    """Whether a case breaks the law; one the operator cannot be judged on does not."""
    try:
        with np.errstate(all="ignore"):
            return bool((check.measure(fuse, case) > 0).any())
    except NotJudged:
        return False


def _fewer(attempt: _Attempt, count: Callable[[Cases], int], keep: Drop) -> bool:
    """Drop stretches of an axis, the longest first."""
    changed = False
    size = count(attempt.case) // 2
    while size >= 1 and not attempt.spent:
        at = 0
        while at < count(attempt.case) and not attempt.spent:
            places = np.arange(count(attempt.case))
            kept = places[(places < at) | (places >= at + size)]
            if len(kept) and attempt.takes(keep(attempt.case, kept)):
                changed = True
            else:
                at += size
        size //= 2
    return changed


def _keep_rows(case: Cases, kept: np.ndarray) -> Cases:
    return case.take(kept)


def _keep_teachers(case: Cases, kept: np.ndarray) -> Cases | None:
    weights = case.weights[kept]
    far = None if case.far_weights is None else case.far_weights[kept]
    if (weights.sum(axis=0) <= 0).any() or (far is not None and (far.sum(axis=0) <= 0).any()):
        return None
    if case.towards is not None and not np.isin(case.towards, kept).all():
        return None
    return case._replace(
        log_probs=case.log_probs[kept],
        weights=weights / weights.sum(axis=0),
        towards=None if case.towards is None else np.searchsorted(kept, case.towards),
        far_log_probs=None if case.far_log_probs is None else case.far_log_probs[kept],
        far_weights=None if far is None else far / far.sum(axis=0),
    )


def _keeping_classes(floor: float) -> Drop:
    def keep(case: Cases, kept: np.ndarray) -> Cases | None:
        if len(kept) < 2:
            return None
        return case._replace(
            log_probs=_renormalised(case.log_probs[..., kept], floor),
            far_log_probs=None
            if case.far_log_probs is None
            else _renormalised(case.far_log_probs[..., kept], floor),
        )

    return keep


def _renormalised(log_probs: Floats, floor: float) -> Floats:
    """Of fewer classes the lowest allowed is higher: lifted where it has to be."""
    smaller = np.asarray(simplex.log_softmax(log_probs))
    if not floor or _above(smaller, floor):
        return smaller
    return np.asarray(simplex.floor(smaller, floor))


def _within(case: Cases, floor: float) -> bool:
    return all(_above(part, floor) for part in (case.log_probs, case.far_log_probs) if part is not None)


def _above(log_probs: Floats, floor: float) -> bool:
    return bool((log_probs >= np.log(floor / log_probs.shape[-1]) - 1e-6).all())


def _rounded(case: Cases, floor: float) -> Iterator[Cases]:
    """Everything on a grid of so many digits, and then each part alone; the coarsest first."""
    classes = case.log_probs.shape[-1]
    if classes > ROUND_UP_TO:
        return
    for digits in DIGITS:
        beliefs = _on_grid(case.log_probs, digits, floor / classes)
        far = None if case.far_log_probs is None else _on_grid(case.far_log_probs, digits, floor / classes)
        shares = _shares_on_grid(case.weights, digits)
        far_shares = None if case.far_weights is None else _shares_on_grid(case.far_weights, digits)
        options: list[dict[str, Any]] = [
            {"log_probs": beliefs, "far_log_probs": far, "weights": shares, "far_weights": far_shares},
            {"log_probs": beliefs, "far_log_probs": far},
            {"weights": shares, "far_weights": far_shares},
        ]
        if case.temperature is not None:
            options.append({"temperature": np.maximum(np.round(case.temperature, digits), 0.1)})
        for option in options:
            smaller = case._replace(**option)
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
