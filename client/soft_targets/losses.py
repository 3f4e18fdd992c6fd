"""What a student minimises. The one module of this package that needs torch."""

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by

from soft_targets.errors import InputError
from soft_targets.targets import SoftTargets

__all__ = ["distillation_loss"]


def distillation_loss(
    student_logits: torch.Tensor,
    targets: SoftTargets,
    labels: torch.Tensor | None = None,
    *,
    alpha: float = 0.9,
) -> torch.Tensor:
    """Pull the student towards the soft targets, and a little towards the hard labels.

    With T the targets' own temperature, q the targets and s(T) = softmax(student_logits / T)::

        alpha T^2 mean_b KL(q_b || s_b(T))  +  (1 - alpha) mean_b -log s_b(1)[label_b]

    T^2 keeps the size of the gradient independent of T. Without labels the loss is the first term alone,
    ``T^2 mean KL``, and alpha is not used. For sparse targets with kept classes S and tail mass t, all other
    classes count as one::

        KL(q || s) is replaced by  sum_{c in S} q_c log(q_c / s_c)  +  t log(t / sum_{c not in S} s_c)

    which is never larger than the full divergence and has the same gradient with respect to the kept logits.
    0 log 0 = 0: a class of probability 0, or an empty tail, adds nothing to value or gradient. Half-precision
    logits are computed with in float32.

    Args:
        student_logits: float ``[B, C]``, before any softmax, on any device; -inf is allowed where the target
            is 0.
        targets: B soft targets over the same C classes in the same order.
        labels: integer ``[B]``, 0 to C - 1; as in torch, -100 leaves a row out of the second term.
        alpha: the share of the soft targets, 0 to 1.

    Returns:
        A scalar of the logits' dtype, or float32 where that is a half precision.

    Raises:
        InputError: shapes, dtypes or alpha do not fit.

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
    _check(student_logits, targets, labels, alpha)
    half = student_logits.dtype in (torch.float16, torch.bfloat16)
    logits = student_logits.float() if half else student_logits
    log_student = F.log_softmax(logits / targets.temperature, dim=-1)
    if targets.indices is None:
        divergence = _cross(_like(targets.log_probs, logits), log_student).sum(-1)
    else:
        divergence = _bucketed(targets, log_student)
    soft = targets.temperature**2 * divergence.mean()
    if labels is None:
        return soft
    return alpha * soft + (1 - alpha) * F.cross_entropy(logits, labels.long())


def _bucketed(targets: SoftTargets, log_student: torch.Tensor) -> torch.Tensor:
    """The divergence ``[B]`` over the kept classes and one bucket for all others."""
    kept = torch.tensor(targets.indices, device=log_student.device).long()
    log_probs, log_tail = _like(targets.log_probs, log_student), _like(targets.tail_log_mass, log_student)
    # A log-sum-exp over the classes not kept: 1 - sum cancels where the tail is small. The lowest finite
    # number stands for "kept", because a row of nothing but -inf has a gradient of NaN.
    others = log_student.scatter(-1, kept, torch.finfo(log_student.dtype).min)
    tail = _cross(log_tail, torch.logsumexp(others, dim=-1))
    return _cross(log_probs, log_student.gather(-1, kept)).sum(-1) + tail


def _cross(log_target: torch.Tensor, log_student: torch.Tensor) -> torch.Tensor:
    """``q (log q - log s)`` element by element, 0 where q is 0."""
    # Both factors are replaced before they meet: a NaN behind a mask still reaches the gradient.
    empty = log_target == -math.inf
    safe_target = log_target.masked_fill(empty, 0.0)
    return torch.exp(log_target) * (safe_target - log_student.masked_fill(empty, 0.0))


def _like(values: np.ndarray | None, other: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=other.dtype, device=other.device)


def _check(
    student_logits: torch.Tensor, targets: SoftTargets, labels: torch.Tensor | None, alpha: float
) -> None:
    if student_logits.ndim != 2 or not student_logits.is_floating_point():  # noqa: PLR2004 - [B, C]
        raise InputError(
            f"student_logits must be float [B, C], "
            f"not {student_logits.dtype} of shape {list(student_logits.shape)}"
        )
    rows, classes = student_logits.shape
    if rows == 0 or rows != len(targets):
        raise InputError(
            f"student_logits have {rows} rows, the targets {len(targets)}; pass the same batch, not empty"
        )
    dense = targets.indices is None
    wanted = targets.log_probs.shape[1] if dense else len(targets.classes)
    if classes != wanted:
        raise InputError(
            f"the student has {classes} classes, the targets {wanted}; they must agree in number and order"
        )
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be between 0 and 1, not {alpha}")
    if labels is None:
        return
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
