"""Random augmentation that a cache can keep up with: a finite number of views of each row."""

import operator
from collections.abc import Callable
from multiprocessing import RawValue
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from blake3 import blake3

from soft_targets.errors import InputError, RowId

__all__ = ["Views", "view_seed"]

Row = TypeVar("Row")
Seen_co = TypeVar("Seen_co", covariant=True)


class Rows(Protocol[Seen_co]):
    """A map-style data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Seen_co: ...


def view_seed(row_id: RowId, view: int, *, seed: int = 0) -> int:
    """The seed of one view of one row: the same in every process, every epoch and every run.

    Args:
        row_id: names the row; ``7`` and ``"7"`` are different rows.
        view: which of its views.
        seed: another one makes other views of everything.

    Returns:
        63 bits, for ``numpy.random.default_rng`` or ``torch.Generator().manual_seed``.
    """
    named = row_id if isinstance(row_id, str) else operator.index(row_id)
    return int.from_bytes(blake3(repr((seed, named, view)).encode()).digest(8), "little") >> 1


class Views(Generic[Row]):
    """A data set whose rows are augmented at random, but each in only ``views`` ways.

    Where augmentation is drawn anew every time, no row is ever seen twice, and every target is computed by
    all teachers again. Here the augmentation is a function of (row, view), and the view is ``epoch % views``:
    after ``views`` epochs every row that is asked for was asked for before. Over E epochs the share of rows
    that a cache answers is ``max(0, 1 - views / E)``.

    Args:
        rows: a map-style data set.
        augment: a row and a random generator to an augmented row; it draws from this generator alone.
        views: how many ways there are for each row, at least 1.
        seed: another one makes other views.

    Raises:
        InputError: views is below 1.

    Example:
        >>> def jitter(row, generator):
        ...     return row + generator.normal(size=row.shape)
        >>> data = Views(np.zeros((5, 3)), jitter, views=2)
        >>> first, again = data[4], []
        >>> for epoch in (1, 2):
        ...     data.set_epoch(epoch)
        ...     again.append(bool((data[4] == first).all()))
        >>> again
        [False, True]
    """

    def __init__(
        self,
        rows: Rows[Row],
        augment: Callable[[Row, np.random.Generator], Any],
        *,
        views: int,
        seed: int = 0,
    ) -> None:
        if views < 1:
            raise InputError(f"views must be at least 1, not {views}")
        self._rows = rows
        self._augment = augment
        self._views = views
        self._seed = seed
        # Shared with the workers of a DataLoader, which may outlive an epoch.
        self._epoch = RawValue("q", 0)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes, before it begins."""
        self._epoch.value = epoch

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        row, view = range(len(self))[index], self._epoch.value % self._views
        generator = np.random.default_rng(view_seed(row, view, seed=self._seed))
        return self._augment(self._rows[row], generator)
