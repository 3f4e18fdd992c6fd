"""Whether rows are asked for by their digests first: 32 bytes instead of the row, where the server has it."""

import threading
from collections.abc import Sequence
from typing import Literal

from soft_targets.errors import InputError

__all__ = ["DigestFirst", "Habit"]

DigestFirst = Literal["auto", "always", "never"]

WORTH_BYTES = 256  # a row below this is sent as fast as its digest is asked for
MOSTLY = 0.5


class Habit:
    """Learns from answers whether it pays to ask by digest.

    A digest that the server does not know costs another request. With ``auto``, rows of 256 bytes or more are
    asked for by digest while at least half of the last answers were known to the server, asked for by digest
    or not; and at the beginning of an epoch, until the first answers say that they are not.
    """

    def __init__(self, mode: DigestFirst) -> None:
        if mode not in ("auto", "always", "never"):
            raise InputError(f"digest_first must be 'auto', 'always' or 'never', not {mode!r}")
        self._mode = mode
        self._lock = threading.Lock()
        self._known = 0.0

    def begin_epoch(self) -> None:
        """The rows that follow were perhaps all seen before."""
        with self._lock:
            self._known = max(self._known, MOSTLY)

    def by_digest(self, row_bytes: float) -> bool:
        """Whether the next request asks by digest.

        Args:
            row_bytes: the mean size of its rows.
        """
        if self._mode != "auto":
            return self._mode == "always"
        return row_bytes >= WORTH_BYTES and self._known >= MOSTLY

    def learn(self, sources: Sequence[str]) -> None:
        """Take in where a request's rows came from; ``absent`` where the server did not know a digest."""
        known = sum(source in ("hit", "opinions", "coalesced") for source in sources) / len(sources)
        with self._lock:
            self._known = (self._known + known) / 2
