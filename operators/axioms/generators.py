"""Generators: where cases come from. Every one is seeded, vectorised over the batch, and works in logs."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from operators import simplex
from operators.axioms.cases import Floats

Generator: TypeAlias = Callable[[np.random.Generator, int, int, int], Floats]

TINY = np.log(1e-200)
CONCENTRATIONS = (0.05, 0.3, 1.0, 8.0)
EPSILON = np.finfo(np.float64).eps
WEIGHT_CONCENTRATIONS = (0.3, 1.0, 5.0)


def dirichlet(random: np.random.Generator, teachers: int, rows: int, classes: int) -> Floats:
    """Independent teachers, a quarter of the rows at each of four concentrations, none of them zero."""
    alpha = np.resize(CONCENTRATIONS, rows)[None, :, None]
    return _log_dirichlet(random, np.broadcast_to(alpha, (teachers, rows, classes)))


def _log_dirichlet(random: np.random.Generator, alpha: Floats) -> Floats:
    # log Gamma(a) variates as log Gamma(a + 1) + log(U) / a: small shapes would underflow otherwise.
    logs = np.log(random.standard_gamma(alpha + 1)) + np.log1p(-random.random(alpha.shape)) / alpha
    return np.asarray(simplex.log_softmax(logs))


def near_unanimous(random: np.random.Generator, teachers: int, rows: int, classes: int) -> Floats:
    """One belief, and a little noise of its own for each teacher."""
    belief = dirichlet(random, 1, rows, classes)
    noise = random.normal(scale=0.2, size=(teachers, rows, classes))
    return np.asarray(simplex.log_softmax(belief + noise))


def coarse(random: np.random.Generator, teachers: int, rows: int, classes: int) -> Floats:
    """Probabilities on a grid of a tenth, at least .05: many ties, within and between teachers."""
    probabilities = np.exp(_log_dirichlet(random, np.ones((teachers, rows, classes))))
    return _normalised(np.maximum(np.round(probabilities, 1), 0.05))


def identical(random: np.random.Generator, teachers: int, rows: int, classes: int) -> Floats:
    """Unanimous teachers; every eighth row uniform, every eighth on the coarse grid."""
    belief = dirichlet(random, 1, rows, classes)
    belief[:, 0::8] = -np.log(classes)
    belief[:, 1::8] = coarse(random, 1, rows, classes)[:, 1::8]
    return np.repeat(belief, teachers, axis=0)


def swapped(random: np.random.Generator, teachers: int, rows: int, classes: int) -> Floats:
    """The same numbers in other places: teachers that are permutations of one another, with tied classes."""
    belief = coarse(random, 1, rows, classes)
    belief[:, 0::2] = dirichlet(random, 1, rows, classes)[:, 0::2]
    order = random.random((teachers, rows, classes)).argsort(axis=-1)
    pairs = order[:, 0::3]
    pairs[...] = np.arange(classes)  # in a third of the rows at most two classes change places
    pairs[..., :2] = random.random((*pairs.shape[:2], 2)).argsort(axis=-1)
    return np.take_along_axis(np.repeat(belief, teachers, axis=0), order, axis=-1)


def near_uniform(random: np.random.Generator, teachers: int, rows: int, classes: int) -> Floats:
    """Teachers that hardly prefer a class, as heat leaves them: log-odds of at most .001 to .1.

    Every eighth row is uniform, and sums to one or to a hair more.
    """
    spread = 10.0 ** random.uniform(-3, -1, size=(1, rows, 1))
    preferences = random.random((teachers, rows, classes))
    beliefs = np.asarray(simplex.log_softmax(preferences * spread))
    beliefs[:, 0::8] = -np.log(classes) * (1 - EPSILON * np.round(preferences[:, 0::8, :1]))
    return beliefs


def zeros(random: np.random.Generator, teachers: int, rows: int, classes: int) -> Floats:
    """Impossible classes: one-hot teachers, disjoint supports, and zeros here and there, a third each."""
    log_probs = dirichlet(random, teachers, rows, classes)
    impossible = random.random(log_probs.shape) < 0.4
    hot = random.integers(classes, size=(teachers, rows))
    kept = np.arange(classes) == hot[..., None]
    impossible[:, 0::3] = ~kept[:, 0::3]
    owner = random.integers(teachers, size=(rows, classes))
    disjoint = owner[None] != np.arange(teachers)[:, None, None]
    impossible[:, 1::3] = disjoint[:, 1::3]
    impossible &= ~kept  # every teacher keeps a class
    return np.asarray(simplex.log_softmax(np.where(impossible, -np.inf, log_probs)))


def tiny(random: np.random.Generator, teachers: int, rows: int, classes: int) -> Floats:
    """A class at 1e-200 for some or all of the teachers: no zero, and below every float32."""
    log_probs = dirichlet(random, teachers, rows, classes)
    chosen = np.arange(classes) == random.integers(classes, size=(1, rows, 1))
    some = random.random((teachers, rows, 1)) < 0.7
    some[:, 0::2] = True
    return np.asarray(simplex.log_softmax(np.where(chosen & some, TINY, log_probs)))


POSITIVE: Mapping[str, Generator] = MappingProxyType(
    {
        "dirichlet": dirichlet,
        "near_unanimous": near_unanimous,
        "coarse": coarse,
        "identical": identical,
        "swapped": swapped,
        "near_uniform": near_uniform,
    }
)
EXTREME: Mapping[str, Generator] = MappingProxyType({"zeros": zeros, "tiny": tiny})


def weights(random: np.random.Generator, teachers: int, rows: int) -> Floats:
    """Weights ``[K, B]``: spread, lopsided and even; then vertices, edges, ties, and entries of 1e-12."""
    alpha = np.resize(WEIGHT_CONCENTRATIONS, rows)[:, None]
    drawn = np.exp(_log_dirichlet(random, np.broadcast_to(alpha, (rows, teachers)))).T
    rank = random.random((teachers, rows)).argsort(axis=0)
    kind = random.integers(16, size=rows)
    drawn = np.where((kind == 0) & (rank > 0), 0.0, drawn)  # a vertex
    drawn = np.where((kind == 1) & (rank > 1), 0.0, drawn)  # an edge
    drawn = np.where((kind == 2) & (rank == 0), 1e-12, drawn)  # next to nothing
    drawn = np.where((kind == 3) & (rank > 0), drawn * 1e-4, drawn)  # nearly a vertex
    drawn = np.where(kind == 4, 1.0, drawn)  # all equal
    drawn = np.where(kind == 5, np.maximum(np.round(drawn, 1), 0.1), drawn)  # a coarse grid
    return np.asarray(drawn / drawn.sum(axis=0))


def positive_weights(random: np.random.Generator, teachers: int, rows: int) -> Floats:
    """Weights ``[K, B]``, every one of them positive."""
    drawn = weights(random, teachers, rows) + 0.01 / teachers
    return np.asarray(drawn / drawn.sum(axis=0))


def lifted(log_probs: Floats, lowest: float) -> Floats:
    """No probability below ``lowest``, up to what normalising takes."""
    return np.asarray(simplex.log_softmax(np.maximum(log_probs, np.log(lowest))))


def _normalised(probabilities: Floats) -> Floats:
    return np.asarray(np.log(probabilities / probabilities.sum(axis=-1, keepdims=True)))
