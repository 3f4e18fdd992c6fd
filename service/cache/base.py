"""The contract of the caches behind this process: opaque bytes by opaque keys, many at a time.

A cache may forget anything at any time, and must never hand out anything but what was put under that key. A
key is of at most 511 bytes. Whoever cannot answer raises ``CacheUnavailable``: an outage is not a miss.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Cache(Protocol):
    """What every backend offers."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values, in the order of the keys; None where there is none.

        Raises:
            CacheUnavailable: it does not answer; ``CacheTimeout`` if not in its time.
        """
        ...

    async def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep the values until they expire or their room is needed; a value that is kept already stays.

        Raises:
            CacheUnavailable: it does not answer, or (``CacheRefused``) keeps nothing new.
        """
        ...

    async def delete_many(self, keys: Sequence[bytes]) -> None:
        """Forget the values, so that others can be kept in their place.

        Raises:
            CacheUnavailable: as above.
        """
        ...

    async def close(self) -> None:
        """Release what the backend holds; once more does nothing."""
        ...
