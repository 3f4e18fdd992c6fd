"""Pooling rules that look fine and are not: published ones, and mutants that fail in one corner only."""

import numpy as np

from operators import geometric, linear, simplex


def normal(log_probs):
    return simplex.log_softmax(log_probs)


def mean(log_probs, weights):
    return linear().fuse(log_probs, weights)


def masked(weights, log_probs, otherwise):
    return np.where(weights[..., None] > 0, log_probs, otherwise)


# ---- published


def unweighted_max(p, _):
    return normal(p.max(axis=0))


def unweighted_median(p, _):
    return normal(np.median(p, axis=0))


def weighted_median(p, w):
    order = np.argsort(p, axis=0)
    shares = np.take_along_axis(np.broadcast_to(w[..., None], p.shape), order, axis=0)
    place = (np.cumsum(shares, axis=0) >= 0.5).argmax(axis=0)
    return normal(np.take_along_axis(np.take_along_axis(p, order, axis=0), place[None], axis=0)[0])


def smallest(p, w):
    return normal(masked(w, p, np.inf).min(axis=0))


def vote(p, w):
    hard = np.where(np.arange(p.shape[-1]) == p.argmax(axis=-1)[..., None], 0.0, -np.inf)
    return mean(hard.astype(p.dtype), w)


def top_two(p, w):
    pool = mean(p, w)
    return normal(np.where(pool >= np.sort(pool, axis=-1)[..., -2:-1], pool, -np.inf))


def surest_only(p, w):
    entropy = -np.where(p == -np.inf, 0, np.exp(p) * p).sum(axis=-1)
    return p[np.where(w > 0, entropy, np.inf).argmin(axis=0), np.arange(p.shape[1])]


def gate(p, w):
    heard = np.where(p.max(axis=-1) >= np.log(0.6), w, 0)
    return np.log((heard[..., None] * np.exp(p)).sum(axis=0) / heard.sum(axis=0)[:, None])


def own_weights(p, _):
    shares = np.where(np.arange(p.shape[-1]) % len(p) == np.arange(len(p))[:, None], 0.8, 0.2 / (len(p) - 1))
    return normal(np.log((shares[:, None].astype(p.dtype) * np.exp(p)).sum(axis=0)))


def experts(p, w):
    return normal(len(p) * simplex.weighted_sum(p, w))


def twice_softmax(p, w):
    return normal((w[..., None] * np.exp(p)).sum(axis=0))


def shrunk(p, w):
    return np.log(0.95 * np.exp(mean(p, w)) + 0.05 / p.shape[-1])


def sharpened(p, w):
    return normal(2 * mean(p, w))


def blurred(p, w):
    return normal(geometric().fuse(simplex.floor(p, 1e-6), w))


# ---- mutants of our own


def where(rows, one, other):
    return np.where(np.asarray(rows)[:, None], one, other)


def at_extreme_weights(p, w):
    return where(w.max(axis=0) > 0.9999, normal(0.9 * mean(p, w)), mean(p, w))


def at_ties(p, w):
    tied = (np.diff(np.sort(p[0], axis=-1), axis=-1) == 0).any(axis=-1)
    return where(tied, normal(1.2 * mean(p, w)), mean(p, w))


def from_five_classes(p, w):
    return normal(1.1 * mean(p, w)) if p.shape[-1] >= 5 else mean(p, w)


def when_cold(p, w):
    """As a softened teacher shows: very sure teachers are made less sure."""
    return where(p.max(axis=-1).min(axis=0) > np.log(0.999), normal(0.8 * mean(p, w)), mean(p, w))


def in_float32(p, w):
    return mean(p, w) + (1e-3 if p.dtype == np.float32 else 0)


def with_a_zero(p, w):
    return where((p == -np.inf).any(axis=(0, 2)), normal(0.9 * mean(p, w)), mean(p, w))


def by_the_batch(p, w):
    pool = mean(p, w)
    return normal(pool * (1 + 1e-7 * np.exp(pool[:, 0]).mean()))


def by_the_place(p, w):
    return where(np.arange(p.shape[1]) == 1, normal(1.000001 * mean(p, w)), mean(p, w))


def hears_the_absent(p, w):
    heard = w + 1e-4
    return mean(p, heard / heard.sum(axis=0))


def loses_the_small(p, w):
    pool = mean(p, w)
    return np.where(pool < np.log(1e-150), -np.inf, pool)


def jumps_at_a_third(p, w):
    return where(w[0] > 1 / 3, mean(p, w), geometric().fuse(simplex.floor(p, 1e-9), w))


def stays_put(p, w):
    far = np.where(w > 0.9, 1.0, np.where(w < 0.1, 0.0, w))
    return mean(p, far / far.sum(axis=0))


def overshoots(p, w):
    bent = w + 0.3 * np.sin(2 * np.pi * w) * (w > 0)
    return mean(p, np.maximum(bent, 1e-9 * (w > 0)) / np.maximum(bent, 1e-9 * (w > 0)).sum(axis=0))


def forgets_one_teacher(p, w):
    return mean(p[:1], np.ones_like(w[:1])) if len(p) == 2 else mean(p, w)
