"""Mutants that hide where a certifier may not look: by size, by heat, by precision, by what is absent."""

import numpy as np
from impostors import mean, normal, where

from operators import geometric, simplex


def logs(log_probs, weights):
    return geometric().fuse(log_probs, weights)


def spread(log_probs):
    return np.ptp(log_probs, axis=-1).max(axis=0)


def lone(log_probs, weights):
    """The first teacher that has any weight."""
    return log_probs[(weights > 0).argmax(axis=0), np.arange(log_probs.shape[1])]


def biased(log_probs, weights):
    """Class 0 gains by disagreement."""
    gain = np.where(np.arange(log_probs.shape[-1]) == 0, 0.5, 0).astype(log_probs.dtype)
    apart = np.ptp(log_probs, axis=0).max(axis=-1)[:, None]
    return normal(logs(log_probs, weights) + gain * apart)


# ---- by the batch


def by_the_size_of_the_batch(p, w):
    return mean(p, w) if p.shape[1] <= 64 else logs(p, w)


def from_the_hundredth_row(p, w):
    pool = logs(p, w).copy()
    pool[100:] = mean(p[:, 100:], w[:, 100:])
    return pool


# ---- by heat


def nothing_next_to_uniform(p, w):
    return where((spread(p) > 0) & (spread(p) < 1e-5), np.nan, logs(p, w))


def nothing_when_hot(p, w):
    return where((spread(p) > 0) & (spread(p) < 0.01), np.nan, logs(p, w))


def one_teacher_when_hot(p, w):
    return where(spread(p) < 0.05, lone(p, w), logs(p, w))


def reversed_when_hot(p, w):
    return where(spread(p) < 0.03, normal(-logs(p, w)), logs(p, w))


# ---- by precision


def single_of_many_classes(p, w):
    return logs(p, w) + (1 if p.dtype == np.float32 and p.shape[-1] > 10 else 0)


def single_of_many_teachers(p, w):
    return logs(p, w) + (1 if p.dtype == np.float32 and len(p) > 5 else 0)


# ---- by size


def biased_at_twelve_classes(p, w):
    return biased(p, w) if p.shape[-1] == 12 else logs(p, w)


def biased_at_two_classes(p, w):
    return biased(p, w) if p.shape[-1] == 2 else logs(p, w)


def deaf_to_weights_of_six(p, w):
    if len(p) < 6:
        return logs(p, w)
    heard = (w > 0).astype(p.dtype)
    return logs(p, heard / heard.sum(axis=0))


def unnormalised_from_twenty_classes(p, w):
    return logs(p, w) + (0.1 if p.shape[-1] >= 20 else 0)


# ---- by what is absent, and by one teacher alone


def weights_times_logs(p, w):
    return normal((w[..., None] * p).sum(axis=0))


def hears_one_hots_alone(p, w):
    """A jump in what a lone teacher says: softened by 2 or 3, as its first two classes are ranked."""
    pool = logs(p, w)
    return where(pool[:, 0] > pool[:, 1], normal(pool / 2), normal(pool / 3))


def without_zeros(p, w):
    """The geometric pool where zeros are allowed: disjoint teachers have no pool."""
    return normal(simplex.weighted_sum(p, w))
