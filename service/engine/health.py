"""How often each teacher has failed of late."""

import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from service.model import Array

BATCHES = 100
# What is older says nothing of now: a server that nobody asks any more must find back by itself.
OLDEST_S = 300.0
# Fewer batches than this are no rate.
FEWEST = 5


class Failing(NamedTuple):
    """A teacher that fails too often.

    Attributes:
        teacher: its name.
        rate: the share of its rows that it said nothing of.
    """

    teacher: str
    rate: float


class Health:
    """The share of rows that each teacher said nothing of, over its last batches; thread-safe.

    Args:
        teachers: their names in order.
        limit: the share above which a teacher fails.
        quorum: how many teachers a row needs.
    """

    def __init__(self, teachers: Sequence[str], *, limit: float, quorum: int) -> None:
        self._limit = limit
        self._quorum = quorum
        self._lock = threading.Lock()
        self._lost: dict[str, deque[tuple[float, float]]] = {name: deque(maxlen=BATCHES) for name in teachers}

    def record(self, weights: Array, valid: Array) -> None:
        """A batch: weights ``[K, B]`` and who said something ``[K, B]``; weight 0 is not counted."""
        asked = weights > 0
        now = time.monotonic()
        with self._lock:
            for lost, counted, sound in zip(self._lost.values(), asked, valid, strict=True):
                if counted.any():
                    lost.append((now, float((~sound[counted]).mean())))

    def failing(self) -> list[Failing]:
        """The teachers above the limit."""
        since = time.monotonic() - OLDEST_S
        found = []
        with self._lock:
            for name, lost in self._lost.items():
                shares = [share for when, share in lost if when >= since]
                if len(shares) >= FEWEST and sum(shares) / len(shares) > self._limit:
                    found.append(Failing(name, sum(shares) / len(shares)))
        return found

    def enough(self, silent: Collection[str]) -> bool:
        """Whether the others still make up the quorum."""
        return len(self._lost) - len(silent) >= self._quorum
