"""The student's side of soft-targets: ask a server for soft targets, and train towards them."""

from typing import TYPE_CHECKING, Any

from soft_targets.client import Client
from soft_targets.distill import Distillation
from soft_targets.errors import (
    FailedRows,
    IncompleteStream,
    InputError,
    OtherFingerprint,
    RequestRefused,
    ServerUnreachable,
    SoftTargetsError,
    TooManyBytes,
    TooManyRows,
    WireError,
)
from soft_targets.stats import Stats
from soft_targets.targets import SoftTargets
from soft_targets.views import Views, view_seed

if TYPE_CHECKING:
    from soft_targets.losses import distillation_loss, forward_kl, jensen_shannon, reverse_kl

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Distillation",
    "FailedRows",
    "IncompleteStream",
    "InputError",
    "OtherFingerprint",
    "RequestRefused",
    "ServerUnreachable",
    "SoftTargets",
    "SoftTargetsError",
    "Stats",
    "TooManyBytes",
    "TooManyRows",
    "Views",
    "WireError",
    "__version__",
    "distillation_loss",
    "forward_kl",
    "jensen_shannon",
    "reverse_kl",
    "view_seed",
]

_LOSSES = ("distillation_loss", "forward_kl", "jensen_shannon", "reverse_kl")


def __getattr__(name: str) -> Any:
    """Import the losses, and with them torch, only when they are asked for."""
    if name not in _LOSSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from soft_targets import losses  # noqa: PLC0415 - see above
    except ModuleNotFoundError as exc:
        if exc.name != "torch":
            raise
        raise ImportError(
            f"{name} needs PyTorch: pip install 'soft-targets-client[torch]'", name="torch"
        ) from exc
    return getattr(losses, name)
