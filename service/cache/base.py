"""The cache's contract: opaque bytes by opaque keys, many at a time.

A cache may forget anything at any time, and must never hand out anything but what was put under that key.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Cache(Protocol):
    """What every backend offers."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values, in the order of the keys; None where there is none."""
        ...

    async def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep the values until they expire or their room is needed; a value that is kept already stays."""
        ...

    async def close(self) -> None:
        """Release what the backend holds."""
        ...
