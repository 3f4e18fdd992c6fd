"""What a student minimises. The one module of this package that needs torch."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by

from soft_targets.errors import InputError
from soft_targets.targets import SoftTargets

__all__ = ["distillation_loss", "forward_kl", "jensen_shannon", "reverse_kl"]

Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon"]
Tail = Literal["bucket", "spread", "renormalise"]
Reduction = Literal["mean", "sum", "none"]

# The smallest normal float32: the server answers no class with less, so its targets are never lifted.
LEAST_LOG_PROBABILITY = -126 * math.log(2)
IGNORED_LABEL = -100


def distillation_loss(
    student_logits: torch.Tensor,
    targets: SoftTargets,
    labels: torch.Tensor | None = None,
    *,
    alpha: float = 0.9,
    divergence: Divergence = "forward_kl",
    tail: Tail = "bucket",
    reduction: Reduction = "mean",
    class_weights: torch.Tensor | None = None,
    temperature: float | None = None,
) -> torch.Tensor:
    """Pull the student towards the soft targets, and a little towards the hard labels.

    With T the targets' own temperature, D the divergence between the targets and the student at T, y the
    labels and w the class weights, a row's loss is::

        alpha T^2 D_b  +  (1 - alpha) w[y_b] H_b        H_b = -log softmax(student_logits_b)[y_b]

    T^2 keeps the size of the gradient independent of T. Without labels the loss is T^2 D alone, and alpha is
    not used. A term whose share is 0 is left out, even where it is infinite. Half-precision logits are
    computed with in float32; the gradient comes back in the logits' own dtype.

    Args:
        student_logits: float ``[B, C]``, before any softmax, on any device; -inf says "impossible", and at
            least one class of a row is possible.
        targets: B soft targets over the same C classes in the same order.
        labels: integer ``[B]``, 0 to C - 1; as in torch, -100 leaves a row out of the second term.
        alpha: the share of the soft targets, 0 to 1.
        divergence: D: ``forward_kl``, ``reverse_kl`` or ``jensen_shannon``, the functions of this module.
        tail: what sparse targets say of the classes not kept: ``bucket``, ``spread`` or ``renormalise``; see
            `forward_kl`. Dense targets have no tail.
        reduction: ``mean``: the mean of T^2 D over the B rows, and torch's weighted mean of the second term,
            sum_b w[y_b] H_b / sum_b w[y_b] over the rows that are not ignored (0 if there are none).
            ``sum``: the sum of the rows' losses, for callers who divide themselves. ``none``: the rows'
            losses ``[B]``.
        class_weights: w, float ``[C]``, not negative; 1 if left out. They weigh the second term alone. A row
            whose label weighs 0 counts as ignored.
        temperature: what the caller takes T to be; never used but to refuse other targets.

    Returns:
        A scalar, or ``[B]`` without reduction; of the logits' dtype, or float32 for a half precision.

    Raises:
        InputError: shapes, dtypes or options do not fit, or the temperature is not the targets'.

    Example:
        >>> import numpy as np, torch
        >>> from soft_targets import SoftTargets, distillation_loss
        >>> targets = SoftTargets(
        ...     row_ids=[0], log_probs=np.log(np.array([[0.5, 0.25, 0.25]], dtype=np.float32)), indices=None,
        ...     tail_log_mass=None, temperature=2.0, fingerprint="", source=["miss"], classes=("a", "b", "c"),
        ... )
        >>> logits = 2.0 * torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
        >>> abs(round(distillation_loss(logits, targets).item(), 4))
        0.0

    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015), section 2.
    """
    _check_options(alpha=alpha, divergence=divergence, temperature=temperature, targets=targets)
    distance = _DIVERGENCES[divergence](student_logits, targets, tail=tail, reduction=reduction)
    soft = targets.temperature**2 * distance
    if labels is None:
        if class_weights is not None:
            raise InputError("class_weights weigh the labels' term: pass labels too, or neither")
        return soft
    _check_labels(student_logits, labels, class_weights)
    hard = _label_term(_at_least_float32(student_logits), labels.long(), class_weights, reduction)
    # Each term may be infinite, and 0 times infinity is NaN.
    if alpha in (0, 1):
        return soft if alpha else hard
    return alpha * soft + (1 - alpha) * hard


def forward_kl(
    student_logits: torch.Tensor,
    targets: SoftTargets,
    *,
    tail: Tail = "bucket",
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Measure how surprising the targets are to the student; what a linear pool's student minimises.

    With q the targets and s = softmax(student_logits / T), in nats and without the factor T^2::

        KL(q || s) = sum_c q_c log(q_c / s_c)

    0 log 0 = 0: a class that the target rules out adds nothing to value or gradient. A class that the student
    rules out and the target does not makes it infinite.

    Of the classes not kept, sparse targets say only the mass t. ``tail`` is what that is taken to mean::

        bucket       they are one outcome, for target and student alike, which adds t log(t / sum of their s)
        spread       each of these C - k classes has the probability t / (C - k)
        renormalise  none of them is possible, and the kept ones have q_c / (1 - t)

    With ``bucket`` the value is never above that of the whole target, and the gradient with respect to the
    kept logits is the whole target's. It rises with k: values at different k cannot be compared.

    Args:
        student_logits: float ``[B, C]``; see `distillation_loss`.
        targets: B soft targets over the same classes. Those of float16 are renormalised, because rounding
            takes them off the simplex: their sum is off by up to about 2^-11 times their entropy.
        tail: the policy for the classes not kept.
        reduction: ``mean`` or ``sum`` over the rows, or ``none``.

    Returns:
        A scalar, or ``[B]`` without reduction; of the logits' dtype, or float32 for a half precision.

    Raises:
        InputError: shapes, dtypes or options do not fit.
    """
    log_target, log_student = _outcomes(student_logits, targets, tail)
    return _reduced(_relative_entropy(log_target, log_student), reduction)


def reverse_kl(
    student_logits: torch.Tensor,
    targets: SoftTargets,
    *,
    tail: Tail = "bucket",
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Measure how surprising the student is to the targets; what a geometric pool's student minimises.

    With q the targets and s = softmax(student_logits / T), in nats and without the factor T^2::

        KL(s || q) = sum_c s_c log(s_c / q_c)

    By definition it is infinite where q_c = 0 < s_c. Instead, targets are lifted to 2^-126 a class, and a
    bucket of n classes to n 2^-126: an impossible class costs s_c (log s_c + 87.3) and not infinity. What the
    server answers is at or above that and stays as it is. A class that the student rules out adds nothing.

    ``tail`` is as in `forward_kl`, but ``renormalise`` is refused: it makes every class not kept impossible,
    and the divergence would measure little but the floor. With ``bucket`` the value is never above that of
    the whole target; the gradient is not the whole target's, not even on the kept logits.

    Args:
        student_logits: float ``[B, C]``; see `distillation_loss`.
        targets: B soft targets over the same classes.
        tail: the policy for the classes not kept.
        reduction: ``mean`` or ``sum`` over the rows, or ``none``.

    Returns:
        A scalar, or ``[B]`` without reduction; of the logits' dtype, or float32 for a half precision.

    Raises:
        InputError: shapes, dtypes or options do not fit.
    """
    if tail == "renormalise" and targets.is_sparse:
        raise InputError(
            "renormalise makes the classes not kept impossible, where reverse_kl is infinite; "
            "use tail='bucket' or 'spread', or ask for dense targets"
        )
    log_target, log_student = _outcomes(student_logits, targets, tail, least=LEAST_LOG_PROBABILITY)
    return _reduced(_relative_entropy(log_student, log_target), reduction)


def jensen_shannon(
    student_logits: torch.Tensor,
    targets: SoftTargets,
    *,
    tail: Tail = "bucket",
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Measure how far targets and student are from their midpoint: symmetric, and never above log 2.

    With q the targets, s = softmax(student_logits / T) and m = (q + s) / 2, in nats and without T^2::

        JS(q, s) = KL(q || m) / 2 + KL(s || m) / 2

    It is finite whatever either side rules out. ``tail`` is as in `forward_kl`. With ``bucket`` the value is
    never above that of the whole target; the gradient is not the whole target's, not even on the kept logits.

    Args:
        student_logits: float ``[B, C]``; see `distillation_loss`.
        targets: B soft targets over the same classes.
        tail: the policy for the classes not kept.
        reduction: ``mean`` or ``sum`` over the rows, or ``none``.

    Returns:
        A scalar, or ``[B]`` without reduction; of the logits' dtype, or float32 for a half precision.

    Raises:
        InputError: shapes, dtypes or options do not fit.

    Source: Lin, Divergence measures based on the Shannon entropy, IEEE Trans. Inf. Theory 37(1), 1991.
    """
    log_target, log_student = _outcomes(student_logits, targets, tail)
    # The lowest finite number stands for -inf: where both are -inf, logaddexp has a gradient of NaN.
    finite = log_student.clamp(min=torch.finfo(log_student.dtype).min)
    log_mean = torch.logaddexp(log_target, finite) - math.log(2)
    both = _relative_entropy(log_target, log_mean) + _relative_entropy(log_student, log_mean)
    return _reduced(both / 2, reduction)


_DIVERGENCES: Mapping[str, Callable[..., torch.Tensor]] = MappingProxyType(
    {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jensen_shannon": jensen_shannon}
)


def _outcomes(
    student_logits: torch.Tensor, targets: SoftTargets, tail: Tail, *, least: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the targets and the student over the same outcomes: classes, or k and a bucket.

    Args:
        student_logits: float ``[B, C]``.
        targets: B soft targets.
        tail: the policy for the classes not kept.
        least: the log-probability that every class of the targets is lifted to, if any.

    Returns:
        Two tensors ``[B, C]`` or ``[B, k + 1]``.
    """
    _check_batch(student_logits, targets, tail)
    log_student = F.log_softmax(_at_least_float32(student_logits) / targets.temperature, dim=-1)
    log_target = _beside(targets.log_probs, log_student).to(log_student.dtype)
    rounded = targets.log_probs.dtype == np.float16
    if targets.indices is None:
        return _lifted(F.log_softmax(log_target, dim=-1) if rounded else log_target, least), log_student
    assert targets.tail_log_mass is not None  # it comes with the indices
    log_tail = _beside(targets.tail_log_mass, log_student).to(log_student.dtype)[:, None]
    if tail == "renormalise":
        log_target, log_tail = F.log_softmax(log_target, dim=-1), torch.full_like(log_tail, -math.inf)
    elif rounded:
        both = F.log_softmax(torch.cat([log_target, log_tail], dim=-1), dim=-1)
        log_target, log_tail = both[:, :-1], both[:, -1:]
    kept = _beside(targets.indices, log_student).long()
    # Where every class is kept the tail is empty, and a 1 keeps the logarithm finite.
    others = max(log_student.shape[1] - kept.shape[1], 1)
    if tail == "spread":
        spread = (log_tail - math.log(others)).expand_as(log_student).scatter(-1, kept, log_target)
        return _lifted(spread, least), log_student
    bucketed = torch.cat([_lifted(log_target, least), _lifted(log_tail, least, classes=others)], dim=-1)
    return bucketed, torch.cat([log_student.gather(-1, kept), _log_mass_outside(log_student, kept)], dim=-1)


def _lifted(log_target: torch.Tensor, least: float | None, *, classes: int = 1) -> torch.Tensor:
    return log_target if least is None else log_target.clamp(min=least + math.log(classes))


def _log_mass_outside(log_student: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The student's log-probability of all classes but those kept, ``[B, 1]``."""
    # A log-sum-exp over the classes not kept: 1 - sum cancels where the tail is small. The lowest finite
    # number stands for "kept", because a row of nothing but -inf has a gradient of NaN.
    lowest = torch.finfo(log_student.dtype).min
    mass = torch.logsumexp(log_student.scatter(-1, kept, lowest), dim=-1, keepdim=True)
    return mass.masked_fill(mass <= lowest, -math.inf)


def _relative_entropy(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """``sum_c p_c (log p_c - log q_c)``, ``[B]``; a class adds nothing where p is 0 or underflows."""
    # Both factors are replaced before they meet: a NaN behind a mask still reaches the gradient.
    p = torch.exp(log_p)
    empty = p == 0
    return (p * (log_p.masked_fill(empty, 0.0) - log_q.masked_fill(empty, 0.0))).sum(-1)


def _label_term(
    logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None, reduction: Reduction
) -> torch.Tensor:
    ignored = labels == IGNORED_LABEL
    if class_weights is None:
        weights = (~ignored).to(logits.dtype)
    else:
        by_class = class_weights.to(device=logits.device, dtype=logits.dtype)
        weights = by_class.index_select(0, labels.masked_fill(ignored, 0)).masked_fill(ignored, 0.0)
        # 0 times an infinite cross-entropy would be NaN.
        labels = labels.masked_fill(weights == 0, IGNORED_LABEL)
    rows = weights * F.cross_entropy(logits, labels, ignore_index=IGNORED_LABEL, reduction="none")
    if reduction != "mean":
        return _reduced(rows, reduction)
    total = weights.sum()
    return rows.sum() / total.masked_fill(total == 0, 1.0)


def _reduced(rows: torch.Tensor, reduction: Reduction) -> torch.Tensor:
    _check_name("reduction", reduction, Reduction)
    if reduction == "mean":
        return rows.mean()
    return rows.sum() if reduction == "sum" else rows


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _beside(values: np.ndarray[Any, Any], other: torch.Tensor) -> torch.Tensor:
    """The array on the other tensor's device, in its own dtype: it travels as narrow as it came."""
    # torch shares an array's memory and warns of one that cannot be written to; only that one is copied.
    shared = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    return shared.to(other.device, non_blocking=True)


def _check_batch(student_logits: torch.Tensor, targets: SoftTargets, tail: Tail) -> None:
    _check_name("tail", tail, Tail)
    if student_logits.ndim != 2 or not student_logits.is_floating_point():  # noqa: PLR2004 - [B, C]
        raise InputError(
            f"student_logits must be float [B, C], "
            f"not {student_logits.dtype} of shape {list(student_logits.shape)}"
        )
    if targets.errors:
        raise InputError(
            f"{len(targets.errors)} of the targets' rows have none; train on targets.select(targets.valid) "
            "and the same rows of the student"
        )
    rows, classes = student_logits.shape
    if rows == 0 or rows != len(targets):
        raise InputError(
            f"student_logits have {rows} rows, the targets {len(targets)}; pass the same batch, not empty"
        )
    wanted = len(targets.classes) if targets.is_sparse else targets.log_probs.shape[1]
    if classes != wanted:
        raise InputError(
            f"the student has {classes} classes, the targets {wanted}; they must agree in number and order"
        )
    if targets.is_sparse and tail == "renormalise" and np.isneginf(targets.log_probs).all(axis=1).any():
        raise InputError(
            "a target's kept classes all have probability 0, which cannot be renormalised; use tail='bucket'"
        )


def _check_options(*, alpha: float, divergence: str, temperature: float | None, targets: SoftTargets) -> None:
    _check_name("divergence", divergence, Divergence)
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be between 0 and 1, not {alpha}")
    # The tolerance is for a float32 that says the same.
    if temperature is not None and not math.isclose(temperature, targets.temperature, rel_tol=1e-6):
        raise InputError(
            f"temperature is {temperature}, but the targets were made at {targets.temperature}; ask for "
            f"targets at {temperature}, or leave it out: the loss takes it from the targets"
        )


def _check_labels(
    student_logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None
) -> None:
    rows, classes = student_logits.shape
    if (
        labels.shape != (rows,)
        or labels.is_floating_point()
        or labels.is_complex()
        or labels.dtype == torch.bool
    ):
        raise InputError(
            f"labels must be {rows} class indices (integer [B]), "
            f"not {labels.dtype} of shape {list(labels.shape)}"
        )
    if class_weights is not None and (
        class_weights.shape != (classes,) or not class_weights.is_floating_point()
    ):
        raise InputError(
            f"class_weights must be float [{classes}], one for each class, "
            f"not {class_weights.dtype} of shape {list(class_weights.shape)}"
        )


def _check_name(option: str, value: str, allowed: Any) -> None:
    if value not in get_args(allowed):
        raise InputError(f"{option} must be one of {', '.join(get_args(allowed))}, not {value!r}")
