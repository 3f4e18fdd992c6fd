from dataclasses import dataclass
from typing import Any

import numpy as np

from soft_targets.errors import InputError, RowId

__all__ = ["SoftTargets"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class SoftTargets:
    """The class distributions a student is trained towards, one per row (B rows, C classes, k kept).

    Attributes:
        row_ids: B ids, in the order of the inputs.
        log_probs: natural logarithms, float32: dense ``[B, C]``, or sparse ``[B, k]``. -inf is probability 0.
        indices: sparse only: the classes kept, int32 ``[B, k]``.
        tail_log_mass: sparse only: log of the joint probability of all other classes, float32 ``[B]``;
            -inf where every class is kept.
        temperature: the temperature the teachers were softened by; the student is softened by the same.
        fingerprint: names everything that determines the targets besides the inputs.
        source: per row, where the server had it from: ``hit``, ``miss``, ...
        classes: C names, in the order of the class axis.
        missing_teachers: per row, the teachers that its target had to do without; empty where every row has
            all of them.
    """

    row_ids: list[RowId]
    log_probs: Array
    indices: Array | None
    tail_log_mass: Array | None
    temperature: float
    fingerprint: str
    source: list[str]
    classes: tuple[str, ...]
    missing_teachers: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.log_probs)

    @property
    def is_sparse(self) -> bool:
        """Whether only the k most probable classes of each row are here, with the mass of the rest."""
        return self.indices is not None

    @property
    def probabilities(self) -> Array:
        """``exp(log_probs)``, float32 ``[B, C]``.

        Raises:
            InputError: the targets are sparse: the probabilities of the classes left out are not known.
        """
        if self.is_sparse:
            raise InputError(
                "sparse targets have no full distribution; use log_probs, indices and tail_log_mass, "
                "or ask without top_k"
            )
        result: Array = np.exp(self.log_probs)
        return result
