from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_targets.errors import InputError, RowId

if TYPE_CHECKING:
    from soft_targets.tensors import Tensors

__all__ = ["SoftTargets"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class SoftTargets:
    """The class distributions a student is trained towards, one per row (B rows, C classes, k kept).

    The arrays are this object's own: they may be written to, and ``torch.from_numpy`` shares them.

    Attributes:
        row_ids: B ids, in the order of the inputs.
        log_probs: natural logarithms, float32, or float16 where asked for: dense ``[B, C]``, or sparse
            ``[B, k]``. -inf is probability 0; NaN stands in rows that failed.
        indices: sparse only: the classes kept, int32 ``[B, k]``.
        tail_log_mass: sparse only: log of the joint probability of all other classes, float32 ``[B]``;
            -inf where every class is kept.
        temperature: the temperature the teachers were softened by; the student is softened by the same.
        fingerprint: names everything that determines the targets besides the inputs.
        source: per row, where the server had it from: ``hit``, ``miss``, ... ``error``.
        classes: C names, in the order of the class axis.
        missing_teachers: per row, the teachers that its target had to do without; empty where every row has
            all of them.
        errors: the rows that have no target, by id: (code, message). Empty unless they were asked to be kept.
        entropy: of each target, in nats, float32 ``[B]``; None unless the recipe has ``diagnostics``.
        divergence: of the teachers, the entropy of their weighted mean less the weighted mean of their
            entropies, in nats, float32 ``[B]``; None unless the recipe has ``diagnostics``.
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
    errors: Mapping[RowId, tuple[str, str]] = field(default_factory=dict)
    entropy: Array | None = None
    divergence: Array | None = None

    def __len__(self) -> int:
        return len(self.log_probs)

    @property
    def is_sparse(self) -> bool:
        """Whether only the k most probable classes of each row are here, with the mass of the rest."""
        return self.indices is not None

    @property
    def valid(self) -> Array:
        """Which rows have a target, bool ``[B]``."""
        return np.array([row not in self.errors for row in self.row_ids], dtype=bool)

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
        result: Array = np.exp(self.log_probs, dtype=np.float32)
        return result

    def select(self, rows: Any) -> "SoftTargets":
        """Some of the rows, copied.

        Args:
            rows: bool ``[B]``, for instance ``valid``, or integer positions.
        """
        chosen = np.arange(len(self))[np.asarray(rows)]
        ids = [self.row_ids[row] for row in chosen]
        parts = (self.log_probs, self.indices, self.tail_log_mass, self.entropy, self.divergence)
        log_probs, indices, tail, entropy, divergence = (
            None if part is None else part[chosen] for part in parts
        )
        assert log_probs is not None, "every target has log-probabilities"
        return replace(
            self,
            row_ids=ids,
            log_probs=log_probs,
            indices=indices,
            tail_log_mass=tail,
            source=[self.source[row] for row in chosen],
            missing_teachers=tuple(self.missing_teachers[row] for row in chosen if self.missing_teachers),
            errors={row: self.errors[row] for row in ids if row in self.errors},
            entropy=entropy,
            divergence=divergence,
        )

    def tensors(self, device: Any = "cpu") -> "Tensors":
        """The arrays as torch tensors: on the CPU they share the memory, elsewhere they are copied.

        From pinned memory the copy does not wait (``pin_memory=True`` where the targets are asked for).

        Args:
            device: as torch names it.

        Raises:
            ImportError: PyTorch is not installed.
        """
        from soft_targets.tensors import tensors_of  # noqa: PLC0415 - torch is needed by those alone who ask

        return tensors_of(self, device)
