"""Targets as torch tensors, and memory that a GPU copies from without waiting."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from soft_targets.errors import InputError

try:
    import torch
except ModuleNotFoundError as exc:
    raise ImportError("this needs PyTorch: pip install 'soft-targets-client[torch]'", name="torch") from exc

if TYPE_CHECKING:
    from soft_targets.targets import SoftTargets

__all__ = ["Tensors", "pinned", "tensors_of"]


class Tensors(NamedTuple):
    """What ``SoftTargets`` holds, as tensors of the same dtypes and shapes."""

    log_probs: torch.Tensor
    indices: torch.Tensor | None
    tail_log_mass: torch.Tensor | None


def tensors_of(targets: "SoftTargets", device: Any) -> Tensors:
    """See ``SoftTargets.tensors``."""
    arrays = (targets.log_probs, targets.indices, targets.tail_log_mass)
    log_probs, indices, tail = (
        None if array is None else torch.from_numpy(array).to(device, non_blocking=True) for array in arrays
    )
    assert log_probs is not None, "every target has log-probabilities"
    return Tensors(log_probs, indices, tail)


def pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """An array in pinned memory, not initialised.

    Raises:
        InputError: there is no accelerator to pin memory for.
    """
    wanted = torch.from_numpy(np.empty(0, dtype)).dtype
    try:
        return torch.empty(shape, dtype=wanted, pin_memory=True).numpy()
    except RuntimeError as exc:
        raise InputError(f"pin_memory needs an accelerator that PyTorch can use: {exc}") from None
