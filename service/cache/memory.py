"""A cache in the memory of this process: bounded in bytes, least recently used first out."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

# An entry of the ordered dictionary, a tuple and two bytes objects: what a value costs beside its own bytes.
ENTRY_OVERHEAD_BYTES = 300


def cost_bytes(key: bytes, value: bytes) -> int:
    """What a value takes in memory, its key and their objects included."""
    return len(key) + len(value) + ENTRY_OVERHEAD_BYTES


class MemoryCache:
    """For one event loop; not to be shared between threads. It never waits, so nothing of it is awaited.

    An ordered dictionary, because a plain one walks over the gaps that moved entries left on its way to the
    oldest.

    Args:
        max_bytes: the bound on keys, values and their overhead.
        ttl_s: how long a value is kept.
        clock: seconds, monotonic.
    """

    def __init__(self, *, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """What is kept, overhead included."""
        return self._bytes

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """The values, in the order of the keys; None where there is none."""
        if not self._entries:
            return [None for _ in keys]
        now = self._clock()
        get, to_end = self._entries.get, self._entries.move_to_end
        found: list[bytes | None] = []
        add = found.append
        for key in keys:
            entry = get(key)
            if entry is None or entry[1] <= now:
                add(None)
            else:
                to_end(key)
                add(entry[0])
        return found

    def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep the values; one larger than the whole cache is not kept, one already there stays as it is."""
        if not self._max_bytes:
            return
        entries = self._entries
        now = self._clock()
        expires = now + self._ttl_s
        for key, value in items.items():
            cost = cost_bytes(key, value)
            entry = entries.get(key)
            if cost > self._max_bytes or (entry is not None and entry[1] > now):
                continue
            if entry is not None:
                del entries[key]
                self._bytes -= cost_bytes(key, entry[0])
            entries[key] = value, expires
            self._bytes += cost
        while self._bytes > self._max_bytes:
            key, (value, _) = entries.popitem(last=False)
            self._bytes -= cost_bytes(key, value)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0
