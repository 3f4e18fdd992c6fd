"""Alignment: a teacher's classes brought to the ensemble's order, by name."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from operators.simplex import log_softmax, logsumexp


class Alignment:
    """Gathers a teacher's log-probabilities into the ensemble's classes.

    Several classes of the teacher onto one are summed; a dropped class gives its mass to the others in
    proportion; a class that the teacher lacks is -inf.

    Attributes:
        width: how many outputs the teacher has.
        drops: whether some of them mean nothing here.
        merges: whether several of them are one class here.
        lacks: the classes it has no output for.

    Args:
        ours: the ensemble's classes.
        theirs: for each of the teacher's outputs in order, the class of the ensemble it means, or None.
    """

    def __init__(self, ours: Sequence[str], theirs: Sequence[str | None]) -> None:
        self.width = len(theirs)
        self.drops = None in theirs
        sources: dict[str, list[int]] = {name: [] for name in ours}
        for position, name in enumerate(theirs):
            if name is not None:
                sources[name].append(position)
        self.lacks = [name for name, positions in sources.items() if not positions]
        depth = max(len(positions) for positions in sources.values())
        # [depth, C]: which outputs make up each class; `width` points at a column of -inf.
        self._gather = np.full((depth, len(ours)), self.width, dtype=np.intp)
        for column, positions in enumerate(sources.values()):
            self._gather[: len(positions), column] = positions
        self.merges = depth > 1
        self._identity = depth == 1 and bool(
            (self._gather[0] == np.arange(self.width)).all() if len(ours) == self.width else False
        )

    def __call__(self, log_probs: Any) -> Any:
        """``[B, C_t]`` to ``[B, C]``; a row all of whose mass is dropped becomes NaN."""
        if self._identity:
            return log_probs
        xp = array_namespace(log_probs)
        if self.lacks or self.merges:
            log_probs = xp.concat([log_probs, xp.full_like(log_probs[:, :1], -math.inf)], axis=1)
        parts = [xp.take(log_probs, xp.asarray(columns), axis=1) for columns in self._gather]
        aligned = parts[0] if len(parts) == 1 else logsumexp(xp.stack(parts), axis=0)
        return log_softmax(aligned) if self.drops else aligned
