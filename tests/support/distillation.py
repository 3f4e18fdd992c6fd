"""Soft targets made without a server, and the student's losses once more: in float64, class by class."""

import math
from dataclasses import replace

import numpy as np
import torch

from soft_targets import SoftTargets, losses

DIVERGENCES = {
    "forward_kl": losses.forward_kl,
    "reverse_kl": losses.reverse_kl,
    "jensen_shannon": losses.jensen_shannon,
}
TAILS = ("bucket", "spread", "renormalise")
# Every pair but the one that is refused.
POLICIES = [(d, t) for d in DIVERGENCES for t in TAILS if (d, t) != ("reverse_kl", "renormalise")]
FLOOR = 2.0**-126


def log_softmax(x):
    x = np.asarray(x, dtype=np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def dense(log_probs, temperature=2.0, dtype=np.float32):
    log_probs = np.asarray(log_probs, dtype=dtype)
    rows, classes = log_probs.shape
    return SoftTargets(
        row_ids=list(range(rows)),
        log_probs=log_probs,
        indices=None,
        tail_log_mass=None,
        temperature=temperature,
        fingerprint="f",
        source=["miss"] * rows,
        classes=tuple(f"c{i}" for i in range(classes)),
    )


def sparse(targets, k):
    """The k most probable classes and the mass of the others, in the precision of the dense targets."""
    order = np.argsort(-targets.log_probs, axis=1, kind="stable")
    rest = np.take_along_axis(targets.log_probs.astype(np.float64), order[:, k:], axis=1)
    with np.errstate(divide="ignore"):
        tail = np.log(np.exp(rest).sum(axis=1))
    return replace(
        targets,
        log_probs=np.take_along_axis(targets.log_probs, order[:, :k], axis=1),
        indices=order[:, :k].astype(np.int32),
        tail_log_mass=tail.astype(np.promote_types(targets.log_probs.dtype, np.float32)),
    )


def case(rng, *, rows=6, classes=9, temperature=2.0, spread=2.0, dtype=np.float32):
    """A student's float64 logits, dense targets, labels."""
    targets = dense(log_softmax(rng.normal(size=(rows, classes)) * spread), temperature, dtype)
    logits = torch.tensor(rng.normal(size=(rows, classes)) * spread, dtype=torch.float64, requires_grad=True)
    return logits, targets, torch.tensor(rng.integers(classes, size=rows))


def student(logits, temperature):
    return np.exp(log_softmax(logits.detach().numpy() / temperature))


def whole(targets, tail):
    """The distribution over all classes that ``spread`` and ``renormalise`` take a target to mean, [B, C]."""
    q, classes = np.exp(targets.log_probs.astype(np.float64)), len(targets.classes)
    if targets.indices is None:
        return q
    mass = np.exp(targets.tail_log_mass.astype(np.float64))[:, None]
    if tail == "renormalise":
        q, mass = q / q.sum(axis=1, keepdims=True), 0.0 * mass
    full = np.repeat(mass / max(classes - q.shape[1], 1), classes, axis=1)
    np.put_along_axis(full, targets.indices.astype(np.int64), q, axis=1)
    return full


def outcomes(logits, targets, tail):
    """A row at a time: (target's mass, student's mass, number of classes) of each outcome."""
    s = student(logits, targets.temperature)
    if targets.indices is None or tail != "bucket":
        for row, theirs in zip(whole(targets, tail), s, strict=True):
            yield [(q, p, 1) for q, p in zip(row, theirs, strict=True)]
        return
    for b, theirs in enumerate(s):
        kept = targets.indices[b]
        pairs = [(math.exp(q), theirs[c], 1) for q, c in zip(targets.log_probs[b], kept, strict=True)]
        others = np.setdiff1d(np.arange(len(theirs)), kept)
        yield [*pairs, (math.exp(targets.tail_log_mass[b]), theirs[others].sum(), max(len(others), 1))]


def relative_entropy(pairs):
    return math.fsum((p * math.log(p / q) if q > 0 else math.inf) for p, q in pairs if p > 0)


def reference(logits, targets, divergence="forward_kl", tail="bucket"):
    """The divergence of each row, [B], without T^2."""
    values = []
    for row in outcomes(logits, targets, tail):
        if divergence == "forward_kl":
            values.append(relative_entropy([(q, s) for q, s, _ in row]))
        elif divergence == "reverse_kl":
            values.append(relative_entropy([(s, max(q, n * FLOOR)) for q, s, n in row]))
        else:
            to_mean = [[(side, (q + s) / 2) for side in (q, s)] for q, s, _ in row]
            values.append(sum(relative_entropy(part) for part in zip(*to_mean, strict=True)) / 2)
    return np.array(values)


def gradient(loss, logits, *arguments, **keywords):
    """The loss's gradient in the logits, float64 numpy [B, C]."""
    leaf = logits.detach().clone().requires_grad_()
    loss(leaf, *arguments, **keywords).backward()
    return leaf.grad.double().numpy()
