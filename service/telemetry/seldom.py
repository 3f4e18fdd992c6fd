"""What happens again and again is said at once, and then now and then."""

import math
import threading
import time
from collections.abc import Callable, Hashable


class Seldom:
    """Counts what happens, and says when it is to be told; thread-safe.

    Args:
        every_s: after it was told, for how long it is only counted.
        clock: in seconds.
    """

    def __init__(self, every_s: float = 60.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[Hashable, tuple[float, int]] = {}

    def times(self, what: Hashable) -> int:
        """It happened: how often since it was last told, this time included; 0 if it is not to be told now.

        Args:
            what: of few things; each is told by itself.
        """
        now = self._clock()
        with self._lock:
            told, before = self._seen.get(what, (-math.inf, 0))
            due = now - told >= self._every_s
            self._seen[what] = (now, 0) if due else (told, before + 1)
        return before + 1 if due else 0
