"""A cache in the memory of this process: bounded in bytes, least recently used first out."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from cachetools import TTLCache

# A dictionary entry, its links and two bytes objects; what a value costs beside its own bytes.
ENTRY_OVERHEAD_BYTES = 500


class MemoryCache:
    """For one event loop; not to be shared between threads.

    Args:
        max_bytes: the bound on keys, values and their overhead.
        ttl_s: how long a value is kept.
        clock: seconds, monotonic.
    """

    def __init__(self, *, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._values: TTLCache[bytes, bytes] = TTLCache(
            max_bytes, ttl_s, timer=clock, getsizeof=lambda value: len(value) + 80 + ENTRY_OVERHEAD_BYTES
        )

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values, in the order of the keys; None where there is none."""
        get = self._values.get
        return [get(key) for key in keys]

    def put_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep the values; one larger than the whole cache is not kept, one already there stays as it is."""
        for key, value in items.items():
            if key in self._values:
                continue
            with contextlib.suppress(ValueError):  # larger than max_bytes
                self._values[key] = value

    async def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """The same."""
        self.put_many(items)

    async def close(self) -> None:
        """Forget everything."""
        self._values.clear()
